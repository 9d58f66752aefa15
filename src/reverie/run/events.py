"""TensorBoard's event files, written where the numbers are made.

tensorboardX's own SummaryWriter hands them to a thread, which dies on a full disk; after ten more numbers the program
then waits for it for ever. Here an error is the caller's, at once.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar


class Events:
    """One event file in a directory."""

    def __init__(self, directory: Path, *, env_steps: int = 0) -> None:
        """env_steps: what earlier files tell of later steps is forgotten. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = RecordWriter(str(directory / name))
        self._add(Event(file_version="brain.Event:2"), 0)
        if env_steps:
            self._add(Event(session_log=SessionLog(status=SessionLog.START)), env_steps)

    def write(self, numbers: Mapping[str, float], env_steps: int) -> None:
        """A point on each curve. Raises OSError."""
        for name, value in numbers.items():
            self._add(Event(summary=scalar(name, value)), env_steps)
        self._file.flush()

    def _add(self, event: Event, env_steps: int) -> None:
        event.wall_time, event.step = time.time(), env_steps  # dates for people; nothing is computed from them
        self._file.write(event.SerializeToString())

    def close(self) -> None:
        """Close the file; what a full disk kept from it is lost."""
        with suppress(OSError, ValueError):
            self._file.close()
