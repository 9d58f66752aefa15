"""Logs of a run: metrics.jsonl, episodes.jsonl, TensorBoard events, and what `trackers.py` has.

Tensors become floats only here, when a line is written: training itself never waits for the device.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import hparams, scalar
from torch import Tensor

from ..files import append_text, open_own_file, truncate, write_file, writing
from .lines import parse_line, read_lines, split_lines
from .trackers import Tracker

__all__ = ["FILES", "Events", "Logger", "read_lines"]

FILES = ("metrics.jsonl", "episodes.jsonl")


class Logger:
    """Collects metrics between lines and writes their means."""

    def __init__(
        self,
        run: Path,
        *,
        env_steps: int,
        sizes: Mapping[str, int] | None = None,
        tensorboard: bool = True,
        trackers: Sequence[Tracker] = (),
        settings: Mapping[str, Any] | None = None,
        may_write: Callable[[], None] = lambda: None,
    ) -> None:
        """Continue the files of `run` at `env_steps`: lines of a future that a crash undid are dropped.

        sizes: of the files then, from `sizes()`; None: not known, lines of later steps are dropped. may_write: called
        before each line; raises if the directory is no longer ours. trackers: of `run.trackers`; settings: what
        TensorBoard shows as hyperparameters.
        """
        self.run = run
        self.may_write = may_write
        self.sums: dict[str, Tensor] = {}
        self.missed: dict[str, int] = {}  # updates since the last line before a sum began
        self.count = 0
        for name in FILES:
            if sizes is not None and name in sizes and (run / name).exists():
                with writing(name, run):
                    truncate(run / name, sizes[name])
            else:
                _forget_after(run / name, env_steps)
        self.trouble = ""  # why TensorBoard events are no longer written; that does not end a run
        self.events: Any = None
        if tensorboard:
            self._begin_events(env_steps, settings or {})
        self.trackers = list(trackers)

    def _begin_events(self, env_steps: int, settings: Mapping[str, Any]) -> None:
        try:
            self.events = Events(self.run / "tensorboard", env_steps=env_steps)
            if settings:
                self.events.settings(settings, ("eval/return", "episode/return"))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if self.events is not None:
            self.events.close()
        self.events = None
        self.trouble = f"TensorBoard events are no longer written ({error.strerror}). metrics.jsonl has all numbers."

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Remember one update's metrics (0-d tensors, still on their device)."""
        for key, value in metrics.items():
            if key in self.sums:
                self.sums[key] = self.sums[key] + value
            else:
                self.sums[key], self.missed[key] = value.clone(), self.count
        self.count += 1

    def nonfinite(self) -> list[str]:
        """Names of metrics since the last line that are NaN or infinite (waits for the device)."""
        return [key for key, value in self.sums.items() if not math.isfinite(float(value))]

    def forget(self) -> None:
        """Leave out what was added since the last line."""
        self.sums, self.missed, self.count = {}, {}, 0

    def write(self, numbers: Mapping[str, float], *, env_steps: int) -> dict[str, float]:
        """One line: the given numbers and the means of what was added since the last line. -> that line."""
        means = {key: float(value) / (self.count - self.missed.get(key, 0)) for key, value in self.sums.items()}
        self.forget()
        line = {"env_steps": env_steps, **numbers, **means}
        self.may_write()
        _append(self.run / "metrics.jsonl", line)
        if self.events is not None:
            try:
                self.events.write(line, env_steps)
            except OSError as error:
                self._give_up(error)
        self._track(lambda tracker: tracker.log(line, env_steps))
        return line

    def video(self, path: Path, *, env_steps: int) -> None:
        """Hand the video of an evaluation on, if it was written."""
        if path.exists():
            self._track(lambda tracker: tracker.video(path, env_steps))

    def _track(self, work: Callable[[Tracker], None]) -> None:
        """A service that fails is left out from now on: it must not end a run."""
        for tracker in list(self.trackers):
            try:
                work(tracker)
            except Exception as error:
                self.trackers.remove(tracker)
                why = " ".join(str(error).split())[:200]
                self.trouble = f"{tracker.name} is no longer written ({why}). metrics.jsonl has all numbers."

    def episode(self, values: Mapping[str, Any]) -> None:
        """One line of episodes.jsonl."""
        self.may_write()
        _append(self.run / "episodes.jsonl", values)

    def sizes(self) -> dict[str, int]:
        """Bytes of each text file: lines beyond these are of a future that a crash undoes."""
        return {name: (self.run / name).stat().st_size if (self.run / name).exists() else 0 for name in FILES}

    def close(self) -> None:
        """Flush and close the writers."""
        if self.events is not None:
            self.events.close()
        self._track(lambda tracker: tracker.close())


def _append(path: Path, values: Mapping[str, Any]) -> None:
    clean = {
        k: None if isinstance(v, float) and not math.isfinite(v) else round(v, 6) if isinstance(v, float) else v
        for k, v in values.items()
    }
    with writing(path.name, path.parent):
        append_text(path, json.dumps(clean) + "\n")


def _forget_after(path: Path, env_steps: int) -> None:
    """Leave out the lines of later steps. Lines that are not ours stay."""
    if not path.exists():
        return
    with writing(path.name, path.parent):
        with open_own_file(path) as file:
            lines = [(text, complete, parse_line(text)) for text, complete in split_lines(file)]
        kept = [
            text
            for text, complete, line in lines
            if (complete if line is None else line.get("env_steps", 0) <= env_steps)
        ]
        write_file(path, b"".join(text + b"\n" for text in kept))  # on a full disk the lines stay


class Events:
    """One event file in a directory."""

    def __init__(self, directory: Path, *, env_steps: int = 0) -> None:
        """env_steps: points of later steps in earlier files are discarded. Raises OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = RecordWriter(str(directory / name))
        self._add(Event(file_version="brain.Event:2"), 0)
        if env_steps:
            self._add(Event(session_log=SessionLog(status=SessionLog.START)), env_steps)

    def write(self, numbers: Mapping[str, float], env_steps: int) -> None:
        """A point on each curve. Raises OSError."""
        for name, value in numbers.items():
            if math.isfinite(value):  # e.g. no interval of a single episode
                self._add(Event(summary=scalar(name, value)), env_steps)
        self._file.flush()

    def settings(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """What TensorBoard's page of hyperparameters shows of this run, beside the newest of these curves."""
        known = (bool, int, float, str)
        plain = {key: value if isinstance(value, known) else str(value) for key, value in values.items()}
        for summary in hparams(plain, dict.fromkeys(metrics, 0.0)):
            self._add(Event(summary=summary), 0)

    def _add(self, event: Event, env_steps: int) -> None:
        event.wall_time, event.step = time.time(), env_steps  # dates for people; nothing is computed from them
        self._file.write(event.SerializeToString())

    def close(self) -> None:
        """Close the file; what a full disk rejected is lost."""
        with suppress(OSError, ValueError):
            self._file.close()
