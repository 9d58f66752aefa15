"""Functions of single numbers that a CPU does quicker in other words than in torch's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LOG2_E = 1.4426950408889634


def elu_(x: Tensor) -> Tensor:
    """max(x, min(e^x, 1) - 1), in place, piece by piece so that what is between stays in the cache. x (...) -> (...).

    For big tensors half the time of torch's own, whose exp is slow; its exp2 is not.
    """
    if not x.is_cpu or x.numel() < 2**15:
        return F.elu_(x)
    rows = max(1, 2**17 * len(x) // x.numel())
    for part in torch.split(x, rows):
        wide = part.float()
        other = torch.mul(wide, LOG2_E).exp2_().clamp_(max=1).sub_(1)
        torch.maximum(wide, other, out=wide)
        if wide is not part:
            part.copy_(wide)
    return x


def tanh(x: Tensor) -> Tensor:
    """2 sigmoid(2x) - 1 on a CPU, a quarter of torch's own time; elsewhere that is one kernel. x (...) -> (...)."""
    if not x.is_cpu:
        return torch.tanh(x)
    return torch.sigmoid(2 * x).mul_(2).sub_(1)
