"""Rooms side by side without reward, for exploration: how many cells does an agent reach? Part of Reverie.

Rooms of 5x5 cells, each in its color, joined by doors of one cell at alternating corners; four moves; every episode
starts in the middle of the first column. Uniformly random actions reach 0.46 of the 155 cells of six rooms in 10,000
steps, kept for four steps each 0.57 (benchmarks/results/rooms.json).

Protocol: episodes of 25 steps per room, a truncation; no reward, or with the option goal=true a reward of 1 and the end
on reaching the last column.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ...errors import UserError
from ..family import Request, option
from ..wrappers import ActionRepeat

PREFIXES = ("rooms",)
MODULES = ("gymnasium",)
INSTALL = "pip install reverie-rl (it is part of it)"
DEBIAN = ""
EXAMPLE = "Rooms-v0"
NOTE = "place in the room and the room's color, as 14 numbers or as an image"
REPEAT = 1
DETERMINISTIC_START = True
SIDE = 5  # cells of a room
MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1))  # (columns, rows)


@dataclass(frozen=True)
class Options:
    """Settings of the rooms."""

    rooms: int = option(6, "how many")
    steps: int = option(0, "of an episode; 0: 25 per room")
    view: Literal["vector", "image"] = option("vector", "vector: 14 numbers; image: the room, 28x28 pixels")
    goal: bool = option(False, "reward 1 and the end of the episode in the last column")
    strange: bool = option(False, "the last room has a gray that no room has: is the agent surprised?")


def make(request: Request) -> gym.Env:
    """The rooms; observation float32 (14,), or uint8 (28, 28, 3)."""
    options = request.options or Options()
    if request.env_id != EXAMPLE:
        raise UserError(f"there is no task '{request.env_id}'.", f"Choose {EXAMPLE}, with env.options=rooms=6.")
    if not 1 <= options.rooms <= 100 or options.steps < 0:
        raise UserError("env.options: rooms must be 1 to 100, and steps not negative.", "E.g. env.options=rooms=6.")
    env: gym.Env = Rooms(options, image=request.pixels or options.view == "image")
    return ActionRepeat(env, request.repeat) if request.repeat > 1 else env


def protocol(request: Request) -> str:
    """What scores depend on."""
    options = request.options or Options()
    steps = options.steps or 25 * options.rooms
    end = "reward 1 in the last column" if options.goal else "no reward"
    return f"{request.env_id}: {options.rooms} rooms, {end}, {steps} steps, action repeat {request.repeat}"


class Rooms(gym.Env):
    """The rooms as a Gymnasium environment. A cell is (column, row); every sixth column is a wall with a door."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  (Gymnasium's own form)
    render_mode = "rgb_array"

    def __init__(self, options: Options, *, image: bool = False) -> None:
        self.rooms, self.image, self.goal = options.rooms, image, options.goal
        self.steps = options.steps or 25 * options.rooms
        self.width = self.rooms * (SIDE + 1) - 1
        self.cells = {cell for cell in np.ndindex(self.width, SIDE) if self._free(*cell)}
        colors = [colorsys.hsv_to_rgb(i / self.rooms, 0.8, 0.9) for i in range(self.rooms)]
        if options.strange:
            colors[-1] = (0.5, 0.5, 0.5)
        self.colors = np.array(colors, np.float32)
        self.action_space = spaces.Discrete(len(MOVES))
        if image:
            self.observation_space = spaces.Box(0, 255, (28, 28, 3), np.uint8)
        else:
            self.observation_space = spaces.Box(0, 1, (SIDE + 1 + SIDE + 3,), np.float32)
        self.cell, self.time = (0, SIDE // 2), 0

    def _free(self, column: int, row: int) -> bool:
        """Is it a floor, or a door: below between the first two rooms, above between the next two, and so on?"""
        room, inside = divmod(column, SIDE + 1)
        return inside < SIDE or row == (SIDE - 1 if room % 2 == 0 else 0)

    def observe(self, cell: tuple[int, int]) -> np.ndarray:
        """What the agent sees in a cell: one-hot column and row in the room, and the room's color, or the image."""
        if self.image:
            return self._picture(cell)
        room, inside = divmod(cell[0], SIDE + 1)
        found = np.zeros(SIDE + 1 + SIDE + 3, np.float32)
        found[inside] = found[SIDE + 1 + cell[1]] = 1
        found[-3:] = self.colors[room]
        return found

    def _picture(self, cell: tuple[int, int]) -> np.ndarray:
        """The room with its walls, 4 pixels per cell. -> uint8 (28, 28, 3)."""
        room = cell[0] // (SIDE + 1)
        cells = np.zeros((SIDE + 2, SIDE + 2, 3), np.float32)
        for row in range(SIDE):
            for inside in range(-1, SIDE + 1):
                place = (room * (SIDE + 1) + inside, row)
                if place in self.cells:
                    cells[row + 1, inside + 1] = self.colors[room]
        cells[cell[1] + 1, cell[0] % (SIDE + 1) + 1] = 1
        return (255 * cells).astype(np.uint8).repeat(4, 0).repeat(4, 1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.cell, self.time = (0, SIDE // 2), 0
        return self.observe(self.cell), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        right, down = MOVES[int(action)]
        aim = (self.cell[0] + right, self.cell[1] + down)
        self.cell = aim if aim in self.cells else self.cell
        self.time += 1
        done = self.goal and self.cell[0] == self.width - 1
        return self.observe(self.cell), float(done), done, not done and self.time >= self.steps, {}

    def render(self) -> np.ndarray:
        """The room that the agent is in, 8 pixels per cell. -> uint8 (56, 56, 3)."""
        return self._picture(self.cell).repeat(2, 0).repeat(2, 1)
