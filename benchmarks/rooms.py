"""How many cells of Rooms-v0 random policies reach: free, and with actions kept for 4 and 8 steps. Ten seeds each.

python benchmarks/rooms.py --out benchmarks/results/rooms.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from reverie.envs.families.rooms import Options, Rooms

SEEDS, MARKS = 10, (2_000, 5_000, 10_000, 20_000)


def coverage(rooms: int, hold: int, seed: int) -> list[float]:
    """The share of the cells that were reached after so many steps each of `MARKS`."""
    env, rng = Rooms(Options(rooms=rooms)), np.random.default_rng(seed)
    env.reset()
    seen, shares, action = {env.cell}, [], 0
    for step in range(1, MARKS[-1] + 1):
        if (step - 1) % hold == 0:
            action = int(rng.integers(env.action_space.n))
        truncated = env.step(action)[3]
        seen.add(env.cell)
        if truncated:
            env.reset()
        if step in MARKS:
            shares.append(len(seen) / len(env.cells))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for rooms in (4, 6, 8):
        for hold in (1, 4, 8):
            found = np.array([coverage(rooms, hold, seed) for seed in range(SEEDS)])
            mean, spread = found.mean(0).round(3).tolist(), found.std(0, ddof=1).round(3).tolist()
            rows.append({"rooms": rooms, "hold": hold, "steps": MARKS, "coverage": mean, "deviation": spread})
            print(json.dumps(rows[-1]))
    if args.out:
        facts = {"command": f"python benchmarks/rooms.py --out {args.out}", "seeds": SEEDS, "rows": rows}
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
