"""The runs on the dashboard: found below the given directories, numbered, and read again while they grow.

No file is ever opened by a name that came over the network: runs and videos are requested by number.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config import SETTINGS, Config, flatten, load_file
from ..config.validation import MAY_CHANGE
from ..errors import UserError, printable
from ..files import is_own_file, read_record
from ..insight.doctor_record import FILE as DOCTOR
from ..insight.doctor_record import read_findings
from ..insight.trust_record import read_trust
from .columns import AXES, EpisodeTable, MetricColumns, downsample, group_evaluations, rounded
from .deletion import delete_run
from .notes import FILE as NOTES
from .notes import Notes, read_notes, write_notes
from .run_status import Progress, progress_of, status_of
from .tail import JsonlTail

MOST_RUNS, DEEPEST, RECENT = 200, 4, 500
#: Where learning from data keeps what it continues from (share/offline_state.py): no run, and nothing to look at.
CONTINUES = "resume"
#: Name of an evaluation's video: its environment steps.
EVALUATION = re.compile(r"eval-(\d{1,15})\.\w+")
VIDEO_TYPES = {".gif": "image/gif", ".mp4": "video/mp4", ".webp": "image/webp", ".png": "image/png"}


_log = logging.getLogger(__name__)


@dataclass
class WatchedRun:
    """One run and the part of its logs that has been read. `refresh` may be called from any thread."""

    id: int
    path: Path
    name: str
    root: Path | None = None  # the directory that the user named, at or above it
    metrics: MetricColumns = field(default_factory=MetricColumns)
    episodes: EpisodeTable = field(default_factory=EpisodeTable)
    generation: int = 0  # counts how often the files were rewritten
    recent: list[dict[str, Any]] = field(default_factory=list)  # the newest lines, for open pages
    dropped: int = 0  # number of lines before those in `recent`
    config: Config | None = None  # None: unreadable
    trouble: str = ""  # why

    def __post_init__(self) -> None:
        self._metrics_file = JsonlTail(self.path / "metrics.jsonl")
        self._episodes_file = JsonlTail(self.path / "episodes.jsonl")
        self._lock = threading.Lock()
        self._videos: list[str] = []  # names by number
        self._records: dict[str, tuple[int, Any]] = {}  # small files: when they were changed, what they hold
        self._read_config()

    def _read_config(self) -> None:
        self._config_modified = _modified(self.path / "config.yaml")
        try:
            self.config = load_file(self.path / "config.yaml")
            self.trouble = ""
        except UserError as error:
            self.config = None
            self.trouble = error.message
        self.group = _group_of(self.config)

    @property
    def count(self) -> int:
        """Number of all lines so far; a page states up to which it has them."""
        return self.dropped + len(self.recent)

    def refresh(self) -> bool:
        """Read new lines. -> whether anything has changed."""
        with self._lock:
            if _modified(self.path / "config.yaml") != self._config_modified:  # a resumed run may have other limits
                self._read_config()
            metrics_rewritten, lines = self._metrics_file.read()
            episodes_rewritten, episodes = self._episodes_file.read()
            rewritten = metrics_rewritten or episodes_rewritten
            if rewritten:  # both files are truncated together; each is read again as a whole
                self._start_over()
                lines, episodes = self._metrics_file.read()[1], self._episodes_file.read()[1]
            for line in lines:
                self.metrics.add(line)
            for episode in episodes:
                self.episodes.add(episode)
            self._remember([{"metrics": line} for line in lines] + [{"episode": episode} for episode in episodes])
            return rewritten or bool(lines or episodes)

    def refresh_or_say(self) -> bool:
        """`refresh`, which never raises: one run must not end the news of others. -> whether anything has changed."""
        try:
            return self.refresh()
        except Exception as error:
            if not self.trouble:
                _log.exception("reading %s failed", self.path)
            self.trouble = self.trouble or f"its files cannot be read ({type(error).__name__}: {error})"
            return False

    def _start_over(self) -> None:
        self._metrics_file = JsonlTail(self._metrics_file.path)
        self._episodes_file = JsonlTail(self._episodes_file.path)
        self.metrics = MetricColumns()
        self.episodes = EpisodeTable()
        self.recent = []
        self.dropped = 0
        self.generation += 1
        self._read_config()

    def _remember(self, lines: list[dict[str, Any]]) -> None:
        self.recent += lines
        beyond = max(0, len(self.recent) - RECENT)
        del self.recent[:beyond]
        self.dropped += beyond

    def since(self, generation: int, count: int) -> list[dict[str, Any]] | None:
        """The lines after the first `count`; None if the page must load everything again."""
        with self._lock:
            if generation != self.generation or count < self.dropped:
                return None
            return self.recent[count - self.dropped :]

    def summary(self) -> dict[str, Any]:
        """State and scores of the run, for the list of runs."""
        with self._lock:
            last, axes = self.metrics.last, self.metrics.axes
            newest = {axis: axes[axis][-1] if len(self.metrics) else 0.0 for axis in AXES}
            returns = np.array(self.episodes.last)
            scores = {
                "return": _mean(returns),
                "evaluation": last.get("eval/return"),
                "speed": last.get("speed/env_steps_per_second"),
                "updates_per_second": last.get("speed/updates_per_second"),
                "modified": round(self._metrics_file.modified),
                "one_in": self._metrics_file.stride * self.metrics.one_in,
                "generation": self.generation,
                "count": self.count,
                **newest,
            }
        about = {"id": self.id, "name": self.name, "trouble": self.trouble}
        return about | self._identity() | self._state(newest) | scores

    def _identity(self) -> dict[str, Any]:
        """What the run is: its task, seed, group and limits, and the user's notes."""
        env, train = (self.config.env, self.config.train) if self.config else (None, None)
        return {
            "task": env.id if env else "",
            "seed": train.seed if train else None,
            "target": train.env_steps if train else None,
            "minutes": train.minutes if train else 0,
            "group": self.group,
            **self.notes()._asdict(),
        }

    def _state(self, newest: Mapping[str, float]) -> dict[str, Any]:
        """What it is doing, how far it is, and what the doctor found last."""
        counts = newest["env_steps"], newest["seconds"]
        progress = progress_of(self.config, *counts) if self.config else Progress(0, "")
        status, found = status_of(self.path, self.config, progress), self.findings()
        worst = found and {"level": found["level"], "updates": found["updates"], "count": len(found["findings"])}
        return {"live": status.state == "training", **status._asdict(), **progress._asdict(), "doctor": worst}

    def keys(self) -> list[str]:
        """All metrics that the run has logged."""
        with self._lock:
            return sorted(self.metrics.columns)

    def series(self, keys: Sequence[str], axis: str, limit: int) -> dict[str, Any]:
        """{"series": {key: at most `limit` points}} of the keys that the run has, and the lines that are included."""
        with self._lock:
            known = [key for key in keys if key in self.metrics.columns]
            points = {key: downsample(*self.metrics.xy(key, axis), limit) for key in known}
            return {"generation": self.generation, "count": self.count, "series": points}

    def returns(self, axis: str, limit: int) -> dict[str, Any]:
        """Training episodes, evaluations with their interval, and the random policy's mean."""
        with self._lock:
            steps, scores, _ = self.episodes.of("train", "prefill")
            results = group_evaluations(*self.episodes.of("eval")[:2])
            at = self.metrics.at_steps(np.array([row[0] for row in results]), axis)
            random = self.episodes.of("random")[1]
            return {
                "generation": self.generation,
                "count": self.count,
                "train": downsample(self.metrics.at_steps(steps, axis), scores, limit),
                "eval": {
                    "x": rounded(at),
                    "y": rounded(row[1] for row in results),
                    "ci95": rounded(row[2] for row in results),
                    "episodes": [row[3] for row in results],
                },
                "random": _mean(random),
            }

    def newest_episodes(self, count: int = 200) -> list[dict[str, Any]]:
        """The last episodes, newest first, for the table."""
        with self._lock:
            return self.episodes.newest(count)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A small JSON file of the run, None if there is none. name: never from the network."""
        return read_record(self.path / name) or None

    def findings(self) -> dict[str, Any] | None:
        """What the doctor found last, None if it has not run. As `read_findings`."""
        found: dict[str, Any] | None = self._record(DOCTOR, read_findings)
        return found

    def notes(self) -> Notes:
        """The user's note, tags, and whether the run is hidden."""
        found: Notes = self._record(NOTES, read_notes)
        return found

    def _record(self, name: str, read: Callable[[Path], Any]) -> Any:
        """A small file of the run, read again when it has changed."""
        changed, kept = _modified(self.path / name), self._records.get(name)
        if kept is None or kept[0] != changed:
            kept = self._records[name] = (changed, read(self.path))
        return kept[1]

    def annotate(self, changes: Mapping[str, Any]) -> Notes:
        """Change the notes. Raises UserError."""
        return write_notes(self.path, changes)

    def points(self, key: str) -> list[tuple[float, ...]]:
        """(env_steps, seconds, updates, value) of a metric, for CSV."""
        with self._lock:
            return self.metrics.points(key)

    def trust(self) -> dict[str, Any] | None:
        """What `reverie trust` measured, None if it has not. Raises UserError where the file is damaged."""
        return read_trust(self.path)

    def videos(self) -> list[dict[str, Any]]:
        """The videos in RUN/videos, newest first. A video keeps its number."""
        try:
            folder = self.path / "videos"
            entries = [] if folder.is_symlink() else [entry for entry in os.scandir(folder) if _is_video(entry)]
            found = sorted(((entry.stat().st_mtime, entry.name) for entry in entries), reverse=True)
        except OSError:
            return []
        with self._lock:
            self._videos += [name for _, name in found if name not in self._videos]
            results = {row[0]: row for row in group_evaluations(*self.episodes.of("eval")[:2])}
            return [
                {"number": self._videos.index(name), "name": name, "modified": round(modified), **_label(name, results)}
                for modified, name in found[:100]
            ]

    def video(self, number: int) -> tuple[Path, str] | None:
        """(path, media type), None if there is no such video or it no longer exists."""
        with self._lock:
            name = self._videos[number] if 0 <= number < len(self._videos) else ""
        path = self.path / "videos" / name
        if not name or not is_own_file(path) or path.parent.is_symlink():
            return None
        return path, VIDEO_TYPES[path.suffix.lower()]


def _label(name: str, results: Mapping[float, tuple[float, float, float, int]]) -> dict[str, Any]:
    """What is known of a video: the steps of its evaluation, that one's mean return, interval and episodes."""
    match = EVALUATION.fullmatch(name)
    if match is None:
        return {}
    step, found = int(match[1]), results.get(float(match[1]))
    known = {} if found is None else {"return": found[1], "ci95": found[2], "episodes": found[3]}
    return {"env_steps": step, **known}


def _group_of(config: Config | None) -> str:
    """The same for runs that differ in nothing but their seed and in what may change in a run; "" if not known."""
    if config is None:
        return ""
    kept = {key: _shown(value) for key, value in flatten(config).items()}
    fixed = {key: value for key, value in kept.items() if key != "train.seed" and not key.startswith(MAY_CHANGE)}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:12]


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _is_video(entry: os.DirEntry[str]) -> bool:
    """Whether it is a video file. Links are not: in a run from elsewhere they could point anywhere."""
    return Path(entry.name).suffix.lower() in VIDEO_TYPES and entry.is_file(follow_symlinks=False)


def _mean(values: np.ndarray) -> float | None:
    return float(f"{values.mean():.7g}") if len(values) else None


class RunIndex:
    """All runs below some directories. `scan` finds new ones; a run keeps its number."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = [Path(os.path.abspath(root)) for root in roots]
        self.known: dict[Path, WatchedRun] = {}  # those that are there
        self.numbered: list[WatchedRun | None] = []  # by number; None: no longer there
        self._scanning = threading.Lock()
        self.scan()

    def scan(self) -> bool:
        """Look for new runs, and forget those whose directory is gone. -> whether anything has changed."""
        with self._scanning:
            gone = [run for run in self.known.values() if not run.path.exists()]
            for run in gone:
                self._forget(run)
            before = len(self.known)
            for root in self.roots:
                for path in find_runs(root):
                    if path not in self.known and len(self.known) < MOST_RUNS:
                        name = path.name if path == root else str(path.relative_to(root))
                        self.known[path] = WatchedRun(len(self.numbered), path, printable(name), root)
                        self.numbered.append(self.known[path])
            return bool(gone) or len(self.known) > before

    def _forget(self, run: WatchedRun) -> None:
        self.known.pop(run.path, None)
        self.numbered[run.id] = None

    def delete(self, run: WatchedRun) -> list[str]:
        """Delete a run. -> names of files that are not ours, which stay. Raises UserError."""
        with self._scanning:
            left = delete_run(run.path, run.root or run.path)
            self._forget(run)
            return left

    def all(self) -> list[WatchedRun]:
        """The runs in the order in which they were found, which is that of their numbers."""
        return list(self.known.values())

    def refresh(self, seconds: float) -> None:
        """Read new lines for at most `seconds`, of the newest runs first; the next call continues."""
        deadline = time.monotonic() + seconds
        for run in sorted(self.all(), key=lambda run: -_modified(run.path / "metrics.jsonl")):
            if time.monotonic() < deadline:
                run.refresh_or_say()

    def get(self, number: int) -> WatchedRun | None:
        """The run with that number, or None."""
        return self.numbered[number] if 0 <= number < len(self.numbered) else None


def find_runs(root: Path, depth: int = DEEPEST) -> list[Path]:
    """The directories with a config.yaml, at most `depth` levels below; directories inside a run are not searched."""
    return _runs_below(root, depth, set())


def _runs_below(root: Path, depth: int, seen: set[tuple[int, int]]) -> list[Path]:
    """seen: the directories so far, by device and inode: links may lead back to them."""
    try:
        if (root / "config.yaml").is_file():
            return [root]
        here = root.stat()
        if (here.st_dev, here.st_ino) in seen:
            return []
        seen.add((here.st_dev, here.st_ino))
        found = [entry for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")]
        inner = sorted(entry.path for entry in found if entry.name != CONTINUES)
    except OSError:
        return []
    return [path for sub in inner for path in _runs_below(Path(sub), depth - 1, seen)] if depth else []


def compare_configs(runs: Sequence[WatchedRun]) -> list[dict[str, Any]]:
    """Every setting: {"key", "doc", "default", "values" (one per run, None: unreadable), "changed", "differs"}."""
    flat = [flatten(run.config) if run.config else {} for run in runs]
    rows = []
    for key, (_, default, doc, _) in SETTINGS.items():
        values = [_shown(items[key]) if key in items else None for items in flat]
        known = [value for value in values if value is not None]
        rows.append(
            {
                "key": key,
                "doc": doc,
                "default": _shown(default),
                "values": values,
                "changed": any(value != _shown(default) for value in known),
                "differs": len(set(known)) > 1,
            }
        )
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
