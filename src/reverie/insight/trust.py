"""Trust: may a policy be trained in this run's dreams? Measured in the real task, not guessed from model errors.

Errors of predictions may continue to fall while policies that learn in the model get worse (arXiv 2607.01736), and a
fresh policy that knows the model only can fail in a model that scores well (2607.15142). So three measurements:

    made      a fresh actor and critic learn in the frozen model only, from states of the run's own replay, then play
              the real task, beside the run's own policy and random actions
    optimism  from states of the episodes that the made policy really played, it continues in the dream: what it earns
              there within 1..H steps, beside what it really earned
    errors    real actions are replayed without observations: errors of reward, continue and value after 1..H steps, in
              shares of what a constant guess is off by, on the run's replay and on the made policy's episodes

Times as in `data/replay.py`: the reward of a state was received on arriving there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..actor_critic import Critic
from ..build import build_optimizers
from ..config import Config, build
from ..data.collect import ActFunction
from ..data.replay import Batch
from ..envs import EnvLike, is_instance
from ..envs.spaces import Spec
from ..errors import UserError, digits
from ..files import read_record
from ..finite import NonFinite
from ..ops import SCALAR_TRANSFORMS
from ..rssm import DiscreteRSSM, State
from ..run.evaluation import Evaluation, evaluate, random_policy
from ..run.tasks import copy_env, make_envs, spec_of
from ..train import DreamerV2, to_batch
from ..world_model import WorldModel
from .drift import CONTEXT, open_loop, sample_windows, with_plain_stoch
from .run_reader import MOST_BYTES, Experience, RunReader, Segment, private_generator, require_memory

Array = NDArray[np.float64]
#: What a measurement calls while it works: (share done from 0 to 1, what it does).
Report = Callable[[float, str], None]

#: Updates of the fresh policy unless asked for: as many as the run made, at most so many.
MOST_UPDATES = 3000
#: Rows of replay whose states start the dreams, dreams for the curves, and episodes drawn again for their intervals.
POOL, STARTS, REPETITIONS = 16_000, 512, 400
#: A made policy this close to the run's own counts as good, in shares of the way from random actions to it; this close
#: if the difference is within the noise of the episodes.
GOOD, NOISY = 0.9, 0.75
#: A gap up to this share of what is earned within as many steps is none.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Optimism:
    """What the made policy earns within 1..H steps, in its dreams and in the real task; lists have H entries.

    None where too few of its episodes are that long. gap = dream - real, with its 95 % interval over episodes.
    """

    dream: list[float | None]
    real: list[float | None]
    gap: list[float | None]
    low: list[float | None]
    high: list[float | None]
    size: list[float | None]  # root mean square of what is earned, the larger of both: what a gap is measured by
    episodes: int

    def holds_until(self) -> int:
        """The last horizon up to which the gap is none at every horizon, or is not known to be one; 0..H."""
        for k, (low, high, size) in enumerate(zip(self.low, self.high, self.size, strict=True)):
            if low is None or high is None or size is None:
                return k
            if low > TOLERANCE * size or high < -TOLERANCE * size:
                return k
        return len(self.gap)


@dataclass(frozen=True)
class Rewards:
    """Rewards that are rare: how many of those that came the dream foresaw, and how many that it promised came."""

    came: int
    foreseen: int
    promised: int
    kept: int


@dataclass(frozen=True)
class Trust:
    """The measurement of one checkpoint."""

    checkpoint: str
    task: str
    updates: int  # of the made policy
    cpu_minutes: float  # of the whole measurement
    policies: dict[str, Evaluation]  # "random", "own", "made"
    optimism: Optimism
    errors: dict[str, dict[str, list[float | None]]]  # "replay", "played" -> reward, continue, value -> by depth
    rewards: Rewards | None
    imagination_horizon: int
    #: Windows with the largest reward errors: arrays (N, T, ...), valid (N, T), observed steps before the dream.
    worst: tuple[Batch, NDArray[np.bool_], int] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """How many steps dreams are trusted for."""
        return self.optimism.holds_until() if self.level != "no" else 0

    @property
    def share(self) -> float | None:
        """How far the made policy comes on the way from random actions (0) to the run's own policy (1).

        None where the run's own policy is not better than random beyond noise.
        """
        random, own, made = (self.policies[name] for name in ("random", "own", "made"))
        return (made.mean - random.mean) / (own.mean - random.mean) if better(own, random) else None

    @property
    def level(self) -> str:
        """ "yes", "partly" or "no"."""
        random, own, made = (self.policies[name] for name in ("random", "own", "made"))
        if not better(made, random):
            return "no"
        near = self.share is None or self.share >= GOOD or (self.share >= NOISY and not better(own, made))
        until = self.optimism.holds_until()
        reach = min(self.imagination_horizon, sum(gap is not None for gap in self.optimism.gap))
        return "yes" if near and until >= max(1, reach) else "partly"

    @property
    def rank(self) -> float:
        """What checkpoints are ranked by: the lower of the returns of the run's own policy and of the made one."""
        return min(self.policies["own"].mean, self.policies["made"].mean)

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return {
            "checkpoint": self.checkpoint,
            "task": self.task,
            "level": self.level,
            "steps": self.steps,
            "share": self.share,
            "verdict": verdict(self),
            "policies": {name: found.to_dict() for name, found in self.policies.items()},
            "optimism": {**vars(self.optimism), "holds_until": self.optimism.holds_until()},
            "errors": self.errors,
            "rewards": None if self.rewards is None else vars(self.rewards),
            "imagination_horizon": self.imagination_horizon,
            "updates": self.updates,
            "cpu_minutes": round(self.cpu_minutes, 3),
            "notes": list(self.notes),
        }


def better(left: Evaluation, right: Evaluation) -> bool:
    """Is the left mean higher by more than chance? Of single episodes nothing is known: then if it is higher."""
    noise = math.hypot(*(0.0 if math.isnan(each.interval) else each.interval for each in (left, right)))
    return left.mean - right.mean > max(noise, 1e-9)


def verdict(found: Trust) -> list[str]:
    """The result in words, most important first."""
    random, own, made = (found.policies[name] for name in ("random", "own", "made"))
    scores = (
        f"A policy that learnt in its dreams only earns {digits(made.mean)}{made.spread} in the real task; the run's "
        f"own policy {digits(own.mean)}{own.spread}, random actions {digits(random.mean)}{random.spread}."
    )
    heads = {
        "yes": f"Its dreams can be trusted for {found.steps} steps.",
        "partly": f"Its dreams can be trusted in part, for {found.steps} steps.",
        "no": "Its dreams cannot be trusted: a policy that learns in them does not beat random actions.",
    }
    sentences = [heads[found.level], scores]
    if found.share is None:
        sentences.append("The run's own policy does not beat random actions, so there is little to compare with.")
    elif found.level == "partly" and found.share < GOOD:
        sentences.append(f"That is {found.share:.0%} of the way from random actions to the run's own policy.")
    return sentences + _gap_in_words(found) + _rewards_in_words(found)


def _gap_in_words(found: Trust) -> list[str]:
    optimism = found.optimism
    known = [k for k, gap in enumerate(optimism.gap) if gap is not None]
    if not known:
        return ["Its episodes are too short to compare dreams with them."]
    until = optimism.holds_until()
    at = min(max(known), max(until, found.imagination_horizon - 1))
    gap, dream, real = optimism.gap[at], optimism.dream[at], optimism.real[at]
    low, high = optimism.low[at], optimism.high[at]
    if gap is None or dream is None or real is None or low is None or high is None:
        return []  # they are known together
    between = f"(gap {digits(gap, sign=True)}, 95 %: {digits(low, sign=True)} to {digits(high, sign=True)})"
    if until > at:
        return [f"Within {at + 1} steps it dreams of {digits(dream)} and really earns {digits(real)} {between}."]
    kind = "optimistic" if gap > 0 else "pessimistic"
    return [
        f"The dreams are {kind}: within {at + 1} steps the policy dreams of {digits(dream)} and really earns "
        f"{digits(real)} {between}."
    ]


def _rewards_in_words(found: Trust) -> list[str]:
    rewards = found.rewards
    if rewards is None or not rewards.came:
        return []
    seen = rewards.foreseen / rewards.came
    text = f"Of {rewards.came} rewards that came the dream foresaw {seen:.0%}"
    if rewards.promised:
        text += f"; of {rewards.promised} that it promised {rewards.kept / rewards.promised:.0%} came"
    vanish = ": what they are paid for may vanish in the dream (see the strips)" if seen < 0.5 else ""
    return [f"{text}{vanish}."]


# ----------------------------------------------------------------------------------------------------------- real task


class Task:
    """The run's real task in several environments, to play whole episodes in."""

    def __init__(self, config: Config, env: EnvLike | None, spec: Spec, *, episodes: int, seed: int) -> None:
        self.config, self.spec, self.episodes, self.seed = config, spec, episodes, seed
        count = 1 if is_instance(env) else min(8, episodes)
        self.envs = make_envs(config, copy_env(env), count, backend="sync")
        try:
            spec.require_same_task(spec_of(self.envs))
        except UserError:
            self.envs.close()
            raise

    def __enter__(self) -> Task:
        return self

    def __exit__(self, *_: object) -> None:
        self.envs.close()

    def play(self, act: ActFunction, tape: Tape | None = None) -> Evaluation:
        """Whole episodes from the same first states for every policy; the tape records what happens."""
        follow = (lambda row: None) if tape is None else tape.add
        return evaluate(self.envs, act, self.episodes, seed=20_000 + 1000 * self.seed, follow=follow)

    def play_agent(self, agent: DreamerV2, tape: Tape | None = None) -> Evaluation:
        """Episodes of an agent, in `train.eval_mode`."""
        player = agent.player(num_envs=self.envs.num_envs, mode=self.config.train.eval_mode, seed=self.seed)
        return self.play(player.act, tape)

    def play_random(self) -> Evaluation:
        """Episodes of random actions."""
        rng = np.random.default_rng(self.seed)
        return self.play(random_policy(lambda count, mask: self.spec.action.random(rng, count, mask)))


class Tape:
    """What happens in the environments while a policy plays, as experience."""

    def __init__(self) -> None:
        self.rows: list[dict[str, np.ndarray]] = []
        self._left = MOST_BYTES // 4

    def add(self, row: dict[str, np.ndarray]) -> None:
        """One more step of every environment; beyond the limit of memory nothing more is kept."""
        self._left -= sum(value.nbytes for value in row.values())
        if self._left > 0:
            self.rows.append({key: value.copy() for key, value in row.items()})

    def batch(self) -> Batch:
        """Everything from the first step on. -> Batch of arrays (N, T, ...), N environments."""
        joined: dict[str, Any] = {key: np.stack([row[key] for row in self.rows], 1) for key in self.rows[0]}
        obs = {key[4:]: joined.pop(key) for key in list(joined) if key.startswith("obs/")}
        return Batch(obs=obs, **joined)

    def experience(self) -> Experience:
        """The same, as a segment for each environment."""
        count = len(self.rows[0]["reward"])
        return Experience(
            tuple(Segment({key: np.stack([row[key][i] for row in self.rows]) for key in self.rows[0]})
                  for i in range(count))
        )  # fmt: skip


# --------------------------------------------------------------------------------------------------------- made policy


def make_policy_in_dreams(
    run: RunReader, *, updates: int, minutes: float, seed: int, report: Report
) -> tuple[DreamerV2, int]:
    """A fresh actor and critic, trained in the run's frozen world model only, from states of its replay.

    Settings are the run's; the entropy's way to its final weight is shortened to half of the updates. minutes: after
    so many it ends, 0: never. -> an agent with the run's world model, the updates made. Raises UserError.
    """
    options = run.config.behavior
    decay = min(options.entropy_decay, max(1, updates // 2))
    config = build({"behavior.entropy_decay": decay, "behavior.actor_warmup": 0}, base=run.agent.config)
    with _own_randomness(seed):
        fresh = DreamerV2(config, run.spec)
        own = {"world_model"}.union(*(behavior.parts for behavior in fresh.behaviors))
        kept = {key: value for key, value in run.agent.state_dict().items() if key.split(".")[0] not in own}
        fresh.load_state_dict(fresh.state_dict() | kept)
        for mine, trained in zip(fresh.learners, run.agent.learners, strict=True):  # no policy: goals, ensembles
            mine.module.load_state_dict(trained.module.state_dict())
        fresh.behaviors = fresh.behaviors[:1]
        fresh.world_model = fresh.task.world_model = run.agent.world_model  # the very one: whatever was changed in it
        fresh.optimizers = build_optimizers(config, fresh.task.learning)
        states = _start_states(run, fresh, seed=seed)
        rng, begin = np.random.default_rng(seed), time.monotonic()
        for done in range(updates):
            posterior, is_terminal = states[rng.integers(len(states))]
            try:
                fresh.train_actor_critic(posterior, is_terminal)
            except NonFinite as error:
                raise UserError(
                    f"the dreams of {run.path} are not finite (update {done} of the fresh policy).",
                    "Run `reverie doctor` on it; an earlier checkpoint may be sound.",
                ) from error
            spent = (time.monotonic() - begin) / 60
            report(max((done + 1) / updates, spent / minutes if minutes else 0), f"update {done + 1:,} of {updates:,}")
            if minutes and spent >= minutes:
                break
    fresh.requires_grad_(False)
    return fresh, fresh.updates


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Within it torch's random numbers begin at the seed; afterwards they are as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def _start_states(run: RunReader, agent: DreamerV2, *, seed: int) -> list[tuple[State, Tensor]]:
    """States of the replay as batches of training: posterior of (B, T, ...), is_terminal (B, T)."""
    settings, experience = run.config.train, run.need_experience()
    count = max(1, min(POOL, 2 * len(experience)) // (settings.batch_size * settings.seq_len))
    found = []
    for index in range(count):
        windows = experience.windows(settings.batch_size, settings.seq_len, seed=seed + index)
        batch = to_batch(windows, agent.device)
        with agent.autocast():
            obs = agent.world_model.preprocess(batch.obs)
            embed = agent.world_model.encoder(obs)
            posterior, _ = agent.world_model.rssm.rollout_observation(embed, batch.action, batch.is_first)
        found.append((posterior.detach(), batch.is_terminal))
    return found


# ------------------------------------------------------------------------------------------------------------ optimism


@torch.no_grad()
def optimism_of(
    agent: DreamerV2, played: Batch, *, horizon: int, mode: str, starts: int = STARTS, seed: int = 0
) -> Optimism:
    """What a policy earns within 1..horizon steps, in dreams from states of its real episodes and after these states.

    played: arrays (N, T, ...) of real episodes from their first steps on; mode: how it chose its actions, "eval" or
    "train". Rewards of the real task are seen as the reward head predicts them (`model.reward_transform`).
    """
    real, valid = _earned_after(_as_predicted(agent, played.reward), played, horizon)
    places = np.argwhere(valid[..., 0])
    rng = np.random.default_rng(seed)
    if not len(places):
        return _compared(*(np.zeros((0, horizon)),) * 2, np.zeros((0, horizon), bool), np.zeros(0, np.int64))
    chosen = places[rng.choice(len(places), min(starts, len(places)), replace=False)]
    state = _filtered(agent, played, seed)
    start = State(*(x[chosen[:, 0], chosen[:, 1]] for x in state))
    generator = private_generator(seed)
    noise = agent.world_model.rssm.latent.noise(len(chosen), horizon, generator=generator).to(agent.device)
    choose = agent.task.pilot(generator, likely=mode == "eval")
    dream = DiscreteRSSM.rollout_imagination(agent.world_model.rssm, choose, start, horizon, noise)
    feat, unit = dream.feat[:, 1:], agent.world_model.reward_unit
    alive = agent.world_model.continues(feat).clamp(0, 1).cumprod(1)
    alive = torch.cat([torch.ones_like(alive[:, :1]), alive[:, :-1]], 1)
    dreamt = ((agent.world_model.predict_reward(feat).float() * alive).cumsum(1) * unit).double().cpu().numpy()
    episode = np.cumsum(played.is_first, 1) + np.arange(len(played.is_first))[:, None] * played.is_first.shape[1]
    at = (chosen[:, 0], chosen[:, 1])
    return _compared(dreamt, real[at], valid[at], episode[at])


def _as_predicted(agent: DreamerV2, reward: np.ndarray) -> Array:
    """Real rewards on the scale of predicted ones, in the task's unit. reward (...) -> (...)."""
    squash, unsquash = SCALAR_TRANSFORMS[agent.config.model.reward_transform]
    unit = agent.world_model.reward_unit
    scaled = torch.from_numpy(np.asarray(reward, np.float32)) / unit
    return np.asarray(unsquash(squash(scaled)).double().numpy() * unit)


def _earned_after(reward: Array, played: Batch, horizon: int) -> tuple[Array, NDArray[np.bool_]]:
    """Sums of the rewards that came after each step, within 1..H steps of its episode. -> (N, T, H), known (N, T, H).

    After the end of the task there is nothing more to earn; what comes after a time limit is not known.
    """
    count, length = reward.shape
    sums, known = np.zeros((count, length, horizon)), np.zeros((count, length, horizon), bool)
    total, ended, valid = np.zeros((count, length)), np.array(played.is_terminal), np.ones((count, length), bool)
    steps = np.arange(length)
    for k in range(1, horizon + 1):
        ahead = np.minimum(steps + k, length - 1)
        inside = (steps + k < length) & ~played.is_first[:, ahead]
        valid &= ended | inside  # is_first ahead without an end before it: a time limit came
        total = total + np.where(inside & ~ended, reward[:, ahead], 0)
        ended = ended | (inside & played.is_terminal[:, ahead])
        sums[..., k - 1], known[..., k - 1] = total, valid
    known &= ~played.is_terminal[..., None]  # from an end nothing follows: no start
    return sums, known


def _filtered(agent: DreamerV2, played: Batch, seed: int, *, chunk: int = 64) -> State:
    """The posterior after every step of real episodes, seen from their first steps. (N, T, ...) -> (N, T, ...)."""
    model, device = agent.world_model, agent.device
    generator, state, parts = private_generator(seed), None, []
    for cut in range(0, played.reward.shape[1], chunk):
        step = slice(cut, cut + chunk)
        batch = to_batch(played.map(itemgetter((slice(None), step))), device)
        noise = model.rssm.latent.noise(*batch.reward.shape, generator=generator).to(device)
        embed = model.encoder(model.preprocess(batch.obs))
        found, _ = DiscreteRSSM.rollout_observation(
            model.rssm, embed, batch.action, batch.is_first, state=state, noise=noise
        )
        found = with_plain_stoch(found)
        state = State(*(x[:, -1] for x in found))
        parts.append(found)
    return State(*(torch.cat(part, 1) for part in zip(*parts, strict=True)))


def _compared(dreamt: Array, real: Array, valid: NDArray[np.bool_], episode: NDArray[np.int64]) -> Optimism:
    """dreamt, real, valid (S, H); episode (S,): which one each start is from, drawn again for the intervals."""
    names, index = np.unique(episode, return_inverse=True)
    rng = np.random.default_rng(0)
    curves: dict[str, list[float | None]] = {key: [] for key in ("dream", "real", "gap", "low", "high", "size")}
    if not len(names):
        nothing: list[float | None] = [None] * dreamt.shape[1]
        return Optimism(**dict.fromkeys(curves, nothing), episodes=0)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), REPETITIONS).astype(float)
    for k in range(dreamt.shape[1]):
        rows = valid[:, k]
        if rows.sum() < 8:
            for curve in curves.values():
                curve.append(None)
            continue
        left, right = dreamt[rows, k], real[rows, k]
        sums, counts = (np.bincount(index[rows], each, len(names)) for each in (left - right, np.ones(len(left))))
        gaps = (weights @ sums) / np.maximum(weights @ counts, 1e-9)
        low, high = np.quantile(gaps[weights @ counts > 0], (0.025, 0.975))
        size = max(np.sqrt((left**2).mean()), np.sqrt((right**2).mean()))
        numbers = (left.mean(), right.mean(), (left - right).mean(), low, high, size)
        for curve, number in zip(curves.values(), numbers, strict=True):
            curve.append(float(number))
    return Optimism(**curves, episodes=len(names))


# -------------------------------------------------------------------------------------------------------------- errors


@dataclass(frozen=True)
class Replayed:
    """Real actions replayed open loop: predicted and real by window and depth, (N, H) each."""

    batch: Batch  # arrays (N, C + H, ...)
    valid: NDArray[np.bool_]
    reward: tuple[Array, Array]
    going: tuple[Array, Array]  # continue
    value: tuple[Array, Array]  # of the dreamed state, of the state with the observation

    def errors(self) -> dict[str, list[float | None]]:
        """Squared errors by depth, in shares of the error of the best constant guess; None where nothing varies."""
        parts = {"reward": self.reward, "continue": self.going, "value": self.value}
        return {name: _shares(*pair, self.valid) for name, pair in parts.items()}

    def worst(self, count: int) -> tuple[Batch, NDArray[np.bool_], int]:
        """The windows with the largest errors of a reward, as long as the longest. -> arrays, valid (count, T), C."""
        error = np.where(self.valid, np.abs(self.reward[0] - self.reward[1]), -1).max(1)
        rows = np.argsort(error)[::-1][:count]
        context = self.batch.reward.shape[1] - self.valid.shape[1]
        steps = context + int(self.valid[rows].sum(1).max())
        picked = self.batch.map(lambda x: x[rows, :steps])
        seen = np.ones((len(rows), context), bool)
        return picked, np.concatenate([seen, self.valid[rows]], 1)[:, :steps], context


def _shares(predicted: Array, real: Array, valid: NDArray[np.bool_]) -> list[float | None]:
    if not valid.any():
        return [None] * valid.shape[1]
    spread = float(real[valid].var())
    if spread < 1e-10:
        return [None] * valid.shape[1]
    error = np.where(valid, (predicted - real) ** 2, 0).sum(0)
    counts = valid.sum(0)
    return [float(e / n / spread) if n >= 8 else None for e, n in zip(error, counts, strict=True)]


@torch.no_grad()
def replayed(
    model: WorldModel, critic: Critic, experience: Experience, config: Config, *, horizon: int, seed: int = 0
) -> Replayed:
    """Observe CONTEXT steps, then predict on with the real actions. Raises UserError without a long enough episode."""
    context = max(1, min(CONTEXT, config.train.seq_len - 2))
    starts = min(256, max(32, len(experience) // 4))
    require_memory(experience, starts, context + horizon)
    arrays, valid = sample_windows(experience, starts, context=context, horizon=horizon, seed=seed)
    device = next(model.parameters()).device
    batch, generator = to_batch(arrays, device), private_generator(seed)
    noise = model.rssm.latent.noise(starts, context + 2 * horizon, generator=generator).to(device)
    embed = model.encoder(model.preprocess(batch.obs))
    looked, _ = DiscreteRSSM.rollout_observation(
        model.rssm, embed, batch.action, batch.is_first, noise=noise[:, : context + horizon]
    )
    looked = with_plain_stoch(looked)
    start = State(*(x[:, context - 1] for x in looked))
    dream = open_loop(model, start, batch.action[:, context:].nan_to_num(), noise[:, context + horizon :])
    seen = looked.feat[:, context:]
    squash, unsquash = SCALAR_TRANSFORMS[config.model.reward_transform]

    def numbers(*values: Tensor) -> tuple[Array, Array]:
        left, right = (value.double().cpu().numpy() for value in values)
        return left, right

    return Replayed(
        arrays,
        valid,
        numbers(model.predict_reward(dream.feat), unsquash(squash(batch.reward[:, context:] / model.reward_unit))),
        numbers(model.continues(dream.feat).clamp(max=1), 1 - batch.is_terminal[:, context:].float()),
        numbers(critic(dream.feat), critic(seen)),
    )


def rare_rewards(found: Replayed, horizon: int) -> Rewards | None:
    """Were rewards that came foreseen, and those promised kept? None where rewards are not rare: fewer than a third."""
    valid = found.valid[:, :horizon]
    predicted, real = (side[:, :horizon][valid] for side in found.reward)
    if not len(real):
        return None
    usual = float(np.median(real))
    most = float(np.abs(real - usual).max())
    if most < 1e-6:
        return None
    came = np.abs(real - usual) > most / 2
    said = np.abs(predicted - usual) > most / 2
    if 3 * came.sum() > len(real):
        return None
    return Rewards(int(came.sum()), int((came & said).sum()), int(said.sum()), int((came & said).sum()))


# ----------------------------------------------------------------------------------------------------------- all of it


def trust(
    run: RunReader,
    task: Task,
    *,
    updates: int = 0,
    minutes: float = 0.0,
    horizon: int = 0,
    seed: int = 0,
    report: Report = lambda done, text: None,
) -> Trust:
    """Measure whether the run's dreams can be trusted. Changes nothing in the run.

    updates 0: as many as the run made, at most MOST_UPDATES; horizon 0: twice the imagination horizon, 30 at least.
    Raises UserError without a replay, and where dreams are not finite.
    """
    begin = time.process_time()
    horizon = horizon or max(30, 2 * run.config.behavior.imagination_horizon)
    updates = updates or max(1, min(MOST_UPDATES, run_updates(run)))
    experience = run.need_experience()
    fresh, made = make_policy_in_dreams(
        run,
        updates=updates,
        minutes=minutes,
        seed=seed,
        report=lambda done, text: report(0.8 * done, f"a policy learns in the dream, {text}"),
    )
    notes = [] if made == updates else [f"ended after {minutes:g} minutes: {made:,} of {updates:,} updates"]
    tape = Tape()
    report(0.8, "the made policy plays")
    policies = {"made": task.play_agent(fresh, tape)}
    report(0.87, "the run's own policy plays")
    policies = {"own": task.play_agent(run.agent), **policies}
    report(0.94, "random actions")
    policies = {"random": task.play_random(), **policies}
    report(0.97, "dreams beside real episodes")
    mode = run.config.train.eval_mode
    optimism = optimism_of(fresh, tape.batch(), horizon=horizon, mode=mode, seed=seed)
    model, config = run.agent.world_model, run.config
    shown = {"replay": replayed(model, run.agent.critic, experience, config, horizon=horizon, seed=seed)}
    try:
        shown["played"] = replayed(model, fresh.critic, tape.experience(), config, horizon=horizon, seed=seed)
    except UserError as error:  # its episodes are too short
        notes.append(f"no errors on the made policy's episodes: {error.message}")
    report(1.0, "done")
    last = shown.get("played", shown["replay"])
    return Trust(
        checkpoint=run.source.name,
        task=config.env.id,
        updates=made,
        cpu_minutes=(time.process_time() - begin) / 60,
        policies=policies,
        optimism=optimism,
        errors={name: found.errors() for name, found in shown.items()},
        rewards=rare_rewards(last, config.behavior.imagination_horizon),
        imagination_horizon=config.behavior.imagination_horizon,
        worst=last.worst(4),
        notes=tuple(notes),
    )


def run_updates(run: RunReader) -> int:
    """How many updates the checkpoint has seen; MOST_UPDATES where that is not known, as of a saved agent."""
    known = read_record(run.source / "state.json").get("updates")
    return known if isinstance(known, int) and known > 0 else MOST_UPDATES
