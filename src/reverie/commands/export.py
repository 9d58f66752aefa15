"""`reverie export`: a policy as a file that plays without this package."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError
from .command import Command

EPILOG = """\
Writes the policy with everything it needs inside: preprocessing of observations, reset, filter, action. The recurrent
state, the last action, is_first and the random numbers are inputs and outputs. Before the file gets its name, it is
compared with the agent.

  reverie export runs/demo --onnx --out policy.onnx     and policy.json, policy_player.py: onnxruntime and NumPy play it
  reverie export runs/demo --torch --out policy.pt2     and policy.json: torch.export.load plays it

--onnx needs an extra: pip install 'reverie-rl[export]'
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run, a checkpoint, or what agent.save wrote")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--onnx", action="store_true", help="for onnxruntime (default)")
    kind.add_argument("--torch", action="store_true", help="for torch.export.load")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="NAME.onnx or NAME.pt2")
    parser.add_argument(
        "--mode",
        choices=("eval", "train", "deterministic"),
        default="eval",
        help="what is drawn at each step: z as in evaluation (default), the action too, nothing",
    )


def run_export(args: argparse.Namespace) -> int:
    """Write the file, its interface and its player. -> 0. Raises UserError."""
    from ..files import absolute
    from ..share.export import KINDS, export_saved
    from ..share.sources import find

    kind = "torch" if args.torch else "onnx"
    if args.out.suffix != KINDS[kind]:
        raise UserError(f"--{kind} writes a file NAME{KINDS[kind]}, got '{args.out}'.", "Give --out such a name.")
    path = export_saved(find(args.run), absolute(args.out), kind=kind, mode=args.mode)
    written = [path, path.with_suffix(".json"), *path.parent.glob(f"{path.stem}_player.py")]
    print(f"wrote {', '.join(str(item) for item in written)}")
    print(f"as the agent plays in mode {args.mode}: compared on random observations, with resets")
    return 0


COMMAND = Command("export", "write the policy as a file that plays without Reverie", EPILOG, _arguments, run_export)
