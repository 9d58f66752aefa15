"""Logged numbers of a run in memory, by column, and their reduction to as many points as a chart needs."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..files import plain_number

#: Quantities on the horizontal axis of a chart.
AXES = ("env_steps", "seconds", "updates")
#: Lines that are held at most: what a screen shows of a run of weeks.
MOST_ROWS = 20_000
#: A quantity in fewer than one of so many lines is an evaluation or the like: none of its values is left out.
RARE = 4


class MetricColumns:
    """Lines of metrics.jsonl by column. Values that a line does not have take no memory.

    Of more than `MOST_ROWS` lines every 2nd, 4th, 8th, ... is held, and always the newest one.
    """

    def __init__(self) -> None:
        self.axes: dict[str, array] = {axis: array("d") for axis in AXES}
        self.columns: dict[str, tuple[array, array]] = {}  # key: (row numbers, values)
        self.last: dict[str, float] = {}  # key: newest value
        self.count = 0  # lines that were added
        self.one_in = 1  # of so many is held

    def __len__(self) -> int:
        return len(self.axes["env_steps"])

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line. That of an evaluation has no axes of its own and takes those of the line before."""
        before = {axis: values[-1] if values else 0.0 for axis, values in self.axes.items()}
        if self.count and (self.count - 1) % self.one_in:
            self._leave_out_last()
        elif len(self) >= MOST_ROWS:
            self._leave_out_half()
        row = len(self)
        for axis, values in self.axes.items():
            values.append(_number(line.get(axis), before[axis]))
        for key, value in line.items():
            number = _number(value, math.nan)
            if key not in AXES and not math.isnan(number):
                rows, values = self.columns.setdefault(str(key), (array("q"), array("d")))
                rows.append(row)
                values.append(number)
                self.last[str(key)] = number
        self.count += 1

    def _leave_out_last(self) -> None:
        """It was held as the newest one alone."""
        count = len(self)
        for values in self.axes.values():
            values.pop()
        for rows, values in self.columns.values():
            if self._is_frequent(rows, count) and rows[-1] == count - 1:
                rows.pop()
                values.pop()

    def _leave_out_half(self) -> None:
        """Every second line."""
        count = len(self)
        for axis, kept in self.axes.items():
            self.axes[axis] = kept[::2]
        for key, (rows, values) in self.columns.items():
            at, numbers = np.array(rows), np.array(values)
            held = at % 2 == 0 if self._is_frequent(rows, count) else np.ones(len(at), bool)
            self.columns[key] = array("q", (at[held] // 2).tobytes()), array("d", numbers[held].tobytes())
        self.one_in *= 2

    @staticmethod
    def _is_frequent(rows: array, count: int) -> bool:
        return RARE * len(rows) >= count

    def xy(self, key: str, axis: str) -> tuple[np.ndarray, np.ndarray]:
        """All values of a key. -> x (n,), y (n,); empty for an unknown key."""
        if key in AXES:
            return np.array(self.axes[axis]), np.array(self.axes[key])
        if key not in self.columns:
            return np.zeros(0), np.zeros(0)
        rows, values = self.columns[key]
        return np.array(self.axes[axis])[np.array(rows, np.int64)], np.array(values)

    def points(self, key: str) -> list[tuple[float, ...]]:
        """(env_steps, seconds, updates, value) of every value of a key that is held."""
        if key not in self.columns:
            return []
        rows, values = self.columns[key]
        return [(*(self.axes[axis][row] for axis in AXES), value) for row, value in zip(rows, values, strict=True)]

    def at_steps(self, env_steps: np.ndarray, axis: str) -> np.ndarray:
        """The positions of environment steps on another axis, by interpolation. (n,) -> (n,)."""
        if axis == "env_steps" or len(self) == 0:
            return env_steps
        return np.interp(env_steps, np.array(self.axes["env_steps"]), np.array(self.axes[axis]))


class EpisodeTable:
    """Lines of episodes.jsonl as columns: a million take 33 MB."""

    NUMBERS = ("env_steps", "return", "length", "seconds")

    def __init__(self) -> None:
        self.phases: list[str] = []  # by number, at most 256
        self._phase = array("B")  # the number of each episode's
        self._numbers = {name: array("d") for name in self.NUMBERS}
        self.last: deque[float] = deque(maxlen=20)  # returns of the newest training episodes

    def __len__(self) -> int:
        return len(self._phase)

    def add(self, line: Mapping[str, Any]) -> None:
        """Add an episode; a line without a return is ignored."""
        score = _number(line.get("return"), math.nan)
        phase = str(line.get("phase", ""))
        if math.isnan(score) or (phase not in self.phases and len(self.phases) == 256):
            return
        if phase not in self.phases:
            self.phases.append(phase)
        self._phase.append(self.phases.index(phase))
        for name, values in self._numbers.items():
            values.append(_number(line.get(name), 0.0))
        if phase == "train":
            self.last.append(score)

    def of(self, *phases: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Environment steps, returns and lengths of the episodes of these phases, each (n,)."""
        wanted = np.isin(np.array(self._phase), [at for at, phase in enumerate(self.phases) if phase in phases])
        steps, scores, lengths = (np.array(self._numbers[name])[wanted] for name in self.NUMBERS[:3])
        return steps, scores, lengths

    def newest(self, count: int) -> list[dict[str, Any]]:
        """The last `count` episodes, newest first, for a table."""
        return [
            {"phase": self.phases[self._phase[at]]} | {name: self._numbers[name][at] for name in self.NUMBERS}
            for at in reversed(range(max(0, len(self) - count), len(self)))
        ]


def downsample(x: np.ndarray, y: np.ndarray, limit: int) -> dict[str, Any]:
    """At most `limit` points: means of equal numbers of neighbors, with their minimum and maximum. x, y (n,)."""
    count = len(x)
    if count <= limit:
        return {"x": rounded(x), "y": rounded(y), "n": count}
    edges = np.linspace(0, count, limit + 1).astype(np.int64)
    begin, sizes = edges[:-1], np.diff(edges)
    return {
        "x": rounded(np.add.reduceat(x, begin) / sizes),
        "y": rounded(np.add.reduceat(y, begin) / sizes),
        "low": rounded(np.minimum.reduceat(y, begin)),
        "high": rounded(np.maximum.reduceat(y, begin)),
        "n": count,
    }


def group_evaluations(steps: np.ndarray, scores: np.ndarray) -> list[tuple[float, float, float, int]]:
    """Group the episodes of each step into an evaluation.

    -> [(env steps, mean, half width of the 95 % interval, number of episodes)]
    """
    groups = []
    for step in np.unique(steps):
        episode_scores = scores[steps == step]
        width = (
            1.96 * float(episode_scores.std(ddof=1)) / math.sqrt(len(episode_scores))
            if len(episode_scores) > 1
            else 0.0
        )
        groups.append((float(step), float(episode_scores.mean()), width, len(episode_scores)))
    return groups


def rounded(values: Iterable[float]) -> list[float]:
    """The values with seven digits, which is enough for a screen."""
    return [float(f"{value:.7g}") for value in values]


def _number(value: Any, otherwise: float) -> float:
    """`value` if it is a number that can be computed with, else `otherwise`."""
    number = plain_number(value)
    return otherwise if number is None else float(number)
