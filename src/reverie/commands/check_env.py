"""`reverie check-env`: try an environment before training on it."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

from ..config import build
from ..config.parsing import full_name
from .command import Command, add_json, positive, seed
from .envs import FITS, FITTING

EPILOG = """\
Plays random steps and reports mistakes, one sentence each, with the fix. ENV is a Gymnasium id, or names a function (or
class) that makes an environment: FILE.py:FUNCTION or MODULE:FUNCTION; every command takes the same names. Settings of
env.* may follow.

  reverie check-env CartPole-v1
  reverie check-env my_robot.py:make_env --steps 2000
  reverie check-env dmc/walker-walk env.pixels=true

Exit code 1 if there are errors. In Python: reverie.check_env(make_env).
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("env", help="an id, FILE.py:FUNCTION, MODULE:FUNCTION or MODULE:Id-v0")
    parser.add_argument("--steps", type=positive, default=500, help="random steps to play")
    parser.add_argument("--seed", type=seed, default=0)
    add_json(parser)


def run_check_env(args: argparse.Namespace) -> int:
    """Check, print. -> 1 if there are errors, else 0. Raises UserError if ENV cannot be found."""
    from ..envs.check import check_env
    from ..envs.names import find_environment
    from ..run.tasks import options_of

    options = options_of(build(args.settings, where="setting"))
    if "env.image_size" not in map(full_name, args.settings):
        options["image_size"] = 0  # as they are, as in Python: which size an agent will see, its preset says
    with contextlib.redirect_stdout(sys.stderr):  # the environment may print; stdout is for the report
        report = check_env(find_environment(args.env), steps=args.steps, seed=args.seed, **options)
    if args.json:
        print(json.dumps({"env": args.env, **report.to_dict()}))
    else:
        print("\n".join([*report.lines(), *([] if report.errors else _next(args.env))]))
    return 1 if report.errors else 0


def _next(name: str) -> list[str]:
    return [f"next         reverie train --env {name} --preset {FITTING}", f"preset       {FITS}"]


COMMAND = Command(
    "check-env",
    "try an environment: its mistakes, one sentence each, with the fix",
    EPILOG,
    _arguments,
    run_check_env,
    takes_settings=True,
)
