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


class MetricColumns:
    """Lines of metrics.jsonl by column. Values that a line does not have take no memory."""

    def __init__(self) -> None:
        self.axes: dict[str, array] = {axis: array("d") for axis in AXES}
        self.columns: dict[str, tuple[array, array]] = {}  # key: (row numbers, values)
        self.last: dict[str, float] = {}  # key: newest value

    def __len__(self) -> int:
        return len(self.axes["env_steps"])

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line. That of an evaluation has no axes of its own and takes those of the line before."""
        row = len(self)
        for axis, values in self.axes.items():
            values.append(_number(line.get(axis), values[-1] if values else 0.0))
        for key, value in line.items():
            number = _number(value, math.nan)
            if key not in AXES and not math.isnan(number):
                rows, values = self.columns.setdefault(str(key), (array("q"), array("d")))
                rows.append(row)
                values.append(number)
                self.last[str(key)] = number

    def xy(self, key: str, axis: str) -> tuple[np.ndarray, np.ndarray]:
        """All values of a key. -> x (n,), y (n,); empty for an unknown key."""
        if key in AXES:
            return np.array(self.axes[axis]), np.array(self.axes[key])
        if key not in self.columns:
            return np.zeros(0), np.zeros(0)
        rows, values = self.columns[key]
        return np.array(self.axes[axis])[np.array(rows, np.int64)], np.array(values)

    def at_steps(self, env_steps: np.ndarray, axis: str) -> np.ndarray:
        """The positions of environment steps on another axis, by interpolation. (n,) -> (n,)."""
        if axis == "env_steps" or len(self) == 0:
            return env_steps
        return np.interp(env_steps, np.array(self.axes["env_steps"]), np.array(self.axes[axis]))


class EpisodeTable:
    """Lines of episodes.jsonl as rows."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, float, float, float]] = []  # phase, env steps, return, length, seconds
        self.last: deque[float] = deque(maxlen=20)  # returns of the newest training episodes

    def add(self, line: Mapping[str, Any]) -> None:
        """Add an episode; a line without a return is ignored."""
        score = _number(line.get("return"), math.nan)
        if not math.isnan(score):
            phase = str(line.get("phase", ""))
            steps, length, seconds = (_number(line.get(key), 0.0) for key in ("env_steps", "length", "seconds"))
            self.rows.append((phase, steps, score, length, seconds))
            if phase == "train":
                self.last.append(score)

    def of(self, *phases: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Environment steps, returns and lengths of the episodes of these phases, each (n,)."""
        rows = [row[1:4] for row in self.rows if row[0] in phases]
        columns = np.array(rows, float).reshape(-1, 3).T
        return columns[0], columns[1], columns[2]

    def newest(self, count: int) -> list[dict[str, Any]]:
        """The last `count` episodes, newest first, for a table."""
        keys = ("phase", "env_steps", "return", "length", "seconds")
        return [dict(zip(keys, row, strict=True)) for row in self.rows[: -count - 1 : -1]]


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
