"""Over many tasks at once: own experiments beside published ones, on the same games; and one against another.

Where only a method's mean per game is published, what needs single runs (IQM of runs, optimality gap, intervals) is
left out for it instead of being made up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from . import record
from .compare import Group, Verdict, final_score, window_score
from .results import Result
from .statistics import (
    AGGREGATES,
    Interval,
    Scores,
    bootstrap,
    performance_profile,
    probability_of_improvement,
    student,
)
from .tables import Table, number

#: Methods of Atari-100k that a terminal shows; files have all.
SHOWN = ("DreamerV3 (Nature repo)", "DreamerV3 (2023 paper)", "HarmonyDream (official)", "STORM", "DIAMOND", "SimPLe")
#: How a run of Atari-100k is scored: DreamerV3's rule, and that of most others.
RULES: Mapping[str, Callable[[Result], float]] = {
    "training episodes, 390-400k": window_score,
    "final evaluation": final_score,
}
LEVELS = np.linspace(0, 2, 81)
MOST_PAIRED = 4


def normalised(verdicts: Sequence[Verdict], score: Callable[[Result], float] | None = None) -> dict[str, np.ndarray]:
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
        for label, found in by_label(verdicts, "atari100k").items()
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
    rows = [[f"{label}, {rule}", *(row[name].text() for name in AGGREGATES), f"{above} of {len(games)}", "–"]]
    for name, found in record.budget_table(games).items():
        theirs = [np.array([record.human_normalised(game, record.budget_methods()[name][game])]) for game in games]
        better = bootstrap(lambda mine, other=theirs: probability_of_improvement(mine, _alike(other, mine)), ours)
        figures = [number(found["mean"]), number(found["median"]), "–", "–", number(found["mean without top"])]
        rows.append([name, *figures, f"{found['above human']} of {len(games)}", better.text(2)])
    notes = [
        f"Human-normalised, over the {len(games)} games measured here, for every agent: {', '.join(games)}.",
        f"Brackets: 95 % stratified bootstrap over {'-'.join(map(str, counts))} seed(s) per game of ours"
        + (", which one seed cannot have." if counts == [1] else "."),
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
        theirs = {each.key: np.array([record.human_normalised(each.key, each.published[0])]) for each in found
                  if each.published}  # fmt: skip
        row, other = own_row(list(ours.values())), {n: s(list(theirs.values())) for n, s in AGGREGATES.items()}
        frames = ", ".join(f"{each.key} {each.frames / 1e6:g}M" for each in found)
        rows = [
            [label, *(row[name].text() for name in ("mean", "median", "mean without top"))],
            [
                record.TITLES["dreamerv2-atari"],
                *(number(float(other[n])) for n in ("mean", "median", "mean without top")),
            ],
        ]
        note = f"Human-normalised, {len(ours)} of 55 games at the same frames: {frames}."
        tables.append(Table(f"Atari, {label}", ["agent", "mean", "median", "mean without top"], rows, note))
    return tables


def profiles(verdicts: Sequence[Verdict]) -> dict[str, np.ndarray]:
    """{agent: share of its runs above each of LEVELS} for every experiment that has human-normalised scores."""
    found = {}
    for reference in ("atari100k", "dreamerv2-atari"):
        for label, each in by_label(verdicts, reference).items():
            found[label] = performance_profile(list(normalised(each).values()), LEVELS.tolist())
            if reference == "atari100k":
                games = [verdict.key for verdict in each]
                for method in SHOWN[:2]:
                    scores = [np.array([record.human_normalised(g, record.budget_methods()[method][g])]) for g in games]
                    found[f"{method} (means)"] = performance_profile(scores, LEVELS.tolist())
    return found


def own_table(groups: Sequence[Group]) -> Table:
    """Experiments on tasks that nobody published: last evaluations, and random play where it was measured."""
    rows = []
    for each in groups:
        scores = [final_score(result) for result in each.results]
        found = student([score for score in scores if np.isfinite(score)]) if np.isfinite(scores).any() else None
        chance = np.concatenate([result.scores("random") for result in each.results])
        shown = "–" if found is None else number(found.value)
        if found and found.low is not None:
            shown += f" [{number(found.low)}, {number(found.high)}]"
        level = number(float(chance.mean())) if len(chance) else "–"
        steps = f"{min(result.env_steps for result in each.results):,}"
        rows.append([each.label, each.task, shown, level, str(len(each.results)), steps])
    header = ["experiment", "task", "last evaluation [95 %]", "random", "seeds", "steps"]
    return Table("Without a published counterpart", header, rows, "Mean of seeds with Student's 95 % interval.")


def against_each_other(groups: Sequence[Group]) -> list[Table]:
    """P(a run of the row beats a run of the column) by last evaluation, over the tasks that both have.

    Of more than MOST_PAIRED experiments nothing: that many pairs say nothing; `reverie sweep` compares with a base.
    """
    labels = list(dict.fromkeys(each.label for each in groups))
    if len(labels) > MOST_PAIRED:
        return []
    scores: dict[str, dict[str, np.ndarray]] = {label: {} for label in labels}
    for each in groups:
        values = np.array([final_score(result) for result in each.results])
        if np.isfinite(values).all():
            scores[each.label][each.task] = values
    rows = []
    for left in labels:
        for right in labels:
            shared = [task for task in scores[left] if task in scores[right]]
            if left < right and shared:
                mine, theirs = ([scores[label][task] for task in shared] for label in (left, right))
                found = bootstrap(probability_of_improvement, mine, theirs)
                seeds = "/".join(str(min(map(len, each))) for each in (mine, theirs))
                rows.append([left, right, found.text(2), str(len(shared)), seeds])
    if not rows:
        return []
    note = "P that a run of the first scores higher than one of the second; 0.5 is a tie; brackets: 95 % bootstrap."
    return [Table("Own experiments against each other", ["first", "second", "P", "tasks", "seeds"], rows, note)]


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
    return [paper, Table("Atari-100k, 26 games", ["agent", *names, "above human"], found, note)]
