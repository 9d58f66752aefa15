"""The one writer of CSV: pandas and every spreadsheet read it as it is, and no name in it is run as a formula."""

from __future__ import annotations

import csv
import io
import numbers
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

#: What a formula begins with, also behind white space that a spreadsheet leaves out.
FORMULA = ("=", "+", "-", "@", "\t", "\n")


def csv_text(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV, its header in the first line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([plain_cell(name) for name in header])
    writer.writerows([plain_cell(value) for value in row] for row in rows)
    return out.getvalue()


def plain_cell(value: Any) -> str:
    """A cell: a number in full, text as it is, nothing for what was not measured.

    Text that a spreadsheet would take for a formula begins with an apostrophe; a text like "-1.5" is a number.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, str):
        text = value.encode("utf-8", "backslashreplace").decode("utf-8")  # half of a character cannot be written
        text = text.replace("\r\n", "\n").replace("\r", "\n")  # of which csv quotes only the latter
        return f"'{text}" if text.startswith(FORMULA) and not _is_number(text) else text
    return str(value) if isinstance(value, numbers.Integral) else f"{value:.10g}"


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return text == text.strip()
    return False
