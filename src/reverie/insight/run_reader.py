"""A run or a saved agent, opened for looking: nothing in its directory is changed, also while it is training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import checkpoint
from ..config import Config, build
from ..data.replay import Batch
from ..data.replay_log import log_files, read_log_file
from ..envs.spaces import Spec
from ..errors import UserError
from ..train import DreamerV2, to_batch

#: Steps that are read at most, the newest ones; and bytes, for big images.
MOST_STEPS, MOST_BYTES = 20_000, 2**30


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps of one environment: rows of `replay.Batch` without its first dimension, arrays (T, ...)."""

    rows: dict[str, np.ndarray]  # obs/KEY, action, reward, is_first, is_last, is_terminal

    def __len__(self) -> int:
        return len(self.rows["reward"])

    def window(self, start: int, length: int) -> dict[str, np.ndarray]:
        """`length` steps from `start` on."""
        return {key: value[start : start + length] for key, value in self.rows.items()}


@dataclass(frozen=True)
class Experience:
    """The newest steps of a run's replay, as its log holds them."""

    stretches: tuple[Stretch, ...]

    def __len__(self) -> int:
        return sum(len(stretch) for stretch in self.stretches)

    def windows(self, count: int, length: int, *, seed: int = 0, in_one_episode: bool = False) -> Batch:
        """Random windows. -> Batch of arrays (count, length, ...).

        in_one_episode: no step but the first may be a first step. Raises UserError if there is no such window.
        """
        starts = [(s, t) for s, t in self._starts(length) if not in_one_episode or self._within(s, t, length)]
        if not starts:
            what = "episode" if in_one_episode else "stretch of experience"
            raise UserError(f"no {what} of {length} steps is in the replay.", "Ask for a shorter one, or train longer.")
        chosen = np.random.default_rng(seed).choice(len(starts), count, replace=len(starts) < count)
        return as_batch([self.stretches[s].window(t, length) for s, t in (starts[i] for i in chosen)])

    def episodes(self) -> list[dict[str, np.ndarray]]:
        """Rows of each whole episode, oldest first."""
        found = []
        for stretch in self.stretches:
            firsts = np.flatnonzero(stretch.rows["is_first"])
            lasts = np.flatnonzero(stretch.rows["is_last"])
            for first in firsts:
                end = lasts[lasts >= first]
                if len(end):
                    found.append(stretch.window(int(first), int(end[0] - first + 1)))
        return found

    def _starts(self, length: int) -> Iterator[tuple[int, int]]:
        for index, stretch in enumerate(self.stretches):
            for start in range(len(stretch) - length + 1):
                yield index, start

    def _within(self, stretch: int, start: int, length: int) -> bool:
        return not self.stretches[stretch].rows["is_first"][start + 1 : start + length].any()


@dataclass(frozen=True)
class Opened:
    """What there is to look at."""

    path: Path  # as it was asked for
    found: Path  # the checkpoint, or the saved agent
    config: Config
    spec: Spec
    agent: DreamerV2  # in evaluation; nobody trains it
    env_steps: int | None  # of the checkpoint; None for a saved agent
    experience: Experience | None  # None for a saved agent

    def need_experience(self) -> Experience:
        """Raises UserError where there is none."""
        if self.experience is None or not len(self.experience):
            raise UserError(f"{self.path} has no replay to look at.", "Give the directory of a run.")
        return self.experience

    def batch(self, count: int, length: int, *, seed: int = 0, in_one_episode: bool = False) -> Batch:
        """Windows of the run's experience as tensors on the agent's device. -> Batch of (count, length, ...)."""
        return to_batch(
            self.need_experience().windows(count, length, seed=seed, in_one_episode=in_one_episode), self.agent.device
        )


def open_run(path: str | Path, *, device: str = "cpu", most_steps: int = MOST_STEPS) -> Opened:
    """Load the newest whole checkpoint of a run (or a saved agent) and its newest experience. Raises UserError."""
    for attempt in range(5):  # a run that is training removes old checkpoints while we look
        try:
            return _open(Path(path), device, most_steps)
        except (UserError, OSError) as error:
            if attempt == 4 or not (isinstance(error, OSError) or "No such file" in error.message):
                if isinstance(error, OSError):
                    raise UserError(f"cannot read {path} ({error.strerror}).", "Try it again.") from error
                raise
    raise AssertionError("unreachable")


def _open(path: Path, device: str, most_steps: int) -> Opened:
    found = checkpoint.find_agent(path)
    config, spec = checkpoint.read_agent(found)
    plain = build({"compute.mode": "reference", "compute.device": "meta"}, base=config)
    checkpoint.require_fit(found, lambda: DreamerV2(plain, spec))
    mode = "fast" if config.compute.mode in ("auto", "graph", "compile") else config.compute.mode
    agent = DreamerV2(build({"compute.device": device, "compute.mode": mode}, base=config), spec)
    checkpoint.load_weights(found, agent)
    agent.requires_grad_(False)
    agent.eval()
    is_run = found != path and found.parent.parent == path
    steps = int(found.name.split("-")[1]) if found.name.startswith("step-") else None
    return Opened(path, found, config, spec, agent, steps, _experience(path, most_steps) if is_run else None)


def _experience(path: Path, most_steps: int) -> Experience:
    """The newest log files up to a limit, joined where they follow one another."""
    pieces: list[tuple[int, int, dict[str, np.ndarray]]] = []  # stream, first step, rows
    steps = size = 0
    for file in reversed(log_files(path / "replay")):
        first, rows = read_log_file(file)
        for stream, (at, part) in enumerate(zip(first, rows, strict=True)):
            pieces.append((stream, at, part))
        steps += sum(len(part["reward"]) for part in rows)
        size += sum(value.nbytes for part in rows for value in part.values())
        if steps >= most_steps or size >= MOST_BYTES:
            break
    stretches: list[Stretch] = []
    group: list[dict[str, np.ndarray]] = []
    previous: tuple[int, int] | None = None
    for stream, at, part in sorted(pieces, key=lambda piece: piece[:2]):
        if previous != (stream, at) and group:
            stretches.append(_joined(group))
            group = []
        group.append(part)
        previous = (stream, at + len(part["reward"]))
    if group:
        stretches.append(_joined(group))
    return Experience(tuple(stretch for stretch in stretches if len(stretch)))


def _joined(parts: list[dict[str, np.ndarray]]) -> Stretch:
    return Stretch({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})


def as_batch(rows: list[dict[str, np.ndarray]]) -> Batch:
    """Windows of equal length as one Batch of arrays (B, T, ...)."""
    joined: dict[str, Any] = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    obs = {key[4:]: joined.pop(key) for key in list(joined) if key.startswith("obs/")}
    return Batch(obs=obs, **joined)


def own_noise(seed: int) -> torch.Generator:
    """A random stream of one's own: looking must not change what the looked-at draws next."""
    return torch.Generator().manual_seed(seed)
