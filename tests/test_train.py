"""One update of the agent: who learns from what, and who must not."""

import math

import numpy as np
import pytest
import torch
from reference import slow

from reverie import train
from reverie.config.presets import load_preset
from reverie.data.replay import Batch
from reverie.envs.actions import ActionSpec
from reverie.envs.spaces import ObsKey, Spec
from reverie.rssm import State
from reverie.run.health import snapshot as snapshot_of_health
from reverie.train import DreamerV2, to_batch

B, T, V = 3, 5, 4
DISCRETE = ActionSpec.discrete(3)
BOX = ActionSpec.box(2)


@pytest.fixture(autouse=True)
def _same_chance_in_every_test():
    torch.manual_seed(0)


def make_agent(action=DISCRETE, **settings):
    """The debug preset on a vector observation, with overrides."""
    torch.manual_seed(0)
    spec = Spec({"body": ObsKey(("body",), "vector", (V,), (V,))}, action)
    return DreamerV2(load_preset("debug", {"device": "cpu", **settings}), spec)


def make_batch(action=DISCRETE, terminal=False, seed=0):
    rng = np.random.default_rng(seed)
    first, ended = np.zeros((B, T), bool), np.full((B, T), terminal)
    first[:, 0] = True
    actions = action.random(rng, B * T).reshape(B, T, -1)
    actions[first] = np.nan
    obs = {"body": rng.normal(size=(B, T, V)).astype(np.float32)}
    return to_batch(Batch(obs, actions, rng.normal(size=(B, T)).astype(np.float32), first, ended, ended))


def posterior_of(agent, batch):
    with torch.no_grad():
        return agent.world_model.loss(batch)[1]


def snapshot(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def changed(agent, before):
    """Which of the agent's parts differ from a snapshot, by the first word of their parameters' names."""
    return {name.split(".")[0] for name, p in agent.named_parameters() if not torch.equal(p, before[name])}


def gradients(module):
    return torch.cat([p.grad.flatten() for p in module.parameters()])


# -------------------------------------------------------------------------------------------- who learns from what


def test_world_model_update_changes_the_world_model_only():
    agent = make_agent()
    before = snapshot(agent)
    posterior, _ = agent.train_world_model(make_batch())
    assert changed(agent, before) == {"world_model"}
    assert not any(part.requires_grad for part in posterior)
    unchanged = [n for n, p in agent.world_model.named_parameters() if torch.equal(p, before["world_model." + n])]
    assert unchanged == []


@pytest.mark.parametrize("actor_grad", ["reinforce", "dynamics", "both"])
@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_behaviour_update_changes_actor_and_critic_only(action, actor_grad):
    """implementation-details.md#b10, #b20: the world model gets neither a step nor a gradient, even where the actor's
    runs through it."""
    agent, batch = make_agent(action, actor_grad=actor_grad), make_batch(action)
    before, posterior = snapshot(agent), posterior_of(agent, batch)
    agent.train_actor_critic(posterior, batch.is_terminal)
    assert changed(agent, before) == {"actor", "critic"}
    assert [
        n for n, p in agent.named_parameters() if p.grad is not None and not n.startswith(("actor", "critic"))
    ] == []
    for module, name in ((agent.actor, "actor."), (agent.critic, "critic.")):
        assert [n for n, p in module.named_parameters() if torch.equal(p, before[name + n])] == []


def test_reinforce_dreams_without_a_graph():
    agent, batch = make_agent(), make_batch()
    seen = []
    original = agent.world_model.rssm.rollout_imagination
    agent.world_model.rssm.rollout_imagination = lambda *a, **k: seen.append(original(*a, **k)) or seen[0]
    agent.train_actor_critic(posterior_of(agent, batch), batch.is_terminal)
    assert not seen[0].feat.requires_grad
    assert not seen[0].action.requires_grad


@pytest.mark.parametrize("actor_grad", ["dynamics", "both"])
@pytest.mark.parametrize(
    ("action", "policy"),
    [(DISCRETE, "onehot"), (BOX, "trunc_normal"), (BOX, "tanh_normal")],
    ids=["onehot", "trunc", "tanh"],
)
def test_dynamics_gradients_reach_the_actor_through_the_dream(action, policy, actor_grad):
    """implementation-details.md#b7, #b8: without entropy and without a score (mix 1), the dream itself must move the
    actor."""
    agent = make_agent(action, policy=policy, actor_grad=actor_grad, actor_grad_mix=1.0, entropy_scale=0)
    batch = make_batch(action)
    metrics = agent.train_actor_critic(posterior_of(agent, batch), batch.is_terminal)
    assert metrics["actor/grad_norm"] > 1e-6
    assert all(p.grad.any() for p in agent.actor.parameters())


@pytest.mark.parametrize(("action", "expected"), [(DISCRETE, "reinforce"), (BOX, "dynamics")], ids=["discrete", "box"])
def test_auto_is_reinforce_for_discrete_and_dynamics_for_continuous(action, expected):
    """implementation-details.md#actor-loss."""
    assert make_agent(action).task.actor_grad == expected


def test_optimizers_share_nothing_and_cover_everything_but_the_slow_critic():
    """implementation-details.md#b10."""
    agent = make_agent()
    owned = {
        name: [id(p) for group in optimizer.torch.param_groups for p in group["params"]]
        for name, optimizer in agent.optimizers.items()
    }
    for name, ids in owned.items():
        assert sorted(ids) == sorted(id(p) for p in getattr(agent, name).parameters())
    together = [i for ids in owned.values() for i in ids]
    assert len(together) == len(set(together))
    learning = {id(p) for p in agent.parameters()} - {id(p) for p in agent.slow_critic.parameters()}
    assert set(together) == learning
    assert not any(p.requires_grad for p in agent.slow_critic.parameters())


def test_each_optimizer_has_its_own_learning_rate_and_the_released_epsilon():
    agent = make_agent(world_model_lr=1e-3, actor_lr=2e-3, critic_lr=3e-3)
    groups = {name: optimizer.torch.param_groups[0] for name, optimizer in agent.optimizers.items()}
    assert {name: group["lr"] for name, group in groups.items()} == {
        "world_model": 1e-3,
        "actor": 2e-3,
        "critic": 3e-3,
    }
    assert {group["eps"] for group in groups.values()} == {1e-5}
    assert {group["betas"] for group in groups.values()} == {(0.9, 0.999)}


@pytest.mark.parametrize("lr", [1e-4, 1e-2])
def test_weight_decay_is_per_update_and_not_times_the_learning_rate(lr):
    """implementation-details.md#b12: with zero gradients one step makes every weight, biases included, (1 -
    weight_decay) of itself."""
    agent = make_agent(weight_decay=0.125, world_model_lr=lr, actor_lr=lr, critic_lr=lr)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(torch.rand_like(parameter))
    for name, optimizer in agent.optimizers.items():
        module = getattr(agent, name)
        before = snapshot(module)
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for key, parameter in module.named_parameters():
            torch.testing.assert_close(parameter.detach(), 0.875 * before[key], rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped_by_global_norm_and_reported_unclipped():
    """implementation-details.md#adam. With the limit a millionth, the norm of each part's stored gradients is that
    limit."""
    limit = 1e-6
    agent, batch = make_agent(grad_clip=limit), make_batch()
    posterior, metrics = agent.train_world_model(batch)
    metrics |= agent.train_actor_critic(posterior, batch.is_terminal)
    for name in agent.optimizers:
        assert gradients(getattr(agent, name)).norm().item() == pytest.approx(limit, rel=1e-2)
        assert metrics[f"{name}/grad_norm"] > 10 * limit


def test_gradients_below_the_limit_stay_as_they_are():
    agent, batch = make_agent(grad_clip=1e6), make_batch()
    _, metrics = agent.train_world_model(batch)
    assert gradients(agent.world_model).norm().item() == pytest.approx(
        metrics["world_model/grad_norm"].item(), rel=1e-4
    )


# --------------------------------------------------------------------------------- the update against the slow code


@pytest.mark.parametrize("actor_grad", ["reinforce", "dynamics", "both"])
@pytest.mark.parametrize("baseline", ["online", "slow"])
@pytest.mark.parametrize("with_continue", [True, False])
def test_behaviour_update_equals_the_slow_code(actor_grad, baseline, with_continue):
    """The whole of 1.10-1.13 once more, from the same dream: rewards, first continue from the replay, slow values,
    targets, weights, baseline, both losses. Any shift by one step between them changes a number.
    """
    agent = make_agent(
        actor_grad=actor_grad,
        baseline=baseline,
        predict_continue=with_continue,
        gamma=0.9,
        lambda_=0.7,
        entropy_scale=0.3,
        entropy_final=0.3,
        actor_grad_mix=0.4,
    )
    agent.updates = 1  # no copy at this update: online and slow critic must be told apart
    with torch.no_grad():
        for parameter in agent.slow_critic.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    batch = make_batch()
    batch.is_terminal[0, 4] = batch.is_terminal[2, 1] = True
    posterior = posterior_of(agent, batch)
    alive = (~batch.is_terminal).flatten().double().numpy()

    torch.manual_seed(7)
    with torch.no_grad():
        dream = agent.imagine(posterior.flatten())
        states = dream.feat[:, :-1]
        policy = agent.actor(states)
        log_probs, entropies = policy.log_prob(dream.action).double().numpy(), policy.entropy().double().numpy()
        rewards = agent.world_model.heads["reward"](states).double().numpy()
        values, online = agent.slow_critic(dream.feat).double().numpy(), agent.critic(states).double().numpy()
        continues = np.ones_like(rewards)
        if with_continue:
            continues = agent.world_model.heads["continue"](states).double().numpy()
        continues[:, 0] = alive
    targets = np.array([slow.lambda_return(*row, 0.7) for row in zip(rewards, values, 0.9 * continues, strict=True)])
    weights = np.array([slow.discount_weights(row) for row in 0.9 * continues])
    subtracted = online if baseline == "online" else values[:, :-1]
    actor_loss = slow.actor_loss(
        log_probs,
        entropies,
        targets,
        subtracted,
        weights * alive[:, None],
        mode=actor_grad,
        mix=0.4,
        entropy_scale=0.3,
    )

    torch.manual_seed(7)
    metrics = agent.train_actor_critic(posterior, batch.is_terminal)
    assert metrics["actor/loss"].item() == pytest.approx(actor_loss, rel=1e-4, abs=1e-5)
    assert metrics["critic/loss"].item() == pytest.approx(slow.critic_loss(online, targets, weights), rel=1e-4)
    assert metrics["critic/target"].item() == pytest.approx(targets.mean(), rel=1e-4, abs=1e-5)
    assert metrics["imagination/reward"].item() == pytest.approx(rewards.mean(), rel=1e-4, abs=1e-5)
    assert metrics["imagination/continue"].item() == pytest.approx(continues.mean(), rel=1e-4)


# ----------------------------------------------------------------------------------------------------- slow critic


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


def test_slow_critic_equals_the_online_one_before_the_first_update():
    """implementation-details.md#a18: the released code's first targets come from an unrelated random network."""
    agent = make_agent()
    assert same(agent.slow_critic, agent.critic)


def test_slow_critic_stays_for_a_while_and_then_becomes_a_copy():
    """implementation-details.md#b25: a hard copy every 3 updates, taken before the update; nothing in between."""
    agent, batch = make_agent(slow_critic_every=3), make_batch()
    posterior = posterior_of(agent, batch)
    for round_ in range(3):
        online = snapshot(agent.critic)
        for update in range(3):
            agent.train_actor_critic(posterior, batch.is_terminal)
            slow_now = dict(agent.slow_critic.named_parameters())
            assert all(torch.equal(slow_now[name], online[name]) for name in online), (round_, update)
            assert not same(agent.slow_critic, agent.critic)


def test_targets_come_from_the_slow_critic_unless_switched_off():
    for slow_critic, offset in ((True, 0.0), (False, 1000.0)):
        agent, batch = make_agent(slow_critic=slow_critic), make_batch()
        agent.updates = 1
        with torch.no_grad():
            agent.critic.mlp[-1].bias += 1000
        metrics = agent.train_actor_critic(posterior_of(agent, batch), batch.is_terminal)
        assert (metrics["critic/target"].item() > 100) == (offset > 0)


def test_the_online_critic_is_trained_also_without_a_slow_one():
    agent, batch = make_agent(slow_critic=False, actor_grad="dynamics"), make_batch()
    before, posterior = snapshot(agent), posterior_of(agent, batch)
    agent.train_actor_critic(posterior, batch.is_terminal)
    assert changed(agent, before) == {"actor", "critic"}


# ------------------------------------------------------------------------------------------------------ dream starts


def test_every_state_of_the_batch_starts_a_dream():
    """implementation-details.md#b24."""
    assert dream_starts(make_agent()) == B * T


@pytest.mark.parametrize(("asked", "got"), [(4, 4), (1000, B * T), (B * T, B * T)])
def test_fewer_dreams_if_asked(asked, got):
    assert dream_starts(make_agent(imagination_starts=asked)) == got


def dream_starts(agent):
    sizes, original = [], agent.world_model.rssm.rollout_imagination

    def record(policy, start, horizon, *rest):
        sizes.append(len(start.deter))
        assert horizon == agent.config.behavior.imagination_horizon
        return original(policy, start, horizon, *rest)

    agent.world_model.rssm.rollout_imagination = record
    batch = make_batch()
    agent.train_actor_critic(posterior_of(agent, batch), batch.is_terminal)
    return sizes[0]


def test_chosen_starts_keep_their_own_flag_and_are_different_states():
    """State i of 100 carries the number i and is terminal for even i; of 40 drawn, all differ and match their flag."""
    agent = make_agent(imagination_starts=40)
    number = torch.arange(100.0).reshape(10, 10, 1)
    start, alive = agent.task.starts(State(number, number, number), number[..., 0] % 2 == 0)
    drawn = start.deter[:, 0]
    assert len(drawn.unique()) == 40
    assert torch.equal(alive, drawn % 2)
    assert torch.equal(start.stoch, start.deter)


def test_nothing_is_acted_for_after_the_end():
    """implementation-details.md#a3: all starts terminal and no entropy: the actor's gradient is exactly zero, the
    critic's is not."""
    for actor_grad in ("reinforce", "dynamics"):
        agent = make_agent(actor_grad=actor_grad, entropy_scale=0)
        batch = make_batch(terminal=True)
        metrics = agent.train_actor_critic(posterior_of(agent, batch), batch.is_terminal)
        assert not gradients(agent.actor).any()
        assert metrics["actor/grad_norm"] == 0
        assert gradients(agent.critic).any()


def test_value_of_a_terminal_state_is_its_own_reward():
    """From an ended episode the only target with weight is G_0 = r_0: loss = mean over all of 0.5 (v_0 - r_0)^2 / H."""
    agent, batch = make_agent(), make_batch(terminal=True)
    posterior = posterior_of(agent, batch)
    with torch.no_grad():
        feat = posterior.flatten().feat
        error = agent.critic(feat) - agent.world_model.heads["reward"](feat)
    metrics = agent.train_actor_critic(posterior, batch.is_terminal)
    horizon = agent.config.behavior.imagination_horizon
    assert metrics["critic/loss"].item() == pytest.approx((0.5 * error**2).mean().item() / horizon, rel=1e-4)


def test_dreams_of_a_single_step_work():
    agent, batch = make_agent(imagination_horizon=1), make_batch()
    metrics = agent.train_actor_critic(posterior_of(agent, batch), batch.is_terminal)
    assert all(value.isfinite() for value in metrics.values())


# -------------------------------------------------------------------------------------------------- small schedules


@pytest.mark.parametrize(("updates", "expected"), [(0, 3e-3), (5, 1.65e-3), (10, 3e-4), (1000, 3e-4)])
def test_entropy_scale_falls_on_a_straight_line(updates, expected):
    """From 3e-3 to 3e-4 over 10 updates; half way 1.65e-3."""
    agent = make_agent(entropy_scale=3e-3, entropy_final=3e-4, entropy_decay=10)
    agent.updates = updates
    assert agent.task.entropy_scale(agent.updates) == pytest.approx(expected)


def test_entropy_scale_stays_without_a_schedule():
    agent = make_agent(entropy_scale=3e-3, entropy_final=3e-4)
    agent.updates = 1000
    assert agent.task.entropy_scale(agent.updates) == 3e-3


def test_half_precision_updates_are_finite_with_float32_losses():
    agent, batch = make_agent(precision="bfloat16"), make_batch()
    posterior, metrics = agent.train_world_model(batch)
    metrics |= agent.train_actor_critic(posterior, batch.is_terminal)
    assert all(value.isfinite() for value in metrics.values())
    assert {metrics[f"{name}/loss"].dtype for name in agent.optimizers} == {torch.float32}
    assert {p.dtype for p in agent.parameters()} == {torch.float32}


# ----------------------------------------------------------------------------------------------------------- acting


def act(agent, seed, mode, count=400, **changes):
    """One action of `count` copies of a state, with chance from `seed`."""
    torch.manual_seed(seed)
    obs = {"body": torch.linspace(-1, 1, V).expand(count, V)}
    state, action = agent.world_model.rssm.initial(count), torch.zeros(count, agent.spec.action.size)
    return agent.act(obs, state, action, torch.ones(count, dtype=torch.bool), mode=mode, **changes)


@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_eval_mode_takes_the_most_likely_action_of_each_state(action):
    """implementation-details.md#acting, #b21: all chance is in the latent; given the state, the action is the policy's
    mode."""
    agent = make_agent(action)
    chosen, state = act(agent, 1, "eval")
    torch.testing.assert_close(chosen, agent.actor(state.feat).mode())  # with and without gradients: other kernels
    again, _ = act(agent, 1, "eval")
    assert torch.equal(chosen, again)
    assert len(state.stoch.unique(dim=0)) > 1, "the posterior is sampled in every mode"


@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_train_mode_samples_the_policy(action):
    agent = make_agent(action)
    chosen, state = act(agent, 1, "train")
    assert not torch.equal(chosen, agent.actor(state.feat).mode())
    if action is DISCRETE:
        frequencies = chosen.mean(0)
        probabilities = agent.actor(state.feat).log_probs.exp().mean(0)
        assert (frequencies - probabilities).abs().max() < 4 * math.sqrt(0.25 / 400)  # four deviations of a mean of 400


@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_explore_mode_replaces_a_share_of_the_actions(action, noise):
    """The draws before the replacement are those of train mode, so the two can be compared row by row.

    A discrete replacement is the same action by chance in about one case in three.
    """
    agent = make_agent(action, explore_noise=noise)
    usual, _ = act(agent, 1, "train", count=2000)
    explored, _ = act(agent, 1, "explore", count=2000)
    share = (usual != explored).any(-1).float().mean().item()
    expected = noise * (2 / 3 if action is DISCRETE else 1)
    assert share == pytest.approx(expected, abs=0.06 if noise else 0)
    assert explored.abs().max() <= 1
    if action is DISCRETE:
        assert torch.equal(explored.sum(-1), torch.ones(2000))


@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_full_exploration_is_uniform_even_for_a_decided_policy(action):
    """The actor is made to insist on action 0 (on +1); with noise 1 all actions are equally frequent (mean 0)."""
    agent = make_agent(action, explore_noise=1.0)
    with torch.no_grad():
        agent.actor.mlp[-1].weight.zero_()
        agent.actor.mlp[-1].bias.copy_(torch.tensor([50.0, 0, 0] if action is DISCRETE else [9.0, 9, -9, -9]))
    explored, _ = act(agent, 1, "explore", count=4000)
    usual, _ = act(agent, 1, "train", count=4000)
    expected = torch.full((3,), 1 / 3) if action is DISCRETE else torch.zeros(2)
    assert (explored.mean(0) - expected).abs().max() < 0.04
    assert (usual.mean(0) - expected).abs().max() > 0.5


def test_acting_keeps_no_graph():
    action, state = act(make_agent(), 1, "train", count=2)
    assert not action.requires_grad
    assert not any(part.requires_grad for part in state)


def test_acting_ignores_the_past_at_a_reset_and_uses_it_otherwise():
    agent = make_agent()
    obs = {"body": torch.zeros(2, V)}
    state = State(*(torch.full_like(x, 3.0) for x in agent.world_model.rssm.initial(2)))
    nan = torch.full((2, 3), math.nan)
    deters = []
    for is_first, action in ((True, nan), (False, torch.zeros(2, 3))):
        deters.append(agent.act(obs, state, action, torch.full((2,), is_first))[1].deter)
    fresh = agent.act(obs, agent.world_model.rssm.initial(2), torch.zeros(2, 3), torch.zeros(2, dtype=torch.bool))[1]
    torch.testing.assert_close(deters[0], fresh.deter)
    assert (deters[1] - fresh.deter).abs().max() > 0.1


def test_the_demo_runs(capsys):
    train.demo()
    assert "ok: " in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_the_design_documents_sizes_make_an_update(kind):
    """The `default` preset on a 64x64 colour image: its embedding, state and feature sizes, and one whole update."""
    action = ActionSpec.discrete(3) if kind == "discrete" else ActionSpec.box(2)
    spec = Spec({"image": ObsKey(("image",), "image", (64, 64, 3), (64, 64, 3), "hwc")}, action)
    agent = DreamerV2(load_preset("default"), spec)
    rssm = agent.world_model.rssm
    assert agent.world_model.encoder.output_dim == 1024
    assert (rssm.rnn_hidden_dim, rssm.latent.stoch_dim, rssm.feat_dim) == (200, 1024, 1224)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 2, 64, 64, 3), dtype=np.uint8)
    first = np.array([[True, False]])
    actions = np.where(first[..., None], np.float32(np.nan), action.random(rng, 2).reshape(1, 2, -1))
    no = np.zeros((1, 2), bool)
    batch = to_batch(Batch({"image": image}, actions, np.zeros((1, 2), np.float32), first, no, no))
    posterior, metrics = agent.train_world_model(batch)
    metrics |= agent.train_actor_critic(posterior, batch.is_terminal)
    assert all(torch.isfinite(value) for value in metrics.values())


# ------------------------------------------------------------------------------------------- what preset `auto` adds


def test_the_actor_waits_for_its_warm_up_and_then_learns():
    agent, batch = make_agent(actor_warmup=2), make_batch()
    for expected in ({"world_model", "critic", "slow_critic"}, {"world_model", "critic", "slow_critic"}):
        before = snapshot(agent)
        metrics = agent.update(batch)
        assert changed(agent, before) <= expected
        assert "critic" in changed(agent, before)
        assert "actor/entropy" in metrics
        assert "actor/grad_norm" not in metrics
    before = snapshot(agent)
    assert "actor/grad_norm" in agent.update(batch)
    assert "actor" in changed(agent, before)


def test_the_first_step_of_a_warmed_up_actor_is_of_its_usual_size():
    """Adam's corrections count the actor's own steps: after waiting, the first one is not larger."""
    agent, batch = make_agent(actor_warmup=3, actor_lr=1e-3, weight_decay=0), make_batch()
    for _ in range(3):
        agent.update(batch)
    before = snapshot(agent.actor)
    agent.update(batch)
    moved = max(float((p.detach() - before[name]).abs().max()) for name, p in agent.actor.named_parameters())
    assert moved == pytest.approx(1e-3, rel=0.02)


def test_rewards_in_other_units_are_learnt_the_same():
    """64 times the rewards with unit 64: the same losses, bit for bit."""
    plain, scaled = make_agent(), make_agent(reward_unit=64.0)
    batch = make_batch()
    larger = batch._replace(reward=64 * batch.reward)
    for _ in range(3):
        torch.manual_seed(1)
        first = plain.update(batch)
        torch.manual_seed(1)
        second = scaled.update(larger)
        assert {key: float(value) for key, value in first.items()} == {k: float(v) for k, v in second.items()}


def test_the_entropy_target_raises_its_weight_and_keeps_it_with_the_agent():
    agent, batch = make_agent(entropy_target=1.0, entropy_scale=1e-3), make_batch()
    first = agent.update(batch)
    assert float(first["actor/entropy_weight"]) == pytest.approx(1e-3)
    for _ in range(3):
        last = agent.update(batch)
    assert float(last["actor/entropy_weight"]) > 1e-3
    assert "auto_entropy.log_weight" in agent.state_dict()
    assert "auto_entropy.log_weight" not in make_agent().state_dict()


def test_the_entropy_target_goes_linearly_to_its_final_value():
    agent = make_agent(entropy_target=0.6, entropy_target_final=0.1, entropy_decay=100)
    found = []
    for updates in (0, 50, 100, 1000):
        agent.updates = updates
        found.append(agent.task.entropy_scale(agent.updates))
    assert found == pytest.approx([0.6, 0.35, 0.1, 0.1])


def test_rewards_and_values_are_judged_in_the_unit_that_they_are_learnt_in():
    """64 times the rewards with unit 64: the same health, number for number."""
    batch = make_batch()
    plain = snapshot_of_health(make_agent(), batch).numbers
    scaled = snapshot_of_health(make_agent(reward_unit=64.0), batch._replace(reward=64 * batch.reward)).numbers
    assert scaled == plain


@pytest.mark.parametrize("policy", ["auto", "trunc_normal"])
def test_the_gradient_of_draws_is_as_set(policy):
    """exact by default; released in the presets that claim to be the released code; the draws are the same."""
    from reverie.distributions import ReleasedTruncatedNormalPolicy, TruncatedNormalPolicy

    kinds = {"exact": TruncatedNormalPolicy, "released": ReleasedTruncatedNormalPolicy}
    for rule, kind in kinds.items():
        agent = make_agent(BOX, policy=policy, sample_grad=rule)
        assert type(agent.actor(torch.zeros(2, agent.world_model.rssm.feat_dim))) is kind
    for preset in ("dreamerv2", "atari", "crafter", "dmc-vision", "dmc-proprio"):
        assert load_preset(preset).behavior.sample_grad == "released"
    for preset in ("default", "seed", "vector", "dmc-small", "auto", "dreamerv1", "dreamerv3"):
        assert load_preset(preset).behavior.sample_grad == "exact"
