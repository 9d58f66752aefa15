"""`reverie report`: one self-contained page about runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .command import Command, add_json

EPILOG = """\
One HTML file that needs nothing else: scores, curves of several runs together, the doctor's findings, drift, videos,
settings, command, hardware, versions. Needs matplotlib: pip install 'reverie-rl[plot]'.

examples:
  reverie report runs/demo                              RUN/report.html
  reverie report runs/a runs/b -o report.html
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", help="directories of runs")
    parser.add_argument("-o", "--out", type=Path, help="the file (default: report.html in the first run)")
    add_json(parser, "print one JSON object: the path and each run's numbers")


def run_report(args: argparse.Namespace) -> int:
    """Write the page. Raises UserError."""
    from ..insight.report import summary, write_report
    from ..insight.video import require_writable

    if args.out:
        require_writable(args.out, ".html", ".htm")  # before minutes of measuring
    out = write_report(args.runs, args.out or args.runs[0] / "report.html")
    print(json.dumps({"path": str(out), "runs": [summary(run) for run in args.runs]}) if args.json else out)
    return 0


COMMAND = Command("report", "one self-contained page about runs, to send to someone", EPILOG, _arguments, run_report)
