"""Many runs, each in its own process: an estimate of the cost, a queue that can be resumed, a file per result.

Where the processes are, `executors` decides: on this machine, on a SLURM or a Ray cluster.

OUT/plan.json says what was asked for, OUT/runs/NAME are the runs, OUT/results/NAME.json their results. A result file
marks a job as done: a sweep that is killed loses what its runs lose, the time since their last checkpoint.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..bench.subject import make_subject
from ..build import pick_device
from ..config import flatten, load_file
from ..envs.vector.workers import usable_cores
from ..errors import UserError, digits
from ..files import read_bytes, write_file
from ..guard.lock import RunLock
from ..run.directory import check_directory
from ..run.forecast import duration, make_forecast, memory_left, require_fit
from ..run.lines import read_lines
from ..run.tasks import step_seconds
from .executors import Executor, LocalExecutor, Process, Work
from .plan import Plan, PlannedRun, written
from .protocol import NOT_THE_EXPERIMENT
from .results import RunResult, complete, listed, read_result, result_of, write_result

Say = Callable[[str], None]
#: Seconds that a process needs before its first step, and for its evaluation.
START = 8.0
#: Of free memory, how much runs may take together; runs at a time on a GPU.
SHARE, ON_GPU = 0.8, 4
PATIENCE = 60.0  # seconds that runs get to write their checkpoints
#: What a result must have in common with its job, besides what makes the experiment.
BUDGET = ("train.env_steps", "train.minutes", "train.eval_every", "train.eval_episodes", "train.seed")
STOPPED = {-signal.SIGTERM, -signal.SIGKILL}
#: How often a run that was killed is started again.
RESTARTS = 2

# ----------------------------------------------------------------------------------------------------------------- cost


@dataclass
class Cost:
    """Time and memory of a sweep, from a forecast of one run per task and preset, or from results that are there.

    Variants are taken to cost what the first of them costs, but for their number of steps.
    """

    seconds: float  # of all runs that are left, one after the other
    memory: int  # bytes of the largest run; 0: not known
    left: int  # runs
    cells: dict[tuple[str, str], float] = field(default_factory=dict)  # seconds of a run, by (task, preset)

    def lines(self, jobs: int) -> list[str]:
        """As text."""
        wall = self.seconds / max(1, min(jobs, self.left))
        each = ", ".join(f"{task} ({preset}) {duration(seconds)}" for (task, preset), seconds in self.cells.items())
        memory = f", {digits(self.memory / 1e9)} GB of memory each" if self.memory else ""
        work = f"about {duration(wall)} ({duration(self.seconds)} of work)"
        return [f"{self.left} runs to do, {jobs} at a time: {work}{memory}", f"a run takes about: {each}"]


def estimate(plan: Plan, out: Path) -> Cost:
    """Forecast what is left to do. Raises UserError if a run cannot fit into the machine."""
    left = [job for job in plan.jobs if not result_path(out, job).exists()]
    done = [(job, result) for job, result in results_of(plan, out) if result.seconds]
    rates: dict[tuple[str, str], float] = {}  # seconds per step
    cost = Cost(0.0, 0, len(left))
    for job in left:
        key, steps = (job.task, job.preset), job.config.train.env_steps
        if key not in rates:
            known = [r.seconds / max(1, r.env_steps) for other, r in done if (other.task, other.preset) == key]
            rates[key] = sum(known) / len(known) if known else _forecast(job, out, cost)
        seconds = START + rates[key] * steps
        if job.config.train.minutes:
            seconds = min(seconds, START + 60 * job.config.train.minutes)
        cost.cells.setdefault(key, seconds)
        cost.seconds += seconds
    return cost


def _forecast(job: PlannedRun, out: Path, cost: Cost) -> float:
    """Seconds per step of a run, measured on two updates; its memory goes into `cost`."""
    subject = make_subject(job.preset, job.overrides, needs_env=True)
    found = make_forecast(subject.agent(), out, step_seconds=step_seconds(job.config, None))
    require_fit(found)
    cost.memory = max(cost.memory, found.peak)
    return found.seconds(found.steps, found.idle) / max(1, found.steps)


def parallel(plan: Plan, cost: Cost, asked: int = 0) -> int:
    """How many runs at a time: as asked, else as cores (of runs on a GPU: four) and memory allow."""
    if asked:
        return asked
    threads = max((job.config.compute.threads or 1) for job in plan.jobs)
    on_gpu = any(pick_device(job.config.compute.device).type == "cuda" for job in plan.jobs[:1])
    count = ON_GPU if on_gpu else max(1, usable_cores() // threads)
    left = memory_left()
    if left is not None and cost.memory:
        count = min(count, max(1, int(SHARE * left / cost.memory)))
    return max(1, min(count, cost.left or 1))


# ---------------------------------------------------------------------------------------------------------------- files


def result_path(out: Path, job: PlannedRun) -> Path:
    """Where a job's result is, or will be."""
    return out / "results" / f"{job.name}.json"


def run_path(out: Path, job: PlannedRun) -> Path:
    """A job's run."""
    return out / "runs" / job.name


def log_path(out: Path, job: PlannedRun) -> Path:
    """What a job prints."""
    return out / "logs" / f"{job.name}.txt"


def work_of(out: Path, job: PlannedRun, threads: int) -> Work:
    """A job's command, for an executor."""
    words = [f"{key}={written(value)}" for key, value in job.overrides.items()]
    command = [sys.executable, "-m", "reverie.cli", "train", "--quiet", "--no-doctor", "--preset", job.preset]
    command += ["--run", str(run_path(out, job)), *words]
    return Work(job.name, command, run_path(out, job), log_path(out, job), threads)


def results_of(plan: Plan, out: Path) -> list[tuple[PlannedRun, RunResult]]:
    """The results that are there, each with its job, in the plan's order.

    Raises UserError for a result that is of another sweep: with other settings, or another budget.
    """
    found = []
    for job in plan.jobs:
        path = result_path(out, job)
        result = read_result(path) if path.exists() else None
        if result is not None:
            _require_same(job, result, path)
            found.append((job, result))
    return found


def _require_same(job: PlannedRun, result: RunResult, path: Path) -> None:
    usual = flatten(type(job.config)())
    for key, value in flatten(job.config).items():
        if key.startswith(NOT_THE_EXPERIMENT) and key not in BUDGET:
            continue
        there = result.seed if key == "train.seed" else result.settings.get(key, listed(usual[key]))
        if there != listed(value):
            raise UserError(
                f"{path} is of another sweep: {key} was {there!r}, now it is {listed(value)!r}.",
                "Choose another --out.",
            )


def write_plan(plan: Plan, out: Path) -> None:
    """OUT/plan.json: what was asked for. Raises UserError."""
    jobs = [
        {"name": job.name, "preset": job.preset, "overrides": {key: listed(x) for key, x in job.overrides.items()}}
        for job in plan.jobs
    ]
    facts = {"name": plan.name, "command": " ".join(sys.argv), "seeds": list(plan.seeds), "jobs": jobs}
    try:
        write_file(out / "plan.json", json.dumps(facts, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}).", "Choose another --out.") from error


# ---------------------------------------------------------------------------------------------------------------- queue


@dataclass
class RunningJob:
    """A run that has been started."""

    job: PlannedRun
    process: Process
    began: float


class Sweep:
    """The queue of one plan in one directory."""

    def __init__(self, plan: Plan, out: Path, *, say: Say = print, executor: Executor | None = None) -> None:
        """executor: local processes if not given. Raises UserError if the directory holds another sweep."""
        self.plan, self.out, self.say = plan, out, say
        self.executor: Executor = executor or LocalExecutor()
        self._restarts: dict[str, int] = {}
        self.failed: dict[str, str] = {}
        self.stopping = threading.Event()
        self._waited: set[str] = set()
        results_of(plan, out)
        for job in plan.jobs:
            if (run_path(out, job) / "config.yaml").exists():
                check_directory(run_path(out, job), job.config)

    def run(self, jobs: int) -> list[tuple[PlannedRun, RunResult]]:
        """Everything that is not done yet, `jobs` at a time. -> all results. Stops in order at SIGTERM and Ctrl-C."""
        write_plan(self.plan, self.out)
        lock = RunLock(self.out)
        lock.acquire()
        try:
            with stop_on_signals(self.stopping):
                self._work(jobs)
        finally:
            lock.release()
        return results_of(self.plan, self.out)

    def _work(self, jobs: int) -> None:
        waiting = [job for job in self.plan.jobs if not result_path(self.out, job).exists() and not self._kept(job)]
        total, began, first = len(self.plan.jobs), time.monotonic(), len(self.plan.jobs) - len(waiting)
        done, going = first, list[RunningJob]()
        try:
            while going or (waiting and not self.stopping.is_set()):
                with self.executor.batch():
                    while len(going) < jobs and not self.stopping.is_set() and (job := self._next(waiting)):
                        going.append(RunningJob(job, self._start(job, jobs), time.monotonic()))
                if self.stopping.is_set():
                    self._end(going)
                for each in [each for each in going if each.process.poll() is not None]:
                    going.remove(each)
                    if self._again(each):
                        waiting.insert(0, each.job)
                        continue
                    done += 1
                    outcome = self._finish(each)
                    left = (time.monotonic() - began) / max(1, done - first) * (total - done)
                    self.say(
                        f"[{done}/{total}] {outcome}"
                        + (f"; about {duration(left)} left" if done < total and not self.stopping.is_set() else "")
                    )
                time.sleep(self.executor.interval)
        finally:  # whatever happened, no run is left behind
            self._end(going)

    def _next(self, waiting: list[PlannedRun]) -> PlannedRun | None:
        """The first job that no other process works on: a run of a sweep that was killed may still be running."""
        for job in waiting:
            lock = RunLock(run_path(self.out, job))
            try:
                lock.acquire()
            except UserError as busy:
                if job.name not in self._waited:
                    self.say(f"waiting for a run that is still running: {busy.message}")
                    self._waited.add(job.name)
                continue
            lock.release()
            waiting.remove(job)
            return job
        return None

    def _kept(self, job: PlannedRun) -> bool:
        """A run that is finished needs only its result."""
        run = run_path(self.out, job)
        if not (run / "config.yaml").exists():
            return False
        if not complete(load_file(run / "config.yaml"), read_lines(run / "episodes.jsonl")):
            return False
        write_result(result_of(run, label=job.variant), result_path(self.out, job))
        return True

    def _start(self, job: PlannedRun, jobs: int) -> Process:
        threads = job.config.compute.threads or max(1, usable_cores() // jobs)
        try:
            return self.executor.start(work_of(self.out, job, threads))
        except OSError as error:
            raise UserError(f"cannot write to {self.out} ({error.strerror}).", "Free some space.") from error

    def _again(self, each: RunningJob) -> bool:
        """Is this a run that was killed, by the system, by a cluster or by hand? It will continue from its checkpoint.

        After RESTARTS of these there is something wrong with it, most likely too little memory.
        """
        code, name = each.process.returncode or 0, each.job.name
        if code >= 0 or self.stopping.is_set() or self._restarts.get(name, 0) >= RESTARTS:
            return False
        self._restarts[name] = self._restarts.get(name, 0) + 1
        job = f"{each.job.task}, {each.job.variant}, seed {each.job.seed}"
        self.say(f"{job}: {killed(code)}; started again ({self._restarts[name]} of {RESTARTS} times)")
        return True

    def _log(self, job: PlannedRun) -> Path:
        return log_path(self.out, job)

    def _finish(self, each: RunningJob) -> str:
        """Keep the result of a run that has ended. -> what became of it."""
        job, code = each.job, each.process.returncode or 0
        name, seconds = f"{job.task}, {job.variant}, seed {job.seed}", time.monotonic() - each.began
        if self.stopping.is_set() and (code in STOPPED or (code == 0 and not self._kept(job))):
            return f"{name}: stopped; will resume from its checkpoint"
        try:
            if code != 0:
                why = last_words(self._log(job)) or (f"exit code {code}" if code > 0 else killed(code))
                raise UserError(f"{why} (log: {self._log(job)})")
            result = result_of(run_path(self.out, job), label=job.variant)
            if not (result.complete or job.config.train.minutes):
                raise UserError("it was stopped before its end; the same command resumes it.")
            if not result.seconds:  # a deterministic run has no clock
                result = replace(result, seconds=round(seconds, 1))
            write_result(result, result_path(self.out, job))
        except (UserError, OSError) as error:
            self.failed[job.name] = str(error)
            return f"{name}: FAILED: {error}"
        score = f"return {digits(result.final().mean())}" if len(result.final()) else "not evaluated"
        return f"{name}: {score} after {result.env_steps:,} steps, {duration(seconds)}"

    def _end(self, going: Sequence[RunningJob]) -> None:
        end_all([each.process for each in going])


def end_all(processes: Sequence[Process]) -> None:
    """End processes that still run, with their checkpoints; kill those that do not answer."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    until = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def last_words(log: Path) -> str:
    """The last two lines of a log: the error and its hint. "" if there is none."""
    text = read_bytes(log).decode("utf-8", "replace") if log.exists() else ""
    return " ".join(text.splitlines()[-2:])


def killed(code: int) -> str:
    """An exit code below zero in words."""
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


@contextmanager
def stop_on_signals(event: threading.Event) -> Iterator[None]:
    """SIGTERM, SIGHUP and Ctrl-C set the event instead of ending the process."""
    here = threading.current_thread() is threading.main_thread()
    names = ("SIGTERM", "SIGINT", "SIGHUP") if here else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = [(number, signal.signal(number, lambda *_: event.set())) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
