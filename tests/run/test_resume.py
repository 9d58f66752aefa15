"""A run that was killed and repeated is, bit for bit, one that was not."""

import itertools
import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from odd_envs import Walk
from safetensors.numpy import load_file
from toys import CountingEnv, long_counting

import reverie
from reverie import UserError, checkpoint
from reverie.data.collect import Collector
from reverie.envs import make_vector
from reverie.envs.repeatable import Repeatable, seed_of
from reverie.fast.choose import Timing
from reverie.fast.products import Types
from reverie.files import manifest_of
from reverie.run.logger import read_lines
from reverie.run.progress import Progress
from reverie.run.resume import save_run

ALL = {"deterministic": True, "log_steps": 20, "checkpoint_every": 1e9, "eval_every": 60, "random_baseline": True}
ALL |= {"log.health_every": 3}


class StopAt(Progress):
    """Stops the run at a step (and saves), as SIGTERM does; or dies there without a word, as kill -9 does."""

    def __init__(self, step, *, save_at=None):
        super().__init__(quiet=True)
        self.step, self.save_at = step, save_at

    def tick(self, run):
        if self.save_at is not None and run.clock.env_steps >= self.save_at:
            save_run(run, wait=True)
            self.save_at = None
        if run.clock.env_steps >= self.step:
            if self.save_at is None and self.died_for_it(run):
                raise KeyboardInterrupt
            run.stop()

    def died_for_it(self, run):
        return False


class DieAt(StopAt):
    def died_for_it(self, run):
        return True


def left_behind(directory):
    """What must be equal: weights, moments, random states, the replay's contents, the lines, the evaluation."""
    last = checkpoint.checkpoints(directory)[-1]
    state = json.loads((last / "state.json").read_text())
    state["replay"].pop("files")  # as many as there were checkpoints
    clock = {key: value for key, value in state["clock"].items() if "seconds" not in key and key != "spent"}
    tensors = {
        f"{name}/{key}": value.tobytes()
        for name in ("weights", "optimizers", "run")
        for key, value in load_file(last / f"{name}.safetensors").items()
    }
    texts = {name: (directory / name).read_bytes() for name in ("metrics.jsonl", "episodes.jsonl", "latents.json")}
    best = {
        key: value.tobytes() for key, value in load_file(directory / "checkpoints/best/weights.safetensors").items()
    }
    return {**tensors, **texts, "state": state | {"clock": clock}, "best": best}


def assert_same(one, other, run_one, run_other):
    assert one.keys() == other.keys()
    assert [key for key in one if one[key] != other[key]] == []
    for key, array in run_one.replay.data.items():
        np.testing.assert_array_equal(array, run_other.replay.data[key], err_msg=key)


def test_a_run_that_began_without_compiled_loops_continues_without(make_run, tmp_path):
    """On a machine that had no compiler, or made by an older version."""
    settings = ALL | {"compute.precision": "float32"}
    run = make_run(tmp_path / "run", Walk, **settings, **{"compute.fused": "off"})
    run.train(StopAt(47))
    assert not run.agent.fused.on
    again = make_run(tmp_path / "run", Walk, **settings)
    assert not again.agent.fused.on
    again.close()
    state = next((tmp_path / "run" / "checkpoints").glob("step-*/state.json"))
    assert json.loads(state.read_text())["fused"] is False


def test_a_run_keeps_its_number_types_on_another_machine(make_run, tmp_path, monkeypatch):
    """Also where another choice would be made; and one that began before there was a choice keeps that."""
    float32, bfloat16 = Types.all(torch.float32), Types.all(torch.bfloat16)
    monkeypatch.setattr("reverie.fast.modes.has_bfloat16", lambda device: True)
    monkeypatch.setattr("reverie.fast.modes.measure_types", lambda *_: {"dense": Timing("", 1.0, 1.0, 1.0)})
    settings = ALL | {"deterministic": False, "rnn_hidden_dim": 136, "env_steps": 60}
    mixed = Types(torch.bfloat16, torch.float32, torch.float32)

    def opened(decided, name="run"):
        monkeypatch.setattr("reverie.fast.modes.decide", lambda found: decided)
        return make_run(tmp_path / name, Walk, **settings)

    run = opened(mixed)
    run.train(StopAt(47))
    (path,) = (tmp_path / "run" / "checkpoints").glob("step-*/state.json")
    assert json.loads(path.read_text())["types"] == mixed.to_dict()
    monkeypatch.setattr("reverie.fast.modes.decide", lambda found: bfloat16)
    assert reverie.load_player(path.parent).world_model.rssm.product_dtype == torch.float32  # as it was trained
    run = opened(float32)
    assert run.agent.precision.types == mixed
    assert [note for note in run.agent.notes if "products stay as the run began" in note]
    run.close()
    state = json.loads(path.read_text())
    del state["types"]  # as an earlier version left it
    path.write_text(json.dumps(state))
    (path.parent / "manifest.json").write_text(manifest_of(path.parent))
    run = opened(float32)
    assert run.agent.precision.types == bfloat16
    run.close()


@pytest.mark.parametrize("bad", ["a text", [[1.0]], {"x": True}])
@pytest.mark.parametrize("place", [("recent", 0), ("clock", "best"), ("clock", "spent"), ("collector", "scores", 0)])
def test_what_is_no_number_in_a_state_is_damage(make_run, tmp_path, capsys, place, bad):
    """Seed 9001051 of the fuzz: the text was added up, steps later. Also with a manifest that fits."""
    run = make_run(tmp_path / "run", Walk, **ALL)
    run.train(StopAt(47))
    (path,) = (tmp_path / "run" / "checkpoints").glob("step-*/state.json")
    state = json.loads(path.read_text())
    held = state
    for key in place[:-1]:
        held = held[key]
    if held == []:
        pytest.skip("nothing there yet")
    held[place[-1]] = bad
    path.write_text(json.dumps(state))
    (path.parent / "manifest.json").write_text(manifest_of(path.parent))
    with pytest.raises(UserError, match="damaged"):
        make_run(tmp_path / "run", Walk, **ALL)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_envs": 3, "replay.prioritize": "ends", "replay_capacity": 180, "train_ratio": 0.3},
        {"num_envs": 2, "prefill": 60, "pretrain": 30},
        {"compute.mode": "reference", "optimizer": "laprop", "actor_grad": "dynamics"},
        {"env.backend": "async", "num_envs": 2},
        {
            "num_envs": 3,
            "explore_hold": 4.0,
            "explore_wander": 0.5,
            "action_hold": 3,
            "entropy_target": 0.5,
            "entropy_decay": 20,
            "actor_warmup": 5,
        },
        {"compute.precision": "float32", "compute.fused": "auto", "num_envs": 2},
        {"members": 3, "behavior.explore": "ensemble", "num_envs": 2},
        {"goal_every": 4, "goal_dim": 16, "goal_layers": 1, "num_envs": 2},
        {"train_ratio": 0.001, "pretrain": 3},  # an evaluation of the same agent: made once, or again after a stop
    ],
    ids=["plain", "ring", "pretrain", "other-parts", "workers", "held", "fused", "explore", "hierarchy", "unchanged"],
)
@pytest.mark.parametrize("screens", ["stopped", "died"])
def test_going_on_ends_where_not_stopping_does(make_run, tmp_path, settings, screens):
    """Stopped at several steps, in the prefill, in pretraining, in the middle of episodes; or killed after a save."""
    whole = make_run(tmp_path / "whole", Walk, **ALL, **settings)
    whole.train()
    for step in (13, 47, 71, 103):
        run = make_run(tmp_path / "parts", Walk, **ALL, **settings)
        if screens == "stopped":
            run.train(StopAt(step))
        else:
            with pytest.raises(KeyboardInterrupt):
                run.train(DieAt(step, save_at=step - 6))
    run = make_run(tmp_path / "parts", Walk, **ALL, **settings)
    run.train()
    assert run.state.notes == []
    assert_same(left_behind(tmp_path / "whole"), left_behind(tmp_path / "parts"), whole, run)


def test_a_run_that_died_before_its_first_checkpoint_says_that_it_begins_again(make_run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make_run(tmp_path / "run", Walk, **ALL | {"checkpoint_every": 300.0}).train(DieAt(100))
    run = make_run(tmp_path / "run", Walk, **ALL | {"checkpoint_every": 300.0})
    assert run.clock.env_steps == 0
    assert any("has no checkpoint yet: the run begins again, at step 0" in note for note in run.state.notes)
    assert any("One is written every 300 s (train.checkpoint_every)" in note for note in run.state.notes)
    run.train()
    assert make_run(tmp_path / "run", Walk, **ALL | {"checkpoint_every": 300.0}).state.notes == []


def test_other_seeds_end_elsewhere(make_run, tmp_path):
    """Or the test above could not fail."""
    ends = []
    for seed in (0, 1):
        run = make_run(tmp_path / str(seed), Walk, seed=seed, **ALL)
        run.train()
        ends.append(left_behind(tmp_path / str(seed)))
    differing = [key for key in ends[0] if ends[0][key] != ends[1][key]]
    assert {"metrics.jsonl", "episodes.jsonl", "latents.json"} <= set(differing)


def test_a_deterministic_run_has_no_times_in_its_lines(make_run, tmp_path):
    make_run(tmp_path / "run", Walk, **ALL).train()
    keys = {
        key for name in ("metrics", "episodes") for line in read_lines(tmp_path / f"run/{name}.jsonl") for key in line
    }
    assert not [key for key in keys if key.startswith(("seconds", "speed/", "time/", "machine/"))]
    steps = [line["env_steps"] for line in read_lines(tmp_path / "run/metrics.jsonl") if "updates" in line]
    assert len(steps) >= 5


def test_a_deterministic_run_does_not_end_by_the_clock(make_run, tmp_path):
    with pytest.raises(UserError, match="ends by train"):
        make_run(tmp_path / "run", deterministic=True, minutes=1.0)


# ------------------------------------------------------------------------------------------------ episodes played again


def test_every_episode_has_a_seed_of_its_own():
    env = Repeatable(Walk())
    starts = [env.reset(seed=3)[0].tolist(), *(env.reset()[0].tolist() for _ in range(3))]
    assert starts == [Walk().reset(seed=seed_of(3, n))[0].tolist() for n in range(4)]
    assert len({tuple(start) for start in starts}) == 4
    assert env.where() == (3, 3)
    assert env.reset(seed=3)[0].tolist() == starts[0]


def random_actions(count, seed=0):
    rng = np.random.default_rng(seed)
    return lambda obs, first: np.eye(2, dtype=np.float32)[rng.integers(0, 2, count)]


def rows_of(collector, act, number):
    return [row for row, _ in itertools.islice(collector.rows(act), number)]


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("cut", [1, 2, 9, 23, 40])
def test_a_collector_goes_on_in_the_middle_of_episodes(backend, cut):
    make = lambda: make_vector(Walk, 3, backend=backend)  # noqa: E731
    envs = make()
    collector, act = Collector(envs, seed=5), random_actions(3)
    before = rows_of(collector, act, cut)
    state = json.loads(json.dumps(collector.state()))
    expected = rows_of(collector, act, 60)
    envs.close()
    again, act = make(), random_actions(3)
    for _ in range(cut - 1):
        act(None, None)
    second = Collector(again, seed=0)
    actions = []
    for i, length in enumerate(state["lengths"]):
        past = [row["action"][i] for row in before[len(before) - length :]]
        actions.append(np.array(past if not before[-1]["is_last"][i] else []).reshape(-1, 2))
    assert second.restore(state, before[-1], actions) == []
    for row, other in zip(expected, rows_of(second, act, 60), strict=True):
        for key in row:
            np.testing.assert_array_equal(row[key], other[key], err_msg=key)
    assert second.steps == collector.steps
    again.close()


def test_what_does_not_do_the_same_again_begins_a_new_episode(make_run, tmp_path):
    options = {"env_steps": 100, "num_envs": 2}
    np.random.seed(0)  # noqa: NPY002
    make_run(tmp_path / "run", lambda: Walk(forgetful=True), **options).train(StopAt(55))
    run = make_run(tmp_path / "run", lambda: Walk(forgetful=True), **options)
    assert "could not be played again. New ones begin" in run.state.notes[0]
    run.train()
    run.replay.check_valid()
    assert run.clock.env_steps >= 100


def test_an_episode_longer_than_the_replay_begins_anew(make_run, tmp_path):
    options = {"env_steps": 100, "replay_capacity": 40}
    make_run(tmp_path / "run", long_counting, **options).train(StopAt(55))
    run = make_run(tmp_path / "run", long_counting, **options)
    assert "could not be played again" in run.state.notes[0]
    run.train()


def test_an_episode_that_breaks_when_played_again_begins_anew(make_run, tmp_path):
    class Breaks(CountingEnv):
        broken = False

        def step(self, action):
            if Breaks.broken:
                raise RuntimeError("not twice")
            return super().step(action)

    make_run(tmp_path / "run", Breaks).train(StopAt(56))
    Breaks.broken = True
    run = make_run(tmp_path / "run", Breaks)
    assert "could not be played again" in run.state.notes[0]
    run.close()


# --------------------------------------------------------------------------------------------------------- real kills

SETTINGS = [
    "--preset", "debug", "--env", "CartPole-v1", "deterministic=true", "log_steps=100",
    "checkpoint_every=0.3", "eval_every=500", "env.num_envs=2", "log.tensorboard=false", "compute.threads=1",
]  # fmt: skip


def command(run, steps):
    return [sys.executable, "-m", "reverie.cli", "train", *SETTINGS, "--env-steps", str(steps), "--run", str(run)]


def killed_run(directory, steps, kills, seed):
    """Start, kill after a random time, repeat; then let it finish. -> how many episodes it had written each time.

    One in four is killed while it starts or loads, the others while they train or write a checkpoint.
    """
    rng, places, log = random.Random(seed), [], directory / "episodes.jsonl"
    while len(places) < kills:
        process = subprocess.Popen(command(directory, steps), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if rng.random() < 0.25:
            time.sleep(4.0 * rng.random())
        else:
            known = log.stat().st_mtime_ns if log.exists() else 0
            while process.poll() is None and not (log.exists() and log.stat().st_mtime_ns > known):
                time.sleep(0.01)
            time.sleep(2.0 * rng.random())
        assert process.poll() is None, "it ended before it could be killed: more steps"
        process.send_signal(signal.SIGKILL)
        process.wait()
        places.append(log.read_bytes().count(b"\n") if log.exists() else 0)
    done = subprocess.run(command(directory, steps), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return places


@pytest.mark.slow
def test_twenty_kills_at_random_times(tmp_path, capsys):
    """20 of 20 bit-identical: five runs, each killed four times."""
    steps, kills = 6000, 0
    subprocess.run(command(tmp_path / "whole", steps), check=True, capture_output=True)
    whole = left_behind(tmp_path / "whole")
    for seed in range(5):
        places = killed_run(tmp_path / f"killed{seed}", steps, 4, seed)
        other = left_behind(tmp_path / f"killed{seed}")
        assert [key for key in whole if whole[key] != other[key]] == []
        kills += len(places)
        with capsys.disabled():
            print(f"\nrun {seed}: killed after {places} episodes, {len(whole)} things bit-identical", end="")
    assert kills == 20
