"""`reverie check-env`: try an environment before training on it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import build
from ..errors import UserError
from .command import Command, add_json, positive
from .envs import FITS, FITTING

if TYPE_CHECKING:
    from ..envs import EnvLike

EPILOG = """\
Plays random steps and reports mistakes, one sentence each, with the fix. ENV is a Gymnasium id, or names a function (or
class) that makes an environment: FILE.py:FUNCTION or MODULE:FUNCTION. Settings of env.* may follow.

  reverie check-env CartPole-v1
  reverie check-env my_robot.py:make_env --steps 2000
  reverie check-env dmc/walker-walk env.pixels=true

Exit code 1 if there are errors. In Python: reverie.check_env(make_env).
"""
FORM = "Write path/to/file.py:FUNCTION or module:FUNCTION, FUNCTION without brackets."


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("env", help="an id, FILE.py:FUNCTION or MODULE:FUNCTION")
    parser.add_argument("--steps", type=positive, default=500, help="random steps to play")
    parser.add_argument("--seed", type=int, default=0)
    add_json(parser)


def run_check_env(args: argparse.Namespace) -> int:
    """Check, print. -> 1 if there are errors, else 0. Raises UserError if ENV cannot be found."""
    from ..envs.check import check_env
    from ..run.tasks import options_of

    options = options_of(build(args.settings, where="setting"))
    with contextlib.redirect_stdout(sys.stderr):  # the environment may print; stdout is for the report
        source = find_environment(args.env)
        report = check_env(source, steps=args.steps, seed=args.seed, **options)
    if args.json:
        print(json.dumps({"env": args.env, **report.to_dict()}))
    else:
        print("\n".join([*report.lines(), *([] if report.errors else _next(args.env, source))]))
    return 1 if report.errors else 0


def _next(name: str, source: EnvLike) -> list[str]:
    if isinstance(source, str):
        command = f"reverie train --env {name} --preset {FITTING}"
    else:
        function = name.rpartition(":")[2]
        command = f"in Python: reverie.Dreamer({function}, preset='{FITTING}', run='runs/mine').learn()"
    return [f"next         {command}", f"preset       {FITS}"]


def find_environment(name: str) -> EnvLike:
    """The environment that ENV names: FILE.py:FUNCTION, MODULE:FUNCTION, or else an id. Raises UserError."""
    where, colon, function = name.rpartition(":")
    if name.endswith(".py"):
        raise UserError(f"{name} is a file: which function of it makes the environment?", _found_in(Path(name)))
    if where.endswith(".py"):
        return _callable(_from_file(Path(where)), where, function)
    if not colon or re.search(r"-v\d+$", name) or not _importable(where):
        return name
    try:
        module = importlib.import_module(where)
    except (Exception, SystemExit) as error:
        raise UserError(f"importing {where} fails ({_described(error)}).", "Run it with python first.") from error
    return _callable(module, where, function)


def _callable(module: Any, where: str, name: str) -> Callable[[], Any]:
    made = getattr(module, name, None)
    if not callable(made):
        raise UserError(f"{where} has no function '{name}'.", _functions_of(module) or FORM)
    needed = [item.name for item in _parameters(made) if item.default is item.empty and item.kind < item.VAR_POSITIONAL]
    if needed:
        raise UserError(
            f"{name} of {where} needs the argument {needed[0]}.",
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
    functions = _functions_of(_from_file(path))
    return f"Write {path}:FUNCTION. {functions}".strip()


def _importable(module: str) -> bool:
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it
        sys.path.insert(0, here)
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _from_file(path: Path) -> Any:
    if not path.exists():
        raise UserError(f"there is no file {path}.", FORM)
    name = f"reverie_user_{path.stem}"  # a user's random.py must not replace Python's
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be imported.", "Is it a Python file?")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.absolute()))  # its own imports
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"importing {path} fails ({_described(error)}).", "Run it with python first.") from error
    return module


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


COMMAND = Command(
    "check-env",
    "try an environment: its mistakes, one sentence each, with the fix",
    EPILOG,
    _arguments,
    run_check_env,
    takes_settings=True,
)
