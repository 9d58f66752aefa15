"""POPGym: small tasks that need memory, as numbers instead of images. pip: popgym.

Protocol: the tasks' own rewards (each episode between -1 and 1) and ends. With env.pixels=true the agent observes the
drawings of CartPole and Pendulum, in which nothing is hidden; the other tasks are drawn as a cell per number.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv

from ..family import FreeOptions, Request
from ..plain import from_gymnasium, plain_protocol, wrap_as_requested

PREFIXES = ("popgym",)
MODULES = ("popgym",)
INSTALL = "pip install 'popgym>=1.0.7,<2'"
DEBIAN = ""
EXAMPLE = "popgym-RepeatPreviousEasy-v0"
NOTE = "memory tasks of discrete and continuous observations"
REPEAT = 1
Options = FreeOptions
CELL = 16  # pixels a side of a cell
COLUMNS = 13  # cells per line: a suit of cards


class PopGymDrawing(gym.Wrapper):
    """Images for tasks that have none: a cell per number of the observation, white for 1, and the reward below."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._numbers = np.zeros(1)  # the last observation, flattened
        self._reward = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._record(obs, 0.0)
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._record(obs, float(reward))
        return obs, float(reward), terminated, truncated, info

    def _record(self, obs: Any, reward: float) -> None:
        self._numbers = np.asarray(gym.spaces.flatten(self.observation_space, obs))
        self._reward = reward

    def render(self) -> Any:
        """-> uint8 (H, W, 3); the last line is green after a positive reward, red after a negative one."""
        columns = min(COLUMNS, len(self._numbers))
        rows = -(-len(self._numbers) // columns)
        cells = np.full((rows * columns,), 40, np.uint8)
        cells[: len(self._numbers)] = 60 + 195 * np.clip(self._numbers, 0, 1)
        image = np.repeat(cells.reshape(rows, columns)[..., None], 3, -1)
        colour = (0, 200, 0) if self._reward > 0 else (200, 0, 0) if self._reward < 0 else (0, 0, 0)
        image = np.concatenate([image, np.full((1, columns, 3), colour, np.uint8)])
        return image.repeat(CELL, 0).repeat(CELL, 1)


def make(request: Request) -> gym.Env:
    """The task as POPGym makes it, with images."""
    import popgym  # noqa: F401  (registers the ids)

    env = from_gymnasium(request.env_id, dict(request.options.arguments) if request.options else {})
    env.unwrapped.render_mode = "rgb_array"  # most do not take the argument
    return wrap_as_requested(
        env if isinstance(env.unwrapped, CartPoleEnv | PendulumEnv) else PopGymDrawing(env), request
    )


def protocol(request: Request) -> str:
    """What scores depend on."""
    return plain_protocol(request)
