"""Is an update quicker in two threads than in one? Seconds of the clock and of the processor, in turns.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/threads.py --out benchmarks/results/threads.json

It needs idle cores to mean anything: the load before and after is written beside the times. Cases as in `precision.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from precision import CASES

from reverie.bench.subject import make_subject, random_batches
from reverie.config import build
from reverie.fast.choose import processor
from reverie.fast.modes import keep_memory
from reverie.run.directory import provenance
from reverie.train import DreamerV2, to_batch


def measure(name: str, threads: list[int], seconds: float, rounds: int) -> dict[str, Any]:
    """Updates of a case with each number of threads in turn: so many rounds, fewer where `seconds` are over."""
    subject = make_subject(**CASES[name])
    torch.manual_seed(0)
    settings = {"compute.device": "cpu", "compute.precision": "float32", "behavior.actor_warmup": 0}
    agent = DreamerV2(build(settings, base=subject.config), subject.spec)
    batches = cycle([to_batch(batch, torch.device("cpu")) for batch in random_batches(subject)])
    wall: dict[int, list[float]] = {count: [] for count in threads}
    busy: dict[int, list[float]] = {count: [] for count in threads}
    load, begin = os.getloadavg()[0], time.monotonic()
    for turn in range(1 + rounds):
        batch = next(batches)
        for count in threads:
            torch.set_num_threads(count)
            clock, cpu = time.perf_counter(), time.process_time()
            float(agent.update(batch)["critic/loss"])
            if turn:  # the first warms up
                wall[count].append(time.perf_counter() - clock)
                busy[count].append(time.process_time() - cpu)
        if turn and time.monotonic() - begin > seconds:
            break
    return {
        "case": name,
        "updates_each": len(wall[threads[0]]),
        "wall_s": {count: round(statistics.median(each), 4) for count, each in wall.items()},
        "least_wall_s": {count: round(min(each), 4) for count, each in wall.items()},
        "cpu_s": {count: round(statistics.median(each), 4) for count, each in busy.items()},
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["demo", "T"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each case at most, after its first round")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    keep_memory()
    rows = []
    for name in args.cases:
        row = measure(name, args.threads, args.seconds, args.rounds)
        rows.append(row)
        times = [f"{row['wall_s'][n]:.3f} s ({row['cpu_s'][n]:.3f} CPU s) with {n}" for n in args.threads]
        print(f"{name}: {', '.join(times)}; {row['updates_each']} updates each, load {row['load']}", flush=True)
    found = provenance(build({}))
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "processor": processor(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        **{key: found[key] for key in ("commit", "started", "hardware", "versions")},
        "rows": rows,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
