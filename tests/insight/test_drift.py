"""Drift: windows, curves by hand, an oracle that never drifts, and one with the wrong actions."""

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reverie
from reverie.cli import main
from reverie.config import build
from reverie.config.presets import load_preset
from reverie.data.replay import Batch
from reverie.errors import UserError
from reverie.insight.drift import (
    CONTEXT,
    MOST_PIXELS,
    STARTS,
    Drift,
    dreams_of,
    drift,
    measure,
    open_loop,
    sample_windows,
    ssim,
)
from reverie.insight.horizon import _end_of_longest, useful_horizon, useful_interval
from reverie.insight.run_reader import Experience, Segment, open_run
from reverie.rssm import State
from reverie.train import DreamerV2, to_batch

SIZE = 8  # places of the ring that the oracle's world is


class Certain:
    """A latent that is what it is: statistics are the state; KL is the squared distance."""

    def noise(self, *batch, device=None, generator=None):
        return torch.zeros(*batch, 1)

    def kl(self, left, right):
        return ((left - right) ** 2).sum(-1)


class RingDynamics(nn.Module):
    """The position on the ring is the deterministic state. Action 0 stays, action 1 moves on by one."""

    latent = Certain()

    def recurrent_step(self, state, action):
        return torch.stack([p.roll(1) if a[1] > 0.5 else p for p, a in zip(state.deter, action, strict=True)])

    def prior(self, deter, noise=None):
        return State(deter, torch.zeros(*deter.shape[:-1], 1), deter)

    def rollout_observation(self, embed, action, is_first, state=None, noise=None):
        return State(embed, torch.zeros(*embed.shape[:-1], 1), embed), embed


class Ring(nn.Module):
    """A world model that knows the ring: an image of SIZE x SIZE with one bright row, reward and end at place 0."""

    mask_key = ""

    def __init__(self):
        super().__init__()
        self.rssm, self.heads = RingDynamics(), {"obs/image": self.draw, "reward": self.pays, "continue": self.pays}

    @staticmethod
    def draw(feat):
        return feat[..., None, 1:, None].expand(*feat.shape[:-1], 1, SIZE, SIZE) - 0.5

    @staticmethod
    def pays(feat):
        return feat[..., 1]

    def head(self, name):
        return self.heads[name]

    def continues(self, feat):
        return 1 - feat[..., 1]

    def preprocess(self, obs):
        return {"image": obs["image"].movedim(-1, -3).float() / 255 - 0.5}

    def encoder(self, obs):
        return obs["image"][..., 0, :, 0] + 0.5


def ring_stretch(steps=400, seed=0):
    """Random walks on the ring from random places, until place 0 is reached."""
    rng = np.random.default_rng(seed)
    rows = {key: [] for key in ("obs/image", "action", "reward", "is_first", "is_last", "is_terminal")}
    place = 0
    for _ in range(steps):
        first = place == 0
        go = int(rng.random() < 0.4)
        place = int(rng.integers(1, SIZE)) if first else (place + go) % SIZE
        image = np.zeros((SIZE, SIZE, 1), np.uint8)
        image[place] = 255
        action = np.full(2, np.nan, np.float32) if first else np.eye(2, dtype=np.float32)[go]
        end = place == 0
        values = (image, action, np.float32(end), first, end, end)
        for key, value in zip(rows, values, strict=True):
            rows[key].append(value)
    return Segment({key: np.stack(value) for key, value in rows.items()})


@pytest.fixture(scope="module")
def ring():
    experience = Experience((ring_stretch(),))
    arrays, valid = sample_windows(experience, 64, context=2, horizon=8)
    return Ring(), to_batch(arrays), torch.from_numpy(valid)


def numbers(curve):
    return [value for value in curve if value is not None]


def test_an_oracle_never_drifts(ring):
    found = measure(*ring, load_preset("debug", {"reward_transform": "none"}))
    assert max(numbers(found.latent_kl)) == 0
    assert max(numbers(found.error["dream"])) < 1e-12
    assert max(numbers(found.observations["image"]["mse"]["dream"])) < 1e-12
    assert set(numbers(found.observations["image"]["psnr"]["dream"])) == {100.0}
    assert min(numbers(found.observations["image"]["ssim"]["dream"])) > 1 - 1e-6
    assert max(numbers(found.reward["dream"])) == max(numbers(found.continues["dream"])) == 0
    assert min(numbers(found.error["copy"])) > 0.1
    assert found.returns["correlation"] == pytest.approx(1)
    assert found.returns["bias"] == 0
    assert found.useful_horizon == found.reach == 8
    assert found.warning == ""


def test_actions_that_are_one_step_off_make_it_drift(ring):
    model, batch, valid = ring
    config = load_preset("debug", {"reward_transform": "none", "imagination_horizon": 8})
    right = measure(model, batch, valid, config)
    wrong = measure(model, batch._replace(action=batch.action.roll(-1, 1).nan_to_num()), valid, config)
    assert numbers(wrong.latent_kl)[-1] > 2 * numbers(right.latent_kl)[-1]
    assert numbers(wrong.latent_kl)[-1] > 0.1
    assert numbers(wrong.error["dream"])[-1] > 0.1


def test_a_random_model_is_worse_than_a_copy_and_the_user_is_warned():
    from reverie.envs.actions import ActionSpec
    from reverie.envs.spaces import ObsKey, Spec

    shape = (SIZE, SIZE, 1)
    spec = Spec({"image": ObsKey(("image",), "image", shape, shape, "hwc")}, ActionSpec.discrete(2))
    torch.manual_seed(0)
    agent = DreamerV2(load_preset("debug", {"imagination_horizon": 8}), spec)
    arrays, valid = sample_windows(Experience((ring_stretch(),)), 64, context=2, horizon=8)
    found = measure(agent.world_model, to_batch(arrays), torch.from_numpy(valid), agent.config)
    assert found.error["dream"][0] > found.error["copy"][0]
    assert found.useful_horizon == 0
    assert "imagination_horizon is 8" in found.warning


def test_windows_lie_in_one_episode_and_actions_are_nan_only_at_first_steps():
    experience = Experience((ring_stretch(), ring_stretch(37, seed=1)))
    batch, valid = sample_windows(experience, 200, context=3, horizon=6, seed=4)
    assert valid[:, 0].all()
    assert (valid[:, :-1] >= valid[:, 1:]).all()  # once an episode has ended nothing comes
    assert not batch.is_first[:, 1:].any()
    assert np.array_equal(np.isnan(batch.action).any(-1), batch.is_first)
    ended = batch.is_last[:, 3:]
    assert (valid & ended).sum(1).max() == 1  # the last step is one of them, and the only last one
    assert ended[~valid].all() or not valid.all()
    places = batch.obs["image"][:, :, :, 0, 0].argmax(-1)
    moved = (places[:, 1:] - places[:, :-1]) % SIZE
    steps = np.concatenate([np.ones((200, 2), bool), valid], 1)
    assert np.array_equal(moved[steps], batch.action[:, 1:][steps].argmax(-1))  # time: the action INTO the step
    with pytest.raises(UserError, match="longer than 300 steps"):
        sample_windows(experience, 2, context=300, horizon=1)


def test_the_open_loop_never_looks(make_run, tmp_path):
    run = make_run(tmp_path / "run")
    run.train()
    opened = open_run(tmp_path / "run")
    model = opened.agent.world_model
    state = State(*(x[:2] for x in (torch.rand(2, 16), torch.eye(16)[:2], torch.rand(2, 16))))
    actions = torch.eye(3)[torch.randint(0, 3, (2, 5))]
    noise = model.rssm.latent.noise(2, 5)
    dream = open_loop(model, state, actions, noise)
    assert dream.deter.shape == (2, 5, 16)
    step = model.rssm.prior(model.rssm.recurrent_step(state, actions[:, 0]), noise[:, 0])
    torch.testing.assert_close(dream.deter[:, 0], step.deter)  # with and without gradients: other kernels
    assert torch.equal(dream.stoch[:, 0], step.stoch)
    other = actions.clone()
    other[:, 3] = other[:, 3].roll(1, -1)
    changed = open_loop(model, state, other, noise)
    assert torch.equal(changed.deter[:, :3], dream.deter[:, :3])
    assert not torch.equal(changed.deter[:, 3], dream.deter[:, 3])


def test_ssim_by_hand():
    flat, bright = torch.zeros(2, 1, 8, 8), torch.full((2, 1, 8, 8), 0.5)
    assert torch.allclose(ssim(flat, flat), torch.ones(2))
    assert torch.allclose(ssim(flat, bright), torch.full((2,), 1e-4 / (0.25 + 1e-4)), atol=1e-6)
    checks = ((torch.arange(8)[:, None] + torch.arange(8)) % 2).float().expand(1, 1, 8, 8)
    pair = ssim(checks, 1 - checks)
    assert pair.shape == (1,)
    assert -1 <= float(pair) < -0.9


def curves(dream, copy, mean, windows=16):
    spread = torch.linspace(-0.01, 0.01, windows)[:, None]
    return {
        name: torch.tensor(values) + spread * (i + 1)
        for i, (name, values) in enumerate({"dream": dream, "copy": copy, "mean": mean}.items())
    }


def test_the_useful_horizon_is_where_the_longest_stretch_of_better_dreams_ends():
    ones = [1.0] * 8
    valid = torch.ones(16, 8, dtype=torch.bool)
    assert useful_horizon(curves([0.2, 0.3, 0.4, 0.5, 0.6, 1.4, 1.6, 1.8], ones, ones), valid) == 5
    assert useful_horizon(curves([1.5] * 8, ones, ones), valid) == 0
    assert useful_horizon(curves(ones, ones, ones), valid) == 0  # as good as guessing is not better
    late = curves([0.5] * 8, [0.1, 0.1, 0.8, 1, 1, 1, 1, 1], ones)  # at first a copy is better
    assert useful_horizon(late, valid) == 8
    assert useful_horizon(curves([0.5] * 8, ones, [0.2] * 8), valid) == 0  # the average is a guess, too
    few = valid.clone()
    few[4:, 3:] = False  # too few windows reach later horizons
    assert useful_horizon(curves([0.2] * 8, ones, ones), few) == 3
    assert useful_horizon(curves([0.0] * 8, [0.0] * 8, [0.0] * 8), valid) == 8  # the KL is 0, the best possible
    assert _end_of_longest([True, False, True, True, True, False, True]) == 5
    assert _end_of_longest([]) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("drift") / "run"
    reverie.Dreamer("CartPole-v1", preset="debug", run=path).learn(env_steps=400, quiet=True)
    return path


def test_the_verb_prints_writes_and_changes_nothing(run, tmp_path, capsys, files_of):
    before = files_of(run)
    assert main(["drift", str(run), "--horizon", "6", "-o", str(tmp_path / "a" / "drift.png")]) == 0
    said = capsys.readouterr().out
    assert "useful horizon = " in said
    assert (tmp_path / "a" / "drift.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["drift", str(run), "--horizon", "6", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["horizon"] == 6
    assert len(printed["latent_kl"]) == 6
    assert printed["observations"].keys() == {"observation"}
    assert printed["starts"][0] == STARTS
    low, high = printed["useful_interval"]
    assert 0 <= low <= high <= 6
    assert math.isfinite(printed["error"]["dream"][0])
    again = drift(open_run(run), horizon=6)
    assert again.to_dict() == {key: printed[key] for key in again.to_dict()}  # the same each time
    assert files_of(run) == before
    assert main(["drift", str(tmp_path / "nothing")]) == 2
    assert main(["drift", str(run), "--context", "100000"]) == 2


def test_the_doctor_and_the_report_measure_the_same_dreams(run, monkeypatch):
    """One checkpoint has one useful horizon, whoever asks."""
    from reverie.insight import report
    from reverie.insight.doctor import measure as examine

    opened = open_run(run)
    whole = drift(opened, similarity=False).to_dict()
    assert examine(opened.agent, opened.need_experience()).drift.to_dict() == whole
    drawn = []
    monkeypatch.setattr(report.plots, "drift_svg", lambda found: drawn.append(found) or "")
    report._drift(open_run(run))
    assert drawn[0].useful_interval == tuple(whole["useful_interval"])
    assert drawn[0].starts == whole["starts"]


def test_large_images_are_dreamed_less_often():
    def experience(*shape):
        rows = {"obs/image": np.zeros((4, *shape), np.uint8), "reward": np.zeros(4, np.float32)}
        return Experience((Segment(rows),))

    assert dreams_of(experience(), 15) == dreams_of(experience(8, 8, 1), 15) == STARTS
    assert dreams_of(experience(28, 28, 3), 15) == int(MOST_PIXELS / (28 * 28 * 3 * 15)) < STARTS
    assert dreams_of(experience(512, 512, 3), 15) == 64
    assert CONTEXT == 5


def test_an_interval_that_reaches_the_imagination_is_no_warning():
    empty = {key: {} for key in ("observations", "error", "reward", "continues", "returns")}
    base = {"latent_kl": [], "imagination_horizon": 15} | empty
    sure = Drift(15, 5, [40] * 15, useful_horizon=4, useful_interval=(3, 6), **base)
    unsure = Drift(15, 5, [40] * 15, useful_horizon=4, useful_interval=(3, 15), **base)
    assert "for 4 (95 %: 3 to 6, 40 dreams) steps only" in sure.warning
    assert unsure.warning == ""
    valid = torch.ones(64, 8, dtype=torch.bool)
    ones = torch.ones(64, 8)
    noisy = ones + torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    low, high = useful_interval({"dream": noisy, "copy": ones, "mean": ones}, valid)
    assert low < high  # no better than guessing, on the whole: the draw decides
    assert useful_interval({"dream": 0.2 * ones, "copy": ones, "mean": ones}, valid) == (8, 8)


def test_latent_kl_by_hand(ring):
    """Two windows whose dreams stay where they are: the distance of one-hots is 2 where the truth moved on."""
    model, _, _ = ring
    image = np.zeros((1, 3, SIZE, SIZE, 1), np.uint8)
    image[0, [0, 1, 2], [3, 4, 5]] = 255
    stay = torch.tensor([[[math.nan, math.nan], [1.0, 0.0], [1.0, 0.0]]])
    first = torch.tensor([[True, False, False]])
    no = torch.zeros(1, 3, dtype=torch.bool)
    batch = Batch({"image": torch.from_numpy(image)}, stay, torch.zeros(1, 3), first, no, no)
    found = measure(model, batch, torch.ones(1, 2, dtype=torch.bool), build({"reward_transform": "none"}))
    assert found.latent_kl == [2.0, 2.0]
    assert isinstance(batch.reward, Tensor)
