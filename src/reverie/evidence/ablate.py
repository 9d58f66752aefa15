"""The effect of settings: each variant against the base, task by task, with intervals, and what so few seeds can show.

Two scores of a run: its last evaluation, and the mean return of training episodes over the whole run (how quickly it
learnt; each tenth of the steps counts the same, so that many short episodes do not outweigh a few long ones).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError, counted
from .compare import final_score
from .plan import Plan, PlannedRun
from .results import RunResult
from .statistics import (
    Difference,
    Interval,
    bootstrap,
    holm,
    probability_of_improvement,
    student,
    visible_difference,
    welch,
)
from .tables import Cell as NumberCell
from .tables import Table, number, ranged

#: Results of a sweep with the jobs they are of.
Pairs = Sequence[tuple[PlannedRun, RunResult]]
#: Parts of a run whose mean returns are averaged.
PARTS = 10


def learning_score(result: RunResult) -> float:
    """Mean of the training return over the run's tenths; a tenth without an episode's end keeps the one before."""
    return float(np.nanmean(curve_of(result))) if np.isfinite(curve_of(result)).any() else math.nan


def curve_of(result: RunResult, parts: int = PARTS) -> np.ndarray:
    """Training return (parts): means of episodes that end in each part; gaps keep the value before; NaN at first."""
    ends = result.frames * np.arange(1, parts + 1) / parts
    found, last = [], math.nan
    for after, upto in zip([0, *ends[:-1]], ends, strict=True):
        scores = result.scores("train", after, upto)
        last = float(scores.mean()) if len(scores) else last
        found.append(last)
    return np.array(found)


SCORES: Mapping[str, Callable[[RunResult], float]] = {
    "last evaluation": final_score,
    "training return, whole run": learning_score,
}


class Cell(NamedTuple):
    """A variant on a task. difference: from the base; p: of no difference, after Holm's correction over one score's
    table."""

    seeds: np.ndarray
    difference: Difference | None
    p: float | None
    equal: bool  # the same scores as the base, in every seed
    identical: bool  # and the same returns of every training episode: the setting did nothing

    @property
    def clear(self) -> bool:
        """Is there a difference, after the correction for all comparisons of the table?"""
        return self.p is not None and self.p < 0.05


class Findings(NamedTuple):
    """One score of everything."""

    score: str
    tasks: Sequence[str]
    variants: Sequence[str]  # the base first
    cells: Mapping[tuple[str, str], Cell]  # (variant, task), where there are results
    planned: frozenset[tuple[str, str]]

    @property
    def base(self) -> str:
        """What the others are compared with."""
        return self.variants[0]


def findings(plan: Plan, results: Pairs, score: str) -> Findings:
    """Compare each variant with the first one on every task. Raises UserError where there are no results."""
    if not results:
        raise UserError("there are no results yet.", "Run the sweep first.")
    found: dict[tuple[str, str], dict[int, RunResult]] = {}
    for job, result in results:
        found.setdefault((job.variant, job.task), {})[job.seed] = result
    base = plan.variants[0].name
    cells = {
        place: _cell_of(each, found.get((base, place[1]), {}), score, place[0] == base) for place, each in found.items()
    }
    adjusted = holm([_p(cell) for cell in cells.values()])
    cells = {place: cell._replace(p=p) for (place, cell), p in zip(cells.items(), adjusted, strict=True)}
    planned = frozenset((job.variant, job.task) for job in plan.jobs)
    variants = [each.name for each in plan.variants if any(place[0] == each.name for place in planned)]
    return Findings(score, [task.name for task in plan.tasks], variants, cells, planned)


def _cell_of(mine: Mapping[int, RunResult], theirs: Mapping[int, RunResult], score: str, is_base: bool) -> Cell:
    scores, others = ({seed: SCORES[score](each[seed]) for seed in sorted(each)} for each in (mine, theirs))
    left, right = _finite(scores), _finite(others)
    if is_base:
        return Cell(left, None, None, False, False)
    difference = welch(left, right) if len(left) and len(right) else None
    equal = len(left) > 0 and scores == others
    same = equal and all(np.array_equal(mine[s].scores("train"), theirs[s].scores("train")) for s in mine)
    return Cell(left, difference, None, equal, same)


def _finite(seeds: Mapping[int, float]) -> np.ndarray:
    found = np.array(list(seeds.values()), float)
    return found[np.isfinite(found)]


def _p(cell: Cell) -> float | None:
    return cell.difference.p if cell.difference and not cell.identical else None  # nothing is compared there


# --------------------------------------------------------------------------------------------------------------- report


def table(found: Findings) -> Table:
    """Rows are variants; a column per task, and over all tasks the probability of beating the base."""
    rows = []
    for variant in found.variants:
        row = [variant]
        for task in found.tasks:
            missing = "no result yet" if (variant, task) in found.planned else "as the base"
            cell = found.cells.get((variant, task))
            row += _cell(cell) if cell else [missing, "–"]
        rows.append([*row, _probability(found, variant)])
    header = ["variant"]
    for task in found.tasks:
        header += [f"{task} [95 %]", f"{f'{task} ' * (len(found.tasks) > 1)}minus base [95 %]"]
    note = (
        "Mean of seeds and Student's 95 % interval; differences by Welch's t. *: p < 0.05 after Holm's correction for "
        "all comparisons of this table. P: that a run of the variant beats one of the base, over tasks."
    )
    return Table(found.score.capitalize(), [*header, "P(better)"], rows, note)


def _cell(cell: Cell) -> list[str]:
    shown, difference = ranged(student(cell.seeds) if len(cell.seeds) else None), cell.difference
    if cell.identical:
        return [shown, "identical"]
    if difference is None:
        return [shown, "–"]
    sign, numbers = "+" if difference.value >= 0 else "", (*difference[:3], cell.p)
    text = sign + ranged(Interval(*difference[:3])) + (" *" if cell.clear else "")
    return [shown, NumberCell(text, numbers, ("", "low", "high", "p"))]


def _probability(found: Findings, variant: str) -> str:
    shared = [t for t in found.tasks if {(variant, t), (found.base, t)} <= set(found.cells)]
    groups = [[found.cells[name, task].seeds for task in shared] for name in (variant, found.base)]
    if variant == found.base or not shared or any(not len(seeds) for group in groups for seeds in group):
        return "–"
    return ranged(bootstrap(probability_of_improvement, *groups))


def sentences(found: Findings) -> list[str]:
    """What the numbers show and what they cannot show, as sentences."""
    compared = {place: cell for place, cell in found.cells.items() if cell.p is not None and not cell.identical}
    clear = []
    for (variant, task), cell in compared.items():
        if cell.clear and cell.difference:
            way, size = "higher" if cell.difference.value > 0 else "lower", number(abs(cell.difference.value))
            clear.append(
                f"{variant} on {task} is {way} than {found.base} by {size} (p = {cell.p:.1g} after correction)"
            )
    head = f"By {found.score}, {len(clear)} of {len(compared)} comparisons with {found.base} are clear"
    lines = [head + (f": {'; '.join(clear)}." if clear else ".")] if compared else []
    same = [f"{variant} on {task}" for (variant, task), cell in found.cells.items() if cell.identical]
    if same:
        lines.append(f"No effect at all, every episode of every seed is the base's: {'; '.join(same)}.")
    level = [f"{v} on {t}" for (v, t), cell in found.cells.items() if cell.equal and not cell.identical]
    if level:
        lines.append(f"The same scores as the base though not the same runs (floor or ceiling?): {'; '.join(level)}.")
    return [*lines, *_limits(found)]


def _limits(found: Findings) -> list[str]:
    counts = sorted({len(cell.seeds) for cell in found.cells.values()})
    count = f"{counts[0]} seed{'s' * (counts[0] != 1)}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    if counts[-1] < 2:
        return [f"With {count} no interval can be given and nothing is shown: run at least two, better five or more."]
    bases = {task: found.cells[found.base, task].seeds for task in found.tasks if (found.base, task) in found.cells}
    spreads = {task: float(seeds.std(ddof=1)) for task, seeds in bases.items() if len(seeds) > 1}
    seen = [f"{number(visible_difference(x, len(bases[task])))} on {task}" for task, x in spreads.items() if x > 0]
    flat = [task for task, x in spreads.items() if x == 0]
    lines = (
        [f"{found.base}'s seeds all score the same on {', '.join(flat)}: no interval, no test there."] if flat else []
    )
    if seen:
        lines.append(
            f"What {count} can show: if {found.base}'s seeds spread as here, a true difference smaller than "
            f"{', '.join(seen)} would be missed in more than one of five repetitions, before correction; what is not "
            "marked is not shown to be equal. All of it holds for these tasks, sizes and budgets only."
        )
    return lines


def report(plan: Plan, results: Pairs) -> tuple[list[str], list[Table], dict[str, Any], dict[str, Any]]:
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
        for task in dict.fromkeys(place[1] for place in found.cells):
            shown = {v: found.cells[v, task] for v in found.variants if (v, task) in found.cells}
            panels[task] = {name: student(cell.seeds) for name, cell in shown.items() if len(cell.seeds)}
            seeds[task] = {name: cell.seeds.tolist() for name, cell in shown.items()}
        figures[key] = intervals(found.variants, panels, seeds)
    figures["learning"] = learning(_curves(plan, results))
    return words, tables, figures, {"name": plan.name, "words": words, "scores": facts}


def _head(plan: Plan, results: Pairs) -> list[str]:
    found = [result for _, result in results]
    hours = sum(result.seconds for result in found) / 3600
    commits = sorted({str(result.provenance.get("commit") or "unknown") for result in found})
    machines = sorted({_machine(result) for result in found})
    variants = len({job.variant for job in plan.jobs})
    lines = [
        f"{len(found)} runs, {hours:.1f} hours of training; {counted(variants, 'variant')}, "
        f"{counted(len(plan.tasks), 'task')}, seeds {', '.join(map(str, plan.seeds))}. "
        f"Commit {', '.join(commits)}; {'; '.join(machines)}."
    ]
    if len(found) < len(plan.jobs):
        lines.append(
            f"{len(plan.jobs) - len(found)} of {len(plan.jobs)} runs are missing: this is a part of the sweep."
        )
    return lines


def _machine(result: RunResult) -> str:
    facts = result.provenance.get("hardware") or {}
    what = facts.get("gpu") or f"{facts.get('cpus', '?')} CPUs"
    return f"{facts.get('machine', 'unknown machine')}, {what}, {facts.get('threads', '?')} thread(s) a run"


def _facts(found: Findings) -> list[dict[str, Any]]:
    return [
        {
            "variant": variant,
            "task": task,
            "seeds": cell.seeds.tolist(),
            "mean": float(cell.seeds.mean()) if len(cell.seeds) else None,
            "difference": cell.difference._asdict() if cell.difference else None,
            "p_holm": cell.p,
            "same_scores_as_base": cell.equal,
            "identical_to_base": cell.identical,
        }
        for (variant, task), cell in found.cells.items()
    ]


def _curves(plan: Plan, results: Pairs) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    curves: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for task in plan.tasks:
        for variant in plan.variants:
            found = [r for job, r in results if (job.task, job.variant) == (task.name, variant.name)]
            if found:
                steps = np.mean([r.env_steps for r in found]) * (np.arange(PARTS) + 1) / PARTS
                curves.setdefault(task.name, {})[variant.name] = steps, np.stack([curve_of(r) for r in found])
    return curves
