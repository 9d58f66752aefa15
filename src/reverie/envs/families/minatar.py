"""MinAtar: five Atari games on 10x10 cells, thousands of steps per second. pip: minatar (GPL-3, not part of Reverie).

Protocol: each channel of the game's state is one channel of a 10x10 uint8 image (0 or 255), sticky actions 0.1,
difficulty ramping, no time limit except env.time_limit and Freeway's own 2500 frames, which are a truncation here and
a termination in the package. Ids ending in -v1, or actions=minimal: the game's own actions.
"""

from __future__ import annotations

import colorsys
import re
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ...errors import UserError
from ..family import Request, option
from ..wrappers import ActionRepeat

PREFIXES = ("minatar",)
MODULES = ("minatar",)
INSTALL = "pip install 'minatar>=1.0.15,<2'"
DEBIAN = ""
EXAMPLE = "MinAtar/Breakout-v1"
NOTE = "10x10 cells, a channel per kind of object; set env.image_size=0"
REPEAT = 1
GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")


@dataclass(frozen=True)
class Options:
    """Settings of the games; the defaults are MinAtar's."""

    sticky: float = option(0.1, "probability that the previous action is repeated instead")
    ramping: bool = option(True, "games become harder with time")
    view: Literal["grid", "rgb"] = option("grid", "grid: a channel per kind of object; rgb: a colour per kind, 10x10")


def make(request: Request) -> gym.Env:
    """The game; observation uint8 (10, 10, C), or (10, 10, 3)."""
    options = request.options or Options()
    env: gym.Env = Game(_game(request.env_id), options, minimal=_minimal(request))
    return ActionRepeat(env, request.repeat) if request.repeat > 1 else env


def protocol(request: Request) -> str:
    """What scores depend on."""
    options = request.options or Options()
    actions = "the game's own actions" if _minimal(request) else "all 6 actions"
    ramping = "difficulty ramping" if options.ramping else "no difficulty ramping"
    observation = "grid of channels" if options.view == "grid" else "RGB image"
    rules = f"sticky {options.sticky:g}, {ramping}, action repeat {request.repeat}"
    return f"{request.env_id}: {observation}, {actions}, {rules}"


def _minimal(request: Request) -> bool:
    return request.actions == "minimal" or request.env_id.endswith("-v1")


def _game(env_id: str) -> str:
    name = re.sub(r"-v\d+$", "", env_id.partition("/")[2])
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    if name not in GAMES:
        raise UserError(f"MinAtar has no game '{name}' ({env_id}).", f"Choose {', '.join(GAMES)}, e.g. {EXAMPLE}.")
    return name


class Game(gym.Env):
    """One MinAtar game as a Gymnasium environment."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  (Gymnasium's own form)
    render_mode = "rgb_array"

    def __init__(self, name: str, options: Options, *, minimal: bool) -> None:
        from minatar.environment import Environment

        self.game = Environment(name, sticky_action_prob=options.sticky, difficulty_ramping=options.ramping)
        self.rgb = options.view == "rgb"
        self.actions = self.game.minimal_action_set() if minimal else list(range(self.game.num_actions()))
        self.action_space = spaces.Discrete(len(self.actions))
        height, width, count = self.game.state_shape()
        self.observation_space = spaces.Box(0, 255, (height, width, 3 if self.rgb else count), np.uint8)
        colours = [[0, 0, 0], *(colorsys.hsv_to_rgb(i / count, 0.7, 1) for i in range(count))]
        self._colours = (255 * np.array(colours)).astype(np.uint8)
        self._numbers = np.arange(1, count + 1)

    def _observe(self) -> np.ndarray:
        return self._image() if self.rgb else np.asarray(self.game.state(), np.uint8) * np.uint8(255)

    def _image(self) -> np.ndarray:
        """One colour per channel, the last one on top. -> uint8 (10, 10, 3)."""
        return self._colours[(self.game.state() * self._numbers).max(2)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.game.seed(seed)
            self.game.last_action = 0  # the package keeps it from the episode before
        self.game.reset()
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward, done = self.game.act(self.actions[int(action)])
        timeout = done and getattr(self.game.env, "terminate_timer", 0) < 0  # only Freeway ends by it
        return self._observe(), float(reward), bool(done and not timeout), bool(timeout), {}

    def render(self) -> np.ndarray:
        """16 pixels per cell. -> uint8 (160, 160, 3)."""
        return self._image().repeat(16, 0).repeat(16, 1)
