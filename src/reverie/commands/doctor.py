"""`reverie doctor`: what is wrong with a run, and which setting to change."""

from __future__ import annotations

import argparse
import json
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from .command import Command, add_json
from .output import terminal_width

if TYPE_CHECKING:
    from ..insight.doctor import Finding

EPILOG = """\
Measures a run's newest checkpoint on its own replay, reads its logs, and reports what is wrong: at most five
findings, each with numbers, the reason why it matters, and the setting to change. RUN may be finished or still
training; nothing in it is changed.

  reverie doctor runs/demo
  reverie doctor runs/demo --json | jq '.findings[0].verdict'

Exit code 1 if a finding is FAIL, else 0 (WARN and OK), 2 if there is nothing to examine. All findings: docs/doctor.md.
"""
COLOURS = {"FAIL": "31", "WARN": "33", "OK": "32"}


def _arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", type=Path, help="a run, finished or training")
    sub.add_argument("--no-color", action="store_true", help="no colours (also with NO_COLOR, or when not a terminal)")
    add_json(sub)


def run_doctor(args: argparse.Namespace) -> int:
    """Diagnose, print. -> 1 with a FAIL, else 0. Raises UserError."""
    from ..insight.doctor import diagnose

    findings = diagnose(args.run)
    if args.json:
        level = min((finding.level for finding in findings), key=list(COLOURS).index)
        print(json.dumps({"run": str(args.run), "level": level, "findings": [f.to_dict() for f in findings]}))
    else:
        terminal = terminal_width()
        colour = terminal > 0 and not args.no_color and not os.environ.get("NO_COLOR")
        width = min(110, terminal or 110)
        print("\n\n".join("\n".join(format_finding(finding, colour=colour, width=width)) for finding in findings))
    return int(any(finding.level == "FAIL" for finding in findings))


def format_finding(finding: Finding, *, colour: bool = False, width: int = 110) -> list[str]:
    """A finding as lines of text."""
    level = f"\033[{COLOURS[finding.level]};1m{finding.level}\033[0m" if colour else finding.level
    change = f"{finding.key}: {finding.change}" if finding.key else finding.change
    lines = [f"{level}  {finding.verdict}"]
    for name, text in (("found", finding.evidence), ("why", finding.why), ("change", change)):
        lines += textwrap.wrap(text, width, initial_indent=f"  {name:7} ", subsequent_indent=" " * 10)
    return lines


COMMAND = Command("doctor", "what is wrong with a run, and which setting to change", EPILOG, _arguments, run_doctor)
