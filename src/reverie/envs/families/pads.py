"""Pads to be touched in the right order, for hierarchies: a reward far behind many right choices. Part of Reverie.

Pads-v0 is a square of cells with pads of 2x2 cells in its corners. Touching a pad appends it to the last n different
pads; the right order of n pays 1, empties that history and moves the agent to a random cell. PinPad-v0 is the Pin Pad
Four of Hafner et al. 2022 (arXiv 2206.04114): 14x12 cells, pads of 4x3, a reward of 10, 2000 steps. Five moves, one of
which stays. An episode was a success if it was paid at least once (`success` in episodes.jsonl).

How often random and held actions and the shortest ways are paid: `benchmarks/pads.py`, docs/environments.md.

Protocol: an episode ends after a number of steps, a truncation: 100 with three pads, 200 with four.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ...errors import UserError
from ..family import Request, option
from ..wrappers import ActionRepeat

PREFIXES = ("pads", "pinpad")
MODULES = ("gymnasium",)
INSTALL = "pip install reverie-rl (it is part of it)"
DEBIAN = ""
EXAMPLE = "Pads-v0"
NOTE = "the square, its pads and the last pads as colored bars, as an image; or one-hots of place and last pads"
REPEAT = 1
MOVES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))  # (columns, rows)
SIDE = 32  # pixels of an image
BAR = 4  # of them are bars below, which say which pads were touched last

Cell = tuple[int, int]  # (column, row)
History = tuple[int, ...]  # the last different pads, the newest last


@dataclass(frozen=True)
class Options:
    """Settings of the pads."""

    size: int = option(9, "Pads-v0: cells of a side, 5 to 14")
    pads: Literal["3", "4"] = option("3", "Pads-v0: how many pads have to be touched in order")
    steps: int = option(0, "of an episode; 0: 100 with three pads, 200 with four; PinPad-v0 2000")
    view: Literal["image", "vector"] = option("image", "image: 32x32 pixels; vector: one-hots of place and last pads")


class Board(NamedTuple):
    """What is where, and what it pays."""

    width: int  # cells
    height: int
    pad_width: int
    pad_height: int
    corners: tuple[Cell, ...]  # of the pads, the upper left cell of each, in the right order
    reward: float
    steps: int


def board(env_id: str, options: Options) -> Board:
    """The board that an id and its options mean. Raises UserError."""
    if env_id == "PinPad-v0":
        return Board(14, 12, 4, 3, ((0, 0), (10, 0), (0, 9), (10, 9)), 10.0, options.steps or 2000)
    if env_id != EXAMPLE:
        raise UserError(f"there is no task '{env_id}'.", f"Choose {EXAMPLE} or PinPad-v0.")
    if not 5 <= options.size <= 14 or options.steps < 0:
        raise UserError("env.options: size must be 5 to 14, and steps not negative.", "E.g. env.options=size=7.")
    far, count = options.size - 2, int(options.pads)
    corners = ((0, 0), (far, far), (far, 0), (0, far))[:count]
    return Board(options.size, options.size, 2, 2, corners, 1.0, options.steps or (100 if count == 3 else 200))


def make(request: Request) -> gym.Env:
    """The pads; observation uint8 (32, 32, 3), or float32 (columns + rows + pads * pads,)."""
    options = request.options or Options()
    env: gym.Env = Pads(board(request.env_id, options), image=request.pixels or options.view == "image")
    return ActionRepeat(env, request.repeat) if request.repeat > 1 else env


def protocol(request: Request) -> str:
    """What scores depend on."""
    what = board(request.env_id, request.options or Options())
    return (
        f"{request.env_id}: {len(what.corners)} pads in order in {what.width}x{what.height} cells, reward "
        f"{what.reward:g}, {what.steps} steps, action repeat {request.repeat}"
    )


class Pads(gym.Env):
    """The pads as a Gymnasium environment."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  (Gymnasium's own form)
    render_mode = "rgb_array"

    def __init__(self, board: Board, *, image: bool = True) -> None:
        self.board, self.image = board, image
        self.count = len(board.corners)
        self.free = [cell for cell in np.ndindex(board.width, board.height) if self.pad_at(cell) is None]
        self.colors = np.array([colorsys.hsv_to_rgb(i / self.count, 0.9, 0.8) for i in range(self.count)], np.float32)
        self.action_space = spaces.Discrete(len(MOVES))
        if image:
            self.observation_space = spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)
        else:
            self.observation_space = spaces.Box(0, 1, (board.width + board.height + self.count**2,), np.float32)
        self.cell: Cell = self.free[0]
        self.history: History = ()
        self.time = 0
        self.paid = 0.0

    def pad_at(self, cell: tuple[int, ...]) -> int | None:
        """Which pad a cell belongs to."""
        for number, (column, row) in enumerate(self.board.corners):
            if 0 <= cell[0] - column < self.board.pad_width and 0 <= cell[1] - row < self.board.pad_height:
                return number
        return None

    def move(self, cell: Cell, history: History, action: int) -> tuple[Cell, History, bool]:
        """What an action does, chance left out: the next cell and history, and whether the order is right now."""
        right, down = MOVES[action]
        column, row = cell[0] + right, cell[1] + down
        if 0 <= column < self.board.width and 0 <= row < self.board.height:
            cell = (column, row)
        pad = self.pad_at(cell)
        if pad is not None and history[-1:] != (pad,):
            history = (*history, pad)[-self.count :]
        return cell, history, history == tuple(range(self.count))

    def observe(self) -> np.ndarray:
        """What the agent sees now."""
        if self.image:
            return self._picture()
        board = self.board
        found = np.zeros(self.observation_space.shape or (), np.float32)
        found[self.cell[0]] = found[board.width + self.cell[1]] = 1
        for place, pad in enumerate(self.history):
            found[board.width + board.height + place * self.count + pad] = 1
        return found

    def _picture(self) -> np.ndarray:
        """Cells and pads, the agent white, the last pads as bars below, the newest on the right. -> (32, 32, 3)."""
        board, image = self.board, np.full((SIDE, SIDE, 3), 0.1, np.float32)
        cells = np.full((board.height, board.width, 3), 0.35, np.float32)
        for (column, row), color in zip(board.corners, self.colors, strict=True):
            cells[row : row + board.pad_height, column : column + board.pad_width] = color
        cells[self.cell[1], self.cell[0]] = 1
        scale = min(SIDE // board.width, (SIDE - BAR) // board.height)
        shown = cells.repeat(scale, 0).repeat(scale, 1)
        image[: len(shown), : shown.shape[1]] = shown
        wide = SIDE // self.count
        for place, pad in enumerate(self.history):
            image[SIDE - BAR + 1 :, place * wide : (place + 1) * wide - 1] = self.colors[pad]
        return (255 * image).astype(np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.paid = 0, 0.0
        self._begin()
        return self.observe(), {}

    def _begin(self) -> None:
        """At a random cell that is no pad, with nothing touched."""
        self.cell, self.history = self.free[int(self.np_random.integers(len(self.free)))], ()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.cell, self.history, right = self.move(self.cell, self.history, int(action))
        if right:
            self._begin()
        reward = self.board.reward * right
        self.paid += reward
        self.time += 1
        over = self.time >= self.board.steps
        return self.observe(), reward, False, over, {"log": {"success": float(self.paid > 0)}} if over else {}

    def render(self) -> np.ndarray:
        """The image, twice as large. -> uint8 (64, 64, 3)."""
        return self._picture().repeat(2, 0).repeat(2, 1)
