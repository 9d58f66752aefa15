"""Charts of runs as SVG text, for pages that hold everything in themselves. Needs matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..run.logger import read_lines
from .plots import read_usage

COLOURS = ("#2f6fb3", "#d8641a", "#2e8b57", "#8a4fbf", "#c23b5a", "#7a6a1f", "#1a9ba6", "#555555")
#: Panel title -> {line's name: key of metrics.jsonl}; a key that a run does not log draws nothing.
PANELS: Mapping[str, Mapping[str, str]] = {
    "KL, nats per state": {"posterior ‖ prior": "world_model/kl", "prior ‖ posterior": "world_model/kl_reverse"},
    "entropy of the code, nats": {"prior": "world_model/prior_entropy", "posterior": "world_model/posterior_entropy"},
    "perplexity of categoricals": {"mean": "latent/perplexity", "lowest": "latent/perplexity_min"},
    "world model's loss, nats": {"loss": "world_model/loss"},
    "reward: share explained": {"explained": "reward/explained"},
    "actor's entropy, nats": {"entropy": "actor/entropy"},
    "critic": {"value": "critic/value", "lambda-return": "critic/target"},
    "gradient norms": {
        "world model": "world_model/grad_norm",
        "actor": "actor/grad_norm",
        "critic": "critic/grad_norm",
    },
    "steps per second": {"steps": "speed/env_steps_per_second"},
}
MOST_POINTS = 400


def figure_of(width: float, height: float) -> Any:
    """An empty figure. Raises UserError where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("charts need matplotlib.", "pip install matplotlib") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def svg(figure: Any) -> str:
    """A figure as an <svg> element that scales with the page; text stays text."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "reverie"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    body = text.getvalue()
    body = body[body.index("<svg") :]
    return re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", re.sub(r'width="[^"]*pt"', "", body, count=1), count=1)


def learning_curves(runs: Mapping[str, Path]) -> str:
    """Returns of training episodes (a running mean) and evaluations with 95 % intervals, of several runs. -> SVG."""
    figure = figure_of(9, 3.8)
    axes = figure.add_subplot()
    levels = []
    for (name, path), colour in zip(runs.items(), _colours(), strict=False):
        episodes = read_lines(path / "episodes.jsonl")
        levels += [e["return"] for e in episodes if e.get("phase") == "random"]
        train = [e for e in episodes if e.get("phase") == "train"]
        if train:
            window = max(1, min(20, len(train) // 5))
            score = np.convolve([e["return"] for e in train], np.ones(window) / window, "valid")
            steps = np.array([e["env_steps"] for e in train])[window - 1 :]
            keep = _thinned(len(steps))
            axes.plot(steps[keep], score[keep], color=colour, lw=1, alpha=0.55)
        _evaluations(axes, episodes, name, colour)
    if levels:
        axes.axhline(float(np.mean(levels)), color="0.5", ls="--", lw=1, label="random policy")
    axes.set(xlabel="environment steps", ylabel="return")
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    return svg(figure)


def _evaluations(axes: Any, episodes: Sequence[Mapping[str, Any]], name: str, colour: str) -> None:
    groups: dict[int, list[float]] = {}
    for episode in episodes:
        if episode.get("phase") == "eval":
            groups.setdefault(episode["env_steps"], []).append(episode["return"])
    if not groups:
        return
    steps = sorted(groups)
    means = [float(np.mean(groups[s])) for s in steps]
    errors = [
        1.96 * float(np.std(groups[s], ddof=1)) / len(groups[s]) ** 0.5 if len(groups[s]) > 1 else 0 for s in steps
    ]
    axes.errorbar(steps, means, errors, color=colour, marker="o", ms=3, lw=1.4, capsize=2, label=name)


def panels(runs: Mapping[str, Path]) -> list[str]:
    """Small charts of what is going on inside, of several runs: of what they log. -> SVGs."""
    lines = {name: read_lines(path / "metrics.jsonl") for name, path in runs.items()}
    logged = {key for found in lines.values() for line in found for key in line}
    return [_panel(title, keys, lines) for title, keys in PANELS.items() if logged & set(keys.values())]


def _panel(title: str, keys: Mapping[str, str], lines: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    figure = figure_of(3.9, 2.5)
    axes = figure.add_subplot()
    for (run, found), colour in zip(lines.items(), _colours(), strict=False):
        for style, (label, key) in zip(("-", "--", ":"), keys.items(), strict=False):
            points = [(line["env_steps"], line[key]) for line in found if line.get(key) is not None]
            if points:
                at = np.array(points)[_thinned(len(points))]
                tag = label if len(lines) == 1 else run if style == "-" else None
                axes.plot(at[:, 0], at[:, 1], style, color=colour, lw=1.2, label=tag)
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    if (len(keys) > 1 or len(lines) > 1) and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    return svg(figure)


def usage_map(run: Path) -> str:
    """RUN/latents.json as a heat map: how often each class of each categorical is believed in. -> SVG, or nothing."""
    try:
        usage = read_usage(run)[1]
    except UserError:
        return ""
    figure = figure_of(5.2, 4.2)
    axes = figure.add_subplot()
    order = np.sort(usage, 1)[:, ::-1]  # which class is which means nothing: the fullest first
    image = axes.imshow(order, cmap="magma", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set(xlabel="classes, most used first", ylabel="categorical")
    figure.colorbar(image, ax=axes, label="share of states")
    return svg(figure)


def drift_chart(drift: Any) -> str:
    """The dream's error by horizon beside what costs nothing. drift: `insight.drift.Drift`. -> SVG."""
    figure = figure_of(6.4, 3.4)
    axes = figure.add_subplot()
    names = {"dream": "dream", "copy": "last thing seen, unchanged", "mean": "average", "floor": "with a look"}
    for (guess, label), style in zip(names.items(), ("-", "--", ":", "-."), strict=True):
        curve = [np.nan if value is None else value for value in drift.error.get(guess, [])]
        if curve:
            axes.plot(np.arange(1, len(curve) + 1), curve, style, label=label, lw=2 if guess == "dream" else 1.2)
    axes.axvline(drift.useful_horizon, color="tab:green", lw=1)
    axes.set(xlabel="steps without looking", ylabel="squared error / variance", ylim=(0, None))
    axes.set_title(f"useful horizon: {drift.useful_horizon} steps", loc="left", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
    return svg(figure)


def _colours() -> Sequence[str]:
    return COLOURS * 8


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).astype(int))
