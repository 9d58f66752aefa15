"""Simple predictors on experience whose answer is known: noise, a lag, an action that decides, and a shrunk image."""

import numpy as np
import pytest

from reverie.insight.foresight import FEWEST, condensed, foresee
from reverie.insight.run_reader import Experience, Segment


def experience(x, actions, rewards, *, episode=50):
    """One segment: the observation and reward of a row follow its action."""
    steps = len(rewards)
    first = np.arange(steps) % episode == 0
    action = np.eye(4, dtype=np.float32)[actions]
    action[first] = np.nan
    rows = {"obs/x": x, "action": action, "reward": np.where(first, 0, rewards).astype(np.float32), "is_first": first}
    return Experience((Segment(rows | {"is_last": np.roll(first, -1), "is_terminal": np.zeros(steps, bool)}),))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def symbols(rng, steps=3000):
    return rng.integers(4, size=steps), rng.integers(4, size=steps)


def one_hot(numbers):
    return np.eye(4, dtype=np.float32)[numbers]


def test_noise_is_foreseen_by_nothing(rng):
    found = foresee(
        experience(rng.normal(size=(3000, 3)), rng.integers(4, size=3000), rng.normal(size=3000)), window=16
    )
    assert found.observation < 0.01
    assert found.reward < 0.03


@pytest.mark.parametrize("lag", [1, 5, 20])
def test_the_lag_of_a_memory_task_is_found(rng, lag):
    symbol, action = symbols(rng)
    paid = action == np.roll(symbol, lag)  # the action is chosen after the observation of the row before: lag 1 is that
    found = foresee(experience(one_hot(symbol), action, paid.astype(float)), window=8)
    assert found.reward > 0.8
    assert found.observation < 0.02
    assert (found.recent > 0.8) == (lag < 8)
    if lag > 1:
        assert found.lag == lag


def test_what_moves_by_a_rule_is_foreseen(rng):
    action = rng.integers(4, size=2000)
    place = np.cumsum(action - 1.5)
    found = foresee(experience(place[:, None], action, (action == 2).astype(float)), window=8)
    assert found.observation > 0.99
    assert found.reward > 0.95
    turned = np.cumsum(action) % 4  # no sum of what was seen and done, but each pair of them decides
    assert foresee(experience(one_hot(turned), action, np.zeros(2000)), window=8).observation > 0.95


def test_too_little_is_not_judged(rng):
    few = FEWEST - 1
    assert foresee(experience(rng.normal(size=(few, 2)), np.zeros(few, int), np.zeros(few)), window=8) is None
    still = experience(np.zeros((2000, 2)), np.zeros(2000, int), np.zeros(2000))
    assert foresee(still, window=8) is None


def test_images_and_long_vectors_become_few_numbers(rng):
    image = rng.integers(0, 255, size=(300, 28, 20, 3)).astype(np.uint8)
    assert condensed({"obs/image": image}).shape == (300, 36)
    assert condensed({"obs/image": image[:, :4, :4], "obs/x": rng.normal(size=(300, 2))}).shape == (300, 18)
    long = condensed({"obs/x": rng.normal(size=(300, 500))})
    assert long.shape == (300, 48)
    assert long.std(0) == pytest.approx(np.ones(48))
