"""What an ensemble costs an update: CPU time with and without one, in turns, one thread.

python benchmarks/ensemble_cost.py --rounds 12 --out benchmarks/results/ensemble_cost.json
"""

from __future__ import annotations

from typing import Any

from precision import cost_main

TRAINED = {"ensemble.members": 5, "ensemble.member_dim": 200}
EXPLORE = {"behavior.explore": "ensemble"} | TRAINED
SETTINGS: dict[str, dict[str, Any]] = {
    "without": {},
    "only trained": TRAINED,
    "penalty": TRAINED | {"behavior.uncertainty_penalty": 1.0},
    "explore, starts shared out": EXPLORE | {"ensemble.start_share": 0.5},
    "explore, all starts for both": EXPLORE | {"ensemble.start_share": 1.0},
}

if __name__ == "__main__":
    cost_main(__doc__, ("demo", "T", "A"), lambda name: SETTINGS)
