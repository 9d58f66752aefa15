"""The least time that an update can take on a machine: arithmetic and memory by part, against measured ceilings.

    python benchmarks/roofline.py --preset atari --shape 64 64 1 --actions 18 --batch 50 --length 50
    python benchmarks/roofline.py --preset atari --tflops 780 --bandwidth 4000    an H200 in bfloat16, from anywhere

Options are those of `reverie bench`; settings may follow as name=value. Nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import Any

import torch

from reverie.bench.arithmetic import Work, count_update
from reverie.bench.ceilings import Ceilings, measure_ceilings
from reverie.bench.subject import Subject, user_error_if_too_large
from reverie.build import pick_device
from reverie.commands.bench import (
    add_subject_arguments,
    ceilings_line,
    header_lines,
    number,
    progress,
    provenance_of,
    subject_of,
)
from reverie.commands.command import add_json, settings_of
from reverie.errors import UserError
from reverie.evidence.tables import columns
from reverie.fast.modes import pick_dtype, pick_mode


@dataclass(frozen=True)
class Floor:
    """The least time of an update, by part: the longer one of arithmetic and memory."""

    works: list[Work]
    ceilings: Ceilings
    dtype: torch.dtype  # of products

    @property
    def flops(self) -> int:
        """Operations of one update."""
        return sum(work.flops for work in self.works)

    @property
    def bytes(self) -> float:
        """Moved by one update, an estimate."""
        return sum(work.bytes(itemsize=self.dtype.itemsize) for work in self.works)

    def seconds(self, work: Work) -> tuple[float, float]:
        """(arithmetic, memory) of a part."""
        moved = work.bytes(itemsize=self.dtype.itemsize)
        return work.flops / self.ceilings.flops_per_s(self.dtype), moved / self.ceilings.copy_bytes_per_s

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        parts = [
            {
                "phase": work.phase,
                "part": work.part,
                "forward_flops": work.forward_flops,
                "backward_flops": work.backward_flops,
                "bytes_estimate": work.bytes(itemsize=self.dtype.itemsize),
                "arithmetic_ms": 1e3 * self.seconds(work)[0],
                "memory_ms_estimate": 1e3 * self.seconds(work)[1],
            }
            for work in self.works
        ]
        rate = self.ceilings.flops_per_s(self.dtype)
        floor = 1e3 * sum(max(self.seconds(work)) for work in self.works)
        return {
            "parts": parts,
            "flops_per_update": self.flops,
            "weight_bytes_estimate": sum(work.weight_bytes for work in self.works) * self.dtype.itemsize / 4,
            "activation_bytes_estimate": sum(work.other_bytes for work in self.works) * self.dtype.itemsize / 4,
            "optimizer_bytes_estimate": sum(work.optimizer_bytes for work in self.works),
            "ceilings": self.ceilings.to_dict(),
            "ceiling_flops_per_s": rate,
            "arithmetic_floor_ms": 1e3 * self.flops / rate,
            "memory_floor_ms_estimate": 1e3 * self.bytes / self.ceilings.copy_bytes_per_s,
            "floor_ms_estimate": floor,
            "floor_updates_per_s_estimate": 1e3 / floor,
        }


def bench_roofline(subject: Subject, tflops: float, bandwidth: float) -> dict[str, Any]:
    """The floor of an update; tflops (TFLOP/s) and bandwidth (GB/s) of another machine, or 0 to measure this one."""
    compute, device = subject.config.compute, pick_device(subject.config.compute.device)
    mode = pick_mode(compute, device)
    dtype = pick_dtype(subject.config, mode, device)
    if tflops:
        stated = 1e12 * tflops
        ceilings = Ceilings(stated, stated, 1e9 * bandwidth, measured=False)
    else:
        progress(f"measuring what {device} can do")
        subject.agent()  # sets torch's threads
        ceilings = measure_ceilings(device)
    floor = Floor(count_update(subject), ceilings, dtype)
    return {
        **subject.facts(),
        "device": "another machine" if tflops else str(device),
        "precision": str(dtype).split(".")[1],
        "mode": mode,
        "steps_one_after_another": {
            "observe": subject.config.train.seq_len,
            "imagine": subject.config.behavior.imagination_horizon,
        },
        **floor.to_dict(),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """A result as text."""
    total, serial = found["flops_per_update"], found["steps_one_after_another"]
    return [
        *header_lines(found),
        ceilings_line(found["ceilings"]),
        "",
        *part_lines(found["parts"], total),
        "",
        f"arithmetic  {total / 1e9:.4g} GFLOP an update: {found['arithmetic_floor_ms']:.4g} ms in {found['precision']}",
        f"memory*     {found['memory_floor_ms_estimate']:.4g} ms: weights "
        f"{found['weight_bytes_estimate'] / 1e9:.3g} GB, "
        f"activations and gradients {found['activation_bytes_estimate'] / 1e9:.3g} GB, "
        f"optimizer {found['optimizer_bytes_estimate'] / 1e9:.3g} GB",
        f"floor*      {found['floor_ms_estimate']:.4g} ms an update, {found['floor_updates_per_s_estimate']:.4g} "
        "updates/s: of each part the longer one of both",
        f"in order    {serial['observe']} observed and {serial['imagine']} imagined steps one after another, the "
        "former forward and backward: latency comes on top",
        "* an estimate: every product reads its inputs and writes its output once, all else is fused, no caches",
    ]


def part_lines(parts: list[dict[str, Any]], total: float) -> list[str]:
    header = ("part", "forward", "backward", "GFLOP", "share", "MB*", "arithmetic ms", "memory ms*")
    rows = []
    for part in parts:
        forward, backward = part["forward_flops"], part["backward_flops"]
        rows.append(
            (
                part["part"],
                figure(forward / 1e9),
                figure(backward / 1e9),
                figure((forward + backward) / 1e9),
                f"{(forward + backward) / total:.1%}" if forward else "-",
                figure(part["bytes_estimate"] / 1e6),
                figure(part["arithmetic_ms"]),
                figure(part["memory_ms_estimate"]),
            )
        )
    return columns(rows, header=header, right=range(1, len(header)))


def figure(value: float) -> str:
    return "-" if value == 0 else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    add_subject_arguments(parser)
    parser.add_argument("--tflops", help="of another machine, TFLOP/s, instead of measuring this one")
    parser.add_argument("--bandwidth", help="of another machine, GB/s")
    add_json(parser)
    args, rest = parser.parse_known_args()
    try:
        if (args.tflops is None) != (args.bandwidth is None):
            raise UserError("--tflops and --bandwidth describe a machine together.", "Give both, or neither.")
        stated = [number(f"--{name}", getattr(args, name) or "1") for name in ("tflops", "bandwidth")]
        with user_error_if_too_large():
            subject, settings = subject_of(args, settings_of(rest))
            progress(f"roofline, preset {args.preset}; shapes: {subject.source}")
            result = bench_roofline(subject, *(stated if args.tflops else (0, 0)))
    except UserError as error:
        parser.error(str(error))
    origin = provenance_of(subject.config, ["python", "benchmarks/roofline.py"])
    found = {"benchmark": "roofline", "preset": args.preset, "settings": settings, **origin, **result}
    print(json.dumps(found) if args.json else "\n".join(lines(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
