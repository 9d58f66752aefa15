"""Preset `auto`: what it chooses, what it leaves alone, and that a run keeps what was chosen."""

import json
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from reverie import Dreamer, UserError
from reverie.cli import main
from reverie.config import flatten, load_file
from reverie.config.presets import load_preset
from reverie.run import auto
from reverie.run.directory import prepare_directory


class Toy(gym.Env):
    """Vector or picture; a reward of `size` at every `every`-th step; episodes of `length` steps."""

    def __init__(self, size=1.0, every=1, length=20, picture=0, dot=1, shade=255):
        shape = (picture, picture, 3)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8) if picture else spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.size, self.every, self.length, self.dot, self.shade = size, every, length, dot, shade
        self.steps, self.at = 0, 0

    def observe(self):
        picture = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        if picture.ndim == 3:
            x = (self.at * self.dot) % (len(picture) - self.dot)
            picture[x : x + self.dot, x : x + self.dot] = self.shade
        return picture

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self.observe(), {}

    def step(self, action):
        self.at += 1
        self.steps += 1
        return self.observe(), self.size * (self.at % self.every == 0), self.at >= self.length, False, {}


def chosen(env, **given):
    """{setting: value} that `auto` chooses by the fixed table."""
    config, choices = auto.auto_config("auto", {"env.id": "custom:Toy", "train.deterministic": True, **given}, env)
    found = {choice.key: choice.value for choice in choices}
    assert all(choice.reason for choice in choices)
    assert {key: value for key, value in flatten(config).items() if key in found} == found
    return found


@pytest.mark.parametrize(("size", "unit"), [(0.01, 0.01), (0.02, 0.01), (1, 1.0), (-1, 1.0), (100, 100.0), (0, 1.0)])
def test_the_unit_of_rewards_is_their_order_of_magnitude(size, unit):
    assert chosen(lambda: Toy(size=size))["model.reward_unit"] == pytest.approx(unit)


def test_a_rare_large_reward_does_not_make_the_usual_ones_small():
    class Crashes(Toy):
        def step(self, action):
            obs, _, ended, cut, info = super().step(action)
            return obs, -100.0 if ended else 0.9, ended, cut, info

    assert chosen(Crashes)["model.reward_unit"] == 1.0


def test_rare_rewards_are_drawn_more_often_and_otherwise_the_ends_of_episodes():
    assert chosen(lambda: Toy(every=10))["replay.prioritize"] == "rewards"
    assert chosen(Toy)["replay.prioritize"] == "ends"


def test_a_small_picture_keeps_its_size_and_a_large_one_shrinks_as_far_as_the_movement_stays_visible():
    assert chosen(lambda: Toy(picture=10))["env.image_size"] == 0
    assert chosen(lambda: Toy(picture=96, dot=24))["env.image_size"] == 32
    assert chosen(lambda: Toy(picture=192, dot=2))["env.image_size"] == 96


def test_pictures_in_which_little_moves_get_a_larger_weight():
    little, much = (chosen(lambda x=x: Toy(picture=64, shade=x))["model.image_scale"] for x in (20, 255))
    assert little == 1000
    assert 1 < much < 100


@pytest.mark.parametrize("turn", [0.03, 0.1, 0.4, 1.0, 1.5])
def test_numbers_that_change_little_in_a_step_get_a_larger_weight(turn):
    class Turning(Toy):  # on a circle, in units of deviations: a step changes both numbers by 4 sin(turn / 2)^2 nats
        def observe(self):
            return np.array([0.01 * np.sin(turn * self.at), 50 * np.cos(turn * self.at), 7], np.float32)

    expected = min(100.0, 10 / (4 * np.sin(turn / 2) ** 2))
    assert chosen(lambda: Turning(length=300))["model.vector_scale"] == pytest.approx(expected, rel=0.05)


def test_vectors_that_never_change_have_no_weight_to_choose():
    assert "model.vector_scale" not in chosen(Toy)
    assert "model.vector_scale" not in chosen(lambda: Toy(picture=10))


def test_neither_symbols_nor_the_action_mask_decide_the_weight_of_numbers():
    class Mixed(Toy):
        def __init__(self):
            super().__init__()
            numbers = spaces.Box(-1, 1, (1,), np.float32)
            self.observation_space = spaces.Dict({"symbol": spaces.Discrete(2), "still": numbers})

        def observe(self):
            return {"symbol": self.at % 2, "still": np.full(1, self.at // 2 % 2, np.float32)}

        def mask(self):
            return {"action_mask": np.array([self.at % 2, 1], np.int8)}

        def reset(self, **options):
            return super().reset(**options)[0], self.mask()

        def step(self, action):
            return *super().step(action)[:4], self.mask()

    assert chosen(Mixed)["model.vector_scale"] == 5  # a number that jumps by 2 deviations in half of the steps: 2 nats


def test_evaluations_sample_where_there_are_images():
    assert chosen(Toy)["train.eval_mode"] == "eval"
    assert chosen(lambda: Toy(picture=10))["train.eval_mode"] == "train"


def test_the_discount_follows_a_time_limit():
    def limited(steps):
        return lambda: gym.wrappers.TimeLimit(Toy(length=10**9), steps)

    found = [chosen(limited(steps), **{"env.time_limit": steps})["behavior.gamma"] for steps in (20, 100, 1000)]
    assert found == [0.95, 0.98, 0.99]
    assert chosen(lambda: Toy(length=10**9))["behavior.gamma"] == 0.99


def limit(env, **given):
    return auto.look_at(load_preset("auto", {"env.id": "custom:Toy", **given}), env).limit


def test_the_limit_of_a_wrapper_is_known_for_an_environment_that_is_not_registered():
    endless, cut = (lambda: Toy(length=10**9)), (lambda: gym.wrappers.TimeLimit(Toy(length=10**9), 40))
    assert (limit(endless), limit(cut), limit(cut())) == (0, 40, 40)
    assert chosen(endless)["behavior.gamma"] == 0.99
    assert chosen(cut)["behavior.gamma"] == 0.95  # 20 steps ahead
    reasons = {c.key: c.reason for c in auto.auto_config("auto", {"train.deterministic": True}, cut)[1]}
    assert reasons["behavior.gamma"] == "20 steps ahead: episodes have 40 at most"


@pytest.mark.parametrize(("own", "set_", "repeat", "steps"), [
    (40, 0, 1, 40), (40, 0, 4, 10), (40, 0, 3, 14), (3, 0, 4, 1), (40, 30, 1, 30), (40, 50, 1, 40), (40, 30, 4, 10),
    (40, 5, 4, 5), (0, 30, 4, 30), (0, 0, 4, 0),
])  # fmt: skip
def test_a_limit_is_in_agent_steps_and_the_earlier_one_counts(own, set_, repeat, steps):
    endless = Toy(length=10**9)
    env = gym.wrappers.TimeLimit(endless, own) if own else endless
    found = auto.look_at(
        load_preset("auto", {"env.id": "custom:Toy", "env.time_limit": set_, "env.action_repeat": repeat}), env
    )
    assert found.limit == steps
    assert not steps or set(found.lengths) == {steps}


def test_every_environment_plays_about_one_episode_before_learning():
    assert chosen(lambda: Toy(length=20))["train.prefill"] == 1000
    assert chosen(lambda: Toy(length=300))["train.prefill"] == 1300
    nothing = chosen(lambda: gym.wrappers.TimeLimit(Toy(length=10**9), 10**9), **{"env.time_limit": 500})
    assert nothing["train.prefill"] == 2200  # an episode of each was cut in the random steps
    nothing = chosen(lambda: Toy(length=10**9), **{"env.time_limit": 700})
    assert nothing["train.prefill"] == 5000


def test_what_the_user_sets_is_what_the_rest_is_sized_for():
    found = chosen(Toy, **{"train.env_steps": 1_000_000, "train.train_ratio": 0.1})
    assert found["behavior.entropy_decay"] == 80_000
    assert found["train.eval_every"] == 67_000
    assert chosen(Toy, **{"train.env_steps": 500})["train.prefill"] == 125
    minutes = chosen(Toy, **{"train.minutes": 5, "train.deterministic": False})
    assert minutes["train.env_steps"] == 1_000_000
    assert minutes["behavior.entropy_decay"] < 100_000


def test_evaluations_take_a_fifth_of_the_time_at_most(monkeypatch):
    monkeypatch.setattr(auto, "_speed", lambda config, found: (0.1, 0.001, 8e9))
    config = load_preset("auto", {"env.id": "custom:Toy"})
    found = auto.look_at(config, lambda: Toy(length=400))
    found.step_seconds = 0.1
    picked = {c.key: c.value for c in auto.choose(config, found)}
    assert picked["train.env_steps"] / picked["train.eval_every"] <= 2.1


@pytest.mark.parametrize(("one", "many", "threads"), [(1.0, 1.0, 1), (1.0, 0.9, 1), (1.0, 0.6, None), (1.0, 9.0, 1)])
def test_one_thread_unless_more_are_clearly_faster(monkeypatch, one, many, threads):
    before = torch.get_num_threads()
    monkeypatch.setattr(auto, "_on_the_clock", lambda work: one if torch.get_num_threads() == 1 else many)
    monkeypatch.setattr(auto, "_speed", lambda config, found: (0.1, 0.001, 8e9))
    config = load_preset("auto", {"env.id": "custom:Toy"})
    try:
        torch.set_num_threads(2)
        picked = {c.key: c.value for c in auto.choose(config, auto.look_at(config, Toy))}
        assert torch.get_num_threads() == 2
        assert picked.get("compute.threads") == threads
        fixed = {c.key for c in auto.choose(config, auto.look_at(config, Toy), {"compute.threads"})}
        assert "compute.threads" not in fixed
    finally:
        torch.set_num_threads(before)


def test_nothing_is_evaluated_before_learning_begins(monkeypatch):
    monkeypatch.setattr(auto, "_speed", lambda config, found: (6.0, 0.001, 8e9))  # a minute has ten updates
    found = chosen(Toy, **{"train.minutes": 1, "train.deterministic": False, "compute.threads": 1})
    assert found["train.eval_every"] >= found["train.prefill"]


def test_waiting_for_a_simulator_counts():
    class Slow(Toy):
        def step(self, action):
            time.sleep(0.01)
            return super().step(action)

    found = auto.look_at(load_preset("auto", {"env.id": "custom:Toy"}), Slow)
    assert found.step_seconds >= 0.01


def test_an_image_below_four_pixels_is_enlarged():
    assert chosen(lambda: Toy(picture=3))["env.image_size"] == 32


def test_a_stored_run_keeps_its_settings_and_says_so(tmp_path):
    small = {"train.deterministic": True, "rnn_hidden_dim": 8, "hidden_dim": 8, "train.prefill": 40}
    config, _ = auto.auto_config("auto", {"env.id": "custom:Toy", "train.minutes": 0.0, **small}, Toy)
    prepare_directory(tmp_path / "run", config)
    again, notes = auto.config_for("auto", {"env_steps": 77}, tmp_path / "run")
    assert (again.train.env_steps, again.train.minutes) == (77, 0)
    assert again.model == config.model
    assert "what it has chosen stays" in notes[0]
    other, _ = auto.config_for("auto+small", {}, tmp_path / "run")
    assert other.model.rnn_hidden_dim == 128  # and the directory is then refused


def test_what_the_user_sets_is_not_chosen():
    given = {"gamma": 0.9, "train.env_steps": 1234, "replay.prioritize": "none"}
    found = chosen(Toy, **given)
    assert not {"behavior.gamma", "train.env_steps", "replay.prioritize"} & set(found)
    config, _ = auto.auto_config("auto", {"env.id": "custom:Toy", **given}, Toy)
    assert (config.behavior.gamma, config.train.env_steps, config.replay.prioritize) == (0.9, 1234, "none")


def test_presets_on_top_keep_their_values():
    config, choices = auto.auto_config("auto+minatar", {"env.id": "custom:Toy", "train.deterministic": True}, Toy)
    assert config.behavior.gamma == load_preset("minatar").behavior.gamma
    assert "behavior.gamma" not in {choice.key for choice in choices}


def test_a_deterministic_run_measures_no_time(monkeypatch):
    monkeypatch.setattr(auto, "_seconds", lambda work: pytest.fail("timed"))
    monkeypatch.setattr(auto, "PATIENCE", 0.0)
    assert chosen(Toy) == chosen(Toy)


def test_a_slow_environment_is_learnt_from_more_often(monkeypatch):
    monkeypatch.setattr(auto, "_speed", lambda config, found: (0.1, 0.001, 8e9))
    config = load_preset("auto", {"env.id": "custom:Toy"})
    ratios = []
    for seconds in (0.001, 0.05, 1.0):
        found = auto.look_at(config, Toy)
        found.step_seconds = seconds
        ratios.append({c.key: c.value for c in auto.choose(config, found)}["train.train_ratio"])
    assert ratios == [0.25, 0.5, 1.0]


def test_an_instance_is_looked_at_in_a_copy_and_stepped_alone():
    env = Toy()
    assert chosen(env)["env.num_envs"] == 1
    assert env.steps == 0


def test_what_an_environment_raises_is_left_to_the_run():
    class Broken(Toy):
        def step(self, action):
            raise ValueError("the simulator crashed")

    assert chosen(Broken)["model.reward_unit"] == 1.0

    class Wrong(Toy):
        def step(self, action):
            return self.observe() * float("nan"), 1.0, False, False, {}

    with pytest.raises(UserError, match="NaN"):
        chosen(Wrong)


def test_a_run_keeps_what_was_chosen(tmp_path):
    small = {"train.deterministic": True, "rnn_hidden_dim": 8, "hidden_dim": 8, "num_categories": 4}
    small |= {"num_categoricals": 4, "prefill": 40, "pretrain": 1, "train_ratio": 0.02, "eval_episodes": 1}
    first = Dreamer(Toy, run=tmp_path / "run", **small)
    first.learn(80, quiet=True)
    assert first.config == load_file(tmp_path / "run" / "config.yaml")
    again = Dreamer(lambda: Toy(size=100, every=10), run=tmp_path / "run", settings={"env.id": "x"}, **small)
    assert again.config.model.reward_unit == first.config.model.reward_unit == 1.0
    assert again.config.replay.prioritize == "ends"


def test_auto_is_the_default_and_says_what_it_chose(tmp_path, capsys):
    agent = Dreamer(Toy, run=tmp_path / "run", deterministic=True)
    assert agent.config.behavior.entropy_target > 0
    assert any("model.reward_unit=1" in line for line in agent._reasons)
    agent = Dreamer(Toy, run=tmp_path / "other", deterministic=True, prefill=40, pretrain=1, train_ratio=0.02)
    agent.learn(60)
    assert agent.config.train.env_steps == 60
    assert agent.config.behavior.entropy_decay == 10  # for this budget, not for the one it would have chosen
    said = capsys.readouterr().err
    assert said.startswith(auto.CHOOSING + "\n")  # at once: choosing may take long
    assert "model.reward_unit=1" in said
    Dreamer(Toy, run=tmp_path / "other", deterministic=True, prefill=40, pretrain=1, train_ratio=0.02).learn(64)
    assert auto.CHOOSING not in capsys.readouterr().err
    assert main(["presets", "auto", "--env", "CartPole-v1"]) == 0
    printed, said = capsys.readouterr()
    assert said == auto.CHOOSING + "\n"
    assert printed.startswith("auto ")
    assert "steps ahead: episodes have 500 at most" in printed
    assert main(["presets", "auto", "--env", "CartPole-v1", "--json"]) == 0
    assert {"key", "value", "reason"} == set(json.loads(capsys.readouterr().out)[0])


def test_only_auto_chooses(capsys):
    assert main(["presets", "demo", "--env", "CartPole-v1"]) == 2
    assert "chooses nothing" in capsys.readouterr().err
