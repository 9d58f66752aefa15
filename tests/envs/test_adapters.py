"""Adapters of dm_env and old gym environments, and objects that are neither."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from toys import CountingEnv

from reverie.envs import AgentView, make_env
from reverie.envs.adapters import adapt, space_of
from reverie.envs.check import check_env
from reverie.errors import UserError


class Array:
    """dm_env.specs.Array, as far as it is used."""

    def __init__(self, shape, dtype=float, minimum=None, maximum=None):
        self.shape, self.dtype = shape, np.dtype(dtype)
        if minimum is not None:
            self.minimum, self.maximum = minimum, maximum


class TimeStep(SimpleNamespace):
    def last(self):
        return self.kind == "last"


class DmEnv:
    """Counts to 3; ends with the discount that it was made with."""

    def __init__(self, discount=0.0, action=None):
        self.discount, self.action, self.taken = discount, action or Array((2,), float, -2.0, 2.0), []

    def observation_spec(self):
        return {
            "speed": Array(()),
            "body": {"angles": Array((2, 2), np.float64, -1.0, 1.0)},
            "cam": Array((4, 4, 3), np.uint8),
        }

    def action_spec(self):
        return self.action

    def _seen(self, kind, reward, discount):
        image = np.full((4, 4, 3), self.at, np.uint8)
        seen = {"speed": float(self.at), "body": {"angles": np.full((2, 2), 0.5)}, "cam": image}
        return TimeStep(kind=kind, observation=seen, reward=reward, discount=discount)

    def reset(self):
        self.at = 0
        return self._seen("first", None, None)

    def step(self, action):
        self.taken.append(action)
        self.at += 1
        return self._seen("last", 2.0, self.discount) if self.at == 3 else self._seen("mid", 1.0, 1.0)


class Discrete(SimpleNamespace):
    pass


class Box(SimpleNamespace):
    pass


class OldGym:
    """Gym before 0.26, spaces and all."""

    def __init__(self, limit=False):
        self.limit, self.seeds = limit, []
        self.observation_space = Box(low=np.zeros(2), high=np.ones(2), shape=(2,), dtype=np.dtype(np.float32))
        self.action_space = Discrete(n=3)
        self.metadata = {"render.modes": ["rgb_array"]}

    def seed(self, seed=None):
        self.seeds.append(seed)

    def reset(self):
        self.at = 0
        return np.zeros(2, np.float32)

    def step(self, action):
        self.at += 1
        done = self.at == 4
        info = {"TimeLimit.truncated": True} if done and self.limit else {}
        return np.full(2, self.at / 4, np.float32), 1, done, info

    def render(self, mode="human"):
        return np.zeros((4, 4, 3), np.uint8) if mode == "rgb_array" else None


@pytest.mark.parametrize(("discount", "terminated"), [(0.0, True), (1.0, False), (0.9, False)])
def test_a_dm_env_ends_by_its_discount(discount, terminated):
    env = adapt(DmEnv(discount))
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    assert obs["speed"].shape == (1,)
    ends = [env.step(np.zeros(2))[1:4] for _ in range(3)]
    assert ends == [(1.0, False, False), (1.0, False, False), (2.0, terminated, not terminated)]


def test_a_dm_env_is_seen_and_driven_like_any_other():
    inner = DmEnv()
    view = AgentView(make_env(lambda: inner))
    assert view.agent_spec.images == {"cam": (3, 4, 4)}
    assert view.agent_spec.vectors == {"speed": 1, "body/angles": 4}
    view.reset(seed=0)
    view.step(np.float32([1, -1]))
    np.testing.assert_allclose(inner.taken[0], [2, -2])
    assert [f.code for f in check_env(lambda: adapt(DmEnv(1.0)), steps=50).findings if f.severity == "error"] == []


@pytest.mark.parametrize(
    ("spec", "space"),
    [
        (Array((2,), np.float32, -1.0, 3.0), spaces.Box(-1, 3, (2,), np.float32)),
        (Array((), np.float32, 0.0, 1.0), spaces.Box(0, 1, (1,), np.float32)),
        (Array((2,), np.int32, 1, np.array([3, 4])), spaces.MultiDiscrete([3, 4], start=[1, 1])),
        (SimpleNamespace(num_values=5), spaces.Discrete(5)),
        ({"a": Array((1,), np.float64, -1.0, 1.0)}, spaces.Dict({"a": spaces.Box(-1, 1, (1,), np.float64)})),
        (
            [SimpleNamespace(num_values=2), SimpleNamespace(num_values=3)],
            spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]),
        ),
        (Discrete(n=4), spaces.Discrete(4)),
        (spaces.Discrete(4), spaces.Discrete(4)),
    ],
)
def test_specs_become_spaces(spec, space):
    assert space_of(spec) == space


@pytest.mark.parametrize("limit", [False, True])
def test_an_old_gym_environment_is_understood(limit):
    inner = OldGym(limit)
    env = adapt(inner)
    obs, info = env.reset(seed=7)
    assert inner.seeds == [7]
    assert info == {}
    assert env.observation_space.contains(obs)
    assert env.action_space == spaces.Discrete(3)
    ends = [env.step(0)[2:4] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(not limit, limit)]
    assert env.render_mode == "rgb_array"
    assert env.render().shape == (4, 4, 3)


def test_gymnasium_passes_as_it_is():
    env = CountingEnv()
    assert adapt(env) is env


@pytest.mark.parametrize("thing", [3, "CartPole", object(), gym.spaces.Discrete(2)])
def test_anything_else_is_refused(thing):
    with pytest.raises(UserError, match=r"expected a gymnasium\.Env, got"):
        adapt(thing)


def test_unknown_specs_are_refused():
    with pytest.raises(UserError, match="unknown kind of space"):
        space_of(object())


# ------------------------------------------------------------------------------------- adapters at the border


def _wrong_keys(env, timestep):
    del timestep.observation["speed"]
    return timestep


def _wrong_shape(env, timestep):
    timestep.observation["body"]["angles"] = np.zeros(3)
    return timestep


def _wrong_reward(env, timestep):
    timestep.reward = np.ones(2)
    return timestep


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda env, timestep: None, "returns None, not a TimeStep"),
        (_wrong_keys, "lacks 'speed' at step 1"),
        (_wrong_shape, "'body/angles' has shape (3,) at step 1, its space says (4,)"),
        (_wrong_reward, "the reward is"),
    ],
)
def test_a_dm_env_that_breaks_its_contract_is_a_sentence(change, words):
    class Odd(DmEnv):
        def step(self, action):
            return change(self, super().step(action))

    view = AgentView(make_env(Odd))
    view.reset(seed=0)
    with pytest.raises(UserError) as caught:
        view.step(np.zeros(2, np.float32))
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ((np.zeros(1), 1.0, None, {}), "done is None"),
        ((np.zeros(1), 1.0, "False", {}), "done is 'False'"),
        ((np.zeros(1), np.ones(2), False, {}), "the reward is"),
        ((np.zeros(1), 1.0, False), "step returns a tuple of 3"),
        ((np.zeros(2), 1.0, False, None), "has shape (2,)"),
        (None, "step returns a NoneType"),
    ],
)
def test_an_old_gym_that_breaks_its_contract_is_a_sentence(result, words):
    class Old:
        observation_space, action_space, metadata = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2), None

        def reset(self):
            return np.zeros(1, np.float32)

        def step(self, action):
            return result

    view = AgentView(make_env(Old))
    view.reset(seed=0)
    with pytest.raises(UserError) as caught:
        view.step(np.float32([1, 0]))
    assert words in caught.value.message
