"""`reverie doctor` and `reverie drift`: what is wrong with a run, and how far its model can dream."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from .command import Command

if TYPE_CHECKING:
    from ..insight.doctor import Finding
    from ..insight.drift import Drift

DOCTOR_HELP = """\
Measures a run's newest checkpoint on its own replay, reads its logs, and tells what is wrong: at most five findings,
each with numbers, the reason why it matters, and the setting to change. RUN may be finished or still training; nothing
in it is changed.

  reverie doctor runs/demo
  reverie doctor runs/demo --json | jq '.findings[0].verdict'

Exit code 1 if a finding is FAIL, else 0 (WARN and OK), 2 if there is nothing to look at. docs/doctor.md has all.
"""
DRIFT_HELP = """\
Looks at a few steps of replay, dreams on with the replay's own actions, and compares with what really came: errors of
observations, rewards and ends after 1, 2, ... steps, beside a copy of the last observation, the average of all, and the
reconstruction by a model that looked. The useful horizon is the last step at which the dream is better than guessing.

  reverie drift runs/demo --horizon 30 -o drift.png
"""
COLOURS = {"FAIL": "31", "WARN": "33", "OK": "32"}


def _doctor_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", type=Path, help="a run, finished or training")
    sub.add_argument("--no-color", action="store_true", help="no colours (also with NO_COLOR, or when not a terminal)")
    sub.add_argument("--json", action="store_true", help="print one JSON object")


def _drift_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", type=Path)
    sub.add_argument(
        "--horizon", type=_count, default=0, help="steps to dream (default: imagination horizon, 15 at least)"
    )
    sub.add_argument("--context", type=_count, default=5, help="steps to look at first")
    sub.add_argument("--starts", type=_count, default=64, help="dreams")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("-o", "--out", type=Path, metavar="PNG", help="write the curves as a picture")
    sub.add_argument("--json", action="store_true", help="print one JSON object")


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got '{text}'")
    return int(text)


def doctor_command(args: argparse.Namespace) -> int:
    """Diagnose, print. -> 1 with a FAIL, else 0. Raises UserError."""
    from ..insight.doctor import diagnose

    findings = diagnose(args.run)
    if args.json:
        level = min((finding.level for finding in findings), key=list(COLOURS).index)
        print(json.dumps({"run": str(args.run), "level": level, "findings": [f.to_dict() for f in findings]}))
    else:
        colour = not args.no_color and "NO_COLOR" not in os.environ and sys.stdout.isatty()
        print("\n\n".join("\n".join(told(finding, colour=colour)) for finding in findings))
    return int(any(finding.level == "FAIL" for finding in findings))


def told(finding: Finding, *, colour: bool = False, width: int = 110) -> list[str]:
    """A finding as lines of text."""
    level = f"\033[{COLOURS[finding.level]};1m{finding.level}\033[0m" if colour else finding.level
    change = f"{finding.key}: {finding.change}" if finding.key else finding.change
    lines = [f"{level}  {finding.verdict}"]
    for name, text in (("found", finding.evidence), ("why", finding.why), ("change", change)):
        lines += textwrap.wrap(text, width, initial_indent=f"  {name:7} ", subsequent_indent=" " * 10)
    return lines


def drift_command(args: argparse.Namespace) -> int:
    """Measure, print, draw. -> 0. Raises UserError."""
    from ..insight.drift import drift
    from ..insight.plots import drift_plot
    from ..insight.run_reader import open_run

    opened = open_run(args.run)
    found = drift(opened, horizon=args.horizon, context=args.context, starts=args.starts, seed=args.seed)
    picture = drift_plot(found, args.out, title=opened.config.env.id) if args.out else None
    if args.json:
        print(json.dumps({"run": str(args.run), **found.to_dict(), "picture": str(picture) if picture else None}))
        return 0
    print("\n".join(table(found)))
    print(f"useful horizon = {found.useful_horizon}")
    if found.warning:
        print(f"warning: {found.warning}")
    if picture:
        print(f"look at   {picture}")
    return 0


def table(drift: Drift) -> list[str]:
    """The curves as lines: errors of observations in shares of the data's variance, and the rest."""
    lines = [
        f"{'steps':>5} {'windows':>7} {'latent KL':>9}   {'dream':>7} {'looked':>7} {'copy':>7} {'mean':>7}   reward"
    ]
    for k, count in enumerate(drift.starts):
        row = [drift.error[name][k] for name in ("dream", "floor", "copy", "mean")]
        cells = " ".join(f"{_cell(value):>7}" for value in row)
        reward = _cell(drift.reward["dream"][k])
        lines.append(f"{k + 1:>5} {count:>7} {_cell(drift.latent_kl[k]):>9}   {cells}   {reward}")
    correlation = drift.returns["correlation"]
    told = "no spread in one of them" if correlation is None else f"correlation {correlation:.2f}"
    return [*lines, f"imagined against realised returns: {told}, bias {drift.returns['bias']:.3g}"]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


DOCTOR = Command(
    "doctor", "what is wrong with a run, in words, and which setting to change", DOCTOR_HELP, _doctor_arguments,
    doctor_command,
)  # fmt: skip
DRIFT = Command(
    "drift", "how far a run's world model can dream: errors after 1, 2, ... steps", DRIFT_HELP, _drift_arguments,
    drift_command,
)  # fmt: skip
