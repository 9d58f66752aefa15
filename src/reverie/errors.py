"""The one exception that means "the user can fix this".

The command line prints `error: ...` and `hint: ...` and exits with code 2; in Python it is an ordinary exception.
A bug of ours is never a UserError: it keeps its traceback.
"""

from __future__ import annotations


class UserError(Exception):
    """Bad input, reported in one sentence: what was found where, what was expected; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()
