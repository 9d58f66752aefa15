"""What a command-line verb is that lives in a module of its own (verbs_*.py); verbs.py lists them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple


class Command(NamedTuple):
    """One verb of `reverie`. Heavy imports belong into `run`: every `reverie --help` reads all of these."""

    name: str
    summary: str  # one line
    epilog: str  # what --help says besides the arguments
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]  # -> exit code; may raise UserError
