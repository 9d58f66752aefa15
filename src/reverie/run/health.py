"""Health of the world model and the critic, from one batch: use of the latent code, calibration of heads and values.

Pure functions on tensors; `snapshot`, which computes all of them on a batch without touching any random stream of
training; `HealthMonitor`, which calls it during a run. Every number has an entry in insight/glossary.py.

S categoricals, K classes; probabilities of (B, T, S, K) are averaged over batch and time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..data.replay import Batch
from ..distributions import CompositePolicy, Policy
from ..files import write_file, writing
from ..latents import Latent, class_usage
from ..ops import SCALAR_TRANSFORMS, symlog

if TYPE_CHECKING:
    from ..train import DreamerV2

FILE = "latents.json"

#: Probabilities are compared with outcomes in so many groups.
BINS = 10


class HealthSnapshot(NamedTuple):
    """Result of `snapshot`."""

    numbers: dict[str, float]  # metric -> value
    usage: Tensor | None  # (S, K) mean probability of each class; None without categoricals


# ------------------------------------------------------------------------------------------------------------- the code


def kl_gradient_norms(latent: Latent, posterior: Tensor, prior: Tensor) -> tuple[Tensor, Tensor] | None:
    """Norms of a state's d KL(posterior || prior) / d each side (`Latent.kl_gradients`), root mean square over states.

    So they do not depend on the size of the batch. None where the latent derives none. posterior, prior (..., P)
    -> (), () for (posterior, prior). The halves of a balanced KL have equal values, not equal gradients
    (implementation-details.md#kl-balancing).
    """
    gradients = latent.kl_gradients(posterior, prior)
    if gradients is None:
        return None
    root = math.sqrt(math.prod(posterior.shape[:-1]))
    return gradients[0].norm() / root, gradients[1].norm() / root


# ------------------------------------------------------------------------------------------------------------ the heads


def brier(probs: Tensor, outcomes: Tensor) -> Tensor:
    """Mean squared distance of probabilities from what came. (...), (...) of 0 and 1 -> (); 0 is perfect."""
    return ((probs - outcomes) ** 2).mean()


def expected_calibration_error(probs: Tensor, outcomes: Tensor, *, bins: int = BINS) -> Tensor:
    """How far probabilities are from frequencies, in `bins` equal groups of probability, weighted by their size.

    probs, outcomes (...) -> (), 0 to 1.
    """
    probs, outcomes = probs.flatten().clamp(0, 1), outcomes.flatten()
    group = (probs * bins).long().clamp(max=bins - 1)
    zeros = probs.new_zeros(bins)
    claimed, came = zeros.scatter_add(0, group, probs), zeros.scatter_add(0, group, outcomes)
    return (claimed - came).abs().sum() / len(probs)


class Fit(NamedTuple):
    """Agreement of predictions (...) with what came."""

    bias: Tensor  # mean of prediction - truth
    slope: Tensor  # of the truth's regression on the prediction: 1 is calibrated, below 1 is too sure
    correlation: Tensor


def fit(predicted: Tensor, truth: Tensor, mask: Tensor) -> Fit:
    """Where mask (...) is 1. slope and correlation are 0 where either side never changes."""
    weight = mask.float() / mask.sum().clamp(min=1)
    mean, goal = (weight * predicted).sum(), (weight * truth).sum()
    left, right = predicted - mean, truth - goal
    variance, other, both = (weight * left**2).sum(), (weight * right**2).sum(), (weight * left * right).sum()
    tiny = 1e-12
    still = (variance < tiny) | (other < tiny)
    slope = torch.where(still, 0, both / variance.clamp(min=tiny))
    return Fit(mean - goal, slope, torch.where(still, 0, both / (variance * other).sqrt().clamp(min=tiny)))


def explained(predicted: Tensor, truth: Tensor) -> Tensor:
    """Share of the variance that is predicted: 1 all, 0 no better than the mean, below 0 worse. (...) -> ()."""
    return 1 - ((predicted - truth) ** 2).mean() / truth.var(correction=0).clamp(min=1e-12)


def realised_returns(batch: Batch, values: Tensor, rewards: Tensor, *, gamma: float, own_reward: bool) -> Tensor:
    """Discounted sums of what really came, up to the window's end, whose value is the critic's. (B, T) -> (B, T).

    rewards: of the batch, in the space that the actor plans in. own_reward: a state's value includes the reward of
    arriving there (drawing in replay.py); otherwise it begins with the next one's. Where a time limit cuts an episode
    its last state has the critic's own value: what would have come is not known.
    """
    ended, last = batch.is_terminal.float(), batch.is_last & ~batch.is_terminal
    returns = [values[:, -1]]
    for t in reversed(range(values.shape[1] - 1)):
        if own_reward:
            now = rewards[:, t] + gamma * (1 - ended[:, t]) * returns[-1]
        else:
            now = (1 - ended[:, t]) * (rewards[:, t + 1] + gamma * returns[-1])
        returns.append(torch.where(last[:, t], values[:, t], now))
    return torch.stack(returns[::-1], 1)


def known(batch: Batch, *, own_reward: bool) -> Tensor:
    """States whose value is about something that came: bool (B, T).

    Not of the last one before a time limit, whose return is its own value; nor, without a reward of its own, of the
    end of the task, whose value is never trained.
    """
    return ~(batch.is_last & ~batch.is_terminal if own_reward else batch.is_last)


def entropies(policy: Policy) -> dict[str, Tensor]:
    """Mean entropy of each part of the action in nats, by its number; {} for one part: `actor/entropy` covers it."""
    if not isinstance(policy, CompositePolicy):
        return {}
    return {f"actor/entropy_part{i}": member.entropy().mean() for i, (member, _) in enumerate(policy.members)}


# ---------------------------------------------------------------------------------------------------------- all of them


@torch.no_grad()
def snapshot(agent: DreamerV2, batch: Batch, *, seed: int = 0) -> HealthSnapshot:
    """All numbers from one batch of tensors (B, T, ...). Draws only from a random stream of its own."""
    model, config = agent.world_model, agent.config
    latent = model.rssm.latent
    noise = latent.noise(*batch.reward.shape, generator=torch.Generator().manual_seed(seed)).to(batch.reward.device)
    # torch.compile would compile everything again for passes without gradients: longer than many snapshots take.
    plain: AbstractContextManager[object] = (
        torch.compiler.set_stance("force_eager") if agent.mode == "compile" else nullcontext()
    )
    with plain, agent.autocast():
        embed = model.encoder(model.preprocess(batch.obs))
        posterior, prior = model.rssm.rollout_observation(embed, batch.action, batch.is_first, noise=noise)
        feat = posterior.feat
        rewards, values, policy = model.head("reward")(feat), agent.critic(feat), agent.policy(feat)
    found: dict[str, Tensor] = {"kl/loss": model.rssm.kl_loss(posterior.stats, prior, **model.kl)[0]}
    found |= {f"latent/{name}": value for name, value in latent.summary(posterior.stats).items()}
    probs = latent.class_probs(posterior.stats)
    usage = None if probs is None else class_usage(probs)
    if gradients := kl_gradient_norms(latent, posterior.stats, prior):
        found["kl/grad_posterior"], found["kl/grad_prior"] = gradients
    truth = batch.reward / model.reward_unit
    if config.model.reward_transform in ("tanh", "sign"):
        truth = SCALAR_TRANSFORMS[config.model.reward_transform][0](truth)
    found |= _of_rewards(rewards.float(), truth)
    if "continue" in model.heads:
        goes, came = model.continues(feat).float(), 1 - batch.is_terminal.float()
        found |= {"continue/brier": brier(goes, came), "continue/ece": expected_calibration_error(goes, came)}
    returns = realised_returns(
        batch,
        values.float(),
        truth,
        gamma=config.behavior.gamma,
        own_reward=config.behavior.reward_index == "current",
    )
    counted = known(batch, own_reward=config.behavior.reward_index == "current").float()
    counted[:, max(1, returns.shape[1] // 2) :] = 0  # mostly the critic's own guess at the window's end
    found |= {f"critic/{name}": value for name, value in fit(values.float(), returns, counted)._asdict().items()}
    found |= {"critic/symlog_min": symlog(values.float()).min(), "critic/symlog_max": symlog(values.float()).max()}
    found |= entropies(policy)
    numbers = torch.stack([value.float() for value in found.values()]).tolist()  # the one wait for the device
    return HealthSnapshot(dict(zip(found, numbers, strict=True)), usage)


def _of_rewards(predicted: Tensor, truth: Tensor) -> dict[str, Tensor]:
    found = {"reward/mse": ((predicted - truth) ** 2).mean(), "reward/explained": explained(predicted, truth)}
    return found | {"reward/symlog_min": symlog(truth).min(), "reward/symlog_max": symlog(truth).max()}


# --------------------------------------------------------------------------------------------------------- during a run


class HealthMonitor:
    """Takes snapshots during a run; holds the numbers of the last one until they are written."""

    def __init__(self, directory: Path, every: int, may_write: Callable[[], None]) -> None:
        """every: updates between snapshots, 0 for none; may_write raises if the directory is no longer ours."""
        self.directory = directory
        self.every = every
        self.may_write = may_write
        self.found: dict[str, float] = {}  # since the last line of metrics

    def after_update(self, agent: DreamerV2, batch: Batch, *, updates: int, env_steps: int) -> None:
        """Take a snapshot, if it is time for that. batch: the one that was learnt from."""
        if not self.every or updates % self.every:
            return
        now = snapshot(agent, batch, seed=updates)
        self.found = {key: value for key, value in now.numbers.items() if math.isfinite(value)}
        self._write(now, updates, env_steps)

    def take(self) -> dict[str, float]:
        """The numbers since the last line of metrics."""
        found, self.found = self.found, {}
        return found

    def _write(self, now: HealthSnapshot, updates: int, env_steps: int) -> None:
        if now.usage is None or not bool(now.usage.isfinite().all()):  # NaN is no JSON: a browser would not read it
            return
        rows = [[round(share, 4) for share in row] for row in now.usage.tolist()]
        text = json.dumps({"env_steps": env_steps, "updates": updates, "usage": rows})
        self.may_write()
        with writing(FILE, self.directory):
            write_file(self.directory / FILE, text)
