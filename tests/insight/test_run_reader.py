"""Reading a run: windows and episodes of its replay log, without any change."""

import json

import numpy as np
import pytest

import reverie
from reverie.errors import UserError
from reverie.insight.run_reader import open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("reader") / "run"
    dreamer = reverie.Dreamer("CartPole-v1", preset="debug", run=path, num_envs=2, checkpoint_every=0.2)
    dreamer.learn(env_steps=600, quiet=True)
    return path


def contents(path):
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in path.rglob("*")}


def test_windows_are_what_replay_holds(run):
    before = contents(run)
    reader = open_run(run)
    assert reader.env_steps >= 600
    assert len(reader.experience) == sum(json.loads((reader.source / "state.json").read_text())["replay"]["counts"])
    assert contents(run) == before
    for segment in reader.experience.segments:
        first = segment.rows["is_first"]
        assert np.array_equal(np.isnan(segment.rows["action"]).any(-1), first)
        assert (segment.rows["is_last"][:-1] == first[1:]).all()
    batch = reader.experience.windows(7, 10, in_one_episode=True)
    assert batch.reward.shape == (7, 10)
    assert not batch.is_first[:, 1:].any()
    assert np.array_equal(batch.reward, reader.experience.windows(7, 10, in_one_episode=True).reward)


def test_episodes_begin_and_end(run):
    for episode in open_run(run).experience.episodes():
        assert np.flatnonzero(episode["is_first"]).tolist() == [0]
        assert np.flatnonzero(episode["is_last"]).tolist() == [len(episode["reward"]) - 1]


def test_what_cannot_be_had_is_reported(run, tmp_path):
    with pytest.raises(UserError, match="no episode of 10000 steps"):
        open_run(run).batch(1, 10_000, in_one_episode=True)
    saved = reverie.load(run).save(tmp_path / "agent")
    with pytest.raises(UserError, match="no replay"):
        open_run(saved).batch(1, 5)
    with pytest.raises(UserError):
        open_run(tmp_path / "nothing")
