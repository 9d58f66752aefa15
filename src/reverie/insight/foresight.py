"""What simple predictors, fitted to the replay without any model, find in it: the floor for every verdict on a model.

A prior is not to blame for symbols that are drawn independently, nor a reward head for rewards that are noise. So the
doctor fits ridge regressions and nearest neighbors to a part of the replay and tests them on the rest. They are weak:
what they foresee can be foreseen; what they do not foresee may only be too hard for them.

N steps, D dimensions of a condensed observation, A of an action. Step t is the row of `data.replay.Batch`: its reward
and observation followed the action in the same row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .run_reader import Experience

Array = NDArray[np.float64]

#: At most so many steps are used, and so many dimensions of observations: a diagnosis should take a second.
STEPS, DIMENSIONS = 4000, 48
#: Fewer steps than this cannot be divided into a part to fit and a part to test.
FEWEST = 256
#: Side of the condensed images; length of blocks that are fitted or tested as a whole, because neighbors are alike.
SIDE, BLOCK = 6, 64
#: How far back a reward may depend on an observation.
LAGS = 64


@dataclass(frozen=True)
class Foresight:
    """Shares of variance that the simple predictors explain on steps that they were not fitted to; 0 at least."""

    steps: int  # that were used
    observation: float  # of the next observation, from the last two and the action
    reward: float  # of the reward, from what led to it: the best predictor of all
    lag: int  # how many steps before the reward the observation was that foresees it best
    recent: float  # the same, from observations that lie within a training window only


@dataclass(frozen=True)
class _Rows:
    """Steps in order: x (N, D) of deviation 1, actions (N, A), rewards (N,), and each step's number in its episode."""

    x: Array
    action: Array
    reward: Array
    age: NDArray[np.int64]  # -1 for steps whose episode began before the sample


def foresee(experience: Experience, *, window: int) -> Foresight | None:
    """Fit and test; None with too few steps. window: length of a training sequence."""
    rows = _rows_of(experience)
    if rows is None:
        return None
    reward, lag, recent = _foresee_rewards(rows, window)
    return Foresight(len(rows.reward), _foresee_observations(rows), reward, lag, recent)


def condensed(observations: dict[str, NDArray[np.generic]]) -> Array:
    """Few numbers of each observation: (N, D) with deviation 1. Images as averages over SIDE x SIDE fields."""
    parts = []
    for value in observations.values():
        flat = value.astype(np.float64)
        parts.append(_fields(flat) if value.dtype == np.uint8 and value.ndim == 4 else flat.reshape(len(flat), -1))
    x = np.concatenate(parts, 1)
    x = x[:, x.std(0) > 1e-6]
    x = (x - x.mean(0)) / x.std(0)
    if x.shape[1] > DIMENSIONS:  # a fixed mixture of all of them keeps most of what there is
        mixture = np.random.default_rng(0).normal(size=(x.shape[1], DIMENSIONS))
        x = x @ mixture
        x = (x - x.mean(0)) / x.std(0)
    return x


def _fields(images: Array) -> Array:
    """(N, H, W, C) -> (N, SIDE * SIDE), means over fields and channels, and of the images' own size if smaller."""
    gray = images.mean(-1)
    for axis in (1, 2):
        cuts = np.unique(np.linspace(0, gray.shape[axis], min(SIDE, gray.shape[axis]) + 1).astype(int))
        sums = np.add.reduceat(gray, cuts[:-1], axis=axis)
        shape = [1, 1, 1]
        shape[axis] = -1
        gray = sums / np.diff(cuts).reshape(shape)
    return gray.reshape(len(gray), -1)


def _rows_of(experience: Experience) -> _Rows | None:
    """The newest steps of all segments in turn; steps of different segments never count as neighbors."""
    count = sum(len(segment) for segment in experience.segments)
    if count < FEWEST:
        return None
    each = max(1, STEPS // len(experience.segments))
    kept = [segment.window(max(0, len(segment) - each), min(each, len(segment))) for segment in experience.segments]
    age = []
    for rows in kept:
        number = np.arange(len(rows["reward"]))
        begun = np.maximum.accumulate(np.where(rows["is_first"], number, -1))
        age.append(np.where(begun >= 0, number - begun, -1))
    joined = {key: np.concatenate([rows[key] for rows in kept]) for key in kept[0]}
    observations = {key: value for key, value in joined.items() if key.startswith("obs/")}
    x, action = condensed(observations), np.nan_to_num(joined["action"].astype(np.float64))
    if len(x) < FEWEST or not x.shape[1]:
        return None
    return _Rows(x, action, joined["reward"].astype(np.float64), np.concatenate(age))


def _foresee_observations(rows: _Rows) -> float:
    """The share of the next observation that the last two and the action explain."""
    now = np.flatnonzero(rows.age >= 2)
    if len(now) < FEWEST:
        return 1.0  # nothing is known: then the model is to blame, as if there were no such measurement
    action, before = rows.action[now], rows.x[now - 1]
    both = np.concatenate([before, action, rows.x[now - 2]], 1)
    return max(0.0, _best(both, _products(before, action), rows.x[now], now))


def _foresee_rewards(rows: _Rows, window: int) -> tuple[float, int, float]:
    """(share of the best predictor, the lag of the observation that it used, share within a window)."""
    paid = np.flatnonzero(rows.age >= 1)
    if len(paid) < FEWEST or float(rows.reward[paid].std()) < 1e-9:
        return 0.0, 0, 0.0
    target = rows.reward[:, None]
    near, action = np.concatenate([rows.x[paid], rows.x[paid - 1]], 1), rows.action[paid]
    recent = _best(np.concatenate([near, action], 1), _products(rows.x[paid - 1], action), target[paid], paid)
    best, at = recent, 0
    for lag in _suspects(rows):
        known = np.flatnonzero(rows.age >= lag)
        if len(known) < FEWEST:
            continue
        share = _ridge(_products(rows.x[known - lag], rows.action[known]), target[known], known)
        if lag < window:
            recent = max(recent, share)
        if share > best:
            best, at = share, lag
    return max(0.0, best), at, max(0.0, recent)


def _suspects(rows: _Rows, *, most: int = 3) -> list[int]:
    """The lags whose observations, together with the action, are correlated most with the reward."""
    strength = []
    for lag in range(1, LAGS + 1):
        known = np.flatnonzero(rows.age >= lag)
        if len(known) < FEWEST:
            break
        paid = rows.reward[known] - rows.reward[known].mean()
        together = rows.x[known - lag].T @ (
            paid[:, None] * np.concatenate([rows.action[known], np.ones((len(known), 1))], 1)
        )
        strength.append(float((together**2).mean()) / len(known))
    return [int(index) + 1 for index in np.argsort(strength)[::-1][:most]]


def _products(x: Array, action: Array) -> Array:
    """x, the action, and every product of both (what an action does may depend on what was seen). -> (N, F)."""
    width = max(1, 160 // max(1, action.shape[1]))
    return np.concatenate([x, action, (x[:, :width, None] * action[:, None]).reshape(len(x), -1)], 1)


def _best(plain: Array, products: Array, target: Array, number: NDArray[np.int64]) -> float:
    """The best of two ridge regressions and nearest neighbors."""
    both = np.concatenate([plain, products], 1)
    return max(_ridge(both, target, number), _neighbors(plain, target, number))


def _split(number: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    test = (number // BLOCK) % 4 == 3
    return ~test, test


def _share(error: Array, target: Array) -> float:
    """Explained share of the variance, mean over dimensions that vary."""
    spread = ((target - target.mean(0)) ** 2).mean(0)
    moves = spread > 1e-9
    return float(1 - ((error**2).mean(0)[moves] / spread[moves]).mean()) if moves.any() else 0.0


def _ridge(features: Array, target: Array, number: NDArray[np.int64]) -> float:
    fit, test = _split(number)
    center, mean = features[fit].mean(0), target[fit].mean(0)
    left = features[fit] - center
    gram = left.T @ left
    gram[np.diag_indices_from(gram)] += 1e-2 * len(left)
    weights = np.linalg.solve(gram, left.T @ (target[fit] - mean))
    return _share((features[test] - center) @ weights + mean - target[test], target[test])


def _neighbors(features: Array, target: Array, number: NDArray[np.int64], *, count: int = 8) -> float:
    """The mean of the `count` nearest of at most 1500 fitted steps, for at most 500 tested ones."""
    fit, test = (np.flatnonzero(part) for part in _split(number))
    fit, test = fit[:: -(-len(fit) // 1500)], test[:: -(-len(test) // 500)]
    known, asked = features[fit], features[test]
    distance = (known**2).sum(1) - 2 * asked @ known.T
    nearest = np.argpartition(distance, count, axis=1)[:, :count]
    return _share(target[fit][nearest].mean(1) - target[test], target[test])
