"""`reverie drift`: how far a run's world model can dream."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import digits
from .command import Command, add_data_files, add_json, positive, require_data_files, seed
from .output import terminal_width

if TYPE_CHECKING:
    from ..insight.drift import Drift
    from ..insight.whole_models import WholeModels

EPILOG = """\
Observes a few steps of replay, dreams on with the replay's own actions, and compares with what really happened: errors
of observations, rewards and ends after 1, 2, ... steps, beside a copy of the last observation, the mean of all, and the
reconstruction of the observed step. The useful horizon is the last step at which the dream is better than guessing.

  reverie drift runs/demo --horizon 30 -o drift.png
  reverie drift runs/demo-0 runs/demo-1 runs/demo-2 -o models.png

Several runs of one task, as of several seeds, dream of the same windows: how much they disagree is shown instead,
beside their errors, and how well that warns of errors (docs/ensembles.md).
"""


def _arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run", type=Path, nargs="+", help="a run; or several runs of one task")
    sub.add_argument(
        "--horizon", type=positive, default=0, help="steps to dream (default: imagination horizon, 15 at least)"
    )
    sub.add_argument("--context", type=positive, default=0, help="steps to observe first (default: 5)")
    sub.add_argument(
        "--starts", type=positive, default=0, help="dreams (default: 256, fewer with large images, as the doctor)"
    )
    sub.add_argument("--seed", type=seed, default=0)
    sub.add_argument("-o", "--out", type=Path, metavar="PNG", help="write the curves as a PNG")
    add_data_files(sub, "curve and step")
    add_json(sub)


def run_drift(args: argparse.Namespace) -> int:
    """Measure, print, draw. -> 0. Raises UserError."""
    from ..evidence.tidy import drift_rows, write_data_files
    from ..insight.drift import drift
    from ..insight.plots import drift_plot, require_matplotlib
    from ..insight.run_reader import open_run
    from ..insight.video import require_writable

    require_data_files(args)
    if args.out:
        require_matplotlib()
        require_writable(args.out, ".png")
    if len(args.run) > 1:
        return _several(args)
    (args.run,) = args.run
    opened = open_run(args.run)
    found = drift(opened, horizon=args.horizon, context=args.context, starts=args.starts, seed=args.seed)
    write_data_files(csv_file=args.csv, rows=drift_rows(found, str(args.run)))
    image = drift_plot(found, args.out, title=opened.config.env.id) if args.out else None
    if args.json:
        print(json.dumps({"run": str(args.run), **found.to_dict(), "picture": str(image) if image else None}))
        return 0
    print("\n".join(table(found, terminal_width())))
    print(f"useful horizon = {found.useful}")
    if found.warning:
        print(f"warning: {found.warning}")
    if image:
        print(f"look at   {image}")
    return 0


def _several(args: argparse.Namespace) -> int:
    """The disagreement of several runs. -> 0. Raises UserError."""
    from ..evidence.tidy import models_rows, write_data_files
    from ..insight.plots import models_plot
    from ..insight.run_reader import open_run
    from ..insight.whole_models import whole_models

    opened = [open_run(path) for path in args.run]
    found = whole_models(opened, horizon=args.horizon, context=args.context, starts=args.starts, seed=args.seed)
    write_data_files(csv_file=args.csv, rows=models_rows(found))
    image = models_plot(found, args.out, title=opened[0].config.env.id) if args.out else None
    if args.json:
        print(json.dumps({**found.to_dict(), "plot": str(image) if image else None}))
        return 0
    print("\n".join(models_table(found, terminal_width())))
    if image:
        print(f"look at   {image}")
    return 0


def models_table(found: WholeModels, width: int = 0) -> list[str]:
    """Errors, variances between the models, and what warns of errors, as lines."""
    from ..evidence.tables import columns

    shown = [k for k in (1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 100, 200, 500) if k < found.horizon] + [found.horizon]
    header = (
        "steps",
        "windows",
        "error",
        "of the mean",
        "variance between",
        "rewards",
        *(f"AUROC {name}" for name in found.alarms),
    )
    curves = (found.error, found.error_of_mean, found.spread, found.reward_spread, *found.alarms.values())
    rows = [(str(k), str(found.windows[k - 1]), *(_cell(curve[k - 1]) for curve in curves)) for k in shown]
    return [
        f"{len(found.runs)} models dream of the same windows; shares of the data's variance",
        *columns(rows, header=header, right=range(len(header)), width=width),
        "AUROC: how well a score names the worst tenth of a model's dreams, 0.5 is guessing",
    ]


def table(drift: Drift, width: int = 0) -> list[str]:
    """The curves as lines: errors of observations as shares of the data's variance, latent KL, errors of rewards."""
    from ..evidence.tables import columns

    header = ("steps", "windows", "latent KL", "dream", "observed", "copy", "mean", "reward")
    rows = []
    for k, count in enumerate(drift.starts):
        errors = [_cell(drift.error[name][k]) for name in ("dream", "floor", "copy", "mean")]
        rows.append((str(k + 1), str(count), _cell(drift.latent_kl[k]), *errors, _cell(drift.reward["dream"][k])))
    correlation = drift.returns["correlation"]
    relation = "no spread in one of them" if correlation is None else f"correlation {correlation:.2f}"
    return [
        *columns(rows, header=header, right=range(len(header)), width=width),
        f"imagined against realized returns: {relation}, bias {digits(drift.returns['bias'])}",
    ]


def _cell(value: float | None) -> str:
    return "-" if value is None else digits(value)


COMMAND = Command(
    "drift", "how far a run's world model can dream: errors after 1, 2, ... steps", EPILOG, _arguments, run_drift
)
