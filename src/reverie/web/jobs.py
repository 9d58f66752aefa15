"""What takes seconds to compute and is only wanted on demand: drift, doctor's findings, a film of real against dream.

One thread of work at a time, so that a page never takes more than one core from a training run beside it.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..insight.glossary import find

MOST_KEPT = 64
_log = logging.getLogger(__name__)

Work = Callable[[Path], Any]


def drift_of(path: Path) -> dict[str, Any]:
    """How far the run's model can dream. -> Drift.to_dict()."""
    from ..insight.drift import drift
    from ..insight.run_reader import open_run

    return drift(open_run(path)).to_dict()


def findings_of(path: Path) -> list[dict[str, Any]]:
    """Doctor's findings, as plain values."""
    from ..insight.doctor import diagnose

    return [finding.to_dict() for finding in diagnose(path)]


def film_of_reality(path: Path) -> bytes:
    """Truth, dream and error side by side, as a GIF."""
    from ..insight.run_reader import open_run
    from .image_encoding import gif, real_against_dream

    opened = open_run(path, most_steps=5000)
    return gif(real_against_dream(opened, seed=opened.env_steps or 0), fps=8)


def meaning_of(key: str) -> dict[str, Any] | None:
    """What a logged number means; None where the glossary does not know it."""
    entry = find(key)
    return None if entry is None else entry._asdict()


#: What a page may ask for.
WORKS: Mapping[str, Work] = {"drift": drift_of, "doctor": findings_of, "dream": film_of_reality}


class Asks:
    """Answers by (run, what), computed once in the background until asked for again."""

    def __init__(self, works: Mapping[str, Work] = WORKS) -> None:
        self.works = works
        self._turn = threading.Lock()  # one at a time
        self._kept: OrderedDict[tuple[Path, str], Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, path: Path, what: str) -> None:
        """Compute it, unless that is under way. Raises KeyError for what nobody can ask."""
        work = self.works[what]
        with self._lock:
            old = self._kept.get((path, what))
            if old is None or old.done():
                answer = self._kept[path, what] = Future()
                self._kept.move_to_end((path, what))
                # A daemon: Ctrl-C shall not wait for a minute of somebody's drift curves.
                threading.Thread(target=self._answer, args=(work, path, answer), daemon=True).start()
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)[1].cancel()

    def state(self, path: Path, what: str) -> dict[str, Any]:
        """{"state": "idle", "running", "done" or "failed", "result", "message", "hint"}."""
        with self._lock:
            found = self._kept.get((path, what))
        if found is None or found.cancelled():
            return {"state": "idle"}
        if not found.done():
            return {"state": "running"}
        error = found.exception()
        if isinstance(error, UserError):
            return {"state": "failed", "message": error.message, "hint": error.hint}
        if error is not None:
            _log.error("computing %s of %s failed", what, path, exc_info=error)
            return {
                "state": "failed",
                "message": f"{type(error).__name__}: {error}",
                "hint": "A bug: please report it.",
            }
        return {"state": "done", "result": found.result()}

    def _answer(self, work: Work, path: Path, answer: Future[Any]) -> None:
        with self._turn:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(work(path))
            except Exception as error:  # told to the page that asked
                answer.set_exception(error)

    def close(self) -> None:
        """Begin nothing more."""
        with self._lock:
            for answer in self._kept.values():
                answer.cancel()
