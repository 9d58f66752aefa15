"""CPU seconds and seconds of the clock that a run took, evaluations apart, over several processes; without torch."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Meter:
    """Counts from its making on. CPU seconds are user and system time of the process: all of its threads."""

    def __init__(self) -> None:
        self.spent = {"cpu": 0.0, "wall": 0.0, "evaluation_cpu": 0.0, "evaluation_wall": 0.0}
        self._cpu, self._wall, self._part = time.process_time(), time.monotonic(), ""

    def _settle(self) -> None:
        cpu, wall = time.process_time(), time.monotonic()
        self.spent[f"{self._part}cpu"] += cpu - self._cpu
        self.spent[f"{self._part}wall"] += wall - self._wall
        self._cpu, self._wall = cpu, wall

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """What passes inside is of an evaluation."""
        self._settle()
        self._part = "evaluation_"
        try:
            yield
        finally:
            self._settle()
            self._part = ""

    @property
    def cpu(self) -> float:
        """CPU seconds without evaluations so far."""
        self._settle()
        return self.spent["cpu"]

    def state(self) -> dict[str, float]:
        """Everything spent so far, for the next process."""
        self._settle()
        return {key: round(value, 3) for key, value in self.spent.items()}

    def add(self, state: dict[str, float]) -> None:
        """Add what an earlier process of this run spent."""
        for key in self.spent:
            self.spent[key] += state.get(key, 0.0)


def hardware() -> dict[str, Any]:
    """The processor by its name, its cores, and how busy the machine is."""
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": cores,
        "threads": 1,
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def write_json(path: Path, found: dict[str, Any]) -> None:
    """Write a result, whole or not at all: a line for each value, so that a difference can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items()]
    draft.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    os.replace(draft, path)
