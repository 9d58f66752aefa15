"""Spaces and values that are easily misread: as another kind, on another scale, or as another task's."""

import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from test_api import TINY as NEVER_ENDS
from toys import SpaceEnv

import reverie
from reverie import UserError
from reverie.envs import make_vector
from reverie.envs.spaces import make_spec

TINY = NEVER_ENDS | {"time_limit": 5}


class Bright(SpaceEnv):
    """Images of 200 in a space of 0 to 1."""

    def step(self, action):
        _, *rest = super().step(action)
        return np.full((16, 16, 3), 200, np.float32), *rest


def box(shape, dtype=np.float32, high=1):
    return spaces.Box(0, high, shape, dtype)


def key_of(space, **view):
    return make_spec(SpaceEnv(space), **view).obs["observation"]


# ----------------------------------------------------------------------------------------------------- what is an image


@pytest.mark.parametrize(
    ("space", "layout", "shape"),
    [
        (box((64, 64)), "hw", (64, 64, 1)),
        (box((16, 20), np.float64, 255), "hw", (16, 20, 1)),
        (box((64, 48, 3), np.int32, 255), "hwc", (64, 48, 3)),
        (box((3, 64, 48), np.int64, 255), "chw", (64, 48, 3)),
        (box((32, 32), np.int8, 1), "hw", (32, 32, 1)),
        (box((32, 32, 3), np.uint16, 255), "hwc", (32, 32, 3)),
        (box((2, 32, 32, 3), np.int32, 255), "shwc", (32, 32, 6)),
    ],
)
def test_images_of_any_type_are_images(space, layout, shape):
    item = key_of(space)
    assert (item.kind, item.layout, item.shape) == ("image", layout, shape)
    white = item.encode(np.full(space.shape, space.high.max(), space.dtype))
    assert white.dtype == np.uint8
    assert white.min() == 255


@pytest.mark.parametrize(
    "space",
    [box((15, 64)), box((8, 8, 3)), box((64, 64), np.int32, 254), box((64,)), box((64, 64), np.float32, 2)],
)
def test_what_is_no_image_stays_a_vector(space):
    assert key_of(space).kind == "vector"
    assert key_of(box((64, 64)), vectors=["observation"]).kind == "vector"


# ------------------------------------------------------------------------------------------------------------ the scale


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
@pytest.mark.parametrize("value", [255.0, -3.0, np.nan, np.inf])
def test_an_image_on_another_scale_is_refused(dtype, value):
    item = key_of(box((16, 16, 3), dtype))
    if not (np.isfinite(value) or dtype in (np.float32, np.float64)):
        return
    image = np.zeros((16, 16, 3), dtype)
    image[3, 4] = value
    with pytest.raises(UserError, match=r"the image 'observation' holds .*, its space says 0 to 1"):
        item.encode(image)


def test_what_rounding_and_noise_make_is_taken():
    item = key_of(box((16, 16, 3)))
    assert item.encode(np.full((16, 16, 3), 1.2, np.float32)).max() == 255
    assert item.encode(np.full((16, 16, 3), -0.2, np.float32)).max() == 0
    assert key_of(box((16, 16), np.float32, 255)).encode(np.full((16, 16), 300, np.float32)).max() == 255


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_it_is_refused_in_both_backends(backend):
    envs = make_vector(lambda: Bright(box((16, 16, 3))), 2, backend=backend)
    try:
        envs.reset(seed=0)
        with pytest.raises(UserError, match=r"the image 'observation' holds floats up to 200 at step 1"):
            envs.step(envs.action_space.sample())
    finally:
        envs.close()


@pytest.mark.parametrize(
    ("space", "value", "wrong"),
    [
        (spaces.Discrete(3), 3, "3, its space has 0 to 2"),
        (spaces.Discrete(3, start=-1), 2, "2, its space has -1 to 1"),
        (spaces.Discrete(3), -1, "-1, its space has 0 to 2"),
        (spaces.Discrete(3), 0.5, "0.5, its space has"),
        (spaces.Discrete(3), np.nan, "nan, its space has"),
        (spaces.MultiDiscrete([2, 5]), [2, 4], "2, its space has 0 to 1"),
        (spaces.MultiDiscrete([2, 5]), [1, 5], "5, its space has 0 to 4"),
    ],
)
def test_a_choice_that_does_not_exist_is_refused(space, value, wrong):
    item = key_of(space)
    with pytest.raises(UserError, match=f"observation 'observation' is {wrong}"):
        item.encode(value)
    assert item.encode(space.sample()).sum() == len(item.choices)


# --------------------------------------------------------------------------------------------------------------- stacks


@pytest.mark.parametrize("shape", [(4, 16, 16), (16, 16, 4), (2, 16, 16), (16, 16, 2), (5, 16, 16)])
def test_stacked_gray_frames_stay_with_grayscale(shape):
    spec = make_spec(SpaceEnv(box(shape, np.uint8, 255)), grayscale=True, image_size=8)
    item = spec.obs["observation"]
    frames = min(shape)
    assert item.shape == (8, 8, frames)
    stack = np.zeros(shape, np.uint8)
    stack[(slice(None),) * shape.index(frames) + (-1,)] = 200  # the newest one
    assert item.encode(stack)[..., -1].min() == 200
    assert item.encode(stack)[..., 0].max() == 0
    assert any(f"{frames} channels, which are taken for as many gray images" in note for note in spec.notes)


def test_colors_become_gray():
    for shape in [(16, 16, 3), (3, 16, 16)]:
        assert key_of(box(shape, np.uint8, 255), grayscale=True).shape == (16, 16, 1)
    assert key_of(box((2, 16, 16, 4), np.uint8, 255), grayscale=True).shape == (16, 16, 2)


@pytest.mark.parametrize(("shape", "size", "noted"), [((72, 96, 3), 64, 1), ((72, 96, 3), 0, 0), ((64, 65, 3), 64, 0)])
def test_a_squash_is_said(shape, size, noted, tmp_path, capsys):
    env = lambda: SpaceEnv(box(shape, np.uint8, 255))  # noqa: E731
    notes = [note for note in make_spec(env(), image_size=size).notes if "squashed to 64x64" in note]
    assert len(notes) == noted
    report = "\n".join(reverie.check_env(env, steps=10, image_size=size).lines())
    assert ("squashed" in report) == bool(noted)


# --------------------------------------------------------------------------------------------------- limits of actions

MAX = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (-MAX, MAX, np.float32),
        (-np.finfo(np.float64).max, np.finfo(np.float64).max, np.float64),
        (-65504, 65504, np.float16),
        (-1e30, 1e30, np.float32),
        (-1.5, MAX, np.float32),
        (-(2**31), 2**31 - 1, np.int32),
    ],
)
def test_limits_that_are_none_are_replaced(low, high, dtype):
    spec = make_spec(SpaceEnv(box((3,)), spaces.Box(low, high, (2,), dtype)), action_bound=2)
    part = spec.action.parts[0]
    assert part.high == (2.0, 2.0)
    assert part.low == ((-1.5, -1.5) if low == -1.5 else (-2.0, -2.0))
    assert any("env.action_bound" in note for note in spec.notes)


@pytest.mark.parametrize(
    ("low", "high", "dtype"), [(-1000, 1000, np.float32), (0, 255, np.uint8), (-128, 127, np.int8)]
)
def test_wide_limits_stay(low, high, dtype):
    spec = make_spec(SpaceEnv(box((3,)), spaces.Box(low, high, (2,), dtype)))
    assert spec.action.parts[0].high == (high, high)
    assert not any("env.action_bound" in note for note in spec.notes)


@pytest.mark.parametrize("limits", [([0, -1], [0, 1]), ([3, 3], [3, 3])])
def test_a_number_without_a_choice_is_sent_as_it_is(limits, tmp_path):
    space = spaces.Box(*map(np.float32, limits))
    spec = make_spec(SpaceEnv(box((3,)), space))
    assert any("leave no choice: number 0 is always" in note for note in spec.notes)
    for vector in ([-1, -1], [1, 1], [0.3, 0.2]):
        assert space.contains(spec.action.decode_one(np.float32(vector)))
    reverie.Dreamer(lambda: SpaceEnv(box((3,)), space), preset="debug", run=tmp_path, **TINY).learn(quiet=True)


def test_a_single_limit_beyond_the_bound_says_what_to_set():
    for low, high in ((5, np.inf), (-np.inf, -5)):
        with pytest.raises(UserError, match=r"one limit only, -?5.*set env.action_bound above 5"):
            make_spec(SpaceEnv(box((3,)), spaces.Box(low, high, (2,))))


# ------------------------------------------------------------------------------------------------------- another task


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """run(observations, actions) -> the directory of an agent that was trained a little on such a task."""
    found = {}

    def train(observation, action):
        key = (str(observation), str(action))
        if key not in found:
            found[key] = tmp_path_factory.mktemp("agent") / "agent"
            env = lambda: SpaceEnv(observation, action)  # noqa: E731
            run = found[key].parent / "run"
            reverie.Dreamer(env, preset="debug", run=run, **TINY).learn(60, quiet=True).save(found[key])
        return found[key]

    return train


FOUR, TWO, ARM = box((4,)), spaces.Discrete(2), spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        ((FOUR, TWO), (FOUR, spaces.Discrete(5))),
        ((FOUR, ARM), (FOUR, TWO)),
        ((FOUR, TWO), (FOUR, ARM)),
        ((FOUR, TWO), (box((5,)), TWO)),
        ((FOUR, TWO), (spaces.Discrete(4), TWO)),
        ((FOUR, ARM), (FOUR, spaces.Box(-2, 2, (2,), np.float32))),
        ((FOUR, spaces.Discrete(4)), (FOUR, spaces.MultiDiscrete([2, 2]))),
        ((FOUR, TWO), (spaces.Dict(observation=FOUR, more=FOUR), TWO)),
    ],
)
def test_playing_on_another_task_is_refused(trained, mine, other):
    agent = reverie.load(trained(*mine), env=lambda: SpaceEnv(*other))
    with pytest.raises(UserError, match="the agent was trained on another task"):
        agent.evaluate(1)


@pytest.mark.parametrize(
    ("mine", "other", "words"),
    [
        ((FOUR, TWO), (FOUR, spaces.Discrete(2, start=5)), "the action's starts is (5,) instead of (0,)"),
        ((FOUR, ARM), (FOUR, spaces.Box(-2, 2, (2,), np.float32)), "the action's low is (-2.0, -2.0) instead of"),
        ((spaces.Discrete(3), TWO), (spaces.Discrete(3, start=1), TWO), "the observation's starts is (1,) instead"),
    ],
)
def test_a_task_that_reads_the_same_is_told_by_what_differs(trained, mine, other, words):
    agent = reverie.load(trained(*mine), env=lambda: SpaceEnv(*other))
    with pytest.raises(UserError, match=re.escape(words)):
        agent.evaluate(1)


def test_learning_on_in_another_task_is_refused_in_the_same_words(trained, in_tmp):
    agent = reverie.load(trained(FOUR, TWO), env=lambda: SpaceEnv(FOUR, spaces.Discrete(5)))
    with pytest.raises(UserError, match="the agent was trained on another task"):
        agent.learn(quiet=True)


def test_playing_on_the_same_task_in_other_numbers_is_not(trained):
    agent = reverie.load(trained(FOUR, TWO), env=lambda: SpaceEnv(spaces.Box(0, 1, (4,), np.float64), TWO))
    assert len(agent.evaluate(2).scores) == 2


def test_a_player_refuses_an_image_on_another_scale(trained):
    act = reverie.load_player(trained(box((16, 16, 3), np.uint8, 255), TWO))
    act(np.full((16, 16, 3), 7, np.uint8))
    act(np.full((16, 16, 3), 200.0, np.float32))
    with pytest.raises(UserError, match="the agent was trained with 0 to 255"):
        act(np.full((16, 16, 3), 0.7, np.float32))
    other = reverie.load_player(trained(box((16, 16, 3)), TWO))
    with pytest.raises(UserError, match="its space says 0 to 1"):
        other(np.full((16, 16, 3), 200.0))


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("count", [None, 1])
def test_a_player_takes_a_tuple_as_a_list(trained, kind, count):
    observation = spaces.Tuple([FOUR, spaces.Discrete(3), spaces.Dict(a=FOUR)])
    act = reverie.load_player(trained(observation, TWO), num_envs=count)
    one = lambda value: value if count is None else np.asarray(value)[None]  # noqa: E731
    obs = kind([one(np.zeros(4)), one(2), {"a": one(np.zeros(4))}])
    assert np.shape(act(obs)) == (() if count is None else (1,))


def test_gymnasiums_own_environments_are_read_as_before():
    assert make_spec(gym.make("CartPole-v1")).notes == ()


@pytest.mark.parametrize("ignore", [("*",), ("observation",), ("obs*", "*tion")])
def test_ignoring_every_observation_is_told_as_that(ignore):
    with pytest.raises(UserError, match=r"env\.obs_ignore matches every observation: observation"):
        make_spec(SpaceEnv(FOUR, TWO), ignore=ignore)
