"""MiniGrid and BabyAI: the agent's own 7x7 view, as a picture (8-pixel tiles, 56x56 RGB) or as symbols. pip: minigrid.

Protocol: partial RGB view, the mission text is dropped, the environment's own step limit (a truncation), its own
reward 1 - 0.9 * steps / limit at the goal and 0 otherwise. actions=minimal keeps those that can matter for the task.
Options show the whole grid, symbols instead of pictures, or the mission as a vector of its words.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ...errors import UserError
from ..family import Request, option
from ..wrappers import ActionRepeat, ActionSubset

PREFIXES = ("minigrid", "babyai")
MODULES = ("minigrid",)
INSTALL = "pip install 'minigrid>=3.0,<4'"
DEBIAN = ""
REPEAT = 1
EXAMPLE = "MiniGrid-Empty-Random-6x6-v0"
NOTE = "partial RGB view 56x56; symbols, the whole grid and the mission's words as options"

TURN_AND_WALK = (0, 1, 2)  # left, right, forward
WITH_OBJECTS = (0, 1, 2, 3, 5)  # also pickup and toggle
MINIMAL = {
    TURN_AND_WALK: ["Empty", "FourRooms", "LavaGap", "LavaCrossing", "SimpleCrossing", "DistShift", "Dynamic"],
    WITH_OBJECTS: ["DoorKey", "MultiRoom", "Unlock"],
}


TILE = 8  # pixels of a cell's side
KINDS = (11, 6, 4)  # objects, colours and states that a cell can have
WORDS = 64  # length of an encoded mission


@dataclass(frozen=True)
class Options:
    """What the agent sees."""

    view: Literal["partial", "full", "symbolic"] = option(
        "partial", "partial: what is before the agent, as a picture; full: the whole grid; symbolic: one-hots of cells"
    )
    mission: Literal["drop", "encode"] = option("drop", "encode: the words of the mission as a vector of counts")


class AgentObservation(gym.ObservationWrapper):
    """Pictures or one-hots, instead of MiniGrid's Dict of symbols, direction and text."""

    def __init__(self, env: gym.Env, options: Options) -> None:
        super().__init__(env)
        self.options = options
        view: Any = env.unwrapped
        width, height = (view.width, view.height) if options.view == "full" else (view.agent_view_size,) * 2
        picture: spaces.Space = spaces.Box(0, 255, (height * TILE, width * TILE, 3), np.uint8)
        if options.view == "symbolic":
            cells = spaces.Box(0, 1, (width * height * sum(KINDS),), np.float32)
            picture = spaces.Dict({"cells": cells, "direction": spaces.Discrete(4)})
        self.observation_space = picture
        if options.mission == "encode":
            words = spaces.Box(0, np.inf, (WORDS,), np.float32)
            inner = picture.spaces if isinstance(picture, spaces.Dict) else {"image": picture}
            self.observation_space = spaces.Dict({**inner, "mission": words})

    def observation(self, observation: Any) -> Any:
        if self.options.view == "symbolic":
            seen: Any = {"cells": one_hot_cells(observation["image"]), "direction": observation["direction"]}
        else:
            view: Any = self.unwrapped
            seen = view.get_frame(tile_size=TILE, agent_pov=self.options.view == "partial", highlight=False)
        if self.options.mission == "encode":
            seen = (seen if isinstance(seen, dict) else {"image": seen}) | {
                "mission": word_counts(observation["mission"])
            }
        return seen


def one_hot_cells(symbols: np.ndarray) -> np.ndarray:
    """Object, colour and state of each cell, as one-hots side by side. ints (W, H, 3) -> float32 (W * H * 21,)."""
    parts = [np.eye(count, dtype=np.float32)[symbols[..., i]] for i, count in enumerate(KINDS)]
    return np.concatenate(parts, -1).reshape(-1)


def word_counts(text: str) -> np.ndarray:
    """How often each word stands in a text, words numbered by a hash that is the same everywhere. -> (WORDS,)."""
    places = [zlib.crc32(word.strip(",.").lower().encode()) % WORDS for word in text.split()]
    return np.bincount(places, minlength=WORDS).astype(np.float32)


def make(request: Request) -> gym.Env:
    """The task as a Gymnasium environment; by default its observation is uint8 (56, 56, 3)."""
    import minigrid  # noqa: F401  (registers the ids)

    if request.actions == "minimal" and "-" not in request.env_id:
        raise UserError(f"'{request.env_id}' is no MiniGrid task.", f"E.g. {EXAMPLE}.")
    env: gym.Env = AgentObservation(gym.make(request.env_id, render_mode="rgb_array"), request.options or Options())
    if request.actions == "minimal":
        for keep, names in MINIMAL.items():
            if request.env_id.split("-")[1] in names:
                env = ActionSubset(env, keep)
    return ActionRepeat(env, request.repeat) if request.repeat > 1 else env


def protocol(request: Request) -> str:
    """What scores depend on."""
    options = request.options or Options()
    view = {"partial": "partial RGB view", "full": "RGB picture of the grid", "symbolic": "symbols of the partial view"}
    mission = "mission dropped" if options.mission == "drop" else f"mission as counts of {WORDS} hashed words"
    actions = f"{request.actions} actions"
    return f"{request.env_id}: {view[options.view]}, {mission}, {actions}, action repeat {request.repeat}"
