"""Steps per second with an environment that takes 30 ms a step: in turns, and while the agent learns.

    python benchmarks/async_collect.py --out benchmarks/results/async-collect.json
    python benchmarks/async_collect.py --envs 4 --collectors 1 4 --out benchmarks/results/collectors.json

Beside both: the environment alone (no updates) and the learner alone (an environment that takes no time), with the same
preset and the same ratio of updates to steps. Each is the pace of the loop after the prefill, without evaluations.
--collectors: also so many processes of this machine that share the environments (`env.collectors=local`), with the size
of a row and the age of the weights that acted.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from reverie.config.presets import load_preset
from reverie.fast.choose import processor
from reverie.run.directory import provenance
from reverie.run.loop import Run

SECONDS = 0.03


class Camera(gym.Env):
    """A 64x64 image that changes with each step, and a step that takes so many seconds."""

    observation_space = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gym.spaces.Discrete(5)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = 0
        return self._see(), {}

    def _see(self) -> np.ndarray:
        image = np.zeros((64, 64, 3), np.uint8)
        image[:, : 1 + self.at % 64] = 255
        return image

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        time.sleep(self.seconds)
        self.at += 1
        return self._see(), float(action == 1), False, self.at >= 100, {}


def pace(
    folder: Path, seconds: float, *, on: bool, ratio: float | None, args: argparse.Namespace, collectors: int = 0
) -> dict[str, float]:
    """Steps per second of the loop after learning began. collectors: 0 for none."""
    settings: dict[str, Any] = {
        "env.id": "custom:camera", "num_envs": args.envs, "prefill": args.prefill, "pretrain": 1,
        "env_steps": args.prefill + args.steps, "random_baseline": False, "tensorboard": False, "video": False,
        "eval_every": 0, "env.async_collect": on, "replay_capacity": 20_000, "forecast": False, "env.backend": "async",
        "checkpoint_every": 1e9, "train.minutes": 0, "log.health_every": 0, "compute.threads": 1,
    }  # fmt: skip
    if ratio is not None:
        settings["train_ratio"] = ratio
    if collectors:
        backend = "async" if collectors < args.envs else "sync"
        settings |= {"env.collectors": "local", "num_collectors": collectors, "env.backend": backend}
    run = Run(load_preset(args.preset, settings), folder, lambda: Camera(seconds))
    begun: list[float] = []
    take = run._take

    def watched(item: Any, progress: Any) -> None:
        take(item, progress)
        if run.clock.env_steps >= args.prefill + args.warm and not begun:
            begun.extend([time.perf_counter(), run.clock.env_steps, run.clock.updates, time.process_time()])
            if run._collectors is not None:
                run._collectors.numbers()  # those of what follows
        if run._collectors is not None and run.clock.env_steps >= args.prefill + args.steps:
            last = run._collectors.numbers()  # since the last line of metrics
            numbers.update({name: last[name] for name in ("collectors/bytes_per_row", "collectors/weights_age")})

    numbers: dict[str, float] = {}
    ended: list[float] = []
    run._take = watched  # type: ignore[method-assign]
    run.evaluate = lambda progress: ended.extend([time.perf_counter(), time.process_time()])  # type: ignore[method-assign]
    run.train()
    elapsed, steps = ended[0] - begun[0], run.clock.env_steps - begun[1]
    return {
        "steps_per_second": steps / elapsed,
        "updates_per_step": (run.clock.updates - begun[2]) / steps,
        "cpu_seconds_per_step": (ended[1] - begun[3]) / steps,
        "seconds": elapsed,
    } | numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--prefill", type=int, default=200)
    parser.add_argument("--warm", type=int, default=40, help="steps after the prefill that do not count")
    parser.add_argument("--envs", type=int, default=1, help="environments")
    parser.add_argument("--collectors", type=int, nargs="*", default=[], help="numbers of collectors to measure, too")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found: dict[str, Any] = {"settings": {"preset": args.preset, "steps": args.steps, "step_seconds": SECONDS}}
    found["settings"]["envs"] = args.envs
    found["load_before"] = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds, on, ratio in (
            ("environment_alone", SECONDS, False, 1e-6),
            ("learner_alone", 0.0, False, None),
            ("in_turns", SECONDS, False, None),
            ("async_collect", SECONDS, True, None),
        ):
            found[name] = pace(Path(folder) / name, seconds, on=on, ratio=ratio, args=args)
            print(name, json.dumps(found[name]), flush=True)
        for count in args.collectors:
            name = f"collectors_{count}"
            found[name] = pace(Path(folder) / name, SECONDS, on=False, ratio=None, args=args, collectors=count)
            print(name, json.dumps(found[name]), flush=True)
    slower = min(found["environment_alone"]["steps_per_second"], found["learner_alone"]["steps_per_second"])
    found["share_of_the_slower"] = {
        name: found[name]["steps_per_second"] / slower
        for name in ("in_turns", "async_collect", *(f"collectors_{count}" for count in args.collectors))
    }
    found |= {
        "processor": processor(),
        "cores": sorted(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "provenance": provenance(load_preset(args.preset)),
    }
    print(json.dumps(found["share_of_the_slower"]))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
