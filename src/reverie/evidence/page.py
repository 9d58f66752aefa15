"""Files of a comparison or an ablation in one folder: a page that needs nothing else, pictures, tables in all forms."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import UserError
from ..insight.charts import svg
from ..insight.report import STYLE
from .figures import save
from .tables import Table


def write_files(
    out: Path,
    *,
    name: str,
    title: str,
    words: Sequence[str],
    tables: Sequence[Table],
    figures: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> list[Path]:
    """NAME.html, .md, .json, .csv, .tex and a PNG and SVG per figure. -> the files. Raises UserError.

    words: what the numbers say, a paragraph each. facts: everything, for the JSON file.
    """
    page = _page(title, words, tables, figures)
    texts = {
        "html": page,
        "md": _markdown(title, words, tables, {key: f"{name}-{key}.png" for key in figures}),
        "json": json.dumps(facts, indent=1) + "\n",
        "csv": "\n".join(f"# {table.title}\n{table.csv()}" for table in tables),
        "tex": "\n".join(table.latex() + "\n" for table in tables),
    }
    files = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for ending, text in texts.items():
            draft = out / f".{name}.{ending}.tmp"
            draft.write_text(text, encoding="utf-8")
            files.append(draft.replace(out / f"{name}.{ending}"))
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}).", "Choose another --out.") from error
    for key, figure in figures.items():
        files += save(figure, out / f"{name}-{key}")
    return files


def _page(title: str, words: Sequence[str], tables: Sequence[Table], figures: Mapping[str, Any]) -> str:
    charts = "".join(f'<h2>{escape(key)}</h2><div class="chart">{svg(figure)}</div>' for key, figure in figures.items())
    told = "".join(f"<p>{escape(word)}</p>" for word in words)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,'
        f'initial-scale=1"><title>{escape(title)} · Reverie</title><style>{STYLE}</style><body><h1>{escape(title)}</h1>'
        f"{told}{charts}{''.join(table.html() for table in tables)}"
        f'<p class="faint">Made by reverie {escape(__version__)}, {time.strftime("%F %R", time.gmtime())} UTC. '
        "Everything is in this file.</p></body></html>"
    )


def _markdown(title: str, words: Sequence[str], tables: Sequence[Table], pictures: Mapping[str, str]) -> str:
    shown = [f"![{key}]({file})" for key, file in pictures.items()]
    return "\n\n".join([f"# {title}", *words, *shown, *(table.markdown().strip() for table in tables)]) + "\n"
