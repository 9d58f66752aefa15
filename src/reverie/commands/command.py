"""What a command of `reverie` is, and what several commands share; `__init__.py` lists them all."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..files import require_possible


class Command(NamedTuple):
    """One command of `reverie`. Every `reverie --help` imports all of them: heavy imports belong into `run`."""

    name: str
    summary: str  # one line
    epilog: str  # what --help prints below the arguments
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]  # -> exit code; may raise UserError
    #: Further words are settings (name=value); `run` finds them as a dict in `args.settings`.
    takes_settings: bool = False


def add_json(parser: argparse.ArgumentParser, text: str = "print one JSON object") -> None:
    """The flag --json."""
    parser.add_argument("--json", action="store_true", help=text)


def add_data_files(parser: argparse.ArgumentParser, rows: str, *, latex: bool = False) -> None:
    """--csv and perhaps --latex. rows: what a row of the CSV file is."""
    parser.add_argument("--csv", type=Path, metavar="FILE", help=f"write the numbers: a row for each {rows}")
    if latex:
        parser.add_argument("--latex", type=Path, metavar="FILE", help="write the tables for a paper (with booktabs)")


def require_data_files(args: argparse.Namespace) -> None:
    """Make the paths of `add_data_files` absolute, and refuse those that cannot be written. Raises UserError."""
    from ..evidence.tidy import require_data_files as require
    from ..files import absolute

    for name in ("csv", "latex"):
        path = getattr(args, name, None)
        if path is not None and str(path) == "-":
            raise UserError(f"--{name} writes a file, and '-' is none.", "Give the name of a file.")
        if path is not None:
            setattr(args, name, absolute(path))
    if args.csv or getattr(args, "latex", None):
        require(args.csv, getattr(args, "latex", None))


def positive(text: str) -> int:
    """A whole number above 0, as the type of an argument. Raises ArgumentTypeError."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got '{text}'")
    return int(text)


def seed(text: str) -> int:
    """A seed that every generator takes, as the type of an argument. Raises ArgumentTypeError."""
    if not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {2**32 - 1:,}, got '{text}'")
    return int(text)


def settings_of(words: Sequence[str]) -> dict[str, str]:
    """--group.name VALUE, --group.name=VALUE, group.name=VALUE -> {"group.name": "VALUE"}. Raises UserError.

    Whether such settings exist, and whether the values fit, `config.build` checks.
    """
    found: dict[str, str] = {}
    left = iter(words)
    for word in left:
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            if not word.startswith("--"):
                raise UserError(f"unknown argument '{word}'.", "Settings are written as name=value.")
            value = next(left, "")
            if not value:
                raise UserError(f"setting '{key}' has no value.", f"Write --{key} VALUE.")
        found[key.replace("-", "_")] = value
    return found


def expand_home(value: Any) -> Any:
    """Paths with ~ as the home directory, which a shell leaves in `--run=~/mine`; anything else as it is.

    Raises UserError for a home directory that is not known, and for paths that the system does not follow.
    """
    if isinstance(value, list):
        return [expand_home(item) for item in value]
    if not isinstance(value, Path):
        return value
    try:
        return require_possible(value.expanduser())
    except RuntimeError as error:
        raise UserError(f"there is no home directory for '{value}'.", "Write the whole path.") from error
