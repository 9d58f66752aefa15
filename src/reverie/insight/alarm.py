"""How well a score warns: the area under its ROC curve, with an interval that knows of episodes."""

from __future__ import annotations

import numpy as np


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The chance that a positive step scores higher than a negative one, ties counted half (Mann and Whitney).

    scores (N,), positive (N,) bool -> 0..1; 0.5 is guessing, NaN without both kinds.
    """
    scores, positive = np.asarray(scores, float), np.asarray(positive, bool)
    above, below = int(positive.sum()), int((~positive).sum())
    if not above or not below:
        return float("nan")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]  # of equal scores the mean rank
    return float((ranks[positive].sum() - above * (above + 1) / 2) / (above * below))


def auroc_interval(
    scores: np.ndarray, positive: np.ndarray, episode: np.ndarray, *, repetitions: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of `auroc` over episodes that are drawn again: steps of one episode resemble each other.

    scores (N,), positive (N,) bool, episode (N,) numbers of episodes -> low, high; NaN where it cannot be said.
    """
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(episode == each) for each in np.unique(episode)]
    found = []
    for _ in range(repetitions):
        drawn = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        found.append(auroc(scores[drawn], positive[drawn]))
    found = [value for value in found if value == value]
    if not found:
        return float("nan"), float("nan")
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
