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
from reverie.evidence.sweep import RunningJob, Sweep, estimate, parallel, result_path, results_of, run_path
from reverie.guard.lock import RunLock

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
    assert parse_vary(["gamma=0.5, 0.8"])[1] == Variant("gamma=0.8", {"behavior.gamma": "0.8"})
    one, two, three = parse_vary(["norm+gru_norm=false", "latents=categorical,gaussian"])
    assert one == Variant("norm+gru_norm=false", {"model.norm": "false", "model.gru_norm": "false"})
    assert (two.name, three.settings) == ("latents=categorical", {"model.latents": "gaussian"})


def test_presets_are_varied_like_settings():
    assert parse_vary(["preset=vector, debug"])[1] == Variant("preset=debug", {}, "debug")
    plan = make_plan("p", [Task("pole", "debug", {"env.id": "CartPole-v1"})], _two_presets(), 1, {})
    assert [(job.variant, job.preset) for job in plan.jobs] == [("base", "debug"), ("preset=vector", "vector")]


def _two_presets():
    return [Variant("base", {}), *parse_vary(["preset=debug,vector"])]  # debug again changes nothing: left out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks = 1", "sweep.toml has no 'tasks'"),
        ("name = ", "is not TOML"),
        ("seeds = [0]", "no task is given"),
        ("[[task]]\npreset='nope'\nenv='CartPole-v1'", "there is no preset 'nope'"),
        ("[[task]]\npreset='default'\n", "task 'default' has no environment"),
        ("[[task]]\nenvy='CartPole-v1'", r"\[\[task\]\] has no 'envy'"),
        ("vary=['kl_balanc=1']\n[[task]]\nenv='CartPole-v1'", "'kl_balanc' does not exist, did you mean"),
        ("vary=['kl_balance=9']\n[[task]]\nenv='CartPole-v1'", "variant 'kl_balance=9'.*model.kl_balance"),
        ("vary=['kl_balance']\n[[task]]\nenv='CartPole-v1'", "not of the form name=value"),
        ("seeds=[1,1]\n[[task]]\nenv='CartPole-v1'", "seed 1 is given twice"),
        ("seeds=[]\n[[task]]\nenv='CartPole-v1'", "seeds must be whole numbers"),
        ("seeds=-1\n[[task]]\nenv='CartPole-v1'", "seeds must be whole numbers"),
        ("seeds=[99999999999999]\n[[task]]\nenv='CartPole-v1'", "seeds must be whole numbers"),
        ("settings=3\n[[task]]\nenv='CartPole-v1'", "settings must be a table, found 3"),
        ("vary='kl_balance=1'\n[[task]]\nenv='CartPole-v1'", "vary must be a list"),
        ("[task]\nenv='CartPole-v1'", "task must be a list.*two brackets"),
        ("task = [3]", r"\[\[task\]\] must hold name = value lines, found 3"),
        (
            "[[variant]]\nname='v'\npresets={b='demo'}\n[[task]]\nenv='CartPole-v1'",
            "a preset for 'b', which is not a task",
        ),
        ("[[task]]\nenv='CartPole-v1'\nname='%s'" % ("x" * 201), "more than 200 letters"),
        (
            "[[task]]\nname='a'\nenv='CartPole-v1'\n[[task]]\nname='a--b'\nenv='CartPole-v1'\n"
            "[[variant]]\nname='b--c'\n[[variant]]\nname='c'\nsettings={gamma=0.5}",
            "two runs would have the name a--b--c--s0",
        ),
        ("[[task]]\nenv='CartPole-v1'\n[[task]]\nenv='CartPole-v1'", "task 'CartPole-v1' is given twice"),
        ("[[variant]]\n[[task]]\nenv='CartPole-v1'", r"a \[\[variant\]\] has no name"),
        ("task = 3", "task must be a list"),
    ],
)
def test_mistakes_in_a_plan_are_reported_in_a_sentence(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        plan_of(text, tmp_path)


def test_committed_sweeps_are_valid():
    from pathlib import Path

    folder = Path(__file__).parents[2] / "benchmarks" / "evidence"
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


@pytest.mark.slow
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
    assert (out / "plan.json").exists()


def test_an_estimate_takes_what_is_known_and_foretells_the_rest(tmp_path):
    plan = plan_of(TINY, tmp_path)
    cost = estimate(plan, tmp_path / "out")
    assert cost.left == 4
    assert set(cost.cells) == {("cart/pole", "debug")}
    assert cost.seconds == pytest.approx(4 * cost.cells["cart/pole", "debug"])
    assert cost.memory > 1e7
    assert parallel(plan, cost, 7) == 7
    assert 1 <= parallel(plan, cost) <= len(os.sched_getaffinity(0))
    known = replace(result_for(plan.jobs[0]), seconds=1000.0, env_steps=200)
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
    with pytest.raises(UserError, match="is of another sweep"):
        results_of(plan, tmp_path / "out")  # what --report reads


@pytest.mark.parametrize("setting", ["train.env_steps = 7", "train.eval_episodes = 3"])
def test_results_of_another_budget_are_refused(setting, tmp_path):
    plan = plan_of(TINY, tmp_path)
    key = setting.split(" ")[0]
    text = TINY.replace('"train.eval_episodes" = 2, ', "") if "episodes" in key else TINY
    other = plan_of(text.replace("settings = {", f'settings = {{ "{key}" = {setting.split(" ")[2]}, ', 1), tmp_path)
    write_result(result_for(other.jobs[0]), tmp_path / "out" / "results" / f"{other.jobs[0].name}.json")
    with pytest.raises(UserError, match=f"is of another sweep: {key} was"):
        Sweep(plan, tmp_path / "out")


class Ended:
    """A process that has ended."""

    def __init__(self, code):
        self.returncode = code

    def poll(self):
        return self.returncode


def finish(sweep, job, code):
    sweep._log(job).parent.mkdir(parents=True, exist_ok=True)
    sweep._log(job).write_text("error: something\nhint: do this\n")
    return sweep._finish(RunningJob(job, Ended(code), time.monotonic() - 5))


def test_a_run_that_was_stopped_is_not_a_result(tmp_path, make_run):
    plan = plan_of(TINY, tmp_path)
    sweep, job = Sweep(plan, tmp_path / "out", say=print), plan.jobs[0]
    run = make_run(run_path(tmp_path / "out", job), **{"env.id": "custom:toy"})
    run.stop()
    run.train()
    assert "stopped before its end" in finish(sweep, job, 0)
    assert list(sweep.failed) == [job.name]
    assert not result_path(tmp_path / "out", job).exists()


def test_a_deterministic_run_gets_the_seconds_of_its_process(tmp_path, make_run):
    plan = plan_of(TINY, tmp_path)
    sweep, job = Sweep(plan, tmp_path / "out", say=print), plan.jobs[0]
    make_run(run_path(tmp_path / "out", job), **{"train.deterministic": True}).train()
    assert "return" in finish(sweep, job, 0)
    assert 5 <= read_result(result_path(tmp_path / "out", job)).seconds < 10


def test_runs_that_end_badly(tmp_path):
    plan = plan_of(TINY, tmp_path)
    sweep, job = Sweep(plan, tmp_path / "out", say=print), plan.jobs[0]
    assert "FAILED: error: something hint: do this" in finish(sweep, job, 2)
    sweep.failed.clear()
    sweep.stopping.set()
    assert "will resume from its checkpoint" in finish(sweep, job, -signal.SIGTERM)
    assert sweep.failed == {}


def test_no_run_goes_on_when_the_queue_breaks(tmp_path, monkeypatch):
    plan = plan_of(TINY, tmp_path)
    sweep = Sweep(plan, tmp_path / "out", say=print)
    started = []

    def start(job, jobs):
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], text=True))
        if len(started) == 2:
            raise UserError("the disk is full")
        return started[-1]

    monkeypatch.setattr(sweep, "_start", start)
    with pytest.raises(UserError, match="the disk is full"):
        sweep.run(2)
    assert started[0].poll() is not None
    started[1].kill()
    started[1].wait()


def test_a_run_that_is_still_going_is_waited_for(tmp_path):
    plan = plan_of(TINY, tmp_path)
    said = []
    sweep = Sweep(plan, tmp_path / "out", say=said.append)
    lock = RunLock(run_path(tmp_path / "out", plan.jobs[0]))
    lock.acquire()
    waiting = list(plan.jobs)
    assert sweep._next(waiting) is plan.jobs[1]
    assert sweep._next(waiting) is plan.jobs[2]
    assert len(said) == 1
    assert "still running" in said[0]
    lock.release()
    assert sweep._next(waiting) is plan.jobs[0]
    assert waiting == plan.jobs[3:]


def test_a_run_that_fails_is_reported_and_the_others_continue(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    text = TINY.replace("seeds = [0, 1]", "seeds = [0]").replace('"CartPole-v1"', '"Nowhere-v1"') + (
        '[[task]]\nname = "good"\nenv = "CartPole-v1"\npreset = "debug"\n'
    )
    plan = plan_of(text.replace('vary = ["kl.balance=0.5,0.8"]', ""), tmp_path)
    sweep = Sweep(plan, tmp_path / "out", say=lambda text: None)
    results = sweep.run(2)
    assert [(job.task, result.task) for job, result in results] == [("good", "CartPole-v1")]
    assert "Nowhere" in sweep.failed["cart-pole--base--s0"]


# ------------------------------------------------------------------------------------------------------------- reports


def findings_of(tmp_path, scores, train=((100, 1.0),)):
    """scores: {variant: [score of each seed]}; train: training episodes of the variants."""
    plan = plan_of(TINY.replace("seeds = [0, 1]", f"seeds = {len(next(iter(scores.values())))}"), tmp_path)
    jobs = {(job.variant, job.seed): job for job in plan.jobs}
    pairs = [(jobs[v, s], result_for(jobs[v, s], ((100, x),), ((100, 1.0),) if v == "base" else train))
             for v, each in scores.items() for s, x in enumerate(each)]  # fmt: skip
    return findings(plan, pairs, "last evaluation")


def test_a_clear_difference_is_called_clear_and_noise_is_not(tmp_path):
    rng = np.random.default_rng(0)
    base, low = rng.normal(10, 1, 5), rng.normal(5, 1, 5)
    found = findings_of(tmp_path, {"base": base, "kl_balance=0.5": low})
    cell = found.cells["kl_balance=0.5", "cart/pole"]
    assert cell.clear
    assert cell.difference.p >= stats.ttest_ind(low, base, equal_var=False).pvalue
    message = " ".join(sentences(found))
    assert "1 of 1 comparisons with base are clear" in message
    assert "is lower than base by" in message
    assert "What 5 seeds can show" in message
    row = table(found).rows[1]
    assert row[2].endswith(" *")
    assert row[-1] == "0.000"  # complete: no replica differs, and no width is claimed
    same = findings_of(tmp_path, {"base": base, "kl_balance=0.5": base[::-1]})
    assert "0 of 1 comparisons" in " ".join(sentences(same))


def test_identical_scores_are_called_what_they_are(tmp_path):
    found = findings_of(tmp_path, {"base": [1.0, 2.0], "kl_balance=0.5": [1.0, 2.0]})
    assert "No effect at all" in " ".join(sentences(found))
    assert table(found).rows[1][2] == "identical"
    found = findings_of(tmp_path, {"base": [1.0, 2.0], "kl_balance=0.5": [1.0, 2.0]}, train=((100, 7.0),))
    message = " ".join(sentences(found))
    assert "No effect at all" not in message
    assert "not the same runs (floor or ceiling?): kl_balance=0.5 on cart/pole" in message


def test_seeds_without_any_spread_show_nothing(tmp_path):
    found = findings_of(tmp_path, {"base": [500.0, 500.0], "kl_balance=0.5": [499.0, 499.0]})
    message = " ".join(sentences(found))
    assert "base's seeds all score the same on cart/pole: no interval, no test there" in message
    assert "clear" not in message
    assert table(found).rows[1][2] == "-1.000"


def test_tasks_of_one_environment_are_kept_apart(tmp_path):
    text = TINY + '[[task]]\nname = "short"\nenv = "CartPole-v1"\npreset = "debug"\nsettings = { time_limit = 9 }\n'
    plan = plan_of(text, tmp_path)
    pairs = [(job, result_for(job, ((100, 1.0 if job.task == "short" else 2.0),))) for job in plan.jobs]
    found = findings(plan, pairs, "last evaluation")
    assert found.cells["base", "short"].seeds.tolist() == [1.0, 1.0]
    assert found.cells["base", "cart/pole"].seeds.tolist() == [2.0, 2.0]


def test_what_is_missing_is_not_called_the_base(tmp_path):
    plan = plan_of(TINY, tmp_path)
    pairs = [(job, result_for(job)) for job in plan.jobs if job.variant != "base"]
    found = findings(plan, pairs, "last evaluation")
    assert found.base == "base"
    assert table(found).rows[0][1] == "no result yet"
    assert table(found).rows[1][2] == "–"


def test_one_seed_shows_nothing_and_it_is_said(tmp_path):
    found = findings_of(tmp_path, {"base": [1.0], "kl_balance=0.5": [9.0]})
    assert "With 1 seed no interval can be given" in " ".join(sentences(found))
    assert table(found).rows[1][1] == "9.000"


def test_many_comparisons_are_corrected(tmp_path):
    plan = plan_of(TINY.replace('"kl.balance=0.5,0.8"', '"kl.balance=0.1,0.2,0.3,0.4,0.5"'), tmp_path)
    plan = replace(plan, seeds=[0, 1])
    rng, results = np.random.default_rng(1), []
    for job in plan.jobs:
        results.append((job, result_for(job, ((100, float(rng.normal())),))))
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


def test_an_ablation_reports_its_cost_and_runs_nothing_when_asked_to(in_tmp, capsys):
    words = ["ablate", "--preset", "debug", "--env", "CartPole-v1", "--vary", "latents=categorical,gaussian",
             "kl.balance=0.5,0.8", "--seeds", "2", "--dry-run"]  # fmt: skip
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "1 task, 3 variants, 2 seeds, 6 runs" in out
    assert "6 runs to do" in out
    assert "CartPole-v1--latents=gaussian--s1" in out
    assert not (in_tmp / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "nowhere.toml"], "nowhere.toml"),
        (["ablate", "--vary", "latents"], "'latents' is not of the form"),
        (["ablate", "--vary", "latents=square"], "latents"),
        (["ablate", "--vary", "latents=gaussian", "--set", "gamma"], "'gamma' is not of the form"),
        (["ablate", "--vary", "latents=gaussian", "--report"], "there are no results in"),
    ],
)
def test_mistakes_get_one_sentence(words, message, in_tmp, capsys):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not (in_tmp / "runs").exists()


def test_results_of_a_sweep_can_be_compared(tmp_path, capsys):
    plan = plan_of(TINY, tmp_path)
    for job in plan.jobs:
        write_result(result_for(job, ((100, float(job.seed)),)), tmp_path / "out" / "results" / f"{job.name}.json")
        (tmp_path / "out" / "runs" / job.name).mkdir(parents=True)  # a run that has its result is not read again
        (tmp_path / "out" / "runs" / job.name / "config.yaml").write_text("nonsense: true")
    assert len(results_of(plan, tmp_path / "out")) == 4
    assert main(["compare", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "Own experiments against each other" in out
    assert out.count("kl_balance=0.5") == 2
