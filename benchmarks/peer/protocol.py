"""What every contestant of `benchmarks/peers.py` shares: the sizes, the random batch, the clock and the way to talk.

Runs in every contestant's own environment, so it needs NumPy and the standard library only. A worker builds its agent
when asked to and then answers one JSON line on stdin by one JSON line on stdout; between two lines it sleeps, so that
only one contestant works at a time. What a peer prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BATCHES = 4  # different ones, taken in turn, so that no contestant is measured on a single batch


@dataclass(frozen=True)
class Size:
    """The sizes that a contestant has to be built with; latents are 32x32, the horizon is 15, heads have 4 layers."""

    name: str
    batch: int
    length: int
    image: tuple[int, int, int]
    actions: int
    cnn_depth: int
    deter: int  # also the width of the layers inside the RSSM
    units: int  # the width of the heads, the actor and the critic
    parameters: int  # all of them, the slow critic's included


SIZES = {
    "T": Size("T", 16, 16, (64, 64, 3), 6, cnn_depth=24, deter=200, units=200, parameters=6_255_677),
    "A": Size("A", 16, 50, (64, 64, 1), 18, cnn_depth=48, deter=600, units=400, parameters=23_376_999),
}


@dataclass
class Contestant:
    """An agent that can be timed. Both functions return only when all their work is done."""

    update: Callable[[int], Any]  # one update of everything on the batch of this number
    acting: Callable[[int], Callable[[bool], Any]]  # for so many environments: one step; true where episodes start
    parameters: Callable[[], int]  # known after the first update: some make their layers then
    version: str
    differences: list[str] = field(default_factory=list)  # from the released DreamerV2, in the network or the timing


def random_batches(size: Size) -> list[dict[str, np.ndarray]]:
    """BATCHES times {key: (B, T, ...)}; windows that start with a first step, no episode ends inside."""
    rng = np.random.default_rng(0)
    return [_random_batch(size, rng) for _ in range(BATCHES)]


def _random_batch(size: Size, rng: np.random.Generator) -> dict[str, np.ndarray]:
    rows = (size.batch, size.length)
    action = np.eye(size.actions, dtype=np.float32)[rng.integers(0, size.actions, rows)]
    first, ended = np.zeros(rows, bool), np.zeros(rows, bool)
    first[:, 0] = True
    action[first] = 0.0
    return {
        "image": rng.integers(0, 256, (*rows, *size.image), dtype=np.uint8),
        "action": action,  # that led into the step
        "reward": rng.normal(size=rows).astype(np.float32),
        "is_first": first,
        "is_last": ended,
        "is_terminal": ended,
    }


def random_images(size: Size, count: int) -> np.ndarray:
    """(count, H, W, C) for the step of acting."""
    return np.random.default_rng(1).integers(0, 256, (count, *size.image), dtype=np.uint8)


def timed(work: Callable[[int], Any], numbers: range) -> dict[str, list[float]]:
    """CPU seconds (user + system, of all threads) and seconds of the clock, of each call."""
    cpu, wall = [], []
    for number in numbers:
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        work(number)
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - wall_start)
    return {"cpu": cpu, "wall": wall}


def peak_mib() -> float:
    """The most memory that this process ever held."""
    kib = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(kib[1]) / 1024 if kib else float("nan")


def serve(make: Callable[[Size, dict[str, Any]], Contestant]) -> None:
    """Answer until "quit". make: sizes and the contestant's own options -> Contestant."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # peers print; their lines must not mix with the replies
    worker = _Worker(make)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        try:
            reply = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # the other contestants continue without this one
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")


class _Worker:
    """The requests that a worker knows, one method each."""

    def __init__(self, make: Callable[[Size, dict[str, Any]], Contestant]) -> None:
        self.make, self.updates = make, 0
        self.policies: dict[int, Callable[[bool], Any]] = {}

    def build(self, size: str, options: dict[str, Any]) -> dict[str, Any]:
        self.contestant = self.make(SIZES[size], options)
        return {"peak_mib": peak_mib()}

    def facts(self) -> dict[str, Any]:
        contestant = self.contestant
        facts = {"version": contestant.version, "differences": contestant.differences}
        return facts | {"parameters": contestant.parameters()}

    def update(self, times: int) -> dict[str, Any]:
        numbers = range(self.updates, self.updates + times)
        self.updates += times
        return timed(lambda number: self.contestant.update(number % BATCHES), numbers) | {"peak_mib": peak_mib()}

    def policy(self, times: int, count: int, first: bool = False) -> dict[str, Any]:
        if count not in self.policies:
            self.policies[count] = self.contestant.acting(count)
        step = self.policies[count]
        return timed(lambda number: step(first and number == 0), range(times))
