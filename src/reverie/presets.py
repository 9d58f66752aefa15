"""Presets: values only, each with its source, in presets/*.yaml."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml

from .config import Config, as_sentence, build, from_dict
from .errors import UserError


def preset_names() -> list[str]:
    """The presets that ship with the package."""
    files = resources.files("reverie").joinpath("presets").iterdir()
    return sorted(item.name[:-5] for item in files if item.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML of a preset as shipped, comments (sources) included. Raises UserError for an unknown name."""
    if name not in preset_names():
        raise UserError(
            as_sentence(f"there is no preset '{name}'{_nearest(name)}"), f"Presets: {', '.join(preset_names())}."
        )
    return resources.files("reverie").joinpath("presets", f"{name}.yaml").read_text()


def load_preset(name: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """A preset's Config, with overrides on top. Raises UserError."""
    values = yaml.safe_load(preset_text(name)) or {}
    values.pop("description", None)
    return build(overrides or {}, base=from_dict(values, where=f"preset '{name}'"), where="setting")


def preset_description(name: str) -> str:
    """One sentence: what the preset is for."""
    return str((yaml.safe_load(preset_text(name)) or {}).get("description", "")).strip()


def _nearest(name: str) -> str:
    found = difflib.get_close_matches(name, preset_names(), 1, 0.5)
    return f", did you mean '{found[0]}'?" if found else ""
