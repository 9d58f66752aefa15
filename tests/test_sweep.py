"""Sweeps: planned and checked before the first run, killed and continued; ablations: what is said and what is not."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from results import make_result
from scipy import stats

from reverie.cli import main
from reverie.errors import UserError
from reverie.evidence.ablate import SCORES, curve_of, findings, learning_score, sentences, table
from reverie.evidence.plan import Task, Variant, make_plan, parse_vary, read_plan, setting_name
from reverie.evidence.results import read_result, write_result
from reverie.evidence.sweep import Sweep, estimate, parallel, results_of

TINY = """
name = "tiny"
seeds = [0, 1]
vary = ["kl.balance=0.5,0.8"]
settings = { "compute.threads" = 1, "train.eval_episodes" = 2, "train.random_baseline" = false }
[[task]]
name = "cart/pole"
env = "CartPole-v1"
preset = "debug"
"""


def plan_of(text, folder):
    path = folder / "sweep.toml"
    path.write_text(text)
    return read_plan(path)


# ---------------------------------------------------------------------------------------------------------------- plans


def test_a_plan_is_tasks_times_variants_times_seeds(tmp_path):
    plan = plan_of(TINY, tmp_path)
    names = [job.name for job in plan.jobs]
    assert names == [
        "cart-pole--base--s0",
        "cart-pole--kl_balance=0.5--s0",
        "cart-pole--base--s1",
        "cart-pole--kl_balance=0.5--s1",
    ]  # fmt: skip  (0.8 is what the base has)
    job = plan.jobs[1]
    assert (job.config.model.kl_balance, job.config.train.seed, job.config.env.id) == (0.5, 0, "CartPole-v1")
    assert job.config.train.deterministic
    assert job.config.train.eval_every == 0
    assert job.config.train.eval_episodes == 2  # settings of the file stand above what is usual


def test_variants_may_stand_on_other_presets_by_task(tmp_path):
    text = """
    [[task]]
    name = "a"
    env = "CartPole-v1"
    [[task]]
    name = "b"
    env = "Pendulum-v1"
    [[variant]]
    preset = "dreamerv3+small"
    presets = { b = "dreamerv2+small" }
    settings.model.kl_scale = 0.25
    """
    plan = plan_of(text, tmp_path)
    assert [(job.task, job.preset) for job in plan.jobs] == [("a", "dreamerv3+small"), ("b", "dreamerv2+small")]
    assert all(job.config.model.kl_scale == 0.25 for job in plan.jobs)
    assert {job.variant for job in plan.jobs} == {"dreamerv3+small"}


def test_minutes_end_by_the_clock_and_are_not_deterministic():
    plan = make_plan("x", [Task("t", "debug", {"env.id": "CartPole-v1"})], [], 1, {"train.minutes": 1})
    assert not plan.jobs[0].config.train.deterministic


def test_short_names_of_settings():
    for name in ("kl.balance", "kl_balance", "model.kl_balance", "kl-balance"):
        assert setting_name(name) == "model.kl_balance"
    assert setting_name("latents") == "model.latents"
    assert setting_name("reward.transform") == "model.reward_transform"
    one, two, three = parse_vary(["norm+gru_norm=false", "latents=categorical,gaussian"])
    assert one == Variant("norm+gru_norm=false", {"model.norm": "false", "model.gru_norm": "false"})
    assert (two.name, three.settings) == ("latents=categorical", {"model.latents": "gaussian"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tasks = 1", "'tasks' is not known here"),
        ("name = ", "is not TOML"),
        ("seeds = [0]", "no task is given"),
        ("[[task]]\npreset='nope'\nenv='CartPole-v1'", "there is no preset 'nope'"),
        ("[[task]]\npreset='default'\n", "task 'default' has no environment"),
        ("[[task]]\nenvy='CartPole-v1'", r"\[\[task\]\] has no 'envy'"),
        ("vary=['kl_balanc=1']\n[[task]]\nenv='CartPole-v1'", "'kl_balanc' does not exist, did you mean"),
        ("vary=['kl_balance=9']\n[[task]]\nenv='CartPole-v1'", "variant 'kl_balance=9'.*model.kl_balance"),
        ("vary=['kl_balance']\n[[task]]\nenv='CartPole-v1'", "not of the form name=value"),
        ("seeds=[1,1]\n[[task]]\nenv='CartPole-v1'", "seed 1 is there twice"),
        ("seeds=[]\n[[task]]\nenv='CartPole-v1'", "seeds must be whole numbers"),
        ("[[task]]\nenv='CartPole-v1'\n[[task]]\nenv='CartPole-v1'", "task 'CartPole-v1' is there twice"),
        ("[[variant]]\n[[task]]\nenv='CartPole-v1'", r"a \[\[variant\]\] has no name"),
        ("task = 3", "does not read as a sweep"),
    ],
)
def test_mistakes_in_a_plan_are_told_in_a_sentence(text, told, tmp_path):
    with pytest.raises(UserError, match=told):
        plan_of(text, tmp_path)


def test_committed_sweeps_are_valid():
    from pathlib import Path

    folder = Path(__file__).parents[1] / "benchmarks" / "evidence"
    plans = {path.stem: read_plan(path) for path in folder.glob("*.toml")}
    assert len(plans["ablation"].jobs) == 5 * 3 * 8
    assert len(plans["generations"].jobs) == 5 * 3 * 3


# ---------------------------------------------------------------------------------------------------------------- runs


def start(file, out):
    return subprocess.Popen(
        [sys.executable, "-m", "reverie.cli", "sweep", str(file), "--out", str(out), "--jobs", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def scores_in(out):
    return [row["seeds"] for row in json.loads((out / "report.json").read_text())["scores"]["last evaluation"]]


def test_a_sweep_killed_and_restarted_ends_with_the_same_table(tmp_path):
    """kill -9 in the middle of a run: the next sweep waits for what may still be running, and continues it."""
    pytest.importorskip("matplotlib")
    text = TINY.replace("seeds = [0, 1]", "seeds = [0]").replace("}", ', "train.env_steps" = 400 }', 1)
    (tmp_path / "s.toml").write_text(text)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    first = start(tmp_path / "s.toml", broken)
    until = time.monotonic() + 60
    while not list(broken.glob("runs/*/config.yaml")) and time.monotonic() < until:
        time.sleep(0.05)
    (run,) = broken.glob("runs/*/config.yaml")
    holder = json.loads((run.parent / ".lock").read_text())["pid"]
    first.kill()
    os.kill(holder, signal.SIGKILL)
    first.communicate()
    assert not list(broken.glob("results/*.json"))
    again, reference = start(tmp_path / "s.toml", broken), start(tmp_path / "s.toml", whole)
    outputs = [process.communicate(timeout=200)[0] for process in (again, reference)]
    assert again.returncode == reference.returncode == 0, outputs
    assert scores_in(broken) == scores_in(whole)
    assert len(list(broken.glob("results/*.json"))) == 2
    result = read_result(sorted(whole.glob("results/*.json"))[1])
    assert (result.label, result.complete, result.settings["model.kl_balance"]) == ("kl_balance=0.5", True, 0.5)
    assert {"command", "commit", "versions", "hardware", "started", "seed"} <= set(result.provenance)
    assert result.updates > 0
    assert len(result.episodes["train"]) > 1
    assert (whole / "report.html").exists()
    for name in ("report-last-evaluation.png", "report-learning.svg", "report.tex", "report.csv", "report.md"):
        assert (whole / name).stat().st_size > 100


def result_for(job, scores=((100, 1.0),), train=((100, 1.0),)):
    found = make_result(job.config.env.id, job.seed, label=job.variant, evals=scores, train=train)
    settings = {key: value for key, value in job.overrides.items() if key != "train.seed"}
    from reverie.config import Config, flatten

    usual = flatten(Config())
    mine = {k: v for k, v in flatten(job.config).items() if v != usual[k]}
    assert set(settings) & set(mine)
    return replace(found, settings={k: list(v) if isinstance(v, tuple) else v for k, v in mine.items()})


def test_done_runs_are_not_done_again_and_finished_ones_only_need_their_result(tmp_path, make_run):
    plan = plan_of(TINY, tmp_path)
    out = tmp_path / "out"
    for job in plan.jobs:
        write_result(result_for(job), out / "results" / f"{job.name}.json")
    sweep = Sweep(plan, out, say=lambda text: None)
    assert len(sweep.run(1)) == 4
    assert not (out / "runs").exists()
    assert estimate(plan, out).left == 0


def test_an_estimate_takes_what_is_known_and_foretells_the_rest(tmp_path):
    plan = plan_of(TINY, tmp_path)
    cost = estimate(plan, tmp_path / "out")
    assert cost.left == 4
    assert set(cost.cells) == {("cart/pole", "debug")}
    assert cost.seconds == pytest.approx(4 * cost.cells["cart/pole", "debug"])
    assert cost.memory > 1e7
    assert parallel(plan, cost, 7) == 7
    assert 1 <= parallel(plan, cost) <= len(os.sched_getaffinity(0))
    known = replace(result_for(plan.jobs[0]), seconds=1000.0)
    write_result(known, tmp_path / "out" / "results" / f"{plan.jobs[0].name}.json")
    again = estimate(plan, tmp_path / "out")
    assert again.left == 3
    assert again.cells["cart/pole", "debug"] == pytest.approx(1000, abs=20)


def test_results_of_another_sweep_are_refused(tmp_path):
    plan = plan_of(TINY, tmp_path)
    other = plan_of(TINY.replace('"debug"', '"debug"\nsettings = { gamma = 0.5 }'), tmp_path)
    write_result(result_for(other.jobs[0]), tmp_path / "out" / "results" / f"{other.jobs[0].name}.json")
    with pytest.raises(UserError, match=r"is of another sweep: behavior.gamma was 0.5, now it is 0.99"):
        Sweep(plan, tmp_path / "out")


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    text = TINY.replace("seeds = [0, 1]", "seeds = [0]").replace('"CartPole-v1"', '"Nowhere-v1"') + (
        '[[task]]\nname = "good"\nenv = "CartPole-v1"\npreset = "debug"\n'
    )
    plan = plan_of(text.replace('vary = ["kl.balance=0.5,0.8"]', ""), tmp_path)
    sweep = Sweep(plan, tmp_path / "out", say=lambda text: None)
    results = sweep.run(2)
    assert [result.task for result in results] == ["CartPole-v1"]
    assert "Nowhere" in sweep.failed["cart-pole--base--s0"]


# ------------------------------------------------------------------------------------------------------------- reports


def findings_of(tmp_path, scores):
    """scores: {variant: [score of each seed]}."""
    plan = plan_of(TINY.replace("seeds = [0, 1]", f"seeds = {len(next(iter(scores.values())))}"), tmp_path)
    jobs = {(job.variant, job.seed): job for job in plan.jobs}
    results = [result_for(jobs[v, s], ((100, x),)) for v, each in scores.items() for s, x in enumerate(each)]
    return findings(plan, results, "last evaluation")


def test_a_clear_difference_is_called_clear_and_noise_is_not(tmp_path):
    rng = np.random.default_rng(0)
    base, low = rng.normal(10, 1, 5), rng.normal(5, 1, 5)
    found = findings_of(tmp_path, {"base": base, "kl_balance=0.5": low})
    cell = found.cells["kl_balance=0.5", "cart/pole"]
    assert cell.clear
    assert cell.difference.p >= stats.ttest_ind(low, base, equal_var=False).pvalue
    told = " ".join(sentences(found))
    assert "1 of 1 comparisons with base are clear" in told
    assert "is lower than base by" in told
    assert "What 5 seeds can show" in told
    row = table(found).rows[1]
    assert row[2].endswith(" *")
    assert row[-1] == "0.00 [0.00, 0.00]"
    same = findings_of(tmp_path, {"base": base, "kl_balance=0.5": base[::-1]})
    assert "0 of 1 comparisons" in " ".join(sentences(same))


def test_identical_scores_are_called_what_they_are(tmp_path):
    found = findings_of(tmp_path, {"base": [1.0, 2.0], "kl_balance=0.5": [1.0, 2.0]})
    assert "No effect at all" in " ".join(sentences(found))
    assert table(found).rows[1][2] == "identical"


def test_one_seed_shows_nothing_and_it_is_said(tmp_path):
    found = findings_of(tmp_path, {"base": [1.0], "kl_balance=0.5": [9.0]})
    assert "With 1 seed no interval can be given" in " ".join(sentences(found))
    assert table(found).rows[1][1] == "9.000"


def test_many_comparisons_are_corrected(tmp_path):
    plan = plan_of(TINY.replace('"kl.balance=0.5,0.8"', '"kl.balance=0.1,0.2,0.3,0.4,0.5"'), tmp_path)
    plan = replace(plan, seeds=[0, 1])
    rng, results = np.random.default_rng(1), []
    for job in plan.jobs:
        results.append(result_for(job, ((100, float(rng.normal())),)))
    found = findings(plan, results, "last evaluation")
    raw = sorted(c.difference.p for c in found.cells.values() if c.difference)
    assert min(c.p for c in found.cells.values() if c.p is not None) == pytest.approx(min(1, 5 * raw[0]))


def test_the_learning_score_weighs_every_part_of_a_run_alike():
    rows = [(5, 1.0)] * 50 + [(95, 3.0)]
    result = make_result("CartPole-v1", frames=100, train=rows)
    assert curve_of(result).tolist() == [1.0] * 9 + [3.0]
    assert learning_score(result) == pytest.approx(1.2)
    late = make_result("CartPole-v1", frames=100, train=[(95, 3.0)])
    assert learning_score(late) == 3.0
    assert np.isnan(learning_score(make_result("CartPole-v1", frames=100)))
    assert set(SCORES) == {"last evaluation", "training return, whole run"}


# ------------------------------------------------------------------------------------------------------------- commands


def test_an_ablation_tells_its_cost_and_runs_nothing_when_asked_to(in_tmp, capsys):
    words = ["ablate", "--preset", "debug", "--env", "CartPole-v1", "--vary", "latents=categorical,gaussian",
             "kl.balance=0.5,0.8", "--seeds", "2", "--dry-run"]  # fmt: skip
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "1 task(s), 3 variant(s), 2 seed(s), 6 runs" in out
    assert "6 runs to do" in out
    assert "CartPole-v1--latents=gaussian--s1" in out
    assert not (in_tmp / "runs").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sweep", "nowhere.toml"], "cannot read nowhere.toml"),
        (["ablate", "--vary", "latents"], "'latents' is not of the form"),
        (["ablate", "--vary", "latents=square"], "latents"),
        (["ablate", "--vary", "latents=gaussian", "--set", "gamma"], "'gamma' is not of the form"),
        (["ablate", "--vary", "latents=gaussian", "--report"], "there are no results in"),
    ],
)
def test_mistakes_get_one_sentence(words, told, in_tmp, capsys):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert not (in_tmp / "runs").exists()


def test_results_of_a_sweep_can_be_compared(tmp_path, capsys):
    plan = plan_of(TINY, tmp_path)
    for job in plan.jobs:
        write_result(result_for(job, ((100, float(job.seed)),)), tmp_path / "out" / "results" / f"{job.name}.json")
    assert len(results_of(plan, tmp_path / "out")) == 4
    assert main(["compare", str(tmp_path / "out")]) == 0
    assert "Own experiments against each other" in capsys.readouterr().out
