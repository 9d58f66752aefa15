"""Pure functions on tensors that more than one module needs. Nothing here has parameters or state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: What ranks (ranks/) do to numbers of a batch that they share: their mean, or all of them joined. (...) -> (...).
Combine = Callable[[Tensor], Tensor]


class MetricDoc(NamedTuple):
    """What `reverie explain` says about a number that a head or a latent logs."""

    meaning: str
    unit: str
    healthy: str
    advice: str


def alone(values: Tensor) -> Tensor:
    """What ranks do to numbers of a batch where there is only one: nothing. (...) -> (...)."""
    return values


def symlog(x: Tensor) -> Tensor:
    """Squash symmetrically around zero: sign(x) * log(1 + |x|). x (...) -> (...). Design document, "Symlog".

    Slope 1 at zero, logarithmic far out, exactly undone by `symexp`. (An idea of DreamerV3; DreamerV2 used tanh.)
    """
    # sign(x) * log1p(abs(x)) would have gradient 0 at exactly 0, where a head that starts at zero sits.
    return torch.where(x >= 0, torch.log1p(x.clamp(min=0)), -torch.log1p((-x).clamp(min=0)))


def symexp(x: Tensor) -> Tensor:
    """Inverse of `symlog`: sign(x) * (exp(|x|) - 1). x (...) -> (...)."""
    return torch.where(x >= 0, torch.expm1(x.clamp(min=0)), -torch.expm1((-x).clamp(min=0)))


def _identity(x: Tensor) -> Tensor:
    return x


#: name -> (from a reward or value to the target of a head, from its prediction back to a reward or value).
#: tanh and sign are not undone: the released code plans with the squashed reward
#: (implementation-details.md#imagination).
SCALAR_TRANSFORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "symlog": (symlog, symexp),
    "tanh": (torch.tanh, _identity),
    "sign": (torch.sign, _identity),
    "none": (_identity, _identity),
}


def straight_through(sample: Tensor, probs: Tensor) -> Tensor:
    """Value of `sample`, gradient of `probs` (paper Algorithm 1). sample, probs (..., K) -> (..., K).

    The brackets matter: `sample + (probs - probs.detach())` adds an exact zero, so the result stays exactly one-hot;
    `sample + probs - probs.detach()` does not (rounding leaves errors of 6e-8).
    """
    return sample + (probs - probs.detach())


def sample_index(probs: Tensor, uniform: Tensor) -> Tensor:
    """Draw class indices by inverting the cumulative distribution. probs (..., K), uniform (...) in [0, 1) -> (...).

    One uniform number per draw: several times cheaper than a general categorical sampler, and the draw is a function of
    its noise. A class of probability zero is never drawn.
    """
    cumulative = probs.cumsum(-1)
    threshold = uniform.unsqueeze(-1) * cumulative[..., -1:]  # the sum is 1 only up to rounding
    return (cumulative <= threshold).sum(-1).clamp(max=probs.shape[-1] - 1)


def mix_uniform(logits: Tensor, share: float) -> Tensor:
    """Logits of (1 - share) softmax(logits) + share / K: no class ever dies out. (..., K) -> (..., K). DreamerV3."""
    if share == 0:
        return logits
    return torch.log((1 - share) * logits.softmax(-1) + share / logits.shape[-1])


def two_hot_nll(log_probs: Tensor, x: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy with weights on the two bins around x whose average is x (clamped to the bins), in nats.

    log_probs (..., K), x (...), bins (K,) -> (...).
    """
    x = x.clamp(bins[0], bins[-1]).contiguous()
    above = torch.bucketize(x, bins, right=True).clamp(1, len(bins) - 1)
    low, high = bins[above - 1], bins[above]
    share = (x - low) / (high - low)
    below, upper = log_probs.gather(-1, torch.stack([above - 1, above], -1)).unbind(-1)
    return -((1 - share) * below + share * upper)


def one_hot_sample(probs: Tensor, uniform: Tensor) -> Tensor:
    """Straight-through one-hot draw. probs (..., K), uniform (...) in [0, 1) -> (..., K)."""
    index = sample_index(probs.detach(), uniform)
    return straight_through(F.one_hot(index, probs.shape[-1]).to(probs.dtype), probs)


def one_hot_mode(probs: Tensor) -> Tensor:
    """Straight-through one-hot of the most likely class. probs (..., K) -> (..., K)."""
    index = probs.detach().argmax(-1)
    return straight_through(F.one_hot(index, probs.shape[-1]).to(probs.dtype), probs)


def free_bits(nats: Tensor, free_nats: float, *, average: bool, shared: Combine = alone) -> Tensor:
    """max(KL, free_nats), of the mean or of each state. nats (B, T) -> ().

    shared: the mean over all ranks of a number, where the batch is shared by several (ranks/).
    """
    return of_all(nats.mean(), shared).clamp(min=free_nats) if average else nats.clamp(min=free_nats).mean()


def of_all(mean: Tensor, shared: Combine) -> Tensor:
    """The mean over all ranks, with the gradient of this rank's own: gradients are averaged later. (...) -> (...)."""
    return mean if shared is alone else mean + (shared(mean.detach()) - mean.detach())


def renewed(draw: Tensor, longest: float) -> Tensor:
    """Which rows draw again, so that row i keeps what it drew for longest^(i / (N - 1)) steps on average.

    For exploring: what needs a push in one direction for some time (a swing, a hill) is not found by trembling; rows
    differ so that what needs quick changes is found too. draw (N,) uniform in [0, 1) -> (N,) of bool.
    """
    count = len(draw)
    shares = torch.arange(count, device=draw.device) / (count - 1) if count > 1 else torch.full_like(draw, 0.5)
    return draw < longest**-shares


def reset_where(mask: Tensor, x: Tensor) -> Tensor:
    """Zero the rows of x where mask is true; a NaN there is erased too. mask (B,), x (B, ...) -> (B, ...)."""
    return torch.where(mask.reshape(mask.shape + (1,) * (x.dim() - mask.dim())), torch.zeros_like(x), x)


def over_time(*sequences: Tensor) -> Any:
    """Iterate over the time axis of several (B, T, ...) tensors together: yields tuples of (B, ...)."""
    return zip(*(sequence.unbind(1) for sequence in sequences), strict=True)


def squared_error(prediction: Tensor, target: Tensor, *, event_dims: int) -> Tensor:
    """0.5 * squared error, summed over the last `event_dims` axes: a unit-variance Gaussian's negative log-likelihood
    in nats without its constant 0.919 per dimension. Summed, not averaged: the balance with the KL depends on it
    (implementation-details.md#b19). prediction, target (..., *event) -> (...).
    """
    error = 0.5 * (prediction.float() - target) ** 2  # float32 also under autocast
    return error if event_dims == 0 else error.flatten(-event_dims).sum(-1)
