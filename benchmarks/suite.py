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
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from suites.meter import write_json
from suites.plan import Plan, Task, maker, read_plan
from suites.report import write_report
from suites.results import read_results, result_path

STOPPED = 75  # exit code of a run that was stopped before its end


def one(args: argparse.Namespace, plan: Plan) -> int:
    """The process of a single run."""
    from suites.worker import train_one

    ((task, seed),) = plan.only([args.one[0]], [int(args.one[1])]).runs()
    threading.Thread(target=_follow, args=[os.getppid()], daemon=True).start()
    command = ["python", "benchmarks/suite.py", str(args.plan), "--preset", args.preset, "--tasks", task.label]
    command += ["--seeds", str(seed), *(["--set", *args.settings] if args.settings else [])]
    result = train_one(task, seed, plan, args.preset, _settings(args), _directory(args, task, seed), command)
    if result is None:
        return STOPPED
    write_json(result_path(args.out, task.label, seed), result)
    return 0


def _follow(parent: int) -> None:
    """Stop this run in order when the process that started it has been killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return dict(item.split("=", 1) for item in args.settings)


def _directory(args: argparse.Namespace, task: Task, seed: int) -> Path:
    return args.runs / f"{task.label}-s{seed}"


def start(args: argparse.Namespace, task: Task, seed: int) -> subprocess.Popen[bytes]:
    """Start the process of a run; what it prints goes to RUNS/logs."""
    command = [sys.executable, __file__, str(args.plan), "--preset", args.preset, "--out", str(args.out)]
    command += ["--runs", str(args.runs), "--one", task.label, str(seed)]
    command += ["--set", *args.settings] if args.settings else []
    logs = args.runs / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with open(logs / f"{task.label}-s{seed}.txt", "ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | one_thread,
            start_new_session=True,
        )  # fmt: skip


def run_all(args: argparse.Namespace, plan: Plan) -> int:
    """Everything that is missing, `jobs` at a time. -> exit code."""
    runs = plan.runs()
    for found in read_results(args.out):
        if found["learner"] != args.preset:
            sys.exit(f"{args.out} has results of {found['learner']}, not of {args.preset}: take another --out.")
    waiting = [run for run in runs if not result_path(args.out, run[0].label, run[1]).exists()]
    hours = sum(task.cpu_minutes for task, _ in waiting) / 60
    print(f"{plan.name}, {args.preset}: {len(runs)} runs, {len(waiting)} to do, at most {hours:.1f} CPU hours and "
          f"the evaluations", flush=True)  # fmt: skip
    stopping, failed = threading.Event(), 0
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: stopping.set())
    going: list[tuple[Task, int, subprocess.Popen[bytes]]] = []
    done = len(runs) - len(waiting)
    while going or (waiting and not stopping.is_set()):
        while waiting and len(going) < args.jobs and not stopping.is_set():
            task, seed = waiting.pop(0)
            going.append((task, seed, start(args, task, seed)))
        if stopping.is_set():
            for _, _, process in going:
                process.send_signal(signal.SIGTERM)
            for _, _, process in going:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(60)
        for each in [each for each in going if each[2].poll() is not None]:
            going.remove(each)
            done, failed = done + 1, failed + _tell(args, each, done + 1, len(runs))
        time.sleep(0.5)
    if stopping.is_set():
        print("stopped; the same command goes on", flush=True)
        return 130
    return 1 if failed else 0


def _tell(args: argparse.Namespace, each: tuple[Task, int, subprocess.Popen[bytes]], done: int, total: int) -> int:
    """One line about a run that has ended. -> 1 if it failed."""
    task, seed, process = each
    path, name = result_path(args.out, task.label, seed), f"[{done}/{total}] {task.label}, seed {seed}"
    if process.returncode == 0 and path.exists():
        found = next(x for x in read_results(args.out) if x["label"] == task.label and x["seed"] == seed)
        verdict = "SOLVED" if found["solved"] else "not solved"
        print(f"{name}: {found['final']['mean']:.4g} (threshold {task.threshold:g}): {verdict}; "
              f"{found['env_steps']:,} steps, {found['cpu_seconds'] / 60:.1f} CPU minutes", flush=True)  # fmt: skip
        return 0
    if process.returncode in (STOPPED, -signal.SIGTERM):
        print(f"{name}: stopped", flush=True)
        return 0
    log = args.runs / "logs" / f"{task.label}-s{seed}.txt"
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-2:]
    print(f"{name}: FAILED ({process.returncode}), see {log}: {' '.join(last)[-300:]}", flush=True)
    return 1


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
