"""The distribution of the stochastic state z_t: categorical (DreamerV2) or Gaussian (DreamerV1).

z is flat everywhere else: only the classes here know about S categoricals and K classes. To use another distribution,
write a class with the methods of `Latent` and name it in `LATENTS`.

Shapes: S categoricals, K classes, Z = S*K flat z, P its statistics, "..." any leading axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .ops import MetricDoc, mix_uniform, one_hot_mode, one_hot_sample


class Latent:
    """The distribution of z_t. Another one is a subclass with these five methods, and a line in `LATENTS`."""

    stoch_dim: int  # Z
    stats_dim: int  # P

    def noise(
        self, *batch: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """What `sample` needs to be a function: random numbers. -> (*batch, any size)."""
        raise NotImplementedError

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """A draw, with whatever gradient it has. stats (..., P), noise as above -> (..., Z)."""
        raise NotImplementedError

    def mode(self, stats: Tensor) -> Tensor:
        """The most likely value. stats (..., P) -> (..., Z)."""
        raise NotImplementedError

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        """KL(left || right) in nats, summed over the variables. (..., P), (..., P) -> (...)."""
        raise NotImplementedError

    def entropy(self, stats: Tensor) -> Tensor:
        """In nats, summed over the variables. (..., P) -> (...)."""
        raise NotImplementedError

    # What follows is for ensembles (extensions/ensemble.py): M predictions of the same state, stats (M, ..., P).

    def disagreement(self, stats: Tensor) -> Tensor:
        """What is to be learnt about z by finding out which member is right, in nats. (M, ..., P) -> (...)."""
        raise NotImplementedError(f"{type(self).__name__} has no disagreement of an ensemble")

    def distance(self, stats: Tensor) -> Tensor:
        """How far the members are from each other, in no unit. (M, ..., P) -> (...)."""
        raise NotImplementedError(f"{type(self).__name__} has no distance of an ensemble")

    # What follows is for the log only; a latent without it has fewer numbers there.

    metrics_doc: ClassVar[Mapping[str, MetricDoc]] = {}  #: what `reverie explain` says of the numbers of `summary`

    def class_probs(self, stats: Tensor) -> Tensor | None:
        """Probabilities of each class, (..., S, K), for maps of the classes in use; None where there are no classes."""
        return None

    def summary(self, stats: Tensor) -> dict[str, Tensor]:
        """Numbers () that say whether the code is in use, logged as latent/NAME. stats (..., P)."""
        return {}

    def information(self, stats: Tensor) -> Tensor | None:
        """Mutual information of z and the state (..., P) that it is drawn at, in nats, (); None if not derived."""
        return None

    def kl_gradients(self, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor] | None:
        """d KL(posterior || prior) / d each side's natural parameters: (..., any), (..., any); None if not derived."""
        return None


class CategoricalLatent(Latent):
    """S one-hot variables of K classes with straight-through gradients (paper Algorithm 1). P = Z = S*K logits.

    `unimix` mixes that share of a uniform distribution in (DreamerV3): the KL stays bounded. `through=False` ends
    gradients at the draw, to see what they are worth (an ablation: the encoder then learns from the KL alone).
    """

    def __init__(
        self, num_categoricals: int = 32, num_categories: int = 32, *, unimix: float = 0.0, through: bool = True
    ) -> None:
        self.num_categoricals = num_categoricals  # S
        self.num_categories = num_categories  # K
        self.unimix = unimix
        self.through = through
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
        """stats (..., P), noise (..., S) -> (..., Z): exactly one-hot, with the gradient of the probabilities.

        With compute.mode=fast `fast/scan.py` draws the same; change this function, and it is this function that runs.
        """
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

    def disagreement(self, stats: Tensor) -> Tensor:
        """Mutual information of z and the member: sum_s H(mean_m p_ms) - mean_m H(p_ms), 0 to S ln M nats.

        (M, ..., P) -> (...).
        """
        log_probs = self.logits(stats).log_softmax(-1)
        probs = log_probs.exp()
        of_each = -(probs * log_probs).sum((-2, -1)).mean(0)
        mean = probs.mean(0)
        of_all = -(mean * mean.clamp(min=1e-30).log()).sum((-2, -1))
        return (of_all - of_each).clamp(min=0)

    def distance(self, stats: Tensor) -> Tensor:
        """mean_m |p_m - mean_m p_m|_2 over all classes: the penalty of Offline DreamerV2. (M, ..., P) -> (...)."""
        probs = self.logits(stats).softmax(-1).flatten(-2)
        return torch.linalg.vector_norm(probs - probs.mean(0), dim=-1).mean(0)

    def class_probs(self, stats: Tensor) -> Tensor:
        """(..., P) -> (..., S, K)."""
        return self.logits(stats).softmax(-1)

    def summary(self, stats: Tensor) -> dict[str, Tensor]:
        """How the classes are used on average: perplexity 1 is a categorical that never changes, K uses all classes."""
        usage = class_usage(self.class_probs(stats))
        each = perplexity(usage)
        return {
            "perplexity": each.mean(),
            "perplexity_min": each.min(),
            "used": used_share(usage),
            "dead": dead_share(usage),
        }

    def kl_gradients(self, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """With q, p the two distributions: q (log q - log p - KL) and p - q, with respect to their logits (..., S, K),
        after any uniform share (docs: "KL balancing")."""
        left, right = self.logits(posterior).log_softmax(-1), self.logits(prior).log_softmax(-1)
        probs, gap = left.exp(), left - right
        return probs * (gap - (probs * gap).sum(-1, keepdim=True)), right.exp() - probs


#: A class counts as used above this share of what each class would have if all were used equally.
USED = 0.1
#: A categorical whose use has a perplexity below this never changes.
DEAD = 1.1


def class_usage(probs: Tensor) -> Tensor:
    """Average probability of each class. (..., S, K) -> (S, K), rows add up to 1."""
    return probs.flatten(0, -3).mean(0)


def perplexity(usage: Tensor) -> Tensor:
    """exp(entropy): the number of equally used classes that are as uncertain. usage (S, K) -> (S,), 1 to K."""
    return torch.special.entr(usage.double()).sum(-1).exp()  # in float32 a uniform 32 would be 31.99998


def used_share(usage: Tensor) -> Tensor:
    """Share of the classes with an average probability above USED / K. (S, K) -> ()."""
    return (usage > USED / usage.shape[-1]).float().mean()


def dead_share(usage: Tensor) -> Tensor:
    """Share of the categoricals that never change. (S, K) -> ()."""
    return (perplexity(usage) < DEAD).float().mean()


GAUSSIAN_STDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid2": lambda raw: 2 * torch.sigmoid(raw / 2),
    "softplus": lambda raw: softplus(raw),
}


class GaussianLatent(Latent):
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

    def disagreement(self, stats: Tensor) -> Tensor:
        """sum_d 0.5 ln(1 + Var_m(mean) / mean_m(std^2)), as if the mixture were a Gaussian. (M, ..., 2Z) -> (...)."""
        mean, std = self.mean_std(stats)
        return 0.5 * torch.log1p(mean.var(0, correction=0) / std.square().mean(0)).sum(-1)

    def distance(self, stats: Tensor) -> Tensor:
        """Standard deviation of the members' means, mean over dimensions. (M, ..., 2Z) -> (...)."""
        return self.mean_std(stats)[0].var(0, correction=0).clamp(min=1e-12).sqrt().mean(-1)

    def information(self, stats: Tensor) -> Tensor:
        """As if the mixture over states were a Gaussian: an upper bound. (..., 2Z) -> ()."""
        mean, std = (x.flatten(0, -2) for x in self.mean_std(stats))
        spread = mean.var(0) + (std**2).mean(0)
        return 0.5 * torch.log(spread / std**2).sum(-1).mean()

    def kl_gradients(self, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """With respect to mean and log standard deviation of each side, (..., 2Z)."""
        (m1, s1), (m2, s2) = self.mean_std(posterior), self.mean_std(prior)
        to_posterior = torch.cat([(m1 - m2) / s2**2, s1**2 / s2**2 - 1], -1)
        to_prior = torch.cat([(m2 - m1) / s2**2, 1 - (s1**2 + (m1 - m2) ** 2) / s2**2], -1)
        return to_posterior, to_prior


def _categorical(settings: Mapping[str, Any]) -> Latent:
    sizes = settings["num_categoricals"], settings["num_categories"]
    return CategoricalLatent(*sizes, unimix=settings["unimix"], through=settings["straight_through"])


def _gaussian(settings: Mapping[str, Any]) -> Latent:
    return GaussianLatent(settings["gaussian_dim"], std=settings["gaussian_std"])


#: `model.latents` -> the latent, made from the settings of the group `model` ({"unimix": 0.01, ...}).
LATENTS: dict[str, Callable[[Mapping[str, Any]], Latent]] = {"categorical": _categorical, "gaussian": _gaussian}
