"""What a setting is worth: each variant beside the base, task by task, with intervals, and what so few seeds can show.

Two scores of a run: its last evaluation, and the mean return of training episodes over the whole run (how quickly it
learnt; each tenth of the steps counts the same, so that many short episodes do not outweigh a few long ones).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from .compare import final_score
from .plan import Plan
from .results import Result
from .statistics import (
    Difference,
    bootstrap,
    holm,
    probability_of_improvement,
    student,
    visible_difference,
    welch,
)
from .tables import Table, number

#: Parts of a run whose mean returns are averaged.
PARTS = 10


def learning_score(result: Result) -> float:
    """Mean of the training return over the run's tenths; a tenth without an episode's end keeps the one before."""
    return float(np.nanmean(curve_of(result))) if np.isfinite(curve_of(result)).any() else math.nan


def curve_of(result: Result, parts: int = PARTS) -> np.ndarray:
    """Training return (parts): means of episodes that end in each part; gaps keep the value before; NaN at first."""
    ends = result.frames * np.arange(1, parts + 1) / parts
    found, last = [], math.nan
    for after, upto in zip([0, *ends[:-1]], ends, strict=True):
        scores = result.scores("train", after, upto)
        last = float(scores.mean()) if len(scores) else last
        found.append(last)
    return np.array(found)


SCORES: Mapping[str, Callable[[Result], float]] = {
    "last evaluation": final_score,
    "training return, whole run": learning_score,
}


class Cell(NamedTuple):
    """A variant on a task. difference: from the base; p: of no difference, after Holm's correction over the table."""

    seeds: np.ndarray
    difference: Difference | None
    p: float | None
    identical: bool  # to the base, in every seed

    @property
    def clear(self) -> bool:
        """Is there a difference, whatever else was looked at?"""
        return self.p is not None and self.p < 0.05


class Findings(NamedTuple):
    """One score of everything."""

    score: str
    tasks: Sequence[str]
    variants: Sequence[str]  # the base first
    cells: Mapping[tuple[str, str], Cell]  # (variant, task)


def findings(plan: Plan, results: Sequence[Result], score: str) -> Findings:
    """Compare each variant with the first one on every task. Raises UserError where there are no results."""
    if not results:
        raise UserError("there are no results yet.", "Run the sweep first.")
    names = {job.config.env.id: job.task for job in plan.jobs}
    values: dict[tuple[str, str], dict[int, float]] = {}
    for result in results:
        place = (result.label, names[result.task])
        values.setdefault(place, {})[result.seed] = SCORES[score](result)
    base = plan.variants[0].name
    cells = {}
    for (variant, task), seeds in values.items():
        mine = _finite(seeds)
        reference = values.get((base, task), {})
        others = _finite(reference)
        difference = welch(mine, others) if variant != base and len(mine) and len(others) else None
        same = variant != base and len(mine) > 0 and seeds == reference
        cells[variant, task] = Cell(mine, difference, None, same)
    places = list(cells)
    adjusted = holm([_p(cells[place]) for place in places])
    cells = {place: cells[place]._replace(p=p) for place, p in zip(places, adjusted, strict=True)}
    tasks = [task.name for task in plan.tasks if any(place[1] == task.name for place in cells)]
    variants = [each.name for each in plan.variants if any(place[0] == each.name for place in cells)]
    return Findings(score, tasks, variants, cells)


def _finite(seeds: Mapping[int, float]) -> np.ndarray:
    found = np.array([seeds[seed] for seed in sorted(seeds)], float)
    return found[np.isfinite(found)]


def _p(cell: Cell) -> float | None:
    return cell.difference.p if cell.difference else None


# --------------------------------------------------------------------------------------------------------------- report


def table(found: Findings) -> Table:
    """Rows are variants; a column per task, and over all tasks the probability of beating the base."""
    rows = []
    for variant in found.variants:
        row = [variant]
        for task in found.tasks:
            cell = found.cells.get((variant, task))
            row += _cell(cell) if cell else ["as the base", "–"]
        rows.append([*row, _probability(found, variant)])
    header = ["variant"]
    for task in found.tasks:
        header += [f"{task} [95 %]", "minus base [95 %]"]
    note = (
        "Mean of seeds and Student's 95 % interval; differences by Welch's t. *: p < 0.05 after Holm's correction for "
        "all comparisons of this table. P: that a run of the variant beats one of the base, over tasks."
    )
    return Table(found.score.capitalize(), [*header, "P(better)"], rows, note)


def _cell(cell: Cell) -> list[str]:
    mean = student(cell.seeds) if len(cell.seeds) else None
    if mean is None:
        return ["–", "–"]
    shown = number(mean.value)
    if mean.low is not None:
        shown += f" [{number(mean.low)}, {number(mean.high)}]"
    if cell.identical:
        return [shown, "identical"]
    difference = cell.difference
    if difference is None:
        return [shown, "–"]
    text = f"{'+' if difference.value >= 0 else ''}{number(difference.value)}"
    if difference.low is not None:
        text += f" [{number(difference.low)}, {number(difference.high)}]"
    return [shown, text + (" *" if cell.clear else "")]


def _probability(found: Findings, variant: str) -> str:
    base = found.variants[0]
    shared = [t for t in found.tasks if (variant, t) in found.cells and (base, t) in found.cells]
    groups = [[found.cells[name, task].seeds for task in shared] for name in (variant, base)]
    if variant == base or not shared or any(not len(seeds) for group in groups for seeds in group):
        return "–"
    return bootstrap(probability_of_improvement, *groups).text(2)


def sentences(found: Findings) -> list[str]:
    """What the numbers say and what they cannot say, in words."""
    base = found.variants[0]
    compared = {place: cell for place, cell in found.cells.items() if cell.difference and not cell.identical}
    clear = {place: cell for place, cell in compared.items() if cell.clear}
    told = []
    for (variant, task), cell in clear.items():
        assert cell.difference is not None
        way = "higher" if cell.difference.value > 0 else "lower"
        size = number(abs(cell.difference.value))
        told.append(f"{variant} on {task} is {way} than {base} by {size} (p = {cell.p:.2g} after correction)")
    head = f"By {found.score}, {len(clear)} of {len(compared)} comparisons with {base} are clear"
    lines = [head + (f": {'; '.join(told)}." if told else ".")]
    same = [f"{variant} on {task}" for (variant, task), cell in found.cells.items() if cell.identical]
    if same:
        lines.append(f"No effect at all, every seed's score is identical to the base's: {'; '.join(same)}.")
    return [*lines, *_limits(found, base)]


def _limits(found: Findings, base: str) -> list[str]:
    parts = []
    for task in found.tasks:
        cell = found.cells.get((base, task))
        if cell is None or len(cell.seeds) < 2:
            continue
        spread = float(cell.seeds.std(ddof=1))
        parts.append(f"{number(visible_difference(spread, len(cell.seeds)))} on {task}")
    counts = sorted({len(cell.seeds) for cell in found.cells.values()})
    count = f"{counts[0]} seed{'s' * (counts[0] != 1)}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    if not parts:
        return [f"With {count} no interval can be given and nothing is shown: run at least two, better five or more."]
    return [
        f"What {count} can show: if {base}'s seeds spread as here, a true difference smaller than {', '.join(parts)} "
        "would be missed in more than one of five repetitions, before correction; what is not marked is not shown to "
        "be equal. All of it holds for these tasks, sizes and budgets only."
    ]


def report(plan: Plan, results: Sequence[Result]) -> tuple[list[str], list[Table], dict[str, Any], dict[str, Any]]:
    """-> words, tables, {name: matplotlib figure}, facts for JSON. Raises UserError."""
    from .figures import intervals, learning

    words, tables, figures, facts = _head(plan, results), [], {}, {}
    for score in SCORES:
        found = findings(plan, results, score)
        words += sentences(found)
        tables.append(table(found))
        facts[score] = _facts(found)
        key = score.split(",")[0].replace(" ", "-")
        panels: dict[str, dict[str, Any]] = {}
        seeds: dict[str, dict[str, Any]] = {}
        for task in found.tasks:
            shown = {v: found.cells[v, task] for v in found.variants if (v, task) in found.cells}
            panels[task] = {name: student(cell.seeds) for name, cell in shown.items() if len(cell.seeds)}
            seeds[task] = {name: cell.seeds.tolist() for name, cell in shown.items()}
        figures[key] = intervals(found.variants, panels, seeds)
    figures["learning"] = learning(_curves(plan, results))
    return words, tables, figures, {"name": plan.name, "words": words, "scores": facts}


def _head(plan: Plan, results: Sequence[Result]) -> list[str]:
    missing = len(plan.jobs) - len(results)
    commits = sorted({str(result.provenance.get("commit")) for result in results})
    hours = sum(result.seconds for result in results) / 3600
    hardware = sorted({str(result.provenance.get("hardware")) for result in results})
    variants = len({job.variant for job in plan.jobs})
    lines = [
        f"{len(results)} runs, {hours:.1f} hours of training; {variants} variants, {len(plan.tasks)} task(s), "
        f"seeds {', '.join(map(str, plan.seeds))}. Commit {', '.join(commits)}; hardware {'; '.join(hardware)}."
    ]
    if missing:
        lines.append(f"{missing} of {len(plan.jobs)} runs are missing: this is a part of the sweep.")
    return lines


def _facts(found: Findings) -> list[dict[str, Any]]:
    return [
        {
            "variant": variant,
            "task": task,
            "seeds": cell.seeds.tolist(),
            "mean": float(cell.seeds.mean()) if len(cell.seeds) else None,
            "difference": cell.difference._asdict() if cell.difference else None,
            "p_holm": cell.p,
            "identical_to_base": cell.identical,
        }
        for (variant, task), cell in found.cells.items()
    ]


def _curves(plan: Plan, results: Sequence[Result]) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    names = {job.config.env.id: job.task for job in plan.jobs}
    found: dict[str, dict[str, list[Result]]] = {task.name: {} for task in plan.tasks}
    for variant in plan.variants:
        for result in results:
            if result.label == variant.name:
                found[names[result.task]].setdefault(variant.name, []).append(result)
    curves = {}
    for task, rows in found.items():
        if rows:
            curves[task] = {
                name: (
                    np.mean([r.env_steps for r in each]) * (np.arange(PARTS) + 1) / PARTS,
                    np.stack([curve_of(r) for r in each]),
                )
                for name, each in rows.items()
            }
    return curves
