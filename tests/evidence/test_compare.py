"""Verdicts against the published record: right in a word, refused where they would mean nothing."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from results import make_result
from scipy import stats

from reverie.cli import main
from reverie.errors import UserError
from reverie.evidence import record
from reverie.evidence.aggregates import (
    RULES,
    against_each_other,
    budget_tables,
    control_tables,
    curve_table,
    normalised,
    own_table,
    profiles,
)
from reverie.evidence.compare import CONFIDENCE, group, judge, leave_one_out, verdict, window_score
from reverie.evidence.results import write_result
from reverie.evidence.tables import Table, millions, number
from reverie.insight.page import render

# ------------------------------------------------------------------------------------------------------------ one test


def test_published_control_seeds_are_hardly_ever_below_the_others():
    """Each of the 5 official seeds against the other 4, at 66 points of 20 tasks: at most 5 % may be called below."""
    words = Counter()
    for task in record.tasks("dreamerv2-dmc"):
        curve = record.curve("dreamerv2-dmc", task)
        if curve.per_seed is not None:
            assert curve.per_seed.shape == (5, 66)
            words += Counter(word for point in leave_one_out(curve, floor=0.0) for word in point)
    assert sum(words.values()) == 6600
    assert words["below"] / 6600 <= 0.05
    assert words["below"] / (6600 - words["too early"]) <= 0.05
    assert words["above"] / 6600 <= 0.05
    assert words["on track"] / 6600 > 0.6  # it is no empty promise: most are judged


@pytest.mark.parametrize(("runs", "seeds"), [("dv2_8", 8), ("nosched_3", 3), ("sched_4", 4)])
def test_published_atari_seeds_are_hardly_ever_below_the_others(runs, seeds):
    """At 200M frames the files tell the lowest seed. If it is not below the rest, none is; and two of them cannot be:
    the sum of squares of n numbers has no room for a second one that far out. So what is counted here is exact."""
    below = 0
    for game, found in record.final_scores(runs).items():
        total, squares = seeds * found["mean"], seeds * (found["std"] ** 2 + found["mean"] ** 2)
        mean = (total - found["min"]) / (seeds - 1)
        spread = math.sqrt(max(0.0, squares - found["min"] ** 2 - (seeds - 1) * mean**2) / (seeds - 2))
        levels = record.levels(game)
        scale = levels.gamer - levels.random
        below += judge([found["min"]], mean, spread, seeds - 1, floor=levels.random, scale=scale).word == "below"
    assert below / (55 * seeds) <= 0.05


def test_the_judgement_is_students_t():
    rng = np.random.default_rng(0)
    theirs, ours = rng.normal(100, 10, 8), rng.normal(80, 10, 5)
    judged = judge(ours, theirs.mean(), theirs.std(ddof=1), 8, floor=0, scale=1)
    wanted = stats.ttest_ind(ours, theirs).confidence_interval(CONFIDENCE)
    assert judged.difference[1:] == pytest.approx((wanted.low, wanted.high))
    assert judged.word == "below"
    assert judge(ours + 45, theirs.mean(), theirs.std(ddof=1), 8, floor=0, scale=1).word == "above"
    assert judge(theirs[:5], theirs.mean(), theirs.std(ddof=1), 8, floor=0, scale=1).word == "on track"


def test_one_seed_is_judged_by_their_spread():
    half = stats.t.ppf((1 + CONFIDENCE) / 2, 7) * 10 * math.sqrt(1 + 1 / 8)
    for shift, word in ((-1.01, "below"), (-0.99, "on track"), (0.99, "on track"), (1.01, "above")):
        assert judge([100 + shift * half], 100, 10, 8, floor=0, scale=1).word == word


def test_where_random_play_would_pass_it_is_too_early():
    assert judge([5.0], 10, 8, 5, floor=0, scale=100).word == "too early"
    assert judge([5.0], 100, 8, 5, floor=0, scale=100).word == "below"
    assert judge([0.0], 0.5, 0, 5, floor=0, scale=100).word == "too early"  # sure, and too small to matter
    assert judge([99.5], 100, 0, 5, floor=0, scale=100).word == "on track"


# ------------------------------------------------------------------------------------------------------------ verdicts


def official(game, points, seed=0, shift=0.0):
    """Evaluations that follow the official mean, one in the middle of each bin."""
    curve = record.curve("dreamerv2-atari", game)
    return [(sum(curve.bin_of(p)) / 2, curve.mean[p] + shift + 0.01 * seed) for p in range(points)]


def judged(results, against=""):
    groups, _ = group(results)
    return [each for each in (verdict(one, against) for one in groups) if each]


def test_a_run_on_the_official_curve_is_on_track_and_one_far_under_it_is_below():
    task, frames = "ALE/Pong-v5", 10_000_000
    same = [make_result(task, s, frames=frames, evals=official("pong", 10, s)) for s in range(3)]
    (found,) = judged(same)
    assert (found.judgement.word, found.frames, found.reference) == ("on track", 1e7, "dreamerv2-atari")
    assert found.own.shape == (3, 10)
    assert found.published[2] == 8
    low = [make_result(task, s, frames=frames, evals=official("pong", 10, s, -20)) for s in range(3)]
    assert judged(low)[0].judgement.word == "below"
    assert "3 seeds against 8" in judged(low)[0].judgement.why


def test_the_number_of_frames_is_that_of_the_slowest_seed_and_of_a_whole_bin():
    fast = make_result("ALE/Pong-v5", 0, frames=9_000_000, evals=official("pong", 9))
    slow = make_result("ALE/Pong-v5", 1, frames=4_999_999, evals=official("pong", 9)[:5])
    assert judged([fast, slow])[0].frames == 4e6
    early = make_result("ALE/Pong-v5", 0, frames=999_999, evals=official("pong", 1))
    assert judged([early])[0].judgement.word == "too early"
    assert "1,000,000 frames" in judged([early])[0].judgement.why


def test_where_the_published_seeds_spread_too_far_an_earlier_point_is_judged():
    """Boxing: at 5M frames the official seeds are at 93 ± 1, at 12M at 60 ± 40, where random play would pass."""
    low = [make_result("ALE/Boxing-v5", s, frames=12_000_000, evals=official("boxing", 12, s, -60)) for s in range(3)]
    (found,) = judged(low)
    assert found.judgement.word == "below"
    assert 5e6 < found.frames < 12e6
    assert found.own.shape == (3, 12)


def test_only_episodes_of_the_bin_count_and_a_bin_without_any_is_stepped_over():
    rows = [(4_000_000, -21), (4_000_001, 7), (5_000_000, 9), (5_000_001, 21)]
    (found,) = judged([make_result("ALE/Pong-v5", frames=5_500_000, evals=rows)])
    assert found.frames == 5e6
    assert found.seeds == [8.0]
    (found,) = judged([make_result("ALE/Pong-v5", frames=7_000_000, evals=rows[:3])])
    assert found.frames == 5e6
    (found,) = judged([make_result("ALE/Pong-v5", frames=7_000_000)])
    assert found.judgement.word == "too early"


def test_control_is_compared_by_training_episodes():
    curve = record.curve("dreamerv2-dmc", "walker_walk")
    rows = [(float(f) - 1000, m) for f, m in zip(curve.frames[:16], curve.mean[:16], strict=True)]
    (found,) = judged([make_result("dmc/walker-walk", frames=480_000, train=rows, evals=[(400_000, 0.0)])])
    assert (found.judgement.word, found.frames) == ("on track", 480_000)
    (found,) = judged([make_result("dmc/walker-walk", frames=480_000, train=[(f, m / 3) for f, m in rows])])
    assert found.judgement.word == "below"
    easy = [make_result("dmc/walker-walk", frames=60_000, train=rows[:2], chance=[(0, 150.0)])]
    assert judged(easy)[0].judgement.word == "too early"  # their seeds spread by 106 around 303: 150 would pass


@pytest.mark.parametrize(
    ("task", "overrides", "message"),
    [
        ("ALE/Pong-v5", {"env.options": ["sticky=0"]}, "sticky actions: 0 here, 0.25 there"),
        ("ALE/Pong-v5", {"env.actions": "minimal"}, "the action set: minimal here, full there"),
        ("ALE/Pong-v5", {"env.action_repeat": 1}, "the action repeat: 1 here, 4 there"),
        ("ALE/Pong-v5", {"train.eval_mode": "train"}, "which episodes count"),
        ("dmc/walker-walk", {"env.action_repeat": 4}, "the action repeat: 4 here, 2 there"),
        ("dmc/walker-walk", {"env.pixels": False}, "learning from pixels: no here, yes there"),
        ("dmc/walker-walk", {"env.time_limit": 100}, "the length of an episode: 200 here, 1000 there"),
    ],
)
def test_a_mismatched_protocol_is_refused_by_name(task, overrides, message, tmp_path, capsys):
    result = make_result(task, frames=10_000_000, evals=[(5e6, 1.0)], train=[(5e5, 1.0)], **overrides)
    against = "dreamerv2-atari" if task.startswith("ALE") else "dreamerv2-dmc"
    (found,) = judged([result], against)
    assert found.judgement.word == "refused"
    assert message in found.judgement.why
    write_result(replace(result, settings={}), tmp_path / "r.json")
    assert main(["compare", str(tmp_path), "--against", against]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_fast_look_is_no_standard_look():
    (found,) = judged([make_result("dmc/walker-walk", line="fast look", frames=500_000, train=[(5e5, 900.0)])])
    assert "the rendering: fast here, standard there" in found.judgement.why


def test_seeds_of_different_experiments_are_not_averaged():
    one, two = make_result("ALE/Pong-v5", 0), make_result("ALE/Pong-v5", 1, **{"model.kl_scale": 1.0})
    with pytest.raises(UserError, match=r"different experiments: model.kl_scale default / 1.0"):
        group([one, two])
    groups, _ = group([one, replace(two, label="other")])
    assert len(groups) == 2
    budget = make_result("ALE/Pong-v5", 1, **{"train.env_steps": 9, "compute.threads": 1, "log.video": False})
    assert len(group([one, budget])[0][0].results) == 2


def test_seeds_under_different_rules_are_not_averaged():
    one = make_result("dmc/walker-walk", 0, line="standard look")
    with pytest.raises(UserError, match="different experiments: look standard / fast"):
        group([one, make_result("dmc/walker-walk", 1, line="fast look")])


def test_a_score_that_is_no_number_is_not_judged():
    with pytest.raises(ValueError, match="must be finite"):
        judge([math.nan], 1, 1, 5, floor=0, scale=1)


def test_a_seed_given_twice_counts_once():
    groups, remarks = group([make_result("ALE/Pong-v5", 0, frames=f) for f in (5, 9, 7)])
    assert [each.frames for each in groups[0].results] == [9]
    assert len(remarks) == 2
    assert "seed 0" in remarks[0]


def test_unknown_references_and_tasks_without_a_record():
    with pytest.raises(UserError, match="no reference 'dreamerv4'"):
        judged([make_result("ALE/Pong-v5")], "dreamerv4")
    assert judged([make_result("CartPole-v1", evals=[(1, 1.0)])]) == []


# ------------------------------------------------------------------------------------------------------- budgets, games


def budget_result(game, seed, score, window=()):
    rows = [(380_000, -1e9), *window, (410_000, -1e9)]
    return make_result(f"ALE/{game}-v5", seed, preset="atari100k", frames=410_000, train=rows, evals=[(400_000, score)])


def test_the_window_is_dreamerv3s_rule():
    rows = [(389_996, 9.0), (390_000, 1.0), (390_004, 2.0), (400_000, 3.0), (400_004, 8.0)]
    assert window_score(budget_result("Pong", 0, 0, rows)) == 2.0
    assert window_score(budget_result("Pong", 0, 0)) == -1e9  # none in it: the last one before
    assert math.isnan(window_score(replace(budget_result("Pong", 0, 0), episodes={})))


def test_atari100k_is_compared_over_the_games_that_were_played():
    results = [budget_result(game, seed, score + seed, [(395_000, score - seed)])
               for game, score in (("Pong", 10), ("Boxing", 50), ("Breakout", 20)) for seed in (0, 1)]  # fmt: skip
    found = judged(results)
    assert {each.judgement.word for each in found} == {"scored"}
    tables = budget_tables(found)
    assert len(tables) == len(RULES) == 2
    row = dict(zip(tables[1].header, tables[1].rows[0], strict=True))
    mine = [record.human_normalised(g, s + 0.5) for g, s in (("pong", 10), ("boxing", 50), ("breakout", 20))]
    assert row["mean"].split()[0] == f"{np.mean(mine):.3f}"
    assert row["median"].split()[0] == f"{np.median(mine):.3f}"
    assert row["above human"] == "1 of 3"
    other = {line[0]: line for line in tables[1].rows}["DreamerV3 (2023 paper)"]
    scores = record.budget_methods()["DreamerV3 (2023 paper)"]
    theirs = [record.human_normalised(g, scores[g]) for g in ("pong", "boxing", "breakout")]
    assert other[1] == number(float(np.mean(theirs)))
    assert "3 of the benchmark's 26 games" in " ".join(tables[1].remarks())
    wins = [
        score + seed > scores[g] for g, score in (("pong", 10), ("boxing", 50), ("breakout", 20)) for seed in (0, 1)
    ]
    assert other[-1].startswith(f"{np.mean(wins):.3f}")
    assert not any(row[0].startswith("DreamerV2 official") for row in tables[1].rows)
    assert normalised(found, RULES["training episodes, 390-400k"])["boxing"] == pytest.approx(
        record.human_normalised("boxing", np.array([50.0, 49.0]))
    )
    assert set(profiles(found)) == {"ours", "DreamerV3 (Nature repo) (means)", "DreamerV3 (2023 paper) (means)"}


def test_only_the_evaluation_at_400k_frames_counts():
    later = replace(budget_result("Pong", 0, 5), frames=2_000_000)
    rows = [(100_000, 1.0), (400_000, 5.0), (2_000_000, 20.0)]
    for kept, expected in ((rows, [5.0]), (rows[:1], []), (rows[::2], [])):
        episodes = later.episodes | {"eval": np.array([(*row, 1) for row in kept], float)}
        assert judged([replace(later, episodes=episodes)])[0].seeds == expected


def test_before_its_end_atari100k_is_too_early():
    early = replace(budget_result("Pong", 0, 0), frames=399_999)
    assert judged([early])[0].judgement.word == "too early"


def test_crafter_is_compared_by_its_score():
    def result(percent, seed):
        logged = {f"achievement/{i}": percent / 100 for i in range(22)}
        return replace(make_result("CrafterReward-v1", seed, frames=1_000_000), logged=logged)

    (found,) = judged([result(10, s) for s in range(3)])
    assert found.seeds == pytest.approx([10.0] * 3)
    assert found.judgement.word == "on track"
    assert judged([result(3, s) for s in range(3)])[0].judgement.word == "below"
    assert judged([replace(result(10, 0), frames=10)])[0].judgement.word == "too early"
    assert "continued beyond 1M" in judged([replace(result(10, 0), frames=3_000_000)])[0].judgement.why
    assert judged([replace(result(10, 0), logged={})])[0].judgement.word == "too early"


def test_aggregates_beside_the_official_ones_at_the_same_frames():
    results = [make_result(f"ALE/{name}-v5", s, frames=10_000_000, evals=official(key, 10, s))
               for name, key in (("Pong", "pong"), ("Boxing", "boxing")) for s in range(2)]  # fmt: skip
    (table,) = curve_table(judged(results))
    assert float(table.rows[0][1].split()[0]) == pytest.approx(float(table.rows[1][1]), abs=0.01)
    assert list(table.header[1:]) == ["mean", "median", "IQM", "optimality gap", "mean without top"]
    assert table.rows[1][3:5] == ["–", "–"]


def test_control_stands_beside_what_others_scored():
    rows = [(80_000, 900.0), (95_000, 400.0), (100_000, 500.0), (100_002, 900.0)]
    seen = make_result("dmc/walker-walk", frames=120_000, train=rows)
    felt = replace(make_result("dmc/walker-walk", frames=120_000, train=rows, **{"env.pixels": False}), label="felt")
    vision, proprio = control_tables(group([seen, felt])[0])
    assert list(vision.header) == ["agent", "walker_walk at 100k"]
    assert vision.rows[0] == ["ours", "450.0"]
    assert dict(vision.rows)["dreamerv3"] == number(
        record.control_others("vision", "walker_walk")["dreamerv3"]["100000"]
    )
    assert proprio.rows[0] == ["felt", "450.0"]
    assert "dmpo" in dict(proprio.rows)
    assert control_tables(group([replace(seen, frames=99_999)])[0]) == []


def test_own_experiments_against_each_other():
    def run(label, seed, score):
        return make_result("CartPole-v1", seed, label=label, evals=[(100, score)])

    better = [run("a", s, 10 + s) for s in range(3)] + [run("b", s, s) for s in range(3)]
    (table,) = against_each_other(group(better)[0])
    assert table.rows[0][:3] == ["a", "b", "1.000"]
    assert against_each_other(group(better[:3])[0]) == []
    many = [run(name, 0, 1.0) for name in "abcde"]
    assert against_each_other(group(many)[0]) == []
    far = [replace(each, frames=900) if each.label == "b" else each for each in better]
    assert against_each_other(group(far)[0]) == []  # after other numbers of frames
    rows = own_table(group(better)[0]).rows
    assert rows[0] == ["a", "CartPole-v1", "11.00 [8.516, 13.48]", "–", "3", "100"]


# ---------------------------------------------------------------------------------------------------------- the command


def test_without_runs_the_papers_table_comes_out(capsys):
    assert main(["compare"]) == 0
    out = capsys.readouterr().out
    assert "2.146         11.327      0.438        0.280" in out
    assert "2.640         10.450" in out
    assert main(["compare", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["published"][0]["rows"]
    assert rows[0]["gamer median"] == "2.146"


def test_the_command_writes_page_plots_and_tables(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for seed in range(2):
        result = make_result("ALE/Pong-v5", seed, frames=5_000_000, evals=official("pong", 5, seed))
        write_result(result, tmp_path / "in" / f"{seed}.json")
    assert main(["compare", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "on track" in captured.out
    assert "written" in captured.err  # not on stdout, which may be JSON
    names = {path.name for path in (tmp_path / "out").iterdir()}
    wanted = {f"comparison.{ending}" for ending in ("html", "md", "json", "csv", "tex")}
    assert wanted | {"comparison-curves.png", "comparison-curves.svg", "comparison-profile.png"} <= names
    facts = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert facts["verdicts"][0]["verdict"] == "on track"
    assert "<script" not in (tmp_path / "out" / "comparison.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["x" * 300], "cannot use the path"),
        (["--out", "x"], "without runs there is nothing to compare"),
        (["."], "there is no run and no result in"),
        (["cartpole.json", "--against", "crafter"], "'crafter' has nothing on CartPole-v1"),
        (["broken.json"], "is a damaged result"),
        (["other.json"], "is not a result of a run"),
    ],
)
def test_mistakes_get_one_sentence(words, message, in_tmp, capsys):
    (in_tmp / "other.json").write_text("{}")
    if words != ["."]:
        write_result(make_result("CartPole-v1", evals=[(1, 1.0)]), in_tmp / "cartpole.json")
        (in_tmp / "broken.json").write_text((in_tmp / "cartpole.json").read_text()[:-40])
    assert main(["compare", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_tables_escape_what_they_must():
    table = Table("a & b", ["x_1", "50 %"], [["<b>|", "1 ± 2"]], "note")
    assert r"x\_1 & 50 \%" in table.latex()
    assert "&lt;b&gt;" in render("tables.html", title="x", words=[], figures=[], tables=[table])
    assert "<b>\\|" in table.markdown()
    assert table.csv() == "x_1,50 %\n<b>|,1 ± 2\n"
    assert [number(x) for x in (12345.6, 123.45, 12.345, 0.9434, None, math.nan)] == [
        "12,346", "123.5", "12.35" if number(12.345) == "12.35" else "12.34", "0.943", "–", "–",
    ]  # fmt: skip
    assert (millions(400_000), millions(2e6)) == ("400k", "2M")
