"""Trust: curves and verdicts by hand, the policy that is made in dreams, and the command."""

import json

import numpy as np
import pytest
import torch

import reverie
from reverie.cli import main
from reverie.data.replay import Batch
from reverie.errors import UserError
from reverie.insight.run_reader import open_run
from reverie.insight.trust import (
    FILE,
    Optimism,
    Replayed,
    Trust,
    _compared,
    _earned_after,
    _shares,
    make_policy_in_dreams,
    rare_rewards,
    read_trust,
    verdict,
)
from reverie.run.evaluation import Evaluation

QUICK = ["--updates", "3", "--episodes", "3", "--horizon", "6"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("trust") / "run"
    reverie.Dreamer("CartPole-v1", preset="debug", run=path).learn(env_steps=400, quiet=True)
    return path


def episodes(mean):
    return Evaluation([mean - 1.0, mean, mean + 1.0] * 4, [10] * 12)


def measured(random=0.0, own=10.0, made=10.0, gap=0.0, horizon=6, errors=0.01):
    """What a measurement finds if the gap grows by so much a step while 1 is earned in each."""
    steps = np.arange(1, horizon + 1)
    curves = {"real": steps, "dream": steps * (1 + gap), "gap": steps * gap, "size": steps * max(1.0, 1 + gap)}
    curves |= {"low": curves["gap"] - 0.01, "high": curves["gap"] + 0.01}
    lists = {name: [float(x) for x in curve] for name, curve in curves.items()}
    policies = {"random": episodes(random), "own": episodes(own), "made": episodes(made)}
    parts = {name: [errors] * horizon for name in ("reward", "continue", "value")}
    return Trust("step-1", "toy", 5, 0.1, policies, Optimism(**lists, episodes=12), {"replay": parts}, None, horizon)


def test_a_policy_as_good_as_the_run_is_trusted():
    found = measured()
    assert (found.level, found.steps, found.share) == ("yes", 6, 1.0)
    assert verdict(found)[0] == "Its dreams can be trusted for 6 steps."


def test_small_errors_do_not_make_up_for_a_policy_that_fails():
    found = measured(made=0.2, errors=0.001)  # several steps ahead all is well predicted, and there is no gap
    assert (found.level, found.steps) == ("no", 0)
    assert "does not beat random actions" in verdict(found)[0]


def test_half_as_good_is_trusted_in_part():
    found = measured(made=5.0)
    assert (found.level, found.share) == ("partly", 0.5)
    assert "50% of the way" in " ".join(verdict(found))


@pytest.mark.parametrize(("gap", "word"), [(1.0, "optimistic"), (-0.5, "pessimistic")])
def test_a_gap_is_named(gap, word):
    found = measured(gap=gap)
    assert (found.level, found.steps) == ("partly", 0)
    assert f"The dreams are {word}: within 6 steps" in " ".join(verdict(found))


def test_a_run_that_learnt_nothing_is_no_yardstick():
    found = measured(own=0.0, made=5.0)
    assert found.share is None
    assert "little to compare" in " ".join(verdict(found))


def test_the_rank_is_the_worse_of_both_policies():
    assert measured(own=10, made=4).rank == 4
    assert measured(own=3, made=8).rank == 3


def test_what_is_earned_ends_with_the_task_and_is_unknown_beyond_a_time_limit():
    #           first episode, ends | second, cut by a time limit | third
    first = np.array([[1, 0, 0, 1, 0, 0, 1, 0]], bool)
    terminal = np.array([[0, 0, 1, 0, 0, 0, 0, 0]], bool)
    reward = np.array([[9.0, 1, 2, 9, 4, 8, 9, 16]])
    action = np.zeros((1, 8, 1), np.float32)
    sums, known = _earned_after(reward, Batch({}, action, reward, first, terminal), 3)
    assert known[0].tolist() == [
        [True, True, True],  # 1, then 2 and the end: nothing more
        [True, True, True],
        [False, False, False],  # from an end nothing follows
        [True, True, False],  # 4, 8, then the time limit
        [True, False, False],
        [False, False, False],
        [True, False, False],
        [False, False, False],
    ]
    assert sums[0][known[0]].tolist() == [1, 3, 3, 2, 2, 2, 4, 12, 8, 16]


def test_errors_are_shares_of_what_varies():
    real = np.tile([[0.0, 2.0]], (10, 1))  # variance 1
    valid = np.ones((10, 2), bool)
    assert _shares(real + [[0.5, 0.0]], real, valid) == [0.25, 0.0]
    valid[3:, 1] = False  # too few to say
    assert _shares(real, real, valid)[1] is None
    assert _shares(real, np.zeros_like(real), np.ones((10, 2), bool)) == [None, None]


def test_intervals_are_over_episodes_and_few_starts_say_nothing():
    rng = np.random.default_rng(0)
    episode = np.repeat(np.arange(20), 10)
    real = rng.normal(size=20)[episode][:, None] * [[1.0, 1.0]]
    valid = np.ones((200, 2), bool)
    valid[7:, 1] = False
    found = _compared(real + 0.5, real, valid, episode)
    assert found.gap[0] == pytest.approx(0.5)
    assert found.low[0] == pytest.approx(0.5)
    assert found.gap[1] is None
    assert found.episodes == 20
    noisy = _compared(real * 0, real, valid, episode)
    half = 1.96 * real[::10, 0].std(ddof=1) / np.sqrt(20)  # of 20 episodes, not of 200 starts
    assert (noisy.high[0] - noisy.low[0]) / 2 == pytest.approx(half, rel=0.25)


def test_rare_rewards_foreseen_and_promised():
    real = np.zeros((10, 4))
    real[:4, 2] = 1
    predicted = np.zeros((10, 4))
    predicted[:3, 2] = 0.9  # three of the four
    predicted[5:8, 1] = 0.8  # and three that never come
    none = (np.zeros((10, 4)),) * 2
    found = rare_rewards(Replayed(None, np.ones((10, 4), bool), (predicted, real), none, none), 4)
    assert (found.came, found.foreseen, found.promised, found.kept) == (4, 3, 6, 3)
    assert rare_rewards(Replayed(None, np.ones((10, 4), bool), none, none, none), 4) is None


def test_only_a_fresh_policy_learns_and_the_model_stays(run):
    reader = open_run(run)
    before = {key: value.clone() for key, value in reader.agent.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fresh, made = make_policy_in_dreams(reader, updates=3, minutes=0, seed=0, report=lambda done, text: None)
    assert torch.equal(torch.rand(1), expected)  # random numbers of others are untouched
    again, _ = make_policy_in_dreams(reader, updates=3, minutes=0, seed=0, report=lambda done, text: None)
    other, _ = make_policy_in_dreams(reader, updates=1, minutes=0, seed=0, report=lambda done, text: None)
    after, same, less = fresh.state_dict(), again.state_dict(), other.state_dict()
    assert made == 3
    assert all(torch.equal(value, reader.agent.state_dict()[key]) for key, value in before.items())
    model = [key for key in after if key.startswith("world_model.")]
    assert all(torch.equal(after[key], before[key]) for key in model)
    actor = [key for key in after if key.startswith("actor.")]
    assert actor
    assert any(not torch.equal(after[key], before[key]) for key in actor)
    assert all(torch.equal(after[key], same[key]) for key in after)
    assert any(not torch.equal(after[key], less[key]) for key in actor)  # it learns


def test_the_verb_prints_draws_and_touches_nothing_else(run, tmp_path, capsys, files_of):
    before = files_of(run)
    code = main(["trust", str(run), *QUICK, "--json", "--no-files"])
    printed = json.loads(capsys.readouterr().out)
    assert files_of(run) == before
    assert code == (printed["level"] == "no")
    assert printed["updates"] == 3
    assert set(printed["policies"]) == {"random", "own", "made"}
    assert len(printed["optimism"]["gap"]) == 6
    main(["trust", str(run), *QUICK])
    assert printed["verdict"][0] in capsys.readouterr().out
    written = files_of(run)
    assert set(written) - set(before) == {FILE, "trust.png"}
    assert {name: written[name] for name in before} == before
    assert written["trust.png"][:4] == b"\x89PNG"
    assert read_trust(run)["policies"] == printed["policies"]  # the same each time
    assert main(["report", str(run), "-o", str(tmp_path / "report.html")]) == 0
    assert printed["verdict"][1] in (tmp_path / "report.html").read_text().replace("&#39;", "'")
    for name in (FILE, "trust.png"):
        (run / name).unlink()


def test_all_kept_checkpoints_are_ranked(run, capsys, files_of):
    before = files_of(run)
    main(["trust", str(run), *QUICK, "--all", "--json"])
    ranking = json.loads(capsys.readouterr().out)["ranking"]
    low = [min(each["policies"][name]["mean"] for name in ("own", "made")) for each in ranking]
    assert low == sorted(low, reverse=True)
    assert {each["checkpoint"] for each in ranking} >= {path.name for path in (run / "checkpoints").glob("step-*")}
    assert files_of(run) == before


def test_nothing_to_measure_is_one_sentence(run, tmp_path, capsys):
    assert main(["trust", str(tmp_path / "nothing"), *QUICK]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert main(["trust", str(run), "--minutes", "-1"]) == 2
    assert "must be a number above 0" in capsys.readouterr().err


def test_a_link_is_replaced_and_what_is_damaged_is_refused(run, tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    for name in (FILE, "trust.png"):
        (run / name).symlink_to(tmp_path / "mine")
    main(["trust", str(run), *QUICK])
    capsys.readouterr()
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (run / FILE).is_symlink()
    found = json.loads((run / FILE).read_text())
    found["optimism"]["gap"] = found["optimism"]["gap"][:-1]
    (run / FILE).write_text(json.dumps(found))
    with pytest.raises(UserError, match="is damaged"):
        read_trust(run)
    for name in (FILE, "trust.png"):
        (run / name).unlink()
    assert read_trust(run) is None
