"""Losses several steps ahead: latent overshooting (PlaNet, arXiv 1811.04551, Eq. 7) and heads on open-loop states.

From some states t of a batch the model predicts on with the recorded actions and without observations:

    s^0 = posterior_t      h^d = f(h^{d-1}, z^{d-1}, action[:, t+d])      z^d ~ p(. | h^d)      d = 1..L

    overshooting     1/L sum_{d=2..L} w_d  mean over valid of  KL( sg(q_{t+d}) || p(. | h^d) )
    open-loop heads  mean over d in DEPTHS of the heads' losses of the real step t+d, images at one random d per start

Depth d is valid where t+d lies in the same sequence and no episode begins in t+1..t+d (drawing in `data/replay.py`).
d = 1 is the ordinary prior term of the model loss, which stays as it is. Targets are stopped: otherwise the posterior
would be drawn to what an open loop can guess. The samples carry the gradient.

N starts, L depths; B, T and the rest as in `rssm.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..data.replay import Batch
from ..ops import Combine, alone, of_all
from ..rssm import DiscreteRSSM, State
from ..world_model import WorldModel, features_for

#: Depths at which open-loop heads pay.
DEPTHS = (1, 2, 4, 8, 15)
#: The first depth that the KL is paid at; 1 would pay the model loss's own term again.
FIRST = 2


class Overshooting:
    """The losses of a world model beyond the next step; `WorldModel.loss` adds them. No weights, no state."""

    def __init__(
        self,
        *,
        kl_weight: float = 0.0,
        head_weight: float = 0.0,
        depth: int = 15,
        starts: int = 500,
        growth: int = 0,
        decay: float = 1.0,
        start_grad: bool = True,
        free_nats: float = 0.0,
        free_avg: bool = True,
    ) -> None:
        """kl_weight, head_weight: of the two losses, 0: off. depth: L. starts: states of a batch, 0: all.

        growth: updates in which L grows from FIRST to `depth`, 0: none. decay: w_d = decay^(d-1), with mean 1 over
        1..L. start_grad: gradients reach the states that the predictions start from. free_nats, free_avg: as in
        `DiscreteRSSM.kl_loss`, at each depth.
        """
        self.kl_weight = kl_weight
        self.head_weight = head_weight
        self.depth = depth
        self.starts = starts
        self.growth = growth
        self.decay = decay
        self.start_grad = start_grad
        self.free_nats = free_nats
        self.free_avg = free_avg
        self.depth_now = depth
        self.ranks = 1  # that share the batch, and the starts
        self.mean: Combine = alone  # over them

    def join(self, mean: Combine, ranks: int) -> None:
        """Be one of so many ranks that share the batch from now on."""
        self.mean, self.ranks = mean, ranks

    def prepare(self, updates: int) -> None:
        """The depth of the next update, after so many."""
        grown = min(1.0, updates / self.growth) if self.growth else 1.0
        self.depth_now = min(self.depth, FIRST + int(grown * (self.depth - FIRST)))

    def __call__(
        self, model: WorldModel, posterior: State, batch: Batch, obs: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """posterior, batch of (B, T, ...), obs as network inputs -> loss (), metrics."""
        depth = min(self.depth_now, batch.reward.shape[1] - 1)
        rows = choose_starts(batch.is_first, -(-self.starts // self.ranks))
        at, valid = ahead(batch.is_first, rows, depth)
        start = State(*(x[rows] for x in posterior.flatten()))
        state = roll_out(
            model.rssm, start if self.start_grad else start.detach(), steps_at(batch.action, at), valid=valid
        )
        loss = valid.new_zeros((), dtype=torch.float32)
        metrics: dict[str, Tensor] = {}
        if self.kl_weight and depth >= FIRST:
            kl = model.rssm.latent.kl(steps_at(posterior.stats.detach(), at), state.stats)
            terms = by_depth(kl, valid, self.free_nats, average=self.free_avg, mean=self.mean)
            loss = loss + self.kl_weight * (depth_weights(depth, self.decay, terms.device) * terms)[FIRST - 1 :].sum()
            plain = by_depth(kl.detach(), valid, 0.0, average=True)[FIRST - 1 :]
            metrics |= {"overshooting_kl": plain.mean(), "overshooting_kl_last": plain[-1]}
        if self.head_weight:
            losses = open_loop_losses(model, state, batch, obs, at, valid, mean=self.mean)
            scaled = [model.scales.get(name, 1.0) * each for name, each in losses.items()]
            loss = loss + self.head_weight * torch.stack(scaled).sum()
            metrics |= {f"open_loop_{name.replace('/', '_')}_loss": each.detach() for name, each in losses.items()}
        return loss, metrics


def choose_starts(is_first: Tensor, count: int) -> Tensor:
    """Random states of a batch, those first from which FIRST steps ahead are known. is_first (B, T) -> rows (N,)."""
    every = torch.arange(is_first.numel(), device=is_first.device)
    if not 0 < count < len(every):
        return every
    known = ahead(is_first, every, min(FIRST, is_first.shape[1] - 1))[1][:, -1]
    return (torch.rand(len(every), device=is_first.device) + ~known).argsort()[:count]


def ahead(is_first: Tensor, rows: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The steps 1..L after each start, and which of them are in its sequence and episode.

    is_first (B, T), rows (N,) of B*T -> rows (N, L), the last one of the sequence at most; valid (N, L).
    """
    length = is_first.shape[1]
    step = rows % length
    offset = torch.arange(1, depth + 1, device=rows.device)
    inside = step[:, None] + offset < length
    at = rows[:, None] + torch.minimum(offset, length - 1 - step[:, None])
    fresh = is_first.flatten()[at]
    return at, (inside & ~fresh).long().cumprod(1).bool()


def steps_at(values: Tensor, at: Tensor) -> Tensor:
    """The values of chosen steps. values (B, T, ...), at (N, L) of B*T -> (N, L, ...)."""
    return values.flatten(0, 1)[at]


def roll_out(
    rssm: DiscreteRSSM, start: State, action: Tensor, *, noise: Tensor | None = None, valid: Tensor | None = None
) -> State:
    """Predict on with given actions and without observations.

    start of (N, ...); action (N, L, A), action[:, d] leads from step d to d + 1 (drawing in `data/replay.py`); noise
    (N, L, S); valid (N, L): where False the action is not known (NaN where an episode begins). -> State of (N, L, ...).
    """
    if noise is None:
        noise = rssm.latent.noise(*action.shape[:2], device=action.device)
    if valid is not None:
        action = torch.where(valid[..., None], action, torch.zeros_like(action))
    stoch = start.stoch if isinstance(start.stoch, Tensor) else start.stoch.dense()  # indices on the fast path
    state, steps = State(start.deter, stoch, start.stats), []
    for action_d, noise_d in zip(action.unbind(1), noise.unbind(1), strict=True):
        state = rssm.prior(rssm.recurrent_step(state, action_d), noise_d)
        steps.append(state)
    return State(*(torch.stack(parts, 1) for parts in zip(*steps, strict=True)))


def by_depth(values: Tensor, valid: Tensor, floor: float, *, average: bool, mean: Combine = alone) -> Tensor:
    """Means over the valid starts of each depth, at least `floor`: the mean, or each value. (N, L), (N, L) -> (L,).

    mean: over ranks, if each has a share of the starts.
    """
    if not average:
        values = values.clamp(min=floor)
    means = torch.where(valid, values, torch.zeros_like(values)).sum(0) / mean(valid.sum(0)).clamp(min=1)
    return of_all(means, mean).clamp(min=floor) if average else means


def depth_weights(depth: int, decay: float, device: torch.device) -> Tensor:
    """w_d / L = decay^(d-1) / sum of these over 1..L. -> (L,)."""
    weights = decay ** torch.arange(depth, device=device, dtype=torch.float32)
    return weights / weights.sum()


def open_loop_losses(
    model: WorldModel,
    state: State,
    batch: Batch,
    obs: Mapping[str, Tensor],
    at: Tensor,
    valid: Tensor,
    *,
    mean: Combine = alone,
) -> dict[str, Tensor]:
    """What each head pays for the real steps ahead. state of (N, L, ...), at, valid (N, L) -> {head: ()}.

    mean: as `by_depth` takes it.
    """
    depth = valid.shape[1]
    fixed = [d - 1 for d in DEPTHS if d <= depth]
    count = valid.sum(1)
    one = (torch.rand(len(count), device=count.device) * count).long().clamp(max=depth - 1)[:, None]  # valid: a prefix
    features, known, losses = state.feat, model.targets(batch, obs), dict[str, Tensor]()
    for name in model.heads:
        head = model.head(name)
        target = head.target_of(batch, obs)
        target = known[head.target] if target is None else target
        if target.dim() >= 5:  # images: decoding is most of the work
            chosen, feat = one, features.take_along_dim(one[..., None], 1)
            steps, seen = at.gather(1, chosen), valid.gather(1, chosen)
        else:
            feat, steps, seen = features[:, fixed], at[:, fixed], valid[:, fixed]
        feat = feat.detach() if name.split("/")[0] in model.detached_heads else feat
        nats = head.loss(features_for(head, feat), steps_at(target, steps).detach())
        losses[name] = by_depth(
            nats, seen, -math.inf, average=False, mean=mean
        ).mean()  # of images all starts have one depth
    return losses
