"""Columns of text: aligned, and neither wrapped, cut nor interpreted, however wide they are."""

import io

from reverie.evidence.statistics import Interval
from reverie.evidence.tables import Table, columns, deviating, millions, number, ranged


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


def test_a_csv_cell_holds_one_number():
    rows = [
        ["a", ranged(Interval(22.02, -39.28, 83.33)), number(12345.678), deviating(1.5, 0.25), millions(4e5)],
        ["b, c", ranged(None), number(None), "–", millions(2e6)],
        ["d", ranged(Interval(0.5, None, None)), "none", "–", "x"],
    ]
    table = Table("t", ["name", "ours [95 %]", "score", "published ± deviation", "frames"], rows)
    assert table.csv().splitlines() == [
        "name,ours,ours low,ours high,score,published,published deviation,frames",
        "a,22.02,-39.28,83.33,12345.678,1.5,0.25,400000",
        '"b, c",,,,,,,2000000',
        "d,0.5,,,none,,,x",
    ]
    assert "22.02 [-39.28, 83.33]" in table.text()
    assert Table("t", ["a"], []).csv() == "a\n"
