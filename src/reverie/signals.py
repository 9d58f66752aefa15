"""Ctrl-C and SIGTERM in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def on_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run in order: checkpoint, then exit. A second Ctrl-C ends it at once."""
    old: dict[Any, Any] = {}

    def handler(number: int, frame: Any) -> None:
        stop()
        signal.signal(number, old[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, handler)
    except ValueError:  # not in the main thread: leave signals alone
        pass
    try:
        yield
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
