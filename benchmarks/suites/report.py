"""The report of a suite: OUT/report.md and OUT/report.png, from whatever results there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .plan import PLAIN, Plan, Task
from .results import read_results

Results = Mapping[tuple[str, int], Mapping[str, Any]]
#: Within how many times the plain cell's steps a run with changed rewards has to reach the threshold.
SLOWER = 1.5
#: Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean of seeds and the half width of its 95 % interval (Student's t); None where the spread is unknown."""
    found = np.asarray(values, float)
    if len(found) < 2 or np.ptp(found) == 0:
        return float(found.mean()), None
    quantile = STUDENT[min(len(found) - 1, len(STUDENT)) - 1]
    return float(found.mean()), quantile * float(found.std(ddof=1)) / len(found) ** 0.5


def number(value: float) -> str:
    """Three or four digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def shown(values: Sequence[float]) -> str:
    """Mean and interval of seeds as text."""
    if not values:
        return "-"
    mean, half = interval(values)
    return number(mean) if half is None else f"{number(mean)} ± {number(half)}"


def write_report(plan: Plan, out: Path, *, command: str) -> str:
    """Write both files. -> the text."""
    results: Results = {(found["label"], found["seed"]): found for found in read_results(out)}
    runs = plan.runs()
    missing = [f"{task.label}-s{seed}" for task, seed in runs if (task.label, seed) not in results]
    if len(missing) == len(runs):
        return f"there are no results in {out} yet"
    body = _invariance(plan, results) if plan.invariance else _breadth(plan, results)
    lines = [f"# {plan.name}", "", *body, "", _origin(results, command)]
    if missing:
        some = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        lines += ["", f"**{len(missing)} of {len(runs)} runs are missing**: {some}."]
    text = "\n".join(lines) + "\n"
    (out / "report.md").write_text(text, encoding="utf-8")
    draw(plan, results, out / "report.png")
    return text


def _of(task: Task, plan: Plan, results: Results) -> list[Mapping[str, Any]]:
    return [results[task.label, seed] for seed in plan.seeds if (task.label, seed) in results]


def _origin(results: Results, command: str) -> str:
    """Where the numbers come from."""
    found = list(results.values())
    names = {
        "learner": {x["learner"] for x in found},
        "commit": {str(x["commit"]) for x in found},
        "processor": {x["hardware"]["processor"] for x in found},
    }
    words = "; ".join(f"{name}: {', '.join(sorted(each))}" for name, each in names.items())
    cpu = sum(x["cpu_seconds"] for x in found) / 3600
    return f"{words}; {len(found)} runs, one thread each, {cpu:.1f} CPU hours besides the evaluations. `{command}`"


# -------------------------------------------------------------------------------------------------------------- breadth


def needed(seeds: int) -> int:
    """How many seeds have to solve a task: 4 of 5, 2 of 3."""
    return int(np.ceil(0.8 * seeds)) if seeds > 3 else int(np.ceil(0.6 * seeds))


def _breadth(plan: Plan, results: Results) -> list[str]:
    rows, solved, decided = [], 0, 0
    for task in plan.tasks:
        found = _of(task, plan, results)
        if not found:
            rows.append(f"| {task.label} | {task.threshold:g} | {task.random:g} | no run yet | | | | |")
            continue
        count, enough = sum(x["solved"] for x in found), needed(len(plan.seeds))
        finished = len(found) == len(plan.seeds) or count >= enough
        solved, decided = solved + (count >= enough), decided + finished
        reached = [x["first_reached"] for x in found if x["first_reached"]]
        steps = f"{np.median([x['env_steps'] for x in reached]):,.0f} ({len(reached)})" if reached else "-"
        cpu = f"{np.median([x['cpu_seconds'] for x in reached]) / 60:.1f}" if reached else "-"
        mark = f"**{count} of {len(found)}**" if count >= enough else f"{count} of {len(found)}"
        rows.append(
            f"| {task.label} | {task.threshold:g} | {task.random:g} | {mark} "
            f"| {shown([x['final']['mean'] for x in found])} | {steps} | {cpu} "
            f"| {np.median([x['env_steps'] for x in found]):,.0f} / "
            f"{np.median([x['cpu_seconds'] for x in found]) / 60:.1f} |"
        )
    head = [
        f"Solved by at least {needed(len(plan.seeds))} of {len(plan.seeds)} seeds: **{solved} of {len(plan.tasks)} "
        f"tasks** ({len(plan.tasks) - decided} undecided). A run is solved if the mean of its last evaluation is at or "
        "above the threshold.",
        "",
        "| task | threshold | random | solved | last evaluation, mean of seeds ± 95 % | steps to the threshold, median "
        "of the seeds that reached it | CPU minutes to it | steps / CPU minutes of a run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return head + rows


# ----------------------------------------------------------------------------------------------------------- invariance


def steps_to_threshold(result: Mapping[str, Any]) -> float:
    """Environment steps at the first evaluation at or above the threshold; infinity if there was none."""
    return result["first_reached"]["env_steps"] if result["first_reached"] else float("inf")


def cell_verdict(plain: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], seeds: int) -> str:
    """ "solved", "NOT solved" or "undecided": do enough runs reach it within SLOWER times the plain cell's steps?"""
    if not plain or not found:
        return "undecided"
    allowed = SLOWER * float(np.median([steps_to_threshold(x) for x in plain]))
    good = sum(steps_to_threshold(x) <= allowed and np.isfinite(steps_to_threshold(x)) for x in found)
    if good >= needed(seeds):
        return "solved"
    return "undecided" if good + seeds - len(found) >= needed(seeds) else "NOT solved"


def _invariance(plan: Plan, results: Results) -> list[str]:
    names = list(dict.fromkeys(task.cell for task in plan.tasks))
    tasks = {task.name: {other.cell: other for other in plan.tasks if other.name == task.name} for task in plan.tasks}
    rows, solved, cells = [], 0, 0
    for name, own in tasks.items():
        plain = _of(own[PLAIN], plan, results) if PLAIN in own else []
        entries = []
        for cell in names:
            if cell not in own:
                entries.append("left out")
                continue
            found = _of(own[cell], plan, results)
            verdict = cell_verdict(plain, found, len(plan.seeds))
            cells, solved = cells + 1, solved + (verdict == "solved")
            steps = ", ".join("never" if np.isinf(s) else f"{s:,}" for s in map(steps_to_threshold, found))
            entries.append(f"{verdict}: {steps or 'no run yet'}")
        rows.append(f"| {name} | {next(iter(own.values())).threshold:g} | " + " | ".join(entries) + " |")
    return [
        f"**{solved} of {cells} cells solved**: the threshold of the original score reached by "
        f"{needed(len(plan.seeds))} of {len(plan.seeds)} seeds within {SLOWER:g} times the steps of the plain cell "
        "(median of its seeds). "
        "Environment steps to the threshold, seed by seed:",
        "",
        "| task | threshold | " + " | ".join(names) + " |",
        "|---|---|" + "---|" * len(names),
        *rows,
    ]


# ---------------------------------------------------------------------------------------------------------------- image


def band(curves: Sequence[Sequence[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(x, mean, half width) over seeds where all curves have a point before; straight lines between points."""
    ends = min(curve[-1][0] for curve in curves)
    x = np.unique([point for curve in curves for point, _ in curve if point <= ends])
    y = np.array([np.interp(x, [p for p, _ in curve], [v for _, v in curve]) for curve in curves])
    pairs = [interval(column) for column in y.T]
    return x, np.array([mean for mean, _ in pairs]), np.array([half or 0.0 for _, half in pairs])


def draw(plan: Plan, results: Results, path: Path) -> None:
    """A panel per task: every seed's evaluations thin, their mean thick with its 95 % interval."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(task.name for task in plan.tasks))
    columns = min(4 if not plan.invariance else 2, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * lines), dpi=110, layout="constrained")
    panels = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    for axes, name in zip(panels, names, strict=False):
        own = [task for task in plan.tasks if task.name == name]
        for index, task in enumerate(own):
            curves = [
                [(0, task.random), *((m["env_steps"], m["mean"]) for m in x["evaluations"])]
                for x in _of(task, plan, results)
            ]
            for curve in curves:
                axes.plot(*zip(*curve, strict=True), color=f"C{index}", lw=0.6, alpha=0.45)
            if curves:
                x, mean, half = band(curves)
                label = task.cell if plan.invariance else None
                axes.plot(x, mean, color=f"C{index}", lw=1.8, label=label)
                axes.fill_between(x, mean - half, mean + half, color=f"C{index}", alpha=0.15, lw=0)
        axes.axhline(own[0].threshold, color="tab:green", lw=1, ls=":")
        axes.axhline(own[0].random, color="0.5", lw=1, ls="--")
        levels = [y for line in axes.lines for y in np.asarray(line.get_ydata(), float)]
        low, high = min(levels), max(levels)
        axes.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
        axes.set_title(f"{name} ({len(_of(own[0], plan, results))} seeds)", fontsize=9)
        axes.set_xlim(left=0)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
        if plan.invariance and axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("environment steps", fontsize=9)
    figure.supylabel("return of an evaluation (dotted: threshold, dashed: random)", fontsize=9)
    figure.savefig(path)
