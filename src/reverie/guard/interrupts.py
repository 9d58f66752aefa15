"""Ctrl-C, SIGTERM and SIGHUP in order: a checkpoint, exit code 0, within 20 seconds.

A cluster that needs the machine back sends SIGTERM and, some time later, SIGKILL; a terminal that is closed sends
SIGHUP. The first signal asks the run to end after what it is doing. If that takes longer than PATIENCE (an environment
that hangs, a compiler at work), what it is doing is broken off: `Stopped` is raised there.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

#: Seconds that a run has for ending by itself before it is broken off; a checkpoint comes after them.
PATIENCE = 10.0
#: Seconds after which a run that may not be broken off now, because it writes a checkpoint, is looked at again.
AGAIN = 0.5

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopped(BaseException):
    """A signal ended the program here. Not an Exception: nothing but the end of a run should catch it."""


class Stopping:
    """Has a run been asked to stop, by what, and may it be broken off just now?"""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.requested = False  # the run ends after the current update
        self.signal = ""  # the name of the first signal that came
        self.late = False  # it came so long ago that the run is broken off wherever it is
        self._held = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is done in here is not broken off: it is the checkpoint that everybody waits for."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    @property
    def may_break(self) -> bool:
        """Is it time to break off, and is nothing being written?"""
        return self.late and not self._held


@contextmanager
def on_signals(stopping: Stopping, stop: Callable[[], None], *, quiet: bool = True) -> Iterator[None]:
    """Within it the first signal calls `stop`; a second Ctrl-C raises KeyboardInterrupt, at once.

    Raises Stopped if what is inside has not ended `stopping.patience` seconds after the signal. quiet: say nothing.
    """
    timers: list[threading.Timer] = []

    def later(seconds: float, number: int) -> None:
        timer = threading.Timer(seconds, strike, (number,))
        timer.daemon = True
        timers[:] = [timer]
        timer.start()

    def strike(number: int) -> None:
        stopping.late = True
        signal.pthread_kill(main, number)  # of the main thread: a system call that waits there ends

    def handler(number: int, frame: Any) -> None:
        if stopping.may_break:
            stopping.late = False  # only once: what follows is the end of the run
            raise Stopped(stopping.signal)
        if stopping.late:
            later(AGAIN, number)
        elif not stopping.signal:
            stopping.signal = signal.Signals(number).name
            stop()
            if not quiet:
                _say(f"\n{stopping.signal}: stopping, with a checkpoint (at once: Ctrl-C once more)\n")
            later(stopping.patience, number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        # else: a second SIGTERM. Some clusters send two, to every process and to each group.

    main = threading.main_thread().ident or 0
    old = _install(handler)
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        _restore(old)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Before and after a run there is nothing to save: within this, SIGTERM and SIGHUP raise Stopped where they come.

    Ctrl-C stays what it is.
    """

    def handler(number: int, frame: Any) -> None:
        raise Stopped(signal.Signals(number).name)

    old = _install(handler, names=("SIGTERM", "SIGHUP"))
    try:
        yield
    finally:
        _restore(old)


def _install(handler: Callable[[int, Any], None], names: tuple[str, ...] = NAMES) -> dict[Any, Any]:
    """-> what was there before, by signal. Nothing is done in another thread than the main one."""
    old: dict[Any, Any] = {}
    for number in [getattr(signal, name) for name in names if hasattr(signal, name)]:  # no SIGHUP on Windows
        if signal.Signals(number).name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN:
            continue  # nohup: the run was meant to outlive its terminal
        with suppress(ValueError):
            old[number] = signal.signal(number, handler)
    return old


def _restore(old: dict[Any, Any]) -> None:
    for number, previous in old.items():
        signal.signal(number, previous)


def _say(text: str) -> None:
    """Straight to the terminal: a handler may have interrupted a `print`. The terminal may be gone."""
    with suppress(OSError):
        os.write(2, text.encode())
