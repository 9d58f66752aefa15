"""Pictures of a run: its learning curve, the use of its latent classes. Need matplotlib (pip install matplotlib)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..run.evaluation import Evaluation
from ..run.logger import read_lines


def learning_curve(run: Path, *, title: str = "") -> Path:
    """RUN/curve.png: returns of training episodes, evaluations with their 95 % interval, the random policy's level.

    -> the path. Raises UserError when matplotlib is missing.
    """
    figure = _figure("the curve", 7, 4)
    episodes = read_lines(run / "episodes.jsonl")
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


def usage_map(run: Path, *, to: Path | None = None) -> Path:
    """RUN/latents.png: which classes each categorical uses, of RUN/latents.json: rows S, columns K, bright is often.

    Columns are sorted within each row, so that the number of bright cells is what perplexity counts (class numbers
    mean nothing). to: another place for the picture. -> its path. Raises UserError without such a file or matplotlib.
    """
    at, usage = read_usage(run)
    count, classes = usage.shape
    figure = _figure("the picture", 7, 4.6)
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    picture = axes.imshow(
        -np.sort(-usage, axis=1), aspect="auto", cmap="magma", vmin=0, vmax=1, interpolation="nearest"
    )
    figure.colorbar(picture, ax=axes, location="left", label="average probability")
    axes.set(xlabel="classes, most used first", ylabel="categorical", title=f"latent classes at {at:,} steps")
    logs = np.log(usage, where=usage > 0, out=np.zeros_like(usage))
    beside.barh(np.arange(count), np.exp(-(usage * logs).sum(1)), height=0.8, color="tab:orange")
    beside.set(xlabel=f"perplexity (1 to {classes})", xlim=(1, max(classes, 2)))
    path = to or run / "latents.png"
    figure.savefig(path)
    return path


def read_usage(run: Path) -> tuple[int, np.ndarray]:
    """RUN/latents.json: environment steps when it was looked, average probabilities (S, K). Raises UserError."""
    try:
        found = json.loads((run / "latents.json").read_text(encoding="utf-8"))
        usage, at = np.array(found["usage"], np.float64), int(found["env_steps"])
        if usage.ndim != 2 or not usage.size or not np.isfinite(usage).all():
            raise ValueError("no table of numbers")
    except FileNotFoundError as error:
        raise UserError(
            f"{run} has no latents.json: nobody has looked at its latent classes yet.",
            "Train longer with log.health_every above 0; Gaussian latents have no classes.",
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"cannot read {run / 'latents.json'} ({error}).", "The next look of a run writes it anew."
        ) from error
    return at, usage


def _figure(what: str, width: float, height: float) -> Any:
    """An empty one that needs no display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError(f"{what} needs matplotlib.", "pip install matplotlib") from error
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


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
