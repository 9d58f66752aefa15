"""Vectorized environments in worker processes, which may crash or hang without ending the run.

`WorkerVectorEnv` gives the same rows as Gymnasium's SyncVectorEnv (NEXT_STEP autoreset), from a few processes that
each step a slice of the environments:

    parent                                     worker (say, environments 4..7)
    actions -> shared memory
    b"step"                              -->   steps each of its environments, or resets it if its episode has ended:
    waits, with a time limit             <--   observations, rewards, ends -> shared memory; b"" or a Fault
    copies out of shared memory

The processes are started by `subprocess`, not `multiprocessing`: they do not import the user's script again (so it
needs no `if __name__ == "__main__"` and may be a notebook) and inherit no threads, locks or graphics contexts. Makers
are sent by cloudpickle. The shared memory is a file without a name, so nothing remains whichever process dies.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import CloudpickleWrapper, batch_space

from ...errors import UserError
from .local import require_alike
from .worker_process import (
    CLOSE,
    CLOSING,
    STEP,
    Fault,
    SharedArrays,
    SliceDescription,
    StepNews,
    Worker,
    WorkerTask,
    anonymous_file,
    wait_for,
)

FORGIVEN = 100  # vector steps without a fault after which earlier faults no longer count
IN_THIS_PROCESS = "Set env.backend=sync to run it in this process, where a debugger works."


class WorkerVectorEnv(VectorEnv):
    """The same rows as Gymnasium's SyncVectorEnv with NEXT_STEP autoreset, computed in `workers` processes.

    makers: functions without arguments, each returning an environment with a Dict of Boxes as observation and a Box as
    action (`AgentView`); all with the same spaces. workers: at most one per environment; 0: one per core.

    An environment that raises, a worker that dies, and one that does not answer for `timeout` seconds
    (`start_timeout` while environments are made or reset from outside) are faults. The worker is restarted and makes
    its environments again, with new seeds. Their running episodes end with the last good observation, reward 0,
    truncated and infos["crashed"]; `on_fault` gets the traceback (None: stderr).

    Raises UserError for mistakes that `AgentView` finds, for a fault before the first observation, and for more than
    `max_restarts` faults with less than FORGIVEN good steps in between.
    infos, `places` and `notes` are as in LocalVectorEnv, with infos["crashed"], bool (N,), after a fault besides.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], gym.Env]],
        *,
        workers: int = 0,
        timeout: float = 60,
        start_timeout: float = 300,
        max_restarts: int = 5,
        on_fault: Callable[[str], None] | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise UserError("worker processes need Linux or macOS.", "Set env.backend=sync.")
        self.num_envs = count = len(makers)
        self.timeout = timeout
        self.start_timeout = start_timeout
        self.max_restarts = max_restarts
        self.on_fault = on_fault or _print
        self._seeds: list[int | None] = [None] * count  # of the last reset with a seed
        self._entropy = 0  # from which the seeds after a restart are drawn
        self._steps = 0
        self._restarts = 0
        self._faults = 0  # since the last FORGIVEN good steps
        self._last_fault = 0  # the step of it
        self._obs: dict[str, np.ndarray] = {}  # of the last step; empty before the first reset
        self._ended = np.zeros(count, bool)
        self.places: list[tuple[int, int] | None] = [None] * count
        self.notes: list[str] = []  # not taken yet
        self._halfway = False  # in the middle of a step; stays True if Ctrl-C interrupts it
        packed = [CloudpickleWrapper(maker) for maker in makers]
        workers = min(count, workers or usable_cores())
        shares = share_cores(workers)
        slices = [part.tolist() for part in np.array_split(np.arange(count), workers)]
        tasks = [WorkerTask([packed[index] for index in part], part[0], count) for part in slices]
        self.workers = [Worker(task, share) for task, share in zip(tasks, shares, strict=True)]
        self._memory = anonymous_file()
        self._finalizer = weakref.finalize(self, _close_workers, self.workers, self._memory, os.getpid())
        with self._exchange():
            self._set_spaces(self._make())

    # ---------------------------------------------------------------------------------------------- Gymnasium's methods

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """First observations. Environment i gets the seed `seed` + i, or `seed[i]`."""
        if options and "reset_mask" in options:
            raise ValueError("all environments are reset together: there is no reset_mask")
        if isinstance(seed, Sequence):
            self._seeds = list(seed)
        else:
            self._seeds = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        if len(self._seeds) != self.num_envs:
            raise ValueError(f"{self.num_envs} environments need as many seeds, got {len(self._seeds)}")
        given = next((one for one in self._seeds if one is not None), None)
        self._entropy = int(np.random.SeedSequence().generate_state(1)[0]) if given is None else given
        if self._halfway and not self.closed:  # the state of the workers is unknown
            for worker in self.workers:
                worker.stop(0)
            self._halfway = False
            with self._exchange():
                self._make()
        with self._exchange():
            for worker in self.workers:
                worker.send(self._reset_command(worker, worker.indices, options))
            for worker, answer in wait_for(self.workers, self.start_timeout).items():
                self._recover(worker, answer, "in its reset", worker.indices, options)
                self.notes += answer.notes if isinstance(answer, StepNews) else []
        self._obs = copies(self._shared.obs)
        self._ended = np.zeros(self.num_envs, bool)
        return copies(self._obs), self._finish({})

    def step(self, actions: Any) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """actions (N, A) -> observations, rewards (N,) float64, terminated, truncated, infos."""
        if np.shape(actions) != self.action_space.shape:
            raise ValueError(f"actions have shape {np.shape(actions)}, expected {self.action_space.shape}")
        if not self._obs:
            raise RuntimeError("reset the environments first")
        crashed = np.zeros(self.num_envs, bool)
        infos: dict[str, Any] = {}
        with self._exchange():
            shared = self._shared
            shared.action[:] = actions
            self._steps += 1
            for worker in self.workers:
                worker.send(STEP)
            for worker, answer in wait_for(self.workers, self.timeout).items():
                if isinstance(answer, Fault):
                    due = [i for i in worker.indices if self._ended[i]]  # the next row is a first one anyway
                    self._recover(worker, answer, f"at step {self._steps}", due)
                    crashed[worker.indices] = ~self._ended[worker.indices]
                if isinstance(answer, StepNews):
                    infos["logs"] = infos.get("logs", {}) | answer.logs
                    self.notes += answer.notes
        obs, reward = copies(shared.obs), np.where(crashed, 0.0, shared.reward)
        for key, last in self._obs.items():
            obs[key][crashed] = last[crashed]
        terminated, truncated = shared.terminated & ~crashed, shared.truncated | crashed
        self._obs = obs
        self._ended = terminated | truncated
        if crashed.any():
            infos["crashed"] = crashed
        return copies(obs), reward, terminated, truncated, self._finish(infos)

    def _finish(self, infos: dict[str, Any]) -> dict[str, Any]:
        """The end of a whole step or reset: `places`, and infos with the notes so far."""
        self.places = [None if first < 0 else (first, episode) for first, episode in self._shared.place.tolist()]
        if not infos.get("logs", True):
            del infos["logs"]
        if self.notes:
            infos["notes"] = self.take_notes()
        return infos

    def take_notes(self) -> list[str]:
        """What was left out since the last time."""
        found, self.notes = self.notes, []
        return found

    def call(self, name: str, *arguments: Any, only: Sequence[int] | None = None) -> tuple[Any, ...]:
        """Attribute `name`, or the result of the method of that name, of each environment or those of `only`."""
        chosen = range(self.num_envs) if only is None else only
        with self._exchange():
            for worker in self.workers:
                worker.send(pickle.dumps(("call", name, arguments, [i for i in worker.indices if i in chosen])))
            answers = wait_for(self.workers, self.timeout)
        for worker, answer in answers.items():
            if isinstance(answer, Fault):
                self._halfway = worker.process is None  # then the next reset starts it again
                raise RuntimeError(f"'{name}' of {worker}: {answer.reason}\n{answer.details}")
        return tuple(value for worker in self.workers for value in answers[worker])

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Attribute `name` of each environment."""
        return self.call(name)

    def render(self) -> tuple[Any, ...]:
        """An image of each environment."""
        return self.call("render")

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers, by force after 2 s, and free the shared memory."""
        self.notes += self._finalizer() or []
        vars(self).pop("_shared", None)

    # ------------------------------------------------------------------------------------------ starting and recovering

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Context of every exchange with the workers: after one that was interrupted, only a reset is possible."""
        if self.closed:
            raise RuntimeError("the environments are closed")
        if self._halfway:
            raise RuntimeError("the last step was interrupted: reset the environments first")
        self._halfway = True
        try:
            yield
        except Exception:
            self.close()
            raise
        self._halfway = False

    def _make(self) -> list[SliceDescription]:
        """Start all workers and wait until they have made their environments. Raises UserError."""
        for worker in self.workers:
            worker.start(self._memory)
        answers = wait_for(self.workers, self.start_timeout)
        for worker, answer in answers.items():
            if isinstance(answer, Fault):
                self._report_fault(worker, answer, "while it was made", final=True)
        return [answers[worker] for worker in self.workers]

    def _set_spaces(self, made: list[SliceDescription]) -> None:
        """Set Gymnasium's attributes and allocate the shared memory."""
        self._spaces = observation, action = made[0].spaces[0]
        for worker, one in zip(self.workers, made, strict=True):
            self._check_spaces(worker, one)
        if not isinstance(action, spaces.Box) or not isinstance(observation, spaces.Dict):
            raise TypeError(f"expected an AgentView with a Dict of boxes and a Box, got {observation} and {action}")
        self.single_observation_space = observation
        self.single_action_space = action
        self.observation_space = batch_space(observation, self.num_envs)
        self.action_space = batch_space(action, self.num_envs)
        self.metadata = made[0].metadata | {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.render_mode = made[0].render_mode
        self._shared = SharedArrays(self._memory, observation, action, self.num_envs)

    def _check_spaces(self, worker: Worker, made: SliceDescription) -> None:
        for index, found in zip(worker.indices, made.spaces, strict=True):
            require_alike(index, found, self._spaces)

    def _reset_command(self, worker: Worker, now: list[int], options: dict[str, Any] | None) -> bytes:
        seeds = {index: self._seeds[index] for index in worker.indices}
        later = {index: seed for index, seed in seeds.items() if index not in now}
        return pickle.dumps(("reset", {index: seeds[index] for index in now}, options, later))

    def _recover(
        self, worker: Worker, answer: Any, when: str, due: list[int], options: dict[str, Any] | None = None
    ) -> None:
        """While the answer is a Fault, restart the worker and reset the environments in `due`.

        Its other environments are reset by the next step. Raises UserError after too many faults.
        """
        while isinstance(answer, Fault):
            self._report_fault(worker, answer, when, final=not self._obs)
            worker.stop(0)
            self._restarts += 1
            for index in worker.indices:
                words = np.random.SeedSequence([self._entropy, self._restarts, index]).generate_state(1)
                self._seeds[index] = int(words[0]) // 2
            worker.start(self._memory)
            answer, when = wait_for([worker], self.start_timeout)[worker], "while it was made again"
            if isinstance(answer, SliceDescription):
                self._check_spaces(worker, answer)
                worker.send(self._reset_command(worker, due, options))
                answer, when = wait_for([worker], self.start_timeout)[worker], "in its reset"

    def _report_fault(self, worker: Worker, fault: Fault, when: str, *, final: bool) -> None:
        """Report a fault. Raises UserError if it is a UserError of the environment, final, or one too many."""
        if fault.hint is not None:
            raise UserError(fault.reason, fault.hint) from RuntimeError(fault.details)
        index = fault.index
        if index is None and "made" not in when:
            index = int(self._shared.at[worker.indices[0]])
        which = str(worker) if index is None else f"environment {index}"
        seed = "" if index is None or self._seeds[index] is None else f" (seed {self._seeds[index]})"
        sentence = f"{which}{seed} failed {when}: {fault.reason}{fault.line}"
        self._faults = 1 if self._steps - self._last_fault > FORGIVEN else self._faults + 1
        self._last_fault = self._steps
        final = final or self._faults > self.max_restarts
        then = "" if final else f"\nA new process makes {worker} again; the running episodes end here."
        self.on_fault(f"{sentence}\n{fault.details.rstrip()}{then}")
        if final:
            count = f", {self._faults} faults with less than {FORGIVEN} good steps in between" if self._obs else ""
            raise UserError(f"{sentence}{count}.", IN_THIS_PROCESS) from RuntimeError(fault.details)


def _print(message: str) -> None:
    """To the terminal, if it is still there."""
    with suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)


def _close_workers(workers: list[Worker], memory: int, parent: int) -> list[str]:
    """End all workers and free the memory: on close, garbage collection and exit. -> their notes."""
    if os.getpid() != parent:  # in a fork, which does not own them
        return []
    running = [worker for worker in workers if worker.process is not None]
    for worker in running:
        worker.send(CLOSE)
    until = time.monotonic() + CLOSING
    notes = [note for worker in running for note in worker.close(until)]
    os.close(memory)
    return notes


def copies(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Copies of arrays that will be written over."""
    return {key: array.copy() for key, array in arrays.items()}


def usable_cores() -> int:
    """The number of cores that this process may use, by its affinity and, in a container, its quota (cgroup v2)."""
    count = len(_cores())
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return count
    return count if quota == "max" else max(1, min(count, round(int(quota) / int(period))))


def share_cores(workers: int) -> list[list[int]]:
    """Separate cores for each worker; empty lists (no limit) if there are too few.

    Without this, some schedulers keep workers that alternate with the parent on one core for many milliseconds, so
    that nothing runs in parallel.
    """
    cores = _cores()
    return [cores[worker::workers] if workers <= len(cores) else [] for worker in range(workers)]


def _cores() -> list[int]:
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
