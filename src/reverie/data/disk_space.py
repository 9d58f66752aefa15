"""Room on a disk for memory-mapped arrays, taken before it is written to.

Their files begin without any. Where the disk is full, writing into such an array ends the process with SIGBUS, without
a word; taking the room first is an error that can be told.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

from ..errors import UserError

#: Bytes that are taken at a time, of each array and stream.
STEP = 8_000_000


class DiskReservation:
    """Of arrays (streams, size, ...) that are filled from the front of each stream."""

    def __init__(self, arrays: Iterable[np.ndarray], step: int = STEP) -> None:
        self.arrays = [array for array in arrays if isinstance(array, np.memmap)]
        self.step = step
        self.rows = np.zeros(len(self.arrays[0]) if self.arrays else 0, np.int64)  # of each stream: there is room for

    def reserve(self, streams: np.ndarray, places: np.ndarray) -> None:
        """Before rows up to `places` (N,) of `streams` (N,) are written. Raises UserError if there is no room."""
        if self.arrays:
            for stream, place in zip(streams, places, strict=True):
                if place >= self.rows[stream]:
                    self._extend(int(stream), int(place))

    def _extend(self, stream: int, place: int) -> None:
        size, first = self.arrays[0].shape[1], int(self.rows[stream])
        largest = max(array.strides[1] for array in self.arrays)
        last = min(size, max(place + 1, first + self.step // largest))
        for array in self.arrays:
            start = array.offset + stream * array.strides[0] + first * array.strides[1]
            _allocate(array, start, (last - first) * array.strides[1])
        self.rows[stream] = last


def _allocate(array: np.memmap, start: int, count: int) -> None:
    if not hasattr(os, "posix_fallocate") or not array.filename:  # macOS, Windows: no warning before the end
        return
    try:
        handle = os.open(array.filename, os.O_RDWR)
        try:
            os.posix_fallocate(handle, start, count)
        finally:
            os.close(handle)
    except OSError as error:
        raise UserError(
            f"no room for the replay in {array.filename} ({error.strerror}).",
            "Free some space, then repeat the command: the run goes on from its last checkpoint. Or start another "
            "--run with a smaller replay.replay_capacity.",
        ) from error
