"""Files of a comparison or an ablation in one folder: a self-contained page, plots, tables in all forms."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_file
from ..insight.page import as_html, render
from ..insight.plots import svg
from .figures import save
from .tables import Table
from .tidy import csv_of, latex_text


def write_files(
    out: Path,
    *,
    name: str,
    title: str,
    words: Sequence[str],
    tables: Sequence[Table],
    figures: Mapping[str, Any],
    facts: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
) -> list[Path]:
    """NAME.html, .md, .json, .tex, .csv, a .csv per table, a PNG and SVG per figure. -> the files. Raises UserError.

    words: what the numbers say, a paragraph each. facts: everything, for the JSON file. rows: a row for each seed and
    point (`tidy.py`), for the CSV file.
    """
    drawn = [(key, as_html(svg(figure))) for key, figure in figures.items()]
    texts = {
        ".html": render("tables.html", title=title, words=words, figures=drawn, tables=tables),
        ".md": _markdown(title, words, tables, {key: f"{name}-{key}.png" for key in figures}),
        ".json": plain_json(facts, indent=1) + "\n",
        ".csv": csv_of(rows),
        ".tex": latex_text(tables),
    }
    texts |= {f"-{_in_a_name(table.title)}.csv": table.csv() for table in tables}
    files = []
    try:
        for ending, text in texts.items():
            files.append(write_file(out / f"{name}{ending}", text))
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}).", "Choose another --out.") from error
    for key, figure in figures.items():
        files += save(figure, out / f"{name}-{key}")
    return files


def _in_a_name(title: str) -> str:
    """ "Atari-100k, my run" -> "atari-100k-my-run"."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60]


def plain_json(facts: Any, *, indent: int | None = None) -> str:
    """JSON that every reader takes: NaN and infinity are null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(facts), indent=indent)


def _markdown(title: str, words: Sequence[str], tables: Sequence[Table], images: Mapping[str, str]) -> str:
    shown = [f"![{key}]({file})" for key, file in images.items()]
    return "\n\n".join([f"# {title}", *words, *shown, *(table.markdown().strip() for table in tables)]) + "\n"
