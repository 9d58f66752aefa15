"""The hierarchy: windows and segments, whose gradients go where, goals kept while acting, and pictures of them."""

import dataclasses

import numpy as np
import pytest
import torch
from toys import DictEnv

import reverie
from reverie import UserError, checkpoint
from reverie.actor_critic import compute_lambda_returns
from reverie.config import build
from reverie.config.presets import load_preset
from reverie.data.replay import Batch
from reverie.envs.actions import ActionSpec
from reverie.envs.spaces import ObsKey, Spec, make_spec
from reverie.extensions.director import (
    GoalAutoencoder,
    GoalLearner,
    KLWeight,
    RunningMoments,
    abstract,
    goal_reward,
    segments,
)
from reverie.insight.dream import dream_of
from reverie.insight.frames import frames, sheet
from reverie.layers import MLPOptions
from reverie.rssm import State
from reverie.run.evaluation import GoalStrip, with_ticks
from reverie.train import DreamerV2

B, T, V = 4, 6, 4
DISCRETE, BOX = ActionSpec.discrete(3), ActionSpec.box(2)
GOALS = {"goal_every": 3, "goal_dim": 16, "goal_layers": 1, "goal_variables": 3, "goal_classes": 4}


def make_agent(action=DISCRETE, **settings):
    torch.manual_seed(0)
    spec = Spec({"body": ObsKey(("body",), "vector", (V,), (V,))}, action)
    return DreamerV2(load_preset("debug", {"device": "cpu", **GOALS, **settings}), spec)


def make_batch(action=DISCRETE, seed=0):
    rng = np.random.default_rng(seed)
    first, ended = rng.random((B, T)) < 0.2, rng.random((B, T)) < 0.1
    actions = action.random(rng, B * T).reshape(B, T, -1)
    actions[first] = np.nan
    values = {"body": rng.normal(size=(B, T, V)).astype(np.float32)}
    reward = rng.normal(size=(B, T)).astype(np.float32)
    arrays = [actions, reward, first, ended, ended]
    return Batch({key: torch.from_numpy(x) for key, x in values.items()}, *(torch.from_numpy(x) for x in arrays))


# ------------------------------------------------------------------------------------------------------------- windows


def test_segments_overlap_in_their_ends_and_windows_weigh_steps_by_being_reached():
    states = torch.arange(7.0)[None, :, None]
    assert segments(states, 3).squeeze(-1).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6]]
    rewards, continues = torch.ones(1, 6), torch.tensor([[1.0, 0.5, 1, 1, 0, 1]])
    paid, going_on = abstract(rewards, continues, 3)
    assert paid[0].tolist() == pytest.approx([(1 + 1 + 0.5) / 3, (1 + 1 + 0) / 3])
    assert going_on[0].tolist() == [0.5, 0]


def test_max_cosine_is_one_at_the_goal_and_less_for_another_length():
    goal = torch.tensor([3.0, 4.0])
    assert float(goal_reward(goal, goal)) == pytest.approx(1)
    assert float(goal_reward(goal, goal / 2)) == pytest.approx(0.5)
    assert float(goal_reward(goal, 2 * goal)) == pytest.approx(0.5)
    assert float(goal_reward(goal, -goal)) == pytest.approx(-1)
    assert float(goal_reward(goal, torch.tensor([-4.0, 3.0]))) == 0
    zero = torch.zeros(2, requires_grad=True)
    goal_reward(torch.zeros(2), zero).backward()
    assert torch.isfinite(zero.grad).all()


def test_the_last_state_of_a_segment_is_scored_against_the_segments_own_goal():
    """A worker's reward for reaching state 3 compares it with the first goal, though the second is set there."""
    agent = make_agent()
    hierarchy, seen = agent.task, []
    judge = hierarchy.reach.judge
    hierarchy.reach.judge = lambda feat, rewards, *args, **kw: (
        seen.append((feat, rewards)) or judge(feat, rewards, *args, **kw)
    )
    dreams, dream = [], hierarchy.dream
    hierarchy.dream = lambda start: dreams.append(dream(start)) or dreams[-1]
    posterior = agent.world_model.loss(make_batch())[1].detach()
    hierarchy.losses(posterior, make_batch().is_terminal)
    (feat, rewards), found = seen[0], dreams[0]
    deter = hierarchy.deter(found.dream.feat)
    for window in range(2):
        own, last = found.goal[:, window], deter[:, 3 * window + 3]
        torch.testing.assert_close(rewards.unflatten(0, (-1, 2))[:, window, -1], goal_reward(own, last))
        joined = feat.unflatten(0, (-1, 2))[:, window, -1]
        torch.testing.assert_close(joined, torch.cat([found.dream.feat[:, 3 * window + 3], own], -1))
    other = goal_reward(found.goal[:, 1], deter[:, 3])
    assert not torch.allclose(rewards.unflatten(0, (-1, 2))[:, 0, -1], other)


@pytest.mark.parametrize("index", ["current", "next"])
def test_a_managers_window_sees_the_rewards_of_its_steps(index):
    agent = make_agent(reward_index=index)
    hierarchy, seen = agent.task, []
    judge = hierarchy.task_judge.judge
    hierarchy.task_judge.judge = lambda *args, **kw: seen.append(args) or judge(*args, **kw)
    dreams, dream = [], hierarchy.dream
    hierarchy.dream = lambda start: dreams.append(dream(start)) or dreams[-1]
    posterior, ended = agent.world_model.loss(make_batch())[1].detach(), make_batch().is_terminal
    hierarchy.losses(posterior, ended)
    (states, paid, going_on, _), feat = seen[0], dreams[0].dream.feat
    assert states.shape[1] == 3
    torch.testing.assert_close(states[:, 1] + 0.0, feat[:, 3] + 0.0)
    places = slice(1, None) if index == "next" else slice(0, -1)
    rewards = agent.world_model.predict_reward(feat[:, places])
    alive = torch.cat([1 - ended.flatten().float()[:, None], agent.world_model.continues(feat[:, 1:])], 1)[:, places]
    expected = (rewards[:, 0] + rewards[:, 1] * alive[:, 0] + rewards[:, 2] * alive[:, 0] * alive[:, 1]) / 3
    torch.testing.assert_close(paid[:, 0], expected)
    torch.testing.assert_close(going_on[:, 1], alive[:, 3:].prod(1))


# ------------------------------------------------------------------------------------------------------ who learns what


@pytest.mark.parametrize("mode", ["reference", "fast"])
@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_an_update_changes_every_part_and_stays_finite(action, mode):
    agent = make_agent(action, **{"compute.mode": mode})
    before = {name: p.detach().clone() for name, p in agent.named_parameters()}
    for seed in range(3):
        metrics = agent.update(make_batch(action, seed))
    assert all(torch.isfinite(value) for value in metrics.values())
    still = {name for name, p in agent.named_parameters() if torch.equal(p, before[name])}
    assert {name for name in still if "slow" not in name} == set()
    assert agent.updates == 3
    assert list(agent.optimizers) == [
        "world_model", "goals", "manager", "actor", "novelty_critic", "reach_critic", "critic",
    ]  # fmt: skip


def test_both_ways_of_computing_give_the_same_weights():
    found = []
    for mode in ("reference", "fast"):
        agent = make_agent(**{"compute.mode": mode})
        agent.load_state_dict({key: value.clone() for key, value in make_agent().state_dict().items()})
        torch.manual_seed(1)
        for seed in range(2):
            agent.update(make_batch(seed=seed))
        found.append(agent.state_dict())
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, atol=2e-4, rtol=2e-3, msg=key)


@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_each_loss_reaches_its_own_network_alone(action):
    agent = make_agent(action)
    posterior = agent.world_model.loss(make_batch(action))[1].detach()
    losses, _ = agent.task.losses(posterior, make_batch(action).is_terminal)
    names = {id(p): name for name, p in agent.named_parameters()}
    learn = [p for p in agent.parameters() if p.requires_grad]
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, learn, allow_unused=True, retain_graph=True)
        reached = {id(p) for p, g in zip(learn, gradients, strict=True) if g is not None and g.any()}
        own = {id(p) for p in agent.task.learning[name].parameters()}
        assert reached, name
        assert reached <= own, (name, [names[i] for i in reached - own])


def test_goals_learn_from_states_without_shaping_them():
    agent, batch = make_agent(), make_batch()
    posterior = agent.world_model.loss(batch)[1]
    loss = agent.learners[0].loss(posterior, batch)[0]
    gradients = torch.autograd.grad(loss, list(agent.world_model.parameters()), allow_unused=True)
    assert all(g is None for g in gradients)


def test_without_a_hierarchy_nothing_of_it_is_there():
    agent = make_agent(goal_every=0)
    assert list(agent.optimizers) == ["world_model", "actor", "critic"]
    assert {key.split(".")[0] for key in agent.state_dict()} == {
        "world_model", "actor", "critic", "slow_critic", "return_scale",
    }  # fmt: skip
    assert agent.learners == []
    assert set(agent.player().memory()) == {"deter", "stoch", "stats", "action", "fresh"}


def test_the_actors_wait_and_the_slow_critics_follow():
    agent = make_agent(actor_warmup=2, slow_critic_every=2)
    for seed in range(2):
        agent.update(make_batch(seed=seed))
    assert [agent.optimizers[name].torch.state_dict()["state"] for name in ("manager", "actor")] == [{}, {}]
    agent.update(make_batch(seed=3))
    assert agent.optimizers["manager"].torch.state_dict()["state"]
    for judge in (agent.task.novelty, agent.task.reach):
        judge.critic.load_state_dict({key: value + 1 for key, value in judge.critic.state_dict().items()})
    agent.task.prepare(3)
    assert not torch.equal(agent.task.reach.critic.mlp[0].weight, agent.task.reach.slow_critic.mlp[0].weight)
    agent.task.prepare(4)
    for judge in (agent.task.novelty, agent.task.reach):
        assert torch.equal(judge.critic.mlp[0].weight, judge.slow_critic.mlp[0].weight)


# ------------------------------------------------------------------------------------------------------------ the goals


def test_the_goals_give_states_back_and_keep_their_information_near_the_target():
    torch.manual_seed(0)
    goals = GoalAutoencoder(4, variables=4, classes=4, mlp=MLPOptions(1, 64))
    learner, optimizer = GoalLearner(goals, kl_target=3.0), torch.optim.Adam(goals.parameters(), 3e-3)
    corners = torch.randn(8, 4).sign() * 2
    for _ in range(400):
        deter = corners[torch.randint(8, (4, 16))]
        loss, metrics = learner.loss(State(deter, deter, deter), None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(metrics["error"]) < 0.2
    assert 1.5 < float(metrics["kl"]) < 4.5
    assert float(metrics["perplexity"]) > 1.3
    new = torch.tensor([[9.0, -9, 9, -9]])
    noise = torch.rand(1, 4)
    with torch.no_grad():
        assert float(goals.novelty(new, noise)) > 5 * float(goals.novelty(corners[:1], noise))


def test_the_weight_of_the_kl_follows_its_target_within_limits():
    weight = KLWeight()
    for nats, factor in ((12.0, 1.1), (8.0, 1 / 1.1), (10.0, 1.0), (10.9, 1.0), (float("nan"), 1.0)):
        before = float(weight())
        weight.follow(torch.tensor(nats), 10.0)
        assert float(weight()) == pytest.approx(before * factor)
    for nats, limit in ((100.0, 1.0), (0.0, 1e-5)):
        for _ in range(200):
            weight.follow(torch.tensor(nats), 10.0)
        assert float(weight()) == pytest.approx(limit)


def test_running_moments_are_those_of_the_numbers_from_the_first_on():
    moments = RunningMoments(decay=0.9, least=0.01)
    torch.manual_seed(0)
    for _ in range(100):
        mean, deviation = moments(3 + 2 * torch.randn(1000))
        assert float(mean) == pytest.approx(3, abs=0.3)
        assert float(deviation) == pytest.approx(2, abs=0.3)
    before = [buffer.clone() for buffer in moments.buffers()]
    moments(torch.tensor([1.0, float("nan")]))
    assert all(torch.equal(a, b) for a, b in zip(before, moments.buffers(), strict=True))
    assert float(RunningMoments(decay=0.9, least=0.01)(torch.zeros(5))[1]) == pytest.approx(0.01)


def test_advantages_are_in_their_deviations_and_their_gradient_is_the_returns():
    agent = make_agent(BOX)
    judge, feat = agent.task.task_judge, torch.randn(5, 4, agent.world_model.rssm.feat_dim)
    rewards, continues = torch.randn(5, 3, requires_grad=True), torch.ones(5, 3)
    advantages, *_ = judge.judge(feat, rewards, continues, torch.ones(5, 3), gamma=0.9, lambda_=0.8)
    assert float(advantages.detach().std(correction=0)) == pytest.approx(1, abs=0.05)
    targets = compute_lambda_returns(rewards, judge.slow_critic(feat), continues, gamma=0.9, lambda_=0.8)
    mine, plain = (torch.autograd.grad(x.sum(), rewards, retain_graph=True)[0] for x in (advantages, targets))
    ratio = mine / plain
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))


def test_both_policies_begin_with_a_full_weight_of_the_entropy_which_then_follows_its_target():
    agent = make_agent(actor_lr=1e-2)
    assert [float(weight()) for weight in agent.task.entropies.values()] == [1.0, 1.0]
    for seed in range(40):
        metrics = agent.update(make_batch(seed=seed))
    assert float(metrics["actor/entropy"]) > 0.35 * np.log(3)
    assert float(metrics["manager/entropy"]) > 0.35 * 3 * np.log(4)
    assert float(metrics["actor/entropy_weight"]) < 1


# -------------------------------------------------------------------------------------------------------------- acting


def test_a_goal_is_kept_for_its_window_and_renewed_with_the_episode():
    agent = make_agent()
    player, look = agent.player(num_envs=2, mode="explore"), {"body": np.zeros((2, V), np.float32)}
    goals, steps = [], []
    for t in range(10):
        player.act(look, np.array([False, t == 4]))
        goals.append(player.plan["goal"].clone())
        steps.append(player.plan["step"].tolist())
    assert [step[0] for step in steps] == [1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    assert [step[1] for step in steps] == [1, 2, 0, 1, 1, 2, 0, 1, 2, 0]
    for t in range(1, 10):
        assert torch.equal(goals[t][0], goals[t - 1][0]) == (t % 3 != 0 or bool((goals[t][0] == goals[t - 1][0]).all()))
        if t % 3:
            assert torch.equal(goals[t][0], goals[t - 1][0])
    code = player.plan["code"]
    torch.testing.assert_close(agent.actor.goals.decode(code), player.plan["goal"])
    assert code.reshape(2, 3, 4).sum(-1).eq(1).all()


def test_what_is_done_depends_on_the_goal():
    agent = make_agent()
    feat = torch.randn(1, agent.world_model.rssm.feat_dim)
    left, right = (agent.actor.pursue(feat, torch.full((1, agent.actor.deter_dim), x)).entropy() for x in (-3.0, 3.0))
    assert not torch.equal(left, right)


def test_memory_and_a_saved_agent_continue_with_the_same_goal(tmp_path):
    agent = make_agent()
    look, no = {"body": np.ones((2, V), np.float32)}, np.zeros(2, bool)
    player = agent.player(num_envs=2, mode="train", seed=1)
    for _ in range(2):
        player.act(look, no)
    memory = {key: value.clone() for key, value in player.memory().items()}
    assert {"plan/code", "plan/goal", "plan/step"} <= memory.keys()
    checkpoint.write_atomically(tmp_path / "saved", checkpoint.agent_files(agent))
    other = reverie.load_player(tmp_path / "saved", num_envs=2, mode="train", seed=1)
    other.recall(memory)
    other.generator.set_state(player.generator.get_state())
    for _ in range(5):
        np.testing.assert_array_equal(player.act(look, no), other.act(look, no))
        assert torch.equal(player.plan["goal"], other.plan["goal"])


def test_a_pilot_sets_a_goal_where_windows_begin():
    agent = make_agent()
    start = agent.world_model.loss(make_batch())[1].detach().flatten()
    pilot = agent.task.pilot(torch.Generator().manual_seed(0))
    with torch.no_grad():
        dream = agent.world_model.rssm.rollout_imagination(pilot, start, 7)
    assert len(pilot.goals) == 3
    shown = agent.task.goals_of(pilot, dream.feat)
    assert shown.shape == (len(start.deter), 8, agent.world_model.rssm.feat_dim)
    deter = shown[..., -agent.actor.deter_dim :]
    for t, window in enumerate((0, 0, 0, 1, 1, 1, 2, 2)):
        torch.testing.assert_close(deter[:, t], pilot.goals[window])
    likely = agent.task.goals_of(agent.task.pilot(), dream.feat)
    assert likely.shape == shown.shape


# ------------------------------------------------------------------------------------------------------------- pictures


def picture_agent():
    torch.manual_seed(0)
    settings = {"device": "cpu", **GOALS}
    return DreamerV2(load_preset("debug", settings), make_spec(reverie.make_env(DictEnv)))


def test_goals_are_shown_in_dreams_and_films():
    torch.manual_seed(0)
    image = ObsKey(("image",), "image", (16, 16, 3), (16, 16, 3), "hwc")
    agent = DreamerV2(load_preset("debug", {"device": "cpu", **GOALS}), Spec({"image": image}, DISCRETE))
    rng = np.random.default_rng(0)
    obs = {"image": rng.integers(0, 256, (2, 9, 16, 16, 3), dtype=np.uint8)}
    no = np.zeros((2, 9), bool)
    first = no.copy()
    first[:, 0] = True
    actions = DISCRETE.random(rng, 18).reshape(2, 9, -1)
    batch = Batch(obs, actions, np.zeros((2, 9), np.float32), first, no, no)
    for chosen in ("replay", "policy"):
        found = dream_of(agent, batch, ~no, context=3, samples=2, actions=chosen)
        goals = found.goals["image"]
        assert goals.shape == (2, 2, 9, 16, 16, 3)
        assert (goals[:, :, :2] == 205).all()
        assert (goals[:, :, 2] == goals[:, :, 3]).all()
        assert (goals[:, :, 3] == goals[:, :, 4]).all()
        assert not (goals[:, :, 4] == goals[:, :, 5]).all()
        plain = dataclasses.replace(found, goals={})
        assert frames(found)[4].shape[0] > frames(plain)[4].shape[0]
        assert sheet(found).shape[0] > sheet(plain).shape[0]
    player = agent.player(num_envs=1)
    player.act({"image": obs["image"][:1, 0]}, np.ones(1, bool))
    strip = GoalStrip(player)()
    assert strip.shape == (16, 16, 3)
    assert [tuple(strip[-1, x]) for x in (1, 7, 12)] == [(255, 200, 0), (60, 60, 60), (60, 60, 60)]


def test_ticks_count_the_steps_of_a_window_that_began():
    blank = np.zeros((16, 16, 3), np.uint8)
    bright = [(with_ticks(blank, over, 4)[-1] == (255, 200, 0)).all(-1).sum() for over in range(4)]
    assert bright == [3, 6, 9, 12]
    assert not with_ticks(blank, 0, 0).any()


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"goal_every": 1}, "goal_every"),
        ({"goal_every": 8, "goal_classes": 1}, "goal_classes"),
        ({"goal_every": 8, "members": 3, "behavior.explore": "ensemble"}, "behavior.explore"),
        ({"goal_every": 8, "members": 3, "uncertainty_penalty": 1.0}, "uncertainty_penalty"),
        ({"windows": 0}, "hierarchy.windows"),
        ({"manager_entropy": 1.5}, "manager_entropy"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings, word):
    with pytest.raises(UserError, match=word):
        build(settings)


def test_the_presets_are_the_published_recipe_in_two_sizes():
    full, small = load_preset("director"), load_preset("director+small")
    assert (full.hierarchy.goal_every, full.hierarchy.windows, full.hierarchy.goal_dim) == (8, 2, 512)
    assert (small.hierarchy.goal_every, small.hierarchy.goal_dim) == (8, 128)
    assert small.model.rnn_hidden_dim == 128
