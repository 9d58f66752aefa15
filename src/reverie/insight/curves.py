"""Dreamed vectors as curves, for agents that see no images. Needs matplotlib (pip install matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .dream import Dreamed

MOST = 8  # curves; of longer vectors the dimensions that move most are drawn


def vector_plot(dreamed: Dreamed, path: Path, *, start: int = 0) -> Path:
    """Truth against dream over time, dimension by dimension, and the rewards. -> path. Raises UserError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("the picture needs matplotlib.", "pip install matplotlib") from error
    curves = _chosen(dreamed, start)
    figure = Figure(figsize=(8, 1.5 * (len(curves) + 1)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(curves) + 1, 1, sharex=True)
    at = np.arange(dreamed.steps) - dreamed.context + 1
    for i, (ax, (name, truth, dream)) in enumerate(zip(axes, curves, strict=False)):
        _draw(ax, at, dreamed, start, truth, dream)
        ax.set_title(name, loc="left", fontsize=9)
        if i == 0:
            ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    _draw(axes[-1], at, dreamed, start, dreamed.true_reward[start], dreamed.reward[start])
    axes[-1].set_title("reward", loc="left", fontsize=9)
    axes[-1].set_xlabel(f"steps since the last look (actions: {dreamed.actions})")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}).", "Choose another -o.") from error
    return path


def _chosen(dreamed: Dreamed, start: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, truth (T,), dreams (K, T)) of the dimensions that move most."""
    found = []
    for key in dreamed.dream:
        if key in dreamed.images:
            continue
        for i in range(dreamed.truth[key].shape[-1]):
            truth = dreamed.truth[key][start, :, i]
            found.append((float(truth.std()), f"{key}[{i}]", truth, dreamed.dream[key][start, :, :, i]))
    kept = sorted(sorted(found, key=lambda item: -item[0])[:MOST], key=lambda item: item[1])
    return [item[1:] for item in kept]


def _draw(ax: Any, at: np.ndarray, dreamed: Dreamed, start: int, truth: np.ndarray, dream: np.ndarray) -> None:
    ax.axvspan(at[0], 0, color="tab:green", alpha=0.08, lw=0)
    ax.plot(at, np.where(dreamed.valid[start], truth, np.nan), color="black", lw=1.5, label="truth")
    for k, line in enumerate(dream):
        ax.plot(at, line, color="tab:orange", lw=1, alpha=0.7, label="dream" if k == 0 else None)
    ax.grid(alpha=0.2)
