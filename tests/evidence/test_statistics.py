"""Statistics of scores: against scipy, against slow loops, and by simulation where a probability is promised."""

import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from reverie.cli import main
from reverie.evidence.statistics import (
    AGGREGATES,
    Difference,
    Interval,
    bootstrap,
    holm,
    iqm,
    mean,
    mean_without_top,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    resample,
    student,
    t_quantile,
    t_tail,
    visible_difference,
    welch,
)

ABLATION = Path(__file__).parents[2] / "benchmarks" / "evidence" / "ablation.toml"
CLOSE = {"abs": 1e-6, "rel": 0}


def scores_of(seed, *, tasks=None):
    """Tasks with one to nine seeds each, of very different heights; rounded, so that ties happen."""
    rng = np.random.default_rng(seed)
    count = tasks or int(rng.integers(1, 12))
    return [rng.normal(rng.normal(0.5, 2), 1, int(rng.integers(1, 10))).round(1) for _ in range(count)]


# --------------------------------------------------------------------------------------- the same by hand-written loops


def pooled(scores):
    return [float(value) for task in scores for value in task]


def average(values):
    total, count = 0.0, 0
    for value in values:
        total, count = total + float(value), count + 1
    return total / count


def middle(values):
    found = sorted(values)
    half = len(found) // 2
    return found[half] if len(found) % 2 else (found[half - 1] + found[half]) / 2


def slow_iqm(scores):
    found = sorted(pooled(scores))
    cut = int(0.25 * len(found))
    return average(found[cut : len(found) - cut])


def slow_gap(scores, goal=1.0):
    return average([average([goal - min(goal, float(value)) for value in task]) for task in scores])


def slow_mean_without_top(scores):
    found = [average(task) for task in scores]
    found.remove(max(found))
    return average(found) if found else math.nan


SLOW = {
    "mean": lambda scores: average([average(task) for task in scores]),
    "median": lambda scores: middle([average(task) for task in scores]),
    "IQM": slow_iqm,
    "optimality gap": slow_gap,
    "mean without top": slow_mean_without_top,
}


def slow_improvement(ours, theirs):
    found = []
    for mine, other in zip(ours, theirs, strict=True):
        wins = 0.0
        for left in mine:
            for right in other:
                wins += 1.0 if left > right else 0.5 if left == right else 0.0
        found.append(wins / (len(mine) * len(other)))
    return average(found)


def slow_quantile(values, share):
    found = sorted(values)
    at = share * (len(found) - 1)
    below = math.floor(at)
    above = min(below + 1, len(found) - 1)
    return found[below] + (at - below) * (found[above] - found[below])


def slow_bootstrap(statistic, *groups, replicas, seed, level=0.95):
    rng = np.random.default_rng(seed)
    draws = [[rng.integers(len(task), size=(replicas, len(task))) for task in scores] for scores in groups]
    found = []
    for replica in range(replicas):
        again = []
        for scores, indices in zip(groups, draws, strict=True):
            again.append(
                [[float(task[i]) for i in index[replica]] for task, index in zip(scores, indices, strict=True)]
            )
        found.append(statistic(*again))
    return slow_quantile(found, (1 - level) / 2), slow_quantile(found, (1 + level) / 2)


@pytest.mark.parametrize("seed", range(60))
def test_iqm_is_scipys_trimmed_mean(seed):
    scores = scores_of(seed)
    assert float(iqm(scores)) == pytest.approx(stats.trim_mean(pooled(scores), 0.25), **CLOSE)


@pytest.mark.parametrize("runs", range(1, 14))
def test_iqm_cuts_whole_runs(runs):
    """A quarter at each end, rounded down: of 5, 6 and 7 runs one each, of 8 two."""
    values = np.arange(float(runs)) ** 2
    cut = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3][runs]
    assert float(iqm([values])) == pytest.approx(values[cut : runs - cut].mean(), **CLOSE)
    assert float(iqm([values[:1], values[1:]] if runs > 1 else [values])) == float(
        iqm([values])
    )  # pooled, whatever the task


def test_all_aggregates_have_a_slow_twin():
    assert AGGREGATES.keys() == SLOW.keys()


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("seed", range(12))
def test_aggregates_are_those_of_loops(name, seed):
    scores = scores_of(seed)
    assert float(AGGREGATES[name](scores)) == pytest.approx(SLOW[name](scores), nan_ok=True, **CLOSE)


def test_aggregates_by_hand():
    """Seeds are averaged first: a task's many seeds weigh no more than another's one, except in the IQM."""
    scores = [np.array([0.0, 0.0, 3.0]), np.array([5.0]), np.array([0.5, 1.5])]
    assert float(mean(scores)) == pytest.approx(7 / 3)
    assert float(median(scores)) == 1
    assert float(iqm(scores)) == pytest.approx((0 + 0.5 + 1.5 + 3) / 4)
    assert float(optimality_gap(scores)) == pytest.approx((2 / 3 + 0 + 0.25) / 3)
    assert float(optimality_gap(scores, goal=2.0)) == pytest.approx((4 / 3 + 0 + 1) / 3)
    assert float(mean_without_top(scores)) == 1
    assert math.isnan(mean_without_top(scores[:1]))
    assert np.isnan(mean_without_top([np.zeros((4, 3))])).tolist() == [True] * 4


@pytest.mark.parametrize("seed", range(8))
def test_profiles_are_those_of_loops(seed):
    scores, levels = scores_of(seed), [-3.0, 0.0, 0.5, 0.7, 1.0, 4.0]
    values = pooled(scores)
    by_hand = [sum(value > level for value in values) / len(values) for level in levels]
    assert performance_profile(scores, levels).tolist() == pytest.approx(by_hand, **CLOSE)
    at_a_run = values[0]  # above, not at least
    assert performance_profile([np.array([at_a_run])], [at_a_run]).tolist() == [0]


@pytest.mark.parametrize("seed", range(12))
def test_the_probability_of_improvement_is_that_of_loops(seed):
    ours = scores_of(seed, tasks=4)
    theirs = [task.mean().round(1) + other for task, other in zip(ours, scores_of(seed + 99, tasks=4), strict=True)]
    assert float(probability_of_improvement(ours, theirs)) == pytest.approx(slow_improvement(ours, theirs), **CLOSE)


def test_ties_count_half():
    one = [np.array([1.0, 2.0])]
    assert float(probability_of_improvement(one, one)) == 0.5
    assert float(probability_of_improvement(one, [np.array([2.0])])) == 0.25
    assert float(probability_of_improvement([np.zeros(3)], [np.zeros(5)])) == 0.5
    assert float(probability_of_improvement([np.ones(3), np.zeros(1)], [np.zeros(5), np.ones(2)])) == 0.5
    with pytest.raises(ValueError):
        probability_of_improvement(one, [*one, *one])


# ------------------------------------------------------------------------------------------------------------- replicas

STATISTICS = {
    **AGGREGATES,
    "gap to two": partial(optimality_gap, goal=2.0),
    "profile": lambda scores: performance_profile(scores, [0.0, 1.0, 2.0]),
    "improvement": lambda scores: probability_of_improvement(scores[:3], scores[3:]),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_a_statistic_of_replicas_is_that_of_each(name):
    rng = np.random.default_rng(5)
    scores = [rng.normal(1, 1, (7, seeds)).round(1) for seeds in (5, 2, 1, 3, 4, 6)]
    found = STATISTICS[name](scores)
    assert len(found) == 7
    for replica in range(7):
        point = STATISTICS[name]([task[replica] for task in scores])
        np.testing.assert_allclose(found[replica], point, atol=1e-12, rtol=0)


def test_resampled_values_stay_in_their_task():
    scores = [100.0 * task + np.arange(task + 2) for task in range(5)]
    again = resample(scores, replicas=300, rng=np.random.default_rng(0))
    assert [task.shape for task in again] == [(300, task + 2) for task in range(5)]
    for task, drawn in zip(scores, again, strict=True):
        assert set(drawn.ravel()) == set(task)  # all of them, and no other's
        assert len({tuple(row) for row in drawn}) > 1
    repeated = [len(set(row)) < len(row) for row in again[3]]
    assert 0.5 < np.mean(repeated) < 1  # with replacement: 1 - 5!/5^5 = 0.96


@pytest.mark.parametrize("name", AGGREGATES)
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_bootstrap_is_that_of_loops(name, seed):
    scores = [*scores_of(seed, tasks=4), np.array([0.3, 0.9, 1.4])]
    scores = [task if len(task) > 1 else np.append(task, task + 0.5) for task in scores]  # one seed has no bounds
    found = bootstrap(AGGREGATES[name], scores, replicas=120, seed=seed)
    assert found.value == pytest.approx(SLOW[name](scores), **CLOSE)
    assert found[1:] == pytest.approx(slow_bootstrap(SLOW[name], scores, replicas=120, seed=seed), **CLOSE)
    assert found.low < found.high


def test_two_groups_are_resampled_each_by_itself():
    rng = np.random.default_rng(3)
    ours, theirs = ([rng.normal(size=size).round(1) for size in (4, 2, 5)] for _ in range(2))
    found = bootstrap(probability_of_improvement, ours, theirs, replicas=150, seed=2, level=0.8)
    slow = slow_bootstrap(slow_improvement, ours, theirs, replicas=150, seed=2, level=0.8)
    assert found.value == pytest.approx(slow_improvement(ours, theirs), **CLOSE)
    assert found[1:] == pytest.approx(slow, **CLOSE)


def test_the_bootstrap_is_the_same_again_and_not_with_another_seed():
    scores = [np.random.default_rng(task).normal(size=5) for task in range(4)]
    assert bootstrap(mean, scores) == bootstrap(mean, scores)
    assert bootstrap(mean, scores)[1:] != bootstrap(mean, scores, seed=1)[1:]
    wide, narrow = bootstrap(mean, scores, level=0.99), bootstrap(mean, scores, level=0.5)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_one_seed_has_no_bounds():
    single = [np.array([0.4]), np.array([0.8])]
    assert bootstrap(mean, single) == Interval(pytest.approx(0.6), None, None)
    assert bootstrap(probability_of_improvement, single, single)[1:] == (None, None)
    assert student([3.0]) == Interval(3.0, None, None)
    assert welch([3.0], [1.0, 2.0]) == Difference(1.5, None, None, None)
    assert welch([3.0, 4.0], [1.0]) == Difference(2.5, None, None, None)
    second = [np.array([0.4]), np.array([0.8, 1.0])]
    assert bootstrap(mean, second)[1:] == (None, None)  # one task's spread is not known
    assert bootstrap(probability_of_improvement, single, second)[1:] == (None, None)


def test_where_no_replica_differs_no_width_is_claimed():
    above, below = [np.array([5.0, 6.0, 7.0])], [np.array([1.0, 2.0, 3.0])]
    assert bootstrap(probability_of_improvement, above, below) == Interval(1.0, None, None)
    assert bootstrap(mean, [np.array([2.0, 2.0])]) == Interval(2.0, None, None)
    assert student([2.0, 2.0]) == Interval(2.0, None, None)


def test_intervals_as_text():
    assert Interval(0.52, 0.4711, 0.5826).text() == "0.520 [0.471, 0.583]"
    assert Interval(0.52, 0.4711, 0.5826).text(1) == "0.5 [0.5, 0.6]"
    assert Interval(0.52, None, None).text(2) == "0.52"


# ---------------------------------------------------------------------------------------------------------- Student's t


def exact_tail(t, df):
    """P(|T| > t) by the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term, total = (cosine, cosine if df > 1 else 0.0) if odd else (1.0, 1.0)
    for k in range(2 + odd, df - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return 1 - (2 / math.pi * (angle + sine * total) if odd else sine * total)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 17, 18, 40, 99, 250])
def test_tails_and_quantiles_are_those_of_the_textbook(df):
    for t in (0.0, 1e-3, 0.3, 1.0, 1.7, 2.776, 5.0, 12.0, 80.0):
        assert t_tail(t, df) == pytest.approx(exact_tail(t, df), abs=1e-12, rel=0)
    for level in (0.05, 0.5, 0.6, 0.8, 0.9, 0.95, 0.99, 0.999):
        assert exact_tail(t_quantile(level, df), df) == pytest.approx(1 - level, rel=1e-8)


def test_without_scipy_a_sentence_says_which_extra_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "scipy", None)
    words = {
        "compare": ["compare", "nowhere"],
        "sweep": ["sweep", str(ABLATION)],
        "ablate": ["ablate", "--vary", "free_nats=0,1"],
    }
    for command in words.values():
        assert main(command) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err == "error: comparisons of seeds need SciPy.\nhint: pip install 'reverie-rl[evidence]'\n"
    assert main(["compare"]) == 0  # the published tables need none
    assert main([*words["ablate"], "--dry-run", "--preset", "debug", "--env", "CartPole-v1"]) == 0


def test_tails_at_the_ends():
    assert t_tail(math.inf, 3) == 0
    assert t_tail(1e9, 4) < 1e-12
    assert t_quantile(0.95, 4) == pytest.approx(2.776, abs=5e-4)
    for t, df in ((1.0, 0), (-0.1, 3)):
        with pytest.raises(ValueError, match="df >= 1 and t >= 0"):
            t_tail(t, df)


@pytest.mark.parametrize("count", [2, 3, 5, 10])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_students_interval_is_scipys(count, level):
    values = np.random.default_rng(count).normal(3, 2, count)
    found = student(values.tolist(), level=level)
    low, high = stats.t.interval(level, count - 1, values.mean(), stats.sem(values))
    assert found == pytest.approx((values.mean(), low, high), rel=1e-8)
    assert student(values) == student(values, level=0.95)


def degrees(left, right):
    """Welch and Satterthwaite's, by the textbook."""
    u, v = np.var(left, ddof=1) / len(left), np.var(right, ddof=1) / len(right)
    return (u + v) ** 2 / (u**2 / (len(left) - 1) + v**2 / (len(right) - 1))


@pytest.mark.parametrize("seed", range(40))
def test_welch_is_scipys_with_whole_degrees_of_freedom(seed):
    rng = np.random.default_rng(seed)
    left = rng.normal(0, rng.uniform(0.1, 3), int(rng.integers(2, 11)))
    right = rng.normal(rng.normal(), rng.uniform(0.1, 3), int(rng.integers(2, 11)))
    found, theirs = welch(left.tolist(), right.tolist()), stats.ttest_ind(left, right, equal_var=False)
    df, t = max(1, math.floor(degrees(left, right))), float(abs(theirs.statistic))
    error = abs(left.mean() - right.mean()) / t
    assert found.value == left.mean() - right.mean()
    assert found.p == pytest.approx(2 * stats.t.sf(t, df), abs=1e-9)
    assert found.p >= theirs.pvalue - 1e-12  # cautious
    assert found.p == pytest.approx(theirs.pvalue, abs=0.1)
    half = stats.t.ppf(0.975, df) * error
    assert found[1:3] == pytest.approx((found.value - half, found.value + half), rel=1e-6)
    assert (found.low > 0 or found.high < 0) == (found.p < 0.05)
    assert welch(right, left) == pytest.approx((-found.value, -found.high, -found.low, found.p))


def test_welch_of_seeds_that_all_agree():
    assert welch([2.0, 2.0], [1.0, 1.0, 1.0]) == Difference(1.0, None, None, None)  # their spread is unknown
    assert welch([2.0, 2.0], [2.0, 2.0]) == Difference(0.0, None, None, None)
    assert welch([2.0, 2.0], [0.0, 1.0]).p == pytest.approx(2 * stats.t.sf(3.0, 1))


def test_equal_spreads_lose_no_degree_of_freedom_to_rounding():
    """Both spread alike: 8 degrees of freedom, even where floating point makes 7.999999999999998 of them."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        left = rng.normal(size=5).round(3)
        found = welch(left, left - 1)
        assert found.p == pytest.approx(stats.ttest_ind(left, left - 1, equal_var=False).pvalue, rel=1e-6)


# -------------------------------------------------------------------------------------------------------------- several


@pytest.mark.parametrize(
    ("ps", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 x .005, 3 x .01, 2 x .03, then not below .06
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.5, 0.9, 0.01], [1.0, 1.0, 0.03]),
        ([0.04], [0.04]),
        ([None, 0.02, None, 0.3], [None, 0.04, None, 0.3]),
        ([0.0, 1.0], [0.0, 1.0]),
        ([None], [None]),
        ([], []),
    ],
)
def test_holm_by_hand(ps, expected):
    assert holm(ps) == [value if value is None else pytest.approx(value) for value in expected]


def test_holm_keeps_false_findings_rare():
    """Six comparisons without a difference: one is found in at most 5 % of all repetitions, in 26 % uncorrected."""
    draws = np.random.default_rng(0).uniform(size=(4000, 6))
    assert np.mean([min(holm(ps)) < 0.05 for ps in draws.tolist()]) == pytest.approx(0.05, abs=0.01)
    assert (draws.min(1) < 0.05).mean() > 0.2


# ---------------------------------------------------------------------------------------------------------- simulations


@pytest.mark.parametrize("seeds", [5, 10])
def test_the_visible_difference_is_seen_four_times_out_of_five(seeds):
    spread = 2.5
    named = visible_difference(spread, seeds)
    rng = np.random.default_rng(seeds)
    found = [
        welch(left + named, right).p < 0.05 for left, right in rng.normal(0, spread, (4000, 2, seeds))
    ]  # rounding degrees of freedom down costs a little
    assert 0.75 <= np.mean(found) <= 0.86


def test_the_visible_difference_by_its_formula():
    for seeds, power in ((2, 0.8), (5, 0.8), (5, 0.9), (20, 0.5)):
        df = 2 * (seeds - 1)
        by_scipy = (stats.t.ppf(0.975, df) + stats.t.ppf(power, df)) * 3 * math.sqrt(2 / seeds)
        assert visible_difference(3.0, seeds, power=power) == pytest.approx(by_scipy, rel=1e-7, abs=1e-9)
    assert visible_difference(3.0, 1) == math.inf
    assert visible_difference(0.0, 3) == 0
    assert visible_difference(1.0, 5, level=0.99) > visible_difference(1.0, 5)


def test_students_interval_covers_the_truth_where_the_bootstrap_does_not():
    """Five seeds: 95 % as promised, and about 84 % by the percentile bootstrap, which is why it is not used there."""
    draws = np.random.default_rng(1).normal(10, 3, (1500, 5))
    by_t = [student(values) for values in draws]
    by_bootstrap = [bootstrap(mean, [values], replicas=400, seed=i) for i, values in enumerate(draws)]
    covers = [np.mean([low < 10 < high for _, low, high in found]) for found in (by_t, by_bootstrap)]
    assert covers[0] == pytest.approx(0.95, abs=0.015)
    assert 0.78 < covers[1] < 0.88
    errors = draws.std(1, ddof=1) / math.sqrt(5)
    wide = [np.mean([(x.high - x.low) / 2 / error for x, error in zip(found, errors, strict=True)])
            for found in (by_t, by_bootstrap)]  # fmt: skip
    assert wide == pytest.approx([2.78, 1.75], abs=0.1)  # what the module's docstring says
