"""Disk space for memory-mapped arrays, reserved before they are written to.

Their files are sparse at first. On a full disk, writing into such an array ends the process with SIGBUS and no message;
reserving the space first fails with an error that can be reported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

from ..errors import UserError

#: Bytes that are reserved at a time, of each array and stream.
STEP = 8_000_000


class DiskReservation:
    """Reserved space of arrays (streams, size, ...) that are filled from the front of each stream."""

    def __init__(self, arrays: Iterable[np.ndarray], step: int = STEP) -> None:
        self.arrays = [array for array in arrays if isinstance(array, np.memmap)]
        self.step = step
        self.rows = np.zeros(len(self.arrays[0]) if self.arrays else 0, np.int64)  # of each stream that have space

    def reserve(self, streams: np.ndarray, slots: np.ndarray) -> None:
        """Reserve rows up to `slots` (N,) of `streams` (N,), to be written next. Raises UserError on a full disk."""
        if self.arrays:
            for stream, slot in zip(streams, slots, strict=True):
                if slot >= self.rows[stream]:
                    self._extend(int(stream), int(slot))

    def _extend(self, stream: int, slot: int) -> None:
        size, first = self.arrays[0].shape[1], int(self.rows[stream])
        largest = max(array.strides[1] for array in self.arrays)
        last = min(size, max(slot + 1, first + self.step // largest))
        for array in self.arrays:
            start = array.offset + stream * array.strides[0] + first * array.strides[1]
            _allocate(array, start, (last - first) * array.strides[1])
        self.rows[stream] = last


def _allocate(array: np.memmap, start: int, count: int) -> None:
    if not hasattr(os, "posix_fallocate") or not array.filename:  # macOS, Windows: a full disk is not noticed in time
        return
    try:
        file = os.open(array.filename, os.O_RDWR)
        try:
            os.posix_fallocate(file, start, count)
        finally:
            os.close(file)
    except OSError as error:
        raise UserError(
            f"no space for the replay in {array.filename} ({error.strerror}).",
            "Free some space, then repeat the command: the run resumes from its last checkpoint. Or start another "
            "--run with a smaller replay.replay_capacity.",
        ) from error
