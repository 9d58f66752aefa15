"""Box2D tasks: landing, walking, racing. pip: gymnasium[box2d].

Protocol: Gymnasium's own rewards and time limits (truncations). CarRacing always observes pixels: env.pixels=true
changes nothing there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym

from ..family import FreeOptions, Request
from ..plain import from_gymnasium, plain_protocol, wrap_as_requested

PREFIXES = ("lunarlander", "lunarlandercontinuous", "bipedalwalker", "bipedalwalkerhardcore", "carracing")
MODULES = ("Box2D",)
INSTALL = "pip install 'gymnasium[box2d]>=1.1,<2'"
DEBIAN = ""
EXAMPLE = "LunarLander-v3"
NOTE = "states of 8 or 24 numbers; CarRacing has 96x96 pixels"
REPEAT = 1
Options = FreeOptions


class NewWorld(gym.Wrapper):
    """BipedalWalker with a new Box2D world for each episode, because the old one keeps the order of earlier contacts.

    Without it, an environment that is seeded again differs from a new one after some dozen steps.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        walker: Any = self.unwrapped
        walker._destroy()
        walker.world = type(walker.world)()
        return self.env.reset(seed=seed, options=options)


def make(request: Request) -> gym.Env:
    """The task as Gymnasium makes it; with request.pixels its image."""
    request = _without_pixels(request)
    env = from_gymnasium(request.env_id, dict(request.options.arguments) if request.options else {})
    return wrap_as_requested(NewWorld(env) if "bipedal" in request.env_id.lower() else env, request)


def protocol(request: Request) -> str:
    """What scores depend on."""
    return plain_protocol(_without_pixels(request))


def _without_pixels(request: Request) -> Request:
    """The request as CarRacing needs it, which observes pixels by itself."""
    return replace(request, pixels=request.pixels and not request.env_id.lower().startswith("carracing"))
