"""An ensemble: several networks that predict the same. Where they disagree, the model has not been.

    PriorEnsemble     p_m(z_t | h_t), m = 1..M: further priors of the RSSM (after Offline DreamerV2, Lu et al. 2022)
    OneStepEnsemble   z_{t+1} from [f_t, a], a the action that LEAVES t (Plan2Explore, Sekar et al. 2020)

h_t has seen the action that led into t, so the first kind scores states, like a reward head. The second scores steps:
in a recorded sequence the action that leaves t is `action[:, t + 1]`, in a dream `action[:, k]` (drawing in
`replay.py`). Both learn from detached states, with weights drawn from a generator of their own: the agent beside them
stays the same bit for bit.

Shapes: M members, the rest as in `rssm.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.replay import Batch
from ..latents import Latent
from ..layers import ACTIVATIONS, NORM_EPS
from ..ops import Combine, alone, reset_where
from ..rssm import DiscreteRSSM, State

#: Points of the table of what is usual: the smallest value, the percentiles, the largest.
POINTS = 101
#: States that are scored at a time on a CPU where no gradient is wanted.
ROWS = 256


class BatchedLinear(nn.Module):
    """M dense layers in one product. x (N, in) or (M, N, in) -> (M, N, out). Glorot weights, zero biases."""

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))
        limit = math.sqrt(6 / (inputs + outputs))
        if self.weight.device.type != "meta":
            nn.init.uniform_(self.weight, -limit, limit, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.weight) + self.bias


class BatchedNorm(nn.Module):
    """M layer norms over the features. x (M, N, size) -> (M, N, size)."""

    def __init__(self, members: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, size))
        self.bias = nn.Parameter(torch.zeros(members, 1, size))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * self.weight + self.bias


class BatchedMLP(nn.Module):
    """M networks of the same shape with weights of their own. x (..., in) -> (M, ..., out), in float32."""

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        *,
        layers: int,
        hidden_dim: int,
        norm: bool,
        activation: str,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.inputs = inputs
        modules: list[nn.Module] = []
        size = inputs
        for _ in range(layers):
            modules.append(BatchedLinear(members, size, hidden_dim, generator))
            modules += [BatchedNorm(members, hidden_dim)] if norm else []
            modules.append(ACTIVATIONS[activation]())
            size = hidden_dim
        modules.append(BatchedLinear(members, size, outputs, generator))
        self.layers = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        found = self.layers(x.reshape(-1, self.inputs)).float()
        return found.unflatten(1, x.shape[:-1])


class Usual(nn.Module):
    """What is usual in the run's own replay: a table of percentiles that follows each batch.

    A new percentile has the weight 1 / n in the n-th batch, and at least 1 / 100.
    """

    table: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.gather: Combine = alone  # of several ranks: the values of all
        self.register_buffer("table", torch.zeros(POINTS))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def follow(self, values: Tensor) -> Tensor:
        """Take the values (...) of a batch into account, those that are NaN left out. -> its own table (101,)."""
        flat = self.gather(values.detach().float().flatten())
        new = flat.nanquantile(torch.linspace(0, 1, POINTS, device=flat.device))
        good = new.isfinite().all()  # a bad update must leave nothing behind
        self.count.add_(good)
        moved = self.table.lerp(new, (1 / self.count.clamp(min=1)).clamp(min=0.01))
        self.table.copy_(torch.where(good, moved, self.table))
        return new

    @torch.no_grad()
    def share_below(self, values: Tensor) -> Tensor:
        """The share of the replay's steps with a smaller value: 0.99 is unusual, 1 beyond all. (...) -> (...)."""
        values = values.float().contiguous()
        below = torch.searchsorted(self.table, values, right=False)
        left = self.table[(below - 1).clamp(min=0)]
        right = self.table[below.clamp(max=POINTS - 1)]
        between = ((values - left) / (right - left).clamp(min=1e-12)).clamp(0, 1)
        return ((below - 1 + between) / (POINTS - 1)).clamp(0, 1)


class Ensemble(nn.Module):
    """What both kinds have in common: bootstrap weights from a generator of their own, and what is usual.

    Bootstrap: each member sees each sequence of a batch Poisson(1) times, as if it had drawn its data with replacement.
    """

    name = "ensemble"

    def __init__(self, *, members: int, bootstrap: bool, generator: torch.Generator) -> None:
        """generator: on the CPU; the weights of the networks are drawn from it, then the bootstrap's."""
        super().__init__()
        self.members = members
        self.bootstrap = bootstrap
        self.generator = generator
        self.usual = Usual()
        self.mean: Combine = alone  # over several ranks, of counts
        self.weights: Tensor | None = None  # (M, B, 1) of this update

    @property
    def module(self) -> nn.Module:
        return self

    @property
    def scales(self) -> list[Tensor]:
        return [self.usual.table, self.usual.count]

    @property
    def generators(self) -> Mapping[str, torch.Generator]:
        return {self.name: self.generator}

    def join(self, mean: Combine, gather: Combine) -> None:
        """Count and measure over several ranks from now on."""
        self.mean, self.usual.gather = mean, gather

    def prepare(self, batch_size: int) -> None:
        """Draw the bootstrap weights of the next update; in place, where a captured graph reads them."""
        drawn = torch.ones(self.members, batch_size, 1)
        if self.bootstrap:
            drawn = torch.poisson(drawn, self.generator)
        device = self.usual.table.device
        if self.weights is None or self.weights.shape != drawn.shape or self.weights.device != device:
            self.weights = drawn.to(device)
        else:
            self.weights.copy_(drawn)

    def loss(self, posterior: State, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """posterior and batch of (B, T, ...) -> loss (), metrics; after `prepare`."""
        raise NotImplementedError

    def of_states(self, feat: Tensor, action: Tensor) -> Tensor:
        """Disagreement about the states 0..H-1 of dreams. feat (..., H + 1, F), action (..., H, A) -> (..., H)."""
        raise NotImplementedError

    def of_arrivals(self, feat: Tensor, action: Tensor) -> Tensor:
        """Disagreement about the states 1..H, before looking. feat (..., H + 1, F), action (..., H, A) -> (..., H)."""
        raise NotImplementedError

    def _metrics(self, loss: Tensor, found: Tensor) -> dict[str, Tensor]:
        table = self.usual.follow(found)
        return {"loss": loss.detach(), "disagreement": found.nanmean(), "disagreement_p99": table[99]}


class PriorEnsemble(Ensemble):
    """M further priors p_m(z_t | h_t) of the RSSM; their disagreement belongs to the state alone.

    Loss: mean over members and steps of w KL(sg(q_t) || p_m(z | sg(h_t))), w the bootstrap weight.
    """

    def __init__(
        self,
        latent: Latent,
        deter_dim: int,
        *,
        members: int,
        layers: int = 1,
        hidden_dim: int = 200,
        norm: bool = True,
        activation: str = "elu",
        measure: str = "information",
        bootstrap: bool = True,
        generator: torch.Generator,
    ) -> None:
        """measure: "information" for `Latent.disagreement`, "distance" for `Latent.distance`."""
        super().__init__(members=members, bootstrap=bootstrap, generator=generator)
        self.latent = latent
        self.measure = measure
        self.net = BatchedMLP(
            members,
            deter_dim,
            latent.stats_dim,
            layers=layers,
            hidden_dim=hidden_dim,
            norm=norm,
            activation=activation,
            generator=generator,
        )

    def loss(self, posterior: State, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """posterior of (B, T, ...) -> loss (), metrics; after `prepare`."""
        stats = self.net(posterior.deter.detach())
        nats = self.latent.kl(posterior.stats.detach(), stats)
        loss = (nats if self.weights is None else self.weights * nats).mean()
        with torch.no_grad():
            found = self._measured(stats.detach())
        return loss, self._metrics(loss, found)

    def disagreement(self, deter: Tensor) -> Tensor:
        """u(h): how much the members disagree about z. deter (..., D) -> (...)."""
        if torch.is_grad_enabled() or deter.device.type != "cpu":
            return self._measured(self.net(deter))
        rows = deter.reshape(-1, deter.shape[-1]).split(ROWS)  # what M members say of all at once leaves the caches
        return torch.cat([self._measured(self.net(some)) for some in rows]).reshape(deter.shape[:-1])

    def _measured(self, stats: Tensor) -> Tensor:
        return self.latent.distance(stats) if self.measure == "distance" else self.latent.disagreement(stats)

    def of_states(self, feat: Tensor, action: Tensor) -> Tensor:
        """u(h_k), k = 0..H-1. feat (..., H + 1, F) -> (..., H)."""
        return self.disagreement(self._deter(feat)[..., :-1, :])

    def of_arrivals(self, feat: Tensor, action: Tensor) -> Tensor:
        """u(h_k), k = 1..H. feat (..., H + 1, F) -> (..., H)."""
        return self.disagreement(self._deter(feat)[..., 1:, :])

    def _deter(self, feat: Tensor) -> Tensor:
        return feat[..., self.latent.stoch_dim :] if isinstance(feat, Tensor) else feat.deter  # fast/rows.py


class OneStepEnsemble(Ensemble):
    """M predictors of z_{t+1} from the features of t and the action that leaves t (Plan2Explore's heads).

    Loss: mean over members and steps t -> t + 1 within an episode of w 0.5 |z_{t+1} - mu_m|^2. Disagreement: standard
    deviation of the members' mu, mean over the dimensions of z. It is never 0 where z_{t+1} is drawn at random.
    """

    def __init__(
        self,
        feat_dim: int,
        action_dim: int,
        stoch_dim: int,
        *,
        members: int,
        layers: int = 4,
        hidden_dim: int = 400,
        norm: bool = False,
        activation: str = "elu",
        bootstrap: bool = True,
        generator: torch.Generator,
    ) -> None:
        super().__init__(members=members, bootstrap=bootstrap, generator=generator)
        self.net = BatchedMLP(
            members,
            feat_dim + action_dim,
            stoch_dim,
            layers=layers,
            hidden_dim=hidden_dim,
            norm=norm,
            activation=activation,
            generator=generator,
        )

    def loss(self, posterior: State, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """posterior and batch of (B, T, ...) -> loss (), metrics; after `prepare`."""
        inside = ~batch.is_first[:, 1:]  # t -> t + 1 is a step, not the beginning of another episode
        leaving = reset_where(~inside, batch.action[:, 1:])  # NaN where an episode begins
        mean = self.net(torch.cat([posterior.feat.detach()[:, :-1], leaving], -1))
        nats = 0.5 * (mean - posterior.stoch.detach()[:, 1:]).square().sum(-1)
        weighted = inside * (nats if self.weights is None else self.weights * nats)
        loss = weighted.sum() / (self.members * self.mean(inside.sum()).clamp(min=1))
        found = spread(mean.detach()).masked_fill(~inside, math.nan)
        return loss, self._metrics(loss, found)

    def of_states(self, feat: Tensor, action: Tensor) -> Tensor:
        """As `of_arrivals`, one state later: a dream's first state was not arrived at. (..., H + 1, F) -> (..., H)."""
        found = self.of_arrivals(feat, action)
        return torch.cat([torch.zeros_like(found[..., :1]), found[..., :-1]], -1)

    def of_arrivals(self, feat: Tensor, action: Tensor) -> Tensor:
        """For the step k -> k + 1 by action k. feat (..., H + 1, F), action (..., H, A) -> (..., H)."""
        return spread(self.net(torch.cat([feat[..., :-1, :], action], -1)))


class StepWarning(NamedTuple):
    """How well a model knew a step of acting before it looked, for each environment (N,). One step, not a future."""

    uncertainty: Tensor  # share of the replay's steps about which the members disagreed less: 1 is beyond all of them
    disagreement: Tensor  # in nats, or without a unit
    surprise: Tensor  # KL(posterior || prior) in nats: what looking changed


@torch.no_grad()
def warn(
    ensemble: Ensemble, rssm: DiscreteRSSM, before: State, action: Tensor, is_first: Tensor, state: State
) -> StepWarning:
    """before, state of (N, ...), action (N, A) between them, is_first (N,) bool -> StepWarning.

    Nothing leads to a first step: one-step heads say 0 of it.
    """
    feat = torch.stack([torch.cat([dense(s.stoch), s.deter], -1) for s in (before, state)], 1)
    found = ensemble.of_arrivals(feat, reset_where(is_first, action)[:, None])[:, 0]
    if isinstance(ensemble, OneStepEnsemble):
        found = reset_where(is_first, found)
    surprise = rssm.latent.kl(state.stats, rssm.prior_net(state.deter))
    return StepWarning(ensemble.usual.share_below(found), found, surprise)


def dense(stoch: Any) -> Tensor:
    """z (..., Z), also where the fast path keeps it as indices."""
    return stoch if isinstance(stoch, Tensor) else stoch.dense()


def spread(mean: Tensor) -> Tensor:
    """Standard deviation over the members, mean over the dimensions. (M, ..., Z) -> (...)."""
    return mean.var(0, correction=0).clamp(min=1e-12).sqrt().mean(-1)
