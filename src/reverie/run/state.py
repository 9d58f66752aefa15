"""State of a run: everything that lasts from its first step to its last, in one object.

`loop.open_run` makes it, `loop.Run` owns it, `resume` writes it into checkpoints and restores it, `progress` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

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
from ..train import DreamerV2
from .clock import Clock
from .evaluation import Evaluation, Evaluator
from .forecast import Forecast
from .health import HealthMonitor
from .logger import Logger
from .nan_policy import NanPolicy


@dataclass
class RunState:
    """One run in one directory. What is in checkpoints: `resume.state_of` and the agent's files."""

    config: Config
    directory: Path
    lock: RunLock

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

    # rules and measurements
    nan_policy: NanPolicy
    health: HealthMonitor
    logger: Logger = field(init=False)  # made after everything else was restored: it continues files

    # counters and results
    clock: Clock = field(default_factory=Clock)
    recent: list[float] = field(default_factory=list)  # returns of the last episodes, at most 20
    evaluation: Evaluation | None = None  # the last one
    evaluated_at: int = -1  # env_steps of the last evaluation
    written_at: int = 0  # env_steps of the last line of metrics
    resumed: bool = False  # continues a checkpoint
    notes: list[str] = field(default_factory=list)  # shown to the user before the run begins

    # the process
    writer: Writer = field(default_factory=Writer)  # of checkpoints, in the background
    stopping: Stopping = field(default_factory=Stopping)

    def stop(self) -> None:
        """Ask the loop to end after the current update, with a checkpoint."""
        self.stopping.requested = True

    def finished(self) -> bool:
        """Has the run reached its end, or been asked to stop?"""
        limit = self.config.train.minutes * 60
        enough = self.clock.env_steps >= self.config.train.env_steps or (limit > 0 and self.clock.seconds >= limit)
        return enough or self.stopping.requested
