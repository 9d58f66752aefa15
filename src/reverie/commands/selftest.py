"""`reverie selftest`: compare losses and gradients with golden numbers."""

from __future__ import annotations

import argparse

from .command import Command, add_json


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", help="only the checks with this in their names, e.g. KL")
    add_json(parser)


def run_selftest(args: argparse.Namespace) -> int:
    """Check and print. -> 1 if a check fails, else 0. Raises UserError."""
    from ..selftest import selftest_command

    return selftest_command(args)


COMMAND = Command(
    "selftest",
    "check every equation against golden numbers; run it after editing a loss",
    "",
    _arguments,
    run_selftest,
)
