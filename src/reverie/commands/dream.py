"""`reverie dream`: a video of what the agent predicts, beside what really happened."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..errors import UserError
from .command import Command, add_json, seed

EPILOG = """\
The agent observes the first --context steps of a sequence from its replay; from then on it predicts without observing.
Rows: what really happened, several dreams of the same start (they differ where the model is unsure), the error of
their mean. Columns: different starts. Agents that see only vectors get curves instead (-o FILE.png).

examples:
  reverie dream runs/demo                                     RUN/videos/dream-STEP.gif
  reverie dream runs/demo -o dream.mp4 --horizon 60           needs `pip install av`, no ffmpeg
  reverie dream runs/demo -o dream.png                        a still: some steps of one start side by side
  reverie dream runs/demo --actions policy --samples 5        the agent acts in its own dream: no rows of truth
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run (a saved agent has no replay to start from)")
    parser.add_argument("-o", "--out", type=Path, help="FILE.gif, .mp4 or .png (default: RUN/videos/dream-STEP.gif)")
    parser.add_argument("--actions", default="replay", help="where they come from: replay, policy, random")
    parser.add_argument("--horizon", type=int, default=45, help="steps to dream (default 45)")
    parser.add_argument("--context", type=int, default=5, help="steps to observe first (default 5)")
    parser.add_argument("--samples", type=int, default=2, help="dreams of each start (default 2)")
    parser.add_argument("--starts", type=int, default=4, help="sequences to start from (default 4)")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument("--key", default="", help="which image observation, if there are several")
    parser.add_argument("--fps", type=float, default=6.0)
    add_json(parser, "print one JSON object with errors, rewards, values")


def run_dream(args: argparse.Namespace) -> int:
    """Dream, draw, write. Raises UserError."""
    from ..insight.dream import dream
    from ..insight.run_reader import open_run
    from ..insight.video import KINDS, require_video, require_writable

    for name in ("horizon", "context", "samples", "starts", "fps"):
        if not getattr(args, name) > 0:  # NaN is not, either
            raise UserError(f"--{name} must be above 0, got {getattr(args, name)}.")
    if not 0.01 <= args.fps <= 1000:
        raise UserError(f"--fps must be from 0.01 to 1000, got {args.fps}.")
    if args.out is not None and args.out.suffix not in KINDS:
        raise UserError(f"-o must end in {', '.join(KINDS)}, got '{args.out}'.")
    if args.out is not None:
        if args.out.suffix == ".png":
            require_writable(args.out, ".png")
        else:
            require_video(args.out)
    opened = open_run(args.run)
    found = dream(
        opened,
        context=args.context,
        horizon=args.horizon,
        starts=args.starts,
        samples=args.samples,
        actions=args.actions,
        seed=args.seed,
    )
    kind = "png" if not found.images else "gif"
    out = args.out or args.run / "videos" / f"dream-{opened.env_steps or 0:09d}.{kind}"
    if args.key and args.key not in found.images:
        raise UserError(f"no image observation '{args.key}'; there are: {', '.join(found.images) or 'none'}.")
    _write(found, out, args)
    print(json.dumps({"path": str(out), **found.to_dict()}) if args.json else out)
    return 0


def _write(found, out: Path, args: argparse.Namespace) -> None:  # type: ignore[no-untyped-def]
    from ..insight.frames import frames, sheet
    from ..insight.video import write_image, write_video

    if not found.images:
        from ..insight.plots import vector_plot

        if out.suffix != ".png":
            raise UserError("this agent sees vectors only: there are curves, no video.", "Give -o FILE.png.")
        vector_plot(found, out)
    elif out.suffix == ".png":
        write_image(out, sheet(found, args.key))
    else:
        write_video(out, frames(found, args.key), fps=args.fps)


COMMAND = Command(
    "dream", "a video of what the agent predicts, beside what really happened", EPILOG, _arguments, run_dream
)
