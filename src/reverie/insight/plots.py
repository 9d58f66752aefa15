"""Pictures of a run: its learning curve, the use of its latent classes. Need matplotlib (pip install matplotlib)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..run.evaluation import Evaluation
from ..run.logger import read_lines
from .dream import Dreamed
from .drift import Drift


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


# -------------------------------------------------------------------------------------------------- vector observations

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


# ---------------------------------------------------------------------------------------------------------------- drift

STYLES = {"dream": ("tab:blue", "-"), "floor": ("tab:green", ":"), "copy": ("tab:red", "--"), "mean": ("0.5", "--")}
NAMES = {"dream": "dream", "floor": "one step (looked)", "copy": "copy of the last", "mean": "mean of all"}


def drift_plot(drift: Drift, path: Path, *, title: str = "") -> Path:
    """Four panels: observation error, latent KL, reward error, imagined against realised return. -> the path.

    Raises UserError when matplotlib is missing or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("the picture needs matplotlib.", "pip install matplotlib") from error
    figure = Figure(figsize=(10, 7), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    _curves(axes[0, 0], drift.error, "error of observations (shares of variance)", drift)
    _curves(axes[0, 1], {"dream": drift.latent_kl}, "KL(posterior || dream), nats", drift)
    _curves(axes[1, 0], drift.reward, "squared error of rewards", drift)
    _returns(axes[1, 1], drift)
    figure.suptitle(f"{title}: useful horizon {drift.useful_horizon}, imagination {drift.imagination_horizon}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    except OSError as error:
        raise UserError(f"cannot write the picture {path} ({error.strerror}).", "Choose another -o.") from error
    return path


def _curves(axes: Any, curves: Mapping[str, Sequence[float | None]], label: str, drift: Drift) -> None:
    for name, curve in curves.items():
        points = [(k + 1, value) for k, value in enumerate(curve) if value is not None]
        colour, line = STYLES[name]
        axes.plot(*zip(*points, strict=True), line, color=colour, label=NAMES[name]) if points else None
    axes.axvline(drift.imagination_horizon, color="tab:orange", lw=1, label="imagination horizon")
    if drift.useful_horizon:
        axes.axvline(drift.useful_horizon, color="tab:purple", lw=1, ls="-.", label="useful horizon")
    axes.set(xlabel="steps without looking", ylabel=label, xlim=(1, max(2, drift.horizon)), ylim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)


def _returns(axes: Any, drift: Drift) -> None:
    imagined, realised = drift.returns["imagined"], drift.returns["realised"]
    axes.plot(realised, imagined, ".", color="tab:blue", alpha=0.6)
    ends = [min(*imagined, *realised), max(*imagined, *realised)]
    axes.plot(ends, ends, color="0.5", lw=1, ls="--")
    correlation = drift.returns["correlation"]
    told = "no spread" if correlation is None else f"correlation {correlation:.2f}"
    axes.set(xlabel="return of the window", ylabel="the same, dreamed")
    axes.set_title(f"{told}, bias {drift.returns['bias']:.3g}", fontsize=9)
    axes.grid(alpha=0.25)
