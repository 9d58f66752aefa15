"""Counters of a run, and the number of updates that its steps have earned."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Clock:
    """All counters of a run. Updates are owed to steps: `train_ratio` per step after the prefill, plus `pretrain`."""

    env_steps: int = 0
    updates: int = 0
    seconds: float = 0.0  # of training: collecting and learning, without evaluations
    prefilled: int = 0  # env_steps when learning began; 0 before
    skipped: int = 0  # updates left out because they were non-finite
    rollbacks: int = 0  # returns to a checkpoint for the same reason; each halves the learning rates
    best: float | None = None  # best evaluation so far
    eval_seconds: float = 0.0  # of evaluations, the random policy's included: no part of `seconds`
    next_eval_seconds: float = 0.0  # what the next one will take, as far as an earlier one shows; 0: not known
    spent: dict[str, float] = field(default_factory=lambda: {"env": 0.0, "replay": 0.0, "update": 0.0})

    @property
    def changes(self) -> int:
        """Rises whenever the agent's weights change: with updates, and with rollbacks, which undo updates."""
        return self.updates + self.rollbacks

    def updates_due(self, ratio: float, pretrain: int) -> int:
        """How many updates the steps so far have earned and not yet received."""
        if not self.prefilled:
            return 0
        return pretrain + int(ratio * (self.env_steps - self.prefilled)) - self.updates

    def achieved_ratio(self, pretrain: int) -> float:
        """Updates per environment step since learning began."""
        return max(0, self.updates - pretrain) / max(1, self.env_steps - self.prefilled)

    def speeds(self) -> dict[str, float]:
        """Seconds, steps and updates per second, and the share of each part: what depends on the machine."""
        total = max(1e-9, sum(self.spent.values()))
        return {
            "seconds": self.seconds,
            "speed/env_steps_per_second": self.env_steps / max(1e-9, self.seconds),
            "speed/updates_per_second": self.updates / max(1e-9, self.spent["update"]),
        } | {f"time/{part}": spent / total for part, spent in self.spent.items()}

    def shares(self) -> dict[str, float]:
        """Shares of all time since the run began, evaluations included: {part: 0 to 1}, which add up to 1."""
        parts = self.spent | {"eval": self.eval_seconds}
        total = max(1e-9, sum(parts.values()))
        return {part: spent / total for part, spent in parts.items()}

    @contextmanager
    def evaluating(self, *, played: bool = True) -> Iterator[None]:
        """Add the time spent inside to that of evaluations, which `train.minutes` does not count.

        played: the next evaluation will take about as long.
        """
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.eval_seconds += elapsed
            if played:
                self.next_eval_seconds = elapsed

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time spent inside to `part`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.spent[part] += elapsed
            self.seconds += elapsed
