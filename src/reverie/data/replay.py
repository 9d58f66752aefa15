"""Replay buffer: storage of experience, sampling of windows, and THE time convention (docs/time.md).

A stored step t is what arrives together: o_t, r_t, the flags, and the action that LED INTO it.

    stored step t     0      1      2      3          dream step k    0      1    ...   H
    obs               o0     o1     o2     o3         feat            f0     f1         fH     f0 = posterior
    action (into t)   NaN    a1     a2     a3         action (out of) u0     u1         -      u_k leads to f_{k+1}
    reward (with t)   0      r1     r2     r3         reward(f_k)     r0     r1         rH
    is_first          1      0      0      0          value           v0     v1         vH     vH only bootstraps
                                                      target          G0     G1 .. G_{H-1}

The action of a first step does not exist and is stored as NaN: a forgotten reset mask turns the loss NaN at once
instead of making a slightly worse agent. is_terminal: the task ended at o_t (continue target 0). is_last: the last
step of its episode, terminal or cut by a time limit. A stream is the endless sequence of one environment's episodes.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError, printable
from .disk_space import DiskReservation

#: What every step has besides its observations: shape after (B, T), dtype.
STEP_KEYS: dict[str, type] = {
    "reward": np.float32,
    "is_first": np.bool_,
    "is_last": np.bool_,
    "is_terminal": np.bool_,
}


#: Letters in the name of a ring's file at most, besides its digest.
LONGEST_NAME = 120
#: What a step holds: {key: (shape, dtype)}.
Forms = Mapping[str, tuple[tuple[int, ...], Any]]


class Batch(NamedTuple):
    """Windows of experience: left half of the drawing above (docs/time.md). Arrays or tensors of (B, T, ...)."""

    obs: dict[str, Any]  # {key: (B, T, *shape)}: images uint8 (H, W, C), vectors float32
    action: Any  # (B, T, A) the action into t; NaN where is_first
    reward: Any  # (B, T) received on arriving at t; 0 where is_first
    is_first: Any  # (B, T) bool: o_t came from a reset
    is_last: Any  # (B, T) bool: last step of its episode
    is_terminal: Any  # (B, T) bool: the task ended here; a time limit does not count
    demo: Any = None  # (B, T) bool: a step of a demonstration (`replay.demos`); None: the run has none

    def map(self, change: Callable[[Any], Any]) -> Batch:
        """A batch of what `change` makes of each array."""
        arrays = {key: change(value) for key, value in self._asdict().items() if key != "obs" and value is not None}
        return Batch({key: change(value) for key, value in self.obs.items()}, **arrays)


def row_forms(obs_shapes: Forms, action_dim: int) -> Forms:
    """The form of a step: "obs/key", "action" and the rest. obs_shapes: {key: (shape, dtype)}."""
    forms = {f"obs/{key}": form for key, form in obs_shapes.items()} | {"action": ((action_dim,), np.float32)}
    return forms | {key: ((), dtype) for key, dtype in STEP_KEYS.items()}


class Replay:
    """A ring of steps per stream, from which windows of `seq_len` steps are drawn.

    Windows never mix streams and never straddle the slot where the ring is being overwritten; they may cross
    episodes (`is_first` marks where). Every start is equally likely, except for a share drawn around marked steps.
    """

    def __init__(
        self,
        obs_shapes: Forms,
        action_dim: int,
        *,
        capacity: int,
        streams: int,
        seed: int = 0,
        prioritize: str = "none",
        priority_share: float = 0.25,
        directory: Path | None = None,
    ) -> None:
        """obs_shapes {key: (shape, dtype)}; capacity in steps over all streams; `directory` for disk-backed rings."""
        self.size = capacity // streams
        self.counts = np.zeros(streams, np.int64)  # steps ever added to each stream
        self.rng = np.random.default_rng(seed)
        self.prioritize = prioritize
        self.priority_share = priority_share
        forms = row_forms(obs_shapes, action_dim)
        self.data = {
            key: _allocate((streams, self.size, *shape), dtype, directory, key) for key, (shape, dtype) in forms.items()
        }
        self._reservation = DiskReservation(self.data.values())
        self._marked = _SlotSet(streams * self.size) if prioritize != "none" else None

    def __len__(self) -> int:
        """Steps that can be replayed."""
        return int(np.minimum(self.counts, self.size).sum())

    def nbytes(self) -> int:
        """Bytes of the full ring."""
        return sum(array.nbytes for array in self.data.values())

    def add(self, rows: Mapping[str, np.ndarray], streams: np.ndarray | None = None) -> None:
        """Append one step to each given stream (all by default). rows {"obs/key", "action", ...: (N, *shape)}."""
        ids = np.arange(len(self.counts)) if streams is None else np.asarray(streams)
        if rows.keys() != self.data.keys():
            raise ValueError(f"a step has {sorted(self.data)}, got {sorted(rows)}")
        slots = self.counts[ids] % self.size
        self._reservation.reserve(ids, slots)
        for key, array in self.data.items():
            array[ids, slots] = rows[key]
        self.counts[ids] += 1
        if self._marked is not None:
            for slot, mark in zip(ids * self.size + slots, self._is_mark(rows), strict=True):
                self._marked.set(int(slot), bool(mark))

    def can_sample(self, seq_len: int) -> bool:
        """Is there at least one window?"""
        return bool((np.minimum(self.counts, self.size) >= seq_len).any())

    def sample(self, batch_size: int, seq_len: int) -> Batch:
        """Draw windows with replacement. -> Batch of arrays (B, T, ...). Raises ValueError when nothing fits."""
        lengths = np.minimum(self.counts, self.size)
        starts = np.maximum(lengths - seq_len + 1, 0)  # valid starts of each stream, oldest step first
        if starts.sum() == 0:
            raise ValueError(f"no stream has {seq_len} steps yet, the longest has {lengths.max()}")
        flat = self.rng.integers(0, starts.sum(), batch_size)
        stream = np.searchsorted(np.cumsum(starts), flat, side="right")
        start = flat - np.concatenate([[0], np.cumsum(starts)])[stream]
        if self._marked is not None:
            stream, start = self._around_marks(stream, start, starts, seq_len)
        return self.window(stream, start, seq_len)

    def window(self, stream: np.ndarray, start: np.ndarray, seq_len: int) -> Batch:
        """The windows at (stream, start), where start 0 is a stream's oldest step. stream, start (B,) -> Batch."""
        oldest = np.maximum(self.counts - self.size, 0)[stream]
        index = ((oldest + start)[:, None] + np.arange(seq_len)) % self.size
        rows = {key: array[stream[:, None], index] for key, array in self.data.items()}
        obs = {key[4:]: rows.pop(key) for key in list(rows) if key.startswith("obs/")}
        return Batch(obs, **rows)

    def _around_marks(
        self, stream: np.ndarray, start: np.ndarray, starts: np.ndarray, seq_len: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Move a share of the windows so that each covers one marked step, at a random index in the window."""
        chosen = self.rng.random(len(stream)) < self.priority_share
        offset = self.rng.integers(0, seq_len, len(stream))
        if self._marked is None or not len(self._marked):
            return stream, start
        marked, slot = np.divmod(self._marked.pick(self.rng, len(stream)), self.size)
        oldest = np.maximum(self.counts - self.size, 0)[marked]
        near = np.clip((slot - oldest) % self.size - offset, 0, starts[marked] - 1)
        chosen &= starts[marked] > 0  # its stream has a whole window
        return np.where(chosen, marked, stream), np.where(chosen, near, start)

    def _is_mark(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.asarray(rows["is_last"] if self.prioritize == "ends" else rows["reward"] != 0)

    def last_rows(self) -> dict[str, np.ndarray]:
        """The newest step of each stream. {"obs/key", "action", ...: (N, *shape)}."""
        slots = (self.counts - 1) % self.size
        return {key: array[np.arange(len(slots)), slots] for key, array in self.data.items()}

    def last_actions(self, stream: int, count: int) -> np.ndarray | None:
        """The newest `count` actions of a stream (count, A), oldest first; None if they are no longer there."""
        if count > min(self.counts[stream], self.size):
            return None
        return self.data["action"][stream, np.arange(self.counts[stream] - count, self.counts[stream]) % self.size]

    def marked(self) -> list[int]:
        """The marked slots in the order in which they are drawn from; for `mark_again`."""
        return [] if self._marked is None else self._marked.members[: self._marked.count].tolist()

    def mark_again(self, slots: Iterable[int]) -> None:
        """The same marks in the same order, so that the same draws follow."""
        if self._marked is not None:
            self._marked = _SlotSet(len(self.counts) * self.size)
            for slot in slots:
                self._marked.set(slot, True)

    def contents(self, keys: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Every step that can be replayed, in no particular order. {"obs/key", "action", ...: (N, *shape)}."""
        filled = np.arange(self.size) < self.counts[:, None]
        return {key: self.data[key][filled] for key in (self.data if keys is None else keys)}

    def first_rows(self, count: int) -> dict[str, np.ndarray]:
        """At most `count` steps from the beginning of each ring. {"obs/key", "action", ...: (N, *shape)}."""
        begun = np.flatnonzero(self.counts)  # the steps of some streams may come late
        slots = np.arange(min(count, self.size, int(self.counts[begun].min(initial=0 if not len(begun) else count))))
        return {key: array[begun[:, None], slots].reshape(-1, *array.shape[2:]) for key, array in self.data.items()}

    def check_valid(self) -> None:
        """Raise ValueError if the contract of the drawing is broken anywhere; for tests and debugging."""
        for stream in range(len(self.counts)):
            length = int(min(self.counts[stream], self.size))
            if length:
                self._check_stream(self.window(np.array([stream]), np.array([0]), length))

    @staticmethod
    def _check_stream(all_steps: Batch) -> None:
        """What the drawing above promises of one stream."""
        first, last = all_steps.is_first[0], all_steps.is_last[0]
        if not np.array_equal(np.isnan(all_steps.action[0]).any(-1), first):
            raise ValueError("the action must be NaN exactly where is_first")
        if (all_steps.reward[0][first] != 0).any():
            raise ValueError("the reward of a first step must be 0")
        if (last[:-1] & ~first[1:]).any():
            raise ValueError("a last step must be followed by a first one")
        if (all_steps.is_terminal[0] & ~last).any():
            raise ValueError("a terminal step must be a last one")

    # -------------------------------------------------------------------------------------------- for the log on disk

    def stored_rows(self, first: np.ndarray, last: np.ndarray) -> dict[str, np.ndarray]:
        """Copies of the steps from `first` to before `last` of each stream, one stream after the other.

        first, last (streams,) in steps ever added -> {"obs/key", "action", ...: (N, *shape)}.
        """
        spans = [np.arange(a, b) for a, b in zip(first, last, strict=True)]
        stream = np.repeat(np.arange(len(spans)), [len(span) for span in spans])
        slots = np.concatenate(spans) % self.size
        return {key: np.ascontiguousarray(array[stream, slots]) for key, array in self.data.items()}

    def put_rows(self, stream: int, first: int, last: int, rows: Mapping[str, np.ndarray]) -> None:
        """Store the steps from `first` to before `last` that a stream had before; `set_counts` makes them count."""
        slots = np.arange(first, last) % self.size
        for key, array in self.data.items():
            array[stream, slots] = rows[key]

    def reserve(self, counts: np.ndarray) -> None:
        """Reserve the disk space of `counts` (streams,) steps. Raises UserError if there is not enough."""
        self._reservation.reserve(np.arange(len(counts)), np.minimum(counts, self.size) - 1)

    def set_counts(self, counts: np.ndarray) -> None:
        """Be the ring to which `counts` (streams,) steps were added; marks are found again, in no particular order."""
        self.counts = counts.copy()
        if self._marked is not None:
            filled = np.arange(self.size) < counts[:, None]
            for slot in np.flatnonzero(self._is_mark(self.data) & filled):
                self._marked.set(int(slot), True)


class _SlotSet:
    """A set of ring slots with O(1) insertion, removal and random choice."""

    def __init__(self, capacity: int) -> None:
        self.members = np.zeros(capacity, np.int64)  # the first `count` are in the set
        self.where = np.zeros(capacity, np.int64)  # slot -> 1 + its index among the members; 0: not in the set
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def set(self, slot: int, inside: bool) -> None:
        """Put a slot in or take it out; the last member fills the gap."""
        index = self.where[slot]
        if inside and not index:
            self.members[self.count] = slot
            self.count += 1
            self.where[slot] = self.count
        elif index and not inside:
            last = self.members[self.count - 1]
            self.members[index - 1] = last
            self.where[last] = index
            self.where[slot] = 0
            self.count -= 1

    def pick(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Uniformly random members, with replacement. -> (count,)."""
        return self.members[rng.integers(0, self.count, count)]


def _allocate(shape: tuple[int, ...], dtype: Any, directory: Path | None, key: str) -> np.ndarray:
    if directory is None:
        return np.zeros(shape, dtype)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"ring-{_file_name(key)}.npy"
        path.unlink(missing_ok=True)
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    except (OSError, ValueError, OverflowError) as error:
        why = getattr(error, "strerror", "") or str(error)
        raise UserError(
            f"the replay of {size_in_words(shape, dtype)} for '{printable(key)[:80]}' cannot be made in {directory} "
            f"({why}).",
            "Choose a smaller replay.replay_capacity, or another disk with --run.",
        ) from error


def _file_name(key: str) -> str:
    """The name of a key's file: as it is, if any disk takes it, else shortened with a digest of its own."""
    plain = key.replace("/", "-")
    if len(plain) <= LONGEST_NAME and re.fullmatch(r"[\w .+-]*", plain, re.ASCII):
        return plain
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', plain)[:LONGEST_NAME]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def size_in_words(shape: tuple[int, ...], dtype: Any) -> str:
    """Bytes of an array: "4.1 TB"."""
    return _bytes_in_words(math.prod(shape) * np.dtype(dtype).itemsize)


def _bytes_in_words(count: int) -> str:
    unit, size = next((pair for pair in (("TB", 1e12), ("GB", 1e9)) if count >= pair[1]), ("MB", 1e6))
    return f"{count / size:.3g} {unit}"


def require_possible(forms: Forms, capacity: int, streams: int, directory: Path | None) -> None:
    """Refuse rings that can never be: larger than the whole disk, or than any address. Raises UserError.

    Before anything is written, so that the command can be repeated with another number. directory: of the rings on
    disk, None for rings in memory.
    """
    rows = capacity // streams * streams
    count = sum(rows * math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in forms.values())
    folders = (directory, *directory.absolute().parents) if directory else ()
    existing = next((path for path in folders if path.exists()), None)
    most = shutil.disk_usage(existing).total if existing else 2**47
    if count > most:
        where = f"the disk of {directory} has {_bytes_in_words(most)}" if existing else "no machine has as much memory"
        raise UserError(
            f"replay.replay_capacity={capacity:,} steps would take {_bytes_in_words(count)}; {where}.",
            f"Choose at most {int(0.5 * most * rows / count):,}.",
        )
