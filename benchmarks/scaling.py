"""How does the cost of an update grow? With the batch, the length, the horizon, the model; and of acting, with envs.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/scaling.py --out benchmarks/results/scaling.json

One thing is changed at a time, from the small Atari agent T of `peers.py` (64x64x3, 16 x 16, horizon 15) in the
fast mode. CPU seconds, the median of a few updates; one thread. JSON and a plot beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from reverie.bench.clocks import Effort
from reverie.bench.learning import bench_policy, bench_update
from reverie.bench.subject import make_subject
from reverie.commands.bench import cpu_model

BASE: dict[str, Any] = {
    "cnn_depth": 24, "rnn_hidden_dim": 200, "rssm_hidden_dim": 200, "hidden_dim": 200, "batch_size": 16, "seq_len": 16,
    "imagination_horizon": 15, "compute.threads": 1, "compute.device": "cpu",
}  # fmt: skip


def wide(units: int) -> dict[str, Any]:
    """All widths together, and the images' depth with them."""
    return {"cnn_depth": 24 * units // 200, "rnn_hidden_dim": units, "rssm_hidden_dim": units, "hidden_dim": units}


CURVES: dict[str, tuple[str, list[tuple[int, dict[str, Any]]]]] = {
    "batch": ("sequences in a batch", [(n, {"batch_size": n}) for n in (4, 8, 16, 32, 64)]),
    "length": ("steps of a sequence", [(n, {"seq_len": n}) for n in (4, 8, 16, 32, 64)]),
    "horizon": ("imagined steps", [(n, {"imagination_horizon": n}) for n in (5, 10, 15, 30)]),
    "width": ("width of all layers", [(n, wide(n)) for n in (50, 100, 200, 400)]),
}
ENVS = (1, 4, 16, 64)


def measure(changes: dict[str, Any], effort: Effort) -> dict[str, Any]:
    """One point of a curve."""
    subject = make_subject("atari", BASE | changes, shape=(64, 64, 3), actions=6)
    found = bench_update(subject, effort, lambda text: None)
    return {
        "cpu_s": found["update"]["cpu_s"]["median"],
        "gflop": found["flops_per_update"] / 1e9,
        "parameters": found["parameters"],
        "parts_ms": {f"{part['phase']}: {part['part']}": round(part["ms"], 2) for part in found["parts"]},
    }


def plot(result: dict[str, Any], path: Path) -> None:
    """One panel a curve; the dashed line is proportional to the arithmetic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 2.9), dpi=130, layout="constrained")
    panels = [*result["curves"], "envs"]
    for i, name in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        if name == "envs":
            points = result["policy"]
            x, y = [p["num_envs"] for p in points], [1e3 * p["cpu_s"] / p["num_envs"] for p in points]
            label, unit = "environments acted in at once", "ms of acting for each"
        else:
            points, label = result["curves"][name], CURVES[name][0]
            x, y, unit = [p["value"] for p in points], [p["cpu_s"] for p in points], "CPU seconds of an update"
            middle = next(p for p in points if p["gflop"] == result["base_gflop"])
            floor = [middle["cpu_s"] * p["gflop"] / middle["gflop"] for p in points]
            axes.plot(x, floor, "--", color="#a8a8a8", lw=1, label="as the arithmetic")
            axes.legend(fontsize=7, frameon=False)
        axes.plot(x, y, "o-", color="#2f6f9f", ms=4)
        axes.set_xscale("log", base=2)
        axes.set_xticks(x, [str(v) for v in x])
        axes.set_ylim(bottom=0)
        axes.set_xlabel(label, fontsize=8)
        axes.set_ylabel(unit, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3, help="for each point, three updates at least")
    args = parser.parse_args()
    effort = Effort(args.seconds)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result: dict[str, Any] = {
        "command": "python " + shlex.join(sys.argv),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "base": BASE,
        "curves": {},
    }
    measure({}, effort)  # the first one pays for pages and libraries
    for name, (_, points) in CURVES.items():
        result["curves"][name] = []
        for value, changes in points:
            point = {"value": value, **measure(changes, effort)}
            result["curves"][name].append(point)
            print(f"{name:8} {value:4}  {point['cpu_s']:.3f} s, {point['gflop']:.1f} GFLOP", flush=True)
    result["base_gflop"] = next(p["gflop"] for p in result["curves"]["batch"] if p["value"] == BASE["batch_size"])
    result["policy"] = []
    for count in ENVS:
        subject = make_subject("atari", BASE | {"env.num_envs": count}, shape=(64, 64, 3), actions=6)
        step = bench_policy(subject, Effort(1), lambda text: None)["policy"][-1]
        result["policy"].append({"num_envs": count, "cpu_s": step["step"]["cpu_s"]["median"]})
        print(f"acting   {count:4}  {1e3 * result['policy'][-1]['cpu_s']:.2f} ms", flush=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    plot(result, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
