"""Lines of a run's files: long ones are read in little memory, and nothing that counts is lost."""

import itertools
import json
import tracemalloc

import pytest

from reverie.commands.info import run_state
from reverie.config import Config, build
from reverie.evidence.results import result_of
from reverie.insight.history import read_history
from reverie.insight.report import summary
from reverie.run.directory import prepare_directory
from reverie.run.lines import each_line, newest_values, odd_lines, read_lines, thinned


def write(path, lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("count", [0, 1, 2, 9, 10, 11, 19, 20, 21, 22, 39, 40, 41, 100, 1001])
def test_thinned_items_are_evenly_spread_from_the_first_to_the_newest(count):
    kept = thinned(iter(range(count)), most=10)
    assert len(kept) <= 11
    assert kept == list(range(count)) if count <= 10 else len(kept) >= 5
    if count:
        assert (kept[0], kept[-1]) == (0, count - 1)
        steps = {b - a for a, b in itertools.pairwise(kept)}
        assert len(steps - {kept[-1] - kept[-2]} if count > 10 else steps) <= 1


def test_all_readers_agree_on_a_file_with_odd_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [{"env_steps": 1, "updates": 4, "x": 1.0}, "junk\n", {"x": 2}, {"env_steps": 2, "x": None}, '{"env_'])
    assert list(each_line(path)) == read_lines(path)
    assert len(read_lines(path)) == 2
    assert odd_lines(path) == 2
    assert newest_values(path, ("env_steps", "updates", "x", "y")) == {"env_steps": 2, "updates": 4, "x": 1.0}
    assert newest_values(tmp_path / "none.jsonl", ("x",)) == {}


def long_run(directory, count):
    """A run with `count` lines of metrics, one of them with a number that is not finite."""
    config = build({"env.id": "CartPole-v1", "train.env_steps": count}, base=Config())
    prepare_directory(directory, config)
    keys = {f"world_model/part{i}": 0.25 for i in range(30)}
    with open(directory / "metrics.jsonl", "w") as file:
        for step in range(count):
            line = {
                "env_steps": step,
                "updates": step,
                "seconds": step,
                **keys,
                "nonfinite/skipped": step // (count - 9),
            }
            file.write(json.dumps(line | ({"actor/loss": None} if step == count // 2 + 1 else {})) + "\n")
        file.write(json.dumps({"env_steps": count, "eval/return": 7.0}) + "\n")
    episode = {"phase": "eval", "env_steps": count, "frames": count, "seconds": 1.0, "return": 7.0, "length": 9}
    write(directory / "episodes.jsonl", [episode])
    return directory


def check_all_readers(run, count):
    history, found, result, state = read_history(run), summary(run), result_of(run), run_state(run)
    assert history.nonfinite == ("actor/loss",)
    assert (history.env_steps, history.skipped) == (count, 1)
    assert (found["env_steps"], found["updates"], found["seconds"]) == (count, count - 1, count - 1)
    assert result.updates == state["updates"] == count - 1
    assert state["evaluation"] == 7.0


def test_the_newest_numbers_and_all_that_are_not_finite_are_found(tmp_path):
    check_all_readers(long_run(tmp_path / "run", 200), 200)


@pytest.mark.slow
def test_a_long_file_is_read_in_little_memory(tmp_path):
    run = long_run(tmp_path / "run", 60_000)
    assert (run / "metrics.jsonl").stat().st_size > 50e6
    tracemalloc.start()
    check_all_readers(run, 60_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6
