"""The doctor's measurements of an agent on a sample of its own replay.

Pure functions without verdicts (those are in `rules_*.py`). Windows may cross episodes, as
in training. B windows, T steps, S categoricals, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.replay import STEP_KEYS, Batch, Replay
from ..errors import UserError
from ..ops import SCALAR_TRANSFORMS
from ..rssm import State
from ..train import DreamerV2, to_batch
from .drift import Drift, drift_of, with_plain_stoch
from .run_reader import MOST_STEPS, Experience, Segment, as_batch, private_generator
from .task_numbers import TaskNumbers, floor_entropy, relative_entropy, task_numbers

#: Number of random windows, number of windows that end with a rare reward or the end of the task, and their length.
WINDOWS, EVENTS, LENGTH = 32, 16, 16


@dataclass(frozen=True)
class Measurements:
    """Measurements of one agent on its own experience. None: not measurable, or meaningless for this agent."""

    steps: int = 0  # in the replay
    rewarding: float = 0.0  # share of steps with a reward other than 0
    rewards: tuple[float, float] = (0.0, 0.0)  # lowest and highest
    planned_reward: float = 0.0  # largest absolute reward in the space that the actor plans in
    terminals: float = 0.0  # share of steps that end the task
    broken: tuple[str, ...] = ()  # tensors that hold NaN or infinity
    growth: float = 1.0  # of the world model's weights since initialization, in the median layer
    inputs: dict[str, tuple[float, float]] = field(default_factory=dict)  # key -> (mean, largest absolute), scaled
    images: tuple[str, ...] = ()  # the keys of `inputs` that are images
    deviations: dict[str, tuple[float, float]] = field(default_factory=dict)  # of a vector's dimensions: (min, max)
    leak: float = 0.0  # change of the state after a reset when only the past changes
    explained: dict[str, float] = field(default_factory=dict)  # share of the variance that the decoder explains
    kl: float = math.nan  # KL(posterior || prior), nats per state
    information: float = math.nan  # KL(posterior || average posterior), nats: information from the observation
    below_free: float = 0.0  # share of states whose KL is below the free nats
    entropies: tuple[float, float] = (math.nan, math.nan)  # of posterior and prior, nats
    perplexity: float | None = None  # of the average posterior, mean over categoricals
    dead: float | None = None  # share of categoricals that never change
    difference: float | None = None  # between the categoricals of a state, total variation
    action_gain: float = math.nan  # KL of a dreamed step with a random action, in shares of that with the recorded one
    shifted: float = math.nan  # KL with actions one step early or late (the smaller), in shares of that at their time
    reward_contrast: float | None = None  # (predicted | reward) - (predicted | none), in shares of the true difference
    reward_explained: float | None = None  # share of the variance of rewards
    events: int = 0  # rewarding steps in the sample
    continues: tuple[float, float] | None = None  # mean predicted probability where the task continued, where it ended
    continue_brier: tuple[float, float] | None = None  # Brier score, and that of always predicting the frequency
    randomness: float = math.nan  # of the actor: 1 for the uniform policy, 0 for a deterministic one
    most_entropy: float = math.nan  # of the uniform policy over choices, in nats; NaN for numbers
    least_entropy: float = math.nan  # that policy_unimix leaves, in nats; NaN for numbers
    value: tuple[float, float] = (math.nan, math.nan)  # mean, deviation
    highest_value: float = math.nan  # largest absolute
    slow_gap: float = math.nan  # between critic and slow critic, in shares of the size of values
    strange: float | None = None  # share of the newest steps that the model knew less than 99 % of its replay
    drift: Drift | None = None
    task: TaskNumbers = field(default_factory=TaskNumbers)


def experience_of(replay: Replay, *, most: int = MOST_STEPS) -> Experience:
    """The newest `most` steps of a replay in memory, to measure an agent while it trains."""
    segments = []
    for stream, held in enumerate(np.minimum(replay.counts, replay.size).tolist()):
        length = min(held, max(1, most // len(replay.counts)))
        if length:
            batch = replay.window(np.array([stream]), np.array([held - length]), length)
            rows = {f"obs/{key}": value[0] for key, value in batch.obs.items()}
            segments.append(Segment(rows | {key: getattr(batch, key)[0] for key in ("action", *STEP_KEYS)}))
    return Experience(tuple(segments))


def probe(agent: DreamerV2, experience: Experience, *, seed: int = 0) -> Measurements:
    """Measure an agent, with a separate random stream. Raises UserError if the replay is too short."""
    length = min(LENGTH, agent.config.train.seq_len)
    random_windows = experience.windows(WINDOWS, length, seed=seed)
    rare_windows = event_windows(experience, EVENTS, length, seed=seed)
    arrays = random_windows if rare_windows is None else _joined(random_windows, rare_windows)
    batch = to_batch(arrays, agent.device)
    broken = tuple(name for name, value in agent.state_dict().items() if not bool(value.isfinite().all()))
    values = {**_of_experience(experience, agent), "broken": broken, "growth": weight_growth(agent.world_model)}
    if broken:
        return Measurements(**values)
    with torch.no_grad():
        values |= _probe_inputs(agent, batch)
        values["task"] = task_numbers(agent, experience, agent.world_model.preprocess(batch.obs))
        values |= _probe_model(agent, batch, _rates(experience), seed)
        values["strange"] = strange_share(agent, experience, length)
    try:
        values["drift"] = drift_of(agent.world_model, experience, agent.config, similarity=False)
    except UserError:  # no episode is long enough
        values["drift"] = None
    return Measurements(**values)


def weight_growth(module: nn.Module) -> float:
    """Size of the median weight matrix in shares of its size after Glorot initialization (layers.py: init_glorot)."""
    ratios = []
    for weight in (p.detach() for p in module.parameters() if p.dim() >= 2):
        area = weight[0, 0].numel()
        drawn = math.sqrt(2 / (area * (weight.shape[0] + weight.shape[1])))
        ratios.append(float(weight.pow(2).mean().sqrt()) / drawn)
    return sorted(ratios)[len(ratios) // 2]


def event_windows(experience: Experience, count: int, length: int, *, seed: int = 0) -> Batch | None:
    """Windows (count, length, ...) whose last step ends the task or pays a rare reward; None without such steps."""
    candidates = []
    for segment in experience.segments:
        reward = segment.rows["reward"]
        rare = reward != 0 if np.mean(reward != 0) < 0.2 else np.zeros_like(reward, dtype=bool)
        for end in np.flatnonzero(rare | segment.rows["is_terminal"]):
            if end + 1 >= length:
                candidates.append((segment, int(end) + 1 - length))
    if not candidates:
        return None
    chosen = np.random.default_rng(seed).choice(len(candidates), count, replace=len(candidates) < count)
    return as_batch([candidates[i][0].window(candidates[i][1], length) for i in chosen])


def _joined(left: Batch, right: Batch) -> Batch:
    obs = {key: np.concatenate([value, right.obs[key]]) for key, value in left.obs.items()}
    names = ("action", *STEP_KEYS)
    return Batch(obs, **{name: np.concatenate([getattr(left, name), getattr(right, name)]) for name in names})


def _of_experience(experience: Experience, agent: DreamerV2) -> dict[str, Any]:
    reward = np.concatenate([segment.rows["reward"] for segment in experience.segments])
    unit = agent.config.model.reward_unit
    squash, unsquash = SCALAR_TRANSFORMS[agent.config.model.reward_transform]
    return {
        "steps": len(experience),
        "rewarding": float(np.mean(reward != 0)),
        "rewards": (float(reward.min()), float(reward.max())),
        "planned_reward": float(unsquash(squash(torch.from_numpy(reward) / unit)).abs().max()),
        "terminals": _rates(experience),
    }


def _rates(experience: Experience) -> float:
    """Share of steps that end the task."""
    return float(np.mean(np.concatenate([segment.rows["is_terminal"] for segment in experience.segments])))


def _probe_inputs(agent: DreamerV2, batch: Batch) -> dict[str, Any]:
    model = agent.world_model
    obs = {key: value.float() for key, value in model.preprocess(batch.obs).items() if key != model.mask_key}
    numbers = {key: value for key, value in obs.items() if key in model.scaled_keys}
    vectors = {key: value.flatten(0, 1).std(0) for key, value in numbers.items()}
    moving = {key: value[value > 1e-6] for key, value in vectors.items()}
    return {
        "images": tuple(model.encoder.image_keys),
        "inputs": {key: (float(value.mean()), float(value.abs().max())) for key, value in obs.items()},
        "deviations": {key: (float(v.min()), float(v.max())) for key, v in moving.items() if len(v)},
    }


def _probe_model(agent: DreamerV2, batch: Batch, terminals: float, seed: int) -> dict[str, Any]:
    model, generator = agent.world_model, private_generator(seed)
    rssm = model.rssm
    obs = model.preprocess(batch.obs)
    embed = model.encoder(obs)
    noise = rssm.latent.noise(*batch.reward.shape, generator=generator).to(agent.device)
    rolled_out, prior = rssm.rollout_observation(embed, batch.action, batch.is_first, noise=noise)
    posterior = with_plain_stoch(rolled_out)
    values = {**latent_numbers(rssm.latent, posterior.stats, prior, agent.config.model.free_nats)}
    values["action_gain"] = action_gain(agent, posterior, batch, seed=seed)
    values["shifted"] = shifted_surprise(agent, batch, embed, noise, values["kl"])
    values["leak"] = memory_leak(agent, posterior, batch, embed, noise)
    values["explained"] = explained_shares(agent, posterior.feat, obs)
    values |= _probe_heads(agent, posterior.feat, batch, terminals)
    values |= _probe_behaviour(agent, posterior.feat)
    return values


#: The newest steps of each environment, which are asked whether the model knows them.
NEWEST = 256


def strange_share(agent: DreamerV2, experience: Experience, length: int, *, seed: int = 0) -> float | None:
    """The share of the newest steps about which the ensemble disagrees more than about 99 % of the replay's.

    Where nothing is new it is 0.01. Windows of `length` steps, the first of each left out; None without an ensemble.
    """
    windows = []
    for segment in experience.segments:
        last = len(segment)
        windows += [segment.window(at, length) for at in range(last - length, max(0, last - NEWEST) - 1, -length)]
    if agent.ensemble is None or not windows:
        return None
    batch, rssm = to_batch(as_batch(windows), agent.device), agent.world_model.rssm
    noise = rssm.latent.noise(*batch.reward.shape, generator=private_generator(seed)).to(agent.device)
    embed = agent.world_model.encoder(agent.world_model.preprocess(batch.obs))
    found, _ = rssm.rollout_observation(embed, batch.action, batch.is_first, noise=noise)
    known = agent.ensemble.of_arrivals(with_plain_stoch(found).feat, batch.action[:, 1:].nan_to_num())
    unusual = (agent.ensemble.usual.share_below(known) > 0.99) & ~batch.is_first[:, 1:]
    return float(unusual.sum() / (~batch.is_first[:, 1:]).sum().clamp(min=1))


def latent_numbers(latent: Any, posterior: Tensor, prior: Tensor, free_nats: float) -> dict[str, Any]:
    """The information in the latent and the KL of the prior. posterior, prior: stats (B, T, P)."""
    kl = latent.kl(posterior, prior)
    values: dict[str, Any] = {
        "kl": float(kl.mean()),
        "below_free": float((kl < free_nats).float().mean()),
        "entropies": (float(latent.entropy(posterior).mean()), float(latent.entropy(prior).mean())),
    }
    classes = latent.class_probs(posterior)
    if classes is None:
        information = latent.information(posterior)
        return values if information is None else values | {"information": float(information)}
    probs = classes.flatten(0, 1)  # (N, S, K)
    average = probs.mean(0)
    entropy = -(average * average.clamp(min=1e-12).log()).sum(-1)
    other = probs[:, torch.arange(probs.shape[1]).roll(1)]
    return values | {
        "information": float(entropy.sum() - latent.entropy(posterior).mean()),
        "perplexity": float(entropy.exp().mean()),
        "dead": float((entropy.exp() < 1.1).float().mean()),
        "difference": float(0.5 * (probs - other).abs().sum(-1).mean()) if probs.shape[1] > 1 else None,
    }


def action_gain(agent: DreamerV2, posterior: State, batch: Batch, *, seed: int = 0) -> float:
    """The KL of a dreamed step with a random action, in shares of that with the recorded action.

    KL(posterior at t || prior at t from the state at t - 1 and an action); the recorded action is the one into t
    (drawing in `data/replay.py`).
    posterior of (B, T, ...). NaN for fewer than 16 steps.
    """
    rssm, action = agent.world_model.rssm, batch.action[:, 1:].flatten(0, 1)
    keep = ~batch.is_first[:, 1:].flatten()
    if int(keep.sum()) < 16:
        return math.nan
    past = State(*(x[:, :-1].flatten(0, 1)[keep] for x in posterior))
    truth = posterior.stats[:, 1:].flatten(0, 1)[keep]

    def kl_with(chosen: Tensor) -> float:
        return float(rssm.latent.kl(truth, rssm.prior_net(rssm.recurrent_step(past, chosen))).mean())

    rng = np.random.default_rng(seed)
    others = [torch.from_numpy(agent.spec.action.random(rng, len(truth))).to(action) for _ in range(3)]
    return sum(map(kl_with, others)) / len(others) / max(kl_with(action[keep]), 1e-6)


def shifted_surprise(agent: DreamerV2, batch: Batch, embed: Tensor, noise: Tensor, kl: float) -> float:
    """KL(posterior || prior) with actions one step early or late, the smaller one, in shares of that at their time.

    Below 1, the model was trained with actions of another step than it acts and dreams with (drawing in
    `data/replay.py`).
    """
    rssm, kls = agent.world_model.rssm, []
    for shift in (-1, 1):
        action = batch.action.roll(shift, 1).nan_to_num()
        posterior, prior = rssm.rollout_observation(embed, action, batch.is_first, noise=noise)
        kls.append(float(rssm.latent.kl(posterior.stats, prior).mean()))
    return min(kls) / max(kl, 1e-6)


def memory_leak(agent: DreamerV2, posterior: State, batch: Batch, embed: Tensor, noise: Tensor) -> float:
    """The largest change of the state after a reset when the past is exchanged: should be 0. posterior (B, T, ...)."""
    count = batch.reward.shape[0]
    state = State(*(x[:, -1] for x in posterior))
    first = torch.ones(count, dtype=torch.bool, device=embed.device)
    rssm, action = agent.world_model.rssm, batch.action[:, -1].nan_to_num()
    expected = rssm.observe(state, action, embed[:, 0], first, noise[:, 0])
    other = rssm.observe(State(*(x.roll(1, 0) for x in state)), action.roll(1, 0), embed[:, 0], first, noise[:, 0])
    return float((expected.deter - other.deter).abs().max())


def explained_shares(agent: DreamerV2, feat: Tensor, obs: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of each observation's variance that its decoder explains from posterior states. feat (B, T, F)."""
    model, shares = agent.world_model, {}
    for key, target in obs.items():
        head = "obs/" + key.replace(".", "_")
        if head in model.heads and key != model.mask_key:
            flat = target.float().flatten(0, 1)
            error = ((model.head(head)(feat).float().flatten(0, 1) - flat) ** 2).mean()
            shares[key] = 1 - float(error / ((flat - flat.mean(0)) ** 2).mean().clamp(min=1e-8))
    return shares


def _probe_heads(agent: DreamerV2, feat: Tensor, batch: Batch, terminals: float) -> dict[str, Any]:
    model = agent.world_model
    squash, unsquash = SCALAR_TRANSFORMS[agent.config.model.reward_transform]
    reward = unsquash(squash(batch.reward / model.reward_unit)).flatten()
    predicted = model.head("reward")(feat).float().flatten()
    values: dict[str, Any] = {"events": int((reward != 0).sum())}
    if float(reward.var()) > 1e-10:
        values["reward_explained"] = 1 - float(((predicted - reward) ** 2).mean() / reward.var())
    rewarding = reward != 0
    if 0 < int(rewarding.sum()) < len(rewarding):
        gap = float(reward[rewarding].abs().mean())
        sign = reward[rewarding].sign()
        values["reward_contrast"] = float((sign * (predicted[rewarding] - predicted[~rewarding].mean())).mean()) / gap
    if "continue" in model.heads:
        ended, going = batch.is_terminal.flatten(), model.continues(feat).float().flatten().clamp(max=1)
        on = going[~ended]
        off = going[ended] if bool(ended.any()) else going.new_zeros(1)
        values["continues"] = (float(on.mean()), float(off.mean()))
        brier = (1 - terminals) * float(((1 - on) ** 2).mean()) + terminals * float((off**2).mean())
        values["continue_brier"] = (brier, terminals * (1 - terminals))
    return values


def _probe_behaviour(agent: DreamerV2, feat: Tensor) -> dict[str, Any]:
    flat = feat.flatten(0, 1)
    value, slow = agent.critic(flat), agent.slow_critic(flat)
    scale = float(value.std()) + float(value.abs().mean()) + 1e-3
    return {
        "randomness": randomness(agent, flat),
        "most_entropy": most_entropy(agent),
        "least_entropy": floor_entropy(agent),
        "value": (float(value.mean()), float(value.std())),
        "highest_value": float(value.abs().max()),
        "slow_gap": float((value - slow).abs().mean()) / scale,
    }


def most_entropy(agent: DreamerV2) -> float:
    """Entropy of uniformly random choices, in nats; NaN if any actions are numbers."""
    if agent.spec.action.kind != "discrete":
        return math.nan
    return sum(group.copies * math.log(max(2, group.size)) for group in agent.spec.action.groups)


def randomness(agent: DreamerV2, feat: Tensor, *, draws: int = 16) -> float:
    """Randomness of the policy: 1 for a uniform one, 0 for one that is as certain as it can be. feat (N, F).

    Choices: entropy on the way from what `policy_unimix` leaves to its maximum. Numbers: deviation in
    shares of the uniform distribution's, 0.577.
    """
    policy = agent.policy(feat)
    if agent.spec.action.kind == "discrete":
        return relative_entropy(float(policy.entropy().mean()), floor_entropy(agent), most_entropy(agent))
    generator = private_generator(0)
    actions = torch.stack([policy.sample(policy.noise(generator)) for _ in range(draws)])
    numbers = actions[..., ~agent.task.is_choice]
    return float(numbers.std(0).mean()) * math.sqrt(3)
