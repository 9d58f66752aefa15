"""Plots of comparisons and ablations, as PNG and SVG. Needs matplotlib (pip install 'reverie-rl[plot]')."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, counted
from ..files import write_file
from ..insight.plots import COLOURS, label, new_figure, png, svg
from .aggregates import LEVELS
from .compare import Verdict
from .record import Curve, curve
from .statistics import Interval, t_quantile
from .tables import millions


def save(figure: Any, stem: Path) -> list[Path]:
    """Write stem.png and stem.svg. -> both. Raises UserError."""
    files = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    try:
        write_file(files[0], png(figure, dpi=130))
        write_file(files[1], svg(figure))
    except OSError as error:
        raise UserError(f"cannot write {stem} ({error.strerror}).", "Choose another --out.") from error
    return files


def _grid(count: int, *, width: float = 4.2, height: float = 3.0) -> tuple[Any, list[Any]]:
    """A figure of `count` panels, at most three side by side."""
    columns = min(3, max(1, count))
    rows = -(-count // columns)
    figure = new_figure(max(9.0, width * columns), height * rows)  # a page shows all of them at the same width
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for extra in axes[count:]:
        extra.set_visible(False)
    return figure, list(axes[:count])


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(seeds, points) -> mean, and the 95 % t interval's bounds, at each point; NaN are left out."""
    known = np.isfinite(values)
    count = known.sum(0)
    clean = np.where(known, values, 0.0)
    mean = np.where(count > 0, clean.sum(0) / np.maximum(count, 1), np.nan)
    spread = np.sqrt(np.where(known, (values - mean) ** 2, 0.0).sum(0) / np.maximum(count - 1, 1))
    quantiles = np.array([t_quantile(0.95, int(n) - 1) if n > 1 else np.nan for n in count])
    half = quantiles * spread / np.sqrt(np.maximum(count, 1))
    return mean, mean - half, mean + half


def curves(verdicts: Sequence[Verdict]) -> Any | None:
    """Own seeds on published curves, a panel per task; None where there is nothing to draw."""
    tasks = list(dict.fromkeys((v.reference, v.key) for v in verdicts if v.own.size))
    if not tasks:
        return None
    figure, panels = _grid(len(tasks))
    for axes, (reference, key) in zip(panels, tasks, strict=True):
        found = [v for v in verdicts if (v.reference, v.key) == (reference, key) and v.own.size]
        _published(axes, curve(reference, key), max(float(v.points[-1]) for v in found))
        for verdict, colour in zip(found, itertools.cycle(COLOURS), strict=False):
            _own(axes, verdict, colour)
        axes.set_title(label(key), fontsize=10, loc="left")
        axes.set(xlabel="frames", ylabel="return")
        axes.xaxis.set_major_formatter(lambda x, _: millions(x))
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=7)
    return figure


def _published(axes: Any, found: Curve, frames: float) -> None:
    upto = min(len(found.frames), int(np.searchsorted(found.frames, 2 * frames)) + 1)
    at, mean, std = found.frames[:upto], found.mean[:upto], found.std[:upto]
    axes.fill_between(at, mean - std, mean + std, color="0.8", lw=0)
    axes.plot(at, mean, color="0.35", lw=1.5, label=f"official, {found.seeds} seeds ± their deviation")


def _own(axes: Any, verdict: Verdict, colour: str) -> None:
    for seed in verdict.own:
        axes.plot(verdict.points, seed, color=colour, lw=0.8, alpha=0.4, marker="." if len(seed) == 1 else None)
    mean, low, high = band(verdict.own)
    if len(verdict.own) > 1:
        axes.fill_between(verdict.points, low, high, color=colour, alpha=0.15, lw=0)
    word = verdict.judgement.word
    text = f"{label(verdict.group.label)}, {counted(len(verdict.own), 'seed')}: {word}"
    axes.plot(verdict.points, mean, color=colour, lw=1.8, marker="." if len(mean) == 1 else None, label=text)


def profile(shares: Mapping[str, np.ndarray]) -> Any | None:
    """Share of runs above each human-normalised score."""
    if not shares:
        return None
    figure = new_figure(9, 3.4)
    axes = figure.add_subplot()
    for (name, share), colour in zip(shares.items(), itertools.cycle(COLOURS), strict=False):
        axes.step(LEVELS, share, where="post", label=label(name), color=colour)
    axes.set(xlabel="human-normalised score", ylabel="share of runs above it", ylim=(0, 1.02))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    return figure


def intervals(
    names: Sequence[str],
    panels: Mapping[str, Mapping[str, Interval]],
    seeds: Mapping[str, Mapping[str, Sequence[float]]],
) -> Any:
    """A panel per task: one row per variant, its mean with a 95 % interval, and every seed as a dot.

    names: variants from top to bottom; the first is the base, its mean a line through the panel. panels: {task:
    {variant: interval}}.
    """
    longest = max(len(label(name)) for name in names)
    figure = new_figure(1.2 + 0.07 * longest + 3.1 * len(panels), 0.9 + 0.32 * len(names))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (task, rows) in zip(axes, panels.items(), strict=True):
        for place, name in enumerate(names):
            if name not in rows:
                continue
            found, colour = rows[name], "#2f6fb3" if place else "#1e1e22"
            if found.low is not None and found.high is not None:
                ax.plot([found.low, found.high], [place, place], color=colour, lw=2.4, alpha=0.45)
            ax.plot([found.value], [place], "o", color=colour, ms=6, zorder=2)
            below = [place + 0.25] * len(seeds[task][name])
            ax.plot(seeds[task][name], below, ".", color="0.45", ms=3.5, zorder=3)
        if names[0] in rows:
            ax.axvline(rows[names[0]].value, color="0.6", lw=1, ls="--")
        ax.set_title(label(task), fontsize=9, loc="left")
        ax.grid(alpha=0.25, axis="x")
        ax.tick_params(labelsize=8)
    axes[0].set_yticks(range(len(names)), list(map(label, names)))
    axes[0].invert_yaxis()
    figure.supxlabel("score: mean of seeds, 95 % interval, every seed", fontsize=8)
    return figure


def learning(panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> Any:
    """Training curves, a panel per task: {task: {variant: (steps (P), scores (seeds, P))}}, means with 95 % bands."""
    figure, axes = _grid(len(panels), width=4.6, height=3.4)
    handles: dict[str, Any] = {}
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    styles = {name: (COLOURS[i % len(COLOURS)], "-" if i < len(COLOURS) else "--") for i, name in enumerate(names)}
    for ax, (task, rows) in zip(axes, panels.items(), strict=True):
        for name, (steps, scores) in rows.items():
            mean, low, high = band(scores)
            colour, style = styles[name]
            (line,) = ax.plot(steps, mean, style, color=colour, lw=2.4 if name == names[0] else 1.2)
            handles.setdefault(name, line)
            if name == names[0]:
                ax.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)
        ax.set_title(label(task), fontsize=9, loc="left")
        ax.set(xlabel="environment steps", ylabel="return of training episodes")
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.25)
    figure.legend(handles.values(), map(label, handles), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure
