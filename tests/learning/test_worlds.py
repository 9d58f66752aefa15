"""Worlds with known answers: what the agent makes of them (slow), and the answers themselves, checked by playing.

`make worlds` prints the same measurements as a table.
"""

import itertools

import numpy as np
import pytest
from worlds import measure, worlds
from worlds.worlds import GAMMA, LQR, WORLDS, Delay, Dice, Grid, Recall


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("world", sorted(WORLDS))
def test_trained_agent_reproduces_the_truth(world, seed):
    figures, _ = measure.measure(world, seed)
    wrong = [f"{name}: {x.describe()}" for name, x in figures.items() if not x.ok]
    assert not wrong, f"{world}, seed {seed}: " + "; ".join(wrong)


# ------------------------------------------------------------------------------------------------ the truths themselves


def returns(env, policy, episodes, gamma=1.0):
    """Discounted returns of a policy obs, rng -> action, played for real."""
    rng = np.random.default_rng(0)
    out = []
    for seed in range(episodes):
        obs, _ = env.reset(seed=seed)
        total, discount, done = 0.0, 1.0, False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(policy(obs, rng))
            discount *= gamma
            total, done = total + discount * reward, terminated or truncated
        out.append(total)
    return np.array(out)


def test_grid_optimum_is_what_value_iteration_finds():
    values = np.zeros(Grid.cells)
    for _ in range(50):
        values = np.where(np.arange(Grid.cells) == Grid.goal, 1.0, GAMMA * values[worlds.grid_next()].max(1))
    assert np.allclose(values, worlds.grid_optimal_values())


def test_grid_values_of_a_policy_are_its_mean_returns():
    policy = np.random.default_rng(1).dirichlet(np.ones(4), Grid.cells)
    env, starts = Grid(limit=400), []

    def act(obs, rng):
        starts.append(obs.argmax())
        return rng.choice(4, p=policy[obs.argmax()])

    expected = worlds.grid_values(policy)[: Grid.goal].mean()  # starts are uniform over all cells but the goal
    played = returns(env, act, 300, GAMMA)
    assert abs(played.mean() - expected) < 4 * played.std() / len(played) ** 0.5
    assert set(starts) == set(range(Grid.goal))


def test_grid_values_of_the_best_policy_are_optimal():
    best = np.argmax(worlds.grid_optimal_values()[worlds.grid_next()], 1)
    assert np.allclose(worlds.grid_values(np.eye(4)[best]), worlds.grid_optimal_values())


@pytest.mark.parametrize("choice", [0, 1, 2])
def test_delay_pays_at_the_stated_step_only(choice):
    env = Delay()
    env.reset(seed=0)
    steps = [env.step(choice if t == 0 else 0) for t in range(Delay.length)]
    assert [0.0, *(reward for _, reward, *_ in steps)] == worlds.delay_rewards(choice).tolist()
    assert [terminal for _, _, terminal, *_ in steps] == [False] * (Delay.length - 1) + [True]
    played = returns(env, lambda obs, rng: choice, 1, GAMMA)[0]
    assert played == pytest.approx(worlds.delay_value(np.eye(3)[choice]))


def test_waiting_is_best_in_delay():
    values = [worlds.delay_value(np.eye(3)[choice]) for choice in range(3)]
    assert np.argmax(values) == 1
    assert values[1] == pytest.approx(GAMMA**6)


def test_dice_entropy_is_that_of_counted_throws():
    env = Dice(limit=20_000)
    faces = [env.reset(seed=0)[0].argmax()] + [env.step(0)[0].argmax() for _ in range(20_000)]
    share = np.bincount(faces, minlength=4) / len(faces)
    assert -(share * np.log(share)).sum() == pytest.approx(worlds.dice_entropy(), rel=0.01)
    pairs = np.bincount(4 * np.array(faces[:-1]) + faces[1:], minlength=16).reshape(4, 4) / (len(faces) - 1)
    mutual = (pairs * np.log(pairs / np.outer(share, share))).sum()
    assert mutual < 0.002  # a throw says nothing about the next one


def test_dice_value_is_the_mean_return_of_betting():
    played = returns(Dice(limit=150), lambda obs, rng: 0, 60, GAMMA)
    assert abs(played.mean() - worlds.dice_value(0.5)) < 4 * played.std() / len(played) ** 0.5


def test_recall_needs_memory():
    """With it the return is always 1; every policy that sees only the present gets 0.5, by symmetry of the bit."""
    memory = {}

    def remember(obs, rng):
        if obs[:2].any():
            memory["bit"] = int(obs[:2].argmax())
        return memory["bit"]

    assert (returns(Recall(), remember, 50) == 1).all()
    assert returns(Recall(), remember, 1, GAMMA)[0] == pytest.approx(worlds.recall_value(1.0))
    for answer in (0, 1):
        assert abs(returns(Recall(), lambda obs, rng, a=answer: a, 400).mean() - 0.5) < 0.1


def test_recall_shows_the_bit_once():
    env = Recall()
    for seed in range(4):
        env.reset(seed=seed)
        seen = [env.step(0)[0].tolist() for _ in range(Recall.length)]
        assert seen == [[0, 0, 0]] * (Recall.wait - 1) + [[0, 0, 1], [0, 0, 0]]


def test_riccati_gains_beat_their_neighbours():
    """The stationary optimum is a minimum of the exact cost of linear policies, and equals it there."""
    gains, square, constant = worlds.lqr_optimum(500)
    cost = [worlds.lqr_mean(*worlds.lqr_cost(gains[0] + change, 500)) for change in (-0.05, 0.0, 0.05)]
    assert cost[1] == pytest.approx(worlds.lqr_mean(square, constant))
    assert cost[1] < min(cost[0], cost[2])


def test_finite_horizon_riccati_is_optimal_by_brute_force():
    """Two steps by grid search over both gains, the expectation in closed form."""
    gains, square, constant = worlds.lqr_optimum(2, 1.0)
    grid = np.linspace(0, 1, 101)

    def cost(first, second):
        one, spread = (LQR.a - LQR.b * first), LQR.noise**2
        two = LQR.a - LQR.b * second
        x0, x1 = LQR.start**2 / 3, one**2 * LQR.start**2 / 3 + spread
        return LQR.r * first**2 * x0 + LQR.q * x1 + LQR.r * second**2 * x1 + LQR.q * (two**2 * x1 + spread)

    best = min((cost(a, b), a, b) for a, b in itertools.product(grid, grid))
    assert best[1:] == pytest.approx(tuple(gains), abs=0.006)
    assert best[0] == pytest.approx(worlds.lqr_mean(square, constant), rel=1e-3)


@pytest.mark.parametrize("name", ["best", "nothing", "random"])
def test_lqr_costs_are_those_of_playing(name):
    gains, square, constant = worlds.lqr_optimum(LQR.limit, 1.0)
    env = LQR()
    truth, act = {
        "best": ((square, constant), lambda obs, rng: -gains[env.at] * obs),
        "nothing": (worlds.lqr_cost(0, LQR.limit, 1.0), lambda obs, rng: np.zeros(1)),
        "random": (worlds.lqr_cost(0, LQR.limit, 1.0, spread=1 / 3), lambda obs, rng: rng.uniform(-1, 1, 1)),
    }[name]
    played = -returns(env, act, 600)
    assert abs(played.mean() - worlds.lqr_mean(*truth)) < 4 * played.std() / len(played) ** 0.5
    assert played.std() / len(played) ** 0.5 < 0.05 * played.mean()


def test_best_lqr_action_hardly_saturates():
    gains = worlds.lqr_optimum(LQR.limit, 1.0)[0]
    env, actions = LQR(), []

    def act(obs, rng):
        actions.append(-gains[env.at] * obs[0])
        return np.array([actions[-1]])

    returns(env, act, 300)
    assert np.mean(np.abs(actions) > 1) < 0.005


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_time_limits_truncate_and_ends_terminate(world):
    env = WORLDS[world]()
    ended = set()
    for seed in range(60):
        env.reset(seed=seed)
        env.action_space.seed(seed)
        for _ in range(env.limit):
            obs, _, terminal, truncated, _ = env.step(env.action_space.sample())
            assert env.observation_space.contains(obs)
            assert not (terminal and truncated)
            if terminal or truncated:
                break
        ended |= {terminal}
        assert terminal or env.at == env.limit
    assert ended == {"grid": {True, False}, "delay": {True}, "recall": {True}}.get(world, {False})


def test_a_figure_that_is_not_a_number_fails():
    assert measure.within(1.04, 1.0, 0.05).ok
    assert not measure.within(float("nan"), 1.0, 0.05).ok
    assert not measure.at_least(float("nan"), 0.0, truth=1.0).ok
