"""Memory Maze: find objects again in a three-dimensional maze. pip: memory-maze, mujoco below version 4.

Protocol: 64x64 RGB, 6 discrete actions, no repeat, the maze's own time limit (a truncation), reward 1 per object.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np

from ...errors import UserError
from ..adapters import from_dm_env
from ..family import NoOptions, Request
from ..plain import wrap_as_requested
from ..rendering import DEBIAN as DEBIAN_OF_RENDERING
from ..rendering import choose_renderer

PREFIXES = ("memorymaze", "memory_maze")
MODULES = ("memory_maze", "dm_control")
INSTALL = "pip install 'memory-maze>=1.0.3,<2' 'mujoco>=3.17,<4'"
DEBIAN = DEBIAN_OF_RENDERING
EXAMPLE = "MemoryMaze-9x9"
NOTE = "64x64 RGB, first person, long memory; 30 steps per second on a CPU"
REPEAT = 1
Options = NoOptions
SIZES = ("9x9", "11x11", "13x13", "15x15")


def make(request: Request) -> gym.Env:
    """The maze; observation uint8 (64, 64, 3)."""
    choose_renderer()
    return wrap_as_requested(Maze(getattr(_tasks(), f"memory_maze_{_size(request.env_id)}")), request)


def protocol(request: Request) -> str:
    """What scores depend on."""
    size = _size(request.env_id)
    observation = f"maze {size}, 64x64 RGB, 6 actions, drawn by {choose_renderer()}"
    return f"{request.env_id}: {observation}, action repeat {request.repeat}"


def _size(env_id: str) -> str:
    match = re.search(r"\d+x\d+", env_id)
    if not match or match.group() not in SIZES:
        raise UserError(f"there is no maze '{env_id}'.", f"E.g. {EXAMPLE}; sizes are {', '.join(SIZES)}.")
    return match.group()


def _tasks() -> ModuleType:
    """`memory_maze.tasks` without the package's own __init__, which requires the old gym."""
    if "memory_maze" not in sys.modules:
        spec = importlib.util.find_spec("memory_maze")
        if spec is None:
            raise ModuleNotFoundError("No module named 'memory_maze'")
        package = ModuleType("memory_maze")
        package.__path__ = list(spec.submodule_search_locations or [])
        sys.modules["memory_maze"] = package
    return importlib.import_module("memory_maze.tasks")


class Maze(gym.Env):
    """A maze as a Gymnasium environment. A reset with a seed makes it again, because the seed determines the layout."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  (Gymnasium's own form)
    render_mode = "rgb_array"

    def __init__(self, task: Callable[..., Any]) -> None:
        self.task = task
        self.image = np.zeros((64, 64, 3), np.uint8)
        self.env = from_dm_env(task(image_only_obs=True, camera_resolution=64))
        self.observation_space = self.env.observation_space
        self.action_space = self.env.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.env.close()
            self.env = from_dm_env(self.task(image_only_obs=True, camera_resolution=64, seed=seed))
        self.image, info = self.env.reset()
        return self.image, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.image, reward, terminated, truncated, info = self.env.step(action)
        return self.image, float(reward), terminated, truncated, info

    def render(self) -> Any:
        return self.image

    def close(self) -> None:
        self.env.close()
