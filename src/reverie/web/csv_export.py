"""Logged numbers as tidy CSV: one row per run and point."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from .columns import AXES
from .runs import WatchedRun

RUN, EPISODES = ("run", "task", "seed"), ("phase", "env_steps", "seconds", "return", "length")


def metrics_csv(runs: Sequence[WatchedRun], keys: Sequence[str]) -> str:
    """Columns run, task, seed, metric, env_steps, seconds, updates, value: all points that are held."""
    rows = ((*_of(run), key, *point) for run in runs for key in keys for point in run.points(key))
    return text_of((*RUN, "metric", *AXES, "value"), rows)


def episodes_csv(runs: Sequence[WatchedRun]) -> str:
    """Columns run, task, seed, phase, env_steps, seconds, return, length: every episode, the oldest first."""
    rows = (
        (*_of(run), *(episode[name] for name in EPISODES))
        for run in runs
        for episode in reversed(run.newest_episodes(len(run.episodes)))
    )
    return text_of((*RUN, *EPISODES), rows)


def text_of(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV. Names that a spreadsheet would take for a formula begin with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _of(run: WatchedRun) -> tuple[str, str, Any]:
    return run.name, run.config.env.id if run.config else "", run.config.train.seed if run.config else ""


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        text = value.encode("utf-8", "backslashreplace").decode("utf-8")
        return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
    return f"{value:.10g}" if isinstance(value, float) else value
