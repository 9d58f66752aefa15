"""Collectors as actors of a Ray cluster. `RayTransport` starts them, an object of `RayCollector` is one.

Ray carries rows and weights, and starts an actor on whichever machine has a core free. A thread for each actor waits
for its answers in turn. The learner asks the head for a sign of life by its port: Ray itself would end this process a
minute after the head's death.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from ..errors import UserError
from .collector_work import Block, Weights, Work, failed, task_of
from .ray_cluster import join_cluster, silence


class RayCollector:
    """A collector, in a process that Ray has started."""

    def __init__(self, task: bytes, path: list[str]) -> None:
        self.task, self.path = task, path
        self.weights = Weights()
        self.work: Work | None = None
        self.made = 0  # blocks

    def place(self) -> str:
        """The name of its machine."""
        return socket.gethostname()

    def make(self, count: int) -> tuple[int, Block]:
        """(the number of the block, so many rows). Makes the environments first, in the thread that steps them."""
        self.made += 1
        try:
            if self.work is None:
                torch.set_num_threads(1)
                self.work = Work(task_of(self.task, self.path), self.weights)
            return self.made, self.work.make(count)
        except Exception as error:
            return self.made, failed(error)

    def load(self, version: int, weights: bytes) -> None:
        """Act with these weights from the next row on. Runs in a thread of its own."""
        self.weights.newest = version, weights

    def close(self) -> list[str]:
        """Close the environments. -> their last notes."""
        return [] if self.work is None else self.work.close()


class RayHandle:
    """An actor, as the learner sees it."""

    where = "waiting for a free core of the cluster"

    def __init__(self, ray: Any, actor: Any, deliver: Callable[[Any, Block | str], None]) -> None:
        self.ray, self.actor, self.deliver = ray, actor, deliver
        self._asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._last: Any = None  # the answer to `close`
        self._asked.put((0, actor.place.options(concurrency_group="weights").remote()))
        threading.Thread(target=self._read, name="reverie-collector", daemon=True).start()

    def ask(self, rows: int) -> None:
        """For so many more rows of each of its environments."""
        self._asked.put((rows, self.actor.make.remote(rows)))

    def load(self, version: int, weights: Any) -> None:
        """Act with these weights from the next row on."""
        self.actor.load.options(concurrency_group="weights").remote(version, weights)

    def close(self) -> None:
        """Ask it to close its environments."""
        self._last = self.actor.close.remote()

    def end(self, until: float) -> list[str]:
        """Wait for that until a time (time.monotonic), then end the actor. -> its last notes."""
        notes: list[str] = []
        with suppress(Exception):  # of Ray: the actor, its machine or the whole cluster is gone
            if self._last is not None:
                notes = self.ray.get(self._last, timeout=max(0.0, until - time.monotonic()))
        with suppress(Exception):
            self.ray.kill(self.actor)
        self._asked.put((0, None))
        return notes

    def _read(self) -> None:
        early: dict[int, Block] = {}  # Ray promises no order of an actor's threads
        number = 1
        try:
            self.where = self.ray.get(self._asked.get()[1])
            while True:
                rows, answer = self._asked.get()
                if answer is None:  # the end
                    return
                at, block = self.ray.get(answer)
                if block.fault is None and len(block.versions) < rows:
                    self.ask(rows - len(block.versions))
                early[at] = block
                while number in early:
                    self.deliver(self, early.pop(number))
                    number += 1
        except Exception as error:  # of Ray
            self.deliver(self, f"was lost ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__


class RayTransport:
    """Where collectors are actors of a cluster, as `join_cluster` finds or starts it."""

    def __init__(self, count: int) -> None:
        """count: of collectors, one core each. Raises UserError where Ray, the cluster or the cores are missing."""
        self.joined = join_cluster("env.collectors=ray")
        self.ray = self.joined.ray
        try:
            cores = sum(node["Resources"].get("CPU", 0.0) for node in self.ray.nodes() if node["Alive"])
            if cores < count:
                raise UserError(
                    f"the Ray cluster has {cores:g} cores, {count} collectors need one each.",
                    "Set env.num_collectors lower, or add machines.",
                )
        except UserError:
            self.close()
            raise
        host, _, port = self.ray.get_runtime_context().gcs_address.rpartition(":")
        self.head = host, int(port)
        make = self.ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0, concurrency_groups={"weights": 1})
        self.actor = make(RayCollector)

    def start(self, task: bytes, deliver: Callable[[Any, Block | str], None]) -> RayHandle:
        """A new collector, as soon as a machine has a core for it."""
        return RayHandle(self.ray, self.actor.remote(task, list(sys.path)), deliver)

    def pack(self, weights: bytes) -> Any:
        """What `load` takes: Ray sends it once to each machine."""
        return self.ray.put(weights)

    def trouble(self) -> str:
        """Why no collector can be reached any more; "" if that is not so."""
        why = silence(*self.head)
        return f"the head of the Ray cluster at {self.head[0]}:{self.head[1]} is gone ({why})" if why else ""

    def close(self) -> None:
        """Leave the cluster, and end one that was started for this run."""
        self.joined.leave()
