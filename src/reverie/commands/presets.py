"""`reverie presets`: every value and where it comes from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ..config import SETTINGS
from ..config.presets import Row, preset_description, preset_differences, preset_names, preset_notes, preset_rows
from .command import Command, add_json


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a preset, or several: A+B has B's values on top of A's")
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
    if args.keys:
        listed = {key: [default, doc, source] for key, (_, default, doc, source) in SETTINGS.items()}
        print(json.dumps(listed) if args.json else _keys())
    elif args.diff:
        differences = preset_differences(*args.diff)
        pairs = {a.key: [_fact(a), _fact(b)] for a, b in differences}
        print(json.dumps(pairs) if args.json else _preset_diff(args.diff[0], args.diff[1], differences))
    elif args.name:
        rows = preset_rows(args.name)
        facts = {row.key: _fact(row) for row in rows}
        print(json.dumps(facts) if args.json else _preset_table(args.name, rows))
    else:
        found = {name: preset_description(name) for name in preset_names()}
        print(json.dumps(found) if args.json else "\n".join(f"{name:12} {text}" for name, text in found.items()))
    return 0


_KEY_WIDTH = max(map(len, SETTINGS))


def _fact(row: Row) -> dict[str, Any]:
    return {"value": row.value, "source": row.source, "preset": row.preset}


def _keys() -> str:
    lines = (f"{key:{_KEY_WIDTH}} {show(s.default):14} {s.doc} [{s.source}]" for key, s in SETTINGS.items())
    return "\n".join(lines)


def _preset_table(name: str, rows: Sequence[Row]) -> str:
    """Every setting on a line: mark, key, value, source. A blank line between groups."""
    lines = [preset_description(name), *preset_notes(name), "'*': other than the default"]
    width = max(len(show(row.value)) for row in rows)
    for _, group in groupby(rows, lambda row: row.key.split(".")[0]):
        lines.append("")
        for row in group:
            mark, whose = " " if row.is_default else "*", f"{row.preset}: " if row.preset not in ("", name) else ""
            lines.append(f"{mark} {row.key:{_KEY_WIDTH}} {show(row.value):{width}}  {whose}{row.source}")
    return "\n".join(lines)


def _preset_diff(left: str, right: str, pairs: Sequence[tuple[Row, Row]], width: int = 120) -> str:
    """Two presets side by side, values and sources; what does not fit into `width` is cut."""
    if not pairs:
        return f"{left} and {right} do not differ."
    key = max(len(a.key) for a, _ in pairs)
    first, second = (min(16, max(len(n), *(len(show(p[i].value)) for p in pairs))) for i, n in ((0, left), (1, right)))
    source = (width - key - first - second - 4 * 2) // 2

    def line(*cells: str) -> str:
        widths = (key, first, second, source, source)
        return "  ".join(_cut(cell, size).ljust(size) for cell, size in zip(cells, widths, strict=True)).rstrip()

    lines = [line("setting", left, right, f"source in {left}", f"source in {right}")]
    for _, group in groupby(pairs, lambda pair: pair[0].key.split(".")[0]):
        lines.append("")
        lines += [line(a.key, show(a.value), show(b.value), a.source, b.source) for a, b in group]
    return "\n".join(lines)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


COMMAND = Command("presets", "list presets, show one, or compare two", "", _arguments, run_presets)
