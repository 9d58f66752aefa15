"""`reverie presets`: every value of a preset and where it comes from."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any

from ..config import SETTINGS
from ..config.presets import (
    AUTO,
    Row,
    chooses,
    preset_description,
    preset_differences,
    preset_names,
    preset_notes,
    preset_rows,
)
from ..errors import UserError
from .command import Command, add_json
from .output import terminal_width


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a preset, or several: A+B has B's values on top of A's")
    parser.add_argument("--env", help="with auto: what it chooses for this task on this machine, and why")
    parser.add_argument("--diff", nargs=2, metavar=("A", "B"), help="settings in which two presets differ")
    parser.add_argument("--keys", action="store_true", help="every setting: default, meaning, source of the default")
    add_json(parser)


def show(value: Any) -> str:
    """A value as it is written on the command line; "-" for nothing."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value) or "-"


def run_presets(args: argparse.Namespace) -> int:
    """List presets, show one, compare two, or list every setting. -> exit code. Raises UserError."""
    lines: Callable[[], list[str]]
    found: Any
    if args.env:
        found, lines = _chosen(args.name or AUTO, args.env)
    elif args.keys:
        found = {key: [default, doc, source] for key, (_, default, doc, source) in SETTINGS.items()}
        lines = _keys
    elif args.diff:
        found = {a.key: [_row(a), _row(b)] for a, b in preset_differences(*args.diff)}
        left, right = args.diff
        lines = partial(_differences, left, right, terminal_width() or 120)
    elif args.name:
        found = {row.key: _row(row) for row in preset_rows(args.name)}
        lines = partial(_preset_table, args.name)
    else:
        found = {name: preset_description(name) for name in preset_names()}
        lines = _names
    print(json.dumps(found) if args.json else "\n".join(lines()))
    return 0


def _chosen(stack: str, env_id: str) -> tuple[Any, Callable[[], list[str]]]:
    """What `auto` chooses for a task: for JSON, and as lines."""
    if not chooses(stack):
        raise UserError(f"preset '{stack}' chooses nothing by the task.", "Write `reverie presets auto --env X`.")
    from ..run.auto import CHOOSING, auto_config
    from ..run.auto import lines as as_lines

    print(CHOOSING, file=sys.stderr, flush=True)
    _, choices = auto_config(stack, {"env.id": env_id})
    return [choice._asdict() for choice in choices], lambda: as_lines(choices)


def _row(row: Row) -> dict[str, Any]:
    return {"value": row.value, "source": row.source, "preset": row.preset}


def _names() -> list[str]:
    from ..evidence.tables import columns

    return columns([(name, preset_description(name)) for name in preset_names()])


def _keys() -> list[str]:
    from ..evidence.tables import columns

    return columns([(key, show(item.default), f"{item.doc} [{item.source}]") for key, item in SETTINGS.items()])


def _preset_table(name: str) -> list[str]:
    """Every setting on a line: mark, key, value, source. A blank line between groups."""
    from ..evidence.tables import columns

    cells: list[tuple[str, ...]] = []
    for _, group in groupby(preset_rows(name), lambda row: row.key.split(".")[0]):
        cells.append(())
        for row in group:
            mark, origin = " " if row.is_default else "*", f"{row.preset}: " if row.preset not in ("", name) else ""
            cells.append((f"{mark} {row.key}", show(row.value), f"{origin}{row.source}"))
    return [preset_description(name), *preset_notes(name), "'*': other than the default", *columns(cells)]


def _differences(left: str, right: str, width: int = 120) -> list[str]:
    """Two presets side by side, values and sources; sources that do not fit into `width` are cut."""
    from ..evidence.tables import columns

    pairs = preset_differences(left, right)
    if not pairs:
        return [f"{left} and {right} do not differ."]
    cells: list[tuple[str, ...]] = []
    for _, group in groupby(pairs, lambda pair: pair[0].key.split(".")[0]):
        cells.append(())
        cells += [(a.key, _cut(show(a.value), 16), _cut(show(b.value), 16), a.source, b.source) for a, b in group]
    header = ("setting", left, right, f"source in {left}", f"source in {right}")
    taken = sum(max(len(row[i]) for row in [header, *filter(None, cells)]) + 2 for i in range(3))
    limits = (width,) * 3 + (max(12, (width - taken - 2) // 2),) * 2
    return columns([[_cut(*cell) for cell in zip(row, limits, strict=False)] for row in cells], header=header)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


COMMAND = Command("presets", "list presets, show one, or compare two", "", _arguments, run_presets)
