"""The learning curve of a run as a picture. Needs matplotlib (pip install matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .errors import UserError
from .evaluate import Evaluation
from .logger import read_lines


def learning_curve(run: Path, *, title: str = "") -> Path:
    """RUN/curve.png: returns of training episodes, evaluations with their 95 % interval, the random policy's level.

    -> the path. Raises UserError when matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("the curve needs matplotlib.", "pip install matplotlib") from error
    episodes = read_lines(run / "episodes.jsonl")
    figure = Figure(figsize=(7, 4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _training(axes, [e for e in episodes if e["phase"] == "train"])
    _evaluations(axes, [e for e in episodes if e["phase"] == "eval"])
    random = [e["return"] for e in episodes if e["phase"] == "random"]
    if random:
        axes.axhline(np.mean(random), color="0.5", ls="--", lw=1, label=f"random policy ({np.mean(random):.2f})")
    axes.set(xlabel="environment steps", ylabel="return of an episode", title=title)
    axes.grid(alpha=0.25)
    if episodes:
        axes.legend(loc="best", frameon=False)
    figure.savefig(run / "curve.png")
    return run / "curve.png"


def _training(axes: Any, episodes: list[dict[str, Any]]) -> None:
    if not episodes:
        return
    steps, scores = np.array([e["env_steps"] for e in episodes]), np.array([e["return"] for e in episodes])
    axes.plot(steps, scores, ".", ms=3, alpha=0.25, color="tab:blue")
    window = min(20, len(scores))
    mean = np.convolve(scores, np.ones(window) / window, "valid")
    axes.plot(steps[window - 1 :], mean, color="tab:blue", lw=1.5, label=f"training episodes (mean of {window})")


def _evaluations(axes: Any, episodes: list[dict[str, Any]]) -> None:
    scores: dict[int, list[float]] = {}
    for episode in episodes:
        scores.setdefault(episode["env_steps"], []).append(episode["return"])
    groups = {step: Evaluation(found, []) for step, found in scores.items()}
    if not groups:
        return
    steps = sorted(groups)
    means = [groups[step].mean for step in steps]
    widths = [groups[step].interval if groups[step].spread else 0 for step in steps]
    axes.errorbar(steps, means, widths, fmt="o-", color="tab:orange", ms=4, capsize=2, label="evaluation (95 % CI)")
