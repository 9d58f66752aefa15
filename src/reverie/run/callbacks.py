"""Hooks into training: `agent.learn(callback=...)` calls what is given here, and stops when it says so.

A callback is an object with some of the methods of `Callback`, a function, or a list of both. A run without one does
nothing for it. What callbacks do is not part of a run: a checkpoint holds nothing of them, so those here take what they
need from the run's own records when they start.
"""

from __future__ import annotations

import queue
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Config
from ..data.collect import Episode
from ..errors import UserError
from ..train import DreamerV2
from .evaluation import Evaluation, logged_evaluations
from .lines import read_lines
from .state import RunState

HOOKS = (
    "on_start", "on_step", "on_update", "on_metrics", "on_episode", "on_evaluation", "on_checkpoint", "on_end"
)  # fmt: skip


class Training:
    """What a callback sees of the training that it is called in. To be read; `agent` and `config` are the run's own."""

    def __init__(self, state: RunState) -> None:
        self.state = state
        self.began = time.monotonic()

    @property
    def env_steps(self) -> int:
        """Environment steps of the run so far."""
        return self.state.clock.env_steps

    @property
    def updates(self) -> int:
        """Updates of the run so far."""
        return self.state.clock.updates

    @property
    def seconds(self) -> float:
        """Seconds since this call of `learn` began, evaluations included."""
        return time.monotonic() - self.began

    @property
    def directory(self) -> Path:
        """Of the run."""
        return self.state.directory

    @property
    def config(self) -> Config:
        """The settings."""
        return self.state.config

    @property
    def agent(self) -> DreamerV2:
        """The networks as they are now."""
        return self.state.agent

    @property
    def returns(self) -> list[float]:
        """Of the last training episodes, 20 at most, the newest last."""
        return list(self.state.recent)

    @property
    def evaluation(self) -> Evaluation | None:
        """The last evaluation."""
        return self.state.evaluation

    def evaluations(self) -> dict[int, Evaluation]:
        """All of the run so far, also of earlier calls: {env_steps: Evaluation}, in order. Reads a file."""
        return logged_evaluations(read_lines(self.directory / "episodes.jsonl"))

    def __repr__(self) -> str:
        return f"Training(step {self.env_steps:,}, update {self.updates:,}, in {self.directory})"


class Callback:
    """Something that is called while an agent learns. Override what you need; `self.training` says where the run is.

    Each method may return False: the run then ends as after Ctrl-C, with a checkpoint and without the evaluation at its
    end, and `learn` returns; the same call continues it. What a method raises ends the training, too: what was learnt
    is kept in a checkpoint, and the error is raised again. Methods are called between steps, in this process; what they
    are given belongs to the run and is not to be changed.
    """

    training: Training

    def on_start(self) -> bool | None:
        """Before the first step of this call of `learn`."""

    def on_step(self, row: dict[str, np.ndarray]) -> bool | None:
        """After a step of every environment, or of those of one collector (`env.collectors`).

        row: arrays (N, ...) as the replay stores them (docs/time.md).
        """

    def on_update(self, metrics: dict[str, Any]) -> bool | None:
        """After an update. metrics: its numbers, tensors () on the agent's device; float() of one waits for it."""

    def on_metrics(self, numbers: dict[str, float]) -> bool | None:
        """After a line of metrics.jsonl: its numbers, means over the updates since the last line."""

    def on_episode(self, episode: Episode) -> bool | None:
        """After the step with which a training episode ended: its score, its length."""

    def on_evaluation(self, evaluation: Evaluation) -> bool | None:
        """After an evaluation; `training.agent` is the agent that played."""

    def on_checkpoint(self, path: Path) -> bool | None:
        """After a checkpoint of the run was written to this directory."""

    def on_end(self) -> None:
        """At the end of this call of `learn`, however it ends; everything is saved by then."""


def name_of(callback: Any) -> str:
    """Of a callback, for messages and `stopped_by`."""
    return str(getattr(callback, "__name__", "") or type(callback).__name__)


class FunctionCallback(Callback):
    """A function that is called with the `Training` after every step and may return False."""

    def __init__(self, function: Callable[[Training], bool | None]) -> None:
        self.function = function
        self.__name__ = name_of(function)

    def on_step(self, row: dict[str, np.ndarray]) -> bool | None:
        """Call it."""
        return self.function(self.training)


def callbacks_of(given: Any) -> list[Any]:
    """What `learn(callback=...)` was given as a list of objects with methods of `HOOKS`. Raises UserError."""
    if given is None:
        return []
    if isinstance(given, list | tuple):
        return [found for each in given for found in callbacks_of(each)]
    if isinstance(given, type):
        raise UserError(f"callback={given.__name__} is a class, not an object.", f"Write callback={given.__name__}().")
    own = [name for name in dir(given) if name.startswith("on_") and callable(getattr(given, name))]
    unknown = [name for name in own if name not in HOOKS]
    if unknown and (isinstance(given, Callback) or set(own) & set(HOOKS)):
        raise UserError(f"the callback {name_of(given)} has a method {unknown[0]}, which nothing calls.", _there_are())
    if own and not unknown:
        return [given]
    if callable(given):
        return [FunctionCallback(given)]
    raise UserError(f"callback={str(given)[:80]!r} is no callback.", f"Give a function, or an object. {_there_are()}")


def _there_are() -> str:
    return f"Methods are {', '.join(HOOKS[:-1])} and {HOOKS[-1]}."


class Callbacks:
    """The callbacks of one call of `learn`: calls those that have something to do, and notes who wants to stop."""

    def __init__(self, given: Sequence[Any], state: RunState) -> None:
        """given: from `callbacks_of`."""
        self.state = state
        self.failed = False  # the error that is being raised is a callback's
        self.started: list[Any] = []
        self.listening = {hook: [each for each in given if _overrides(each, hook)] for hook in HOOKS}
        training = Training(state)
        self.given = list(given)
        for each in given:
            if isinstance(each, Callback):
                each.training = training

    def call(self, hook: str, *arguments: Any) -> None:
        """Call one method of all; raises what it raises."""
        for callback in self.listening[hook]:
            try:
                answer = getattr(callback, hook)(*arguments)
            except BaseException:
                self.failed = True
                raise
            if answer is False:
                self.stop(callback)

    def stop(self, callback: Any) -> None:
        """One of them has seen enough."""
        self.state.stopped_by = self.state.stopped_by or name_of(callback)
        self.state.stop()


def _overrides(callback: Any, hook: str) -> bool:
    """Whether a callback does something there: a method that is only inherited costs nothing."""
    method = getattr(callback, hook, None)
    return callable(method) and getattr(method, "__func__", method) is not getattr(Callback, hook)


# --------------------------------------------------------------------------------------------------------- ready ones


class StopAtReturn(Callback):
    """Stop when the mean return of an evaluation reaches a value; with `episodes`, of so many training episodes."""

    def __init__(self, value: float, *, episodes: int = 0) -> None:
        if not 0 <= episodes <= 20:
            raise UserError(f"StopAtReturn: episodes must be 0 to 20, got {episodes}.", "0 means: of an evaluation.")
        self.value, self.episodes = float(value), episodes

    def on_start(self) -> bool | None:
        """A run that has reached it already learns no more."""
        require_evaluations(self, self.training, unless=self.episodes > 0)
        found = self.training.evaluation
        return self._below(found.mean if found is not None and not self.episodes else None)

    def on_episode(self, episode: Episode) -> bool | None:
        """Compare the mean of the last ones."""
        last = self.training.returns[-self.episodes :] if self.episodes else []
        return self._below(float(np.mean(last)) if last and len(last) == self.episodes else None)

    def on_evaluation(self, evaluation: Evaluation) -> bool | None:
        """Compare its mean."""
        return self._below(None if self.episodes else evaluation.mean)

    def _below(self, value: float | None) -> bool:
        return value is None or value < self.value


class StopWithoutImprovement(Callback):
    """Stop after so many consecutive evaluations that were not better than the best one before by more than `by`."""

    def __init__(self, evaluations: int = 5, *, by: float = 0.0) -> None:
        if evaluations < 1:
            raise UserError(f"StopWithoutImprovement: evaluations must be 1 or more, got {evaluations}.")
        self.evaluations, self.by = evaluations, by

    def on_start(self) -> bool | None:
        """Evaluations of earlier calls count."""
        require_evaluations(self, self.training)
        return self._improves()

    def on_evaluation(self, evaluation: Evaluation) -> bool | None:
        """Count those since the best one."""
        return self._improves()

    def _improves(self) -> bool:
        best, since = -np.inf, 0
        for found in self.training.evaluations().values():
            since = 0 if found.mean > best + self.by else since + 1
            best = found.mean if since == 0 else best
        return since < self.evaluations


def require_evaluations(callback: Callback, training: Training, *, unless: bool = False) -> None:
    """Refuse what waits for evaluations that never come before the end. Raises UserError."""
    if not unless and not training.config.train.eval_every:
        raise UserError(
            f"{name_of(callback)} waits for evaluations, and train.eval_every is 0: there is one at the end only.",
            "Set eval_every.",
        )


class TimeLimit(Callback):
    """Stop this call of `learn` after so many minutes, evaluations included (`train.minutes` counts training only)."""

    def __init__(self, minutes: float) -> None:
        if not minutes > 0:
            raise UserError(f"TimeLimit: minutes must be above 0, got {minutes}.")
        self.minutes = minutes

    def on_step(self, row: dict[str, np.ndarray]) -> bool | None:
        """Read the clock."""
        return self.training.seconds < 60 * self.minutes

    def on_update(self, metrics: dict[str, Any]) -> bool | None:
        """Also during pretraining, which is many updates at one step."""
        return self.training.seconds < 60 * self.minutes


class LogTo(Callback):
    """Give every line of metrics to a function of your own: `function(numbers, env_steps)`."""

    def __init__(self, function: Callable[[Mapping[str, float], int], Any]) -> None:
        if not callable(function):
            raise UserError(f"LogTo takes a function, got {str(function)[:80]!r}.", "LogTo(lambda numbers, step: ...).")
        self.function = function

    def on_metrics(self, numbers: dict[str, float]) -> None:
        """Hand the line on."""
        self.function(dict(numbers), int(numbers["env_steps"]))


def _set_rate(names: tuple[str, ...]) -> Callable[[RunState, float], None]:
    def change(state: RunState, value: float) -> None:
        for name, optimizer in state.agent.optimizers.items():
            if name.endswith(names):
                optimizer.lr = value

    return change


def _set_entropy(state: RunState, value: float) -> None:
    task = state.agent.task
    task.options = replace(task.options, entropy_scale=value, entropy_final=value, entropy_decay=0)


def _set_noise(state: RunState, value: float) -> None:
    state.player.explore_noise = value


#: What can change while a run learns, and how. Anything else is built into networks, replay or environments.
SCHEDULABLE: dict[str, Callable[[RunState, float], None]] = {
    "model.world_model_lr": _set_rate(("world_model",)),
    "behavior.actor_lr": _set_rate(("actor",)),
    "behavior.critic_lr": _set_rate(("critic",)),
    "behavior.entropy_scale": _set_entropy,
    "behavior.explore_noise": _set_noise,
}


class ScheduleSetting(Callback):
    """Let a setting follow the steps: `ScheduleSetting("actor_lr", [(0, 1e-4), (50_000, 1e-5)])`, linear between.

    values: points (env_steps, value), or a function of env_steps. The settings: `SCHEDULABLE`. config.yaml keeps the
    value that the run began with; give the same callback when you continue the run.
    """

    def __init__(self, name: str, values: Iterable[tuple[int, float]] | Callable[[int], float]) -> None:
        found = [key for key in SCHEDULABLE if name in (key, key.split(".")[1])]
        if not found:
            raise UserError(
                f"ScheduleSetting: '{name}' cannot change while a run learns.",
                f"These can: {', '.join(SCHEDULABLE)}.",
            )
        self.name, self.now = found[0], float("nan")
        self.at = values if callable(values) else _between(sorted(values))

    def on_start(self) -> None:
        """The value at the step where the run is."""
        if self.name == "behavior.entropy_scale" and self.training.config.behavior.entropy_target:
            raise UserError(
                "ScheduleSetting: behavior.entropy_scale does nothing while behavior.entropy_target is set.",
                "Set entropy_target=0.",
            )
        self.now = float("nan")
        self._apply()

    def on_step(self, row: dict[str, np.ndarray]) -> None:
        """The value at this step."""
        self._apply()

    def _apply(self) -> None:
        value = float(self.at(self.training.env_steps))
        if not (np.isfinite(value) and value >= 0):
            raise UserError(f"ScheduleSetting: {self.name} must be 0 or above, got {value}.")
        if value != self.now:
            self.now = value
            SCHEDULABLE[self.name](self.training.state, value)


def _between(points: Sequence[tuple[int, float]]) -> Callable[[int], float]:
    if not points:
        raise UserError("ScheduleSetting: there is no point (env_steps, value).")
    steps = [at for at, _ in points]

    def value(at: int) -> float:
        right = bisect_right(steps, at)
        if right in (0, len(points)):
            return points[max(0, right - 1)][1]
        (x0, y0), (x1, y1) = points[right - 1], points[right]
        return y0 + (y1 - y0) * (at - x0) / (x1 - x0)

    return value


class PublishTo(Callback):
    """Put what happens into a queue: (event, values) of plain numbers and text, for another thread or process.

    A full queue loses what comes then (`lost` counts it): training never waits for a reader.
    """

    def __init__(self, target: Any) -> None:
        """target: a `queue.Queue`, a `multiprocessing.Queue`, or anything with `put_nowait`."""
        if not callable(getattr(target, "put_nowait", None)):
            raise UserError(f"PublishTo takes a queue, got {str(target)[:80]!r}.", "Give a queue.Queue.")
        self.target, self.lost = target, 0

    def _put(self, event: str, values: Mapping[str, Any]) -> None:
        try:
            self.target.put_nowait((event, {"env_steps": self.training.env_steps, **values}))
        except queue.Full:
            self.lost += 1

    def on_start(self) -> None:
        """Where the run is."""
        self._put("start", {"directory": str(self.training.directory)})

    def on_metrics(self, numbers: dict[str, float]) -> None:
        """A line of metrics."""
        self._put("metrics", numbers)

    def on_episode(self, episode: Episode) -> None:
        """A training episode."""
        self._put("episode", {"return": episode.score, "length": episode.length})

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """An evaluation."""
        self._put("evaluation", evaluation.to_dict())

    def on_checkpoint(self, path: Path) -> None:
        """Its directory."""
        self._put("checkpoint", {"path": str(path)})

    def on_end(self) -> None:
        """The last message."""
        self._put("end", {"updates": self.training.updates})
