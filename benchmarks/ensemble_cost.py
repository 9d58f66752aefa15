"""What an ensemble costs an update: CPU time with and without one, in turns, one thread.

python benchmarks/ensemble_cost.py --rounds 12 --out benchmarks/results/ensemble_cost.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from leads import SUBJECTS, T

from reverie.bench.subject import make_subject, random_batches
from reverie.config import build
from reverie.fast.choose import processor
from reverie.fast.modes import keep_memory
from reverie.train import DreamerV2, to_batch

EXPLORE = {"behavior.explore": "ensemble", "ensemble.members": 5, "ensemble.member_dim": 200}
SETTINGS: dict[str, dict[str, Any]] = {
    "without": {},
    "only trained": {"ensemble.members": 5, "ensemble.member_dim": 200},
    "penalty": {"ensemble.members": 5, "ensemble.member_dim": 200, "behavior.uncertainty_penalty": 1.0},
    "explore, starts shared out": EXPLORE | {"ensemble.start_share": 0.5},
    "explore, all starts for both": EXPLORE | {"ensemble.start_share": 1.0},
}
CASES: dict[str, dict[str, Any]] = {
    "demo": {"preset": "demo", "overrides": {}, "shape": (28, 28, 3), "actions": 7},
    "T": SUBJECTS["T"] | {"overrides": T},
    "A": SUBJECTS["A"],
}


def measure(name: str, rounds: int) -> dict[str, Any]:
    """CPU seconds of an update by each setting, and the ratios to the one without in the same turn."""
    subject = make_subject(**CASES[name])
    agents = {}
    for setting, values in SETTINGS.items():
        torch.manual_seed(0)
        given = {"compute.device": "cpu", "compute.precision": "float32", "behavior.actor_warmup": 0}
        agents[setting] = DreamerV2(build(given | values, base=subject.config), subject.spec)
    batches = cycle([to_batch(batch, torch.device("cpu")) for batch in random_batches(subject)])
    times: dict[str, list[float]] = {setting: [] for setting in agents}
    for turn in range(rounds + 1):
        batch = next(batches)
        for setting, agent in agents.items():
            start = time.process_time()
            float(agent.update(batch)["critic/loss"])
            if turn:  # the first warms up
                times[setting].append(time.process_time() - start)
    ratios = {
        setting: statistics.median(a / b for a, b in zip(each, times["without"], strict=True))
        for setting, each in times.items()
    }
    return {"case": name, "cpu_s": {key: statistics.median(each) for key, each in times.items()}, "ratio": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    rows = []
    for name in CASES:
        rows.append(measure(name, args.rounds))
        print(json.dumps(rows[-1]))
    if args.out:
        command = f"python benchmarks/ensemble_cost.py --rounds {args.rounds} --out {args.out}"
        facts = {"command": command, "processor": processor(), "rows": rows}
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
