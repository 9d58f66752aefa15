"""One worker process of `workers.py`, from both ends: `serve` runs in it, `Worker` is the parent's handle.

It makes a slice of the environments and steps them when told to. Nothing in here knows what a fault means for a run.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import pickle
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import CloudpickleWrapper

from ...errors import UserError

CLOSING = 2.0  # seconds that a worker has for closing its environments before it is killed
STEP, CLOSE = b"step", b"close"  # other commands are pickled tuples: (name of a method of Slice, *arguments)

#: What a worker runs: the search path first, because the package itself may only be found there.
BOOT = """
import sys
from multiprocessing.connection import Connection
link = Connection(int(sys.argv[1]))
sys.path[:] = link.recv()
from reverie.envs.vector.worker_process import serve
serve(link, int(sys.argv[2]), int(sys.argv[3]))
"""


@dataclass(frozen=True)
class WorkerTask:
    """What a worker is to do: make and step environments `first`, `first` + 1, ... out of `total`."""

    makers: list[CloudpickleWrapper]
    first: int
    total: int


@dataclass(frozen=True)
class Description:
    """What a worker has made."""

    spaces: list[tuple[spaces.Space, spaces.Space]]  # (observation, action) of each environment
    metadata: dict[str, Any]
    render_mode: str | None


@dataclass(frozen=True)
class Fault:
    """What went wrong in a worker, in words."""

    index: int | None  # the environment, where known
    reason: str  # "ValueError: negative speed", "it did not answer for 60 s"
    line: str = ""  # the user's line where it happened: " (robot.py, line 12: `self.check()`)"
    details: str = ""  # traceback
    hint: str | None = None  # set: a UserError, whose message is `reason`


class Shared:
    """The arrays that the parent and its workers share; environment i owns row i of each."""

    def __init__(self, handle: int, space: spaces.Dict, action: spaces.Box, count: int) -> None:
        wanted: dict[str, tuple[tuple[int, ...], np.dtype]] = {
            "action": (action.shape, np.dtype(action.dtype)),
            "reward": ((), np.dtype(np.float64)),
            "terminated": ((), np.dtype(bool)),
            "truncated": ((), np.dtype(bool)),
            "at": ((), np.dtype(np.int64)),  # row `first` of a worker: the environment that it is busy with
        }
        wanted |= {f"obs/{key}": (box.shape or (), np.dtype(box.dtype)) for key, box in space.spaces.items()}
        sizes = [count * int(np.prod(shape)) * dtype.itemsize for shape, dtype in wanted.values()]
        starts = np.cumsum([0] + [-(-size // 64) * 64 for size in sizes])  # whole cache lines
        if os.fstat(handle).st_size < starts[-1]:
            os.ftruncate(handle, int(starts[-1]))
        memory = mmap.mmap(handle, int(starts[-1]))
        arrays = {
            name: np.ndarray((count, *shape), dtype, memory, start)
            for (name, (shape, dtype)), start in zip(wanted.items(), starts[:-1], strict=True)
        }
        self.action, self.reward, self.at = arrays["action"], arrays["reward"], arrays["at"]
        self.terminated, self.truncated = arrays["terminated"], arrays["truncated"]
        self.obs = {key: arrays[f"obs/{key}"] for key in space.spaces}


class Slice:
    """The environments of one worker. Methods are the commands that the parent may send."""

    def __init__(self, job: WorkerTask, memory: int) -> None:
        self.job, self.memory = job, memory
        self.first = self.busy = job.first
        self.envs: list[gym.Env] = []
        self.ended = [True] * len(job.makers)
        self.seeds: dict[int, int] = {}  # for the next reset of an environment, after a restart

    def make(self) -> Description:
        """Make the environments."""
        for maker in self.job.makers:
            self.busy = self.first + len(self.envs)
            self.envs.append(maker())
        first = self.envs[0]
        found = [(env.observation_space, env.action_space) for env in self.envs]
        return Description(found, dict(first.metadata), first.render_mode)

    @cached_property
    def shared(self) -> Shared:
        """Mapped at the first reset: by then the parent has checked the spaces and given the file its size."""
        first: Any = self.envs[0]
        return Shared(self.memory, first.observation_space, first.action_space, self.job.total)

    def step(self) -> dict[int, Any] | None:
        """One vector step, as SyncVectorEnv makes it. -> {index: info["log"]} of episodes that end and have one."""
        logs: dict[int, Any] = {}
        for index, env in enumerate(self.envs, start=self.first):
            self.busy = self.shared.at[self.first] = index
            if self.ended[index - self.first]:
                self._reset(index, self.seeds.pop(index, None), None)
            else:
                obs, reward, terminated, truncated, info = env.step(self.shared.action[index].copy())
                self._write(index, obs, reward, terminated, truncated)
                if self.ended[index - self.first] and "log" in info:
                    logs[index] = info["log"]
        return logs or None

    def reset(self, seeds: dict[int, int | None], options: dict[str, Any] | None, later: dict[int, int]) -> None:
        """Reset the environments of `seeds` now. later: seeds for the first resets of others, in the steps to come."""
        self.seeds = dict(later)
        given = next((seed for seed in [*seeds.values(), *later.values()] if seed is not None), None)
        if given is not None:  # for environments that draw from the global generators
            random.seed(given)
            np.random.seed(given % 2**32)  # noqa: NPY002
        for index, seed in seeds.items():
            self.busy = self.shared.at[self.first] = index
            self._reset(index, seed, options)

    def call(self, name: str, arguments: tuple, indices: list[int]) -> list[Any]:
        """Attributes of some of the environments, or what methods return."""
        found = []
        for index in indices:
            self.busy = index
            value = self.envs[index - self.first].get_wrapper_attr(name)
            found.append(value(*arguments) if callable(value) else value)
        return found

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()

    def _reset(self, index: int, seed: int | None, options: dict[str, Any] | None) -> None:
        obs, _ = self.envs[index - self.first].reset(seed=seed, options=options)
        self._write(index, obs, 0.0, False, False)

    def _write(self, index: int, obs: Any, reward: Any, terminated: bool, truncated: bool) -> None:
        for key, array in self.shared.obs.items():
            array[index] = obs[key]
        self.shared.reward[index] = reward
        self.shared.terminated[index], self.shared.truncated[index] = terminated, truncated
        self.ended[index - self.first] = bool(terminated or truncated)


def serve(link: Connection, memory: int, trace: int) -> None:
    """The life of a worker: make environments, then obey until the parent says close or dies.

    memory: file of the shared arrays; trace: file for the traceback of a segmentation fault or of a hang (SIGUSR1).
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which may want to save before it ends
        signal.signal(number, signal.SIG_IGN)
    for handle in (link.fileno(), memory, trace):
        os.set_inheritable(handle, False)
    faulthandler.enable(trace, all_threads=False)
    faulthandler.register(signal.SIGUSR1, trace, chain=True)  # writes the traceback, then dies of the signal
    threading.Thread(target=_die_with_parent, args=(link.fileno(),), daemon=True).start()
    part: Slice | None = None
    with suppress(EOFError, OSError):  # when the parent is gone
        while (message := link.recv_bytes()) != CLOSE:
            answer: Any = None
            try:
                if part is None:
                    part = Slice(pickle.loads(message), memory)
                    answer = part.make()
                elif message == STEP:
                    answer = part.step()
                else:
                    name, *arguments = pickle.loads(message)
                    answer = getattr(part, name)(*arguments)
                reply = b"" if answer is None else pickle.dumps(answer)
            except BaseException as error:  # SystemExit too: nothing that an environment raises goes unnoticed
                reply = pickle.dumps(_fault(error, part.busy if part else None))
            link.send_bytes(reply)
        if part is not None:
            part.close()


def _die_with_parent(handle: int) -> None:
    """Wait until the other end of the pipe is gone, even while an environment hangs; then end, with all children."""
    hangup = select.poll()
    hangup.register(handle, 0)
    hangup.poll()
    with suppress(ProcessLookupError):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _fault(error: BaseException, index: int | None) -> Fault:
    trace = error.__traceback__
    while trace and trace.tb_next and trace.tb_frame.f_code.co_filename == __file__:  # our own frames tell nothing
        trace = trace.tb_next
    details = "".join(traceback.format_exception(type(error), error, trace))
    if isinstance(error, UserError):
        return Fault(index, error.message, details=details, hint=error.hint)
    frames = list(traceback.extract_tb(trace))
    last = ([frame for frame in frames if _of_user(frame.filename)] or frames)[-1]
    line = f" ({os.path.basename(last.filename)}, line {last.lineno}: `{last.line}`)"
    return Fault(index, f"{type(error).__name__}: {error}", line, details)


def _of_user(file: str) -> bool:
    """Neither ours nor of a library."""
    library = (str(Path(__file__).parent), "site-packages", os.path.dirname(os.__file__), "<")
    return not any(part in file for part in library)


def read_dump(text: str) -> tuple[str, str]:
    """What `faulthandler` wrote of a crash or a hang -> (the user's line as in `Fault`, the part of interest)."""
    threads = re.split(r"\n(?=Thread |Current thread )", text.partition("\nExtension modules")[0])
    dump = "\n".join(thread.strip("\n") for thread in threads if _die_with_parent.__name__ not in thread)
    frames = re.findall(r'File "(.*)", line (\d+) in', dump.rpartition("Current thread")[2])
    own = [(file, number) for file, number in frames if _of_user(file)]
    return f" ({os.path.basename(own[0][0])}, line {own[0][1]})" if own else "", dump


# ----------------------------------------------------------------------------------------------------- the parent's end


class Worker:
    """One process and its end of the pipe, seen from the parent."""

    def __init__(self, job: WorkerTask, cores: Sequence[int] = ()) -> None:
        """cores: those it may run on (Linux); empty: all."""
        self.cores = cores
        self.indices = list(range(job.first, job.first + len(job.makers)))
        self.process: subprocess.Popen | None = None
        try:
            self.job = pickle.dumps(job)
        except Exception as error:
            raise UserError(
                f"the environment cannot be sent to a worker process ({type(error).__name__}: {error}).",
                "Pass a function that makes it and creates such things inside; or set env.backend=sync.",
            ) from error

    def start(self, memory: int) -> None:
        """Start the process; its first answer will be the Description of its environments."""
        self.link, other = Pipe()
        self.trace = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `stop`)
        handles = (other.fileno(), memory, self.trace.fileno())
        usual = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # repeatable; one core
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOT, *map(str, handles), str(self)],
            stdin=subprocess.DEVNULL,
            pass_fds=handles,
            env=usual | os.environ,
            start_new_session=True,  # out of reach of the terminal's Ctrl-C; killed together with its children
        )
        other.close()
        if self.cores and sys.platform == "linux":
            with suppress(OSError):
                os.sched_setaffinity(self.process.pid, self.cores)
        self.send(pickle.dumps(sys.path))
        self.send(self.job)

    def send(self, message: bytes) -> None:
        """A dead worker is noticed when its answer is waited for."""
        with suppress(OSError):
            self.link.send_bytes(message)

    def answer(self) -> Any:
        """What has arrived: None, an object or a Fault, e.g. that the process is dead."""
        with suppress(EOFError, OSError):
            message = self.link.recv_bytes()
            return pickle.loads(message) if message else None
        code, dump = self.stop(CLOSING)
        name = signal.Signals(-code).name if code < 0 else ""
        why = f"was killed by {name}" if name else f"ended with exit code {code}"
        memory = ", perhaps because memory ran out" if name == "SIGKILL" else ""
        return Fault(None, f"its process {why}{memory}", *read_dump(dump))

    def hung(self, seconds: float) -> Fault:
        """Kill it; the fault says where it was."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGUSR1)
        return Fault(None, f"it did not answer for {seconds:g} s", *read_dump(self.stop(CLOSING)[1]))

    def stop(self, seconds: float) -> tuple[int, str]:
        """Wait for its end, then kill what is left of it and of its children. -> (exit code, traceback of a crash)."""
        if self.process is None:
            return 0, ""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        with suppress(ProcessLookupError, PermissionError):  # nobody is left
            os.killpg(self.process.pid, signal.SIGKILL)
        code, self.process = self.process.wait(), None
        self.link.close()
        with self.trace as trace:
            trace.seek(0)
            return code, trace.read().decode(errors="replace")

    def __str__(self) -> str:
        first, last = self.indices[0], self.indices[-1]
        return f"environment {first}" if first == last else f"environments {first}-{last}"


def wait_for(workers: Sequence[Worker], seconds: float) -> dict[Worker, Any]:
    """The answer of each, in their order; a Fault where one dies or is silent for too long.

    Time in which this process, or the whole machine, was halted does not count.
    """
    answers: dict[Worker, Any] = {}
    waiting = {worker.link.fileno(): worker for worker in workers}
    poller = select.poll()
    for handle in waiting:
        poller.register(handle, select.POLLIN)
    left = seconds
    while waiting:
        step, since = max(0.0, min(left, seconds / 20)), time.monotonic()
        ready = [handle for handle, _ in poller.poll(1000 * step)]
        if not ready and left <= 0:
            answers |= {worker: worker.hung(seconds) for worker in waiting.values()}
            break
        if not ready:
            left -= max(0.001, min(step, time.monotonic() - since))
        for handle in ready:
            poller.unregister(handle)
            worker = waiting.pop(handle)
            answers[worker] = worker.answer()
    return {worker: answers[worker] for worker in workers}


def nameless_file() -> int:
    """A file that exists only as long as somebody has it open, in memory where the system can do that."""
    if sys.platform == "linux":
        return os.memfd_create("reverie")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
