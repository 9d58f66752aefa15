"""What does each idea of the fast mode give? Each is taken back alone, an update measured with and without, in turn.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/leads.py --config T --out benchmarks/results/leads.json
    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/leads.py --config A --pairs 3 --out benchmarks/results/leads.json

T and A are the agents of `peers.py`, and "demo" is the preset. The table says how much longer an update takes without
the idea (CPU seconds, medians of pairs). One core, one thread. Ideas overlap: the shares do not add up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

from reverie import train
from reverie.bench.subject import Subject, make_subject, random_batch
from reverie.commands.bench import cpu_model
from reverie.fast import FASTER, Feat, convs, products, scan, steps
from reverie.fast import modes as compute
from reverie.fast.dense import FastMLP
from reverie.fast.modes import keep_memory
from reverie.layers import MLP
from reverie.networks import ConvDecoder, ConvEncoder
from reverie.rssm import CategoricalLatent, DiscreteRSSM
from reverie.train import DreamerV2, to_batch

T = {"cnn_depth": 24, "rnn_hidden_dim": 200, "rssm_hidden_dim": 200, "hidden_dim": 200, "batch_size": 16, "seq_len": 16}
SUBJECTS: dict[str, dict[str, Any]] = {
    "T": {"preset": "atari", "overrides": T, "shape": (64, 64, 3), "actions": 6},
    "A": {"preset": "atari", "overrides": {"batch_size": 16, "seq_len": 50}, "shape": (64, 64, 1), "actions": 18},
    "demo": {"preset": "demo", "overrides": {}},
}
HALF = torch.bfloat16


class PlainDecoder(ConvDecoder):
    """As it is, but for features that come as places."""

    def forward(self, feat: Any) -> Any:
        return super().forward(feat.dense() if isinstance(feat, Feat) else feat)


@contextmanager
def plain_convolutions() -> Iterator[None]:
    with mock.patch.dict(FASTER, {ConvDecoder: PlainDecoder}):
        FASTER.pop(ConvEncoder)
        yield


@contextmanager
def without(*parts: type) -> Iterator[None]:
    """These stay plain."""
    with mock.patch.dict(FASTER):
        for part in parts:
            FASTER.pop(part)
        yield


def plain_up(small: torch.Tensor, weight: torch.Tensor, size: Any, bias: Any = None, *, with_bias: bool = False) -> Any:
    """`convs.up` by torch's transposed convolution alone."""
    extra = [size[i] - (2 * small.shape[2 + i] - 2 + weight.shape[-1]) for i in (0, 1)]
    image = F.conv_transpose2d(small, weight, bias if with_bias else None, 2, output_padding=extra)
    return image if bias is None or with_bias else image.add_(bias[:, None, None])


def up_without(idea: str) -> Callable[..., Any]:
    own = convs.up

    def up(small: torch.Tensor, weight: torch.Tensor, size: Any, bias: Any = None) -> Any:
        from_one, few = small.shape[-2:] == (1, 1), weight.shape[1] <= 48
        taken_back = {"linear": from_one, "woven": few and not from_one, "bias": not few and not from_one}[idea]
        return (
            plain_up(small, weight, size, bias, with_bias=idea == "bias")
            if taken_back
            else own(small, weight, size, bias)
        )

    return up


def plain_draw(rssm: Any, stats: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """By comparing with every cumulative sum, as in `ops.sample_index`."""
    latent: CategoricalLatent = rssm.latent
    probs = latent.logits(stats).softmax(-1)
    cumulative = probs.detach().cumsum(-1)
    index = (cumulative <= noise.unsqueeze(-1) * cumulative[..., -1:]).sum(-1).clamp_(max=latent.num_categories - 1)
    index = index.int() + torch.arange(0, latent.stoch_dim, latent.num_categories, dtype=torch.int32)
    return probs.flatten(-2), index


def patched(target: Any, name: str, value: Any) -> Any:
    return mock.patch.object(target, name, value)


@contextmanager
def torchs_pointwise() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for module in (convs, sys.modules["reverie.fast.dense"], steps):
            stack.enter_context(patched(module, "elu_", F.elu_))
        stack.enter_context(patched(steps, "tanh", torch.tanh))
        yield


@contextmanager
def dense_ones() -> Iterator[None]:
    """Zeros are multiplied too, as on a GPU."""
    own, own_forward = steps.Recurrence.__init__, FastMLP.forward

    def init(self: Any, rssm: Any, rows: int) -> None:
        own(self, rssm, rows)
        self.dense = True

    def forward(self: Any, x: Any) -> Any:
        return own_forward(self, x.dense() if isinstance(x, Feat) else x)

    with patched(steps.Recurrence, "__init__", init), patched(FastMLP, "forward", forward):
        yield


#: What is taken back: a context in which the agent is made and trained, and settings.
IDEAS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "everything (compute.mode=reference)": (contextlib.nullcontext, {"mode": "reference", "precision": "float32"}),
    "bfloat16": (contextlib.nullcontext, {"precision": "float32"}),
    "oneDNN for float32 products (both in float32)": (
        lambda: patched(products, "USES_ONEDNN", False), {"precision": "float32"},
    ),
    "one-hot algebra": (dense_ones, {}),
    "the scan by hand, and one-hot algebra with it": (lambda: without(MLP, DiscreteRSSM), {}),
    "convolutions in other forms": (plain_convolutions, {}),
    "first transposed convolution as a product": (lambda: patched(convs, "up", up_without("linear")), {}),
    "last transposed convolution, woven": (lambda: patched(convs, "up", up_without("woven")), {}),
    "bias after transposed convolutions": (lambda: patched(convs, "up", up_without("bias")), {}),
    "patches for small maps": (lambda: patched(convs, "PATCHES_DOWN", 0), {}),
    "ELU by exp2, tanh by sigmoid": (torchs_pointwise, {}),
    "the draw by searchsorted": (lambda: patched(scan.FastRSSM, "draw", plain_draw), {}),
    "frozen world model for behaviour": (lambda: patched(train, "frozen", lambda module: contextlib.nullcontext()), {}),
    "fused AdamW": (lambda: patched(torch.optim, "AdamW", unfused(torch.optim.AdamW)), {}),
}  # fmt: skip


def unfused(own: Any) -> Any:
    return lambda *args, fused, **kwargs: own(*args, **kwargs)


def agent_of(name: str, changes: dict[str, Any]) -> tuple[DreamerV2, Subject]:
    given = SUBJECTS[name]
    fixed = {"compute.threads": 1, "compute.device": "cpu"} | {
        f"compute.{key}": value for key, value in changes.items()
    }
    subject = make_subject(
        given["preset"], given["overrides"] | fixed, shape=given.get("shape", ()), actions=given.get("actions", 0)
    )
    return subject.agent(), subject


def seconds(agent: DreamerV2, batch: Any) -> float:
    start = time.process_time()
    agent.update(batch)
    return time.process_time() - start


def measure(name: str, idea: str, pairs: int) -> dict[str, Any]:
    """With and without one idea, in turn."""
    context, changes = IDEAS[idea]
    base = {"precision": "float32"} if "(both in float32)" in idea else {}
    with_it, subject = agent_of(name, base)
    batch = to_batch(random_batch(subject))
    with context():
        without_it, _ = agent_of(name, changes)
    times: list[list[float]] = [[], []]
    for turn in range(pairs + 2):
        there = seconds(with_it, batch)
        with context():
            gone = seconds(without_it, batch)
        if turn >= 2:
            times[0].append(there)
            times[1].append(gone)
    there, gone = (float(np.median(each)) for each in times)
    return {"with_s": there, "without_s": gone, "longer": gone / there - 1, "pairs": pairs, "times": times}


def kept_memory(name: str, pairs: int) -> dict[str, Any]:
    """Two processes: settings of the C library cannot be undone."""
    code = (
        "import sys; sys.argv = ['leads']; sys.path.insert(0, 'benchmarks')\n"
        "import leads, json, reverie.fast.modes as loop\n"
        "keep = {keep}\n"
        "if not keep: loop.keep_memory = lambda: None\n"
        "agent, subject = leads.agent_of({name!r}, {{}}); batch = leads.to_batch(leads.random_batch(subject))\n"
        "print(json.dumps([leads.seconds(agent, batch) for _ in range({count})][2:]))\n"
    )
    times = []
    for keep in (True, False):
        command = [sys.executable, "-c", code.format(keep=keep, name=name, count=pairs + 2)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        times.append(json.loads(done.stdout))
    there, gone = (float(np.median(each)) for each in times)
    return {"with_s": there, "without_s": gone, "longer": gone / there - 1, "pairs": pairs, "times": times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=SUBJECTS, default="T")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--only", default="", help="ideas with this in their names")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    keep_memory()
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    found: dict[str, Any] = {
        "command": "python " + shlex.join(sys.argv),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "bfloat16": compute.has_bfloat16(torch.device("cpu")),
        "ideas": {},
    }
    for idea in [*IDEAS, "memory kept by the C library"]:
        if args.only.lower() not in idea.lower():
            continue
        row = kept_memory(args.config, args.pairs) if idea not in IDEAS else measure(args.config, idea, args.pairs)
        found["ideas"][idea] = row
        print(
            f"{args.config}  {idea:50} {row['with_s']:.3f} -> {row['without_s']:.3f} s  {row['longer']:+.0%}",
            flush=True,
        )
        args.out.write_text(json.dumps(result | {args.config: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
