"""Collector: rows, counters and episodes from real vector environments."""

import numpy as np
import pytest
from toys import BrokenEnv, CountingEnv, RandomLengthEnv, counting, long_counting

from reverie.data.collect import Collector, Episode
from reverie.envs import make_vector
from reverie.envs.repeatable import seed_of
from reverie.errors import UserError


def policy(obs, is_first):
    """Action = (episode + step) mod 3, as a one-hot: decided by what is seen."""
    seen = obs["observation"]
    return np.eye(3, dtype=np.float32)[(seen[:, 0] + seen[:, 1]).astype(int) % 3]


def take(collector, count, act=policy):
    rows = collector.rows(act)
    return [next(rows) for _ in range(count)]


def vector(makers, **options):
    """Different environments side by side: `make_vector` takes one maker, so let it hand out one after the other."""
    queue = iter(makers)
    return make_vector(lambda: next(queue), len(makers), **options)


@pytest.fixture
def collector():
    return Collector(make_vector(counting, 2), seed=0)


def test_the_first_row_is_the_reset(collector):
    row, episodes = take(collector, 1)[0]
    assert episodes == []
    assert row["is_first"].all()
    assert np.isnan(row["action"]).all()
    assert not row["reward"].any()
    assert not row["is_last"].any()
    assert collector.steps == 0


def test_rows_have_the_keys_shapes_and_types_of_the_contract(collector):
    row, _ = take(collector, 4)[-1]
    assert {key: (value.shape, value.dtype.str) for key, value in row.items()} == {
        "obs/observation": ((2, 4), "<f4"),
        "action": ((2, 3), "<f4"),
        "reward": ((2,), "<f4"),
        "is_first": ((2,), "|b1"),
        "is_last": ((2,), "|b1"),
        "is_terminal": ((2,), "|b1"),
    }


def test_steps_count_real_steps_only():
    collector = Collector(vector([CountingEnv((1,)), CountingEnv((4,))]), seed=0)
    steps, rows = 0, collector.rows(policy)
    for _ in range(40):
        row, _ = next(rows)
        steps += int((~row["is_first"]).sum())
        assert collector.steps == steps
    assert steps == 20 + 32  # of 40 rows, 20 and 8 are resets


def test_scores_and_lengths_are_those_of_the_environment():
    collector = Collector(vector([CountingEnv((2, 5, 3), (True, False, True)), CountingEnv((4,))]), seed=0)
    episodes = [episode for _, ended in take(collector, 20) for episode in ended]
    assert [e for e in episodes if e.index == 0][:4] == [
        Episode(0, 1 + 2, 2, True),
        Episode(0, 500 + 15, 5, False),
        Episode(0, 600 + 6, 3, True),
        Episode(0, 600 + 3, 2, True),
    ]
    assert [e for e in episodes if e.index == 1][:2] == [Episode(1, 10, 4, True), Episode(1, 410, 4, True)]


def test_an_episode_is_reported_with_its_last_row():
    collector = Collector(make_vector(RandomLengthEnv, 4), seed=1)
    for row, episodes in take(collector, 100):
        assert [e.index for e in episodes] == np.nonzero(row["is_last"])[0].tolist()
        assert [e.terminal for e in episodes] == row["is_terminal"][row["is_last"]].tolist()


def test_scores_are_raw_sums_in_double_precision():
    collector = Collector(make_vector(lambda: CountingEnv((30,)), 1), seed=0)
    scores = [e.score for _, episodes in take(collector, 31 * 5) for e in episodes]
    assert scores == [30 * 100 * k + 465 for k in range(5)]


def test_a_policy_can_be_changed_without_losing_a_row():
    """Stop and start `rows` at every step: the same rows come out as from one long iteration."""
    once = Collector(make_vector(counting, 2), seed=0)
    expected = take(once, 30)
    again = Collector(make_vector(counting, 2), seed=0)
    found = [take(again, 1)[0] for _ in range(30)]
    for (left, ended_left), (right, ended_right) in zip(expected, found, strict=True):
        assert ended_left == ended_right
        for key in left:
            np.testing.assert_array_equal(left[key], right[key])
    assert once.steps == again.steps


def test_the_new_policy_acts_from_the_next_step_on():
    collector = Collector(make_vector(long_counting, 1), seed=0)
    take(collector, 4, lambda obs, first: np.eye(3, dtype=np.float32)[[0]])
    rows = take(collector, 4, lambda obs, first: np.eye(3, dtype=np.float32)[[2]])
    assert [int(row["obs/observation"][0, 2]) for row, _ in rows] == [2, 2, 2, 2]
    assert [int(row["obs/observation"][0, 1]) for row, _ in rows] == [4, 5, 6, 7]


def test_the_policy_sees_each_row_once_with_its_is_first(collector):
    seen = []

    def act(obs, is_first):
        seen.append((obs["observation"].copy(), is_first.copy()))
        return policy(obs, is_first)

    rows = take(collector, 12, act)
    assert len(seen) == 11
    for (obs, first), (row, _) in zip(seen, rows, strict=False):
        np.testing.assert_array_equal(obs, row["obs/observation"])
        np.testing.assert_array_equal(first, row["is_first"])


def test_rows_are_copies(collector):
    rows = take(collector, 8)
    assert [int(row["obs/observation"][0, 1]) for row, _ in rows] == [0, 1, 2, 0, 1, 2, 3, 4]


def test_environments_get_different_seeds_once():
    collector = Collector(make_vector(counting, 3), seed=7)
    rows = take(collector, 8)
    assert rows[0][0]["obs/observation"][:, 3].tolist() == [7, 8, 9]
    assert rows[3][0]["is_first"].all()
    later = np.float32([seed_of(seed, 1) for seed in (7, 8, 9)])
    np.testing.assert_array_equal(rows[3][0]["obs/observation"][:, 3], later)  # each episode has a seed of its own


@pytest.mark.parametrize(
    ("maker", "message"),
    [
        (lambda: BrokenEnv(after=0), "observation 'observation' contains NaN at step 0"),
        (lambda: BrokenEnv(after=3), "observation 'observation' contains NaN at step 3"),
        (lambda: BrokenEnv(after=2, value=np.inf), "contains infinity at step 2"),
        (lambda: BrokenEnv(after=2, reward=True), "the reward is nan at step 2"),
    ],
)
def test_broken_numbers_stop_at_the_step_that_made_them(maker, message):
    with pytest.raises(UserError, match=message):
        take(Collector(make_vector(maker, 2), seed=0), 10)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_worker_processes_give_the_same_rows():
    def rows_of(envs):
        try:
            return take(Collector(envs, seed=0), 8)
        finally:
            envs.close()

    for (left, _), (right, _) in zip(
        rows_of(make_vector(counting, 2)), rows_of(make_vector(counting, 2, backend="async")), strict=True
    ):
        for key in left:
            np.testing.assert_array_equal(left[key], right[key])
