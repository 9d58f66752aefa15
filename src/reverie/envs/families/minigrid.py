"""MiniGrid and BabyAI: the agent's 7x7 view, as an image (8-pixel tiles, 56x56 RGB) or as symbols. pip: minigrid.

Protocol: partial RGB view, the mission text is dropped, the environment's own step limit (a truncation), its own
reward 1 - 0.9 * steps / limit at the goal and 0 otherwise. actions=minimal keeps those that can matter for the task.
Options show the whole grid, symbols instead of images, or the mission as a vector of its words; others change the task
itself, its size or its colors, to see what a trained agent makes of it (`reverie eval --shift`).
"""

from __future__ import annotations

import contextlib
import inspect
import io
import zlib
from collections.abc import Mapping
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
#: The words of all missions of MiniGrid and BabyAI; any other word gets one of the remaining slots below WORDS.
VOCABULARY = (
    "a", "after", "and", "at", "avoid", "ball", "behind", "blue", "box", "door", "end", "fetch", "find", "from",
    "front", "get", "go", "goal", "green", "grey", "hallway", "in", "key", "lava", "left", "matching", "must", "near",
    "next", "object", "of", "on", "open", "opening", "pick", "purple", "put", "reach", "red", "right", "room",
    "rooms", "square", "the", "then", "to", "traverse", "unlock", "up", "use", "yellow", "you", "your",
)  # fmt: skip
WORDS = 64
#: What the classes of tasks call the side of their grid or of their rooms.
SIZES = ("size", "room_size", "maxRoomSize")
Color = Literal["usual", "red", "green", "blue", "purple", "yellow", "grey"]


@dataclass(frozen=True)
class Options:
    """The form of the observation, and what is changed in the task."""

    view: Literal["partial", "full", "symbolic"] = option(
        "partial", "partial: image of the agent's view; full: image of the whole grid; symbolic: one-hots of the cells"
    )
    mission: Literal["drop", "encode"] = option("drop", "encode: the mission's words and their positions, as a vector")
    size: int = option(0, "cells of the side of the grid, or of its rooms; 0: the task's own")
    goal_color: Color = option("usual", "of goals")  # noqa: RUF009  (an alias of Literal)
    wall_color: Color = option("usual", "of walls")  # noqa: RUF009  (an alias of Literal)
    door_color: Color = option("usual", "of doors and keys")  # noqa: RUF009  (an alias of Literal)


class AgentObservation(gym.ObservationWrapper):
    """Observations as images or one-hots, instead of MiniGrid's Dict of symbols, direction and text."""

    def __init__(self, env: gym.Env, options: Options) -> None:
        super().__init__(env)
        self.options = options
        view: Any = env.unwrapped
        width, height = (view.width, view.height) if options.view == "full" else (view.agent_view_size,) * 2
        image: spaces.Space = spaces.Box(0, 255, (height * TILE, width * TILE, 3), np.uint8)
        if options.view == "symbolic":
            cells = spaces.Box(0, 1, (width * height * sum(KINDS),), np.float32)
            image = spaces.Dict({"cells": cells, "direction": spaces.Discrete(4)})
        self.observation_space = image
        if options.mission == "encode":
            words = spaces.Box(0, np.inf, (2 * WORDS,), np.float32)
            inner = image.spaces if isinstance(image, spaces.Dict) else {"image": image}
            self.observation_space = spaces.Dict({**inner, "mission": words})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # BabyAI prints every level that it discards
                obs, info = self.env.reset(seed=seed, options=options)
        except FileNotFoundError as error:  # the patterns of the WFC tasks are not in the wheel
            raise UserError(f"a file is missing in the package minigrid: {error.filename}", "Copy it there.") from error
        return self.observation(obs), info

    def observation(self, observation: Any) -> Any:
        if self.options.view == "symbolic":
            seen: Any = {"cells": one_hot_cells(observation["image"]), "direction": observation["direction"]}
        else:
            view: Any = self.unwrapped
            seen = view.get_frame(tile_size=TILE, agent_pov=self.options.view == "partial", highlight=False)
        if self.options.mission == "encode":
            seen = (seen if isinstance(seen, dict) else {"image": seen}) | {
                "mission": encode_mission(observation["mission"])
            }
        return seen


class Recolored(gym.Wrapper):
    """The task with some kinds of objects in another color; which key fits which door stays consistent."""

    def __init__(self, env: gym.Env, colors: Mapping[str, str]) -> None:
        """colors: {"goal", "wall", "door" or "key": a color of MiniGrid}."""
        super().__init__(env)
        self.colors = colors

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        task: Any = self.unwrapped
        for item in task.grid.grid:
            if item is not None and item.type in self.colors:
                item.color = self.colors[item.type]
        return {**obs, **task.gen_obs()}, info


def one_hot_cells(symbols: np.ndarray) -> np.ndarray:
    """One-hots of object, colour and state of each cell, concatenated. ints (W, H, 3) -> float32 (W * H * 21,)."""
    parts = [np.eye(count, dtype=np.float32)[symbols[..., i]] for i, count in enumerate(KINDS)]
    return np.concatenate(parts, -1).reshape(-1)


def encode_mission(text: str) -> np.ndarray:
    """The count of each word in a text and the sum of its relative positions (0 to 1). -> float32 (2 * WORDS,).

    The positions distinguish "put the red ball next to the blue box" from "put the blue ball next to the red box".
    """
    words = [word.strip(",.").lower() for word in text.split()]
    slots = [_SLOTS[word] if word in _SLOTS else _spare_slot(word) for word in words]
    positions = (np.arange(len(words)) + 1) / max(1, len(words))
    halves = (np.bincount(slots, weights, WORDS) for weights in (None, positions))
    return np.concatenate(list(halves)).astype(np.float32)


_SLOTS = {word: slot for slot, word in enumerate(VOCABULARY)}


def _spare_slot(word: str) -> int:
    """A slot after the vocabulary, by a hash that is the same on every machine."""
    return len(VOCABULARY) + zlib.crc32(word.encode()) % (WORDS - len(VOCABULARY))


def make(request: Request) -> gym.Env:
    """The task as a Gymnasium environment; by default its observation is uint8 (56, 56, 3)."""
    import minigrid  # noqa: F401  (registers the ids)

    options = request.options or Options()
    env = gym.make(request.env_id, render_mode="rgb_array", **_sized(request.env_id, options.size))
    colors = _colors(options)
    env = AgentObservation(Recolored(env, colors) if colors else env, options)
    keep = _kept(request)
    if keep:
        env = ActionSubset(env, keep)
    return ActionRepeat(env, request.repeat) if request.repeat > 1 else env


def protocol(request: Request) -> str:
    """What scores depend on."""
    options = request.options or Options()
    view = {"partial": "partial RGB view", "full": "RGB image of the grid", "symbolic": "symbols of the partial view"}
    mission = "mission dropped" if options.mission == "drop" else "the mission's words and their positions"
    keep = _kept(request)
    actions = f"{len(keep)} actions that matter" if keep else "all actions"
    changed = [f", size {options.size}"] if options.size else []
    changed += [f", {kind} {color}" for kind, color in _colors(options).items() if kind != "key"]
    line = f"{request.env_id}: {view[options.view]}, {mission}, {actions}, action repeat {request.repeat}"
    return line + "".join(changed)


def _colors(options: Options) -> dict[str, str]:
    """Kind of object -> its color, of those that are changed."""
    chosen = {"goal": options.goal_color, "wall": options.wall_color, "door": options.door_color}
    chosen["key"] = options.door_color
    return {kind: color for kind, color in chosen.items() if color != "usual"}


def _sized(env_id: str, size: int) -> dict[str, Any]:
    """The argument with which the task's class takes its size. Raises UserError where it takes none."""
    if not size:
        return {}
    made: Any = gym.make(env_id).unwrapped
    taken = inspect.signature(type(made).__init__).parameters
    made.close()
    name = next((name for name in SIZES if name in taken), "")
    if not name or not 3 <= size <= 60:
        why = "must be from 3 to 60" if name else f"is nothing that {env_id} has"
        raise UserError(f"env.options: size {why}.", "Leave it out, or choose MiniGrid-Empty, -DoorKey or -LavaGap.")
    return {name: size}


def _kept(request: Request) -> tuple[int, ...]:
    """The actions for actions=minimal; () for all of them if none is known to be useless."""
    task = (*request.env_id.split("-"), "")[1]
    return next((keep for keep, names in MINIMAL.items() if request.actions == "minimal" and task in names), ())
