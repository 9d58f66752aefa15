"""For how much of its time does a run wait for its checkpoints?

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/checkpoint_stall.py --out benchmarks/results/stall.json

A real run of a preset, with a checkpoint every few seconds; measured is what `Run.save` takes of the loop's time, once
copying and writing in the background, once (`--wait`) writing while the loop waits.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from reverie.commands.bench import cpu_model
from reverie.config.presets import load_preset
from reverie.run.loop import Run


def measure(preset: str, overrides: dict[str, Any], *, wait: bool) -> dict[str, Any]:
    """Train, and time every save."""
    with tempfile.TemporaryDirectory() as place:
        run = Run(load_preset(preset, overrides), Path(place) / "run")
        took: list[float] = []
        save = run.save

        def timed(**options: Any) -> None:
            start = time.perf_counter()
            save(wait=wait) if options else save()
            if options:  # a periodic one; the last one waits in any case
                took.append(time.perf_counter() - start)

        run.save = timed  # type: ignore[method-assign]
        start = time.perf_counter()
        run.train()
        seconds = time.perf_counter() - start
    return {
        "checkpoints": len(took),
        "seconds": round(seconds, 2),
        "stall_ms": [round(1e3 * each, 2) for each in took],
        "stall_share": sum(took) / seconds,
        "env_steps": run.clock.env_steps,
        "updates": run.clock.updates,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--minutes", type=float, default=1.5)
    parser.add_argument("--every", type=float, default=10, help="seconds between checkpoints (default of a run: 300)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("settings", nargs="*", help="name=value")
    args = parser.parse_args()
    overrides = dict(word.split("=", 1) for word in args.settings)
    overrides |= {"minutes": args.minutes, "env_steps": 10**9, "checkpoint_every": args.every, "eval_every": 0}
    overrides |= {"random_baseline": False, "forecast": False, "log.tensorboard": False}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "command": "python " + shlex.join(sys.argv),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit,
        "cpu": cpu_model(),
        "every_s": args.every,
        "background": measure(args.preset, overrides, wait=False),
        "waiting": measure(args.preset, overrides, wait=True),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    for name in ("background", "waiting"):
        row = result[name]
        print(f"{name:10} {row['stall_share']:.3%} of {row['seconds']:.0f} s, {row['checkpoints']} checkpoints")


if __name__ == "__main__":
    main()
