"""`reverie sweep` and `reverie ablate`: many runs, and what a setting is worth."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .command import Command

if TYPE_CHECKING:
    from ..evidence.plan import Plan, PlannedRun
    from ..evidence.results import RunResult

SWEEP_HELP = """\
Runs tasks x variants x seeds, each run a process of its own. First it tells what it will cost; --dry-run stops there.
Kill it at any time: the same command goes on with what is missing, unfinished runs from their checkpoints.

FILE is TOML:

  name = "transforms"
  seeds = [0, 1, 2, 3, 4]
  vary = ["reward.transform=symlog,tanh,none"]        # the base, and one variant per value
  [[task]]
  name = "pendulum"
  env = "Pendulum-v1"
  preset = "vector"
  settings = { "train.env_steps" = 3200 }
  [[variant]]                                         # or variants by hand: name, preset, settings
  name = "V3"
  preset = "dreamerv3+small"

Every run is evaluated once, at its end (train.eval_every=0, eval_episodes=20), and is deterministic; settings of the
file change that. Exit code 0: all done, 1: runs failed, 2: a mistake, 130: stopped.

OUT gets runs/, results/ (a file per run: command, commit, versions, hardware, protocol, every return), and a report as
page, Markdown, CSV, LaTeX, JSON and pictures. --report makes the report from the results that are there.

  reverie sweep benchmarks/evidence/ablation.toml --dry-run
  reverie sweep transforms.toml --out runs/transforms --jobs 2
"""
ABLATE_HELP = """\
One factor at a time: the preset as it is, and beside it one variant per value. Names may be short: kl.balance is
model.kl_balance; a+b=false changes two settings together. Everything else is `reverie sweep`.

  reverie ablate --preset demo --env-steps 3000 --seeds 5 \\
      --vary latents=categorical,gaussian kl.balance=0.5,0.8 reward.transform=symlog,tanh,none
  reverie ablate --preset vector --env Pendulum-v1 --vary free_nats=0,1,3 --seeds 3 --dry-run
"""


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--out", type=Path, help="directory (default: runs/NAME)")
    parser.add_argument("--jobs", type=_count, default=0, help="runs at a time (default: as cores and memory allow)")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be run and what it costs")
    parser.add_argument("--report", action="store_true", help="run nothing, make the report of what is there")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a TOML file")
    _common(parser)


def _ablate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="demo", help="the base (default: demo)")
    parser.add_argument("--env", help="Gymnasium id of the task (default: the preset's)")
    parser.add_argument("--vary", nargs="+", required=True, metavar="NAME=A,B", help="settings and their values")
    parser.add_argument("--seeds", type=_count, default=3, help="how many (default: 3)")
    parser.add_argument("--env-steps", type=_count, help="environment steps of a run")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of every run")
    parser.add_argument("--name", default="ablation")
    _common(parser)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got '{text}'")
    return int(text)


def sweep_command(args: argparse.Namespace) -> int:
    """Run a sweep. -> 1 if runs failed. Raises UserError."""
    from ..evidence.plan import read_plan

    return _perform(args, read_plan(args.file))


def ablate_command(args: argparse.Namespace) -> int:
    """Run an ablation. -> 1 if runs failed. Raises UserError."""
    from ..evidence.plan import BASE, Task, Variant, make_plan, parse_vary, setting_name

    settings: dict[str, str] = {}
    for word in args.set:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"'{word}' is not of the form name=value.", "E.g. --set gamma=0.99")
        settings[setting_name(key)] = value
    task = {"env.id": args.env} if args.env else {}
    task |= {"train.env_steps": args.env_steps} if args.env_steps else {}
    variants = [Variant(BASE, {}), *parse_vary(args.vary)]
    name = args.env or args.preset
    return _perform(args, make_plan(args.name, [Task(name, args.preset, task)], variants, args.seeds, settings))


def _perform(args: argparse.Namespace, plan: Plan) -> int:
    from ..evidence.sweep import Sweep, estimate, parallel, results_of

    out = args.out or Path("runs") / plan.name
    say = _aside if args.json else _say
    if not args.dry_run:
        _require_plots()
    if args.report:
        return _report(args, plan, out, results_of(plan, out), {})
    sweep = Sweep(plan, out, say=say)
    variants = len({job.variant for job in plan.jobs})
    counts = f"{len(plan.tasks)} task(s), {variants} variant(s), {len(plan.seeds)} seed(s)"
    say(f"{plan.name}: {counts}, {len(plan.jobs)} runs in {out}")
    cost = estimate(plan, out)
    jobs = parallel(plan, cost, args.jobs)
    for line in cost.lines(jobs) if cost.left else ():
        say(line)
    if args.dry_run:
        if args.json:
            cells = [{"task": t, "preset": p, "seconds": s} for (t, p), s in cost.cells.items()]
            print(json.dumps({"runs": cost.left, "seconds": cost.seconds, "jobs": jobs, "cells": cells}))
        else:
            say("\n".join(f"  {job.name}" for job in plan.jobs))
        return 0
    results = sweep.run(jobs)
    if sweep.stopping.is_set():
        _aside(f"stopped with {len(results)} of {len(plan.jobs)} results; the same command goes on")
        return 130
    return _report(args, plan, out, results, sweep.failed)


def _require_plots() -> None:
    """Now: after hours it would be too late to hear that the report cannot be drawn. Raises UserError."""
    from ..insight.charts import figure_of

    figure_of(1, 1)


def _report(
    args: argparse.Namespace, plan: Plan, out: Path, results: list[tuple[PlannedRun, RunResult]], failed: dict[str, str]
) -> int:
    from ..evidence.ablate import report
    from ..evidence.page import plain_json, write_files

    for name, why in failed.items():
        _aside(f"FAILED {name}: {why}")
    if not results and failed:
        raise UserError(f"every run failed, the first one with: {next(iter(failed.values()))}")
    if not results:
        raise UserError(f"there are no results in {out} yet.", "Leave out --report to run the sweep.")
    words, tables, figures, facts = report(plan, results)
    files = write_files(out, name="report", title=plan.name, words=words, tables=tables, figures=figures, facts=facts)
    if args.json:
        print(plain_json(facts | {"failed": failed, "report": str(files[0])}))
    else:
        print("\n\n".join([*(table.text() for table in tables), *words]))
        print(f"\nreport    {files[0]} and {len(files) - 1} more")
    return 1 if failed else 0


def _aside(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _say(text: str) -> None:
    print(text, flush=True)


SWEEP = Command(
    "sweep",
    "many runs: tasks x variants x seeds, resumable, with a report",
    SWEEP_HELP,
    _sweep_arguments,
    sweep_command,
)
ABLATE = Command(
    "ablate",
    "what a setting is worth: one factor at a time, with intervals",
    ABLATE_HELP,
    _ablate_arguments,
    ablate_command,
)
