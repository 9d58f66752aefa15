"""`reverie trust`: whether a run's dreams can be trusted."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, digits
from .command import Command, add_data_files, add_json, positive, require_data_files, seed
from .output import terminal_width

if TYPE_CHECKING:
    from ..insight.run_reader import RunReader
    from ..insight.trust import Task, Trust

EPILOG = """\
Trains a fresh actor and critic in the run's frozen world model only, then plays them in the real task: what a policy
that knows nothing but the dreams really earns, beside the run's own policy and random actions; what it earned in its
dreams beside that; and how far rewards, ends and values are off when real actions are replayed in the dream.

  reverie trust runs/demo                          # verdict, RUN/trust.json, RUN/trust.png
  reverie trust runs/demo --updates 500 --episodes 5
  reverie trust runs/demo --all                    # ranks the kept checkpoints
  reverie trust runs/demo-0 runs/demo-1            # several runs of one task: each, and how much they disagree

Of the run only trust.json, trust.png and trust-strips.png are written (not with --all, not with --no-files).
Exit code 1 if the verdict is no, else 0, 2 if there is nothing to measure. What the numbers mean: docs/trust.md.
"""


def _arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--env", help="the environment, if a run's own is made by code that the run names")
    sub.add_argument("run", type=Path, nargs="+", help="a run, finished or training; or several runs of one task")
    sub.add_argument(
        "--updates", type=positive, default=0, help="of the fresh policy (default: as many as the run made, 3000 most)"
    )
    sub.add_argument("--minutes", type=_minutes, default=0.0, help="end its training after so many (default: never)")
    sub.add_argument("--episodes", type=positive, default=20, help="of each policy in the real task")
    sub.add_argument(
        "--horizon", type=positive, default=0, help="steps of the curves (default: twice the imagination horizon)"
    )
    sub.add_argument("--seed", type=seed, default=0)
    sub.add_argument("--all", action="store_true", help="measure and rank every kept checkpoint, and the best one")
    sub.add_argument("--no-files", action="store_true", help="write nothing")
    sub.add_argument("-o", "--out", type=Path, metavar="PNG", help="where to draw (default: RUN/trust.png)")
    add_data_files(sub, "policy and episode, and for each curve and step")
    add_json(sub)


def _minutes(text: str) -> float:
    """Minutes above 0, as the type of an argument. Raises ArgumentTypeError."""
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a number above 0, got '{text}'")


def run_trust(args: argparse.Namespace) -> int:
    """Measure, print, draw. -> 1 if the verdict is no, else 0. Raises UserError."""
    from ..files import absolute
    from ..insight.run_reader import open_run
    from ..insight.video import require_writable

    paths = [absolute(path) for path in args.run]
    args.out = absolute(args.out) if args.out else None
    if args.out:
        require_writable(args.out, ".png")
    require_data_files(args)
    if len(paths) > 1:
        return _several(args, paths)
    (args.run,) = paths
    opened = open_run(args.run)
    opened.need_experience()
    with _task(args, opened) as task:
        if args.all:
            return _ranking(args, opened, task)
        found = _measured(args, opened, task)
    _write_rows(args, [(str(args.run), found)])
    files, notes = ([], []) if args.no_files else _write(args, opened, found)
    for note in (*found.notes, *notes):
        print(f"note: {note}", file=sys.stderr)
    if args.json:
        print(json.dumps({"run": str(args.run), **found.to_dict(), "files": [str(file) for file in files]}))
    else:
        print("\n".join(found.to_dict()["verdict"]))
        print("\n".join(table(found, terminal_width())))
        print(f"{found.updates:,} updates in the dream, {found.cpu_minutes:.1f} CPU minutes in all")
        for file in files:
            print(f"look at   {file}")
    return int(found.level == "no")


def _task(args: argparse.Namespace, opened: RunReader) -> Task:
    """The real task of a run. Raises UserError."""
    from ..api import load
    from ..insight.trust import Task
    from .eval import require_env

    dreamer = load(opened.path, args.env, device="cpu")
    require_env(dreamer, opened.path)
    return Task(dreamer.config, dreamer.env, opened.spec, episodes=args.episodes, seed=args.seed)


def _several(args: argparse.Namespace, paths: list[Path]) -> int:
    """Each run of one task, and how much their models disagree. -> 1 if one of them is not trusted, else 0."""
    from ..insight.plots import models_plot
    from ..insight.run_reader import open_run
    from ..insight.whole_models import whole_models
    from .drift import models_table

    if args.all:
        raise UserError("--all ranks the checkpoints of one run.", "Give one run, or leave --all out.")
    opened = [open_run(path) for path in paths]
    models = whole_models(opened, horizon=args.horizon)  # first: it says what does not fit together
    results: list[Trust] = []
    files: list[Path] = []
    notes: list[str] = []
    for run in opened:
        args.run = run.path
        with _task(args, run) as task:
            found = _measured(args, run, task)
        results.append(found)
        if not args.no_files:
            written, why = _write(argparse.Namespace(run=run.path, out=None), run, found)
            files, notes = files + written, notes + why
    _write_rows(args, [(str(path), found) for path, found in zip(paths, results, strict=True)])
    if args.out:
        files.append(models_plot(models, args.out, title=opened[0].config.env.id))
    for note in (*(note for found in results for note in found.notes), *notes):
        print(f"note: {note}", file=sys.stderr)
    if args.json:
        named = [{"run": str(path), **found.to_dict()} for path, found in zip(paths, results, strict=True)]
        print(json.dumps({"runs": named, "models": models.to_dict(), "files": [str(file) for file in files]}))
    else:
        print("\n".join([*_ranked([path.name for path in paths], results), *models_table(models, terminal_width())]))
        for file in files:
            print(f"look at   {file}")
    return int(any(found.level == "no" for found in results))


def _ranked(names: list[str], results: list[Trust]) -> list[str]:
    """A line of returns and the verdict for each."""
    from ..evidence.tables import columns

    header = ("", "own return", "made in dreams", "random", "trusted", "steps")
    rows = [(name, *(_score(each, policy) for policy in ("own", "made", "random")), each.level, str(each.steps))
            for name, each in zip(names, results, strict=True)]  # fmt: skip
    return columns(rows, header=header, right=(1, 2, 3, 5), width=terminal_width())


def _measured(args: argparse.Namespace, opened: RunReader, task: Task) -> Trust:
    from ..insight.trust import trust

    with Bar(opened.source.name) as bar:
        return trust(
            opened,
            task,
            updates=args.updates,
            minutes=args.minutes,
            horizon=args.horizon,
            seed=args.seed,
            report=bar,
        )


def _ranking(args: argparse.Namespace, opened: RunReader, task: Task) -> int:
    """Every kept checkpoint by the lower of two returns: of its own policy, and of the one made in its dreams."""
    from ..checkpoint import checkpoints
    from ..insight.run_reader import open_run

    kept = [*checkpoints(args.run), *([args.run / "checkpoints" / "best"] if _has_best(args.run) else [])]
    if not kept:
        raise UserError(f"{args.run} has no kept checkpoints.", "Give the directory of `reverie train --run`.")
    results = []
    for path in kept:
        reader = replace(open_run(path), experience=opened.experience)
        results.append(_measured(args, reader, task))
    results.sort(key=lambda found: found.rank, reverse=True)
    _write_rows(args, [(str(args.run), found) for found in results])
    if args.json:
        print(json.dumps({"run": str(args.run), "ranking": [found.to_dict() for found in results]}))
    else:
        print("\n".join(_ranked([each.checkpoint for each in results], results)))
        print(f"first by the lower of both returns: {results[0].checkpoint}")
    return int(results[0].level == "no")


def _write_rows(args: argparse.Namespace, found: list[tuple[str, Trust]]) -> None:
    """--csv. Raises UserError."""
    from ..evidence.tidy import trust_rows, write_data_files

    write_data_files(csv_file=args.csv, rows=[row for run, each in found for row in trust_rows(each, run)])


def _has_best(run: Path) -> bool:
    return (run / "checkpoints" / "best" / "weights.safetensors").exists()


def _score(found: Trust, name: str) -> str:
    return f"{found.policies[name].mean:.3f}{found.policies[name].spread}"


def _write(args: argparse.Namespace, opened: RunReader, found: Trust) -> tuple[list[Path], list[str]]:
    """trust.json, the plot and the strips. -> files, why some are missing."""
    from ..files import reason, write_file
    from ..insight.plots import trust_plot
    from ..insight.trust_record import FILE

    image = args.out or args.run / "trust.png"
    files, notes, values = [], [], found.to_dict()
    try:
        files.append(write_file(args.run / FILE, json.dumps(values, indent=1)))
    except OSError as error:
        notes.append(f"{args.run / FILE} could not be written ({reason(error)}): the report will not show it")
    try:
        files.append(trust_plot(values, image))
        strips = _strips(opened, found, image.with_name(f"{image.stem}-strips.png"))
        files += [strips] if strips else []
    except UserError as error:
        if args.out:
            raise
        notes.append(f"no plot: {error.message}")
    return files, notes


def _strips(opened: RunReader, found: Trust, path: Path) -> Path | None:
    """The dreams with the largest errors of rewards beside the truth, if the task has images. -> the path."""
    import numpy as np

    from ..insight.dream import dream_of
    from ..insight.frames import sheet
    from ..insight.video import write_image

    if found.worst is None or not opened.spec.images:
        return None
    batch, valid, context = found.worst
    dreamed = dream_of(opened.agent, batch, valid, context=context)
    rows = [sheet(dreamed, start=index, columns=12) for index in range(len(valid))]
    return write_image(path, np.concatenate(rows))


def table(found: Trust, width: int = 0) -> list[str]:
    """Dreamed and real returns and errors after 1, 2, 3, 5, ... steps as lines."""
    from ..evidence.tables import columns

    optimism, reach = found.optimism, len(found.optimism.gap)
    shown = [k for k in (1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 100, 200, 500) if k < reach] + [reach]
    header = ("steps", "dreamed", "earned", "gap", "95 % of the gap", "reward error", "played", "value error", "played")
    rows = []
    for k in (step - 1 for step in shown):
        low, high = optimism.low[k], optimism.high[k]
        interval = "-" if low is None or high is None else f"{digits(low, sign=True)} to {digits(high, sign=True)}"
        errors = [_cell(found.errors.get(source, {}).get(name, [None] * reach)[k])
                  for name in ("reward", "value") for source in ("replay", "played")]  # fmt: skip
        own = [_cell(curve[k]) for curve in (optimism.dream, optimism.real, optimism.gap)]
        rows.append((str(k + 1), *own, interval, *errors))
    return columns(rows, header=header, right=range(len(header)), width=width)


def _cell(value: float | None) -> str:
    return "-" if value is None else digits(value)


class Bar:
    """How far a measurement is: a bar with the time left on a terminal, else a line a minute, on standard error."""

    EVERY = 60.0

    def __init__(self, name: str) -> None:
        self.name, self._begin, self._last = name, time.monotonic(), time.monotonic()
        self._progress: Any = None

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
            self._task = self._progress.add_task(self.name, total=1.0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, done: float, text: str) -> None:
        """done from 0 to 1; text: what is being done."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, description=f"{self.name}: {text}")
        elif time.monotonic() - self._last > self.EVERY and done > 0:
            self._last = time.monotonic()
            left = (self._last - self._begin) * (1 - done) / done
            print(f"{self.name}: {done:.0%}, {text}, {left / 60:.0f} min left", file=sys.stderr, flush=True)


COMMAND = Command(
    "trust", "whether a policy may learn in a run's dreams, measured in the task", EPILOG, _arguments, run_trust
)
