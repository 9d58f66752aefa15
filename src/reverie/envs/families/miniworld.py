"""MiniWorld: rooms and mazes in three dimensions. pip: miniworld.

Protocol: images of 64x64 instead of 80x60 pixels, the tasks' own rewards and step limits (truncations).
"""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import replace

import gymnasium as gym

from ..family import FreeOptions, Request
from ..plain import make_plain, plain_protocol

PREFIXES = ("miniworld",)
MODULES = ("miniworld",)
INSTALL = "pip install 'miniworld>=2.1,<3'"
DEBIAN = "libegl1 libegl-mesa0 libgl1-mesa-dri libgl1 libglu1-mesa"
EXAMPLE = "MiniWorld-Hallway-v0"
NOTE = "64x64 RGB, first person"
REPEAT = 1
Options = FreeOptions


def make(request: Request) -> gym.Env:
    """The task, drawn directly in the size that the agent sees."""
    os.environ.setdefault("PYGLET_HEADLESS", "true")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the samples per pixel
        import miniworld  # noqa: F401  (registers the ids)

        size = request.image_size or 64
        return make_plain(replace(request, pixels=False), obs_width=size, obs_height=size)


def protocol(request: Request) -> str:
    """What scores depend on."""
    return plain_protocol(replace(request, pixels=False))
