"""The distribution of the stochastic state z_t: categorical (DreamerV2) or Gaussian (DreamerV1).

z is flat everywhere else: only the classes here know about S categoricals and K classes. To use another distribution,
write a class with the methods of `Latent` and name it in `LATENTS`.

Shapes: S categoricals, K classes, Z = S*K flat z, P its statistics, "..." any leading axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .ops import mix_uniform, one_hot_mode, one_hot_sample


class Latent(Protocol):
    """The distribution of z_t. To change it, write one such class; nothing else needs to know."""

    stoch_dim: int  # Z
    stats_dim: int  # P

    def noise(
        self, *batch: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor: ...
    def sample(self, stats: Tensor, noise: Tensor) -> Tensor: ...
    def mode(self, stats: Tensor) -> Tensor: ...
    def kl(self, left: Tensor, right: Tensor) -> Tensor: ...
    def entropy(self, stats: Tensor) -> Tensor: ...


class CategoricalLatent:
    """S one-hot variables of K classes with straight-through gradients (paper Algorithm 1). P = Z = S*K logits.

    `unimix` mixes that share of a uniform distribution in (DreamerV3): the KL stays bounded. `through=False` ends
    gradients at the draw, to see what they are worth (an ablation: the encoder then learns from the KL alone).
    """

    def __init__(
        self, num_categoricals: int = 32, num_categories: int = 32, *, unimix: float = 0.0, through: bool = True
    ) -> None:
        self.num_categoricals, self.num_categories = num_categoricals, num_categories
        self.unimix, self.through = unimix, through
        self.stoch_dim = self.stats_dim = num_categoricals * num_categories

    def noise(
        self, *batch: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """One uniform number per categorical. -> (*batch, S)."""
        return torch.rand(*batch, self.num_categoricals, device=device, generator=generator)

    def logits(self, stats: Tensor) -> Tensor:
        """(..., P) -> (..., S, K), in float32 whatever the autocast."""
        logits = stats.float().reshape((*stats.shape[:-1], self.num_categoricals, self.num_categories))
        return mix_uniform(logits, self.unimix)

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """stats (..., P), noise (..., S) -> (..., Z): exactly one-hot, with the gradient of the probabilities."""
        drawn = one_hot_sample(self.logits(stats).softmax(-1), noise).flatten(-2)
        return drawn if self.through else drawn.detach()

    def mode(self, stats: Tensor) -> Tensor:
        """The most likely class of each variable. stats (..., P) -> (..., Z)."""
        likely = one_hot_mode(self.logits(stats).softmax(-1)).flatten(-2)
        return likely if self.through else likely.detach()

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        """KL(left || right), summed over the S variables, in nats. (..., P), (..., P) -> (...)."""
        left_log, right_log = self.logits(left).log_softmax(-1), self.logits(right).log_softmax(-1)
        return (left_log.exp() * (left_log - right_log)).sum((-2, -1))

    def entropy(self, stats: Tensor) -> Tensor:
        """Summed over variables, in nats; at most S ln K (110.9 for 32x32). (..., P) -> (...)."""
        log_probs = self.logits(stats).log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum((-2, -1))


GAUSSIAN_STDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid2": lambda raw: 2 * torch.sigmoid(raw / 2),
    "softplus": lambda raw: softplus(raw),
}


class GaussianLatent:
    """Diagonal Gaussian, the latent of DreamerV1. P = 2Z: mean and raw scale.

    std "sigmoid2" = 2 sigmoid(raw / 2) + 0.1 (released V2 code), "softplus" = softplus(raw) + 0.1 (DreamerV1).
    """

    def __init__(self, dim: int = 30, *, std: str = "sigmoid2") -> None:
        self.stoch_dim, self.stats_dim = dim, 2 * dim
        self.squash_std = GAUSSIAN_STDS[std]

    def noise(
        self, *batch: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Standard normal. -> (*batch, Z)."""
        return torch.randn(*batch, self.stoch_dim, device=device, generator=generator)

    def mean_std(self, stats: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 2Z) -> mean (..., Z), std (..., Z)."""
        mean, raw = stats.float().chunk(2, -1)
        return mean, self.squash_std(raw) + 0.1

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """Reparameterised draw. stats (..., 2Z), noise (..., Z) -> (..., Z)."""
        mean, std = self.mean_std(stats)
        return mean + std * noise

    def mode(self, stats: Tensor) -> Tensor:
        """The mean. stats (..., 2Z) -> (..., Z)."""
        return self.mean_std(stats)[0]

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        """KL(left || right), summed over dimensions, in nats. (..., 2Z), (..., 2Z) -> (...)."""
        (m1, s1), (m2, s2) = self.mean_std(left), self.mean_std(right)
        return (torch.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5).sum(-1)

    def entropy(self, stats: Tensor) -> Tensor:
        """Differential entropy, summed over dimensions, in nats. (..., 2Z) -> (...)."""
        return (torch.log(self.mean_std(stats)[1]) + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
