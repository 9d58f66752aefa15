"""Latent health, heads and critic: cases that can be computed by hand; looking changes nothing; what it costs."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from toys import CountingEnv, SpaceEnv

from reverie import UserError
from reverie.data.replay import Batch
from reverie.insight.plots import usage_map
from reverie.latents import Latent, class_usage, dead_share, perplexity, used_share
from reverie.rssm import CategoricalLatent, DiscreteRSSM, GaussianLatent
from reverie.run import health
from reverie.run.health import (
    brier,
    expected_calibration_error,
    explained,
    fit,
    kl_gradient_norms,
    known,
    realised_returns,
    snapshot,
)

CLOSE = {"atol": 1e-6, "rtol": 0}


def stats_of(probs):
    """(..., S, K) probabilities -> (..., S * K) logits."""
    return torch.tensor(probs, dtype=torch.float64).clamp(min=1e-30).log().flatten(-2).float()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0.25, 0.25, 0.25, 0.25]], 4.0),
        ([[1.0, 0.0, 0.0, 0.0]], 1.0),
        ([[0.5, 0.5, 0.0, 0.0]], 2.0),
        ([[0.5, 0.25, 0.25, 0.0]], 2 * 2**0.5),
        ([[1 / 32] * 32], 32.0),
        ([[1 / 16] * 16 + [0.0] * 16], 16.0),
    ],
    ids=["uniform", "one-hot", "half-dead", "by-hand", "uniform-32", "half-dead-32"],
)
def test_perplexity_by_hand(rows, expected):
    usage = class_usage(CategoricalLatent(1, len(rows[0])).class_probs(stats_of([[rows]])))
    torch.testing.assert_close(perplexity(usage).float(), torch.tensor([expected]), **CLOSE)


def test_two_episodes_that_use_different_classes_count_together():
    """Each state is sure of itself, all together use two classes equally: perplexity is of the average."""
    latent = CategoricalLatent(2, 4)
    first, second = [[1.0, 0, 0, 0], [0, 0, 0, 1.0]], [[0, 1.0, 0, 0], [0, 0, 0, 1.0]]
    usage = class_usage(latent.class_probs(stats_of([[first] * 3, [second] * 3])))
    torch.testing.assert_close(usage, torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1.0]]), **CLOSE)
    torch.testing.assert_close(perplexity(usage).float(), torch.tensor([2.0, 1.0]), **CLOSE)
    assert float(used_share(usage)) == 3 / 8
    assert float(dead_share(usage)) == 1 / 2


@pytest.mark.parametrize("latent", [CategoricalLatent(3, 5), CategoricalLatent(3, 5, unimix=0.05), GaussianLatent(4)])
def test_gradients_of_the_kl_are_those_of_autograd(latent):
    torch.manual_seed(0)
    raw = [2 * torch.randn(2, 3, latent.stats_dim) for _ in range(2)]
    found = kl_gradient_norms(latent, *raw)
    if isinstance(latent, GaussianLatent):
        sides = [torch.cat([mean, std.log()], -1) for mean, std in map(latent.mean_std, raw)]

        def kl(left, right):
            (m1, s1), (m2, s2) = (x.chunk(2, -1) for x in (left, right))
            s1, s2 = s1.exp(), s2.exp()
            return (torch.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5).sum(-1)
    else:
        sides = [latent.logits(x).flatten(-2) for x in raw]
        kl = CategoricalLatent(3, 5).kl
    sides = [side.detach().requires_grad_() for side in sides]
    value = kl(*sides)
    torch.testing.assert_close(value, latent.kl(*raw))
    value.sum().backward()
    for mine, side in zip(found, sides, strict=True):
        torch.testing.assert_close(mine, side.grad.norm(dim=-1).square().mean().sqrt())
    many = kl_gradient_norms(latent, *(x.repeat(5, 4, 1) for x in raw))
    torch.testing.assert_close(many, found)  # the batch's size does not matter


def test_both_directions_of_the_kl_by_hand():
    latent, q, p = CategoricalLatent(1, 2), [0.5, 0.5], [0.9, 0.1]
    forward = float(latent.kl(stats_of([q]), stats_of([p])))
    reverse = float(latent.kl(stats_of([p]), stats_of([q])))
    assert forward == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1), abs=1e-6)
    assert reverse == pytest.approx(0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5), abs=1e-6)


def test_calibration_by_hand():
    probs, came = torch.tensor([0.9, 0.9, 0.9, 0.1]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert float(brier(probs, came)) == pytest.approx((0.01 + 0.01 + 0.81 + 0.01) / 4, abs=1e-6)
    assert float(expected_calibration_error(probs, came)) == pytest.approx((0.7 + 0.1) / 4, abs=1e-6)
    assert float(expected_calibration_error(came, came)) == 0
    assert float(explained(torch.tensor([1.0, 2, 3]), torch.tensor([1.0, 2, 3]))) == 1
    assert float(explained(torch.tensor([2.0, 2, 2]), torch.tensor([1.0, 2, 3]))) == 0


def test_states_of_which_nothing_is_known_do_not_count():
    """Before a time limit the return is the value itself, which would flatter the critic."""
    rows = rows_of([1.0, 2, 3, 4], last=[0, 2], terminal=[2])
    assert known(rows, own_reward=True).tolist() == [[False, True, True, True]]
    assert known(rows, own_reward=False).tolist() == [[False, True, False, True]]


def test_fit_by_hand():
    """Predictions 2 x + 1 too wide: the truth follows with slope 1/2; a masked value does not count."""
    predicted, truth = torch.tensor([1.0, 3, 5, 99]), torch.tensor([0.0, 1, 2, -50])
    found = fit(predicted, truth, torch.tensor([1, 1, 1, 0]))
    assert [float(x) for x in found] == pytest.approx([2.0, 0.5, 1.0], abs=1e-6)
    still = fit(torch.ones(3), truth[:3], torch.ones(3))
    assert [float(x) for x in still] == [0, 0, 0]


def rows_of(reward, *, last=(), terminal=()):
    count = len(reward)
    flags = [np.zeros(count, bool) for _ in range(3)]
    flags[1][list(last)] = flags[2][list(terminal)] = True
    return Batch({}, torch.zeros(1, count, 1), torch.tensor([reward]), *(torch.from_numpy(x)[None] for x in flags))


def test_returns_by_hand():
    values = torch.tensor([[10.0, 20, 30, 40]])
    batch = rows_of([1.0, 2, 3, 4])
    got = realised_returns(batch, values, batch.reward, gamma=0.5, own_reward=True)
    assert got.tolist() == [[1 + 0.5 * (2 + 0.5 * (3 + 0.5 * 40)), 2 + 0.5 * (3 + 20), 3 + 20, 40]]
    got = realised_returns(batch, values, batch.reward, gamma=0.5, own_reward=False)
    assert got.tolist() == [[2 + 0.5 * (3 + 0.5 * (4 + 20)), 3 + 0.5 * (4 + 20), 4 + 20, 40]]
    ends = rows_of([1.0, 2, 3, 4], last=[1], terminal=[1])
    assert realised_returns(ends, values, ends.reward, gamma=0.5, own_reward=True).tolist()[0][:2] == [2, 2]
    assert realised_returns(ends, values, ends.reward, gamma=0.5, own_reward=False).tolist()[0][:2] == [2, 0]
    cut = rows_of([1.0, 2, 3, 4], last=[1])
    assert realised_returns(cut, values, cut.reward, gamma=0.5, own_reward=True).tolist()[0][:2] == [11, 20]


# -------------------------------------------------------------------------------------------------------------- in runs


@pytest.mark.parametrize("options", [{}, {"latents": "gaussian"}, {"critic_distribution": "twohot"}])
def test_looking_draws_nothing_and_changes_nothing(make_run, tmp_path, options):
    run = make_run(tmp_path / "run", **options)
    run.train()
    batch = run.agent.guard.cases["world model"].batch
    before = torch.get_rng_state(), {key: value.clone() for key, value in run.agent.state_dict().items()}
    first, again = snapshot(run.agent, batch, seed=3), snapshot(run.agent, batch, seed=3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(before[1][key], value) for key, value in run.agent.state_dict().items())
    assert first.numbers == again.numbers
    assert all(np.isfinite(value) for value in first.numbers.values())
    assert (first.usage is None) == (options.get("latents") == "gaussian")


def test_every_part_of_an_action_has_its_entropy(make_run, tmp_path):
    actions = gym.spaces.Dict(a=gym.spaces.Discrete(3), b=gym.spaces.Box(-1, 1, (2,)))
    seen = gym.spaces.Box(-1, 1, (3,))
    run = make_run(tmp_path / "run", lambda: gym.wrappers.TimeLimit(SpaceEnv(seen, actions), 20), health_every=1)
    run.train()
    parts = len(run.spec.action.parts)
    found = snapshot(run.agent, run.agent.guard.cases["world model"].batch).numbers
    assert [key for key in found if "entropy_part" in key] == [f"actor/entropy_part{i}" for i in range(parts)]


def test_a_run_looks_every_so_many_updates(make_run, tmp_path, monkeypatch):
    seeds = []
    monkeypatch.setattr(health, "snapshot", lambda agent, batch, *, seed: seeds.append(seed) or snapshot(agent, batch))
    run = make_run(tmp_path / "run", CountingEnv, health_every=3, log_every=1e-9)
    run.train()
    assert seeds == list(range(3, run.clock.updates + 1, 3))
    told = json.loads((tmp_path / "run" / "latents.json").read_text())
    assert told["updates"] == seeds[-1]
    usage = np.array(told["usage"])
    assert usage.shape == (run.config.model.num_categoricals, run.config.model.num_categories)
    np.testing.assert_allclose(usage.sum(1), 1, atol=1e-2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum("latent/perplexity" in line for line in lines) >= 2
    seeds.clear()
    make_run(tmp_path / "none", CountingEnv, health_every=0).train()
    assert seeds == []


class OwnLatent(Latent):
    """A user's latent, with the five methods that are asked for and no more."""

    def __init__(self, inner):
        self.inner = inner
        self.stoch_dim = inner.stoch_dim
        self.stats_dim = inner.stats_dim

    def noise(self, *batch, device=None, generator=None):
        return self.inner.noise(*batch, device=device, generator=generator)

    def sample(self, stats, noise):
        return self.inner.sample(stats, noise)

    def mode(self, stats):
        return self.inner.mode(stats)

    def kl(self, left, right):
        return self.inner.kl(left, right)

    def entropy(self, stats):
        return self.inner.entropy(stats)


@pytest.mark.parametrize("mode", ["reference", "fast"])
def test_a_latent_of_your_own_has_the_numbers_that_need_no_classes(make_run, tmp_path, mode):
    run = make_run(tmp_path / "run", **{"compute.mode": mode, "health_every": 1})
    run.agent.world_model.rssm.latent = OwnLatent(run.agent.world_model.rssm.latent)
    run.train()
    found = snapshot(run.agent, run.agent.guard.cases["world model"].batch)
    assert found.usage is None
    assert "kl/loss" in found.numbers
    assert "kl/grad_prior" not in found.numbers
    assert not any(key.startswith("latent/") for key in found.numbers)


def test_a_latent_that_is_no_latent_is_refused_at_once():
    with pytest.raises(TypeError, match=r"subclass of reverie\.latents\.Latent, got object"):
        DiscreteRSSM(2, 3, latent=object())


def test_numbers_that_are_none_are_left_out(make_run, tmp_path):
    run = make_run(tmp_path / "run", health_every=1)
    run.train()
    batch = run.agent.guard.cases["world model"].batch
    for value in batch.obs.values():
        value[:] = torch.nan
    before = (tmp_path / "run" / "latents.json").read_bytes()
    follower = health.HealthMonitor(tmp_path / "run", 1, lambda: None)
    follower.after_update(run.agent, batch, updates=1, env_steps=1)
    numbers = follower.take()
    assert all(map(np.isfinite, numbers.values()))
    assert "kl/loss" not in numbers
    assert "reward/symlog_min" in numbers
    assert (tmp_path / "run" / "latents.json").read_bytes() == before


def test_the_usage_map_needs_no_display(tmp_path):
    rows = [[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]]
    (tmp_path / "latents.json").write_text(json.dumps({"env_steps": 12, "updates": 3, "usage": rows}))
    assert usage_map(tmp_path) == tmp_path / "latents.png"
    assert (tmp_path / "latents.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert usage_map(tmp_path, to=tmp_path / "other.png").exists()
    for text in ("", "[]", '{"env_steps": 1, "usage": [[1, null]]}', '{"env_steps": 1, "usage": []}'):
        (tmp_path / "latents.json").write_text(text)
        with pytest.raises(UserError, match="cannot read"):
            usage_map(tmp_path)
    (tmp_path / "latents.json").unlink()
    with pytest.raises(UserError, match="has not been measured yet"):
        usage_map(tmp_path)
