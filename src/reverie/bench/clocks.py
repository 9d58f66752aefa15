"""Repeating, timing, statistics, memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..run.forecast import peak, reset_peak, resident

#: Fewer repetitions than these have no quartiles.
FEWEST = 3


@dataclass(frozen=True)
class Effort:
    """How long to measure: so many seconds, or so many repetitions if that is not 0."""

    seconds: float
    repeats: int = 0

    def enough(self, count: int, since: float) -> bool:
        """After `count` repetitions, the first of which began at `since` (perf_counter)."""
        if self.repeats:
            return count >= self.repeats
        return count >= FEWEST and time.perf_counter() - since >= self.seconds


@dataclass
class Samples:
    """Seconds of each repetition: wall time, and CPU time of all threads of the process."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median wall time in seconds."""
        return float(np.median(self.wall))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"count": len(self.wall), "wall_s": statistics(self.wall), "cpu_s": statistics(self.cpu)}


def statistics(values: list[float]) -> dict[str, float]:
    """Median and spread: quartiles, least, most."""
    lower, median, upper = np.percentile(values, [25, 50, 75])
    return {
        "median": float(median),
        "lower_quartile": float(lower),
        "upper_quartile": float(upper),
        "min": min(values),
        "max": max(values),
    }


def waiter(device: torch.device) -> Callable[[], None]:
    """What to call before the time is read: CUDA works asynchronously."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def once(work: Callable[[], Any], finish: Callable[[], None]) -> float:
    """Seconds of a single call, all its work done."""
    finish()
    start = time.perf_counter()
    work()
    finish()
    return time.perf_counter() - start


def repeat(work: Callable[[], Any], effort: Effort, finish: Callable[[], None] = lambda: None) -> Samples:
    """Time every call of `work`; `finish` waits for the device. Warm up before."""
    samples, begin = Samples(), time.perf_counter()
    finish()
    while not effort.enough(len(samples.wall), begin):
        cpu, wall = time.process_time(), time.perf_counter()
        work()
        finish()
        samples.wall.append(time.perf_counter() - wall)
        samples.cpu.append(time.process_time() - cpu)
    return samples


class Memory:
    """Peak memory since this object was made, and what was in use then: of the GPU, or of the process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self.idle = torch.cuda.memory_allocated(device)
        else:
            reset_peak()
            self.idle = resident() or 0

    def to_dict(self) -> dict[str, int]:
        """Plain values for JSON. Where the system cannot reset an older peak, it is that of the whole process."""
        on_gpu = self.device.type == "cuda"
        highest = torch.cuda.max_memory_allocated(self.device) if on_gpu else peak() or 0
        return {"peak_bytes": highest, "idle_bytes": self.idle, "peak_over_idle_bytes": max(0, highest - self.idle)}
