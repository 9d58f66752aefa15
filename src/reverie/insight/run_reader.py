"""Read-only access to a run or a saved agent: configuration, weights and replay, also while the run is training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import checkpoint
from ..config import Config, build
from ..data.replay import Batch, row_forms
from ..data.replay_log import log_files, read_log_file
from ..envs.spaces import Spec
from ..errors import UserError
from ..files import read_json, sound
from ..run.forecast import memory_left
from ..run.shards import LOG_NAME
from ..train import DreamerV2, to_batch

#: The most steps that are read, the newest ones, and the most bytes, for large images: the same for all who measure, so
#: that they agree about a checkpoint. Enough for every measurement, and read in a second.
MOST_STEPS, MOST_BYTES = 8000, 2**30


@dataclass(frozen=True)
class Segment:
    """Consecutive steps of one environment: arrays (T, ...), the rows of `data.replay.Batch` without its first axis."""

    rows: dict[str, np.ndarray]  # obs/KEY, action, reward, is_first, is_last, is_terminal

    def __len__(self) -> int:
        return len(self.rows["reward"])

    def window(self, start: int, length: int) -> dict[str, np.ndarray]:
        """The `length` steps from `start` on."""
        return {key: value[start : start + length] for key, value in self.rows.items()}


@dataclass(frozen=True)
class Experience:
    """The newest steps of a run's replay, read from its log."""

    segments: tuple[Segment, ...]

    def __len__(self) -> int:
        return sum(len(segment) for segment in self.segments)

    def windows(self, count: int, length: int, *, seed: int = 0, in_one_episode: bool = False) -> Batch:
        """Random windows. -> Batch of arrays (count, length, ...).

        in_one_episode: only the first step of a window may be a first step. Raises UserError if there is no window.
        """
        starts = [(s, t) for s, t in self._starts(length) if not in_one_episode or self._within(s, t, length)]
        if not starts:
            kind = "episode" if in_one_episode else "sequence"
            raise UserError(f"the replay has no {kind} of {length} steps.", "Choose fewer steps, or train longer.")
        chosen = np.random.default_rng(seed).choice(len(starts), count, replace=len(starts) < count)
        return as_batch([self.segments[s].window(t, length) for s, t in (starts[i] for i in chosen)])

    def episodes(self) -> list[dict[str, np.ndarray]]:
        """The rows of each complete episode, oldest first."""
        found = []
        for segment in self.segments:
            firsts = np.flatnonzero(segment.rows["is_first"])
            lasts = np.flatnonzero(segment.rows["is_last"])
            for first in firsts:
                end = lasts[lasts >= first]
                if len(end):
                    found.append(segment.window(int(first), int(end[0] - first + 1)))
        return found

    def _starts(self, length: int) -> Iterator[tuple[int, int]]:
        for index, segment in enumerate(self.segments):
            for start in range(len(segment) - length + 1):
                yield index, start

    def _within(self, segment: int, start: int, length: int) -> bool:
        return not self.segments[segment].rows["is_first"][start + 1 : start + length].any()


@dataclass(frozen=True)
class RunReader:
    """A run or a saved agent as it was read by `open_run`."""

    path: Path  # the argument of `open_run`
    source: Path  # the checkpoint, or the saved agent
    config: Config
    spec: Spec
    agent: DreamerV2  # in evaluation mode, without gradients
    env_steps: int | None  # of the checkpoint; None for a saved agent
    experience: Experience | None  # None for a saved agent without episodes

    def need_experience(self) -> Experience:
        """The experience. Raises UserError if there is none."""
        if self.experience is None or not len(self.experience):
            raise UserError(f"{self.path} has no replay.", "Give the directory of a run that has begun to train.")
        return self.experience

    def batch(self, count: int, length: int, *, seed: int = 0, in_one_episode: bool = False) -> Batch:
        """Windows of the run's experience as tensors on the agent's device. -> Batch of (count, length, ...)."""
        return to_batch(
            self.need_experience().windows(count, length, seed=seed, in_one_episode=in_one_episode), self.agent.device
        )


def require_memory(experience: Experience, windows: int, steps: int) -> None:
    """Refuse more windows, or longer ones, than memory is left for, before it is filled. Raises UserError."""
    row = sum(value[:1].nbytes for value in experience.segments[0].rows.values()) if experience.segments else 0
    least, left = windows * steps * (5 * row + 4096), memory_left()  # as bytes, as float32, and states of the model
    if left is not None and least > left:
        raise UserError(
            f"{windows:,} windows of {steps:,} steps take at least {least / 1e9:,.1f} GB of memory, "
            f"{left / 1e9:,.1f} GB are left.",
            "Choose a smaller --horizon, --context, --starts or --samples.",
        )


def open_run(path: str | Path, *, device: str = "cpu", most_steps: int = MOST_STEPS) -> RunReader:
    """Load the newest complete checkpoint of a run (or a saved agent) and its newest experience.

    Changes nothing in the directory. most_steps: steps of experience to read. Raises UserError.
    """
    for attempt in range(5):  # a training run may remove the checkpoint in the meantime
        try:
            return _open(Path(path), device, most_steps)
        except (UserError, OSError) as error:
            if attempt == 4 or not (isinstance(error, OSError) or "No such file" in error.message):
                if isinstance(error, OSError):
                    raise UserError(f"cannot read {path} ({error.strerror}).", "Try again.") from error
                raise
    raise AssertionError("unreachable")


def _open(path: Path, device: str, most_steps: int) -> RunReader:
    source = checkpoint.find_agent(path)
    config, spec = checkpoint.read_agent(source)
    plain = build({"compute.mode": "reference", "compute.device": "meta"}, base=config)
    checkpoint.require_fit(source, lambda: DreamerV2(plain, spec))
    mode = "fast" if config.compute.mode in ("auto", "graph", "compile") else config.compute.mode
    agent = DreamerV2(build({"compute.device": device, "compute.mode": mode}, base=config), spec)
    checkpoint.load_weights(source, agent)
    agent.requires_grad_(False)
    agent.eval()
    is_run = source != path and source.parent.parent == path
    steps = int(source.name.split("-")[1]) if source.name.startswith("step-") else None
    has_steps = is_run or (source == path and log_files(path / "replay"))  # a saved agent may bring a few episodes
    return RunReader(
        path,
        source,
        config,
        spec,
        agent,
        steps,
        _experience(path, spec, most_steps, _log_name(source)) if has_steps else None,
    )


def _log_name(source: Path) -> str:
    """The directory of a checkpoint's replay log: another one after a change of the number of ranks (run/shards.py)."""
    file = source / "state.json"
    with sound(file):
        name = str(read_json(file)["replay"].get("log", "replay")) if file.exists() else "replay"
    return name if LOG_NAME.fullmatch(name) else "replay"


def _experience(path: Path, spec: Spec, most_steps: int, log_name: str) -> Experience:
    """The newest log files up to a limit, joined where they are consecutive."""
    pieces: list[tuple[int, int, dict[str, np.ndarray]]] = []  # stream, first step, rows
    steps = size = 0
    forms = row_forms(spec.shapes, spec.action.size)
    for file in reversed(log_files(path / log_name)):
        first, rows = read_log_file(file, forms)
        for stream, (at, part) in enumerate(zip(first, rows, strict=True)):
            pieces.append((stream, at, part))
        steps += sum(len(part["reward"]) for part in rows)
        size += sum(value.nbytes for part in rows for value in part.values())
        if steps >= most_steps or size >= MOST_BYTES:
            break
    segments: list[Segment] = []
    group: list[dict[str, np.ndarray]] = []
    previous: tuple[int, int] | None = None
    for stream, at, part in sorted(pieces, key=lambda piece: piece[:2]):
        if previous != (stream, at) and group:
            segments.append(_joined(group))
            group = []
        group.append(part)
        previous = (stream, at + len(part["reward"]))
    if group:
        segments.append(_joined(group))
    return Experience(tuple(segment for segment in segments if len(segment)))


def _joined(parts: list[dict[str, np.ndarray]]) -> Segment:
    return Segment({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})


def as_batch(rows: list[dict[str, np.ndarray]]) -> Batch:
    """Windows of equal length as one Batch of arrays (B, T, ...)."""
    joined: dict[str, Any] = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    obs = {key[4:]: joined.pop(key) for key in list(joined) if key.startswith("obs/")}
    return Batch(obs=obs, **joined)


def private_generator(seed: int) -> torch.Generator:
    """A generator for reading: the agent's own random streams must not change."""
    return torch.Generator().manual_seed(seed)
