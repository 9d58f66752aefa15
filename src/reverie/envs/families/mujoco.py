"""MuJoCo tasks of Gymnasium: HalfCheetah, Ant, Hopper, ... pip: mujoco (below version 4, for dm-control beside it).

Protocol: Gymnasium's own rewards, ends and time limits (truncations). With env.pixels=true the camera's picture.
"""

from __future__ import annotations

import gymnasium as gym

from ..family import FreeOptions, Request
from ..plain import make_plain, plain_protocol
from ..rendering import DEBIAN as DEBIAN_OF_RENDERING
from ..rendering import choose_renderer

PREFIXES = (
    "ant", "halfcheetah", "hopper", "humanoid", "humanoidstandup", "inverteddoublependulum", "invertedpendulum",
    "pusher", "reacher", "swimmer", "walker2d",
)  # fmt: skip
MODULES = ("mujoco",)
INSTALL = "pip install 'mujoco>=3.17,<4'"
DEBIAN = DEBIAN_OF_RENDERING
EXAMPLE = "HalfCheetah-v5"
NOTE = "joint angles and velocities; pixels with env.pixels=true"
REPEAT = 1
Options = FreeOptions


def make(request: Request) -> gym.Env:
    """The task as Gymnasium makes it; with request.pixels its picture."""
    choose_renderer()
    return make_plain(request)


def protocol(request: Request) -> str:
    """What scores depend on."""
    told = {"drawn by": choose_renderer()} if request.pixels else {}
    return plain_protocol(request, **told)
