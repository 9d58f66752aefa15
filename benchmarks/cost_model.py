"""What does a larger run cost? A small model of updates, gradients, collecting and replay, and its check.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/cost_model.py --out benchmarks/results/cost-model.json \\
        [--updates benchmarks/results/scaling.json]

Four terms, fitted to the CPU seconds of some updates and checked on others that the fit has not seen:

    seconds = a * steps + b * GFLOP + c * values + d * parameters

steps: of the sequence and of the dream (calls of Python and of kernels); GFLOP: arithmetic of one update, counted, not
measured; values: 1e6 numbers that elementwise work passes over, (sequence + dream) x batch x width; parameters: 1e6,
of the optimisers. Beside them, measured: bytes of gradients and the time of their all-reduce between two processes
(gloo), rows/s of acting and stepping, of writing to and drawing from the replay, bytes per row in memory and on disk.
docs/cost-model.md says what follows for 8 GPUs and for 100 collectors. Takes three minutes of one core; a third of one
with --updates, which takes the updates of `benchmarks/scaling.py` instead of measuring others: for a machine that is
busy now and was idle then.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from reverie.bench.arithmetic import count_update
from reverie.bench.clocks import Effort, repeat
from reverie.bench.subject import make_subject, random_batches
from reverie.commands.bench import cpu_model
from reverie.config.presets import load_preset
from reverie.data.collect import Collector
from reverie.data.replay import Replay, row_forms
from reverie.data.replay_log import ReplayLog
from reverie.run.tasks import make_envs, spec_of
from reverie.train import DreamerV2, to_batch

BASE: dict[str, Any] = {
    "cnn_depth": 24, "rnn_hidden_dim": 200, "rssm_hidden_dim": 200, "hidden_dim": 200, "batch_size": 16, "seq_len": 16,
    "imagination_horizon": 15, "compute.threads": 1, "compute.device": "cpu",
}  # fmt: skip


def sized(width: int, batch: int, length: int, horizon: int = 15) -> dict[str, Any]:
    """One point: all widths together, and the depth of the images' networks with them."""
    widths = {
        "cnn_depth": 24 * width // 200,
        **dict.fromkeys(("rnn_hidden_dim", "rssm_hidden_dim", "hidden_dim"), width),
    }
    return BASE | widths | {"batch_size": batch, "seq_len": length, "imagination_horizon": horizon}


#: (width, batch, length, horizon): what the fit sees, and what it does not.
FITTED = [(50, 4, 8, 15), (50, 16, 16, 15), (100, 8, 16, 15), (200, 4, 8, 15), (200, 16, 4, 15), (200, 16, 16, 5),
          (200, 16, 16, 15), (200, 8, 32, 15), (400, 4, 8, 15), (400, 8, 16, 15)]  # fmt: skip
HELD_OUT = [(100, 16, 32, 15), (200, 32, 16, 15), (200, 16, 16, 30), (300, 8, 16, 10), (400, 16, 16, 15)]
TERMS = ("steps", "gflop", "values", "parameters")
#: Sizes of which the bytes of an all-reduce are shown; T is BASE.
SIZES = {"demo": ("demo", {}), "T": ("atari", BASE), "A": ("atari", {})}


def measure(points: list[tuple[int, int, int, int]], rounds: int) -> list[dict[str, Any]]:
    """CPU seconds of an update at each point, and what the model computes them from.

    In turns, so that what else runs on the machine meets all points alike, and the least of the rounds: other work only
    ever adds to it.
    """
    agents, found = [], []
    for point in points:
        width, batch, length, horizon = point
        subject = make_subject("atari", sized(*point), shape=(64, 64, 3), actions=6)
        agent = subject.agent()
        agents.append((agent, [to_batch(each, agent.device) for each in random_batches(subject)[:2]]))
        agent.update(agents[-1][1][0])
        terms = {
            "steps": length + horizon,
            "gflop": sum(work.flops for work in count_update(subject)) / 1e9,
            "values": batch * length * (1 + horizon) * width / 1e6,
            "parameters": trained(agent) / 1e6,
        }
        found.append({"width": width, "batch": batch, "length": length, "horizon": horizon} | terms | {"all_cpu_s": []})
    for turn in range(rounds):
        for (agent, batches), row in zip(agents, found, strict=True):
            start = time.process_time()
            agent.update(batches[turn % 2])
            row["all_cpu_s"].append(round(time.process_time() - start, 4))
        print(f"round {turn + 1} of {rounds}: {sum(row['all_cpu_s'][-1] for row in found):.1f} CPU s", flush=True)
    return [row | {"cpu_s": min(row["all_cpu_s"])} for row in found]


#: Of the curves of scaling.py: what the fit does not see.
CHECKED = {("batch", 64), ("length", 32), ("horizon", 30), ("width", 100), ("width", 400)}


def known_updates(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The updates that scaling.py has measured. -> those for the fit, those for the check."""
    fitted: list[dict[str, Any]] = []
    held_out: list[dict[str, Any]] = []
    for name, points in json.loads(path.read_text(encoding="utf-8"))["curves"].items():
        for point in points:
            here = {"width": 200, "batch": 16, "length": 16, "horizon": 15} | {name: point["value"]}
            width, batch, length, horizon = here.values()
            row = here | {
                "steps": length + horizon,
                "gflop": point["gflop"],
                "values": batch * length * (1 + horizon) * width / 1e6,
                "parameters": point["parameters"] / 1e6,
                "cpu_s": point["cpu_s"],
            }
            (held_out if (name, point["value"]) in CHECKED else fitted).append(row)
    return fitted, held_out


def trained(agent: DreamerV2) -> int:
    """Parameters with a gradient: what an all-reduce carries, once per optimiser."""
    return sum(p.numel() for part in (agent.world_model, agent.actor, agent.critic) for p in part.parameters())


def fit(points: list[dict[str, Any]]) -> dict[str, float]:
    """Coefficients of at least zero that minimise the relative errors."""
    from scipy.optimize import nnls

    rows = np.array([[point[term] for term in TERMS] for point in points], float)
    seconds = np.array([point["cpu_s"] for point in points])
    scale = rows.max(0)
    found, _ = nnls(rows / scale / seconds[:, None], np.ones(len(points)))
    return dict(zip(TERMS, (found / scale).tolist(), strict=True))


def predict(coefficients: dict[str, float], point: dict[str, Any]) -> float:
    """CPU seconds of an update."""
    return sum(coefficients[term] * point[term] for term in TERMS)


# ------------------------------------------------------------------------------------------------------------ gradients


def _rank(rank: int, port: int, counts: list[int], rounds: int, queue: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    found = {}
    for count in counts:
        flat, times = torch.ones(count), []
        for _ in range(rounds):
            torch.distributed.barrier()
            start = time.perf_counter()
            torch.distributed.all_reduce(flat)
            times.append(time.perf_counter() - start)
        found[count] = statistics.median(times)
    if rank == 0:
        queue.put(found)
    torch.distributed.destroy_process_group()


def all_reduce(counts: list[int], rounds: int = 7) -> dict[int, float]:
    """Seconds of an all-reduce of so many float32 between two processes of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    ranks = [context.Process(target=_rank, args=(rank, port, counts, rounds, queue)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    found = queue.get(timeout=900)  # a busy machine takes minutes to import torch twice
    for rank in ranks:
        rank.join()
    return found


def gradients() -> list[dict[str, Any]]:
    """Bytes of an all-reduce by size, and its time between two processes."""
    rows = []
    for name, (preset, overrides) in SIZES.items():
        subject = make_subject(preset, overrides | {"compute.device": "cpu"}, shape=(64, 64, 3), actions=6)
        rows.append({"size": name, "parameters": trained(subject.agent())})
    times = all_reduce([row["parameters"] for row in rows])
    for row in rows:
        row |= {"bytes": 4 * row["parameters"], "two_processes_s": times[row["parameters"]]}
        row["bytes_per_s"] = row["bytes"] / row["two_processes_s"]
    return rows


# ----------------------------------------------------------------------------------------------------------- collecting


class Pictures(gym.Env):
    """An environment that costs nothing: ready images of noise, episodes of 500 steps."""

    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Discrete(6)

    def __init__(self) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 3), np.uint8)
        self.count = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.count = 0
        return self.images[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        return self.images[self.count % 64], 0.0, self.count >= 500, False, {}


def collecting(num_envs: int, cpu_seconds: float = 1.0) -> dict[str, Any]:
    """Rows/s of acting with T's policy and stepping environments that cost nothing, one thread."""
    config = load_preset("atari", BASE | {"env.num_envs": num_envs, "env.backend": "sync", "env.id": "custom:pictures"})
    envs = make_envs(config, Pictures, num_envs)
    agent = DreamerV2(config, spec_of(envs))
    player = agent.player(num_envs=num_envs, mode="explore", seed=1)
    rows = Collector(envs, seed=0).rows(player.act)
    for _ in range(20):
        row, _ = next(rows)
    count, start = 0, time.process_time()
    while (spent := time.process_time() - start) < cpu_seconds:
        next(rows)
        count += num_envs
    envs.close()
    size = sum(value.nbytes for value in row.values()) / num_envs
    return {"num_envs": num_envs, "rows_per_cpu_s": count / spent, "bytes_per_row": size}


def replay(rows: int, folder: Path) -> dict[str, Any]:
    """Writing, drawing, memory and disk of a replay of rows of 64x64x3 images."""
    subject = make_subject("atari", BASE, shape=(64, 64, 3), actions=6)
    forms = row_forms(subject.spec.shapes, 6)
    ring = Replay(subject.spec.shapes, 6, capacity=rows, streams=1)
    rng = np.random.default_rng(0)
    made = {}
    for key, (shape, dtype) in forms.items():
        made[key] = np.zeros((64, 1, *shape), dtype)
        if dtype == np.uint8:
            made[key] += rng.integers(0, 256, made[key].shape, np.uint8)
    cpu = time.process_time()
    for at in range(rows):
        ring.add({key: values[at % 64] for key, values in made.items()})
    adding = (time.process_time() - cpu) / rows
    samples = repeat(lambda: ring.sample(50, 50), Effort(1.0))
    log = ReplayLog(ring, folder / "replay")
    cpu, wall = time.process_time(), time.perf_counter()
    log.save()
    written = sum(path.stat().st_size for path in (folder / "replay").glob("*"))
    return {
        "rows": rows,
        "add_rows_per_cpu_s": 1 / adding,
        "sample_50x50_cpu_s": statistics.median(samples.cpu),
        "memory_bytes_per_row": ring.nbytes() / rows,
        "disk_bytes_per_row": written / rows,
        "save_rows_per_s": rows / (time.perf_counter() - wall),
        "save_cpu_s_per_row": (time.process_time() - cpu) / rows,
    }


# ---------------------------------------------------------------------------------------------------------- predictions

#: What is assumed where nothing could be measured here; `predictions` says what follows.
GPU = {
    "flop_per_s": 20e12,  # sustained on matrices of these sizes, bfloat16 and float32 mixed
    "fixed_s": 0.020,  # of an update that nothing divides: launches or graph replays of ~65 dependent steps, optimisers
    "link_bytes_per_s": 200e9,  # all-reduce of NCCL over NVLink within one machine
    "latency_s": 50e-6,  # of one all-reduce among 8; three of them an update
    "spread": 0.03,  # standard deviation of one GPU's update time, relative
}


def on_gpus(gflop: float, gradient_bytes: int, ranks: int) -> dict[str, float]:
    """Seconds of an update of one global batch on `ranks` GPUs, and the speed-up over one."""

    def seconds(count: int) -> float:
        work = gflop * 1e9 / GPU["flop_per_s"] / count
        own = GPU["fixed_s"] + work
        if count == 1:
            return own
        slowest = own * (1 + GPU["spread"] * math.sqrt(2 * math.log(count)))  # the largest of so many normal draws
        ring = 2 * (count - 1) / count * gradient_bytes / GPU["link_bytes_per_s"]
        return slowest + ring + 3 * GPU["latency_s"]

    return {"ranks": ranks, "seconds": seconds(ranks), "speedup": seconds(1) / seconds(ranks)}


def predictions(result: dict[str, Any]) -> dict[str, Any]:
    """8 GPUs, and 100 collectors, from what was measured and what is assumed."""
    subject = make_subject("atari", {"compute.device": "cpu"}, shape=(64, 64, 3), actions=6)
    gflop = sum(work.flops for work in count_update(subject)) / 1e9
    size = next(row for row in result["gradients"] if row["size"] == "A")
    ranks = (1, 2, 4, 8)
    gpus = {f"global batch {n}": [on_gpus(gflop * n / 50, size["bytes"], count) for count in ranks] for n in (50, 400)}
    each = next(row for row in result["collecting"] if row["num_envs"] == 1)
    env_s = 1 / 2500  # an Atari step with its four frames, here (../docs/environments.md)
    rate = 1 / (1 / each["rows_per_cpu_s"] + env_s)
    weights = 4 * result["agent_parameters"]
    learner = result["replay"]["add_rows_per_cpu_s"]
    update = on_gpus(gflop, size["bytes"], 1)["seconds"]
    asked = 16 * 1 / update  # rows/s that one GPU uses up at DreamerV2's one update per 16 rows
    return {
        "gpus": gpus,
        "collectors": {
            "count": 100,
            "rows_per_s_each": rate,
            "rows_per_s": 100 * rate,
            "network_bytes_per_s": 100 * rate * each["bytes_per_row"],
            "weights_bytes_per_s_every_10_s": 100 * weights / 10,
            "learner_cores_to_store": 100 * rate / learner,
            "rows_per_s_one_gpu_learner_uses": asked,
            "collectors_one_gpu_learner_uses": asked / rate,
            "hours_to_200M_frames": 50e6 / (100 * rate) / 3600,
        },
    }


def main() -> None:
    """Measure, fit, check, predict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5, help="updates at each point")
    parser.add_argument("--updates", type=Path, help="results of benchmarks/scaling.py instead of measuring updates")
    args = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result: dict[str, Any] = {
        "command": "python " + shlex.join(sys.argv), "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit, "cpu": cpu_model(), "cores": os.cpu_count(), "base": BASE,
    }  # fmt: skip
    if args.updates:
        fitted, held_out = known_updates(args.updates)
    else:
        measured = measure([*FITTED, *HELD_OUT], args.rounds)
        fitted, held_out = measured[: len(FITTED)], measured[len(FITTED) :]
    result |= {"updates": str(args.updates or "measured"), "fitted": fitted, "held_out": held_out}
    result["coefficients"] = fit(result["fitted"])
    for point in [*result["fitted"], *result["held_out"]]:
        point["predicted_s"] = predict(result["coefficients"], point)
        point["error"] = point["predicted_s"] / point["cpu_s"] - 1
    errors = [abs(point["error"]) for point in result["held_out"]]
    result["held_out_error"] = {"median": statistics.median(errors), "largest": max(errors)}
    print("held out:", result["held_out_error"], flush=True)
    result["gradients"] = gradients()
    result["collecting"] = [collecting(count) for count in (1, 4, 16)]
    with tempfile.TemporaryDirectory() as folder:
        result["replay"] = replay(20_000, Path(folder))
    agent = make_subject("atari", {"compute.device": "cpu"}, shape=(64, 64, 3), actions=6).agent()
    result["agent_parameters"] = sum(p.numel() for part in (agent.world_model, agent.actor) for p in part.parameters())
    result["assumed"] = GPU
    result["predictions"] = predictions(result)
    result["cpu_seconds"] = time.process_time()
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(
        json.dumps({key: result[key] for key in ("coefficients", "gradients", "collecting", "replay", "predictions")})
    )


if __name__ == "__main__":
    main()
