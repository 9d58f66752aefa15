"""A search for good settings: Optuna proposes them, the executors of a sweep run them, a pruner stops the poor ones.

One trial is one configuration: the runs of one task with one or several seeds, one seed after the other. Its score is
the mean return of the last evaluations. While the first seed runs, each of its evaluations goes to the pruner; a trial
that is to be pruned is asked to end with a checkpoint. OUT/study.log is Optuna's journal: it holds every trial, also
one that was cut off, which the same command continues from its checkpoint.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..config import flatten
from ..config.presets import FILE
from ..envs.vector.workers import usable_cores
from ..errors import UserError, digits
from ..files import absolute, write_file
from ..guard.lock import RunLock
from ..run.directory import provenance
from ..run.evaluation import Evaluation, logged_evaluations
from ..run.lines import read_lines
from .executors import Executor, LocalExecutor, Process
from .plan import PlannedRun, Task, Variant, make_plan, written
from .results import listed
from .space import Choice, Dimension, Range, first_values
from .sweep import RESTARTS, Say, end_all, killed, last_words, log_path, run_path, stop_on_signals, work_of

#: Of a trial, how it ended: its score counts, it was stopped early or became non-finite, it broke.
DONE, PRUNED, FAILED = "COMPLETE", "PRUNED", "FAIL"
#: What a run prints last when a loss or a weight is non-finite.
NON_FINITE = "training became non-finite"
#: Evaluations of a trial unless it says otherwise, the last one included.
EVALUATIONS = 10
#: Trials before the pruner and the model of the sampler begin; evaluations of a trial before it may be pruned.
STARTUP, WARMUP = 5, 2
#: So many failures at the start, without one success, end the search.
HOPELESS = 3


@dataclass(frozen=True)
class Problem:
    """What is searched, for what."""

    name: str
    task: Task
    dimensions: Sequence[Dimension]
    fixed: Mapping[str, Any]  # settings of all trials
    seeds: Sequence[int]
    background: Mapping[str, Any] = field(default_factory=dict)  # likewise, but no part of the result: evaluations

    def runs(self, number: int, values: Mapping[str, Any]) -> list[PlannedRun]:
        """The runs of a trial. Raises UserError where the values do not go together."""
        variant, settings = Variant(f"trial-{number:04d}", values), {**self.background, **self.fixed}
        return list(make_plan(self.name, [self.task], [variant], self.seeds, settings).jobs)

    def check(self) -> None:
        """Raises UserError if an end of a range, or a choice, is not a value of its setting."""
        base = first_values(self.dimensions)
        for each in self.dimensions:
            for value in each.corners:
                self.runs(0, base | {each.key: value})

    def identity(self) -> dict[str, Any]:
        """What all commands that continue a search must share."""
        space = {each.key: str(each) for each in self.dimensions}
        fixed = {key: written(value) for key, value in {**self.task.settings, **self.fixed}.items()}
        return {"task": self.task.name, "preset": self.task.preset, "space": space, "settings": fixed,
                "seeds": list(self.seeds)}  # fmt: skip


@dataclass
class Active:
    """A trial that runs: its jobs one after the other."""

    trial: Any  # Optuna's
    jobs: list[PlannedRun]
    at: int = 0  # which job
    process: Process | None = None
    pruned: bool = False  # it was asked to end
    restarts: int = 0
    scores: list[float] = field(default_factory=list)
    size: int = -1  # of episodes.jsonl when it was last read

    @property
    def job(self) -> PlannedRun:
        return self.jobs[self.at]


class Search:
    """The trials of one problem in one directory."""

    def __init__(
        self,
        problem: Problem,
        out: Path,
        *,
        pruner: str,
        seed: int = 0,
        say: Say = print,
        executor: Executor | None = None,
    ) -> None:
        """pruner: median, halving or none; seed: of the proposals. Raises UserError where Optuna is missing."""
        self.problem, self.out, self.say = problem, out, say
        self.executor: Executor = executor or LocalExecutor()
        self.stopping = threading.Event()
        self.optuna = require_optuna()
        self._pruner, self._seed = pruner, seed
        self.study: Any = None

    # ---------------------------------------------------------------------------------------------------------- study

    def open(self) -> None:
        """Begin or continue the study. Raises UserError if OUT holds another one."""
        optuna, path = self.optuna, self.out / "study.log"
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
        except OSError as error:
            raise UserError(f"cannot write to {self.out} ({error.strerror}).", "Choose another --out.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}).", "Choose another --out.") from error
        known = [each.study_name for each in optuna.get_all_study_summaries(storage)]
        trials = optuna.load_study(study_name=known[0], storage=storage).trials if known else []
        pruners = {
            "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=WARMUP),
            "halving": lambda: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
            "none": optuna.pruners.NopPruner,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental, says Optuna of what is made for parallel trials
            sampler = optuna.samplers.TPESampler(
                seed=self._seed + len(trials), n_startup_trials=STARTUP, constant_liar=True
            )  # another seed than before: a continued study proposes nothing twice
        self.study = optuna.create_study(
            study_name=known[0] if known else self.problem.name, storage=storage, sampler=sampler,
            pruner=pruners[self._pruner](), direction="maximize", load_if_exists=True,
        )  # fmt: skip
        wanted = self.problem.identity()
        there = self.study.user_attrs.get("problem")
        if there is None:
            self.study.set_user_attr("problem", wanted)
        elif there != wanted:
            what = next((key for key in wanted if there.get(key) != wanted[key]), "problem")
            raise UserError(
                f"{self.out} holds another search: {what} was {there.get(what)}, now it is {wanted[what]}.",
                "Choose another --out.",
            )

    def _distributions(self) -> dict[str, Any]:
        kinds = self.optuna.distributions
        found: dict[str, Any] = {}
        for each in self.problem.dimensions:
            if isinstance(each, Choice):
                found[each.key] = kinds.CategoricalDistribution(each.values)
            elif each.whole:
                found[each.key] = kinds.IntDistribution(int(each.low), int(each.high), log=each.log)
            else:
                found[each.key] = kinds.FloatDistribution(each.low, each.high, log=each.log)
        return found

    @property
    def trials(self) -> list[Any]:
        """All trials so far, in order, as Optuna has them."""
        return self.study.get_trials(deepcopy=False)

    def best(self) -> Any:
        """The trial with the highest score; None if none has ended."""
        done = [each for each in self.trials if each.state.name == DONE]
        return max(done, key=lambda each: each.value) if done else None

    # ---------------------------------------------------------------------------------------------------------- trials

    def run(self, trials: int, jobs: int) -> None:
        """Until there are so many trials, `jobs` at a time. Stops in order at SIGTERM and Ctrl-C. Raises UserError."""
        self.open()
        lock = RunLock(self.out)
        lock.acquire()
        try:
            with stop_on_signals(self.stopping):
                self._work(trials, jobs)
        finally:
            lock.release()

    def _work(self, trials: int, jobs: int) -> None:
        cut_off = [each for each in self.trials if each.state.name == "RUNNING"]
        going: list[Active] = []
        try:
            while not self.stopping.is_set():
                with self.executor.batch():
                    while len(going) < jobs and (each := self._next(cut_off, trials)):
                        going.append(each)
                        self._start(each, jobs)
                if not going:
                    break
                time.sleep(self.executor.interval)
                for each in list(going):
                    if self._follow(each, jobs):
                        going.remove(each)
                self._require_hope()
        finally:
            end_all([each.process for each in going if each.process is not None])

    def _next(self, cut_off: list[Any], trials: int) -> Active | None:
        """A trial to begin or to continue; None if there are enough."""
        while cut_off or len(self.trials) < trials:
            if cut_off:
                frozen = cut_off.pop(0)
                trial = self.optuna.trial.Trial(self.study, frozen._trial_id)
            else:
                trial = self.study.ask(self._distributions())
            try:
                return Active(trial, self.problem.runs(trial.number, trial.params))
            except UserError as error:  # values that do not go together, each allowed alone
                self._tell(trial, PRUNED, None, error.message)
        return None

    def _start(self, each: Active, jobs: int) -> None:
        threads = each.job.config.compute.threads or max(1, usable_cores() // jobs)
        each.process, each.size = None, -1
        try:
            each.process = self.executor.start(work_of(self.out, each.job, threads))
        except OSError as error:
            raise UserError(f"cannot write to {self.out} ({error.strerror}).", "Free some space.") from error

    def _follow(self, each: Active, jobs: int) -> bool:
        """Report new evaluations, stop or continue a trial. -> has it ended?"""
        if each.process is None:
            return True
        code = each.process.poll()
        found = self._evaluations(each, always=code is not None)
        if each.at == 0 and not each.pruned:
            self._report(each, found)
        if code is None:
            return False
        if each.pruned:
            self._tell(each.trial, PRUNED, None, f"pruned at {max(found, default=0):,} steps")
            return True
        settings = each.job.config.train
        unfinished = code == 0 and max(found, default=-1) < settings.env_steps and not (settings.minutes and found)
        if (code < 0 or unfinished) and each.restarts < RESTARTS:
            each.restarts += 1
            what = killed(code) if code else "stopped before its end"
            self.say(f"trial {each.trial.number}: {what}; started again ({each.restarts} of {RESTARTS} times)")
            self._start(each, jobs)
            return False
        return self._ended(each, 1 if unfinished else code, found, jobs)

    def _evaluations(self, each: Active, *, always: bool) -> dict[int, Evaluation]:
        """The evaluations of the current run so far, by step; {} if nothing has changed since the last look."""
        path = run_path(self.out, each.job) / "episodes.jsonl"
        try:
            size = path.stat().st_size
        except OSError:
            return {}
        if size == each.size and not always:
            return {}
        each.size = size
        return logged_evaluations(read_lines(path))

    def _report(self, each: Active, found: Mapping[int, Evaluation]) -> None:
        """Evaluations that the pruner has not seen; all but the last one of a run may end it."""
        trial, last = each.trial, each.job.config.train.env_steps
        seen = self.trials[trial.number].intermediate_values
        for at, (steps, result) in enumerate(sorted(found.items()), 1):
            if at not in seen and math.isfinite(result.mean):
                trial.report(result.mean, at)
                if steps < last and trial.should_prune():
                    each.pruned = True
                    if each.process is not None:
                        each.process.terminate()
                    return

    def _ended(self, each: Active, code: int, found: Mapping[int, Evaluation], jobs: int) -> bool:
        """A run has ended by itself: the next seed, or the trial's end. -> has the trial ended?"""
        log = log_path(self.out, each.job)
        if code != 0:
            why = last_words(log) or (f"exit code {code}" if code > 0 else killed(code))
            if NON_FINITE in why:
                self._tell(each.trial, PRUNED, None, f"non-finite: {why}")
            else:
                self._tell(each.trial, FAILED, None, f"{why} (log: {log})")
            return True
        each.scores.append(found[max(found)].mean)
        if each.at + 1 < len(each.jobs):
            each.at += 1
            self._start(each, jobs)
            return False
        score = sum(each.scores) / len(each.scores)
        self._tell(each.trial, DONE, score, f"return {digits(score)}")
        return True

    def _tell(self, trial: Any, state: str, score: float | None, what: str) -> None:
        trial.set_user_attr("outcome", what)
        self.study.tell(trial, score, state=self.optuna.trial.TrialState[state])
        values = ", ".join(f"{key.split('.')[1]}={short(value)}" for key, value in trial.params.items())
        best = self.best()
        top = f"; best: trial {best.number} with {digits(best.value)}" if best is not None else ""
        mark = "FAILED: " if state == FAILED else ""
        self.say(f"trial {trial.number} ({values}): {mark}{what}{top}")

    def _require_hope(self) -> None:
        ended = [each for each in self.trials if each.state.is_finished()]
        if len(ended) >= HOPELESS and all(each.state.name == FAILED for each in ended):
            raise UserError(f"the first {len(ended)} trials failed: {ended[-1].user_attrs.get('outcome')}")

    # --------------------------------------------------------------------------------------------------------- results

    def rows(self) -> list[dict[str, Any]]:
        """One row per trial, for tables and JSON."""
        return [
            {"trial": each.number, "state": each.state.name, "score": each.value, **each.params,
             "evaluations": len(each.intermediate_values), "outcome": each.user_attrs.get("outcome", "")}
            for each in self.trials
        ]  # fmt: skip

    def write(self) -> list[Path]:
        """OUT/best.yaml (if a trial has ended), trials.csv, .json and .png. -> the files. Raises UserError."""
        from .tidy import csv_of

        rows, best, files = self.rows(), self.best(), []
        keys = ["trial", "state", "score", *(each.key for each in self.problem.dimensions), "evaluations", "outcome"]
        table = csv_of({key: row.get(key) for key in keys} for row in rows)
        texts = {"trials.csv": table, "trials.json": json.dumps(rows, indent=1) + "\n"}
        if best is not None:
            texts["best.yaml"] = self.preset(best)
        try:
            files += [write_file(self.out / name, text) for name, text in texts.items()]
        except OSError as error:
            raise UserError(f"cannot write to {self.out} ({error.strerror}).", "Free some space.") from error
        if any(each.intermediate_values for each in self.trials):
            files.append(draw(self))
        return files

    def preset(self, best: Any) -> str:
        """The best trial as a preset file: values, where each comes from, and how it was found."""
        problem, trials = self.problem, self.trials
        states = [each.state.name for each in trials]
        config = problem.runs(best.number, best.params)[0].config
        origin, preset = provenance(config), problem.task.preset
        count = f"{len(trials)} trials ({states.count(PRUNED)} pruned, {states.count(FAILED)} failed)"
        head = {
            "description": f"The best of {count} on {problem.task.name}: return {best.value:.6g}.",
            "extends": str(absolute(preset)) if preset.endswith(FILE) else preset,
        }
        notes = [
            f"Found by `reverie tune`: trial {best.number} of {count}.",
            f"command: {shlex.join(sys.argv)}",
            f"commit: {origin['commit']}, {origin['started']}, torch {origin['versions']['torch']}",
            f"seeds: {', '.join(map(str, problem.seeds))}; score: {best.value!r}, mean of the last evaluations",
            "The best of many is high by luck, too: evaluate it with seeds that the search has not seen.",
        ]
        sources = dict.fromkeys({**problem.task.settings, **problem.fixed}, "given with the search")
        sources |= {each.key: f"tuned: trial {best.number}, searched {each}" for each in problem.dimensions}
        values = flatten(config)
        lines = [yaml.safe_dump(head, width=10_000, allow_unicode=True, sort_keys=False).rstrip()]
        lines += [f"# {' '.join(note.split())}" for note in notes]
        for group in dict.fromkeys(key.split(".")[0] for key in sources):
            lines.append(f"{group}:")
            for key, source in sources.items():
                if key.startswith(f"{group}."):
                    lines.append(f"  {key.split('.')[1]}: {_scalar(listed(values[key]))}  # {source}")
        return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    """A value as YAML has it on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def short(value: Any) -> str:
    """A proposed value in a line of text."""
    return digits(value) if isinstance(value, float) else str(value)


def require_optuna() -> Any:
    """The package. Raises UserError where it is missing."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError("reverie tune needs Optuna.", "pip install 'reverie-rl[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def draw(search: Search) -> Path:
    """OUT/trials.png: the curves of all trials, and every searched setting against the score. -> its path."""
    from ..insight.plots import new_figure, save

    trials, best, dimensions = search.trials, search.best(), search.problem.dimensions
    figure = new_figure(3.2 * (1 + len(dimensions)), 3.0)
    axes = figure.subplots(1, 1 + len(dimensions), squeeze=False)[0]
    for each in trials:
        steps = sorted(each.intermediate_values)
        mine = best is not None and each.number == best.number
        style = {"color": "C3", "zorder": 3} if mine else {"color": "C0" if each.state.name == DONE else "0.7"}
        axes[0].plot(steps, [each.intermediate_values[at] for at in steps], marker=".", lw=1, **style)
    axes[0].set(xlabel="evaluation of the first seed", ylabel="return", title="trials (best: red, pruned: gray)")
    for axis, each in zip(axes[1:], dimensions, strict=True):
        known = [(x.params[each.key], x.value) for x in trials if x.state.name == DONE and each.key in x.params]
        axis.plot([value for value, _ in known], [score for _, score in known], "o", ms=4, color="C0")
        axis.set(xlabel=each.key, ylabel="score")
        if isinstance(each, Range) and each.log:
            axis.set_xscale("log")
    return save(figure, search.out / "trials.png")
