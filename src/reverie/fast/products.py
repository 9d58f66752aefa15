"""Matrix products: which number type and which library are quickest for their size (docs/performance.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import ExactLinear, without_autocast

#: From this many multiply-adds on, a bfloat16 product is worth its conversions and calls.
WORTH_HALVING = 2**20
#: From this many on, oneDNN's float32 product is worth its call, where it is quicker than MKL's (`onednn_is_quicker`).
WORTH_ONEDNN = 2**20
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_is_quicker() -> bool:
    """Is it quicker in float32 than torch's usual library? With AVX-512 on AMD's processors it is twice as quick, since
    MKL does not use it there; with AVX2 MKL is quicker by a tenth to a quarter (docs/performance.md).

    A fixed rule, for which no run has to remember anything.
    """
    return HAS_ONEDNN and not (torch.backends.mkl.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX2")


USES_ONEDNN = onednn_is_quicker()
#: The kinds of work whose number types are chosen apart.
KINDS = ("convolutions", "dense", "loops")


class Types(NamedTuple):
    """What large products are made in: of encoder and decoder, of dense layers and heads, of the RSSM."""

    convolutions: torch.dtype
    dense: torch.dtype
    loops: torch.dtype

    @classmethod
    def all(cls, dtype: torch.dtype) -> Types:
        """Everything in one type."""
        return cls(dtype, dtype, dtype)

    @property
    def lowest(self) -> torch.dtype:
        """bfloat16 if anything is computed in it."""
        return torch.bfloat16 if torch.bfloat16 in self else torch.float32

    def of(self, kind: str) -> torch.dtype:
        """That of one of the `KINDS`."""
        return self[KINDS.index(kind)]

    def to_dict(self) -> dict[str, str]:
        """For JSON."""
        return {kind: _name(self.of(kind)) for kind in KINDS}

    @classmethod
    def from_dict(cls, names: Mapping[str, str]) -> Types:
        """Inverse of `to_dict`. Raises ValueError or KeyError for what does not come from there."""
        known = {_name(dtype): dtype for dtype in (torch.float32, torch.bfloat16)}
        if odd := [names[kind] for kind in KINDS if names[kind] not in known]:
            raise ValueError(f"unknown number type '{odd[0]}'")
        return cls(*(known[names[kind]] for kind in KINDS))


def said(types: Types) -> str:
    """As "convolutions in bfloat16, dense and loops in float32"."""
    kinds = {dtype: [kind for kind in KINDS if types.of(kind) == dtype] for dtype in dict.fromkeys(types)}
    if len(kinds) == 1:
        return f"all in {_name(types.loops)}"
    return ", ".join(f"{' and '.join(kind)} in {_name(dtype)}" for dtype, kind in kinds.items())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
    if small or not USES_ONEDNN:
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
