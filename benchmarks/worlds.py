"""Does an agent reproduce what is known in closed form? Every world of tests/worlds, several seeds: a table and a JSON.

    python benchmarks/worlds.py --seeds 0 1 2 --out benchmarks/results/worlds.json

About a minute per world and seed on one core; the exit code is 1 if any figure misses its threshold.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from worlds import measure
from worlds.worlds import WORLDS

from reverie.config import to_dict
from reverie.run.directory import provenance


def one(world: str, seed: int) -> dict[str, Any]:
    """Train, measure and print one world with one seed. -> plain values for JSON."""
    figures, seconds = measure.measure(world, seed)
    print(f"\n{world}, seed {seed}: {seconds:.0f} s of training\n{table(figures)}", flush=True)
    return {
        "seconds": round(seconds, 1),
        "ok": all(figure.ok for figure in figures.values()),
        "figures": {
            name: {key: finite(value) for key, value in figure._asdict().items()} | {"ok": figure.ok}
            for name, figure in figures.items()
        },
    }


def finite(value: float) -> float | None:
    """JSON has no infinity: an open end of an interval, or a NaN, is null."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def table(figures: dict[str, measure.Figure]) -> str:
    rows = ["| figure | measured | truth | must be | ok |", "|---|---|---|---|---|"]
    for name, figure in figures.items():
        mark = "ok" if figure.ok else "NO"
        rows.append(f"| {name} | {figure.value:.4f} | {figure.truth:.4f} | {figure.wanted} | {mark} |")
    return "\n".join(rows)


def summary(worlds: dict[str, dict[str, Any]]) -> str:
    rows = ["| world | " + " | ".join(f"seed {seed}" for seed in next(iter(worlds.values()))) + " |"]
    rows.append("|---|" + "---|" * (rows[0].count("|") - 2))
    for world, seeds in worlds.items():
        cells = []
        for run in seeds.values():
            good = sum(figure["ok"] for figure in run["figures"].values())
            cells.append(f"{good} of {len(run['figures'])} ({run['seconds']:.0f} s)")
        rows.append(f"| {world} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    configs = {world: measure.settings(world, args.seeds[0]) for world in args.worlds}
    result: dict[str, Any] = {
        "provenance": provenance(configs[args.worlds[0]]) | {"seeds": args.seeds},
        "configs": {world: to_dict(config) for world, config in configs.items()},
        "worlds": {},
    }
    del result["provenance"]["seed"], result["provenance"]["protocol"]  # of the first run only
    for world in args.worlds:
        result["worlds"][world] = {}
        for seed in args.seeds:
            result["worlds"][world][str(seed)] = one(world, seed)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result, indent=1))  # after each: half a table is better than none
    print(f"\nfigures within their thresholds\n{summary(result['worlds'])}")
    sys.exit(not all(run["ok"] for seeds in result["worlds"].values() for run in seeds.values()))


if __name__ == "__main__":
    main()
