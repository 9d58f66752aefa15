"""`reverie ablate`: the effect of single settings, one factor at a time."""

from __future__ import annotations

import argparse

from ..errors import UserError
from .command import Command, positive
from .sweep import add_sweep_arguments, run_plan

EPILOG = """\
One factor at a time: the preset as it is, and beside it one variant per value. Names may be short: kl.balance is
model.kl_balance; a+b=false changes two settings together. Everything else is as in `reverie sweep`.

  reverie ablate --preset demo --env-steps 3000 --seeds 5 \\
      --vary latents=categorical,gaussian kl.balance=0.5,0.8 reward.transform=symlog,tanh,none
  reverie ablate --preset vector --env Pendulum-v1 --vary free_nats=0,1,3 --seeds 3 --dry-run
  reverie ablate --preset vector --env CartPole-v1 --vary preset=dreamerv3+small --seeds 5      # two presets
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="demo", help="the base (default: demo)")
    parser.add_argument("--env", help="id of the task, or FILE.py:FUNCTION and the like (default: the preset's)")
    parser.add_argument(
        "--vary", nargs="+", required=True, metavar="NAME=A,B", help="settings and their values, or preset=A,B"
    )
    parser.add_argument("--seeds", type=positive, default=3, help="how many (default: 3)")
    parser.add_argument("--env-steps", type=positive, help="environment steps of a run")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of every run")
    parser.add_argument("--name", default="ablation")
    add_sweep_arguments(parser)


def run_ablate(args: argparse.Namespace) -> int:
    """Run an ablation. -> 1 if runs failed. Raises UserError."""
    from ..evidence.plan import BASE, Task, Variant, make_plan, parse_vary, setting_name

    settings: dict[str, str] = {}
    for word in args.set:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"'{word}' is not of the form name=value.", "E.g. --set gamma=0.99")
        settings[setting_name(key)] = value
    task = {"env.id": args.env} if args.env else {}
    task |= {"train.env_steps": args.env_steps} if args.env_steps else {}
    variants = [Variant(BASE, {}), *parse_vary(args.vary)]
    name = args.env or args.preset
    return run_plan(args, make_plan(args.name, [Task(name, args.preset, task)], variants, args.seeds, settings))


COMMAND = Command(
    "ablate", "the effect of single settings: one factor at a time, with intervals", EPILOG, _arguments, run_ablate
)
