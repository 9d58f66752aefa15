"""Dreams never see what they predict, and equal a slow step-by-step computation of the definition."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from toys import DictEnv

import reverie
from reverie import cli
from reverie.errors import UserError
from reverie.insight.dream import dream, dream_of, find_starts
from reverie.insight.frames import frames, sheet
from reverie.insight.run_reader import Experience, Segment, open_run, private_generator
from reverie.insight.video import write_video
from reverie.rssm import State
from reverie.train import to_batch

CONTEXT, STEPS = 3, 8


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Images and vectors."""
    path = tmp_path_factory.mktemp("dream") / "run"
    reverie.Dreamer(DictEnv, preset="debug", run=path, tensorboard=False, video=False).learn(120, quiet=True)
    return path


@pytest.fixture(scope="module")
def opened(run):
    return open_run(run)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / "run"
    reverie.Dreamer("CartPole-v1", preset="debug", run=path, tensorboard=False).learn(150, quiet=True)
    return path


def windows(opened, seed=0):
    return find_starts(opened.experience, 2, context=CONTEXT, horizon=STEPS - CONTEXT, seed=seed)


def test_the_future_is_not_seen(opened):
    batch, valid = windows(opened)
    first = dream_of(opened.agent, batch, valid, context=CONTEXT, samples=2)
    rng = np.random.default_rng(1)
    obs = {key: value.copy() for key, value in batch.obs.items()}
    for value in obs.values():
        value[:, CONTEXT:] = rng.integers(0, 255, value[:, CONTEXT:].shape).astype(value.dtype)
    reward = batch.reward.copy()
    reward[:, CONTEXT:] = 99
    other = dream_of(opened.agent, batch._replace(obs=obs, reward=reward), valid, context=CONTEXT, samples=2)
    for key in first.dream:
        assert np.array_equal(first.dream[key], other.dream[key])
    for name in ("reward", "going_on", "value"):
        assert np.array_equal(getattr(first, name), getattr(other, name))
    obs = {key: value.copy() for key, value in batch.obs.items()}
    for value in obs.values():  # the last look
        value[:, CONTEXT - 1] = rng.integers(0, 255, value[:, CONTEXT - 1].shape).astype(value.dtype)
    seen = dream_of(opened.agent, batch._replace(obs=obs), valid, context=CONTEXT, samples=2)
    assert not np.array_equal(first.value[:, :, CONTEXT:], seen.value[:, :, CONTEXT:])


def test_it_is_the_definition_step_by_step(opened):
    agent, (batch, valid) = opened.agent, windows(opened)
    found = dream_of(agent, batch, valid, context=CONTEXT, seed=5)
    chance, rssm, model = private_generator(5), agent.world_model.rssm, agent.world_model
    tensors, feats = to_batch(batch), []
    looking = rssm.latent.noise(2, CONTEXT, generator=chance)
    dreaming = rssm.latent.noise(2, STEPS - CONTEXT, generator=chance)
    state = rssm.initial(2)
    for t in range(STEPS):
        first = torch.full((2,), t == 0)
        if t < CONTEXT:
            obs = {key: value[:, t] for key, value in tensors.obs.items()}
            state = model.observe(obs, tensors.action[:, t], first | tensors.is_first[:, t], state, looking[:, t])
        else:
            state = rssm.prior(rssm.recurrent_step(state, tensors.action[:, t]), dreaming[:, t - CONTEXT])
        feats.append(State(*(x if isinstance(x, torch.Tensor) else x.dense() for x in state)).feat)
    feat = torch.stack(feats, 1)
    np.testing.assert_allclose(found.reward[:, 0], model.head("reward")(feat).numpy(), atol=1e-4)
    np.testing.assert_allclose(found.value[:, 0], agent.critic(feat).numpy(), atol=1e-4)
    key = found.images[0]
    posterior = model.reconstruct(feat)[key].numpy().astype(int)
    assert np.abs(found.dream[key][:, 0].astype(int) - posterior).max() <= 1
    np.testing.assert_array_equal(found.action[:, 0, CONTEXT:], batch.action[:, CONTEXT:])


def test_actions_of_the_policy_and_of_chance(opened):
    batch, valid = windows(opened)
    for actions in ("policy", "random"):
        found = dream_of(opened.agent, batch, valid, context=CONTEXT, samples=3, actions=actions)
        assert not found.valid[:, CONTEXT:].any()
        assert np.isfinite(found.action[:, :, CONTEXT:]).all()
        again = dream_of(opened.agent, batch, valid, context=CONTEXT, samples=3, actions=actions)
        assert np.array_equal(found.action, again.action, equal_nan=True)
        assert all(value is None for value in found.to_dict()["mse"][found.images[0]][CONTEXT:])
    with pytest.raises(UserError, match="must be one of"):
        dream_of(opened.agent, batch, valid, context=CONTEXT, actions="mine")
    with pytest.raises(UserError, match="--context must be"):
        dream_of(opened.agent, batch, valid, context=STEPS)


def test_looking_at_a_run_draws_nothing_of_torch(opened):
    before = torch.get_rng_state()
    dream(opened, context=2, horizon=3, actions="policy")
    assert torch.equal(before, torch.get_rng_state())


def episodes_of(*lengths):
    first = np.concatenate([np.arange(length) == 0 for length in lengths])
    count = len(first)
    rows = {"is_first": first, "is_last": np.roll(first, -1), "is_terminal": np.zeros(count, bool)}
    rows |= {"reward": np.arange(count, dtype=np.float32), "action": np.zeros((count, 1), np.float32)}
    return Experience((Segment(rows | {"obs/x": np.arange(count, dtype=np.float32)[:, None]}),))


def test_windows_stay_in_their_episode():
    batch, valid = find_starts(episodes_of(4, 9, 3), 50, context=2, horizon=6)
    assert set(batch.reward[:, 0]) == {4, 5}  # the only places with 8 steps of one episode before them
    assert valid.all()
    batch, valid = find_starts(episodes_of(4, 9, 3), 50, context=2, horizon=20)
    assert set(batch.reward[:, 0]) == {4}
    assert valid.sum(1).tolist() == [9] * 50
    assert (batch.reward[:, 9:] == 12).all()
    batch, valid = find_starts(episodes_of(4, 9, 3), 500, context=3, horizon=20, anywhere=True)
    assert set(batch.reward[:, 0]) == {0, 1, 4, 5, 6, 7, 8, 9, 10, 13}
    with pytest.raises(UserError, match="no episode in the replay has more than 9 steps"):
        find_starts(episodes_of(4, 9, 3), 1, context=9, horizon=2)


def test_frames(opened, tmp_path):
    found = dream(opened, context=2, horizon=4, starts=3, samples=2)
    images = frames(found)
    assert len(images) == 6
    assert images[0].shape[0] % 2 == images[0].shape[1] % 2 == 0
    assert all((a != b).any() for a, b in pairwise(images))
    assert sheet(found).shape[2] == 3
    with Image.open(write_video(tmp_path / "x.gif", images)) as video_file:
        assert (video_file.n_frames, video_file.size[::-1]) == (6, images[0].shape[:2])
    av = pytest.importorskip("av")
    with av.open(str(write_video(tmp_path / "x.mp4", images))) as video:
        shown = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(shown) == 6
    assert np.abs(shown[3].astype(int) - images[3]).mean() < 15
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.gif", "x.mp4"]


def test_the_verb(run, vectors, tmp_path, capsys):
    assert cli.main(["dream", str(run), "--horizon", "4", "--context", "2", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["path"].endswith(".gif")
    assert len(printed["mse"]["camera"]) == 6
    for words, says in (
        (["-o", "x.avi"], "must end in"),
        (["--horizon", "0"], "--horizon must be above 0"),
        (["--key", "nose"], "no image observation 'nose'"),
        (["--actions", "mine"], "must be one of"),
        (["--context", "100"], "more than 100 steps"),
    ):
        assert cli.main(["dream", str(run), *words]) == 2
        assert says in capsys.readouterr().err
    assert cli.main(["dream", str(vectors), "-o", str(tmp_path / "v.gif")]) == 2
    assert "curves, no video" in capsys.readouterr().err
    assert cli.main(["dream", str(vectors), "-o", str(tmp_path / "v.png"), "--horizon", "5", "--context", "2"]) == 0
    with Image.open(tmp_path / "v.png") as image:
        assert image.size[0] > 300


def test_vectors_are_in_the_environments_units(tmp_path):
    """A model that decodes zeros means the average, not 0, where inputs were standardised."""
    path = tmp_path / "run"
    reverie.Dreamer("CartPole-v1", preset="debug", run=path, vector_transform="standardize", tensorboard=False).learn(
        120, quiet=True
    )
    model = open_run(path).agent.world_model
    (scale,) = model.standardizers.values()
    x = torch.randn(5, 4) * scale.deviation + scale.mean
    torch.testing.assert_close(scale.undo(scale(x)), x)
    feat = torch.zeros(2, model.rssm.feat_dim)
    key = model.scaled_keys[0]
    plain = next(value for name, value in model.heads.items() if name.endswith(key))(feat)
    torch.testing.assert_close(model.reconstruct_vectors(feat)[key], scale.undo(plain.float()))
