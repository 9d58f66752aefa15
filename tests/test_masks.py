"""Policies over several parts, masked policies, and masks in dreams."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toys import SpaceEnv

import reverie
from reverie.actor_critic import Actor, compute_actor_loss
from reverie.config.presets import load_preset
from reverie.data.collect import Collector
from reverie.data.replay import Replay
from reverie.distributions import OneHotPolicy, Part, TruncatedNormalPolicy, make_policy
from reverie.envs import AgentView, make_vector
from reverie.envs.spaces import MASK, make_spec
from reverie.envs.vector.backend import time_step
from reverie.layers import MLPOptions
from reverie.networks import MaskPredictor
from reverie.train import DreamerV2, to_batch
from tests.envs.test_actions import HYBRID, MaskedEnv

PARTS = (Part("onehot", 3), Part("trunc_normal", 2), Part("onehot", 2, 3))
SIZE, STATS = 3 + 2 + 6, 3 + 4 + 6


@pytest.fixture(autouse=True)
def _same_chance_in_every_test():
    torch.manual_seed(0)


def composite(*batch, mask=None):
    stats = torch.randn(*batch, STATS)
    return stats, make_policy(stats, PARTS, mask=mask)


def members(stats):
    """The same distributions by hand."""
    switches = [OneHotPolicy(stats[..., 7 + 2 * i : 9 + 2 * i]) for i in range(3)]
    return OneHotPolicy(stats[..., :3]), TruncatedNormalPolicy(stats[..., 3:7]), switches


def test_a_composite_is_its_members_side_by_side():
    stats, policy = composite(5, 4)
    first, numbers, switches = members(stats)
    action = policy.sample()
    assert action.shape == (5, 4, SIZE)
    choice = first.log_prob(action[..., :3]) + sum(
        switch.log_prob(action[..., 5 + 2 * i : 7 + 2 * i]) for i, switch in enumerate(switches)
    )
    torch.testing.assert_close(policy.choice_log_prob(action), choice)
    torch.testing.assert_close(policy.log_prob(action), choice + numbers.log_prob(action[..., 3:5]))
    entropy = first.entropy() + numbers.entropy() + sum(switch.entropy() for switch in switches)
    torch.testing.assert_close(policy.entropy(), entropy)
    mode = torch.cat([first.mode(), numbers.mode(), *(switch.mode() for switch in switches)], -1)
    torch.testing.assert_close(policy.mode(), mode)


def test_a_composite_samples_what_its_members_say():
    stats = torch.tensor([0.2, 0.5, 0.3]).log()
    stats = torch.cat([stats, torch.zeros(4), *(torch.tensor([p, 1 - p]).log() for p in (0.1, 0.5, 0.8))])
    action = make_policy(stats.expand(20_000, -1), PARTS).sample()
    found = torch.cat([action[:, :3], action[:, 5:]], -1).mean(0)
    torch.testing.assert_close(found, torch.tensor([0.2, 0.5, 0.3, 0.1, 0.9, 0.5, 0.5, 0.8, 0.2]), atol=0.02, rtol=0)
    assert action[:, 3:5].abs().max() <= 1


def test_noise_decides_the_sample():
    _, policy = composite(6)
    noise = policy.noise()
    assert torch.equal(policy.sample(noise), policy.sample(noise))
    assert not torch.equal(policy.sample(noise), policy.sample(policy.noise()))


def test_random_actions_of_a_policy_are_uniform_over_what_is_allowed():
    mask = torch.ones(6000, SIZE)
    mask[:, 1] = 0
    mask[:, 5] = 0
    _, policy = composite(6000, mask=mask)
    action = policy.random()
    expected = torch.tensor([0.5, 0, 0.5, 0, 1, 0.5, 0.5, 0.5, 0.5])
    torch.testing.assert_close(action[:, [0, 1, 2, 5, 6, 7, 8, 9, 10]].mean(0), expected, atol=0.03, rtol=0)
    assert -1 <= action[:, 3:5].min() < -0.9 < 0.9 < action[:, 3:5].max() <= 1


# -------------------------------------------------------------------------------------------------------------- masked


@pytest.mark.parametrize("draw", ["sample", "mode", "random"])
@pytest.mark.parametrize("unimix", [0.0, 0.5])
def test_forbidden_actions_are_never_chosen(draw, unimix):
    """100,000 draws with a policy that wants what is forbidden most of all."""
    logits = torch.tensor([9.0, 0.0, -3.0, 9.0]).expand(100_000, 4)
    mask = torch.rand(100_000, 4) < 0.5
    mask[:, 2] = True
    policy = make_policy(logits, [Part("onehot", 4)], mask=mask.float(), unimix=unimix)
    action = getattr(policy, draw)()
    assert torch.equal(action.sum(-1), torch.ones(100_000))
    assert not (action.bool() & ~mask).any()


def test_the_edges_of_the_noise_choose_nothing_forbidden():
    mask = torch.tensor([0.0, 1, 1, 0])
    policy = OneHotPolicy(torch.tensor([5.0, 1, 2, 5]), mask)
    for noise in (0.0, 1e-9, 0.5, 1 - 2**-24):
        assert (policy.sample(torch.tensor(noise)) * (1 - mask)).sum() == 0


def test_a_masked_policy_is_the_policy_given_what_is_allowed():
    logits = torch.randn(7, 4, requires_grad=True)
    mask = torch.tensor([1.0, 0, 1, 0]).expand(7, 4)
    policy, small = OneHotPolicy(logits, mask), OneHotPolicy(logits[:, [0, 2]])
    torch.testing.assert_close(policy.log_probs[:, [0, 2]], small.log_probs)
    torch.testing.assert_close(policy.entropy(), small.entropy())
    assert policy.entropy().max() <= math.log(2) + 1e-6
    action = policy.sample()
    (policy.log_prob(action.detach()) + policy.entropy()).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, [1, 3]] == 0).all()
    assert (logits.grad[:, [0, 2]] != 0).any()


def test_unimix_spreads_over_allowed_actions_only():
    policy = make_policy(torch.tensor([50.0, 0, 0]), [Part("onehot", 3)], mask=torch.tensor([1.0, 1, 0]), unimix=0.3)
    torch.testing.assert_close(policy.log_probs.exp(), torch.tensor([0.8 / 0.9, 0.1 / 0.9, 0.0]))


# --------------------------------------------------------------------------------------------------------- mask head


def test_the_mask_head_allows_at_least_one_of_each_choice():
    head = MaskPredictor(8, PARTS, target="m", mlp=MLPOptions(1, 8))
    with torch.no_grad():
        head.mlp[-1].bias.copy_(torch.tensor([-9.0, -8, -9, 0, 0, 5, -5, -5, 5, -6, -5]))
        head.mlp[-1].weight.zero_()
    allowed = head.allowed(torch.randn(3, 5, 8))
    assert allowed.shape == (3, 5, SIZE)
    assert allowed[0, 0].tolist() == [0, 1, 0, 1, 1, 1, 0, 0, 1, 0, 1]


def test_the_mask_heads_loss_counts_choices_only():
    head = MaskPredictor(8, PARTS, target="m", mlp=MLPOptions(1, 8))
    with torch.no_grad():
        head.mlp[-1].weight.zero_()
        head.mlp[-1].bias.zero_()
        head.mlp[-1].bias[3:5] = 100.0
    loss = head.loss(torch.randn(4, 8), torch.zeros(4, SIZE))
    torch.testing.assert_close(loss, torch.full((4,), 9 * math.log(2)))


def _masked_agent(how="info", **settings):
    envs = make_vector(lambda: MaskedEnv(how), 2)
    spec = envs.get_attr("agent_spec")[0]
    agent = DreamerV2(load_preset("debug", {"world_model_lr": 3e-3, **settings}), spec)
    return envs, spec, agent


def _experience(envs, spec, steps, act=None):
    replay = Replay(spec.shapes, spec.action.size, capacity=4000, streams=2)
    rng = np.random.default_rng(0)
    rows = Collector(envs, seed=0).rows(act or (lambda obs, first: spec.action.random(rng, 2, obs[MASK])))
    for _ in range(steps):
        replay.add(next(rows)[0])
    return replay


@pytest.mark.parametrize("how", ["info", "observation", "method"])
def test_no_forbidden_action_in_acting(how):
    """MaskedEnv raises at the first one: random, exploring, sampling and greedy play of an untrained agent."""
    envs, spec, agent = _masked_agent(how)
    _experience(envs, spec, 60)
    for mode in ("train", "eval", "explore"):
        player = agent.player(num_envs=2, mode=mode)
        player.explore_noise = 0.5
        player.action_hold = 3 if mode == "explore" else 1
        _experience(envs, spec, 60, player.act)


def test_no_forbidden_action_of_a_hierarchy_in_acting_or_dreams():
    envs, spec, agent = _masked_agent(goal_every=3, goal_dim=16, goal_layers=1)
    replay = _experience(envs, spec, 60)
    batch = to_batch(replay.sample(4, 8))
    metrics = agent.update(batch)
    assert all(torch.isfinite(value) for value in metrics.values())
    start = agent.world_model.loss(batch)[1].detach().flatten()
    with torch.no_grad():
        dream = agent.task.imagine(start)
        allowed = agent.world_model.action_mask(dream.feat[:, :-1])
    assert not ((dream.action != 0) & (allowed == 0)).any()
    assert (allowed == 0).any()
    for mode in ("train", "eval", "explore"):
        _experience(envs, spec, 40, agent.player(num_envs=2, mode=mode).act)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["train", "eval", "explore"])
def test_no_forbidden_action_in_100_000_steps(mode):
    """MaskedEnv raises at the first one; the agent is trained before, and explores with half of its actions random."""
    envs, spec, agent = _masked_agent()
    replay = _experience(envs, spec, 300)
    for _ in range(50):
        batch = to_batch(replay.sample(8, 10))
        agent.train_actor_critic(agent.train_world_model(batch)[0], batch.is_terminal)
    many = make_vector(lambda: MaskedEnv("info"), 40)
    player = agent.player(num_envs=40, mode=mode)
    player.explore_noise = 0.5
    collector = Collector(many, seed=0)
    rows = collector.rows(player.act)
    while collector.steps < 100_000:
        row, _ = next(rows)
    assert row["obs/action_mask"].shape == (40, 4)


def test_a_player_for_ones_own_loop_takes_the_mask():
    _, _, agent = _masked_agent()
    env, player = MaskedEnv("info"), agent.player(mode="train")
    obs, info = env.reset(seed=0)
    for _ in range(19):
        obs, _, _, _, info = env.step(player(obs, mask=info["action_mask"]))
    own = agent.player(num_envs=2, mode="train")
    masks = np.stack([np.int8([0, 1, 0, 0]), np.int8([0, 0, 0, 1])])
    assert own(np.zeros((2, 2), np.float32), mask=masks).tolist() == [1, 3]


def test_the_mask_is_learnt_and_respected_in_dreams():
    envs, spec, agent = _masked_agent()
    replay = _experience(envs, spec, 300)
    for _ in range(150):
        posterior, metrics = agent.train_world_model(to_batch(replay.sample(8, 10)))
    assert metrics["world_model/obs/action_mask_loss"] < 0.4  # of 4 ln 2 = 2.77 nats
    start = posterior.flatten()
    with torch.no_grad():
        dream = agent.imagine(start)
        allowed = agent.world_model.action_mask(dream.feat[:, :-1])
    assert not (dream.action.bool() & (allowed == 0)).any()
    assert (allowed.sum(-1) == 2).float().mean() > 0.9
    alternates = (dream.action[:, 1:, ::2].sum(-1) != dream.action[:, :-1, ::2].sum(-1)).float().mean()
    assert alternates > 0.9  # even and odd actions are allowed in turn, also in the dream
    agent.train_actor_critic(posterior, torch.zeros(8, 10, dtype=torch.bool))


def test_the_measurement_of_the_backend_respects_masks():
    assert 0 < time_step(lambda: AgentView(MaskedEnv("info"))) < 0.1


def test_without_a_mask_nothing_is_forbidden():
    agent = DreamerV2(load_preset("debug"), make_spec(SpaceEnv(spaces.Box(-1, 1, (2,)))))
    assert agent.world_model.action_mask(torch.zeros(1, agent.world_model.rssm.feat_dim)) is None


# ------------------------------------------------------------------------------------------------------ hybrid actions


def test_each_part_of_a_hybrid_action_gets_its_own_gradient():
    """per_part: numbers are credited through the dream, choices by their log-probability and the advantage."""
    actor = Actor(4, SIZE, parts=PARTS, mlp=MLPOptions(1, 8))
    feat = torch.randn(6, 3, 4)
    policy = actor(feat)
    action = policy.sample()
    choice = torch.zeros(SIZE, dtype=torch.bool)
    choice[[0, 1, 2, 5, 6, 7, 8, 9, 10]] = True
    dreamt = torch.where(choice, action.detach(), action)
    targets, baseline, weights = (dreamt * torch.arange(1.0, SIZE + 1)).sum(-1), torch.randn(6, 3), torch.rand(6, 3)
    loss, _ = compute_actor_loss(policy, dreamt, targets, baseline, weights, actor_grad="per_part", entropy_scale=0.0)
    numbers = targets
    choices = policy.choice_log_prob(action.detach()) * (targets - baseline).detach()
    expected = -(weights * (numbers + choices)).mean()
    found = torch.autograd.grad(loss, actor.parameters(), retain_graph=True)
    wanted = torch.autograd.grad(expected, actor.parameters())
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_hybrid_agent_chooses_per_part_by_itself():
    spec = make_spec(SpaceEnv(spaces.Box(-1, 1, (2,)), HYBRID))
    agent = DreamerV2(load_preset("debug"), spec)
    assert agent.task.actor_grad == "per_part"
    feat = torch.randn(5, agent.world_model.rssm.feat_dim)
    action = agent.task.dream_action(feat)
    numbers = torch.from_numpy(~spec.action.is_choice)
    gradient = torch.autograd.grad((action * torch.randn(11)).sum(), agent.actor.parameters(), retain_graph=True)
    only = torch.autograd.grad((action[:, numbers] * 1.0).sum(), agent.actor.parameters())
    assert any(g.abs().sum() > 0 for g in gradient)
    assert any(g.abs().sum() > 0 for g in only)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(action[:, ~numbers].detach().sum(), agent.actor.parameters())
    weights = agent.actor.mlp[-1].weight
    slopes = torch.autograd.grad(agent.task.dream_action(feat).sum(), weights)[0]
    assert (slopes[: 2 * 3] == 0).all()  # the switches and the choice in front: three pairs of logits
    assert (slopes[6:8] != 0).any()  # the means of the numbers


@pytest.mark.parametrize(
    "space", [spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3), HYBRID, spaces.Box(-1, 1, (2, 2))], ids=str
)
def test_an_agent_learns_and_acts_with_any_action_space(space, tmp_path):
    agent = reverie.Dreamer(
        lambda: SpaceEnv(spaces.Box(-1, 1, (2,)), space),
        preset="debug", run=tmp_path / "run", random_baseline=False, time_limit=20,
    )  # fmt: skip
    agent.learn(env_steps=120, quiet=True)
    player = reverie.load(tmp_path / "run", env=lambda: SpaceEnv(spaces.Box(-1, 1, (2,)), space)).player()
    assert space.contains(player(np.zeros(2, np.float32)))


@pytest.mark.parametrize(
    ("policy", "space"), [("onehot", spaces.Box(-1, 1, (2,))), ("tanh_normal", spaces.Discrete(3))]
)
def test_a_policy_that_does_not_fit_is_told(policy, space):
    with pytest.raises(reverie.UserError, match=f"behavior.policy={policy} does not fit"):
        DreamerV2(load_preset("debug", {"policy": policy}), make_spec(SpaceEnv(spaces.Box(-1, 1, (2,)), space)))


@pytest.mark.parametrize(("numbers", "action_mask"), [(3, "auto"), (5, "none")])
def test_an_observation_that_is_only_called_so_is_no_mask(make_run, tmp_path, numbers, action_mask):
    """Of another size than the choices, or not wanted as a mask: it is seen, and forbids nothing."""
    seen = spaces.Dict({"action_mask": spaces.Box(0, 1, (numbers,), np.int8)})
    task = lambda: SpaceEnv(seen, spaces.Discrete(5))  # noqa: E731
    run = make_run(tmp_path / "run", task, env_steps=60, action_mask=action_mask)
    run.train()
    assert not run.spec.masked
    assert list(run.spec.obs) == ["action_mask_"]
    assert len(set(run.replay.contents(["action"])["action"].argmax(-1).tolist())) == 5
