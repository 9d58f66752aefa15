"""What a training takes of its machine: memory and computing, for each line of metrics.

Two short system files and two counters are read every few seconds; nothing that learns is touched, no random number is
drawn. A deterministic run does not log it, like all that depends on the machine.
"""

from __future__ import annotations

import time

import torch

from .forecast import resident

GIGABYTE = 1e9


class MachineMeter:
    """Use of the machine since the last call of `numbers`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._gpu_answers = device.type == "cuda"  # whether its use can be asked for: that needs another package
        self._wall = time.monotonic()
        self._busy = time.process_time()

    def numbers(self) -> dict[str, float]:
        """{"machine/ram_gb", "machine/cpu_busy", and on a GPU "machine/gpu_gb", "machine/gpu_busy"}, as far as known.

        Memory in GB; cpu_busy in cores, of this process and its threads; gpu_busy as a share of the whole GPU.
        """
        found = {}
        if (memory := resident()) is not None:
            found["machine/ram_gb"] = memory / GIGABYTE
        wall, busy = time.monotonic(), time.process_time()
        if wall > self._wall:
            found["machine/cpu_busy"] = (busy - self._busy) / (wall - self._wall)
        self._wall, self._busy = wall, busy
        if self.device.type == "cuda":
            found["machine/gpu_gb"] = torch.cuda.memory_reserved(self.device) / GIGABYTE
        if self._gpu_answers:
            try:
                found["machine/gpu_busy"] = torch.cuda.utilization(self.device) / 100
            except Exception:  # no nvidia-ml-py, or a driver that does not say: a number less, never the end of a run
                self._gpu_answers = False
        return found
