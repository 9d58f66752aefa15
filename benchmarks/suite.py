"""Run a suite of tasks with one preset, resumable, and report: which tasks are solved, after how much of what.

    python benchmarks/suite.py benchmarks/suites/breadth.toml --preset auto --jobs 2 --out benchmarks/results/breadth
    python benchmarks/suite.py benchmarks/suites/invariance.toml --preset auto --jobs 2 \
        --out benchmarks/results/invariance
    python benchmarks/suite.py benchmarks/suites/breadth.toml --report --out benchmarks/results/breadth

Every run is a process of its own with one thread; seed 0 of all tasks first, then seed 1. A run that is done is one
file OUT/TASK-sSEED.json, written at once, and is not made again: the files can be committed one by one and the rest
made on another machine. A run that was stopped goes on from its checkpoint in RUNS. Ctrl-C and SIGTERM stop in order.
At the end, and with --report at any time, OUT/report.md and OUT/report.png are made of the results that exist.
Exit code 0: all asked for is there; 1: runs failed; 130: stopped.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from suites.meter import write_json
from suites.plan import Plan, Task, maker, read_plan
from suites.report import write_report
from suites.results import read_results, result_path
from suites.schedule import STOPPED, Job, follow_parent, run_jobs


def one(args: argparse.Namespace, plan: Plan) -> int:
    """The process of a single run."""
    from suites.worker import train_one

    ((task, seed),) = plan.only([args.one[0]], [int(args.one[1])]).runs()
    follow_parent()
    command = ["python", "benchmarks/suite.py", str(args.plan), "--preset", args.preset, "--tasks", task.label]
    command += ["--seeds", str(seed), *(["--set", *args.settings] if args.settings else [])]
    result = train_one(task, seed, plan, args.preset, _settings(args), _directory(args, task, seed), command)
    if result is None:
        return STOPPED
    write_json(result_path(args.out, task.label, seed), result)
    return 0


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return dict(item.split("=", 1) for item in args.settings)


def _directory(args: argparse.Namespace, task: Task, seed: int) -> Path:
    return args.runs / f"{task.label}-s{seed}"


def job_of(args: argparse.Namespace, task: Task, seed: int) -> Job:
    """The process of one run."""
    command = [sys.executable, __file__, str(args.plan), "--preset", args.preset, "--out", str(args.out)]
    command += ["--runs", str(args.runs), "--one", task.label, str(seed)]
    command += ["--set", *args.settings] if args.settings else []
    log = args.runs / "logs" / f"{task.label}-s{seed}.txt"
    return Job(f"{task.label}, seed {seed}", command, result_path(args.out, task.label, seed), log)


def run_all(args: argparse.Namespace, plan: Plan) -> int:
    """Everything that is missing, `jobs` at a time. -> exit code."""
    for found in read_results(args.out):
        if found["learner"] != args.preset:
            sys.exit(f"{args.out} has results of {found['learner']}, not of {args.preset}: take another --out.")
    runs = plan.runs()
    missing = [task for task, seed in runs if not result_path(args.out, task.label, seed).exists()]
    print(
        f"{plan.name}, {args.preset}: {len(runs)} runs, {len(missing)} to do, "
        f"at most {sum(task.cpu_minutes for task in missing) / 60:.1f} CPU hours and the evaluations",
        flush=True,
    )
    return run_jobs([job_of(args, task, seed) for task, seed in runs], args.jobs, outcome)


def outcome(job: Job) -> str:
    """What became of a run, in a line."""
    found = json.loads(job.result.read_text(encoding="utf-8"))
    verdict = "SOLVED" if found["solved"] else "not solved"
    return (
        f"{found['final']['mean']:.4g} (threshold {found['threshold']:g}): {verdict}; "
        f"{found['env_steps']:,} steps, {found['cpu_seconds'] / 60:.1f} CPU minutes"
    )


def measure_random(args: argparse.Namespace, plan: Plan) -> int:
    """Print the mean return of uniformly random actions on each task, for the plan's `random`."""
    for task in plan.tasks:
        if task.cell != "plain":
            continue
        env, scores, until = maker(task)(), [], time.process_time() + 40
        env.action_space.seed(0)
        while len(scores) < 200 and (len(scores) < 20 or time.process_time() < until):
            env.reset(seed=len(scores))
            score, ended = 0.0, False
            while not ended:
                _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
                score, ended = score + float(reward), terminated or truncated
            scores.append(score)
        env.close()
        print(f"{task.name:16} random = {sum(scores) / len(scores):.4g}   # {len(scores)} episodes", flush=True)
    return 0


def main() -> int:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, help="a file of benchmarks/suites")
    parser.add_argument("--preset", default="auto", help="one for all tasks; before: the plan's, task by task")
    parser.add_argument("--tasks", nargs="+", default=[], help="only these, e.g. cartpole or catch--x0.01")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="default: the plan's")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each")
    parser.add_argument("--out", type=Path, help="folder of the results (default: benchmarks/results/NAME)")
    parser.add_argument("--runs", type=Path, help="folder of the runs (default: runs/suites/NAME-PRESET)")
    parser.add_argument("--report", action="store_true", help="run nothing, make the report of the results so far")
    parser.add_argument("--random", action="store_true", help="measure the random levels that the plan states")
    parser.add_argument("--one", nargs=2, metavar=("TASK", "SEED"), help="(used by itself) this run only")
    parser.add_argument(
        "--set", nargs="+", default=[], dest="settings", help="name=value, for every run; to try things"
    )
    args = parser.parse_args()
    try:
        plan = read_plan(args.plan).only(args.tasks, args.seeds)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    args.out = args.out or Path(__file__).parent / "results" / plan.name
    args.runs = args.runs or Path("runs/suites") / f"{plan.name}-{args.preset}"
    if args.one:
        return one(args, plan)
    if args.random:
        return measure_random(args, plan)
    code = 0 if args.report else run_all(args, plan)
    print(write_report(plan, args.out, command=shlex.join(["python", "benchmarks/suite.py", *sys.argv[1:]])))
    return code


if __name__ == "__main__":
    sys.exit(main())
