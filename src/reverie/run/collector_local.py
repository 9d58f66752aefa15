"""Collectors in processes of this machine. `LocalTransport` starts them, `serve` runs in them.

The parent asks for rows and sends weights through a pipe; a thread on each side writes and another reads, so that an
environment that hangs holds neither up. A collector ends, with all of its children, when the parent's end of the pipe
is closed: also when the parent is killed.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any

import torch

from ..envs.vector.worker_process import CLOSING, die_with_parent
from ..errors import UserError
from .collector_work import Block, Weights, Work, failed, task_of

#: The program of a collector. It receives the search path first, because the package itself may only be found there.
BOOT = """
import sys
from multiprocessing.connection import Connection
link = Connection(int(sys.argv[1]))
sys.path[:] = link.recv()
from reverie.run.collector_local import serve
serve(link)
"""

#: (the collector, rows or why there are no more): called from a thread.
Deliver = Callable[[Any, Block | str], None]


def serve(link: Connection) -> None:
    """The main loop of a collector: make as many rows as it is asked for until the parent says "close" or dies."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which may want to save before it ends
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(link.fileno(), False)
    faulthandler.enable()
    torch.set_num_threads(1)
    threading.Thread(target=die_with_parent, args=(link.fileno(),), daemon=True).start()
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    made: queue.SimpleQueue[Block | list[str]] = queue.SimpleQueue()
    weights, work = Weights(), None
    data = link.recv_bytes()
    threading.Thread(target=_read, args=(link, asked, weights), daemon=True).start()
    writer = threading.Thread(target=_write, args=(link, made), daemon=True)
    writer.start()
    try:
        work = Work(task_of(data, []), weights)
    except BaseException as error:  # SystemExit too: everything that an environment raises is reported
        made.put(failed(error))
    while count := asked.get():
        while work is not None and count > 0:
            block = work.make(count)
            made.put(block)
            count = 0 if block.fault is not None else count - len(block.versions)
    made.put([] if work is None else work.close())
    writer.join(CLOSING)


def _read(link: Connection, asked: queue.SimpleQueue[int], weights: Weights) -> None:
    with suppress(EOFError, OSError):
        while True:
            kind, *values = pickle.loads(link.recv_bytes())
            if kind == "weights":
                weights.newest = tuple(values)
            else:
                asked.put(values[0])  # 0: close


def _write(link: Connection, made: queue.SimpleQueue[Any]) -> None:
    with suppress(OSError):
        while True:
            answer = made.get()
            link.send_bytes(pickle.dumps(answer, protocol=5))
            if isinstance(answer, list):
                return


# ----------------------------------------------------------------------------------------------------- the parent's end


class LocalHandle:
    """A collector of this machine, as the learner sees it."""

    where = "this machine"

    def __init__(self, task: bytes, deliver: Deliver) -> None:
        self.deliver = deliver
        self.notes: list[str] = []  # of its end
        self.link, other = Pipe()
        defaults = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOT, str(other.fileno()), "collector"],
            stdin=subprocess.DEVNULL,
            pass_fds=[other.fileno()],
            env=defaults | os.environ,
            start_new_session=True,  # not reached by the terminal's Ctrl-C; killed together with its children
        )
        other.close()
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # None: no more
        for message in (pickle.dumps(sys.path), task):
            self._out.put(message)
        for work in (self._write, self._read):
            threading.Thread(target=work, name="reverie-collector", daemon=True).start()

    def ask(self, rows: int) -> None:
        """For so many more rows of each of its environments."""
        self._out.put(pickle.dumps(("rows", rows)))

    def load(self, version: int, weights: bytes) -> None:
        """Act with these weights from the next row on."""
        self._out.put(pickle.dumps(("weights", version, weights), protocol=5))

    def close(self) -> None:
        """Ask it to close its environments and end."""
        self.ask(0)

    def end(self, until: float) -> list[str]:
        """Wait until that time (time.monotonic), then kill it and its children if necessary. -> its last notes."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, until - time.monotonic()))
        with suppress(ProcessLookupError, PermissionError):  # no process is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._out.put(None)
        return self.notes

    def _write(self) -> None:
        with suppress(OSError):
            while (message := self._out.get()) is not None:
                self.link.send_bytes(message)

    def _read(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                answer = pickle.loads(self.link.recv_bytes())
                if isinstance(answer, list):
                    self.notes = answer
                else:
                    self.deliver(self, answer)
        self.link.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(CLOSING)
        self.deliver(self, _how_it_ended(self.process.poll()))


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "closed its pipe"
    name = signal.Signals(-code).name if code < 0 else ""
    why = f"was killed by {name}" if name else f"ended with exit code {code}"
    return f"{why}, perhaps because memory ran out" if name == "SIGKILL" else why


class LocalTransport:
    """Where collectors are processes of this machine."""

    def __init__(self) -> None:
        if sys.platform == "win32":
            raise UserError("collectors of this machine need Linux or macOS.", "Set env.collectors=none.")

    def start(self, task: bytes, deliver: Deliver) -> LocalHandle:
        """A new collector, which begins at once."""
        return LocalHandle(task, deliver)

    def pack(self, weights: bytes) -> bytes:
        """What `load` takes."""
        return weights

    def trouble(self) -> str:
        """Why no collector can be reached any more; "" if that is not so."""
        return ""

    def close(self) -> None:
        """Nothing is held."""
