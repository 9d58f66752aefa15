"""The normal distribution's function and its inverse from operations that ONNX has; used in exported files alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

#: Wichura's AS 241 (1988), PPND7: numerators and denominators of three rational functions, lowest power first.
MIDDLE = (3.3871327179, 50.434271938, 159.29113202, 59.109374720), (1.0, 17.895169469, 78.757757664, 67.187563600)
NEAR = (1.4234372777, 2.7568153900, 1.3067284816, 0.17023821103), (1.0, 0.73700164250, 0.12021132975)
FAR = (6.6579051150, 3.0812263860, 0.42868294337, 0.017337203997), (1.0, 0.24197894225, 0.012258202635)
#: Chebyshev fit of erfc with a relative error below 1.2e-7 (Press et al., Numerical Recipes, section 6.2).
TAIL = (
    -1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806,
    0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277,
)  # fmt: skip


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def _ratio(x: Tensor, of: tuple[Sequence[float], Sequence[float]]) -> Tensor:
    return _polynomial(x, of[0]) / _polynomial(x, of[1])


def ndtr(x: Tensor) -> Tensor:
    """The share of a standard normal below x, accurate also far below 0. x (...) -> (...)."""
    z = x.abs() / 2**0.5
    t = 1 / (1 + 0.5 * z)
    upper = 0.5 * t * torch.exp(-z * z + _polynomial(t, TAIL))
    return torch.where(x < 0, upper, 1 - upper)


def ndtri(p: Tensor) -> Tensor:
    """Inverse of `ndtr`. p (...) in (0, 1) -> (...)."""
    q = p - 0.5
    middle = q * _ratio(0.180625 - q * q, MIDDLE)
    r = torch.sqrt(-torch.log(torch.where(q < 0, p, 1 - p).clamp(min=1e-30)))
    outer = torch.where(r <= 5, _ratio(r - 1.6, NEAR), _ratio(r - 5, FAR))
    return torch.where(q.abs() <= 0.425, middle, torch.where(q < 0, -outer, outer))


def decompositions() -> Any:
    """What torch's exporter replaces operations by: as usual, and the two above."""
    table = torch.export.default_decompositions()
    table[torch.ops.aten.special_ndtr.default] = ndtr
    table[torch.ops.aten.special_ndtri.default] = ndtri
    return table
