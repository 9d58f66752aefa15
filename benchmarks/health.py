"""Cost of the health checks of latents, heads and critic, as a share of update time: CPU time, one thread.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/health.py --out benchmarks/results/health.json

Updates and health checks in turn in one process; a snapshot comes every `log.health_every` updates.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from reverie.bench.subject import make_subject, random_batch
from reverie.commands.bench import cpu_model
from reverie.run.health import snapshot
from reverie.train import to_batch

#: name -> preset, settings, shape of an observation
SUBJECTS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "demo": ("demo", {}, (28, 28, 3)),
    "vector": ("vector", {}, (4,)),
    "T": ("atari", {"cnn_depth": 24, "rnn_hidden_dim": 200, "model.hidden_dim": 200, "batch_size": 16, "seq_len": 16},
          (64, 64, 3)),
}  # fmt: skip


def measure(preset: str, settings: dict[str, Any], shape: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Medians in milliseconds, and the share of a snapshot in the updates between two of them."""
    subject = make_subject(preset, settings | {"compute.device": "cpu"}, shape=shape, actions=6)
    agent, batch = subject.agent(), to_batch(random_batch(subject))
    updates, checks = [], []
    for i in range(rounds + 2):
        start = time.process_time()
        agent.update(batch)
        middle = time.process_time()
        snapshot(agent, batch, seed=i)
        end = time.process_time()
        if i >= 2:
            updates.append(middle - start)
            checks.append(end - middle)
    share = median(checks) / median(updates) / subject.config.log.health_every
    return {"update_ms": round(1e3 * median(updates), 2), "look_ms": round(1e3 * median(checks), 2), "share": share}


def main() -> None:
    """Print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    rows = {name: measure(*subject, args.rounds) for name, subject in SUBJECTS.items()}
    result = {
        "command": "python " + shlex.join(sys.argv),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit,
        "cpu": cpu_model(),
        "python": platform.python_version(),
        "rows": rows,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in rows.items():
        print(f"{name:8} update {row['update_ms']:8.1f} ms   snapshot {row['look_ms']:7.1f} ms   {row['share']:.3%}")


if __name__ == "__main__":
    main()
