"""Background jobs of the dashboard that take seconds: drift, the doctor's findings, a video of truth against dream.

One job runs at a time, so that the page never takes more than one core from a training run.
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
from ..insight.doctor_record import write_findings
from ..insight.glossary import find
from ..run.lines import newest_values

MOST_KEPT = 64
_log = logging.getLogger(__name__)

Job = Callable[[Path], Any]


def measure_drift(path: Path) -> dict[str, Any]:
    """The drift of the run's model. -> Drift.to_dict()."""
    from ..insight.drift import drift
    from ..insight.run_reader import open_run

    return drift(open_run(path)).to_dict()


def run_doctor(path: Path) -> list[dict[str, Any]]:
    """The doctor's findings as JSON values, which the run keeps."""
    from ..insight.doctor import diagnose

    findings = [finding.to_dict() for finding in diagnose(path)]
    newest = newest_values(path / "metrics.jsonl", ("updates", "env_steps"))
    write_findings(path, findings, updates=newest.get("updates", 0), env_steps=newest.get("env_steps", 0))
    return findings


def compare_with_dream(path: Path) -> bytes:
    """Truth, dream and error side by side, as a GIF."""
    from ..insight.run_reader import open_run
    from .image_encoding import comparison_frames, encode_gif

    run = open_run(path, most_steps=5000)
    return encode_gif(comparison_frames(run, seed=run.env_steps or 0), fps=8)


def explain_metric(key: str) -> dict[str, Any] | None:
    """The glossary's entry of a logged number, None if it has none."""
    entry = find(key)
    return None if entry is None else entry._asdict()


def unit_of(key: str) -> str:
    """The unit of a logged number, "" if the glossary has no entry for it."""
    entry = find(key)
    return "" if entry is None else entry.unit


#: The jobs that a page may start.
JOBS: Mapping[str, Job] = {"drift": measure_drift, "doctor": run_doctor, "dream": compare_with_dream}


class JobRunner:
    """Runs jobs in the background, one at a time, and keeps the last result of each (run, job)."""

    def __init__(self, jobs: Mapping[str, Job] = JOBS) -> None:
        self.jobs = jobs
        self._turn = threading.Lock()  # held by the job that runs
        self._results: OrderedDict[tuple[Path, str], Future[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, path: Path, name: str) -> None:
        """Start a job, unless it is running already. Raises KeyError for an unknown one."""
        job = self.jobs[name]
        with self._lock:
            old = self._results.get((path, name))
            if old is None or old.done():
                result = self._results[path, name] = Future()
                self._results.move_to_end((path, name))
                # A daemon thread, so that Ctrl-C need not wait for a minute of drift curves.
                threading.Thread(target=self._run, args=(job, path, result), daemon=True).start()
            while len(self._results) > MOST_KEPT:
                self._results.popitem(last=False)[1].cancel()

    def state(self, path: Path, name: str) -> dict[str, Any]:
        """{"state": "idle", "running", "done" or "failed"}, with "result", or "message" and "hint"."""
        with self._lock:
            result = self._results.get((path, name))
        if result is None or result.cancelled():
            return {"state": "idle"}
        if not result.done():
            return {"state": "running"}
        error = result.exception()
        if isinstance(error, UserError):
            return {"state": "failed", "message": error.message, "hint": error.hint}
        if error is not None:
            _log.error("computing %s of %s failed", name, path, exc_info=error)
            return {
                "state": "failed",
                "message": f"{type(error).__name__}: {error}",
                "hint": "This is a bug: please report it.",
            }
        return {"state": "done", "result": result.result()}

    def _run(self, job: Job, path: Path, result: Future[Any]) -> None:
        with self._turn:
            if not result.set_running_or_notify_cancel():
                return
            try:
                result.set_result(job(path))
            except Exception as error:  # reported to the page by `state`
                result.set_exception(error)

    def close(self) -> None:
        """Start no more jobs."""
        with self._lock:
            for result in self._results.values():
                result.cancel()
