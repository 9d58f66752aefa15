"""`reverie eval`: play whole episodes with a trained agent, in its task or in a changed one."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, digits
from .command import Command, add_data_files, add_json, positive, require_data_files, seed
from .output import terminal_width

if TYPE_CHECKING:
    from ..api import Dreamer
    from ..insight.shift import Shift
    from ..run.evaluation import Evaluation

EPILOG = """\
  reverie eval runs/demo --episodes 50
  reverie eval runs/cartpole --shift length=0.25,0.5,1,2      # a longer pole: return, surprise and alarm by value
  reverie eval runs/demo --shift goal_color=red,blue --json

What can be changed is what env.options takes; a name that does not exist is answered with the list of those that do.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", help="the environment, if a run's own is made by code that the run names")
    parser.add_argument("run", type=Path, help="a run, a checkpoint, or what agent.save wrote")
    parser.add_argument("--episodes", type=positive, default=20)
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument(
        "--mode", choices=("eval", "train"), help="most likely action, or sampled (default: the run's train.eval_mode)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument(
        "--shift", metavar="FACTOR=VALUES", help="change the task: one factor, one value after the other"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="PNG", help="plot of --shift (default: RUN/shift-FACTOR.png)")
    parser.add_argument("--video", type=Path, help="where to write a GIF of the first episode (default: RUN/videos)")
    add_data_files(parser, "episode")
    add_json(parser)


def run_eval(args: argparse.Namespace) -> int:
    """Play, print the scores, write the video. -> 0. Raises UserError."""
    from ..api import load
    from ..evidence.tidy import evaluation_rows, write_data_files
    from ..files import absolute
    from ..insight.video import require_video
    from ..share.sources import find

    args.run = find(args.run)
    args.video = absolute(args.video) if args.video else None
    require_data_files(args)
    if args.shift is not None:
        return _run_shift(args)
    if args.out:
        raise UserError("-o is for the plot of --shift.", "A video goes to --video.")
    if args.video:
        require_video(args.video)  # before hours of playing
    agent = load(args.run, args.env, device=args.device)
    mode = args.mode or agent.config.train.eval_mode
    require_env(agent, args.run)
    result = agent.evaluate(args.episodes, mode=mode, seed=args.seed, film=True)
    video, note = _video(args, result)  # before the print, which names it
    task = agent.config.env.id
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    rows = evaluation_rows(result, env=task, mode=mode, seed=args.seed)
    write_data_files(csv_file=args.csv, rows=rows)
    if args.json:
        print(json.dumps({"env": task, "mode": mode, **result.to_dict(), "video": str(video) if video else None}))
    else:
        interval = f"{result.spread} (95 % CI)" if result.spread else ""
        print(f"{task}: return {result.mean:.3f}{interval} over {len(result.scores)} episodes, {mode} mode")
        if result.strange is not None:
            print(f"{100 * result.strange:.0f} % of the steps were stranger to the model than 99 % of its own replay")
        print(f"lowest {min(result.scores):.3f}, highest {max(result.scores):.3f}; {video or note}")
    if args.video and not video:
        raise UserError(note or "there is no video.", "The scores are printed above.")
    return 0


def _run_shift(args: argparse.Namespace) -> int:
    """Play with each value, print a table, draw. -> 0. Raises UserError."""
    from ..api import load
    from ..evidence.tidy import shift_rows, write_data_files
    from ..files import absolute
    from ..insight.plots import shift_plot
    from ..insight.shift import shift
    from ..insight.video import require_writable

    factor, values = _factor_of(args.shift)
    if args.video:
        raise UserError("--video is not made with --shift.", "Leave one of them out.")
    args.out = absolute(args.out) if args.out else None
    if args.out:
        require_writable(args.out)
    agent = load(args.run, args.env, device=args.device)
    require_env(agent, args.run)
    if agent.env is not None:
        raise UserError(
            f"the task of {args.run} is made by your own code, whose factors are not known.",
            "Change it there: reverie eval RUN --env ANOTHER_FUNCTION.",
        )

    assert agent.agent is not None  # it was loaded

    def report(value: str) -> None:
        if sys.stderr.isatty():
            print(f"playing {factor}={value}" if value else "playing the task as trained", file=sys.stderr)

    found = shift(
        agent.agent, factor, values, episodes=args.episodes, mode=args.mode or "", seed=args.seed, report=report
    )
    write_data_files(csv_file=args.csv, rows=shift_rows(found))
    result, image, note = found.to_dict(), None, ""
    try:
        image = shift_plot(result, args.out or args.run / f"shift-{factor}.png")
    except UserError as error:
        if args.out:
            raise
        note = f"no plot: {error.message}"
    if args.json:
        print(json.dumps({"run": str(args.run), **result, "plot": str(image) if image else None}))
    else:
        print(f"{found.task}, {factor} ({found.meaning}), {args.episodes} episodes each, {found.mode} mode")
        print("\n".join(shift_table(found, terminal_width())))
        print(f"look at   {image}" if image else note)
    return 0


def _factor_of(text: str) -> tuple[str, list[str]]:
    """ "length=0.5,1" -> ("length", ["0.5", "1"]). Raises UserError."""
    factor, _, listed = text.partition("=")
    values = [value.strip() for value in listed.split(",")]
    if not factor.strip() or not all(values):
        raise UserError(f"--shift '{text}' is not of the form FACTOR=VALUES.", "E.g. --shift length=0.25,0.5,1.")
    return factor.strip(), list(dict.fromkeys(values))


def shift_table(found: Shift, width: int = 0) -> list[str]:
    """A line for the task as trained, and one for each value."""
    from ..evidence.tables import columns

    header = ("value", "return", "surprise", "surprising", "alarm", "AUROC surprise", "AUROC disagreement")
    rows = []
    for point in found.points:
        scores = [point.auroc.get(name) for name in ("surprise", "disagreement")]
        rows.append(
            (
                point.value or "as trained",
                f"{point.played.mean:.3f}{point.played.spread}",
                digits(point.surprise),
                f"{point.surprising:.0%}",
                "-" if point.alarm is None else f"{point.alarm:.0%}",
                *("-" if each is None else f"{each.auroc:.2f} ({each.low:.2f} to {each.high:.2f})" for each in scores),
            )
        )
    return columns(rows, header=header, right=range(1, len(header)), width=width)


def _video(args: argparse.Namespace, result: Evaluation) -> tuple[Path | None, str]:
    """Write the video. -> its path, or None and why there is none. Never raises: the scores are there."""
    from ..insight.video import write_video

    if not result.frames:
        return None, result.note
    try:
        return write_video(args.video or args.run / "videos" / "play.gif", result.frames, fps=8), ""
    except UserError as error:
        return None, f"no video: {error.message}"


def require_env(agent: Dreamer, run: Path) -> None:
    """Raises UserError where the environment is code: what a run's files name is executed only if the user says so."""
    from ..config.validation import names_code

    kind, _, name = agent.config.env.id.partition(":")
    if kind != "custom":
        return
    if names_code(name):
        raise UserError(
            f"the environment of {run} is made by code that its files name ({name}).",
            f"If you trust it, add --env {name}.",
        )
    raise UserError(
        f"{run} was trained on a custom environment, which the command line cannot make.",
        "In Python: reverie.load(path, env=your_function).evaluate().",
    )


COMMAND = Command("eval", "play whole episodes with a trained agent", EPILOG, _arguments, run_eval)
