"""Statistics of scores over tasks and seeds, as Agarwal et al. (2021, arXiv 2108.13264) define them.

`Scores` is one array per task with the seeds in its last axis; leading axes are bootstrap replicas, so that the same
function serves the point and its interval. Tasks may have different numbers of seeds; a task's seeds then weigh
together as much as another's in means, medians and gaps, while IQM and profiles pool all runs.

Intervals are of two kinds. Over many tasks: the percentile bootstrap, stratified by task. Of one task with a handful of
seeds: Student's t (from SciPy), because with five seeds the bootstrap reaches 1.75 standard errors to each side where
it takes 2.78.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError

#: One array (..., seeds) per task.
Scores = Sequence[np.ndarray]
Statistic = Callable[[Scores], np.ndarray]
#: Scores of one task, a number per seed.
Seeds = Sequence[float] | np.ndarray
ROUNDING = 1e-9  # 7.999999999 degrees of freedom are 8


def mean(scores: Scores) -> np.ndarray:
    """Mean over tasks of the mean over seeds. [(..., n)] -> (...)."""
    return _task_means(scores).mean(-1)


def median(scores: Scores) -> np.ndarray:
    """Median over tasks of the mean over seeds: the paper's "gamer median". [(..., n)] -> (...)."""
    return np.median(_task_means(scores), -1)


def iqm(scores: Scores) -> np.ndarray:
    """Mean of the middle half of all runs, a quarter cut off at each end (whole runs, as scipy's `trim_mean`)."""
    pooled = np.sort(np.concatenate(list(scores), -1), -1)
    cut = pooled.shape[-1] // 4
    return pooled[..., cut : pooled.shape[-1] - cut].mean(-1)


def optimality_gap(scores: Scores, *, goal: float = 1.0) -> np.ndarray:
    """How far runs fall short of `goal` on average, surplus not counted. 0 is best. [(..., n)] -> (...)."""
    return goal - mean([np.minimum(task, goal) for task in scores])


def mean_without_top(scores: Scores) -> np.ndarray:
    """The mean without the task that is highest: what remains if one game carries it. NaN for a single task."""
    means = np.sort(_task_means(scores), -1)[..., :-1]
    return means.mean(-1) if means.shape[-1] else np.full(means.shape[:-1], math.nan)


def performance_profile(scores: Scores, levels: Sequence[float]) -> np.ndarray:
    """Share of runs above each level. [(..., n)], (L) -> (..., L)."""
    pooled = np.concatenate(list(scores), -1)
    return np.stack([(pooled > level).mean(-1) for level in levels], -1)


def probability_of_improvement(ours: Scores, theirs: Scores) -> np.ndarray:
    """Mean over tasks of P(one of our runs beats one of theirs), ties half. The same tasks in the same order."""
    found = []
    for mine, other in zip(ours, theirs, strict=True):
        left, right = mine[..., :, None], other[..., None, :]
        found.append(((left > right) + 0.5 * (left == right)).mean((-2, -1)))
    return np.stack(found, -1).mean(-1)


def _task_means(scores: Scores) -> np.ndarray:
    return np.stack([task.mean(-1) for task in scores], -1)


#: What a table of many tasks shows.
AGGREGATES: dict[str, Statistic] = {
    "mean": mean,
    "median": median,
    "IQM": iqm,
    "optimality gap": optimality_gap,
    "mean without top": mean_without_top,
}


# ------------------------------------------------------------------------------------------------------------ bootstrap


class Interval(NamedTuple):
    """A number and where it lies with 95 % confidence; without bounds where there is only one seed."""

    value: float
    low: float | None
    high: float | None

    def text(self, digits: int = 3) -> str:
        """ "0.520 [0.471, 0.583]"."""
        if self.low is None or self.high is None:
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def resample(scores: Scores, *, replicas: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Seeds drawn again with replacement, within each task (stratified). [(n)] -> [(replicas, n)]."""
    return [task[rng.integers(len(task), size=(replicas, len(task)))] for task in scores]


def bootstrap(
    statistic: Callable[..., np.ndarray], *groups: Scores, replicas: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Stratified percentile bootstrap of `statistic(*groups)`, each group resampled by itself.

    No bounds where a task has no second seed, or all replicas are the same: zero width would be a lie. With n seeds a
    task the interval is too narrow by about sqrt((n - 1) / n), however many tasks there are.
    """
    value = float(statistic(*groups))
    if any(len(task) < 2 for scores in groups for task in scores):
        return Interval(value, None, None)
    rng = np.random.default_rng(seed)
    drawn = statistic(*(resample(scores, replicas=replicas, rng=rng) for scores in groups))
    low, high = (float(x) for x in np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
    return Interval(value, low, high) if low < high else Interval(value, None, None)


# ---------------------------------------------------------------------------------------------------------- Student's t


def require_scipy() -> None:
    """Raises UserError where SciPy is missing: call it before work whose result is to be compared."""
    _scipy_stats()


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ModuleNotFoundError as error:
        raise UserError("comparisons of seeds need SciPy.", "pip install 'reverie-rl[evidence]'") from error
    return stats


@cache
def t_tail(t: float, df: int) -> float:
    """P(|T| > t) of Student's t with `df` degrees of freedom. Raises ValueError for df < 1 or t < 0."""
    if df < 1 or t < 0:
        raise ValueError(f"t_tail needs df >= 1 and t >= 0, found df={df}, t={t}")
    return 2 * float(_scipy_stats().t.sf(t, df))


@cache
def t_quantile(level: float, df: int) -> float:
    """The t with P(|T| <= t) = level, e.g. 2.776 for 0.95 and 4 degrees of freedom."""
    return float(_scipy_stats().t.ppf((1 + level) / 2, df))


def student(values: Seeds, *, level: float = 0.95) -> Interval:
    """Mean of seeds with its t interval; without bounds for one seed, or where all seeds agree (unknown spread)."""
    found = np.asarray(values, float)
    if len(found) < 2 or np.ptp(found) == 0:
        return Interval(float(found.mean()), None, None)
    half = t_quantile(level, len(found) - 1) * float(found.std(ddof=1)) / math.sqrt(len(found))
    return Interval(float(found.mean()), float(found.mean()) - half, float(found.mean()) + half)


class Difference(NamedTuple):
    """Mean of one group of seeds minus that of another, its 95 % interval, and how surprising it is."""

    value: float
    low: float | None
    high: float | None
    p: float | None  # two-sided, of no difference


def welch(left: Seeds, right: Seeds, *, level: float = 0.95) -> Difference:
    """left - right by Welch's t: the spreads may differ. Degrees of freedom are rounded down, which is cautious."""
    a, b = np.asarray(left, float), np.asarray(right, float)
    value = float(a.mean() - b.mean())
    if len(a) < 2 or len(b) < 2:
        return Difference(value, None, None, None)
    u, v = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
    if u + v == 0:  # no spread at all: how large it would be is unknown
        return Difference(value, None, None, None)
    df = max(1, math.floor((u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1)) + ROUNDING))
    error = math.sqrt(u + v)
    half = t_quantile(level, df) * error
    return Difference(value, value - half, value + half, t_tail(abs(value) / error, df))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p-values after Holm's correction for looking at several; None stays None."""
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    found: list[float | None] = [None] * len(ps)
    least = 0.0
    for rank, (p, i) in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p))
        found[i] = least
    return found


def visible_difference(spread: float, seeds: int, *, level: float = 0.95, power: float = 0.8) -> float:
    """The true difference of two groups of `seeds` each that is found (at `level`) in `power` of all repetitions.

    spread: standard deviation between seeds. Infinite for one seed. The usual sum of two t quantiles.
    """
    if seeds < 2:
        return math.inf
    df = 2 * (seeds - 1)
    return (t_quantile(level, df) + t_quantile(2 * power - 1, df)) * spread * math.sqrt(2 / seeds)
