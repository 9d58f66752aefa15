"""Classic control: small state vectors, or images of them. pip: gymnasium[classic-control], whose pygame draws.

Protocol: Gymnasium's own rewards and time limits (truncations).
"""

from __future__ import annotations

import gymnasium as gym

from ..family import FreeOptions, Request
from ..plain import make_plain, plain_protocol

PREFIXES = ("cartpole", "acrobot", "mountaincar", "mountaincarcontinuous", "pendulum")
MODULES = ("pygame",)
INSTALL = "pip install 'gymnasium[classic-control]>=1.1,<2'"
DEBIAN = ""
EXAMPLE = "CartPole-v1"
NOTE = "states of 2 to 6 numbers; pixels with env.pixels=true"
REPEAT = 1
Options = FreeOptions


def make(request: Request) -> gym.Env:
    """The task as Gymnasium makes it; with request.pixels its image."""
    return make_plain(request)


def protocol(request: Request) -> str:
    """What scores depend on."""
    return plain_protocol(request)
