"""`reverie replay-crash`: the autopsy of a stopped run once more, in a fresh process."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

from ..build import pick_device
from ..checkpoint import require_fit
from ..config import build
from ..errors import UserError
from ..guard.nan_report import diagnose_update, find_crash, read_crash, read_setup
from ..train import DreamerV2


def crash_command(args: argparse.Namespace) -> int:
    """Read, diagnose_update, print. -> 1 if it happens again, else 0. Raises UserError."""
    path = find_crash(args.path)
    config, spec = read_setup(path)
    try:
        pick_device(config.compute.device)
    except UserError:  # it crashed on another machine
        config = replace(config, compute=replace(config.compute, device="cpu"))
    if config.compute.mode == "graph":
        config = replace(config, compute=replace(config.compute, mode="fast"))  # the autopsy captures nothing
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
