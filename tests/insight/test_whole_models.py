"""Whole models: variances and alarms by hand, one run beside itself, two seeds, and both commands."""

import json

import numpy as np
import pytest
import torch

import reverie
from reverie.cli import main
from reverie.errors import UserError
from reverie.insight.drift import open_loop, sample_windows
from reverie.insight.run_reader import open_run
from reverie.insight.whole_models import SAMPLES, _compared, _curve, _Dreams, _warned, whole_models

QUICK = {"log.tensorboard": False, "log.video": False}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of CartPole, the first with an ensemble, and a run of another task."""
    root = tmp_path_factory.mktemp("models")
    for name, env, settings in (
        ("a", "CartPole-v1", {"ensemble.members": 2}),
        ("b", "CartPole-v1", {"train.seed": 1}),
        ("other", "Pendulum-v1", {}),
    ):
        reverie.Dreamer(env, preset="debug", run=root / name, settings=QUICK | settings).learn(150)
    return root


def dreams(observations, reward=0.0, noise=0.0, heads=None):
    """The dreams of a model that predicts these numbers (N, H) of one observation."""
    values = np.asarray(observations, float)
    flat = np.full(values.shape, float(noise))
    return _Dreams({"x": values[..., None]}, {"x": flat[..., None]}, values * 0 + reward, flat, heads, np.abs(values))


def test_numbers_by_hand():
    """The truth is -1 and 1 (variance 1); one model is right, the other is 2 too high."""
    truth = np.array([[-1.0, 1], [1, -1]] * 10)
    valid = np.ones(truth.shape, bool)
    models = [dreams(truth, 1.0), dreams(truth + 2, 4.0)]
    found = _compared(["a", "b"], models, {"x": truth[..., None]}, valid, 5)
    assert found.error == pytest.approx([2, 2])  # (0 + 4) / 2
    assert found.error_of_mean == pytest.approx([1, 1])
    assert found.spread == pytest.approx([2, 2])
    assert found.reward_spread == pytest.approx([np.sqrt(4.5)] * 2)
    assert found.alarms["heads"] == [None, None]
    assert found.horizon == 2
    chance = [dreams(truth, 1.0, noise=0.5), dreams(truth + 2, 4.0, noise=0.5)]
    taken = _compared(["a", "b"], chance, {"x": truth[..., None]}, valid, 5)
    assert taken.spread == pytest.approx([1.5, 1.5])
    assert taken.reward_spread == pytest.approx([2, 2])


def test_an_alarm_that_follows_the_error_is_perfect_and_a_reversed_one_is_worst():
    error = np.linspace(0, 1, 40)[:, None]
    valid = np.ones((40, 1), bool)
    assert _warned([error], [error], valid) == [1.0]
    assert _warned([-error], [error], valid) == [0.0]
    assert _warned([None, error], [error, error], valid) == [1.0]
    assert _warned([-error, error], [-error, error], valid) == [1.0]  # each by its own errors
    assert _warned([None], [error], valid) == [None]
    assert _warned([error[:10]], [error[:10]], valid[:10]) == [None]  # too few


def test_windows_that_have_ended_do_not_count():
    valid = np.ones((40, 2), bool)
    valid[30:, 1] = False
    values = np.where(valid, [[1.0, 2.0]], 1e6)
    assert _curve(values, valid) == [1.0, 2.0]
    valid[5:, 1] = False
    assert _curve(values, valid) == [1.0, None]  # too few


def test_models_dream_with_the_actions_that_were_done(runs, monkeypatch):
    import reverie.insight.whole_models as module

    batches, actions = [], []

    def sample(*args, **options):
        batches.append(sample_windows(*args, **options))
        return batches[-1]

    def dream(model, start, action, noise):
        actions.append(action)
        return open_loop(model, start, action, noise)

    monkeypatch.setattr(module, "sample_windows", sample)
    monkeypatch.setattr(module, "open_loop", dream)
    first = open_run(runs / "a")
    found = whole_models([first, first], horizon=3, starts=16)
    ((batch, _),) = batches
    assert len(actions) == 2 * SAMPLES
    for given in actions:
        assert torch.equal(given, torch.from_numpy(batch.action[:, found.context :]).nan_to_num())


def test_one_run_beside_itself_agrees_and_another_model_does_not(runs):
    """What sampling alone makes of the variance is taken off; a decoder that is off by much is not."""
    first, second = open_run(runs / "a"), open_run(runs / "b")
    with torch.no_grad():
        for name, head in second.agent.world_model.heads.items():
            if name.startswith("obs/"):
                list(head.parameters())[-1].add_(3.0)
    itself = whole_models([first, first], horizon=3, starts=64)
    others = whole_models([first, second], horizon=3, starts=64)
    assert itself.windows[0] == others.windows[0] == 64
    assert all(a < 0.1 * b for a, b in zip(itself.spread, others.spread, strict=True))
    assert all(0 <= x <= 1 for curve in others.alarms.values() for x in curve)
    assert whole_models([first, second], horizon=3, starts=64) == others  # the same windows and dreams again


def test_what_cannot_be_compared_is_refused(runs):
    first = open_run(runs / "a")
    with pytest.raises(UserError, match="only one run"):
        whole_models([first])
    with pytest.raises(UserError, match="another task"):
        whole_models([first, open_run(runs / "other")])


def test_drift_of_several_runs(runs, tmp_path, capsys):
    words = [
        "drift",
        str(runs / "a"),
        str(runs / "b"),
        "--horizon",
        "3",
        "--starts",
        "40",
        "-o",
        str(tmp_path / "m.png"),
    ]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "2 models dream of the same windows" in out
    assert "AUROC heads" in out
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    assert main([*words[:-2], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["horizon"] == 3
    assert len(found["runs"]) == 2
    assert main(["drift", str(runs / "a"), str(runs / "other")]) == 2
    assert "another task" in capsys.readouterr().err


def test_trust_of_several_runs(runs, tmp_path, capsys, files_of):
    before = files_of(runs)
    few = ["--updates", "2", "--episodes", "2", "--horizon", "4", "--no-files"]
    code = main(["trust", str(runs / "a"), str(runs / "b"), *few, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == int(any(run["level"] == "no" for run in found["runs"]))
    assert [run["run"] for run in found["runs"]] == [str(runs / "a"), str(runs / "b")]
    assert found["models"]["horizon"] == 4
    assert files_of(runs) == before
    assert main(["trust", str(runs / "a"), str(runs / "b"), "--all"]) == 2
    assert "--all ranks the checkpoints of one run" in capsys.readouterr().err
