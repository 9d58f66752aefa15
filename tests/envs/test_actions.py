"""Any action space as one vector and back, masks included."""

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import SpaceEnv

from reverie.envs.actions import MAX_CHOICES, ActionGroup, ActionSpec, make_action_spec
from reverie.envs.spaces import MASK, Spec, make_spec
from reverie.envs.view import AgentView
from reverie.errors import UserError

HYBRID = spaces.Dict(
    {
        "move": spaces.Box(np.float32([-2, 0]), np.float32([2, 1])),
        "tool": spaces.Discrete(3, start=5),
        "deep": spaces.Tuple([spaces.MultiBinary(2), spaces.Discrete(2)]),
    }
)
SPACES = {
    "discrete": spaces.Discrete(4),
    "discrete from -2": spaces.Discrete(3, start=-2),
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "box of any bounds": spaces.Box(np.array([[0, -3], [10, 5]]), np.array([[1, 3], [11, 6]]), dtype=np.float64),
    "multi-discrete": spaces.MultiDiscrete([3, 2, 4]),
    "multi-discrete 2d": spaces.MultiDiscrete([[3, 2], [2, 2]], start=[[1, 0], [0, -1]]),
    "multi-binary": spaces.MultiBinary(5),
    "multi-binary 2d": spaces.MultiBinary((2, 3)),
    "few whole numbers": spaces.Box(-1, 2, (2,), np.int32),
    "many whole numbers": spaces.Box(0, 1000, (2,), np.int64),
    "dict": HYBRID,
    "tuple": spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (1,), np.float32)]),
}
anything = st.recursive(
    st.one_of(
        st.integers(1, 6).map(spaces.Discrete),
        st.lists(st.integers(1, 4), min_size=1, max_size=4).map(spaces.MultiDiscrete),
        st.integers(1, 4).map(spaces.MultiBinary),
        st.integers(1, 3).map(lambda n: spaces.Box(-2, 3, (n,), np.float32)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).map(spaces.Dict),
    ),
    max_leaves=4,
)


def spec_of(space, **options):
    return make_action_spec(space, **options)[0]


@pytest.mark.parametrize("name", SPACES)
def test_random_vectors_decode_into_the_space(name):
    space = SPACES[name]
    spec = spec_of(space)
    for vector in spec.random(np.random.default_rng(0), 50):
        assert space.contains(spec.decode_one(vector)), spec.decode_one(vector)


@given(anything, st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_nested_spaces_are_filled_whatever_they_are(space, seed):
    spec = spec_of(space)
    assert spec.size == sum(group.total for group in spec.groups) == len(spec.is_choice)
    vector = spec.random(np.random.default_rng(seed), 1)
    assert space.contains(spec.decode_one(vector[0]))
    assert ActionSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("name", SPACES)
def test_a_batch_decodes_as_each_alone(name):
    spec = spec_of(SPACES[name])
    vectors = spec.random(np.random.default_rng(1), 6)
    together = spec.decode(vectors)
    for index in range(6):
        one = gym.vector.utils.iterate(gym.vector.utils.batch_space(SPACES[name], 6), together)
        assert SPACES[name].contains(list(one)[index])
        np.testing.assert_equal(spec.decode(vectors[index]), _pick(together, index))


def _pick(value, index):
    if isinstance(value, dict):
        return {key: _pick(inner, index) for key, inner in value.items()}
    return tuple(_pick(inner, index) for inner in value) if isinstance(value, tuple) else value[index]


def test_every_choice_can_be_made():
    spec = spec_of(spaces.MultiDiscrete([2, 3], start=[0, -1]))
    vectors = spec.random(np.random.default_rng(0), 300)
    assert {tuple(spec.decode_one(vector).tolist()) for vector in vectors} == {
        (a, b) for a in (0, 1) for b in (-1, 0, 1)
    }
    counts = vectors.mean(0)
    np.testing.assert_allclose(counts, [1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3], atol=0.1)


@pytest.mark.parametrize(
    ("name", "kind", "groups"),
    [
        ("discrete", "discrete", [ActionGroup("onehot", 4)]),
        ("multi-discrete", "discrete", [ActionGroup("onehot", 3), ActionGroup("onehot", 2), ActionGroup("onehot", 4)]),
        ("multi-discrete 2d", "discrete", [ActionGroup("onehot", 3), ActionGroup("onehot", 2, 3)]),
        ("multi-binary", "discrete", [ActionGroup("onehot", 2, 5)]),
        ("few whole numbers", "discrete", [ActionGroup("onehot", 4, 2)]),
        ("many whole numbers", "box", [ActionGroup("box", 2)]),
        ("box of any bounds", "box", [ActionGroup("box", 4)]),
        ("tuple", "mixed", [ActionGroup("onehot", 2), ActionGroup("box", 1)]),
        # a Dict space sorts its keys: deep (2 switches, 2 choices), move, tool
        ("dict", "mixed", [ActionGroup("onehot", 2, 3), ActionGroup("box", 2), ActionGroup("onehot", 3)]),
    ],
)
def test_what_stands_where_in_the_vector(name, kind, groups):
    spec = spec_of(SPACES[name])
    assert spec.kind == kind
    assert list(spec.groups) == groups


def test_a_hybrid_action_by_hand():
    spec = spec_of(HYBRID)
    vector = np.float32([0, 1, 1, 0, 0, 1, 0.5, -1, 0, 0, 1])
    action = spec.decode_one(vector)
    assert action["deep"][0].tolist() == [1, 0]
    assert action["deep"][1] == 1
    np.testing.assert_allclose(action["move"], [1.0, 0.0])
    assert action["tool"] == 7
    assert type(action["tool"]) is int


def test_the_limits_of_whole_numbers_decide_how_they_are_chosen():
    assert spec_of(spaces.Box(1, MAX_CHOICES, (1,), np.int64)).kind == "discrete"
    spec, notes = make_action_spec(spaces.Box(0, MAX_CHOICES, (1,), np.int64))
    assert spec.kind == "box"
    assert "then rounded" in notes[0]
    assert [int(spec.decode_one(np.float32([x]))[0]) for x in (-1, 0.02, 1)] == [0, 16, MAX_CHOICES]


def test_numbers_without_limits_get_some_and_it_is_said():
    space = spaces.Box(np.float32([-np.inf, 0, -1]), np.float32([np.inf, np.inf, 1]))
    spec, notes = make_action_spec(space, bound=3)
    assert (spec.parts[0].low, spec.parts[0].high) == ((-3, 0, -1), (3, 3, 1))
    assert "env.action_bound" in notes[0]
    assert make_action_spec(spaces.Box(-1, 1, (2,)))[1] == []


@pytest.mark.parametrize("old", ["discrete", "box"])
def test_specs_of_format_1_are_read(old):
    box = {"shape": [2], "low": [-1, 0], "high": [1, 5], "start": 0}
    values = {
        "discrete": {"kind": "discrete", "size": 3, "shape": [], "low": [], "high": [], "start": 2, "dtype": "float32"},
        "box": {"kind": "box", "size": 2, "dtype": "float32", **box},
    }[old]
    space = {"discrete": spaces.Discrete(3, start=2), "box": spaces.Box(np.float32([-1, 0]), np.float32([1, 5]))}[old]
    vectors = spec_of(space).random(np.random.default_rng(0), 20)
    np.testing.assert_array_equal(ActionSpec.from_dict(values).decode(vectors), spec_of(space).decode(vectors))
    key = {
        "path": ["a"],
        "kind": "discrete",
        "raw_shape": [],
        "shape": [3],
        "layout": "",
        "grayscale": False,
        "start": 1,
    }
    spec = Spec.from_dict({"obs": {"a": key}, "action": values})
    assert spec.encode({"a": 2})["a"].tolist() == [0, 1, 0]


# --------------------------------------------------------------------------------------------------------------- masks


def test_a_mask_is_laid_out_as_the_vector():
    spec = spec_of(HYBRID)
    own = {"deep": ((np.int8([1, 0]), np.int8([1, 1])), np.int8([0, 1])), "tool": np.int8([1, 0, 1])}
    assert spec.encode_mask(own).tolist() == [1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1]
    assert spec.encode_mask(None).tolist() == [1] * 11


@pytest.mark.parametrize("name", ["discrete", "discrete from -2", "multi-discrete", "multi-binary"])
def test_masks_are_what_gymnasium_samples_with(name):
    """`space.sample(mask)` and ours mean the same: an action is allowed by both or by none."""
    space, rng = SPACES[name], np.random.default_rng(0)
    spec = spec_of(space)
    for _ in range(20):
        if name == "multi-discrete":
            own = tuple(np.int8(rng.random(n) < 0.6) for n in space.nvec)
            own = tuple(np.int8([1, *mask[1:]]) for mask in own)
        elif name == "multi-binary":
            own = tuple(np.int8([1, rng.random() < 0.5]) for _ in range(5))
        else:
            own = np.int8([1, *(rng.random(int(space.n) - 1) < 0.5)])
        mask = spec.encode_mask(own)
        vectors = spec.random(rng, 200, np.tile(mask, (200, 1)))
        assert not (vectors * (1 - mask)).any()
        if name.startswith("discrete"):
            assert {spec.decode_one(v) for v in vectors} <= {int(space.start) + i for i in np.flatnonzero(own)}


def test_random_actions_take_each_allowed_one_equally_often():
    spec = spec_of(spaces.Discrete(4))
    drawn = spec.random(np.random.default_rng(0), 4000, np.tile(np.uint8([1, 0, 1, 1]), (4000, 1)))
    np.testing.assert_allclose(drawn.mean(0), [1 / 3, 0, 1 / 3, 1 / 3], atol=0.03)


def test_a_mask_of_the_wrong_size_is_refused():
    with pytest.raises(UserError, match="has 3 entries for 4 choices"):
        spec_of(SPACES["discrete"]).encode_mask(np.ones(3))
    with pytest.raises(UserError, match="'tool' has 2 entries for 3 choices"):
        spec_of(HYBRID).encode_mask({"tool": np.ones(2)})


class MaskedEnv(gym.Env):
    """Action k is allowed in steps where (step + k) is even; the mask is in info, in the observation or in a method."""

    def __init__(self, how, actions=None):
        self.how, self.at = how, 0
        self.action_space = actions or spaces.Discrete(4)
        plain = spaces.Box(-1, 1, (2,), np.float32)
        keyed = spaces.Dict({"body": plain, "action_mask": spaces.MultiBinary(4)})
        self.observation_space = keyed if how == "observation" else plain
        if how == "method":
            self.action_masks = self._mask

    def _mask(self):
        return np.int8([(self.at + k) % 2 == 0 for k in range(4)])

    def _seen(self):
        body = np.full(2, self.at / 100, np.float32)
        obs = {"body": body, "action_mask": self._mask()} if self.how == "observation" else body
        return obs, {"action_mask": self._mask()} if self.how == "info" else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self._seen()

    def step(self, action):
        assert self._mask()[action], f"{action} is forbidden in step {self.at}"
        self.at += 1
        obs, info = self._seen()
        return obs, 0.0, False, self.at >= 20, info


@pytest.mark.parametrize("how", ["info", "observation", "method"])
def test_masks_are_found_wherever_they_are(how):
    view = AgentView(MaskedEnv(how))
    assert view.agent_spec.masked
    assert view.agent_spec.obs[MASK].kind == "mask"
    obs, _ = view.reset(seed=0)
    assert obs[MASK].tolist() == [1, 0, 1, 0]
    obs, *_ = view.step(np.float32([0, 0, 1, 0]))
    assert obs[MASK].tolist() == [0, 1, 0, 1]
    assert view.observation_space.contains(obs)
    assert "action_mask: mask 4 -> mask head" in view.agent_spec.describe()


@pytest.mark.parametrize("how", ["info", "observation", "method"])
def test_masks_can_be_switched_off(how):
    spec = AgentView(MaskedEnv(how), action_mask="none").agent_spec
    assert not spec.masked
    assert MASK not in spec.obs  # the loop would obey it
    assert (f"{MASK}_" in spec.obs) == (how == "observation")  # then it is a vector like others


def test_a_mask_that_does_not_exist_is_reported():
    with pytest.raises(UserError, match="there is no observation 'legal'"):
        AgentView(MaskedEnv("info"), action_mask="legal")
    with pytest.raises(UserError, match="reset returns no info"):
        AgentView(MaskedEnv("observation"), action_mask="none", ignore=("action_mask",)) and AgentView(
            SpaceEnv(spaces.Box(-1, 1, (2,))), action_mask="info"
        )


def test_a_mask_that_forbids_everything_is_refused_unless_the_episode_ends():
    env = MaskedEnv("info")
    view = AgentView(env)
    view.reset(seed=0)
    env._mask = lambda: np.zeros(4, np.int8)
    with pytest.raises(UserError, match="forbids every action at step"):
        view._checked(np.zeros(2, np.float32), {"action_mask": np.zeros(4)}, ended=False)
    ended = view._checked(np.zeros(2, np.float32), {"action_mask": np.zeros(4)}, ended=True)
    assert ended[MASK].tolist() == [1, 1, 1, 1]


# -------------------------------------------------------------------------------------------------- observation spaces


@pytest.mark.parametrize(
    ("space", "kind", "shape"),
    [
        (spaces.MultiDiscrete([2, 3]), "discrete", (5,)),
        (spaces.MultiBinary(4), "vector", (4,)),
        (spaces.MultiBinary((2, 2)), "vector", (4,)),
        (spaces.Box(0, 1, (20, 24, 3), np.float32), "image", (20, 24, 3)),
        (spaces.Box(0, 255, (3, 20, 24), np.float64), "image", (20, 24, 3)),
        (spaces.Box(0, 1, (5, 5, 3), np.float32), "vector", (75,)),
        (spaces.Box(-1, 1, (20, 24, 3), np.float32), "vector", (1440,)),
        (spaces.Box(0, 255, (4, 20, 24, 3), np.uint8), "image", (20, 24, 12)),
        (spaces.Box(0, 255, (2, 84, 80), np.uint8), "image", (84, 80, 2)),
        (spaces.Box(0, 255, (84, 80, 2), np.uint8), "image", (84, 80, 2)),
        (spaces.Box(0, 1, (3,), bool), "vector", (3,)),
    ],
)
def test_observations_of_every_kind(space, kind, shape):
    spec = make_spec(SpaceEnv(space))
    item = spec.obs["observation"]
    assert (item.kind, item.shape) == (kind, shape)
    value = space.sample()
    encoded = spec.encode(value)["observation"]
    assert encoded.shape == shape
    batch = spec.encode(np.stack([value, space.sample()]))["observation"]
    np.testing.assert_array_equal(batch[0], encoded)


def test_float_images_become_bytes():
    white = {1.0: 1.0, 255.0: 255.0}
    for top, value in white.items():
        space = spaces.Box(0, top, (16, 16, 3), np.float32)
        image = np.full((16, 16, 3), value / 2, np.float32)
        assert make_spec(SpaceEnv(space)).encode(image)["observation"].tolist() == np.full((16, 16, 3), 128).tolist()


def test_stacked_frames_are_made_gray_each_by_itself():
    space = spaces.Box(0, 255, (2, 8, 8, 3), np.uint8)
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    frames[1] = 255
    encoded = make_spec(SpaceEnv(space), grayscale=True, image_size=4).encode(frames)["observation"]
    assert encoded.shape == (4, 4, 2)
    assert encoded[..., 0].max() == 0
    assert encoded[..., 1].min() == 255


def test_multi_discrete_observations_are_one_hots_side_by_side():
    spec = make_spec(SpaceEnv(spaces.MultiDiscrete([2, 3], start=[0, 5])))
    assert spec.encode(np.array([1, 6]))["observation"].tolist() == [0, 1, 0, 1, 0]


def test_tuples_and_dicts_nest():
    space = spaces.Tuple([spaces.Dict({"a": spaces.Discrete(2)}), spaces.Tuple([spaces.MultiBinary(2)])])
    spec = make_spec(SpaceEnv(space))
    assert set(spec.obs) == {"0/a", "1/0"}
    encoded = spec.encode(({"a": 1}, (np.int8([1, 0]),)))
    assert encoded["0/a"].tolist() == [0, 1]
    assert encoded["1/0"].tolist() == [1, 0]
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


MANY = spaces.Dict(
    {
        "cam_left": spaces.Box(0, 255, (8, 8, 3), np.uint8),
        "cam_map": spaces.Box(0, 255, (8, 8), np.float32),
        "speed": spaces.Box(-1, 1, (2,), np.float32),
        "words": spaces.Text(9),
        "debug": spaces.Box(-1, 1, (3,), np.float32),
    }
)


def test_patterns_decide_what_is_seen_and_how():
    spec = make_spec(SpaceEnv(MANY), images=("cam_*",), ignore=("debug",))
    assert {key: item.kind for key, item in spec.obs.items()} == {
        "cam_left": "image", "cam_map": "image", "speed": "vector",
    }  # fmt: skip
    assert any("'words' is text" in note for note in spec.notes)
    assert any("'debug' is ignored" in note for note in spec.notes)
    spec = make_spec(SpaceEnv(MANY), vectors=("cam_left",))
    assert spec.vectors["cam_left"] == 192
    with pytest.raises(UserError, match=r"'speed' cannot be an image \(env.obs_images\)"):
        make_spec(SpaceEnv(MANY), images=("speed",))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_quick_way_of_looking_equals_the_slow_one(seed):
    space = spaces.Dict({"a": spaces.Box(-9, 9, (3,)), "b": spaces.Dict({"c": spaces.Box(-9, 9, (2, 2), np.float64)})})
    view = AgentView(SpaceEnv(space))
    space.seed(seed)
    value = space.sample()
    quick, slow = view._encode_vectors(value), view.agent_spec.encode(value)
    assert quick.keys() == slow.keys()
    for key, seen in slow.items():
        np.testing.assert_array_equal(quick[key], seen)
        assert quick[key].dtype == seen.dtype
    assert view._encode_vectors({"a": value["a"]}) is None
    assert view._encode_vectors(value | {"a": np.full(3, np.nan)}) is None
    kept = quick["a"].copy()
    value["a"] += 1
    np.testing.assert_array_equal(quick["a"], kept)  # a copy: environments may reuse their arrays


def test_the_quick_way_of_acting_equals_the_slow_one():
    taken = []

    class Listening(SpaceEnv):
        def step(self, action):
            taken.append(action)
            return super().step(action)

    view = AgentView(Listening(spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (3,), np.float64)))
    view.reset(seed=0)
    vector = np.float32([-3, 0.25, 1.5])
    view.step(vector)
    assert taken[0].dtype == np.float64
    np.testing.assert_array_equal(taken[0], view.agent_spec.action.decode_one(vector))
