"""The runs that the page shows: found below the given directories, numbered, and followed while they grow.

Nothing of a run is ever opened by a name that came over the network: runs and videos have numbers.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..config import SETTINGS, Config, flatten, load_file
from ..errors import UserError
from ..guard.lock import in_use
from .columns import AXES, Episodes, MetricColumns, evaluations, rounded, thinned
from .tail import Follow

MOST_RUNS, DEEPEST, RECENT = 200, 4, 500
VIDEO_TYPES = {".gif": "image/gif", ".mp4": "video/mp4", ".webp": "image/webp", ".png": "image/png"}


@dataclass
class RunData:
    """One run as far as it has been read. `refresh` may be called from any thread."""

    id: int
    path: Path
    name: str
    table: MetricColumns = field(default_factory=MetricColumns)
    episodes: Episodes = field(default_factory=Episodes)
    generation: int = 0  # grows when the files begin anew
    recent: list[dict[str, Any]] = field(default_factory=list)  # the newest lines, for pages that follow
    dropped: int = 0  # lines before those in `recent`
    config: Config | None = None
    trouble: str = ""

    def __post_init__(self) -> None:
        self._metrics = Follow(self.path / "metrics.jsonl")
        self._played = Follow(self.path / "episodes.jsonl")
        self._lock = threading.Lock()
        self._videos: list[str] = []
        self._read_config()

    def _read_config(self) -> None:
        self._configured = _modified(self.path / "config.yaml")
        try:
            self.config = load_file(self.path / "config.yaml")
            self.trouble = ""
        except UserError as error:
            self.config, self.trouble = None, error.message

    @property
    def count(self) -> int:
        """Lines that were ever told to pages; a page says up to which it knows."""
        return self.dropped + len(self.recent)

    def refresh(self) -> bool:
        """Read what is new. -> is there anything?"""
        with self._lock:
            if _modified(self.path / "config.yaml") != self._configured:  # a continued run may have other limits
                self._read_config()
            anew, lines = self._metrics.read()
            again, games = self._played.read()
            if anew or again:  # both files are cut together; each is read again as a whole
                self._begin_anew()
                lines, games = self._metrics.read()[1], self._played.read()[1]
            for line in lines:
                self.table.add(line)
            for game in games:
                self.episodes.add(game)
            self._remember([{"metrics": line} for line in lines] + [{"episode": game} for game in games])
            return anew or again or bool(lines or games)

    def _begin_anew(self) -> None:
        self._metrics, self._played = Follow(self._metrics.path), Follow(self._played.path)
        self.table, self.episodes, self.recent, self.dropped = MetricColumns(), Episodes(), [], 0
        self.generation += 1
        self._read_config()

    def _remember(self, lines: list[dict[str, Any]]) -> None:
        self.recent += lines
        beyond = max(0, len(self.recent) - RECENT)
        del self.recent[:beyond]
        self.dropped += beyond

    def since(self, generation: int, count: int) -> list[dict[str, Any]] | None:
        """What a page that knows so much does not know yet; None if it must ask for everything again."""
        with self._lock:
            if generation != self.generation or count < self.dropped:
                return None
            return self.recent[count - self.dropped :]

    def summary(self) -> dict[str, Any]:
        """For the list of runs."""
        with self._lock:
            last, axes = self.table.last, self.table.axes
            newest = {axis: axes[axis][-1] if len(self.table) else 0.0 for axis in AXES}
            returns = np.array(self.episodes.last)
            return {
                "id": self.id,
                "name": self.name,
                "task": self.config.env.id if self.config else "",
                "seed": self.config.train.seed if self.config else None,
                "target": self.config.train.env_steps if self.config else None,
                "live": in_use(self.path),
                "trouble": self.trouble,
                "return": _mean(returns),
                "evaluation": last.get("eval/return"),
                "speed": last.get("speed/env_steps_per_second"),
                "updates_per_second": last.get("speed/updates_per_second"),
                "modified": round(self._metrics.modified),
                "one_in": self._metrics.stride,
                "generation": self.generation,
                "count": self.count,
                **newest,
            }

    def keys(self) -> list[str]:
        """All metrics that the run has logged."""
        with self._lock:
            return sorted(self.table.columns)

    def series(self, keys: Sequence[str], axis: str, limit: int) -> dict[str, Any]:
        """{key: thinned points} of those keys that the run has, and up to where that is."""
        with self._lock:
            found = {key: thinned(*self.table.xy(key, axis), limit) for key in keys if key in self.table.columns}
            return {"generation": self.generation, "count": self.count, "series": found}

    def returns(self, axis: str, limit: int) -> dict[str, Any]:
        """Training episodes, evaluations with their interval, and the random policy's mean."""
        with self._lock:
            steps, scores, _ = self.episodes.of("train", "prefill")
            played = evaluations(*self.episodes.of("eval")[:2])
            at = self.table.at_steps(np.array([row[0] for row in played]), axis)
            random = self.episodes.of("random")[1]
            return {
                "generation": self.generation,
                "count": self.count,
                "train": thinned(self.table.at_steps(steps, axis), scores, limit),
                "eval": {
                    "x": rounded(at),
                    "y": rounded(row[1] for row in played),
                    "ci95": rounded(row[2] for row in played),
                    "episodes": [row[3] for row in played],
                },
                "random": _mean(random),
            }

    def newest_episodes(self, count: int = 200) -> list[dict[str, Any]]:
        """For the table."""
        with self._lock:
            return self.episodes.newest(count)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A small file of the run (the name is ours, not the page's); None while it is not there."""
        for _ in range(3):  # it may be replaced at this moment
            try:
                values = json.loads((self.path / name).read_text(encoding="utf-8"))
                return values if isinstance(values, dict) else None
            except FileNotFoundError:
                return None
            except (OSError, ValueError):
                time.sleep(0.02)
        return None

    def videos(self) -> list[dict[str, Any]]:
        """Films in RUN/videos, newest first. A film keeps its number."""
        try:
            there = [entry for entry in os.scandir(self.path / "videos") if _is_film(entry)]
            found = sorted(((entry.stat().st_mtime, entry.name) for entry in there), reverse=True)
        except OSError:
            return []
        with self._lock:
            self._videos += [name for _, name in found if name not in self._videos]
            return [
                {"number": self._videos.index(name), "name": name, "modified": round(modified)}
                for modified, name in found[:100]
            ]

    def video(self, number: int) -> tuple[Path, str] | None:
        """-> the file and its media type, None if there is no such film (any more)."""
        with self._lock:
            name = self._videos[number] if 0 <= number < len(self._videos) else ""
        path = self.path / "videos" / name
        if not name or not path.is_file() or path.is_symlink():
            return None
        return path, VIDEO_TYPES[path.suffix.lower()]


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _is_film(entry: os.DirEntry[str]) -> bool:
    """A link is none: it could lead anywhere, in a run that somebody sent."""
    return Path(entry.name).suffix.lower() in VIDEO_TYPES and entry.is_file(follow_symlinks=False)


def _mean(values: np.ndarray) -> float | None:
    return float(f"{values.mean():.7g}") if len(values) else None


class Runs:
    """All runs below some directories; new ones are found by `scan`, and a run keeps its number."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = [Path(os.path.abspath(root)) for root in roots]
        self.known: dict[Path, RunData] = {}
        self._scanning = threading.Lock()
        self.scan()

    def scan(self) -> bool:
        """Look for new runs. -> was there one?"""
        with self._scanning:
            before = len(self.known)
            for root in self.roots:
                for path in find_runs(root):
                    if path not in self.known and len(self.known) < MOST_RUNS:
                        name = path.name if path == root else str(path.relative_to(root))
                        self.known[path] = RunData(len(self.known), path, name)
            return len(self.known) > before

    def all(self) -> list[RunData]:
        """In the order in which they were found."""
        return list(self.known.values())

    def refresh(self, seconds: float) -> None:
        """Read what is new, of the newest runs first, for so long at most; the rest is read by the next call."""
        ends = time.monotonic() + seconds
        for run in sorted(self.all(), key=lambda run: -_modified(run.path / "metrics.jsonl")):
            if time.monotonic() < ends:
                run.refresh()

    def get(self, number: int) -> RunData | None:
        """The run with that number."""
        runs = self.all()
        return runs[number] if 0 <= number < len(runs) else None


def find_runs(root: Path, depth: int = DEEPEST) -> list[Path]:
    """The directories with a config.yaml, at most `depth` levels below; nothing inside a run is looked at."""
    if (root / "config.yaml").is_file():
        return [root]
    try:
        inner = sorted(entry.path for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []
    return [path for sub in inner for path in find_runs(Path(sub), depth - 1)] if depth else []


def compare_configs(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Every setting of these runs: {"key", "doc", "default", "values" (one per run, None unread), "differs"}."""
    flat = [flatten(run.config) if run.config else {} for run in runs]
    rows = []
    for key, (_, default, doc, _) in SETTINGS.items():
        values = [_shown(items[key]) if key in items else None for items in flat]
        told = [value for value in values if value is not None]
        changed = any(value != _shown(default) for value in told)
        rows.append({"key": key, "doc": doc, "default": _shown(default), "values": values, "changed": changed,
                     "differs": len(set(told)) > 1})  # fmt: skip
    return rows


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
