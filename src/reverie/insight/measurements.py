"""What the doctor measures: a handful of numbers from the weights and a sample of replay, and from the run's logs.

Pure functions; no verdicts in here (verdicts.py). Windows are those of `replay.py` and may cross episodes, as in
training. Shapes as everywhere: B windows, T steps, S categoricals, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.replay import Batch, Replay
from ..errors import UserError
from ..latents import CategoricalLatent
from ..ops import SCALAR_TRANSFORMS
from ..rssm import State
from ..train import DreamerV2, to_batch
from .drift import Drift, drift_of, written_out
from .run_reader import Experience, Stretch, as_batch, own_noise

#: Windows drawn anywhere, and windows that end with something rare: a reward or an end.
WINDOWS, EVENTS, LENGTH = 32, 16, 16


@dataclass(frozen=True)
class Measurements:
    """Of one agent on its own experience. None: it could not be measured, or makes no sense here."""

    steps: int = 0  # in the replay
    rewarding: float = 0.0  # share of steps with a reward other than 0
    rewards: tuple[float, float] = (0.0, 0.0)  # lowest and highest
    planned_reward: float = 0.0  # largest absolute reward as the actor plans with it
    terminals: float = 0.0  # share of steps that end the task
    broken: tuple[str, ...] = ()  # tensors that hold NaN or infinity
    growth: float = 1.0  # of the world model's weights since they were drawn, the median layer
    inputs: dict[str, tuple[float, float]] = field(default_factory=dict)  # key -> mean, largest absolute, scaled
    images: tuple[str, ...] = ()  # which of them are images
    deviations: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # of vectors' dimensions: smallest, largest
    leak: float = 0.0  # change of the state after a reset when only the past changes
    explained: dict[str, float] = field(default_factory=dict)  # share of variance that the posterior's decoder gets
    kl: float = math.nan  # KL(posterior || prior), nats per state
    information: float = math.nan  # KL(posterior || average posterior): what a look tells at all, nats
    below_free: float = 0.0  # share of states whose KL is below the free nats
    entropies: tuple[float, float] = (math.nan, math.nan)  # of posterior and prior, nats
    perplexity: float | None = None  # of the average posterior, mean over categoricals
    dead: float | None = None  # share of categoricals that never change
    difference: float | None = None  # between the categoricals of a state, total variation
    action_gain: float = math.nan  # how much more a dreamed step misses with a random action, ratio of KLs
    shifted: float = math.nan  # how much more looking is surprised with actions one step early or late, the smaller
    reward_contrast: float | None = None  # (predicted | reward) - (predicted | none), in shares of the true difference
    reward_explained: float | None = None  # share of the variance of rewards
    events: int = 0  # rewarding steps that were looked at
    continues: tuple[float, float] | None = None  # mean predicted probability where the task went on, where it ended
    continue_brier: tuple[float, float] | None = None  # Brier score, and that of always telling the share
    randomness: float = math.nan  # of the actor: 1 as random as can be, 0 always the same action in a state
    most_entropy: float = math.nan  # that choices can have, in nats; NaN for numbers
    value: tuple[float, float] = (math.nan, math.nan)  # mean, deviation
    highest_value: float = math.nan  # largest absolute
    slow_gap: float = math.nan  # between critic and slow critic, in shares of what values are like
    drift: Drift | None = None


def experience_of(replay: Replay, *, most: int = 20_000) -> Experience:
    """The newest steps of a replay in memory, for looking at an agent while it learns."""
    stretches = []
    for stream, held in enumerate(np.minimum(replay.counts, replay.size).tolist()):
        length = min(held, max(1, most // len(replay.counts)))
        if length:
            batch = replay.window(np.array([stream]), np.array([held - length]), length)
            rows = {f"obs/{key}": value[0] for key, value in batch.obs.items()}
            stretches.append(Stretch(rows | {k: v[0] for k, v in batch._asdict().items() if k != "obs"}))
    return Experience(tuple(stretches))


def probe(agent: DreamerV2, experience: Experience, *, seed: int = 0) -> Measurements:
    """Measure. Draws from no stream of random numbers but its own. Raises UserError where replay is too short."""
    length = min(LENGTH, agent.config.train.seq_len)
    everywhere = experience.windows(WINDOWS, length, seed=seed)
    rare = event_windows(experience, EVENTS, length, seed=seed)
    arrays = everywhere if rare is None else _joined(everywhere, rare)
    batch = to_batch(arrays, agent.device)
    broken = tuple(name for name, value in agent.state_dict().items() if not bool(value.isfinite().all()))
    told = {**_of_experience(experience, agent), "broken": broken, "growth": weight_growth(agent.world_model)}
    if broken:
        return Measurements(**told)
    with torch.no_grad():
        told |= _probe_inputs(agent, batch)
        told |= _probe_model(agent, batch, _rates(experience), seed)
    try:
        told["drift"] = drift_of(
            agent.world_model, experience, agent.config, starts=48, context=min(5, length - 2), similarity=False
        )
    except UserError:  # no episode is long enough
        told["drift"] = None
    return Measurements(**told)


def weight_growth(module: nn.Module) -> float:
    """Size of the median weight matrix in shares of what Glorot's initialisation draws (networks.py: init_glorot)."""
    found = []
    for weight in (p.detach() for p in module.parameters() if p.dim() >= 2):
        area = weight[0, 0].numel()
        drawn = math.sqrt(2 / (area * (weight.shape[0] + weight.shape[1])))
        found.append(float(weight.pow(2).mean().sqrt()) / drawn)
    return sorted(found)[len(found) // 2]


def event_windows(experience: Experience, count: int, length: int, *, seed: int = 0) -> Batch | None:
    """Windows (count, length, ...) whose last step ends the task or pays a rare reward. -> Batch, or None."""
    found = []
    for stretch in experience.stretches:
        reward = stretch.rows["reward"]
        rare = reward != 0 if np.mean(reward != 0) < 0.2 else np.zeros_like(reward, dtype=bool)
        for end in np.flatnonzero(rare | stretch.rows["is_terminal"]):
            if end + 1 >= length:
                found.append((stretch, int(end) + 1 - length))
    if not found:
        return None
    chosen = np.random.default_rng(seed).choice(len(found), count, replace=len(found) < count)
    return as_batch([found[i][0].window(found[i][1], length) for i in chosen])


def _joined(left: Batch, right: Batch) -> Batch:
    obs = {key: np.concatenate([value, right.obs[key]]) for key, value in left.obs.items()}
    return Batch(obs, *(np.concatenate(pair) for pair in zip(left[1:], right[1:], strict=True)))


def _of_experience(experience: Experience, agent: DreamerV2) -> dict[str, Any]:
    reward = np.concatenate([stretch.rows["reward"] for stretch in experience.stretches])
    squash, unsquash = SCALAR_TRANSFORMS[agent.config.model.reward_transform]
    return {
        "steps": len(experience),
        "rewarding": float(np.mean(reward != 0)),
        "rewards": (float(reward.min()), float(reward.max())),
        "planned_reward": float(unsquash(squash(torch.from_numpy(reward))).abs().max()),
        "terminals": _rates(experience),
    }


def _rates(experience: Experience) -> float:
    """Share of steps that end the task."""
    return float(np.mean(np.concatenate([stretch.rows["is_terminal"] for stretch in experience.stretches])))


def _probe_inputs(agent: DreamerV2, batch: Batch) -> dict[str, Any]:
    model = agent.world_model
    obs = {key: value.float() for key, value in model.preprocess(batch.obs).items() if key != model.mask_key}
    vectors = {key: value.flatten(0, 1).std(0) for key, value in obs.items() if key not in model.encoder.image_keys}
    moving = {key: value[value > 1e-6] for key, value in vectors.items()}
    return {
        "images": tuple(model.encoder.image_keys),
        "inputs": {key: (float(value.mean()), float(value.abs().max())) for key, value in obs.items()},
        "deviations": {key: (float(v.min()), float(v.max())) for key, v in moving.items() if len(v)},
    }


def _probe_model(agent: DreamerV2, batch: Batch, terminals: float, seed: int) -> dict[str, Any]:
    model, generator = agent.world_model, own_noise(seed)
    rssm = model.rssm
    obs = model.preprocess(batch.obs)
    embed = model.encoder(obs)
    noise = rssm.latent.noise(*batch.reward.shape, generator=generator).to(agent.device)
    found, prior = rssm.rollout_observation(embed, batch.action, batch.is_first, noise=noise)
    posterior = written_out(found)
    told = {**latent_numbers(rssm.latent, posterior.stats, prior, agent.config.model.free_nats)}
    told["action_gain"] = action_gain(agent, posterior, batch, seed=seed)
    told["shifted"] = shifted_surprise(agent, batch, embed, noise, told["kl"])
    told["leak"] = memory_leak(agent, posterior, batch, embed, noise)
    told["explained"] = explained_shares(agent, posterior.feat, obs)
    told |= _probe_heads(agent, posterior.feat, batch, terminals)
    told |= _probe_behaviour(agent, posterior.feat)
    return told


def latent_numbers(latent: Any, posterior: Tensor, prior: Tensor, free_nats: float) -> dict[str, Any]:
    """How much the latent says, and how well the prior foresees it. posterior, prior: stats (B, T, P)."""
    kl = latent.kl(posterior, prior)
    told: dict[str, Any] = {
        "kl": float(kl.mean()),
        "below_free": float((kl < free_nats).float().mean()),
        "entropies": (float(latent.entropy(posterior).mean()), float(latent.entropy(prior).mean())),
    }
    if not isinstance(latent, CategoricalLatent):
        mean, std = latent.mean_std(posterior)
        spread = mean.flatten(0, 1).var(0) + (std**2).flatten(0, 1).mean(0)
        information = 0.5 * torch.log(spread / (std**2).flatten(0, 1)).sum(-1).mean()
        return told | {"information": float(information)}
    probs = latent.logits(posterior).softmax(-1).flatten(0, 1)  # (N, S, K)
    average = probs.mean(0)
    entropy = -(average * average.clamp(min=1e-12).log()).sum(-1)
    other = probs[:, torch.arange(probs.shape[1]).roll(1)]
    return told | {
        "information": float(entropy.sum() - latent.entropy(posterior).mean()),
        "perplexity": float(entropy.exp().mean()),
        "dead": float((entropy.exp() < 1.1).float().mean()),
        "difference": float(0.5 * (probs - other).abs().sum(-1).mean()) if probs.shape[1] > 1 else None,
    }


def action_gain(agent: DreamerV2, posterior: State, batch: Batch, *, seed: int = 0) -> float:
    """Does the right action make one dreamed step better? posterior of (B, T, ...); NaN where too few steps tell.

    KL(posterior at t || one step of prior from t - 1 with an action): with a random action, in shares of that with the
    action that led into t (drawing in `replay.py`).
    """
    rssm, action = agent.world_model.rssm, batch.action[:, 1:].flatten(0, 1)
    keep = ~batch.is_first[:, 1:].flatten()
    if int(keep.sum()) < 16:
        return math.nan
    past = State(*(x[:, :-1].flatten(0, 1)[keep] for x in posterior))
    truth = posterior.stats[:, 1:].flatten(0, 1)[keep]

    def miss(chosen: Tensor) -> float:
        return float(rssm.latent.kl(truth, rssm.prior_net(rssm.recurrent_step(past, chosen))).mean())

    rng = np.random.default_rng(seed)
    others = [torch.from_numpy(agent.spec.action.random(rng, len(truth))).to(action) for _ in range(3)]
    return sum(map(miss, others)) / len(others) / max(miss(action[keep]), 1e-6)


def shifted_surprise(agent: DreamerV2, batch: Batch, embed: Tensor, noise: Tensor, kl: float) -> float:
    """KL of looking with actions that are told one step early or late, the smaller, in shares of that at their time.

    Below 1 the model was taught at another time than it acts and dreams at (drawing in `replay.py`).
    """
    rssm, found = agent.world_model.rssm, []
    for shift in (-1, 1):
        action = batch.action.roll(shift, 1).nan_to_num()
        posterior, prior = rssm.rollout_observation(embed, action, batch.is_first, noise=noise)
        found.append(float(rssm.latent.kl(posterior.stats, prior).mean()))
    return min(found) / max(kl, 1e-6)


def memory_leak(agent: DreamerV2, posterior: State, batch: Batch, embed: Tensor, noise: Tensor) -> float:
    """How much of the state after a reset hangs on what came before it; 0 as it should be. posterior of (B, T, ...)."""
    count = batch.reward.shape[0]
    state = State(*(x[:, -1] for x in posterior))
    first = torch.ones(count, dtype=torch.bool, device=embed.device)
    rssm, action = agent.world_model.rssm, batch.action[:, -1].nan_to_num()
    here = rssm.observe(state, action, embed[:, 0], first, noise[:, 0])
    other = rssm.observe(State(*(x.roll(1, 0) for x in state)), action.roll(1, 0), embed[:, 0], first, noise[:, 0])
    return float((here.deter - other.deter).abs().max())


def explained_shares(agent: DreamerV2, feat: Tensor, obs: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of each observation's variance that its decoder gets from states that looked. feat (B, T, F)."""
    model, found = agent.world_model, {}
    for key, target in obs.items():
        head = "obs/" + key.replace(".", "_")
        if head in model.heads and key != model.mask_key:
            flat = target.float().flatten(0, 1)
            error = ((model.head(head)(feat).float().flatten(0, 1) - flat) ** 2).mean()
            found[key] = 1 - float(error / ((flat - flat.mean(0)) ** 2).mean().clamp(min=1e-8))
    return found


def _probe_heads(agent: DreamerV2, feat: Tensor, batch: Batch, terminals: float) -> dict[str, Any]:
    model = agent.world_model
    squash, unsquash = SCALAR_TRANSFORMS[agent.config.model.reward_transform]
    reward, predicted = unsquash(squash(batch.reward)).flatten(), model.head("reward")(feat).float().flatten()
    told: dict[str, Any] = {"events": int((reward != 0).sum())}
    if float(reward.var()) > 1e-10:
        told["reward_explained"] = 1 - float(((predicted - reward) ** 2).mean() / reward.var())
    some = reward != 0
    if 0 < int(some.sum()) < len(some):
        gap = float(reward[some].abs().mean())
        sign = reward[some].sign()
        told["reward_contrast"] = float((sign * (predicted[some] - predicted[~some].mean())).mean()) / gap
    if "continue" in model.heads:
        ended, going = batch.is_terminal.flatten(), model.continues(feat).float().flatten().clamp(max=1)
        on = going[~ended]
        off = going[ended] if bool(ended.any()) else going.new_zeros(1)
        told["continues"] = (float(on.mean()), float(off.mean()))
        brier = (1 - terminals) * float(((1 - on) ** 2).mean()) + terminals * float((off**2).mean())
        told["continue_brier"] = (brier, terminals * (1 - terminals))
    return told


def _probe_behaviour(agent: DreamerV2, feat: Tensor) -> dict[str, Any]:
    flat = feat.flatten(0, 1)
    value, slow = agent.critic(flat), agent.slow_critic(flat)
    scale = float(value.std()) + float(value.abs().mean()) + 1e-3
    return {
        "randomness": randomness(agent, flat),
        "most_entropy": most_entropy(agent),
        "value": (float(value.mean()), float(value.std())),
        "highest_value": float(value.abs().max()),
        "slow_gap": float((value - slow).abs().mean()) / scale,
    }


def most_entropy(agent: DreamerV2) -> float:
    """Of a uniformly random choice, in nats; NaN where actions are numbers."""
    if agent.spec.action.kind != "discrete":
        return math.nan
    return sum(group.copies * math.log(max(2, group.size)) for group in agent.spec.action.groups)


def randomness(agent: DreamerV2, feat: Tensor, *, draws: int = 16) -> float:
    """1: as random as the action space allows; 0: always the same action in a state. feat (N, F).

    Choices: entropy in shares of its maximum. Numbers: their deviation in shares of the uniform one's, 0.577.
    """
    policy = agent.policy(feat)
    if agent.spec.action.kind == "discrete":
        return float(policy.entropy().mean()) / most_entropy(agent)
    generator = own_noise(0)
    actions = torch.stack([policy.sample(policy.noise(generator)) for _ in range(draws)])
    numbers = actions[..., ~agent.is_choice]
    return float(numbers.std(0).mean()) * math.sqrt(3)
