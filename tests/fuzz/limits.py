"""A time limit for what may hang."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

#: On a machine with other work a process that computes may wait so many times as long as it computes.
PATIENCE = 10


class HangError(BaseException):
    """A command has not come back in time."""


class Patience:
    """Has something had its time? So many seconds of computing, or ten times as many of waiting."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.started = time.monotonic(), time.process_time()

    def over(self) -> bool:
        waited, computed = time.monotonic() - self.started[0], time.process_time() - self.started[1]
        return computed >= self.seconds or waited >= PATIENCE * self.seconds


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Context that ends with HangError when the time is over (`Patience`), also in the middle of a system call."""
    patience = Patience(seconds)

    def ring(*_: Any) -> None:
        if patience.over():
            raise HangError(f"no answer after {seconds} s of computing or {PATIENCE * seconds} s")
        signal.alarm(1)

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
