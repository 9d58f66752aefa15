"""`reverie eval`: play whole episodes with a trained agent."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .command import Command, add_json, positive, seed

if TYPE_CHECKING:
    from ..api import Dreamer
    from ..run.evaluation import Evaluation


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", help="the environment, if a run's own is made by code that the run names")
    parser.add_argument("run", type=Path, help="a run, a checkpoint, or what agent.save wrote")
    parser.add_argument("--episodes", type=positive, default=20)
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument(
        "--mode", choices=("eval", "train"), help="most likely action, or sampled (default: the run's train.eval_mode)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--video", type=Path, help="where to write a GIF of the first episode (default: RUN/videos)")
    add_json(parser)


def run_eval(args: argparse.Namespace) -> int:
    """Play, print the scores, write the video. -> 0. Raises UserError."""
    from ..api import load
    from ..files import absolute
    from ..insight.video import require_video

    args.run = absolute(args.run)
    args.video = absolute(args.video) if args.video else None
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


COMMAND = Command("eval", "play whole episodes with a trained agent", "", _arguments, run_eval)
