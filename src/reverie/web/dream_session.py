"""Playing inside the dream: a session that starts at a real moment and is then steered, rewound and branched.

No web in here. All state is explicit: a session is the list of its moments, and going back to one is exact. Chance is
a function of (seed, lane, step), so the same actions from the same moment give the same dream again; another lane is
another sample of the same world. Indices follow the drawing in `replay.py`, dream side: `step` k, action u_k out of it.
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
from ..insight.run_reader import Opened
from ..latents import CategoricalLatent
from ..observations import RunningStandardizer, Standardizer, module_name
from ..ops import symexp
from ..rssm import State
from ..train import DreamerV2

#: Limits of a session: branches side by side, dreamt steps, real steps before them.
MOST_LANES, MOST_STEPS, MOST_CONTEXT = 9, 2000, 64


@dataclass(frozen=True)
class Moment:
    """One step of a dream in each of L lanes."""

    state: State  # of (L, ...)
    lanes: tuple[int, ...]  # whose chance each lane follows
    action: np.ndarray | None = None  # (L, A) what led here; None at the start


@dataclass(frozen=True)
class View:
    """What the model says about a moment, one entry per lane."""

    images: dict[str, np.ndarray]  # {key: uint8 (L, H, W, C)}
    vectors: dict[str, np.ndarray]  # {key: (L, V)} in the environment's own units
    reward: np.ndarray  # (L,) on arriving here, in the space that the actor plans in
    going_on: np.ndarray  # (L,) probability that the episode goes on after this state
    value: np.ndarray  # (L,)
    policy: list[list[dict[str, Any]]]  # of each lane: {"kind": "choice", "probs"} or {"kind": "numbers", "mean"}
    classes: np.ndarray | None  # (L, S, K) probabilities; None for Gaussian latents
    chosen: np.ndarray | None  # (L, S) the sampled class of each


class DreamSession:
    """A dream that somebody plays in."""

    def __init__(self, agent: DreamerV2, context: Batch, *, seed: int = 0) -> None:
        """context: tensors (1, C, ...), C real steps; the dream starts at the last of them. Raises UserError."""
        self.agent, self.context, self.seed = agent, context, seed
        self.moments = [Moment(filtered(agent, context, seed), (0,))]
        self.at = 0  # the moment that is looked at
        self._next_lane = 1

    @property
    def moment(self) -> Moment:
        """Where we are."""
        return self.moments[self.at]

    def step(self, action: np.ndarray) -> Moment:
        """Dream on from where we are; what had been dreamt beyond is dropped. action (A,) or (L, A) -> new moment."""
        if self.at >= MOST_STEPS:
            raise UserError(f"a dream has at most {MOST_STEPS} steps.", "Rewind, or start another one.")
        here = self.moment
        own = np.broadcast_to(np.asarray(action, np.float32), (len(here.lanes), self.agent.spec.action.size)).copy()
        noise = self._noise(here.lanes, self.at + 1)
        self.moments = [
            *self.moments[: self.at + 1],
            Moment(dreamt(self.agent, here.state, own, noise), here.lanes, own),
        ]
        self.at += 1
        return self.moment

    def policy_action(self, *, mode: str = "sample") -> np.ndarray:
        """What the actor would do here: "sample", or "mode" for its most likely action. -> (L, A)."""
        feat, actions = self.moment.state.feat, []
        with torch.no_grad():
            for row, lane in enumerate(self.moment.lanes):  # one by one: a lane's luck must not depend on the others
                policy = self.agent.policy(feat[row : row + 1])
                generator = _chance(self.seed, lane, self.at, 1)
                actions.append(policy.mode() if mode == "mode" else policy.sample(policy.noise(generator)))
        return torch.cat(actions).numpy()

    def rewind(self, to: int) -> Moment:
        """Look at step `to` again, earlier or later; nothing is dropped until the next step. Raises UserError."""
        if not 0 <= to < len(self.moments):
            raise UserError(f"this dream has steps 0 to {len(self.moments) - 1}, not {to}.")
        self.at = to
        return self.moment

    def branch(self, lanes: int) -> Moment:
        """Go on from here in several samples side by side. The first keeps its luck. Raises UserError."""
        if not 1 <= lanes <= MOST_LANES:
            raise UserError(f"a dream has 1 to {MOST_LANES} branches, not {lanes}.")
        here = select(self.moment, 0)
        new = tuple(range(self._next_lane, self._next_lane + lanes - 1))
        self._next_lane += lanes - 1
        state = State(*(x.expand(lanes, *x.shape[1:]).clone() for x in here.state))
        action = None if here.action is None else np.repeat(here.action, lanes, 0)
        self.moments = [*self._of_lane(here.lanes[0])[: self.at], Moment(state, (*here.lanes, *new), action)]
        return self.moment

    def keep(self, row: int) -> Moment:
        """Go on with one of the branches alone. Raises UserError."""
        if not 0 <= row < len(self.moment.lanes):
            raise UserError(f"there are branches 0 to {len(self.moment.lanes) - 1}, not {row}.")
        self.moments = self._of_lane(self.moment.lanes[row])
        return self.moment

    def reroll(self) -> None:
        """Other luck from here on: the next step of the same action may come out differently."""
        self.moments = self.moments[: self.at + 1]
        fresh = tuple(range(self._next_lane, self._next_lane + len(self.moment.lanes)))
        self._next_lane += len(fresh)
        self.moments[self.at] = replace(self.moment, lanes=fresh)

    def view(self, index: int | None = None) -> View:
        """What the model says about a moment, the present one by default."""
        return look(self.agent, self.moments[self.at if index is None else index].state)

    def _of_lane(self, lane: int) -> list[Moment]:
        """The history with this lane alone wherever it is one of several."""
        return [select(m, m.lanes.index(lane)) if lane in m.lanes else select(m, 0) for m in self.moments]

    def _noise(self, lanes: Sequence[int], step: int) -> Tensor:
        latent = self.agent.world_model.rssm.latent
        return torch.cat([latent.noise(1, generator=_chance(self.seed, lane, step, 0)) for lane in lanes])


def start_session(opened: Opened, *, seed: int = 0, context: int = 5) -> DreamSession:
    """Begin at a random real moment of the run's experience, after `context` real steps. Raises UserError."""
    context = max(1, min(context, MOST_CONTEXT))
    for length in range(context, 0, -1):  # short episodes have shorter beginnings
        try:
            return DreamSession(opened.agent, opened.batch(1, length, seed=seed, in_one_episode=True), seed=seed)
        except UserError:
            if length == 1:
                raise
    raise AssertionError("unreachable")


@torch.no_grad()
def filtered(agent: DreamerV2, context: Batch, seed: int) -> State:
    """The state after looking at the last of C real steps. context: tensors (1, C, ...) -> State of (1, ...)."""
    model = agent.world_model
    embed = model.encoder(model.preprocess(context.obs))
    state, length = model.rssm.initial(1), context.reward.shape[1]
    for t in range(length):
        first = torch.ones_like(context.is_first[:, t]) if t == 0 else context.is_first[:, t]
        noise = model.rssm.latent.noise(1, generator=_chance(seed, 0, t, 2))
        state = model.rssm.observe(state, context.action[:, t], embed[:, t], first, noise)
    return State(*(x.float() for x in state))


@torch.no_grad()
def dreamt(agent: DreamerV2, state: State, action: np.ndarray, noise: Tensor) -> State:
    """One dreamt step, Eq. 1 with the prior. state of (L, ...), action (L, A) out of it, noise (L, ...) -> State."""
    rssm = agent.world_model.rssm
    return rssm.prior(rssm.recurrent_step(state, torch.from_numpy(action)), noise)


@torch.no_grad()
def look(agent: DreamerV2, state: State) -> View:
    """Decode and predict. state of (L, ...) -> View."""
    model, feat = agent.world_model, state.feat
    going_on = model.continues(feat).clamp(0, 1)
    classes = chosen = None
    if isinstance(model.rssm.latent, CategoricalLatent):
        latent = model.rssm.latent
        classes = latent.logits(state.stats).softmax(-1).numpy()
        chosen = state.stoch.reshape(classes.shape).argmax(-1).numpy()
    reward = model.heads["reward"](feat)
    return View(
        images={key: value.numpy() for key, value in model.reconstruct(feat).items()},
        vectors=_vectors(agent, feat),
        reward=reward.float().numpy(),
        going_on=going_on.float().numpy(),
        value=agent.critic(feat).float().numpy(),
        policy=_told(agent, agent.policy(feat), len(feat)),
        classes=classes,
        chosen=chosen,
    )


def _vectors(agent: DreamerV2, feat: Tensor) -> dict[str, np.ndarray]:
    model = agent.world_model
    keys = [key for key in model.encoder.vector_keys if key != model.mask_key and module_name(key) in model.heads]
    return {key: in_units(agent, key, model.heads[module_name(key)](feat)).numpy() for key in keys}


def in_units(agent: DreamerV2, key: str, value: Tensor) -> Tensor:
    """A predicted vector (..., V) as the environment would have given it."""
    model = agent.world_model
    if module_name(key) in model.standardizers:
        scale = model.standardizers[module_name(key)]
        if isinstance(scale, Standardizer):
            return value.float() * scale.deviation + scale.mean
        if isinstance(scale, RunningStandardizer):
            variance = scale.squares / scale.count.clamp(min=1)
            deviation = torch.where(variance > 1e-12, variance, torch.ones_like(variance)).sqrt()
            return value.float() * deviation.float() + scale.mean.float()
    return symexp(value.float()) if model.vector_transform == "symlog" else value.float()


def _told(agent: DreamerV2, policy: Policy, lanes: int) -> list[list[dict[str, Any]]]:
    """The actor's answer in numbers: probabilities of each choice, mean of each number."""
    told: list[list[dict[str, Any]]] = [[] for _ in range(lanes)]
    if isinstance(policy, CompositePolicy):
        members = [(member, part.policy == "onehot") for member, part in policy.members]
    else:
        members = [(policy, isinstance(policy, OneHotPolicy))]
    for member, is_choice in members:
        for row in range(lanes):
            if is_choice and isinstance(member, OneHotPolicy):
                size = member.log_probs.shape[-1]
                for probs in member.log_probs.exp().reshape(lanes, -1, size)[row]:
                    told[row].append({"kind": "choice", "probs": [round(float(p), 4) for p in probs]})
            else:
                told[row].append({"kind": "numbers", "mean": [round(float(x), 4) for x in member.mode()[row]]})
    return told


def action_of(agent: DreamerV2, wanted: Mapping[str, Any]) -> np.ndarray:
    """{"choices": [index of each one-hot], "numbers": [-1..1 of each]} -> the agent's vector (A,). Raises UserError."""
    choices, numbers = list(wanted.get("choices", ())), list(wanted.get("numbers", ()))
    pieces: list[np.ndarray] = []
    for group in agent.spec.action.groups:
        for _ in range(group.copies if group.kind == "onehot" else 1):
            if group.kind == "onehot":
                index = choices.pop(0) if choices else -1
                if not isinstance(index, int) or not 0 <= index < group.size:
                    raise UserError(f"a choice is 0 to {group.size - 1}, got {index!r}.")
                pieces.append(np.eye(group.size, dtype=np.float32)[index])
            else:
                own, numbers = numbers[: group.size], numbers[group.size :]
                if len(own) != group.size or not all(isinstance(x, int | float) and -1 <= x <= 1 for x in own):
                    raise UserError(f"an action has {group.size} numbers from -1 to 1 here, got {own!r}.")
                pieces.append(np.array(own, np.float32))
    if choices or numbers:
        raise UserError("the action has more parts than the environment takes.")
    return np.concatenate(pieces)


def select(moment: Moment, row: int) -> Moment:
    """One lane of a moment."""
    if len(moment.lanes) == 1:
        return moment
    action = None if moment.action is None else moment.action[row : row + 1]
    return Moment(State(*(x[row : row + 1] for x in moment.state)), (moment.lanes[row],), action)


def _chance(seed: int, lane: int, step: int, what: int) -> torch.Generator:
    """Random numbers of one lane at one step; never training's."""
    mixed = np.random.SeedSequence([seed, lane, step, what]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
