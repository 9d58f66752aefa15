"""Box2D tasks: landing, walking, racing. pip: gymnasium[box2d].

Protocol: Gymnasium's own rewards and time limits (truncations)."""

from __future__ import annotations

import gymnasium as gym

from ..family import FreeOptions, Request
from ..plain import make_plain, plain_protocol

PREFIXES = ("lunarlander", "lunarlandercontinuous", "bipedalwalker", "bipedalwalkerhardcore", "carracing")
MODULES = ("Box2D",)
INSTALL = "pip install 'gymnasium[box2d]>=1.1,<2'"
DEBIAN = ""
EXAMPLE = "LunarLander-v3"
NOTE = "states of 8 or 24 numbers; CarRacing has 96x96 pixels"
REPEAT = 1
Options = FreeOptions


def make(request: Request) -> gym.Env:
    """The task as Gymnasium makes it; with request.pixels its picture."""
    return make_plain(request)


def protocol(request: Request) -> str:
    """What scores depend on."""
    return plain_protocol(request)
