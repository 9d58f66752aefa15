"""Presets: values only, each with its source, in presets/*.yaml.

    description: what it is for        a comment at the margin is a note on the whole preset
    extends: small                     the values of that one first
    model:
      layers: 2  # prototype: 2        every value says where it comes from, after two spaces and a hash

Presets can be stacked wherever one is named: "dreamerv3+small" is dreamerv3's values with those of small on top.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import yaml

from ..errors import UserError
from .parsing import SETTINGS, as_sentence, build, flatten
from .settings import Config

#: The preset that is used where none is named; `run/auto.py` chooses part of its values for the task.
AUTO = "auto"

_GROUP = re.compile(r"(\w+):\s*$")
_VALUE = re.compile(r"  (\w+): \S.*?(?:  # (\S.*))?$")


class Origin(NamedTuple):
    """A value that a preset sets."""

    value: Any  # as in the YAML file
    preset: str  # the one that set it last
    source: str  # its comment: where the value comes from


class Row(NamedTuple):
    """What a preset, or a stack of them, makes of one setting."""

    key: str
    value: Any
    source: str  # where the value comes from
    preset: str  # which one set it; "" for settings.py's default
    is_default: bool


def preset_names() -> list[str]:
    """The presets that ship with the package."""
    files = resources.files("reverie.config").joinpath("presets").iterdir()
    return sorted(item.name[:-5] for item in files if item.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML of one preset as shipped, comments (sources) included. Raises UserError for an unknown name."""
    if name not in preset_names():
        raise UserError(
            as_sentence(f"there is no preset '{name}'{_nearest(name)}"), f"Presets: {', '.join(preset_names())}."
        )
    return resources.files("reverie.config").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")


def load_preset(stack: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """The Config of a preset or a stack of them ("a+b": b's values on top), with overrides on top. Raises UserError."""
    values = {key: origin.value for key, origin in origins(stack).items()}
    return build(overrides or {}, base=build(values, where=f"preset '{stack}':"), where="setting")


def preset_description(stack: str) -> str:
    """What a preset is for, a sentence; of a stack, a line each."""
    return "\n".join(str(_read(name).get("description", "")).strip() for name in stack.split("+"))


def preset_notes(stack: str) -> list[str]:
    """The comments at the margin, which hold for a preset as a whole; those of what it extends come first."""
    notes: list[str] = []
    for name in _chain(stack):
        lines = [line.removeprefix("# ") for line in preset_text(name).splitlines() if line.startswith("# ")]
        if lines and name != stack:
            lines[0] = f"{name}: {lines[0]}"
        notes += lines
    return notes


def origins(stack: str) -> dict[str, Origin]:
    """{"group.name": Origin} of every value that a preset or a stack sets, defaults included. Raises UserError."""
    found: dict[str, Origin] = {}
    for name in _chain(stack):
        comments = value_comments(preset_text(name))
        for group, items in _read(name).items():
            if isinstance(items, Mapping):
                for leaf, value in items.items():
                    key = f"{group}.{leaf}"
                    found[key] = Origin(value, name, comments.get(key, ""))
    return found


def value_comments(text: str) -> dict[str, str]:
    """{"group.name": comment} of every value in a preset's YAML; "" where there is none."""
    found, group = {}, ""
    for line in text.splitlines():
        if opened := _GROUP.match(line):
            group = opened[1]
        elif value := _VALUE.match(line):
            found[f"{group}.{value[1]}"] = value[2] or ""
    return found


def preset_rows(stack: str) -> list[Row]:
    """Every setting there is, as a preset or a stack has it, and where each value comes from. Raises UserError."""
    values, found, rows = flatten(load_preset(stack)), origins(stack), []
    for key, setting in SETTINGS.items():
        origin = found.get(key, Origin(setting.default, "", setting.source))
        rows.append(Row(key, values[key], origin.source, origin.preset, values[key] == setting.default))
    return rows


def preset_differences(left: str, right: str) -> list[tuple[Row, Row]]:
    """The settings in which two presets or stacks differ. Raises UserError."""
    pairs = zip(preset_rows(left), preset_rows(right), strict=True)
    return [(a, b) for a, b in pairs if a.value != b.value]


def _read(name: str) -> Mapping[str, Any]:
    return _parsed(preset_text(name))


@cache
def _parsed(text: str) -> Mapping[str, Any]:
    """What a preset's YAML says, each once: stacks name the same ones again and again."""
    return yaml.safe_load(text) or {}


def _chain(stack: str) -> list[str]:
    """The presets whose values are laid on top of each other, lowest first: what one extends comes before it."""
    chain: list[str] = []
    for part in stack.split("+"):
        below: list[str] = [part]
        while base := _read(below[0]).get("extends"):
            if base in below:
                raise RuntimeError(f"preset '{base}' extends itself")
            below.insert(0, base)
        chain += below
    return chain


def _nearest(name: str) -> str:
    found = difflib.get_close_matches(name, preset_names(), 1, 0.5)
    return f", did you mean '{found[0]}'?" if found else ""
