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
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
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


def make_agents(case: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, DreamerV2]:
    """An agent of a case with each of some settings, on the CPU, all with the same first weights."""
    subject = make_subject(**case)
    agents = {}
    for setting, values in settings.items():
        torch.manual_seed(0)
        config = build({"compute.device": "cpu", "behavior.actor_warmup": 0} | values, base=subject.config)
        agents[setting] = DreamerV2(config, subject.spec)
    return agents


def in_turns(
    case: Mapping[str, Any],
    agents: Mapping[str, DreamerV2],
    seconds: float,
    rounds: int,
    around: Callable[[str], AbstractContextManager[Any]] = lambda setting: nullcontext(),
) -> dict[str, list[float]]:
    """CPU seconds of updates by each of some agents of a case, in turns. -> {setting: seconds of each round}.

    So many rounds at least, more as long as there is time. `around`: in what the updates of a setting run.
    """
    batches = cycle([to_batch(batch, torch.device("cpu")) for batch in random_batches(make_subject(**case))])
    times: dict[str, list[float]] = {setting: [] for setting in agents}
    begin, turn = time.monotonic(), 0
    while turn <= rounds or time.monotonic() - begin < seconds:
        batch = next(batches)
        for setting, agent in agents.items():
            with around(setting):
                start = time.process_time()
                float(agent.update(batch)["critic/loss"])
                took = time.process_time() - start
            if turn:  # the first warms up
                times[setting].append(took)
        turn += 1
    return times


def ratio(left: Sequence[float], right: Sequence[float]) -> float:
    """In each turn both met the same load, so the ratio of neighbours moves less than that of medians."""
    return statistics.median(a / b for a, b in zip(left, right, strict=True))


def measure(name: str, seconds: float, rounds: int) -> dict[str, Any]:
    """CPU seconds of an update of a case by each of `SETTINGS`."""
    agents = make_agents(CASES[name], SETTINGS)
    times = in_turns(CASES[name], agents, seconds, rounds)
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


def costs(settings: Mapping[str, Mapping[str, Any]], name: str, rounds: int) -> dict[str, Any]:
    """CPU seconds of a case's update by each setting in float32, and the ratios to the first in the same turn."""
    agents = make_agents(CASES[name], {key: {"compute.precision": "float32"} | each for key, each in settings.items()})
    times = in_turns(CASES[name], agents, 0, rounds)
    first = next(iter(times))
    return {
        "case": name,
        "cpu_s": {key: statistics.median(each) for key, each in times.items()},
        "ratio": {key: ratio(each, times[first]) for key, each in times.items()},
    }


def cost_main(description: str | None, names: Sequence[str], settings: Callable[[str], Mapping[str, Any]]) -> None:
    """The command line of a benchmark of what something costs: one row of `costs` for each case."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--cases", nargs="+", choices=names, default=list(names))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    rows = []
    for name in args.cases:
        rows.append(costs(settings(name), name, args.rounds))
        print(json.dumps(rows[-1]), flush=True)
    if args.out:
        facts = {"command": shlex.join(["python", *sys.argv]), "processor": processor(), "rows": rows}
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


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
