"""Classic control: small state vectors, or images of them. pip: gymnasium[classic-control], whose pygame draws.

Protocol: Gymnasium's own rewards and time limits (truncations). env.options takes the arguments of Gymnasium's classes
and the masses, lengths and forces of PHYSICS.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym

from ...errors import UserError
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
#: First word of an id -> what can be changed: attributes of Gymnasium's class, with their meaning and usual value.
PHYSICS = {
    "cartpole": {
        "gravity": "9.8",
        "masscart": "mass of the cart, 1.0",
        "masspole": "mass of the pole, 0.1",
        "length": "half of the pole's length, 0.5",
        "force_mag": "force of a push, 10.0",
    },
    "pendulum": {"m": "mass, 1.0", "l": "length, 1.0"},
    "acrobot": {
        "LINK_LENGTH_1": "length of the upper link, 1.0",
        "LINK_LENGTH_2": "length of the lower link, 1.0",
        "LINK_MASS_1": "mass of the upper link, 1.0",
        "LINK_MASS_2": "mass of the lower link, 1.0",
    },
    "mountaincar": {"gravity": "0.0025", "force": "of the motor, 0.001"},
    "mountaincarcontinuous": {"power": "of the motor, 0.0015"},
}


def more_options(env_id: str) -> dict[str, str]:
    """What env.options takes beside the arguments of Gymnasium's class. -> {name: meaning and usual value}."""
    return PHYSICS.get(env_id.partition("-")[0].lower(), {})


def make(request: Request) -> gym.Env:
    """The task as Gymnasium makes it, with the changed physics; with request.pixels its image."""
    given = dict(request.options.arguments) if isinstance(request.options, FreeOptions) else {}
    physics = {name: given.pop(name) for name in more_options(request.env_id) if name in given}
    env = make_plain(replace(request, options=FreeOptions(tuple(given.items()))))
    task: Any = env.unwrapped
    for name, value in physics.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise UserError(f"env.options: {name} must be a number above 0, got '{value}'.", f"E.g. {name}=1.5.")
        setattr(task, name, float(value))
    if {"masscart", "masspole", "length"} & set(physics):
        task.total_mass = task.masspole + task.masscart  # made of them when the task was
        task.polemass_length = task.masspole * task.length
    return env


def protocol(request: Request) -> str:
    """What scores depend on."""
    return plain_protocol(request)
