"""The items of `benchmarks/gpu.sh`, one after the other, each in its own process, within a given time.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json

Items that did not finish in time, or were not begun for lack of it, are recorded as such. Targets are for one H200.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ATARI = "--preset atari --shape 64 64 1 --actions 18"
LONG, SHORT = "--batch 50 --length 50", "--batch 16 --length 64"
#: What is not measured by `reverie bench` -> the words of the script that does it.
SCRIPTS = {"roofline": ["benchmarks/roofline.py"], "train": ["benchmarks/throughput.py", "train"]}
TINY = "cnn_depth=4 rnn_hidden_dim=32 rssm_hidden_dim=32 hidden_dim=32"


class Item(NamedTuple):
    """Something to measure; limit: seconds after which it is stopped."""

    name: str
    words: str  # of `reverie bench`, or of a script in SCRIPTS
    limit: float = 60
    target: str = ""


ITEMS = [
    Item("update-50x50-graph", f"update {ATARI} {LONG} compute.mode=graph --seconds 4", target=">= 60 updates/s"),
    Item("update-16x64-graph", f"update {ATARI} {SHORT} compute.mode=graph --seconds 4", target=">= 120 updates/s"),
    Item("packed-4-16x64", f"update {ATARI} {SHORT} compute.mode=graph --seeds 4", target=">= 250 updates/s"),
    Item("train", "train --preset atari100k --env ALE/Pong-v5 compute.mode=graph --seconds 20", 90, "GPU busy >= 90 %"),
    Item("replay-50x50", f"replay --preset atari --shape 64 64 3 --actions 6 {LONG}", target="<= 1.5 x a copy"),
    Item("policy", f"policy {ATARI}"),
    Item("update-50x50-fast", f"update {ATARI} {LONG} compute.mode=fast --seconds 3"),
    Item("update-50x50-reference", f"update {ATARI} {LONG} compute.mode=reference --seconds 3"),
    Item("update-50x50-graph-fp32", f"update {ATARI} {LONG} compute.mode=graph precision=float32 --seconds 3"),
    Item("update-50x50-compile", f"update {ATARI} {LONG} compute.mode=compile precision=bfloat16 --seconds 3", 90),
    Item("roofline-50x50", f"roofline {ATARI} {LONG}"),
    Item("roofline-16x64", f"roofline {ATARI} {SHORT}"),
    Item("packed-8-16x64", f"update {ATARI} {SHORT} compute.mode=graph --seconds 4 --seeds 8"),
]


def small(item: Item) -> Item:
    """The same on a CPU in seconds: only to try the script."""
    words = item.words.replace("compute.mode=graph", "compute.mode=fast").replace("compute.mode=compile", "")
    for sizes in (LONG, SHORT):
        words = words.replace(sizes, "--batch 4 --length 8")
    if "train" in words:
        words = words.replace("--preset atari100k --env ALE/Pong-v5", "--preset demo")
    elif "atari" in words:
        words += f" {TINY}"
    words = " ".join("1" if before == "--seconds" else word for before, word in pairs(words.split()))
    return item._replace(words=f"{words} --device cpu")


def pairs(words: list[str]) -> list[tuple[str, str]]:
    return list(zip(["", *words[:-1]], words, strict=True))


class Busy:
    """Percent of the time in which the GPU did something, as nvidia-smi sees it, every fifth of a second."""

    def __enter__(self) -> Busy:
        self.seen: list[float] = []
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
        try:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except FileNotFoundError:
            self.process = None
            return self
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.seen.append(float(line))

    def __exit__(self, *_: Any) -> None:
        if self.process is not None:
            self.process.kill()

    def percent(self, seconds: float) -> float | None:
        """Of the last so many seconds."""
        last = self.seen[-int(5 * seconds) :]
        return round(sum(last) / len(last), 1) if last else None


def run(item: Item, left: float) -> dict[str, Any]:
    """One item -> its row."""
    what, *words = shlex.split(item.words)
    program = SCRIPTS.get(what, ["-m", "reverie", "bench", what])
    command = [sys.executable, *program, *words, "--json"]
    row: dict[str, Any] = {"name": item.name, "command": shlex.join(["python", *command[1:]]), "target": item.target}
    if left < 15:
        return row | {"error": "not begun: no time left"}
    start = time.monotonic()
    try:
        with Busy() as busy:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=min(item.limit, left), cwd=ROOT, check=False
            )
    except subprocess.TimeoutExpired:
        return row | {"error": f"stopped after {time.monotonic() - start:.0f} s"}
    row["took_s"] = round(time.monotonic() - start, 1)
    if done.returncode:
        return row | {"error": " ".join(done.stderr.strip().splitlines()[-3:])}
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if item.name == "train":
        row["gpu_busy_percent"] = busy.percent(found["seconds"])
    return row | {"result": found}


def tests(left: float) -> dict[str, Any]:
    """The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "tests/fast/test_gpu.py"]
    row: dict[str, Any] = {"name": "tests", "command": "pytest -q tests/fast/test_gpu.py"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=min(150, left), cwd=ROOT, check=False)
    except subprocess.TimeoutExpired:
        return row | {"error": "stopped after 150 s"}
    return row | {"rc": done.returncode, "tail": done.stdout.strip().splitlines()[-15:]}


def line_of(row: dict[str, Any]) -> str:
    """One line about a row."""
    result = row.get("result", {})
    if "error" in row or not result:
        said = row.get("error") or f"exit code {row['rc']}: {row['tail'][-1] if row['tail'] else ''}"
    elif "updates_per_s" in result:
        said = f"{result['updates_per_s']:.4g} updates/s"
        said += f", {result['fraction_of_ceiling']:.0%} of the ceiling" if "fraction_of_ceiling" in result else ""
        said += f", GPU busy {row['gpu_busy_percent']} %" if row.get("gpu_busy_percent") is not None else ""
    elif "ratio_to_copy" in result:
        said = f"{result['ratio_to_copy']:.2f} x a copy"
    elif "policy" in result:
        said = f"{result['policy'][0]['ms_per_step']:.3g} ms"
    else:
        said = f"floor {result['floor_ms_estimate']:.3g} ms"
    return f"{row['name']:26} {said}" + (f"   (target {row['target']})" if row.get("target") else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="try the script on a CPU")
    parser.add_argument("--seconds", type=float, default=510, help="for everything together")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    result: dict[str, Any] = {
        "command": "python " + shlex.join(sys.argv),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit.stdout.strip() or os.environ.get("COMMIT", "unknown"),
        "small": args.small,
        "rows": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for item in [None, *ITEMS]:
        left = end - time.monotonic()
        row = tests(left) if item is None else run(small(item) if args.small else item, left)
        result["rows"].append(row)
        args.out.write_text(json.dumps(result, indent=1) + "\n")  # after each: a run that is cut off keeps its rows
        print(line_of(row), flush=True)


if __name__ == "__main__":
    main()
