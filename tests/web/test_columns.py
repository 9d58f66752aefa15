"""Logs of any length in as much memory as a screen needs."""

import json
import tracemalloc

import numpy as np
import pytest

from reverie.insight.history import read_history
from reverie.web import columns
from reverie.web.columns import EpisodeTable, MetricColumns
from reverie.web.runs import WatchedRun

KEYS = [f"group/key{i}" for i in range(20)]


def line(step):
    return {"env_steps": step, "updates": step, "seconds": 1.0 * step} | dict.fromkeys(KEYS, step + 0.5)


@pytest.fixture
def long_run(tmp_path):
    """30,000 lines and as many episodes, 15 MB."""
    with open(tmp_path / "metrics.jsonl", "w") as file:
        for step in range(30_000):
            file.write(json.dumps(line(step)) + "\n")
            if step % 3000 == 0:
                file.write(json.dumps({"env_steps": step, "updates": step, "eval/return": step / 100}) + "\n")
    with open(tmp_path / "episodes.jsonl", "w") as file:
        for step in range(30_000):
            phase = {"phase": "eval" if step % 3000 == 0 else "train"}
            file.write(json.dumps(phase | {"env_steps": step, "frames": step, "length": 9, "return": 1.0}) + "\n")
    return tmp_path


def peak_of(work):
    """(What `work` returns, megabytes that it took at most.)"""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def test_watching_a_long_run_takes_little_memory(long_run):
    def watch():
        run = WatchedRun(0, long_run, "run")
        run.refresh()
        return run

    run, peak = peak_of(watch)
    assert peak < 40  # all lines as they are read take 150
    assert run.summary()["one_in"] > 1
    assert run.metrics.xy("eval/return", "env_steps")[1].tolist() == [30.0 * at for at in range(10)]
    assert run.metrics.last["group/key0"] == 29_999.5


def test_the_doctor_reads_a_long_run_in_little_memory(long_run):
    history, peak = peak_of(lambda: read_history(long_run))
    assert peak < 45  # as lines: 110
    assert (history.env_steps, history.metrics["group/key0"][-1]) == (29_999, 29_999.5)
    assert len(history.returns) == 30_000 - 10
    assert history.last_evaluation == (1.0,)


def test_a_run_that_is_watched_for_weeks_takes_no_more(monkeypatch):
    monkeypatch.setattr(columns, "MOST_ROWS", 100)
    metrics, episodes = MetricColumns(), EpisodeTable()
    for step in range(3000):
        metrics.add(line(step))
        episodes.add({"phase": "train", "return": 1.0 * step, "env_steps": step})
        if step % 500 == 0:
            metrics.add({"env_steps": step, "eval/return": 1.0 * step})
            episodes.add({"phase": "eval", "return": 1.0 * step, "env_steps": step})
        assert len(metrics) <= 100
    x, y = metrics.xy("group/key3", "env_steps")
    assert len(x) >= 49
    assert metrics.one_in == 32
    assert set(np.diff(x)[:-1]) <= {31, 32, 63}  # evenly; an evaluation is a line, too
    np.testing.assert_array_equal(y, x + 0.5)
    assert (x[-1], y[-1], metrics.last["group/key3"]) == (2999, 2999.5, 2999.5)
    x, y = metrics.xy("eval/return", "env_steps")
    assert y.tolist() == [0, 500, 1000, 1500, 2000, 2500]  # all of them, and not far from where they were
    assert abs(x - y).max() <= 2 * metrics.one_in
    steps, scores, _ = episodes.of("eval")
    assert scores.tolist() == steps.tolist() == [0, 500, 1000, 1500, 2000, 2500]
    assert episodes.of("train")[0].tolist() == list(range(3000))
    assert [row["return"] for row in episodes.newest(3)] == [2999, 2998, 2997]
