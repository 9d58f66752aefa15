"""Crafter: an open world with 22 achievements, from 64x64 pixels. pip: crafter (and numba: resets 20 times faster).

Protocol: 17 actions, no repeat, 10,000 steps (a truncation), reward 1 when an achievement is unlocked for the first
time in an episode and 0.1 for each change of health; death is a termination. The Crafter score is the geometric mean
of success rates (Hafner 2021, Eq. 1): `crafter_score`.

The package itself is not reproducible: the objects of a chunk are a `set`, ordered by their addresses in memory. Here
they are kept in the order of insertion (`_keep_order`), so that a seed determines the world.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ...errors import UserError
from ..family import NoOptions, Request
from ..wrappers import ActionRepeat

PREFIXES = ("crafter", "crafterreward", "crafternoreward")
MODULES = ("crafter",)
INSTALL = "pip install 'crafter>=1.8.3,<2' numba"
DEBIAN = ""
EXAMPLE = "crafter/reward"
NOTE = "64x64 RGB, 17 actions; achievements are logged, `reverie info RUN` prints the Crafter score"
REPEAT = 1
Options = NoOptions


def make(request: Request) -> gym.Env:
    """The world; observation uint8 (64, 64, 3)."""
    env: gym.Env = World(reward=with_reward(request.env_id))
    return ActionRepeat(env, request.repeat) if request.repeat > 1 else env


def protocol(request: Request) -> str:
    """What scores depend on."""
    reward = "with reward" if with_reward(request.env_id) else "without reward"
    return f"{request.env_id}: 64x64 RGB, 17 actions, {reward}, 10000 steps (truncated), action repeat {request.repeat}"


def crafter_score(rates: Iterable[float]) -> float:
    """exp(mean(ln(1 + s_i))) - 1 for success rates s_i in percent (Crafter, Eq. 1). -> percent."""
    return float(np.exp(np.mean(np.log(1 + np.fromiter(rates, float)))) - 1)


def score_of(episodes: Iterable[Mapping[str, Any]]) -> float | None:
    """The Crafter score of logged episodes, None if they are not of Crafter.

    episodes: lines of episodes.jsonl; by the benchmark's rules those of training.
    """
    found: dict[str, list[float]] = {}
    for line in episodes:
        for key, value in line.items():
            if key.startswith("achievement/") and value is not None:
                found.setdefault(key, []).append(min(1.0, max(0.0, value)))
    return crafter_score(100 * float(np.mean(values)) for values in found.values()) if found else None


def with_reward(env_id: str) -> bool:
    """Whether the agent gets the task's reward. Raises UserError for an unknown task."""
    known = {"crafter/reward": True, "crafterreward-v1": True, "crafter": True}
    known |= {"crafter/noreward": False, "crafternoreward-v1": False}
    if env_id.lower() not in known:
        raise UserError(f"Crafter has no task '{env_id}'.", "Choose crafter/reward or crafter/noreward.")
    return known[env_id.lower()]


class _Ordered(dict):
    """A set in the order of insertion, with the two methods that Crafter uses."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]


def _keep_order(world: type) -> None:
    """Patch the package's World class so that it keeps its objects in order; a second call does nothing."""
    if getattr(world, "ordered_by_reverie", False):
        return
    reset = world.reset  # type: ignore[attr-defined]

    def ordered_reset(self: Any, seed: Any = None) -> None:
        reset(self, seed)
        self._chunks = collections.defaultdict(_Ordered)

    world.reset, world.ordered_by_reverie = ordered_reset, True  # type: ignore[attr-defined]


class World(gym.Env):
    """Crafter as a Gymnasium environment; info["log"] at the end of an episode holds its achievements, 0 or 1 each."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  (Gymnasium's own form)
    render_mode = "rgb_array"

    def __init__(self, *, reward: bool) -> None:
        import crafter

        _keep_order(crafter.engine.World)
        self.crafter = crafter  # the package
        self.reward = reward
        self.env = crafter.Env(reward=reward)
        self.action_space = spaces.Discrete(len(crafter.constants.actions))
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.env = self.crafter.Env(reward=self.reward, seed=seed)
        return np.asarray(self.env.reset()), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        obs, reward, done, info = self.env.step(int(action))
        terminated = bool(done and info["discount"] == 0)
        own_info: dict[str, Any] = {"achievements": dict(info["achievements"])}
        if done:
            own_info["log"] = {f"achievement/{name}": float(count > 0) for name, count in info["achievements"].items()}
        return np.asarray(obs), float(reward), terminated, bool(done) and not terminated, own_info

    def render(self) -> np.ndarray:
        """A larger image for videos. -> uint8 (256, 256, 3)."""
        return np.asarray(self.env.render((256, 256)))
