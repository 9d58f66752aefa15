"""Ensembles: who learns from what, where the members disagree, and that the agent beside them does not notice."""

import math

import numpy as np
import pytest
import torch

from reverie import UserError
from reverie.config import build
from reverie.config.presets import load_preset
from reverie.data.replay import Batch
from reverie.envs.actions import ActionSpec
from reverie.envs.spaces import ObsKey, Spec
from reverie.extensions.ensemble import ROWS, OneStepEnsemble, PriorEnsemble, Usual, dense, spread
from reverie.extensions.explore import RunningDeviation
from reverie.insight.alarm import alarm_by_horizon, auroc, auroc_interval
from reverie.latents import CategoricalLatent, GaussianLatent, Latent
from reverie.rssm import State
from reverie.train import DreamerV2

B, T, V = 4, 6, 4
DISCRETE, BOX = ActionSpec.discrete(3), ActionSpec.box(2)
EXPLORE = {"members": 3, "behavior.explore": "ensemble"}


def make_agent(action=DISCRETE, **settings):
    torch.manual_seed(0)
    spec = Spec({"body": ObsKey(("body",), "vector", (V,), (V,))}, action)
    return DreamerV2(load_preset("debug", {"device": "cpu", **settings}), spec)


def make_batch(action=DISCRETE, seed=0):
    rng = np.random.default_rng(seed)
    first, ended = rng.random((B, T)) < 0.2, rng.random((B, T)) < 0.1
    actions = action.random(rng, B * T).reshape(B, T, -1)
    actions[first] = np.nan
    values = {"body": rng.normal(size=(B, T, V)).astype(np.float32)}
    reward = rng.normal(size=(B, T)).astype(np.float32)
    arrays = [actions, reward, first, ended, ended]
    return Batch({key: torch.from_numpy(x) for key, x in values.items()}, *(torch.from_numpy(x) for x in arrays))


def snapshot(agent):
    return {name: p.detach().clone() for name, p in agent.named_parameters()}


def changed(agent, before):
    return {name.split(".")[0] for name, p in agent.named_parameters() if not torch.equal(p, before[name])}


# ------------------------------------------------------------------------------------------------ beside the agent


@pytest.mark.parametrize("mode", ["reference", "fast"])
@pytest.mark.parametrize("kind", ["prior", "one_step"])
@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_an_ensemble_leaves_the_agent_beside_it_as_it_is_bit_for_bit(action, kind, mode):
    """Weights, metrics and torch's random stream after three updates."""
    found = []
    for settings in ({}, {"members": 3, "ensemble.kind": kind}):
        agent = make_agent(action, **settings, **{"compute.mode": mode})
        metrics = [agent.update(make_batch(action, seed)) for seed in range(3)]
        found.append((agent.state_dict(), metrics[-1], torch.get_rng_state()))
    (plain, numbers, stream), (with_one, more, stream_with) = found
    assert {key for key in with_one if key not in plain} == {key for key in with_one if key.startswith("ensemble.")}
    assert all(torch.equal(with_one[key], value) for key, value in plain.items())
    assert all(torch.equal(more[key], value) for key, value in numbers.items())
    assert torch.equal(stream, stream_with)


def test_without_an_ensemble_nothing_of_it_is_there():
    agent = make_agent()
    assert agent.ensemble is None
    assert list(agent.optimizers) == ["world_model", "actor", "critic"]
    assert agent.generators == {}


@pytest.mark.parametrize("kind", ["prior", "one_step"])
def test_its_update_changes_the_ensemble_and_nothing_else(kind):
    agent, batch = make_agent(members=3, **{"ensemble.kind": kind}), make_batch()
    posterior, _ = agent.train_world_model(batch)
    before = snapshot(agent)
    agent.train_learners(posterior, batch)
    assert changed(agent, before) == {"ensemble"}
    assert agent.optimizers["ensemble"].updates == 1
    still = [n for n, p in agent.ensemble.named_parameters() if torch.equal(p, before[f"ensemble.{n}"])]
    assert still == []


@pytest.mark.parametrize("kind", ["prior", "one_step"])
def test_no_gradient_reaches_what_it_learns_from(kind):
    """Also where the states still have a graph: the detaching is the ensemble's own."""
    agent, batch = make_agent(members=3, **{"ensemble.kind": kind}), make_batch()
    posterior = agent.world_model.loss(batch)[1]
    assert posterior.deter.requires_grad
    agent.ensemble.prepare(B)
    loss = agent.ensemble.loss(posterior, batch)[0]
    parameters = list(agent.world_model.parameters())
    assert all(g is None for g in torch.autograd.grad(loss, parameters, allow_unused=True))


def test_bootstrap_weights_differ_by_member_and_sequence_and_come_from_a_stream_of_their_own():
    ensemble = make_agent(members=4).ensemble
    stream, drawn = torch.get_rng_state(), []
    for _ in range(200):
        ensemble.prepare(16)
        drawn.append(ensemble.weights[..., 0].clone())
    assert torch.equal(stream, torch.get_rng_state())
    weights = torch.stack(drawn)
    assert weights.shape == (200, 4, 16)
    assert float(weights.mean()) == pytest.approx(1, abs=0.05)  # Poisson(1): mean and variance are 1
    assert float(weights.var()) == pytest.approx(1, abs=0.1)
    for pair in ((0, 1), (1, 3)):
        together = torch.corrcoef(torch.stack([weights[:, m].flatten() for m in pair]))[0, 1]
        assert abs(float(together)) < 0.06
    again = make_agent(members=4).ensemble
    again.prepare(16)
    assert torch.equal(again.weights[..., 0], drawn[0])


def test_without_bootstrap_every_member_sees_everything_once():
    ensemble = make_agent(members=4, bootstrap=False).ensemble
    ensemble.prepare(5)
    assert torch.equal(ensemble.weights, torch.ones(4, 5, 1))


def test_members_begin_differently():
    weight = make_agent(members=3).ensemble.net.layers[0].weight.detach()
    assert not torch.equal(weight[0], weight[1])
    limit = math.sqrt(6 / (weight.shape[1] + weight.shape[2]))
    assert 0.95 * limit < float(weight.abs().max()) <= limit


# --------------------------------------------------------------------------------------------------- disagreement


def test_disagreement_is_between_nothing_and_the_logarithm_of_the_number_of_members():
    latent, (m, s, k) = CategoricalLatent(5, 4), (4, 5, 4)
    stats = torch.randn(m, 7, s * k)
    found = latent.disagreement(3 * stats)
    assert float(found.min()) > 0
    assert float(found.max()) < s * math.log(m)
    assert torch.equal(latent.disagreement(stats[:1].expand(m, -1, -1)).clamp(max=1e-5) < 1e-5, torch.ones(7) > 0)
    sure = 300 * torch.eye(k).repeat(1, s)[:, None]  # each member sure of another class
    assert float(latent.disagreement(sure)) == pytest.approx(s * math.log(m), rel=1e-5)
    assert float(latent.distance(sure)) == pytest.approx(math.sqrt(s * (0.75**2 + 3 * 0.25**2)), rel=1e-5)


@pytest.mark.parametrize("latent", [CategoricalLatent(2, 3), GaussianLatent(3)], ids=["categorical", "gaussian"])
@pytest.mark.parametrize("measure", ["disagreement", "distance"])
def test_gradients_of_disagreement_stay_finite_at_its_ends(latent, measure):
    for scale in (0.0, 1e3):
        stats = (scale * torch.randn(3, 5, latent.stats_dim)).requires_grad_()
        (slope,) = torch.autograd.grad(getattr(latent, measure)(stats).sum(), stats)
        assert torch.isfinite(slope).all()


@pytest.mark.parametrize("kept", [(2, ROWS + 3), (1, 2 * ROWS), (3, 1)], ids=str)
def test_without_gradients_states_are_scored_some_at_a_time_and_alike(kept):
    generator = torch.Generator().manual_seed(0)
    ensemble = PriorEnsemble(CategoricalLatent(2, 3), 4, members=3, hidden_dim=8, generator=generator)
    deter = torch.randn(*kept, 4)
    whole = ensemble.disagreement(deter)
    assert whole.requires_grad
    with torch.no_grad():
        some = ensemble.disagreement(deter)
    assert some.shape == kept == whole.shape
    assert torch.allclose(some, whole, rtol=1e-4, atol=1e-6)


def test_gaussian_members_that_agree_have_no_disagreement():
    latent = GaussianLatent(3)
    stats = torch.randn(1, 7, 6).expand(4, -1, -1)
    assert float(latent.disagreement(stats).abs().max()) < 1e-6
    assert float(latent.distance(stats).max()) < 1e-5


def test_a_latent_without_disagreement_says_so():
    with pytest.raises(NotImplementedError, match="Latent has no disagreement"):
        Latent().disagreement(torch.zeros(2, 3, 4))


def learn(ensemble, optimizer, state, action=None, first=None):
    """One update of an ensemble by itself. -> its loss."""
    none = torch.zeros(state.deter.shape[:2])
    first = none > 0 if first is None else first
    action = none[..., None] if action is None else action
    ensemble.prepare(len(none))
    loss = ensemble.loss(state, Batch({}, action, none, first, first, first))[0]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def half(side, *shape):
    """States of the left or right half of a square."""
    found = torch.rand(*shape, 2) * 2 - 1
    found[..., 0] = side * found[..., 0].abs()
    return found


# ------------------------------------------------------------------------------------------------- one-step heads


def test_one_step_heads_are_given_the_action_that_leaves_the_state():
    """A world in which z_{t+1} IS the action taken at t: heads that are told another action learn nothing."""
    torch.manual_seed(0)
    ensemble = OneStepEnsemble(
        4 + 2, 4, 4, members=2, layers=1, hidden_dim=32, generator=torch.Generator().manual_seed(0)
    )
    optimizer = torch.optim.Adam(ensemble.parameters(), 1e-2)
    for _ in range(300):
        action = torch.eye(4)[torch.randint(4, (8, 10))]  # action[:, t] led into t
        first = torch.rand(8, 10) < 0.1
        stoch = torch.where(first[..., None], torch.eye(4)[torch.randint(4, (8, 10))], action)
        action = torch.where(first[..., None], torch.nan, action)
        state = State(torch.randn(8, 10, 2), stoch, stoch)
        loss = learn(ensemble, optimizer, state, action, first)
    assert loss < 0.02  # 0.375 if nothing is known
    feat = torch.randn(3, 5, 6)
    with torch.no_grad():
        chosen = torch.eye(4)[torch.randint(4, (3, 4))]
        told = ensemble.net(torch.cat([feat[:, :-1], chosen], -1)).argmax(-1)
    assert (told == chosen.argmax(-1)).float().mean() > 0.9


def test_another_episode_is_no_step():
    """Where the last row of a window begins another episode, it is no target of the row before, nor counted as one."""
    ensemble = make_agent(members=3, bootstrap=False, **{"ensemble.kind": "one_step"}).ensemble
    first, size = torch.zeros(B, T, dtype=torch.bool), ensemble.net.inputs - 3 - 16
    first[:, -1] = True
    action = torch.where(first[..., None], torch.nan, torch.eye(3)[torch.randint(3, (B, T))])
    stoch = torch.randn(B, T, 16)
    other = torch.cat([stoch[:, :-1], torch.randn(B, 1, 16)], 1)
    deter = torch.randn(B, T, size)

    def loss(stoch, first, length=T):
        ensemble.prepare(B)
        rows = State(deter[:, :length], stoch[:, :length], stoch[:, :length])
        flags = first[:, :length]
        batch = Batch({}, action[:, :length].nan_to_num(), flags * 0.0, flags, flags, flags)
        return float(ensemble.loss(rows, batch)[0].detach())

    assert loss(stoch, first) == loss(other, first) == pytest.approx(loss(stoch, first, T - 1))
    assert loss(stoch, first & False) != loss(other, first & False)
    count = float(ensemble.usual.count)
    assert loss(stoch, first | True) == 0  # nothing but beginnings
    assert float(ensemble.usual.count) == count


# ------------------------------------------------------------------------------------------------- what is usual


def test_the_table_of_the_usual_gives_percentiles():
    usual, rng = Usual(), np.random.default_rng(0)
    for _ in range(50):
        usual.follow(torch.from_numpy(rng.exponential(size=(20, 25))))
    values = torch.tensor([-1.0, 0.0, math.log(2), math.log(10), 100.0])
    torch.testing.assert_close(usual.share_below(values), torch.tensor([0, 0, 0.5, 0.9, 1.0]), atol=0.02, rtol=0)
    usual.follow(torch.full((10,), 0.0))  # one odd batch of fifty-one
    assert float(usual.share_below(torch.tensor(math.log(2)))) == pytest.approx(0.5, abs=0.05)
    before = usual.table.clone()
    usual.follow(torch.full((3, 3), math.nan))
    assert torch.equal(usual.table, before)
    assert float(usual.count) == 51


def test_a_uniform_table_is_exact_between_its_points():
    usual = Usual()
    usual.follow(torch.linspace(0, 1, 10_001))
    values = torch.tensor([0.0, 0.123, 0.5, 0.999, 1.0])
    torch.testing.assert_close(usual.share_below(values), values, atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------------------ exploring


@pytest.mark.parametrize("kind", ["prior", "one_step"])
def test_disagreement_stands_where_the_reward_stands(kind):
    """Reward index current: r_k belongs to state k; next: to the state that u_k leads to."""
    found = {}
    for index in ("current", "next"):
        agent = make_agent(reward_index=index, **EXPLORE, **{"ensemble.kind": kind})
        with torch.no_grad():
            torch.manual_seed(3)
            dream = agent.behaviors[1].imagine(agent.world_model.loss(make_batch())[1].flatten())
            reward = agent.behaviors[1].reward
            found[index] = reward(dream, torch.zeros(dream.action.shape[:2]))[0] * reward.deviation.value
    torch.testing.assert_close(found["current"][:, 1:], found["next"][:, :-1])
    assert not torch.equal(found["current"], found["next"])
    if kind == "one_step":
        assert not found["current"][:, 0].any()  # a dream's first state was not arrived at


@pytest.mark.parametrize("kind", ["prior", "one_step"])
@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
@pytest.mark.parametrize("index", ["current", "next"])
def test_an_exploring_behaviour_learns_beside_the_tasks(action, kind, index):
    agent = make_agent(action, reward_index=index, **EXPLORE, **{"ensemble.kind": kind})
    before = snapshot(agent)
    for seed in range(2):
        metrics = agent.update(make_batch(action, seed))
    assert agent.updates == 2
    own = {"explore_actor", "explore_critic"}
    assert changed(agent, before) - {"slow_critic", "explore_slow_critic"} == {
        "world_model", "ensemble", "actor", "critic", *own,
    }  # fmt: skip
    assert all(torch.isfinite(value) for value in metrics.values())
    assert float(metrics["explore_imagination/disagreement"]) > 0
    assert not torch.equal(metrics["explore_imagination/reward"], metrics["imagination/reward"])


def test_the_exploring_policy_acts_while_training_and_the_tasks_in_evaluation():
    agent = make_agent(**EXPLORE)
    assert agent.player(mode="explore").actor is agent.get_submodule("explore_actor")
    assert agent.player(mode="eval").actor is agent.actor
    assert agent.player(mode="train").actor is agent.actor
    plain = make_agent(members=3)
    assert plain.player(mode="explore").actor is plain.actor


def test_a_run_that_adapts_keeps_the_exploring_policy_and_acts_by_the_tasks():
    agent = make_agent(**EXPLORE, collect="task")
    before = snapshot(agent)
    metrics = agent.update(make_batch())
    assert agent.updates == 1
    assert agent.player(mode="explore").actor is agent.actor
    assert not any(name.startswith("explore") for name in metrics)
    assert not any(name.startswith("explore") for name in changed(agent, before))
    assert agent.state_dict().keys() == make_agent(**EXPLORE).state_dict().keys()


def test_start_states_are_shared_out():
    """A quarter of 24 states for the explorer, the rest for the task; or all for both."""
    sizes = []
    for share in (0.25, 1.0):
        agent = make_agent(**EXPLORE, start_share=share)
        for behavior in agent.behaviors:
            imagine = behavior.imagine
            behavior.imagine = lambda start, f=imagine: sizes.append(len(start.deter)) or f(start)
        agent.update(make_batch())
    assert sizes == [18, 6, 24, 24]
    assert make_agent(**EXPLORE, collect="task").task.share == 1


def test_the_explorer_is_rewarded_with_disagreement_in_units_of_its_deviation():
    agent = make_agent(**EXPLORE, intrinsic_weight=2.0, extrinsic_weight=0.5)
    reward = agent.behaviors[1].reward
    with torch.no_grad():
        start = agent.world_model.loss(make_batch())[1].flatten()
        dream = agent.behaviors[1].imagine(start)
        predicted = torch.randn(dream.action.shape[:2])
        u = agent.ensemble.disagreement(dream.feat[:, :-1, agent.world_model.rssm.latent.stoch_dim :])
        rewards, _ = reward(dream, predicted)
    torch.testing.assert_close(rewards, 2 * u / u.std(correction=0) + 0.5 * predicted)


def test_the_deviation_moves_slowly_and_ignores_what_is_not_finite():
    rule = RunningDeviation(momentum=0.9)
    first, second = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 4.0])
    assert float(rule(first)) == 1
    assert float(rule(second)) == pytest.approx(0.9 * 1 + 0.1 * 2)
    rule(torch.tensor([math.nan, 1.0]))
    assert float(rule.value) == pytest.approx(1.1)


def test_a_penalty_is_taken_off_dreamed_rewards():
    plain, careful = make_agent(members=3), make_agent(members=3, uncertainty_penalty=2.0)
    batch = make_batch()
    found = []
    for agent in (plain, careful):
        torch.manual_seed(4)
        posterior = agent.train_world_model(batch)[0]
        torch.manual_seed(5)
        found.append(agent.behavior_losses(agent.task, posterior, batch.is_terminal)[1])
    lost = float(found[0]["imagination/reward"] - found[1]["imagination/reward"])
    assert lost == pytest.approx(float(found[1]["imagination/penalty"]), rel=1e-4)
    assert lost > 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"members": 1}, "'ensemble.members' 1 cannot disagree with itself"),
        ({"behavior.explore": "ensemble"}, "'behavior.explore=ensemble' needs an ensemble"),
        ({"uncertainty_penalty": 1}, "'behavior.uncertainty_penalty' needs an ensemble"),
        ({"collect": "task"}, "'ensemble.collect' is about a run that explores"),
        ({**EXPLORE, "intrinsic_weight": 0}, "are both 0"),
        ({**EXPLORE, "start_share": 0}, "'ensemble.start_share' must be above 0"),
        ({**EXPLORE, "start_share": 1.5}, "'ensemble.start_share' must be at most 1"),
        ({"members": -1}, "'ensemble.members' must not be negative"),
        ({"reward_momentum": 1}, "'ensemble.reward_momentum' must be below 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_a_sentence(settings, sentence):
    with pytest.raises(UserError) as raised:
        build(settings)
    assert sentence in str(raised.value)


# ----------------------------------------------------------------------------------------------------------- alarm


def test_auroc_counts_pairs():
    assert auroc([1, 2, 3, 4], [False, False, True, True]) == 1
    assert auroc([4, 3, 2, 1], [False, False, True, True]) == 0
    assert auroc([1, 1, 1], [True, False, False]) == 0.5
    assert auroc([1, 2, 3, 3], [False, True, False, True]) == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert math.isnan(auroc([1, 2], [True, True]))


def test_the_interval_of_auroc_draws_episodes_again():
    """Rows repeated within an episode give no certainty."""
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 2 == 0
    scores = labels + rng.normal(size=20)
    once = auroc_interval(scores, labels, np.arange(20))
    repeated = auroc_interval(np.repeat(scores, 50), np.repeat(labels, 50), np.repeat(np.arange(20), 50))
    assert once == pytest.approx(repeated)
    assert once[0] < auroc(scores, labels) < once[1]


# ------------------------------------------------------------------------------------------------------- being warned


@pytest.mark.parametrize("kind", ["prior", "one_step"])
def test_a_player_says_how_well_the_model_knew_each_step(kind):
    agent = make_agent(members=3, **{"ensemble.kind": kind})
    for seed in range(3):
        agent.update(make_batch(seed=seed))
    player, rssm = agent.player(num_envs=2, mode="eval"), agent.world_model.rssm
    rng = np.random.default_rng(0)
    player.act({"body": rng.normal(size=(2, V)).astype(np.float32)}, np.ones(2, bool))
    if kind == "one_step":
        assert not player.last.disagreement.any()  # nothing led to a first step
    before, action = player.state, player.action
    player.act({"body": rng.normal(size=(2, V)).astype(np.float32)}, np.array([False, True]))
    last, state = player.last, player.state
    with torch.no_grad():
        surprise = rssm.latent.kl(state.stats, rssm.prior_net(state.deter))
        if kind == "prior":
            expected = agent.ensemble.disagreement(state.deter)
        else:
            feat = torch.cat([dense(before.stoch), before.deter, action], -1)
            expected = spread(agent.ensemble.net(feat)) * torch.tensor([1.0, 0.0])
    torch.testing.assert_close(last.disagreement, expected)
    torch.testing.assert_close(last.surprise, surprise)
    torch.testing.assert_close(last.uncertainty, agent.ensemble.usual.share_below(expected))


def test_without_an_ensemble_a_player_warns_of_nothing_and_collecting_never_does():
    for agent, mode in ((make_agent(), "eval"), (make_agent(members=3), "explore")):
        player = agent.player(num_envs=2, mode=mode)
        player.act({"body": np.zeros((2, V), np.float32)}, np.ones(2, bool))
        assert player.last is None


def test_an_alarm_is_judged_by_horizon_beside_what_needs_no_ensemble():
    """Steps that the test calls strange are those with large numbers, which the model has never met."""
    agent, rng = make_agent(members=3), np.random.default_rng(0)
    for seed in range(3):
        agent.update(make_batch(seed=seed))
    steps, windows = 6, 40
    strange = torch.from_numpy(rng.random((windows, steps)) < 0.3)
    body = torch.randn(windows, steps, V) + 20 * strange[..., None]
    first = torch.zeros(windows, steps, dtype=torch.bool)
    batch = Batch({"body": body}, torch.eye(3)[torch.randint(3, (windows, steps))], first * 0.0, first, first, first)
    found = alarm_by_horizon(agent, batch, context=2, horizons=(1, 4), strange=strange)
    assert list(found) == [1, 4]
    assert list(found[1]) == ["disagreement", "prior entropy", "surprise"]
    for scores in found.values():
        for score in scores.values():
            assert 0 <= score.low <= score.auroc <= score.high <= 1
    wrong = alarm_by_horizon(agent, batch, context=2, horizons=(2,))
    assert list(wrong) == [2]
    with pytest.raises(UserError, match="has no ensemble"):
        alarm_by_horizon(make_agent(), batch)


# ------------------------------------------------------------------------------------- what it learns, in seconds


@pytest.mark.parametrize("name", ["categorical", "gaussian"])
def test_it_knows_the_half_of_the_world_where_it_has_been(name):
    """h uniform in one half of a square, z a fixed function of h: the other half must score higher."""
    torch.manual_seed(1)
    latent = CategoricalLatent(4, 4) if name == "categorical" else GaussianLatent(4)
    ensemble = PriorEnsemble(latent, 2, members=5, hidden_dim=64, generator=torch.Generator().manual_seed(3))
    optimizer, mix = torch.optim.Adam(ensemble.parameters(), 3e-3), torch.randn(2, latent.stats_dim)
    for _ in range(600):
        seen = half(1, 32, 8)
        stats = 4 * torch.sin(1.5 * seen @ mix)
        learn(ensemble, optimizer, State(seen, torch.zeros_like(stats), stats))
    with torch.no_grad():
        here, there = (ensemble.disagreement(half(side, 500)) for side in (1, -1))
        shares = [float(ensemble.usual.share_below(u).mean()) for u in (here, there)]
    assert auroc(torch.cat([here, there]).numpy(), np.arange(1000) >= 500) >= 0.9
    assert shares[1] > 0.9 > 0.6 > shares[0]


def test_noise_is_no_novelty_once_its_distribution_is_known():
    """A noisy TV at h = +1 (the posterior is sure of a random class, one of four), a still image at h = -1."""
    torch.manual_seed(0)
    latent = CategoricalLatent(1, 4)
    noisy = torch.rand(32, 16) < 0.5
    deter = torch.where(noisy, 1.0, -1.0)[..., None] + 0.01 * torch.randn(32, 16, 1)
    ensemble = PriorEnsemble(
        latent, 1, members=5, hidden_dim=32, norm=False, generator=torch.Generator().manual_seed(0)
    )
    optimizer = torch.optim.Adam(ensemble.parameters(), 1e-2)
    for _ in range(600):
        drawn = torch.where(noisy, torch.randint(4, (32, 16)), 0)
        stats = 8 * torch.nn.functional.one_hot(drawn, 4).float()
        loss = learn(ensemble, optimizer, State(deter, stats, stats))
    with torch.no_grad():
        at = ensemble.disagreement(torch.tensor([[1.0], [-1.0]]))
    assert float(at[0]) < 0.02 * math.log(5)  # next to nothing of what is possible, though z there is pure chance
    assert loss > 0.3  # while the loss says that z is not known
