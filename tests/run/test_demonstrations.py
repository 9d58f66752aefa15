"""Demonstrations in a run's batches: the share that is drawn, what is imitated, resuming, and what is refused."""

import json
import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch

import reverie
from reverie import UserError, cli
from reverie.behavior import imitation_loss
from reverie.config.presets import load_preset
from reverie.data.replay import Batch, Replay
from reverie.distributions import Part, make_policy
from reverie.envs.spaces import make_spec
from reverie.rssm import State
from reverie.run.data_set import episode_rows, read_data, write_data
from reverie.run.demonstrations import Demonstrations

from .test_resume import ALL, DieAt, StopAt, Walk, assert_same, left_behind

SPEC = make_spec(Walk())
SHOWN = 1000.0  # an observation that no walk reaches


def shown(length=30):
    obs = np.full((length + 1, 2), SHOWN, np.float32)
    obs[:, 1] = np.arange(length + 1)
    return episode_rows(
        {"observation": obs}, np.eye(2, dtype=np.float32)[np.arange(length) % 2], np.ones(length), terminal=True
    )


@pytest.fixture
def data(tmp_path):
    write_data(tmp_path / "data", SPEC, [shown() for _ in range(4)], {"env": ""})
    return tmp_path / "data"


def own_replay(steps=60):
    replay = Replay(SPEC.shapes, SPEC.action.size, capacity=200, streams=1)
    rows = episode_rows(
        {"observation": np.zeros((steps, 2), np.float32)},
        np.eye(2)[[0] * (steps - 1)],
        np.zeros(steps - 1),
        terminal=False,
    )
    for t in range(steps):
        replay.add({key: value[t : t + 1] for key, value in rows.items()})
    return replay


# ------------------------------------------------------------------------------------------------------------ the share


def test_the_share_that_is_drawn_falls_on_its_schedule(data):
    """Counted by what the rows hold, not by what they are called."""
    config = load_preset("debug", {"demo_share": 0.3, "demo_until": 100, "demos": str(data)})
    demos, own = Demonstrations(read_data(data), config), own_replay()
    for env_steps, wanted in ((0, 0.3), (25, 0.225), (50, 0.15), (90, 0.03), (100, 0.0), (500, 0.0)):
        counts = []
        for _ in range(300):
            batch = demos.sample(own, 5, 8, env_steps=env_steps)
            found = (batch.obs["observation"][..., 0] == SHOWN).all(1)
            assert found.shape == (5,)
            np.testing.assert_array_equal(batch.demo, np.repeat(found[:, None], 8, 1))
            counts.append(found.sum())
        assert max(counts) - min(counts) <= 1  # never further from the share than a window
        assert np.mean(counts) / 5 == pytest.approx(wanted, abs=0.025)


def test_without_a_step_it_falls_over_the_whole_run(data):
    config = load_preset("debug", {"env_steps": 400, "demos": str(data)})
    demos = Demonstrations(read_data(data), config)
    assert [demos.share_at(steps) for steps in (0, 200, 400)] == [0.5, 0.25, 0.0]


def test_a_share_of_0_is_a_run_without(make_run, data, tmp_path):
    """Its own experience is drawn by the same numbers: weights equal to the bit."""
    none = make_run(tmp_path / "none", Walk, **ALL).train().state_dict()
    zero = make_run(tmp_path / "zero", Walk, **ALL, demos=str(data), demo_share=0.0).train().state_dict()
    some = make_run(tmp_path / "some", Walk, **ALL, demos=str(data)).train().state_dict()
    assert all(torch.equal(none[key], zero[key]) for key in none)
    assert not all(torch.equal(none[key], some[key]) for key in none)
    lines = [json.loads(line) for line in (tmp_path / "some" / "metrics.jsonl").read_text().splitlines()]
    shares = [line["replay/demo_share"] for line in lines if "replay/demo_share" in line]
    assert shares == sorted(shares, reverse=True)
    assert 0 <= shares[-1] < shares[0] < 0.5


def test_vectors_are_scaled_by_what_the_demonstrations_hold_too(make_run, data, tmp_path):
    for name in ("standardize", "running"):
        settings = ALL | {"vector_transform": name}
        plain = make_run(tmp_path / f"{name}-plain", Walk, **settings).train()
        mixed = make_run(tmp_path / f"{name}-mixed", Walk, **settings, demos=str(data)).train()
        value = {"observation": torch.full((1, 2), SHOWN)}
        seen = [float(agent.world_model.preprocess(value)["observation"][0, 0]) for agent in (plain, mixed)]
        assert seen[0] == 10  # its limit: far outside
        assert 0 < seen[1] < 2


# ----------------------------------------------------------------------------------------------------------- imitation


def test_only_demonstrations_are_imitated_and_by_their_share():
    torch.manual_seed(0)
    action = torch.eye(3)[torch.randint(0, 3, (4, 6))]
    first = torch.zeros(4, 6, dtype=torch.bool)
    first[:, 0] = first[1, 3] = True
    action[first] = torch.nan
    flags, feat = torch.zeros(4, 6, dtype=torch.bool), torch.randn(4, 6, 3)
    posterior = State(torch.zeros(4, 6, 0), feat, torch.zeros(4, 6, 0))

    def actor(feat, mask):
        return make_policy(feat[..., :3], (Part("onehot", 3),))

    def loss(rows, demo):
        cut = State(*(x[rows] for x in posterior))
        return imitation_loss(actor, "", cut, Batch({}, action[rows], flags[rows], first[rows], flags, flags, demo))

    demo = torch.tensor([True, True, False, False])[:, None].expand(4, 6)
    alone = loss(slice(0, 2), None)  # 9 steps with an action, of 19
    torch.testing.assert_close(loss(slice(0, 4), demo), alone * 9 / 19)
    torch.testing.assert_close(loss(slice(0, 4), torch.ones_like(demo)), loss(slice(0, 4), None))
    assert loss(slice(0, 4), torch.zeros_like(demo)) == 0


def test_an_agent_that_imitates_takes_after_the_demonstrations(make_run, data, tmp_path):
    settings = ALL | {"demos": str(data), "bc_scale": 1.0, "cloning": True}
    run = make_run(tmp_path / "run", Walk, **settings)
    run.train()
    assert all(torch.isfinite(value).all() for value in run.agent.state_dict().values())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["actor/imitation"] for line in lines if "actor/imitation" in line]
    assert 0 <= losses[-1] < losses[0] < 0.5 * np.log(2) + 0.1  # half of the steps; two choices


# ------------------------------------------------------------------------------------------------------------ resuming


@pytest.mark.parametrize("kind", [StopAt, DieAt])
@pytest.mark.parametrize("settings", [{}, {"num_envs": 2, "replay.prioritize": "ends", "demo_until": 80}])
def test_resuming_ends_where_not_stopping_does(make_run, data, tmp_path, settings, kind):
    settings = ALL | settings | {"demos": str(data)}
    whole = make_run(tmp_path / "whole", Walk, **settings)
    whole.train()
    for step in (13, 47, 71, 103):
        run = make_run(tmp_path / "parts", Walk, **settings)
        if kind is StopAt:
            run.train(StopAt(step))
        else:
            with pytest.raises(KeyboardInterrupt):
                run.train(DieAt(step + 4, save_at=step))
    run = make_run(tmp_path / "parts", Walk, **settings)
    run.train()
    assert_same(left_behind(tmp_path / "whole"), left_behind(tmp_path / "parts"), whole, run)


def test_a_longer_run_keeps_the_schedule_that_it_began_with(make_run, data, tmp_path):
    settings = ALL | {"demos": str(data)}
    first = make_run(tmp_path / "run", Walk, **settings)
    first.train()
    until = first.state.demos.until
    longer = make_run(tmp_path / "run", Walk, **settings | {"env_steps": first.config.train.env_steps + 50})
    assert longer.state.demos.until == until == first.config.train.env_steps
    longer.close()


def test_the_data_may_move_but_not_change(make_run, data, tmp_path):
    settings = ALL | {"demos": str(data)}
    make_run(tmp_path / "run", Walk, **settings).train(StopAt(47))
    moved = shutil.move(data, tmp_path / "moved")
    with pytest.raises(UserError, match="is no data set"):
        make_run(tmp_path / "run", Walk, **settings)
    make_run(tmp_path / "run", Walk, **settings | {"demos": str(moved)}).close()
    with pytest.raises(UserError, match="began with demonstrations"):
        make_run(tmp_path / "run", Walk, **settings | {"demos": ""})
    write_data(tmp_path / "other", SPEC, [shown(40)], {"env": ""})
    with pytest.raises(UserError, match="not those that this run began with"):
        make_run(tmp_path / "run", Walk, **settings | {"demos": str(tmp_path / "other")})
    make_run(tmp_path / "none", Walk, **ALL).train(StopAt(47))
    with pytest.raises(UserError, match="began without demonstrations"):
        make_run(tmp_path / "none", Walk, **settings | {"demos": str(moved)})


# ---------------------------------------------------------------------------------------------------------- the surface


def test_from_the_command_line_and_in_python(tmp_path, capsys):
    assert cli.main(["record", "CartPole-v1", "--episodes", "5", "--out", str(tmp_path / "data")]) == 0
    words = ["train", "--preset", "debug", "--env", "CartPole-v1", "--env-steps", "90", "--no-doctor"]
    words += ["--run", str(tmp_path / "run"), "--demonstrations", str(tmp_path / "data")]
    assert cli.main(words) == 0
    config = reverie.load(tmp_path / "run").config
    assert config.replay.demos == str(tmp_path / "data")
    agent = reverie.Dreamer("CartPole-v1", preset="debug", run=tmp_path / "python")
    agent.learn(80, demonstrations=tmp_path / "data", quiet=True)
    agent.learn(100, quiet=True)
    assert agent.config.replay.demos == str(tmp_path / "data")


@pytest.mark.parametrize("fault", ["missing", "other task", "short", "not finite", "both"])
def test_what_cannot_be_a_demonstration_gets_a_sentence(in_tmp, capsys, fault):
    """Exit code 2, and no run's directory."""
    spec = make_spec(gym.make("CartPole-v1"))
    length = 3 if fault == "short" else 40
    obs = np.zeros((length + 1, 4), np.float32)
    obs[1] = np.nan if fault == "not finite" else 0
    rows = episode_rows({"observation": obs}, np.eye(2)[[0, 1] * 20][:length], np.ones(length), terminal=True)
    if fault == "other task":
        spec, rows = SPEC, shown()
    if fault != "missing":
        write_data(in_tmp / "data", spec, [rows], {"env": ""})
    words = ["train", "--preset", "debug", "--env", "CartPole-v1", "--run", "run", "--demonstrations", "data"]
    assert cli.main(words + (["--data", "data"] if fault == "both" else [])) == 2
    sentences = {
        "missing": "is no data set",
        "other task": "are of another task",
        "short": "a sequence needs train.seq_len",
        "not finite": "hold numbers that are not finite: observation 'observation'",
        "both": "--demonstrations beside an environment",
    }
    assert sentences[fault] in capsys.readouterr().err
    assert not (in_tmp / "run").exists()


def test_what_looks_wrong_is_said_once_when_the_run_begins(make_run, tmp_path):
    """One choice alone is taken."""
    rows = episode_rows({"observation": np.zeros((41, 2), np.float32)}, np.eye(2)[[1] * 40], np.ones(40), terminal=True)
    write_data(tmp_path / "data", SPEC, [rows], {"env": ""})
    run = make_run(tmp_path / "run", Walk, **ALL, demos=str(tmp_path / "data"))
    assert any("demonstrations: choice 1 of the action" in note for note in run.state.notes)
    run.train(StopAt(47))
    run = make_run(tmp_path / "run", Walk, **ALL, demos=str(tmp_path / "data"))
    assert not any("demonstrations" in note for note in run.state.notes)
    run.close()
