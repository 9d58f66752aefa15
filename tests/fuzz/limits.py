"""A time limit for what may hang."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


class HangError(BaseException):
    """A command has not come back in time."""


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Context that ends with HangError after so many seconds, also in the middle of a system call."""

    def ring(*_: Any) -> None:
        raise HangError(f"no answer after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
