"""Which DreamerV3 ingredients help a DreamerV2 agent on a small budget? One ingredient at a time, same tasks and seeds.

    python benchmarks/ingredients.py --env MiniGrid-DoorKey-5x5-v0 --seeds 0 1 2 --steps 4000 8000 \
        --out benchmarks/results/ingredients.json

The base is preset `demo` without what it borrowed (zero_init). The budget is counted in environment steps, because the
question is sample efficiency; seconds are reported beside it. What `atari100k` switches on is chosen from this table.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from reverie.config.presets import load_preset
from reverie.run.directory import provenance
from reverie.run.lines import read_lines
from reverie.run.loop import Run

BASE: dict[str, Any] = {"zero_init": False, "prioritize": "none"}
VARIANTS: dict[str, dict[str, Any]] = {
    "V2": {},
    "zero_init": {"zero_init": True},
    "two-hot symlog": {
        "zero_init": True,  # two-hot heads need it: 255 random bins between -20 and 20 are wild guesses
        "reward_transform": "symlog",
        "reward_distribution": "twohot",
        "critic_distribution": "twohot",
        "critic_transform": "symlog",
    },
    "unimix": {"unimix": 0.01, "policy_unimix": 0.01},
    "percentile returns": {"return_norm": "percentile"},
    "free bits per side": {
        "kl_mode": "separate",
        "dyn_scale": 1.0,
        "rep_scale": 0.1,
        "free_nats": 1.0,
        "free_avg": False,
    },
    "RMSNorm + SiLU": {"norm_kind": "rms", "conv_norm": True, "activation": "silu"},
    "LaProp + AGC": {"optimizer": "laprop", "adam_eps": 1e-20, "agc": 0.3, "lr_warmup": 100, "weight_decay": 0.0},
    "online targets + EMA pull": {
        "slow_critic": False,
        "critic_regularizer": 1.0,
        "slow_critic_every": 1,
        "slow_critic_fraction": 0.02,
    },
}


def measure(args: argparse.Namespace, name: str, seed: int) -> list[dict[str, float]]:
    """Train to each mark in turn; -> evaluation and seconds at each."""
    run = args.runs / f"ingredient-{name.replace(' ', '_')}-s{seed}"
    for steps in args.steps:
        settings = BASE | VARIANTS[name] | {"env.id": args.env, "train.seed": seed, "env_steps": steps}
        settings |= {"eval_every": 0, "random_baseline": False, "eval_episodes": args.episodes, "threads": 1}
        settings |= {"video": False, "tensorboard": False}
        Run(load_preset("demo", settings), run).train()
    lines = [line for line in read_lines(run / "episodes.jsonl") if line["phase"] == "eval"]
    marks = sorted({line["env_steps"] for line in lines})
    return [
        {
            "env_steps": mark,
            "return": round(float(np.mean([line["return"] for line in lines if line["env_steps"] == mark])), 4),
            "seconds": next(line["seconds"] for line in lines if line["env_steps"] == mark),
        }
        for mark in marks
    ]


def table(results: dict[str, dict[str, list[dict[str, float]]]], steps: list[int]) -> str:
    rows = ["| ingredient | " + " | ".join(f"at {n} steps: mean (each seed)" for n in steps) + " | seconds |"]
    rows.append("|---|" + "---|" * (len(steps) + 1))
    for name, seeds in results.items():
        cells = []
        for place in range(len(steps)):
            scores = [marks[place]["return"] for marks in seeds.values()]
            cells.append(f"{np.mean(scores):.3f} ({' '.join(f'{score:.2f}' for score in scores)})")
        seconds = np.mean([marks[-1]["seconds"] for marks in seeds.values()])
        rows.append(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="MiniGrid-DoorKey-5x5-v0")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[4000, 8000])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    for seed in args.seeds:
        for name in args.only:
            results.setdefault(name, {})[str(seed)] = marks = measure(args, name, seed)
            print(f"seed {seed} {name:28} {marks}", flush=True)
            facts = provenance(load_preset("demo", BASE | {"env.id": args.env}))
            facts["command"] = "python " + " ".join(sys.argv)
            report = {"base": BASE, "variants": VARIANTS, "env": args.env, "results": results, "provenance": facts}
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(report, indent=1))
    print(table(results, args.steps))


if __name__ == "__main__":
    main()
