"""What a family of environments is: one file in `families/` with the names of the `Family` protocol below.

A family knows its ids (PREFIXES), what must be installed (MODULES, INSTALL, DEBIAN), its own options, and how to make
a task under the protocol that results are published under. No torch in here: this code also runs in worker processes.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast, get_type_hints

import gymnasium as gym

from ..config.validation import coerce
from ..errors import UserError


@dataclass(frozen=True)
class Request:
    """What is asked of a family."""

    env_id: str
    actions: str = "full"  # "full" or "minimal"
    pixels: bool = False  # observe pictures where the family would give vectors
    repeat: int = 1  # each action is applied this many times, rewards added up: the family does that
    image_size: int = 0  # what the agent will see; a family may draw in that size at once (0: its own)
    grayscale: bool = False  # as above
    time_limit: int = 0  # in agent steps; applied outside, but a family may print it
    options: Any = None  # the family's own Options


class Family(Protocol):
    """The names that a file in `families/` has."""

    PREFIXES: tuple[str, ...]  # of its ids: what stands before the first of - / : in lower case; "name*" for any rest
    MODULES: tuple[str, ...]  # import names that must be there
    INSTALL: str  # the exact command that brings them
    DEBIAN: str  # Debian packages that a bare machine needs; "" for none
    EXAMPLE: str  # an id
    NOTE: str  # one line: what the agent sees
    REPEAT: int  # the usual action repeat, for env.action_repeat=0
    Options: type  # frozen dataclass of `option(default, doc)`

    def make(self, request: Request) -> gym.Env:
        """One environment, action repeat included, that can draw itself (render_mode rgb_array) if at all possible."""
        ...

    def protocol(self, request: Request) -> str:
        """One line for the header of a run: every choice that a published score depends on."""
        ...


def option(default: Any, doc: str) -> Any:
    """A field of a family's Options, with its one-line documentation."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class NoOptions:
    """For families without options of their own."""


@dataclass(frozen=True)
class FreeOptions:
    """For families that hand every option to `gymnasium.make`."""

    arguments: tuple[tuple[str, Any], ...] = option((), "any keyword argument that gymnasium.make takes for the task")


@cache
def all_families() -> dict[str, Family]:
    """{name: module} of every file in `families/`. Importing one needs no package but Gymnasium."""
    names = sorted(path.stem for path in (Path(__file__).parent / "families").glob("*.py") if path.stem != "__init__")
    return {name: cast(Family, importlib.import_module(f"{__package__}.families.{name}")) for name in names}


def family_of(env_id: str) -> Family | None:
    """The family that an id belongs to, None for the rest of Gymnasium."""
    prefix = re.split(r"[-/:]", env_id)[0].lower()
    return next((family for family in all_families().values() if _any(prefix, family.PREFIXES)), None)


def _any(prefix: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(prefix, pattern) for pattern in patterns)


def installed(family: Family) -> bool:
    """Are the family's packages there?"""
    return all(importlib.util.find_spec(name) is not None for name in family.MODULES)


def parse_options(family: Family, items: Sequence[str]) -> Any:
    """("name=value", ...) -> the family's Options. Raises UserError with what there is."""
    if family.Options is FreeOptions:
        return FreeOptions(tuple(free_options(items).items()))
    known = {item.name: item for item in fields(family.Options)}
    kinds, values = get_type_hints(family.Options), {}
    listed = ", ".join(known) or "none"
    for name, text in _pairs(items):
        if name not in known:
            raise UserError(f"env.options: '{name}' is no option of this family.", f"It has: {listed}.")
        try:
            values[name] = coerce(text, kinds[name])
        except ValueError as error:
            raise UserError(f"env.options: '{name}' {error}.", f"It means: {known[name].metadata['doc']}.") from None
    return family.Options(**values)


def free_options(items: Sequence[str]) -> dict[str, Any]:
    """("name=value", ...) -> keyword arguments for `gymnasium.make`: Python values where they read as such."""
    found = {}
    for name, text in _pairs(items):
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = {"true": True, "false": False}.get(text.lower(), text)
    return found


def _pairs(items: Sequence[str]) -> list[tuple[str, str]]:
    for item in items:
        if "=" not in item:
            raise UserError(f"env.options: '{item}' is not of the form name=value.", "E.g. env.options=difficulty=2.")
    return [(item.partition("=")[0].strip(), item.partition("=")[2].strip()) for item in items]
