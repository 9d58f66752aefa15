"""How well does a preset learn a task after so many minutes of training? One table, one JSON file, one curve.

    python benchmarks/learning.py --preset demo --seeds 0 1 2 3 4 --minutes 1 2 4 --out benchmarks/results/demo.json

Each seed is one run in a process of its own, stopped at each mark, evaluated, and continued (so it also tries resume).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from reverie.config import to_dict
from reverie.config.presets import load_preset
from reverie.run.directory import provenance
from reverie.run.evaluation import Evaluation, evaluate, random_policy
from reverie.run.lines import read_lines
from reverie.run.loop import Run
from reverie.run.tasks import make_envs


def one_run(args: argparse.Namespace, seed: int) -> None:
    """Train one seed to each mark in turn; the evaluations go to the run's episodes.jsonl."""
    for minutes in args.minutes:
        settings = task_settings(args) | {
            "train.seed": seed,
            "train.minutes": minutes,
            "train.eval_episodes": args.episodes,
        }
        settings |= {"train.eval_every": 0, "train.env_steps": args.env_steps, "compute.threads": args.threads}
        Run(load_preset(args.preset, settings), run_directory(args, seed)).train()


def task_settings(args: argparse.Namespace) -> dict[str, Any]:
    """name=value arguments, and the task."""
    return dict(item.split("=", 1) for item in args.settings) | ({"env.id": args.env} if args.env else {})


def run_directory(args: argparse.Namespace, seed: int) -> Path:
    return args.runs / f"{args.out.stem}-s{seed}"


def random_score(args: argparse.Namespace, episodes: int = 100) -> tuple[float, float]:
    """Mean and 95 % half width of uniformly random actions on the same task."""
    config = load_preset(args.preset, task_settings(args))
    envs = make_envs(config, None, 4)
    action, rng = envs.get_attr("agent_spec")[0].action, np.random.default_rng(0)
    result = evaluate(envs, random_policy(lambda count, mask: action.random(rng, count, mask)), episodes, seed=0)
    envs.close()
    return result.mean, result.interval


def summary(args: argparse.Namespace) -> dict[str, Any]:
    """Everything measured, from the files of the runs."""
    seeds: dict[str, Any] = {}
    for seed in args.seeds:
        lines = [x for x in read_lines(run_directory(args, seed) / "episodes.jsonl") if x["phase"] == "eval"]
        marks = sorted({line["env_steps"] for line in lines})
        seeds[str(seed)] = [mark_summary([x for x in lines if x["env_steps"] == mark]) for mark in marks]
    first = run_directory(args, args.seeds[0])
    mean, interval = random_score(args)
    config = load_preset(args.preset, task_settings(args))
    return {
        "command": "python " + " ".join(sys.argv),
        "preset": args.preset,
        "task": config.env.id,
        "minutes": args.minutes,
        "random": {"mean": mean, "ci95": interval, "episodes": 100},
        "seeds": seeds,
        "provenance": json.loads((first / "provenance.json").read_text()) | {"command": provenance(config)["command"]},
        "jobs_at_a_time": args.jobs,
        "config": to_dict(config),
    }


def mark_summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    result = Evaluation([line["return"] for line in lines], [line["length"] for line in lines])
    return {
        "seconds": lines[0]["seconds"],
        "env_steps": lines[0]["env_steps"],
        "mean": round(result.mean, 4),
        "ci95": round(result.interval, 4),
        "episodes": len(result.scores),
        "scores": result.scores,
    }


def plot(result: dict[str, Any], args: argparse.Namespace) -> None:
    """All seeds' training episodes (running mean) and evaluations over training time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    for index, (seed, marks) in enumerate(result["seeds"].items()):
        lines = read_lines(run_directory(args, int(seed)) / "episodes.jsonl")
        train = [(x["seconds"] / 60, x["return"]) for x in lines if x["phase"] == "train"]
        if len(train) >= 20:
            scores = np.convolve([score for _, score in train], np.ones(20) / 20, "valid")
            axes.plot([t for t, _ in train[19:]], scores, color=f"C{index}", lw=1, alpha=0.5)
        axes.plot([m["seconds"] / 60 for m in marks], [m["mean"] for m in marks], "o-", color=f"C{index}",
                  label=f"seed {seed}: evaluation")  # fmt: skip
    axes.axhline(result["random"]["mean"], color="0.5", ls="--", lw=1, label="random policy")
    axes.set(xlabel="minutes of training", ylabel="return of an episode", title=f"{result['task']}, {result['preset']}")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(args.out.with_suffix(".png"))


def table(result: dict[str, Any]) -> str:
    random = result["random"]
    head = " | ".join(f"after {m:g} min" for m in result["minutes"])
    rows = [f"| seed | {head} |", "|---|" + "---|" * len(result["minutes"])]
    for seed, marks in result["seeds"].items():
        rows.append(f"| {seed} | " + " | ".join(f"{m['mean']:.3f} ± {m['ci95']:.3f}" for m in marks) + " |")
    return "\n".join([*rows, f"random policy: {random['mean']:.3f} ± {random['ci95']:.3f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--env")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--env-steps", type=int, default=10_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one core each")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--one", type=int, help="(used by itself) run this seed only")
    parser.add_argument("settings", nargs="*", help="name=value")
    args = parser.parse_args()
    if args.one is not None:
        one_run(args, args.one)
        return
    waiting, running = list(args.seeds), []
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    while waiting or running:
        while waiting and len(running) < args.jobs:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", str(waiting.pop(0))]
            running.append(subprocess.Popen(command, env=environment))
        done = running.pop(0)
        if done.wait() != 0:
            sys.exit(f"a run failed: {done.args}")
    result = summary(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1))
    plot(result, args)
    print(table(result))


if __name__ == "__main__":
    main()
