"""ViZDoom: first-person tasks and games, freedoom's maps inside. pip: vizdoom.

Protocol: each action holds for 4 frames of the game (its own frame_skip), the screen is seen (320x240, resized), the
game's variables (health, ammunition) as a vector where the task has them; its own rewards and time limits.
env.obs_ignore=gamevariables leaves the screen alone.
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
    """A time limit is truncated alone, and a seed means one game.

    The package says both terminated and truncated at a time limit, and shows a black picture: here it is what was seen
    last. A level's map outlives its episode, so that a seed starts the engine anew.
    """

    _last: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        import vizdoom

        if seed is not None:
            self.unwrapped.game.close()  # type: ignore[attr-defined]
        try:
            self._last, info = self.env.reset(seed=seed, options=options)
        except vizdoom.FileDoesNotExistException as error:
            raise UserError(f"this game is sold, not free: {error}", f"Put the file there. Free: {EXAMPLE}.") from error
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
