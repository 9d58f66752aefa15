"""The learner's side of collectors elsewhere (`env.collectors`): weights go out, whole rows come in.

    learner                                          collector k, with the environments of its streams
    ask for so many rows                      -->    acts, steps, ... (`collector_work.py`)
    takes one row, makes the updates it is    <--    blocks of whole rows, in order
      owed, takes the next
    after every few updates: weights          -->    act from the next row on

A row counts when the loop takes it, so the ratio of updates to steps is as exact as in one process. A collector never
makes more rows than it was asked for: it is ahead of the loop by at most `most` rows of each of its environments.

Processes and Ray actors (`Transport`) differ in how messages travel and in what can be lost, and in nothing else.
"""

from __future__ import annotations

import dataclasses
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
from gymnasium.vector import VectorEnv
from torch import nn

from ..config import Config, EnvConfig
from ..data.collect import Collector, Episode
from ..envs import EnvLike, is_instance
from ..envs.border import pass_on
from ..envs.vector.worker_process import CLOSING
from ..errors import UserError
from .collector_transport import Handle, Transport
from .collector_work import RANDOM, Block, Fault, Task, acting_weights, pack
from .state import RunState

#: Consecutive faults of one collector, with less than FORGIVEN rows in between; after one more it is left out.
MOST_FAULTS, FORGIVEN = 3, 100
#: Seconds that a collector has for its first row, which waits for its process, libraries and environments.
START = 300.0
#: Seconds between two checks of the transport. Rows still come when the head of a Ray cluster is gone, for a minute.
LOOK = 5.0
#: The longest wait in one go, after which the end of the run is looked for.
WAIT = 0.2


class CollectedRow(NamedTuple):
    """A row of the environments of one collector."""

    row: dict[str, np.ndarray]  # {"obs/key", "action", ...: (N, *shape)}
    episodes: list[Episode]  # that end with it
    streams: np.ndarray  # (N,) which environments of the run


class RemoteCollector(Collector):
    """Stands in for a run's own collector: counts what collectors elsewhere have made."""

    def __init__(self, envs: VectorEnv, options: EnvConfig, *, seed: int) -> None:
        """envs: of one environment, made for the spec; it is closed."""
        super().__init__(envs, seed=seed)
        envs.close()
        self.count = count = options.num_envs
        many = f"{options.num_collectors or count} collectors ({options.collectors})"
        setattr(envs, "stepping", f"in {many}, {count} environments together")  # noqa: B010
        self.scores = np.zeros(count)
        self.lengths = np.zeros(count, np.int64)

    def state(self) -> dict[str, Any]:
        """For a checkpoint. Where an unfinished episode is, only its collector knows."""
        return super().state() | {"places": [None] * self.count, "elsewhere": True}

    def restore(self, state: Mapping[str, Any], last: Any, actions: Any) -> list[int]:
        """All environments begin new episodes, with other starts than the first time. -> all of them."""
        self.steps = state["steps"]
        self.seed = state["seed"] + self.steps
        return list(range(self.count))


@dataclasses.dataclass
class _Slot:
    """A share of the environments, whichever collector has it now."""

    number: int
    streams: np.ndarray
    handle: Handle
    asked: int = 0  # rows, of this handle
    received: int = 0
    taken: int = 0
    silent: float = 0.0  # seconds without an answer, while rows were asked for
    begun: bool = False  # it has delivered
    faults: int = 0
    since: int = 0  # rows since the last fault
    generation: int = 0
    out: bool = False  # left out for good


class _Waiting(NamedTuple):
    item: CollectedRow
    version: int
    handle: Handle
    slot: _Slot


def seed_for(seed: int, *numbers: int) -> int:
    """A seed of a collector's own; that of the run where all numbers are 0."""
    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1)[0]) // 2 if any(numbers) else seed


class Collectors:
    """The rows of all collectors, as they come, as an iterator; None once the run was asked to stop."""

    def __init__(
        self,
        template: Task,
        transport: Transport,
        *,
        most: int,
        updates: Callable[[], int] = lambda: 0,
        stopped: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = print,
    ) -> None:
        """template: the task, as of one collector with all environments; most: rows that one may be ahead;
        updates: of the learner, so far; stopped: has the run been asked to stop?

        Raises UserError, e.g. for an environment that cannot be sent.
        """
        self.template, self.transport, self.most = template, transport, most
        self.block = max(1, most // 4)  # rows of a message
        self.timeout = template.config.env.worker_timeout
        self.updates_now, self.stopped, self.say = updates, stopped, say
        self.replaced = 0
        self.updates = RANDOM  # of the weights that were sent last
        self.notes: list[str] = []  # what the environments' border left out, each once
        self._weights: Any = None  # as the transport has packed them
        self._inbox: queue.SimpleQueue[tuple[Handle, Block | str]] = queue.SimpleQueue()
        self._waiting: deque[_Waiting] = deque()
        self._looked = self._checked = time.monotonic()
        self._window = _Window()
        self._error: Fault | None = None
        total = template.config.env.num_envs
        shares = np.array_split(np.arange(total), collectors_of(template.config))
        self.scores, self.lengths = np.zeros(total), np.zeros(total, np.int64)
        self.slots: list[_Slot] = []
        try:
            for number, streams in enumerate(shares):
                self.slots.append(_Slot(number, streams, self._start(number, streams, 0)))
                self._ask(self.slots[-1])
        except BaseException:
            self.close()
            raise

    def _start(self, number: int, streams: np.ndarray, generation: int) -> Handle:
        base = self.template
        task = dataclasses.replace(
            base,
            first=int(streams[0]),
            count=len(streams),
            seed=base.seed if not generation else seed_for(base.seed, number, generation),
            noise=seed_for(base.noise, number, generation),
        )
        handle = self.transport.start(cloudpickle.dumps(task), lambda handle, answer: self._inbox.put((handle, answer)))
        if self._weights is not None:
            handle.load(self.updates, self._weights)
        return handle

    # ------------------------------------------------------------------------------------------------------------ rows

    def __iter__(self) -> Iterator[CollectedRow | None]:
        return self

    def __next__(self) -> CollectedRow | None:
        """The next row of a collector, as soon as there is one. Raises UserError once no more can come."""
        self._receive(0.0)
        while not self._waiting:
            if self.stopped():
                return None
            if self._error is not None:  # all rows before it were taken
                raise _error_of(self._error)
            self._receive(WAIT)
        item, version, handle, slot = self._waiting.popleft()
        if handle is slot.handle:
            slot.taken += 1
            self._ask(slot)
        self._window.add(item, max(0, self.updates_now() - version) if version != RANDOM else None)
        return item

    def _ask(self, slot: _Slot) -> None:
        """Let it work as far ahead as it may."""
        while not slot.out and slot.asked - slot.taken + self.block <= self.most:
            slot.handle.ask(self.block)
            slot.asked += self.block

    def _receive(self, seconds: float) -> None:
        """Sort what has come; wait for something so many seconds at most."""
        while True:
            try:
                handle, answer = self._inbox.get(timeout=seconds) if seconds else self._inbox.get_nowait()
            except queue.Empty:
                break
            seconds = 0.0
            slot = next((slot for slot in self.slots if slot.handle is handle and not slot.out), None)
            if slot is None:  # of one that was replaced
                continue
            if isinstance(answer, str):
                self._replace(slot, answer)
            else:
                self._sort(slot, answer)
        self._check_silence()

    def _sort(self, slot: _Slot, block: Block) -> None:
        slot.silent = 0.0
        rows = len(block.versions)
        for at in range(rows):
            row = {key: value[at] for key, value in block.rows.items()}
            first = int(slot.streams[0])
            episodes = [dataclasses.replace(each, index=each.index + first) for each in block.episodes[at]]
            item = CollectedRow(row, episodes, slot.streams)
            self._waiting.append(_Waiting(item, block.versions[at], slot.handle, slot))
        if rows:
            slot.begun = True
            slot.since += rows
            slot.received += rows
            self.scores[slot.streams], self.lengths[slot.streams] = block.scores, block.lengths
            self._window.nbytes = block.nbytes / (rows * len(slot.streams))
        self.notes += [note for note in block.notes if note not in self.notes]
        if block.fault is not None and self._error is None:
            self._error = block.fault

    # ---------------------------------------------------------------------------------------------------------- faults

    def _check_silence(self) -> None:
        """Replace collectors that do not answer. Time in which this was not called counts a second at most."""
        now = time.monotonic()
        passed, self._checked = min(now - self._checked, 1.0), now
        for slot in self.slots:
            if slot.out or slot.asked <= slot.received:
                continue
            slot.silent += passed
            limit = self.timeout if slot.begun else max(START, self.timeout)
            if slot.silent > limit:
                self._replace(slot, f"sent no row for {limit:g} s")
        if now - self._looked > LOOK:
            self._looked = now
            self._require_transport()

    def _require_transport(self) -> None:
        """Raises UserError if no collector can be reached any more."""
        if trouble := self.transport.trouble():
            raise UserError(f"{trouble}: no rows can come.", "Start it again; the same command resumes the run.")

    def _replace(self, slot: _Slot, why: str) -> None:
        """Start another collector instead of one, unless that has happened often. Raises UserError."""
        name = f"collector {slot.number} ({slot.handle.where}) {why}"
        slot.handle.end(0.0)
        self._require_transport()
        slot.faults = 1 if slot.since > FORGIVEN else slot.faults + 1
        slot.since, slot.silent = 0, 0.0
        if slot.faults > MOST_FAULTS:
            slot.out = True
            left = sum(not each.out for each in self.slots)
            if not left:
                raise UserError(
                    f"{name}, and no collector is left: each failed {slot.faults} times with less than "
                    f"{FORGIVEN} rows in between.",
                    "The same command resumes the run; env.collectors=none shows what happens in this process.",
                )
            self.say(f"{name}, for the {slot.faults}th time: it is left out, {left} of {len(self.slots)} continue")
            return
        self.say(f"{name}; another takes its place and begins new episodes")
        self.replaced += 1
        slot.generation += 1
        slot.asked = slot.received = slot.taken = 0
        slot.begun = False
        slot.handle = self._start(slot.number, slot.streams, slot.generation)
        self._ask(slot)

    # --------------------------------------------------------------------------------------------------------- weights

    def follow(self, updates: int, world_model: nn.Module, actor: nn.Module) -> None:
        """Let all collectors act with the weights of now, after so many updates, if it is time to send them."""
        if self.updates != RANDOM and updates - self.updates < self.template.config.env.weights_every:
            return
        self.updates = updates
        self._weights = self.transport.pack(pack(acting_weights(world_model, actor)))
        for slot in self.slots:
            if not slot.out:
                slot.handle.load(updates, self._weights)

    # -------------------------------------------------------------------------------------------------- end and numbers

    def numbers(self) -> dict[str, float]:
        """Metrics since the last call."""
        found = self._window.numbers() | {"collectors/replaced": float(self.replaced)}
        self._window = _Window(self._window.nbytes)
        return found

    def status(self) -> str:
        """The same in a few words."""
        return self._window.status()

    def close(self) -> None:
        """End all collectors, by force after two seconds."""
        for slot in self.slots:
            slot.handle.close()
        until = time.monotonic() + CLOSING
        for slot in self.slots:
            self.notes += [note for note in slot.handle.end(until) if note not in self.notes]


class _Window:
    """What was taken since some moment."""

    def __init__(self, nbytes: float = 0.0) -> None:
        self.begin, self.rows, self.nbytes = time.monotonic(), 0, nbytes
        self.ages: list[int] = []

    def add(self, item: CollectedRow, age: int | None) -> None:
        """age: updates since those of the weights that chose its actions; None: there were none."""
        self.rows += len(item.streams)
        self.ages += [] if age is None else [age]

    def numbers(self) -> dict[str, float]:
        """{name: value}; the age only if there is one."""
        found = {"collectors/rows_per_second": self.rows / max(1e-9, time.monotonic() - self.begin)}
        found |= {"collectors/bytes_per_row": self.nbytes} if self.nbytes else {}
        return found | ({"collectors/weights_age": float(np.mean(self.ages))} if self.ages else {})

    def status(self) -> str:
        """ "65 rows/s, weights 12 updates old"."""
        numbers = self.numbers()
        age = numbers.get("collectors/weights_age")
        rows = f"{numbers['collectors/rows_per_second']:.3g} rows/s"
        return rows if age is None else f"{rows}, weights {age:.3g} updates old"


def _error_of(fault: Fault) -> Exception:
    """What an environment, or a collector of ours, has raised elsewhere."""
    inside = RuntimeError(fault.details)
    error: Exception = RuntimeError(fault.message) if fault.hint is None else UserError(fault.message, fault.hint)
    error.__cause__ = inside
    return error


# ----------------------------------------------------------------------------------------------------------- of a run


def collectors_of(config: Config) -> int:
    """How many act: 1 where the run does it itself."""
    options = config.env
    return 1 if options.collectors == "none" else options.num_collectors or options.num_envs


def require_collectable(config: Config, env: EnvLike | None) -> None:
    """Can the task be made elsewhere? Raises UserError."""
    if config.env.collectors == "none":
        return
    if is_instance(env):
        raise UserError(
            "collectors make environments of their own, and this is one that exists already.",
            "Pass a function that makes one, or set env.collectors=none.",
        )
    try:
        cloudpickle.dumps(env)
    except BaseException as error:
        pass_on(error)
        raise UserError(
            f"the environment cannot be sent to a collector ({type(error).__name__}: {error}).",
            "Pass a function that creates such objects inside, or set env.collectors=none.",
        ) from error


def make_transport(config: Config) -> Transport:
    """The transport that `env.collectors` names. Raises UserError."""
    if config.env.collectors == "ray":
        from .collector_ray import RayTransport

        return RayTransport(collectors_of(config))
    from .collector_local import LocalTransport

    return LocalTransport()


@contextmanager
def start_collectors(run: RunState, most: int, say: Callable[[str], None]) -> Iterator[Collectors]:
    """Context in which the run's collectors act; most: rows that each may be ahead. Raises UserError."""
    if run.transport is None:
        raise RuntimeError("the run acts itself")
    task = Task(
        run.config,
        run.env,
        run.spec,
        first=0,
        count=run.collector.count,
        seed=run.collector.seed,
        noise=seed_for(run.config.train.seed, run.clock.env_steps),
    )
    handles = Collectors(
        task,
        run.transport,
        most=most,
        updates=lambda: run.clock.updates,
        stopped=lambda: run.stopping.requested,
        say=lambda text: say(f"note      {text}"),
    )
    run.stopping.keep()  # Ray has handlers of signals, too
    run.collector.notes = handles.notes
    run.collector.scores, run.collector.lengths = handles.scores, handles.lengths
    run.collectors_say = handles.status
    try:
        yield handles
    finally:
        run.collectors_say = str
        handles.close()
