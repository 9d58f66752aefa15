"""The doctor: each rule by hand, measurements on a small run, and (slow) faults that are planted in training."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import reverie
from reverie.cli import main
from reverie.commands.doctor import format_finding
from reverie.config import build
from reverie.config.presets import load_preset
from reverie.envs.spaces import make_spec
from reverie.errors import UserError
from reverie.insight.doctor import diagnose, diagnose_agent
from reverie.insight.drift import Drift
from reverie.insight.findings import LEVELS, LIMITS, Finding, RunFacts
from reverie.insight.foresight import Foresight
from reverie.insight.history import History, make_history, read_history
from reverie.insight.measurements import (
    Measurements,
    event_windows,
    experience_of,
    latent_numbers,
    most_entropy,
    probe,
    weight_growth,
)
from reverie.insight.rules import EARLY_RULES, RULES, apply_rules, healthy, without_contradictions
from reverie.insight.run_reader import Experience, Segment, open_run
from reverie.insight.task_numbers import ImageNumbers, TaskNumbers, floor_entropy, relative_entropy, task_numbers
from reverie.layers import MLP, MLPOptions
from reverie.rssm import CategoricalLatent, GaussianLatent
from reverie.train import DreamerV2

ROOT = Path(__file__).parents[2]

#: A run in which everything is as it should be.
SOUND = Measurements(
    steps=5000,
    rewarding=0.05,
    rewards=(0.0, 1.0),
    planned_reward=1.0,
    terminals=0.04,
    inputs={"image": (0.0, 0.5), "vector": (0.0, 4.0)},
    images=("image",),
    deviations={"vector": (0.9, 1.1)},
    explained={"image": 0.4, "vector": 0.9},
    kl=1.5,
    information=8.0,
    entropies=(7.0, 8.5),
    perplexity=3.0,
    dead=0.0,
    difference=0.9,
    action_gain=2.0,
    shifted=1.7,
    reward_contrast=0.8,
    reward_explained=0.8,
    events=50,
    continues=(0.99, 0.1),
    continue_brier=(0.005, 0.04),
    randomness=0.3,
    most_entropy=math.log(4),
    value=(0.7, 0.1),
    highest_value=1.0,
    slow_gap=0.05,
    task=TaskNumbers(
        paid=(0.0, 1.0),
        ended=60,
        shown_images={"image": ImageNumbers(moving=130.0, shown=28, native=56)},
        worth={"image": 8.0, "vector": 4.0},
        foresight=Foresight(steps=4000, observation=0.95, reward=0.9, lag=0, recent=0.9),
    ),
)
LEARNT = History(
    env_steps=5000,
    updates=1000,
    metrics={"world_model/loss": [9.0, 5.0, 3.0, 2.0, 1.9, 1.8, 1.8, 1.7, 1.8], "actor/entropy": [1.0] * 9},
    at={"actor/entropy": list(range(100, 1000, 100))},
    random=(0.2, 0.3, 0.1, 0.2),
    returns=(0.8,) * 30,
)


def drifting(useful, *, floor=0.2):
    curve = [0.1] * 15
    error = {"dream": curve, "floor": [floor] * 15, "copy": [1.0] * 15, "mean": [1.0] * 15}
    return Drift(15, 5, [40] * 15, curve, {}, error, {"dream": curve}, {}, {}, useful, 15)


def verdicts(measured=SOUND, history=LEARNT, **settings):
    base = {"slow_critic_every": 100, "entropy_scale": 0.01}
    return apply_rules(RunFacts(build(base | settings), history, measured))


def test_a_sound_run_is_healthy_and_says_why():
    (finding,) = verdicts(replace(SOUND, drift=drifting(15)))
    assert (finding.verdict, finding.level) == ("healthy", "OK")
    for word in ("8 nats", "1.5", "90 %", "useful horizon 15", "return 0.8", "random policy 0.2"):
        assert word in finding.evidence


def test_a_short_dream_is_not_to_be_lowered_to_a_longer_one():
    for length, advice in ((15, "lower it to 5, or train"), (5, "short already: train"), (4, "short already: train")):
        drift = replace(drifting(0), imagination_horizon=length)
        found = verdicts(replace(SOUND, drift=drift), imagination_horizon=length)
        (finding,) = [each for each in found if each.verdict == "imagination drift"]
        assert advice in finding.change


BLIND = {"information": 0.1, "kl": 0.01, "explained": {"image": 0.0}}

#: name -> (what differs from SOUND, settings, verdict, level, key)
SICK = {
    "nan": ({"broken": ("critic.mlp.0.weight",)}, {}, "non-finite", "FAIL", "model.world_model_lr"),
    "images": ({"inputs": {"image": (130.0, 255.0)}}, {}, "bad input scaling", "FAIL", ""),
    "huge vector": ({"deviations": {"v": (1.0, 500.0)}}, {}, "bad input scaling", "FAIL", "model.vector_transform"),
    "big vector": ({"deviations": {"v": (1.0, 50.0)}}, {}, "bad input scaling", "WARN", "model.vector_transform"),
    "tiny vector": ({"deviations": {"v": (0.01, 1.0)}}, {}, "bad input scaling", "WARN", "model.vector_transform"),
    "reward": (
        {"planned_reward": 1e4, "rewards": (0.0, 1e4)}, {"reward_transform": "none"}, "bad input scaling", "FAIL",
        "model.reward_transform",
    ),
    "symlog reward": (
        {"planned_reward": 200.0, "rewards": (-200.0, 9.0)}, {}, "bad input scaling", "WARN",
        "behavior.critic_transform",
    ),
    "leak": ({"leak": 0.4}, {}, "memory leaks", "FAIL", ""),
    "growth": ({"growth": 6.0}, {"world_model_lr": 0.1}, "unstable", "FAIL", "model.world_model_lr"),
    "some growth": ({"growth": 6.0}, {}, "unstable", "WARN", "model.world_model_lr"),
    "few steps": ({"steps": 300}, {}, "starved replay", "FAIL", "replay.replay_capacity"),
    "collapse": (BLIND, {"kl_scale": 500.0}, "posterior collapse", "FAIL", "model.kl_scale"),
    "detached": (
        BLIND, {"detached_heads": ("obs",)}, "posterior collapse", "FAIL",
        "model.detached_heads",
    ),
    "nearly": (BLIND | {"information": 1.5}, {}, "posterior collapse", "WARN", "model.kl_scale"),
    "tied": ({"difference": 0.0}, {}, "categorical degeneracy", "FAIL", "model.num_categoricals"),
    "dead": ({"dead": 0.95}, {}, "categorical degeneracy", "FAIL", "model.unimix"),
    "half dead": ({"dead": 0.6}, {}, "categorical degeneracy", "WARN", "model.unimix"),
    "free nats": (
        {"kl": 40.0, "information": 15.0, "below_free": 1.0}, {"free_nats": 1000.0}, "prior not learning", "FAIL",
        "model.free_nats",
    ),
    "weak prior": ({"kl": 6.0}, {}, "prior not learning", "WARN", "model.kl_scale"),
    "reversed": ({}, {"kl_balance": 0.2}, "prior not learning", "WARN", "model.kl_balance"),
    "shifted": ({"shifted": 0.2, "kl": 4.0}, {}, "actions ignored", "FAIL", ""),
    "ignored": ({"action_gain": 1.0}, {}, "actions ignored", "WARN", "behavior.entropy_scale"),
    "inverted": (
        {"continues": (0.05, 0.9), "continue_brier": (0.9, 0.04)}, {}, "continue head miscalibrated", "FAIL", "",
    ),
    "blind to ends": (
        {"continues": (0.8, 0.8), "continue_brier": (0.08, 0.04)}, {}, "continue head miscalibrated", "WARN",
        "model.continue_scale",
    ),
    "no continue head": (
        {"continues": None, "continue_brier": None}, {"predict_continue": False}, "continue head miscalibrated",
        "WARN", "model.predict_continue",
    ),
    "reward unseen": ({"reward_contrast": 0.02}, {}, "reward head blind", "WARN", "replay.prioritize"),
    "dense reward unseen": (
        {"reward_explained": 0.0, "rewarding": 0.9}, {}, "reward head blind", "WARN", "model.reward_scale",
    ),
    "values": ({"highest_value": 900.0}, {}, "critic diverging", "FAIL", "behavior.critic_lr"),
    "frozen": (
        {"slow_gap": 0.7}, {"slow_critic_every": 9999}, "critic diverging", "FAIL", "behavior.slow_critic_every",
    ),
    "lagging": (
        {"slow_gap": 0.3}, {"slow_critic_every": 500}, "critic diverging", "WARN", "behavior.slow_critic_every",
    ),
    "restless": ({"slow_gap": 0.3}, {}, "critic diverging", "WARN", "behavior.critic_lr"),
    "random": ({"randomness": 0.99}, {"entropy_scale": 1.0}, "actor random", "WARN", "behavior.entropy_scale"),
    "unknown": ({"strange": 0.4}, {}, "acting where the model has never been", "WARN", "train.train_ratio"),
    "drift": ({"drift": drifting(4)}, {}, "imagination drift", "WARN", "behavior.imagination_horizon"),
}  # fmt: skip


#: The same run where nobody knows what the random policy gets, and where it gets as much.
UNKNOWN = replace(LEARNT, random=())
POOR = replace(LEARNT, returns=(0.2,) * 30)


def task(**differs):
    return {"task": replace(SOUND.task, **differs)}


def seen(**differs):
    return task(foresight=replace(SOUND.task.foresight, **differs))


def logged(key, values, history=UNKNOWN, first=100):
    at = {key: [first + 50 * i for i in range(len(values))]}
    return replace(history, metrics=history.metrics | {key: values}, at=history.at | at)


SPECK = {"image": ImageNumbers(moving=2.0, shown=28, native=400)}
SIDED = logged("actor/advantage", [2.0] * 9, logged("actor/advantage_std", [1.0] * 9))

#: name -> (what differs from SOUND, the history, settings, verdict, level, key)
LOST = {
    "no reward": (
        task(paid=(0.0, 0.0)) | {"terminals": 0.0}, UNKNOWN, {}, "reward never varies", "WARN", "train.prefill",
    ),
    "equal rewards": (
        task(paid=(-1.0, -1.0)) | {"terminals": 0.0}, UNKNOWN, {}, "reward never varies", "FAIL", "train.prefill",
    ),
    "tiny rewards": ({"planned_reward": 0.01}, UNKNOWN, {}, "rewards too small", "WARN", "model.reward_unit"),
    "noise": (
        seen(reward=0.0, recent=0.0) | {"terminals": 0.0, "rewarding": 1.0, "reward_explained": 0.0}, UNKNOWN, {},
        "nothing to learn", "WARN", "",
    ),
    "endless": (
        task(ended=0), replace(UNKNOWN, returns=()), {"num_envs": 4}, "no episode has ended", "WARN", "env.time_limit",
    ),
    "memory": (
        seen(reward=0.9, recent=0.1, lag=13), UNKNOWN, {"seq_len": 8}, "window too short", "FAIL", "train.seq_len",
    ),
    "speck": (
        task(shown_images=SPECK) | {"information": 3.0, "explained": {"image": 0.0}}, UNKNOWN, {}, "image too small",
        "WARN", "env.image_size",
    ),
    "cut": (
        task(cut={"joints": 0.2, "other": 0.0}), UNKNOWN, {"vector_transform": "standardize"}, "numbers cut off",
        "WARN", "model.vector_transform",
    ),
    "cut running": (
        task(cut={"joints": 0.02}), UNKNOWN, {"vector_transform": "running"}, "numbers cut off", "WARN",
        "model.vector_transform",
    ),
    "worse": ({}, replace(LEARNT, returns=(-0.5,) * 30), {}, "worse than random", "WARN", ""),
    "as good": ({}, POOR, {}, "no better than random", "WARN", "train.env_steps"),
    "one sign": ({}, SIDED, {}, "one-sided advantages", "WARN", "behavior.slow_critic_every"),
    "slow critic": ({}, SIDED, {"critic_lr": 1e-7}, "one-sided advantages", "WARN", "behavior.critic_lr"),
    "early": (
        {"randomness": 0.01}, logged("actor/entropy", [1.0, *[0.02] * 10]), {}, "early collapse", "FAIL",
        "behavior.actor_lr",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOST)
def test_each_way_to_learn_nothing_is_named(name):
    differs, history, settings, verdict, level, key = LOST[name]
    found = verdicts(replace(SOUND, **differs), history, **settings)
    assert [(f.verdict, f.level, f.key) for f in found] == [(verdict, level, key)]
    assert any(character.isdigit() for character in found[0].evidence)


def test_no_two_findings_of_any_two_faults_change_one_setting_differently():
    """Every pair of faults at once, in one run: one setting gets one advice."""
    faults = [(d, LEARNT, s) for d, s, *_ in SICK.values()] + [(d, h, s) for d, h, s, *_ in LOST.values()]
    met = 0
    for left, (differs, history, settings) in enumerate(faults):
        for others, other_history, other_settings in faults[left + 1 :]:
            whole = other_history if history is LEARNT else history
            found = verdicts(replace(SOUND, **differs | others), whole, **settings | other_settings)
            advice = {}
            for finding in found:
                if finding.key:
                    assert advice.setdefault(finding.key, finding.change) == finding.change
                met += "first do what" in finding.change
    assert met > 0  # there are such pairs


def test_the_second_advice_about_a_setting_refers_to_the_first():
    raising = Finding("actions ignored", "FAIL", "1", "Why.", "behavior.entropy_scale", "raise it")
    lowering = Finding("actor random", "WARN", "1", "Why.", "behavior.entropy_scale", "lower it")
    other = Finding("unstable", "WARN", "1", "Why.", "model.world_model_lr", "lower it")
    first, second, third = without_contradictions([raising, lowering, other])
    assert (first, third) == (raising, other)
    assert second.verdict == "actor random"
    assert second.key == ""
    assert second.change.startswith("first do what 'actions ignored' says about behavior.entropy_scale")
    assert without_contradictions([raising, raising]) == [raising, raising]


def test_healthy_is_said_only_of_returns_beyond_the_random_level():
    young = replace(POOR, updates=int(LIMITS["returns updates"]) - 1)
    assert [f.verdict for f in verdicts(history=young)] == ["too early to tell"]
    assert [(f.verdict, f.level) for f in verdicts(history=UNKNOWN)] == [("no fault found", "OK")]
    wide = replace(LEARNT, random=(0.0, 0.0, 0.9), returns=(0.8,) * 30)  # 0.3 +- 0.6: 0.8 may be chance
    assert "healthy" not in [f.verdict for f in verdicts(history=wide)]
    assert healthy(RunFacts(build({}), LEARNT, SOUND)).level == "OK"


def test_what_cannot_be_foreseen_is_nobodys_fault():
    differs = seen(observation=0.0) | {"kl": 1.4, "information": 1.4, "action_gain": 1.0, "drift": drifting(0)}
    found = verdicts(replace(SOUND, **differs))
    assert [(f.verdict, f.level) for f in found] == [("healthy", "OK"), ("observations unforeseeable", "OK")]
    told = verdicts(replace(SOUND, **(differs | seen())))
    assert "prior not learning" in [f.verdict for f in told]


def test_a_blind_model_is_not_told_to_raise_the_kl():
    found = verdicts(replace(SOUND, information=1.4, kl=1.3, explained={"image": 0.0}), UNKNOWN, kl_scale=1.0)
    assert [f.verdict for f in found] == ["posterior collapse"]
    cheap = verdicts(replace(SOUND, **BLIND, **task(worth={"image": 0.4})), UNKNOWN, kl_scale=1.0)
    assert (cheap[0].key, cheap[0].change) == ("model.image_scale", "raise it from 1 to 25")


def test_a_constant_reward_is_not_held_against_its_head():
    equal = task(paid=(1.0, 1.0)) | {"reward_explained": 0.08, "rewarding": 0.98}
    assert [f.verdict for f in verdicts(replace(SOUND, **equal))] == ["healthy"]  # its episodes end by what it does


def test_entropy_counts_from_what_unimix_leaves():
    assert relative_entropy(0.0315, 0.0315, math.log(2)) == 0
    assert relative_entropy(math.log(2), 0.0315, math.log(2)) == 1
    least = {"least_entropy": 0.0315, "most_entropy": math.log(2)}
    stuck = logged("actor/entropy", [0.6, *[0.032] * 10], first=700)
    found = verdicts(replace(SOUND, randomness=0.001, **least), stuck)
    assert [f.verdict for f in found] == ["actor collapsed"]


def test_a_collapse_is_told_at_the_first_evaluation():
    young = logged("actor/entropy", [1.0, *[0.01] * 8], replace(UNKNOWN, updates=350), first=10)
    found = verdicts(replace(SOUND, randomness=0.01, information=0.1), young)
    assert [f.verdict for f in found] == ["early collapse", "too early to tell"]
    dip = replace(SOUND, randomness=0.1)  # a model that sees, and a policy that may come back
    assert [f.verdict for f in verdicts(dip, young)] == ["too early to tell"]
    assert set(EARLY_RULES) < set(RULES)


@pytest.mark.parametrize("name", SICK)
def test_each_sickness_alone_is_named_with_the_setting_to_change(name):
    differs, settings, verdict, level, key = SICK[name]
    found = verdicts(replace(SOUND, **differs), **settings)
    assert [(f.verdict, f.level, f.key) for f in found] == [(verdict, level, key)]
    assert any(character.isdigit() for character in found[0].evidence) or name in ("no continue head",)
    assert found[0].why.endswith(".")
    assert found[0].change


def test_settings_that_are_named_exist():
    from reverie.config import SETTINGS

    for differs, settings, *_ in SICK.values():
        for finding in verdicts(replace(SOUND, **differs), **settings):
            assert finding.key == "" or finding.key in SETTINGS


def test_a_small_world_has_little_to_tell_without_being_sick():
    assert [f.verdict for f in verdicts(replace(SOUND, information=1.3, kl=0.1))] == ["healthy"]


def test_what_the_log_says_counts():
    rising = replace(LEARNT, metrics={"world_model/loss": [9.0, 3.0, 2.0, 2.0, 2.0, 2.0, 5.0, 6.0, 7.0]})
    assert [(f.verdict, f.level) for f in verdicts(history=rising)] == [("unstable", "WARN")]
    jump = replace(LEARNT, metrics={"world_model/loss": [9.0, 3.0, 2.0, 2.0, 90.0, 2.0, 2.0, 2.0, 2.0]})
    assert [f.verdict for f in verdicts(history=jump)] == ["unstable"]
    skipped = replace(LEARNT, skipped=3)
    assert [(f.verdict, f.level) for f in verdicts(history=skipped)] == [("non-finite", "WARN")]
    crashed = apply_rules(RunFacts(build({}), replace(LEARNT, crashed=True), None))
    assert [f.verdict for f in crashed] == ["non-finite", "too early to tell"]
    eager = replace(LEARNT, updates=100_000)
    assert [f.verdict for f in verdicts(history=eager)] == ["overfit replay"]


def test_a_sharp_policy_is_sound_if_it_knows():
    sharp = replace(SOUND, randomness=0.001)
    assert [f.verdict for f in verdicts(sharp)] == ["healthy"]
    names = ["actor collapsed", "no better than random"]
    assert [f.verdict for f in verdicts(sharp, POOR)] == names
    early = logged("actor/entropy", [1.0, *[0.001] * 9, *[0.5] * 10], LEARNT)
    assert [f.verdict for f in verdicts(history=early)] == ["healthy"]  # it found out of it, and there is a bonus
    assert [f.verdict for f in verdicts(history=early, entropy_scale=0.0)] == ["actor collapsed"]
    lost = verdicts(replace(SOUND, randomness=0.99), POOR)
    assert [f.verdict for f in lost] == ["actor random", "no better than random"]


def test_with_an_entropy_target_the_advice_is_about_it():
    sharp = verdicts(replace(SOUND, randomness=0.001), POOR, entropy_target=0.6, entropy_target_final=0.1)
    assert (sharp[0].verdict, sharp[0].key) == ("actor collapsed", "behavior.entropy_target_final")
    assert "raise it from 0.1 to 0.2" in sharp[0].change
    wide = verdicts(replace(SOUND, randomness=0.99), POOR, entropy_target=0.6)
    assert (wide[0].verdict, wide[0].key) == ("actor random", "behavior.entropy_target")
    assert wide[0].change.startswith("lower it from 0.6 to 0.3")


def test_causes_stand_before_effects_and_five_are_enough():
    found = verdicts(
        replace(
            SOUND, leak=1.0, kl=40.0, randomness=0.99, reward_contrast=0.0, slow_gap=0.9, dead=0.6, drift=drifting(0)
        ),
        history=replace(LEARNT, returns=(0.1,) * 30),
    )
    assert len(found) == 5
    assert [f.verdict for f in found[:3]] == ["memory leaks", "prior not learning", "critic diverging"]
    assert [f.level for f in found] == sorted((f.level for f in found), key=LEVELS.index)
    assert len(RULES) == len(set(RULES))


HIERARCHY = {
    "goals/perplexity": [5.0] * 9,
    "imagination/goal_start": [0.2] * 9,
    "imagination/goal_reached": [0.1, 0.2, 0.3] + [0.5] * 6,
    "imagination/reward": [0.01, 0.02, 0.03] * 3,
}


@pytest.mark.parametrize(
    ("key", "values", "verdict", "level"),
    [
        ("goals/perplexity", [5.0] * 5 + [1.1] * 4, "one goal code in use", "FAIL"),
        ("imagination/goal_reached", [0.6] * 3 + [0.21] * 6, "goals never reached", "WARN"),
        ("imagination/reward", [0.1] * 6 + [0.02] * 3, "manager's reward never moves", "WARN"),
    ],
)
def test_faults_of_a_hierarchy_are_found_in_what_it_logs(key, values, verdict, level):
    def judged(metrics, **settings):
        at = {name: list(range(100, 1000, 100)) for name in metrics}
        history = replace(LEARNT, metrics=LEARNT.metrics | metrics, at=LEARNT.at | at)
        return [(f.verdict, f.level) for f in verdicts(history=history, **settings)]

    assert judged(HIERARCHY, goal_every=8) == [("healthy", "OK")]
    assert judged(HIERARCHY | {key: values}, goal_every=8) == [(verdict, level)]
    assert judged(HIERARCHY | {key: values}) == [("healthy", "OK")]
    assert judged({name: row[-3:] for name, row in (HIERARCHY | {key: values}).items()}, goal_every=8) == [
        ("healthy", "OK")
    ]


def test_goals_that_begin_nearly_reached_are_no_fault():
    near = HIERARCHY | {"imagination/goal_start": [0.9] * 9, "imagination/goal_reached": [0.9] * 9}
    at = {name: list(range(100, 1000, 100)) for name in near}
    history = replace(LEARNT, metrics=LEARNT.metrics | near, at=LEARNT.at | at)
    assert verdicts(history=history, goal_every=8)[0].verdict == "healthy"


def test_too_early_judges_only_what_needs_no_learning():
    young = replace(LEARNT, updates=int(LIMITS["early updates"]) - 1)
    assert [f.verdict for f in verdicts(replace(SOUND, kl=40.0), young)] == ["too early to tell"]
    found = verdicts(replace(SOUND, leak=1.0), young)
    assert [f.verdict for f in found] == ["memory leaks", "too early to tell"]


# ----------------------------------------------------------------------------------------------- measurements by hand


def test_latent_numbers_by_hand():
    latent = CategoricalLatent(2, 4)
    sharp = 40.0 * torch.eye(4)[torch.tensor([[0, 1], [0, 2], [0, 3], [0, 0]])].reshape(1, 4, 8)
    flat = torch.zeros(1, 4, 8)
    values = latent_numbers(latent, sharp, flat, 1.0)
    assert values["kl"] == pytest.approx(2 * math.log(4), abs=1e-6)
    assert values["information"] == pytest.approx(math.log(4), abs=1e-6)  # the first categorical has no information
    assert values["perplexity"] == pytest.approx((1 + 4) / 2, abs=1e-6)
    assert values["dead"] == 0.5
    assert values["difference"] == pytest.approx(0.75, abs=1e-6)
    assert values["below_free"] == 0
    assert latent_numbers(latent, flat, flat, 1.0)["information"] == pytest.approx(0, abs=1e-6)
    gaussian = GaussianLatent(3)
    same = torch.zeros(1, 4, 6)
    assert latent_numbers(gaussian, same, same, 1.0)["information"] == pytest.approx(0, abs=1e-6)


def test_weights_as_they_were_drawn_have_grown_by_nothing():
    torch.manual_seed(0)
    net = MLP(200, 50, MLPOptions(2, 100))
    assert weight_growth(net) == pytest.approx(1, abs=0.03)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(5)
    assert weight_growth(net) == pytest.approx(5, abs=0.15)


def test_histories_by_hand():
    lines = [{"env_steps": 10 * i, "updates": i, "world_model/loss": float(i), "x": None} for i in range(1, 10)]
    episodes = [{"phase": "random", "return": r, "env_steps": 0} for r in (1.0, 2.0, 3.0)]
    history = make_history(lines, [*episodes, {"phase": "eval", "return": 4.0, "env_steps": 90}])
    assert (history.env_steps, history.updates, history.nonfinite) == (90, 9, ("x",))
    assert history.thirds("world_model/loss") == (2, 8)
    assert history.thirds("missing") is None
    assert history.series("world_model/loss")[0] == (1, 1.0)
    assert history.better_than_random() is None  # one episode is no comparison
    assert make_history([], []).better_than_random() is None

    def against(*returns):
        return make_history([], [*episodes, *({"phase": "eval", "return": r, "env_steps": 9} for r in returns)])

    assert against(9.0, 9.0, 9.0).better_than_random() is True
    assert against(3.0, 3.0, 3.0).better_than_random() is False  # 2 +- 1.2
    assert against(-9.0, -9.0, -9.0).against_random().worse
    sure = against(4.0, 5.0, 6.0).against_random()
    assert (sure.low, sure.high) == pytest.approx((3 - 2 * math.sqrt(2 / 3), 3 + 2 * math.sqrt(2 / 3)))


def segment(length, ends=()):
    no = np.zeros(length, bool)
    terminal = no.copy()
    terminal[list(ends)] = True
    rows = {"reward": terminal.astype(np.float32), "is_first": no, "is_last": terminal, "is_terminal": terminal}
    return Segment(rows | {"action": np.zeros((length, 2), np.float32), "obs/x": np.zeros((length, 1), np.float32)})


def test_event_windows_end_with_the_event():
    batch = event_windows(Experience((segment(30, ends=(3, 12, 29)),)), 5, 8)
    assert batch is not None
    assert batch.is_terminal[:, -1].all()
    assert batch.reward.shape == (5, 8)
    assert event_windows(Experience((segment(30),)), 5, 8) is None
    assert event_windows(Experience((segment(30, ends=(3,)),)), 5, 8) is None  # no whole window before it


# ------------------------------------------------------------------------------------------------------- on real runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("doctor") / "run"
    agent = reverie.Dreamer("CartPole-v1", preset="debug", run=path)
    agent.learn(env_steps=400, quiet=True)
    return path


def test_a_sound_model_measures_as_it_should(run):
    opened = open_run(run)
    measured = probe(opened.agent, opened.need_experience())
    assert measured.leak == 0
    assert measured.broken == ()
    assert measured.images == ()
    assert measured.rewards == (0.0, 1.0)
    assert 0.9 < measured.growth < 1.1
    assert 0 < measured.randomness <= 1
    assert measured.most_entropy == pytest.approx(math.log(2))
    assert measured.drift is not None
    assert measured.least_entropy == 0  # there is no policy_unimix
    assert measured.task.constant
    assert measured.task.paid == (1.0, 1.0)  # the first step of an episode pays nothing, and does not count
    assert measured.task.ended > 5
    assert measured.task.worth["observation"] > 0
    assert measured.task.foresight.observation > 0.9
    assert measured.task.foresight.reward == 0
    assert probe(opened.agent, opened.need_experience()) == measured  # nothing is left to chance
    assert most_entropy(opened.agent) == measured.most_entropy


def test_choices_have_no_weight_that_could_be_too_small(tmp_path):
    settings = {"discrete_decoder": "categorical", "vector_transform": "running"}
    reverie.Dreamer("FrozenLake-v1", preset="debug", run=tmp_path / "run", **settings).learn(env_steps=300, quiet=True)
    opened = open_run(tmp_path / "run")
    measured = probe(opened.agent, opened.need_experience())
    assert measured.task.worth == {}
    assert measured.deviations == {}  # of one-hots, rare ones are no numbers on another scale
    assert diagnose(tmp_path / "run")


def test_images_are_compared_with_the_size_that_the_environment_gives():
    from tests.planted.tasks import Catch

    config = load_preset("debug", {"image_size": 8, "policy_unimix": 0.01, "image_scale": 3.0})
    agent = DreamerV2(config, make_spec(Catch(side=48, ball=2), image_size=8))
    frames = torch.full((1, 4, 8, 8, 1), 0, dtype=torch.uint8)
    frames[0, 1, :2, :2] = 255  # in one of four images: 3/16 of the range squared, 4 pixels
    numbers = task_numbers(agent, Experience(()), agent.world_model.preprocess({"observation": frames}))
    (image,) = numbers.shown_images.values()
    assert (image.shown, image.native) == (8, 48)
    assert image.moving == 4  # a quarter of the range away from the mean, in all four
    (worth,) = numbers.worth.values()
    assert worth == pytest.approx(3 * 0.5 * 4 * 3 / 16, rel=1e-4)
    certain = 0.01 / 3
    entropy = -(1 - 2 * certain) * math.log(1 - 2 * certain) - 2 * certain * math.log(certain)
    assert floor_entropy(agent) == pytest.approx(entropy)


def test_the_verb_tells_and_exits_by_the_worst_level(run, tmp_path, capsys, files_of, monkeypatch):
    before = files_of(run)
    code = main(["doctor", str(run), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert code == int(answer["level"] == "FAIL")
    assert {*answer["findings"][0]} == {"verdict", "level", "evidence", "why", "key", "change"}
    assert main(["doctor", str(run), "--no-color"]) == code
    said = capsys.readouterr().out
    assert said.startswith(answer["findings"][0]["level"])
    assert "\033" not in said
    assert files_of(run) == before
    monkeypatch.setattr(
        "reverie.insight.doctor.diagnose", lambda path: [Finding("unstable", "FAIL", "1", "Why.", "", "change it")]
    )
    assert main(["doctor", str(run)]) == 1
    assert main(["doctor", str(run), "--bad"]) == 2


def test_findings_are_wrapped_and_coloured():
    finding = Finding("unstable", "FAIL", "word " * 60, "Why.", "model.world_model_lr", "lower it")
    lines = format_finding(finding, colour=True)
    assert "\033[31;1mFAIL\033[0m  unstable" in lines[0]
    assert max(map(len, format_finding(finding))) <= 110
    assert lines[-1].endswith("model.world_model_lr: lower it")


def test_user_mistakes_are_reported(tmp_path, capsys):
    assert main(["doctor", str(tmp_path / "nothing")]) == 2
    assert "error:" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_is_judged_by_its_log(run, tmp_path):
    bare = tmp_path / "bare"
    (bare / "crash").mkdir(parents=True)
    for name in ("config.yaml", "metrics.jsonl", "episodes.jsonl"):
        (bare / name).write_bytes((run / name).read_bytes())
    assert [f.verdict for f in diagnose(bare)] == ["non-finite", "too early to tell"]
    (bare / "metrics.jsonl").write_text("")
    (bare / "crash").rmdir()
    with pytest.raises(UserError, match="no checkpoint"):
        diagnose(bare)


def test_an_agent_that_is_learning_is_diagnosed_without_disturbing_it(make_run, tmp_path):
    """Two equal runs end with equal weights, though one of them is looked at on the way."""
    weights = []
    for name, look in (("plain", False), ("looked", True)):
        trained = make_run(tmp_path / name, env_steps=160, deterministic=True)
        usual, update = trained.update, {"count": 0}

        def counted(trained=trained, usual=usual, update=update, look=look):
            usual()
            update["count"] += 1
            if look and update["count"] % 3 == 0:
                history = read_history(trained.directory)
                assert diagnose_agent(trained.agent, experience_of(trained.replay), history)
                assert trained.agent.training

        trained.update = counted
        trained.train()
        assert update["count"] >= 6
        weights.append(trained.agent.state_dict())
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_a_live_replay_is_the_same_experience_as_its_log(make_run, tmp_path):
    trained = make_run(tmp_path / "run")
    trained.train()
    live, logged = experience_of(trained.replay), open_run(tmp_path / "run").need_experience()
    assert len(live) == len(logged)
    for left, right in zip(live.segments, logged.segments, strict=True):
        for key, value in left.rows.items():
            assert np.array_equal(value, right.rows[key], equal_nan=value.dtype.kind == "f"), key
    assert len(experience_of(trained.replay, most=20)) <= 20


def test_planted_faults_are_settings_that_exist():
    from tests.planted.faults import ENVS, FAULTS, TASKS

    assert len(FAULTS) >= 15
    for fault in FAULTS.values():
        preset, settings = TASKS[fault.task]
        load_preset(preset, settings | fault.settings)
        assert fault.settings or fault.patch or fault.task in ENVS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["is-first-ignored", "one-episode-replay", "frozen-target"])
def test_planted_faults_are_found(name, tmp_path):
    """The quickest of benchmarks/doctor.py, which has all of them and healthy runs."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.planted.run", name, "7", str(tmp_path / "run"), "--env-steps", "2600"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    answer = json.loads(done.stdout.splitlines()[-1])
    assert {f["verdict"] for f in answer["findings"][:2]} & set(answer["right"])
