"""From text to settings and back: command lines, YAML files, checkpoints. The settings themselves: settings.py."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import yaml

from ..errors import UserError
from ..files import read_text, require_own_files
from .settings import Config
from .validation import coerce, invalid


class Setting(NamedTuple):
    """Type, default, documentation and source of a setting."""

    kind: Any  # its type
    default: Any
    doc: str
    source: str  # where the default comes from


#: "group.name" -> Setting, for every setting.
SETTINGS: dict[str, Setting] = {
    f"{group.name}.{item.name}": Setting(
        get_type_hints(type(getattr(Config(), group.name)))[item.name],
        item.default,
        item.metadata["doc"],
        item.metadata["source"],
    )
    for group in fields(Config)
    for item in fields(type(getattr(Config(), group.name)))
}
_LEAVES = {key.split(".")[1]: key for key in SETTINGS}


def full_name(key: str) -> str:
    """ "group.name" of a setting given by its short name; anything else as it is."""
    return key if key in SETTINGS else _LEAVES.get(key, key)


def flatten(config: Config) -> dict[str, Any]:
    """{"group.name": value} of every setting."""
    return {f"{group}.{name}": value for group, items in asdict(config).items() for name, value in items.items()}


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Nested plain values, ready for YAML or JSON (tuples become lists)."""
    return {
        group: {name: list(value) if isinstance(value, tuple) else value for name, value in items.items()}
        for group, items in asdict(config).items()
    }


def build(overrides: Mapping[str, Any], *, base: Config | None = None, where: str = "override") -> Config:
    """A new Config with some settings changed. All faults are reported together, each with what to do.

    overrides: {"group.name" or a unique "name": value, text or typed}. Raises UserError.
    """
    config, faults, changes = base or Config(), [], {}
    for key, value in overrides.items():
        full = full_name(key)
        if full not in SETTINGS:
            faults.append(_unknown(key, where))
            continue
        try:
            changes[full] = coerce(value, SETTINGS[full].kind)
        except ValueError as error:
            faults.append(f"{where} '{full}' {error}")
    groups: dict[str, dict[str, Any]] = {}
    for full, value in changes.items():
        group, name = full.split(".")
        groups.setdefault(group, {})[name] = value
    config = replace(config, **{group: replace(getattr(config, group), **items) for group, items in groups.items()})
    faults += invalid(flatten(config), {key: setting.kind for key, setting in SETTINGS.items()})
    if faults:
        raise UserError(as_sentence("; ".join(faults)), "`reverie presets --keys` lists every setting.")
    return config


def from_dict(nested: Mapping[str, Any], *, base: Config | None = None, where: str) -> Config:
    """Config from nested values (a YAML file, a checkpoint). Strict, like `build`."""
    flat: dict[str, Any] = {}
    for group, items in nested.items():
        if not isinstance(items, Mapping):
            raise UserError(f"{where}: '{group}' must hold settings, found {items!r}.", "Write `group:` and indent.")
        flat.update({f"{group}.{name}": value for name, value in items.items()})
    return build(flat, base=base, where=f"{where}:")


class PlainLoader(yaml.SafeLoader):
    """Plain YAML: no tags that make objects, and no aliases, with which a few lines become gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """PyYAML's, but for aliases. Raises YAMLError."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def in_short(error: Exception) -> str:
    """In one line: PyYAML shows several lines of the file."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


def load_file(path: Path) -> Config:
    """Config from a run's config.yaml, with which all reading of a run begins. Raises UserError.

    The whole directory is refused if a link or a pipe in it stands for one of the run's files.
    """
    require_own_files(Path(path).parent)
    try:
        values = yaml.load(read_text(Path(path)), PlainLoader)
    except (UserError, yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        why = (
            error.message
            if isinstance(error, UserError)
            else f"cannot read the configuration {path}: {in_short(error)}."
        )
        raise UserError(why, "Is this the directory of a run?") from error
    if not isinstance(values, Mapping):
        raise UserError(f"{path} holds no settings.", "Is this the directory of a run?")
    return from_dict(values, where=str(path))


def as_sentence(text: str) -> str:
    """With a full stop, unless it ends with one or is a question."""
    return text if text.endswith(("?", ".")) else f"{text}."


def _unknown(key: str, where: str) -> str:
    leaf = key.split(".")[-1]
    found = difflib.get_close_matches(key, SETTINGS, 1, 0.7) or [
        _LEAVES[x] for x in difflib.get_close_matches(leaf, _LEAVES, 1, 0.6)
    ]
    return f"{where} '{key}' does not exist" + (f", did you mean '{found[0]}'?" if found else "")


def _check_unique() -> None:
    if len(_LEAVES) != len(SETTINGS) or not is_dataclass(Config):
        raise RuntimeError("two settings share a leaf name")


_check_unique()
