"""`reverie envs`: families of environments, how to install what is missing, and their options."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..config.presets import AUTO
from ..errors import UserError
from .command import Command, add_json

if TYPE_CHECKING:
    from ..envs.family import Family

#: The preset that fits a task that no preset was made for, and why.
FITTING = AUTO
FITS = "auto, the default of `reverie train`: sizes, budget and horizon from the task's spaces and this machine's speed"

_GYMNASIUM = {
    "family": "gymnasium",
    "installed": True,
    "example": "any registered id",
    "install": "",
    "debian": "",
    "note": "keyword arguments of gymnasium.make as env.options; your own: FILE.py:FUNCTION, MODULE:Id-v0",
    "repeat": 1,
}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", nargs="?", help="a family of the list, or an id")
    add_json(parser)


def run_envs(args: argparse.Namespace) -> int:
    """The list, or one family in full. -> exit code. Raises UserError for a family that does not exist."""
    from ..envs.family import all_families

    if args.family:
        found = _details(args.family)
        print(json.dumps(found) if args.json else _page(found))
        return 0
    rows = [_row(name, family) for name, family in all_families().items()] + [_GYMNASIUM]
    print(json.dumps(rows) if args.json else _table(rows))
    return 0


def _row(name: str, family: Family) -> dict[str, Any]:
    from ..envs.family import installed

    return {
        "family": name,
        "installed": installed(family),
        "example": family.EXAMPLE,
        "install": family.INSTALL,
        "debian": family.DEBIAN,
        "note": family.NOTE,
        "repeat": family.REPEAT,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        lines.append(f"{row['family']:12} {'installed' if row['installed'] else 'missing  '}  {row['example']}")
        lines.append(f"{'':12} {row['note']}")
        if not row["installed"]:
            lines.append(f"{'':12} install: {row['install']}")
            lines += [f"{'':12} Debian:  {_apt(row['debian'])}"] if row["debian"] else []
    return "\n".join([*lines, "", "`reverie envs FAMILY` shows its options; `reverie check-env ID` tries a task."])


def _details(name: str) -> dict[str, Any]:
    from ..envs import make_request, protocol_of
    from ..envs.family import all_families, family_of, installed, names_function

    family = all_families().get(name) or family_of(name)
    if names_function(name):
        raise UserError(f"'{name}' is your own environment, of no family.", f"Try it: reverie check-env {name}")
    if family is None:
        listed = ", ".join(all_families())
        raise UserError(f"there is no family '{name}'.", f"There are {listed}; every other id is Gymnasium's own.")
    known = next(key for key, value in all_families().items() if value is family)
    options = [
        {"name": item.name, "default": item.default, "doc": item.metadata["doc"]} for item in fields(family.Options)
    ]
    task = family.EXAMPLE if name in all_families() else name
    protocol = protocol_of(make_request(task)) if installed(family) else ""
    return {**_row(known, family), "task": task, "preset": FITTING, "options": options, "protocol": protocol}


def _page(found: dict[str, Any]) -> str:
    from ..evidence.tables import columns

    lines = [
        f"{found['family']}: {found['note']}",
        f"try       reverie train --env {found['task']} --preset {found['preset']}",
        f"preset    {FITS}",
        f"install   {found['install']}{'' if not found['installed'] else ' (is installed)'}",
    ]
    lines += [f"Debian    {_apt(found['debian'])}"] if found["debian"] else []
    lines += [f"repeat    {found['repeat']} (env.action_repeat)"]
    lines += [f"protocol  {found['protocol']}"] if found["protocol"] else []
    if found["options"]:
        lines.append("options   env.options=name=value,name=value")
        rows = [(item["name"], str(item["default"]), item["doc"]) for item in found["options"]]
        lines += columns(rows, indent=" " * 10)
    return "\n".join(lines)


def _apt(packages: str) -> str:
    return f"apt-get install -y --no-install-recommends {packages}"


COMMAND = Command(
    "envs", "list environment families and how to install them, or show one's options", "", _arguments, run_envs
)
