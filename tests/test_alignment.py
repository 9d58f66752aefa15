"""The one time convention, held from the environment through replay to what the world model predicts."""

import numpy as np
import pytest
import torch
from toys import CountingEnv, EchoEnv, RandomLengthEnv

from reverie.config.presets import load_preset
from reverie.data.collect import Collector
from reverie.data.replay import Replay
from reverie.envs import make_vector
from reverie.envs.spaces import make_spec
from reverie.train import DreamerV2, to_batch

LENGTHS = [((2, 5, 3), (True, False, True)), ((7,), (False,)), ((1, 4), (True, True))]


def gather(envs, rows, *, capacity=3000, act=None):
    """Random experience in a replay, the way a run gathers it."""
    spec = envs.get_attr("agent_spec")[0]
    rng = np.random.default_rng(0)
    replay = Replay(spec.shapes, spec.action.size, capacity=capacity, streams=envs.num_envs, seed=0)
    stream = Collector(envs, seed=0).rows(act or (lambda obs, first: spec.action.random(rng, len(first))))
    for _ in range(rows):
        replay.add(next(stream)[0])
    replay.check_valid()
    return replay


@pytest.fixture(scope="module", params=["different lengths", "random lengths", "wrapped ring"])
def batch(request):
    if request.param == "random lengths":
        replay = gather(make_vector(RandomLengthEnv, 3), 200)
    else:
        queue = iter(LENGTHS)
        envs = make_vector(lambda: CountingEnv(*next(queue)), 3)
        replay = gather(envs, 200, capacity=3000 if request.param == "different lengths" else 120)
    return replay.sample(200, 12)


def told(batch):
    """What the observations themselves say: episode, step in it, action that led here (-1 after a reset)."""
    seen = batch.obs["observation"]
    return seen[..., 0].astype(int), seen[..., 1].astype(int), seen[..., 2].astype(int)


def test_the_stored_action_is_the_one_that_led_into_the_observation(batch):
    _, _, action = told(batch)
    later = ~batch.is_first
    np.testing.assert_array_equal(batch.action[later].argmax(-1), action[later])
    np.testing.assert_array_equal(batch.action[later].sum(-1), 1)


def test_the_action_is_nan_exactly_where_the_observation_came_from_a_reset(batch):
    _, step, action = told(batch)
    np.testing.assert_array_equal(np.isnan(batch.action).all(-1), step == 0)
    np.testing.assert_array_equal(np.isnan(batch.action).any(-1), step == 0)
    np.testing.assert_array_equal(batch.is_first, step == 0)
    np.testing.assert_array_equal(batch.is_first, action == -1)


def test_the_reward_arrives_with_the_observation_and_is_zero_after_a_reset(batch):
    episode, step, _ = told(batch)
    np.testing.assert_array_equal(batch.reward, np.where(step == 0, 0, 100 * episode + step))


def test_windows_go_through_episodes_without_a_gap(batch):
    episode, step, _ = told(batch)
    same = episode[:, 1:] == episode[:, :-1]
    np.testing.assert_array_equal(step[:, 1:][same] - step[:, :-1][same], 1)
    np.testing.assert_array_equal(episode[:, 1:][~same] - episode[:, :-1][~same], 1)
    np.testing.assert_array_equal(~same, batch.is_first[:, 1:])
    np.testing.assert_array_equal(batch.is_last[:, :-1], batch.is_first[:, 1:])


def test_last_and_terminal_rows_are_where_the_environment_ended():
    queue = iter(LENGTHS)
    replay = gather(make_vector(lambda: CountingEnv(*next(queue)), 3), 150)
    for stream, (lengths, terminal) in enumerate(LENGTHS):
        steps = replay.window(np.array([stream]), np.array([0]), 150)
        episode, step, _ = (x[0] for x in told(steps))
        last = step == np.array(lengths)[episode % len(lengths)]
        np.testing.assert_array_equal(steps.is_last[0], last)
        np.testing.assert_array_equal(steps.is_terminal[0], last & np.array(terminal)[episode % len(terminal)])


def test_a_truncation_is_a_last_step_but_not_a_terminal_one():
    steps = gather(make_vector(lambda: CountingEnv((3,), (False,)), 1), 40).sample(50, 8)
    assert steps.is_last.any()
    assert not steps.is_terminal.any()


# ------------------------------------------------------------------------------------------- what a model learns

SMALL = {
    "image_size": 0,
    "hidden_dim": 64,
    "rnn_hidden_dim": 64,
    "num_categoricals": 4,
    "num_categories": 8,
    "reward_transform": "none",
    "kl_scale": 0.1,
    "free_nats": 0.0,
    "world_model_lr": 3e-3,
}


@pytest.fixture(scope="module")
def trained():
    """A world model after a short training on EchoEnv, and a fresh batch of its experience."""
    torch.manual_seed(0)
    replay = gather(make_vector(EchoEnv, 4), 400)
    agent = DreamerV2(load_preset("debug", SMALL), make_spec(EchoEnv()))
    for _ in range(250):
        agent.train_world_model(to_batch(replay.sample(16, 8)))
    return agent.world_model, to_batch(replay.sample(64, 8))


def filtered(world_model, batch):
    """Predicted reward and continue at every step of the batch, from the posterior. (B, T), (B, T)."""
    with torch.no_grad():
        embed = world_model.encoder(world_model.preprocess(batch.obs))
        feat = world_model.rssm.rollout_observation(embed, batch.action, batch.is_first)[0].feat
        return world_model.heads["reward"](feat), world_model.continues(feat)


def correlation(left, right):
    return float(torch.corrcoef(torch.stack([left.flatten(), right.flatten()]))[0, 1])


def test_reward_is_predicted_on_its_step_and_on_no_other(trained):
    world_model, batch = trained
    reward, _ = filtered(world_model, batch)
    assert correlation(reward, batch.reward) > 0.95
    assert abs(correlation(reward[:, 1:], batch.reward[:, :-1])) < 0.3
    assert abs(correlation(reward[:, :-1], batch.reward[:, 1:])) < 0.3


def test_termination_is_predicted_on_its_step_and_on_no_other(trained):
    world_model, batch = trained
    _, goes_on = filtered(world_model, batch)
    says_so = goes_on > 0.5
    assert says_so[batch.is_terminal].float().mean() < 0.05
    assert says_so[~batch.is_terminal].float().mean() > 0.98
    after = torch.zeros_like(batch.is_terminal)
    after[:, 1:] = batch.is_terminal[:, :-1]
    assert says_so[after].float().mean() > 0.95


def test_a_truncation_is_predicted_to_go_on(trained):
    world_model, batch = trained
    _, goes_on = filtered(world_model, batch)
    cut = batch.is_last & ~batch.is_terminal
    assert cut.any()
    assert goes_on[cut].min() > 0.5


@pytest.mark.parametrize(("choice", "reward", "goes_on"), [(0, 0, 1), (1, 1, 1), (2, -1, 1), (3, 0, 0)])
def test_a_dream_gives_the_reward_of_an_action_on_the_state_it_leads_to(trained, choice, reward, goes_on):
    """From a reset, dream: action 0, then `choice`. States 0 and 1 promise nothing, state 2 pays for the choice."""
    world_model, _ = trained
    torch.manual_seed(0)
    count = 64
    plan = iter([0, choice])

    def act(feat):
        return torch.eye(4)[next(plan)].expand(count, 4)

    with torch.no_grad():
        obs = {"observation": torch.zeros(count, 4)}
        embed = world_model.encoder(world_model.preprocess(obs))
        blank = world_model.rssm.initial(count)
        start = world_model.rssm.observe(
            blank, torch.full((count, 4), torch.nan), embed, torch.ones(count, dtype=torch.bool)
        )
        dream = world_model.rssm.rollout_imagination(act, start, 2)
        rewards, continues = world_model.heads["reward"](dream.feat), world_model.continues(dream.feat)
    assert rewards.mean(0).tolist() == pytest.approx([0, 0, reward], abs=0.3)
    assert continues.mean(0).tolist() == pytest.approx([1, 1, goes_on], abs=0.3)
