"""One self-contained page about runs, to send to someone: no script, no network, everything inside.

Whatever comes from a run (names, settings, messages) is escaped. A part that cannot be made says why; a run without a
checkpoint, without replay or still training has a page, too.
"""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..config import Config, flatten, load_file
from ..errors import UserError
from ..run.logger import read_lines
from . import charts
from .run_reader import RunReader, open_run

MOST_FILM = 3 * 2**20  # bytes of a film that is put into the page
STYLE = """
:root{color-scheme:light dark;--ink:#1e1e22;--paper:#fafaf7;--card:#fff;--line:#ddd;--faint:#666}
@media(prefers-color-scheme:dark){:root{--ink:#eaeaea;--paper:#17171a;--card:#202024;--line:#3a3a40;--faint:#a0a0a0}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;max-width:1060px;
padding:1rem}h1{font-size:1.6rem;margin:.4rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem}h3{font-size:1rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.8rem 1rem;margin:.6rem 0;
overflow-x:auto}.chart{background:#fff;border-radius:8px;border:1px solid var(--line);padding:.4rem;margin:.6rem 0}
.chart svg{width:100%;height:auto;display:block}.pair{display:flex;flex-wrap:wrap;gap:.8rem}.pair>*{flex:1 1 320px;
min-width:0;max-width:660px}.grid{display:grid;gap:.6rem;
grid-template-columns:repeat(auto-fill,minmax(280px,1fr))}.grid .chart{margin:0}
img{max-width:100%;height:auto;border-radius:4px}table{border-collapse:collapse;font-size:.9rem}
td,th{text-align:left;padding:.15rem .9rem .15rem 0;vertical-align:top}code{font-size:.85rem;overflow-wrap:anywhere}
.faint{color:var(--faint);font-size:.9rem}.FAIL{border-left:6px solid #c62828}.WARN{border-left:6px solid #ef8f00}
.OK{border-left:6px solid #2e7d32}.big{font-size:1.5rem;font-weight:600}summary{cursor:pointer}
"""


def write_report(paths: Sequence[Path], out: Path) -> Path:
    """Make the page. -> out. Raises UserError where a path is no run, or the page cannot be written."""
    runs = _names(paths)
    parts = [_head(runs), "<h2>Returns</h2>", _chart(charts.learning_curves(runs))]
    inside = "".join(_chart(text) for text in charts.panels(runs))
    parts += ["<h2>Inside</h2>", f'<div class="grid">{inside}</div>'] if inside else []
    for name, path in runs.items():
        parts.append(_run(name, path, alone=len(runs) == 1))
    page = whole_page(", ".join(runs), "".join(parts))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = out.with_name(f".{out.name}.tmp")
        draft.write_text(page, encoding="utf-8")
        draft.replace(out)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}).", "Choose another -o.") from error
    return out


def whole_page(title: str, body: str, *, style: str = "") -> str:
    """HTML around the body of a page that needs nothing else. style: more CSS."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,'
        f'initial-scale=1"><title>{escape(title)} · Reverie</title><style>{STYLE}{style}</style><body>{body}'
        f'<p class="faint">Made by reverie {escape(__version__)}, {time.strftime("%F %R", time.gmtime())} UTC. '
        "Everything is in this file.</p></body></html>"
    )


def _names(paths: Sequence[Path]) -> dict[str, Path]:
    """Runs by the shortest names that tell them apart. Raises UserError."""
    for path in paths:
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path} is not a run.", "Give directories of `reverie train --run`.")
    names = [path.resolve().name for path in paths]
    return {name if names.count(name) == 1 else str(path): path for name, path in zip(names, paths, strict=True)}


# ---------------------------------------------------------------------------------------------------------------- parts


def _head(runs: Mapping[str, Path]) -> str:
    rows = []
    for name, path in runs.items():
        facts = summary(path)
        score = "not evaluated" if facts["score"] is None else f"{facts['score']:.3f}{facts['spread']}"
        against = "" if facts["random"] is None else f", random policy {facts['random']:.3f}"
        episodes = f" over {facts['episodes']} episodes" if facts["episodes"] else ""
        rows.append(
            f'<div class="card"><h3>{escape(name)}</h3><div class="big">{score}</div>'
            f'<div class="faint">return{episodes}{against}</div>'
            f"<div>{escape(facts['task'])} · {facts['env_steps']:,} steps · {facts['updates']:,} updates · "
            f"{facts['seconds'] / 60:.1f} minutes · seed {facts['seed']}</div></div>"
        )
    return f'<h1>{escape(", ".join(runs))}</h1><div class="pair">{"".join(rows)}</div>'


def summary(path: Path) -> dict[str, Any]:
    """The few numbers that one wants to know first of a run."""
    config = load_file(path / "config.yaml")
    metrics, episodes = read_lines(path / "metrics.jsonl"), read_lines(path / "episodes.jsonl")
    tests = [e for e in episodes if e.get("phase") == "eval"]
    last = [e["return"] for e in tests if e["env_steps"] == tests[-1]["env_steps"]]
    chance = [e["return"] for e in episodes if e.get("phase") == "random"]
    spread = f" ± {1.96 * float(np.std(last, ddof=1)) / len(last) ** 0.5:.3f}" if len(last) > 1 else ""

    def newest(key: str) -> float:
        return next((line[key] for line in reversed(metrics) if line.get(key) is not None), 0)

    return {
        "task": config.env.id or "custom environment",
        "seed": config.train.seed,
        "score": float(np.mean(last)) if last else None,
        "spread": spread,
        "episodes": len(last),
        "random": float(np.mean(chance)) if chance else None,
        "env_steps": int(newest("env_steps")),
        "updates": int(newest("updates")),
        "seconds": float(newest("seconds")),
    }


def _run(name: str, path: Path, *, alone: bool) -> str:
    parts = [] if alone else [f"<h2>{escape(name)}</h2>"]
    parts.append(_or_why("Doctor", lambda: _findings(path)))
    try:
        opened: RunReader | None = open_run(path)
    except UserError as error:
        opened, why = None, error.message
        parts.append(f'<p class="faint">No dreams: {escape(why)}</p>')
    usage = charts.usage_map(path)
    pair = [_titled("How the code is used", _chart(usage))] if usage else []
    if opened is not None and opened.experience:
        found = opened
        pair.append(_or_why("How far it can dream", lambda: _drift(found)))
    parts.append(f'<div class="pair">{"".join(pair)}</div>' if pair else "")
    if opened is not None and opened.experience:
        parts.append(_or_why("What it dreams", lambda: _dream(found)))
    parts.append(_film(path))
    parts.append(_settings(path))
    parts.append(_provenance(path))
    return "".join(parts)


def _or_why(title: str, make: Callable[[], str]) -> str:
    """A part of the page, or the reason why there is none."""
    try:
        return _titled(title, make())
    except UserError as error:
        return _titled(title, f'<p class="faint">{escape(error.message)} {escape(error.hint or "")}</p>')


def _titled(title: str, body: str) -> str:
    return f"<div><h2>{escape(title)}</h2>{body}</div>"


def _chart(text: str) -> str:
    return f'<div class="chart">{text}</div>'


def _findings(path: Path) -> str:
    from .doctor import diagnose

    cards = []
    for finding in diagnose(path):
        change = (
            f"<div>Change: <code>{escape(finding.key)}</code> {escape(finding.change)}</div>" if finding.key else ""
        )
        cards.append(
            f'<div class="card {escape(finding.level)}"><b>{escape(finding.level)}: {escape(finding.verdict)}</b>'
            f"<div>{escape(finding.evidence)}</div><div class=faint>{escape(finding.why)}</div>{change}</div>"
        )
    return "".join(cards)


def _drift(opened: RunReader) -> str:
    from .drift import drift

    found = drift(opened)
    return _chart(charts.drift_chart(found)) + (f"<p>{escape(found.warning)}</p>" if found.warning else "")


def _dream(opened: RunReader) -> str:
    from .dream import dream
    from .frames import frames
    from .plots import vector_plot
    from .video import write_video

    found = dream(opened, context=3, horizon=15, starts=4, samples=2)
    with tempfile.TemporaryDirectory() as folder:
        if found.images:
            file = write_video(Path(folder) / "dream.gif", frames(found), fps=3)
        else:
            file = vector_plot(found, Path(folder) / "dream.png")
        return _picture(file, "rows: truth, dreams, error; columns: different starts")


def _film(path: Path) -> str:
    films = sorted((path / "videos").glob("eval-*.gif"))
    if not films or films[-1].stat().st_size > MOST_FILM:
        return ""
    return _titled("Last evaluation", _picture(films[-1], "one episode"))


def _picture(file: Path, text: str) -> str:
    source = f"data:image/{file.suffix[1:]};base64,{base64.b64encode(file.read_bytes()).decode()}"
    words = escape(text)
    return f'<div class="card"><img alt="{words}" src="{source}"><p class="faint">{words}</p></div>'


def _settings(path: Path) -> str:
    config = load_file(path / "config.yaml")
    mine, usual = flatten(config), flatten(Config())
    changed = {key: value for key, value in mine.items() if value != usual.get(key)}

    def table(values: Mapping[str, Any]) -> str:
        rows = (f"<tr><td><code>{escape(k)}</code><td><code>{escape(str(v))}</code>" for k, v in values.items())
        return f"<table>{''.join(rows)}</table>"

    whole = f"<details><summary>all {len(mine)} settings</summary>{table(mine)}</details>"
    return _titled("Settings that differ from the defaults", f'<div class="card">{table(changed)}{whole}</div>')


def _provenance(path: Path) -> str:
    try:
        facts = json.loads((path / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    if not isinstance(facts, dict):
        return ""
    facts.pop("protocol", None)
    again = facts.pop("continued", [])
    rows = [f"<tr><td>{escape(str(k))}<td><code>{escape(_text(v))}</code>" for k, v in facts.items()]
    rows += [f"<tr><td>continued<td><code>{escape(_text(each.get('started')))}</code>" for each in again[-5:]]
    return _titled("Where it comes from", f'<div class="card"><table>{"".join(rows)}</table></div>')


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return str(value)
