"""Cost of the check for NaN and infinity: update times with it and without, in turn, in one process.

    taskset -c 1 python benchmarks/nonfinite.py [--updates 40]

CPU time of one thread; the median of the ratios of neighbouring updates.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch

from reverie.config.presets import load_preset
from reverie.data.replay import Batch
from reverie.envs.actions import ActionSpec
from reverie.envs.spaces import ObsKey, Spec
from reverie.fast.modes import keep_memory
from reverie.train import DreamerV2, to_batch

#: name -> (preset, settings, image size)
SUBJECTS = {
    "demo": ("demo", {}, 28),
    "T": (
        "atari",
        {"cnn_depth": 24, "rnn_hidden_dim": 200, "rssm_hidden_dim": 200, "hidden_dim": 200, "batch_size": 16,
         "seq_len": 16},
        64,
    ),
}  # fmt: skip


def make(name: str) -> tuple[DreamerV2, Batch]:
    """An agent of a subject and a batch of its sizes."""
    preset, settings, size = SUBJECTS[name]
    config = load_preset(preset, {"compute.device": "cpu", "compute.threads": 1} | settings)
    shape = (size, size, 3)
    agent = DreamerV2(config, Spec({"image": ObsKey(("image",), "image", shape, shape, "hwc")}, ActionSpec.discrete(7)))
    rng, b, t = np.random.default_rng(0), config.train.batch_size, config.train.seq_len
    image = rng.integers(0, 256, (b, t, *shape), dtype=np.uint8)
    first, no = np.zeros((b, t), bool), np.zeros((b, t), bool)
    first[:, 0] = True
    action = agent.spec.action.random(rng, b * t).reshape(b, t, -1)
    action[first] = np.nan
    return agent, to_batch(Batch({"image": image}, action, rng.normal(size=(b, t)).astype(np.float32), first, no, no))


def measure(name: str, updates: int) -> dict[str, float]:
    """Seconds of an update without the check, and how much longer it takes with it."""
    agent, batch = make(name)
    guard = agent.guard
    spent = {"begin": 0.0, "check": 0.0}
    begin, check = guard.begin, guard.check

    def timed(key, function):
        def call(*args, **kwargs):
            start = time.process_time()
            function(*args, **kwargs)
            spent[key] += time.process_time() - start

        return call

    ratios, plain = [], []
    for update in range(updates + 3):
        times = {}
        for on in (True, False) if update % 2 else (False, True):
            guard.begin = timed("begin", begin) if on else lambda *a, **k: None
            guard.check = timed("check", check) if on else lambda *a: None
            if update == 3 and not times:
                spent.update(begin=0.0, check=0.0)
            start = time.process_time()
            agent.update(batch)
            times[on] = time.process_time() - start
        if update >= 3:
            ratios.append(times[True] / times[False])
            plain.append(times[False])
    direct = sum(spent.values()) / updates
    return {"update": median(plain), "ratio": median(ratios), "check": direct, "share": direct / median(plain)}


def main() -> None:
    """Print one line per subject."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=40)
    updates = parser.parse_args().updates
    torch.set_num_threads(1)
    keep_memory()
    for name in SUBJECTS:
        x = measure(name, updates)
        print(
            f"{name:5} update {1e3 * x['update']:7.1f} ms; with the check x {x['ratio']:.4f}; the check itself "
            f"{1e3 * x['check']:.2f} ms = {x['share']:.2%}", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
