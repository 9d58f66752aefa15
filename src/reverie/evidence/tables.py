"""Tables of text, as terminal output, Markdown, CSV and LaTeX (as HTML: `insight/templates/tables.html`)."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..insight.spreadsheet import csv_text, plain_cell

if TYPE_CHECKING:
    from .statistics import Interval

LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "±": r"$\pm$"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "≥": r"$\geq$", "–": "--"}
#: The sign of a number, which text shows as a hyphen and LaTeX must not.
SIGN = re.compile(r"(?<![\w.)\]$])([-+])(?=\.?\d)")


def columns(
    rows: Sequence[Sequence[str]],
    *,
    header: Sequence[str] = (),
    right: Sequence[int] = (),
    indent: str = "",
    width: int = 0,
) -> list[str]:
    """Rows of cells as aligned lines, two spaces between columns; nothing is wrapped or cut, also in a pipe.

    header: a first row. right: indices of the columns that are aligned at their right end. width: of a terminal; a
    table with a header that is wider than it is shown as a block for each row instead. 0: no terminal.
    """
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    every = [*([header] if header else []), *rows]
    if not every:
        return []
    grid = Grid(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for i in range(max(map(len, every))):
        grid.add_column(justify="right" if i in right else "left", no_wrap=True)
    for row in every:
        grid.add_row(*map(Text, row))
    out = io.StringIO()
    room = 2 * sum(len(cell) + 2 for row in every for cell in row)  # more than it needs
    Console(file=out, width=max(1, room), color_system=None, legacy_windows=False).print(grid)
    lines = [f"{indent}{line}".rstrip() for line in out.getvalue().splitlines()]
    too_wide = header and rows and 0 < width < max(map(len, lines))
    return [line for row in rows for line in _block(header, row, indent)] if too_wide else lines


def _block(header: Sequence[str], row: Sequence[str], indent: str) -> list[str]:
    """A row below its first cell, a line for each other one."""
    if not row:
        return [""]
    first = f"{header[0]} {row[0]}" if row[0].isdigit() else row[0]  # a number alone says nothing
    below = columns(list(zip(header[1:], row[1:], strict=False)), indent=indent + "  ")
    return [f"{indent}{first}", *below]


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; note: what is needed to read it, a sentence or two."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    notes: Sequence[str] = field(default_factory=list)  # more of them, a line each

    def remarks(self) -> list[str]:
        """All notes."""
        return [note for note in (self.note, *self.notes) if note]

    def text(self, width: int = 0) -> str:
        """For a terminal of so many columns, or (0) for a pipe."""
        return "\n".join([self.title, *columns(self.rows, header=self.header, width=width), *self.remarks()])

    def markdown(self) -> str:
        """A GitHub table."""
        rows = [self.header, ["---"] * len(self.header), *self.rows]
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
        remarks = "".join(f"\n{remark}\n" for remark in self.remarks())
        return f"**{self.title}**\n\n" + "\n".join(lines) + "\n" + remarks

    def csv(self) -> str:
        """For spreadsheets: a number per cell. An interval becomes three columns, a mean with a deviation two."""
        columns = [_csv_column(name, [row[i] for row in self.rows]) for i, name in enumerate(self.header)]
        header, *lines = zip(*(cells for column in columns for cells in column), strict=True)
        return csv_text(header, lines)

    def latex(self) -> str:
        """With booktabs, first column left, the others right."""
        lines = [" & ".join(map(_latex, row)) + r" \\" for row in [self.header, *self.rows]]
        head, body = lines[0], lines[1:]
        top = rf"\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}"
        return "\n".join(
            [f"% {self.title}", top, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
        )


def _latex(text: str) -> str:
    """A cell, with a true minus where a number is negative: in math mode, as a hyphen is shorter."""
    pieces = SIGN.split(text)
    shown = ["".join(LATEX.get(letter, letter) for letter in piece) for piece in pieces]
    return "".join(f"${piece}$" if at % 2 else shown[at] for at, piece in enumerate(pieces))


class Cell(str):
    """A cell's text, and the numbers behind it, for those who compute with them. parts: what they are."""

    numbers: tuple[float | None, ...]
    parts: tuple[str, ...]

    def __new__(cls, text: str, numbers: Sequence[float | None], parts: Sequence[str] = ("",)) -> Cell:
        """parts: names that come behind the column's, one for each number."""
        cell = super().__new__(cls, text)
        cell.numbers, cell.parts = tuple(numbers), tuple(parts)
        return cell


def _csv_column(name: str, cells: Sequence[str]) -> list[list[str]]:
    """The columns with one number per cell that a column of a table becomes, each with its name first."""
    parts = max((cell.parts for cell in cells if isinstance(cell, Cell)), key=len, default=("",))
    plain = name.removesuffix(" [95 %]").removesuffix(" ± deviation")
    found = [[f"{plain} {part}".rstrip()] for part in parts]
    for cell in cells:
        text = "" if cell == "–" else cell
        numbers = [plain_cell(value) for value in cell.numbers] if isinstance(cell, Cell) else [text]
        for column, shown in zip(found, [*numbers, *[""] * len(parts)], strict=False):
            column.append(shown)
    return found


def number(value: float | None) -> Cell:
    """A score in as many digits as are of use: 12,345 / 123.4 / 12.34 / 0.943; "–" for none."""
    if value is None or value != value:
        return Cell("–", [None])
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return Cell(f"{value:,.{digits}f}", [value])


def ranged(found: Interval | None) -> Cell:
    """A mean with its interval: "0.939 [0.912, 0.966]"; "–" for none."""
    if found is None:
        return Cell("–", [None])
    if found.low is None or found.high is None:
        return number(found.value)
    text = f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"
    return Cell(text, (found.value, found.low, found.high), ("", "low", "high"))


def deviating(mean: float, deviation: float) -> Cell:
    """A mean with its standard deviation: "12.3 ± 0.5"."""
    return Cell(f"{number(mean)} ± {number(deviation)}", (mean, deviation), ("", "deviation"))


def millions(frames: float) -> Cell:
    """400,000 -> "400k", 2,000,000 -> "2M"."""
    return Cell(f"{frames / 1e6:g}M" if frames >= 1e6 else f"{frames / 1e3:g}k", [frames])
