"""POPGym: small tasks that need memory, as numbers instead of pictures. pip: popgym.

Protocol: the tasks' own rewards (each episode between -1 and 1) and ends. env.pixels=true shows the drawings of
CartPole and Pendulum, in which nothing is hidden, or cells for the numbers of the other tasks.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv

from ..family import FreeOptions, Request
from ..plain import finished, from_gymnasium, plain_protocol

PREFIXES = ("popgym",)
MODULES = ("popgym",)
INSTALL = "pip install 'popgym>=1.0.7,<2'"
DEBIAN = ""
EXAMPLE = "popgym-RepeatPreviousEasy-v0"
NOTE = "memory tasks of discrete and continuous observations"
REPEAT = 1
Options = FreeOptions
CELL, COLUMNS = 16, 13  # pixels a side, and cells in a row: a suit of cards


class PopGymDrawing(gym.Wrapper):
    """Pictures of tasks that have none: a cell per number of the observation, one-hots white, and the reward below."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._numbers, self._reward = np.zeros(1), 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._see(obs, 0.0)
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._see(obs, float(reward))
        return obs, float(reward), terminated, truncated, info

    def _see(self, obs: Any, reward: float) -> None:
        self._numbers, self._reward = np.asarray(gym.spaces.flatten(self.observation_space, obs)), reward

    def render(self) -> Any:
        """-> uint8 (H, W, 3); the last row is green after a reward, red after a loss."""
        columns = min(COLUMNS, len(self._numbers))
        rows = -(-len(self._numbers) // columns)
        cells = np.full((rows * columns,), 40, np.uint8)
        cells[: len(self._numbers)] = 60 + 195 * np.clip(self._numbers, 0, 1)
        picture = np.repeat(cells.reshape(rows, columns)[..., None], 3, -1)
        told = (0, 200, 0) if self._reward > 0 else (200, 0, 0) if self._reward < 0 else (0, 0, 0)
        picture = np.concatenate([picture, np.full((1, columns, 3), told, np.uint8)])
        return picture.repeat(CELL, 0).repeat(CELL, 1)


def make(request: Request) -> gym.Env:
    """The task as POPGym makes it, able to draw itself."""
    import popgym  # noqa: F401  (registers the ids)

    env = from_gymnasium(request.env_id, dict(request.options.arguments) if request.options else {})
    env.unwrapped.render_mode = "rgb_array"  # most do not take the argument
    return finished(env if isinstance(env.unwrapped, CartPoleEnv | PendulumEnv) else PopGymDrawing(env), request)


def protocol(request: Request) -> str:
    """What scores depend on."""
    return plain_protocol(request)
