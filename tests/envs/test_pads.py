"""Pads: what is paid, what is shown, and how long the shortest ways are."""

import numpy as np
import pytest

from reverie.envs import make_env
from reverie.envs.families.pads import MOVES, Options, Pads, board
from reverie.errors import UserError

STAY, RIGHT, LEFT, DOWN, UP = range(5)


def pads(image=False, **options):
    env = Pads(board("Pads-v0", Options(**options)), image=image)
    env.reset(seed=0)
    return env


def walk(env, start, *actions):
    """Rewards on a way from a cell with nothing touched."""
    env.cell, env.history = start, ()
    return [env.step(action)[1] for action in actions]


def test_the_right_order_pays_once_and_begins_anew():
    env = pads(size=5)
    there = [DOWN, DOWN, RIGHT, RIGHT, RIGHT, RIGHT, DOWN, DOWN]  # 0, then 1 by way of no other pad
    rewards = walk(env, (0, 2), UP, *there[1:4], *there[4:], *[UP] * 4)
    assert env.pad_at((0, 0)) == 0
    assert sum(rewards) <= 1
    env.cell, env.history = (3, 2), (0, 1)
    assert walk_on(env, UP) == 1
    assert env.history == ()
    assert env.cell in env.free
    for history in ((0, 1), (1, 0), (2, 1), (0,), (1,)):
        env.cell, env.history = (3, 2), history
        assert walk_on(env, UP) == float(history == (0, 1))


def walk_on(env, action):
    return env.step(action)[1]


def test_the_same_pad_twice_is_one_touch_and_a_wrong_one_spoils_the_order():
    env = pads(size=7)
    rewards = walk(env, (2, 0), LEFT, LEFT, RIGHT, RIGHT, LEFT)
    assert rewards == [0] * 5
    assert env.history == (0,)
    env.cell, env.history = (4, 0), (0, 1)  # pad 2 lies to the right, pad 0 to the left
    env.cell = (2, 0)
    walk_on(env, LEFT)
    assert env.history == (0, 1, 0)
    env.cell = (4, 0)
    assert walk_on(env, RIGHT) == 0
    assert env.history == (1, 0, 2)


def test_walls_hold_and_staying_stays():
    env = pads()
    for action, (right, down) in enumerate(MOVES):
        cell, _, _ = env.move((4, 4), (), action)
        assert cell == (4 + right, 4 + down)
    assert env.move((0, 4), (), LEFT)[0] == (0, 4)
    assert env.move((4, 8), (), DOWN)[0] == (4, 8)


@pytest.mark.parametrize("pads_", ["3", "4"])
def test_what_was_touched_is_seen_in_both_views(pads_):
    """Nothing that matters is hidden: two states look alike only if they are the same."""
    for image in (True, False):
        env, seen = pads(image, size=6, pads=pads_), {}
        rng = np.random.default_rng(0)
        for _ in range(3000):
            state = (env.cell, env.history)
            look = env.observe().tobytes()
            assert seen.setdefault(look, state) == state
            env.cell, env.history, right = env.move(env.cell, env.history, int(rng.integers(5)))
            if right or rng.random() < 0.01:
                env._begin()
        assert len(seen) > 100
        assert env.observation_space.contains(env.observe())


def test_a_success_is_noted_at_the_end_and_ends_are_truncations():
    env = pads(size=5, steps=3)
    for paid in (0.0, 1.0):
        env.reset(seed=0)
        env.cell, env.history = (3, 2), (0, 1)
        env.step(UP if paid else STAY)
        assert env.step(STAY)[4] == {}
        *_, terminated, truncated, info = env.step(STAY)
        assert (terminated, truncated) == (False, True)
        assert info["log"] == {"success": paid}


def test_steps_of_an_episode_and_pin_pads_own_numbers():
    assert pads(size=7).board.steps == 100
    assert pads().board.steps == 100
    assert pads(pads="4").board.steps == 200
    pin = board("PinPad-v0", Options())
    assert (pin.steps, pin.reward, len(pin.corners)) == (2000, 10.0, 4)
    assert len(Pads(pin).free) == 14 * 12 - 4 * 12
    assert make_env("PinPad-v0").observation_space.shape == (32, 32, 3)


@pytest.mark.parametrize(("name", "options"), [("Pads-v1", []), ("Pads-v0", ["size=3"]), ("Pads-v0", ["steps=-1"])])
def test_an_unknown_task_or_size_is_refused(name, options):
    with pytest.raises(UserError):
        make_env(name, options=options)
