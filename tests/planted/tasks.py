"""Small tasks for planted faults: what makes each of them hard is known, because it is a line of code here."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Toy(gym.Env):
    """Episodes of `length` steps that a time limit cuts; what is seen and paid is up to the classes below."""

    length = 40

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.seen = 0, []
        return self._see(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = self.pay(int(action))
        self.at += 1
        return self._see(), float(reward), False, self.at >= self.length, {}

    def _see(self) -> Any:
        self.seen.append(self.look())
        return self.seen[-1]

    def look(self) -> Any:
        """The next observation."""
        raise NotImplementedError

    def pay(self, action: int) -> float:
        """The reward of an action after the last observation."""
        raise NotImplementedError


class Symbols(Toy):
    """Each observation is one of four symbols at random; naming the one `lag` steps ago pays 1.

    The best prediction of the next symbol is wrong three times of four: no model can do better than log 4 nats.
    """

    def __init__(self, lag: int = 0) -> None:
        self.lag = lag
        self.observation_space = spaces.Discrete(4)
        self.action_space = spaces.Discrete(4)

    def look(self) -> int:
        return int(self.np_random.integers(4))

    def pay(self, action: int) -> float:
        return float(len(self.seen) > self.lag and action == self.seen[-1 - self.lag])


class Noise(Toy):
    """Observations and rewards are independent noise: there is nothing to learn."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-10, 10, (3,), np.float32)
        self.action_space = spaces.Discrete(3)

    def look(self) -> np.ndarray:
        return np.asarray(self.np_random.normal(size=3), np.float32)

    def pay(self, action: int) -> float:
        return float(self.np_random.normal())


class Constant(Toy):
    """A walk on a line, seen exactly; every step pays 1, wherever it leads."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-50, 50, (2,), np.float32)
        self.action_space = spaces.Discrete(2)

    def look(self) -> np.ndarray:
        self.place = self.place + (1 if self.last else -1) if self.at else 0
        return np.array([self.place / 5, np.sin(self.place)], np.float32)

    def pay(self, action: int) -> float:
        self.last = action
        return 1.0


class Catch(gym.Env):
    """A ball of `ball` pixels falls through an image of `side` pixels; a paddle that is below it gets +1, else -1.

    Three actions: left, stay, right. Every step pays `step`. An episode ends when the ball is down.
    """

    def __init__(self, side: int = 16, ball: int = 2, cells: int = 8, step: float = 0.0) -> None:
        self.side, self.ball, self.cells, self.per_step = side, ball, cells, step
        self.observation_space = spaces.Box(0, 255, (side, side, 1), np.uint8)
        self.action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.row, self.column = 0, int(self.np_random.integers(self.cells))
        self.paddle = self.cells // 2
        return self._draw(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.paddle = int(np.clip(self.paddle + int(action) - 1, 0, self.cells - 1))
        self.row += 1
        down = self.row == self.cells - 1
        reward = self.per_step + (1.0 if self.paddle == self.column else -1.0) * down
        return self._draw(), reward, down, False, {}

    def _draw(self) -> np.ndarray:
        image = np.zeros((self.side, self.side, 1), np.uint8)
        pitch = self.side // self.cells
        for row, column in ((self.row, self.column), (self.cells - 1, self.paddle)):
            top, left = row * pitch, column * pitch
            image[top : top + self.ball, left : left + self.ball] = 255
        return image
