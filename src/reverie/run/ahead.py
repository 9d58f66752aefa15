"""Acting while the agent learns (`env.async_collect`): a thread makes rows, the loop takes them when it wants one.

The thread may be ahead by so many rows and then waits, so an environment that takes long and an agent that learns long
do not wait for each other in turns. A row counts when the loop takes it: as many updates follow it as without.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Row = TypeVar("Row")


class Ahead(Generic[Row]):
    """Draws rows from an iterator in a thread; is one itself."""

    def __init__(self, rows: Iterator[Row], *, most: int, enough: Callable[[], bool] = lambda: False) -> None:
        """most: rows that may wait; enough: asked before each row, ends the making of rows when it says so."""
        self.failed = False  # the iterator has raised; the last row before that was taken or waits
        self._rows, self._most, self._enough = rows, most, enough
        self._ready: deque[Row] = deque()
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._paused = self._busy = self._closed = False
        self._thread = threading.Thread(target=self._work, name="reverie-collect", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        """The next row, as soon as there is one. Raises what the iterator raised after its last row."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self.failed)
            if self._ready:
                row = self._ready.popleft()
                self._changed.notify_all()
                return row
        raise self._error if self._error is not None else RuntimeError("there are no more rows")

    def waiting(self) -> Iterator[Row]:
        """Take the rows that are there, without waiting for more."""
        while self._ready:
            yield next(self)

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Context in which no row is made: the last one is whole."""
        with self._changed:
            self._paused = True
            self._changed.wait_for(lambda: not self._busy or self._closed)
        try:
            yield
        finally:
            with self._changed:
                self._paused = False
                self._changed.notify_all()

    def close(self, patience: float = 5.0) -> bool:
        """Make no more rows. -> did the one that was being made come to an end, within so many seconds?"""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._busy, patience)

    def _may_work(self) -> bool:
        return self._closed or not (self._paused or len(self._ready) >= self._most or self._enough())

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._may_work)
                if self._closed:
                    return
                self._busy = True
            try:
                row = next(self._rows)
            except BaseException as error:  # raised again in the loop's thread
                with self._changed:
                    self._error, self.failed, self._busy = error, True, False
                    self._changed.notify_all()
                return
            with self._changed:
                self._ready.append(row)
                self._busy = False
                self._changed.notify_all()
