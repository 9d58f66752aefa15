"""The protocol of an environment family, and how ids and options find their family.

A family is a group of tasks that come from one package and are scored under one protocol. To add one, write one file
`families/NAME.py`; no other file changes. It is found by its place, `reverie envs` lists it, and
tests/envs/test_families.py tests it if its package is installed. A complete family of tasks registered with Gymnasium:

    \"""Toy text: FrozenLake, small grids. pip: gymnasium[toy-text], whose pygame draws.

    Protocol: Gymnasium's own rewards and time limits (truncations).
    \"""

    import gymnasium as gym

    from ..family import FreeOptions, Request
    from ..plain import make_plain, plain_protocol

    PREFIXES = ("frozenlake",)
    MODULES = ("pygame",)
    INSTALL = "pip install 'gymnasium[toy-text]>=1.1,<2'"
    DEBIAN = ""
    EXAMPLE = "FrozenLake-v1"
    NOTE = "the number of a cell as a one-hot vector"
    REPEAT = 1
    DETERMINISTIC_START = True  # every episode starts in the same cell
    SHORT = True  # random play can fall into a hole in two steps
    Options = FreeOptions


    def make(request: Request) -> gym.Env:
        \"""The task as Gymnasium makes it; with request.pixels its image.\"""
        return make_plain(request)


    def protocol(request: Request) -> str:
        \"""What scores depend on.\"""
        return plain_protocol(request)

Names (class `Family` below has their types):

`PREFIXES`  An id belongs to the family whose PREFIXES has its first word in lower case: what stands before the first
            of - / : ("MiniGrid-Empty-8x8-v0" -> "minigrid"). "vizdoom*" matches any word that begins so.
`MODULES`   Import names of the packages. The file itself must be importable without them: import them inside `make`.
`INSTALL`   The command that installs them. The user sees it when `make` raises ModuleNotFoundError.
`DEBIAN`    Debian packages that a bare machine needs besides; "" for none.
`EXAMPLE`   An id. The tests play it.
`NOTE`      One line for `reverie envs`: what the agent observes.
`REPEAT`    The usual action repeat, taken for env.action_repeat=0.
`Options`   A frozen dataclass of `option(default, doc)` fields: bool, int, float, str or Literal. They are set by
            env.options=name=value and checked. `NoOptions` if there are none, `FreeOptions` to pass any keyword
            argument to `gymnasium.make`.
`make`      -> one `gymnasium.Env`, action repeat included (`wrappers.ActionRepeat` adds rewards up), with
            render_mode "rgb_array" if it can draw at all. Its spaces may be any of Box, Discrete, MultiDiscrete,
            MultiBinary, and Dict or Tuple of them: `AgentView` resizes images and turns the rest into vectors.
            - `reset(seed=...)` determines everything that follows; two environments with one seed play alike.
            - An end of the task is `terminated`, a time limit is `truncated`.
            - Returned arrays are not written to later.
            - Numbers to be logged per episode: info["log"] = {name: float} in the last step.
            - A wrong id or option raises UserError: what happened, and what to do.
`protocol`  -> one line that begins with the id and contains "repeat N": every choice that a published score depends
            on. It is printed in the header of a run and stored in its provenance.json.

Optional names:

`DETERMINISTIC_START`, `SHORT`     What the tests may assume; see FLAGS for their meaning and defaults.
`make_vector(request, count)`      -> a `gymnasium.vector.VectorEnv` that steps `count` environments itself
                                   (env.backend=native), with NEXT_STEP autoreset and the single spaces of `make`.
`vector_fits(request)`             -> whether `make_vector` supports what is requested; without it: always.
`more_options(env_id)`             -> {name: meaning} of what FreeOptions takes beside the arguments of Gymnasium's
                                   class, for `factors_of`.

No torch in here or in `families/`: this code also runs in worker processes.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Protocol, cast, get_type_hints

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from ..config.validation import coerce
from ..errors import UserError
from . import families


@dataclass(frozen=True)
class Request:
    """The environment that a family is asked to make."""

    env_id: str
    actions: str = "full"  # "full", or "minimal" for the actions that matter in the task
    pixels: bool = False  # observe images where the family would give vectors
    repeat: int = 1  # times that each action is applied, rewards added up; the family does it
    image_size: int = 0  # side of the images that the agent will see, so that a family may draw them so; 0: any
    grayscale: bool = False  # whether the agent will see gray images; likewise only a hint
    time_limit: int = 0  # in agent steps, 0 for none; applied outside, but a family may mention it in its protocol
    options: Any = None  # the family's Options; None for their defaults


class Family(Protocol):
    """The required names of a file in `families/`; the docstring of this file explains each."""

    PREFIXES: tuple[str, ...]
    MODULES: tuple[str, ...]
    INSTALL: str
    DEBIAN: str
    EXAMPLE: str
    NOTE: str
    REPEAT: int
    Options: type

    def make(self, request: Request) -> gym.Env:
        """One environment, action repeat included."""
        ...

    def protocol(self, request: Request) -> str:
        """One line: every choice that a published score depends on."""
        ...


#: Flags that a family may define -> their defaults. They say what holds for its EXAMPLE, for the tests.
FLAGS = {
    "DETERMINISTIC_START": False,  # True: episodes of different seeds may be the same, e.g. from a fixed start
    "SHORT": False,  # True: random play may end an episode within three steps
}


def flag(family: Family, name: str) -> bool:
    """The value of one of FLAGS in a family, or its default."""
    return bool(getattr(family, name, FLAGS[name]))


def option(default: Any, doc: str) -> Any:
    """A field of a family's Options, with its documentation in one line."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class NoOptions:
    """The Options of a family that has none."""


@dataclass(frozen=True)
class FreeOptions:
    """The Options of a family that passes every option to `gymnasium.make`."""

    arguments: tuple[tuple[str, Any], ...] = option((), "any keyword argument that gymnasium.make takes for the task")


@cache
def all_families() -> dict[str, Family]:
    """{name: module} for every file in `families/`. Importing one needs no package but Gymnasium."""
    stems = sorted(module.name for module in pkgutil.iter_modules(families.__path__))  # also from a zip
    return {name: cast(Family, importlib.import_module(f"{__package__}.families.{name}")) for name in stems}


def names_function(name: str) -> bool:
    """Is it FILE.py:FUNCTION or MODULE:FUNCTION, the name of code that makes an environment, and no id?"""
    where, colon, inner = name.rpartition(":")
    return bool(colon) and not name.startswith("custom:") and (where.endswith(".py") or not re.search(r"-v\d+$", inner))


def family_of(env_id: str) -> Family | None:
    """The family that an id belongs to, None for other ids of Gymnasium and for names of functions."""
    if names_function(env_id):
        return None
    prefix = re.split(r"[-/:]", env_id)[0].lower()
    for family in all_families().values():
        if any(fnmatchcase(prefix, pattern) for pattern in family.PREFIXES):
            return family
    return None


def installed(family: Family) -> bool:
    """Whether the family's packages are installed."""
    return all(importlib.util.find_spec(name) is not None for name in family.MODULES)


def parse_options(family: Family, items: Sequence[str]) -> Any:
    """("name=value", ...) -> the family's Options. Raises UserError for an unknown name or a wrong value."""
    if family.Options is FreeOptions:
        return FreeOptions(tuple(free_options(items).items()))
    known = {item.name: item for item in fields(family.Options)}
    types = get_type_hints(family.Options)
    values = {}
    listed = ", ".join(known) or "none"
    for name, text in _pairs(items):
        if name not in known:
            raise UserError(f"env.options: '{name}' is no option of this family.", f"It has: {listed}.")
        try:
            values[name] = coerce(text, types[name])
        except ValueError as error:
            raise UserError(f"env.options: '{name}' {error}.", f"It means: {known[name].metadata['doc']}.") from None
    return family.Options(**values)


def free_options(items: Sequence[str]) -> dict[str, Any]:
    """("name=value", ...) -> keyword arguments for `gymnasium.make`: Python literals, true, false, or text."""
    arguments = {}
    for name, text in _pairs(items):
        try:
            arguments[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            arguments[name] = {"true": True, "false": False}.get(text.lower(), text)
    return arguments


def factors_of(env_id: str) -> dict[str, str]:
    """What can be changed in a task by env.options. -> {name: meaning}; {} where nothing is known.

    A family's options, or the plain arguments of the class that Gymnasium makes.
    """
    family = family_of(env_id)
    if family is not None and family.Options is not FreeOptions:
        return {item.name: item.metadata["doc"] for item in fields(family.Options)}
    more: dict[str, str] = getattr(family, "more_options", lambda env_id: {})(env_id)
    try:
        spec = gym.spec(env_id)
        usual = dict(spec.kwargs)
        creator: Any = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        taken = inspect.signature(creator).parameters
    except (gym.error.Error, ImportError, ValueError, TypeError):  # `make_env` says what is missing
        return dict(more)
    usual = {name: item.default for name, item in taken.items()} | usual
    plain = {name: value for name, value in usual.items() if isinstance(value, bool | int | float | str)}
    return {name: f"{value}" for name, value in plain.items() if name != "render_mode"} | dict(more)


def _pairs(items: Sequence[str]) -> list[tuple[str, str]]:
    for item in items:
        if "=" not in item:
            raise UserError(f"env.options: '{item}' is not of the form name=value.", "E.g. env.options=difficulty=2.")
    return [(item.partition("=")[0].strip(), item.partition("=")[2].strip()) for item in items]
