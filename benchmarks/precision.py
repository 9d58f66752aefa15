"""Is `compute.precision=auto` as quick as the best single number type, and never slower than float32 or the reference?

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/precision.py --out benchmarks/results/precision.json

CPU seconds of an update (random experience), the settings in turns A B C D; demo and vector are the presets with images
of 28x28x3 and vectors of 4, T and A the agents of `peers.py`. Exit code 1 where `auto` takes more than 1.03 of the time
of float32, of the reference or of the best single type.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from leads import SUBJECTS, T

from reverie.bench.subject import make_subject, random_batches
from reverie.config import build
from reverie.fast.choose import processor
from reverie.fast.modes import keep_memory
from reverie.fast.products import said
from reverie.run.directory import provenance
from reverie.train import DreamerV2, to_batch

CASES: dict[str, dict[str, Any]] = {
    "demo": {"preset": "demo", "overrides": {}, "shape": (28, 28, 3), "actions": 7},
    "vector": {"preset": "vector", "overrides": {}, "shape": (4,), "actions": 2},
    "T": SUBJECTS["T"] | {"overrides": T},
    "A": SUBJECTS["A"],
}
#: What is measured; the last one is what users have.
SETTINGS = {
    "reference": {"compute.mode": "reference", "compute.precision": "float32"},
    "float32": {"compute.precision": "float32"},
    "bfloat16": {"compute.precision": "bfloat16"},
    "auto": {"compute.precision": "auto"},
}
BAR = 1.03


def in_turns(
    case: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]], seconds: float, rounds: int
) -> tuple[dict[str, DreamerV2], dict[str, list[float]]]:
    """CPU seconds of updates by agents of a case with each of some settings, in turns.

    So many rounds at least, more as long as there is time. -> {setting: agent}, {setting: seconds of each round}.
    """
    subject = make_subject(**case)
    agents = {}
    for setting, values in settings.items():
        torch.manual_seed(0)
        config = build({"compute.device": "cpu", "behavior.actor_warmup": 0} | values, base=subject.config)
        agents[setting] = DreamerV2(config, subject.spec)
    batches = cycle([to_batch(batch, torch.device("cpu")) for batch in random_batches(subject)])
    times: dict[str, list[float]] = {setting: [] for setting in agents}
    begin, turn = time.monotonic(), 0
    while turn <= rounds or time.monotonic() - begin < seconds:
        batch = next(batches)
        for setting, agent in agents.items():
            start = time.process_time()
            float(agent.update(batch)["critic/loss"])
            if turn:  # the first warms up
                times[setting].append(time.process_time() - start)
        turn += 1
    return agents, times


def ratio(left: Sequence[float], right: Sequence[float]) -> float:
    """In each turn both met the same load, so the ratio of neighbours moves less than that of medians."""
    return statistics.median(a / b for a, b in zip(left, right, strict=True))


def measure(name: str, seconds: float, rounds: int) -> dict[str, Any]:
    """CPU seconds of an update of a case by each of `SETTINGS`."""
    agents, times = in_turns(CASES[name], SETTINGS, seconds, rounds)
    median = {setting: statistics.median(each) for setting, each in times.items()}
    precision = agents["auto"].precision
    return {
        "case": name,
        "choice": said(precision.types),
        "why": precision.why,
        "cpu_s": median,
        "least_cpu_s": {setting: min(each) for setting, each in times.items()},
        "updates_each": len(times["auto"]),
        "auto_over": {
            setting: ratio(times["auto"], times[setting]) for setting in ("reference", "float32", "bfloat16")
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seconds", type=float, default=20.0, help="for each case at least")
    parser.add_argument("--rounds", type=int, default=3, help="for each case at least")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    rows = [measure(name, args.seconds, args.rounds) for name in args.cases]
    for row in rows:
        over = ", ".join(f"{ratio:.2f}x {setting}" for setting, ratio in row["auto_over"].items())
        times = ", ".join(f"{setting} {1e3 * value:.4g}" for setting, value in row["cpu_s"].items())
        print(f"{row['case']:7} {times} CPU ms; auto: {over}; {row['choice']}")
    found = provenance(build({}))
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "processor": processor(),
        "bar": BAR,
        **{key: found[key] for key in ("commit", "started", "hardware", "versions")},
        "rows": rows,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    slow = [row["case"] for row in rows if max(row["auto_over"].values()) > BAR]
    print(f"auto is slower than {BAR} of another setting: {', '.join(slow)}" if slow else f"auto is within {BAR}")
    return 1 if slow else 0


if __name__ == "__main__":
    raise SystemExit(main())
