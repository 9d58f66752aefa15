"""The replay's log on disk: append-only files of steps, from which a resumed run refills its rings.

Each save appends the steps that are new since the last one as one safetensors file, whose header names the steps of
each stream. A checkpoint lists the files that it needs, with their fingerprints.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from ..files import Damaged, fingerprint, require_own_file, usual_rights
from .replay import Forms, Replay


class ReplayLog:
    """The log of one replay in one directory. The ring knows nothing of it."""

    def __init__(self, replay: Replay, directory: Path) -> None:
        self.replay = replay
        self.directory = directory
        self.saved = np.zeros(len(replay.counts), np.int64)  # steps of each stream that are in the log
        self.files: dict[str, tuple[str, np.ndarray]] = {}  # name -> fingerprint, where each stream ends

    def save(self) -> None:
        """Append what is new since the last save as one file; `prune` deletes files that are no longer needed."""
        self.prepare()()

    def prepare(self) -> Callable[[], None]:
        """Copy what is new now. -> a function that writes it, later and in any thread.

        A file is written under a temporary name, synced and renamed: it is there whole or not at all.
        """
        replay = self.replay
        first, last = np.maximum(self.saved, replay.counts - replay.size), replay.counts.copy()
        if not (last > first).any():
            return lambda: self.directory.mkdir(parents=True, exist_ok=True)
        rows = replay.stored_rows(first, last)
        meta = {"first": json.dumps(first.tolist()), "last": json.dumps(last.tolist())}
        path = self.directory / f"steps-{int(last.sum()):012d}.safetensors"

        def write() -> None:
            self.directory.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            with usual_rights(temporary):
                save_file(rows, temporary, metadata=meta)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            known = fingerprint(temporary)
            os.replace(temporary, path)
            self.files[path.name] = (known, last)
            self.saved = last  # not before: a full disk must not leave a gap

        return write

    def needed(self, counts: np.ndarray) -> dict[str, str]:
        """Fingerprints of the files that hold steps of the rings as they were at `counts` (streams,)."""
        oldest = counts - self.replay.size
        return {name: known for name, (known, last) in self.files.items() if (last > oldest).any()}

    def prune(self, oldest_counts: np.ndarray) -> None:
        """Delete files that no kept checkpoint (the oldest had `oldest_counts` steps) can still need."""
        for path in log_files(self.directory):
            if (_span(path)[1] <= oldest_counts - self.replay.size).all():
                path.unlink()
                self.files.pop(path.name, None)

    def load(self, counts: np.ndarray) -> None:
        """Refill the rings as they were when `counts` (streams,) steps had been added; deletes files of later steps.

        Raises UserError if steps are missing.
        """
        counts = np.asarray(counts, np.int64)
        have = np.maximum(counts - self.replay.size, 0)
        self.replay.reserve(counts)
        for path in log_files(self.directory):
            first, last = _span(path)
            if (last > counts).any():
                path.unlink()  # written after the checkpoint that we return to
                continue
            self._check_span(path, first, last)
            rows, at = _rows(path), 0
            for stream, (a, b) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
                self.replay.put_rows(stream, a, b, {key: value[at : at + b - a] for key, value in rows.items()})
                have[stream] = max(have[stream], b) if a <= have[stream] else have[stream]
                at += b - a
        if (have < counts).any():
            raise Damaged(
                f"files are missing in the replay log {self.directory}: it ends at step {have.sum()} of "
                f"{counts.sum()}.",
                "Start another --run.",
            )
        self.replay.set_counts(counts)
        self.saved = counts.copy()
        self.files = {path.name: (fingerprint(path), _span(path)[1]) for path in log_files(self.directory)}

    def _check_span(self, path: Path, first: np.ndarray, last: np.ndarray) -> None:
        """Raises Damaged where a header cannot be one of this replay."""
        if len(first) != len(self.replay.counts) or (first < 0).any() or not (last - first >= 0).all():
            raise _damaged(path, ValueError("its header names no steps of these streams"))
        if (last - first > self.replay.size).any():
            raise _damaged(path, ValueError("its header names more steps than the replay holds"))


def log_files(directory: Path) -> list[Path]:
    """The files of a replay's log, oldest first."""
    return sorted(directory.glob("steps-*.safetensors"))


def read_log_file(path: Path, forms: Forms | None = None) -> tuple[list[int], list[dict[str, np.ndarray]]]:
    """For each stream: its first step in the file, and the rows from there on. Raises Damaged.

    forms: of `replay.row_forms`; rows of another form are refused.
    """
    (first, last), rows, at = _span(path), _rows(path), 0
    parts = []
    wrong = [
        key
        for key in {**rows, **(forms or {})}
        if key not in rows
        or len(rows[key]) != int((last - first).sum())
        or (forms is not None and (key not in forms or not _has_form(rows[key], *forms[key])))
    ]
    if wrong:
        raise _damaged(path, ValueError(f"'{wrong[0]}' is not what the steps of this task have"))
    for count in (last - first).tolist():
        parts.append({key: value[at : at + count] for key, value in rows.items()})
        at += count
    return first.tolist(), parts


def _span(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps of each stream [first, last) in a log file, from its header alone."""
    try:
        with safe_open(require_own_file(path), "np") as file:
            meta = file.metadata()
        first, last = json.loads(meta["first"]), json.loads(meta["last"])
        if not (isinstance(first, list) and isinstance(last, list) and len(first) == len(last) > 0):
            raise ValueError("its header names no steps")
        if not all(type(a) is type(b) is int and 0 <= a <= b < 2**62 for a, b in zip(first, last, strict=True)):
            raise ValueError("its header names no steps")
        return np.array(first), np.array(last)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error


def _rows(path: Path) -> dict[str, np.ndarray]:
    try:
        rows = load_file(require_own_file(path))
        if not all(value.ndim for value in rows.values()):
            raise ValueError("a number instead of rows")
        return rows
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:  # NumPy lacks a dtype
        raise _damaged(path, error) from error


def _has_form(values: np.ndarray, shape: tuple[int, ...], dtype: Any) -> bool:
    return values.shape[1:] == shape and values.dtype == dtype


def _damaged(path: Path, error: Exception) -> Damaged:
    return Damaged(f"the replay log {path} is damaged ({error}).", "Start another --run.")
