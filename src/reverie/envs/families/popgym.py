"""POPGym: small tasks that need memory, as numbers instead of pictures. pip: popgym.

Protocol: the tasks' own rewards (each episode between -1 and 1) and ends.
"""

from __future__ import annotations

import gymnasium as gym

from ..family import FreeOptions, Request
from ..plain import make_plain, plain_protocol

PREFIXES = ("popgym",)
MODULES = ("popgym",)
INSTALL = "pip install 'popgym>=1.0.7,<2'"
DEBIAN = ""
EXAMPLE = "popgym-RepeatPreviousEasy-v0"
NOTE = "memory tasks of discrete and continuous observations"
REPEAT = 1
Options = FreeOptions


def make(request: Request) -> gym.Env:
    """The task as POPGym makes it."""
    import popgym  # noqa: F401  (registers the ids)

    return make_plain(request)


def protocol(request: Request) -> str:
    """What scores depend on."""
    return plain_protocol(request)
