"""Logged numbers as tidy CSV: one row per run and point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..insight.spreadsheet import csv_text
from .columns import AXES
from .runs import WatchedRun

RUN, EPISODES = ("run", "task", "seed"), ("phase", "env_steps", "seconds", "return", "length")


def metrics_csv(runs: Sequence[WatchedRun], keys: Sequence[str]) -> str:
    """Columns run, task, seed, metric, env_steps, seconds, updates, value: all points that are held."""
    rows = ((*_of(run), key, *point) for run in runs for key in keys for point in run.points(key))
    return csv_text((*RUN, "metric", *AXES, "value"), rows)


def episodes_csv(runs: Sequence[WatchedRun]) -> str:
    """Columns run, task, seed, phase, env_steps, seconds, return, length: every episode, the oldest first."""
    rows = (
        (*_of(run), *(episode[name] for name in EPISODES))
        for run in runs
        for episode in reversed(run.newest_episodes(len(run.episodes)))
    )
    return csv_text((*RUN, *EPISODES), rows)


def _of(run: WatchedRun) -> tuple[str, str, Any]:
    return run.name, run.config.env.id if run.config else "", run.config.train.seed if run.config else ""
