"""`reverie explain`: what a logged number means, and what to do about it."""

from __future__ import annotations

import argparse
import json
import textwrap

from ..errors import UserError
from ..insight.glossary import ENTRIES, Entry, find, near
from .command import Command, add_json
from .output import terminal_width

EPILOG = """\
examples:
  reverie explain                      all metrics of metrics.jsonl and episodes.jsonl, one line each
  reverie explain world_model/kl       meaning, unit, what is healthy, what to do, where in the code
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", nargs="?", help="a metric; without one: all of them")
    add_json(parser, "print JSON")


def run_explain(args: argparse.Namespace) -> int:
    """Print one entry, or all keys. Raises UserError for an unknown key."""
    if args.key is None:
        print(json.dumps([entry._asdict() for entry in ENTRIES]) if args.json else _all())
        return 0
    entry = find(args.key)
    if entry is None:
        others = near(args.key)
        hint = f"Near it: {', '.join(others)}." if others else "`reverie explain` lists all."
        raise UserError(f"no metric is called '{args.key}'.", hint)
    print(json.dumps(entry._asdict()) if args.json else _one(args.key, entry))
    return 0


def _one(key: str, entry: Entry) -> str:
    rows = [("", entry.meaning), ("unit", entry.unit), ("healthy", entry.healthy), ("if not", entry.advice)]
    lines = [key, *(_row(name, text) for name, text in rows), _row("code", f"src/reverie/{entry.where}")]
    return "\n".join(lines)


def _row(name: str, text: str) -> str:
    width = min(100, terminal_width() or 100)
    return textwrap.fill(text, width, initial_indent=f"  {name:9}", subsequent_indent=" " * 11)


def _all() -> str:
    from ..evidence.tables import columns

    rows = [(entry.key, textwrap.shorten(entry.meaning, 90, placeholder=" ...")) for entry in ENTRIES]
    return "\n".join(columns(rows))


COMMAND = Command("explain", "what a logged number means, and what to do about it", EPILOG, _arguments, run_explain)
