"""Many runs, each a process of its own with one thread, some at a time; what is done is not made again."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

STOPPED = 75  # exit code of a run that was stopped before its end
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Job:
    """A run: its command writes the file `result`; what it prints goes to `log`."""

    name: str
    command: Sequence[str]
    result: Path
    log: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process, in a session of its own: Ctrl-C reaches only the command that started it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                list(self.command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | ONE_THREAD | self.environment,
            )  # fmt: skip


def run_jobs(jobs: Sequence[Job], at_a_time: int, describe: Callable[[Job], str]) -> int:
    """Run all whose result is not there. describe: a line about a finished one. -> 0, 1: some failed, 130: stopped."""
    stopping, failed = threading.Event(), 0
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: stopping.set())
    waiting, going = [job for job in jobs if not job.result.exists()], list[tuple[Job, subprocess.Popen[bytes]]]()
    done = len(jobs) - len(waiting)
    while going or (waiting and not stopping.is_set()):
        while waiting and len(going) < at_a_time and not stopping.is_set():
            job = waiting.pop(0)
            going.append((job, job.start()))
        if stopping.is_set():
            _end([process for _, process in going])
        for job, process in [each for each in going if each[1].poll() is not None]:
            going.remove((job, process))
            done += 1
            print(f"[{done}/{len(jobs)}] {job.name}: {_outcome(job, process.returncode, describe)}", flush=True)
            failed += not job.result.exists() and process.returncode not in (STOPPED, -signal.SIGTERM)
        stopping.wait(0.5)
    if stopping.is_set():
        print("stopped; the same command goes on", flush=True)
        return 130
    return 1 if failed else 0


def _outcome(job: Job, code: int, describe: Callable[[Job], str]) -> str:
    if code == 0 and job.result.exists():
        return describe(job)
    if code in (STOPPED, -signal.SIGTERM):
        return "stopped"
    last = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-2:]
    return f"FAILED ({code}), see {job.log}: {' '.join(last)[-300:]}"


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask the processes to end, and wait a minute for it."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    until = time.monotonic() + 60
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, until - time.monotonic()))


def follow_parent() -> None:
    """From now on: stop this process in order (SIGTERM) when the one that started it is gone."""

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, args=[os.getppid()], daemon=True).start()
