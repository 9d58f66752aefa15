"""What a hierarchy costs an update: CPU time with and without one, in turns, one thread.

python benchmarks/hierarchy_cost.py --rounds 12 --out benchmarks/results/hierarchy_cost.json
"""

from __future__ import annotations

from typing import Any

from precision import cost_main

#: In demo's size the networks of the goals are as `director+demo` has them, else the published ones.
GOALS: dict[str, dict[str, Any]] = {
    "demo": {"hierarchy.goal_layers": 2, "hierarchy.goal_dim": 128},
    "T": {},
    "A": {},
}


def settings(name: str) -> dict[str, dict[str, Any]]:
    """Flat, flat with dreams as long as those of the hierarchy, and the hierarchy."""
    return {
        "flat": {},
        "flat, dreams of 16": {"behavior.imagination_horizon": 16},
        "hierarchy": {"hierarchy.goal_every": 8, **GOALS[name]},
    }


if __name__ == "__main__":
    cost_main(__doc__, list(GOALS), settings)
