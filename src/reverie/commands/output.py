"""What commands print: any encoding, a full disk, and no control characters from files."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from ..errors import UserError, printable, wrapped
from ..files import reason

#: Control sequences of our own that may pass: the colours of `reverie doctor`.
COLOURS = tuple(f"\033[{code}m" for code in ("31;1", "33;1", "32;1", "0"))


class OutputError(UserError):
    """The standard output cannot be written."""


class PrintableOutput:
    """A text stream on top of another one.

    Control characters are shown as escapes, letters that the encoding lacks, too: a result is never lost for a letter.
    On a terminal long lines are broken between words; what a program may read (a pipe, a file) stays as it is.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.whole = False  # lines stay as they are on a terminal, too

    def write(self, text: str) -> int:
        """Write. Raises OutputError where the system does not take it, e.g. for a full disk."""
        shown = _printable_lines(text)
        encoding = self.stream.encoding or "utf-8"
        shown = shown.encode(encoding, "backslashreplace").decode(encoding)
        shown = shown if self.whole else wrapped(shown, terminal_width(self.stream))
        with _said():
            self.stream.write(shown)
        return len(text)

    def flush(self) -> None:
        """Flush. Raises OutputError like `write`."""
        with _said():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def terminal_width(stream: Any = None) -> int:
    """Columns of the terminal that a stream (default: the standard output) writes to; 0: it is none."""
    stream = sys.stdout if stream is None else stream
    try:
        return shutil.get_terminal_size().columns if stream.isatty() else 0
    except (OSError, ValueError):  # a stream that was closed
        return 0


def keep_lines_whole() -> None:
    """What follows is CSV or LaTeX: a terminal must not break it."""
    if isinstance(sys.stdout, PrintableOutput):
        sys.stdout.whole = True


def print_error(text: str) -> None:
    """A sentence about what is wrong, on the standard error."""
    print(wrapped(text, terminal_width(sys.stderr)), file=sys.stderr)


def _printable_lines(text: str) -> str:
    """Printable text, in which our own colours stay."""
    pieces = re.split(f"({'|'.join(map(re.escape, COLOURS))})", text)
    return "".join(piece if piece in COLOURS else printable(piece) for piece in pieces)


@contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write the output ({reason(error)}).", "Free some space, or print elsewhere."
        ) from error


@contextmanager
def printable_output() -> Iterator[None]:
    """Context in which `print` goes through PrintableOutput; at its end all has arrived. Raises OutputError."""
    before = sys.stdout
    sys.stdout = cast(TextIO, PrintableOutput(before))
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout = before


def discard_output() -> None:
    """Send what is still to be printed nowhere: Python would complain at its end."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def show_line(text: str) -> None:
    """A line of progress, seen at once also where the output is a file."""
    print(text, flush=True)


def note(text: str) -> None:
    """The same for people, beside what a program reads from the standard output."""
    print(text, file=sys.stderr, flush=True)
