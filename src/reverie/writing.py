"""Writing behind the run's back: what is to be written is copied, then learning goes on while a thread writes it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Writer:
    """Does one job at a time in a thread of its own."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Is a job under way?"""
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Callable[[], None]) -> None:
        """Begin a job, after the one before it. Raises what that one raised."""
        self.finish()
        self._thread = threading.Thread(target=self._run, args=(job,), name="reverie-writer")
        self._thread.start()

    def finish(self) -> None:
        """Wait for the job. Raises what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # told to who waits
            self._error = error
