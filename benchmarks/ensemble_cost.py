"""What an ensemble costs an update: CPU time with and without one, in turns, one thread.

python benchmarks/ensemble_cost.py --rounds 12 --out benchmarks/results/ensemble_cost.json
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from precision import CASES, in_turns, ratio

from reverie.fast.choose import processor
from reverie.fast.modes import keep_memory

EXPLORE = {"behavior.explore": "ensemble", "ensemble.members": 5, "ensemble.member_dim": 200}
SETTINGS: dict[str, dict[str, Any]] = {
    "without": {},
    "only trained": {"ensemble.members": 5, "ensemble.member_dim": 200},
    "penalty": {"ensemble.members": 5, "ensemble.member_dim": 200, "behavior.uncertainty_penalty": 1.0},
    "explore, starts shared out": EXPLORE | {"ensemble.start_share": 0.5},
    "explore, all starts for both": EXPLORE | {"ensemble.start_share": 1.0},
}
NAMES = ("demo", "T", "A")


def measure(name: str, rounds: int) -> dict[str, Any]:
    """CPU seconds of an update by each setting, and the ratios to the one without in the same turn."""
    settings = {key: {"compute.precision": "float32"} | values for key, values in SETTINGS.items()}
    _, times = in_turns(CASES[name], settings, 0, rounds)
    return {
        "case": name,
        "cpu_s": {key: statistics.median(each) for key, each in times.items()},
        "ratio": {key: ratio(each, times["without"]) for key, each in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    rows = []
    for name in NAMES:
        rows.append(measure(name, args.rounds))
        print(json.dumps(rows[-1]))
    if args.out:
        command = f"python benchmarks/ensemble_cost.py --rounds {args.rounds} --out {args.out}"
        facts = {"command": command, "processor": processor(), "rows": rows}
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
