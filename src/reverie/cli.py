"""The command line `reverie COMMAND`: parser, exit codes, and what is printed when something is wrong.

Exit codes: that of the command (0 where all went well), 2 for a mistake of the user, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from . import __version__
from .commands import COMMANDS, settings_of
from .commands.command import expand_home
from .commands.output import OutputError, discard_output, print_error, printable_output
from .config.parsing import as_sentence
from .errors import UserError

EPILOG = """\
examples:
  reverie train --preset demo                              learn MiniGrid from pixels in minutes
  reverie train --preset demo --env MiniGrid-DoorKey-5x5-v0 --run runs/doorkey
  reverie train --preset vector --env CartPole-v1 --minutes 5 gamma=0.98
  reverie eval runs/doorkey --episodes 20                  play the newest checkpoint, write a GIF
  reverie presets demo                                     every value of a preset and where it comes from
  reverie train --preset dreamerv3+small --env CartPole-v1 one preset's values on top of another's
  reverie check-env my_robot.py:make_env                   find mistakes in your environment
  reverie bench update --preset demo                       time of an update, in total and by part
  reverie doctor runs/demo                                 what is wrong with a run, and which setting to change
  reverie watch                                            curves, findings, videos; play inside the dream
  reverie selftest                                         check the code against golden numbers
The same train command again continues a run. Stop with Ctrl-C: a checkpoint is written first.
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point of the `reverie` command. argv: without the program's name. -> exit code."""
    try:
        with printable_output():
            return _run(argv)
    except UserError as error:
        print_error(f"error: {error.message}")
        if error.hint:
            print_error(f"hint: {error.hint}")
        if isinstance(error, OutputError):
            discard_output()
        return 2
    except KeyboardInterrupt:
        print("stopped at once by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `reverie presets | head`
        discard_output()
        return 0
    except FileNotFoundError:
        if _has_directory():
            raise
        print("error: the current directory has been removed.\nhint: Change to one that exists.", file=sys.stderr)
        return 2


def _has_directory() -> bool:
    """Is there still a current directory?"""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _run(argv: list[str] | None) -> int:
    args, rest = make_parser().parse_known_args(argv)
    command = COMMANDS[args.command]
    if rest and not command.takes_settings:
        raise UserError(f"unknown argument '{rest[0]}'.", f"See reverie {command.name} --help.")
    args.settings = settings_of(rest)
    for name, value in list(vars(args).items()):
        setattr(args, name, expand_home(value))
    return command.run(args)


class Parser(argparse.ArgumentParser):
    """Says what is wrong as everything here does, in one sentence, not below a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(as_sentence(message), f"See {self.prog} --help.")


def make_parser() -> argparse.ArgumentParser:
    """A parser of every command's arguments; words that it does not know are left over for settings."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="reverie",
        description="DreamerV2: learn a world model, learn to act in its dreams.",
        epilog=EPILOG,
        formatter_class=raw,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"reverie {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS.values():
        sub = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.summary,
            epilog=command.epilog,
            formatter_class=raw,
            allow_abbrev=False,
        )
        command.add_arguments(sub)
    return parser


if __name__ == "__main__":
    sys.exit(main())
