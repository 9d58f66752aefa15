"""What commands print on odd outputs, and videos that cannot be written."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reverie import UserError, cli
from reverie.commands.output import OutputError, PrintableOutput, printable_output
from reverie.insight.video import require_video, write_video

DATA = Path(__file__).parents[1] / "data" / "run-format3"


def stream(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "a \\xb1 \\u4e2d"), ("latin-1", "a ± \\u4e2d"), ("utf-8", "a ± 中"), ("cp1252", "a ± \\u4e2d")],
)
def test_letters_that_an_output_lacks_are_shown_as_escapes(encoding, shown):
    inner = stream(encoding)
    print("a ± 中", file=PrintableOutput(inner), end="")
    assert inner.buffer.getvalue().decode(encoding) == shown


def test_control_characters_are_shown_and_our_own_colours_stay():
    inner = stream("utf-8")
    out = PrintableOutput(inner)
    print("\033[31;1mFAIL\033[0m \x1b]0;title\x07 \x1b[2J \x1b[8m\r.", file=out)
    assert inner.buffer.getvalue() == b"\033[31;1mFAIL\033[0m \\x1b]0;title\\x07 \\x1b[2J \\x1b[8m\\r.\n"
    assert out.encoding == "utf-8"
    assert not out.isatty()


def test_the_output_is_given_back(capsys):
    before = sys.stdout
    with pytest.raises(ZeroDivisionError), printable_output():
        1 / 0  # noqa: B018
    assert sys.stdout is before
    with printable_output():
        assert sys.stdout is not before


@pytest.mark.parametrize("words", [["info", DATA], ["presets", "demo"], ["--help"]])
def test_a_full_disk_and_an_ascii_terminal(words):
    """In a process of its own: Python itself complains about both when it ends."""
    code = "import sys; from reverie.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, words)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write the output (No space left on device).\nhint: ")
    assert done.stderr.count("\n") == 2


def test_a_disk_that_is_full_at_once():
    class Full(io.StringIO):
        encoding = "utf-8"

        def write(self, text):
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left"):
        print("x", file=PrintableOutput(Full()))


# --------------------------------------------------------------------------------------------------------------- videos


@pytest.mark.parametrize(
    "name", ["x.avi", "x", "x.GIF", "there/is/a/file.txt/x.gif", "folder.gif", "a" * 300 + "/x.gif"]
)
def test_a_video_that_cannot_be_is_refused_before_anything_is_played(tmp_path, capsys, monkeypatch, name):
    (tmp_path / "there" / "is" / "a").mkdir(parents=True)
    (tmp_path / "there" / "is" / "a" / "file.txt").touch()
    (tmp_path / "folder.gif").mkdir()
    monkeypatch.setattr("reverie.api.load", lambda *_, **__: pytest.fail("played"))
    assert cli.main(["eval", str(DATA), "--video", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_mp4_without_its_package_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="MP4 needs a package"):
        require_video(tmp_path / "x.mp4")


@pytest.mark.parametrize("name", ["x.gif", "x.mp4"])
@pytest.mark.parametrize("shape", [(17, 33, 3), (16, 16, 3)])
def test_frames_of_any_size_become_a_video(tmp_path, name, shape):
    if name == "x.mp4":
        pytest.importorskip("av")
    frames = [np.random.default_rng(i).integers(0, 255, shape, dtype=np.uint8) for i in range(3)]
    assert write_video(tmp_path / name, frames).stat().st_size > 100
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_eval_writes_an_mp4(tmp_path, capsys):
    pytest.importorskip("av")
    film = tmp_path / "x.mp4"
    code = cli.main(["eval", str(DATA), "--episodes", "1", "--video", str(film)])
    out, err = capsys.readouterr()
    assert code == (0 if film.exists() else 2), err
    assert "return" in out


def test_a_run_that_cannot_be_written_is_played_all_the_same(tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise UserError("cannot write it (Read-only file system).")

    monkeypatch.setattr("reverie.insight.video.write_video", full)
    assert cli.main(["eval", str(DATA), "--episodes", "1"]) == 0
    assert "no video" in capsys.readouterr().out
    assert cli.main(["eval", str(DATA), "--episodes", "1", "--video", str(tmp_path / "x.gif")]) == 2
