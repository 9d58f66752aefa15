"""Plots of runs with matplotlib: PNG files, and SVG text for pages (pip install 'reverie-rl[plot]').

Files: `learning_curve`, `usage_map`, `vector_plot`, `drift_plot`, `trust_plot`, `shift_plot`, `models_plot`. SVG:
`returns_svg`, `panels_svg`, `usage_svg`, `vector_svg`, `drift_svg`, `trust_svg`.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from ..config import load_file
from ..errors import UserError, digits, printable
from ..files import plain_values, read_json, write_file
from ..run.evaluation import Evaluation
from ..run.lines import each_line, read_lines, thinned
from .dream import Dreamed
from .drift import Drift
from .whole_models import ALARMS, WholeModels

COLOURS = ("#2f6fb3", "#d8641a", "#2e8b57", "#8a4fbf", "#c23b5a", "#7a6a1f", "#1a9ba6", "#555555")
#: Panel title -> {line's name: key of metrics.jsonl}; a key that a run does not log draws nothing.
PANELS: Mapping[str, Mapping[str, str]] = {
    "KL, nats per state": {"posterior ‖ prior": "world_model/kl", "prior ‖ posterior": "world_model/kl_reverse"},
    "latent entropy, nats": {
        "prior": "world_model/prior_entropy",
        "posterior": "world_model/posterior_entropy",
    },
    "perplexity of categoricals": {"mean": "latent/perplexity", "lowest": "latent/perplexity_min"},
    "world model loss, nats": {"loss": "world_model/loss"},
    "reward: variance explained": {"explained": "reward/explained"},
    "actor entropy, nats": {"entropy": "actor/entropy"},
    "critic": {"value": "critic/value", "lambda-return": "critic/target"},
    "gradient norms": {
        "world model": "world_model/grad_norm",
        "actor": "actor/grad_norm",
        "critic": "critic/grad_norm",
    },
    "steps per second": {"steps": "speed/env_steps_per_second"},
}
MAX_POINTS = 200  # of a line in an SVG
PHONE = 5.0  # inches: an SVG of this width can be read on a phone, where a page gives it 340 pixels
LONGEST_LABEL = 60  # letters


# -------------------------------------------------------------------------------------------------------------- figures


def require_matplotlib() -> None:
    """Raises UserError where matplotlib is missing: call it before work whose result is to be drawn."""
    new_figure(1, 1)


def new_figure(width: float, height: float, *, dpi: int = 130) -> Any:
    """An empty figure of so many inches that needs no display. Raises UserError where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("plots need matplotlib.", "pip install 'reverie-rl[plot]'") from error
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> Path:
    """Write a PNG. -> path. Raises UserError where that is impossible."""
    try:
        return write_file(path, png(figure))
    except OSError as error:
        raise UserError(f"cannot write the plot {path} ({error.strerror}).", "Choose another file.") from error


def png(figure: Any, *, dpi: int | None = None) -> bytes:
    """A figure as PNG."""
    return _drawn(figure, "png", **({"dpi": dpi} if dpi else {}))


def svg(figure: Any) -> str:
    """A figure as an <svg> element that scales with the page; text stays text, the same figure gives the same text."""
    body = _drawn(figure, "svg", metadata={"Date": None}).decode("utf-8")
    body = body[body.index("<svg") :]
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)  # a third of the bytes less
    return re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", re.sub(r'width="[^"]*pt"', "", body, count=1), count=1)


def _drawn(figure: Any, kind: str, **options: Any) -> bytes:
    """matplotlib's savefig. Names come from the user's files: a `$` in them is no formula, and any letter may occur."""
    import matplotlib
    from matplotlib.text import Text

    out = io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    plain: Any = {"svg.fonttype": "none", "svg.hashsalt": "reverie", "text.parse_math": False}
    with matplotlib.rc_context(plain), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(out, format=kind, **options)
    return out.getvalue()


def label(name: str) -> str:
    """A name as matplotlib shows it in a legend: not too long, and not hidden, as those that begin with _ are."""
    text = printable(name).replace("\n", " ")
    text = text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"
    return f" {text}" if text.startswith("_") else text


def _grid(axes: Any, *, below: bool = False) -> None:
    """below: the legend stands under the axes, where it hides nothing."""
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        under: Any = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.2)} if below else {}
        axes.legend(frameon=False, fontsize=8, **under)


# -------------------------------------------------------------------------------------------------------------- returns


def learning_curve(run: Path, *, title: str = "", to: Path | None = None) -> Path:
    """RUN/curve.png: returns of training episodes, evaluations with their 95 % interval, the random policy's level.

    to: another file. -> the path. Raises UserError when matplotlib is missing.
    """
    figure = new_figure(7, 4)
    axes = figure.add_subplot()
    episodes = read_lines(run / "episodes.jsonl")
    train = [e for e in episodes if e["phase"] == "train"]
    axes.plot([e["env_steps"] for e in train], [e["return"] for e in train], ".", ms=3, alpha=0.25, color="tab:blue")
    steps, means, window = _running_mean(train)
    if len(steps):
        axes.plot(steps, means, color="tab:blue", lw=1.5, label=f"training episodes (mean of {window})")
    _evaluations(axes, episodes, fmt="o-", color="tab:orange", ms=4, capsize=2, label="evaluation (95 % CI)")
    _random_level(axes, episodes)
    axes.set(xlabel="environment steps", ylabel="return of an episode", title=label(title))
    _grid(axes)
    return save(figure, to or run / "curve.png")


def returns_svg(runs: Mapping[str, Path]) -> str:
    """Returns of several runs: training episodes (a running mean) and evaluations with 95 % intervals. -> SVG.

    Each task has axes of its own, and its own level of the random policy.
    """
    tasks: dict[str, dict[str, tuple[list[dict[str, Any]], str]]] = {}
    for name, colour in colours_of(runs).items():
        task = load_file(runs[name] / "config.yaml").env.id
        tasks.setdefault(task, {})[name] = (read_lines(runs[name] / "episodes.jsonl"), colour)
    figure = new_figure(PHONE, 3.6 * len(tasks))
    for axes, (task, found) in zip(figure.subplots(len(tasks), 1, squeeze=False)[:, 0], tasks.items(), strict=True):
        for name, (episodes, colour) in found.items():
            steps, means, _ = _running_mean([e for e in episodes if e.get("phase") == "train"])
            keep = _thinned(len(steps))
            axes.plot(steps[keep], means[keep], color=colour, lw=1, alpha=0.55)
            _evaluations(axes, episodes, fmt="o-", color=colour, ms=3, lw=1.4, capsize=2, label=label(name))
        every = [episode for episodes, _ in found.values() for episode in episodes]
        _random_level(axes, every, task=task if len(tasks) > 1 else "")
        axes.set(xlabel="environment steps", ylabel="return of an episode")
        axes.set_title(label(task), fontsize=9, loc="left")
        _grid(axes, below=True)
    return svg(figure)


def _running_mean(episodes: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray, int]:
    """Environment steps (N), means of the last `window` returns (N), and the window: 20 episodes, fewer at first."""
    steps, scores = (np.array([episode[key] for episode in episodes], float) for key in ("env_steps", "return"))
    window = max(1, min(20, len(episodes) // 5))
    if not len(episodes):
        return steps, scores, window
    return steps[window - 1 :], np.convolve(scores, np.ones(window) / window, "valid"), window


def _evaluations(axes: Any, episodes: Sequence[Mapping[str, Any]], **style: Any) -> None:
    scores: dict[int, list[float]] = {}
    for episode in episodes:
        if episode.get("phase") == "eval":
            scores.setdefault(episode["env_steps"], []).append(episode["return"])
    if scores:
        found = [Evaluation(scores[step], []) for step in sorted(scores)]
        widths = [each.interval if each.spread else 0 for each in found]
        axes.errorbar(sorted(scores), [each.mean for each in found], widths, **style)


def _random_level(axes: Any, episodes: Sequence[Mapping[str, Any]], *, task: str = "") -> None:
    returns = [episode["return"] for episode in episodes if episode.get("phase") == "random"]
    if returns:
        level = float(np.mean(returns))
        where = f" on {label(task)}" if task else ""
        axes.axhline(level, color="0.5", ls="--", lw=1, label=f"random policy{where} ({level:.2f})")


# -------------------------------------------------------------------------------------------------------------- metrics


def panels_svg(runs: Mapping[str, Path], colours: Mapping[str, str] | None = None) -> list[str]:
    """Small plots of what several runs of one task log about their models. colours: of the runs. -> SVGs."""
    lines = {name: thinned(each_line(path / "metrics.jsonl")) for name, path in runs.items()}
    logged = {key for found in lines.values() for line in found for key in line}
    ink = colours or colours_of(runs)
    return [_panel(title, keys, lines, ink) for title, keys in PANELS.items() if logged & set(keys.values())]


def colours_of(runs: Iterable[str]) -> dict[str, str]:
    """A color for each of these names, the same in every chart of a page."""
    return dict(zip(runs, cycle(COLOURS), strict=False))


def _panel(
    title: str,
    keys: Mapping[str, str],
    lines: Mapping[str, Sequence[Mapping[str, Any]]],
    colours: Mapping[str, str],
) -> str:
    figure = new_figure(3.9, 2.5)
    axes = figure.add_subplot()
    for run, found in lines.items():
        for style, (title_of, key) in zip(("-", "--", ":"), keys.items(), strict=False):
            points = [(line["env_steps"], line[key]) for line in found if line.get(key) is not None]
            if points:
                at = np.array(points)[_thinned(len(points))]
                tag = title_of if len(lines) == 1 else label(run) if style == "-" else None
                axes.plot(at[:, 0], at[:, 1], style, color=colours[run], lw=1.2, label=tag)
    for style, name in zip(("-", "--", ":"), keys if len(lines) > 1 < len(keys) else (), strict=False):
        axes.plot([], [], style, color="0.5", lw=1.2, label=name)  # the runs have the colors, the numbers the lines
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("environment steps", fontsize=8)
    axes.tick_params(labelsize=8)
    _grid(axes)
    legend = axes.get_legend()
    if legend is not None and len(keys) == len(lines) == 1:
        legend.remove()  # the title says it
    return svg(figure)


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).astype(int))


# -------------------------------------------------------------------------------------------------------------- latents


def usage_map(run: Path, *, to: Path | None = None) -> Path:
    """RUN/latents.png: which classes each categorical uses, of RUN/latents.json: rows S, columns K, bright is often.

    Columns are sorted within each row, so that the number of bright cells is what perplexity counts (class numbers
    mean nothing). to: another file. -> its path. Raises UserError without such a file or matplotlib.
    """
    return save(_usage_figure(*read_usage(run)), to or run / "latents.png")


def usage_svg(run: Path) -> str:
    """The same as SVG; "" for a run without RUN/latents.json."""
    try:
        at, usage = read_usage(run)
    except UserError:
        return ""
    return svg(_usage_figure(at, usage, PHONE, 4.0))


def _usage_figure(at: int, usage: np.ndarray, width: float = 7, height: float = 4.6) -> Any:
    """at: environment steps; usage: average probabilities (S, K); width, height: inches."""
    count, classes = usage.shape
    figure = new_figure(width, height)
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    drawn = axes.imshow(-np.sort(-usage, axis=1), aspect="auto", cmap="magma", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(drawn, ax=axes, location="left", label="average probability")
    axes.set(xlabel="classes, most used first", ylabel="categorical", title=f"latent classes at {at:,} steps")
    logs = np.log(usage, where=usage > 0, out=np.zeros_like(usage))
    beside.barh(np.arange(count), np.exp(-(usage * logs).sum(1)), height=0.8, color="tab:orange")
    beside.set(xlabel=f"perplexity\n(1 to {classes})", xlim=(1, max(classes, 2)))
    return figure


def read_usage(run: Path) -> tuple[int, np.ndarray]:
    """RUN/latents.json: environment steps when it was measured, average probabilities (S, K). Raises UserError."""
    if not (run / "latents.json").exists():
        raise UserError(
            f"{run} has no latents.json: the use of its latent classes has not been measured yet.",
            "Train longer with log.health_every above 0; Gaussian latents have no classes.",
        )
    try:
        found = plain_values(read_json(run / "latents.json"))
        usage, at = np.array(found["usage"], np.float64), int(found["env_steps"])
        if usage.ndim != 2 or not usage.size or not ((usage >= 0) & (usage <= 1)).all():
            raise ValueError("not a table of probabilities")
    except (UserError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"cannot read {run / 'latents.json'} ({error}).", "A run that trains on writes it again."
        ) from error
    return at, usage


# -------------------------------------------------------------------------------------------------- vector observations

MAX_CURVES = 8  # of longer vectors the dimensions that vary most are drawn


def vector_plot(dreamed: Dreamed, path: Path, *, start: int = 0) -> Path:
    """Truth against dream over time, dimension by dimension, and the rewards. -> path. Raises UserError."""
    return save(_vector_figure(dreamed, start), path)


def vector_svg(dreamed: Dreamed) -> str:
    """The same of the first start as SVG."""
    return svg(_vector_figure(dreamed, 0, PHONE))


def _vector_figure(dreamed: Dreamed, start: int, width: float = 8) -> Any:
    """width: inches."""
    curves = _chosen(dreamed, start)
    figure = new_figure(width, 1.5 * (len(curves) + 1), dpi=110)
    axes = figure.subplots(len(curves) + 1, 1, sharex=True)
    at = np.arange(dreamed.steps) - dreamed.context + 1
    for i, (ax, (name, truth, dream)) in enumerate(zip(axes, curves, strict=False)):
        _draw(ax, at, dreamed, start, truth, dream)
        ax.set_title(label(name), loc="left", fontsize=9)
        if i == 0:
            ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    _draw(axes[-1], at, dreamed, start, dreamed.true_reward[start], dreamed.reward[start])
    axes[-1].set_title("reward", loc="left", fontsize=9)
    axes[-1].set_xlabel(f"steps since the last observation (actions: {dreamed.actions})")
    return figure


def _chosen(dreamed: Dreamed, start: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, truth (T,), dreams (K, T)) of the dimensions that vary most."""
    found = []
    for key in dreamed.dream:
        if key in dreamed.images:
            continue
        for i in range(dreamed.truth[key].shape[-1]):
            truth = dreamed.truth[key][start, :, i]
            found.append((float(truth.std()), f"{key}[{i}]", truth, dreamed.dream[key][start, :, :, i]))
    kept = sorted(sorted(found, key=lambda item: -item[0])[:MAX_CURVES], key=lambda item: item[1])
    return [item[1:] for item in kept]


def _draw(ax: Any, at: np.ndarray, dreamed: Dreamed, start: int, truth: np.ndarray, dream: np.ndarray) -> None:
    ax.axvspan(at[0], 0, color="tab:green", alpha=0.08, lw=0)
    ax.plot(at, np.where(dreamed.valid[start], truth, np.nan), color="black", lw=1.5, label="truth")
    for k, line in enumerate(dream):
        ax.plot(at, line, color="tab:orange", lw=1, alpha=0.7, label="dream" if k == 0 else None)
    ax.grid(alpha=0.2)


# ---------------------------------------------------------------------------------------------------------------- drift

STYLES = {"dream": ("tab:blue", "-"), "floor": ("tab:green", ":"), "copy": ("tab:red", "--"), "mean": ("0.5", "-.")}
NAMES = {
    "dream": "dream",
    "floor": "reconstruction (observed)",
    "copy": "copy of the last observation",
    "mean": "mean of all",
}


def drift_plot(drift: Drift, path: Path, *, title: str = "") -> Path:
    """Four panels: observation error, latent KL, reward error, imagined against realized return. -> the path.

    Raises UserError when matplotlib is missing or the file cannot be written.
    """
    figure = new_figure(10, 7, dpi=110)
    axes = figure.subplots(2, 2)
    _drift_curves(axes[0, 0], drift.error, "error of observations (shares of variance)", drift)
    _drift_curves(axes[0, 1], {"dream": drift.latent_kl}, "KL(posterior || dream), nats", drift)
    _drift_curves(axes[1, 0], drift.reward, "squared error of rewards", drift)
    _returns(axes[1, 1], drift)
    figure.suptitle(f"{label(title)}: useful horizon {drift.useful_horizon}, imagination {drift.imagination_horizon}")
    return save(figure, path)


def drift_svg(drift: Drift) -> str:
    """The dream's error by horizon beside guesses that need no model. -> SVG."""
    figure = new_figure(PHONE, 3.8)
    axes = figure.add_subplot()
    _drift_curves(axes, drift.error, "squared error / variance", drift)
    axes.set_title(f"useful horizon: {drift.useful}", loc="left", fontsize=9)
    return svg(figure)


def _drift_curves(axes: Any, curves: Mapping[str, Sequence[float | None]], what: str, drift: Drift) -> None:
    for name, steps, values in _known(curves):
        colour, line = STYLES[name]
        axes.plot(steps, values, line, color=colour, label=NAMES[name])
    axes.axvline(drift.imagination_horizon, color="tab:orange", lw=1, label="imagination horizon")
    if drift.useful_horizon:
        axes.axvline(drift.useful_horizon, color="tab:purple", lw=1, ls="-.", label="useful horizon")
    axes.set(xlabel="steps after the last observation", ylabel=what, xlim=(1, max(2, drift.horizon)), ylim=(0, None))
    _grid(axes)


def _known(curves: Mapping[str, Sequence[float | None]]) -> Iterator[tuple[str, list[int], list[float]]]:
    """(name, horizons, values) of each curve without its gaps; none of a curve that has gaps only."""
    for name, curve in curves.items():
        points = [(k + 1, value) for k, value in enumerate(curve) if value is not None]
        if points:
            yield name, [k for k, _ in points], [value for _, value in points]


def _returns(axes: Any, drift: Drift) -> None:
    imagined, realised = drift.returns["imagined"], drift.returns["realised"]
    axes.plot(realised, imagined, ".", color="tab:blue", alpha=0.6)
    ends = [min(*imagined, *realised), max(*imagined, *realised)]
    axes.plot(ends, ends, color="0.5", lw=1, ls="--")
    correlation = drift.returns["correlation"]
    relation = "no spread" if correlation is None else f"correlation {correlation:.2f}"
    axes.set(xlabel="return of the window", ylabel="the same, imagined")
    axes.set_title(f"{relation}, bias {digits(drift.returns['bias'])}", fontsize=9)
    axes.grid(alpha=0.25)


# --------------------------------------------------------------------------------------------------------- whole models


def models_plot(found: WholeModels, path: Path, *, title: str = "") -> Path:
    """Three panels by step: errors and the variance between models, rewards, what warns of errors. -> the path.

    Raises UserError when the file cannot be written.
    """
    figure = new_figure(11, 3.6, dpi=110)
    left, middle, right = figure.subplots(1, 3)
    curves = {"error of one model": found.error, "error of their mean": found.error_of_mean,
              "variance between models": found.spread}  # fmt: skip
    for (name, steps, values), colour in zip(_known(curves), COLOURS, strict=False):
        left.plot(steps, values, color=colour, label=name)
    for _, steps, values in _known({"": found.reward_spread}):
        middle.plot(steps, values, color=COLOURS[0])
    for (name, steps, values), colour in zip(_known(found.alarms), COLOURS, strict=False):
        right.plot(steps, values, color=colour, label=ALARMS[name])
    right.axhline(0.5, color="0.5", lw=1, ls=":")
    left.set(ylabel="observations, shares of variance", ylim=(0, None))
    middle.set(ylabel="rewards: deviation between models", ylim=(0, None))
    right.set(ylabel="AUROC for the worst tenth of errors", ylim=(0, 1.02))
    for axes in (left, middle, right):
        axes.set(xlabel="steps after the last observation", xlim=(1, max(2, found.horizon)))
        _grid(axes)
    figure.suptitle(f"{label(title)}: {len(found.runs)} runs", fontsize=10)
    return save(figure, path)


# ---------------------------------------------------------------------------------------------------------------- trust


def trust_plot(found: Mapping[str, Any], path: Path) -> Path:
    """Three panels: returns, the dreamed return beside the real one, errors by depth. -> the path.

    found: `Trust.to_dict`, or what `read_trust` read. Raises UserError when the file cannot be written.
    """
    return save(_trust_figure(found), path)


def trust_svg(found: Mapping[str, Any]) -> str:
    """The same as SVG, one panel below the other."""
    return svg(_trust_figure(found, stacked=True))


def _trust_figure(found: Mapping[str, Any], *, stacked: bool = False) -> Any:
    figure = new_figure(PHONE, 9.6) if stacked else new_figure(11, 3.6, dpi=110)
    left, middle, right = figure.subplots(3, 1) if stacked else figure.subplots(1, 3)
    names = {"random": "random", "own": "own policy", "made": "dream-made"}
    for place, key in enumerate(names):
        policy = found["policies"][key]
        left.errorbar(place, policy["mean"], policy.get("ci95") or 0, fmt="o", capsize=4, color=COLOURS[place])
        left.text(place, policy["mean"], f"  {digits(policy['mean'])}", fontsize=8)
    left.set(xticks=range(3), xticklabels=list(names.values()), xlim=(-0.5, 2.7), ylabel="return in the real task")
    left.grid(alpha=0.25)
    optimism = found["optimism"]
    for name, key, colour in (("in the dream", "dream", COLOURS[1]), ("really", "real", COLOURS[0])):
        for _, steps, values in _known({name: optimism[key]}):
            middle.plot(steps, values, color=colour, label=name)
    band = [(k + 1, low, high) for k, (low, high) in enumerate(zip(optimism["low"], optimism["high"], strict=True))
            if low is not None and high is not None]  # fmt: skip
    if band:
        steps, lows, highs = (list(each) for each in zip(*band, strict=True))
        middle.fill_between(steps, lows, highs, color=COLOURS[3], alpha=0.25, label="gap, 95 %")
    middle.set(xlabel="steps", ylabel="earned by the made policy")
    _grid(middle)
    lines = {("replay", "-"): "replay", ("played", "--"): "made policy"}
    for (source, line), where in lines.items():
        for index, (name, steps, values) in enumerate(_known(found["errors"].get(source, {}))):
            right.plot(steps, values, line, color=COLOURS[index], label=f"{label(name)}, {where}")
    right.axhline(1, color="0.5", lw=1, ls=":")
    right.set(xlabel="steps after the last observation", ylabel="squared error / variance", ylim=(0, 2))
    _grid(right)
    figure.suptitle(label(found["verdict"][0] if found["verdict"] else ""), fontsize=10)
    return figure


# ---------------------------------------------------------------------------------------------------------------- shift


def shift_plot(found: Mapping[str, Any], path: Path) -> Path:
    """Three panels over the values of a factor: return, surprise, alarm; the unchanged task as a line. -> the path.

    found: `Shift.to_dict`. Values stand side by side, numbers in order. Raises UserError if it cannot be written.
    """
    usual, *points = found["points"]
    ordered = all(_is_number(point["value"]) for point in points)
    points = sorted(points, key=lambda point: float(point["value"])) if ordered else points
    line = "o-" if ordered else "o"
    figure = new_figure(11, 3.4, dpi=110)
    left, middle, right = figure.subplots(1, 3)
    for axes, key, width, what in (
        (left, "mean", "ci95", "return"),
        (middle, "surprise", "surprise_ci95", "surprise, nats per step"),
    ):
        mean, half = usual[key], usual[width] or 0
        axes.axhline(mean, color="0.45", ls="--", lw=1, label="as trained, 95 %")
        axes.axhspan(mean - half, mean + half, color="0.5", alpha=0.15, lw=0)
        means, widths = [p[key] for p in points], [p[width] or 0 for p in points]
        axes.errorbar(range(len(points)), means, widths, fmt=line, color=COLOURS[0], ms=5, capsize=4)
        axes.set(ylabel=what)
    shares = {"surprising": "surprising", "alarm": "alarm of the ensemble"}
    for (key, name), colour in zip(shares.items(), COLOURS, strict=False):
        if usual[key] is not None:
            right.axhline(usual[key], color=colour, ls="--", lw=1)
            right.plot(range(len(points)), [p[key] for p in points], line, color=colour, ms=5, label=name)
    right.set(ylabel="share of steps above the usual 99 %", ylim=(0, 1.25 * max(0.04, right.get_ylim()[1])))
    for axes in (left, middle, right):
        axes.set_xticks(range(len(points)), [label(point["value"]) for point in points])
        axes.set(xlabel=label(found["factor"]), xlim=(-0.5, len(points) - 0.5))
        _grid(axes)
    figure.suptitle(f"{label(found['env'])}: {label(found['factor'])} changed", fontsize=10)
    return save(figure, path)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
