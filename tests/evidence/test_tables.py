"""Columns of text: aligned, and neither wrapped, cut nor interpreted, however wide they are."""

import io

from reverie.evidence.tables import columns


def test_columns_are_aligned_and_kept_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    long = "x" * 300
    rows = [("a", "1", "[bold]not markup[/bold] :smile:"), ("bbb", "22", long), (), ("c", "3", "é 0.5 [0.4, 0.6]")]
    lines = columns(rows, header=("name", "n", "text"), right=(1,), indent="  ")
    assert lines == [
        "  name   n  text",
        "  a      1  [bold]not markup[/bold] :smile:",
        f"  bbb   22  {long}",
        "",
        "  c      3  é 0.5 [0.4, 0.6]",
    ]


def test_no_colour_and_no_output_of_its_own(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    assert columns([("a", "b")]) == ["a  b"]
    assert out.getvalue() == ""


def test_nothing_makes_no_lines():
    assert columns([]) == []
