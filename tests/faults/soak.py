"""A long run of everything at once, with forced restarts: do memory, open files, threads or processes grow?

    python tests/faults/soak.py --minutes 30 --out benchmarks/results/soak.json       also soak.png beside it

A tiny task in worker processes; checkpoints, evaluations, videos and TensorBoard every few seconds. In the first
quarter of the time it is killed and stopped alternately and started again; the last process, the longest, is judged.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.drive import FOREVER, Training, checkpoints, continues

WORDS = [
    *FOREVER, "backend=async", "eval_every=1000", "checkpoint_every=3", "log_every=1", "tensorboard=true", "video=true",
    "random_baseline=true",
]  # fmt: skip
EVERY = 2.0  # seconds between samples
RESTARTS = 4
WARM_UP = 0.25  # of the last process's time: rings fill, allocators settle
FLAT = 5.0  # MB per hour


@dataclass
class Sample:
    """The process and its workers at one time."""

    seconds: float  # since the soak began
    pid: int
    rss: float  # MB of memory
    workers_rss: float  # MB of memory
    handles: int  # open files, of both
    threads: int
    children: int
    files: int  # in the run's directory
    disk: float  # MB of them


def take_sample(training: Training, since: float) -> Sample | None:
    """None if it has just ended."""
    pid = training.process.pid
    try:
        workers = training.workers()
        sizes = [int(status(each, "VmRSS")) / 1000 for each in (pid, *workers)]
        handles = sum(len(list(Path(f"/proc/{each}/fd").iterdir())) for each in (pid, *workers))
        threads = int(status(pid, "Threads"))
    except (OSError, StopIteration):
        return None
    found = []
    for path in training.run.rglob("*"):
        try:
            found.append(path.stat().st_size)
        except OSError:
            continue  # a checkpoint that has just gone
    seconds = round(time.monotonic() - since, 1)
    return Sample(
        seconds, pid, sizes[0], round(sum(sizes[1:]), 1), handles, threads, len(workers), len(found), sum(found) / 1e6
    )


def status(pid: int, name: str) -> str:
    """One value of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


def soak(run: Path, minutes: float) -> tuple[list[Sample], list[str]]:
    """-> samples, and what went wrong."""
    since, samples, wrong = time.monotonic(), [], []
    ends = [60 * minutes * 0.25 * (i + 1) / RESTARTS for i in range(RESTARTS)] + [60 * minutes]
    for number, end in enumerate(ends):
        with Training(run, *WORDS) as one:
            while time.monotonic() - since < end and one.process.poll() is None:
                time.sleep(EVERY)
                sample = take_sample(one, since)
                samples += [sample] if sample else []
            how = signal.SIGKILL if number % 2 == 0 and number < RESTARTS else signal.SIGTERM
            one.process.send_signal(how)
            code = one.end(60)
            if code != (-9 if how == signal.SIGKILL else 0):
                wrong.append(f"process {number} ended with {code}: {one.message()}")
            if "Traceback" in one.text:
                wrong.append(f"process {number}: a traceback")
            if number and "continues at step" not in one.text:
                wrong.append(f"process {number} did not continue")
            print(f"process {number}: {one.process.pid} until {time.monotonic() - since:.0f} s", flush=True)
    problem = continues(run, "backend=async", "random_baseline=true")
    return samples, wrong + ([problem] if problem else [])


def slope(hours: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """MB per hour and its standard error, from the means of 12 blocks.

    Single samples hang together: the C library gives memory back in large pieces (`keep_memory`), a sawtooth.
    """
    means = [(h.mean(), v.mean()) for h, v in zip(np.array_split(hours, 12), np.array_split(values, 12), strict=True)]
    fit, errors = np.polyfit(*np.array(means).T, 1, cov=True)
    return round(float(fit[0]), 1), round(float(errors[0, 0] ** 0.5), 1)


def judge(samples: list[Sample]) -> dict:
    """The last process after its warm-up: slopes per hour and whether counts stay."""
    last = [sample for sample in samples if sample.pid == samples[-1].pid]
    begin = last[0].seconds + WARM_UP * (last[-1].seconds - last[0].seconds)
    last = [sample for sample in last if sample.seconds >= begin]
    hours = np.array([sample.seconds for sample in last]) / 3600
    facts: dict = {"seconds": round(last[-1].seconds - last[0].seconds, 1), "samples": len(last)}
    for name in ("rss", "workers_rss"):
        values = np.array([getattr(sample, name) for sample in last])
        facts[f"{name}_mb"] = [round(float(values.min()), 1), round(float(values.max()), 1)]
        facts[f"{name}_mb_per_hour"], facts[f"{name}_error"] = slope(hours, values)
        half = len(values) // 2
        facts[f"{name}_peaks_mb"] = [round(float(part.max()), 1) for part in (values[:half], values[half:])]
    for name in ("handles", "threads", "children", "files"):
        values = [getattr(sample, name) for sample in last]
        half = len(values) // 2
        facts[name] = {"min": min(values), "max": max(values), "grows": max(values[half:]) > max(values[:half])}
    flat = [facts[f"{name}_mb_per_hour"] < max(FLAT, 2 * facts[f"{name}_error"]) for name in ("rss", "workers_rss")]
    peaks = [facts[f"{name}_peaks_mb"] for name in ("rss", "workers_rss")]
    flat += [later <= 1.02 * earlier for earlier, later in peaks]
    flat += [not facts[name]["grows"] for name in ("handles", "threads", "children")]
    facts["flat"] = all(flat)
    return facts


def draw(samples: list[Sample], path: Path, facts: dict) -> None:
    """Memory above, counts below, over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 6))
    minutes = [sample.seconds / 60 for sample in samples]
    above.plot(minutes, [sample.rss for sample in samples], ".", ms=2, label="process")
    above.plot(minutes, [sample.workers_rss for sample in samples], ".", ms=2, label="workers")
    above.set(ylabel="memory, MB", ylim=(0, None))
    rate = f"{facts['rss_mb_per_hour']:+.0f} ± {2 * facts['rss_error']:.0f} MB per hour"
    above.set_title(f"{rate} over the last {facts['seconds'] / 60:.0f} minutes")
    for name in ("handles", "threads", "children"):
        below.plot(minutes, [getattr(sample, name) for sample in samples], ".", ms=2, label=name)
    below.set(xlabel="minutes; each gap is a forced restart", ylim=(0, None))
    for axes in (above, below):
        axes.legend(loc="center right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    """-> exit code: 1 if something grows or went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, default=Path("soak.json"))
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        samples, wrong = soak(folder / "run", args.minutes)
        steps = checkpoints(folder / "run")[-1]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    facts = judge(samples) | {"wrong": wrong, "env_steps": steps, "restarts": RESTARTS, "minutes": args.minutes}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    text = json.dumps(facts | machine | {"samples_of": [asdict(sample) for sample in samples]})
    args.out.write_text(text.replace('}, {"seconds"', '},\n{"seconds"') + "\n")
    draw(samples, args.out.with_suffix(".png"), facts)
    print(json.dumps(facts, indent=1))
    print("flat" if facts["flat"] and not wrong else "NOT flat")
    return not facts["flat"] or bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
