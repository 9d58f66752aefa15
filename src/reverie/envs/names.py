"""Names of environments: what `--env`, `reverie.Dreamer`, `check-env` and `make_env` take as text.

    CartPole-v1, dmc/walker-walk     an id of Gymnasium or of a family
    FILE.py:FUNCTION                 a function, or class, of a file that makes one
    MODULE:FUNCTION                  the same of a module, in the current directory or installed
    MODULE:Id-v0, FILE.py:Id-v0      an id that this module or file registers with Gymnasium

No torch in here: makers are also called in worker processes.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym

from ..errors import UserError
from .border import pass_on, text_of
from .family import family_of, names_function
from .plain import from_gymnasium

FORM = "Write path/to/file.py:FUNCTION or module:FUNCTION, FUNCTION without brackets, or module:Id-v0."


@dataclass(frozen=True)
class NamedMaker:
    """The function, class or id `name` of a file or module; calling this makes the environment.

    It can be sent to worker processes, which import the file again.
    """

    where: str  # absolute path of a file, or a module
    name: str

    def __call__(self) -> gym.Env:
        """The environment. Raises UserError if file, module or function are missing."""
        module = load_module(self.where)
        if not hasattr(module, self.name) and self.name in gym.registry:
            return from_gymnasium(self.name, {})
        made: gym.Env = _callable(module, self.where, self.name)()
        return made


def find_environment(name: str) -> str | NamedMaker:
    """What `name` stands for: an id that `gymnasium.make` or a family takes, or a maker. Raises UserError."""
    where, colon, inner = name.rpartition(":")
    if name.endswith(".py"):
        raise UserError(f"{name} is a file: which function of it makes the environment?", _found_in(Path(name)))
    if where.endswith(".py"):
        return _maker(str(_here() / Path(where).expanduser()), inner)
    if not colon or name.startswith("custom:") or family_of(name) is not None:
        return name
    if not _importable(where):
        raise UserError(f"there is no module '{where}', in {_here()} or among the installed packages.", FORM)
    if not names_function(name):
        load_module(where)  # which registers the id
        return name
    return _maker(where, inner)


def maker_of(name: str) -> NamedMaker | None:
    """The maker that a name stands for, None for ids. Raises UserError.

    A program asks for it before any environment is made: relative paths are the user's, who knows nothing of an
    environment that changes the working directory.
    """
    found = find_environment(name) if names_function(name) or name.endswith(".py") else None
    return found if isinstance(found, NamedMaker) else None


def function_of(name: str) -> Callable[..., Any]:
    """The function, or class, that MODULE:NAME or FILE.py:NAME stands for, imported. Raises UserError."""
    where, colon, inner = name.rpartition(":")
    if not colon or not inner:
        raise UserError(f"'{name}' names no function.", "Write path/to/file.py:FUNCTION or module:FUNCTION.")
    is_file = where.endswith(".py")
    if not is_file and not _importable(where):
        raise UserError(f"there is no module '{where}', in {Path.cwd()} or among the installed packages.", FORM)
    module = load_module(str(Path(where).expanduser().absolute()) if is_file else where)
    found = getattr(module, inner, None)
    if not callable(found):
        raise UserError(f"{_shown(where)} has no function '{inner}'.", _functions_of(module) or FORM)
    function: Callable[..., Any] = found
    return function


def _maker(where: str, inner: str) -> NamedMaker:
    module = load_module(where)
    if hasattr(module, inner) or inner not in gym.registry:
        _callable(module, where, inner)  # raises for what makes nothing
    return NamedMaker(where, inner)


def _callable(module: Any, where: str, name: str) -> Callable[[], Any]:
    made = getattr(module, name, None)
    if isinstance(made, gym.Env):
        raise UserError(
            f"{name} of {_shown(where)} is an environment, not a function that makes one.",
            f"Write `def make(): return {name}`.",
        )
    if not callable(made):
        raise UserError(f"{_shown(where)} has no function '{name}'.", _functions_of(module) or FORM)
    needed = [item.name for item in _parameters(made) if item.default is item.empty and item.kind < item.VAR_POSITIONAL]
    if needed:
        raise UserError(
            f"{name} of {_shown(where)} needs the argument {needed[0]}.",
            "Name a function that can be called without arguments.",
        )
    found: Callable[[], Any] = made
    return found


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some functions written in C have no signature
        return []


def _functions_of(module: Any) -> str:
    """A sentence with the functions of a module, which one of them may be meant."""
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", "") == module.__name__ and not key.startswith("_")
    ]
    return f"It has {', '.join(own[:8])}." if own else ""


def _found_in(path: Path) -> str:
    functions = _functions_of(load_module(str(_here() / path.expanduser())))
    return f"Write {path}:FUNCTION. {functions}".strip()


def _importable(module: str) -> bool:
    here = str(_here())
    if here not in sys.path:  # as `python -m` has it
        sys.path.insert(0, here)
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
    except BaseException as error:  # of the package around it, which is imported for this
        pass_on(error)
        raise _fails(module, error) from error


def load_module(where: str) -> Any:
    """The module of a file (an absolute path) or of that name, imported once per process. Raises UserError."""
    try:
        return _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except BaseException as error:
        pass_on(error)
        if isinstance(error, UserError):
            raise
        raise _fails(where, error) from error


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"there is no file {_shown(str(path))}.", FORM)
    name = (
        f"reverie_user_{path.stem}_{zlib.crc32(str(path).encode()):x}"  # a user's random.py must not replace Python's
    )
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{_shown(str(path))} cannot be imported.", "Is it a Python file?")
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # its own imports
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # else the next call would find half of it
        raise
    return module


def _shown(where: str) -> str:
    """A file or module for a message: files of the current directory without it."""
    path = Path(where)
    return str(path.relative_to(_here())) if path.is_relative_to(_here()) else where


def _here() -> Path:
    """The current directory. Raises UserError if it has been removed."""
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the current directory has been removed.", "Change to one that exists.") from error


def _fails(where: str, error: BaseException) -> UserError:
    described = f"{type(error).__name__}: {' '.join(text_of(error).split())[:200]}".removesuffix(": ")
    return UserError(f"importing {_shown(where)} fails ({described}).", "Run it with python first.")
