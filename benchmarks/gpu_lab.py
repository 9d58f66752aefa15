"""Experiments on updates for `benchmarks/gpu.py`: each row is printed as JSON as soon as it is there.

    python benchmarks/gpu_lab.py updates --preset atari --shape 64 64 1 --actions 18 --batch 16 --length 64

updates    graph and fast, each in bfloat16 and float32: updates per second
profile    one replay of the graph: how many kernels, microseconds each, the 20 that take longest
ab         three things that were mended on paper, each against the form before, captured and replayed in turns
compiled   the recurrent step through torch.compile inside of what is captured

Without a GPU everything runs in the fast mode, only to try the script.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import torch

from reverie.bench.subject import Subject, random_batch
from reverie.commands.bench import add_subject_arguments, subject_of
from reverie.config import build
from reverie.errors import UserError
from reverie.fast import steps
from reverie.fast.rows import Indexed
from reverie.train import DreamerV2, to_batch

#: Updates before an agent is measured: three of torch's own, the capture, and two replays.
WARM_UP = 6
Row = dict[str, Any]


class Updater:
    """An agent that makes updates of one batch, with something exchanged while it is captured."""

    def __init__(self, subject: Subject, exchanged: AbstractContextManager[Any] | None = None, **settings: str) -> None:
        on_gpu = torch.cuda.is_available() and subject.config.compute.device != "cpu"
        mode = settings.pop("mode", "graph")
        changed = {"compute.mode": mode if on_gpu else "fast", "behavior.actor_warmup": 0} | settings
        self.agent = DreamerV2(build(changed, base=subject.config), subject.spec)
        self.batch = to_batch(random_batch(subject), self.agent.device)
        with exchanged or nullcontext():
            for _ in range(WARM_UP):
                self.agent.update(self.batch)
            self.finish()

    def finish(self) -> None:
        """Wait for the device."""
        if self.agent.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, least: float) -> float:
        """Of an update, the next one queued without waiting."""
        self.finish()
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < least or count < 2:
            for _ in range(4):
                self.agent.update(self.batch)
            self.finish()
            count += 4
        return (time.perf_counter() - begin) / count


def updates(subject: Subject) -> Iterator[Row]:
    for mode in ("graph", "fast"):
        for precision in ("bfloat16", "float32"):
            torch.manual_seed(0)
            updater = Updater(subject, mode=mode, **{"compute.precision": precision})
            seconds = updater.seconds(2.0)
            yield {"mode": mode, "precision": precision, "updates_per_s": 1 / seconds}


def profile(subject: Subject) -> Iterator[Row]:
    updater = Updater(subject)
    on_gpu = updater.agent.device.type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        updater.agent.update(updater.batch)
        updater.finish()
    found = [
        (event.key, event.count, event.self_device_time_total if on_gpu else event.self_cpu_time_total)
        for event in profiler.key_averages()
    ]
    found = sorted((row for row in found if row[2] > 0), key=lambda row: -row[2])
    nodes, total = sum(row[1] for row in found), sum(row[2] for row in found)
    yield {
        "nodes": nodes,
        "us": total,
        "us_per_node": total / max(1, nodes),
        "top": [{"name": name[:80], "count": count, "us": us, "share": us / total} for name, count, us in found[:20]],
    }


def four_kernels(x: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(2 * x).mul_(2).sub_(1)


def written_out(self: Indexed) -> torch.Tensor:
    return self._write_out()


def cast_each_time(mode: str, dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    if dtype == torch.float32 or device.type == "cpu":
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype, cache_enabled=False)


#: What was mended -> what it was before.
BEFORE: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "torch.tanh": lambda: mock.patch.object(steps, "tanh", four_kernels),
    "features written out once": lambda: mock.patch.object(Indexed, "dense", written_out),
    "weights cast once": lambda: mock.patch("reverie.train.autocast", cast_each_time),
}


def ab(subject: Subject) -> Iterator[Row]:
    now = Updater(subject)
    for name, before in BEFORE.items():
        other = Updater(subject, before())
        pairs = [(now.seconds(0.5), other.seconds(0.5)) for _ in range(4)]
        ratios = sorted(ours / theirs for ours, theirs in pairs)
        yield {"change": name, "ratio": (ratios[1] + ratios[2]) / 2, "least": ratios[0], "most": ratios[-1]}
        del other


def compiled(subject: Subject) -> Iterator[Row]:
    now = Updater(subject)
    plain = now.seconds(2.0)
    yield {"step": "as written", "updates_per_s": 1 / plain}
    kinds = {name: torch.compile(getattr(steps.Recurrence, name), dynamic=False) for name in ("forward", "back")}
    begin = time.perf_counter()
    try:
        other = Updater(subject, mock.patch.multiple(steps.Recurrence, **kinds))
    except Exception as error:  # whatever the compiler raises is what this is to find out
        yield {"step": "compiled", "error": f"{type(error).__name__}: {str(error)[:300]}"}
        return
    first = time.perf_counter() - begin
    pairs = [(now.seconds(0.5), other.seconds(0.5)) for _ in range(4)]
    ratios = sorted(theirs / ours for ours, theirs in pairs)
    yield {"step": "compiled", "first_s": first, "ratio": (ratios[1] + ratios[2]) / 2}


EXPERIMENTS: dict[str, Callable[[Subject], Iterator[Row]]] = {
    "updates": updates,
    "profile": profile,
    "ab": ab,
    "compiled": compiled,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=EXPERIMENTS)
    add_subject_arguments(parser)
    args, words = parser.parse_known_args()
    try:
        subject, _ = subject_of(args, dict(word.split("=", 1) for word in words))
    except (UserError, ValueError) as error:
        parser.error(str(error))
    for row in EXPERIMENTS[args.what](subject):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
