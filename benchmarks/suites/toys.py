"""Small environments of the suites that no package has; without torch, so that any learner's environment can use them.

`CartPoleImage`  CartPole-v1 seen as a 48x48 picture: Gymnasium's own drawing, without pygame.
`Catch`          A ball falls through a board of 10x5 cells, a paddle of three catches it; drawn as 40x40 pixels.
`Recall`         MultiDiscrete symbols; the right action is what was shown three steps ago.
`RewardChange`   Any environment with rewards times `scale`, plus `shift` at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class CartPoleImage(gym.Wrapper):
    """CartPole-v1 with a picture instead of its four numbers; velocities have to be remembered. -> uint8 (S, S, 3).

    The scene is that of Gymnasium's `render` (600x400: cart, pole, axle, track, in its colours), each pixel the mean of
    4x4 points, as if Gymnasium's picture had been made smaller. In 48x48 the pole is less than a pixel wide.
    """

    POINTS = 4  # a side, in each pixel
    SCALE = 125.0  # Gymnasium's pixels per unit of length: 600 for 4.8
    TOP, BOTTOM = 240.0, 80.0  # heights between which anything moves

    def __init__(self, size: int = 48) -> None:
        super().__init__(gym.make("CartPole-v1"))
        self.size = size
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        rows = np.arange(int(size * (1 - self.TOP / 400)), int(np.ceil(size * (1 - self.BOTTOM / 400))))
        inside = (np.arange(self.POINTS) + 0.5) / self.POINTS
        self._rows = slice(rows[0], rows[-1] + 1)
        self._x = (600 / size * (np.arange(size)[:, None] + inside).reshape(1, -1)).astype(np.float32)
        self._y = (400 - 400 / size * (rows[:, None] + inside).reshape(-1, 1)).astype(np.float32)  # grows upwards
        self._empty = np.full((*np.broadcast_shapes(self._x.shape, self._y.shape), 3), 255, np.uint8)
        self._track = int(np.abs(self._y - 100).argmin())

    @property
    def render_mode(self) -> str:
        """It draws itself, without Gymnasium's window."""
        return "rgb_array"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first picture of an episode."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._draw(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """CartPole's own, with the picture of the new state."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._draw(obs), float(reward), terminated, truncated, info

    def render(self) -> Any:
        """The observation, each pixel drawn as 5x5."""
        state = np.asarray(self.unwrapped.state)  # type: ignore[attr-defined]
        return self._draw(state).repeat(5, 0).repeat(5, 1)

    def _draw(self, state: np.ndarray) -> np.ndarray:
        """(4,) -> uint8 (S, S, 3)."""
        middle, angle = np.float32(self.SCALE * state[0] + 300), float(state[2])
        sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
        points = self._empty.copy()
        points[(np.abs(self._x - middle) <= 25) & (np.abs(self._y - 100) <= 15)] = 0
        right, up = self._x - middle, self._y - np.float32(107.5)  # seen from the axle
        across, along = cosine * right - sine * up, sine * right + cosine * up
        points[(np.abs(across) <= 5) & (along >= -5) & (along <= 120)] = (202, 152, 101)
        points[right**2 + up**2 <= 25] = (129, 132, 203)
        points[self._track] = 0
        picture = np.full((self.size, self.size, 3), 255, np.uint8)
        parts = points.reshape(-1, self.POINTS, self.size, self.POINTS, 3)
        picture[self._rows] = parts.mean((1, 3), dtype=np.float32).round()
        return picture


class Catch(gym.Env):
    """A ball falls straight down, a row each step; +1 if it lands on the paddle, else -1, and the episode ends.

    The board is that of bsuite's catch (10 rows, 5 columns, actions left, stay, right, ball in a random column, paddle
    begins in the middle), with a paddle of three cells. Observation: uint8 (40, 40, 3), a cell is 4 high and 8 wide.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  (Gymnasium's own form)
    render_mode = "rgb_array"
    ROWS, COLUMNS = 10, 5

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (40, 40, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.row = self.ball = self.paddle = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A ball in a random column of the top row."""
        super().reset(seed=seed)
        self.row, self.ball, self.paddle = 0, int(self.np_random.integers(self.COLUMNS)), self.COLUMNS // 2
        return self.render(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """0: left, 1: stay, 2: right; the paddle's middle stays on the board."""
        self.paddle = int(np.clip(self.paddle + int(action) - 1, 0, self.COLUMNS - 1))
        self.row += 1
        ended = self.row == self.ROWS - 1
        reward = (1.0 if abs(self.ball - self.paddle) <= 1 else -1.0) if ended else 0.0
        return self.render(), reward, ended, False, {}

    def render(self) -> Any:
        """The board: paddle blue, ball white, the rest black."""
        board = np.zeros((self.ROWS, self.COLUMNS, 3), np.uint8)
        board[-1, max(0, self.paddle - 1) : self.paddle + 2] = (40, 90, 255)
        board[self.row, self.ball] = 255
        return board.repeat(4, 0).repeat(8, 1)


class Recall(gym.Env):
    """Show two random symbols at every step; the action says what they were `delay` steps ago.

    Observation MultiDiscrete([4, 3]), action the same. Reward: the share of the parts that are right, 0, 0.5 or 1; none
    in the first `delay` steps of an episode. 32 steps count, then the episode ends. Symbols are drawn independently:
    nothing about the next ones can be foreseen, all that helps is to remember.
    """

    COUNTED = 32

    def __init__(self, delay: int = 3, symbols: Sequence[int] = (4, 3)) -> None:
        self.delay, self.symbols = delay, np.array(symbols)
        self.observation_space = spaces.MultiDiscrete(self.symbols)
        self.action_space = spaces.MultiDiscrete(self.symbols)
        self.shown: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The first symbols of an episode."""
        super().reset(seed=seed)
        self.shown = []
        return self._show(), {}

    def _show(self) -> np.ndarray:
        self.shown.append(self.np_random.integers(self.symbols))
        return self.shown[-1].copy()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The action answers the observation before it: it names what was shown `delay` steps before that one."""
        asked = len(self.shown) - 1 - self.delay
        reward = float((np.asarray(action) == self.shown[asked]).mean()) if asked >= 0 else 0.0
        ended = asked + 1 >= self.COUNTED
        return self._show(), reward, ended, False, {}


class RewardChange(gym.Wrapper):
    """Rewards times `scale`, plus `shift` at every step. `original` undoes it for a whole episode, exactly."""

    def __init__(self, env: gym.Env, scale: float = 1.0, shift: float = 0.0) -> None:
        super().__init__(env)
        self.scale, self.shift = scale, shift

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The environment's own step with the reward changed."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, self.scale * float(reward) + self.shift, terminated, truncated, info


def original_return(changed: float, length: int, scale: float, shift: float) -> float:
    """The return of an episode before `RewardChange`: a return grows by `shift` at each of its `length` steps."""
    return (changed - shift * length) / scale


#: "toy:NAME" in a plan -> the function that makes it.
TOYS: dict[str, Callable[[], gym.Env]] = {"cartpole-image": CartPoleImage, "catch": Catch, "recall": Recall}
