"""The items of `benchmarks/gpu.sh`, one after the other, each in its own process, within a given time.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json

What matters most comes first. Items that did not finish in time keep the rows that they had printed; those that were
not begun for lack of time are recorded as such. One that fails does not stop the others. Targets are for one H200.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ATARI = "--preset atari --shape 64 64 1 --actions 18"
LONG, SHORT = "--batch 50 --length 50", "--batch 16 --length 64"
#: What is not measured by `reverie bench` -> the words of the script that does it.
SCRIPTS = {"train": ["benchmarks/throughput.py", "train"]}
SCRIPTS |= {what: ["benchmarks/gpu_lab.py", what] for what in ("updates", "profile", "ab", "compiled")}
TINY = "cnn_depth=4 rnn_hidden_dim=32 rssm_hidden_dim=32 hidden_dim=32"


class Item(NamedTuple):
    """Something to measure; limit: seconds after which it is stopped."""

    name: str
    words: str  # of `reverie bench`, or of a script in SCRIPTS
    limit: float = 60
    target: str = ""


ITEMS = [
    Item("updates-16x64", f"updates {ATARI} {SHORT}", 60, "graph, bfloat16: >= 120 updates/s"),
    Item("profile-16x64", f"profile {ATARI} {SHORT}", 60),
    Item("update-50x50-graph", f"update {ATARI} {LONG} compute.mode=graph --seconds 4", 40, ">= 60 updates/s"),
    Item("ab-16x64", f"ab {ATARI} {SHORT}", 60, "each below 1"),
    Item("compiled-step-16x64", f"compiled {ATARI} {SHORT}", 120),
    Item("packed-4-16x64", f"update {ATARI} {SHORT} compute.mode=graph --seconds 4 --seeds 4", 30, ">= 250 updates/s"),
    Item("packed-8-16x64", f"update {ATARI} {SHORT} compute.mode=graph --seconds 4 --seeds 8", 30),
    Item("train", "train --preset atari100k --env ALE/Pong-v5 compute.mode=graph --seconds 20", 60, "GPU busy >= 90 %"),
    Item("policy", f"policy {ATARI}", 25),
    Item("replay-50x50", f"replay --preset atari --shape 64 64 3 --actions 6 {LONG}", 25, "<= 1.5 x a copy"),
]
#: Seconds for the tests, and how they are run: CUDA's own notices are no errors of ours.
TESTS = 90
PYTEST = "-q --maxfail=20 --no-header -p no:cacheprovider -W ignore::UserWarning tests/fast/test_gpu.py"


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


def finish(command: list[str], limit: float) -> tuple[int | None, str, str]:
    """Run it with all that it starts. -> exit code (None: stopped at the limit), what it printed until then."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with subprocess.Popen(command, stdout=out, stderr=err, text=True, cwd=ROOT, start_new_session=True) as process:
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
                os.killpg(process.pid, signal.SIGKILL)
        out.seek(0), err.seek(0)
        return code, out.read(), err.read()


def run(item: Item, left: float) -> dict[str, Any]:
    """One item -> its row."""
    what, *words = shlex.split(item.words)
    program = SCRIPTS.get(what, ["-m", "reverie", "bench", what])
    lab = program[0] == "benchmarks/gpu_lab.py"
    command = [sys.executable, *program, *words, *([] if lab else ["--json"])]
    row: dict[str, Any] = {"name": item.name, "command": shlex.join(["python", *command[1:]]), "target": item.target}
    if left < 15:
        return row | {"error": "not begun: no time left"}
    start = time.monotonic()
    with Busy() as busy:
        code, out, err = finish(command, min(item.limit, left))
    row["took_s"] = round(time.monotonic() - start, 1)
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{") and line.endswith("}")]
    if code is None:
        row["error"] = f"stopped after {row['took_s']:.0f} s"
    elif code:
        row["error"] = " ".join(err.strip().splitlines()[-3:])
    if item.name == "train" and found:
        row["gpu_busy_percent"] = busy.percent(found[-1]["seconds"])
    return row | {"result": found if lab else found[-1] if found else {}}


def tests(left: float, *, small: bool) -> dict[str, Any]:
    """The tests that need a GPU; each is skipped where there is none."""
    limit = min(20 if small else TESTS, left)
    start = time.monotonic()
    code, out, _ = finish([sys.executable, "-m", "pytest", *PYTEST.split()], limit)
    row: dict[str, Any] = {"name": "tests", "command": f"pytest {PYTEST}", "took_s": round(time.monotonic() - start, 1)}
    row |= {"rc": code, "tail": out.strip().splitlines()[-40:]}
    return row | ({"error": f"stopped after {limit:.0f} s"} if code is None else {})


def line_of(row: dict[str, Any]) -> str:
    """One line about a row."""
    result = row.get("result", {})
    if isinstance(result, list) and result:
        said = "; ".join(map(short, result)) + (f" ({row['error']})" if "error" in row else "")
    elif "error" in row or not result:
        said = row.get("error") or f"exit code {row['rc']}: {row['tail'][-1] if row['tail'] else ''}"
    elif "updates_per_s" in result:
        said = f"{result['updates_per_s']:.4g} updates/s"
        said += f", {result['fraction_of_ceiling']:.0%} of the ceiling" if "fraction_of_ceiling" in result else ""
        said += f", GPU busy {row['gpu_busy_percent']} %" if row.get("gpu_busy_percent") is not None else ""
    elif "ratio_to_copy" in result:
        said = f"{result['ratio_to_copy']:.2f} x a copy"
    else:
        said = f"{result['policy'][0]['ms_per_step']:.3g} ms"
    return f"{row['name']:26} {said}" + (f"   (target {row['target']})" if row.get("target") else "")


def short(found: dict[str, Any]) -> str:
    """The words and numbers of a row of `gpu_lab.py`."""
    return " ".join(
        f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in found.items() if key != "top"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="try the script on a CPU")
    parser.add_argument("--seconds", type=float, default=550, help="for everything together")
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
        row = tests(left, small=args.small) if item is None else run(small(item) if args.small else item, left)
        result["rows"].append(row)
        args.out.write_text(json.dumps(result, indent=1) + "\n")  # after each: a run that is cut off keeps its rows
        print(line_of(row), flush=True)


if __name__ == "__main__":
    main()
