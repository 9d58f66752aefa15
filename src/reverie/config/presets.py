"""Presets: values only, each with its source, in presets/*.yaml.

    description: what it is for        a comment at the margin is a note on the whole preset
    extends: small                     the values of that one first
    model:
      layers: 2  # prototype: 2        every value says where it comes from, after two spaces and a hash

Presets can be stacked wherever one is named: "dreamerv3+small" is dreamerv3's values with those of small on top. A name
that ends in .yaml is a file of the user's in the same form, for instance one that `reverie tune` wrote.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import UserError
from ..files import Damaged, read_text
from .parsing import SETTINGS, PlainLoader, as_sentence, build, flatten, in_short
from .settings import Config

#: The preset that is used where none is named; `run/auto.py` chooses part of its values for the task.
AUTO = "auto"

#: How the name of a user's own file ends.
FILE = ".yaml"
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
    """The YAML of one preset, comments (sources) included. Raises UserError for an unknown name or a damaged file."""
    if name.endswith(FILE):
        try:
            return read_text(Path(name).expanduser().resolve())  # a link that the user names is meant
        except (Damaged, OSError, ValueError, RuntimeError) as error:
            why = error.message if isinstance(error, Damaged) else str(error)
            raise UserError(
                as_sentence(f"there is no preset '{name}': {why}"),
                "A preset is one of `reverie presets`, or a YAML file.",
            ) from error
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
    return "\n".join(str(_read(name).get("description", "")).strip() for name in stack_parts(stack))


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
    text = preset_text(name)
    return _own(name, text) if name.endswith(FILE) else _parsed(text)


@cache
def _parsed(text: str) -> Mapping[str, Any]:
    """What a preset's YAML says, each once: stacks name the same ones again and again."""
    return yaml.safe_load(text) or {}


@cache
def _own(name: str, text: str) -> Mapping[str, Any]:
    """What a user's file says. Raises UserError if it is not a preset; the values are checked with all others."""
    try:
        found = yaml.load(text, PlainLoader)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        why = in_short(error)
        raise UserError(f"{name} is not YAML: {why}.", "`reverie presets demo` shows what a preset holds.") from error
    if not isinstance(found, Mapping):
        raise UserError(f"{name} holds no settings.", "Write `train:` and below it, indented, `env_steps: 3000`.")
    for key, value in found.items():
        text_keys = ("description", "extends")
        if not isinstance(value, str) if key in text_keys else not isinstance(value, Mapping):
            kind = "text" if key in text_keys else "a group with indented settings below it"
            raise UserError(f"{name}: '{key}' must be {kind}, found {value!r}.", "The groups are those of config.yaml.")
    return found


def stack_parts(stack: str) -> list[str]:
    """ "a+b" -> ["a", "b"]; the path of an existing file may have a plus in it."""
    whole = stack.endswith(FILE) and "+" in stack and Path(stack).expanduser().is_file()
    return [stack] if whole else stack.split("+")


def _chain(stack: str, above: tuple[str, ...] = ()) -> list[str]:
    """The presets whose values are laid on top of each other, lowest first: what one extends comes before it."""
    chain: list[str] = []
    for name in stack_parts(stack):
        if name in above:
            if not name.endswith(FILE):
                raise RuntimeError(f"preset '{name}' extends itself")
            raise UserError(f"preset '{name}' extends itself.", "Take out one `extends`.")
        base = _read(name).get("extends")
        chain += [*(_chain(base, (*above, name)) if base else ()), name]
    return chain


def chooses(stack: str) -> bool:
    """Is `auto` in a stack, or below one of its presets? Then part of the values is chosen for the task."""
    return AUTO in _chain(stack)


def _nearest(name: str) -> str:
    found = difflib.get_close_matches(name, preset_names(), 1, 0.5)
    return f", did you mean '{found[0]}'?" if found else ""
