"""Data out: every CSV has a row per seed (or episode) and point and plain numbers; LaTeX has true minus signs."""

import csv
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from results import make_result

from reverie.cli import main
from reverie.evidence import tidy
from reverie.evidence.ablate import report
from reverie.evidence.page import write_files
from reverie.evidence.results import write_result
from reverie.evidence.statistics import Interval
from reverie.evidence.tables import Table, columns, deviating, ranged
from reverie.insight.drift import Drift
from reverie.insight.spreadsheet import plain_cell
from reverie.insight.trust import Optimism, Trust
from reverie.insight.whole_models import WholeModels
from reverie.run.evaluation import Evaluation

from .test_compare import official
from .test_sweep import TINY, plan_of, result_for

pandas = pytest.importorskip("pandas", reason="what a reader does with the files needs: pip install pandas")


def frame(rows_or_text):
    text = rows_or_text if isinstance(rows_or_text, str) else tidy.csv_of(rows_or_text)
    return pandas.read_csv(io.StringIO(text))


def test_a_csv_has_one_header_and_plain_numbers():
    text = tidy.csv_of([{"seed": 0, "value": -1234.5}, {"seed": 1, "value": None, "note": 'a, "b"'}])
    assert text == 'seed,value,note\n0,-1234.5,\n1,,"a, ""b"""\n'
    assert tidy.csv_of([]).strip() == ""
    found = frame([{"value": np.float32(0.5), "nan": float("nan"), "yes": True}])
    assert found["value"].tolist() == [0.5]
    assert found["nan"].isna().all()
    assert found["yes"].dtype == bool


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "-", "- a"])
def test_no_text_of_a_csv_is_a_formula(text):
    kept = "'" + text.replace("\r", "\n")
    for written in (tidy.csv_of([{"run": text, "value": -1.5}]), Table("t", ["run", "value"], [[text, "-1.5"]]).csv()):
        header, row = csv.reader(io.StringIO(written, newline=""))
        assert (header, row) == (["run", "value"], [kept, "-1.5"])
    assert next(csv.reader(io.StringIO(tidy.csv_of([{text: 1}]), newline=""))) == [kept]  # a column's name


@pytest.mark.parametrize("plain", ["-1.5", "+0.5", "-1e-05", "a=1", "1-2", "'=1", "runs/-x", "", "–", "−1", "\ud800"])
def test_numbers_and_other_texts_of_a_csv_are_as_they_are(plain):
    written = tidy.csv_of([{"run": plain, "value": -1}])
    row = list(csv.reader(io.StringIO(written)))[1]
    assert row == [plain.encode("utf-8", "backslashreplace").decode(), "-1"]
    values = [-2.5, -3, np.float32(-0.5), np.int64(-12345678901), True, -float("inf")]
    assert [plain_cell(value) for value in values] == ["-2.5", "-3", "-0.5", "-12345678901", "True", "-inf"]


def test_names_of_files_and_runs_go_through_the_one_writer():
    users = [path for path in Path(tidy.__file__).parents[1].rglob("*.py") if "csv.writer(" in path.read_text()]
    assert [path.name for path in users] == ["spreadsheet.py"]


def test_latex_has_a_true_minus():
    rows = [["a-1", ranged(Interval(22.02, -39.28, 83.33)), deviating(-1.5, 0.25), "+0.5 *", "–", "390-400k"]]
    text = Table("t", ["name", "ours [95 %]", "theirs", "difference", "none", "frames"], rows).latex()
    assert r"a-1 & 22.02 [$-$39.28, 83.33] & $-$1.500 $\pm$ 0.250 & $+$0.5 * & -- & 390-400k \\" in text
    assert r"ours [95 \%]" in text


def test_a_table_with_a_header_is_a_block_per_row_on_a_narrow_terminal():
    rows = [["1", "0.5", "x"], ["as trained", "12", "y"]]
    header = ["steps", "a long name", "another long name"]
    wide = columns(rows, header=header)
    assert columns(rows, header=header, width=max(map(len, wide))) == wide
    assert columns(rows, header=header, width=30) == [
        "steps 1",
        "  a long name        0.5",
        "  another long name  x",
        "as trained",
        "  a long name        12",
        "  another long name  y",
    ]


def test_seeds_of_a_comparison_at_each_published_point(tmp_path, capsys):
    pytest.importorskip("scipy")
    for seed in range(2):
        result = make_result("ALE/Pong-v5", seed, frames=5_000_000, evals=official("pong", 5, seed))
        write_result(result, tmp_path / "in" / f"{seed}.json")
    write_result(
        make_result("CartPole-v1", 3, label="mine", evals=[(500, 9.0), (900, 11.0)]), tmp_path / "in" / "c.json"
    )
    files = ["--csv", str(tmp_path / "seeds.csv"), "--latex", str(tmp_path / "tables.tex")]
    assert main(["compare", str(tmp_path / "in"), *files]) == 0
    found = pandas.read_csv(tmp_path / "seeds.csv")
    pong = found[found["task"] == "ALE/Pong-v5"]
    assert len(pong) == 2 * pong["frames"].nunique()
    assert pong.groupby("seed")["frames"].is_monotonic_increasing.all()
    np.testing.assert_allclose(pong["score"] - pong["published"], 0.01 * pong["seed"], atol=1e-5)
    assert set(pong["verdict"]) == {"on track"}
    (mine,) = found[found["task"] == "CartPole-v1"].to_dict("records")
    assert (mine["experiment"], mine["seed"], mine["frames"], mine["score"]) == ("mine", 3, 900, 11.0)
    tex = (tmp_path / "tables.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") >= 2
    assert r"11.28 $\pm$ 2.930" in tex


def test_the_published_tables_as_rows(tmp_path, capsys):
    assert main(["compare", "--csv", str(tmp_path / "p.csv")]) == 0
    found = pandas.read_csv(tmp_path / "p.csv")
    (value,) = found[(found["agent"] == "DreamerV2 (8 seeds)") & (found["measure"] == "gamer median")]["value"]
    assert value == 2.146
    assert found["value"].dtype == float


def test_seeds_of_a_sweep_at_each_point(tmp_path, capsys):
    pytest.importorskip("scipy")
    plan = plan_of(TINY, tmp_path)
    train = [(50, -3.0), (200, 5.0)]
    results = [
        (job, result_for(job, [(100, -1.0), (200, 2.0 * job.seed + len(job.variant))], train)) for job in plan.jobs
    ]
    found = frame(tidy.sweep_rows(results))
    assert list(found.columns) == ["task", "variant", "seed", "measure", "frames", "value"]
    played = found[found["measure"] == "evaluation"]
    assert len(played) == len(plan.jobs) * 2
    assert played[played["frames"] == 200]["value"].tolist() == [2.0 * job.seed + len(job.variant) for job in plan.jobs]
    curve = found[(found["measure"] == "training return") & (found["seed"] == 0)]
    assert curve["frames"].nunique() == 10
    words, tables, _, facts = report(plan, results)
    write_files(
        tmp_path / "out", name="report", title="t", words=words, tables=tables, figures={}, facts=facts,
        rows=tidy.sweep_rows(results),
    )  # fmt: skip
    whole = pandas.read_csv(tmp_path / "out" / "report.csv")
    assert len(whole) == len(found)
    page = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exec(block.replace("runs/transforms/report.csv", str(tmp_path / "out" / "report.csv")))
    assert re.search(r"cart/pole +base +5.0 +1.41", capsys.readouterr().out)  # seeds 0 and 1: 4 and 6
    table = pandas.read_csv(tmp_path / "out" / "report-last-evaluation.csv")
    assert {"cart/pole", "cart/pole low", "minus base", "minus base low", "minus base p"} <= set(table.columns)
    assert table["cart/pole low"].dtype == float
    assert "[" not in (tmp_path / "out" / "report-last-evaluation.csv").read_text()


def test_episodes_of_an_evaluation():
    found = frame(tidy.evaluation_rows(Evaluation([1.0, -2.5], [4, 9]), env="X", mode="eval", seed=7))
    assert found.to_dict("records") == [
        {"env": "X", "mode": "eval", "seed": 7, "episode": 0, "return": 1.0, "length": 4},
        {"env": "X", "mode": "eval", "seed": 7, "episode": 1, "return": -2.5, "length": 9},
    ]


def test_curves_of_a_drift_and_of_several_models():
    pair = {"dream": [0.1, None], "floor": [0.05, 0.06]}
    drift = Drift(2, 5, [40, 3], [1.0, None], {"cam": {"mse": pair}}, pair, pair, {}, {}, 1, 15)
    found = frame(tidy.drift_rows(drift, "runs/x"))
    assert len(found) == 2 * (1 + 3 * 2)
    row = found[(found["quantity"] == "mse of cam") & (found["guess"] == "floor") & (found["steps"] == 2)]
    assert row[["value", "windows"]].to_numpy().tolist() == [[0.06, 3]]
    assert found[(found["quantity"] == "latent KL") & (found["steps"] == 2)]["value"].isna().all()
    models = WholeModels(
        ["a", "b"], 5, [40, 30], [1.0, 2.0], [0.5, 1.0], [0.1, 0.2], [0.0, None], {"models": [0.5, 0.9]}
    )
    found = frame(tidy.models_rows(models))
    assert set(found["quantity"]) == {
        "error", "error of the mean", "variance between", "deviation of rewards", "AUROC models"
    }  # fmt: skip
    assert len(found) == 10


def test_episodes_and_curves_of_a_trust():
    policies = {name: Evaluation([x, x + 1], [5, 6]) for name, x in (("random", 0.0), ("own", 10.0), ("made", 9.0))}
    curve = [0.5, None]
    optimism = Optimism(curve, curve, curve, curve, curve, curve, 5)
    trust = Trust("step-1", "T", 1, 0.1, policies, optimism, {"replay": {"reward": [0.1, 0.2]}}, None, 15)
    found = frame(tidy.trust_rows(trust, "runs/x"))
    made = found[(found["quantity"] == "return") & (found["source"] == "made")]
    assert made["value"].tolist() == [9.0, 10.0]
    assert made["steps"].tolist() == [5, 6]
    errors = found[found["quantity"] == "error of reward"]
    assert errors["value"].tolist() == [0.1, 0.2]
    assert len(found) == 6 + 5 * 2 + 2


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "--csv"],
        ["compare", "--latex"],
        ["sweep", "s.toml", "--csv"],
        ["ablate", "--vary", "free_nats=0,1", "--latex"],
        ["eval", "nowhere", "--csv"],
        ["drift", "nowhere", "--csv"],
        ["trust", "nowhere", "--csv"],
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_done(command, tmp_path, monkeypatch, capsys):
    """The run does not even exist here: that is not what is complained of."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(TINY)
    (tmp_path / "file").write_text("")
    (tmp_path / "config.yaml").write_text("keep: me")
    assert main([*command, "file/x"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: cannot write ")
    assert "Traceback" not in said
    assert main([*command, "config.yaml"]) == 2
    assert "it is there already and does not end in" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_text() == "keep: me"
    assert {path.name for path in tmp_path.iterdir()} == {"s.toml", "file", "config.yaml"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--csv", "-"], "--csv writes a file"),
        (["--latex", "-"], "--latex writes a file"),
        (["--csv", "one", "--latex", "one"], "are the same file"),
        (["--csv", "pipe"], "a device or a pipe"),
    ],
)
def test_files_that_are_none_are_refused(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert main(["compare", *words]) == 2
    said = capsys.readouterr()
    assert (sentence in said.err, said.out) == (True, "")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_eval_writes_its_episodes(tmp_path, capsys):
    import reverie

    agent = reverie.Dreamer("CartPole-v1", preset="debug", run=tmp_path / "run", video=False, eval_every=0)
    agent.learn(env_steps=60, quiet=True)
    assert main(["eval", str(tmp_path / "run"), "--episodes", "2", "--csv", str(tmp_path / "e.csv"), "--json"]) == 0
    found = pandas.read_csv(tmp_path / "e.csv")
    assert found["return"].tolist() == json.loads(capsys.readouterr().out)["scores"]
    assert set(found["env"]) == {"CartPole-v1"}
