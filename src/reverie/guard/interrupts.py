"""Orderly end on Ctrl-C, SIGTERM and SIGHUP: a checkpoint, exit code 0, within 20 seconds.

A cluster that needs the machine back sends SIGTERM and, some time later, SIGKILL; a terminal that is closed sends
SIGHUP. The first signal asks the run to end after the current update. If that takes longer than PATIENCE (an
environment that hangs, a compiler at work), `Stopped` is raised wherever the run is.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from ..errors import Stopped

#: Seconds that a run has to end by itself before it is interrupted; a checkpoint comes after them.
PATIENCE = 10.0
#: Seconds until the next attempt to interrupt a run that is writing a checkpoint.
AGAIN = 0.5

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


class Stopping:
    """Has a run been asked to stop, by which signal, and may it be interrupted now?"""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience
        self.requested = False  # the run ends after the current update
        self.signal = ""  # the name of the first signal that came
        self.late = False  # it came more than `patience` seconds ago: the run is interrupted wherever it is
        #: Puts the run's handlers back where the environment has replaced them. -> the names of those signals.
        self.keep: Callable[[], list[str]] = list
        self._held = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Context that is not interrupted: the run writes a checkpoint in it."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    @property
    def may_break(self) -> bool:
        """Is it time to interrupt the run, and is nothing being written?"""
        return self.late and not self._held


@contextmanager
def on_signals(stopping: Stopping, stop: Callable[[], None], *, quiet: bool = True) -> Iterator[None]:
    """Within it the first signal calls `stop`; a second Ctrl-C raises KeyboardInterrupt, at once.

    Raises Stopped if what is inside has not ended `stopping.patience` seconds after the signal. quiet: print nothing.
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

    def keep() -> list[str]:
        taken = [number for number in old if signal.getsignal(number) is not handler]
        for number in taken:
            signal.signal(number, handler)
        return [signal.Signals(number).name for number in taken]

    main = threading.main_thread().ident or 0
    old = _install(handler)
    stopping.keep = keep
    try:
        yield
    finally:
        stopping.keep = list
        for timer in timers:
            timer.cancel()
        _restore(old)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Context before and after a run, with nothing to save: SIGTERM and SIGHUP raise Stopped at once.

    Ctrl-C keeps its meaning.
    """

    def handler(number: int, frame: Any) -> None:
        raise Stopped(signal.Signals(number).name)

    old = _install(handler, names=("SIGTERM", "SIGHUP"))
    try:
        yield
    finally:
        _restore(old)


def end_program(name: str, directory: Path) -> NoReturn:
    """End a Python program whose training a signal has stopped, as the signal would have ended it without training.

    name: of the signal; directory: of the run. Raises KeyboardInterrupt for Ctrl-C and SystemExit(128 + number) for
    others, so that the line after `learn` does not run: it may save a half-trained agent over a good one. In a
    notebook the cell ends and the agent remains.
    """
    message = f"{name} stopped the training, with a checkpoint in {directory}; the same call of learn continues it"
    if name == "SIGINT":
        raise KeyboardInterrupt(message)
    raise SystemExit(128 + signal.Signals[name].value)


def _install(handler: Callable[[int, Any], None], names: tuple[str, ...] = NAMES) -> dict[Any, Any]:
    """-> the previous handlers by signal. Does nothing outside of the main thread."""
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
    """Write to the terminal, if it is still there. Not `print`: the signal may have interrupted one."""
    with suppress(OSError):
        os.write(2, text.encode())
