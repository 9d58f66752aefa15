"""Drift curves as a picture. Needs matplotlib (pip install matplotlib), but no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .drift import Drift

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
