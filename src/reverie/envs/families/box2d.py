"""Box2D tasks: landing, walking, racing. pip: gymnasium[box2d].

Protocol: Gymnasium's own rewards and time limits (truncations). CarRacing is seen from pixels anyway: env.pixels=true
changes nothing there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym

from ..family import FreeOptions, Request
from ..plain import finished, from_gymnasium, plain_protocol

PREFIXES = ("lunarlander", "lunarlandercontinuous", "bipedalwalker", "bipedalwalkerhardcore", "carracing")
MODULES = ("Box2D",)
INSTALL = "pip install 'gymnasium[box2d]>=1.1,<2'"
DEBIAN = ""
EXAMPLE = "LunarLander-v3"
NOTE = "states of 8 or 24 numbers; CarRacing has 96x96 pixels"
REPEAT = 1
Options = FreeOptions


class NewWorld(gym.Wrapper):
    """Each episode of BipedalWalker in a world of its own: the package's keeps the order of earlier contacts.

    Without it an environment that is seeded again goes another way than a new one, after some dozen steps.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        walker: Any = self.unwrapped
        walker._destroy()
        walker.world = type(walker.world)()
        return self.env.reset(seed=seed, options=options)


def make(request: Request) -> gym.Env:
    """The task as Gymnasium makes it; with request.pixels its picture."""
    request = _seen(request)
    env = from_gymnasium(request.env_id, dict(request.options.arguments) if request.options else {})
    return finished(NewWorld(env) if "bipedal" in request.env_id.lower() else env, request)


def protocol(request: Request) -> str:
    """What scores depend on."""
    return plain_protocol(_seen(request))


def _seen(request: Request) -> Request:
    return replace(request, pixels=request.pixels and not request.env_id.lower().startswith("carracing"))
