"""The report on the first experience: numbers, histograms as text, and warnings."""

import json

import numpy as np
import pytest

from reverie.data.data_report import histogram, range_report


def rows(count=100, **obs):
    rng = np.random.default_rng(0)
    first, last = np.arange(count) % 10 == 0, np.arange(count) % 10 == 9
    found = {f"obs/{key}": value for key, value in obs.items()}
    return found | {
        "reward": rng.normal(size=count).astype(np.float32),
        "is_first": first,
        "is_last": last,
        "is_terminal": last & (np.arange(count) < 50),
    }


def vector(count=100, size=3):
    return np.random.default_rng(1).normal(size=(count, size)).astype(np.float32)


def image(count=100):
    return np.random.default_rng(2).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)


def report(found, kinds, **options):
    return range_report(found, kinds, **options)


def test_numbers_are_those_of_the_rows():
    body, camera = vector(), image()
    camera[:, 0, 0] = 7
    told = report(rows(body=body, camera=camera), {"body": "vector", "camera": "image"})
    assert told.keys["body"].low == body.min()
    assert told.keys["body"].mean == pytest.approx(body.mean(), abs=1e-6)
    assert told.keys["camera"].constant == 3 / 48
    assert (told.episodes, told.terminations, told.steps) == (10, 5, 90)
    assert told.warnings == ()
    text = "\n".join(told.lines())
    assert "10 ended in 90 steps, 50% terminated, 50% truncated" in text
    assert max(map(len, told.lines())) <= 100
    json.dumps(told.to_dict())


def test_the_largest_rewards_that_fit_have_a_finite_mean():
    found = rows(body=vector()) | {"reward": np.full(100, np.finfo(np.float32).max)}
    told = report(found, {"body": "vector"}).to_dict()["rewards"]
    assert told["mean"] == pytest.approx(float(np.finfo(np.float32).max))
    assert told["std"] == pytest.approx(0, abs=1e25)


def test_resets_are_no_rewards():
    found = rows(body=vector())
    found["reward"][:] = 1.0
    found["reward"][found["is_first"]] = 0.0
    assert report(found, {"body": "vector"}).rewards.min() == 1


def uneven():
    return vector() * np.float32([1, 1, 1e-5])


def shades():
    return np.arange(100, dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("obs", "kind", "told"),
    [
        (np.zeros((100, 4, 4, 3), np.uint8), "image", "every image 'x' is black. Check that it is drawn;"),
        (np.full((100, 4, 4, 3), 9, np.uint8), "image", "never changes. Check that it is drawn at every step."),
        (image() * (np.arange(100) > 60)[:, None, None, None].astype(np.uint8), "image", "(61% are black)"),
        (shades(), "image", "100% of the images 'x' have a single colour (1% are black)"),
        (np.uint8(image() > 127), "image", "holds only 0 and 1 of 255"),
        (np.ones((100, 3), np.float32), "vector", "never changes. Set env.obs_ignore=x to leave it out."),
        (vector() * 1000, "vector", "Set model.vector_transform="),
        (uneven(), "vector", "times more than number 2. Set model.vector_transform=symlog"),
        (np.ones((100, 3), np.float32), "discrete", "'x' never changes. Set env.obs_ignore=x"),
    ],
)
def test_what_looks_wrong_is_said(obs, kind, told):
    warnings = report(rows(x=obs), {"x": kind}).warnings
    assert len(warnings) == 1
    assert told in warnings[0]


def test_ranges_of_scaled_vectors_do_not_matter():
    assert report(rows(x=vector() * 1000), {"x": "vector"}, scaled=True).warnings == ()
    assert report(rows(x=uneven()), {"x": "vector"}, scaled=True).warnings == ()


@pytest.mark.parametrize(
    ("factor", "name", "told"),
    [
        (0.0, "none", "replay.prioritize=rewards"),
        (1e4, "none", "model.reward_transform=symlog"),
        (1e4, "tanh", "flattens them at 1"),
        (1e-4, "none", "(behavior.entropy_scale) outweighs them"),
    ],
)
def test_odd_rewards_are_said(factor, name, told):
    found = rows(x=vector())
    found["reward"] *= factor
    transform = {"tanh": np.tanh}.get(name, lambda x: x)
    (warning,) = report(found, {"x": "vector"}, transform=transform, transform_name=name).warnings
    assert told in warning


@pytest.mark.parametrize(
    ("obs", "kind"),
    [
        (vector() * np.float32([1, 1, 0]), "vector"),  # what never changes in it does not drown the rest
        (np.float32([0.1, 5e6, -3]) + vector() * np.float32([1, 0.1, 1]), "discrete"),  # no numbers
        (np.ones((100, 3), np.uint8), "mask"),
        (image() // 2, "image"),
    ],
)
def test_what_looks_right_is_not_mentioned(obs, kind):
    assert report(rows(x=obs), {"x": kind}).warnings == ()


def test_rounding_is_no_movement():
    still = np.float32(1e6) + np.arange(100, dtype=np.float32)[:, None] % 2 / 8
    assert report(rows(x=still), {"x": "vector"}).keys["x"].constant == 1


def test_nothing_at_all_is_no_mistake():
    empty = {key: value[:0] for key, value in rows(x=vector()).items()}
    told = report(empty, {"x": "vector"})
    assert (told.steps, told.episodes) == (0, 0)
    json.dumps(told.to_dict())
    assert "none ended in 0 steps" in "\n".join(told.lines())


def test_without_a_transform_there_is_one_histogram():
    lines = report(rows(x=vector()), {"x": "vector"}).lines()
    assert sum("log counts" in line for line in lines) == 1


def test_lines_fit_the_terminal_and_columns_stand_below_each_other():
    names = ["a", "proprioception/left_arm/elbow/angular_velocity", "camera"]
    values = [vector() * 1e9, vector() * -1e-9, image()]
    found = rows(**dict(zip(names, values, strict=True)))
    kinds = dict(zip(names, ["vector", "vector", "image"], strict=True))
    lines = report(found, kinds, transform=np.sign, transform_name="sign").lines()
    assert max(map(len, lines)) <= 100
    header, *table = lines[: 1 + len(names)]
    ends = [header.index(word) + len(word) for word in ("min", "max", "mean", "std")]
    for line in table:
        assert all(line[end - 1] != " " and line[end] == " " for end in ends)
    assert any("…" in line for line in table)


@pytest.mark.parametrize(("streams", "said"), [(1, True), (8, False)])
def test_endless_episodes_are_said(streams, said):
    found = rows(1000, x=vector(1000))
    found["is_last"][:] = False
    found["is_terminal"][:] = False
    found["is_first"][:] = np.arange(1000) % (1000 // streams) == 0
    warnings = report(found, {"x": "vector"}).warnings
    assert len(warnings) == said
    assert not said or "no episode ended in 999 steps. Set env.time_limit" in warnings[0]


def test_rewards_are_shown_before_and_after_the_transform():
    lines = report(rows(x=vector()), {"x": "vector"}, transform=np.sign, transform_name="sign").lines()
    before, after = (next(line for line in lines if line.strip().startswith(name)) for name in ("rewards", "sign"))
    assert before != after
    assert after.strip().split(" ", 1)[1].strip().startswith("-1 |█")


def test_a_histogram_is_tall_where_there_are_many():
    assert histogram(np.array([0.0] * 100 + [1.0]), 3) == "0 |█ ▂| 1 (log counts)"
    assert histogram(np.full(5, 2.5)) == "always 2.5"
    assert histogram(np.zeros(0)) == "none"


def test_a_run_shows_and_keeps_it(make_run, tmp_path, capsys):
    run = make_run(tmp_path / "run")
    run.train()
    told = json.loads((tmp_path / "run" / "first_rows.json").read_text())
    assert set(told["observations"]) == set(run.spec.obs)
    assert told["steps"] > 0
