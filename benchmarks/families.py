"""Learning curves of one task per kind of family, on a CPU: three seeds each, against a threshold and random play.

    python benchmarks/families.py --out benchmarks/results/families.json

Each run is the preset as it stands (its own evaluations every `eval_every` steps), one core each, in a process of its
own; the same command continues what was interrupted. The threshold is what every seed must reach at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from reverie.config.presets import load_preset
from reverie.run.lines import read_lines
from reverie.run.loop import Run

#: name -> (preset, task, threshold of the last evaluation, what the threshold is)
TASKS = {
    "minigrid": ("demo", "MiniGrid-Empty-Random-6x6-v0", 0.90, "0.97 are shortest paths"),
    "minatar": ("minatar", "MinAtar/Breakout-v1", 3.0, "six times the random policy"),
    "dmc": ("dmc-small", "dmc/cartpole-swingup", 300.0, "of at most 1000; five times the random policy"),
}
STEPS = {"minigrid": {"env_steps": 12000}}  # the preset's 30,000 are more than it takes


def train(name: str, seed: int, runs: Path) -> None:
    """One run, to its end."""
    preset, task, _, _ = TASKS[name]
    settings = {"env.id": task, "train.seed": seed, "compute.threads": 1, "log.video": False, **STEPS.get(name, {})}
    Run(load_preset(preset, settings), runs / f"{name}-s{seed}").train()


def curve(run: Path) -> list[dict[str, float]]:
    """The evaluations of a run, in order."""
    lines = [line for line in read_lines(run / "episodes.jsonl") if line["phase"] == "eval"]
    marks = []
    for step in sorted({line["env_steps"] for line in lines}):
        scores = [line["return"] for line in lines if line["env_steps"] == step]
        seconds = next(line["seconds"] for line in lines if line["env_steps"] == step)
        interval = 1.96 * float(np.std(scores, ddof=1)) / len(scores) ** 0.5
        mark = {"env_steps": step, "mean": float(np.mean(scores)), "ci95": interval, "episodes": len(scores)}
        marks.append({key: round(value, 4) for key, value in (mark | {"seconds": seconds}).items()})
    return marks


def random_level(runs: list[Path]) -> dict[str, float]:
    scores = [x["return"] for run in runs for x in read_lines(run / "episodes.jsonl") if x["phase"] == "random"]
    return {"mean": round(float(np.mean(scores)), 4), "episodes": len(scores)} if scores else {}


def summary(names: list[str], seeds: list[int], runs: Path) -> dict[str, Any]:
    """All curves, with what they are measured against."""
    tasks = {}
    for name in names:
        preset, task, threshold, meaning = TASKS[name]
        found = [runs / f"{name}-s{seed}" for seed in seeds]
        curves = {str(seed): curve(run) for seed, run in zip(seeds, found, strict=True)}
        tasks[name] = {
            "task": task,
            "preset": preset,
            "settings": STEPS.get(name, {}),
            "threshold": threshold,
            "threshold_means": meaning,
            "random": random_level(found),
            "reached": all(marks[-1]["mean"] >= threshold for marks in curves.values()),
            "seeds": curves,
            "provenance": json.loads((found[0] / "provenance.json").read_text()),
        }
    return {"command": "python " + " ".join(sys.argv), "tasks": tasks}


def plot(result: dict[str, Any], path: Path) -> None:
    """One panel per task."""
    from matplotlib.figure import Figure

    tasks = result["tasks"]
    figure = Figure(figsize=(4.2 * len(tasks), 3.4), dpi=130, layout="constrained")
    for axes, facts in zip(np.atleast_1d(figure.subplots(1, len(tasks))), tasks.values(), strict=True):
        for index, (seed, marks) in enumerate(facts["seeds"].items()):
            steps, means = [m["env_steps"] for m in marks], [m["mean"] for m in marks]
            axes.errorbar(steps, means, [m["ci95"] for m in marks], fmt="o-", ms=3, capsize=2, color=f"C{index}",
                          label=f"seed {seed}")  # fmt: skip
        axes.axhline(facts["threshold"], color="tab:green", lw=1, ls=":", label="threshold")
        if facts["random"]:
            axes.axhline(facts["random"]["mean"], color="0.5", lw=1, ls="--", label="random policy")
        axes.set(title=f"{facts['task']}\n{facts['preset']}", xlabel="environment steps", ylabel="return")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=7)
    figure.savefig(path)


def main() -> None:
    """Run what is missing, then write the table, the JSON file and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one core each")
    parser.add_argument("--runs", type=Path, default=Path("runs/families"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--one", nargs=2, metavar=("TASK", "SEED"), help="(used by itself) this run only")
    args = parser.parse_args()
    if args.one:
        train(args.one[0], int(args.one[1]), args.runs)
        return
    waiting, running = [(name, seed) for seed in args.seeds for name in args.tasks], []
    while waiting or running:
        while waiting and len(running) < args.jobs:
            name, seed = waiting.pop(0)
            command = [sys.executable, __file__, "--runs", str(args.runs), "--out", str(args.out)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            running.append(subprocess.Popen([*command, "--one", name, str(seed)], env=environment))
        for done in [job for job in running if job.poll() is not None]:
            running.remove(done)
            if done.returncode != 0:
                sys.exit(f"a run failed: {done.args}")
        if running:
            time.sleep(1)
    result = summary(args.tasks, args.seeds, args.runs)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    plot(result, args.out.with_suffix(".png"))
    for facts in result["tasks"].values():
        ends = ", ".join(f"{marks[-1]['mean']:.2f}" for marks in facts["seeds"].values())
        print(f"{facts['task']:32} random {facts['random'].get('mean', float('nan')):.2f}  seeds {ends}  "
              f"threshold {facts['threshold']:g}: {'reached' if facts['reached'] else 'MISSED'}")  # fmt: skip


if __name__ == "__main__":
    main()
