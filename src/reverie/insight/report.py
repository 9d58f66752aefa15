"""`reverie report`: one self-contained page about runs, with everything inside: no script, no network.

Whatever comes from a run (names, settings, messages) is escaped by the template. A part that cannot be made says why: a
run without a checkpoint, without replay or still training has a page, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import Config, flatten, load_file
from ..errors import UserError
from ..files import is_own_file, read_bytes, read_record, write_file
from ..run.evaluation import Evaluation, logged_evaluations
from ..run.lines import newest_values, read_lines
from . import plots
from .page import as_html, gif_uri, render
from .run_reader import RunReader, open_run

MAX_VIDEO = 100_000  # bytes of a GIF in the page: two runs with two each stay below 1 MB
LARGEST_VIDEO = 64 * 2**20  # bytes of a GIF that is made smaller for it


class Part(NamedTuple):
    """A part of the page, or the reason why there is none."""

    value: Any
    reason: str = ""


class PageImage(NamedTuple):
    """An image inside the page, and the line below it."""

    source: str
    text: str


def write_report(paths: Sequence[Path], out: Path) -> Path:
    """Make the page. -> out. Raises UserError: not a run, no matplotlib, unwritable."""
    plots.require_matplotlib()
    runs = _names(paths)
    page = render(
        "runs.html",
        title=", ".join(runs),
        runs=[_run(name, path) for name, path in runs.items()],
        returns=as_html(plots.returns_svg(runs)),
        panels=_panels(runs),
    )
    try:
        return write_file(out, page)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}).", "Choose another -o.") from error


def _panels(runs: Mapping[str, Path]) -> list[tuple[str, list[Any]]]:
    """(task, SVGs) of each task with any: losses and rewards of different tasks do not share a scale."""
    tasks: dict[str, dict[str, Path]] = {}
    for name, path in runs.items():
        tasks.setdefault(load_file(path / "config.yaml").env.id, {})[name] = path
    colours = plots.colours_of(runs)
    drawn = {task: [as_html(panel) for panel in plots.panels_svg(own, colours)] for task, own in tasks.items()}
    return [(task if len(tasks) > 1 else "", panels) for task, panels in drawn.items() if panels]


def _names(paths: Sequence[Path]) -> dict[str, Path]:
    """Runs by their directories' names, by whole paths where these are the same. Raises UserError."""
    for path in paths:
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path} is not a run.", "Give directories of `reverie train --run`.")
    names = [path.resolve().name for path in paths]
    return {name if names.count(name) == 1 else str(path): path for name, path in zip(names, paths, strict=True)}


def summary(path: Path) -> dict[str, Any]:
    """The most important numbers of a run: task, seed, last evaluation, random policy, steps, updates, seconds."""
    config = load_file(path / "config.yaml")
    episodes = read_lines(path / "episodes.jsonl")
    newest = newest_values(path / "metrics.jsonl", ("env_steps", "updates", "seconds"))
    tests = [e for e in episodes if e.get("phase") == "eval"]
    last = Evaluation([e["return"] for e in tests if e["env_steps"] == tests[-1]["env_steps"]], [])
    random = [e["return"] for e in episodes if e.get("phase") == "random"]

    return {
        "task": config.env.id or "custom environment",
        "seed": config.train.seed,
        "score": last.mean if last.scores else None,
        "spread": last.spread,
        "episodes": len(last.scores),
        "random": float(np.mean(random)) if random else None,
        "env_steps": int(newest.get("env_steps", 0)),
        "updates": int(newest.get("updates", 0)),
        "seconds": float(newest.get("seconds", 0)),
    }


# ---------------------------------------------------------------------------------------------------------------- parts


def _run(name: str, path: Path) -> dict[str, Any]:
    """What the template shows of a run."""
    found = summary(path)
    config = load_file(path / "config.yaml")
    settings, usual = flatten(config), flatten(Config())
    usage = plots.usage_svg(path)
    opened = _or_reason(lambda: open_run(path))
    dreams = opened.value is not None and opened.value.experience
    return {
        "name": name,
        **_headline(found),
        "findings": _or_reason(lambda: _findings(path)),
        "no_dreams": opened.reason,
        "usage": as_html(usage) if usage else None,
        "drift": _or_reason(lambda: _drift(opened.value)) if dreams else None,
        "trust": _or_reason(lambda: _trust(path)),
        "dream": _or_reason(lambda: _dream(opened.value)) if dreams else None,
        "video": _video(path),
        "settings": list(settings.items()),
        "changed": [(key, value) for key, value in settings.items() if value != usual.get(key)],
        "provenance": _provenance(path),
    }


def _headline(found: Mapping[str, Any]) -> dict[str, str]:
    score = "not evaluated" if found["score"] is None else f"{found['score']:.3f}{found['spread']}"
    against = f" over {found['episodes']} episodes" if found["episodes"] else ""
    against += "" if found["random"] is None else f", random policy {found['random']:.3f}"
    progress = (
        f"{found['task']} · {found['env_steps']:,} steps · {found['updates']:,} updates · "
        f"{found['seconds'] / 60:.1f} minutes · seed {found['seed']}"
    )
    return {"score": score, "against": against, "progress": progress}


def _or_reason(make: Callable[[], Any]) -> Part:
    try:
        return Part(make())
    except UserError as error:
        return Part(None, f"{error.message} {error.hint or ''}".strip())


def _findings(path: Path) -> Sequence[Any]:
    from .doctor import diagnose

    return diagnose(path)


def _drift(opened: RunReader) -> dict[str, Any]:
    from .drift import drift

    found = drift(opened)
    return {"svg": as_html(plots.drift_svg(found)), "warning": found.warning}


def _trust(path: Path) -> dict[str, Any] | None:
    """What `reverie trust` found, if it was run."""
    from .trust_record import read_trust

    found = read_trust(path)
    return found and {"svg": as_html(plots.trust_svg(found)), **found}


def _dream(opened: RunReader) -> Any:
    """A GIF as PageImage; of an agent that sees vectors only {"svg": curves}."""
    from .dream import dream
    from .frames import frames
    from .video import write_video

    found = dream(opened, context=3, horizon=12, starts=3, samples=2)
    if not found.images:
        return {"svg": as_html(plots.vector_svg(found))}
    with tempfile.TemporaryDirectory() as folder:
        file = write_video(Path(folder) / "dream.gif", frames(found), fps=3)
        return PageImage(gif_uri(read_bytes(file), MAX_VIDEO), "rows: truth, dreams, error; columns: different starts")


def _video(path: Path) -> PageImage | None:
    """The newest evaluation's video, with its step and the mean return of that evaluation."""
    videos = [video for video in sorted((path / "videos").glob("eval-*.gif")) if is_own_file(video)]
    if not videos or videos[-1].stat().st_size > LARGEST_VIDEO:
        return None
    try:
        source = gif_uri(read_bytes(videos[-1]), MAX_VIDEO)
    except (OSError, ValueError):  # no GIF, whatever its name
        return None
    return PageImage(source, _video_line(videos[-1], path))


def _video_line(video: Path, path: Path) -> str:
    step = video.stem.removeprefix("eval-")
    if not step.isdecimal():
        return "one episode"
    found = logged_evaluations(read_lines(path / "episodes.jsonl")).get(int(step))
    mean = f", mean return {found.mean:.3f}{found.spread} over {len(found.scores)} episodes" if found else ""
    return f"one episode of the evaluation at step {int(step):,}{mean}"


def _provenance(path: Path) -> list[tuple[str, str]]:
    found = read_record(path / "provenance.json")
    found.pop("protocol", None)
    continued = found.pop("continued", None)
    again = [each for each in continued if isinstance(each, dict)] if isinstance(continued, list) else []
    rows = [(key, _text(value)) for key, value in found.items()]
    return rows + [("continued", _text(each.get("started"))) for each in again[-5:]]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return str(value)
