"""ViZDoom: first-person tasks and games, freedoom's maps inside. pip: vizdoom.

Protocol: each action holds for 4 frames of the game (its own frame_skip), the screen is seen (320x240, resized), the
game's variables (health, ammunition) as a vector where the task has them; its own rewards and time limits.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

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
    """At a time limit the package says both terminated and truncated; here it is truncated alone."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, float(reward), bool(terminated and not truncated), bool(truncated), info


def make(request: Request) -> gym.Env:
    """The game; the repeat is its own frame_skip, which draws only the last frame."""
    import vizdoom.gymnasium_wrapper  # noqa: F401  (registers the ids)

    asked = dict(request.options.arguments) if request.options else {}
    return OneEnd(from_gymnasium(request.env_id, {"frame_skip": request.repeat} | asked))


def protocol(request: Request) -> str:
    """What scores depend on."""
    return plain_protocol(request)
