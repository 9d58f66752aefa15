"""Paths that no system follows, files that are none, and numbers that no machine has: one sentence each."""

import os

import pytest

import reverie
from reverie.cli import main
from reverie.errors import UserError
from reverie.files import require_possible
from reverie.insight.run_reader import Experience, require_memory

LONG = "x" * 300


@pytest.mark.parametrize(
    "words",
    [
        ["watch"],
        ["eval"],
        ["info"],
        ["doctor"],
        ["drift"],
        ["dream"],
        ["report"],
        ["replay-crash"],
        ["compare"],
        ["sweep"],
        ["tune", "gamma=0.9..0.99", "--env", "CartPole-v1", "--preset", "debug", "--dry-run", "-o"],
        ["train", "--preset", "debug", "--env", "CartPole-v1", "--run"],
        ["eval", "run", "--video"],
        ["report", "run", "-o"],
    ],
)
@pytest.mark.parametrize("path", [LONG, f"folder/{LONG}/run", "loop", "loop/run"])
def test_a_path_that_no_system_follows_is_one_sentence(words, path, in_tmp, capsys):
    (in_tmp / "loop").symlink_to("loop")
    (in_tmp / "folder").mkdir()
    assert main([*words, path]) == 2
    assert "cannot use the path" in capsys.readouterr().err


@pytest.mark.parametrize("function", [reverie.load, reverie.load_player])
@pytest.mark.parametrize("path", [LONG, "a\0b"])
def test_in_python_too(function, path, in_tmp):
    with pytest.raises(UserError, match="cannot use the path"):
        function(path)


def test_a_run_of_that_name_in_python(in_tmp):
    with pytest.raises(UserError, match="cannot use the path"):
        reverie.Dreamer("CartPole-v1", preset="debug", run=LONG)


def test_paths_that_are_not_there_yet_may_be_used(in_tmp):
    (in_tmp / "file").write_text("")
    (in_tmp / "nowhere").symlink_to("absent")
    for name in ("absent", "a/b/c", "file", "file/below", "nowhere"):
        assert require_possible(in_tmp / name) == in_tmp / name


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "folder", "absent", "bytes", "deep"])
def test_what_is_no_file_of_a_sweep(kind, in_tmp, capsys):
    path = in_tmp / "sweep.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "absent":
        path.write_bytes(b"\xff\xfe" if kind == "bytes" else b"a = " + b"[" * 5000)
    assert main(["sweep", str(path), "--dry-run"]) == 2
    assert "sweep.toml" in capsys.readouterr().err


def test_a_link_to_a_file_of_a_sweep_is_followed(in_tmp, capsys):
    (in_tmp / "real.toml").write_text("other = 1")
    (in_tmp / "sweep.toml").symlink_to("real.toml")
    assert main(["sweep", "sweep.toml", "--dry-run"]) == 2
    assert "has no 'other'" in capsys.readouterr().err


@pytest.mark.parametrize("fps", ["nan", "inf", "1e300", "1e-9", "-1", "0"])
def test_frames_per_second_that_no_video_has(fps, in_tmp, capsys):
    assert main(["dream", "run", "--fps", fps]) == 2
    assert "--fps must be" in capsys.readouterr().err


@pytest.mark.parametrize(("windows", "steps"), [(1, 2**40), (2**40, 1), (2**22, 2**22)])
def test_windows_that_no_machine_holds_are_refused_before_they_are_made(windows, steps):
    with pytest.raises(UserError, match="of memory"):
        require_memory(Experience(()), windows, steps)
    require_memory(Experience(()), 4, 50)


@pytest.mark.parametrize("device", ["meta", "meta:0", "cuda:99", "x", ""])
def test_devices_that_hold_no_numbers_or_do_not_exist(device, in_tmp, capsys):
    train = ["train", "--preset", "debug", "--env", "CartPole-v1", "--run", "new", "--quiet"]
    for words in ([*train, f"device={device}"], ["eval", "absent", f"--device={device}"]):
        assert main(words) == 2
        assert "cannot be used" in capsys.readouterr().err
    assert not (in_tmp / "new").exists()
