"""Environments: `make_env` turns an id, an instance or a callable into a Gymnasium environment for the agent.

A family is one file in `families/`, found by the first word of the id: "MiniGrid-..." -> families/minigrid.py.
`family.py` explains how to write one. Any other id goes to `gymnasium.make`. No torch in this folder: its code also
runs in worker processes.
"""

from .actions import ActionSpec
from .family import all_families, installed
from .make import EnvLike, is_instance, make_env, make_request, make_vector, protocol_of
from .spaces import ObsKey, Spec, make_spec
from .view import AgentView

__all__ = [
    "ActionSpec",
    "AgentView",
    "EnvLike",
    "ObsKey",
    "Spec",
    "all_families",
    "installed",
    "is_instance",
    "make_env",
    "make_request",
    "make_spec",
    "make_vector",
    "protocol_of",
]
