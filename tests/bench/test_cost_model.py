"""benchmarks/cost_model.py: its committed results follow from its own measurements, and the page says what they say."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOUND = json.loads((ROOT / "benchmarks" / "results" / "cost-model.json").read_text())
PAGE = (ROOT / "docs" / "cost-model.md").read_text()

spec = importlib.util.spec_from_file_location("cost_model", ROOT / "benchmarks" / "cost_model.py")
model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(model)


def test_a_fit_finds_the_coefficients_that_made_the_numbers():
    true = {"steps": 0.001, "gflop": 0.004, "values": 0.0, "parameters": 0.002}
    rows = [{key: float(row[key]) for key in model.TERMS} for row in FOUND["fitted"]]
    made = [row | {"cpu_s": model.predict(true, row)} for row in rows]
    assert model.fit(made) == pytest.approx(true, rel=1e-6, abs=1e-9)


def test_the_committed_fit_is_that_of_the_committed_measurements():
    pytest.importorskip("scipy")
    assert model.fit(FOUND["fitted"]) == pytest.approx(FOUND["coefficients"], rel=1e-6, abs=1e-12)
    errors = []
    for row in FOUND["held_out"]:
        assert row["predicted_s"] == pytest.approx(model.predict(FOUND["coefficients"], row))
        errors.append(abs(row["predicted_s"] / row["cpu_s"] - 1))
    assert FOUND["held_out_error"]["largest"] == pytest.approx(max(errors))
    assert {(row["width"], row["batch"], row["length"], row["horizon"]) for row in FOUND["held_out"]}.isdisjoint(
        (row["width"], row["batch"], row["length"], row["horizon"]) for row in FOUND["fitted"]
    )


def test_the_committed_predictions_follow_from_the_measurements():
    assert FOUND["assumed"] == model.GPU
    assert model.predictions(FOUND) == FOUND["predictions"]


def test_more_gpus_never_make_an_update_longer_than_their_overhead_allows():
    one, eight = (model.on_gpus(2000.0, 80_000_000, ranks)["seconds"] for ranks in (1, 8))
    work = 2000e9 / model.GPU["flop_per_s"]
    assert one == pytest.approx(model.GPU["fixed_s"] + work)
    assert model.GPU["fixed_s"] + work / 8 < eight < one


def test_the_page_has_the_numbers_of_the_results():
    for row in FOUND["held_out"]:
        shown = f"| {row['width']} | {row['batch']} x {row['length']} | {row['horizon']} | {row['cpu_s']:.3f} "
        assert shown + f"| {row['predicted_s']:.3f} | {100 * row['error']:+.0f} % |" in PAGE
    for row in FOUND["gradients"]:
        assert f"| {row['size']} | {row['parameters']:,} | {row['bytes'] / 1e6:.1f} MB |" in PAGE
    for rows in FOUND["predictions"]["gpus"].values():
        assert f"{1e3 * rows[-1]['seconds']:.0f} ms, {rows[-1]['speedup']:.1f} x" in PAGE
    assert "@" not in re.sub(r"`[^`]*`", "", PAGE)
