"""Recorded experience: each format's rows are those of the drawing, and what is wrong with data is said."""

import json

import numpy as np
import pytest
from gymnasium import spaces
from toys import CountingEnv, DictEnv, SpaceEnv

import reverie
from reverie import cli
from reverie.data.replay import Batch
from reverie.envs.actions import make_action_spec
from reverie.envs.spaces import make_spec
from reverie.errors import UserError
from reverie.run.data_check import findings
from reverie.run.data_set import DataSet, episode_rows, leaving_rows, read_data, write_data
from reverie.share.data_sources import VIDEO_PATH, Options, Videos, open_source

SPEC = make_spec(SpaceEnv(spaces.Box(-9, 9, (2,)), spaces.Discrete(3)))
BOX = make_spec(SpaceEnv(spaces.Box(-9, 9, (2,)), spaces.Box(-2, 2, (2,))))


def episode(length=4, *, spec=SPEC, terminal=True, seed=0, reward=None):
    """obs [t, seed], random actions, reward t on arriving at t."""
    rng = np.random.default_rng(seed)
    obs = np.stack([np.arange(length + 1), np.full(length + 1, seed)], -1).astype(np.float32)
    action = spec.action.random(rng, length)
    reward = np.arange(1, length + 1, dtype=np.float32) if reward is None else reward
    return episode_rows({"observation": obs}, action, reward, terminal=terminal)


def data_of(episodes, spec=SPEC):
    return DataSet(spec, {key: np.concatenate([rows[key] for rows in episodes]) for key in episodes[0]}, {})


def require_rows(rows, *, length, terminal, actions=None, rewards=None):
    """Rows of one episode as the drawing has them; observation t begins with the number t."""
    assert rows["is_first"].tolist() == [True] + [False] * length
    assert rows["is_last"].tolist() == [False] * length + [True]
    assert rows["is_terminal"].tolist() == [False] * length + [terminal]
    assert np.isnan(rows["action"][0]).all()
    assert np.isfinite(rows["action"][1:]).all()
    assert rows["reward"][0] == 0
    if rewards is not None:
        np.testing.assert_allclose(rows["reward"][1:], rewards)
    if actions is not None:
        np.testing.assert_allclose(rows["action"][1:], actions, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ actions


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(4, start=2),
        spaces.MultiDiscrete([3, 4], start=[-1, 2]),
        spaces.MultiBinary((2, 2)),
        spaces.Box(np.float32([-2, 0]), np.float32([2, 5])),
        spaces.Box(-50, 50, (2,), np.int32),
        spaces.Dict({"go": spaces.Discrete(3), "push": spaces.Box(-1, 1, (2,))}),
        spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (2,))]),
    ],
    ids=str,
)
def test_actions_there_and_back(space):
    spec = make_action_spec(space)[0]
    vectors = spec.random(np.random.default_rng(0), 50)
    own = spec.decode(vectors)
    np.testing.assert_allclose(spec.decode(spec.encode(own))["push"], own["push"], atol=1e-6) if isinstance(
        own, dict
    ) else None
    again = spec.encode(own)
    rounded = isinstance(space, spaces.Box) and space.dtype == np.int32
    np.testing.assert_allclose(again, vectors, atol=0.011 if rounded else 1e-6)


def test_an_action_that_does_not_exist_is_refused_and_a_large_number_cut_off():
    with pytest.raises(ValueError, match="a choice that the space does not have"):
        SPEC.action.encode(np.array([0, 3]))
    np.testing.assert_array_equal(BOX.action.encode(np.array([[9.0, -1.0]])), [[1, -0.5]])


# ---------------------------------------------------------------------------------------------------------- data sets


def test_a_data_set_is_read_as_it_was_written(tmp_path):
    written = [episode(3, seed=0), episode(5, seed=1, terminal=False)]
    counts = write_data(tmp_path / "data", SPEC, written, {"source": "test"})
    assert (counts["episodes"], counts["rows"], counts["steps"]) == (2, 10, 8)
    data = read_data(tmp_path / "data")
    assert data.spec == SPEC
    assert [span.stop - span.start for span in data.episodes()] == [4, 6]
    np.testing.assert_array_equal(data.returns(), [6, 15])
    for key, value in data_of(written).rows.items():
        np.testing.assert_array_equal(data.rows[key], value)
    replay = data.replay(seed=1)
    replay.check_valid()
    batch = replay.sample(16, 4)
    assert isinstance(batch, Batch)
    np.testing.assert_array_equal(batch.reward, batch.obs["observation"][..., 0])


def test_a_damaged_or_missing_data_set_gets_a_sentence(tmp_path):
    with pytest.raises(UserError, match="is no data set"):
        read_data(tmp_path)
    write_data(tmp_path / "data", SPEC, [episode()], {})
    with pytest.raises(UserError, match="exists already"):
        write_data(tmp_path / "data", SPEC, [episode()], {})
    file = next((tmp_path / "data").glob("rows-*"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError):
        read_data(tmp_path / "data")
    with pytest.raises(UserError, match="no step"):
        write_data(tmp_path / "empty", SPEC, [], {})
    assert not list(tmp_path.glob(".*"))


def test_actions_that_leave_a_row_are_moved_to_the_next_and_the_last_reward_is_kept():
    obs = {"observation": np.stack([np.arange(3), np.zeros(3)], -1).astype(np.float32)}
    rows = leaving_rows(obs, np.eye(3, dtype=np.float32), np.array([1.0, 2.0, 3.0]), terminal=True)
    require_rows(rows, length=3, terminal=True, actions=np.eye(3), rewards=[1, 2, 3])
    assert rows["obs/observation"][:, 0].tolist() == [0, 1, 2, 2]


# ------------------------------------------------------------------------------------------------------------ formats


def npz_episode(path, length=4, *, terminal=True, leave=False, discrete=True):
    rows = episode(length, spec=SPEC if discrete else BOX, terminal=terminal)
    action = np.nan_to_num(rows["action"])
    if leave:
        action = np.concatenate([action[1:], action[1:2]])
    image = np.full((length + 1, 8, 8, 3), np.arange(length + 1)[:, None, None, None], np.uint8)
    np.savez(
        path,
        image=image,
        speed=rows["obs/observation"],
        action=action,
        reward=rows["reward"],
        discount=1.0 - rows["is_terminal"],
        is_first=rows["is_first"],
    )
    return rows


@pytest.mark.parametrize("discrete", [True, False])
def test_npz_in_the_released_form(tmp_path, discrete):
    wanted = npz_episode(tmp_path / "a.npz", 4, discrete=discrete)
    npz_episode(tmp_path / "b.npz", 6, terminal=False, discrete=discrete)
    source = open_source(tmp_path, Options())
    assert source.spec.action.kind == ("discrete" if discrete else "box")
    assert {key: item.kind for key, item in source.spec.obs.items()} == {"image": "image", "speed": "vector"}
    first, second = source.episodes
    require_rows(first, length=4, terminal=True, actions=wanted["action"][1:], rewards=[1, 2, 3, 4])
    require_rows(second, length=6, terminal=False)
    assert first["obs/image"][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_npz_whose_actions_leave_is_refused_until_that_is_said(tmp_path):
    npz_episode(tmp_path / "a.npz", leave=True)
    with pytest.raises(UserError, match="the first row has an action") as caught:
        list(open_source(tmp_path, Options()).episodes)
    assert "--actions leave" in caught.value.hint
    (rows,) = open_source(tmp_path, Options(actions="leave")).episodes
    require_rows(rows, length=5, terminal=True, rewards=[0, 1, 2, 3, 4])


def test_npz_with_objects_or_without_rewards_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", action=np.zeros((3, 2)), image=np.zeros((3, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="has no 'reward'"):
        open_source(tmp_path, Options())
    np.savez(tmp_path / "a.npz", action=np.array([{}], object), reward=np.zeros(1))
    with pytest.raises(UserError, match="cannot be read"):
        open_source(tmp_path, Options())
    with pytest.raises(UserError, match="no recorded experience"):
        open_source(tmp_path / "nothing", Options())


@pytest.mark.parametrize("env", [lambda: CountingEnv((3, 5), (True, False)), DictEnv])
def test_the_replay_of_a_run(tmp_path, make_run, env):
    run = make_run(tmp_path / "run", env, env_steps=60)
    run.train()
    source = open_source(tmp_path / "run", Options())
    episodes = list(source.episodes)
    stored = run.replay.contents()
    assert sum(len(rows["reward"]) for rows in episodes) >= len(stored["reward"]) - run.config.env.num_envs
    for rows in episodes:
        length = len(rows["reward"]) - 1
        require_rows(rows, length=length, terminal=bool(rows["is_terminal"][-1]))
        if env is not DictEnv:
            at = rows["obs/observation"][:, 1]
            assert at.tolist() == list(range(length + 1))
            np.testing.assert_allclose(rows["reward"][1:], 100 * rows["obs/observation"][1:, 0] + at[1:])
    if env is not DictEnv:
        whole = [rows for rows in episodes if len(rows["reward"]) - 1 == 5]
        assert whole
        assert not any(rows["is_terminal"].any() for rows in whole)


def test_minari(tmp_path):
    """Written here by hand, in the form that Minari 0.5 documents: its own writer needs JAX."""
    h5py, minari = pytest.importorskip("h5py"), pytest.importorskip("minari")
    from minari.serialization import serialize_space

    data = tmp_path / "toy-v0" / "data"
    data.mkdir(parents=True)
    space = spaces.Dict({"speed": spaces.Box(-9, 9, (2,), np.float64), "facing": spaces.Discrete(3)})
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for index, (length, ended) in enumerate(((4, True), (6, False))):
            group = file.create_group(f"episode_{index}")
            group.attrs.update({"id": index, "total_steps": length, "seed": 0})
            obs = group.create_group("observations")
            obs["speed"] = np.stack([np.arange(length + 1.0), np.zeros(length + 1)], -1)
            obs["facing"] = np.arange(length + 1) % 3
            group["actions"] = np.linspace(-2, 2, length)[:, None]
            group["rewards"] = np.arange(1.0, length + 1)
            group["terminations"] = np.arange(length) == length - 1 if ended else np.zeros(length, bool)
            group["truncations"] = np.zeros(length, bool) if ended else np.arange(length) == length - 1
    metadata = {
        "total_episodes": 2,
        "total_steps": 10,
        "dataset_id": "toy-v0",
        "data_format": "hdf5",
        "minari_version": minari.__version__,
        "observation_space": serialize_space(space),
        "action_space": serialize_space(spaces.Box(-2, 2, (1,))),
    }
    (data / "metadata.json").write_text(json.dumps(metadata))
    source = open_source(tmp_path / "toy-v0", Options())
    first, second = source.episodes
    require_rows(first, length=4, terminal=True, actions=np.linspace(-1, 1, 4)[:, None], rewards=[1, 2, 3, 4])
    require_rows(second, length=6, terminal=False)
    assert first["obs/speed"][:, 0].tolist() == [0, 1, 2, 3, 4]
    assert first["obs/facing"].argmax(-1).tolist() == [0, 1, 2, 0, 1]


def lerobot(path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (path / "meta").mkdir(parents=True)
    (path / "data" / "chunk-000").mkdir(parents=True)
    features = {
        "observation.state": {"dtype": "float32", "shape": [2]},
        "observation.images.top": {"dtype": "video", "shape": [48, 64, 3]},
        "action": {"dtype": "float32", "shape": [2]},
    }
    (path / "meta" / "info.json").write_text(json.dumps({"codebase_version": "v3.0", "fps": 30, "features": features}))
    lengths = (3, 5)
    frame = np.concatenate([np.arange(n) for n in lengths])
    table = {
        "observation.state": [[float(t), 0.0] for t in frame],
        "action": [[float(t), -float(t)] for t in frame],
        "next.reward": [float(t + 1) for t in frame],
        "next.done": [bool(t == n - 1) for n in lengths for t in range(n)],
        "episode_index": np.repeat([0, 1], lengths).tolist(),
        "frame_index": frame.tolist(),
    }
    pq.write_table(pa.table(table), path / "data" / "chunk-000" / "file-000.parquet")


def test_lerobot(tmp_path, monkeypatch):
    lerobot(tmp_path)
    monkeypatch.setattr("reverie.share.data_sources.importlib.util.find_spec", lambda name: None if name == "av" else 1)
    source = open_source(tmp_path, Options())
    assert any("observation.images.top' is left out: its video needs av, pip install" in note for note in source.notes)
    first, second = source.episodes
    require_rows(first, length=3, terminal=True, rewards=[1, 2, 3])
    require_rows(second, length=5, terminal=True, actions=np.linspace([-1, 1], [1, -1], 5))
    assert second["obs/observation.state"][:, 0].tolist() == [0, 1, 2, 3, 4, 4]
    assert [rows["is_terminal"].any() for rows in open_source(tmp_path, Options(ends="truncated")).episodes] == [0, 0]


def lerobot_video(path):
    """Both episodes in one file, each frame of its own gray: 20 per frame from 20 on."""
    av, pa, pq = (pytest.importorskip(name) for name in ("av", "pyarrow", "pyarrow.parquet"))
    key = "observation.images.top"
    file = path / "videos" / key / "chunk-000" / "file-000.mp4"
    file.parent.mkdir(parents=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for gray in range(20, 180, 20):
            image = np.full((48, 64, 3), gray, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    (path / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    places = {"episode_index": [0, 1], f"videos/{key}/chunk_index": [0, 0], f"videos/{key}/file_index": [0, 0]}
    table = pa.table(places | {f"videos/{key}/from_timestamp": [0.0, 3 / 30]})
    pq.write_table(table, path / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    return file


def test_lerobot_videos(tmp_path, monkeypatch):
    """Each row has its own frame, also where an episode begins inside of a file; the last one is repeated."""
    lerobot(tmp_path)
    file = lerobot_video(tmp_path)
    monkeypatch.setattr("reverie.share.data_sources.FRAMES", 2)
    source = open_source(tmp_path, Options())
    assert any("not exact" in note for note in source.notes)
    seen = [rows["obs/observation.images.top"] for rows in source.episodes]
    assert [images.shape[1:] for images in seen] == [(48, 64, 3)] * 2
    for images, grays in zip(seen, ([20, 40, 60, 60], [80, 100, 120, 140, 160, 160]), strict=True):
        np.testing.assert_allclose(images.mean((1, 2, 3)), grays, atol=3)
    content = file.read_bytes()
    file.write_bytes(b"no video")
    with pytest.raises(UserError, match="cannot be read"):
        list(open_source(tmp_path, Options()).episodes)
    file.write_bytes(content)
    episodes = next((tmp_path / "meta" / "episodes").rglob("*.parquet"))
    episodes.unlink()
    with pytest.raises(UserError, match="does not say where"):
        list(open_source(tmp_path, Options()).episodes)


def test_videos_outside_of_the_data_set_are_not_read(tmp_path):
    videos = Videos()
    videos.path = tmp_path / "data"
    (tmp_path / "data" / "meta").mkdir(parents=True)
    for videos.template in ("../outside.mp4", "/dev/zero", "{0}", "{video_key.nothing}", "meta"):
        with pytest.raises(UserError, match=r"outside of the data set|in no way of LeRobot"):
            videos._file("top", 0, 0)
    videos.template = VIDEO_PATH
    assert videos._file("top", 0, 1) == tmp_path / "data" / "videos" / "top" / "chunk-000" / "file-001.mp4"


# ------------------------------------------------------------------------------------------------------------- checks


def test_good_data_is_not_suspicious():
    spec = make_spec(SpaceEnv(spaces.Box(-9, 9, (2,)), spaces.Discrete(3)))
    assert findings(data_of([episode(20 + seed, seed=seed) for seed in range(6)], spec)) == []


def sparse(length, at):
    reward = np.zeros(length, np.float32)
    reward[at] = 1
    return reward


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (data_of([episode(30, seed=s, reward=sparse(30, -2)) for s in range(6)]), "rewards look shifted by one"),
        (data_of([episode(30, seed=s, reward=np.zeros(30)) for s in range(6)]), "every reward is 0"),
        (data_of([episode(20 + s, seed=s, terminal=False) for s in range(6)]), "terminals may be missing"),
        (data_of([episode(20, seed=s, terminal=False) for s in range(6)]), "right if only a time limit"),
        (data_of([episode(20, seed=s) for s in range(6)]), "a time limit may be marked as terminal"),
        (data_of([episode(20, reward=np.full(20, np.nan))]), "some rewards are not finite"),
    ],
)
def test_suspicious_rewards_and_ends(data, sentence):
    assert any(sentence in line for line in findings(data)), findings(data)


def test_a_reward_at_the_end_is_not_shifted():
    good = data_of([episode(30 + s, seed=s, reward=sparse(30 + s, -1)) for s in range(6)])
    assert findings(good) == []


@pytest.mark.parametrize(
    ("spec", "change", "sentence"),
    [
        (SPEC, lambda a: np.eye(3)[np.zeros(len(a), int)], "is the only one ever taken"),
        (SPEC, lambda a: np.eye(3)[np.arange(len(a)) % 2], "choices 2 of the action were never taken"),
        (BOX, lambda a: a * [1, 0], "number 1 of the action is always 0"),
        (BOX, lambda a: a * 0.01, "stay within 5 % of the range"),
        (BOX, lambda a: np.clip(a * 5, -1, 1), "lie at its limits"),
    ],
)
def test_suspicious_actions(spec, change, sentence):
    data = data_of([episode(40 + seed, spec=spec, seed=seed) for seed in range(6)], spec)
    taken = ~data.rows["is_first"]
    data.rows["action"][taken] = change(data.rows["action"][taken])
    assert any(sentence in line for line in findings(data)), findings(data)


# ----------------------------------------------------------------------------------------------------------- commands


def test_import_and_record_from_the_command_line(tmp_path, capsys):
    assert cli.main(["record", "CartPole-v1", "--episodes", "4", "--out", str(tmp_path / "random")]) == 0
    assert "4 episodes" in capsys.readouterr().out
    data = read_data(tmp_path / "random")
    assert len(data.episodes()) == 4
    np.testing.assert_array_equal(data.returns(), [span.stop - span.start - 1 for span in data.episodes()])
    assert {"policy": "random", "seed": 0}.items() <= data.about.items()
    (tmp_path / "npz").mkdir()
    npz_episode(tmp_path / "npz" / "a.npz")
    words = ["import", str(tmp_path / "npz"), "--out", str(tmp_path / "data"), "--json"]
    assert cli.main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["episodes"], said["steps"], said["mean_return"]) == (1, 4, 10.0)


def test_a_trained_agent_is_recorded_with_the_actions_that_it_took(tmp_path):
    agent = reverie.Dreamer("CartPole-v1", preset="debug", run=tmp_path / "run", env_steps=60, eval_episodes=1)
    agent.learn(quiet=True)
    agent.save(tmp_path / "agent")
    words = ["record", "CartPole-v1", "--policy", "agent", "--agent", str(tmp_path / "agent"), "--noise", "0.5"]
    assert cli.main([*words, "--episodes", "2", "--out", str(tmp_path / "data")]) == 0
    data = read_data(tmp_path / "data")
    replay = data.replay()
    replay.check_valid()
    assert set(data.rows["action"][~data.rows["is_first"]].argmax(-1).tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["import", "nowhere", "--out", "data"], "no recorded experience"),
        (["record", "CartPole-v1", "--policy", "agent", "--out", "data"], "--policy agent and --agent belong together"),
        (["record", "NoSuchTask-v0", "--out", "data"], "NoSuchTask"),
    ],
)
def test_a_wrong_command_line_gets_a_sentence(in_tmp, capsys, words, sentence):
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert sentence in err
