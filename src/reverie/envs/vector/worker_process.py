"""One worker process of `workers.py`: `serve` runs in it, `Worker` is its counterpart in the parent.

A worker makes a slice of the environments and steps them on command. What a fault means for a run is decided in
`workers.py`.
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
from ..border import EnvironmentFailed, Notes, episode_log, pass_on, require_apart, text_of
from .local import notes_of, place_of

CLOSING = 2.0  # seconds that a worker has to close its environments before it is killed
NOWHERE = (-1, -1)  # for an environment without a seed
STEP, CLOSE = b"step", b"close"  # other commands are pickled tuples: (name of a method of EnvSlice, *arguments)

#: The program of a worker. It receives the search path first, because the package itself may only be found there.
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
    """The environments of a worker: `first`, `first` + 1, ... out of `total`, and the functions that make them."""

    makers: list[CloudpickleWrapper]
    first: int
    total: int


@dataclass(frozen=True)
class SliceDescription:
    """The spaces and attributes of the environments that a worker has made."""

    spaces: list[tuple[spaces.Space, spaces.Space]]  # (observation, action) of each environment
    metadata: dict[str, Any]
    render_mode: str | None


@dataclass(frozen=True)
class StepNews:
    """What a step or a reset has to say besides its arrays."""

    logs: dict[int, dict[str, float]]  # {environment: numbers of info["log"]} of episodes that ended
    notes: list[str]  # what was left out


@dataclass(frozen=True)
class Fault:
    """A failure in a worker, in words."""

    index: int | None  # the environment, if known
    reason: str  # e.g. "ValueError: negative speed" or "it did not answer for 60 s"
    line: str = ""  # the user's line where it happened: " (robot.py, line 12: `self.check()`)"
    details: str = ""  # the traceback
    hint: str | None = None  # only for a UserError, whose message is `reason`


class SharedArrays:
    """The arrays that the parent and its workers share; environment i owns row i of each."""

    def __init__(self, file: int, space: spaces.Dict, action: spaces.Box, count: int) -> None:
        """file: descriptor of the shared memory, enlarged if necessary; space, action: those of one environment."""
        layout: dict[str, tuple[tuple[int, ...], np.dtype]] = {
            "action": (action.shape, np.dtype(action.dtype)),
            "reward": ((), np.dtype(np.float64)),
            "terminated": ((), np.dtype(bool)),
            "truncated": ((), np.dtype(bool)),
            "place": ((2,), np.dtype(np.int64)),  # `Repeatable.where`, NOWHERE without a seed
            "at": ((), np.dtype(np.int64)),  # row `first` of a worker: the environment that it is busy with
        }
        layout |= {f"obs/{key}": (box.shape or (), np.dtype(box.dtype)) for key, box in space.spaces.items()}
        sizes = [count * int(np.prod(shape)) * dtype.itemsize for shape, dtype in layout.values()]
        starts = np.cumsum([0] + [-(-size // 64) * 64 for size in sizes])  # whole cache lines
        if os.fstat(file).st_size < starts[-1]:
            os.ftruncate(file, int(starts[-1]))
        memory = mmap.mmap(file, int(starts[-1]))
        arrays = {
            name: np.ndarray((count, *shape), dtype, memory, start)
            for (name, (shape, dtype)), start in zip(layout.items(), starts[:-1], strict=True)
        }
        self.action = arrays["action"]
        self.reward = arrays["reward"]
        self.terminated = arrays["terminated"]
        self.truncated = arrays["truncated"]
        self.place = arrays["place"]
        self.at = arrays["at"]
        self.obs = {key: arrays[f"obs/{key}"] for key in space.spaces}


class EnvSlice:
    """The environments of one worker. The public methods are the commands that the parent may send."""

    def __init__(self, task: WorkerTask, memory: int) -> None:
        """memory: file descriptor of the shared arrays."""
        self.task = task
        self.memory = memory
        self.first = task.first
        self.busy = task.first  # the environment that is made or stepped, for reports of faults
        self.envs: list[gym.Env] = []
        self.ended = [True] * len(task.makers)
        self.notes: list[Notes] = []  # of each environment
        self.seeds: dict[int, int] = {}  # for the next reset of an environment, after a restart

    def make(self) -> SliceDescription:
        """Make the environments."""
        for maker in self.task.makers:
            self.busy = self.first + len(self.envs)
            self.envs.append(maker())
        require_apart(self.envs)
        self.notes = [notes_of(env) for env in self.envs]
        first = self.envs[0]
        made_spaces = [(env.observation_space, env.action_space) for env in self.envs]
        return SliceDescription(made_spaces, dict(first.metadata), first.render_mode)

    @cached_property
    def shared(self) -> SharedArrays:
        """Mapped at the first reset: by then the parent has checked the spaces and given the file its size."""
        first: Any = self.envs[0]
        return SharedArrays(self.memory, first.observation_space, first.action_space, self.task.total)

    def step(self) -> StepNews | None:
        """One vector step like that of LocalVectorEnv. -> its news, if there are any."""
        logs: dict[int, dict[str, float]] = {}
        for index, env in enumerate(self.envs, start=self.first):
            self.busy = self.shared.at[self.first] = index
            if self.ended[index - self.first]:
                self._reset(index, self.seeds.pop(index, None), None)
            else:
                obs, reward, terminated, truncated, info = env.step(self.shared.action[index].copy())
                self._write(index, obs, reward, terminated, truncated)
                notes = self.notes[index - self.first]
                if self.ended[index - self.first] and (log := episode_log(info, notes)):
                    logs[index] = log
        return self._news(logs)

    def reset(
        self, seeds: dict[int, int | None], options: dict[str, Any] | None, later: dict[int, int]
    ) -> StepNews | None:
        """Reset the environments of `seeds`. later: seeds for the others, used at their next reset in `step`."""
        self.seeds = dict(later)
        given = next((seed for seed in [*seeds.values(), *later.values()] if seed is not None), None)
        if given is not None:  # for environments that draw from the global generators
            random.seed(given)
            np.random.seed(given % 2**32)  # noqa: NPY002
        for index, seed in seeds.items():
            self.busy = self.shared.at[self.first] = index
            self._reset(index, seed, options)
        return self._news({})

    def _news(self, logs: dict[int, dict[str, float]]) -> StepNews | None:
        notes = self.take_notes()
        return StepNews(logs, notes) if logs or notes else None

    def take_notes(self) -> list[str]:
        """What was left out since the last time."""
        return [note for notes in self.notes for note in notes.take()]

    def call(self, name: str, arguments: tuple, indices: list[int]) -> list[Any]:
        """Attribute `name` of some of the environments; of a method, its result."""
        values = []
        for index in indices:
            self.busy = index
            value = self.envs[index - self.first].get_wrapper_attr(name)
            values.append(value(*arguments) if callable(value) else value)
        return values

    def close(self) -> list[str]:
        """Close the environments, whatever they raise. -> notes."""
        for env in self.envs:
            with suppress(BaseException):  # an `AgentView` has made a note of it
                env.close()
        return self.take_notes()

    def _reset(self, index: int, seed: int | None, options: dict[str, Any] | None) -> None:
        obs, _ = self.envs[index - self.first].reset(seed=seed, options=options)
        self._write(index, obs, 0.0, False, False)

    def _write(self, index: int, obs: Any, reward: Any, terminated: bool, truncated: bool) -> None:
        for key, array in self.shared.obs.items():
            array[index] = obs[key]
        self.shared.reward[index] = reward
        self.shared.terminated[index], self.shared.truncated[index] = terminated, truncated
        self.shared.place[index] = place_of(self.envs[index - self.first]) or NOWHERE
        self.ended[index - self.first] = bool(terminated or truncated)


def serve(link: Connection, memory: int, trace: int) -> None:
    """The main loop of a worker: make the environments, then execute commands until the parent sends CLOSE or dies.

    memory: file descriptor of the shared arrays; trace: that of the file for the traceback of a segmentation fault or
    a hang (SIGUSR1).
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which may want to save before it ends
        signal.signal(number, signal.SIG_IGN)
    for descriptor in (link.fileno(), memory, trace):
        os.set_inheritable(descriptor, False)
    faulthandler.enable(trace, all_threads=False)
    faulthandler.register(signal.SIGUSR1, trace, chain=True)  # writes the traceback, then dies of the signal
    threading.Thread(target=die_with_parent, args=(link.fileno(),), daemon=True).start()
    part: EnvSlice | None = None
    with suppress(EOFError, OSError):  # when the parent is gone
        while (message := link.recv_bytes()) != CLOSE:
            answer: Any = None
            try:
                if part is None:
                    part = EnvSlice(pickle.loads(message), memory)
                    answer = part.make()
                elif message == STEP:
                    answer = part.step()
                else:
                    name, *arguments = pickle.loads(message)
                    answer = getattr(part, name)(*arguments)
                reply = b"" if answer is None else pickle.dumps(answer)
            except BaseException as error:  # SystemExit too: everything that an environment raises is reported
                reply = pickle.dumps(_fault(error, part.busy if part else None))
            link.send_bytes(reply)
        if part is not None:
            link.send_bytes(pickle.dumps(part.close()))


def die_with_parent(pipe: int) -> None:
    """Wait until the other end of the pipe is closed, even while an environment hangs; then end, with all children."""
    hangup = select.poll()
    hangup.register(pipe, 0)
    hangup.poll()
    with suppress(ProcessLookupError):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _fault(error: BaseException, index: int | None) -> Fault:
    if isinstance(error, EnvironmentFailed) and error.__cause__ is not None:  # no mistake: it may work the next time
        error = error.__cause__
    trace = error.__traceback__
    while trace and trace.tb_next and trace.tb_frame.f_code.co_filename == __file__:  # skip the frames of this file
        trace = trace.tb_next
    details = "".join(traceback.format_exception(type(error), error, trace))
    if isinstance(error, UserError):
        return Fault(index, error.message, details=details, hint=error.hint)
    frames = list(traceback.extract_tb(trace))
    last = ([frame for frame in frames if _of_user(frame.filename)] or frames)[-1]
    line = f" ({os.path.basename(last.filename)}, line {last.lineno}: `{last.line}`)"
    return Fault(index, f"{type(error).__name__}: {text_of(error)}", line, details)


def _of_user(file: str) -> bool:
    """Whether a file of a traceback is the user's: neither in this package nor in a library."""
    library = (str(Path(__file__).parent), "site-packages", os.path.dirname(os.__file__), "<")
    return not any(part in file for part in library)


def read_dump(text: str) -> tuple[str, str]:
    """A dump by `faulthandler` after a crash or a hang -> (the user's line as in `Fault`, the relevant part)."""
    threads = re.split(r"\n(?=Thread |Current thread )", text.partition("\nExtension modules")[0])
    dump = "\n".join(thread.strip("\n") for thread in threads if die_with_parent.__name__ not in thread)
    frames = re.findall(r'File "(.*)", line (\d+) in', dump.rpartition("Current thread")[2])
    user_frames = [(file, number) for file, number in frames if _of_user(file)]
    return f" ({os.path.basename(user_frames[0][0])}, line {user_frames[0][1]})" if user_frames else "", dump


# ----------------------------------------------------------------------------------------------------- the parent's end


class Worker:
    """A worker process from the parent's side: the process and the parent's end of the pipe."""

    def __init__(self, task: WorkerTask, cores: Sequence[int] = ()) -> None:
        """cores: the cores that it may use (Linux); empty for all. Raises UserError if the makers cannot be pickled."""
        self.cores = cores
        self.indices = list(range(task.first, task.first + len(task.makers)))
        self.process: subprocess.Popen | None = None
        try:
            self.task = pickle.dumps(task)
        except BaseException as error:
            pass_on(error)
            raise UserError(
                f"the environment cannot be sent to a worker process ({type(error).__name__}: {error}).",
                "Pass a function that creates such objects inside, or set env.backend=sync.",
            ) from error

    def start(self, memory: int) -> None:
        """Start the process; its first answer is the SliceDescription of its environments, or a Fault."""
        self.link, other = Pipe()
        self.trace = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `stop`)
        descriptors = (other.fileno(), memory, self.trace.fileno())
        defaults = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # repeatable; one core
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOT, *map(str, descriptors), str(self)],
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            env=defaults | os.environ,
            start_new_session=True,  # not reached by the terminal's Ctrl-C; killed together with its children
        )
        other.close()
        if self.cores and sys.platform == "linux":
            with suppress(OSError):
                os.sched_setaffinity(self.process.pid, self.cores)
        self.send(pickle.dumps(sys.path))
        self.send(self.task)

    def send(self, message: bytes) -> None:
        """Send a command. That a worker is dead is noticed while waiting for its answer."""
        with suppress(OSError):
            self.link.send_bytes(message)

    def answer(self) -> Any:
        """The answer that has arrived: None, an object, or a Fault, e.g. for a dead process."""
        with suppress(EOFError, OSError):
            message = self.link.recv_bytes()
            return pickle.loads(message) if message else None
        code, dump = self.stop(CLOSING)
        name = signal.Signals(-code).name if code < 0 else ""
        why = f"was killed by {name}" if name else f"ended with exit code {code}"
        memory = ", perhaps because memory ran out" if name == "SIGKILL" else ""
        return Fault(None, f"its process {why}{memory}", *read_dump(dump))

    def kill_hung(self, seconds: float) -> Fault:
        """Kill the process after `seconds` without an answer. -> a Fault with the line that it was at."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGUSR1)
        return Fault(None, f"it did not answer for {seconds:g} s", *read_dump(self.stop(CLOSING)[1]))

    def close(self, until: float) -> list[str]:
        """Wait for the end of a worker that was sent CLOSE, then kill it if necessary. -> its last notes.

        until: when the waiting ends, on the clock of time.monotonic.
        """
        notes: Any = None
        with suppress(EOFError, OSError):
            if self.process is not None and self.link.poll(max(0.0, until - time.monotonic())):
                notes = pickle.loads(self.link.recv_bytes())
        self.stop(max(0.0, until - time.monotonic()))
        return notes if isinstance(notes, list) else []

    def stop(self, seconds: float) -> tuple[int, str]:
        """Wait for its end, then kill it and its children if necessary. -> (exit code, traceback of a crash)."""
        if self.process is None:
            return 0, ""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        with suppress(ProcessLookupError, PermissionError):  # no process is left
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        self.process = None
        self.link.close()
        with self.trace as trace:
            trace.seek(0)
            return code, trace.read().decode(errors="replace")

    def __str__(self) -> str:
        first, last = self.indices[0], self.indices[-1]
        return f"environment {first}" if first == last else f"environments {first}-{last}"


def wait_for(workers: Sequence[Worker], seconds: float) -> dict[Worker, Any]:
    """The answer of each worker, in order; a Fault for one that dies or does not answer for `seconds`.

    Time in which this process, or the whole machine, was suspended does not count.
    """
    answers: dict[Worker, Any] = {}
    waiting = {worker.link.fileno(): worker for worker in workers}
    poller = select.poll()
    for pipe in waiting:
        poller.register(pipe, select.POLLIN)
    left = seconds
    while waiting:
        step, since = max(0.0, min(left, seconds / 20)), time.monotonic()
        ready = [pipe for pipe, _ in poller.poll(1000 * step)]
        if not ready and left <= 0:
            answers |= {worker: worker.kill_hung(seconds) for worker in waiting.values()}
            break
        if not ready:
            left -= max(0.001, min(step, time.monotonic() - since))
        for pipe in ready:
            poller.unregister(pipe)
            worker = waiting.pop(pipe)
            answers[worker] = worker.answer()
    return {worker: answers[worker] for worker in workers}


def anonymous_file() -> int:
    """Descriptor of a file that exists only while a process has it open, in memory if the system supports that."""
    if sys.platform == "linux":
        return os.memfd_create("reverie")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
