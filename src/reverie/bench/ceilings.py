"""What the hardware can do at most: products of matrices per second, and bytes copied per second."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..fast.modes import has_bfloat16
from .clocks import Effort, repeat, waiter

#: Side of the square matrices and bytes of the copies that ceilings are measured with.
SIZES = {"cpu": (2048, 2**27), "cuda": (8192, 2**30)}


@dataclass(frozen=True)
class Ceilings:
    """What a machine can do at most; measured by large products and copies, or stated."""

    fp32_flops_per_s: float
    bf16_flops_per_s: float | None  # None: the hardware has no bfloat16
    copy_bytes_per_s: float  # read and written bytes together
    measured: bool = True

    def flops_per_s(self, dtype: torch.dtype) -> float:
        """Of products in a number type."""
        if dtype == torch.bfloat16 and self.bf16_flops_per_s:
            return self.bf16_flops_per_s
        return self.fp32_flops_per_s

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure_ceilings(device: torch.device) -> Ceilings:
    """Large square products and a large copy, the median of several; seconds, and only once per process."""
    return _measured(str(device), torch.get_num_threads())


@functools.cache
def _measured(name: str, threads: int) -> Ceilings:
    device = torch.device(name)
    side, size = SIZES["cuda" if device.type == "cuda" else "cpu"]
    low = _product(device, torch.bfloat16, side) if has_bfloat16(device) else None
    return Ceilings(_product(device, torch.float32, side), low, _copy(device, size))


def _product(device: torch.device, dtype: torch.dtype, side: int) -> float:
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)
    finish = waiter(device)
    torch.mm(a, b, out=out)
    samples = repeat(lambda: torch.mm(a, b, out=out), Effort(0, 5), finish)
    return 2 * side**3 / samples.median


def _copy(device: torch.device, size: int) -> float:
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    samples = repeat(lambda: target.copy_(source), Effort(0, 7), waiter(device))
    return 2 * size / samples.median
