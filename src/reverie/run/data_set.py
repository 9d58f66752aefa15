"""Recorded experience as a folder: episodes in the rows of the drawing in `data/replay.py`, and what they mean.

data.json        format, spec, source, counts
rows-00000.safetensors, ...     {"obs/key", "action", "reward", ...}, episode after episode
manifest.json    size and fingerprint of each
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..data.replay import Replay, row_forms
from ..envs.spaces import Spec
from ..errors import UserError
from ..files import (
    MANIFEST,
    Damaged,
    check_manifest,
    fingerprint,
    manifest_of,
    read_json,
    require_own_files,
    usual_rights,
    writing,
)

FORMAT = 1
NAME = "data.json"
#: Bytes of rows that are collected before a file of them is written.
FILE_BYTES = 2**27

Rows = dict[str, np.ndarray]


@dataclass(frozen=True)
class DataSet:
    """Episodes one after another: rows {"obs/key", "action", ...: (N, *shape)}."""

    spec: Spec
    rows: Rows
    about: Mapping[str, Any]
    identity: str = ""  # fingerprint of its files; "" where it was not read from any

    def __len__(self) -> int:
        return len(self.rows["reward"])

    def episodes(self) -> list[slice]:
        """Where each episode lies among the rows."""
        firsts = np.flatnonzero(self.rows["is_first"])
        return [slice(int(a), int(b)) for a, b in zip(firsts, [*firsts[1:], len(self)], strict=True)]

    def returns(self) -> np.ndarray:
        """The sum of rewards of each episode. -> (episodes,)."""
        return np.array([self.rows["reward"][episode].sum() for episode in self.episodes()])

    def replay(self, *, seed: int = 0, prioritize: str = "none", priority_share: float = 0.25) -> Replay:
        """A replay of one stream that holds all of it. Raises UserError for no rows."""
        if not len(self):
            raise UserError("the data set is empty.", "Import or record some episodes.")
        options: dict[str, Any] = {"seed": seed, "prioritize": prioritize, "priority_share": priority_share}
        replay = Replay(self.spec.shapes, self.spec.action.size, capacity=len(self), streams=1, **options)
        replay.put_rows(0, 0, len(self), self.rows)
        replay.set_counts(np.array([len(self)]))
        return replay


def episode_rows(obs: Mapping[str, np.ndarray], action: np.ndarray, reward: np.ndarray, *, terminal: bool) -> Rows:
    """An episode of T actions as T + 1 rows, by the drawing in `data/replay.py`: row 0 has no action, row t + 1 the
    action and reward that led into it.

    obs {key: (T + 1, *shape)}, action (T, A), reward (T,); terminal: did the task end, or a time limit?
    """
    count = len(reward) + 1
    wrong = [key for key, value in obs.items() if len(value) != count]
    if wrong or len(action) != count - 1:
        raise ValueError(f"{count - 1} rewards need {count} observations and {count - 1} actions")
    flags = {name: np.zeros(count, bool) for name in ("is_first", "is_last", "is_terminal")}
    flags["is_first"][0] = flags["is_last"][-1] = True
    flags["is_terminal"][-1] = terminal
    rows = {f"obs/{key}": value for key, value in obs.items()}
    rows["action"] = np.concatenate([np.full((1, action.shape[-1]), np.nan), action]).astype(np.float32)
    rows["reward"] = np.concatenate([[0.0], reward]).astype(np.float32)
    return rows | flags


def leaving_rows(obs: Mapping[str, np.ndarray], action: np.ndarray, reward: np.ndarray, *, terminal: bool) -> Rows:
    """The same of data whose row t has the action that LEAVES o_t, and no observation after the last action.

    Its last observation is repeated, so that the last reward and the end are kept. All (T, ...) -> T + 1 rows.
    """
    longer = {key: np.concatenate([value, value[-1:]]) for key, value in obs.items()}
    return episode_rows(longer, action, reward, terminal=terminal)


def require_new(path: Path) -> None:
    """Raises UserError for a place that is taken."""
    if path.exists():
        raise UserError(f"{path} exists already.", "Choose another --out.")


def write_data(path: Path, spec: Spec, episodes: Iterable[Rows], about: Mapping[str, Any]) -> dict[str, Any]:
    """Write a data set to a new directory: whole, or not at all. -> what data.json says. Raises UserError."""
    require_new(path)
    draft = path.with_name(f".{path.name}.tmp")
    forms = row_forms(spec.shapes, spec.action.size)
    counts = {"episodes": 0, "rows": 0, "steps": 0}
    try:
        with writing("the data set", path.parent):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            for number, some in enumerate(_in_files(episodes)):
                for rows in some:
                    counts["episodes"] += int(rows["is_first"].sum())
                    counts["rows"] += len(rows["reward"])
                    counts["steps"] += int((~rows["is_first"]).sum())
                joined = {key: np.concatenate([rows[key] for rows in some]).astype(forms[key][1]) for key in forms}
                file = draft / f"rows-{number:05d}.safetensors"
                with usual_rights(file):
                    save_file({key: np.ascontiguousarray(value) for key, value in joined.items()}, file)
            if not counts["steps"]:
                raise UserError("the source has no step.", "Give one with at least one episode.")
            written = {"format": FORMAT, **about, **counts, "spec": spec.to_dict()}
            (draft / NAME).write_text(json.dumps(written, indent=1), encoding="utf-8")
            (draft / MANIFEST).write_text(manifest_of(draft), encoding="utf-8")
            os.replace(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return written


def _in_files(episodes: Iterable[Rows]) -> Iterator[list[Rows]]:
    some: list[Rows] = []
    size = 0
    for rows in episodes:
        some.append(rows)
        size += sum(value.nbytes for value in rows.values())
        if size >= FILE_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def read_data(path: Path) -> DataSet:
    """A data set that `write_data` wrote. Raises UserError."""
    if not (path / NAME).is_file():
        raise UserError(f"{path} is no data set.", "Make one with `reverie import` or `reverie record`.")
    require_own_files(path)
    check_manifest(path)
    about = read_json(path / NAME)
    try:
        if about["format"] != FORMAT:
            raise UserError(f"{path} has format {about['format']}, this version reads {FORMAT}.", "Update Reverie.")
        spec = Spec.from_dict(about["spec"])
        forms = row_forms(spec.shapes, spec.action.size)
        files = [load_file(file) for file in sorted(path.glob("rows-*.safetensors"))]
        rows = {key: np.concatenate([file[key] for file in files]) for key in forms}
        if any(rows[key].shape[1:] != shape or rows[key].dtype != dtype for key, (shape, dtype) in forms.items()):
            raise ValueError("its rows are of another form than its spec")
    except (KeyError, TypeError, ValueError, SafetensorError, AttributeError) as error:
        raise Damaged(f"the data set {path} is damaged ({error}).", "Import it again.") from error
    rest = {key: value for key, value in about.items() if key != "spec"}
    return DataSet(spec, rows, rest, identity=fingerprint(path / MANIFEST))
