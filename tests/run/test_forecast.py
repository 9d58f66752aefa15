"""The forecast: what is arithmetic is exact, what is refused says what fits, and a run is the same with and without."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from toys import CountingEnv, SpaceEnv

from reverie.config import build
from reverie.config.presets import load_preset
from reverie.data.replay import Replay
from reverie.envs.spaces import make_spec
from reverie.errors import UserError
from reverie.run import forecast as module
from reverie.run.forecast import Forecast, make_forecast, memory_left, require_fit
from reverie.run.loop import Run
from reverie.train import DreamerV2

PLAIN = Forecast(
    now=10**9, replay=4 * 10**9, update=10**9, saving=10**8, gpu=None, disk=5 * 10**9, memory_left=10**10,
    gpu_left=None, disk_left=10**11, update_seconds=0.1, act_seconds=0.001, step_seconds=0.002, updates_per_step=0.25,
    idle=0, steps=10**6, row_bytes=12_400, batch_size=50, on_disk=False,
)  # fmt: skip


def agent_of(space=None, **settings):
    spec = make_spec(SpaceEnv(space or spaces.Box(0, 255, (16, 16, 3), np.uint8)))
    return DreamerV2(load_preset("debug", settings), spec)


def test_agents_with_another_optimiser_are_forecast_too(tmp_path):
    """It is made with a copy, and torch's optimisers forget attributes that they do not know when they are copied."""
    assert make_forecast(agent_of(optimizer="laprop"), tmp_path).update > 0


@pytest.mark.parametrize(("capacity", "steps", "rows"), [(4000, 200, 222), (1000, 10**6, 1000)])
def test_the_replay_is_exact(tmp_path, capacity, steps, rows):
    agent = agent_of(replay_capacity=capacity, env_steps=steps)
    told = make_forecast(agent, tmp_path)
    whole = Replay(agent.spec.shapes, agent.spec.action.size, capacity=capacity, streams=2)
    assert told.row_bytes == whole.nbytes() // capacity == 16 * 16 * 3 + 4 * agent.spec.action.size + 4 + 3
    assert told.replay == rows * told.row_bytes


def test_replay_on_disk_is_not_in_memory(tmp_path):
    agent = agent_of()
    kept, stored = (
        make_forecast(agent, tmp_path),
        make_forecast(DreamerV2(build({"replay.storage": "disk"}, base=agent.config), agent.spec), tmp_path),
    )
    assert stored.replay == 0 < kept.replay
    assert stored.disk == pytest.approx(kept.disk + kept.replay, rel=0.01)


def test_files_hold_the_replay_and_checkpoints(tmp_path):
    agent = agent_of(keep_checkpoints=2, video=False)
    told = make_forecast(agent, tmp_path)
    weights = sum(x.numel() * x.element_size() for x in [*agent.parameters(), *agent.buffers()])
    learning = sum(
        x.numel() * 4 for name in ("world_model", "actor", "critic") for x in agent.get_submodule(name).parameters()
    )
    assert told.disk - told.replay == pytest.approx(3 * (weights + 2 * learning) + weights, rel=1e-3)


def test_times_add_up():
    assert PLAIN.seconds(1000) == pytest.approx(1000 * (0.002 + 0.001 + 0.25 * 0.1))
    assert PLAIN.seconds(1000, idle=400) == pytest.approx(1000 * 0.002 + 600 * (0.001 + 0.25 * 0.1))
    text = " ".join(PLAIN.lines())
    assert "47 min per 100,000 steps" in text
    assert "7.8 h for 1,000,000" in text
    assert "memory 6.10 GB at most" in text
    assert "evaluations" not in text


def test_evaluations_are_foreseen_as_far_as_they_are_known(tmp_path):
    """How many and what a step costs, before it is known how long an episode is."""
    lines = replace(PLAIN, evaluations=100, eval_episodes=10).lines()
    assert lines[2] == "and 100 evaluations of 10 episodes: 5 min for each 100 steps that an episode lasts"
    told = make_forecast(agent_of(env_steps=1000, eval_every=300, eval_episodes=7), tmp_path)
    assert (told.evaluations, told.eval_episodes) == (4, 7)
    assert make_forecast(agent_of(env_steps=1000, eval_every=0), tmp_path).evaluations == 1


def test_what_fits_is_accepted():
    assert PLAIN.problems() == []
    require_fit(PLAIN)
    assert not any("tight" in line for line in PLAIN.lines())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"memory_left": 4 * 10**9}, "set replay.replay_capacity="),
        ({"memory_left": 16 * 10**8}, "or replay.storage=disk"),
        ({"memory_left": 13 * 10**8}, "set replay.storage=disk"),
        ({"memory_left": 5 * 10**8}, "set train.batch_size=25"),
        ({"disk_left": 4 * 10**9}, "set replay.replay_capacity="),
        ({"gpu": 2 * 10**9, "gpu_left": 10**9}, "set train.batch_size=25 or compute.precision=bfloat16"),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(change, told):
    tight = replace(PLAIN, **change)
    with pytest.raises(UserError) as caught:
        require_fit(tight)
    assert told in caught.value.message
    assert "train.forecast=false" in caught.value.hint


@pytest.mark.parametrize("left", [3 * 10**9, 5 * 10**9])
def test_the_capacity_that_is_advised_fits(left):
    (problem,) = replace(PLAIN, memory_left=left).problems()
    advised = int(problem.split("replay_capacity=")[1].split(",")[0])
    assert replace(PLAIN, memory_left=left, replay=advised * PLAIN.row_bytes).problems(0.86) == []


def test_a_tight_run_is_warned():
    tight = replace(PLAIN, memory_left=int(PLAIN.added / 0.9))
    require_fit(tight)
    assert any(line.startswith("tight: the run needs 5.10 GB more memory") for line in tight.lines())


def test_unknown_systems_are_never_refused():
    unknown = replace(PLAIN, memory_left=None, disk_left=None)
    require_fit(unknown)
    assert " of " not in unknown.lines()[0].split("(")[0]


def test_memory_is_what_the_machine_and_the_container_leave(tmp_path):
    proc, group = tmp_path / "proc", tmp_path / "group"
    proc.mkdir()
    (group / "memory").mkdir(parents=True)
    assert memory_left(proc, group) is None
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert memory_left(proc, group) == 4_096_000
    (group / "memory.max").write_text("max\n")
    assert memory_left(proc, group) == 4_096_000
    (group / "memory.max").write_text("3000000\n")
    (group / "memory.current").write_text("1000000\n")
    assert memory_left(proc, group) == 2_000_000
    (group / "memory" / "memory.limit_in_bytes").write_text(str(2**63 - 4096))
    (group / "memory" / "memory.usage_in_bytes").write_text("5")
    assert memory_left(proc, group) == 2_000_000
    (group / "memory" / "memory.limit_in_bytes").write_text("1500")
    assert memory_left(proc, group) == 1495


def test_a_run_is_refused_before_it_leaves_a_trace(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "memory_left", lambda: 1000)
    config = load_preset("debug", {"env.id": "CartPole-v1", "forecast": True})
    with pytest.raises(UserError, match="more memory"):
        Run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    Run(load_preset("debug", {"env.id": "CartPole-v1"}), tmp_path / "run").close()  # forecast is off in debug


def test_training_is_the_same_with_and_without(tmp_path):
    weights = []
    for told in (False, True):
        config = load_preset("debug", {"env.id": "CartPole-v1", "forecast": told, "env_steps": 90, "video": False})
        run = Run(config, tmp_path / str(told))
        assert (run.state.forecast is not None) == told
        run.train()
        weights.append(run.agent.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_measured_step_is_about_as_long_as_it_is(tmp_path):
    class Slow(CountingEnv):
        def step(self, action):
            module.time.sleep(0.01)
            return super().step(action)

    config = load_preset("debug", {"env.id": "custom:slow", "forecast": True, "random_baseline": False})
    run = Run(config, tmp_path / "run", Slow)
    run.close()
    assert 0.01 <= run.state.forecast.step_seconds < 0.05
    assert run.state.forecast.to_dict()["peak"] >= run.state.forecast.now > 0


def test_an_instance_is_not_stepped_for_the_forecast(tmp_path):
    env = CountingEnv()
    config = load_preset("debug", {"env.id": "custom:one", "forecast": True, "num_envs": 1})
    run = Run(config, tmp_path / "run", env)
    run.close()
    assert env.at == 0
    assert run.state.forecast.step_seconds == 0
    assert isinstance(env, gym.Env)
