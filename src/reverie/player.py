"""Acting: one definition for collecting, evaluating and your own loop. Imports no training code and reads no file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .actor_critic import Actor, Plan
from .config import BehaviorConfig
from .distributions import entropy_share, make_policy, policy_noise, stats_dim
from .envs.spaces import Spec, entry
from .errors import UserError
from .extensions.ensemble import Ensemble, StepWarning, warn
from .fast.modes import freezing, usual_switches
from .ops import renewed
from .rssm import State
from .world_model import WorldModel

MODES = ("train", "eval", "explore")
#: The share of the possible entropy above which a policy has no opinion: while exploring, chance is held there, and
#: in the last of several environments always. Where a policy is right nine times of ten, a mistake that stays for eight
#: steps would end many an episode.
HOLD_ABOVE = 0.8


class Exploring(NamedTuple):
    """How far actions depart from the policy while exploring; the default: not at all."""

    noise: float = 0.0  # behavior.explore_noise
    hold: float = 1.0  # behavior.explore_hold
    wander: float = 0.0  # behavior.explore_wander
    action_hold: int = 1  # behavior.action_hold

    @staticmethod
    def of(options: BehaviorConfig) -> Exploring:
        """As the settings say."""
        return Exploring(
            options.explore_noise, options.explore_hold, options.explore_wander, action_hold=options.action_hold
        )


@torch.no_grad()
def choose_action(
    world_model: WorldModel,
    actor: Actor,
    obs: Mapping[str, Tensor],
    state: State,
    action: Tensor,
    is_first: Tensor,
    *,
    mode: str = "train",
    explore_noise: float = 0.0,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    held: Tensor | None = None,
    plan: Plan | None = None,
) -> tuple[Tensor, State, Plan]:
    """One step of acting: filter the observation, then choose.

    obs raw {key: (N, *shape)}; state, action (N, A) that led here, plan of `Actor.plan` -> action, State, Plan.

    mode "eval" takes the policy's most likely action, the others sample; "explore" replaces each action by a uniformly
    random one with probability `explore_noise`. The posterior is sampled in every mode
    (implementation-details.md#acting); noise: what it is sampled with, drawn here if not given. held: what the action
    is sampled with where the policy has no opinion yet (`HOLD_ABOVE`), as `Policy.noise` gives it.
    """
    if noise is None:
        noise = world_model.rssm.latent.noise(len(is_first), device=is_first.device, generator=generator)
    state = world_model.observe(obs, action, is_first, state, noise)
    policy, plan = actor.follow(
        state.feat,
        actor.plan(len(is_first)) if plan is None else plan,
        is_first,
        mask=obs[world_model.mask_key] if world_model.mask_key else None,
        likely=mode == "eval",
        generator=generator,
    )
    if mode == "eval":
        return policy.mode(), state, plan
    draw = policy.noise(generator)
    if held is not None:
        mask = obs[world_model.mask_key] if world_model.mask_key else None
        unsure = entropy_share(policy.entropy(), actor.parts, mask) > HOLD_ABOVE
        if len(unsure) > 1:
            unsure[-1] = (
                True  # one of several explores in every state: an opinion knows nothing of what was never reached
            )
        draw = torch.where(unsure.reshape((-1,) + (1,) * (draw.dim() - 1)), held, draw)
    chosen = policy.sample(draw)
    if mode == "explore" and explore_noise > 0:
        random = torch.rand(len(is_first), 1, device=chosen.device, generator=generator) < explore_noise
        chosen = torch.where(random, policy.random(generator), chosen)
    return chosen, state, plan


class Player:
    """A trained agent as a function: observation in, action in the environment's own space out.

        act = agent.player()
        obs, _ = env.reset()
        action = act(obs, first=True)

    Keeps the recurrent state between calls. `first=True` starts a new episode; the very first call needs no mark.
    With `num_envs`, observations and actions have a leading axis and `first` is an array of flags. Where the task gives
    action masks in info, pass them: `act(obs, mask=info["action_mask"])`. The action of one call led into the next
    call's observation (drawing in `replay.py`).
    """

    @usual_switches()
    def __init__(
        self,
        world_model: WorldModel,
        actor: Actor,
        spec: Spec,
        *,
        num_envs: int | None = None,
        mode: str = "eval",
        seed: int = 0,
        exploring: Exploring = Exploring(),  # noqa: B008  (immutable)
        ensemble: Ensemble | None = None,
    ) -> None:
        """exploring: what mode "explore" does; the other modes follow the policy.

        ensemble: if the agent has one, `last` says after each call how well the model knew what it met.
        """
        if mode not in MODES:
            raise UserError(f"mode must be one of {', '.join(MODES)}, got '{mode}'.")
        self.world_model, self.actor, self.spec = world_model, actor, spec
        self.batched, self.count = num_envs is not None, num_envs or 1
        self.mode, self.explore_noise = mode, exploring.noise
        self.hold = exploring.hold if mode == "explore" else 1.0
        self.wander = exploring.wander if mode == "explore" and not world_model.mask_key else 0.0
        self.action_hold = exploring.action_hold if mode == "explore" else 1
        self.device = next(actor.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.ensemble = ensemble
        self.last: StepWarning | None = None
        self.choose: Callable[..., tuple[Tensor, State, Plan]] = choose_action
        self.reset()

    @usual_switches()
    def reset(self) -> None:
        """Forget everything: the next call starts new episodes."""
        self.state = self.world_model.rssm.initial(self.count)
        self.action = torch.zeros(self.count, self.spec.action.size, device=self.device)
        self.fresh = np.ones(self.count, bool)
        self.plan = self.actor.plan(self.count)
        self.draw = policy_noise(self.actor.parts, self.count, self.generator) if self.hold > 1 else None
        self.away = torch.zeros(1, self.spec.action.size + 1, device=self.device)  # [is it a stretch, of which action]
        self.kept = torch.zeros(self.count, dtype=torch.int64, device=self.device)  # steps that actions stay

    def memory(self) -> dict[str, Tensor]:
        """All that it remembers of the past, for `recall`; its random numbers are `generator`'s."""
        parts = zip(("deter", "stoch", "stats"), self.state, strict=True)
        found = {**dict(parts), "action": self.action, "fresh": torch.from_numpy(self.fresh)}
        found |= {f"plan/{name}": value for name, value in self.plan.items()}
        found |= {} if self.draw is None else {"draw": self.draw}
        found |= {"kept": self.kept} if self.action_hold > 1 else {}
        return found | {"away": self.away} if self.wander else found

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Restore a `memory` of as many environments."""
        values = {key: value.to(self.device) for key, value in memory.items()}
        self.state = State(values["deter"], values["stoch"], values["stats"])
        self.action, self.fresh = values["action"], values["fresh"].cpu().numpy()
        self.plan = {name: values[f"plan/{name}"] for name in self.plan}
        self.draw, self.away = values.get("draw"), values.get("away", self.away)
        self.kept = values.get("kept", self.kept)

    @usual_switches()
    def __call__(self, obs: Any, first: Any = False, *, mask: Any = None) -> Any:
        """The environment's own observation -> an action that its `step` takes. Raises UserError on a wrong shape.

        mask: the environment's info["action_mask"], nested like its action space; None allows everything.
        """
        self._require_scale(obs)
        encoded = self.spec.encode(obs, mask)
        if not self.batched:
            encoded = {key: value[None] for key, value in encoded.items()}
        for key, value in encoded.items():
            if value.shape != (self.count, *self.spec.obs[key].shape):
                raise UserError(
                    f"observation '{key}' has shape {value.shape}, expected {(self.count, *self.spec.obs[key].shape)}.",
                    f"This player was made for {self.count} environment(s).",
                )
            if value.dtype == np.float32 and not np.isfinite(value).all():
                raise UserError(f"observation '{key}' is not finite.", "Observations must be finite numbers.")
        action = self.act(encoded, np.broadcast_to(np.asarray(first, bool), (self.count,)))
        return self.spec.action.decode(action) if self.batched else self.spec.action.decode_one(action[0])

    def _require_scale(self, obs: Any) -> None:
        """Images of 0 to 1 for an agent that was trained with 0 to 255 would all be black. Raises UserError."""
        for key, item in self.spec.obs.items():
            value = np.asarray(entry(obs, item.path)) if item.kind == "image" and item.factor == 1 else np.zeros(0)
            if value.size and value.dtype.kind == "f" and value.max() <= 1 and (value != np.rint(value)).any():
                raise UserError(
                    f"the image '{key}' holds {value.min():.3g} to {value.max():.3g}, the agent was trained with 0 to "
                    "255.",
                    "Pass the image as the environment returned it, or multiply it by 255.",
                )

    @usual_switches()
    def act(self, obs: Mapping[str, np.ndarray], first: np.ndarray) -> np.ndarray:
        """Same in the agent's own terms: {key: (N, *shape)}, first (N,) bool -> action vectors (N, A)."""
        start = torch.from_numpy(np.asarray(first | self.fresh)).to(self.device)
        self.fresh = np.zeros(self.count, bool)
        tensors = {key: _to_tensor(value).to(self.device) for key, value in obs.items()}
        noise = self.world_model.rssm.latent.noise(self.count, device=self.device, generator=self.generator)
        before = self.state, self.action
        self.action, self.state, self.plan = self.choose(
            self.world_model,
            self.actor,
            tensors,
            self.state,
            self.action,
            start,
            mode=self.mode,
            explore_noise=self.explore_noise,
            generator=self.generator,
            noise=noise,
            held=self._held_draw(start),
            plan=self.plan,
        )
        if self.wander:
            self.action = self._wandering(self.action, start)
        if self.action_hold > 1:
            self.action = self._kept_action(before[1], self.action, start, tensors)
        if self.ensemble is not None:
            self.last = warn(self.ensemble, self.world_model.rssm, *before, start, self.state)
        return self.action.cpu().numpy()

    def _wandering(self, action: Tensor, start: Tensor) -> Tensor:
        """While exploring: the last environment takes stretches of one random action each, whatever the policy says.

        Temporally extended epsilon-greedy (Dabney et al. 2021), with stretches of `hold` steps on average: a policy
        that is certain never sees what it has no reason to try. action (N, A), start (N,) bool -> (N, A).
        """
        ends, strays = torch.rand(2, generator=self.generator, device=self.device).tolist()
        if bool(start[-1]) or ends < 1 / self.hold:  # a stretch begins: the only time that its action is drawn
            policy = make_policy(torch.zeros(1, stats_dim(self.actor.parts), device=self.device), self.actor.parts)
            random = policy.random(self.generator)
            self.away = torch.cat([torch.full_like(random[:, :1], float(strays < self.wander)), random], -1)
        return torch.cat([action[:-1], self.away[:, 1:]]) if self.away[0, 0] > 0 else action

    def _kept_action(self, last: Tensor, new: Tensor, start: Tensor, obs: Mapping[str, Tensor]) -> Tensor:
        """While exploring: each action is carried out for `action_hold` steps, whatever the policy says in between.

        An option of fixed length: what temporally extended exploration brings without a hierarchy (Nachum et al. 2019).
        A new episode ends it, and so does an action that is no longer allowed. last, new (N, A), start (N,) bool.
        """
        fresh = start | (self.kept == 0)
        if self.world_model.mask_key:
            fresh = fresh | forbidden(last, obs[self.world_model.mask_key])
        self.kept = torch.where(fresh, self.action_hold, self.kept) - 1
        return torch.where(fresh[:, None], new, last)

    def _held_draw(self, start: Tensor) -> Tensor | None:
        """While exploring: chance that stays the same for some steps. The policy is followed all the same: each action
        is as likely as it says. start (N,) bool -> as `Policy.noise`; None: nothing is held."""
        if self.draw is None:
            return None
        drawn = policy_noise(self.actor.parts, self.count, self.generator)
        kept = ~(renewed(torch.rand(self.count, generator=self.generator, device=self.device), self.hold) | start)
        self.draw = torch.where(kept.reshape((-1,) + (1,) * (drawn.dim() - 1)), self.draw, drawn)
        return self.draw

    def freeze(self) -> None:
        """From now on act by machine code with these very weights in it. Raises UserError without a C++ compiler."""
        world_model, actor = self.world_model, self.actor

        def choose(_: WorldModel, __: Actor, *args: Any, **kwargs: Any) -> tuple[Tensor, State, Plan]:
            return inspect.unwrap(choose_action)(world_model, actor, *args, **kwargs)

        obs = {key: np.zeros((self.count, *shape), dtype) for key, (shape, dtype) in self.spec.shapes.items()}
        before = self.generator.get_state()
        with freezing():
            self.choose = torch.no_grad()(torch.compile(choose, dynamic=False))
            for _ in range(2):  # from the first state, and from its own
                self.act(obs, self.fresh)
        self.generator.set_state(before)
        self.reset()


def forbidden(action: Tensor, mask: Tensor) -> Tensor:
    """Does an action choose what is not allowed? action, mask (..., A) -> (...) bool."""
    return ((action != 0) & (mask == 0)).any(-1)


def _to_tensor(array: np.ndarray) -> Tensor:
    """With the usual strides also for axes of length 1: machine code is made for strides."""
    return torch.from_numpy(np.ascontiguousarray(array)).view(-1).view(array.shape)
