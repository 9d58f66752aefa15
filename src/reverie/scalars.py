"""How a network describes one number: a reward or a value. No parameters in here.

DreamerV2 uses the mean of a unit-variance Gaussian (squared error). DreamerV3 classifies: 255 bins, two of which share
the target ("two-hot"), so that the loss does not grow with the size of the number. Both may work on a squashed scale.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .ops import SCALAR_TRANSFORMS, squared_error, two_hot


class Scalar(Protocol):
    """From network outputs ("stats", (..., P)) to a number (...), and how badly they foresaw another one."""

    stats_dim: int  # P

    def mean(self, stats: Tensor) -> Tensor: ...
    def nll(self, stats: Tensor, target: Tensor) -> Tensor: ...


class NormalScalar:
    """A unit-variance Gaussian around the one output, on the scale of `transform`. P = 1."""

    stats_dim = 1

    def __init__(self, transform: str = "none") -> None:
        self.squash, self.unsquash = SCALAR_TRANSFORMS[transform]

    def mean(self, stats: Tensor) -> Tensor:
        """The prediction, taken back from the squashed scale. stats (..., 1) -> (...)."""
        return self.unsquash(stats.squeeze(-1).float())

    def nll(self, stats: Tensor, target: Tensor) -> Tensor:
        """0.5 (output - squash(target))^2, nats without the constant. stats (..., 1), target (...) -> (...)."""
        return squared_error(stats.squeeze(-1), self.squash(target), event_dims=0)


class TwoHotScalar:
    """A categorical over `bins` numbers, evenly spaced on the squashed scale (DreamerV3, 2023, Eqs. 8-10). P = bins."""

    def __init__(self, transform: str = "symlog", *, bins: int = 255, limit: float = 20.0) -> None:
        self.squash, self.unsquash = SCALAR_TRANSFORMS[transform]
        self.stats_dim, self.limit = bins, limit

    def bins(self, like: Tensor) -> Tensor:
        """The numbers that the classes stand for, (P,)."""
        half = (self.stats_dim - 1) / 2  # not linspace, whose middle is not exactly 0 in float32
        return (torch.arange(self.stats_dim, device=like.device) - half) * (self.limit / half)

    def mean(self, stats: Tensor) -> Tensor:
        """The expected bin, taken back from the squashed scale. stats (..., P) logits -> (...)."""
        # Pairs of opposite bins first: equal probabilities then give exactly 0, as a head that starts at zero should.
        probs, middle = stats.float().softmax(-1), self.stats_dim // 2
        weighted = probs * self.bins(stats)
        opposite = weighted[..., :middle] + weighted[..., -middle:].flip(-1)
        return self.unsquash(opposite.sum(-1))

    def nll(self, stats: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy with the two-hot target, in nats. stats (..., P), target (...) -> (...)."""
        soft = two_hot(self.squash(target.float()), self.bins(stats))
        return -(soft * stats.float().log_softmax(-1)).sum(-1)


SCALARS: dict[str, type[NormalScalar] | type[TwoHotScalar]] = {"normal": NormalScalar, "twohot": TwoHotScalar}
