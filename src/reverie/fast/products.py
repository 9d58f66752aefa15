"""Matrix products: which number type and which library are quickest for their size (docs/performance.md)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import ExactLinear, without_autocast

#: From this many multiply-adds on, a bfloat16 product is worth its conversions and calls.
WORTH_HALVING = 2**20
#: From this many on, oneDNN's float32 product is worth its call: on AMD's CPUs twice as quick as MKL's, torch's usual.
WORTH_ONEDNN = 2**20
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product_dtype(rows: int, weight: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The type to multiply in: `dtype` where that is worth it. rows of inputs meet a weight (out, in)."""
    return dtype if rows * weight.numel() >= WORTH_HALVING else torch.float32


def layer_dtype(layer: nn.Linear, rows: int, dtype: torch.dtype) -> torch.dtype:
    """The type to multiply a layer's weight in with `rows` inputs: `product_dtype`, unless the layer must be exact."""
    return torch.float32 if isinstance(layer, ExactLinear) else product_dtype(rows, layer.weight, dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b without gradients. x (N, in), weight (out, in), bias (out,) of one type, any strides -> (N, out).

    In the type that they have: an autocast around it changes nothing.
    """
    small = x.dtype != torch.float32 or x.device.type != "cpu" or len(x) * weight.numel() < WORTH_ONEDNN
    if small or not HAS_ONEDNN:
        with without_autocast(x):
            return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, _dense(weight), bias, "none", [], "")


def _dense(weight: Tensor) -> Tensor:
    """Without gaps between rows or columns: for a part of a weight oneDNN takes a loop that is 1000 times slower."""
    if weight.is_contiguous() or weight.t().is_contiguous():
        return weight
    return weight.t().contiguous().t() if weight.stride(0) == 1 else weight.contiguous()


def outer(g: Tensor, x: Tensor) -> Tensor:
    """Gradient of a weight: the sum over rows of g x'. g (N, out), x (N, in) -> (out, in)."""
    return linear(g.t(), x.t())
