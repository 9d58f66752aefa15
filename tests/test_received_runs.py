"""Run directories from someone else: nothing outside of them is read, written or run; every oddity is a sentence."""

import base64
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import reverie
from reverie import UserError, checkpoint, cli
from reverie.config import build
from reverie.config import load_file as load_config
from reverie.errors import printable
from reverie.files import (
    Damaged,
    append_text,
    manifest_of,
    open_own_file,
    plain_values,
    read_bytes,
    read_record,
    require_own_files,
    truncate,
    write_file,
)
from reverie.guard.lock import RunLock
from reverie.insight.report import write_report
from reverie.insight.run_reader import open_run

DATA = Path(__file__).parent / "data"
SECRET = b"SECRET-KEY-MATERIAL\n"


@pytest.fixture
def run(tmp_path):
    """A copy of a small real run, beside a file that nothing may touch."""
    shutil.copytree(DATA / "run-format3", tmp_path / "run")
    (tmp_path / "mine.txt").write_bytes(SECRET)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "eval-000000099.gif").write_bytes(SECRET)
    return tmp_path / "run"


def link(run, name, target):
    path = run / name
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(run.parent / target)


def command(capsys, *words):
    """-> exit code, everything printed. No traceback comes out of `main`."""
    code = cli.main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out + err


def remanifest(run):
    for manifest in run.rglob("manifest.json"):
        manifest.write_text(manifest_of(manifest.parent))


# ------------------------------------------------------------------------------------------------------ links and pipes

FILES = [".lock", "metrics.jsonl", "episodes.jsonl", "provenance.json", "videos/eval-000000099.gif", "wandb_id"]
FILES += ["checkpoints/step-000000000081/weights.safetensors", ".config.yaml.tmp", "latents.json"]
FOLDERS = ["checkpoints", "replay", "videos", "tensorboard", "crash"]


@pytest.mark.parametrize("name", FILES + FOLDERS)
def test_a_link_out_of_a_run_is_refused_by_whatever_reads_or_continues_it(run, capsys, name):
    link(run, name, "mine" if name in FOLDERS else "mine.txt")
    for words in (
        ["train", "--run", run, "--env-steps", "85"],
        ["info", run],
        ["report", run],
        ["eval", run],
        ["compare", run],
    ):
        code, shown = command(capsys, *words)
        assert code == 2
        assert "is a link to" in shown
    assert (run.parent / "mine.txt").read_bytes() == SECRET
    assert [path.name for path in (run.parent / "mine").iterdir()] == ["eval-000000099.gif"]
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", ["report.html", "curve.png", "latents.png", ".report.html.tmp", ".curve.png.tmp"])
def test_what_is_written_replaces_a_link_instead_of_following_it(run, name):
    link(run, name, "mine.txt")
    target = run / name.removeprefix(".").removesuffix(".tmp")
    write_file(target, "new")
    assert target.read_text() == "new"
    assert not target.is_symlink()
    assert (run.parent / "mine.txt").read_bytes() == SECRET


def test_links_that_stay_inside_and_a_linked_run_are_fine(run, tmp_path, capsys):
    (run / "checkpoints" / "latest").symlink_to("step-000000000081")
    for name in ("notes.txt", ".venv", "wandb"):  # no names of ours
        (run / name).symlink_to(tmp_path / "mine")
    (tmp_path / "other").symlink_to(run)
    for path in (run, tmp_path / "other"):
        assert command(capsys, "info", path)[0] == 0


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml", ".lock", "replay/steps-000000000001.safetensors"])
def test_a_pipe_is_refused_instead_of_waited_for(run, capsys, name):
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    for words in (["info", run], ["doctor", run], ["train", "--run", run, "--env-steps", "85"]):
        code, shown = command(capsys, *words)
        assert code == 2
        assert "is a pipe" in shown


def test_the_reader_and_the_writer_alone(tmp_path):
    file, other = tmp_path / "metrics.jsonl", tmp_path / "other"
    other.write_bytes(SECRET)
    file.symlink_to(other)
    for work in (open_own_file, read_bytes, lambda path: append_text(path, "x"), lambda path: truncate(path, 0)):
        with pytest.raises(Damaged, match="is a link"):
            work(file)
    with pytest.raises(OSError, match="something else"):
        write_file(Path("/dev/null"), "x")  # which must not become a file
    write_file(file, "a\n")
    append_text(file, "b\n")
    truncate(file, 3)
    assert read_bytes(file) == b"a\nb"
    assert other.read_bytes() == SECRET
    os.truncate(file, 2**40)
    with pytest.raises(Damaged, match="larger than such a file can be"):
        read_bytes(file)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "absent")
    require_own_files(tmp_path / "absent")


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "mine.txt").write_bytes(SECRET)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine.txt")
    with pytest.raises(Damaged, match="is a link"):
        RunLock(tmp_path / "run").acquire()
    assert (tmp_path / "mine.txt").read_bytes() == SECRET


def test_the_report_holds_nothing_from_outside(run, tmp_path):
    """Also where only the last step of the way leads out, after the directory was looked through."""
    link(run, "videos/eval-000000099.gif", "mine.txt")
    with pytest.raises(UserError, match="is a link"):
        write_report([run], tmp_path / "page.html")
    (run / "videos" / "eval-000000099.gif").unlink()
    page = write_report([run], tmp_path / "page.html").read_bytes()
    assert base64.b64encode(SECRET)[:20] not in page


def test_a_saved_agent_takes_no_linked_video_along(run, tmp_path):
    agent = reverie.load(run, device="cpu")
    agent.save(tmp_path / "agent")
    link(tmp_path / "agent", "videos/play.gif", "mine.txt")
    agent.save(tmp_path / "agent")
    assert not (tmp_path / "agent" / "videos" / "play.gif").exists()


# ----------------------------------------------------------------------------------------------------- code and weights


def name_code(run, name="evilmod:Evil-v0"):
    for config in [run / "config.yaml", *run.glob("checkpoints/*/config.yaml")]:
        config.write_text(config.read_text().replace("id: CartPole-v1", f"id: {json.dumps(name)}"))
    remanifest(run)


@pytest.mark.parametrize("more", [[], ["--preset", "auto"], ["--seed", "0"]])
def test_code_that_only_the_files_name_is_not_imported(run, tmp_path, capsys, monkeypatch, more):
    (tmp_path / "evilmod.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evilmod", raising=False)
    name_code(run)
    code, shown = command(capsys, "train", "--run", run, "--env-steps", "85", *more)
    assert code == 2
    assert "If you trust it, add --env evilmod:Evil-v0." in shown
    for words in (["eval", run], ["info", run], ["compare", run], ["report", run, "-o", tmp_path / "page.html"]):
        command(capsys, *words)
    assert not (tmp_path / "ran").exists()
    command(capsys, "train", "--run", run, "--env-steps", "85", "--env", "evilmod:Evil-v0")  # named by the user
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(run, capsys, value):
    """One of them is enough; also in Python, in the reader, and where a run would go on with them."""
    newest = checkpoint.checkpoints(run)[-1]
    weights = load_file(newest / "weights.safetensors")
    name = sorted(key for key in weights if weights[key].is_floating_point() and weights[key].numel() > 1)[0]
    weights[name].view(-1)[-1] = value
    save_file(weights, newest / "weights.safetensors")
    remanifest(run)
    for words in (["eval", run, "--episodes", "1"], ["drift", run], ["train", "--run", run, "--env-steps", "85"]):
        code, shown = command(capsys, *words)
        assert code == 2
        assert "holds NaN or infinity" in shown
    for work in (reverie.load_player, reverie.load, open_run):
        with pytest.raises(UserError, match="holds NaN or infinity"):
            work(run)


# ----------------------------------------------------------------------------------------------------- lines and values

LINES = {
    "metrics.jsonl": [
        '{"updates": 3}', '{"env_steps": "x"}', '{"env_steps": null}', '{"env_steps": 1' + "0" * 400 + "}", "[1]",
        '{"env_steps": 5, "updates": "many", "seconds": [1], "eval/return": {}}', '{"env_steps": -5}', "{" * 2000,
        '{"env_steps": 81, "world_model/kl": 1e999, "actor/entropy": NaN, "speed/env_steps_per_second": "fast"}',
        "null", '{"env_steps": true}', '{"env_steps": 80, "critic/value": 1e300}',
    ],
    "episodes.jsonl": [
        '{"env_steps": 5}', '{"phase": "eval", "return": 1}', '"text"', '{"phase": "train", "return": 1}',
        '{"phase": 5, "env_steps": 5, "frames": 5, "return": 1, "length": 1}',
        '{"phase": "train", "env_steps": 5, "frames": 5, "return": null, "length": 3}',
        '{"phase": "eval", "env_steps": 81, "frames": 81, "return": "1", "length": 3}',
        '{"phase": "random", "env_steps": 1, "frames": 1, "return": 1e400, "length": 3}',
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in LINES.items() for line in lines])
def test_an_odd_line_is_left_out(run, capsys, name, line):
    from reverie.insight.history import read_history
    from reverie.run.lines import odd_lines, read_lines

    before = read_lines(run / name)
    append_text(run / name, line + "\n")
    found, odd = read_lines(run / name), odd_lines(run / name)
    assert found[: len(before)] == before
    assert odd + len(found) == len(before) + 1
    for words in (["info", run], ["compare", run]):
        assert command(capsys, *words)[0] == 0
    if odd:
        assert f"1 of {name}" in command(capsys, "info", run)[1]
    read_history(run)


def test_every_odd_line_at_once(run, tmp_path, capsys):
    for name, lines in LINES.items():
        append_text(run / name, "\n".join(lines) + "\n")
    (run / "provenance.json").write_text('{"continued": 5, "command": {"a": [1]}, "started": null}')
    for words in (
        ["report", run, "-o", tmp_path / "page.html"],
        ["doctor", run],
        ["compare", run, "-o", tmp_path / "out"],
    ):
        assert command(capsys, *words)[0] in (0, 1)
    code, _ = command(capsys, "train", "--run", run, "--env-steps", "84", "--quiet")
    assert code == 0
    assert json.loads((run / "provenance.json").read_text())["continued"][0]["seed"] == 0


@pytest.mark.parametrize(
    "text", ["", "5", "[]", '{"continued": [5, null]}', '{"a": 1e999, "b": "\\ud800"}', "{" * 9999]
)
def test_a_record_is_read_as_far_as_it_is_one(tmp_path, text):
    (tmp_path / "provenance.json").write_text(text)
    json.dumps(read_record(tmp_path / "provenance.json"), allow_nan=False).encode()


def test_plain_values_can_be_shown():
    odd = {"a": float("nan"), "b": 10**400, "c": "\x1b[2J", "d": [1, {"e": (1,)}], "f": True, 5: 1e200}
    assert plain_values(odd) == {"a": None, "b": None, "c": "\\x1b[2J", "d": [1, {"e": None}], "f": True, "5": None}


def test_a_replay_of_another_task_is_refused(run, capsys):
    path = next((run / "replay").glob("steps-*"))
    rows = load_file(path)
    for key, value in (("reward", torch.zeros(3)), ("obs/observation", torch.zeros(86, 7)), ("action", None)):
        changed = {k: v for k, v in (rows | {key: value}).items() if v is not None}
        save_file(changed, path, metadata={"first": "[0, 0]", "last": "[43, 43]"})
        code, shown = command(capsys, "drift", run)
        assert code == 2
        assert "is damaged" in shown
    for first in ("{}", "[0]", "[-1, 0]", "[0.5, 0]", "5"):
        save_file(rows, path, metadata={"first": first, "last": "[43, 43]"})
        assert command(capsys, "dream", run)[0] == 2


@pytest.mark.parametrize(
    "change", [{"shape": "x"}, {"shape": []}, {"kind": "smell"}, {"path": [[1]]}, {"frames": None}, {"choices": [2]}]
)
def test_a_spec_of_another_form_is_damage(run, change):
    path = checkpoint.checkpoints(run)[-1] / "spec.json"
    spec = json.loads(path.read_text())
    spec["obs"]["observation"] |= change
    path.write_text(json.dumps(spec))
    with pytest.raises(Damaged, match=r"spec\.json is damaged"):
        checkpoint.read_agent(path.parent)


# ---------------------------------------------------------------------------------------------------------------- text


def test_text_is_made_printable():
    assert printable("é ± 中\n") == "é ± 中\n"
    assert printable("a\x1b]0;t\x07\x9b\u202e\ud800") == "a\\x1b]0;t\\x07\\x9b\\u202e\\ud800"
    error = UserError("no '\x1b[2J'", "\x07")
    assert (error.message, error.hint, "\x1b" in str(error)) == ("no '\\x1b[2J'", "\\x07", False)
    assert len(UserError("x" * 10**6).message) < 5000


@pytest.mark.parametrize("name", ["CartPole-v1\x1b]0;title\x07", "a\nb", "\x9b2J", "x\ud800"])
def test_a_name_with_control_characters_is_no_setting(run, name):
    with pytest.raises(UserError, match="control characters"):
        build({"env.id": name})
    text = (run / "config.yaml").read_text().replace("CartPole-v1", json.dumps(name))
    (run / "config.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        load_config(run / "config.yaml")
    assert refused.value.message.isprintable()


@pytest.mark.parametrize("name", ["a$b$\\frac{1", "_" + "x" * 200, "é中\x1b[2J"])
def test_a_run_may_be_called_anything(run, capsys, name):
    run = run.rename(run.with_name(name))
    out = run.parent / "page.html"
    for words in (["info", run], ["report", run, "-o", out], ["compare", run, "-o", run.parent / "out"]):
        code, shown = command(capsys, *words)
        assert code == 0, shown
        assert "\x1b" not in shown


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8, torch.int64])
@pytest.mark.parametrize("name", ["player/deter", "player/action"])
def test_what_a_run_remembers_of_another_kind_is_damage(run, capsys, name, dtype):
    newest = checkpoint.checkpoints(run)[-1]
    tensors = load_file(newest / "run.safetensors")
    save_file(tensors | {name: tensors[name].to(dtype)}, newest / "run.safetensors")
    remanifest(run)
    code, shown = command(capsys, "train", "--run", run, "--env-steps", "85", "--quiet")
    assert code == 2
    assert "no checkpoint of" in shown


def test_a_run_that_was_of_another_precision_goes_on(run, capsys):
    newest = checkpoint.checkpoints(run)[-1]
    tensors = load_file(newest / "run.safetensors")
    floats = {name for name, value in tensors.items() if name.startswith("player/") and value.is_floating_point()}
    half = {name: value.bfloat16() if name in floats else value for name, value in tensors.items()}
    save_file(half, newest / "run.safetensors")
    remanifest(run)
    code, shown = command(capsys, "train", "--run", run, "--env-steps", "85", "--quiet", "compute.precision=float32")
    assert code == 0, shown
