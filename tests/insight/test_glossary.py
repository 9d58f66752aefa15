"""Every logged number has an entry, every entry is logged, and the functions that it names exist."""

import ast
import json
from pathlib import Path

import gymnasium as gym
import pytest
from gymnasium import spaces
from toys import CountingEnv, DictEnv, SpaceEnv

import reverie
from reverie import cli
from reverie.config import build
from reverie.config.presets import load_preset
from reverie.insight.glossary import ENTRIES, explain, find, near
from reverie.run.loop import Run
from reverie.share.record import record

SOURCE = Path(reverie.__file__).parent
SMALL = {"model.hidden_dim": 16, "rnn_hidden_dim": 16, "layers": 1, "batch_size": 2, "seq_len": 8, "pretrain": 1}
QUICK = {
    "env_steps": 80, "prefill": 30, "log_every": 1e-9, "health_every": 1, "eval_every": 40, "eval_episodes": 1,
    "log.tensorboard": False, "log.video": False, "forecast": False, "random_baseline": True,
}  # fmt: skip


def hybrid():
    actions = spaces.Dict(choice=spaces.Discrete(3), number=spaces.Box(-1, 1, (2,)))
    return gym.wrappers.TimeLimit(SpaceEnv(spaces.Box(-1, 1, (3,)), actions), 20)


RUNS = {
    "vectors": (CountingEnv, "debug", {}),
    "images": (DictEnv, "debug", {}),
    "hybrid": (hybrid, "debug", {}),
    "gaussian": (CountingEnv, "debug", {"latents": "gaussian", "on_nonfinite": "skip", "predict_continue": False}),
    "v3": (CountingEnv, "dreamerv3+small", SMALL),
    "explore": (CountingEnv, "debug", {"members": 3, "behavior.explore": "ensemble", "uncertainty_penalty": 0.1}),
    "imitating": (CountingEnv, "debug", {"cloning": True, "bc_scale": 0.5}),
    "collected": (CountingEnv, "debug", {"env.collectors": "local", "env_steps": 120}),
    "shown": (CountingEnv, "debug", {"demo_until": 100}),
    "hierarchy": (CountingEnv, "debug", {"goal_every": 3, "goal_dim": 16, "goal_layers": 1}),
    "deterministic": (CountingEnv, "debug", {"deterministic": True, "log_steps": 10}),
    "far": (CountingEnv, "debug", {"model.overshooting": 0.1, "model.open_loop_heads": 0.1, "overshooting_depth": 4}),
}


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    keys = set()
    demos = tmp_path_factory.mktemp("data") / "demos"
    record(build({"env.id": "custom:toy"}), CountingEnv, demos, episodes=8)
    for name, (env, preset, options) in RUNS.items():
        options = options | ({"demos": str(demos)} if name == "shown" else {})
        directory = tmp_path_factory.mktemp("logged") / name
        Run(load_preset(preset, {**QUICK, **options, "env.id": "custom:toy"}), directory, env).train()
        for file in ("metrics.jsonl", "episodes.jsonl"):
            for line in (directory / file).read_text().splitlines():
                keys |= json.loads(line).keys()
    return keys


def test_every_logged_number_is_explained(logged):
    assert [key for key in sorted(logged) if find(key) is None] == []


def test_every_explained_number_is_logged(logged):
    found = {find(key).key for key in logged}
    assert [entry.key for entry in ENTRIES if entry.key not in found] == []


@pytest.mark.parametrize("entry", ENTRIES, ids=[entry.key for entry in ENTRIES])
def test_entries_say_all_and_point_at_code(entry):
    file, name = entry.where.split(":")
    tree = ast.parse((SOURCE / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert all(entry)
    for text in (entry.meaning, entry.healthy, entry.advice):
        assert text[-1] == ".", text


def test_advice_names_settings_that_exist():
    from reverie.config import SETTINGS

    groups = {key.split(".")[0] for key in SETTINGS}
    words = {
        word.strip(".,;:()").split("=")[0] for entry in ENTRIES for word in (entry.advice + " " + entry.healthy).split()
    }
    named = {word for word in words if "." in word and word.split(".")[0] in groups}
    assert len(named) > 15
    assert sorted(named - SETTINGS.keys()) == []


def test_keys_are_found_and_mistakes_answered(capsys):
    assert explain("world_model/obs/camera_loss").key == "world_model/obs/<key>_loss"
    assert find("nothing") is None
    assert "world_model/kl" in near("kl")
    assert cli.main(["explain", "world_model/kl"]) == 0
    assert "KL(posterior || prior)" in capsys.readouterr().out
    assert cli.main(["explain", "actor/entropi"]) == 2
    assert "actor/entropy" in capsys.readouterr().err
    assert cli.main(["explain", "kl_balance"]) == 0
    assert (
        "model.kl_balance\n           share of the KL gradient that trains the prior\n  default  0.8"
        in capsys.readouterr().out
    )
    assert cli.main(["explain", "model.kl_balance", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["default"] == 0.8
    assert cli.main(["explain", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(ENTRIES)
    assert cli.main(["explain", "actor/entropy_part1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unit"] == "nats"
