"""The player: one function from the environment's observations to its actions, with a memory that can be erased."""

import shutil

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toys import CountingEnv, DictEnv, SpaceEnv

import reverie
from reverie import checkpoint
from reverie.config.presets import load_preset
from reverie.envs.spaces import make_spec
from reverie.errors import UserError
from reverie.train import DreamerV2

BOX = spaces.Box(np.float32([-2, 0]), np.float32([2, 5]))


def agent_for(env, **overrides):
    torch.manual_seed(0)
    return DreamerV2(load_preset("debug", overrides), make_spec(env))


@pytest.fixture(scope="module")
def agent():
    return agent_for(SpaceEnv(spaces.Box(-1, 1, (3,)), spaces.Discrete(4)))


def looks(count, *batch, seed=0):
    return list(np.random.default_rng(seed).uniform(-1, 1, (count, *batch, 3)).astype(np.float32))


def play(player, observations, firsts=None):
    """Actions, and the states behind them."""
    actions, states = [], []
    for obs, first in zip(observations, firsts or [False] * len(observations), strict=True):
        actions.append(player(obs, first=first))
        states.append(player.state.feat.clone())
    return actions, torch.stack(states)


# ------------------------------------------------------------------------------------------------------- actions


@pytest.mark.parametrize("mode", ["train", "eval", "explore"])
@pytest.mark.parametrize("box", [None, BOX, spaces.Box(-1, 1, (2, 2)), spaces.Box(-1, 1, (1,), np.float64)])
def test_actions_are_the_environments_own(mode, box):
    env = DictEnv(box)
    player = agent_for(env, explore_noise=0.5).player(mode=mode)
    obs, _ = env.reset(seed=0)
    for _ in range(5):
        action = player(obs)
        assert env.action_space.contains(action)
        assert type(action) is int if box is None else (action.shape, action.dtype) == (box.shape, box.dtype)
        obs, *_ = env.step(action)


@pytest.mark.parametrize("box", [None, BOX])
def test_batched_actions_have_a_leading_axis(box):
    env = DictEnv(box)
    player = agent_for(env).player(num_envs=3)
    one = env.reset(seed=0)[0]
    obs = {
        "camera": np.stack([one["camera"]] * 3),
        "body": {"speed": np.stack([one["body"]["speed"]] * 3), "facing": np.array([0, 1, -1])},
    }
    actions = player(obs)
    assert actions.shape == ((3,) if box is None else (3, 2))
    assert all(env.action_space.contains(action) for action in actions)


def test_eval_takes_one_action_where_train_samples(agent, monkeypatch):
    latent = agent.world_model.rssm.latent
    monkeypatch.setattr(latent, "noise", lambda *batch, **k: torch.full((*batch, latent.num_categoricals), 0.4))
    obs, found = np.zeros((200, 3), np.float32), {}
    for mode in ("train", "eval"):
        found[mode] = set(agent.player(num_envs=200, mode=mode)(obs).tolist())
    assert len(found["eval"]) == 1
    assert len(found["train"]) > 1


def test_explore_noise_is_the_share_of_random_actions():
    env = SpaceEnv(spaces.Box(-1, 1, (3,)), spaces.Discrete(50))
    agent = agent_for(env, explore_noise=0.3)
    with torch.no_grad():
        agent.actor.mlp[-1].bias[:] = -50.0
        agent.actor.mlp[-1].bias[7] = 50.0  # a policy that is sure of action 7
    player = agent.player(num_envs=4000, mode="explore")
    others = (player(np.zeros((4000, 3), np.float32)) != 7).mean()
    assert others == pytest.approx(0.3 * 49 / 50, abs=0.025)
    assert (agent.player(num_envs=500, mode="train")(np.zeros((500, 3), np.float32)) == 7).all()


def test_while_exploring_chance_is_held_and_the_policy_still_followed():
    """A uniform policy: the first environment changes as if by fresh dice, the last keeps an action for 8 steps on
    average; over time every action is as likely in both."""
    agent = agent_for(SpaceEnv(spaces.Box(-1, 1, (3,)), spaces.Discrete(4)), explore_hold=8.0, zero_policy=True)
    player, still = agent.player(num_envs=2, mode="explore"), np.zeros((2, 3), np.float32)
    actions = np.stack([player(still) for _ in range(4000)])
    kept = (actions[1:] == actions[:-1]).mean(0)  # a fresh die shows the same face again at one of four steps
    assert kept == pytest.approx([0.25, 7 / 8 + 1 / 8 / 4], abs=0.03)
    for column in actions.T:
        assert np.bincount(column, minlength=4) / len(column) == pytest.approx([0.25] * 4, abs=0.08)


def test_a_policy_with_an_opinion_draws_afresh_but_in_the_last_of_several_environments():
    agent = agent_for(SpaceEnv(spaces.Box(-1, 1, (3,)), spaces.Discrete(2)), explore_hold=1e9, zero_policy=True)
    with torch.no_grad():
        next(reversed(list(agent.actor.parameters()))).copy_(torch.tensor([2.0, 0.0]))  # 88 % and 12 %
    player, still = agent.player(num_envs=3, mode="explore"), np.zeros((3, 3), np.float32)
    actions = np.stack([player(still) for _ in range(1000)])
    assert actions[:, :2].mean(0) == pytest.approx([0.12, 0.12], abs=0.04)
    assert len(set(actions[:, 2])) == 1
    alone = agent.player(mode="explore")
    assert np.mean([alone(still[0]) for _ in range(1000)]) == pytest.approx(0.12, abs=0.04)


def test_a_new_episode_draws_again_and_other_modes_hold_nothing():
    agent = agent_for(SpaceEnv(spaces.Box(-1, 1, (3,)), spaces.Discrete(4)), explore_hold=1e9, zero_policy=True)
    still = np.zeros(3, np.float32)
    assert agent.player(mode="train").draw is None
    player = agent.player(num_envs=2, mode="explore")
    held = [player(np.stack([still] * 2))[1] for _ in range(50)]
    assert len(set(held)) == 1
    fresh = [player(np.stack([still] * 2), first=True)[1] for _ in range(50)]
    assert len(set(fresh)) == 4


def test_while_exploring_each_action_is_carried_out_for_as_many_steps_as_asked_for():
    agent = agent_for(SpaceEnv(spaces.Box(-1, 1, (3,)), spaces.Discrete(9)), action_hold=8, zero_policy=True)
    player, still = agent.player(num_envs=2, mode="explore"), np.zeros((2, 3), np.float32)
    first = [np.array([t % 16 == 0, t in (0, 3)]) for t in range(80)]
    actions = np.stack([player(still, first=f) for f in first])
    blocks = actions[:, 0].reshape(10, 8)
    assert (blocks == blocks[:, :1]).all()
    assert len(set(blocks[:, 0])) > 2
    late = actions[3:75, 1].reshape(9, 8)  # its episode began anew at step 3
    assert (late == late[:, :1]).all()
    assert len(set(late[:, 0])) > 2
    free = agent.player(num_envs=2, mode="train")
    drawn = np.stack([free(still) for _ in range(80)])
    assert (drawn[1:] == drawn[:-1]).mean() < 0.3


def test_what_is_carried_out_ends_with_the_permission_and_memory_continues_it():
    last, new = torch.eye(3)[[0, 1]], torch.eye(3)[[2, 2]]
    agent = agent_for(SpaceEnv(spaces.Box(-1, 1, (3,)), spaces.Discrete(3)), action_hold=4)
    player, start = agent.player(num_envs=2, mode="explore"), torch.zeros(2, dtype=torch.bool)
    player.kept[:] = 2
    assert torch.equal(player._kept_action(last, new, start, {}), last)
    player.world_model.mask_key = "allowed"
    found = player._kept_action(last, new, start, {"allowed": torch.tensor([[0.0, 1, 1], [1, 1, 1]])})
    assert torch.equal(found, torch.eye(3)[[2, 1]])
    assert player.kept.tolist() == [3, 0]
    other = agent.player(num_envs=2, mode="explore")
    other.recall(player.memory())
    assert other.kept.tolist() == [3, 0]
    assert "kept" not in agent.player(num_envs=2, mode="eval").memory()


def certain(**settings):
    """An agent that always does action 1 of 4, and its task's still observation."""
    agent = agent_for(SpaceEnv(spaces.Box(-1, 1, (3,)), spaces.Discrete(4)), zero_policy=True, **settings)
    with torch.no_grad():
        next(reversed(list(agent.actor.parameters()))).copy_(torch.tensor([0.0, 50.0, 0.0, 0.0]))
    return agent, np.zeros(3, np.float32)


def test_the_last_environment_wanders_in_stretches_whatever_the_policy_says():
    agent, still = certain(explore_wander=0.5, explore_hold=8.0)
    player = agent.player(num_envs=3, mode="explore")
    actions = np.stack([player(np.stack([still] * 3)) for _ in range(6000)])
    assert (actions[:, :2] == 1).all()
    last = actions[:, 2]
    assert (last != 1).mean() == pytest.approx(0.5 * 3 / 4, abs=0.05)
    assert np.bincount(last, minlength=4)[[0, 2, 3]] / 6000 == pytest.approx([0.125] * 3, abs=0.04)
    changes = (last[1:] != last[:-1]).mean()  # a stretch ends in one step of eight; half of them, 3/4 of these, differ
    assert changes == pytest.approx((1 - (0.625**2 + 3 * 0.125**2)) / 8, abs=0.02)
    assert (np.stack([agent.player(num_envs=3, mode="train")(np.stack([still] * 3)) for _ in range(20)]) == 1).all()


def test_a_new_episode_ends_a_stretch_and_numbers_wander_within_their_limits():
    agent, still = certain(explore_wander=1.0, explore_hold=1e9)
    player = agent.player(num_envs=2, mode="explore")
    assert len({player(np.stack([still] * 2))[1] for _ in range(30)}) == 1
    assert len({player(np.stack([still] * 2), first=True)[1] for _ in range(60)}) == 4
    box = agent_for(SpaceEnv(spaces.Box(-1, 1, (3,)), spaces.Box(-2, 2, (2,))), explore_wander=1.0)
    player = box.player(mode="explore")
    drawn = np.stack([player(still) for _ in range(500)])
    assert np.abs(drawn).max() <= 2
    assert drawn.mean(0) == pytest.approx([0, 0], abs=0.15)
    assert drawn.std(0) == pytest.approx([4 / 12**0.5] * 2, abs=0.1)


def test_an_action_to_wander_with_is_drawn_when_a_stretch_begins_and_only_then(monkeypatch):
    agent, still = certain(explore_wander=1.0, explore_hold=10.0)
    drawn, own = [], reverie.player.make_policy
    monkeypatch.setattr("reverie.player.make_policy", lambda *args: [drawn.append(1), own(*args)][1])
    player = agent.player(num_envs=2, mode="explore")
    for _ in range(2000):
        player(np.stack([still] * 2))
    assert len(drawn) == pytest.approx(200, abs=50)
    player = agent.player(num_envs=2, mode="explore")
    player.hold, before = 1e9, len(drawn)
    for first in [False] * 5 + [True] * 3 + [False] * 5:  # the first call begins an episode by itself
        player(np.stack([still] * 2), first=[False, first])
    assert len(drawn) == before + 4


def test_without_wandering_nothing_is_drawn_for_it():
    agent, still = certain()
    player = agent.player(num_envs=2, mode="explore")
    player(np.stack([still] * 2))
    assert "away" not in player.memory()


def test_an_unknown_mode_is_refused(agent):
    with pytest.raises(UserError, match="mode must be one of train, eval, explore, got 'best'"):
        agent.player(mode="best")


# --------------------------------------------------------------------------------------------------------- memory


def test_same_seed_same_actions_and_another_seed_others(agent):
    (a, x), (b, y), (_, z) = (play(agent.player(mode="train", seed=s), looks(40)) for s in (1, 1, 2))
    assert a == b
    assert torch.equal(x, y)
    assert not torch.equal(x, z)


def test_the_state_depends_on_the_past(agent):
    plain, other = agent.player(seed=0), agent.player(seed=0)
    _, after = play(plain, looks(5))
    _, changed = play(other, [-looks(5)[0], *looks(5)[1:]])
    assert not torch.equal(after[-1], changed[-1])


def test_first_erases_the_past(agent):
    used, fresh = agent.player(mode="train", seed=0), agent.player(mode="train", seed=5)
    play(used, looks(7))
    used.generator.manual_seed(5)
    firsts = [True, *[False] * 5]
    actions, states = play(used, looks(6, seed=3), firsts)
    expected, fresh_states = play(fresh, looks(6, seed=3))
    assert actions == expected
    assert torch.equal(states, fresh_states)


def test_reset_erases_the_past(agent):
    used, fresh = agent.player(seed=0), agent.player(seed=5)
    play(used, looks(7))
    used.reset()
    used.generator.manual_seed(5)
    assert torch.equal(play(used, looks(6))[1], play(fresh, looks(6))[1])


def test_nan_is_refused_and_leaves_the_memory_as_it_was(agent):
    player = agent.player()
    player(np.zeros(3, np.float32))
    before = player.state.feat.clone()
    with pytest.raises(UserError, match="'observation' is not finite"):
        player(np.full(3, np.nan, np.float32))
    assert torch.equal(player.state.feat, before)


def test_a_batch_of_one_is_a_single_player(agent):
    single, states = play(agent.player(mode="train", seed=2), looks(20))
    batched, same = play(agent.player(num_envs=1, mode="train", seed=2), [o[None] for o in looks(20)])
    assert single == [int(a[0]) for a in batched]
    assert torch.equal(states, same)


def test_a_batch_is_many_single_players(agent, monkeypatch):
    """With the same noise for everybody, three environments together do what three players do apart."""
    latent = agent.world_model.rssm.latent
    monkeypatch.setattr(latent, "noise", lambda *batch, **k: torch.full((*batch, latent.num_categoricals), 0.4))
    observations = looks(15, 3)
    firsts = [np.array([t % 5 == 0, t % 3 == 0, t == 7]) for t in range(15)]
    actions, states = play(agent.player(num_envs=3), observations, firsts)
    for i in range(3):
        alone, own = play(agent.player(), [o[i] for o in observations], [bool(f[i]) for f in firsts])
        assert [int(a[i]) for a in actions] == alone
        torch.testing.assert_close(states[:, i : i + 1], own)


def test_environments_that_end_at_different_times_do_not_touch_each_other(agent):
    observations = looks(12, 3)
    quiet = [np.zeros(3, bool)] * 12
    ends = [np.array([False, t in (3, 8), False]) for t in range(12)]
    other = [np.concatenate([o[:1], -o[1:2], o[2:]]) for o in observations]
    actions, states = play(agent.player(num_envs=3, mode="train"), observations, quiet)
    changed, disturbed = play(agent.player(num_envs=3, mode="train"), other, ends)
    assert torch.equal(states[:, [0, 2]], disturbed[:, [0, 2]])
    assert not torch.equal(states[:, 1], disturbed[:, 1])
    assert all((a[[0, 2]] == b[[0, 2]]).all() for a, b in zip(actions, changed, strict=True))


def test_one_flag_may_speak_for_all_environments(agent):
    left, right = (agent.player(num_envs=3, seed=1) for _ in range(2))
    for player in (left, right):
        play(player, looks(3, 3))
    left(looks(1, 3)[0], first=True)
    right(looks(1, 3)[0], first=np.ones(3, bool))
    assert torch.equal(left.state.feat, right.state.feat)


def test_acting_leaves_observations_and_weights_alone(agent):
    before = {key: value.clone() for key, value in agent.state_dict().items()}
    obs = looks(1)[0]
    copy = obs.copy()
    player = agent.player(mode="train")
    player(obs)
    np.testing.assert_array_equal(obs, copy)
    assert not player.state.feat.requires_grad
    assert all(torch.equal(before[key], value) for key, value in agent.state_dict().items())


# ------------------------------------------------------------------------------------------------------ wrong shapes


@pytest.mark.parametrize(
    ("num_envs", "shape"), [(None, (4,)), (None, ()), (None, (1, 3)), (2, (3,)), (2, (3, 3)), (2, (2, 4)), (1, (3,))]
)
def test_a_wrong_shape_is_refused_by_name_and_changes_nothing(agent, num_envs, shape):
    player = agent.player(num_envs=num_envs)
    before = player.state.feat.clone()
    with pytest.raises(UserError, match="observation 'observation' has shape"):
        player(np.zeros(shape, np.float32))
    assert torch.equal(player.state.feat, before)
    assert player.fresh.all()


def test_a_missing_entry_of_a_dict_is_named():
    env = DictEnv()
    obs, _ = env.reset(seed=0)
    del obs["body"]["speed"]
    with pytest.raises(UserError, match="the observation lacks 'speed'"):
        agent_for(env).player()(obs)


def test_flags_of_the_wrong_number_are_refused(agent):
    with pytest.raises((UserError, ValueError)):
        agent.player(num_envs=3)(np.zeros((3, 3), np.float32), first=np.zeros(2, bool))


# ------------------------------------------------------------------------------------------------------------ loading


@pytest.mark.parametrize("env", [DictEnv(), DictEnv(BOX), CountingEnv()], ids=["discrete", "box", "vector"])
@pytest.mark.parametrize("mode", ["eval", "train", "explore"])
def test_a_loaded_player_is_the_agents_player_bit_for_bit(tmp_path, env, mode):
    agent = agent_for(env, explore_noise=0.3)
    checkpoint.write_atomically(tmp_path / "saved", checkpoint.agent_files(agent))
    left, right = agent.player(mode=mode, seed=4), reverie.load_player(tmp_path / "saved", mode=mode, seed=4)
    obs, _ = env.reset(seed=0)
    for _ in range(10):
        action, same = left(obs), right(obs)
        np.testing.assert_array_equal(action, same)
        assert type(action) is type(same)
        assert torch.equal(left.state.feat, right.state.feat)
        obs, _, terminated, *_ = env.step(action)
        if terminated:
            obs, _ = env.reset()


@pytest.mark.slow  # some ten seconds of compiling each
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("env", [DictEnv(), DictEnv(BOX)], ids=["discrete", "box"])
@pytest.mark.parametrize("mode", ["eval", "train", "explore"])
def test_a_compiled_player_acts_the_same(tmp_path, env, mode):
    checkpoint.write_atomically(tmp_path / "saved", checkpoint.agent_files(agent_for(env, explore_noise=0.3)))
    left, right = (reverie.load_player(tmp_path / "saved", mode=mode, seed=4, compiled=on) for on in (False, True))
    obs, _ = env.reset(seed=0)
    for i in range(20):
        action, same = left(obs, first=i % 7 == 0), right(obs, first=i % 7 == 0)
        np.testing.assert_allclose(action, same, atol=1e-5)
        torch.testing.assert_close(left.state.feat, right.state.feat, atol=1e-5, rtol=1e-5)
        obs, _, terminated, *_ = env.step(action)
        if terminated:
            obs, _ = env.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, about itself
def test_without_a_compiler_a_compiled_player_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    checkpoint.write_atomically(tmp_path / "saved", checkpoint.agent_files(agent_for(CountingEnv())))
    no_compiler = torch._inductor.config.patch({"cpp.cxx": (None, "/nowhere")})
    with no_compiler, pytest.raises(UserError, match=r"could not be made.*Install a C\+\+ compiler"):
        reverie.load_player(tmp_path / "saved", compiled=True)


def test_a_player_loads_without_training_code(tmp_path):
    import subprocess
    import sys

    checkpoint.write_atomically(tmp_path / "saved", checkpoint.agent_files(agent_for(CountingEnv())))
    code = (
        "import sys, numpy as np, reverie\n"
        f"player = reverie.load_player({str(tmp_path / 'saved')!r})\n"
        "print(player(np.zeros(4, np.float32)))\n"
        "training = ('reverie.train', 'reverie.optim', 'reverie.run', 'reverie.guard', 'reverie.data.collect')\n"
        "print([m for m in sys.modules if m.startswith(training)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    action, modules = done.stdout.splitlines()
    assert int(action) in range(3)
    assert modules == "[]"


def test_loading_from_nowhere_is_told(tmp_path):
    with pytest.raises(UserError, match="is not a run or a saved agent"):
        reverie.load_player(tmp_path)
