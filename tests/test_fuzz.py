"""Random settings, configurations and spaces: what does not fit is a UserError, what fits comes back as it was."""

import dataclasses
import math
from typing import Literal, get_args, get_origin

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import SpaceEnv

from reverie import cli
from reverie.commands import settings_of
from reverie.commands.train import config_of
from reverie.config import SETTINGS, Config, flatten, from_dict, load_file, to_dict
from reverie.data.collect import Collector
from reverie.data.replay import Replay
from reverie.data.replay_log import ReplayLog
from reverie.envs import make_vector
from reverie.errors import UserError
from tests.fuzz.limits import HangError, limited

MANY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SOME = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# ------------------------------------------------------------------------------------------------------------ settings

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, 1, -1, 2**31, 2**63, 1e-300, 1e300, math.nan])
)


def texts(key):
    """Text for a setting: what fits its kind as often as what does not."""
    kind = SETTINGS[key].kind
    choices = (
        get_args(kind) if get_origin(kind) is Literal else ("true", "false", "", "none", "a,b", "1,2", "[1]", "1e3")
    )
    return st.one_of(st.sampled_from([str(choice) for choice in choices]), numbers.map(str), words)


assigned = st.sampled_from(sorted(SETTINGS)).flatmap(lambda key: st.tuples(st.just(key), texts(key)))
names = st.one_of(assigned, st.tuples(words, words))  # that exist, and that do not
forms = st.sampled_from(["{key}={value}", "--{key}={value}", "--{key} {value}", "{leaf}={value}", "{key}"])


def outcome(work, *arguments):
    """What a function returns, or the UserError that it raises; of argparse its exit code. Nothing else is let by."""
    try:
        return work(*arguments)
    except UserError as error:
        return error
    except SystemExit as error:
        return error.code


def test_a_computing_hang_is_found():
    def spin():
        with limited(1):
            while True:
                pass

    with pytest.raises(HangError, match="no answer after 1 s of computing"):
        spin()


def parse(argv):
    """The command line as `reverie train` reads it. -> its settings."""
    args, rest = cli.make_parser().parse_known_args(argv)
    args.settings = settings_of(rest)
    return config_of(args)[0]


@MANY
@given(given_names=st.lists(st.tuples(names, forms), max_size=6))
def test_any_settings_on_the_command_line_fit_or_are_told(given_names):
    argv = ["train", "--preset", "debug", "--run", "nowhere/at/all"]
    for (key, value), form in given_names:
        text = form.format(key=key, value=value, leaf=key.split(".")[-1])
        argv += text.split(" ", 1) if form.startswith("--{key} ") else [text]
    found = outcome(parse, argv)
    if isinstance(found, Config):
        assert from_dict(to_dict(found), where="x") == found
        assert all(math.isfinite(v) for v in flatten(found).values() if isinstance(v, float))
    else:
        assert found in (0, 2) or found.message  # argparse: 0 for --help, 2 for --env without a value


@pytest.mark.parametrize("key", SETTINGS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_every_setting_takes_a_value_or_says_what_it_wants(key, data):
    value = data.draw(texts(key))
    found = outcome(parse, ["train", "--preset", "debug", "--env", "CartPole-v1", "--run", "nowhere", f"{key}={value}"])
    if isinstance(found, Config):
        assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(found))), where="x") == found
    else:
        assert key.split(".")[1] in found.message


leaves = st.one_of(st.none(), st.booleans(), numbers, words)
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))
groups = st.sampled_from([field.name for field in dataclasses.fields(Config)])
leaf_names = st.sampled_from(sorted(key.split(".")[1] for key in SETTINGS))
almost = st.dictionaries(groups | words, st.dictionaries(leaf_names | words, trees, max_size=3) | trees, max_size=3)


@MANY
@given(content=st.one_of(almost.map(yaml.safe_dump), trees.map(yaml.safe_dump), words, st.binary(max_size=40)))
def test_any_configuration_file_is_read_or_told(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    found = outcome(load_file, path)
    assert isinstance(found, Config) or found.message


# ---------------------------------------------------------------------------------------------------- spaces and replay

lengths = st.integers(1, 4)
dtypes = st.sampled_from([np.uint8, np.float32, np.int64, np.bool_, np.float64])
arrays = st.dictionaries(
    st.text("abcdefgh/_ .", min_size=1, max_size=8), st.tuples(st.lists(lengths, max_size=3).map(tuple), dtypes),
    min_size=1, max_size=3,
)  # fmt: skip


def rows(rng, replay):
    """One random step of every stream."""
    streams = len(replay.counts)
    found = {}
    for key, array in replay.data.items():
        values = rng.integers(0, 256, (streams, *array.shape[2:]))
        found[key] = (values % 2 if array.dtype == np.bool_ else values).astype(array.dtype)
    return found


@SOME
@given(
    shapes=arrays, actions=st.integers(1, 5), streams=st.integers(1, 4), size=st.integers(4, 20),
    parts=st.lists(st.integers(0, 30), min_size=1, max_size=4), seed=st.integers(0, 2**32),
    prioritize=st.sampled_from(["none", "ends", "rewards"]), on_disk=st.booleans(),
)  # fmt: skip
def test_any_observations_survive_the_replay(
    tmp_path_factory, shapes, actions, streams, size, parts, seed, prioritize, on_disk
):
    folder, rng = tmp_path_factory.mktemp("replay"), np.random.default_rng(seed)
    kinds = {key: (shape, np.dtype(dtype)) for key, (shape, dtype) in shapes.items()}

    def make(name):
        where = folder / name if on_disk else None
        options = {"capacity": size * streams, "streams": streams, "prioritize": prioritize, "directory": where}
        return Replay(kinds, actions, seed=1, **options)

    replay, added = make("one"), []
    log = ReplayLog(replay, folder / "log")
    for part in parts:
        for _ in range(part):
            added.append(rows(rng, replay))
            replay.add(added[-1])
        log.save()
    kept = added[-size:]
    other = make("two")
    ReplayLog(other, folder / "log").load(replay.counts)
    other.rng.bit_generator.state = replay.rng.bit_generator.state
    for length in (1, 3, size):
        if not replay.can_sample(length):
            assert len(kept) < length
            continue
        ours, theirs = replay.sample(3, length), other.sample(3, length)
        if prioritize != "none":  # the set of marks is rebuilt in another order
            continue
        for key, (shape, dtype) in kinds.items():
            assert ours.obs[key].shape == (3, length, *shape)
            assert ours.obs[key].dtype == dtype
            np.testing.assert_array_equal(ours.obs[key], theirs.obs[key])
        np.testing.assert_array_equal(ours.action, theirs.action)
    for stream in range(streams):
        if kept:
            everything = other.window(np.array([stream]), np.array([0]), len(kept))
            for key in kinds:
                np.testing.assert_array_equal(everything.obs[key][0], [row[f"obs/{key}"][stream] for row in kept])


shapes_of_boxes = st.lists(st.integers(1, 12), max_size=3).map(tuple)
boxes = st.builds(
    lambda shape, dtype, bound: spaces.Box(*((0, 255) if dtype == np.uint8 else (-bound, bound)), shape, dtype),
    shapes_of_boxes, st.sampled_from([np.uint8, np.float32, np.float64, np.int16]), st.integers(1, 100),
)  # fmt: skip
simple = st.one_of(
    boxes,
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 6), st.integers(-3, 3)),
    st.integers(1, 4).map(spaces.MultiBinary),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
    st.just(spaces.Text(4)),
)
any_space = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.dictionaries(st.text("abc_-", min_size=1, max_size=4), inner, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(inner, min_size=1, max_size=2).map(lambda parts: spaces.Tuple(tuple(parts))),
    ),
    max_leaves=4,
)


class Cut(SpaceEnv):
    """Any pair of spaces, episodes of four steps."""

    at = 0

    def step(self, action):
        self.at += 1
        assert self.action_space.contains(action), action
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, self.at % 4 == 0, info


@SOME
@given(observation=any_space, action=any_space, seed=st.integers(0, 1000))
def test_any_task_is_played_into_the_replay_or_told(tmp_path_factory, observation, action, seed):
    observation.seed(seed)
    folder = tmp_path_factory.mktemp("task")
    envs = outcome(lambda: make_vector(lambda: Cut(observation, action), 2, backend="sync"))
    if isinstance(envs, UserError):
        assert envs.message
        assert envs.hint
        return
    try:
        spec, rng = envs.get_attr("agent_spec")[0], np.random.default_rng(seed)
        replay = Replay(spec.shapes, spec.action.size, capacity=40, streams=2)
        collector = Collector(envs, seed=seed)
        for row, _ in collector.rows(lambda obs, first: spec.action.random(rng, len(first), obs.get("action_mask"))):
            replay.add(row)
            if replay.counts[0] == 15:
                break
    finally:
        envs.close()
    replay.check_valid()
    ReplayLog(replay, folder).save()
    other = Replay(spec.shapes, spec.action.size, capacity=40, streams=2)
    ReplayLog(other, folder).load(replay.counts)
    for key, values in replay.contents().items():
        np.testing.assert_array_equal(values, other.contents()[key])
    assert replay.sample(4, 6).action.shape == (4, 6, spec.action.size)


def test_the_fuzzed_tasks_are_not_all_refused():
    """Else the test above says nothing."""
    assert isinstance(Cut(spaces.Box(-1, 1, (3,)), spaces.Discrete(2)), gym.Env)
    make_vector(
        lambda: Cut(spaces.Dict({"a": spaces.Discrete(3)}), spaces.MultiDiscrete([2, 3])), 2, backend="sync"
    ).close()
