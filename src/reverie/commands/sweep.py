"""`reverie sweep`: many runs, and a report on them. `run_plan` is also what `reverie ablate` does with its plan."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, counted
from ..evidence.executors import PLACES, ClusterOptions, option_names, options_of
from ..files import absolute
from .command import Command, add_data_files, add_json, positive, require_data_files
from .output import note, show_line, terminal_width

if TYPE_CHECKING:
    from ..evidence.plan import Plan, PlannedRun
    from ..evidence.results import RunResult
    from ..evidence.sweep import Sweep

EPILOG = """\
Runs tasks x variants x seeds, each run in its own process. First the cost is estimated; --dry-run stops there.
It may be killed at any time: the same command does what is missing, and resumes unfinished runs from checkpoints.

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
file change that. Exit code 0: all done, 1: runs failed, 2: invalid input, 130: stopped.

OUT gets runs/, results/ (a file per run: command, commit, versions, hardware, protocol, every return), and a report as
page, Markdown, CSV, LaTeX, JSON and plots. --report makes the report from the existing results.

--on slurm submits the runs as an array (pip install 'reverie-rl[slurm]'), --on ray hands them to a Ray cluster
(reverie-rl[ray]); what a run asks for stands in the options, or in the file as [slurm] time = "4:00:00". A run that
reaches the time limit or is killed continues from its checkpoint. docs/cluster.md has the whole of it.

  reverie sweep benchmarks/evidence/ablation.toml --dry-run
  reverie sweep transforms.toml --out runs/transforms --jobs 2
  reverie sweep transforms.toml --on slurm --time 4:00:00 --cpus 2 --memory 4GB --partition short
"""


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `reverie sweep` and `reverie ablate` share."""
    parser.add_argument("-o", "--out", type=Path, help="directory (default: runs/NAME)")
    parser.add_argument("--jobs", type=positive, default=0, help="runs at a time (default: as cores and memory allow)")
    parser.add_argument("--dry-run", action="store_true", help="only print what would be run and what it costs")
    parser.add_argument("--report", action="store_true", help="run nothing, make the report of the existing results")
    add_data_files(parser, "seed and evaluation, and for each tenth of a run", latex=True)
    add_json(parser, "print one JSON object at the end")
    add_cluster_arguments(parser)


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Where runs are executed, and what each of them asks for."""
    parser.add_argument("--on", choices=PLACES, default="local", help="where the runs are executed (default: local)")
    parser.add_argument("--partition", help="SLURM: partition of the jobs")
    parser.add_argument("--account", help="SLURM: account of the jobs")
    parser.add_argument("--time", help="SLURM: limit of an allocation, as 90 (minutes), 90m or 4:00:00 (default: 1h)")
    parser.add_argument("--memory", help="SLURM, Ray: memory of a run, as 8GB")
    parser.add_argument("--cpus", help="SLURM, Ray: cores of a run")
    parser.add_argument("--gpus", help="SLURM, Ray: GPUs of a run")
    parser.add_argument("--extra", action="append", metavar="NAME=VALUE", help="SLURM: a further option of sbatch")
    parser.add_argument("--submit", help="SLURM: slurm, or to try it out without: local, debug (default: slurm)")
    parser.add_argument("--address", help="Ray: the cluster (default: RAY_ADDRESS, else one on this machine)")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a TOML file")
    add_sweep_arguments(parser)


def run_sweep(args: argparse.Namespace) -> int:
    """Run a sweep. -> 1 if runs failed. Raises UserError."""
    from ..evidence.plan import read_plan

    return run_plan(args, read_plan(args.file))


def run_plan(args: argparse.Namespace, plan: Plan) -> int:
    """Report the cost, run what is missing, write the report; args: of `add_sweep_arguments`. -> exit code."""
    from ..evidence.statistics import require_scipy
    from ..evidence.sweep import Sweep, estimate, parallel, results_of
    from ..insight.plots import require_matplotlib

    require_data_files(args)
    out = args.out or Path("runs") / plan.name
    say = note if args.json else show_line
    if not args.dry_run:  # after hours of training it would be too late for these messages
        require_scipy()
        require_matplotlib()
    if args.report:
        return _report(args, plan, out, results_of(plan, out), {})
    options = cluster_options(args, plan)
    sweep = Sweep(plan, out, say=say)
    variants = len({job.variant for job in plan.jobs})
    kinds = (len(plan.tasks), "task"), (variants, "variant"), (len(plan.seeds), "seed")
    counts = ", ".join(counted(n, what) for n, what in kinds)
    say(f"{plan.name}: {counts}, {len(plan.jobs)} runs in {out}")
    if args.on != "local" and not args.dry_run:  # the machine of the sweep is not the one of the runs: no forecast
        return _run_on_cluster(args, plan, out, options)
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
    return _run(args, sweep, jobs)


def cluster_options(args: argparse.Namespace, plan: Plan | None = None) -> ClusterOptions:
    """The plan's table for the place, with the command line's options on top. Raises UserError."""
    table = plan.clusters.get(args.on, {}) if plan is not None else {}
    return options_of(table, {key: getattr(args, key) for key in option_names()}, args.on)


def _run_on_cluster(args: argparse.Namespace, plan: Plan, out: Path, options: ClusterOptions) -> int:
    """Everything goes into the cluster's queue at once; --jobs limits how much of it runs together."""
    from ..evidence.cluster import make_executor
    from ..evidence.sweep import Sweep

    real = args.on == "slurm" and options.submit == "slurm"
    at_once = len(plan.jobs) if real or not args.jobs else args.jobs
    if options.submit != "slurm":  # this machine
        at_once = args.jobs or 1
    executor = make_executor(args.on, options, absolute(out), plan.name, args.jobs)
    try:
        return _run(args, Sweep(plan, absolute(out), say=note if args.json else show_line, executor=executor), at_once)
    finally:
        executor.close()


def _run(args: argparse.Namespace, sweep: Sweep, jobs: int) -> int:
    results = sweep.run(jobs)
    if sweep.stopping.is_set():
        note(f"stopped with {len(results)} of {len(sweep.plan.jobs)} results; the same command resumes the sweep")
        return 130
    return _report(args, sweep.plan, sweep.out, results, sweep.failed)


def _report(
    args: argparse.Namespace, plan: Plan, out: Path, results: list[tuple[PlannedRun, RunResult]], failed: dict[str, str]
) -> int:
    from ..evidence.ablate import report
    from ..evidence.page import plain_json, write_files
    from ..evidence.tidy import sweep_rows, write_data_files

    for name, why in failed.items():
        note(f"FAILED {name}: {why}")
    if not results and failed:
        raise UserError(f"every run failed, the first one with: {next(iter(failed.values()))}")
    if not results:
        raise UserError(f"there are no results in {out} yet.", "Leave out --report to run the sweep.")
    words, tables, figures, facts = report(plan, results)
    rows = list(sweep_rows(results))
    files = write_files(
        out, name="report", title=plan.name, words=words, tables=tables, figures=figures, facts=facts, rows=rows
    )
    write_data_files(csv_file=args.csv, rows=rows, latex_file=args.latex, tables=tables)
    if args.json:
        print(plain_json(facts | {"failed": failed, "report": str(files[0])}))
    else:
        print("\n\n".join([*(table.text(terminal_width()) for table in tables), *words]))
        print(f"\nreport    {files[0]} and {len(files) - 1} more")
    return 1 if failed else 0


COMMAND = Command(
    "sweep", "many runs: tasks x variants x seeds, resumable, with a report", EPILOG, _arguments, run_sweep
)
