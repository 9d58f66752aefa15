"""The logs of a run as the doctor needs them: metrics, returns, and signs of failures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..run.logger import read_lines


@dataclass(frozen=True)
class History:
    """The logged history of a run so far; empty if nothing was written yet."""

    env_steps: int = 0
    updates: int = 0
    metrics: dict[str, list[float]] = field(default_factory=dict)  # key -> its finite values, line by line
    nonfinite: tuple[str, ...] = ()  # keys that were once NaN or infinite
    skipped: int = 0  # updates skipped because of a NaN
    rollbacks: int = 0
    crashed: bool = False  # there is a NaN report
    random: tuple[float, ...] = ()  # returns of the random policy
    returns: tuple[float, ...] = ()  # of training episodes, in order
    evaluations: tuple[tuple[int, float], ...] = ()  # environment steps, mean return

    def thirds(self, key: str) -> tuple[float, float] | None:
        """(lower median of the first and second third, median of the last third); None for too few lines."""
        values = self.metrics.get(key, [])
        if len(values) < 6:
            return None
        part = len(values) // 3
        early = min(median(values[:part]), median(values[part : 2 * part]))
        return early, median(values[-part:])

    def lowest(self, key: str, *, window: int = 5) -> float | None:
        """The lowest median of `window` consecutive lines in the first half of the run; None for too few lines."""
        values = self.metrics.get(key, [])
        half = values[: max(window, len(values) // 2)]
        return min((median(half[i : i + window]) for i in range(len(half) - window + 1)), default=None)

    def better_than_random(self) -> bool | None:
        """Whether the last training episodes or the last evaluation beat the random policy; None if unknown.

        They must be better by more than two standard errors of the random policy's mean return.
        """
        if len(self.random) < 3 or not (self.returns or self.evaluations):
            return None
        mean = sum(self.random) / len(self.random)
        spread = math.sqrt(sum((x - mean) ** 2 for x in self.random) / (len(self.random) - 1) / len(self.random))
        recent = self.returns[-20:]
        reached = [sum(recent) / len(recent)] if len(recent) >= 3 else []
        reached += [value for _, value in self.evaluations[-1:]]
        return max(reached) > mean + 2 * spread if reached else None


def median(values: Sequence[float]) -> float:
    """The median; of an even number of values the upper one."""
    return sorted(values)[len(values) // 2]


def read_history(run: Path) -> History:
    """Read a run's directory, finished or not; an incomplete last line is ignored."""
    lines = read_lines(run / "metrics.jsonl")
    return make_history(lines, read_lines(run / "episodes.jsonl"), crashed=(run / "crash").is_dir())


def make_history(
    lines: Sequence[Mapping[str, Any]], episodes: Sequence[Mapping[str, Any]], *, crashed: bool = False
) -> History:
    """The history from the lines of metrics.jsonl and episodes.jsonl. crashed: whether there is a NaN report."""
    metrics: dict[str, list[float]] = {}
    nonfinite: dict[str, None] = {}
    for line in lines:
        for key, value in line.items():
            if value is None and not key.startswith("eval/"):
                nonfinite[key] = None
            elif isinstance(value, int | float) and math.isfinite(value):
                metrics.setdefault(key, []).append(float(value))
    evaluations: dict[int, list[float]] = {}
    for episode in episodes:
        if episode.get("phase") == "eval":
            evaluations.setdefault(int(episode["env_steps"]), []).append(float(episode["return"]))
    returns: dict[str, tuple[float, ...]] = {
        phase: tuple(float(e["return"]) for e in episodes if e.get("phase") == phase) for phase in ("random", "train")
    }

    def highest(key: str) -> int:
        return int(max(metrics.get(key, [0])))

    return History(
        env_steps=highest("env_steps"),
        updates=highest("updates"),
        metrics=metrics,
        nonfinite=tuple(nonfinite),
        skipped=highest("nonfinite/skipped"),
        rollbacks=highest("nonfinite/rollbacks"),
        crashed=crashed,
        random=returns["random"],
        returns=returns["train"],
        evaluations=tuple((steps, sum(found) / len(found)) for steps, found in evaluations.items()),
    )
