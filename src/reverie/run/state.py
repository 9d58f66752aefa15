"""State of a run: everything that lasts from its first step to its last, in one object.

`loop.open_run` makes it, `loop.Run` owns it, `resume` writes it into checkpoints and restores it, `progress` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from ..config import Config
from ..data.collect import Collector
from ..data.replay import Replay
from ..data.replay_log import ReplayLog
from ..envs import EnvLike
from ..envs.spaces import Spec
from ..files import Writer
from ..guard.interrupts import Stopping
from ..guard.lock import RunLock
from ..player import Player
from ..ranks import ALONE, Ranks
from ..train import DreamerV2
from .clock import Clock
from .collector_transport import Transport
from .demonstrations import Demonstrations
from .evaluation import Evaluation, Evaluator, logged_evaluations
from .forecast import Forecast
from .health import HealthMonitor
from .logger import Logger
from .nan_policy import NanPolicy


@dataclass
class RunState:
    """One run in one directory. What is in checkpoints: `resume.state_of` and the agent's files."""

    config: Config
    directory: Path
    lock: RunLock  # of `root`; only rank 0 holds it
    ranks: Ranks = field(kw_only=True, default=ALONE)
    root: Path = field(kw_only=True, default=Path())  # the run's directory; `directory` is this rank's own part of it

    # the task
    env: EnvLike | None  # as given: an instance stays the caller's
    envs: VectorEnv
    spec: Spec
    repeat: int  # frames per environment step
    evaluator: Evaluator

    # the agent
    agent: DreamerV2
    player: Player  # collects experience
    forecast: Forecast | None

    # experience
    replay: Replay
    replay_log: ReplayLog
    collector: Collector
    rng: np.random.Generator  # of the random actions before learning begins
    transport: Transport | None = field(kw_only=True, default=None)  # where collectors act, with `env.collectors`
    collectors_say: Callable[[], str] = field(kw_only=True, default=str)  # how they do, in a few words

    # rules and measurements
    nan_policy: NanPolicy
    health: HealthMonitor
    logger: Logger = field(init=False)  # made after everything else was restored: it continues files

    # counters and results
    clock: Clock = field(default_factory=Clock)
    recent: list[float] = field(default_factory=list)  # returns of the last episodes, at most 20
    lengths: list[int] = field(default_factory=list)  # of the same episodes, in steps
    ended_at: int = -1  # env_steps when the last of them ended
    evaluation: Evaluation | None = None  # the last one
    evaluated_at: int = -1  # env_steps of the last evaluation
    demos: Demonstrations | None = None  # what batches also hold (`replay.demos`)
    evaluated_changes: int = -1  # `clock.changes` then; -1: none yet in this process
    written_at: int = 0  # env_steps of the last line of metrics
    resumed: bool = False  # continues a checkpoint
    source: str = ""  # fingerprint of the user's source that makes the task
    edited: bool = False  # the checkpoint that is continued was made with other source
    notes: list[str] = field(default_factory=list)  # shown to the user before the run begins

    # the process
    writer: Writer = field(default_factory=Writer)  # of checkpoints, in the background
    stopping: Stopping = field(default_factory=Stopping)
    stopped_by: str = ""  # the callback that asked for the end (run/callbacks.py)

    def stop(self) -> None:
        """Ask the loop to end after the current update, with a checkpoint."""
        self.stopping.requested = True

    def recall(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Take what checkpoints do not hold from the lines of episodes.jsonl, cut to those before the checkpoint."""
        ended = [line for line in lines if line.get("phase") in ("prefill", "train")]
        self.lengths = [int(line["length"]) for line in ended[-len(self.recent) :]] if self.recent else []
        self.ended_at = ended[-1]["env_steps"] if ended else -1
        past = logged_evaluations(lines)  # without one that a checkpoint did not follow: its lines were cut
        self.evaluated_at = max(past, default=-1)
        self.evaluation = past.get(self.evaluated_at)

    def evaluated(self) -> bool:
        """Is the last evaluation one of this step and of this agent?"""
        return self.evaluated_at == self.clock.env_steps and self.evaluated_changes in (-1, self.clock.changes)

    def unchanged(self) -> bool:
        """Is the agent the one that was evaluated last? With the same seeds it would play the same episodes again."""
        if self.config.model.vector_transform == "running" and self.evaluated_at != self.clock.env_steps:
            return False  # the scale of its inputs follows every step
        return self.evaluated_changes == self.clock.changes and self.evaluated_at >= self.clock.prefilled

    def unfinished(self) -> tuple[float, int] | None:
        """(score, steps) so far of the longest unfinished episode, if it is longer than those in `recent`.

        Then the mean of `recent` is old. None otherwise.
        """
        longest = int(np.argmax(self.collector.lengths))
        steps = int(self.collector.lengths[longest])
        return (float(self.collector.scores[longest]), steps) if steps > max(self.lengths, default=0) else None

    def complete(self) -> bool:
        """Was there nothing left to do when the run was opened?"""
        return self.resumed and self.finished() and self.evaluated()

    def end(self) -> str:
        """What ended the run: a signal's name, a callback's, or the setting that was reached; "" if nothing did."""
        train = self.config.train
        if self.stopping.signal or self.stopped_by:
            return self.stopping.signal or self.stopped_by
        if self.clock.env_steps >= train.env_steps:
            return "train.env_steps"
        return "train.minutes" if train.minutes and self.clock.seconds >= 60 * train.minutes else ""

    def finished(self) -> bool:
        """Has the run reached its end, or been asked to stop, on any rank? All ranks ask together."""
        return self.ranks.any(self.over())

    def over(self) -> bool:
        """Is it so on this rank?"""
        limit = self.config.train.minutes * 60
        enough = self.clock.env_steps >= self.config.train.env_steps or (limit > 0 and self.clock.seconds >= limit)
        return enough or self.stopping.requested

    def stopped(self) -> bool:
        """Has it been asked to stop, on any rank?"""
        return self.ranks.any(self.stopping.requested)
