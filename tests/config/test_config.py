"""Settings: the design document's numbers, strictness, and messages that say what to do."""

import dataclasses
import re
from dataclasses import FrozenInstanceError
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from reverie.config import SETTINGS, Config, build, flatten, from_dict, load_file, to_dict
from reverie.config.presets import load_preset, preset_description, preset_names, preset_text
from reverie.errors import UserError

#: ORIGINAL_DESIGN.md, "Hyperparameters", word for word.
DESIGN = {
    "num_categories": 32,
    "num_categoricals": 32,
    "rnn_hidden_dim": 200,
    "hidden_dim": 400,
    "embed_dim": 1024,
    "batch_size": 50,
    "seq_len": 50,
    "imagination_horizon": 15,
    "kl_balance": 0.8,
    "free_nats": 1.0,
    "world_model_lr": 3e-4,
    "actor_lr": 8e-5,
    "critic_lr": 8e-5,
    "gamma": 0.99,
    "lambda_": 0.95,
}


def choices_of(key):
    """The choices of a setting, as messages list them."""
    return ", ".join(get_args(SETTINGS[key].kind))


@pytest.mark.parametrize("name", DESIGN)
def test_defaults_are_the_design_documents(name):
    values = {key.split(".")[1]: value for key, value in flatten(Config()).items()}
    assert values[name] == DESIGN[name]
    assert type(values[name]) is type(DESIGN[name])


def test_the_design_documents_state_is_1024_wide():
    model = Config().model
    assert model.num_categories * model.num_categoricals == 1024


def test_the_design_documents_architecture_is_the_default():
    model = Config().model
    assert (model.latents, model.activation, model.norm, model.conv_norm) == ("categorical", "elu", True, True)
    assert (model.reward_transform, model.kl_mode) == ("symlog", "balanced")


def test_the_default_preset_is_the_defaults():
    assert load_preset("default") == Config()


# ----------------------------------------------------------------------------------------------------- presets


def test_the_presets_that_ship():
    assert {"debug", "default", "demo", "vector"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_is_described_and_survives_yaml(name):
    config = load_preset(name)
    assert len(preset_description(name)) > 20
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config))), where="x") == config


@pytest.mark.parametrize("name", [n for n in preset_names() if n != "default"])
def test_a_preset_lists_values_and_no_repeated_keys(name):
    values = yaml.safe_load(preset_text(name))
    assert set(values) - {"description", "extends"} <= {f.name for f in dataclasses.fields(Config)}
    keys = re.findall(r"^  (\w+):", preset_text(name), re.M)
    assert len(keys) == len(set(keys))


def test_overrides_come_on_top_of_a_preset():
    config = load_preset("debug", {"gamma": 0.5, "env.num_envs": 7})
    assert (config.behavior.gamma, config.env.num_envs) == (0.5, 7)
    assert config.model == load_preset("debug").model


def test_an_unknown_preset_suggests_the_nearest():
    with pytest.raises(UserError, match=r"no preset 'demp', did you mean 'demo'\?.*debug, default, demo"):
        load_preset("demp")


@pytest.mark.parametrize("name", ["../config", "demo.yaml", "", "/etc/passwd"])
def test_a_path_is_not_a_preset(name):
    with pytest.raises(UserError, match="there is no preset"):
        load_preset(name)


# ------------------------------------------------------------------------------------------------ keys and types


def test_leaf_names_are_unique_and_documented():
    leaves = [key.split(".")[1] for key in SETTINGS]
    assert len(leaves) == len(set(leaves))
    assert all(len(doc) > 8 for _, _, doc, _ in SETTINGS.values())


@pytest.mark.parametrize("key", SETTINGS)
def test_a_short_name_is_the_full_name(key):
    default = SETTINGS[key][1]
    assert build({key.split(".")[1]: default}) == build({key: default}) == Config()


@pytest.mark.parametrize("key", SETTINGS)
def test_defaults_have_the_declared_type(key):
    kind, default, _, _ = SETTINGS[key]
    expected = {bool: bool, int: int, float: float, str: str}.get(kind)
    if expected:
        assert type(default) is expected


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("gama", "behavior.gamma"),
        ("behavior.gama", "behavior.gamma"),
        ("behaviour.gamma", "behavior.gamma"),
        ("trian.batch_size", "train.batch_size"),
        ("lambda", "behavior.lambda_"),
        ("num_env", "env.num_envs"),
        ("qqqq", None),
    ],
)
def test_an_unknown_key_suggests_the_nearest(key, suggestion):
    with pytest.raises(UserError) as caught:
        build({key: 1})
    assert f"'{key}' does not exist" in caught.value.message
    message = re.findall(r"did you mean '(.*?)'", caught.value.message)
    assert message == ([suggestion] if suggestion else [])
    assert "reverie presets --keys" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("gamma", "0.5", 0.5),
        ("gamma", "1", 1.0),
        ("gamma", 1, 1.0),
        ("world_model_lr", "3e-4", 3e-4),
        ("env_steps", "1e6", 1_000_000),
        ("env_steps", "250_000", 250_000),
        ("env_steps", 1e6, 1_000_000),
        ("env_steps", str(2**53 + 1), 2**53 + 1),
        ("norm", "false", False),
        ("norm", "True", True),
        ("norm", "off", False),
        ("norm", "yes", True),
        ("norm", False, False),
        ("latents", "gaussian", "gaussian"),
        ("decoder_kernels", "5,5,6,6", (5, 5, 6, 6)),
        ("decoder_kernels", "[5, 5, 6, 6]", (5, 5, 6, 6)),
        ("decoder_kernels", [5, 5], (5, 5)),
        ("decoder_kernels", (), ()),
        ("decoder_kernels", "", ()),
        ("id", "CartPole-v1", "CartPole-v1"),
    ],
)
def test_text_and_values_are_understood(key, text, value):
    found = {k.split(".")[1]: v for k, v in flatten(build({key: text})).items()}[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("gamma", "much", "'behavior.gamma' must be a number, got 'much'"),
        ("gamma", True, "'behavior.gamma' must be a number, got True"),
        ("gamma", None, "'behavior.gamma' must be a number, got None"),
        ("gamma", [0.9], "'behavior.gamma' must be a number"),
        ("batch_size", "fifty", "'train.batch_size' must be a whole number, got 'fifty'"),
        ("batch_size", "1.5", "'train.batch_size' must be a whole number, got '1.5'"),
        ("batch_size", 1.5, "'train.batch_size' must be a whole number, got 1.5"),
        ("batch_size", True, "'train.batch_size' must be a whole number, got True"),
        ("batch_size", "inf", "'train.batch_size' must be a whole number"),
        ("batch_size", "nan", "'train.batch_size' must be a whole number"),
        ("batch_size", float("nan"), "'train.batch_size' must be a whole number"),
        ("norm", "maybe", "'model.norm' must be true or false, got 'maybe'"),
        ("norm", 1, "'model.norm' must be true or false, got 1"),
        ("id", 3, "'env.id' must be text, got 3"),
        ("latents", "binary", f"'model.latents' must be one of {choices_of('model.latents')}, got 'binary'"),
        ("latents", None, "'model.latents' must be one of"),
        ("decoder_kernels", 5, "'model.decoder_kernels' must be a list like 5,5,6,6, got 5"),
        ("decoder_kernels", "5,x", "'model.decoder_kernels' must be a whole number, got 'x'"),
    ],
)
def test_a_wrong_type_says_what_was_expected_and_found(key, value, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build({key: value})


@pytest.mark.parametrize("value", ["50.0", 50.0])
def test_a_whole_number_written_with_a_point_is_understood(value):
    assert build({"batch_size": value}).train.batch_size == 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 1.5}, "'behavior.gamma' must be between 0 and 1, got 1.5"),
        ({"gamma": float("nan")}, "'behavior.gamma' must be a number, got nan"),
        ({"batch_size": 0}, "'train.batch_size' must be above 0, got 0"),
        ({"num_envs": -1}, "'env.num_envs' must be above 0, got -1"),
        ({"world_model_lr": 0}, "'model.world_model_lr' must be above 0"),
        ({"actor_lr": float("nan")}, "'behavior.actor_lr' must be a number, got nan"),
        ({"actor_lr": float("inf")}, "'behavior.actor_lr' must be finite"),
        ({"prefill": -1}, "'train.prefill' must not be negative, got -1"),
        ({"free_nats": -0.5}, "'model.free_nats' must not be negative"),
        ({"seed": -1}, "'train.seed' must not be negative"),
        (
            {"imagination_horizon": 1, "advantage": "released"},
            "'behavior.imagination_horizon' 1 leaves nothing to learn from with 'behavior.advantage' released",
        ),
        ({"seed": 2**32}, "'train.seed' must be at most 4,294,967,295, got 4294967296"),
        ({"seed": 2**63 - 1}, "'train.seed' must be at most 4,294,967,295"),
        ({"seed": 2**64}, "'train.seed' must be at most 4,294,967,295"),
        ({"threads": 2**63}, "'compute.threads' must be at most 1,024, got 9223372036854775808"),
        ({"env_steps": 2**63}, "'train.env_steps' must be at most 4,611,686,018,427,387,904"),
        ({"overshooting_starts": 2**64}, "'model.overshooting_starts' must be at most"),
        ({"health_every": 10**400}, "'log.health_every' must be at most"),
        ({"seq_len": 1}, "'train.seq_len' must be at least 2, got 1"),
        ({"image_size": 3}, "'env.image_size' must be 0 or at least 4 pixels, got 3"),
        ({"replay_capacity": 99}, "'replay.replay_capacity' 99 leaves 99 steps per environment"),
        ({"replay_capacity": 1000, "num_envs": 11}, "leaves 90 steps per environment, at least 2 x seq_len = 100"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        build(changes)


def test_all_faults_are_reported_together():
    with pytest.raises(UserError) as caught:
        build({"gama": 0.9, "batch_size": "x", "latents": "y", "lambda_": 3, "hidden_dim": 0})
    for fault in ("'gama'", "'train.batch_size'", "'model.latents'", "'behavior.lambda_'", "'model.hidden_dim'"):
        assert caught.value.message.count(fault) == 1


# -------------------------------------------------------------------------------------------- dictionaries and files


def test_from_dict_is_strict():
    with pytest.raises(UserError, match=r"run\.yaml: 'model.hiden_dim' does not exist.*'model.hidden_dim'"):
        from_dict({"model": {"hiden_dim": 3}}, where="run.yaml")
    with pytest.raises(UserError, match=r"'modle.hidden_dim' does not exist, did you mean 'model.hidden_dim'"):
        from_dict({"modle": {"hidden_dim": 3}}, where="run.yaml")
    with pytest.raises(UserError, match=r"run\.yaml: 'model' must hold settings, found 3"):
        from_dict({"model": 3}, where="run.yaml")


def test_from_dict_starts_from_its_base():
    base = build({"hidden_dim": 7})
    assert from_dict({"model": {"layers": 2}}, base=base, where="x") == build({"layers": 2}, base=base)


@settings(max_examples=50, deadline=None)
@given(
    lr=st.floats(1e-12, 1e3),
    steps=st.integers(1, 2**60),
    kernels=st.lists(st.integers(1, 9), max_size=4),
    flag=st.booleans(),
    env_id=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20),
)
def test_any_configuration_survives_yaml(lr, steps, kernels, flag, env_id):
    config = build({"actor_lr": lr, "env_steps": steps, "decoder_kernels": kernels, "norm": flag, "id": env_id})
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config), sort_keys=False)), where="x") == config


@pytest.mark.parametrize("content", [b"a: [", b"just text", b"- 1\n- 2", b"", b"\xff\xfe\x00", b"model: {layers: []}"])
def test_a_damaged_configuration_file_is_reported(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"config\.yaml"):
        load_file(path)


def test_a_missing_configuration_file_is_reported(tmp_path):
    with pytest.raises(UserError, match="Is this the directory of a run"):
        load_file(tmp_path / "config.yaml")


# ------------------------------------------------------------------------------------------------------- frozen


def test_configurations_are_frozen_and_hashable_by_group():
    config = Config()
    with pytest.raises(FrozenInstanceError):
        config.model = None
    for group in dataclasses.fields(Config):
        part = getattr(config, group.name)
        with pytest.raises(FrozenInstanceError):
            setattr(part, dataclasses.fields(part)[0].name, 0)


def test_build_leaves_its_base_alone():
    base = Config()
    build({"gamma": 0.1, "layers": 9}, base=base)
    assert base == Config()


def test_flatten_and_to_dict_have_every_setting():
    assert set(flatten(Config())) == set(SETTINGS)
    nested = to_dict(Config())
    assert {f"{g}.{n}" for g, items in nested.items() for n in items} == set(SETTINGS)
    assert nested["model"]["decoder_kernels"] == []
