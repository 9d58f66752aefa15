"""`reverie explain`: what a logged number or a setting means, and what to do about it."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping

from ..config.parsing import SETTINGS, full_name
from ..errors import UserError
from ..insight.glossary import ENTRIES, Entry, find, near
from .command import Command, add_json
from .output import terminal_width

EPILOG = """\
examples:
  reverie explain                      all metrics of metrics.jsonl and episodes.jsonl, one line each
  reverie explain kl_balance           a setting: what it does, its default, the source of that
  reverie explain world_model/kl       meaning, unit, what is healthy, what to do, where in the code
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", nargs="?", help="a metric or a setting; without one: all metrics")
    add_json(parser, "print JSON")


def run_explain(args: argparse.Namespace) -> int:
    """Print one entry, a setting, or all keys. Raises UserError for an unknown key."""
    if args.key is None:
        print(json.dumps([entry._asdict() for entry in ENTRIES]) if args.json else _all())
        return 0
    entry = find(args.key)
    setting = full_name(args.key)
    if entry is None and setting in SETTINGS:
        item = SETTINGS[setting]
        rows = {"setting": setting, "meaning": item.doc, "default": item.default, "source": item.source}
        print(json.dumps(rows) if args.json else _setting(rows))
        return 0
    if entry is None:
        others = near(args.key)
        hint = f"Near it: {', '.join(others)}." if others else "`reverie explain` lists all."
        raise UserError(f"no metric or setting is called '{args.key}'.", hint)
    print(json.dumps(entry._asdict()) if args.json else _one(args.key, entry))
    return 0


def _one(key: str, entry: Entry) -> str:
    rows = [("", entry.meaning), ("unit", entry.unit), ("healthy", entry.healthy), ("if not", entry.advice)]
    lines = [key, *(_row(name, text) for name, text in rows), _row("code", f"src/reverie/{entry.where}")]
    return "\n".join(lines)


def _setting(rows: Mapping[str, object]) -> str:
    known = [_row("" if name == "meaning" else name, str(value)) for name, value in rows.items() if name != "setting"]
    return "\n".join([str(rows["setting"]), *known])


def _row(name: str, text: str) -> str:
    width = min(100, terminal_width() or 100)
    return textwrap.fill(text, width, initial_indent=f"  {name:9}", subsequent_indent=" " * 11)


def _all() -> str:
    from ..evidence.tables import columns

    rows = [(entry.key, textwrap.shorten(entry.meaning, 90, placeholder=" ...")) for entry in ENTRIES]
    return "\n".join(columns(rows))


COMMAND = Command("explain", "what a logged number means, and what to do about it", EPILOG, _arguments, run_explain)
