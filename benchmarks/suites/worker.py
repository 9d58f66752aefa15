"""One run of a suite with Reverie: `train_one` trains, evaluates, resumes, and returns what is written down of it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reverie import Dreamer
from reverie.config import Config, build, load_file
from reverie.evidence.results import result_of
from reverie.run.lines import read_lines
from reverie.run.loop import Run
from reverie.run.progress import Progress

from .meter import Meter, hardware
from .plan import Plan, Task, maker
from .results import FORMAT, summary, thinned
from .toys import original_return

#: Settings of every run: one process, one thread, no evaluation but the suite's, nothing for people to watch.
USUAL: dict[str, Any] = {
    "env.backend": "sync",
    "compute.threads": 1,
    "compute.device": "cpu",
    "train.minutes": 0,
    "train.random_baseline": False,
    "train.checkpoint_every": 60,
    "train.log_every": 2,
    "train.forecast": False,
    "log.tensorboard": False,
    "log.video": False,
}
#: name in a result -> metrics.jsonl's
CURVES = {"entropy": "actor/entropy", "kl": "world_model/kl"}


class MeasuredRun(Run):
    """A run that also ends by CPU seconds or at its threshold, and writes both clocks at every evaluation.

    RUN/suite.jsonl has a line at each evaluation and each checkpoint, with what was spent until then; so a run that is
    continued in another process goes on counting from its checkpoint.
    """

    def __init__(self, task: Task, plan: Plan, config: Config, directory: Path, env: Any, meter: Meter) -> None:
        self.task, self.plan, self.meter = task, plan, meter
        self.reached = False
        super().__init__(config, directory, env)
        self.path = self.directory / "suite.jsonl"
        here = self.clock.env_steps if self.state.resumed else -1
        lines = [line for line in _own_lines(self.path) if line["env_steps"] <= here]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        if lines:
            meter.add(lines[-1]["spent"])
            self.reached = any(line.get("mean", -float("inf")) >= task.threshold for line in lines)

    def ended_by(self) -> str:
        """Which of its ends has come: "threshold", "env_steps" or "cpu_minutes"; "": none yet."""
        if self.reached and self.plan.stop_when_solved:
            return "threshold"
        if self.clock.env_steps >= self.config.train.env_steps:
            return "env_steps"
        return "cpu_minutes" if self.meter.cpu >= 60 * self.task.cpu_minutes else ""

    def finished(self) -> bool:
        """Has the run reached one of its ends, or been asked to stop?"""
        return self.state.stopping.requested or bool(self.ended_by())

    def evaluate(self, progress: Progress) -> None:
        """An evaluation with the original rewards, at its end with `final_episodes`; its time is counted apart."""
        if self.finished():
            self.state.evaluator.config = build({"train.eval_episodes": self.plan.final_episodes}, base=self.config)
        with self.meter.evaluating():
            super().evaluate(progress)
        found = self.evaluation
        if found is None or self.state.stopping.requested:
            return
        pairs = zip(found.scores, found.lengths, strict=True)
        scores = [original_return(score, length, *self.task.change) for score, length in pairs]
        mean = sum(scores) / len(scores)
        self.reached = self.reached or mean >= self.task.threshold
        self._line({"mean": mean, "scores": scores, "lengths": found.lengths})

    def save(self, *, wait: bool = True) -> None:
        """A checkpoint, and what was spent until it."""
        self._line({})
        super().save(wait=wait)

    def _line(self, values: dict[str, Any]) -> None:
        line = {"env_steps": self.clock.env_steps, "updates": self.clock.updates, "spent": self.meter.state()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line | values) + "\n")


def _own_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of RUN/suite.jsonl; a half-written last one is left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def configuration(
    task: Task, plan: Plan, preset: str, seed: int, directory: Path, settings: dict[str, Any]
) -> tuple[Config, Any]:
    """The run's settings, and the function that makes its environment (None: by its id).

    A preset that chooses by what it measures has chosen when the run began: a run that is continued keeps its file.
    """
    env = maker(task) if task.custom else task.env
    if (directory / "config.yaml").exists():
        return load_file(directory / "config.yaml"), env if task.custom else None
    of_plan = {
        "train.seed": seed,
        "train.env_steps": task.env_steps,
        "train.eval_every": task.eval_every,
        "train.eval_episodes": plan.eval_episodes,
    }
    own = {} if task.custom else dict(task.settings)
    chosen = USUAL | of_plan | own | settings | {"train.minutes": task.cpu_minutes}  # a budget to choose by
    dreamer = Dreamer(env, preset=task.before if preset == "before" else preset, run=directory, settings=chosen)
    return build({"train.minutes": 0}, base=dreamer.config), dreamer.env  # it ends by CPU minutes, not by the clock's


def train_one(
    task: Task, seed: int, plan: Plan, preset: str, settings: dict[str, Any], directory: Path, command: Sequence[str]
) -> dict[str, Any] | None:
    """Train to the end, or go on. -> the result; None if it was stopped before."""
    meter, machine = Meter(), hardware()
    config, env = configuration(task, plan, preset, seed, directory, settings)
    run = MeasuredRun(task, plan, config, directory, env, meter)
    run.train(Progress(quiet=True))
    if run.state.stopping.requested:
        return None
    found = result_of(directory, label=task.label)
    metrics = read_lines(directory / "metrics.jsonl")
    provenance = dict(found.provenance)
    began = {key: provenance.get(key) for key in ("commit", "started", "versions")}
    return {
        "format": FORMAT,
        "suite": plan.name,
        "label": task.label,
        "seed": seed,
        "learner": preset,
        "command": " ".join(command),
        **began,
        "continued": len(provenance.get("continued", [])),
        "hardware": machine | {"load_at_end": round(os.getloadavg()[0], 2)},
        "preset": task.before if preset == "before" else preset,
        "settings": found.settings,
        "protocol": found.protocol.get("line", ""),
        **summary(task, plan, _own_lines(run.path), ended_by=run.ended_by(), spent=meter.state()),
        "curves": {name: thinned(metrics, key) for name, key in CURVES.items()},
    }
