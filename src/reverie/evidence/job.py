"""What a cluster's worker executes: one run as a child process, which is asked for a checkpoint whenever the job ends.

A time limit (SLURM's signal, through submitit), a cancelled task (Ray) or the death of the worker itself all become a
SIGTERM for the run, which answers with a checkpoint within seconds. The same command continues from it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..guard.lock import RunLock
from .executors import Work

PATIENCE = 60.0  # seconds that a run gets to write its checkpoint
BUSY = 60.0  # seconds to wait for an earlier process of the same run, which may still be writing its checkpoint


class ClusterJob:
    """One run of a sweep, as a callable that submitit and Ray can pickle. -> the exit code of its command."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.directory = os.getcwd()  # clusters start their workers elsewhere
        self.path = os.environ.get("PYTHONPATH", "")
        self._process: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": None}

    def __call__(self) -> int:
        """Run to the end; an interrupt ends the run with a checkpoint."""
        _wait_for(self.work.run)
        environment = os.environ | {"OMP_NUM_THREADS": str(self.work.threads)}
        environment |= {"PYTHONPATH": self.path} if self.path else {}
        self.work.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.work.log, "ab") as file:
            self._process = subprocess.Popen(
                self.work.command,
                cwd=self.directory,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                preexec_fn=_end_with_parent(),
            )
        try:
            while (code := self._ended()) is None:
                time.sleep(0.1)
            return code
        except KeyboardInterrupt:  # a cancelled task of Ray, or Ctrl-C
            return self.stop()

    def _ended(self) -> int | None:
        """Exit code of the run; None while it lasts.

        Not Popen.wait, which holds a lock: submitit's signal handler waits, too, above this frame of the same thread.
        """
        process = self._process
        if process is not None and process.returncode is None:
            try:
                pid, status = os.waitpid(process.pid, os.WNOHANG)
            except ChildProcessError:  # the frame below has its status
                process.returncode = 0
            else:
                process.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return -signal.SIGTERM if process is None else process.returncode

    def stop(self) -> int:
        """End the run, with a checkpoint if it answers. -> its exit code."""
        for number, patience in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, PATIENCE)):
            until = time.monotonic() + patience
            if self._process is not None and self._ended() is None:
                os.kill(self._process.pid, number)
            while (code := self._ended()) is None and time.monotonic() < until:
                time.sleep(0.1)
            if code is not None:
                return code
        return -signal.SIGKILL

    def checkpoint(self) -> Any:
        """submitit's hook at the time limit: save the run. -> the same job once more, which continues it."""
        from submitit.helpers import DelayedSubmission

        self.stop()
        return DelayedSubmission(ClusterJob(self.work))


def _wait_for(run: Path) -> None:
    """Wait until no process writes to the run, for at most BUSY seconds: then the run itself reports who does."""
    until = time.monotonic() + BUSY
    while run.exists() and time.monotonic() < until:
        lock = RunLock(run)
        try:
            lock.acquire()
        except UserError:
            time.sleep(0.5)
        else:
            lock.release()
            return


def _end_with_parent() -> Callable[[], None] | None:
    """For the child: ask Linux for a SIGTERM when the worker dies, even by SIGKILL. None on other systems."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        prctl = ctypes.CDLL(None).prctl  # looked up before the fork: the child only calls it
    except (OSError, AttributeError):
        return None
    return lambda: prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
