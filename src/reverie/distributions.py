"""Distributions over actions: choices, numbers in [-1, 1], and any mixture of both side by side.

Shapes: "..." any leading axes, A size of the action vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from numpy.polynomial.hermite import hermgauss
from torch import Tensor, nn

from .ops import SCALAR_TRANSFORMS, mix_uniform, one_hot_mode, one_hot_sample, squared_error, two_hot_nll

#: The logit of a forbidden action: far below any other, its probability is exactly 0, and 0 * FORBIDDEN is 0, not NaN.
FORBIDDEN = -1e9

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Policy(Protocol):
    """A distribution over actions (..., A), made by the actor from features."""

    def noise(self, generator: torch.Generator | None = None) -> Tensor: ...
    def sample(self, noise: Tensor | None = None) -> Tensor: ...
    def mode(self) -> Tensor: ...
    def random(self, generator: torch.Generator | None = None) -> Tensor: ...
    def log_prob(self, action: Tensor) -> Tensor: ...
    def choice_log_prob(self, action: Tensor) -> Tensor: ...
    def entropy(self) -> Tensor: ...


class Part(NamedTuple):
    """A stretch of the action vector that one kind of distribution describes."""

    policy: str  # a name in POLICIES
    size: int  # choices of each one-hot, or numbers
    copies: int = 1  # one-hots of that size side by side


class OneHotPolicy:
    """Discrete actions as one-hot vectors, with straight-through gradients. stats (..., A) are logits.

    mask (..., A): where it is 0 the action is impossible: probability exactly 0.
    """

    def __init__(self, stats: Tensor, mask: Tensor | None = None) -> None:
        logits = stats.float() if mask is None else stats.float().masked_fill(mask == 0, FORBIDDEN)
        self.log_probs, self.mask = logits.log_softmax(-1), mask

    @staticmethod
    def stats_dim(action_dim: int) -> int:
        return action_dim

    def noise(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.rand(self.log_probs.shape[:-1], device=self.log_probs.device, generator=generator)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """noise (...) uniform in [0, 1) -> (..., A), exactly one-hot."""
        return one_hot_sample(self.log_probs.exp(), self.noise() if noise is None else noise)

    def mode(self) -> Tensor:
        """The most likely action. -> (..., A)."""
        return one_hot_mode(self.log_probs.exp())

    def random(self, generator: torch.Generator | None = None) -> Tensor:
        """Each allowed action equally likely. -> (..., A)."""
        weights = torch.ones_like(self.log_probs) if self.mask is None else self.mask.to(self.log_probs)
        return one_hot_sample(weights / weights.sum(-1, keepdim=True), self.noise(generator))

    def choice_log_prob(self, action: Tensor) -> Tensor:
        """All of it is choices. action (..., A) one-hot -> (...)."""
        return self.log_prob(action)

    def log_prob(self, action: Tensor) -> Tensor:
        """action (..., A) one-hot -> (...)."""
        return (self.log_probs * action).sum(-1)

    def entropy(self) -> Tensor:
        """In nats, at most ln A. -> (...)."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)


class TruncatedNormalPolicy:
    """Gaussian cut off at [-1, 1], the released code's policy for continuous control. stats (..., 2A).

    mean = tanh(m), std = 2 sigmoid(s / 2) + 0.1, between 0.1 and 2.1, 1.1 at the start
    (implementation-details.md#continuous-actor).
    """

    def __init__(self, stats: Tensor) -> None:
        mean, raw = stats.float().chunk(2, -1)
        self.mean, self.std = torch.tanh(mean), 2 * torch.sigmoid(raw / 2) + 0.1
        self.alpha, self.beta = (-1 - self.mean) / self.std, (1 - self.mean) / self.std
        self.cdf_alpha = torch.special.ndtr(self.alpha)
        self.mass = (torch.special.ndtr(self.beta) - self.cdf_alpha).clamp(min=1e-6)

    @staticmethod
    def stats_dim(action_dim: int) -> int:
        return 2 * action_dim

    def noise(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.rand(self.mean.shape, device=self.mean.device, generator=generator)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Inverse-CDF draw, differentiable. noise (..., A) uniform -> (..., A) in [-1, 1]."""
        noise = self.noise() if noise is None else noise
        quantile = (self.cdf_alpha + noise * self.mass).clamp(1e-6, 1 - 1e-6)
        action = self.mean + self.std * self._scaled(quantile)
        return action + (action.clamp(-1 + 1e-6, 1 - 1e-6) - action).detach()  # clip; the gradient passes

    def _scaled(self, quantile: Tensor) -> Tensor:
        """(action - mean) / std at a quantile of the uncut Gaussian, with its gradient. (..., A) -> (..., A)."""
        return torch.special.ndtri(quantile)

    def mode(self) -> Tensor:
        """The mean before cutting. -> (..., A)."""
        return self.mean

    def random(self, generator: torch.Generator | None = None) -> Tensor:
        """Uniform in [-1, 1]. -> (..., A)."""
        return 2 * torch.rand(self.mean.shape, device=self.mean.device, generator=generator) - 1

    def choice_log_prob(self, action: Tensor) -> Tensor:
        """None of it is a choice. action (..., A) -> zeros (...)."""
        return action.new_zeros(action.shape[:-1])

    def log_prob(self, action: Tensor) -> Tensor:
        """Density, summed over action dimensions. action (..., A) -> (...)."""
        scaled = (action - self.mean) / self.std
        return (-0.5 * scaled**2 - _HALF_LOG_2PI - torch.log(self.std) - torch.log(self.mass)).sum(-1)

    def entropy(self) -> Tensor:
        """Closed form, summed over dimensions; 0.686 each at the start, at most ln 2. -> (...)."""

        def density(x: Tensor) -> Tensor:
            return torch.exp(-0.5 * x**2 - _HALF_LOG_2PI)

        edges = (self.alpha * density(self.alpha) - self.beta * density(self.beta)) / (2 * self.mass)
        return (_HALF_LOG_2PI + 0.5 + torch.log(self.std * self.mass) + edges).sum(-1)


class ReleasedTruncatedNormalPolicy(TruncatedNormalPolicy):
    """The same distribution and the same draws, with the gradient of TensorFlow's op, which the released code used.

    d action / d mean = 1 and d action / d std = (action - mean) / std, as if nothing were cut off. The exact gradient
    is a quarter of it at std 1.1, less where the cut is nearer.
    """

    def _scaled(self, quantile: Tensor) -> Tensor:
        return torch.special.ndtri(quantile).detach()


class TanhNormalPolicy:
    """Gaussian squashed by tanh into (-1, 1). stats (..., 2A): mean and raw scale of the Gaussian; std in 0.1..2.1.

    The mean is kept within +-5 (5 tanh(m / 5)), as in DreamerV1: beyond that tanh has no gradient.
    """

    # Gauss-Hermite quadrature gives E f(x) for Gaussian x, so the entropy needs no random numbers.
    _NODES, _WEIGHTS = (torch.tensor(x, dtype=torch.float32) for x in hermgauss(15))

    def __init__(self, stats: Tensor) -> None:
        mean, raw = stats.float().chunk(2, -1)
        self.mean, self.std = 5 * torch.tanh(mean / 5), 2 * torch.sigmoid(raw / 2) + 0.1

    @staticmethod
    def stats_dim(action_dim: int) -> int:
        return 2 * action_dim

    def noise(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(self.mean.shape, device=self.mean.device, generator=generator)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Reparameterised draw. noise (..., A) standard normal -> (..., A) in (-1, 1)."""
        return torch.tanh(self.mean + self.std * (self.noise() if noise is None else noise))

    def mode(self) -> Tensor:
        """tanh of the Gaussian's mean. -> (..., A)."""
        return torch.tanh(self.mean)

    def random(self, generator: torch.Generator | None = None) -> Tensor:
        """Uniform in [-1, 1]. -> (..., A)."""
        return 2 * torch.rand(self.mean.shape, device=self.mean.device, generator=generator) - 1

    def choice_log_prob(self, action: Tensor) -> Tensor:
        """None of it is a choice. action (..., A) -> zeros (...)."""
        return action.new_zeros(action.shape[:-1])

    @staticmethod
    def _log_slope(x: Tensor) -> Tensor:
        """log(1 - tanh(x)^2), without cancellation."""
        return 2 * (math.log(2) - x - nn.functional.softplus(-2 * x))

    def log_prob(self, action: Tensor) -> Tensor:
        """Density, summed over action dimensions. action (..., A) in (-1, 1) -> (...)."""
        x = torch.atanh(action.clamp(-1 + 1e-6, 1 - 1e-6))
        scaled = (x - self.mean) / self.std
        gaussian = -0.5 * scaled**2 - _HALF_LOG_2PI - torch.log(self.std)
        return (gaussian - self._log_slope(x)).sum(-1)

    def entropy(self) -> Tensor:
        """Gaussian entropy + E[log(1 - tanh^2)] by quadrature, summed over dimensions. -> (...)."""
        nodes, weights = self._NODES.to(self.mean), self._WEIGHTS.to(self.mean)
        slopes = self._log_slope(self.mean.unsqueeze(-1) + self.std.unsqueeze(-1) * math.sqrt(2) * nodes)
        expected = (slopes * weights).sum(-1) / math.sqrt(math.pi)
        return (_HALF_LOG_2PI + 0.5 + torch.log(self.std) + expected).sum(-1)


POLICIES: dict[str, type[OneHotPolicy] | type[TruncatedNormalPolicy] | type[TanhNormalPolicy]] = {
    "onehot": OneHotPolicy,
    "trunc_normal": TruncatedNormalPolicy,
    "trunc_normal_released": ReleasedTruncatedNormalPolicy,
    "tanh_normal": TanhNormalPolicy,
}


class CompositePolicy:
    """Several independent distributions side by side: MultiDiscrete, hybrids, Dict and Tuple actions.

    members: the distributions, each with its Part. Those of one-hots have a `copies` axis: stats (..., copies, size).
    """

    def __init__(self, members: Sequence[tuple[Policy, Part]]) -> None:
        self.members = members

    def noise(self, generator: torch.Generator | None = None) -> Tensor:
        """Of all members, one after the other. -> (..., K)."""
        return torch.cat([member.noise(generator) for member, _ in self.members], -1)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """noise (..., K) as `noise` makes it -> (..., A)."""
        widths = [part.copies if part.policy == "onehot" else part.size for _, part in self.members]
        pieces = iter(torch.split(self.noise() if noise is None else noise, widths, -1))
        return self._joined(lambda member: member.sample(next(pieces)))

    def mode(self) -> Tensor:
        """The most likely action of each member. -> (..., A)."""
        return self._joined(lambda member: member.mode())

    def random(self, generator: torch.Generator | None = None) -> Tensor:
        """Uniform over what is allowed. -> (..., A)."""
        return self._joined(lambda member: member.random(generator))

    def _joined(self, draw: Callable[[Policy], Tensor]) -> Tensor:
        drawn = [(draw(member), part) for member, part in self.members]
        return torch.cat([x.flatten(-2) if part.policy == "onehot" else x for x, part in drawn], -1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Sum over members. action (..., A) -> (...)."""
        return torch.stack([log_prob for log_prob, _ in self._log_probs(action)]).sum(0)

    def choice_log_prob(self, action: Tensor) -> Tensor:
        """Of the choices alone. action (..., A) -> (...)."""
        return torch.stack([log_prob for log_prob, part in self._log_probs(action) if part.policy == "onehot"]).sum(0)

    def _log_probs(self, action: Tensor) -> Iterator[tuple[Tensor, Part]]:
        pieces = torch.split(action, [part.size * part.copies for _, part in self.members], -1)
        for piece, (member, part) in zip(pieces, self.members, strict=True):
            if part.policy == "onehot":
                yield member.log_prob(one_by_one(piece, part)).sum(-1), part
            else:
                yield member.log_prob(piece), part

    def entropy(self) -> Tensor:
        """In nats, summed over members. -> (...)."""
        found = [(member.entropy(), part) for member, part in self.members]
        return torch.stack([x.sum(-1) if part.policy == "onehot" else x for x, part in found]).sum(0)


def one_by_one(x: Tensor, part: Part) -> Tensor:
    """Equal one-hots apart. (..., copies * size) -> (..., copies, size)."""
    return x.reshape(*x.shape[:-1], part.copies, part.size)


def stats_dim(parts: Sequence[Part]) -> int:
    """How many numbers a network must give for these parts."""
    return sum(POLICIES[part.policy].stats_dim(part.size) * part.copies for part in parts)


def policy_noise(parts: Sequence[Part], count: int, generator: torch.Generator) -> Tensor:
    """What policies of these parts draw actions with, on the generator's device. -> as `Policy.noise` for (N,)."""
    return make_policy(torch.zeros(count, stats_dim(parts), device=generator.device), parts).noise(generator)


def entropy_range(parts: Sequence[Part]) -> tuple[float, float]:
    """(least, most) entropy that a policy of these parts can have, in nats; of numbers: at the smallest deviation."""
    least = most = 0.0
    for part in parts:
        if part.policy == "onehot":
            most += part.copies * math.log(part.size)
        else:
            least += part.size * (_HALF_LOG_2PI + 0.5 + math.log(0.1))
            most += part.size * math.log(2)
    return least, most


def entropy_share(entropy: Tensor, parts: Sequence[Part], mask: Tensor | None = None) -> Tensor:
    """How random policies are, as shares of what their parts and what is allowed make possible.

    entropy (...) in nats, mask (..., A) of 0 and 1 -> (...); 1 where only one action is allowed.
    """
    least, most = entropy_range(parts)
    if mask is None:
        return (entropy - least) / (most - least)
    pieces = zip(torch.split(mask, [part.size * part.copies for part in parts], -1), parts, strict=True)
    allowed = [
        one_by_one(piece, part).sum(-1).clamp(min=1).log().sum(-1) for piece, part in pieces if part.policy == "onehot"
    ]
    forbidden = sum(part.copies * math.log(part.size) for part in parts if part.policy == "onehot") - torch.stack(
        allowed
    ).sum(0)
    possible = most - forbidden - least
    return torch.where(possible > 1e-6, (entropy - least) / possible.clamp(min=1e-6), torch.ones_like(entropy))


def make_policy(stats: Tensor, parts: Sequence[Part], *, mask: Tensor | None = None, unimix: float = 0.0) -> Policy:
    """A network's answer (..., `stats_dim`) to a distribution. mask (..., A): 0 where an action is forbidden."""
    if len(parts) == 1 and parts[0].copies == 1:
        return _member(stats, parts[0], mask, unimix)
    chunks = torch.split(stats, [stats_dim([part]) for part in parts], -1)
    masks = [None] * len(parts) if mask is None else torch.split(mask, [part.size * part.copies for part in parts], -1)
    members = []
    for chunk, allowed, part in zip(chunks, masks, parts, strict=True):
        if part.policy == "onehot":
            chunk = one_by_one(chunk, part)
            allowed = None if allowed is None else one_by_one(allowed, part)
        members.append((_member(chunk, part, allowed, unimix), part))
    return CompositePolicy(members)


def _member(stats: Tensor, part: Part, mask: Tensor | None, unimix: float) -> Policy:
    if part.policy == "onehot":
        return OneHotPolicy(mix_uniform(stats, unimix), mask)
    return POLICIES[part.policy](stats)


# ------------------------------------------------------------------------------------------------- scalar distributions


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
        return two_hot_nll(stats.float().log_softmax(-1), self.squash(target.float()), self.bins(stats))


SCALARS: dict[str, type[NormalScalar] | type[TwoHotScalar]] = {"normal": NormalScalar, "twohot": TwoHotScalar}
