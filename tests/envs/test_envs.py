"""Environments: spaces to the agent's view and back, wrappers, families, and spaces that are refused."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import BrokenEnv, CountingEnv, DictEnv, SpaceEnv, StillEnv, counting

from reverie.config.presets import load_preset
from reverie.data.collect import Collector
from reverie.data.replay import Replay
from reverie.envs import all_families, make_env, make_request, make_vector
from reverie.envs.family import family_of
from reverie.envs.images import area_resize
from reverie.envs.spaces import Spec, make_spec
from reverie.envs.view import AgentView
from reverie.envs.wrappers import ActionRepeat, ActionSubset
from reverie.errors import UserError
from reverie.train import DreamerV2, to_batch


def spec_of(observation, action=None):
    return make_spec(SpaceEnv(observation, action))


def image(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


# --------------------------------------------------------------------------------------------- observation spaces


@pytest.mark.parametrize(
    ("space", "kind", "layout", "shape"),
    [
        (image(12, 10, 3), "image", "hwc", (12, 10, 3)),
        (image(12, 10, 1), "image", "hwc", (12, 10, 1)),
        (image(12, 10, 9), "image", "hwc", (12, 10, 9)),
        (image(3, 12, 10), "image", "chw", (12, 10, 3)),
        (image(1, 12, 10), "image", "chw", (12, 10, 1)),
        (image(12, 10), "image", "hw", (12, 10, 1)),
        (image(7), "vector", "", (7,)),
        (spaces.Box(-1, 1, (5,), np.float64), "vector", "", (5,)),
        (spaces.Box(-1, 1, (2, 3), np.float32), "vector", "", (6,)),
        (spaces.Box(-1, 1, (), np.float32), "vector", "", (1,)),
        (spaces.Box(-np.inf, np.inf, (4,), np.float32), "vector", "", (4,)),
        (spaces.Box(-9, 9, (3,), np.int64), "vector", "", (3,)),
        (spaces.Discrete(4), "discrete", "", (4,)),
        (spaces.Discrete(4, start=-2), "discrete", "", (4,)),
    ],
)
def test_a_space_becomes_an_image_or_a_vector(space, kind, layout, shape):
    spec = spec_of(space)
    item = spec.obs["observation"]
    assert (item.kind, item.layout, item.shape) == (kind, layout, shape)
    encoded = spec.encode(space.sample())["observation"]
    assert encoded.shape == shape
    assert encoded.dtype == (np.uint8 if kind == "image" else np.float32)
    assert spec.shapes == {"observation": (shape, encoded.dtype)}


@pytest.mark.parametrize(
    "space",
    [image(6, 5, 3), image(3, 6, 5), image(6, 5), spaces.Box(-1, 1, (2, 3)), spaces.Discrete(3, start=4)],
)
@pytest.mark.parametrize("batch", [(2,), (3, 4)])
def test_encoding_a_batch_is_encoding_each(space, batch):
    spec = spec_of(space)
    single = [space.sample() for _ in range(int(np.prod(batch)))]
    together = spec.encode(np.array(single).reshape(batch + space.shape))["observation"]
    apart = np.array([spec.encode(one)["observation"] for one in single])
    np.testing.assert_array_equal(together.reshape(apart.shape), apart)


def test_chw_pixels_keep_their_place():
    value = np.arange(3 * 5 * 6, dtype=np.uint8).reshape(3, 5, 6)
    encoded = spec_of(image(3, 5, 6)).encode(value)["observation"]
    assert all(encoded[y, x, c] == value[c, y, x] for y in range(5) for x in range(6) for c in range(3))


@pytest.mark.parametrize("start", [-3, 0, 2])
def test_discrete_observations_are_one_hot_counted_from_start(start):
    spec = spec_of(spaces.Discrete(3, start=start))
    found = [spec.encode(start + k)["observation"].tolist() for k in range(3)]
    assert found == np.eye(3).tolist()


def test_nested_dicts_are_flattened_by_path():
    env = DictEnv()
    spec = make_spec(env)
    assert set(spec.obs) == {"camera", "body/speed", "body/facing"}
    assert spec.images == {"camera": (3, 16, 16)}
    assert spec.vectors == {"body/speed": 2, "body/facing": 3}
    obs, _ = env.reset(seed=0)
    encoded = spec.encode(obs)
    np.testing.assert_array_equal(encoded["camera"], obs["camera"])
    np.testing.assert_allclose(encoded["body/speed"], obs["body"]["speed"], rtol=1e-6)
    assert encoded["body/facing"].argmax() - 1 == obs["body"]["facing"]


@pytest.mark.parametrize("key", ["reward", "continue", "a.b", "type", "forward", "action", "is_first"])
def test_any_observation_key_can_be_learnt(key):
    env = SpaceEnv(spaces.Dict({key: spaces.Box(-1, 1, (2,)), "plain": image(8, 8, 3)}))
    spec = make_spec(env)
    agent = DreamerV2(load_preset("debug"), spec)
    assert {"reward", "continue"} <= set(agent.world_model.heads)
    assert len(agent.world_model.heads) == 4
    replay = Replay(spec.shapes, 2, capacity=20, streams=1)
    rng = np.random.default_rng(0)
    rows = Collector(make_vector(env, 1), seed=0).rows(lambda obs, first: spec.action.random(rng, 1))
    for _ in range(8):
        replay.add(next(rows)[0])
    _, metrics = agent.train_world_model(to_batch(replay.sample(2, 4)))
    assert all(np.isfinite(value.item()) for value in metrics.values())
    obs, _ = env.reset(seed=0)
    assert agent.player()(obs) in (0, 1)


def test_a_spec_survives_json():
    for env in (DictEnv(), DictEnv(spaces.Box(np.float32([-1, 0]), np.float32([2.5, 7])))):
        spec = make_spec(env)
        assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_describe_names_every_key_and_the_action():
    lines = make_spec(DictEnv()).describe()
    assert sorted(lines[:-1]) == [
        "body/facing: discrete 3 -> MLP",
        "body/speed: vector 2 -> MLP",
        "camera: image 16x16x3 -> convolutions",
    ]
    assert lines[-1] == "4 discrete actions"


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (spaces.Text(5), "no usable observation"),
        (spaces.Dict({"a": spaces.Dict({"words": spaces.Text(5)})}), "no usable observation"),
        (spaces.Dict({"seq": spaces.Sequence(spaces.Discrete(2))}), "'seq'"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Sequence(spaces.Discrete(2))]), "'1'"),
        (spaces.Dict({}), "no usable observation"),
    ],
)
def test_unsupported_observations_are_refused_by_name(observation, message):
    with pytest.raises(UserError, match=message):
        spec_of(observation)


@pytest.mark.parametrize("shape", [(3, 3, 3), (2, 40, 3)])
def test_images_too_small_for_a_convolution_are_refused_by_name(shape):
    with pytest.raises(UserError, match="observation"):
        DreamerV2(load_preset("debug"), spec_of(image(*shape)))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(3), r"'observation' has shape \(3,\), expected \(4,\)"),
        (np.zeros((4, 1)), r"'observation' has shape"),
        (0.0, "'observation' has shape"),
    ],
)
def test_an_observation_of_the_wrong_shape_is_refused(value, message):
    with pytest.raises(UserError, match=message):
        spec_of(spaces.Box(-1, 1, (4,))).encode(value)


@pytest.mark.parametrize("value", [{"camera": np.zeros((16, 16, 3), np.uint8)}, np.zeros(3), {}])
def test_a_missing_entry_is_named(value):
    with pytest.raises(UserError, match=r"the observation lacks '(camera|body)'"):
        make_spec(DictEnv()).encode(value)


# --------------------------------------------------------------------------------------------------- action spaces


@pytest.mark.parametrize("start", [-1, 0, 5])
def test_discrete_actions_are_counted_from_start(start):
    space = spaces.Discrete(4, start=start)
    action = spec_of(image(8, 8, 3), space).action
    assert (action.kind, action.size) == ("discrete", 4)
    assert action.decode(np.eye(4)).tolist() == [start + k for k in range(4)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 2), ()])
def test_box_actions_fill_their_space_and_never_leave_it(shape, dtype):
    rng = np.random.default_rng(0)
    low = np.asarray(rng.uniform(-3, 0, shape), dtype)
    space = spaces.Box(low, np.asarray(low + rng.uniform(0.1, 5, shape), dtype), shape, dtype)
    action = spec_of(image(8, 8, 3), space).action
    assert action.size == max(1, int(np.prod(shape)))
    np.testing.assert_array_equal(action.decode(np.full(action.size, -1.0)), space.low)
    np.testing.assert_array_equal(action.decode(np.full(action.size, 1.0)), space.high)
    np.testing.assert_allclose(action.decode(np.zeros(action.size)), (space.low + space.high) / 2, atol=1e-6)
    for vector in rng.uniform(-1.5, 1.5, (200, action.size)).astype(np.float32):
        own = action.decode(vector)
        assert own.dtype == dtype
        assert space.contains(np.asarray(own))


def test_decoding_a_batch_is_decoding_each():
    action = spec_of(image(8, 8, 3), spaces.Box(-2, 5, (2, 2))).action
    vectors = np.random.default_rng(0).uniform(-1, 1, (6, 4))
    np.testing.assert_array_equal(action.decode(vectors), np.array([action.decode(v) for v in vectors]))


@pytest.mark.parametrize("shape", [(1,), (2,), ()])
def test_the_environment_gets_box_actions_of_its_own_shape_and_value(shape):
    env = SpaceEnv(spaces.Box(-1, 1, (2,)), spaces.Box(-2, 2, shape))
    view = AgentView(env)
    view.reset(seed=0)
    view.step(np.full(view.action_space.shape, 0.8, np.float32))
    assert np.shape(env.actions[0]) == shape
    np.testing.assert_allclose(env.actions[0], np.full(shape, 1.6), rtol=1e-6)


def test_the_environment_gets_discrete_actions_as_plain_integers():
    env = SpaceEnv(spaces.Box(-1, 1, (2,)), spaces.Discrete(3, start=7))
    view = AgentView(env)
    view.reset(seed=0)
    view.step(np.array([0, 0, 1], np.float32))
    assert env.actions == [9]
    assert type(env.actions[0]) is int


def test_random_actions_cover_the_agents_action_space():
    rng = np.random.default_rng(0)
    discrete = spec_of(image(8, 8, 3), spaces.Discrete(3)).action.random(rng, 3000)
    assert set(map(tuple, discrete.tolist())) == set(map(tuple, np.eye(3).tolist()))
    np.testing.assert_allclose(discrete.mean(0), 1 / 3, atol=0.04)
    box = spec_of(image(8, 8, 3), spaces.Box(-9, 9, (2,))).action.random(rng, 3000)
    assert box.shape == (3000, 2)
    assert box.dtype == np.float32
    assert -1 <= box.min() < -0.99 < 0.99 < box.max() <= 1


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(3, np.inf, (2,)), "has one limit only, 3"),
        (spaces.Text(3), "Text.* is not supported"),
        (spaces.Tuple([spaces.Discrete(2), spaces.Sequence(spaces.Discrete(2))]), "'1' Sequence.* is not supported"),
    ],
)
def test_unsupported_actions_are_refused(space, message):
    with pytest.raises(UserError, match=message):
        spec_of(image(8, 8, 3), space)


# ----------------------------------------------------------------------------------------------------- the agent's view


def test_the_view_is_a_valid_gymnasium_environment():
    view = AgentView(DictEnv())
    obs, _ = view.reset(seed=0)
    assert view.observation_space.contains(obs)
    for _ in range(6):
        obs, reward, terminated, truncated, _ = view.step(np.eye(4, dtype=np.float32)[2])
        assert view.observation_space.contains(obs)
        assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
    assert terminated


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_numbers_that_are_not_finite_are_refused_with_key_and_step(value, word):
    view = AgentView(BrokenEnv(after=2, value=value))
    view.reset(seed=0)
    view.step(np.eye(3)[0])
    with pytest.raises(UserError, match=f"observation 'observation' contains {word} at step 2"):
        view.step(np.eye(3)[0])


# ------------------------------------------------------------------------------------------------------------ images

pixels = st.integers(1, 5)


@settings(max_examples=50, deadline=None)
@given(height=pixels, width=pixels, rows=pixels, columns=pixels, channels=st.sampled_from([1, 3]), seed=st.integers(0))
def test_shrinking_by_whole_factors_is_the_mean_of_blocks(height, width, rows, columns, channels, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (height * rows, width * columns, channels), dtype=np.uint8)
    exact = pixels.reshape(height, rows, width, columns, channels).mean((1, 3))
    assert np.abs(area_resize(pixels, height, width).astype(float) - exact).max() <= 0.5 + 1e-3


@settings(max_examples=50, deadline=None)
@given(shape=st.tuples(*[st.integers(1, 60)] * 4), value=st.integers(0, 255))
def test_a_constant_image_stays_constant_at_any_size(shape, value):
    height, width, rows, columns = shape
    resized = area_resize(np.full((height, width, 3), value, np.uint8), rows, columns)
    assert resized.shape == (rows, columns, 3)
    assert (resized == value).all()


def test_shrinking_by_a_fraction_weighs_pixels_by_area():
    pixels = np.array([0, 90, 180], np.uint8).reshape(1, 3, 1)
    assert area_resize(pixels, 1, 2)[0, :, 0].tolist() == [30, 150]  # (0 + 90/2) / 1.5, (90/2 + 180) / 1.5


def test_resizing_to_the_same_size_changes_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(area_resize(pixels, 7, 5), pixels)


@pytest.mark.parametrize(("grayscale", "channels"), [(False, 3), (True, 1)])
@pytest.mark.parametrize(("size", "side"), [(0, 16), (8, 8), (20, 20)])
def test_images_of_a_dict_are_prepared_and_the_rest_is_left_alone(size, side, grayscale, channels):
    env = AgentView(DictEnv(), image_size=size, grayscale=grayscale)
    obs, _ = env.reset(seed=0)
    plain, _ = AgentView(DictEnv()).reset(seed=0)
    assert obs["camera"].shape == env.observation_space["camera"].shape == (side, side, channels)
    for key in ("body/speed", "body/facing"):
        np.testing.assert_array_equal(obs[key], plain[key])
    assert env.observation_space.contains(obs)


@pytest.mark.parametrize(("colour", "gray"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29), ((9, 9, 9), 9)])
def test_gray_is_luma(colour, gray):
    spec = make_spec(SpaceEnv(image(4, 4, 3)), grayscale=True)
    assert (spec.encode(np.full((4, 4, 3), colour, np.uint8))["observation"] == gray).all()


def test_gray_images_stay_as_they_are():
    spec = make_spec(SpaceEnv(image(4, 4, 1)), grayscale=True)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 1), dtype=np.uint8)
    np.testing.assert_array_equal(spec.encode(pixels)["observation"], pixels)


@pytest.mark.parametrize("shape", [(12, 12, 3), (3, 12, 12), (12, 12), (12, 12, 4), (12, 12, 9)])
@pytest.mark.parametrize("grayscale", [False, True])
def test_every_image_that_the_agent_sees_is_prepared(shape, grayscale):
    """`image_size` and `grayscale` speak of images, whatever their layout: what make_spec calls one is one."""
    view = AgentView(SpaceEnv(image(*shape)), image_size=8, grayscale=grayscale)
    obs, _ = view.reset(seed=0)
    assert obs["observation"].shape[:2] == (8, 8)
    assert obs["observation"].shape == view.observation_space["observation"].shape


# ---------------------------------------------------------------------------------------------------------- wrappers


def test_action_repeat_adds_rewards_and_stops_at_the_end():
    env = ActionRepeat(CountingEnv((5,)), 3)
    env.reset(seed=0)
    obs, reward, terminated, _, _ = env.step(1)
    assert (obs[1], reward, terminated) == (3, 1 + 2 + 3, False)
    obs, reward, terminated, _, _ = env.step(1)
    assert (obs[1], reward, terminated) == (5, 4 + 5, True)


def test_a_time_limit_truncates_and_does_not_terminate():
    env = make_env(lambda: CountingEnv((100,)), time_limit=4)
    env.reset(seed=0)
    ends = [env.step(0)[2:4] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(False, True)]


def test_a_time_limit_counts_the_agents_steps():
    env = make_env(lambda: CountingEnv((100,)), time_limit=4, action_repeat=5)
    env.reset(seed=0)
    for _ in range(3):
        assert not env.step(0)[3]
    obs, _, _, truncated, _ = env.step(0)
    assert truncated
    assert obs[1] == 20


def test_an_action_subset_renumbers():
    inner = SpaceEnv(spaces.Box(-1, 1, (2,)), spaces.Discrete(6))
    env = ActionSubset(inner, (0, 4, 5))
    env.reset(seed=0)
    for action in range(3):
        env.step(action)
    assert env.action_space == spaces.Discrete(3)
    assert inner.actions == [0, 4, 5]


# ---------------------------------------------------------------------------------------------------------- families


def test_every_family_file_has_what_the_list_shows():
    assert "minigrid" in all_families()
    for module in all_families().values():
        assert tuple(prefix.lower() for prefix in module.PREFIXES) == module.PREFIXES
        assert module.MODULES
        assert "pip install" in module.INSTALL
        assert family_of(module.EXAMPLE) is module
        assert module.NOTE
        assert module.REPEAT >= 1
        assert module.EXAMPLE in module.protocol(make_request(module.EXAMPLE))


@pytest.mark.parametrize(
    ("env_id", "actions", "count"),
    [
        ("MiniGrid-Empty-Random-6x6-v0", "full", 7),
        ("MiniGrid-Empty-Random-6x6-v0", "minimal", 3),
        ("MiniGrid-FourRooms-v0", "minimal", 3),
        ("MiniGrid-DoorKey-5x5-v0", "minimal", 5),
        ("MiniGrid-MultiRoom-N2-S4-v0", "minimal", 5),
        ("MiniGrid-PutNear-6x6-N2-v0", "minimal", 7),
    ],
)
def test_minigrid_from_pixels(env_id, actions, count):
    env = make_env(env_id, actions=actions)
    obs, _ = env.reset(seed=0)
    assert env.action_space == spaces.Discrete(count)
    assert obs.shape == (56, 56, 3)
    assert obs.dtype == np.uint8
    assert env.observation_space.contains(obs)
    for action in range(count):
        env.step(action)
    env.close()


def test_minigrid_images_show_what_the_agent_does():
    env = make_env("MiniGrid-Empty-6x6-v0")
    first, _ = env.reset(seed=0)
    turned, *_ = env.step(0)
    back, *_ = env.step(1)
    assert first.shape == (56, 56, 3)
    assert not np.array_equal(first, turned)
    np.testing.assert_array_equal(first, back)
    env.close()


def test_minimal_minigrid_actions_are_the_right_ones():
    env = make_env("MiniGrid-DoorKey-5x5-v0", actions="minimal")
    inner = env.unwrapped
    env.reset(seed=0)
    assert [env.action(a) for a in range(5)] == [
        inner.actions.left,
        inner.actions.right,
        inner.actions.forward,
        inner.actions.pickup,
        inner.actions.toggle,
    ]
    env.close()


def test_pixels_of_a_vector_task():
    env = AgentView(make_env("CartPole-v1", pixels=True), image_size=24, grayscale=True)
    obs, _ = env.reset(seed=0)
    assert obs["observation"].shape == (24, 24, 1)
    assert obs["observation"].min() < obs["observation"].max()
    assert env.agent_spec.images == {"observation": (1, 24, 24)}
    env.close()


def test_pixels_need_an_environment_that_draws():
    with pytest.raises(UserError, match="render_mode='rgb_array'"):
        make_env(counting, pixels=True)


def test_an_environment_from_an_id_an_instance_or_a_callable():
    instance = counting()
    assert make_env("CartPole-v1").spec.id == "CartPole-v1"
    assert make_env(instance) is instance
    assert make_env(counting) is not make_env(counting)
    assert isinstance(make_env(CountingEnv), CountingEnv)


@pytest.mark.filterwarnings("ignore:.*render_mode.*:UserWarning")
def test_a_registered_environment_need_not_know_render_mode():
    if "reverie-test/Still-v0" not in gym.registry:
        gym.register("reverie-test/Still-v0", StillEnv)
    env = make_env("reverie-test/Still-v0")
    assert make_spec(env).vectors == {"observation": 2}


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("", "no environment is given"),
        ("NoSuchTask-v0", "cannot make 'NoSuchTask-v0'"),
        ("MiniGrid-NoSuchTask-v0", "cannot make 'MiniGrid-NoSuchTask-v0'"),
        ("CartPole-v99", "cannot make 'CartPole-v99'"),
        ("no_such_module:Task-v0", "no_such_module"),
    ],
)
def test_an_unknown_id_is_reported(env_id, message):
    with pytest.raises(UserError, match=message):
        make_env(env_id)


@pytest.mark.parametrize("thing", [3, object(), lambda: "a string"])
def test_what_is_no_environment_is_refused(thing):
    with pytest.raises(UserError, match=r"expected a gymnasium\.Env, got builtins"):
        make_env(thing)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "minigrid", None)
    with pytest.raises(UserError, match=r"needs a package that is not installed"):
        make_env("MiniGrid-Empty-6x6-v0")


def test_one_instance_cannot_be_many_environments():
    with pytest.raises(UserError, match="cannot be stepped as 2 environments"):
        make_vector(counting(), 2)
    make_vector(counting(), 1)


def test_vector_environments_are_prepared_and_viewed():
    envs = make_vector("MiniGrid-Empty-Random-6x6-v0", 2, actions="minimal", image_size=28)
    obs, _ = envs.reset(seed=0)
    assert obs["observation"].shape == (2, 28, 28, 3)
    assert envs.single_action_space.shape == (3,)
    assert envs.get_attr("agent_spec")[0].images == {"observation": (3, 28, 28)}
    envs.close()
