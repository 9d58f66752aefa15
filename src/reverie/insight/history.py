"""The logs of a run as the doctor needs them: metrics, returns, and signs of failures."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import digits
from ..run.lines import each_line, thinned

#: Episodes of training that count as the newest ones.
RECENT = 20
#: Standard errors of the interval of a difference: 95 %.
SURE = 2.0


@dataclass(frozen=True)
class Comparison:
    """Mean returns of the agent and of the random policy, and the 95 % interval of their difference."""

    agent: float
    random: float
    low: float
    high: float
    episodes: tuple[int, int]  # of the agent, of the random policy

    @property
    def better(self) -> bool:
        return self.low > 0

    @property
    def worse(self) -> bool:
        return self.high < 0

    @property
    def text(self) -> str:
        """The numbers as words."""
        return (
            f"return {digits(self.agent)} over {self.episodes[0]} episodes, random policy {digits(self.random)} over "
            f"{self.episodes[1]}; the difference is between {digits(self.low)} and {digits(self.high)} (95 %)"
        )


def compare(agent: Sequence[float], random: Sequence[float]) -> Comparison:
    """Means and the interval of their difference, with a variance of their own each (Welch). Both of 2 and more."""
    means, errors = [], 0.0
    for values in (agent, random):
        mean = sum(values) / len(values)
        errors += sum((x - mean) ** 2 for x in values) / (len(values) - 1) / len(values)
        means.append(mean)
    difference, half = means[0] - means[1], SURE * math.sqrt(errors)
    return Comparison(means[0], means[1], difference - half, difference + half, (len(agent), len(random)))


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
    last_evaluation: tuple[float, ...] = ()  # returns
    at: dict[str, list[int]] = field(default_factory=dict)  # key -> updates, beside its values in `metrics`

    def thirds(self, key: str) -> tuple[float, float] | None:
        """(lower median of the first and second third, median of the last third); None for too few lines."""
        values = self.metrics.get(key, [])
        if len(values) < 6:
            return None
        part = len(values) // 3
        early = min(median(values[:part]), median(values[part : 2 * part]))
        return early, median(values[-part:])

    def series(self, key: str) -> list[tuple[int, float]]:
        """(updates, value) of each line that has the key."""
        return list(zip(self.at.get(key, []), self.metrics.get(key, []), strict=False))

    def against_random(self) -> Comparison | None:
        """The last training episodes, or the last evaluation if that is better, beside the random policy.

        None if either is unknown: fewer than three episodes of the random policy, none of the agent.
        """
        if len(self.random) < 3:
            return None
        found = [
            compare(part, self.random) for part in (self.returns[-RECENT:], self.last_evaluation) if len(part) >= 3
        ]
        return max(found, key=lambda each: each.low, default=None)

    def better_than_random(self) -> bool | None:
        """Whether returns are above those of the random policy, beyond the interval; None if unknown."""
        found = self.against_random()
        return None if found is None else found.better


def _rows(lines: Iterable[Mapping[str, Any]], nonfinite: dict[str, None]) -> Iterator[tuple[tuple[str, ...], array]]:
    """(keys, values) of the numbers in each line, a tenth of its memory: lines with the same keys share them.

    The keys of values that are not finite are added to `nonfinite` on the way.
    """
    known: dict[tuple[str, ...], tuple[str, ...]] = {}
    for line in lines:
        nonfinite.update({key: None for key, value in line.items() if value is None and not key.startswith("eval/")})
        numbers = {key: float(value) for key, value in line.items() if isinstance(value, int | float)}
        keys = tuple(key for key, value in numbers.items() if math.isfinite(value))
        yield known.setdefault(keys, keys), array("d", [numbers[key] for key in keys])


def median(values: Sequence[float]) -> float:
    """The median; of an even number of values the upper one."""
    return sorted(values)[len(values) // 2]


def read_history(run: Path) -> History:
    """Read a run's directory, finished or not; an incomplete last line is ignored."""
    lines = each_line(run / "metrics.jsonl")
    return make_history(lines, each_line(run / "episodes.jsonl"), crashed=(run / "crash").is_dir())


def make_history(
    lines: Iterable[Mapping[str, Any]], episodes: Iterable[Mapping[str, Any]], *, crashed: bool = False
) -> History:
    """The history from the lines of metrics.jsonl and episodes.jsonl. crashed: whether there is a NaN report.

    Of a long run it has each 2nd, 4th, ... line (`thinned`); what is not finite is found in all of them.
    """
    metrics: dict[str, list[float]] = {}
    at: dict[str, list[int]] = {}
    nonfinite: dict[str, None] = {}
    for keys, values in thinned(_rows(lines, nonfinite)):
        updates = int(values[keys.index("updates")]) if "updates" in keys else 0
        for key, value in zip(keys, values, strict=True):
            metrics.setdefault(key, []).append(value)
            at.setdefault(key, []).append(updates)
    tests: list[tuple[int, float]] = []
    returns: dict[str, list[float]] = {"random": [], "train": []}
    for episode in episodes:
        phase = episode.get("phase")
        if phase == "eval":
            tests.append((int(episode["env_steps"]), float(episode["return"])))
        elif phase in returns:
            returns[phase].append(float(episode["return"]))

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
        random=tuple(returns["random"]),
        returns=tuple(returns["train"]),
        last_evaluation=tuple(score for steps, score in tests if steps == tests[-1][0]),
        at=at,
    )
