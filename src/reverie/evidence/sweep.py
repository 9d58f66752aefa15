"""Many runs, each a process of its own: what they will cost, a queue that goes on where it stopped, a file per result.

OUT/plan.json says what was asked for, OUT/runs/NAME are the runs, OUT/results/NAME.json their results. A result file
is the mark that a job is done: whoever kills a sweep loses what its runs lose, which is the time since their last
checkpoint.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bench.subject import make_subject
from ..config import flatten, load_file
from ..errors import UserError
from ..forecast import make_forecast, memory_left
from ..lock import RunLock, in_use
from ..logger import read_lines
from ..rundir import check_directory
from ..tasks import step_seconds
from .plan import Job, Plan
from .results import Result, complete, read_result, result_of, write_result

Say = Callable[[str], None]
#: Seconds that a process needs before its first step, and for its evaluation.
START = 8.0
#: Of free memory, how much runs may take together.
SHARE = 0.8
PATIENCE = 60.0  # seconds that runs get to write their checkpoints


@dataclass
class Cost:
    """What a sweep takes, from a forecast of one run per task and preset, or from results that are there."""

    seconds: float  # of all runs that are left, one after the other
    memory: int  # bytes of the largest run
    left: int  # runs
    cells: dict[tuple[str, str], float] = field(default_factory=dict)  # seconds of a run, by (task, preset)

    def lines(self, jobs: int) -> list[str]:
        """In words."""
        wall = self.seconds / max(1, min(jobs, self.left))
        each = ", ".join(f"{task} ({preset}) {_time(seconds)}" for (task, preset), seconds in self.cells.items())
        return [
            f"{self.left} runs to do, {jobs} at a time: about {_time(wall)} ({_time(self.seconds)} of work), "
            f"{self.memory / 1e9:.2g} GB each",
            *([f"a run takes about: {each}"] if each else []),
        ]


def estimate(plan: Plan, out: Path) -> Cost:
    """Forecast what is left to do. Runs that are done tell better than a forecast. Raises UserError."""
    left = [job for job in plan.jobs if not result_path(out, job).exists()]
    cells: dict[tuple[str, str], float] = {}
    memory = 0
    for job in left:
        key = (job.task, job.preset)
        if key in cells:
            continue
        known = [read_result(result_path(out, other)) for other in plan.jobs
                 if (other.task, other.preset) == key and result_path(out, other).exists()]  # fmt: skip
        seconds = [result.seconds for result in known if result]
        if seconds:
            cells[key] = START + sum(seconds) / len(seconds)
            continue
        subject = make_subject(job.preset, job.overrides, needs_env=True)
        found = make_forecast(subject.agent(), out, step_seconds=step_seconds(job.config, None))
        steps = job.config.train.env_steps
        limit = 60 * job.config.train.minutes
        whole = found.seconds(steps, found.idle)
        cells[key] = START + (min(whole, limit) if limit else whole)
        memory = max(memory, found.peak)
    total = sum(cells[job.task, job.preset] for job in left)
    return Cost(total, memory, len(left), cells)


def parallel(plan: Plan, cost: Cost, asked: int = 0) -> int:
    """How many runs at a time: as asked, else as cores (of runs on a GPU: four) and memory allow."""
    if asked:
        return asked
    threads = max((job.config.compute.threads or 1) for job in plan.jobs)
    on_gpu = any(job.config.compute.device.startswith("cuda") for job in plan.jobs)
    count = 4 if on_gpu else max(1, len(os.sched_getaffinity(0)) // threads)
    left = memory_left()
    if left is not None and cost.memory:
        count = min(count, max(1, int(SHARE * left / cost.memory)))
    return max(1, min(count, cost.left or 1))


def result_path(out: Path, job: Job) -> Path:
    """Where a job's result is, or will be."""
    return out / "results" / f"{job.name}.json"


def run_path(out: Path, job: Job) -> Path:
    """A job's run."""
    return out / "runs" / job.name


def results_of(plan: Plan, out: Path) -> list[Result]:
    """The results that are there, in the plan's order."""
    found = [read_result(result_path(out, job)) for job in plan.jobs if result_path(out, job).exists()]
    return [result for result in found if result]


# --------------------------------------------------------------------------------------------------------------- queue


class Sweep:
    """The queue of one plan in one directory."""

    def __init__(self, plan: Plan, out: Path, *, say: Say = print) -> None:
        """Raises UserError if the directory holds another sweep, or somebody is at work in it."""
        self.plan, self.out, self.say = plan, out, say
        self.failed: dict[str, str] = {}
        self.stopping = threading.Event()
        self._check()

    def _check(self) -> None:
        for job in self.plan.jobs:
            if (run_path(self.out, job) / "config.yaml").exists():
                check_directory(run_path(self.out, job), job.config)
            if result_path(self.out, job).exists():
                self._require_same(job)

    def _require_same(self, job: Job) -> None:
        from .protocol import experiment

        found = read_result(result_path(self.out, job))
        wanted = experiment(flatten(job.config))
        usual = experiment(flatten(type(job.config)()))
        there = usual | experiment(dict(found.settings)) if found else {}
        changed = [key for key, value in wanted.items() if _plain(there.get(key)) != _plain(value)]
        if changed:
            raise UserError(
                f"{result_path(self.out, job)} is of another sweep: {changed[0]} was {there.get(changed[0])!r}, "
                f"now it is {wanted[changed[0]]!r}.",
                "Choose another --out.",
            )

    def run(self, jobs: int) -> list[Result]:
        """Everything that is not done yet, `jobs` at a time. -> all results. Stops in order at SIGTERM and Ctrl-C."""
        lock = RunLock(self.out)
        lock.take()
        try:
            write_plan(self.plan, self.out)
            with _signals(self.stopping):
                self._work(jobs)
        finally:
            lock.release()
        return results_of(self.plan, self.out)

    def _work(self, jobs: int) -> None:
        waiting = [job for job in self.plan.jobs if not result_path(self.out, job).exists()]
        total, done, began = len(self.plan.jobs), len(self.plan.jobs) - len(waiting), time.monotonic()
        first = done
        going: list[tuple[Job, subprocess.Popen[str], float]] = []
        while (waiting or going) and not (self.stopping.is_set() and not going):
            while waiting and len(going) < jobs and not self.stopping.is_set():
                job = self._next(waiting)
                if job is None:
                    break
                if self._kept(job):
                    done, first = done + 1, first + 1
                    continue
                going.append((job, self._start(job), time.monotonic()))
            if self.stopping.is_set():
                self._end(going)
            for item in [item for item in going if item[1].poll() is not None]:
                going.remove(item)
                done += 1
                self._finish(item[0], item[1])
                spent = (time.monotonic() - began) / max(1, done - first)
                self.say(f"[{done}/{total}] {self._told(item[0], time.monotonic() - item[2])}"
                         + (f"; about {_time(spent * (total - done))} left" if done < total else ""))  # fmt: skip
            time.sleep(0.2)

    def _next(self, waiting: list[Job]) -> Job | None:
        """The first job that nobody else is at: a run of a sweep that was killed may still be going."""
        for job in waiting:
            if not in_use(run_path(self.out, job)):
                waiting.remove(job)
                return job
        return None

    def _kept(self, job: Job) -> bool:
        """A run that is finished needs only its result."""
        run = run_path(self.out, job)
        if not (run / "config.yaml").exists():
            return False
        if not complete(load_file(run / "config.yaml"), read_lines(run / "episodes.jsonl")):
            return False
        write_result(result_of(run, label=job.variant), result_path(self.out, job))
        return True

    def _start(self, job: Job) -> subprocess.Popen[str]:
        run = run_path(self.out, job)
        words = [f"{key}={_text(value)}" for key, value in job.overrides.items()]
        command = [sys.executable, "-m", "reverie.cli", "train", "--quiet", "--no-doctor", "--preset", job.preset]
        threads = {"OMP_NUM_THREADS": str(job.config.compute.threads)} if job.config.compute.threads else {}
        log = self.out / "logs" / f"{job.name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w", encoding="utf-8") as file:
            return subprocess.Popen(
                [*command, "--run", str(run), *words], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=os.environ | threads, text=True, start_new_session=True,
            )  # fmt: skip

    def _finish(self, job: Job, process: subprocess.Popen[str]) -> None:
        run = run_path(self.out, job)
        if process.returncode != 0:
            lines = (self.out / "logs" / f"{job.name}.txt").read_text(encoding="utf-8", errors="replace").splitlines()
            self.failed[job.name] = " ".join(lines[-2:]) or f"exit code {process.returncode}"
        elif self.stopping.is_set():
            self._kept(job)
        else:
            write_result(result_of(run, label=job.variant), result_path(self.out, job))

    def _told(self, job: Job, seconds: float) -> str:
        name = f"{job.task}, {job.variant}, seed {job.seed}"
        if job.name in self.failed:
            return f"{name}: FAILED: {self.failed[job.name]}"
        found = read_result(result_path(self.out, job)) if result_path(self.out, job).exists() else None
        if found is None:
            return f"{name}: stopped, with a checkpoint"
        return f"{name}: return {found.final().mean():.4g} after {found.env_steps:,} steps, {_time(seconds)}"

    def _end(self, going: Sequence[tuple[Job, subprocess.Popen[str], float]]) -> None:
        for _, process, _ in going:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        until = time.monotonic() + PATIENCE
        for _, process, _ in going:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _signals(event: threading.Event) -> Iterator[None]:
    """SIGTERM and Ctrl-C set the event instead of ending the process."""
    here = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGINT) if here else ()
    before = [(number, signal.signal(number, lambda *_: event.set())) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def write_plan(plan: Plan, out: Path) -> None:
    """OUT/plan.json: what was asked for. Raises UserError."""
    jobs = [{"name": job.name, "preset": job.preset, "overrides": {k: _plain(v) for k, v in job.overrides.items()}}
            for job in plan.jobs]  # fmt: skip
    facts = {"name": plan.name, "command": " ".join(sys.argv), "seeds": list(plan.seeds), "jobs": jobs}
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "plan.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}).", "Choose another --out.") from error


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
