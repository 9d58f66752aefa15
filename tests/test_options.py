"""Every option in which the released code, DreamerV1 or DreamerV3 differ from the paper: does each switch work?

The formulas themselves are compared with the NumPy reference in test_parity.py; here it is the agent that is switched.
"""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from test_train import BOX, DISCRETE, B, T, changed, gradients, make_agent, make_batch, posterior_of, snapshot
from torch import nn

from reverie.actor_critic import center_by_depth, compute_actor_loss, compute_lambda_returns, released_credit
from reverie.checkpoint import optimizer_tensors, restore_optimizers
from reverie.config.presets import load_preset
from reverie.data.replay import Batch
from reverie.distributions import NormalScalar, OneHotPolicy, TwoHotScalar
from reverie.envs.actions import ActionSpec
from reverie.envs.spaces import ObsKey, Spec
from reverie.layers import GRUCell, MLPOptions, NormGRUCell
from reverie.networks import CategoricalDecoder, SharedVectorDecoder, VectorDecoder
from reverie.optim import LaProp
from reverie.rssm import CategoricalLatent, GaussianLatent
from reverie.train import DreamerV2, to_batch

#: What the presets dreamerv1 and dreamerv3 switch on, small.
V1 = {
    "latents": "gaussian", "gaussian_std": "softplus", "kl_mode": "plain", "recurrent_cell": "gru", "norm": False,
    "conv_activation": "relu", "actor_grad": "dynamics", "slow_critic": False, "entropy_scale": 0,
}  # fmt: skip
V3 = {
    "unimix": 0.01, "policy_unimix": 0.01, "reward_distribution": "twohot", "critic_distribution": "twohot",
    "critic_transform": "symlog", "zero_init": True, "continue_target": "discounted", "kl_mode": "separate",
    "free_avg": False, "optimizer": "laprop", "adam_eps": 1e-20, "agc": 0.3, "lr_warmup": 10, "norm_kind": "rms",
    "activation": "silu", "slow_critic": False, "critic_regularizer": 1.0, "slow_critic_every": 1,
    "slow_critic_fraction": 0.02, "return_norm": "percentile", "reward_index": "next", "weight_decay": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _same_chance_in_every_test():
    torch.manual_seed(0)


def behave(agent, batch=None):
    """One update of actor and critic from a batch's posterior."""
    batch = batch or make_batch()
    return agent.train_actor_critic(posterior_of(agent, batch), batch.is_terminal)


@pytest.mark.parametrize("settings", [V1, V3], ids=["V1", "V3"])
@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_the_other_generations_update_what_they_should(action, settings):
    agent, batch = make_agent(action, **settings), make_batch(action)
    before = snapshot(agent)
    for _ in range(3):
        posterior, metrics = agent.train_world_model(batch)
        metrics |= agent.train_actor_critic(posterior, batch.is_terminal)
    assert all(torch.isfinite(value) for value in metrics.values())
    parts = {"world_model", "actor", "critic"}
    assert changed(agent, before) - {"slow_critic"} == parts
    still = [n for n, p in agent.named_parameters() if torch.equal(p, before[n]) and n.split(".")[0] in parts]
    assert still == []


# ------------------------------------------------------------------------------------------------- imagination, credit


def predictions(agent, alive):
    feat = torch.randn(2, 5, agent.world_model.rssm.feat_dim)
    with torch.no_grad():
        return feat, agent.task.predict(feat, alive)


def test_reward_index_next_takes_reward_and_end_from_the_state_that_an_action_leads_to():
    """DreamerV3's indexing; the drawing in replay.py shows the default, `current`."""
    alive = torch.tensor([1.0, 0.0])
    agent = make_agent(reward_index="next")
    feat, (rewards, values, continues) = predictions(agent, alive)
    with torch.no_grad():
        torch.testing.assert_close(rewards, agent.world_model.head("reward")(feat[:, 1:]))
        torch.testing.assert_close(continues, agent.world_model.continues(feat[:, 1:]))
        torch.testing.assert_close(values, agent.slow_critic(feat))
    agent = make_agent(reward_index="current")
    feat, (rewards, _, continues) = predictions(agent, alive)
    with torch.no_grad():
        torch.testing.assert_close(rewards, agent.world_model.head("reward")(feat[:, :-1]))
        assert continues[:, 0].tolist() == [1.0, 0.0]  # known, not predicted
        torch.testing.assert_close(continues[:, 1:], agent.world_model.continues(feat[:, 1:-1]))


@pytest.mark.parametrize(("index", "learns"), [("current", True), ("next", False)])
def test_a_value_of_an_ended_state_is_learnt_only_where_it_includes_its_own_reward(index, learns):
    agent = make_agent(reward_index=index, weight_decay=0)
    before = snapshot(agent.critic)
    behave(agent, make_batch(terminal=True))
    moved = any(not torch.equal(p, before[n]) for n, p in agent.critic.named_parameters())
    assert moved == learns


def test_released_advantage_is_off_centre_where_the_papers_is_zero():
    """implementation-details.md#a1: a deterministic chain with an exact critic: nothing to learn, every advantage
    should be 0."""
    rewards, values = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.9, 1.0, 0.0, 0.0]])
    continues, action = torch.tensor([[1.0, 1.0, 1.0]]), torch.zeros(1, 3, 2)
    targets = compute_lambda_returns(rewards, values, continues, gamma=0.9)
    torch.testing.assert_close(targets - values[:, :-1], torch.zeros(1, 3))
    _, shifted, baseline, weights = released_credit(action, targets, values[:, :-1], torch.ones(1, 3))
    torch.testing.assert_close(shifted - baseline, torch.tensor([[0.1, -1.0]]))
    assert weights.shape == (1, 2)


@pytest.mark.parametrize(("advantage", "terms"), [("paper", 4), ("released", 3)])
def test_the_released_advantage_has_one_term_less(advantage, terms):
    agent = make_agent(advantage=advantage)
    seen = []
    agent.actor.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    behave(agent)
    assert seen[-1][1] == terms  # debug preset: horizon 4


@pytest.mark.parametrize(("starts", "count"), [("all", B * T), ("drop_last", B * (T - 1))])
def test_start_states(starts, count):
    agent, batch = make_agent(start_states=starts), make_batch()
    posterior = posterior_of(agent, batch)
    ended = torch.zeros(B, T)
    ended[:, -1] = 1  # the last step is the one that drop_last drops
    state, alive = agent.task.starts(posterior, ended)
    assert len(alive) == len(state.deter) == count
    assert (alive.min() == 1) == (starts == "drop_last")


def test_percentile_returns_scale_the_actor_and_not_the_critic():
    """With returns spread over 100s, reinforce gradients shrink by the scale; what the critic learns stays the same."""
    norms = {}
    for kind in ("none", "percentile"):
        agent = make_agent(return_norm=kind, reward_transform="none", entropy_scale=0, grad_clip=1e9)
        with torch.no_grad():  # rewards of very different sizes
            agent.world_model.head("reward").mlp[-1].weight.mul_(30)
            agent.return_scale.high.fill_(50.0)
        torch.manual_seed(1)
        metrics = behave(agent)
        norms[kind] = (gradients(agent.actor), gradients(agent.critic))
        assert torch.isfinite(metrics["actor/loss"])
    scale = (agent.return_scale.high - agent.return_scale.low).clamp(min=1)
    assert scale > 1.5  # else the test tests nothing
    torch.testing.assert_close(norms["none"][0], norms["percentile"][0] * scale, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(norms["none"][1], norms["percentile"][1])


def test_centering_by_depth_by_hand():
    targets = torch.tensor([[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]])
    baseline = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    weights = torch.tensor([[1.0, 0.5], [1.0, 0.5], [0.0, 0.0]])  # the third dream started at an end
    found = center_by_depth(targets, baseline, weights)
    torch.testing.assert_close(found, baseline + torch.tensor([2.0, 3.0]))
    assert not center_by_depth(targets.requires_grad_(), baseline, weights).requires_grad
    assert torch.equal(center_by_depth(targets, baseline, torch.zeros(3, 2)), baseline)  # no dream counts: no shift


def test_centering_by_depth_changes_no_expected_gradient_but_its_own_share():
    """All outcomes of N one-step dreams with two actions each: the mean gradient is (1 - 1/N) of the plain one."""
    count, offset = 3, 100.0
    logits = torch.tensor([0.3, -0.2], requires_grad=True)
    sums = []
    for centered in (False, True):
        total = torch.zeros(2)
        for chosen in itertools.product((0, 1), repeat=count):
            action = torch.eye(2)[list(chosen)][:, None]  # (N, 1, A)
            targets = torch.tensor([[1.0 if a else -2.0] for a in chosen]) + offset  # a critic that is late by 100
            baseline, weights = torch.zeros(count, 1), torch.ones(count, 1)
            if centered:
                baseline = center_by_depth(targets, baseline, weights)
            policy = OneHotPolicy(logits.expand(count, 1, 2))
            loss, _ = compute_actor_loss(policy, action, targets, baseline, weights, entropy_scale=0.0)
            chance = logits.softmax(-1).detach()[list(chosen)].prod()
            total += chance * torch.autograd.grad(loss, logits)[0]
        sums.append(total)
    torch.testing.assert_close(sums[1], sums[0] * (1 - 1 / count), rtol=1e-4, atol=1e-5)


def test_centering_by_depth_moves_the_actor_and_not_the_critic():
    found = {}
    for center in ("none", "depth"):
        agent = make_agent(advantage_center=center, entropy_scale=0, grad_clip=1e9)
        torch.manual_seed(1)
        metrics = behave(agent)
        found[center] = (float(metrics["actor/advantage"]), gradients(agent.actor), gradients(agent.critic))
    assert abs(found["depth"][0]) < 0.2 * abs(found["none"][0])
    assert not torch.allclose(found["none"][1], found["depth"][1])
    assert torch.equal(found["none"][2], found["depth"][2])


# -------------------------------------------------------------------------------------------------------------- critic


def test_slow_critic_fraction_follows_a_little_at_every_update():
    agent = make_agent(slow_critic_fraction=0.25, slow_critic_every=1)
    with torch.no_grad():
        for parameter in agent.slow_critic.parameters():
            parameter.add_(1.0)
    before = snapshot(agent.slow_critic)
    online = snapshot(agent.critic)
    behave(agent)
    for name, parameter in agent.slow_critic.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.25 * (online[name] - before[name]))


def test_critic_regularizer_pulls_towards_the_slow_critic():
    """Targets equal to the critic's own values give no gradient; a displaced slow critic then is all that moves it."""
    agent = make_agent(critic_regularizer=2.0, slow_critic_every=1000)
    feat = torch.randn(6, 4, agent.world_model.rssm.feat_dim)
    with torch.no_grad():
        for parameter in agent.slow_critic.parameters():
            parameter.add_(0.1)
        slow = agent.slow_critic(feat)
    stats = agent.critic.stats(feat)
    targets = agent.critic.mean(stats).detach()
    nll = agent.task.critic_nll(feat, stats, targets)
    torch.testing.assert_close(nll, 2.0 * 0.5 * (targets - slow) ** 2)


@pytest.mark.parametrize(("kind", "expected"), [("normal", NormalScalar), ("twohot", TwoHotScalar)])
def test_scalar_distributions_are_chosen_one_by_one(kind, expected):
    agent = make_agent(critic_distribution=kind)
    assert type(agent.critic.scalar) is type(agent.slow_critic.scalar) is expected
    assert type(agent.world_model.head("reward").scalar) is NormalScalar
    agent = make_agent(reward_distribution=kind)
    assert type(agent.world_model.head("reward").scalar) is expected
    assert type(agent.critic.scalar) is NormalScalar


@pytest.mark.parametrize("distribution", ["normal", "twohot"])
def test_a_zero_initialised_critic_answers_exactly_zero(distribution):
    agent = make_agent(zero_init=True, critic_distribution=distribution, critic_transform="symlog")
    assert (agent.critic(torch.randn(5, agent.world_model.rssm.feat_dim)) == 0).all()


@pytest.mark.parametrize("target", [0.0, -3.7, 1e4])
def test_two_hot_learns_numbers_of_any_size(target):
    """255 bins on the symlog scale: the mean of a perfect prediction is the number itself, to about 1e-5."""
    scalar = TwoHotScalar("symlog")
    number = torch.tensor([target])
    stats = nn.Parameter(torch.zeros(1, 255))
    optimizer = torch.optim.Adam([stats], lr=0.3)
    for _ in range(400):
        optimizer.zero_grad()
        scalar.nll(stats, number).sum().backward()
        optimizer.step()
    torch.testing.assert_close(scalar.mean(stats), number, rtol=0.02, atol=0.02)


# --------------------------------------------------------------------------------------------------------- world model


def test_discounted_continue_target_contains_gamma_and_the_dream_sees_it_once():
    """implementation-details.md#b14: the head's optimum is gamma (1 - terminal); the dream's discount is its mean, not
    gamma times it."""
    agent = make_agent(continue_target="discounted", gamma=0.9)
    head, feat = agent.world_model.head("continue"), torch.zeros(1, agent.world_model.rssm.feat_dim)
    with torch.no_grad():
        head.mlp[-1].bias.fill_(math.log(0.9 / 0.1))  # sigmoid gives 0.9
        head.mlp[-1].weight.zero_()
    torch.testing.assert_close(0.9 * agent.world_model.continues(feat), torch.tensor([0.9]))
    torch.testing.assert_close(head(feat), torch.tensor([1.0]))
    bias = head.mlp[-1].bias
    (gradient,) = torch.autograd.grad(head.loss(feat, torch.ones(1)).sum(), bias)
    torch.testing.assert_close(gradient, torch.zeros(1), atol=1e-6, rtol=0)
    assert make_agent(continue_target="hard").world_model.head("continue").discount == 1


@pytest.mark.parametrize("kind", ["obs", "reward", "continue"])
def test_detached_heads_learn_without_shaping_the_state(kind):
    """The paper's ablations "no image gradients" and "no reward gradients" (Table 2)."""
    batch = make_batch()
    for detached, expected in (((), True), ((kind,), False)):
        agent = make_agent(
            detached_heads=list(detached),
            kl_scale=0,
            **{f"{name}_scale": 0 for name in ("vector", "reward", "continue")} | {_scale(kind): 1},
        )
        for name in agent.world_model.heads:  # a head that a reader adds has the scale 1
            if name.split("/")[0] not in ("obs", "reward", "continue"):
                agent.world_model.scales[name] = 0.0
        torch.manual_seed(0)
        agent.world_model.loss(batch)[0].backward()
        reached = any(p.grad is not None and p.grad.abs().sum() > 0 for p in agent.world_model.rssm.parameters())
        own = next(n for n in agent.world_model.heads if n.split("/")[0] == kind)
        assert reached == expected
        assert any(p.grad.abs().sum() > 0 for p in agent.world_model.head(own).parameters())


def _scale(kind):
    return "vector_scale" if kind == "obs" else f"{kind}_scale"


def test_unimix_keeps_every_class_alive_and_the_kl_bounded():
    latent, sure = CategoricalLatent(2, 4, unimix=0.04), torch.tensor([[100.0, 0, 0, 0] * 2])
    other = torch.tensor([[0, 100.0, 0, 0] * 2])
    probs = latent.logits(sure).softmax(-1)
    torch.testing.assert_close(probs.min(), torch.tensor(0.01))
    assert latent.kl(sure, other) < 2 * math.log(4 / 0.04)
    assert CategoricalLatent(2, 4).kl(sure, other) > 100
    draws = latent.sample(sure.expand(20_000, -1), latent.noise(20_000)).reshape(-1, 2, 4)
    torch.testing.assert_close(draws.mean((0, 1)), torch.tensor([0.97, 0.01, 0.01, 0.01]), atol=4e-3, rtol=0)


def test_without_straight_through_the_same_is_drawn_and_no_gradient_passes():
    stats, noise = torch.randn(5, 12, requires_grad=True), torch.rand(5, 3)
    with_it, without = CategoricalLatent(3, 4), CategoricalLatent(3, 4, through=False)
    for call in ("sample", "mode"):
        given = (stats, noise) if call == "sample" else (stats,)
        passing, ending = getattr(with_it, call)(*given), getattr(without, call)(*given)
        torch.testing.assert_close(passing.detach(), ending)
        assert passing.requires_grad
        assert not ending.requires_grad


@pytest.mark.parametrize("through", [True, False])
def test_straight_through_decides_whether_heads_shape_the_encoder(through):
    agent = make_agent(straight_through=through, kl_scale=0.0)
    assert agent.world_model.rssm.latent.through == through
    agent.world_model.loss(make_batch())[0].backward()
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in agent.world_model.encoder.parameters()]
    assert any(reached) == through  # with no KL either, nothing else can reach it


def test_policy_unimix_is_for_discrete_actions():
    agent = make_agent(policy_unimix=0.3)
    with torch.no_grad():
        agent.actor.mlp[-1].bias.copy_(torch.tensor([100.0, 0, 0]))
        policy = agent.actor(torch.zeros(1, agent.world_model.rssm.feat_dim))
    torch.testing.assert_close(policy.log_probs.exp(), torch.tensor([[0.8, 0.1, 0.1]]))
    torch.manual_seed(0)
    box = make_agent(BOX, policy_unimix=0.3)
    torch.manual_seed(0)
    plain, feat = make_agent(BOX), torch.ones(1, box.world_model.rssm.feat_dim)
    assert torch.equal(box.actor(feat).mode(), plain.actor(feat).mode())


def test_sizes_cells_and_latents():
    agent = make_agent(rssm_hidden_dim=7, latents="gaussian", gaussian_dim=5, gaussian_std="softplus")
    rssm = agent.world_model.rssm
    assert rssm.gru.gates.in_features == 7 + 16
    assert isinstance(rssm.latent, GaussianLatent)
    assert rssm.latent.mean_std(torch.full((1, 10), -50.0))[1].allclose(torch.tensor(0.1))
    assert isinstance(rssm.gru, NormGRUCell)
    assert isinstance(make_agent(recurrent_cell="gru").world_model.rssm.gru, GRUCell)
    norms = [m for m in make_agent(norm_kind="rms").modules() if isinstance(m, nn.LayerNorm | nn.RMSNorm)]
    assert norms
    assert all(isinstance(m, nn.RMSNorm) for m in norms)


# ----------------------------------------------------------------------------------------------------------- optimiser


def test_keras_epsilon_makes_the_first_steps_smaller():
    """implementation-details.md#adam: at the first update the epsilon is 3.2e-4 in torch's terms, then shrinks towards
    1e-5."""
    agent = make_agent(adam_eps_mode="keras", adam_eps=1e-5)
    seen = []
    for _ in range(3):
        behave(agent)
        seen.append(agent.optimizers["actor"].torch.param_groups[0]["eps"])
    expected = [1e-5 / math.sqrt(1 - 0.999**t) for t in (1, 2, 3)]
    assert seen == pytest.approx(expected)
    assert make_agent().optimizers["actor"].torch.param_groups[0]["eps"] == 1e-5


def actor_rates(agent, updates):
    """The actor's learning rate at each of the next updates."""
    seen = []
    for _ in range(updates):
        behave(agent)
        seen.append(agent.optimizers["actor"].torch.param_groups[0]["lr"])
    return seen


def test_learning_rates_warm_up_and_go_on_after_a_restart():
    agent = make_agent(lr_warmup=4, actor_lr=0.4)
    assert actor_rates(agent, 5) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert agent.optimizers["world_model"].torch.param_groups[0]["lr"] < 1e-3  # had no update yet
    agent.updates = 2
    assert actor_rates(agent, 1) == pytest.approx([0.3])


def test_learning_rates_fall_to_a_tenth():
    assert actor_rates(make_agent(lr_decay=3, actor_lr=1.0), 4) == pytest.approx([0.7, 0.4, 0.1, 0.1])


@pytest.mark.parametrize(("mode", "factor"), [("per_update", 1 - 0.125), ("lr_scaled", 1 - 0.125 * 0.01)])
@pytest.mark.parametrize("optimizer", ["adam", "laprop"])
def test_weight_decay_modes(mode, factor, optimizer):
    agent = make_agent(weight_decay=0.125, weight_decay_mode=mode, critic_lr=0.01, optimizer=optimizer)
    with torch.no_grad():
        for parameter in agent.critic.parameters():
            parameter.fill_(2.0)
            parameter.grad = torch.zeros_like(parameter)
    agent.optimizers["critic"].step()
    for parameter in agent.critic.parameters():
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, 2.0 * factor))


def test_adaptive_clipping_limits_each_tensor_by_its_own_size():
    agent = make_agent(agc=0.01)
    before = snapshot(agent.critic)
    behave(agent)
    for name, parameter in agent.critic.named_parameters():
        assert parameter.grad.norm() <= 0.01 * max(1e-3, float(before[name].norm())) * (1 + 1e-5)
    loose = make_agent(agc=1e9, grad_clip=1e-9)  # grad_clip plays no part then
    behave(loose)
    assert gradients(loose.critic).norm() > 1e-6


def test_laprop_state_survives_a_checkpoint():
    """Its moments and its step count are saved and loaded like Adam's."""
    agents = [make_agent(optimizer="laprop", adam_eps=1e-20) for _ in range(2)]
    behave(agents[0])
    restore_optimizers(agents[1], {key: value.clone() for key, value in optimizer_tensors(agents[0]).items()})
    agents[1].load_state_dict(agents[0].state_dict())
    agents[1].updates = agents[0].updates
    for agent in agents:
        assert isinstance(agent.optimizers["actor"].torch, LaProp)
        torch.manual_seed(5)
        behave(agent)
    for (name, a), (_, b) in zip(agents[0].named_parameters(), agents[1].named_parameters(), strict=True):
        assert torch.equal(a, b), name


# ------------------------------------------------------------------------------------------- one trunk for all vectors


def vectors(**settings):
    """An agent that observes three vectors, a number of choices among them."""
    keys = {"a": 3, "b": 1, "c": 5}
    obs = {key: ObsKey((key,), "vector", (size,), (size,)) for key, size in keys.items()}
    torch.manual_seed(0)
    return DreamerV2(load_preset("debug", {"device": "cpu", **settings}), Spec(obs, ActionSpec.discrete(3)))


def test_one_trunk_predicts_all_vectors():
    agent = vectors(vector_decoder="shared")
    heads = [agent.world_model.heads[f"obs/{key}"] for key in "abc"]
    assert {type(head) for head in heads} == {SharedVectorDecoder}
    trunks = [name for name in agent.state_dict() if ".trunk." in name and name.endswith("0.weight")]
    assert trunks == ["world_model.heads.obs/a.trunk.0.weight"]  # once in checkpoints
    assert sum(p.numel() for p in agent.world_model.parameters()) < sum(
        p.numel() for p in vectors().world_model.parameters()
    )
    trunk = heads[0].trunk
    feat = torch.randn(2, agent.world_model.rssm.feat_dim)
    for head, size in zip(heads, (3, 1, 5), strict=True):
        wanted = torch.nn.functional.linear(trunk(feat), head.output.weight, head.output.bias)
        torch.testing.assert_close(head(feat), wanted)
        assert head(feat).shape == (2, size)
        (gradient,) = torch.autograd.grad(head.loss(feat, torch.zeros(2, size)).sum(), trunk[0].weight)
        assert gradient.abs().sum() > 0


def test_one_trunk_survives_saving_and_copying(tmp_path):
    first, second = vectors(vector_decoder="shared"), vectors(vector_decoder="shared", seed=1)
    with torch.no_grad():
        for value in second.parameters():
            value.add_(1)
    second.load_state_dict(first.state_dict())
    twin = copy.deepcopy(first)
    feat = torch.randn(2, first.world_model.rssm.feat_dim)
    for key in "abc":
        wanted = first.world_model.heads[f"obs/{key}"](feat)
        for other in (second, twin):
            assert torch.equal(other.world_model.heads[f"obs/{key}"](feat), wanted)
    assert twin.world_model.heads["obs/b"]._shared[0] is twin.world_model.heads["obs/a"].trunk


def test_one_trunk_learns_the_same_in_both_modes():
    rng = np.random.default_rng(0)
    shape, first = (4, 6), np.zeros((4, 6), bool)
    first[:, 0] = True
    obs = {key: rng.normal(size=(*shape, size)).astype(np.float32) for key, size in {"a": 3, "b": 1, "c": 5}.items()}
    action, none = np.eye(3, dtype=np.float32)[rng.integers(0, 3, shape)], np.zeros(shape, bool)
    batch = to_batch(Batch(obs, action, np.zeros(shape, np.float32), first, none, none))
    losses = []
    for mode in ("reference", "fast"):
        agent = vectors(vector_decoder="shared", mode=mode, precision="float32")
        torch.manual_seed(0)
        losses.append([float(agent.update(batch)["world_model/obs/c_loss"]) for _ in range(8)])
        assert losses[-1][-1] < losses[-1][0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_single_vector_has_the_usual_decoder():
    spec = Spec({"a": ObsKey(("a",), "vector", (3,), (3,))}, ActionSpec.discrete(3))
    agent = DreamerV2(load_preset("debug", {"device": "cpu", "vector_decoder": "shared"}), spec)
    assert type(agent.world_model.heads["obs/a"]) is VectorDecoder
    assert load_preset("dmc-proprio").model.vector_decoder == "shared"
    assert load_preset("vector").model.vector_decoder == "separate"


# ------------------------------------------------------------------------------------------ discrete observations


def choices(**settings):
    """An agent that observes two choices, of 3 and 2, another one of 4, and two numbers."""
    obs = {
        "pair": ObsKey(("pair",), "discrete", (2,), (5,), choices=(3, 2), starts=(0, 0)),
        "one": ObsKey(("one",), "discrete", (), (4,), choices=(4,), starts=(0,)),
        "numbers": ObsKey(("numbers",), "vector", (2,), (2,)),
    }
    torch.manual_seed(0)
    values = {"device": "cpu", "discrete_decoder": "categorical", "vector_transform": "standardize"}
    return DreamerV2(load_preset("debug", values | settings), Spec(obs, ActionSpec.discrete(3)))


def observed(count=12):
    """Random observations of `choices`, raw {key: (count, V)}."""
    torch.manual_seed(1)
    pick = lambda size: torch.nn.functional.one_hot(torch.randint(0, size, (count,)), size).float()  # noqa: E731
    return {"pair": torch.cat([pick(3), pick(2)], -1), "one": pick(4), "numbers": 5 * torch.randn(count, 2)}


def test_choices_cost_their_cross_entropy():
    agent, raw = choices(), observed()
    feat = torch.randn(12, agent.world_model.rssm.feat_dim)
    head = agent.world_model.heads["obs/pair"]
    assert type(head) is type(agent.world_model.heads["obs/one"]) is CategoricalDecoder
    assert type(agent.world_model.heads["obs/numbers"]) is VectorDecoder
    logits = head.mlp(feat)
    wanted = sum(
        torch.nn.functional.cross_entropy(part, target.argmax(-1), reduction="none")
        for part, target in zip(logits.split([3, 2], -1), raw["pair"].split([3, 2], -1), strict=True)
    )
    torch.testing.assert_close(head.loss(feat, raw["pair"]), wanted)
    probs = head(feat)
    torch.testing.assert_close(probs[:, :3].sum(-1), torch.ones(12))
    torch.testing.assert_close(probs[:, 3:].sum(-1), torch.ones(12))
    blind = CategoricalDecoder(3, (4, 4), target="x", mlp=MLPOptions(0, 1))
    torch.nn.init.zeros_(blind.mlp[-1].weight)
    known = torch.eye(4)[[1, 2]].flatten()[None]
    assert float(blind.loss(torch.zeros(1, 3), known).detach()) == pytest.approx(
        2 * math.log(4)
    )  # a nat of KL buys a nat


@pytest.mark.parametrize("transform", ["none", "symlog", "standardize", "running"])
def test_choices_stay_one_hots_whatever_happens_to_numbers(transform):
    model, raw = choices(vector_transform=transform).world_model, observed()
    model.fit_observations(raw)
    model.follow_observations(raw)
    inside = model.preprocess(raw)
    for key in ("pair", "one"):
        assert torch.equal(inside[key], raw[key])
    assert transform == "none" or not torch.equal(inside["numbers"], raw["numbers"])
    feat = torch.randn(12, model.rssm.feat_dim)
    back = model.reconstruct_vectors(feat)
    assert set(back) == {"pair", "one", "numbers"}
    torch.testing.assert_close(back["one"], model.heads["obs/one"](feat))
    torch.testing.assert_close(model.in_units("numbers", inside["numbers"]), raw["numbers"], atol=1e-4, rtol=1e-4)


def test_the_weight_of_numbers_is_not_that_of_choices():
    scales = choices(vector_scale=50.0).world_model.scales
    assert (scales["obs/numbers"], scales["obs/pair"], scales["obs/one"]) == (50.0, 1.0, 1.0)
    assert choices(discrete_decoder="gaussian", vector_scale=50.0).world_model.scales["obs/one"] == 50.0
    assert load_preset("auto").model.discrete_decoder == "categorical"
    assert load_preset("default").model.discrete_decoder == "gaussian"


@pytest.mark.parametrize("mode", ["reference", "fast"])
def test_a_random_symbol_is_told(mode):
    """Symbols that nothing announces: the state holds them, as a nat of KL costs less than a nat of cross-entropy."""
    obs = {"one": ObsKey(("one",), "discrete", (), (4,), choices=(4,), starts=(0,))}
    told = {}
    for decoder in ("categorical", "gaussian"):
        torch.manual_seed(0)
        values = {"device": "cpu", "discrete_decoder": decoder, "mode": mode, "world_model_lr": 1e-2}
        values |= {"kl_mode": "separate", "rep_scale": 0.5, "free_nats": 0.0}
        agent = DreamerV2(load_preset("debug", values), Spec(obs, ActionSpec.discrete(2)))
        rng, none = np.random.default_rng(0), np.zeros((8, 10), bool)
        first = none.copy()
        first[:, 0] = True
        for _ in range(100):
            symbol = np.eye(4, dtype=np.float32)[rng.integers(0, 4, (8, 10))]
            action = np.eye(2, dtype=np.float32)[rng.integers(0, 2, (8, 10))]
            batch = to_batch(Batch({"one": symbol}, action, np.zeros((8, 10), np.float32), first, none, none))
            posterior, _ = agent.train_world_model(batch)
        shown = agent.world_model.heads["obs/one"](posterior.feat).argmax(-1)
        told[decoder] = float((shown == batch.obs["one"].argmax(-1)).float().mean())
    assert told["categorical"] > 0.6
    assert told["gaussian"] < 0.45  # a guess is right in one of four
