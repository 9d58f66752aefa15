"""How long one action takes: the agent's player, the exported program, the exported ONNX file; beside 20 ms, 50 Hz.

    python benchmarks/export_latency.py --out benchmarks/results/export-latency.json

One environment, one thread, untrained weights: the time does not depend on them. CPU time a step is given beside the
wall clock's, for machines that others use as well.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from reverie.config.presets import load_preset
from reverie.envs.actions import ActionSpec
from reverie.envs.spaces import ObsKey, Spec
from reverie.share import export
from reverie.train import DreamerV2

VECTOR = ObsKey((), "vector", (17,), (17,))
IMAGE = ObsKey((), "image", (64, 64, 3), (64, 64, 3), "hwc")
LARGE = ObsKey((), "image", (210, 160, 3), (64, 64, 1), "hwc", grayscale=True)
SUBJECTS = {
    "vector, 17 numbers": ("vector", VECTOR, ActionSpec.box(6)),
    "small, 64x64 RGB": ("small", IMAGE, ActionSpec.discrete(6)),
    "atari, 210x160 RGB made 64x64 gray": ("atari", LARGE, ActionSpec.discrete(18)),
}


def clock(step, seconds: float) -> dict[str, float]:
    """-> wall milliseconds (median, 99 %) and CPU milliseconds (mean) of a step."""
    for _ in range(5):
        step()
    walls, cpu, until = [], time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < until or len(walls) < 50:
        start = time.perf_counter()
        step()
        walls.append(1000 * (time.perf_counter() - start))
    spent = 1000 * (time.process_time() - cpu) / len(walls)
    return {"p50": float(np.median(walls)), "p99": float(np.quantile(walls, 0.99)), "cpu": spent, "steps": len(walls)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__, "rows": {}}
    for name, (preset, item, action) in SUBJECTS.items():
        agent = DreamerV2(load_preset(preset, {"compute.precision": "float32"}), Spec({"observation": item}, action))
        graph = export.plain_graph(agent.config, agent.spec, agent.world_model, agent.actor, "eval")
        player = agent.player(mode="eval")
        obs = np.zeros(item.raw_shape, np.uint8 if item.kind == "image" else np.float32)
        feed = {port.name: x.numpy() for port, x in zip(graph.inputs, export.example(graph.inputs, 1), strict=True)}
        with tempfile.TemporaryDirectory() as folder:
            export._write_onnx(graph, Path(folder) / "policy.onnx")
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(Path(folder) / "policy.onnx", options)
            program = export._write_torch(graph, Path(folder) / "policy.pt2")
            row = {
                "player": clock(lambda p=player, o=obs: p(o), args.seconds),
                "torch": clock(lambda p=program, f=feed: p(*f.values()), args.seconds),
                "onnx": clock(lambda s=session, f=feed: s.run(None, f), args.seconds),
                "megabytes": (Path(folder) / "policy.onnx").stat().st_size / 1e6,
            }
        found["rows"][name] = row
        for kind in ("player", "torch", "onnx"):
            print(
                f"{name:36} {kind:7} " + "  ".join(f"{key} {value:.2f}" for key, value in row[kind].items()), flush=True
            )
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
