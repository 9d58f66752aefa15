"""The page holds everything in itself, takes nothing from a run as HTML, and is made of any run."""

import io
import json
import re
import shutil
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from toys import DictEnv

import reverie
from reverie import cli
from reverie.insight.page import smaller_gif
from reverie.insight.report import summary, write_report

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "toy"
    dreamer = reverie.Dreamer(DictEnv, preset="debug", run=path, tensorboard=False, health_every=1, log_every=1e-9)
    dreamer.learn(200, quiet=True)
    return path


class Page(HTMLParser):
    """Tags, their sources, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]

    def handle_data(self, data):
        self.text += data


def page_of(paths, tmp_path):
    text = write_report(paths, tmp_path / "report.html").read_text(encoding="utf-8")
    return Page(text), text


def test_everything_is_inside(run, tmp_path):
    page, text = page_of([run], tmp_path)
    assert all(source.startswith(("data:", "#")) for source in page.sources)
    assert not re.search(r"url\((?!#)|@import", text)
    assert "script" not in page.tags
    assert page.tags.count("svg") > 6
    assert "img" in page.tags
    titles = ("Returns", "Doctor", "How far it can dream", "What it dreams", "How the latent classes are used")
    for words in (*titles, "seed"):
        assert words in page.text
    assert len(re.sub(r"data:[^\"]*", "", text)) < 400_000  # without images; two runs are below 1 MB
    facts = summary(run)
    assert f"{facts['score']:.3f}" in page.text
    assert f"{facts['env_steps']:,} steps" in page.text


def test_nothing_of_a_run_is_taken_as_html(run, tmp_path):
    bad = tmp_path / "<script>alert(1)<" / "x"
    shutil.copytree(run, bad)
    config = (bad / "config.yaml").read_text()
    (bad / "config.yaml").write_text(re.sub(r"id: .*", "id: '<img src=x onerror=alert(1)>'", config, count=1))
    facts = json.loads((bad / "provenance.json").read_text())
    (bad / "provenance.json").write_text(json.dumps(facts | {"command": "<b onload=1>&"}))
    worse = bad.parent / "<script>"
    shutil.copytree(bad, worse)
    page, _ = page_of([bad, worse], tmp_path)
    assert "script" not in page.tags
    assert "b" not in page.tags or "<b onload=1>&" in page.text
    assert "x" not in page.sources
    assert "<script>" in page.text


def test_several_runs_are_drawn_together(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    page, _ = page_of([run, other], tmp_path)
    assert page.text.count("not evaluated") == 0
    assert "toy" in page.text
    assert "other" in page.text


def test_without_matplotlib_a_sentence_comes_before_work(run, tmp_path, capsys, monkeypatch):
    from reverie.insight import report

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(report, "open_run", None)  # nothing is opened
    assert cli.main(["report", str(run), "-o", str(tmp_path / "r.html")]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: plots need matplotlib.\nhint: pip install 'reverie-rl[plot]'\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["checkpoints", "replay", "metrics.jsonl", "episodes.jsonl", "provenance.json"])
def test_a_run_that_lacks_something_has_a_page(run, tmp_path, missing):
    part = tmp_path / "part"
    shutil.copytree(run, part)
    shutil.rmtree(part / missing) if (part / missing).is_dir() else (part / missing).unlink()
    page, _ = page_of([part], tmp_path)
    assert "Settings that differ" in page.text


def test_the_command(run, tmp_path, capsys):
    assert cli.main(["report", str(run), "-o", str(tmp_path / "r.html"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"][0]["task"] == "custom:DictEnv"
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "is not a run" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert cli.main(["report", str(run), "-o", str(tmp_path / "file" / "r.html")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_random_play_of_each_task_has_its_own_level(tmp_path):
    from reverie.insight.plots import returns_svg

    runs = {}
    tasks = {"a": ("CartPole-v1", (10, 20)), "b": ("Pendulum-v1", (-900, -1100)), "c": ("CartPole-v1", (30,))}
    for name, (task, scores) in tasks.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"env:\n  id: {task}\n")
        rows = [{"phase": "random", "env_steps": 0, "frames": 0, "return": score, "length": 9} for score in scores]
        (tmp_path / name / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        runs[name] = tmp_path / name
    drawn = returns_svg(runs)
    assert "random policy on CartPole-v1 (20.00)" in drawn
    assert "random policy on Pendulum-v1 (-1000.00)" in drawn.replace("\u2212", "-")
    assert "random policy (20.00)" in returns_svg({"a": runs["a"], "c": runs["c"]})


def noisy_gif(count, side):
    """Frames that no GIF makes small."""
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (side, side), np.uint8)) for _ in range(count)]  # gray: quick
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=50, loop=0)
    return out.getvalue()


def seconds_of(video):
    total = 0
    for index in range(video.n_frames):
        video.seek(index)
        total += video.info["duration"]
    return total / 1000


def test_two_runs_with_large_videos_are_less_than_a_megabyte(run, tmp_path):
    runs = [tmp_path / "one", tmp_path / "two"]
    for path in runs:
        shutil.copytree(run, path)
        shutil.rmtree(path / "videos", ignore_errors=True)
        (path / "videos").mkdir()
        (path / "videos" / "eval-000000200.gif").write_bytes(noisy_gif(70, 160))
        assert (path / "videos" / "eval-000000200.gif").stat().st_size > 1_000_000
    page, text = page_of(runs, tmp_path)
    assert len(text.encode()) < 1_000_000
    assert "one episode of the evaluation at step 200" in page.text
    assert page.tags.count("img") == 4  # a dream and a video of each


def test_a_smaller_gif_plays_as_long():
    before = noisy_gif(70, 64)
    after = smaller_gif(before, 40_000)
    assert len(after) <= 40_000
    with Image.open(io.BytesIO(before)) as old, Image.open(io.BytesIO(after)) as new:
        assert seconds_of(new) == pytest.approx(seconds_of(old), rel=0.01)
        assert new.n_frames < old.n_frames
    assert smaller_gif(after, 40_000) is after
    for wrong in (b"", b"GIF89a"):
        with pytest.raises((OSError, ValueError)):
            smaller_gif(wrong, 10)


def test_a_video_that_is_none_is_left_out(run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(run, path)
    (path / "videos").mkdir(exist_ok=True)
    (path / "videos" / "eval-999999999.gif").write_bytes(b"<script>")
    page, _ = page_of([path], tmp_path)
    assert "Last evaluation" not in page.text


def test_the_lines_are_explained_and_tasks_have_scales_of_their_own(run, tmp_path):
    paths = {name: tmp_path / name for name in ("DictEnv", "Other")}
    random = json.dumps({"phase": "random", "env_steps": 0, "frames": 0, "return": 2.0, "length": 9}) + "\n"
    for name, path in paths.items():
        shutil.copytree(run, path, ignore=shutil.ignore_patterns("checkpoints", "replay"))  # curves alone
        config = (path / "config.yaml").read_text()
        (path / "config.yaml").write_text(re.sub(r"id: .*", f"id: custom:{name}", config, count=1))
        (path / "episodes.jsonl").write_text(random + (path / "episodes.jsonl").read_text())
    page, _ = page_of(list(paths.values()), tmp_path)
    assert "The dashed gray line is what random actions earn in that task" in page.text
    for name in paths:
        assert f"Losses and statistics: custom:{name}" in page.text
        assert f"random policy on custom:{name} (2.00)" in page.text
    alone, _ = page_of([paths["Other"]], tmp_path)
    assert "random policy (2.00)" in alone.text


@pytest.mark.parametrize("words", [["report"], ["drift"], ["trust"]])
@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "thesis.tex", "notes"])
def test_a_file_of_another_kind_is_not_replaced(run, tmp_path, capsys, words, name):
    mine = run / name if (run / name).exists() else tmp_path / name
    before = mine.read_bytes() if mine.exists() else b"a year of work"
    mine.write_bytes(before)
    assert cli.main([*words, str(run), "-o", str(mine)]) == 2
    assert "it is there already and does not end in ." in capsys.readouterr().err
    assert mine.read_bytes() == before


def test_a_configuration_that_is_no_yaml_is_one_sentence(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for text in ("<html>\n<style>.WARN{border-left:6px solid #ef8f00}\n</style>\n", "a: [1,\n b: 2\n", "\t- x\n y: {"):
        (copy / "config.yaml").write_text(text)
        assert cli.main(["info", str(copy)]) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 2
        assert said[0].startswith("error: cannot read the configuration")
