"""MiniGrid from pixels: the agent's own 7x7 view, drawn with 8-pixel tiles (56x56 RGB). pip: minigrid.

Protocol: partial RGB view, the mission text is dropped, the environment's own step limit (a truncation), its own
reward 1 - 0.9 * steps / limit at the goal and 0 otherwise. actions=minimal keeps those that can matter for the task.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..family import NoOptions, Request
from ..wrappers import ActionRepeat, ActionSubset

PREFIXES = ("minigrid", "babyai")
MODULES = ("minigrid",)
INSTALL = "pip install 'minigrid>=3.0,<4'"
DEBIAN = ""
REPEAT = 1
Options = NoOptions
EXAMPLE = "MiniGrid-Empty-Random-6x6-v0"
NOTE = "partial RGB view 56x56, mission text dropped"

TURN_AND_WALK = (0, 1, 2)  # left, right, forward
WITH_OBJECTS = (0, 1, 2, 3, 5)  # also pickup and toggle
MINIMAL = {
    TURN_AND_WALK: ["Empty", "FourRooms", "LavaGap", "LavaCrossing", "SimpleCrossing", "DistShift", "Dynamic"],
    WITH_OBJECTS: ["DoorKey", "MultiRoom", "Unlock"],
}


class AgentImage(gym.ObservationWrapper):
    """The agent's partial view as a picture, instead of MiniGrid's Dict of symbols, direction and mission."""

    def __init__(self, env: gym.Env, tile_size: int = 8) -> None:
        super().__init__(env)
        self.tile_size = tile_size
        view: Any = env.unwrapped
        side = view.agent_view_size * tile_size
        self.observation_space = spaces.Box(0, 255, (side, side, 3), np.uint8)

    def observation(self, observation: Any) -> np.ndarray:
        view: Any = self.unwrapped
        return view.get_frame(tile_size=self.tile_size, agent_pov=True)


def make(request: Request) -> gym.Env:
    """The task as a Gymnasium environment with a uint8 (56, 56, 3) observation."""
    import minigrid  # noqa: F401  (registers the ids)

    env: gym.Env = AgentImage(gym.make(request.env_id, render_mode="rgb_array"))
    if request.actions == "minimal":
        for keep, names in MINIMAL.items():
            if request.env_id.split("-")[1] in names:
                env = ActionSubset(env, keep)
    return ActionRepeat(env, request.repeat) if request.repeat > 1 else env


def protocol(request: Request) -> str:
    """What scores depend on."""
    return f"{request.env_id}: partial RGB view, mission dropped, {request.actions} actions, repeat {request.repeat}"
