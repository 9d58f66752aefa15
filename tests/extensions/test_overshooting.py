"""Losses several steps ahead: against a loop in NumPy, at depth 1, at first steps, off, and on the fast path."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reference import overshooting as reference
from reference.derivative import gradient, gradients
from reference.fixture import Random

from reverie.config.presets import load_preset
from reverie.data.replay import Batch
from reverie.envs.actions import ActionSpec
from reverie.envs.spaces import ObsKey, Spec
from reverie.errors import UserError
from reverie.extensions.overshooting import (
    DEPTHS,
    FIRST,
    Overshooting,
    ahead,
    by_depth,
    choose_starts,
    depth_weights,
    roll_out,
    steps_at,
)
from reverie.insight.glossary import find
from reverie.rssm import DiscreteRSSM, State
from reverie.train import DreamerV2

B, T = 2, 6
O = {"activation": "elu", "latents": "categorical", "num_categoricals": 2, "num_categories": 3, "unimix": 0.0}  # noqa: E741
OFF = {"overshooting": 0.0, "open_loop_heads": 0.0}


def case():
    """Weights of a small RSSM and posterior states as the reference sees them; an episode begins within a sequence."""
    r = Random("overshooting")
    nets = {
        "input_net": r.mlp(8, None, layers=1, hidden=4, norm="layer"),
        "gru": r.gru(4, 3, "norm_gru", "layer"),
        "prior_net": r.mlp(3, 6, layers=1, hidden=4, norm="layer"),
        "posterior_net": r.mlp(7, 6, layers=1, hidden=4, norm="layer"),
    }
    weights = {f"{net}.{name}": w for net, named in nets.items() for name, w in named.items()}
    action, is_first = r.one_hot(B, T, 2), np.zeros((B, T), bool)
    is_first[0, 0] = is_first[1, 3] = True
    action[is_first] = np.nan
    posterior = r.normal(B, T, 3), r.one_hot(B, T, 2, 3).reshape(B, T, 6), r.normal(B, T, 6, scale=2)
    return weights, posterior, action, is_first


def rssm_with(weights, noise):
    rssm = DiscreteRSSM(2, 4, num_categoricals=2, num_categories=3, rnn_hidden_dim=3, hidden_dim=4).double()
    rssm.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
    rssm.latent.noise = lambda *_, **__: torch.tensor(noise)
    return rssm


def batch_of(action, is_first):
    never = torch.zeros(is_first.shape, dtype=torch.bool)
    return Batch({}, torch.tensor(action), torch.zeros(is_first.shape), torch.tensor(is_first), never, never)


# ----------------------------------------------------------------------------------------------------------- reference


@pytest.mark.parametrize(
    ("depth", "decay", "free_nats", "free_avg"),
    [(2, 1.0, 0.0, True), (4, 1.0, 0.0, False), (4, 0.75, 0.9, False), (5, 0.75, 0.0, True), (4, 1.0, 50.0, True)],
)
def test_value_and_gradients_are_those_of_the_loop_in_numpy(depth, decay, free_nats, free_avg):
    weights, posterior, action, is_first = case()
    noise = Random("noise").uniform(B * T, depth, 2)
    rows = list(np.ndindex(B, T))
    options = {"depth": depth, "decay": decay, "free_nats": free_nats, "free_avg": free_avg}

    def slow(weights, posterior):
        return reference.loss(O, weights, posterior, action, is_first, rows, noise, first=2, **options)

    rssm = rssm_with(weights, noise)
    deter, stoch, stats = (torch.tensor(x).requires_grad_() for x in posterior)
    beyond = Overshooting(kl_weight=1.0, starts=0, **options)
    loss, _ = beyond(SimpleNamespace(rssm=rssm), State(deter, stoch, stats), batch_of(action, is_first), {})
    assert float(loss.detach()) == pytest.approx(float(np.real(slow(weights, posterior))), abs=1e-6)
    learnt = ["input_net.0.weight", "gru.gates.weight", "prior_net.0.weight", "prior_net.3.bias"]
    wanted = gradients(lambda w: slow(w, posterior), weights, only=learnt)
    if not loss.requires_grad or free_nats == 50.0:
        assert not any(x.any() for x in wanted.values())
        return
    loss.backward()
    found = dict(rssm.named_parameters())
    for name, slope in wanted.items():
        np.testing.assert_allclose(found[name].grad.numpy(), slope, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(
        deter.grad.numpy(), gradient(lambda x: slow(weights, (x, *posterior[1:])), posterior[0]), atol=1e-6
    )
    np.testing.assert_allclose(
        stoch.grad.numpy(), gradient(lambda x: slow(weights, (posterior[0], x, posterior[2])), posterior[1]), atol=1e-6
    )
    assert stats.grad is None or not stats.grad.any()  # targets are stopped
    assert found["posterior_net.0.weight"].grad is None


def test_gradients_end_at_the_start_if_asked_for():
    weights, posterior, action, is_first = case()
    noise = Random("noise").uniform(B * T, 3, 2)
    deter, stoch, stats = (torch.tensor(x).requires_grad_() for x in posterior)
    beyond = Overshooting(kl_weight=1.0, starts=0, depth=3, start_grad=False)
    rssm = rssm_with(weights, noise)
    beyond(SimpleNamespace(rssm=rssm), State(deter, stoch, stats), batch_of(action, is_first), {})[0].backward()
    assert deter.grad is None
    assert stoch.grad is None
    assert rssm.input_net[0].weight.grad.abs().sum() > 0


# -------------------------------------------------------------------------------------------------------------- agents


def spec_of(images=True):
    obs = {"state": ObsKey(("state",), "vector", (3,), (3,), "")}
    if images:
        obs["image"] = ObsKey(("image",), "image", (8, 8, 1), (8, 8, 1), "hwc")
    return Spec(obs, ActionSpec.discrete(3))


def agent_with(mode="reference", images=True, **settings):
    torch.manual_seed(0)
    defaults = {"compute.mode": mode, "train.seq_len": 12, "model.free_nats": 0.0, "model.overshooting_depth": 8}
    return DreamerV2(
        load_preset("debug", defaults | {f"model.{key}": value for key, value in settings.items()}), spec_of(images)
    )


def random_batch(images=True, length=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    is_first = torch.rand(4, length, generator=generator) < 0.15
    is_first[1] = False
    action = torch.eye(3)[torch.randint(3, (4, length), generator=generator)]
    action[is_first] = torch.nan
    obs = {"state": torch.randn(4, length, 3, generator=generator)}
    if images:
        obs["image"] = torch.randint(0, 256, (4, length, 8, 8, 1), generator=generator, dtype=torch.uint8)
    reward = torch.randn(4, length, generator=generator).masked_fill(is_first, 0)
    last = torch.cat([is_first[:, 1:], torch.zeros(4, 1, dtype=torch.bool)], 1)
    return Batch(obs, action, reward, is_first, last, last)


def test_at_depth_one_it_is_the_prior_term_of_the_model_loss():
    agent, batch = agent_with(images=False), random_batch(images=False)
    model = agent.world_model
    posterior, prior = model.rssm.rollout_observation(
        model.encoder(model.preprocess(batch.obs)), batch.action, batch.is_first
    )
    known = torch.cat([torch.zeros(4, 1, dtype=torch.bool), ~batch.is_first[:, 1:]], 1)
    base = model.rssm.latent.kl(posterior.stats.detach(), prior)[known].mean()
    rows = choose_starts(batch.is_first, 0)
    at, valid = ahead(batch.is_first, rows, 1)
    state = roll_out(
        model.rssm, State(*(x[rows] for x in posterior.flatten())), steps_at(batch.action, at), valid=valid
    )
    kl = model.rssm.latent.kl(steps_at(posterior.stats.detach(), at), state.stats)
    (found,) = by_depth(kl, valid, 0.0, average=True) * depth_weights(1, 1.0, kl.device)
    assert valid.sum() == known.sum() > 20
    assert float(found.detach()) == pytest.approx(float(base.detach()), abs=1e-6)
    parameters = [p for net in (model.rssm.prior_net, model.rssm.gru, model.rssm.input_net) for p in net.parameters()]
    for mine, theirs in zip(
        *(torch.autograd.grad(x, parameters, retain_graph=True) for x in (found, base)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_nothing_passes_the_beginning_of_an_episode():
    """What is behind a first step has no gradient, and may be anything."""
    agent = agent_with(images=False)
    model, length = agent.world_model, 10
    is_first = torch.zeros(1, length, dtype=torch.bool)
    is_first[0, 6] = True
    action = torch.eye(3)[torch.randint(3, (1, length))].requires_grad_()
    stats = torch.randn(1, length, model.rssm.latent.stats_dim)
    start = State(torch.randn(1, length, 16), torch.randn(1, length, 16), stats)
    beyond = Overshooting(kl_weight=1.0, starts=0, depth=5, decay=0.75)

    def loss(start, action):
        torch.manual_seed(3)
        batch = Batch({}, action, torch.zeros(1, length), is_first, is_first, is_first)
        beyond_starts = State(*(torch.cat([x[:, :6], x[:, 6:].detach()], 1) for x in start))
        return beyond(model, beyond_starts, batch, {})[0]

    first = loss(start, action)
    (slope,) = torch.autograd.grad(first, action)
    assert not slope[0, 6].any()  # of the first step: there is no action into it
    assert slope[0, 2:6].abs().sum() > 0
    at, valid = ahead(is_first, torch.arange(length), 5)
    assert valid[:6].sum(1).tolist() == [5, 4, 3, 2, 1, 0]
    assert valid[6:].sum(1).tolist() == [3, 2, 1, 0]
    early = roll_out(model.rssm, State(*(x[0, :6] for x in start)), steps_at(action, at[:6]), valid=valid[:6])
    kl = torch.where(valid[:6], model.rssm.latent.kl(steps_at(stats, at[:6]), early.stats), 0)
    (slope,) = torch.autograd.grad(kl.sum(), action)
    assert not slope[0, 6:].any()
    changed = stats.clone()
    changed[0, 6:] = 7.0
    again = torch.where(valid[:6], model.rssm.latent.kl(steps_at(changed, at[:6]), early.stats), 0)
    assert torch.equal(kl, again)
    nan = action.detach().clone()
    nan[0, 6] = torch.nan
    assert torch.equal(loss(start, nan), first)


def test_targets_do_not_learn():
    """Otherwise the posterior would be drawn to what an open loop can guess."""
    agent, batch = agent_with(images=False), random_batch(images=False)
    model = agent.world_model
    obs = model.preprocess(batch.obs)
    posterior, _ = model.rssm.rollout_observation(model.encoder(obs), batch.action, batch.is_first)
    beyond = Overshooting(kl_weight=1.0, starts=0, depth=4, start_grad=False)
    loss, _ = beyond(model, posterior, batch, obs)
    slopes = torch.autograd.grad(loss, list(model.encoder.parameters()), allow_unused=True)
    assert all(slope is None or not slope.any() for slope in slopes)


def test_off_means_that_nothing_is_different():
    plain, batch = agent_with(), random_batch()
    off = agent_with(**OFF, overshooting_depth=3, overshooting_starts=1)
    assert plain.world_model.beyond is off.world_model.beyond is None
    on = agent_with(overshooting=0.1, open_loop_heads=1.0)
    assert plain.state_dict().keys() == on.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), on.state_dict().values(), strict=True))
    for agent in (plain, off):
        torch.manual_seed(5)
        agent.update(batch)
        agent.drawn = torch.rand(1)
    assert torch.equal(plain.drawn, off.drawn)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), off.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {"overshooting": 0.5},
        {"open_loop_heads": 1.0},
        {"overshooting": 0.5, "open_loop_heads": 1.0, "latents": "gaussian"},
    ],
)
def test_the_fast_path_computes_the_same(settings):
    batch, losses, slopes = random_batch(), [], []
    for mode in ("reference", "fast"):
        agent = agent_with(mode, **settings, overshooting_starts=20)
        torch.manual_seed(4)
        loss, _, metrics = agent.world_model_loss(batch)
        loss.backward()
        losses.append(metrics)
        slopes.append({name: p.grad for name, p in agent.world_model.named_parameters() if p.grad is not None})
    assert losses[0].keys() == losses[1].keys()
    for key, value in losses[0].items():
        torch.testing.assert_close(value, losses[1][key], rtol=1e-4, atol=1e-4, msg=key)
    assert slopes[0].keys() == slopes[1].keys()
    for name, slope in slopes[0].items():
        torch.testing.assert_close(slope, slopes[1][name], rtol=1e-3, atol=1e-4, msg=name)


def test_heads_pay_for_the_real_steps_ahead():
    """A reward head that always answers 0, and rewards that count the steps: each error is known by hand."""
    agent, batch = agent_with(images=False), random_batch(images=False, length=12)
    batch = batch._replace(
        is_first=torch.zeros(4, 12, dtype=torch.bool), is_terminal=torch.zeros(4, 12, dtype=torch.bool)
    )
    batch = batch._replace(reward=torch.arange(12.0).expand(4, 12), action=batch.action.nan_to_num())
    model = agent.world_model
    obs = model.preprocess(batch.obs)
    posterior, _ = model.rssm.rollout_observation(model.encoder(obs), batch.action, batch.is_first)
    head = model.head("reward")
    for parameter in head.parameters():
        parameter.data.zero_()  # predicts 0
    _, metrics = Overshooting(head_weight=1.0, starts=0, depth=8)(model, posterior, batch, obs)
    known = model.targets(batch, obs)["reward"]
    expected = []
    for d in (1, 2, 4, 8):
        feat = torch.zeros(4, 12 - d, model.rssm.feat_dim)
        expected.append(head.loss(feat, known[:, d:]).mean().detach())
    assert float(metrics["open_loop_reward_loss"]) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-5)
    assert "overshooting_kl" not in metrics


def test_images_are_decoded_once_per_start(monkeypatch):
    agent, batch = agent_with(open_loop_heads=1.0, overshooting_starts=7), random_batch()
    rows = []
    head, loss = agent.world_model.head("obs/image"), type(agent.world_model.head("obs/image")).loss
    monkeypatch.setattr(
        type(head), "loss", lambda self, feat, target: rows.append(tuple(feat.shape[:2])) or loss(self, feat, target)
    )
    vector, vector_loss = [], type(agent.world_model.head("obs/state")).loss
    monkeypatch.setattr(
        type(agent.world_model.head("obs/state")), "loss",
        lambda self, feat, target: vector.append(tuple(feat.shape[:2])) or vector_loss(self, feat, target),
    )  # fmt: skip
    agent.world_model_loss(batch)
    assert rows == [(4, 12), (7, 1)]
    assert vector == [(4, 12), (7, len([d for d in DEPTHS if d <= 8]))]


def test_detached_heads_do_not_shape_the_state_at_depth_either():
    batch = random_batch(images=False)
    agent = agent_with(images=False, detached_heads="obs,reward,continue", open_loop_heads=1.0)
    model = agent.world_model
    obs = model.preprocess(batch.obs)
    posterior, _ = model.rssm.rollout_observation(model.encoder(obs), batch.action, batch.is_first)
    loss, _ = model.beyond(model, posterior, batch, obs)
    slopes = torch.autograd.grad(loss, list(model.rssm.parameters()), allow_unused=True)
    assert all(slope is None or not slope.any() for slope in slopes)


@pytest.mark.parametrize("settings", [{"overshooting": 1.0}, {"open_loop_heads": 1.0}])
def test_the_losses_teach_the_dynamics_and_are_explained(settings):
    agent, batch = agent_with(**settings, overshooting_growth=10), random_batch()
    without = agent_with()
    metrics = agent.update(batch)
    more = [key for key in metrics if key not in without.update(batch)]
    assert more
    assert all(find(key) for key in more), more
    assert all(torch.isfinite(value).all() for value in metrics.values())
    model, obs = agent.world_model, agent.world_model.preprocess(batch.obs)
    posterior, _ = model.rssm.rollout_observation(model.encoder(obs), batch.action, batch.is_first)
    loss, _ = model.beyond(model, posterior, batch, obs)
    slope = torch.autograd.grad(loss, [model.rssm.input_net[0].weight, model.rssm.gru.gates.weight])
    assert all(x.abs().sum() > 0 for x in slope)


# --------------------------------------------------------------------------------------------------------------- parts


def test_depth_grows():
    beyond = Overshooting(depth=15, growth=130)
    found = []
    for updates in (0, 9, 10, 65, 129, 130, 1000):
        beyond.prepare(updates)
        found.append(beyond.depth_now)
    assert found == [2, 2, 3, 8, 14, 15, 15]
    agent = agent_with(overshooting=0.1, overshooting_growth=6)
    depths = []
    for _ in range(3):
        agent.update(random_batch())
        depths.append(agent.world_model.beyond.depth_now)
    assert depths == [2, 3, 4]
    steady = Overshooting(depth=7)
    steady.prepare(0)
    assert steady.depth_now == 7


def test_weights_of_depths_have_the_mean_one():
    torch.testing.assert_close(depth_weights(4, 1.0, torch.device("cpu")), torch.full((4,), 0.25))
    weights = depth_weights(3, 0.5, torch.device("cpu"))
    torch.testing.assert_close(weights, torch.tensor([4.0, 2.0, 1.0]) / 7)


def test_starts_are_those_with_something_ahead_first():
    is_first = torch.zeros(3, 8, dtype=torch.bool)
    is_first[0, 5] = True
    known = ahead(is_first, torch.arange(24), FIRST)[1][:, -1]
    assert known.sum() == 18 - 2
    for _ in range(5):
        rows = choose_starts(is_first, 16)
        assert len(set(rows.tolist())) == 16
        assert known[rows].all()
    assert choose_starts(is_first, 0).tolist() == list(range(24))
    assert len(choose_starts(is_first, 99)) == 24
    torch.manual_seed(0)
    assert len({tuple(sorted(choose_starts(is_first, 3).tolist())) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"overshooting_depth": 1}, "must be at least 2"),
        ({"overshooting": -1.0}, "must not be negative"),
        ({"overshooting_decay": 0.0}, "must be above 0"),
        ({"overshooting_decay": 1.5}, "between 0 and 1"),
        ({"overshooting": 0.1, "overshooting_depth": 12}, "set that depth to 11 at most"),
        ({"open_loop_heads": 0.1, "overshooting_depth": 12}, "set that depth to 11 at most"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        agent_with(**settings)


# ------------------------------------------------------------------------------------------------------------ learning


def linear_world(episodes, length, generator):
    """x' = R x + 0.5 u, a rotation with an input, seen as (x, |x|): deterministic and linear."""
    turn = torch.tensor([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]], dtype=torch.float32)
    pushes = torch.tensor([[0.5, 0.0], [0.0, 0.5], [-0.25, -0.25]])
    x = torch.randn(episodes, 2, generator=generator)
    chosen = torch.randint(3, (episodes, length), generator=generator)
    seen = []
    for t in range(length):
        if t:
            x = 0.98 * x @ turn.T + pushes[chosen[:, t]]
        seen.append(torch.cat([x, x.norm(dim=-1, keepdim=True)], -1))
    obs = torch.stack(seen, 1)
    action = torch.eye(3)[chosen]
    action[:, 0] = torch.nan
    is_first = torch.zeros(episodes, length, dtype=torch.bool)
    is_first[:, 0] = True
    return Batch(
        {"state": obs}, action, obs[..., 0].masked_fill(is_first, 0), is_first, *(torch.zeros_like(is_first),) * 2
    )


@torch.no_grad()
def error_at(agent, batch, depth, context=5):
    """Squared error of the observation `depth` steps after the last one that was seen, mean over episodes."""
    model = agent.world_model
    torch.manual_seed(1)
    obs = model.preprocess(batch.obs)
    posterior, _ = model.rssm.rollout_observation(model.encoder(obs), batch.action, batch.is_first)
    start = State(*(x[:, context - 1] for x in posterior))
    state = roll_out(model.rssm, start, batch.action[:, context : context + depth])
    return float(((model.head("obs/state")(state.feat[:, -1]) - obs["state"][:, context + depth - 1]) ** 2).mean())


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"overshooting": 0.1}, {"open_loop_heads": 1.0}], ids="-".join)
def test_open_loop_error_of_a_linear_world_falls_at_equal_updates(settings):
    generator = torch.Generator().manual_seed(0)
    test = linear_world(256, 24, generator)
    data = [linear_world(16, 24, generator) for _ in range(40)]
    found = []
    for chosen in ({}, settings):
        sizes = {"num_categoricals": 8, "num_categories": 8, "rnn_hidden_dim": 64, "hidden_dim": 64, "kl_scale": 0.1}
        agent = agent_with(
            "fast", images=False, **sizes, **chosen, world_model_lr=1e-3, overshooting_depth=8 if not chosen else 11
        )
        torch.manual_seed(2)
        for update in range(400):
            agent.train_world_model(data[update % 40])
        found.append(error_at(agent, test, 15))
    print(settings, found)
    assert found[1] < 0.9 * found[0]
