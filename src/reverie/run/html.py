"""Tables for notebooks: what `_repr_html_` of metrics, evaluations and findings is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ..errors import digits


def html_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; whatever is in the cells is text there."""
    head = "".join(f"<th>{escape(str(name))}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(_text(x))}</td>" for x in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: Any) -> str:
    return digits(value) if isinstance(value, float) else str(value)  # NumPy's float64 is one
