"""ViZDoom: first-person tasks and games. pip: vizdoom, which includes the maps of freedoom.

Protocol: each action is repeated for 4 frames of the game (its own frame_skip); the agent observes the screen (320x240,
resized) and, if the task has them, the game's variables (health, ammunition) as a vector; the tasks' own rewards and
time limits. env.obs_ignore=gamevariables leaves only the screen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym

from ...errors import UserError
from ..family import FreeOptions, Request
from ..plain import from_gymnasium, plain_protocol

PREFIXES = ("vizdoom*",)
MODULES = ("vizdoom",)
INSTALL = "pip install 'vizdoom>=1.3,<2'"
DEBIAN = ""
EXAMPLE = "VizdoomBasic-v1"
NOTE = "320x240 RGB, resized, and the game's variables"
REPEAT = 4
Options = FreeOptions


class OneEnd(gym.Wrapper):
    """ViZDoom with a time limit that is only truncated, and games that are determined by their seed.

    The package reports both terminated and truncated at a time limit, with a black image; here the last image is
    repeated. A level's state outlives its episode, so a reset with a seed restarts the engine.
    """

    _last: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        import vizdoom

        if seed is not None:
            self.unwrapped.game.close()  # type: ignore[attr-defined]
        try:
            self._last, info = self.env.reset(seed=seed, options=options)
        except vizdoom.FileDoesNotExistException as error:
            raise UserError(
                f"this game is not free, and its file is missing: {error}", f"Put the file there, or use {EXAMPLE}."
            ) from error
        return self._last, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        died = truncated and self.unwrapped.game.is_player_dead()  # type: ignore[attr-defined]
        if truncated and not died:
            return self._last, float(reward), False, True, info
        self._last = obs
        return obs, float(reward), bool(terminated), False, info


def make(request: Request) -> gym.Env:
    """The game; the repeat is its own frame_skip, which draws only the last frame."""
    import vizdoom.gymnasium_wrapper  # noqa: F401  (registers the ids)

    asked = dict(request.options.arguments) if request.options else {}
    return OneEnd(from_gymnasium(request.env_id, {"frame_skip": request.repeat} | asked))


def protocol(request: Request) -> str:
    """What scores depend on."""
    return plain_protocol(replace(request, pixels=False))
