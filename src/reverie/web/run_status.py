"""State and progress of a run, as the list of runs shows them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..config import Config
from ..guard.lock import abandoned, in_use
from ..run.ending import LIMITS, read_end


class Progress(NamedTuple):
    """How far a run is."""

    share: float  # 0 to 1, by the limit that will end it first
    limit: str  # that setting: one of `run.ending.LIMITS`


class Status(NamedTuple):
    """What a run is doing."""

    state: str  # training, done, stopped or crashed
    reason: str  # in words, "" if there is nothing to add


def progress_of(config: Config, env_steps: float, seconds: float) -> Progress:
    """The larger of the two shares: a run ends by steps or by time, whichever comes first."""
    train = config.train
    by_steps = env_steps / max(1, train.env_steps)
    by_time = seconds / (60 * train.minutes) if train.minutes else 0.0
    return Progress(min(1.0, max(by_steps, by_time)), LIMITS[int(by_time > by_steps)])


def status_of(path: Path, config: Config | None, progress: Progress) -> Status:
    """From the lock, then the record of the end; runs of older versions, which have none, by how far they came."""
    if in_use(path):
        return Status("training", "")
    if abandoned(path):
        return Status("crashed", "its process was killed, or its machine went down; the same command continues it")
    end = read_end(path)
    if end is not None:
        over = end.state == "done" and progress.share < 1 and config is not None
        return Status("stopped", "its limit was raised; the same command continues it") if over else Status(*end)
    if config is not None and config.train.on_nonfinite == "stop" and (path / "crash").is_dir():
        return Status("crashed", "training became non-finite; reverie replay-crash says where")
    return Status("done", progress.limit) if progress.share >= 1 else Status("stopped", "")
