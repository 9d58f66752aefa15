"""A dream that a user plays in: it starts at a real step and is then steered, rewound and branched.

No web in here. A session is the list of its steps, so returning to one is exact. Random numbers are a function of
(seed, lane, step): the same actions from the same step give the same dream again, and another lane is another sample
of the same world. Indices are those of the dream in the drawing of `data/replay.py`: action u_k leads out of step k.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.replay import Batch
from ..distributions import CompositePolicy, OneHotPolicy, Policy
from ..errors import UserError
from ..extensions.ensemble import Usual, warn
from ..insight.drift import CONTEXT
from ..insight.run_reader import RunReader, private_generator
from ..rssm import State
from ..train import DreamerV2
from .action_names import vector_of

#: Limits of a session: parallel branches, dreamed steps, real steps before them.
MOST_LANES, MOST_STEPS, MOST_CONTEXT = 9, 2000, 64
#: Windows of replay by which the surprise at real steps becomes a percentile.
SURPRISE_WINDOWS = 32


@dataclass(frozen=True)
class DreamStep:
    """One step of a dream in each of L lanes, which are parallel samples."""

    state: State  # of (L, ...)
    lanes: tuple[int, ...]  # numbers of the lanes, which select their random numbers
    action: np.ndarray | None = None  # (L, A) the action into this step; None at the start
    #: (L,) share of the run's own steps about which its ensemble disagreed less; None without an ensemble.
    uncertainty: np.ndarray | None = None


@dataclass(frozen=True)
class Prediction:
    """The model's predictions at a step of a dream, one entry per lane."""

    images: dict[str, np.ndarray]  # {key: uint8 (L, H, W, C)}
    vectors: dict[str, np.ndarray]  # {key: (L, V)} in the environment's own units
    reward: np.ndarray  # (L,) of this step, in the space that the actor plans in, times `model.reward_unit`
    continues: np.ndarray  # (L,) probability that the episode continues after this state
    value: np.ndarray  # (L,)
    policy: list[list[dict[str, Any]]]  # of each lane: {"kind": "choice", "probs"} or {"kind": "numbers", "mean"}
    classes: np.ndarray | None  # (L, S, K) probabilities; None for Gaussian latents
    chosen: np.ndarray | None  # (L, S) the sampled class of each


@dataclass(frozen=True)
class Filtered:
    """What the model knew about C real steps before it looked, and what looking changed."""

    state: State  # of (1, ...), after the last step
    uncertainty: np.ndarray | None  # (C,) as in DreamStep
    surprise: np.ndarray  # (C,) KL(posterior || prior) in nats


class DreamSession:
    """The steps of a dream, the current one, and the operations of the player."""

    def __init__(self, agent: DreamerV2, context: Batch, *, seed: int = 0) -> None:
        """context: tensors (1, C, ...), C real steps; the dream starts at the last of them."""
        self.agent = agent
        self.context = context
        self.seed = seed
        self.filtered = filter_context(agent, context, seed)
        known = self.filtered.uncertainty
        self.history = [DreamStep(self.filtered.state, (0,), uncertainty=None if known is None else known[-1:])]
        self.at = 0  # index of the current step in `history`
        self._next_lane = 1

    @property
    def current(self) -> DreamStep:
        """The step that is displayed and from which the dream continues."""
        return self.history[self.at]

    def step(self, action: np.ndarray) -> DreamStep:
        """Dream one step from the current one and drop the later ones. action (A,) or (L, A). -> the new step.

        Raises UserError after MOST_STEPS steps.
        """
        if self.at >= MOST_STEPS:
            raise UserError(f"a dream has at most {MOST_STEPS} steps.", "Rewind, or start another one.")
        here = self.current
        actions = np.broadcast_to(np.asarray(action, np.float32), (len(here.lanes), self.agent.spec.action.size)).copy()
        noise = self._noise(here.lanes, self.at + 1)
        state = imagine_step(self.agent, here.state, actions, noise)
        uncertainty = uncertainty_of(self.agent, here.state, actions, state)
        self.history = [*self.history[: self.at + 1], DreamStep(state, here.lanes, actions, uncertainty)]
        self.at += 1
        return self.current

    def policy_action(self, *, mode: str = "sample") -> np.ndarray:
        """The actor's action at the current step: "sample", or "mode" for the most likely one. -> (L, A)."""
        feat, actions = self.current.state.feat, []
        with torch.no_grad():
            for row, lane in enumerate(self.current.lanes):  # separately, so that a lane does not depend on the others
                policy = self.agent.policy(feat[row : row + 1])
                generator = _generator(self.seed, lane, self.at, 1)
                actions.append(policy.mode() if mode == "mode" else policy.sample(policy.noise(generator)))
        return torch.cat(actions).numpy()

    def rewind(self, to: int) -> DreamStep:
        """Make step `to`, earlier or later, the current one; later steps are kept until the next `step`.

        Raises UserError for a step that does not exist.
        """
        if not 0 <= to < len(self.history):
            raise UserError(f"this dream has steps 0 to {len(self.history) - 1}, not {to}.")
        self.at = to
        return self.current

    def branch(self, lanes: int) -> DreamStep:
        """Continue from the current step in `lanes` parallel samples, the first with its random numbers as before.

        Raises UserError for more than MOST_LANES.
        """
        if not 1 <= lanes <= MOST_LANES:
            raise UserError(f"a dream has 1 to {MOST_LANES} branches, not {lanes}.")
        start = select(self.current, 0)
        new = tuple(range(self._next_lane, self._next_lane + lanes - 1))
        self._next_lane += lanes - 1
        state = State(*(x.expand(lanes, *x.shape[1:]).clone() for x in start.state))
        parts = (None if x is None else np.repeat(x, lanes, 0) for x in (start.action, start.uncertainty))
        self.history = [*self._of_lane(start.lanes[0])[: self.at], DreamStep(state, (*start.lanes, *new), *parts)]
        return self.current

    def keep(self, row: int) -> DreamStep:
        """Continue with one of the branches only. Raises UserError for one that does not exist."""
        if not 0 <= row < len(self.current.lanes):
            raise UserError(f"there are branches 0 to {len(self.current.lanes) - 1}, not {row}.")
        self.history = self._of_lane(self.current.lanes[row])
        return self.current

    def reroll(self) -> None:
        """Use other random numbers from here on, so that the same action may lead to another step."""
        self.history = self.history[: self.at + 1]
        fresh = tuple(range(self._next_lane, self._next_lane + len(self.current.lanes)))
        self._next_lane += len(fresh)
        self.history[self.at] = replace(self.current, lanes=fresh)

    def prediction(self, index: int | None = None) -> Prediction:
        """The model's predictions at step `index`, the current one by default."""
        return predict(self.agent, self.history[self.at if index is None else index].state)

    def _of_lane(self, lane: int) -> list[DreamStep]:
        """The history, reduced to this lane where it is one of several."""
        return [select(m, m.lanes.index(lane)) if lane in m.lanes else select(m, 0) for m in self.history]

    def _noise(self, lanes: Sequence[int], step: int) -> Tensor:
        latent = self.agent.world_model.rssm.latent
        return torch.cat([latent.noise(1, generator=_generator(self.seed, lane, step, 0)) for lane in lanes])


def start_session(reader: RunReader, *, seed: int = 0, context: int = 5) -> DreamSession:
    """A session that starts at a random real step of the run's replay, after `context` real steps.

    Raises UserError without a replay.
    """
    context = max(1, min(context, MOST_CONTEXT))
    for length in range(context, 0, -1):  # shorter if no episode is long enough
        try:
            return DreamSession(reader.agent, reader.batch(1, length, seed=seed, in_one_episode=True), seed=seed)
        except UserError:
            if length == 1:
                raise
    raise AssertionError("unreachable")


@torch.no_grad()
def filter_context(agent: DreamerV2, context: Batch, seed: int) -> Filtered:
    """The posterior state after the last of C real steps. context: tensors (1, C, ...)."""
    model = agent.world_model
    embed = model.encoder(model.preprocess(context.obs))
    state, length = model.rssm.initial(1), context.reward.shape[1]
    uncertainty, surprise = [], []
    for t in range(length):
        first = torch.ones_like(context.is_first[:, t]) if t == 0 else context.is_first[:, t]
        noise = model.rssm.latent.noise(1, generator=_generator(seed, 0, t, 2))
        before, action = state, context.action[:, t]
        state = model.rssm.observe(before, action, embed[:, t], first, noise)
        surprise.append(float(model.rssm.latent.kl(state.stats, model.rssm.prior_net(state.deter))))
        if agent.ensemble is not None:
            uncertainty.append(float(warn(agent.ensemble, model.rssm, before, action, first, state).uncertainty))
    known = np.array(uncertainty) if agent.ensemble is not None else None
    return Filtered(State(*(x.float() for x in state)), known, np.array(surprise))


@torch.no_grad()
def uncertainty_of(agent: DreamerV2, before: State, action: np.ndarray, state: State) -> np.ndarray | None:
    """How well the model knows a dreamed step, by its ensemble. before, state of (L, ...), action (L, A) -> (L,).

    A percentile: the share of the run's own steps about which the members disagreed less. None without an ensemble.
    """
    if agent.ensemble is None:
        return None
    feat = torch.stack([before.feat, state.feat], 1)
    found = agent.ensemble.of_arrivals(feat, torch.from_numpy(action)[:, None])[:, 0]
    return np.asarray(agent.ensemble.usual.share_below(found).numpy())


@torch.no_grad()
def usual_surprise(reader: RunReader) -> Usual | None:
    """Percentiles of the surprise in the run's replay; None where there is none. KL(posterior || prior), nats."""
    rssm, experience = reader.agent.world_model.rssm, reader.experience
    length = min(32, max((len(segment) for segment in experience.segments), default=0) if experience else 0)
    if not length:
        return None
    batch = reader.batch(SURPRISE_WINDOWS, length)
    noise = rssm.latent.noise(SURPRISE_WINDOWS, length, generator=private_generator(0))
    embed = reader.agent.world_model.encoder(reader.agent.world_model.preprocess(batch.obs))
    posterior, prior = rssm.rollout_observation(embed, batch.action, batch.is_first, noise=noise)
    usual = Usual()
    usual.follow(rssm.latent.kl(posterior.stats, prior)[:, min(CONTEXT, length - 1) :])
    return usual


@torch.no_grad()
def imagine_step(agent: DreamerV2, state: State, action: np.ndarray, noise: Tensor) -> State:
    """One step of the prior (Eq. 1). state of (L, ...), action (L, A) out of it, noise (L, ...) -> State."""
    rssm = agent.world_model.rssm
    return rssm.prior(rssm.recurrent_step(state, torch.from_numpy(action)), noise)


@torch.no_grad()
def predict(agent: DreamerV2, state: State) -> Prediction:
    """Observations, reward, continuation, value and policy at a state of (L, ...)."""
    model, feat = agent.world_model, state.feat
    classes = chosen = None
    probs = model.rssm.latent.class_probs(state.stats)
    if probs is not None:
        classes = probs.numpy()
        chosen = state.stoch.reshape(classes.shape).argmax(-1).numpy()
    unit = model.reward_unit
    return Prediction(
        images={key: value.numpy() for key, value in model.reconstruct(feat).items()},
        vectors={key: value.numpy() for key, value in agent.world_model.reconstruct_vectors(feat).items()},
        reward=(model.heads["reward"](feat) * unit).float().numpy(),
        continues=model.continues(feat).clamp(0, 1).float().numpy(),
        value=(agent.critic(feat) * unit).float().numpy(),
        policy=_policy_numbers(agent.policy(feat), len(feat)),
        classes=classes,
        chosen=chosen,
    )


def _policy_numbers(policy: Policy, lanes: int) -> list[list[dict[str, Any]]]:
    """For each lane: the probabilities of each choice, the most likely value of each number."""
    parts: list[list[dict[str, Any]]] = [[] for _ in range(lanes)]
    if isinstance(policy, CompositePolicy):
        members = [(member, part.policy == "onehot") for member, part in policy.members]
    else:
        members = [(policy, isinstance(policy, OneHotPolicy))]
    for member, is_choice in members:
        for row in range(lanes):
            if is_choice and isinstance(member, OneHotPolicy):
                size = member.log_probs.shape[-1]
                for probs in member.log_probs.exp().reshape(lanes, -1, size)[row]:
                    parts[row].append({"kind": "choice", "probs": [round(float(p), 4) for p in probs]})
            else:
                parts[row].append({"kind": "numbers", "mean": [round(float(x), 4) for x in member.mode()[row]]})
    return parts


def action_of(agent: DreamerV2, wanted: Mapping[str, Any]) -> np.ndarray:
    """`action_names.vector_of` for an agent's task."""
    return vector_of(agent.spec, wanted)


def select(step: DreamStep, row: int) -> DreamStep:
    """One lane of a step."""
    if len(step.lanes) == 1:
        return step
    parts = (None if x is None else x[row : row + 1] for x in (step.action, step.uncertainty))
    return DreamStep(State(*(x[row : row + 1] for x in step.state)), (step.lanes[row],), *parts)


def _generator(seed: int, lane: int, step: int, what: int) -> torch.Generator:
    """The random numbers of one lane at one step, independent of those of training."""
    mixed = np.random.SeedSequence([seed, lane, step, what]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
