"""What a hierarchy costs an update: CPU time with and without one, in turns, one thread.

python benchmarks/hierarchy_cost.py --rounds 12 --out benchmarks/results/hierarchy_cost.json
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

#: In demo's size the networks of the goals are as `director+demo` has them, else the published ones.
SMALL = {"hierarchy.goal_layers": 2, "hierarchy.goal_dim": 128}
NAMES = {"demo": SMALL, "T": {}, "A": {}}


def measure(name: str, rounds: int) -> dict[str, Any]:
    """CPU seconds of an update flat, flat with dreams as long, and with a hierarchy; ratios in the same turn."""
    settings: dict[str, dict[str, Any]] = {
        "flat": {},
        "flat, dreams of 16": {"behavior.imagination_horizon": 16},
        "hierarchy": {"hierarchy.goal_every": 8, **NAMES[name]},
    }
    settings = {key: {"compute.precision": "float32"} | values for key, values in settings.items()}
    _, times = in_turns(CASES[name], settings, 0, rounds)
    return {
        "case": name,
        "cpu_s": {key: statistics.median(each) for key, each in times.items()},
        "ratio": {key: ratio(each, times["flat"]) for key, each in times.items()},
        "ratio_of_16": ratio(times["hierarchy"], times["flat, dreams of 16"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--names", nargs="+", default=list(NAMES))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    rows = []
    for name in args.names:
        rows.append(measure(name, args.rounds))
        print(json.dumps(rows[-1]), flush=True)
    if args.out:
        named = f" --names {' '.join(args.names)}" if args.names != list(NAMES) else ""
        command = f"python benchmarks/hierarchy_cost.py --rounds {args.rounds}{named} --out {args.out}"
        facts = {"command": command, "processor": processor(), "rows": rows}
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
