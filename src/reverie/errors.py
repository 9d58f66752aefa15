"""The one exception that means "the user can fix this", and the one that ends a run.

For a UserError the command line prints `error: ...` and `hint: ...` and exits with code 2; in Python it is an ordinary
exception. A bug of ours is never a UserError: it keeps its traceback.
"""

from __future__ import annotations

#: Characters of a message that are shown: a received file may hold a name of a megabyte.
LONGEST = 4000


def printable(text: str) -> str:
    r"""Text whose control characters are shown as escapes (`\x1b`), so that no name from a file commands a terminal.

    Line ends stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class UserError(Exception):
    """Bad input, reported in one sentence: what was found where, what was expected; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = _shown(message)
        self.hint = _shown(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class Stopped(BaseException):
    """A signal ended the program here. Not an Exception: only the end of a run should catch it."""


def _shown(text: str) -> str:
    return printable(text if len(text) <= LONGEST else f"{text[:LONGEST]} ...")
