"""Dense layers: product, norm and activation as one step of autograd, in the number type that is faster.

`product_dtype` chooses: bfloat16 where it was allowed and the product is big, float32 where calling bfloat16 would
take longer than computing. Norms, activations and everything else that is not a product stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..layers import MLP, ExactLinear
from . import fused
from .definitions import PARTS, Watch
from .pointwise import elu_
from .products import layer_dtype, linear, outer
from .rows import Feat, rows_gradient

LINEAR = (nn.Linear, ExactLinear)
#: Up to this many multiply-adds times threads, compiled code in one thread is taken for quicker than torch in several.
#: On two cores of an AMD EPYC (Zen 5) 16 x 1200 x 1800, which is this many, takes 332 us both ways; below, torch's two
#: threads win 30 to 70 us of a product, and lose a hundred to the operations around it, which are separate calls.
WORTH_THREADS = 2**26


class Weights(NamedTuple):
    """A layer's numbers as products want them, without gradients."""

    rest: Tensor  # (out, in - Z): what is multiplied with h
    columns: Tensor  # (Z, out): one row for each class of z, or whatever the first inputs are
    bias: Tensor  # (out,)


class Prepared:
    """Keeps `Weights`, and prepares them again whenever the layer has changed.

    It sees what torch counts: optimizer steps, loading, in-place operations. Writing through `weight.data` in place is
    not counted; write under `torch.no_grad()` instead.
    """

    def __init__(self, layer: nn.Linear) -> None:
        self.layer = layer
        self.source: Tensor | None = None  # the weight that was prepared; held, so that no other lies at its address
        self.key = (-1, -1, -1)
        self.made: dict[tuple[Any, ...], Any] = {}

    def __call__(self, dtype: torch.dtype, size: int) -> Weights:
        """size: how many of the inputs, from the first on, `columns` are for."""
        return self._kept((dtype, size), lambda: self._make(dtype, size))

    def packed(self, columns: slice, *, back: bool = False) -> Tensor:
        """Some of the weight's columns as fused.py wants them, in float32; back: for the way back."""
        key = (columns.start, columns.stop, back)
        return self._kept(key, lambda: fused.pack(self.layer.weight.detach()[:, columns], back=back))

    def _kept(self, name: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        found = self.layer._parameters  # not `layer.weight`: that is a search, several of them for each step of acting
        weight, bias = cast(Tensor, found["weight"]), cast(Tensor, found["bias"])
        if weight.is_inference():  # made under inference_mode: it has no version, and nothing changes it
            return make()
        key = (weight._version, bias._version, weight.data_ptr())
        if self.source is not weight:  # other weights, and their memory may lie where these lay
            self.source, self.key = weight, (-1, -1, -1)
        if key != self.key or weight.device.type != "cpu":  # a captured CUDA graph must make them itself, every time
            self.key, self.made = key, {}
        made = self.made.get(name)
        if made is None:
            made = self.made[name] = make()
        return made

    def _make(self, dtype: torch.dtype, size: int) -> Weights:
        weight = self.layer.weight.detach()
        rest, columns = weight[:, size:].to(dtype), weight[:, :size].to(dtype).t()
        return Weights(rest.contiguous(), columns.contiguous(), self.layer.bias.detach().to(dtype))


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor, Tensor]:
    """-> normalised, mean, 1 / deviation."""
    return torch.native_layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class _Dense(torch.autograd.Function):
    """activation(norm(W x + b)); x a tensor, or [z, h] with z as indices. Keeps the least that backward needs."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, probs: Tensor | None, weight: Tensor, bias: Tensor, gamma: Tensor | None,
        beta: Tensor | None, feat: Feat | None, unit: Unit,
    ) -> Tensor:  # fmt: skip
        y, kept = unit.compute(x, feat)
        ctx.save_for_backward(*kept, gamma, beta)
        ctx.unit, ctx.feat, ctx.shape, ctx.dtype = unit, feat, x.shape, x.dtype
        return y.reshape(*x.shape[:-1], unit.layer.out_features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        flat, rest, columns, y, before, mean, rstd, gamma, beta = ctx.saved_tensors
        unit, feat = ctx.unit, ctx.feat
        g = gradients[0].reshape(-1, len(rest)).to(y.dtype)
        if unit.elu:
            g = torch.ops.aten.elu_backward(g, 1, 1, 1, True, y)
        to_gamma = to_beta = to_x = to_probs = None
        if unit.norm is not None:
            shape = unit.norm.normalized_shape
            g, to_gamma, to_beta = torch.ops.aten.native_layer_norm_backward(
                g, before, shape, mean, rstd, gamma, beta, [True, True, True]
            )
        g = g.to(rest.dtype)
        if ctx.needs_input_grad[0]:
            to_x = linear(g, rest.t()).to(ctx.dtype).reshape(ctx.shape)
        if ctx.needs_input_grad[1]:
            to_probs = linear(g, columns).to(ctx.dtype).reshape(*ctx.shape[:-1], len(columns))
        to_weight = to_bias = None
        if ctx.needs_input_grad[2]:
            to_weight, to_bias = outer(g, flat).float(), g.sum(0, dtype=torch.float32)
            if feat is not None:
                to_weight = torch.cat([unit.rows_gradient(feat, g).t().float(), to_weight], 1)
        return to_x, to_probs, to_weight, to_bias, to_gamma, to_beta, None, None


class Unit:
    """A Linear layer with the LayerNorm and the ELU that follow it, where they do."""

    def __init__(
        self, layer: nn.Linear, norm: nn.LayerNorm | None, elu: bool, dtype: torch.dtype, *, runs_fused: bool = False
    ) -> None:
        self.layer, self.norm, self.elu, self.dtype, self.runs_fused = layer, norm, elu, dtype, runs_fused
        self.prepared = Prepared(layer)

    def compute(self, x: Tensor, feat: Feat | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """-> the answer (N, out), and what backward needs."""
        flat = x.reshape(-1, x.shape[-1])
        dtype = layer_dtype(self.layer, len(flat), self.dtype)
        weights = self.prepared(dtype, 0 if feat is None else feat.stoch.size)
        flat = flat.to(dtype)
        y = linear(flat, weights.rest, weights.bias)
        if feat is not None:
            index = feat.stoch.index
            y += F.embedding_bag(index.reshape(-1, index.shape[-1]), weights.columns, mode="sum")
        y = y.float()  # norm and activation are quicker in float32, conversion included
        before = mean = rstd = y
        if self.norm is not None:
            y, mean, rstd = layer_norm(y, self.norm)
        if self.elu:
            y = elu_(y)
        return y, (flat, weights.rest, weights.columns, y, before, mean, rstd)

    def rows_gradient(self, feat: Feat, g: Tensor) -> Tensor:
        """Of the columns of z, from that of the product. g (N, out) -> (Z, out)."""
        if self.runs_fused and g.dtype == torch.float32:
            index = feat.stoch.index
            return fused.rows_gradient(index.reshape(-1, index.shape[-1]), g, feat.stoch.size)
        return rows_gradient(feat.order(), g)

    def dense(self, size: int, *, back: bool = False) -> fused.Dense:
        """For fused.py; size: how many of the inputs, from the first on, are those of z; back: both ways."""
        layer, columns = self.layer, self.prepared(torch.float32, size).columns if size else None
        packed, ways = self.prepared.packed, None
        if back:
            ways = packed(slice(size, None), back=True), packed(slice(0, size), back=True) if size else None
        sizes = layer.in_features - size, layer.out_features
        return fused.Dense(*sizes, packed(slice(size, None)), layer.bias, columns, self.norm, self.elu, ways)

    def __call__(self, x: Tensor | Feat) -> Tensor:
        """(..., in) -> (..., out)."""
        feat, x, probs = (x, x.deter, x.stoch.probs) if isinstance(x, Feat) else (None, x, None)
        if not torch.is_grad_enabled():
            return self.compute(x, feat)[0].reshape(*x.shape[:-1], self.layer.out_features)
        gamma, beta = (None, None) if self.norm is None else (self.norm.weight, self.norm.bias)
        return cast(Tensor, _Dense.apply(x, probs, self.layer.weight, self.layer.bias, gamma, beta, feat, self))


def signature(part: nn.Module) -> list[tuple[Any, ...]]:
    """What may be changed about a part between two calls, but for its numbers: modules, their types, hooks, options.

    Two of them are equal where all is as it was; taken in a few microseconds, as acting needs it.
    """
    found: list[tuple[Any, ...]] = []
    rest = [part]
    while rest:
        module = rest.pop()
        own = module.__dict__
        hooked = (
            own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
        )
        options = own.get("alpha"), own.get("eps"), own["_parameters"].get("bias") is None
        found.append((module, module.__class__, bool(hooked), "forward" in own, options))
        rest += own["_modules"].values()
    return found


def is_float32(part: nn.Module) -> bool:
    """Are all parameters of a part float32? As `part.parameters()`, in a tenth of the time."""
    rest = [part]
    while rest:
        own = rest.pop().__dict__
        for parameter in own["_parameters"].values():
            if parameter is not None and parameter.dtype != torch.float32:
                return False
        rest += own["_modules"].values()
    return True


def is_hooked(part: nn.Module) -> bool:
    """Would calling the module do more than its class says?"""
    hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    return any(hooks) or "forward" in vars(part)


def is_standard(layer: nn.Module) -> bool:
    """Is it a layer as this folder writes it out: of exactly that type, with the options of DreamerV2, and no hook?"""
    if is_hooked(layer):
        return False
    kind = type(layer)
    if kind in LINEAR:
        return layer.bias is not None
    if kind is nn.LayerNorm:
        return layer.bias is not None
    if kind is nn.ELU:
        return bool(layer.alpha == 1)
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and kind in (nn.Conv2d, nn.ConvTranspose2d):
        form = (layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode)
        square = layer.kernel_size[0] == layer.kernel_size[1]
        return form == ((2, 2), (0, 0), (1, 1), 1, "zeros") and layer.bias is not None and square
    return False


def units(layers: nn.Sequential, dtype: torch.dtype, *, runs_fused: bool = False) -> list[Any]:
    """Layers gathered into `Unit`s; what does not fit one stays as it is."""
    found: list[Any] = []
    rest = list(layers)
    while rest:
        layer = rest.pop(0)
        if type(layer) in LINEAR and is_standard(layer):
            norm = rest.pop(0) if rest and type(rest[0]) is nn.LayerNorm and is_standard(rest[0]) else None
            elu = bool(rest) and type(rest[0]) is nn.ELU and is_standard(rest[0])
            found.append(Unit(cast(nn.Linear, layer), cast(Any, norm), elu, dtype, runs_fused=runs_fused))
            rest = rest[elu:]
        else:
            found.append(layer)
    return found


def worth_fusing(rows: int, weight: Tensor) -> bool:
    """Is one thread of compiled code as quick as all of torch's threads? rows of inputs meet a weight (out, in)."""
    threads = torch.get_num_threads()
    return threads == 1 or threads * rows * weight.numel() <= WORTH_THREADS


def can_fuse(found: Sequence[Any], x: Tensor | Feat) -> bool:
    """Can compiled code compute these `Unit`s at once: numbers of float32, and not too many for one thread?"""
    number = x.deter if isinstance(x, Feat) else x
    if number.dtype != torch.float32:
        return False
    weights = [cast(Tensor, unit.layer._parameters["weight"]) for unit in found]
    if any(weight.dtype != torch.float32 for weight in weights):
        return False
    if torch.get_num_threads() == 1:
        return True
    return worth_fusing(number.numel() // max(1, number.shape[-1]), max(weights, key=Tensor.numel))


class FusedNet:
    """Layers that compiled code computes in one call, both ways; prepared again whenever one of them has changed."""

    def __init__(self, found: Sequence[Unit]) -> None:
        self.units = found
        self._key: list[tuple[int, int, int]] = []
        self._held: list[Tensor | None] = []  # what `_key` was made of: no other lies at its address
        self._made: dict[tuple[int, int, bool], fused.Net] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Of copies: pointers are not copied."""
        return {"units": self.units, "_key": [], "_held": [], "_made": {}}

    def weights(self) -> list[Tensor | None]:
        """Weight, bias, norm's weight and bias of each layer, None for those of no norm."""
        found: list[Tensor | None] = []
        for unit in self.units:
            of_norm: Any = {} if unit.norm is None else unit.norm._parameters
            of_layer = unit.layer._parameters
            found += [of_layer["weight"], of_layer["bias"], of_norm.get("weight"), of_norm.get("bias")]
        return found

    def net(self, feat: Feat | None, *, back: bool = False) -> fused.Net:
        """Prepared for inputs with z or without."""
        size, count = (0, 0) if feat is None else (feat.stoch.size, feat.stoch.index.shape[-1])
        held, name = self.weights(), (size, count, back)
        if cast(Tensor, held[0]).is_inference():  # it has no version, and nothing changes it
            return self._make(*name)
        key = [(id(x), x._version, x.data_ptr()) for x in held if x is not None]
        if key != self._key:
            self._key, self._held, self._made = key, held, {}
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = self._make(*name)
        return made

    def _make(self, size: int, count: int, back: bool) -> fused.Net:
        return fused.Net([unit.dense(0 if at else size, back=back) for at, unit in enumerate(self.units)], count)

    def __call__(self, x: Tensor | Feat) -> Tensor:
        """(..., in) -> (..., out)."""
        feat, number = (x, x.deter) if isinstance(x, Feat) else (None, x)
        if torch.is_grad_enabled():
            probs = None if feat is None else feat.stoch.probs
            return cast(Tensor, _FusedNet.apply(number, probs, feat, self, *self.weights()))
        y = self.net(feat).forward(*self.inputs(number, feat))[-1]
        return y.reshape(*number.shape[:-1], y.shape[-1])

    @staticmethod
    def inputs(x: Tensor, feat: Feat | None) -> tuple[Tensor, Tensor | None]:
        """x (..., in) and the indices of z (..., S) as rows without gaps."""
        index = None if feat is None else feat.stoch.index.reshape(-1, feat.stoch.index.shape[-1]).contiguous()
        return x.reshape(-1, x.shape[-1]).contiguous(), index


class _FusedNet(torch.autograd.Function):
    """`FusedNet` as one step of autograd."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, probs: Tensor | None, feat: Feat | None, layers: FusedNet, *_: Tensor | None
    ) -> Tensor:
        ctx.net = layers.net(feat, back=True)
        flat, index = layers.inputs(x, feat)
        kept = ctx.net.learn(flat, index)
        ctx.save_for_backward(flat, index, *(tensor for of_layer in kept for tensor in of_layer))
        ctx.lengths, ctx.shape = [len(of_layer) for of_layer in kept], x.shape
        return kept[-1][0].reshape(*x.shape[:-1], kept[-1][0].shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        flat, index, *saved = ctx.saved_tensors
        tensors = iter(saved)
        kept = [tuple(next(tensors) for _ in range(length)) for length in ctx.lengths]
        g = gradients[0].float().reshape(-1, kept[-1][0].shape[-1]).contiguous()
        wants_inputs, wants_probs, _, _, *wants = ctx.needs_input_grad
        to_x, to_probs, of_layers = ctx.net.back(
            flat, index, kept, g, learns=any(wants), wants_inputs=wants_inputs, wants_probs=wants_probs
        )
        to_x = None if to_x is None else to_x.reshape(ctx.shape)
        to_probs = None if to_probs is None else to_probs.reshape(*ctx.shape[:-1], to_probs.shape[-1])
        return to_x, to_probs, None, None, *of_layers


WATCH = Watch(PARTS["MLP"])


class FastMLP(MLP):
    """`MLP` that also takes a `Feat`. x (..., input_dim) -> (..., output_dim)."""

    product_dtype: torch.dtype
    runs_fused: bool

    def forward(self, x: Tensor | Feat) -> Tensor:
        # Other devices multiply one-hots fast, and choosing by size is not needed there.
        own = self.__dict__
        form = signature(self)
        mode = form, self.runs_fused, self.product_dtype
        if own.get("_form") != mode:  # the first call, or a layer was replaced or changed
            own["_form"] = mode
            own["_units"] = units(self, self.product_dtype, runs_fused=self.runs_fused)
            own["_net"] = FusedNet(own["_units"]) if {type(unit) for unit in own["_units"]} == {Unit} else None
            own["_hooked"] = any(hooked or forward for _, _, hooked, forward, _ in form[1:])  # torch calls its own ones
        if own["_hooked"] or x.device.type != "cpu" or not WATCH.intact():
            return super().forward(x.dense() if isinstance(x, Feat) else x)
        if self.runs_fused and own["_net"] is not None and can_fuse(own["_units"], x):
            return cast(Tensor, own["_net"](x))
        for unit in own["_units"]:
            x = unit(x)
        return cast(Tensor, x)
