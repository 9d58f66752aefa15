"""Presets: values with a source each, the published numbers in them, stacks, and nothing but values."""

import ast
import re
from pathlib import Path

import pytest
import yaml

import reverie
from reverie import UserError
from reverie.config import SETTINGS, Config, flatten, presets
from reverie.config.presets import (
    load_preset,
    origins,
    preset_description,
    preset_differences,
    preset_names,
    preset_notes,
    preset_rows,
    preset_text,
    value_comments,
)

NAMES = preset_names()
SOURCES = re.compile(r"released|paper|design|ours|prototype|\bV[13]\b|2021 code|the benchmark|published")

#: implementation-details.md#hyperparameters, typed from the table: {setting: (atari, dmc-vision, dmc-proprio,
#: crafter)}.
PUBLISHED = {
    "replay.replay_capacity": (2_000_000, 2_000_000, 2_000_000, 2_000_000),
    "train.batch_size": (16, 16, 16, 16),
    "train.seq_len": (50, 50, 50, 50),
    "train.train_ratio": (1 / 16, 1 / 5, 1 / 5, 1 / 5),
    "train.prefill": (50_000, 1000, 1000, 10_000),
    "train.pretrain": (1, 100, 100, 1),
    "train.eval_every": (250_000, 10_000, 10_000, 100_000),
    "train.eval_episodes": (1, 1, 1, 1),
    "env.action_repeat": (4, 2, 2, 1),
    "env.time_limit": (27_000, 0, 0, 0),
    "env.image_size": (64, 64, 64, 64),
    "env.grayscale": (True, False, False, False),
    "env.pixels": (False, True, False, False),
    "replay.prioritize": ("ends", "none", "none", "ends"),
    "model.reward_transform": ("tanh", "none", "none", "tanh"),
    "model.latents": ("categorical",) * 4,
    "model.num_categories": (32, 32, 32, 32),
    "model.num_categoricals": (32, 32, 32, 32),
    "model.rnn_hidden_dim": (600, 200, 200, 1024),
    "model.rssm_hidden_dim": (600, 200, 200, 1024),
    "model.cnn_depth": (48, 48, 48, 48),
    "model.embed_dim": (0, 0, 0, 0),
    "model.hidden_dim": (400, 400, 400, 400),
    "model.layers": (4, 4, 4, 4),
    "behavior.actor_critic_layers": (4, 4, 4, 4),
    "model.activation": ("elu",) * 4,
    "model.conv_activation": ("same",) * 4,
    "model.norm": (False, False, False, True),
    "model.conv_norm": (False, False, False, True),
    "model.gru_norm": (True, True, True, True),
    "model.predict_continue": (True, False, False, True),
    "model.continue_scale": (5.0, 1.0, 1.0, 1.0),
    "model.continue_target": ("discounted",) * 4,
    "model.kl_mode": ("balanced",) * 4,
    "model.kl_balance": (0.8, 0.8, 0.8, 0.8),
    "model.kl_scale": (0.1, 1.0, 1.0, 1.0),
    "model.free_nats": (0.0, 1.0, 1.0, 0.0),
    "model.free_avg": (True, True, True, True),
    "model.world_model_lr": (2e-4, 3e-4, 3e-4, 1e-4),
    "behavior.actor_lr": (4e-5, 8e-5, 8e-5, 1e-4),
    "behavior.critic_lr": (1e-4, 8e-5, 8e-5, 1e-4),
    "train.adam_eps": (1e-5, 1e-5, 1e-5, 1e-5),
    "train.adam_eps_mode": ("keras",) * 4,
    "train.grad_clip": (100.0, 100.0, 100.0, 100.0),
    "train.weight_decay": (1e-6, 1e-6, 1e-6, 1e-6),
    "train.weight_decay_mode": ("per_update",) * 4,
    "behavior.gamma": (0.999, 0.99, 0.99, 0.999),
    "behavior.lambda_": (0.95, 0.95, 0.95, 0.95),
    "behavior.imagination_horizon": (15, 15, 15, 15),
    "behavior.imagination_starts": (0, 0, 0, 0),
    "behavior.actor_grad": ("reinforce", "dynamics", "dynamics", "reinforce"),
    "behavior.entropy_scale": (1e-3, 1e-4, 1e-4, 3e-3),
    "behavior.slow_critic": (True, True, True, True),
    "behavior.slow_critic_every": (100, 100, 100, 100),
    "behavior.advantage": ("paper",) * 4,  # not as released: implementation-details.md#actor-loss
    "behavior.baseline": ("online",) * 4,
}

#: The ingredients of DreamerV3 and what they are in every other preset (implementation-details.md#b26).
#: reward_transform=symlog is the design document's, not among them.
V3_OFF = {
    "model.unimix": [0.0],
    "behavior.policy_unimix": [0.0],
    "model.reward_distribution": ["normal"],
    "behavior.critic_distribution": ["normal"],
    "behavior.critic_transform": ["none"],
    "model.zero_init": [False],
    "model.kl_mode": ["balanced", "bidirectional", "plain"],
    "model.norm_kind": ["layer"],
    "model.activation": ["elu"],
    "model.vector_transform": ["none", "standardize"],
    "behavior.return_norm": ["none"],
    "behavior.reward_index": ["current"],
    "behavior.critic_regularizer": [0.0],
    "behavior.slow_critic_fraction": [1.0],
    "train.optimizer": ["adam"],
    "train.agc": [0.0],
    "train.lr_warmup": [0],
}
#: What a preset borrows from DreamerV3 all the same, each measured to help there.
BORROWED = {name: {"model.zero_init"} for name in ("demo", "vector", "minigrid", "atari100k", "minatar", "dmc-small")}
#: What `auto` takes over, each measured (docs/learning.md).
BORROWED["auto"] = {
    "model.zero_init", "model.kl_mode", "model.reward_distribution", "behavior.critic_distribution",
    "behavior.critic_transform", "behavior.return_norm", "behavior.slow_critic_fraction", "model.vector_transform",
}  # fmt: skip

#: Every value in which `demo` differs from the design document, as it was before it was split into small and demo.
DEMO = {
    "env.id": "MiniGrid-Empty-Random-6x6-v0",
    "env.num_envs": 8,
    "env.actions": "minimal",
    "env.image_size": 28,
    "replay.replay_capacity": 200_000,
    "replay.prioritize": "rewards",
    "model.num_categories": 16,
    "model.num_categoricals": 16,
    "model.rnn_hidden_dim": 128,
    "model.hidden_dim": 128,
    "model.embed_dim": 0,
    "model.layers": 2,
    "model.cnn_depth": 8,
    "model.conv_norm": False,
    "model.zero_init": True,
    "model.reward_transform": "none",
    "model.kl_scale": 0.5,
    "model.free_nats": 0.0,
    "model.world_model_lr": 1e-3,
    "behavior.imagination_horizon": 10,
    "behavior.imagination_starts": 96,
    "behavior.gamma": 0.98,
    "behavior.actor_lr": 4e-4,
    "behavior.critic_lr": 7e-4,
    "behavior.entropy_scale": 1e-2,
    "behavior.entropy_decay": 5000,
    "behavior.slow_critic_every": 50,
    "behavior.actor_critic_layers": 2,
    "train.env_steps": 30_000,
    "train.pretrain": 50,
    "train.train_ratio": 0.25,
    "train.batch_size": 16,
    "train.seq_len": 12,
    "train.eval_every": 2000,
    "train.eval_episodes": 20,
    "train.eval_mode": "train",
    "hierarchy.goal_layers": 2,  # sizes of what it does not have: for director+demo
    "hierarchy.goal_dim": 128,
    "hierarchy.goal_lr": 1e-3,
}


def values_of(stack):
    return flatten(load_preset(stack))


# ------------------------------------------------------------------------------------------------------- the sources


def test_the_presets_of_the_plan_exist():
    assert set(NAMES) == {
        "default", "atari", "atari-paper", "atari100k", "dmc-vision", "dmc-proprio", "crafter", "minigrid",
        "demo", "small", "vector", "debug", "seed", "dreamerv1", "dreamerv2", "dreamerv3", "minatar", "dmc-small",
        "auto", "explore", "director",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_value_has_a_source(name):
    nested = yaml.safe_load(preset_text(name))
    keys = {f"{group}.{leaf}" for group, items in nested.items() if isinstance(items, dict) for leaf in items}
    comments = value_comments(preset_text(name))
    assert set(comments) == keys <= set(SETTINGS)
    assert {key for key, comment in comments.items() if not SOURCES.search(comment)} == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_file_is_description_extends_and_values(name):
    nested = yaml.safe_load(preset_text(name))
    text = [key for key, value in nested.items() if not isinstance(value, dict)]
    assert text == ["description", "extends"][: len(text)]
    assert max(map(len, preset_text(name).splitlines())) <= 125


@pytest.mark.parametrize("name", NAMES)
def test_values_are_written_in_their_own_type(name):
    """`lr: 1e-3` is text for YAML; `starts: 96.0` a number with a point."""
    for key, origin in origins(name).items():
        kind = {tuple: list}.get(type(SETTINGS[key].default), type(SETTINGS[key].default))
        assert type(origin.value) is kind, key


def test_the_parser_of_sources():
    text = 'description: x\n# a note\nmodel:\n  layers: 2  # paper: 2\n  # more\n  norm: true\n  act: "a # b"  # ours\n'
    assert value_comments(text) == {"model.layers": "paper: 2", "model.norm": "", "model.act": "ours"}


# ------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("key", PUBLISHED)
def test_the_released_presets_have_the_released_numbers(key):
    """implementation-details.md#hyperparameters, #a19, #b15."""
    found = tuple(values_of(name)[key] for name in ("atari", "dmc-vision", "dmc-proprio", "crafter"))
    assert found == PUBLISHED[key]


def test_the_papers_atari_differs_in_what_facts_1_17_says():
    differences = {a.key: (a.value, b.value) for a, b in preset_differences("atari", "atari-paper")}
    assert differences == {
        "env.actions": ("minimal", "full"),
        "behavior.start_states": ("all", "drop_last"),
        "train.batch_size": (16, 50),
        "train.eval_every": (250_000, 25_000),
    }


def test_atari100k_changes_the_budget_and_what_it_borrows():
    changed = {a.key for a, _ in preset_differences("atari", "atari100k")}
    budget = {key for key in changed if key.startswith("train.")} | {"replay.replay_capacity", "env.options"}
    assert load_preset("atari100k").env.options == ("sticky=0",)
    assert changed - budget == BORROWED["atari100k"]
    train = load_preset("atari100k").train
    assert train.env_steps == 100_000
    assert 1000 <= train.prefill <= 5000
    assert 0.5 <= train.train_ratio <= 1


def test_demo_is_what_it_was():
    assert values_of("demo") == flatten(Config()) | DEMO


def test_default_lists_nothing():
    assert origins("default") == {}
    assert load_preset("default") == Config()


@pytest.mark.parametrize("name", [n for n in NAMES if n != "dreamerv3"])
def test_the_ingredients_of_dreamerv3_are_off_elsewhere(name):
    """implementation-details.md#b26."""
    values = values_of(name)
    on = {key for key, off in V3_OFF.items() if values[key] not in off}
    assert on == BORROWED.get(name, set())


def test_the_ingredients_of_dreamerv3_are_on_in_it():
    values = values_of("dreamerv3")
    assert [key for key, off in V3_OFF.items() if values[key] in off] == []
    assert all(Config() == load_preset("default", {key: off[0]}) for key, off in V3_OFF.items())  # off is the default


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_that_names_an_algorithm_names_all_its_ingredients(name):
    """So that "atari+dreamerv3" is DreamerV3, and "dreamerv3+atari" has no leftovers of it."""
    if {"dreamerv1", "dreamerv2", "dreamerv3"} & {name, yaml.safe_load(preset_text(name)).get("extends")}:
        assert set(V3_OFF) <= set(origins(name))


def test_small_is_sizes_and_budgets_only():
    assert set(V3_OFF) & set(origins("small")) == {"train.lr_warmup"}
    for algorithm in ("dreamerv1", "dreamerv2", "dreamerv3"):
        assert {a.key for a, _ in preset_differences(algorithm, f"{algorithm}+small")} <= set(origins("small"))


# ------------------------------------------------------------------------------------------------------ nothing else


def test_no_code_asks_for_a_version_or_a_preset():
    """A preset is values: nothing in the package may depend on which one it was."""
    plain = {"atari"}  # a family of environments is called so, too
    names = {name for name in NAMES if name.startswith(("dreamer", "atari", "dmc"))} - plain
    for path in Path(reverie.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(version|generation|preset)\s*(==|!=|in\b)\s*[\"'(\[{0-9]", text), path
        tree = ast.parse(text)
        strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not strings & names, path


# ------------------------------------------------------------------------------------------------ extends and stacks


def test_later_presets_win():
    assert load_preset("dreamerv3+small").model.hidden_dim == 128
    assert load_preset("small+dreamerv3").model.hidden_dim == 512
    assert load_preset("dreamerv3+small").model.unimix == 0.01
    assert load_preset("dreamerv3+small", {"hidden_dim": 7}).model.hidden_dim == 7
    assert load_preset("demo+demo") == load_preset("demo")


def test_what_a_preset_extends_lies_below_it():
    assert load_preset("atari").model.rnn_hidden_dim == 600
    assert load_preset("atari").model.cnn_depth == load_preset("dreamerv2").model.cnn_depth == 48
    found = origins("atari100k")
    assert [found[f"{key}"].preset for key in ("train.prefill", "env.grayscale", "model.cnn_depth")] == [
        "atari100k", "atari", "dreamerv2",
    ]  # fmt: skip
    assert found["train.prefill"].source.startswith("ours")


@pytest.mark.parametrize(
    ("stack", "message"),
    [
        ("dreamerv3+smal", "no preset 'smal', did you mean 'small'?"),
        ("demp+small", "no preset 'demp', did you mean 'demo'?"),
        ("demo+", "no preset ''"),
        ("+", "no preset ''"),
        ("demo + small", "no preset 'demo '"),
    ],
)
def test_an_unknown_part_of_a_stack_is_named(stack, message):
    for function in (load_preset, preset_rows, origins):
        with pytest.raises(UserError, match=re.escape(message)):
            function(stack)


@pytest.fixture
def made_up(monkeypatch):
    """made_up(name=yaml, ...): these presets instead of the shipped ones."""

    def put(**texts):
        monkeypatch.setattr(presets, "preset_text", texts.__getitem__)

    return put


def test_a_fault_in_a_stack_names_it_and_a_whole_stack_may_be_valid(made_up):
    made_up(
        a="train:\n  seq_len: 500  # ours\nreplay:\n  replay_capacity: 900  # ours\n",
        b="train:\n  seq_len: 5  # ours\n",
        c="model:\n  hiden_dim: 5  # ours\n",
    )
    assert load_preset("a+b").train.seq_len == 5
    with pytest.raises(UserError, match="900 leaves"):
        load_preset("a")
    with pytest.raises(UserError, match=r"preset 'b\+c': 'model.hiden_dim' does not exist, did you mean"):
        load_preset("b+c")


def test_extending_in_a_circle_is_a_fault_of_ours(made_up):
    made_up(a="extends: b\n", b="extends: a\n")
    with pytest.raises(RuntimeError, match="extends itself"):
        load_preset("a")


def test_a_stack_is_described_and_annotated_in_parts():
    assert preset_description("dreamerv1+small").splitlines() == [
        preset_description("dreamerv1"),
        preset_description("small"),
    ]
    assert any(note.startswith("dreamerv2: ") for note in preset_notes("atari"))


def test_the_library_takes_stacks():
    agent = reverie.Dreamer("CartPole-v1", preset="vector+debug", gamma=0.5)
    assert (agent.config.model.hidden_dim, agent.config.behavior.actor_lr, agent.config.behavior.gamma) == (
        16,
        2e-4,
        0.5,
    )
    assert agent.run.name == "CartPole-v1-vector+debug-s0"


# ------------------------------------------------------------------------------------------------------- files of users


def own_file(folder, text, name="mine.yaml"):
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_file_of_the_users_is_a_preset(tmp_path):
    mine = own_file(
        tmp_path,
        "description: Mine.\n# found by hand\nextends: dreamerv3+small\nbehavior:\n  gamma: 0.9  # tuned: trial 3\n",
        "a+b.yaml",
    )
    assert load_preset(mine) == load_preset("dreamerv3+small", {"gamma": 0.9})
    assert preset_description(mine) == "Mine."
    assert "found by hand" in preset_notes(mine)
    (row,) = [row for row in preset_rows(mine) if row.key == "behavior.gamma"]
    assert (row.value, row.source, row.preset) == (0.9, "tuned: trial 3", mine)
    plain = own_file(tmp_path, "extends: auto\ntrain: {env_steps: 7}\n")
    assert presets.chooses(plain)
    assert not presets.chooses(mine)
    assert load_preset(f"vector+{plain}").train.env_steps == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "mine.yaml holds no settings"),
        ("", "mine.yaml holds no settings"),
        ("train: [", "mine.yaml is not YAML"),
        ("train: &a {seed: 1}\nenv: *a", "aliases are not allowed"),
        ("train: 3", "mine.yaml: 'train' must be a group with indented settings below it, found 3"),
        ("extends: [a]", "mine.yaml: 'extends' must be text"),
        ("extends: nothing", "there is no preset 'nothing'"),
        ("trian: {seed: 1}", "'trian.seed' does not exist, did you mean 'train.seed'"),
        ("train: {seed: x}", "'train.seed' must be"),
    ],
)
def test_a_file_that_is_no_preset_is_refused_in_a_sentence(text, message, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)):
        load_preset(own_file(tmp_path, text))


def test_a_file_that_is_not_there_or_extends_itself(tmp_path):
    with pytest.raises(UserError, match=r"absent\.yaml"):
        load_preset(str(tmp_path / "absent.yaml"))
    mine = own_file(tmp_path, f"extends: {tmp_path}/mine.yaml\n")
    with pytest.raises(UserError, match="extends itself"):
        load_preset(mine)
