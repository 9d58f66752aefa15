"""What is written down of a run of a suite: one JSON file per task and seed. Without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .plan import Plan, Task

FORMAT = "reverie-suite-1"
POINTS, EARLY = 50, 12  # of a curve of entropy or KL


def result_path(out: Path, label: str, seed: int) -> Path:
    """The file of one run."""
    return out / f"{label}-s{seed}.json"


def read_results(out: Path) -> list[dict[str, Any]]:
    """All results in a folder, in the order of their names."""
    found = []
    for path in sorted(out.glob("*-s*.json")):
        text = path.read_text(encoding="utf-8")
        if FORMAT in text[:200]:
            found.append(json.loads(text))
    return found


def summary(
    task: Task, plan: Plan, lines: Sequence[Mapping[str, Any]], *, ended_by: str, spent: Mapping[str, float]
) -> dict[str, Any]:
    """The facts of a run from its evaluations (lines with "mean", "scores", "env_steps", "updates", "spent")."""
    marks = [line for line in lines if "mean" in line]
    reached = next((line for line in marks if line["mean"] >= task.threshold), None)
    last = marks[-1]
    return {
        "env": task.env,
        "cell": task.cell,
        "threshold": task.threshold,
        "random": task.random,
        "budget": {"env_steps": task.env_steps, "cpu_minutes": task.cpu_minutes},
        "solved": last["mean"] >= task.threshold,
        "final": mark(last) | {"scores": [round(score, 5) for score in last["scores"]]},
        "first_reached": None if reached is None else {k: mark(reached)[k] for k in ("env_steps", "cpu_seconds")},
        "ended_by": ended_by,
        "env_steps": last["env_steps"],
        "updates": last["updates"],
        "cpu_seconds": round(spent["cpu"], 3),
        "wall_seconds": round(spent["wall"], 1),
        "evaluation_cpu_seconds": round(spent["evaluation_cpu"], 3),
        "evaluation_wall_seconds": round(spent["evaluation_wall"], 1),
        "evaluations": [mark(line) for line in marks],
    }


def mark(line: Mapping[str, Any]) -> dict[str, Any]:
    """One evaluation. ci95: half width of the mean's interval over its episodes."""
    scores = np.array(line["scores"], float)
    half = 1.96 * float(scores.std(ddof=1)) / len(scores) ** 0.5 if len(scores) > 1 else 0.0
    return {
        "env_steps": line["env_steps"],
        "updates": line["updates"],
        "cpu_seconds": round(line["spent"]["cpu"], 3),
        "wall_seconds": round(line["spent"]["wall"], 1),
        "mean": round(line["mean"], 5),
        "ci95": round(half, 5),
        "episodes": len(scores),
    }


def thinned(lines: Sequence[Mapping[str, Any]], key: str) -> list[list[float]]:
    """At most POINTS of [environment steps, updates, value]: the first EARLY as logged, then means of what is between.

    A policy may collapse within the first hundred updates, all of them at one environment step.
    """
    rows = [(x["env_steps"], x["updates"], x[key]) for x in lines if x.get(key) is not None and "updates" in x]
    groups = [np.array([row], float) for row in rows[:EARLY]]
    if rest := rows[EARLY:]:
        groups += np.array_split(np.array(rest, float), min(POINTS - EARLY, len(rest)))
    return [[int(group[-1, 0]), int(group[-1, 1]), float(f"{group[:, 2].mean():.4g}")] for group in groups]
