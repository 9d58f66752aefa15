"""Acting: the one definition of it, for collecting, evaluating and for a user's own loop. No training code in here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import checkpoint
from .actor_critic import Actor
from .build import build_actor, build_world_model, pick_device
from .envs.spaces import Spec
from .errors import UserError
from .rssm import State
from .world_model import WorldModel

MODES = ("train", "eval", "explore")


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
) -> tuple[Tensor, State]:
    """Look, remember, choose. obs raw {key: (N, *shape)}; state, action (N, A) that led here -> action, State.

    mode "eval" takes the policy's most likely action, the others sample; "explore" replaces each action by a uniformly
    random one with probability `explore_noise`. The posterior is sampled in every mode (FACTS.md 1.14).
    """
    noise = world_model.rssm.latent.noise(len(is_first), device=is_first.device, generator=generator)
    state = world_model.observe(obs, action, is_first, state, noise)
    policy = actor(state.feat, obs[world_model.mask_key] if world_model.mask_key else None)
    if mode == "eval":
        return policy.mode(), state
    chosen = policy.sample(policy.noise(generator))
    if mode == "explore" and explore_noise > 0:
        random = torch.rand(len(is_first), 1, device=chosen.device, generator=generator) < explore_noise
        chosen = torch.where(random, policy.random(generator), chosen)
    return chosen, state


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

    def __init__(
        self,
        world_model: WorldModel,
        actor: Actor,
        spec: Spec,
        *,
        num_envs: int | None = None,
        mode: str = "eval",
        seed: int = 0,
        noise: float = 0.0,
    ) -> None:
        if mode not in MODES:
            raise UserError(f"mode must be one of {', '.join(MODES)}, got '{mode}'.")
        self.world_model, self.actor, self.spec = world_model, actor, spec
        self.batched, self.count = num_envs is not None, num_envs or 1
        self.mode, self.explore_noise = mode, noise
        self.device = next(actor.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next call starts new episodes."""
        self.state = self.world_model.rssm.initial(self.count)
        self.action = torch.zeros(self.count, self.spec.action.size, device=self.device)
        self.fresh = np.ones(self.count, bool)

    def __call__(self, obs: Any, first: Any = False, *, mask: Any = None) -> Any:
        """The environment's own observation -> an action that its `step` takes. Raises UserError on a wrong shape.

        mask: the environment's info["action_mask"], nested like its action space; None allows everything.
        """
        encoded = self.spec.encode(obs if self.batched else _add_axis(obs), mask if self.batched else _add_axis(mask))
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

    def act(self, obs: Mapping[str, np.ndarray], first: np.ndarray) -> np.ndarray:
        """Same in the agent's own terms: {key: (N, *shape)}, first (N,) bool -> action vectors (N, A)."""
        start = torch.from_numpy(np.asarray(first | self.fresh)).to(self.device)
        self.fresh = np.zeros(self.count, bool)
        tensors = {key: torch.from_numpy(np.ascontiguousarray(value)).to(self.device) for key, value in obs.items()}
        self.action, self.state = choose_action(
            self.world_model,
            self.actor,
            tensors,
            self.state,
            self.action,
            start,
            mode=self.mode,
            explore_noise=self.explore_noise,
            generator=self.generator,
        )
        return self.action.cpu().numpy()


def load_player(
    path: str | Path,
    *,
    num_envs: int | None = None,
    mode: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Player:
    """A player straight from a saved agent or a run: no optimiser, no replay, no environment. Raises UserError."""
    found = checkpoint.find_agent(path)
    config, spec = checkpoint.read_agent(found)
    mode = mode or config.train.eval_mode
    world_model = build_world_model(config, spec)
    actor = build_actor(config, spec, world_model.rssm.feat_dim)
    checkpoint.load_weights(found, world_model, only="world_model")
    checkpoint.load_weights(found, actor, only="actor")
    place = pick_device(device)
    noise = config.behavior.explore_noise
    return Player(world_model.to(place), actor.to(place), spec, num_envs=num_envs, mode=mode, seed=seed, noise=noise)


def _add_axis(obs: Any) -> Any:
    if isinstance(obs, Mapping):
        return {key: _add_axis(value) for key, value in obs.items()}
    if isinstance(obs, tuple):
        return tuple(_add_axis(value) for value in obs)
    return None if obs is None else np.asarray(obs)[None]
