"""benchmarks/suite.py: the plans, the toys, one small run with its resume, and the reports."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from reverie import check_env
from reverie.config.presets import preset_names
from reverie.envs.images import area_resize

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import beside_sb3  # noqa: E402
from suites import report, toys  # noqa: E402
from suites.meter import Meter, write_json  # noqa: E402
from suites.plan import maker, parse_cell, read_plan  # noqa: E402
from suites.results import FORMAT, read_results, result_path, summary, thinned  # noqa: E402
from suites.worker import train_one  # noqa: E402

sys.path.remove(str(BENCHMARKS))  # files there have the names of folders here

BREADTH, INVARIANCE = (read_plan(BENCHMARKS / "suites" / f"{name}.toml") for name in ("breadth", "invariance"))
#: Networks of a few units and a batch of a few steps.
TINY = {
    "rnn_hidden_dim": 8,
    "hidden_dim": 8,
    "cnn_depth": 1,
    "num_categories": 4,
    "num_categoricals": 4,
    "batch_size": 2,
    "seq_len": 6,
    "prefill": 60,
    "pretrain": 2,
    "train_ratio": 0.02,
    "imagination_horizon": 3,
    "imagination_starts": 4,
}

# ---------------------------------------------------------------------------------------------------------------- plans


def test_the_breadth_suite_is_the_one_that_was_asked_for():
    assert len(BREADTH.tasks) == 17
    assert len(BREADTH.runs()) == 85
    assert [seed for _, seed in BREADTH.runs()] == [seed for seed in BREADTH.seeds for _ in range(17)]
    assert len(BREADTH.seeds) == 5
    assert all(3 <= task.cpu_minutes <= 12 and task.threshold_from for task in BREADTH.tasks)
    assert all(task.random < task.threshold for task in BREADTH.tasks)
    assert BREADTH.final_episodes >= 10


def test_the_invariance_suite_is_the_one_that_was_asked_for():
    cells = {(task.name, task.cell) for task in INVARIANCE.tasks}
    assert len(INVARIANCE.runs()) == 51
    assert {cell for _, cell in cells} == {"plain", "x0.01", "x100", "+1", "-1"}
    assert ("cartpole", "-1") not in cells  # every reward would be 0
    assert ("grid", "+1") not in cells  # staying away from the goal would be best
    assert len({task.label for task in INVARIANCE.tasks}) == len(INVARIANCE.tasks)


@pytest.mark.parametrize("plan", [BREADTH, INVARIANCE], ids=lambda plan: plan.name)
def test_plans_name_presets_that_exist_and_can_be_cut(plan):
    assert {task.before for task in plan.tasks} <= set(preset_names())
    assert [task.name for task in plan.only(["cartpole"]).tasks].count("cartpole") in (1, 4)
    assert plan.only(seeds=[7]).seeds == [7]
    with pytest.raises(ValueError, match="has no task 'chess'"):
        plan.only(["chess"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("colour = 1", "has no 'colour'"),
        ('env = "toy:chess"', "there is no toy:chess"),
        ('cells = ["x2"]', "the first cell of a must be plain"),
        ('cells = ["plain", "twice"]', "'twice' is no change of rewards"),
    ],
)
def test_mistakes_in_a_plan_get_a_sentence(tmp_path, words, message):
    rest = 'threshold = 1\nthreshold_from = ""\nrandom = 0\nenv_steps = 1\ncpu_minutes = 1\neval_every = 1\n'
    env = "" if "env" in words else 'env = "toy:catch"\n'
    path = tmp_path / "plan.toml"
    path.write_text(f'[[task]]\nname = "a"\n{env}{rest}{words}\n')
    with pytest.raises(ValueError, match=message):
        read_plan(path)


# ----------------------------------------------------------------------------------------------------------------- toys


def play(env, policy, seed=0):
    """(return, observations) of an episode."""
    obs, _ = env.reset(seed=seed)
    seen, score, ended = [obs], 0.0, False
    while not ended:
        obs, reward, terminated, truncated, _ = env.step(policy(seen))
        seen.append(obs)
        score, ended = score + reward, terminated or truncated
    return score, seen


@pytest.mark.parametrize("name", toys.TOYS)
def test_toys_are_sound_and_repeat_themselves(name):
    assert not [finding for finding in check_env(toys.TOYS[name]).findings if finding.severity == "error"]
    actions = toys.TOYS[name]().action_space
    runs = []
    for _ in range(2):
        actions.seed(3)
        runs.append(play(toys.TOYS[name](), lambda seen: actions.sample(), seed=5))
    assert runs[0][0] == runs[1][0]
    assert all(np.array_equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


def test_recall_is_solved_by_remembering():
    env = toys.Recall(delay=3)
    assert play(env, lambda seen: seen[max(0, len(seen) - 4)])[0] == 32
    assert play(env, lambda seen: seen[-1])[0] < 20


def test_catch_is_solved_by_following_the_ball():
    def follow(seen):
        board = seen[-1][::4, ::8]
        ball = int(np.argwhere(board.min(-1) == 255)[0, 1])
        paddle = np.argwhere(board[-1, :, 2] == 255).mean()
        return 1 + int(np.sign(ball - paddle))

    assert [play(toys.Catch(), follow, seed)[0] for seed in range(20)] == [1.0] * 20


def test_the_drawn_cartpole_is_gymnasiums_made_smaller():
    pytest.importorskip("pygame")
    ours, theirs = toys.CartPoleImage(48), gym.make("CartPole-v1", render_mode="rgb_array")
    image, _ = ours.reset(seed=3)
    theirs.reset(seed=3)
    for action in (1, 1, 0, 1, 1, 1):
        image, *_ = ours.step(action)
        theirs.step(action)
    assert np.abs(area_resize(theirs.render(), 48, 48).astype(float) - image).mean() < 1.0
    assert ours.observation_space.contains(image)


@pytest.mark.parametrize("cell", ["plain", "x0.01", "x100", "+1", "-1"])
def test_changed_rewards_are_turned_back_exactly(cell):
    scale, shift = parse_cell(cell)
    task = replace(INVARIANCE.tasks[0], env="CartPole-v1", cell=cell)
    score, seen = play(maker(task)(), lambda seen: len(seen) % 2, seed=1)
    plain, _ = play(gym.make("CartPole-v1"), lambda seen: len(seen) % 2, seed=1)
    assert score == pytest.approx(scale * plain + shift * (len(seen) - 1))
    assert toys.original_return(score, len(seen) - 1, scale, shift) == pytest.approx(plain, abs=1e-9)


# ----------------------------------------------------------------------------------------------------------------- runs


def small(cell="plain", **changes):
    """A task of Catch that takes a second and cannot be solved, and its suite."""
    task = next(task for task in INVARIANCE.tasks if (task.name, task.cell) == ("catch", cell))
    return replace(task, **{"env_steps": 150, "eval_every": 80, "threshold": 2} | changes), replace(
        INVARIANCE, eval_episodes=3, final_episodes=5
    )


def test_a_run_writes_everything_that_was_asked_for(tmp_path):
    task, plan = small("x0.01")
    found = train_one(task, 3, plan, "demo", TINY, tmp_path / "run", ["python", "suite.py"])
    write_json(result_path(tmp_path, task.label, 3), found)
    (read,) = read_results(tmp_path)
    assert read == json.loads(json.dumps(found))
    assert (read["label"], read["seed"], read["learner"], read["command"]) == (
        "catch--x0.01",
        3,
        "demo",
        "python suite.py",
    )
    assert read["settings"]["train.seed"] == 3
    assert {"processor", "cores", "threads", "load"} <= read["hardware"].keys()
    assert read["ended_by"] == "env_steps"
    assert read["updates"] >= 2
    assert [mark["episodes"] for mark in read["evaluations"]] == [3, 5]
    assert all(score in (-1, 1) for score in read["final"]["scores"])  # the original rewards
    assert 0 < read["evaluations"][0]["cpu_seconds"] < read["cpu_seconds"]
    assert all(len(point) == 3 for point in read["curves"]["entropy"] + read["curves"]["kl"])


def test_a_run_that_was_stopped_goes_on_and_keeps_counting(tmp_path, monkeypatch):
    task, plan = small()
    from suites import worker

    seen = []

    def stopping(self, progress):
        evaluate(self, progress)
        seen.append(self.meter.cpu)
        if len(seen) == 1:
            self.stop()

    evaluate = worker.MeasuredRun.evaluate
    monkeypatch.setattr(worker.MeasuredRun, "evaluate", stopping)
    assert train_one(task, 0, plan, "demo", TINY, tmp_path / "run", []) is None
    found = train_one(task, 0, plan, "demo", TINY, tmp_path / "run", [])
    assert found["continued"] == 1
    assert [mark["episodes"] for mark in found["evaluations"]] == [3, 5]
    assert found["evaluations"][1]["cpu_seconds"] > found["evaluations"][0]["cpu_seconds"]


def test_a_run_ends_by_cpu_minutes_or_at_its_threshold(tmp_path):
    task, plan = small(cpu_minutes=1e-6)
    found = train_one(task, 0, plan, "demo", TINY, tmp_path / "a", [])
    assert found["ended_by"] == "cpu_minutes"
    assert found["env_steps"] < 80
    assert found["final"]["episodes"] == 5
    task, plan = small(threshold=-1)
    found = train_one(task, 0, plan, "demo", TINY, tmp_path / "b", [])
    assert (found["ended_by"], found["solved"]) == ("threshold", True)
    assert found["first_reached"]["env_steps"] == found["env_steps"] < 100


def test_a_meter_keeps_evaluations_apart():
    meter = Meter()
    meter.add({"cpu": 5.0})
    with meter.evaluating():
        sum(range(10**6))
    assert 5 <= meter.cpu < 5.02
    assert meter.state()["evaluation_cpu"] > 0


def test_curves_keep_their_beginning():
    lines = [{"env_steps": 1000 + i, "updates": i, "x": float(i)} for i in range(1000)] + [{"env_steps": 5, "x": None}]
    points = thinned(lines, "x")
    assert len(points) == 50
    assert points[:12] == [[1000 + i, i, i] for i in range(12)]
    assert points[-1][0] == 1999


# -------------------------------------------------------------------------------------------------------------- reports


def fake(task, seed, plan, curve):
    """A result with these means at 1000, 2000, ... steps."""
    spent = {"cpu": 60.0, "wall": 70.0, "evaluation_cpu": 1.0, "evaluation_wall": 1.0}
    lines = [
        {"env_steps": 1000 * (i + 1), "updates": i, "spent": spent, "mean": mean, "scores": [mean] * 20}
        for i, mean in enumerate(curve)
    ]
    return {
        "format": FORMAT, "label": task.label, "seed": seed, "learner": "auto", "commit": "abc",
        "hardware": {"processor": "a CPU"}, **summary(task, plan, lines, ended_by="env_steps", spent=spent),
    }  # fmt: skip


def test_the_report_counts_what_is_solved_and_what_is_missing(tmp_path):
    plan = BREADTH.only(["cartpole", "acrobot", "recall"])
    for seed in BREADTH.seeds:
        for task, good in zip(plan.tasks[:2], (True, seed < BREADTH.seeds[2]), strict=True):
            curve = [task.random, task.threshold + (1 if good else -1)]
            write_json(result_path(tmp_path, task.label, seed), fake(task, seed, plan, curve))
    text = report.write_report(plan, tmp_path, command="make breadth")
    assert "**1 of 3 tasks** (1 undecided)" in text
    assert "| cartpole | 475 | 22.7 | **5 of 5** | 476 | 2,000 (5) | 1.0 |" in text
    assert "| 2 of 5 |" in text
    assert "no run yet" in text
    assert "**5 of 15 runs are missing**: recall-s22" in text
    assert (tmp_path / "report.md").read_text() == text
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_cells_are_compared_with_the_plain_one(tmp_path):
    plan = INVARIANCE.only(["catch"])
    curves = {"plain": [0, 1], "x0.01": [0, 0, 1], "x100": [0, 0, 0, 1], "+1": [0, 0]}
    for task in plan.tasks[:4]:
        for seed in INVARIANCE.seeds:
            write_json(result_path(tmp_path, task.label, seed), fake(task, seed, plan, curves[task.cell]))
    text = report.write_report(plan, tmp_path, command="make invariance")
    assert "**2 of 5 cells solved**" in text
    assert "| solved: 2,000, 2,000, 2,000 | solved: 3,000, 3,000, 3,000 | NOT solved: 4,000, 4,000, 4,000 " in text
    assert "| NOT solved: never, never, never | undecided: no run yet |" in text


def test_no_results_make_no_report(tmp_path):
    assert "no results" in report.write_report(BREADTH, tmp_path, command="")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- beside Stable-Baselines3


def test_the_zoo_has_settings_for_every_task():
    found = beside_sb3.algorithms()
    assert set(found) == {task.name for task in BREADTH.tasks}
    assert all("ppo" in each for each in found.values())


def peer(task, algorithm, seed, plan, marks):
    """A result of SB3 with evaluations (CPU seconds, steps, mean)."""
    lines = [
        {
            "env_steps": steps,
            "updates": 1,
            "spent": {"cpu": cpu, "wall": cpu, "evaluation_cpu": 0.0, "evaluation_wall": 0.0},
            "mean": mean,
            "scores": [mean] * 20,
        }
        for cpu, steps, mean in marks
    ]
    facts = summary(task, plan, lines, ended_by="both budgets", spent=lines[-1]["spent"])
    head = {"format": FORMAT, "label": f"{task.label}--{algorithm}", "seed": seed, "commit": "abc"}
    return head | {"learner": f"sb3-{algorithm}", "hardware": {"processor": "a CPU"}} | facts


def test_scores_at_the_same_cpu_seconds_and_the_same_steps(tmp_path):
    plan = BREADTH.only(["cartpole", "recall"], range(5))
    task = plan.tasks[0]
    for seed in range(5):
        write_json(result_path(tmp_path / "a", task.label, seed), fake(task, seed, plan, [50, 480 + seed]))
        found = peer(task, "ppo", seed, plan, [(30, 1000, 90 + seed), (55, 9000, 490 + seed), (99, 20000, 500)])
        write_json(result_path(tmp_path / "b", "cartpole--ppo", seed), found)
    args = argparse.Namespace(ours=tmp_path / "a", out=tmp_path / "b", docs=False)
    text = beside_sb3.report(args, plan)
    assert "| cartpole | 475 | 60 | 482 ± 1.96 | 492 ± 1.96 |  | behind |" in text
    assert "| cartpole | 475 | 2,000 | 482 ± 1.96 | 92.0 ± 1.96 |  | ahead |" in text
    assert "| cartpole | 2,000 | PPO: 9,000 | 4.5 |" in text
    assert "recall--reverie (5)" in text
    assert (tmp_path / "b" / "beside_sb3-env_steps.png").stat().st_size > 5_000


def test_what_was_never_reached_is_a_bound():
    plan, never = BREADTH.only(["cartpole"]), [(10, 1000, 30), (20, 2000, 40)]
    runs = [peer(plan.tasks[0], "ppo", seed, plan, never) for seed in range(3)]
    assert beside_sb3.to_threshold(runs, "env_steps") == (2000, False)
    assert beside_sb3.score_at(runs[0], "cpu_seconds", 5) == 22.7  # before the first evaluation: random actions
    assert beside_sb3.score_at(runs[0], "cpu_seconds", 15) == 30
    assert beside_sb3.verdict([1, 1], [1, 1]) == "equal"
    assert beside_sb3.verdict([1, 1.2, 0.8], [1.1, 0.9, 1]) == "not clear"


def test_a_report_goes_between_its_marks(tmp_path):
    path = tmp_path / "a.md"
    path.write_text("before\n<!-- beside_sb3 -->\nold\n<!-- /beside_sb3 -->\nafter\n")
    beside_sb3.into_docs(path, "new\n")
    text = path.read_text()
    assert text.startswith("before\n<!-- beside_sb3 -->\nnew\n")
    assert text.endswith("<!-- /beside_sb3 -->\nafter\n")
    assert "old" not in text


# --------------------------------------------------------------------------------------------- the fast part of a suite


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif("auto" not in preset_names(), reason="there is no preset auto yet")
@pytest.mark.parametrize(("name", "cell"), [("cartpole", "x0.01"), ("cartpole", "x100"), ("catch", "-1")])
def test_the_preset_auto_does_not_depend_on_the_scale_of_rewards(tmp_path, name, cell):
    """A fast part of the invariance suite: one seed of three cells, to their thresholds."""
    task = next(task for task in INVARIANCE.tasks if (task.name, task.cell) == (name, cell))
    assert train_one(task, 0, INVARIANCE, "auto", {}, tmp_path / "run", [])["solved"]
