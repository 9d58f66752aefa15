"""Traps that a reviewer sprang: each test is one of them."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from toys import CountingEnv, SpaceEnv

import reverie
from reverie import checkpoint
from reverie.config.presets import load_preset
from reverie.data.replay import Replay
from reverie.envs import make_vector
from reverie.errors import UserError
from reverie.run.evaluation import evaluate
from reverie.run.loop import Run

FAST = {"tensorboard": False, "video": False, "num_envs": 1, "checkpoint_every": 1000}


def counting():
    return CountingEnv(lengths=(10,))


def make_run(path, env=counting, **settings):
    return Run(load_preset("debug", {"env.id": "custom:toy"} | FAST | settings), path, env)


def test_a_player_prepares_images_as_training_did():
    """Resizing is part of what the agent knows, so the environment's own 20x20 picture is what a player takes."""
    space = gym.spaces.Box(0, 255, (20, 20, 3), np.uint8)
    view = make_vector(lambda: SpaceEnv(space), 1, image_size=16, grayscale=True)
    spec = view.get_attr("agent_spec")[0]
    agent = reverie.DreamerV2(load_preset("debug"), spec)
    raw = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert agent.player()(raw) in range(spec.action.size)
    assert spec.encode(raw)["observation"].shape == (16, 16, 1)


def test_a_nan_stops_training_and_the_checkpoint_stays_good(tmp_path):
    run = make_run(tmp_path / "run", env_steps=400)
    run.train()
    good = checkpoint.checkpoints(tmp_path / "run")
    again = make_run(tmp_path / "run", env_steps=900)
    with torch.no_grad():
        next(again.agent.critic.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="non-finite before update"):
        again.train()
    assert checkpoint.checkpoints(tmp_path / "run") == good


def test_another_task_under_the_same_name_is_refused(tmp_path):
    make_run(tmp_path / "run").train()
    other = gym.spaces.Box(-1, 1, (5,), np.float32)
    with pytest.raises(UserError, match="was trained on another task"):
        make_run(tmp_path / "run", lambda: SpaceEnv(other), env_steps=400)


def test_the_replay_log_of_a_run_without_checkpoint_is_not_mixed_in(tmp_path):
    first = make_run(tmp_path / "run")
    for row, _ in first.state.collector.rows(first._act):
        first.replay.add(row)
        if len(first.replay) == 30:
            break
    first.state.replay_log.save()  # killed here, before the first checkpoint
    first.close()
    second = make_run(tmp_path / "run", env_steps=60)
    assert not list((tmp_path / "run" / "replay").glob("steps-*"))
    second.train()
    third = make_run(tmp_path / "run", env_steps=60)
    for key, values in second.replay.contents().items():
        np.testing.assert_array_equal(values, third.replay.contents()[key])
    third.close()


def test_weights_keep_the_scale_that_they_were_trained_with(tmp_path):
    settings = {"vector_transform": "standardize"}
    agent = reverie.Dreamer(counting, preset="debug", run=tmp_path / "a", settings=FAST | settings)
    agent.learn(80, quiet=True)
    agent.save(tmp_path / "saved")
    before = agent.agent.world_model.standardizers.state_dict()
    more = reverie.load(tmp_path / "saved", lambda: CountingEnv(lengths=(40,)), run=tmp_path / "b")
    more.learn(80, quiet=True)
    after = more.agent.world_model.standardizers.state_dict()
    assert before.keys() == after.keys()
    assert before
    for key, value in before.items():
        assert torch.equal(value, after[key])


def test_a_new_limit_replaces_the_old_one(tmp_path):
    agent = reverie.Dreamer(counting, preset="debug", run=tmp_path / "run", settings=FAST)
    agent.learn(10_000_000, minutes=0.01, quiet=True)
    reached = agent.agent.updates
    agent.learn(int(reached * 10 + 200), quiet=True)  # ten steps per update
    assert agent.agent.updates > reached


def test_evaluation_uses_the_runs_own_mode(tmp_path):
    agent = reverie.Dreamer(counting, preset="debug", run=tmp_path / "run", settings=FAST | {"eval_mode": "train"})
    agent.learn(60, quiet=True)
    assert agent.player().mode == "train"
    assert agent.player(mode="eval").mode == "eval"
    agent.save(tmp_path / "saved")
    assert reverie.load_player(tmp_path / "saved").mode == "train"


def test_an_endless_episode_does_not_hang_an_evaluation(monkeypatch):
    monkeypatch.setattr("reverie.run.evaluation.MAX_LENGTH", 25)
    envs = make_vector(lambda: CountingEnv(lengths=(10_000,)), 1)
    result = evaluate(envs, lambda obs, first: np.eye(envs.single_action_space.shape[0])[[0]], 3, seed=0)
    assert result.lengths == [25]


def test_a_stop_ends_an_evaluation():
    envs = make_vector(lambda: CountingEnv(lengths=(10_000,)), 1)
    result = evaluate(envs, lambda obs, first: np.eye(2)[[0]], 3, seed=0, stopped=lambda: True)
    assert result.scores == []


def test_no_video_is_explained():
    envs = make_vector(counting, 1)
    result = evaluate(envs, lambda obs, first: np.eye(2)[[0]], 1, seed=0, video=True)
    assert (not result.frames) == bool(result.note)


def test_a_checkpoint_between_its_two_renames_is_found_again(tmp_path):
    make_run(tmp_path / "run").train()
    newest = checkpoint.checkpoints(tmp_path / "run")[-1]
    newest.rename(newest.with_name(f".{newest.name}.old"))
    assert checkpoint.checkpoints(tmp_path / "run")[-1] == newest


@pytest.mark.parametrize("prioritize", ["ends", "rewards"])
def test_marks_are_kept_exactly_while_the_ring_turns(prioritize):
    """The O(1) set of marked slots equals a search through the whole ring, after any number of turns and a reload."""
    rng = np.random.default_rng(0)
    replay = Replay({"o": ((1,), np.dtype(np.float32))}, 2, capacity=60, streams=3, prioritize=prioritize)
    for _ in range(150):
        last = rng.random(3) < 0.2
        rows = {"obs/o": np.zeros((3, 1)), "action": np.zeros((3, 2)), "reward": rng.integers(0, 2, 3) * 1.0}
        replay.add(rows | {"is_first": ~last, "is_last": last, "is_terminal": last})
        marks = replay.data["is_last"] if prioritize == "ends" else replay.data["reward"] != 0
        found = set(replay._marked.members[: len(replay._marked)].tolist())
        assert found == set(np.flatnonzero(marks).tolist())


def test_provenance_tells_of_every_continuation(tmp_path):
    import json

    make_run(tmp_path / "run").train()
    make_run(tmp_path / "run", env_steps=300).train()
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert len(facts["continued"]) == 1


def test_an_evaluation_after_the_checkpoint_is_undone_with_the_rest(tmp_path):
    """Its lines are dropped on resume, so it must not count as the last evaluation either."""
    run = make_run(tmp_path / "run", env_steps=100)
    run.train()
    at = run.clock.env_steps
    with open(tmp_path / "run" / "episodes.jsonl", "a") as file:
        file.write(f'{{"phase": "eval", "env_steps": {at + 50}, "return": 99.0, "length": 1}}\n')
    again = make_run(tmp_path / "run", env_steps=200)
    assert again.state.evaluated_at == at
    assert again.evaluation.mean == pytest.approx(run.evaluation.mean)
    again.close()
