"""One recurrent step, h_t = f(h_{t-1}, z_{t-1}, a_{t-1}), forward and backward, without autograd."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dense import Weights
from .pointwise import elu_, tanh
from .products import linear
from .rows import OneHots


class Product(NamedTuple):
    """W x + b, in the weight's number type. x (N, in) -> (N, out) float32."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x.to(self.weight.dtype), self.weight, self.bias).float()

    def back(self, g: Tensor) -> Tensor:
        """From the gradient of the output (N, out) to that of the input (N, in)."""
        return linear(g.to(self.weight.dtype), self.weight.t()).float()


class Normed(NamedTuple):
    """What backward needs of norm and activation."""

    y: Tensor
    before: Tensor
    mean: Tensor
    rstd: Tensor


class NormElu:
    """elu(norm(x)), or norm(x) alone. Remembers the gradients that its own weights wait for."""

    def __init__(self, norm: nn.Module | None, *, elu: bool = True) -> None:
        self.norm, self.elu = (norm if isinstance(norm, nn.LayerNorm) else None), elu

    def __call__(self, before: Tensor) -> Normed:
        """(N, size), which is overwritten where there is no norm."""
        y, mean, rstd = before, before, before
        if self.norm is not None:
            norm = self.norm
            y, mean, rstd = torch.native_layer_norm(before, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return Normed(elu_(y) if self.elu else y, before, mean, rstd)

    def back(self, g: Tensor, kept: Normed) -> tuple[Tensor, Tensor]:
        """-> gradient of the input, gradient of the norm's output."""
        if self.elu:
            g = torch.ops.aten.elu_backward(g, 1, 1, 1, True, kept.y)
        if self.norm is None:
            return g, g
        norm, mask = self.norm, [True, False, False]
        return torch.ops.aten.native_layer_norm_backward(
            g, kept.before, norm.normalized_shape, kept.mean, kept.rstd, norm.weight, norm.bias, mask
        )[0], g  # fmt: skip

    def weights(self, g: Tensor, kept: Normed) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the norm's weight and bias, from those of its output at all steps, (N, size)."""
        if self.norm is None:
            return None, None
        norm, mask = self.norm, [False, True, True]
        return cast(Any, torch.ops.aten.native_layer_norm_backward(
            g, kept.before, norm.normalized_shape, kept.mean, kept.rstd, norm.weight, norm.bias, mask
        )[1:])  # fmt: skip


class Kept(NamedTuple):
    """What backward needs of one recurrent step."""

    x: Normed
    joined: Tensor  # [x, h]
    gates: Normed
    parts: tuple[Tensor, Tensor, Tensor, Tensor]  # reset, candidate before its tanh's product, after, update
    deter: Tensor  # h before


class Recurrence:
    """h_t = f(h_{t-1}, z_{t-1}, a_{t-1}), forward and backward, prepared for many steps of `rows` states."""

    def __init__(
        self,
        first: nn.Linear,
        weights: Weights,
        gates: Weights,
        norm_x: nn.Module | None,
        norm_gates: nn.Module,
        *,
        size: int,
    ) -> None:
        """first: the layer that sees [z, a], `weights` its numbers split after the `size` inputs of z (Z)."""
        self.size = size
        self.columns = weights.columns
        self.dense = weights.columns.device.type != "cpu"
        self.from_stoch = Product(self.columns.t())
        self.action_weight = first.weight[:, size:].detach()
        self.action_bias = cast(Tensor, first.bias).detach()
        self.gates = Product(gates.rest, gates.bias)
        self.norm_x = NormElu(norm_x)
        self.norm_gates = NormElu(norm_gates, elu=False)

    def of_stoch(self, z: Tensor | OneHots) -> Tensor:
        """W_z z. z (N, Z) or its places -> (N, X)."""
        if isinstance(z, Tensor):
            return self.from_stoch(z)
        if self.dense:  # elsewhere a product with written-out ones is quicker
            return self.from_stoch(z.dense())
        return F.embedding_bag(z.index, self.columns, mode="sum").float()

    def forward(
        self, z: Tensor | OneHots, deter: Tensor, from_action: Tensor, first: Tensor | None = None
    ) -> tuple[Tensor, Kept]:
        """z (N, Z), deter (N, D), from_action (N, X); first (N, 1) erases the past -> the next h (N, D), Kept."""
        pre = self.of_stoch(z)
        if first is not None:
            pre, deter = pre.masked_fill(first, 0), deter.masked_fill(first, 0)
        x = self.norm_x(pre.add_(from_action))
        joined = torch.cat([x.y, deter], -1)
        gates = self.norm_gates(self.gates(joined))
        reset, candidate, update = gates.y.chunk(3, -1)
        reset, update = torch.sigmoid(reset), torch.sigmoid(update - 1)
        new = tanh(reset * candidate)
        return torch.lerp(deter, new, update), Kept(x, joined, gates, (reset, candidate, new, update), deter)

    def back(self, kept: Kept, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """g (N, D) of the next h -> of h, of pre, and for the weights: of norm x, of the gates, of their norm."""
        reset, candidate, new, update = kept.parts
        sigmoid_back, tanh_back = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
        to_update = sigmoid_back(g * (new - kept.deter), update)
        to_new = g * update
        inner = tanh_back(to_new, new)
        to_reset = sigmoid_back(inner * candidate, reset)
        normed = torch.cat([to_reset, inner.mul_(reset), to_update], -1)
        to_gates, normed = self.norm_gates.back(normed, kept.gates)
        to_joined = self.gates.back(to_gates)
        width = kept.joined.shape[-1] - kept.deter.shape[-1]
        to_pre, normed_x = self.norm_x.back(to_joined[:, :width].contiguous(), kept.x)
        return (g - to_new).add_(to_joined[:, width:]), to_pre, normed_x, to_gates, normed


def norm_of(net: nn.Sequential) -> nn.Module | None:
    """The norm that follows the first layer, if one does."""
    return net[1] if type(net[1]) is nn.LayerNorm else None
