"""Open-loop dreams from real starts: a few observed steps, then only the prior (drawing in `data/replay.py`).

A window of replay lies in one episode. For `context` steps the posterior gets the observations; after that only the
prior continues, with the recorded actions, the policy's or random ones. The dream cannot see anything after the
context: a test changes the future and gets the same dream, bit for bit.

N starts, K samples of each (with other latent noise, to show the model's uncertainty), T = context + horizon steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.replay import Batch
from ..errors import UserError
from ..rssm import DiscreteRSSM, State
from ..train import DreamerV2, to_batch
from .run_reader import Experience, RunReader, as_batch, private_generator, require_memory

ACTIONS = ("replay", "policy", "random")


@dataclass(frozen=True)
class Dreamed:
    """Dreams from several starts and the truth. Images are uint8, vectors in the environment's own units."""

    context: int
    actions: str  # one of ACTIONS
    truth: dict[str, np.ndarray]  # {key: (N, T, ...)}; after the end of the episode its last step is repeated
    valid: np.ndarray  # (N, T) bool: the truth can be compared with the dream
    dream: dict[str, np.ndarray]  # {key: (N, K, T, ...)}; during the context reconstructions by the posterior
    reward: np.ndarray  # (N, K, T) predicted, in the space that the actor plans in, times `model.reward_unit`
    true_reward: np.ndarray  # (N, T)
    going_on: np.ndarray  # (N, K, T) predicted probability that the episode continues after this step
    value: np.ndarray  # (N, K, T)
    action: np.ndarray  # (N, K, T, A) into each step; NaN where there is none
    images: tuple[str, ...]  # the keys that are images
    #: (N, K, T) share of the replay's steps that were less strange to the model before looking; NaN for the first.
    #: None: the agent has no ensemble.
    uncertainty: np.ndarray | None = None
    #: {key: (N, K, T, H, W, C)}: the goal that a hierarchy has at each step, decoded; empty without one. Before the
    #: last observed step there is none: gray.
    goals: dict[str, np.ndarray] = field(default_factory=dict)
    goal_every: int = 0  # steps that a goal is kept

    @property
    def steps(self) -> int:
        """T, context included."""
        return self.valid.shape[1]

    def error(self, key: str) -> np.ndarray:
        """Mean squared error, with pixels from 0 to 1. -> (N, K, T), NaN where the truth is not valid."""
        scale = 255.0 if key in self.images else 1.0
        gap = (self.dream[key].astype(np.float64) - self.truth[key][:, None]) / scale
        mean_squared = (gap**2).mean(tuple(range(3, gap.ndim)))
        return np.where(self.valid[:, None], mean_squared, np.nan)

    def to_dict(self) -> dict[str, Any]:
        """The numbers, without images, as JSON values."""
        counts = self.valid.sum(0)
        errors = {
            key: _plain(np.where(counts, np.nansum(self.error(key).mean(1), 0) / np.maximum(counts, 1), np.nan))
            for key in self.truth
        }
        strange = {} if self.uncertainty is None else {"uncertainty": _plain(self.uncertainty.mean((0, 1)))}
        return strange | {
            "context": self.context,
            "horizon": self.steps - self.context,
            "actions": self.actions,
            "starts": len(self.valid),
            "samples": self.reward.shape[1],
            "mse": errors,
            "reward": _plain(self.reward.mean((0, 1))),
            "going_on": _plain(self.going_on.mean((0, 1))),
            "value": _plain(self.value.mean((0, 1))),
        }


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 6) for value in values]


def dream(
    run: RunReader,
    *,
    context: int = 5,
    horizon: int = 45,
    starts: int = 4,
    samples: int = 3,
    actions: str = "replay",
    seed: int = 0,
) -> Dreamed:
    """Dream from random steps of a run's replay. Raises UserError if no episode is long enough."""
    require_memory(run.need_experience(), starts * samples, context + horizon)
    batch, valid = find_starts(
        run.need_experience(), starts, context=context, horizon=horizon, seed=seed, anywhere=actions != "replay"
    )
    return dream_of(run.agent, batch, valid, context=context, samples=samples, actions=actions, seed=seed)


def find_starts(
    experience: Experience, count: int, *, context: int, horizon: int, seed: int = 0, anywhere: bool = False
) -> tuple[Batch, np.ndarray]:
    """Windows of one episode each, as long as possible up to the horizon. -> Batch of arrays (N, T, ...), valid (N, T).

    anywhere: also windows that contain only the context. Steps after the end of an episode repeat its last one and are
    not valid. Raises UserError if no episode is long enough.
    """
    places = []
    for segment in experience.segments:
        rows, length = segment.rows, len(segment)
        ends = np.flatnonzero(np.append(rows["is_first"][1:], True)) + 1  # one after each episode's last step
        end_of = ends[np.searchsorted(ends, np.arange(length), side="right")]
        places += [(segment, start, int(end_of[start]) - start) for start in range(length)]
    reach = max((left for *_, left in places), default=0)
    if reach < context + (0 if anywhere else 1):
        raise UserError(
            f"no episode in the replay has more than {context} steps.", "Choose a smaller --context, or train longer."
        )
    enough = context if anywhere else min(context + horizon, reach)
    good = [place for place in places if place[2] >= enough]
    chosen = np.random.default_rng(seed).choice(len(good), count, replace=len(good) < count)
    windows, valid = [], []
    for segment, start, left in (good[i] for i in chosen):
        at = np.minimum(np.arange(context + horizon), left - 1)
        windows.append({key: value[start + at] for key, value in segment.rows.items()})
        valid.append(np.arange(context + horizon) < left)
    return as_batch(windows), np.array(valid)


@torch.no_grad()
def dream_of(
    agent: DreamerV2,
    batch: Batch,
    valid: np.ndarray,
    *,
    context: int,
    samples: int = 1,
    actions: str = "replay",
    seed: int = 0,
) -> Dreamed:
    """Dream from given windows. batch: arrays (N, T, ...) of one episode each, valid (N, T). Raises UserError."""
    if actions not in ACTIONS:
        raise UserError(f"--actions must be one of {', '.join(ACTIONS)}, got '{actions}'.")
    starts, steps = valid.shape
    if not 1 <= context < steps:
        raise UserError(f"--context must be from 1 to {steps - 1}, got {context}.", "Choose a longer --horizon.")
    chance, rssm, device = private_generator(seed), agent.world_model.rssm, agent.device
    seen = to_batch(batch.map(lambda x: x[:, :context]), device)
    noise = rssm.latent.noise(starts, context, generator=chance).to(device)
    embed = agent.world_model.encoder(agent.world_model.preprocess(seen.obs))
    looked, _ = DiscreteRSSM.rollout_observation(rssm, embed, seen.action, seen.is_first, noise=noise)
    last = State(*(x[:, -1].repeat_interleave(samples, 0) for x in looked))
    noise = rssm.latent.noise(starts * samples, steps - context, generator=chance).to(device)
    pilot = agent.task.pilot(chance)
    choose = _chooser(agent, batch, pilot, context=context, samples=samples, actions=actions, chance=chance)
    dreamt = DiscreteRSSM.rollout_imagination(rssm, choose, last, steps - context, noise)
    feat = torch.cat([looked.feat.repeat_interleave(samples, 0), dreamt.feat[:, 1:]], 1)
    given = torch.from_numpy(batch.action[:, :context]).to(device).repeat_interleave(samples, 0)
    action = torch.cat([given, dreamt.action], 1)

    def by_sample(values: Tensor) -> np.ndarray:
        return values.float().cpu().numpy().reshape(starts, samples, *values.shape[1:])

    shown, unit = decode(agent, feat), agent.world_model.reward_unit
    valid = valid & (np.arange(steps) < context) if actions != "replay" else valid
    return Dreamed(
        context=context,
        actions=actions,
        truth={key: np.asarray(batch.obs[key]) for key in shown},
        valid=valid,
        dream={key: by_sample(value).astype(batch.obs[key].dtype) for key, value in shown.items()},
        reward=by_sample(agent.world_model.head("reward")(feat) * unit),
        true_reward=np.asarray(batch.reward),
        going_on=by_sample(agent.world_model.continues(feat)),
        value=by_sample(agent.critic(feat) * unit),
        action=by_sample(action),
        images=tuple(agent.spec.images),
        goals={key: by_sample(x).astype(np.uint8) for key, x in _goals(agent, pilot, dreamt.feat, context).items()},
        goal_every=agent.config.hierarchy.goal_every,
        uncertainty=None if agent.ensemble is None else by_sample(_uncertainty(agent, feat, action)),
    )


def _uncertainty(agent: DreamerV2, feat: Tensor, action: Tensor) -> Tensor:
    """feat (N * K, T, F), action (N * K, T, A) into each step -> (N * K, T), NaN for the first step."""
    if agent.ensemble is None:
        raise ValueError("an ensemble is needed")
    found = agent.ensemble.usual.share_below(agent.ensemble.of_arrivals(feat, action[:, 1:].nan_to_num()))
    return torch.cat([torch.full_like(found[:, :1], torch.nan), found], 1)


def _goals(agent: DreamerV2, pilot: Callable[[Tensor], Tensor], feat: Tensor, context: int) -> dict[str, Tensor]:
    """Images of goals. feat (N * K, H + 1, F), from the last observed state on -> {key: (N * K, T, H, W, C)}."""
    goals = agent.task.goals_of(pilot, feat)
    if goals is None:
        return {}
    shown = agent.world_model.reconstruct(goals)
    return {
        key: torch.cat([x[:, :1].expand(-1, context - 1, *x.shape[2:]) * 0 + 205, x], 1) for key, x in shown.items()
    }


def decode(agent: DreamerV2, feat: Tensor) -> dict[str, Tensor]:
    """Decode features to observations in the environment's units. feat (..., F) -> {key: (..., *shape)}."""
    model = agent.world_model
    return {**model.reconstruct(feat), **model.reconstruct_vectors(feat)}


def _chooser(
    agent: DreamerV2,
    batch: Batch,
    pilot: Callable[[Tensor], Tensor],
    *,
    context: int,
    samples: int,
    actions: str,
    chance: torch.Generator,
) -> Callable[[Tensor], Tensor]:
    """A policy for `rollout_imagination`: feat (N * K, F) -> the next action (N * K, A)."""
    if actions == "policy":
        return pilot
    if actions == "random":
        rng = np.random.default_rng(chance.initial_seed())
        return lambda feat: torch.from_numpy(agent.spec.action.random(rng, len(feat))).to(feat.device)
    known = iter(np.nan_to_num(batch.action[:, context:]).swapaxes(0, 1))
    return lambda feat: torch.from_numpy(next(known)).to(feat.device).repeat_interleave(samples, 0)
