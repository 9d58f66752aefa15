"""What is on disk comes back: agents, runs, and plain words when it does not."""

import json
import shutil
import threading

import numpy as np
import pytest
import torch
from toys import CountingEnv, DictEnv, long_counting

import reverie
from reverie import Dreamer, UserError, checkpoint
from reverie.config.presets import load_preset
from reverie.envs.spaces import make_spec
from reverie.files import check_manifest, manifest_of
from reverie.run.progress import Progress
from reverie.train import DreamerV2


def quick(env=long_counting, **options):
    return Dreamer(env, preset="debug", tensorboard=False, video=False, **options)


@pytest.fixture(scope="module")
def dreamer(tmp_path_factory):
    agent = quick(DictEnv, run=tmp_path_factory.mktemp("runs") / "toy", seed=3)
    return agent.learn(160, quiet=True)


@pytest.fixture(scope="module")
def saved(dreamer, tmp_path_factory):
    return dreamer.save(tmp_path_factory.mktemp("saved") / "agent")


@pytest.fixture
def run(make_run, tmp_path):
    """A run that has ended, and its directory."""
    run = make_run(tmp_path / "run")
    run.train()
    return run


def train_waiting(run):
    """Train, waiting for each checkpoint: else it hangs on the disk's speed how far apart they are."""
    save = run.save
    run.save = lambda *, wait=True: save()
    return run.train()


def newest(run):
    return checkpoint.checkpoints(run.directory)[-1]


def same_weights(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


# ----------------------------------------------------------------------------------------------------- the four verbs


def test_learn_save_load_player_evaluate(dreamer, saved):
    loaded = reverie.load(saved, env=DictEnv)
    assert loaded.config == dreamer.config
    assert same_weights(loaded.agent, dreamer.agent)
    env = DictEnv()
    obs, _ = env.reset(seed=0)
    assert env.action_space.contains(loaded.player()(obs))
    result = loaded.evaluate(episodes=5)
    assert result.scores == [6.0] * 5
    assert result.lengths == [6] * 5
    assert result.to_dict() == dreamer.evaluate(episodes=5).to_dict()


def test_what_save_writes(saved, files_of):
    assert set(files_of(saved)) == {"config.yaml", "spec.json", "weights.safetensors", "manifest.json"}


def test_saving_again_replaces_the_agent(dreamer, tmp_path, files_of):
    path = dreamer.save(tmp_path / "deep" / "agent")
    before = files_of(path)
    dreamer.save(path)
    assert files_of(path) == before
    assert [p.name for p in path.parent.iterdir()] == ["agent"]


def test_save_never_deletes_what_is_not_a_saved_agent(dreamer, tmp_path, files_of):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(UserError):
        dreamer.save(tmp_path / "thesis")
    assert files_of(tmp_path) == {"thesis/chapter1.tex": b"years of work"}


def test_save_never_deletes_a_run(make_run, tmp_path, files_of):
    agent = quick(run=tmp_path / "run").learn(60, quiet=True)
    before = files_of(tmp_path / "run")
    with pytest.raises(UserError):
        agent.save(tmp_path / "run")
    assert files_of(tmp_path / "run") == before


def test_saving_where_one_cannot_write_is_told(dreamer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        dreamer.save(tmp_path / "file" / "agent")


def test_an_untrained_agent_says_so(tmp_path):
    agent = quick(run=tmp_path / "run")
    for verb in (agent.player, agent.evaluate, lambda: agent.save(tmp_path / "x")):
        with pytest.raises(UserError, match="has not been trained yet"):
            verb()
    assert not (tmp_path / "x").exists()


def test_loading_a_run_takes_its_newest_checkpoint(dreamer):
    loaded = reverie.load(dreamer.run, env=DictEnv)
    assert same_weights(loaded.agent, dreamer.agent)
    assert loaded.run == dreamer.run


def test_learning_on_continues_a_loaded_run(tmp_path):
    first = quick(run=tmp_path / "run").learn(100, quiet=True)
    again = reverie.load(tmp_path / "run", env=long_counting).learn(160, quiet=True)
    assert again.agent.updates > first.agent.updates
    episodes = [json.loads(line) for line in (tmp_path / "run" / "episodes.jsonl").read_text().splitlines()]
    assert max(e["env_steps"] for e in episodes) >= 160


def test_a_saved_agent_starts_a_new_run_from_its_weights(tmp_path, in_tmp):
    first = quick(run=tmp_path / "run").learn(100, quiet=True)
    loaded = reverie.load(first.save(tmp_path / "agent"), env=long_counting)
    assert loaded.run not in (tmp_path / "run", tmp_path / "agent")
    loaded.config = load_preset("debug", {"env.id": loaded.config.env.id, "tensorboard": False, "video": False})
    loaded.learn(30, quiet=True)  # prefill only: no update
    assert same_weights(loaded.agent, first.agent)


def test_a_custom_environment_must_be_given_again(dreamer, saved):
    loaded = reverie.load(saved)
    with pytest.raises(UserError, match="custom") as caught:
        loaded.evaluate(episodes=1)
    assert "pip install" not in caught.value.hint  # nothing is missing but the argument `env`


def test_an_instance_is_left_open_for_its_owner(tmp_path):
    env = CountingEnv(lengths=(10,))
    agent = quick(env, run=tmp_path / "run", num_envs=1).learn(60, quiet=True)
    agent.evaluate(episodes=1)
    assert not env.closed


# ------------------------------------------------------------------------------------------------- a run's checkpoint


def test_everything_comes_back_after_a_stop(make_run, run):
    back = make_run(run.directory, env_steps=240)
    assert back.state.resumed
    assert back.clock == run.clock
    assert back.agent.updates == run.agent.updates == run.clock.updates
    assert same_weights(back.agent, run.agent)
    assert back.state.collector.steps == run.state.collector.steps
    assert back.state.recent == run.state.recent
    assert back.state.rng.bit_generator.state == run.state.rng.bit_generator.state
    assert back.replay.rng.bit_generator.state == run.replay.rng.bit_generator.state
    np.testing.assert_array_equal(back.replay.counts, run.replay.counts)
    for key, value in run.replay.contents().items():
        np.testing.assert_array_equal(back.replay.contents()[key], value)
    left, right = (checkpoint.optimizer_tensors(r.agent) for r in (run, back))
    assert left.keys() == right.keys()
    assert len(left) > 20
    assert all(torch.equal(left[key], right[key]) for key in left)
    back.close()


def test_what_is_written_in_the_background_is_what_was_when_it_began(make_run, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", env_steps=240)
    run.train()
    run = make_run(tmp_path / "run", env_steps=400)
    go, write = threading.Event(), checkpoint.write_atomically
    monkeypatch.setattr(checkpoint, "write_atomically", lambda *args: go.wait(30) and write(*args))
    run._take(next(run._timed_rows()), Progress(quiet=True))
    kept, steps = {key: value.clone() for key, value in run.agent.state_dict().items()}, run.clock.env_steps
    moments = {key: value.clone() for key, value in checkpoint.optimizer_tensors(run.agent).items()}
    run.save(wait=False)
    run.update()
    assert any(not torch.equal(kept[key], value) for key, value in run.agent.state_dict().items())
    run.save(wait=False)  # not while the first is under way
    go.set()
    run.state.writer.finish()
    run.close()
    path = newest(run)
    assert path.name == f"step-{steps:012d}"
    found = checkpoint.read_tensors(path / "weights.safetensors")
    assert all(torch.equal(kept[key], found[key]) for key in kept)
    found = checkpoint.read_tensors(path / "optimizers.safetensors")
    assert all(torch.equal(moments[key], found[key]) for key in moments)


def test_torchs_random_numbers_go_on_after_a_stop(make_run, run):
    torch.manual_seed(99)
    back = make_run(run.directory)
    found = torch.get_rng_state()
    expected = checkpoint.read_tensors(newest(run) / "optimizers.safetensors")["rng/torch/state"]
    assert torch.equal(found, expected)
    back.close()


def test_training_continues_with_a_larger_limit(make_run, run):
    back = make_run(run.directory, env_steps=240)
    replayed = len(back.replay)
    back.train()
    assert back.clock.env_steps >= 240
    assert len(back.replay) > replayed
    assert not same_weights(back.agent, run.agent)
    train = back.config.train
    earned = train.pretrain + train.train_ratio * (back.clock.env_steps - back.clock.prefilled)
    assert abs(back.clock.updates - earned) <= 1 + train.train_ratio * 2


def test_a_restart_does_not_repeat_the_first_episodes(make_run, run):
    back = make_run(run.directory)
    assert all(episode > 0 for _, episode in back.state.collector.state()["places"])
    back.close()


def test_half_written_checkpoints_are_ignored(make_run, run):
    folder = run.directory / "checkpoints"
    for name in (".step-000000000999.tmp", "step-000000000999"):
        (folder / name).mkdir()
        (folder / name / "weights.safetensors").write_bytes(b"half")
    assert newest(run).name == f"step-{run.clock.env_steps:012d}"
    back = make_run(run.directory, env_steps=180)
    assert back.clock == run.clock
    back.train()
    assert newest(back).name == f"step-{back.clock.env_steps:012d}"


def test_old_checkpoints_go_and_the_best_stays(make_run, tmp_path):
    run = make_run(tmp_path / "run", checkpoint_every=1e-9, keep_checkpoints=3, env_steps=60)
    train_waiting(run)
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert len(names) == 4
    assert names[0] == "best"
    assert names[-1] == f"step-{run.clock.env_steps:012d}"


def test_every_kept_checkpoint_can_be_continued(make_run, tmp_path):
    run = make_run(tmp_path / "run", checkpoint_every=1e-9, keep_checkpoints=3, replay_capacity=40, env_steps=90)
    train_waiting(run)
    for path in reversed(checkpoint.checkpoints(tmp_path / "run")):
        back = make_run(tmp_path / "run", checkpoint_every=1e-9, keep_checkpoints=3, replay_capacity=40)
        assert f"step-{back.clock.env_steps:012d}" == path.name
        back.replay.check_valid()
        assert len(back.replay) == 40
        back.close()
        shutil.rmtree(path)


def test_the_replay_log_does_not_grow_without_end(make_run, tmp_path):
    run = make_run(tmp_path / "run", checkpoint_every=1e-9, replay_capacity=40, env_steps=120)
    train_waiting(run)
    rows = sum(len(checkpoint.load_file(p)["reward"]) for p in (tmp_path / "run" / "replay").glob("steps-*"))
    assert rows <= 40 + 2 * 10


def test_an_older_checkpoint_continues_when_the_newest_is_removed(make_run, tmp_path):
    run = make_run(tmp_path / "run", checkpoint_every=1e-9, env_steps=90)
    train_waiting(run)
    shutil.rmtree(newest(run))
    back = make_run(tmp_path / "run", env_steps=90)
    assert 0 < back.clock.env_steps < run.clock.env_steps
    lines = [json.loads(t) for t in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["env_steps"] <= back.clock.env_steps for line in lines)
    back.train()


# ----------------------------------------------------------------------------------------------------- damaged files


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path):
    path.write_text('{"format": 1, "obs"')


def binary(path):
    path.write_bytes(b"\xff\xfe\x00\x80 not text")


def empty_object(path):
    path.write_text('{"format": 1}')


def a_list(path):
    path.write_text("[1, 2]")


def empty(path):
    path.write_bytes(b"")


AGENT_DAMAGE = [
    ("weights.safetensors", truncate),
    ("weights.safetensors", empty),
    ("weights.safetensors", garbage),
    ("spec.json", truncate),
    ("spec.json", garbage),
    ("spec.json", binary),
    ("spec.json", empty_object),
    ("spec.json", a_list),
    ("config.yaml", garbage),
    ("config.yaml", binary),
    ("config.yaml", empty),
]


@pytest.mark.parametrize(("name", "damage"), AGENT_DAMAGE)
def test_a_damaged_agent_is_told_with_its_file(saved, tmp_path, name, damage):
    path = tmp_path / "agent"
    shutil.copytree(saved, path)
    damage(path / name)
    for load in (reverie.load, reverie.load_player):
        with pytest.raises(UserError, match=str(path)):
            load(path)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", truncate),
        ("optimizers.safetensors", truncate),
        ("optimizers.safetensors", empty),
        ("state.json", truncate),
        ("state.json", a_list),
        ("state.json", empty_object),
    ],
)
def test_a_damaged_checkpoint_is_told_with_its_file(make_run, run, name, damage):
    damage(newest(run) / name)
    with pytest.raises(UserError, match=r"checkpoints/step-"):
        make_run(run.directory)


@pytest.mark.parametrize("damage", [truncate, empty, lambda path: path.unlink()], ids=["half", "empty", "gone"])
def test_a_damaged_replay_log_is_told(make_run, run, damage):
    damage(sorted((run.directory / "replay").glob("steps-*"))[0])
    with pytest.raises(UserError, match="replay"):
        make_run(run.directory)


def test_a_foreign_format_is_told(saved, tmp_path):
    path = tmp_path / "agent"
    shutil.copytree(saved, path)
    values = json.loads((path / "spec.json").read_text())
    (path / "spec.json").write_text(json.dumps(values | {"format": 999}))
    with pytest.raises(UserError, match="another version of reverie"):
        reverie.load(path)


def test_weights_of_another_size_are_told(saved, tmp_path):
    path = tmp_path / "agent"
    shutil.copytree(saved, path)
    text = (path / "config.yaml").read_text().replace("rnn_hidden_dim: 16", "rnn_hidden_dim: 24")
    (path / "config.yaml").write_text(text)
    (path / "manifest.json").write_text(manifest_of(path))
    with pytest.raises(UserError, match="do not fit this configuration"):
        reverie.load(path)


def test_loading_what_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="is not a run or a saved agent"):
        reverie.load(tmp_path / "nothing")
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(UserError, match="has no checkpoint yet"):
        reverie.load(tmp_path)


# --------------------------------------------------------------------------------------------------- atomic writing


def test_writing_replaces_a_directory_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "x"
    checkpoint.write_atomically(path, {"a": "old", "b": "old"})

    def power_cut(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "fsync", power_cut)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_atomically(path, {"a": "new"})
    assert {p.name: p.read_text() for p in path.iterdir() if p.name != "manifest.json"} == {"a": "old", "b": "old"}
    check_manifest(path)
    monkeypatch.undo()
    checkpoint.write_atomically(path, {"a": "new"})
    assert {p.name for p in path.iterdir()} == {"a", "manifest.json"}
    assert (path / "a").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_optimiser_state_survives_as_flat_tensors():
    agents = [DreamerV2(load_preset("debug"), make_spec(CountingEnv())) for _ in range(2)]
    for optimizer in agents[0].optimizers.values():
        for parameter in optimizer.parameters:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    tensors = checkpoint.optimizer_tensors(agents[0])
    checkpoint.restore_optimizers(agents[1], tensors)
    again = checkpoint.optimizer_tensors(agents[1])
    assert {key.split("/")[0] for key in tensors} == {"world_model", "actor", "critic"}
    assert all(torch.equal(again[key], value) for key, value in tensors.items())
    assert again.keys() == tensors.keys()
