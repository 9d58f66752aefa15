"""How numbers and long lines are shown to people: three digits, no exponent; lines are broken between words."""

import io
import math

import pytest

from reverie import cli
from reverie.commands.output import PrintableOutput, terminal_width
from reverie.errors import counted, digits, wrapped


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (5432.1, "5,432"),
        (999.6, "1,000"),
        (999.4, "999"),
        (54.321, "54.3"),
        (0.012345, "0.0123"),
        (-12345.6, "-12,346"),
        (0, "0"),
        (1.2e-5, "1.2e-05"),
        (3.4e38, "3.4e+38"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_a_number_has_three_digits(value, shown):
    assert digits(value) == shown
    if value == value:
        assert digits(value, sign=True) == (shown if shown.startswith("-") else f"+{shown}")


def test_one_is_singular():
    assert [counted(n, "update") for n in (0, 1, 2000)] == ["0 updates", "1 update", "2,000 updates"]


def test_long_lines_are_broken_between_words_below_their_text():
    line = "protocol  partial RGB view, mission dropped, 3 actions"
    assert wrapped(line, 30) == "protocol  partial RGB view,\n          mission dropped, 3\n          actions"
    assert wrapped("a sentence without a label", 14) == "a sentence\nwithout a\nlabel"
    assert wrapped("  indented text here", 12) == "  indented\n  text here"
    assert wrapped("\033[31;1mFAIL\033[0m  two words", 12) == "\033[31;1mFAIL\033[0m  two\n      words"


@pytest.mark.parametrize(
    "line", ["short", "", '{"json": "stays whole however long it is"}', "/a/path/that/is/one/word"]
)
def test_these_stay_whole(line):
    assert wrapped(line, 10) == line
    assert wrapped(line * 100, 0) == line * 100


def test_a_path_that_does_not_fit_stays_whole_and_near_the_margin():
    line = "look at   /a/path/of/twentyone (curve)"
    assert wrapped(line, 24) == "look at\n    /a/path/of/twentyone\n          (curve)"


def test_only_a_terminal_gets_broken_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    words = "one two three four five six"
    terminal, pipe = Terminal(), io.StringIO()
    assert (terminal_width(terminal), terminal_width(pipe)) == (20, 0)
    for stream in (terminal, pipe):
        print(words, file=PrintableOutput(stream))
    assert terminal.getvalue() == "one two three four\nfive six\n"
    assert pipe.getvalue() == words + "\n"
    whole = PrintableOutput(exact := Terminal())
    whole.whole = True
    print(words, file=whole)
    assert exact.getvalue() == words + "\n"


@pytest.mark.parametrize("columns", [40, 60])
@pytest.mark.parametrize("command", [["info"], ["presets"], ["explain", "world_model/kl"], ["envs", "dmc"]])
def test_no_line_of_these_is_wider_than_a_narrow_terminal(command, columns, monkeypatch):
    """But for words that are longer."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout", out := Terminal())
    assert cli.main(command) == 0
    lines = out.getvalue().splitlines()
    assert len(lines) > 3
    assert [line for line in lines if len(line) > columns and len(line.split()) > 1] == []
