"""Does a run take the memory and the time that its forecast says? Three presets, each run in a process of its own.

    python benchmarks/forecast.py --out benchmarks/results/forecast.json

Real runs to their end: random play, learning, evaluation, checkpoints. The measured peak is the largest resident memory
after the forecast was made (VmHWM); the replay is filled to its capacity in the third.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reverie.run.state.forecast import peak

from reverie.config.presets import load_preset
from reverie.run.loop import Run

TARGET = 0.10
#: name -> (preset, settings)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "demo": ("demo", {"env_steps": 4000}),
    "vector": ("vector", {"env.id": "CartPole-v1", "env_steps": 3000}),
    "dreamerv2, 64x64": (
        "dreamerv2",
        {
            "env.id": "MiniGrid-Empty-8x8-v0", "num_envs": 4, "replay_capacity": 20_000, "prefill": 20_000,
            "env_steps": 20_400, "train_ratio": 0.01, "pretrain": 1, "eval_every": 0, "eval_episodes": 1,
        },
    ),
}  # fmt: skip


def one(name: str) -> dict[str, Any]:
    """Run a case in this process and compare."""
    preset, settings = CASES[name]
    config = load_preset(preset, settings | {"random_baseline": False, "log.tensorboard": False})
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config, Path(folder) / "run")
        told = run.state.forecast
        start = time.monotonic()
        run.train()
        facts = json.loads((Path(folder) / "run" / "provenance.json").read_text())
        files = sum(path.stat().st_size for path in (Path(folder) / "run").rglob("*") if path.is_file())
    if told is None:
        raise RuntimeError("the run made no forecast")
    measured = peak() or 0
    return {
        "case": name,
        "preset": preset,
        "settings": settings,
        "forecast_peak": told.peak,
        "measured_peak": measured,
        "error": round(told.peak / measured - 1, 4),
        "forecast_added": told.added,
        "forecast_disk": told.disk,
        "measured_disk": files,
        "forecast_seconds": round(told.seconds(config.train.env_steps, told.idle), 1),
        "measured_seconds": round(time.monotonic() - start, 1),
        "provenance": facts,
    }


def main() -> None:
    """All cases, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", choices=list(CASES), help="(used by itself) this case only, as JSON")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one)))
        return
    rows = []
    for name in CASES:
        done = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{name}: {done.stderr[-2000:]}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        row = rows[-1]
        told, found = row["forecast_peak"] / 1e6, row["measured_peak"] / 1e6
        print(
            f"{name:18} memory {told:7.0f} MB foretold, {found:7.0f} measured ({row['error']:+.1%}); "
            f"{row['forecast_seconds']:.0f} s foretold, {row['measured_seconds']:.0f} measured; "
            f"disk {row['forecast_disk'] / 1e6:.0f} and {row['measured_disk'] / 1e6:.0f} MB",
            flush=True,
        )
    within = all(abs(row["error"]) <= TARGET for row in rows)
    print(f"memory within {TARGET:.0%}: {'yes' if within else 'NO'}")
    if args.out:
        found = {"command": "python " + " ".join(sys.argv), "target": TARGET, "within": within, "cases": rows}
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
