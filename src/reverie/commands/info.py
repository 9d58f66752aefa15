"""`reverie info`: versions and hardware, or the state of a run."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from .. import __version__
from .command import Command, add_json

PACKAGES: tuple[str, ...] = ("torch", "numpy", "gymnasium", "minigrid", "matplotlib", "tensorboardX", "wandb")
PACKAGES += ("mlflow", "mlflow-skinny", "huggingface_hub")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, nargs="?")
    add_json(parser)


def run_info(args: argparse.Namespace) -> int:
    """Print a run's state, or without one the machine's. -> 0. Raises UserError."""
    found = run_state(args.run) if args.run else machine_state()
    if args.json:
        print(json.dumps(found))
    else:
        from ..evidence.tables import columns

        print("\n".join(columns([(key, str(value)) for key, value in found.items()])))
    return 0


def machine_state() -> dict[str, Any]:
    """Versions of what matters, CPUs, threads, GPU."""
    import torch

    found: dict[str, Any] = {"reverie": __version__, "python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return found | {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def run_state(run: Path) -> dict[str, Any]:
    """How far a run is: steps, updates, last evaluation, newest checkpoint. Raises UserError where there is none."""
    from .. import checkpoint
    from ..config import load_file
    from ..envs.families.crafter import score_of
    from ..run.lines import each_line, newest_values, odd_lines

    config = load_file(run / "config.yaml")
    counts = {name: odd_lines(run / name) for name in ("metrics.jsonl", "episodes.jsonl")}
    odd = [f"{count} of {name}" for name, count in counts.items() if count]
    newest = newest_values(run / "metrics.jsonl", ("env_steps", "updates", "eval/return"))
    phases = Counter(episode["phase"] for episode in each_line(run / "episodes.jsonl"))
    saved = checkpoint.checkpoints(run)
    score = score_of(x for x in each_line(run / "episodes.jsonl") if x["phase"] in ("prefill", "train"))
    achieved = {} if score is None else {"Crafter score": f"{score:.1f} % of all training episodes"}
    return (
        achieved
        | {
            "task": config.env.id,
            "seed": config.train.seed,
            "env steps": f"{newest.get('env_steps', 0)} of {config.train.env_steps}",
            "updates": newest.get("updates", 0),
            "episodes": phases["train"],
            "evaluation": newest.get("eval/return", "none yet"),
            "checkpoint": saved[-1].name if saved else "none yet",
        }
        | ({"left out": f"lines that are none of a run: {', '.join(odd)}"} if odd else {})
    )


COMMAND = Command("info", "versions and hardware, or the state of a run", "", _arguments, run_info)
