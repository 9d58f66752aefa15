"""Time of one update, here and in other implementations of Dreamer, side by side: a table, JSON, a plot.

    python benchmarks/peers.py --config both --rounds 10 --out benchmarks/results/peers.json

With `--compiled acting` the two through torch.compile are compiled for acting alone, which takes a minute.

Every contestant is a process with one thread, all on the same core. Round robin: in each round every contestant makes
a few updates while the others sleep, so that changes of the machine's speed affect all alike; then the same with steps
of acting. Compare CPU seconds (user + system of all threads): they hold even when other programs use the core
(see `wall / cpu`). Random batches, already in memory; no environment and no replay.

One update: world model, 15 steps of imagination from every state, actor and critic, each with backward, clipping and
optimiser, and the contestant's own metrics. T is a small agent, A the released Atari one; sizes in `peer/protocol.py`.
The peers are installed from PyPI into ~/.cache/reverie-peers and run unchanged (`peer/*_worker.py`, `peer/*.txt`).

Not measured: TorchRL 0.14.1. Its `objectives/dreamer.py` is DreamerV1 (Gaussian latents, symmetric KL, the actor learns
through the dynamics, no discount head, no slow critic) and its `dreamer_v3.py` is DreamerV3; there is no V2, and no
setting that gives these networks. The V3 code bases are left out for the same reason: other, larger networks.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from peer.protocol import SIZES

HERE = Path(__file__).resolve().parent
CACHE = Path("~/.cache/reverie-peers").expanduser()
NOT_MEASURED = {"TorchRL": " ".join(__doc__.split("Not measured: TorchRL ")[1].split())}
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    "1",
)


@dataclass(frozen=True)
class Entry:
    """A contestant. environment: the name of `peer/NAME.txt`, or empty for this one; options go to its own settings."""

    name: str
    script: str
    environment: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    slow_start: bool = False  # compiles its update for minutes, so only when asked for

    @property
    def ours(self) -> bool:
        return not self.environment


def _reverie(mode: str, precision: str) -> dict[str, str]:
    return {"compute.mode": mode, "compute.precision": precision}


ENTRIES = [
    Entry("Reverie reference fp32", "reverie_worker.py", options=_reverie("reference", "float32")),
    Entry("Reverie fast fp32", "reverie_worker.py", options=_reverie("fast", "float32")),
    Entry("Reverie fast bf16", "reverie_worker.py", options=_reverie("fast", "bfloat16")),
    Entry("Reverie compiled", "reverie_worker.py", options=_reverie("compile", "float32"), slow_start=True),
    Entry("danijar/dreamerv2 (TensorFlow)", "tf_worker.py", "tensorflow"),  # 2.2.0 from PyPI, not its last code
    Entry("sheeprl", "sheeprl_worker.py", "sheeprl"),
    Entry("sheeprl compiled", "sheeprl_worker.py", "sheeprl", {"algo.compile.enabled": True}, slow_start=True),
]

# --------------------------------------------------------------------------------------------------------- environments


def environment_python(name: str) -> str:
    """The interpreter of the environment that `peer/NAME.txt` describes, made first if it is not there."""
    wanted, place = (HERE / "peer" / f"{name}.txt").read_text(), CACHE / name
    python, marker = place / "bin/python", place / "installed.txt"
    if marker.exists() and marker.read_text() == wanted:
        print(f"environment {name}: {place}", flush=True)
        return str(python)
    print(f"environment {name}: installing benchmarks/peer/{name}.txt into {place}", flush=True)
    start = time.monotonic()
    subprocess.run([python_311(), "-m", "venv", "--clear", str(place)], check=True)
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, "-r", str(HERE / "peer" / f"{name}.txt")], check=True, stderr=subprocess.DEVNULL)
    marker.write_text(wanted)  # last, so that an interrupted installation is repeated
    print(f"environment {name}: installed in {time.monotonic() - start:.0f} s", flush=True)
    return str(python)


def python_311() -> str:
    """The files pin wheels for Python 3.11, the newest that TensorFlow 2.15 knows."""
    if sys.version_info[:2] == (3, 11):
        return sys.executable
    pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob("3.11.*/bin/python"))
    found = shutil.which("python3.11") or (str(pyenv[-1]) if pyenv else "")
    if not found:
        sys.exit("The peers need Python 3.11, and there is none on PATH or in ~/.pyenv.")
    return found


# -------------------------------------------------------------------------------------------------------------- workers


class Worker:
    """The process of one contestant, and what was measured of it. updates: or is acting alone?"""

    def __init__(self, entry: Entry, python: str, size: str, *, updates: bool = True) -> None:
        self.entry, self.error, self.updates = entry, "", updates
        self.times: dict[str, dict[str, list[float]]] = {}
        self.facts: dict[str, Any] = {}
        logs = CACHE / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.log = logs / f"{size}-{entry.name.replace('/', '-').replace(' ', '-')}.log"
        environment = os.environ | ONE_THREAD | {"TF_CPP_MIN_LOG_LEVEL": "2"}
        if not entry.ours:
            environment.pop("PYTHONPATH", None)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [python, str(HERE / "peer" / entry.script)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
            )  # fmt: skip

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Send one request and wait for its answer; after an error there are no more, and empty answers."""
        if self.error:
            return {}
        try:
            self.process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self.process.stdin.flush()
            reply = json.loads(self.process.stdout.readline() or '{"error": "the process ended"}')
        except BrokenPipeError:
            reply = {"error": "the process ended"}
        if "error" in reply:
            self.error = f"{do}: {reply['error']} (see {self.log})"
            print(f"{self.entry.name}: {self.error}", flush=True)
            self.quit()
            return {}
        return reply

    def keep(self, what: str, reply: dict[str, Any]) -> None:
        """Add measured times, and remember the memory."""
        for clock in ("cpu", "wall"):
            self.times.setdefault(what, {}).setdefault(clock, []).extend(reply.get(clock, []))
        if "peak_mib" in reply:
            self.facts["peak_mib_after_updates"] = round(reply["peak_mib"])

    def warm_up(self, size: str, updates: int) -> None:
        """Build, trace and compile; the first update is remembered by itself."""
        print(f"{size}: {self.entry.name} warms up", flush=True)
        built = self.ask("build", size=size, options=self.entry.options)
        self.facts["peak_mib_before_updates"] = round(built.get("peak_mib", 0))
        if self.updates:
            self.keep("first", self.ask("update", times=1))
            self.ask("update", times=updates)
        self.facts |= self.ask("facts")

    def quit(self) -> None:
        if self.process.poll() is None:
            self.process.stdin.close()  # its loop over stdin ends
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()


def compete(size: str, args: argparse.Namespace, pythons: dict[str, str]) -> list[dict[str, Any]]:
    """All contestants in one size, interleaved -> a row of results each."""
    workers = [
        Worker(entry, pythons[entry.environment], size, updates=not entry.slow_start or args.compiled == "all")
        for entry in chosen(args)
    ]
    try:
        for worker in workers:
            worker.warm_up(size, args.warmup)
        for turn in range(args.rounds):
            for worker in rotated([worker for worker in workers if worker.updates], turn):
                worker.keep("update", worker.ask("update", times=args.updates))
            print(f"{size}: round {turn + 1} of {args.rounds}", flush=True)
        for count in args.counts:
            print(f"{size}: acting in {count} at once", flush=True)
            for worker in workers:
                worker.ask("policy", times=max(3, 20 // count), count=count, first=True)
            for turn in range(args.rounds):
                for worker in rotated(workers, turn):
                    steps = max(5, args.policy_steps // count)
                    worker.keep(f"policy {count}", worker.ask("policy", times=steps, count=count))
    finally:
        for worker in workers:
            worker.quit()
    rows = [row(worker, size) for worker in workers]
    measured = [one for one in rows if "update_cpu_s" in one]
    fastest = min((one["update_cpu_s"]["median"] for one in measured if not one["ours"]), default=float("nan"))
    for one in measured:
        one["ratio_to_fastest_peer"] = round(one["update_cpu_s"]["median"] / fastest, 3)
    return rows


def rotated(workers: list[Worker], turn: int) -> list[Worker]:
    """Another one begins in each round, so that none always follows the same neighbour in the caches."""
    start = turn % len(workers)
    return workers[start:] + workers[:start]


def chosen(args: argparse.Namespace) -> list[Entry]:
    found = [entry for entry in ENTRIES if args.only.lower() in entry.name.lower() and entry.name not in args.skip]
    return [entry for entry in found if args.compiled or not entry.slow_start]


# -------------------------------------------------------------------------------------------------------------- results


def row(worker: Worker, size: str) -> dict[str, Any]:
    """What is written of one contestant."""
    start = {"name": worker.entry.name, "ours": worker.entry.ours, "options": worker.entry.options}
    if worker.error:
        return start | {"error": worker.error}
    facts, times, expected = worker.facts, worker.times, SIZES[size].parameters
    differences = list(facts["differences"])
    if facts["parameters"] != expected:
        differences.append(f"{facts['parameters'] - expected:+,} parameters")
    return {
        **start,
        "version": facts["version"],
        "parameters": facts["parameters"],
        "differences": differences,
        "policy_cpu_ms": {
            what.split()[1]: spread(each["cpu"], 1000) for what, each in times.items() if what.startswith("policy")
        },
        **(_of_updates(worker) if worker.updates else {}),
    }


def _of_updates(worker: Worker) -> dict[str, Any]:
    facts, times = worker.facts, worker.times
    return {
        "update_cpu_s": spread(times["update"]["cpu"]),
        "update_wall_s": spread(times["update"]["wall"]),
        "wall_over_cpu": round(float(np.sum(times["update"]["wall"]) / np.sum(times["update"]["cpu"])), 3),
        "first_update_s": {clock: round(values[0], 2) for clock, values in times["first"].items()},
        "peak_mib_before_updates": facts["peak_mib_before_updates"],
        "peak_mib_after_updates": facts["peak_mib_after_updates"],
        "updates": {clock: [round(value, 4) for value in values] for clock, values in times["update"].items()},
    }


def spread(values: list[float], scale: float = 1) -> dict[str, float]:
    low, middle, high = np.percentile(values, [25, 50, 75]) * scale
    numbers = {"median": middle, "min": min(values) * scale, "q1": low, "q3": high}
    return {key: round(float(value), 4) for key, value in numbers.items()} | {"n": len(values)}


def provenance(args: argparse.Namespace) -> dict[str, Any]:
    """Where the numbers come from."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()

    lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    cpu = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {
        "command": "python " + shlex.join(sys.argv),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--", "../src", "peers.py", "peer")),
        "cpu": {key: cpu.get(key) for key in ("model name", "cpu family", "model", "cache size")},
        "cpu_has": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in cpu.get("flags", "")],
        "cores": os.cpu_count(),
        "core_used": args.core,
        "threads": 1,
        "kernel": os.uname().release,
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
        "rounds": args.rounds,
        "updates_per_round": args.updates,
        "warmup_updates": 1 + args.warmup,
        "seeds": {"batches": 0, "agents": 0},
    }


def table(rows: list[dict[str, Any]]) -> str:
    counts = next((list(one["policy_cpu_ms"]) for one in rows if "error" not in one), [])
    heads = ("contestant", "CPU s (quartiles)", "min", "wall / CPU", "x fastest peer", "first s")
    heads += (f"policy ms, {', '.join(counts)} at once",)
    heads += ("peak MiB (before updates)", "n")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for one in rows:
        if "error" in one:
            lines.append(f"| {one['name']} | {one['error']} |")
            continue
        policy = ", ".join(f"{each['median']:.2f}" for each in one["policy_cpu_ms"].values())
        if "update_cpu_s" not in one:
            lines.append(f"| {one['name']} | not measured | | | | | {policy} | | |")
            continue
        cpu, memory = one["update_cpu_s"], f"{one['peak_mib_after_updates']} ({one['peak_mib_before_updates']})"
        lines.append(
            f"| {one['name']} | {cpu['median']:.3f} ({cpu['q1']:.3f}-{cpu['q3']:.3f}) | {cpu['min']:.3f}"
            f" | {one['wall_over_cpu']:.2f} | {one['ratio_to_fastest_peer']:.2f}"
            f" | {one['first_update_s']['wall']:.0f} | {policy} | {memory} | {cpu['n']} |"
        )
    return "\n".join(lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Bars of CPU seconds, T and A side by side; the line on a bar is the quartiles."""
    from matplotlib.figure import Figure

    good = {size: [one for one in found["rows"] if "update_cpu_s" in one] for size, found in result["configs"].items()}
    done = [size for size in SIZES if good.get(size)]
    if not done:
        return
    figure = Figure(figsize=(5.6 * len(done), 3.2), dpi=130, layout="constrained")
    for index, size in enumerate(done):
        rows = good[size][::-1]  # bars grow from below
        axes, names = figure.add_subplot(1, len(done), index + 1), [one["name"] for one in rows]
        middle = np.array([one["update_cpu_s"]["median"] for one in rows])
        quartiles = np.abs(np.array([[one["update_cpu_s"][q] for one in rows] for q in ("q1", "q3")]) - middle)
        colours = ["#2f6f9f" if one["ours"] else "#a8a8a8" for one in rows]
        axes.barh(names, middle, xerr=quartiles, color=colours, height=0.66, error_kw={"lw": 1, "ecolor": "0.2"})
        for y, one in enumerate(rows):
            label = f"{middle[y]:.2f} s   {one['ratio_to_fastest_peer']:.2f}x"
            axes.text(middle[y] + quartiles[1, y] + 0.015 * middle.max(), y, label, va="center", fontsize=8)
        about = SIZES[size]
        axes.set_title(
            f"{size}: {about.parameters / 1e6:.1f} M parameters, batch {about.batch}x{about.length}", fontsize=10
        )
        axes.set_xlabel("CPU seconds of one update (x: times the fastest peer)", fontsize=8)
        axes.set_xlim(0, 1.3 * (middle + quartiles[1]).max())
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def save(result: dict[str, Any], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    plot(result, out.with_suffix(".png"))


def main() -> None:
    """Measure, print a table, write JSON and a plot; a configuration measured before stays in the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=[*SIZES, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--updates", type=int, default=2, help="of each contestant in each round")
    parser.add_argument("--warmup", type=int, default=2, help="updates after the first that are not counted")
    parser.add_argument(
        "--policy-steps", type=int, default=50, help="of each contestant in each round, in one environment"
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 16, 64], help="environments to act in at once")
    parser.add_argument("--core", type=int, default=0, help="the core that all share")
    words = {"nargs": "?", "const": "all", "choices": ("all", "acting")}
    parser.add_argument(
        "--compiled", **words, help="also two through torch.compile, minutes of waiting; or their acting"
    )
    parser.add_argument("--only", default="", help="to try it out: contestants with this in their names")
    names = [entry.name for entry in ENTRIES]
    parser.add_argument("--skip", nargs="+", choices=names, default=[], help="bf16 where there are no units for it")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.core})  # the workers inherit it
    names = sorted({entry.environment for entry in chosen(args)})
    pythons = {name: environment_python(name) if name else sys.executable for name in names}
    result = json.loads(args.out.read_text()) if args.out.exists() else {"configs": {}}
    result |= {"not_measured": NOT_MEASURED}
    for size in SIZES if args.config == "both" else [args.config]:
        facts = provenance(args)
        rows = compete(size, args, pythons)
        facts["load_at_end"] = [round(load, 2) for load in os.getloadavg()]
        result["configs"][size] = {"provenance": facts, "rows": rows}
        save(result, args.out)
        print(f"\n{size}\n{table(rows)}\n", flush=True)


if __name__ == "__main__":
    main()
