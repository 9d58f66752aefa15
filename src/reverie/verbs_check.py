"""`reverie check-env`: try an environment before training on it."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .envs import make_env
from .envs.check import check_env
from .errors import UserError


def check_command(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Check, print, -> exit code. options: of `make_env`. Raises UserError if ENV cannot be found."""
    report = check_env(_maker(args.env, options), steps=args.steps, seed=args.seed)
    if args.json:
        print(json.dumps({"facts": report.facts, "findings": [asdict(finding) for finding in report.ordered]}))
    else:
        print("\n".join(report.lines()))
    return 1 if report.errors else 0


def _maker(name: str, options: dict[str, Any]) -> Callable[[], Any]:
    """A function that makes the environment that `name` means."""
    where, colon, function = name.rpartition(":")
    if not colon or (":" in name and "/" not in where and not where.endswith(".py") and not _importable(where)):
        return lambda: make_env(name, **options)
    module = _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    made = getattr(module, function, None)
    if not callable(made):
        raise UserError(f"{where} has no function '{function}'.", "Write FILE.py:FUNCTION, FUNCTION without brackets.")
    found: Callable[[], Any] = made
    return found


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _from_file(path: Path) -> Any:
    if not path.exists():
        raise UserError(f"there is no file {path}.", "Write path/to/file.py:function.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be imported.", "Is it a Python file?")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.absolute()))  # its own imports
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        told = f"importing {path} fails ({type(error).__name__}: {error})."
        raise UserError(told, "Run it with python first.") from error
    return module
