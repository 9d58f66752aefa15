"""The useful horizon of a dream: how many steps it is better than guessing, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .run_reader import private_generator

#: The fewest starts with which a horizon is judged.
FEWEST_STARTS = 8
#: Errors below this share of the data's variance count as none, even if a guess is better.
NO_ERROR = 1e-4
#: Repetitions of the useful horizon on starts that are drawn again, for its interval.
REPETITIONS = 100


def useful_horizon(error: Mapping[str, Tensor], valid: Tensor) -> int:
    """The last horizon at which the dream is better than guessing. error {guess: (N, H)}, valid (N, H) -> 0..H.

    Guessing is the better of copy and mean at that horizon. The dream is better if its error, averaged with that of
    the horizons before and after, is lower by more than one standard error over the windows. Of all intervals of such
    horizons the longest counts, and the result is its end: at first a copy may be better than any reconstruction,
    because little has moved; and a single good horizon far out may be random.
    """
    weights = valid.double()
    counts = weights.sum(0).clamp(min=1)
    means = {name: (value.double() * weights).sum(0) / counts for name, value in error.items()}
    guess = torch.where(means["copy"] <= means["mean"], error["copy"], error["mean"]).double()
    gain = (guess - error["dream"].double()) * weights
    better = []
    for k in range(valid.shape[1]):
        near = slice(max(0, k - 1), k + 2)
        windows = valid[:, k]
        mean = gain[windows, near].sum(1) / weights[windows, near].sum(1)
        enough = int(windows.sum()) >= FEWEST_STARTS
        sure = enough and float(mean.mean() - mean.std() / math.sqrt(len(mean))) > 0
        better.append(sure or (enough and float(means["dream"][k]) < NO_ERROR))
    return _end_of_longest(better)


def useful_interval(error: Mapping[str, Tensor], valid: Tensor, *, repetitions: int = REPETITIONS) -> tuple[int, int]:
    """The 95 % interval of the useful horizon: what it is on windows that are drawn again from these (bootstrap)."""
    generator = private_generator(0)
    found = []
    for _ in range(repetitions):
        rows = torch.randint(len(valid), (len(valid),), generator=generator).to(valid.device)
        found.append(useful_horizon({name: value[rows] for name, value in error.items()}, valid[rows]))
    found.sort()
    skip = int(0.025 * repetitions)
    return found[skip], found[-1 - skip]


def _end_of_longest(better: Sequence[bool]) -> int:
    """The end of the longest run of True, counted from 1; 0 without one. Of equal ones the first."""
    longest = end = run = 0
    for k, good in enumerate(better):
        run = run + 1 if good else 0
        if run > longest:
            longest, end = run, k + 1
    return end
