"""`python -m tests.planted.run NAME SEED DIRECTORY`: train with a fault of faults.py, then run the doctor.

NAME may be "healthy-TASK".
A directory that exists already is only diagnosed again. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.planted.faults import ENVS, FAULTS, TASKS, Fault


def fault_of(name: str) -> Fault:
    """The fault of that name; none for "healthy-TASK"."""
    return Fault(name.removeprefix("healthy-"), ("healthy",)) if name.startswith("healthy-") else FAULTS[name]


def train(fault: Fault, seed: int, directory: Path, changes: dict[str, Any]) -> str:
    """Train with the fault. -> the reason of an early stop, or ""."""
    from reverie.config.presets import load_preset
    from reverie.errors import UserError
    from reverie.run import evaluation
    from reverie.run.loop import Run

    evaluation.RANDOM_LIMIT = 120.0  # a busy machine must not cost the baseline
    preset, settings = TASKS[fault.task]
    try:
        config = load_preset(preset, settings | {"seed": seed} | fault.settings | changes)
        Run(config, directory, ENVS.get(fault.task)).train()
    except UserError as error:
        return error.message
    return ""


def main() -> int:
    """Plant the fault, train, diagnose and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("seed", type=int)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--env-steps", type=int, help="other than the task's")
    parser.add_argument("--only-train", action="store_true")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    fault = fault_of(args.name)
    if fault.patch is not None:
        fault.patch()
    began, stopped = time.process_time(), ""
    if not args.directory.exists():
        changes = {"env_steps": args.env_steps} if args.env_steps else {}
        stopped = train(fault, args.seed, args.directory, changes)
    trained = time.process_time() - began
    if args.only_train:
        return 0
    from reverie.insight.doctor import diagnose

    began = time.process_time()
    findings = [finding.to_dict() for finding in diagnose(args.directory)]
    words: dict[str, Any] = {
        "name": args.name,
        "seed": args.seed,
        "right": list(fault.verdicts),
        "stopped": stopped,
        "never": list(fault.never),
    }
    words |= {"train_cpu_seconds": round(trained, 1), "doctor_cpu_seconds": round(time.process_time() - began, 2)}
    print(json.dumps(words | {"findings": findings}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
