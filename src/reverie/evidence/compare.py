"""Own seeds against the published record: at the same number of frames, under the same protocol, or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..envs.families.crafter import crafter_score
from ..errors import UserError, digits
from . import record
from .protocol import experiment, mismatches, references_of
from .record import Curve
from .results import RunResult
from .statistics import Interval, Seeds, student, t_quantile

#: The level of a verdict's test. At 95 % the published control seeds themselves are called "below" the other four in
#: 5.9 % of all cases, because a seed that fails is more frequent than a normal distribution allows; at 98 % in 3.8 %
#: (5.0 % of those that are not too early; up to 18 % on ball_in_cup_catch; tests/evidence/test_compare.py).
CONFIDENCE = 0.98
#: A difference below this share of the task's scale does not matter, however certain it is.
MARGIN = 0.01
#: The scale of a control task: its highest return.
CONTROL_SCALE = 1000.0
#: Seeds behind the Crafter scoreboard's spread.
CRAFTER_SEEDS = 10
CRAFTER_STEPS = 1_000_000
WORDS = ("on track", "below", "above", "scored", "too early", "refused")


class Judgement(NamedTuple):
    """One comparison in a word, with its evidence."""

    word: str  # one of WORDS
    why: str
    difference: Interval | None = None  # ours minus theirs, at CONFIDENCE


@dataclass(frozen=True)
class SeedGroup:
    """Seeds of one experiment on one task."""

    label: str
    task: str
    results: Sequence[RunResult]

    @property
    def frames(self) -> int:
        """How far all seeds have come."""
        return min(result.frames for result in self.results)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What their scores depend on."""
        return self.results[0].protocol


@dataclass(frozen=True)
class Verdict:
    """A group against a reference. points: published frames reached; own: (seeds, points) means in those bins."""

    group: SeedGroup
    reference: str
    key: str  # the record's name of the task
    judgement: Judgement
    frames: float = 0.0  # where it was judged
    seeds: Sequence[float] = field(default_factory=list)  # each seed's score there
    published: tuple[float, float, int] | None = None  # mean, sample std, seeds
    points: np.ndarray = field(default_factory=lambda: np.zeros(0))
    own: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        judged, difference = self.judgement, self.judgement.difference
        return {
            "label": self.group.label,
            "task": self.group.task,
            "reference": self.reference,
            "verdict": judged.word,
            "why": judged.why,
            "frames": self.frames,
            "seeds": len(self.group.results),
            "scores": list(self.seeds),
            "published": dict(zip(("mean", "std", "seeds"), self.published, strict=True)) if self.published else None,
            "difference": difference._asdict() | {"level": CONFIDENCE} if difference else None,
            "mean": float(np.mean(self.seeds)) if len(self.seeds) else None,
        }


# ------------------------------------------------------------------------------------------------------------- one test


def judge(own: Seeds, mean: float, std: float, seeds: int, *, floor: float | None, scale: float) -> Judgement:
    """Are our seeds drawn from the same distribution as theirs? Student's t, pooled variance, two-sided, CONFIDENCE.

    own: one score per seed of ours; mean, std (n - 1), seeds: theirs. floor: what random play scores; where even that
    would pass, it is too early. scale: by which differences are measured (a games tester minus random play).
    With one seed of ours its spread is taken to be theirs, which is exact if the two are the same. Raises ValueError
    for a non-finite score.
    """
    found, spread = np.asarray(own, float), std
    if not np.isfinite(found).all():
        raise ValueError(f"scores must be finite, found {found}")
    df = len(found) + seeds - 2
    if len(found) > 1:
        spread = math.sqrt(((len(found) - 1) * found.var(ddof=1) + (seeds - 1) * std**2) / df)
    half = t_quantile(CONFIDENCE, df) * spread * math.sqrt(1 / len(found) + 1 / seeds)
    value, least = float(found.mean()) - mean, MARGIN * abs(scale)
    difference = Interval(value, value - half, value + half)
    count = f"{len(found)} seed{'s' * (len(found) > 1)} against {seeds}"
    if floor is not None and not (floor - mean + half < 0 and floor - mean < -least):
        return Judgement(
            "too early", f"random play would pass as well here: {count}, spread {digits(spread)}", difference
        )
    if value + half < 0 and value < -least:
        return Judgement("below", f"{count}, lower at the {CONFIDENCE:.0%} level", difference)
    if value - half > 0 and value > least:
        return Judgement("above", f"{count}, higher at the {CONFIDENCE:.0%} level", difference)
    return Judgement("on track", f"{count}, no difference that so few can show", difference)


def leave_one_out(curve: Curve, *, floor: float | None = None, scale: float = CONTROL_SCALE) -> list[list[str]]:
    """Each published seed against the others, at each point: how often is the agent itself not recognised?

    -> words [point][seed]. Raises UserError where single seeds are not known.
    """
    if curve.per_seed is None:
        raise UserError(f"single seeds of {curve.task} are not published in a form that ships with this package.")
    words = []
    for scores in curve.per_seed.T:
        rest = [np.delete(scores, i) for i in range(len(scores))]
        words.append(
            [
                judge([score], other.mean(), other.std(ddof=1), len(other), floor=floor, scale=scale).word
                for score, other in zip(scores, rest, strict=True)
            ]
        )
    return words


# --------------------------------------------------------------------------------------------------------------- groups


def group(results: Sequence[RunResult]) -> tuple[list[SeedGroup], list[str]]:
    """Results by experiment and task; -> groups, and remarks on what was left out.

    Raises UserError where runs of one label differ in more than seed, budget and machine: they are not seeds of one
    experiment.
    """
    found: dict[tuple[str, str], dict[int, RunResult]] = {}
    remarks: list[str] = []
    for result in results:
        seeds = found.setdefault((result.label, result.task), {})
        _require_same(next(iter(seeds.values()), result), result)
        if result.seed in seeds:
            remarks.append(
                f"{result.label}: seed {result.seed} of {result.task} was given twice, the longer one counts"
            )
            result = max(result, seeds[result.seed], key=lambda each: each.frames)
        seeds[result.seed] = result
    return [
        SeedGroup(label, task, [seeds[seed] for seed in sorted(seeds)]) for (label, task), seeds in found.items()
    ], remarks


def _require_same(one: RunResult, other: RunResult) -> None:
    left, right = experiment(dict(one.settings)), experiment(dict(other.settings))
    changed = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
    facts, others = ({k: v for k, v in each.protocol.items() if k != "line"} for each in (one, other))
    rules = sorted(key for key in facts.keys() | others.keys() if facts.get(key) != others.get(key))
    if changed or rules:
        pairs = [(key, left.get(key, "default"), right.get(key, "default")) for key in changed]
        pairs = pairs or [(key, facts.get(key), others.get(key)) for key in rules]
        shown = ", ".join(f"{key} {mine} / {theirs}" for key, mine, theirs in pairs[:3])
        raise UserError(
            f"{one.source} and {other.source} are both called '{one.label}' but are different experiments: {shown}.",
            "Give their runs or results different names.",
        )


# ------------------------------------------------------------------------------------------------------------- verdicts


def verdict(own: SeedGroup, against: str = "") -> Verdict | None:
    """A group against the record; None where nothing was published of its task.

    against: a reference by name; by default the one whose protocol is nearest. A protocol that differs is refused.
    Raises UserError for an unknown reference.
    """
    if against and against not in record.PROTOCOLS:
        raise UserError(f"there is no reference '{against}'.", f"References: {', '.join(record.PROTOCOLS)}.")
    found = [name for name in references_of(dict(own.facts), own.task) if against in ("", name)]
    unseen = own.facts.get("suite") == "dmc" and not own.facts.get("pixels")  # DreamerV2 has no scores without pixels
    if not found or (unseen and not against):
        return None
    reference, key = found[0], record.task_key(own.task) or own.task
    wrong = mismatches(dict(own.facts), reference)
    if wrong:
        return Verdict(own, reference, key, Judgement("refused", "; ".join(wrong)))
    if reference == "atari-100k":
        return _budget(own, key)
    if reference == "crafter":
        return _crafter(own, key)
    return _on_curve(own, record.curve(reference, key))


def _on_curve(own: SeedGroup, curve: Curve) -> Verdict:
    """At the last point that all seeds have reached and at which the published seeds are close enough to decide."""
    phase = (
        "eval" if curve.reference == "dreamerv2-atari" else ("prefill", "train")
    )  # theirs count the random ones, too
    last = curve.last_point(own.frames)
    if last is None:
        why = f"the first published point is at {curve.frames[0]:,.0f} frames, the seeds are at {own.frames:,}"
        return Verdict(own, curve.reference, curve.task, Judgement("too early", why), own.frames)
    scores = np.array(
        [[_mean(result.scores(phase, *curve.bin_of(point))) for point in range(last + 1)] for result in own.results]
    )
    whole = np.flatnonzero(np.isfinite(scores).all(0))
    if not len(whole):
        why = f"no bin up to {curve.frames[last]:,.0f} frames has {_episodes(phase)} of every seed"
        return Verdict(own, curve.reference, curve.task, Judgement("too early", why), own.frames)
    floor, scale = _floor(own, curve)
    decisive = [point for point in whole if _decides(curve, int(point), len(scores), floor)]
    at = int((decisive or list(whole))[-1])
    theirs = (float(curve.mean[at]), float(curve.std[at]), curve.seeds)
    judged = judge(scores[:, at], *theirs, floor=floor, scale=scale)
    return Verdict(
        own,
        curve.reference,
        curve.task,
        judged,
        float(curve.frames[at]),
        scores[:, at].tolist(),
        theirs,
        curve.frames[: last + 1],
        scores,
    )


def _decides(curve: Curve, point: int, seeds: int, floor: float) -> bool:
    """Can so many seeds be distinguished from random play at a published point? By the published seeds alone."""
    half = t_quantile(CONFIDENCE, curve.seeds - 1) * curve.std[point] * math.sqrt(1 / seeds + 1 / curve.seeds)
    return bool(floor < curve.mean[point] - half)


def _floor(own: SeedGroup, curve: Curve) -> tuple[float, float]:
    """(what random play scores, scale) of a task."""
    if curve.reference == "dreamerv2-atari":
        found = record.levels(curve.task)
        return found.random, found.gamer - found.random
    chance = np.concatenate([result.scores("random") for result in own.results])
    return float(chance.mean()) if len(chance) else 0.0, CONTROL_SCALE


def _episodes(phase: str | Sequence[str]) -> str:
    return "an evaluation" if phase == "eval" else "a training episode"


def _mean(scores: np.ndarray) -> float:
    return float(scores.mean()) if len(scores) else math.nan


# ---------------------------------------------------------------------------------------------- budgets without a curve


def window_score(result: RunResult) -> float:
    """DreamerV3's rule: mean of training episodes that end in 390-400k frames, else the last one before; NaN: none."""
    first, last = record.WINDOW
    found = result.scores("train", first - 1, last)
    return _mean(found if len(found) else result.scores("train", -1, last)[-1:])


def budget_score(result: RunResult) -> float:
    """Mean of the evaluation at 400k frames, give or take 10k; NaN if there was none."""
    first, last = record.WINDOW
    return _mean(result.final(first - 1, last + (last - first)))


def final_score(result: RunResult) -> float:
    """Mean of the last evaluation; NaN if there was none."""
    return _mean(result.final())


def _budget(own: SeedGroup, key: str) -> Verdict:
    """Atari-100k: scores per game; methods are compared over games (aggregates.py), single games have no spread."""
    if own.frames < record.WINDOW[1]:
        why = f"the benchmark ends at {record.BUDGET_FRAMES:,} frames, the seeds are at {own.frames:,}"
        return Verdict(own, "atari-100k", key, Judgement("too early", why), own.frames)
    scores = [each for each in map(budget_score, own.results) if math.isfinite(each)]
    window = [each for each in map(window_score, own.results) if math.isfinite(each)]
    score = digits(float(np.mean(window))) if window else "none"
    why = f"mean of training episodes in the last 10k frames {score}; compared over games below"
    return Verdict(own, "atari-100k", key, Judgement("scored", why), record.BUDGET_FRAMES, scores)


def _crafter(own: SeedGroup, key: str) -> Verdict:
    judged = None
    if own.frames < CRAFTER_STEPS:
        judged = Judgement("too early", f"the scoreboard is of 1,000,000 steps, the seeds are at {own.frames:,}")
    elif max(each.frames for each in own.results) > 1.02 * CRAFTER_STEPS:
        judged = Judgement(
            "refused", "achievements are counted over all training episodes, and a seed continued beyond 1M"
        )
    rates = [[v for name, v in each.logged.items() if name.startswith("achievement/")] for each in own.results]
    if judged is None and not all(rates):
        judged = Judgement("too early", "a seed has no achievements on record")
    if judged is not None:
        return Verdict(own, "crafter", key, judged, own.frames)
    scores = [crafter_score(100 * rate for rate in each) for each in rates]
    board = record.crafter_methods()
    mean, std = (float(value or 0) for value in board["DreamerV2"]["score"])
    floor = float(board["Random"]["score"][0] or 0)
    judged = judge(scores, mean, std, CRAFTER_SEEDS, floor=floor, scale=mean)
    return Verdict(own, "crafter", key, judged, CRAFTER_STEPS, scores, (mean, std, CRAFTER_SEEDS))


def interval_of(found: Verdict) -> Interval | None:
    """Our mean there with its 95 % interval over seeds."""
    return student(found.seeds) if len(found.seeds) else None
