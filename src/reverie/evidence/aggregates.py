"""Over many tasks at once: own experiments beside published ones, on the same games; and one against another.

Where only a method's mean per game is published, what needs single runs (IQM of runs, optimality gap, intervals) is
left out for it instead of being made up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import counted
from . import record
from .compare import SeedGroup, Verdict, budget_score, final_score, window_score
from .results import RunResult
from .statistics import (
    AGGREGATES,
    Interval,
    Scores,
    bootstrap,
    performance_profile,
    probability_of_improvement,
    student,
)
from .tables import Cell, Table, millions, number, ranged

#: Methods of Atari-100k whose performance profiles stand beside ours.
PROFILED = ("DreamerV3 (Nature repo)", "DreamerV3 (2023 paper)")
#: How a run of Atari-100k is scored: DreamerV3's rule, and that of most others.
RULES: Mapping[str, Callable[[RunResult], float]] = {
    "training episodes, 390-400k": window_score,
    "final evaluation": budget_score,
}
LEVELS = np.linspace(0, 2, 81)
MOST_PAIRED = 4


def normalised(verdicts: Sequence[Verdict], score: Callable[[RunResult], float] | None = None) -> dict[str, np.ndarray]:
    """{game: human-normalised score of each seed}. score: of a result; None: as the verdict has it."""
    found = {}
    for each in verdicts:
        raw = each.seeds if score is None else [score(result) for result in each.group.results]
        values = np.array([value for value in raw if np.isfinite(value)], float)
        if len(values):
            found[each.key] = np.asarray(record.human_normalised(each.key, values))
    return found


def by_label(verdicts: Sequence[Verdict], reference: str) -> dict[str, list[Verdict]]:
    """Verdicts with a score against a reference, by experiment."""
    found: dict[str, list[Verdict]] = {}
    for each in verdicts:
        if each.reference == reference and len(each.seeds):
            found.setdefault(each.group.label, []).append(each)
    return found


def own_row(scores: Scores) -> dict[str, Interval]:
    """Every aggregate with its stratified bootstrap interval. [(seeds)] per game."""
    return {name: bootstrap(statistic, scores) for name, statistic in AGGREGATES.items()}


def budget_tables(verdicts: Sequence[Verdict]) -> list[Table]:
    """Atari-100k: own experiments under both rules, and every method, over the games that all seeds of ours have."""
    return [
        _budget_table(label, found, rule)
        for label, found in by_label(verdicts, "atari-100k").items()
        for rule in RULES
        if normalised(found, RULES[rule])
    ]


def _budget_table(label: str, verdicts: Sequence[Verdict], rule: str) -> Table:
    scores = normalised(verdicts, RULES[rule])
    games, ours = list(scores), list(scores.values())
    counts = sorted({len(each) for each in ours})
    header = ["agent", "mean", "median", "IQM", "optimality gap", "mean without top", "above human", "P(ours better)"]
    row = own_row(ours)
    above = sum(float(each.mean()) >= 1 for each in ours)
    rows = [[f"{label}, {rule}", *(ranged(row[name]) for name in AGGREGATES), f"{above} of {len(games)}", "–"]]
    for name, found in record.budget_table(games).items():
        theirs = [np.array([record.human_normalised(game, record.budget_methods()[name][game])]) for game in games]
        better = bootstrap(lambda mine, other=theirs: probability_of_improvement(mine, _alike(other, mine)), ours)
        figures = [number(found["mean"]), number(found["median"]), "–", "–", number(found["mean without top"])]
        rows.append([name, *figures, f"{found['above human']} of {len(games)}", ranged(better)])
    notes = [
        f"Human-normalised, over {counted(len(games), 'game')}, the same for every agent: {', '.join(games)}.",
        f"Seeds per game of ours: {'-'.join(map(str, counts))}; brackets: 95 % stratified bootstrap over them"
        + (", which needs a second seed of every game." if counts[0] == 1 else "."),
        "Of others only means per game are published in a common form; P: against those means.",
    ]
    if len(games) < 26:
        notes.append(f"{len(games)} of the benchmark's 26 games: these aggregates are not the benchmark's.")
    return Table(f"Atari-100k, {label}", header, rows, notes=notes)


def _alike(theirs: Scores, mine: Scores) -> list[np.ndarray]:
    """One published mean per game, for as many replicas as there are of ours."""
    return [np.broadcast_to(each, (*own.shape[:-1], 1)) for each, own in zip(theirs, mine, strict=True)]


def curve_table(verdicts: Sequence[Verdict]) -> list[Table]:
    """DreamerV2's own protocol: each experiment's aggregates beside the official ones at each game's frames."""
    tables = []
    for label, found in by_label(verdicts, "dreamerv2-atari").items():
        ours = normalised(found)
        theirs = {
            each.key: np.array([record.human_normalised(each.key, each.published[0])])
            for each in found
            if each.published
        }
        row, other = own_row(list(ours.values())), {n: s(list(theirs.values())) for n, s in AGGREGATES.items()}
        frames = ", ".join(f"{each.key} {millions(each.frames)}" for each in found)
        known = [number(float(other[n])) if n in ("mean", "median", "mean without top") else "–" for n in AGGREGATES]
        rows = [
            [label, *(ranged(row[name]) for name in AGGREGATES)],
            [record.TITLES["dreamerv2-atari"], *known],
        ]
        note = (
            f"Human-normalised, {len(ours)} of 55 games at the same frames: {frames}. Brackets: 95 % stratified "
            "bootstrap. Of the official runs each game's mean is published: no IQM of runs, no optimality gap."
        )
        tables.append(Table(f"Atari, {label}", ["agent", *AGGREGATES], rows, note))
    return tables


def control_tables(groups: Sequence[SeedGroup]) -> list[Table]:
    """Tasks of the control suite beside what others scored at 100k, 500k or 1M frames: an overview, not a test."""
    tables = []
    for kind in ("vision", "proprio"):
        rows: dict[str, dict[str, str]] = {}
        for each in groups:
            key = record.task_key(each.task)
            if each.facts.get("suite") != "dmc" or bool(each.facts.get("pixels")) != (kind == "vision") or not key:
                continue
            others = record.control_others(kind, key)
            budgets = [float(b) for b in next(iter(others.values()), {}) if float(b) <= each.frames]
            if each.facts.get("episode_steps") != 1000 or not budgets:
                continue
            budget, column = max(budgets), f"{key} at {millions(max(budgets))}"
            scores = [r.scores(("prefill", "train"), 0.9 * budget, budget) for r in each.results]
            found = [float(score.mean()) for score in scores if len(score)]
            rows.setdefault(each.label, {})[column] = ranged(student(found) if found else None)
            for name, curve in others.items():
                rows.setdefault(name, {})[column] = number(curve.get(str(int(budget))))
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        if columns:
            body = [[name, *(row.get(column, "–") for column in columns)] for name, row in rows.items()]
            note = (
                "Training episodes in the last tenth before that many simulator steps; of others as DreamerV3's score "
                "files have them, each under its own action repeat. An overview: no verdict follows from it."
            )
            tables.append(Table(f"Control from {kind}, and others", ["agent", *columns], body, note))
    return tables


def profiles(verdicts: Sequence[Verdict]) -> dict[str, np.ndarray]:
    """{agent: share of its runs above each of LEVELS} for every experiment that has human-normalised scores."""
    found = {}
    for reference in ("atari-100k", "dreamerv2-atari"):
        for label, each in by_label(verdicts, reference).items():
            found[label] = performance_profile(list(normalised(each).values()), LEVELS.tolist())
            if reference == "atari-100k":
                games = [verdict.key for verdict in each]
                for method in PROFILED:
                    scores = [np.array([record.human_normalised(g, record.budget_methods()[method][g])]) for g in games]
                    found[f"{method} (means)"] = performance_profile(scores, LEVELS.tolist())
    return found


def own_table(groups: Sequence[SeedGroup]) -> Table:
    """Experiments on tasks without published scores: last evaluations, and random play where it was measured."""
    rows = []
    for each in groups:
        scores = [score for score in map(final_score, each.results) if np.isfinite(score)]
        chance = np.concatenate([result.scores("random") for result in each.results])
        steps = sorted({result.env_steps for result in each.results})
        shown = Cell(f"{steps[0]:,}" if steps[-1] <= 1.1 * steps[0] else f"{steps[0]:,} to {steps[-1]:,}", [steps[0]])
        level = number(float(chance.mean())) if len(chance) else "–"
        rows.append(
            [each.label, each.task, ranged(student(scores) if scores else None), level, str(len(scores)), shown]
        )
    header = ["experiment", "task", "last evaluation [95 %]", "random", "seeds", "steps"]
    return Table("Not judged: no published counterpart", header, rows, "Mean of seeds with Student's 95 % interval.")


def against_each_other(groups: Sequence[SeedGroup]) -> list[Table]:
    """P(a run of the row beats a run of the column) by last evaluation, over the tasks that both have.

    Of more than MOST_PAIRED experiments nothing: that many pairs say nothing; `reverie sweep` compares with a base. A
    task counts where its rules and its frames (within a tenth) are the same.
    """
    labels = list(dict.fromkeys(each.label for each in groups))
    if len(labels) > MOST_PAIRED:
        return []
    found = {(each.label, each.task): each for each in groups}
    tasks = list(dict.fromkeys(each.task for each in groups))
    rows = []
    for left in labels:
        for right in labels:
            pairs = [(found.get((left, task)), found.get((right, task))) for task in tasks]
            shared = [(one, two) for one, two in pairs if one and two and _alike_groups(one, two)]
            if left < right and shared:
                mine, theirs = ([_finals(each) for each in side] for side in zip(*shared, strict=True))
                better = bootstrap(probability_of_improvement, mine, theirs)
                seeds = "/".join(str(min(map(len, each))) for each in (mine, theirs))
                rows.append([left, right, ranged(better), str(len(shared)), seeds])
    if not rows:
        return []
    note = "P that a run of the first scores higher than one of the second; 0.5 is a tie; brackets: 95 % bootstrap."
    return [Table("Own experiments against each other", ["first", "second", "P", "tasks", "seeds"], rows, note)]


def _finals(group: SeedGroup) -> np.ndarray:
    return np.array([final_score(result) for result in group.results])


def _alike_groups(one: SeedGroup, two: SeedGroup) -> bool:
    """May their scores be compared?"""
    facts, others = ({k: v for k, v in each.facts.items() if k != "line"} for each in (one, two))
    known = all(np.isfinite(_finals(each)).all() for each in (one, two))
    return known and facts == others and abs(one.frames - two.frames) <= 0.1 * max(one.frames, two.frames)


def published_tables() -> list[Table]:
    """What the shipped files say by themselves: the paper's Table 1, and Atari-100k."""
    header = ["agent", "gamer median", "gamer mean", "record mean", "clipped record mean"]
    agents = {"DreamerV2 (8 seeds)": "dv2_8", "with schedules (4)": "sched_4", "without schedules (3)": "nosched_3"}
    rows = [[name, *(f"{value:.3f}" for value in record.paper_table(runs).values())] for name, runs in agents.items()]
    note = (
        "DreamerV2's Table 1, 55 games at 200M frames, from the score files: each game's mean over seeds first, James "
        "Bond's random play 7 as in the paper (29 is right; then the gamer mean is 11.525)."
    )
    paper = Table("DreamerV2, 200M frames", header, rows, note)
    names = ["mean", "median", "IQM of games", "mean without top"]
    found: list[list[Any]] = [
        [name, *(f"{row[each]:.3f}" for each in names), str(row["above human"])]
        for name, row in record.budget_table().items()
    ]
    note = "Human-normalised, from each method's mean per game; sources: data/atari100k.json in the package."
    scale = [
        [name, *(f"{row[each]:.3f}" for each in names), str(row["above human"])]
        for name, row in ((name, record.aggregates_of_means(each)) for name, each in record.for_scale().items())
    ]
    header = ["agent", *names, "above human"]
    other = "Sticky actions and all 18 of them, 200M-frame settings: no results of Atari-100k, only for scale."
    return [
        paper,
        Table("Atari-100k, 26 games", header, found, note),
        Table("The same games early in DreamerV2's official runs", header, scale, other),
    ]
