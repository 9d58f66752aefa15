"""`reverie replay-crash`: the NaN report of a stopped run, computed again in a fresh process."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from ..config import build
from ..errors import UserError
from .command import Command, add_json

EPILOG = """\
Loads RUN/crash (settings, weights, optimizers, batch, random state), computes the update that met a NaN or an infinity
once more, and reports which quantity was non-finite first. Nothing is trained and nothing is written.

Exit code 1 if the update fails again, 0 if all numbers are finite this time, 2 if there is no such crash.
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="a run, or its directory `crash`")
    add_json(parser)


def run_replay_crash(args: argparse.Namespace) -> int:
    """Read, diagnose_update, print. -> 1 if it happens again, else 0. Raises UserError."""
    from ..build import pick_device
    from ..checkpoint import require_fit
    from ..guard.nan_report import diagnose_update, find_crash, read_crash, read_setup
    from ..train import DreamerV2

    path = find_crash(args.path)
    config, spec = read_setup(path)
    try:
        pick_device(config.compute.device)
    except UserError:  # it crashed on another machine
        config = replace(config, compute=replace(config.compute, device="cpu"))
    if config.compute.mode == "graph":
        config = replace(config, compute=replace(config.compute, mode="fast"))  # diagnose_update captures nothing
    plain = build({"compute.mode": "reference", "compute.device": "meta"}, base=config)
    require_fit(path, lambda: DreamerV2(plain, spec))
    agent = DreamerV2(config, spec)
    trouble = read_crash(path, agent)
    report = diagnose_update(agent, trouble.case, trouble.history)
    if args.json:
        print(json.dumps({"path": str(path), "reproduced": bool(report.found), **report.to_dict()}))
    else:
        print("\n".join([f"crash     {path}", *report.lines()]))
    return 1 if report.found else 0


COMMAND = Command(
    "replay-crash",
    "why a run stopped at a NaN: recompute its last update",
    EPILOG,
    _arguments,
    run_replay_crash,
)
