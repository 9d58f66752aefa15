"""Convolutions of stride 2 for CPUs: every product in the form that was measured to be fastest.

A strided convolution and its transpose are one linear map between a big image (N, C, H, W) and a small one
(N, M, h, w), with one weight (M, C, k, k). Three products make forward and backward of both layers:

    down    big -> small     forward of Conv2d,            gradient to the input of ConvTranspose2d
    up      small -> big     forward of ConvTranspose2d,   gradient to the input of Conv2d
    weight  big, small -> W  gradient to the weight of either

All tensors are channels-last in memory. docs/performance.md says what each form costs.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..networks import ConvDecoder, ConvEncoder
from . import fused
from .definitions import PARTS, Watch
from .dense import Unit, is_hooked, is_standard, worth_fusing
from .pointwise import elu_
from .products import linear, outer
from .rows import Feat

NHWC = torch.channels_last
ENCODER, DECODER = Watch(PARTS["ConvEncoder"]), Watch(PARTS["ConvDecoder"])

#: Output maps of at most this many pixels a side are a plain matrix product after copying the patches out.
PATCHES_DOWN = 2
#: And any map of at most this many images with at least 16 channels.
FEW = 16
#: Largest kernel with which compiled code makes images from one pixel.
ONE_PIXEL = 2**16
PATCHES_WEIGHT = {torch.float32: 2, torch.bfloat16: 6}


def channels_last(image: Tensor) -> Tensor:
    """The same, channels last in memory, and seen to be so: with one channel torch would take it for channels first."""
    image = image.contiguous(memory_format=NHWC)
    if image.shape[1] == 1:
        height, width = image.shape[-2:]
        image = image.as_strided(image.shape, (height * width, 1, width, 1))
    return image


def patches(big: Tensor, kernel: int) -> Tensor:
    """All patches that a stride-2 kernel sees. (N, C, H, W) -> (N * h * w, k * k * C)."""
    image = big.permute(0, 2, 3, 1)
    count, height, width, channels = image.shape
    rows, cols = (height - kernel) // 2 + 1, (width - kernel) // 2 + 1
    n, y, x, c = image.stride()
    view = image.as_strided((count, rows, cols, kernel, kernel, channels), (n, 2 * y, 2 * x, y, x, c))
    return view.reshape(count * rows * cols, kernel * kernel * channels)


def down(big: Tensor, weight: Tensor, bias: Tensor | None = None, *, few: int = FEW) -> Tensor:
    """conv2d of stride 2. big (N, C, H, W), weight (M, C, k, k) -> (N, M, h, w). few: images that are a product."""
    kernel = weight.shape[-1]
    rows, cols = ((size - kernel) // 2 + 1 for size in big.shape[-2:])
    as_product = max(rows, cols) <= PATCHES_DOWN or (len(big) <= few and big.shape[1] >= 16)
    if not big.is_cpu or not as_product:
        return F.conv2d(big, weight, bias, 2)
    flat = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
    return linear(patches(big, kernel), flat, bias).reshape(-1, rows, cols, len(weight)).permute(0, 3, 1, 2)


def up(small: Tensor, weight: Tensor, size: tuple[int, int], bias: Tensor | None = None) -> Tensor:
    """conv_transpose2d of stride 2 to images of `size`. small (N, M, h, w), weight (M, C, k, k) -> (N, C, H, W).

    From 1x1 it is a matrix product. Where few channels come out, an even kernel is split into the four that make
    the even and odd rows and columns: one dense convolution of stride 1, whose output is woven together.
    """
    kernel, channels = weight.shape[-1], weight.shape[1]
    rows, cols = small.shape[-2:]
    natural = (2 * rows - 2 + kernel, 2 * cols - 2 + kernel)
    if rows == cols == 1:
        flat = weight.permute(2, 3, 1, 0).reshape(-1, len(weight))
        out = linear(small.flatten(1), flat, None if bias is None else bias.repeat(kernel * kernel))
        image = out.reshape(-1, kernel, kernel, channels).permute(0, 3, 1, 2)
    elif kernel % 2 == 0 and channels <= 48 and small.is_cpu:
        image = _woven(small, weight, bias)
    else:
        extra = [max(0, min(1, a - b)) for a, b in zip(size, natural, strict=True)]
        image = F.conv_transpose2d(small, weight, None, 2, output_padding=extra)  # with a bias it is 5 x slower
        return image if bias is None else image.add_(bias[:, None, None])
    if natural != tuple(size):  # rows and columns that no kernel reaches: the bias alone
        image = _padded(image, size, bias)
    return image


def _woven(small: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    (inputs, channels, *_), half = weight.shape, weight.shape[-1] // 2
    split = weight.reshape(inputs, channels, half, 2, half, 2).flip(2, 4).permute(3, 5, 1, 0, 2, 4)
    kernels = split.reshape(4 * channels, inputs, half, half).contiguous(memory_format=NHWC)
    out = F.conv2d(small, kernels, None if bias is None else bias.repeat(4), padding=half - 1).permute(0, 2, 3, 1)
    count, rows, cols, _ = out.shape
    out = out.reshape(count, rows, cols, 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
    return out.reshape(count, 2 * rows, 2 * cols, channels).permute(0, 3, 1, 2)


def _padded(image: Tensor, size: tuple[int, int], bias: Tensor | None) -> Tensor:
    count, channels, height, width = image.shape
    whole = image.new_empty((count, *size, channels)).permute(0, 3, 1, 2)
    border = image.new_zeros(()) if bias is None else bias[:, None, None]
    whole[:, :, height:], whole[:, :, :height, width:], whole[:, :, :height, :width] = border, border, image
    return whole


def weight_gradient(big: Tensor, small: Tensor, kernel: int) -> Tensor:
    """d loss / d weight, from the big image and the small one (one of them a gradient). -> (M, C, k, k)."""
    channels, maps = big.shape[1], small.shape[1]
    sizes = small.shape[-2:]
    if sizes == (1, 1) and big.shape[-2:] == (kernel, kernel) and big.is_cpu:
        flat = outer(small.flatten(1), big.permute(0, 2, 3, 1).flatten(1))
        return flat.reshape(maps, kernel, kernel, channels).permute(0, 3, 1, 2)
    if big.is_cpu and max(sizes) <= PATCHES_WEIGHT.get(big.dtype, 2):
        flat = outer(small.permute(0, 2, 3, 1).reshape(-1, maps), patches(big, kernel))
        return flat.reshape(maps, kernel, kernel, channels).permute(0, 3, 1, 2)
    like = torch.empty((maps, channels, kernel, kernel), dtype=big.dtype, device=big.device).contiguous(
        memory_format=NHWC
    )
    return torch.ops.aten.convolution_backward(
        small, big, like, None, [2, 2], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
    )[1]


class _Conv(torch.autograd.Function):
    """Conv2d or ConvTranspose2d of stride 2, ELU included if asked for: then only the output is kept for backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, size: tuple[int, int] | None, elu: bool, dtype: torch.dtype
    ) -> Tensor:
        x, kernel = channels_last(x.to(dtype)), channels_last(weight.to(dtype))
        y = down(x, kernel, bias.to(dtype)) if size is None else up(x, kernel, size, bias.to(dtype))
        if elu:
            elu_(y)
        ctx.save_for_backward(x, kernel, y if elu else y.new_empty(0))
        ctx.transposed, ctx.elu = size is not None, elu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, kernel, y = ctx.saved_tensors
        g = channels_last(gradients[0].to(x.dtype))
        if ctx.elu:
            g = torch.ops.aten.elu_backward(g, 1, 1, 1, True, y)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = down(g, kernel) if ctx.transposed else up(g, kernel, tuple(x.shape[-2:]))
        big, small = (g, x) if ctx.transposed else (x, g)
        return to_x, weight_gradient(big, small, kernel.shape[-1]).float(), g.sum((0, 2, 3)).float(), None, None, None


class _FusedConv(torch.autograd.Function):
    """As `_Conv` in float32, by compiled code."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, module: nn.Module, size: tuple[int, int] | None, elu: bool
    ) -> Tensor:
        given, y, ctx.conv = _fused(module, x, size, elu)
        ctx.save_for_backward(given, y if elu else None)
        ctx.packed, ctx.transposed = (
            _packed(module, back=size is None) if ctx.needs_input_grad[0] else None,
            size is not None,
        )
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        given, y = ctx.saved_tensors
        g, to_bias = fused.elu_back(gradients[0].float().permute(0, 2, 3, 1).contiguous(), y)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (ctx.conv.down if ctx.transposed else ctx.conv.up)(g, ctx.packed, None, elu=False).permute(
                0, 3, 1, 2
            )
        big, small = (g, given) if ctx.transposed else (given, g)
        return to_x, ctx.conv.weight(big, small).permute(0, 3, 1, 2), to_bias, None, None, None


def _fused(module: nn.Module, x: Tensor, size: tuple[int, int] | None, elu: bool) -> tuple[Tensor, Tensor, fused.Conv]:
    """x (N, channels, height, width), size as in `_Conv` -> x and the answer, channels last, and the sizes."""
    weight, bias = cast(Tensor, module.weight), cast(Tensor, module.bias)
    maps, channels, kernel, _ = weight.shape
    given = x.float().permute(0, 2, 3, 1).contiguous()
    count, height, width, _ = given.shape
    if size is None:
        small = ((height - kernel) // 2 + 1, (width - kernel) // 2 + 1)
        conv = fused.Conv(count, height, width, channels, *small, maps, kernel)
        return given, conv.down(given, _packed(module, back=False), bias.detach(), elu=elu), conv
    conv = fused.Conv(count, *size, channels, height, width, maps, kernel)
    return given, conv.up(given, _packed(module, back=True), bias.detach(), elu=elu), conv


def _packed(module: nn.Module, *, back: bool) -> Tensor:
    """A kernel as compiled code wants it, from patches to maps or `back`; kept until it changes."""
    weight = cast(Tensor, module._parameters["weight"])
    if weight.is_inference():
        return fused.pack(weight.permute(0, 2, 3, 1).flatten(1), back=back)
    key, kept = (weight._version, weight.data_ptr()), module.__dict__.get("_packed")
    if kept is None or kept[0] != key or kept[1] is not weight:
        kept = module.__dict__["_packed"] = (key, weight, dict[bool, Tensor]())
    made: dict[bool, Tensor] = kept[2]
    if back not in made:
        made[back] = fused.pack(weight.detach().permute(0, 2, 3, 1).flatten(1), back=back)
    return made[back]


def _without_gradients(
    module: nn.Conv2d | nn.ConvTranspose2d, x: Tensor, size: tuple[int, int] | None, elu: bool, dtype: torch.dtype
) -> Tensor:
    """The same for acting, where calls are many and small: the kernel is kept until it changes."""
    weight, bias = module.weight, cast(Tensor, module.bias)
    if weight.is_inference():  # made under inference_mode: it has no version to keep anything by
        y = (down if size is None else partial(up, size=size))(
            channels_last(x.to(dtype)), channels_last(weight.to(dtype)), bias=bias.to(dtype)
        )
        return elu_(y) if elu else y
    key, kept = (weight._version, bias._version, weight.data_ptr(), dtype), module.__dict__.get("_kept")
    if kept is None or kept[0] != key or kept[3] is not weight or not x.is_cpu:
        kept = module.__dict__["_kept"] = (
            key,
            channels_last(weight.detach().to(dtype)),
            bias.detach().to(dtype),
            weight,
        )
    x = channels_last(x.to(dtype))
    y = down(x, kept[1], kept[2]) if size is None else up(x, kept[1], size, kept[2])
    return elu_(y) if elu else y


def _run(
    layers: nn.Sequential, x: Tensor, sizes: list[tuple[int, int]], dtype: torch.dtype, *, runs_fused: bool = False
) -> Tensor:
    """The layers of an encoder (no sizes) or decoder (the size that each transposed convolution gives)."""
    modules, at, layer = list(layers), 0, 0
    while at < len(modules):
        module = modules[at]
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            elu = at + 1 < len(modules) and type(modules[at + 1]) is nn.ELU and is_standard(modules[at + 1])
            size = sizes[layer] if sizes else None
            if runs_fused and _is_fused(module, x):
                if torch.is_grad_enabled():
                    x = cast(Tensor, _FusedConv.apply(x, module.weight, module.bias, module, size, elu))
                else:
                    x = _fused(module, x, size, elu)[1].permute(0, 3, 1, 2)
            elif torch.is_grad_enabled():
                x = cast(Tensor, _Conv.apply(x, module.weight, module.bias, size, elu, dtype))
            else:
                x = _without_gradients(module, x, size, elu, dtype)
            at, layer = at + 1 + elu, layer + 1
        else:
            x, at = module(x.float()), at + 1
    return x


def _is_fused(module: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> bool:
    """Is compiled code quicker than oneDNN for this layer, or as quick? x (N, channels, height, width).

    From one pixel on, a transposed convolution is a large product, at which oneDNN is better.
    """
    if x.device.type != "cpu" or not module.weight.dtype == x.dtype == torch.float32:
        return False
    pixels = x.numel() // max(1, x.shape[1])
    one = isinstance(module, nn.ConvTranspose2d) and x.shape[-2:] == (1, 1)
    return not (one and module.weight.numel() > ONE_PIXEL) and worth_fusing(pixels, module.weight)


def _odd(layers: nn.Sequential) -> str:
    """What keeps convolutions from being computed here, "" if nothing does; in one clause."""
    if type(layers) is not nn.Sequential or is_hooked(layers):
        return "its layers have a type, a hook or a forward of their own"
    odd = [x for x in layers if isinstance(x, nn.Conv2d | nn.ConvTranspose2d) and not is_standard(x)]
    return f"a {type(odd[0]).__name__} has options, a hook or a type of its own" if odd else ""


class FastConvEncoder(ConvEncoder):
    """`ConvEncoder` by faster arithmetic. image (..., C, H, W) -> (..., output_dim)."""

    product_dtype: torch.dtype
    runs_fused: bool

    def misfit(self) -> str:
        """As `FastRSSM.misfit`."""
        return _odd(self.layers)

    def forward(self, image: Tensor) -> Tensor:
        if not ENCODER.intact() or _odd(self.layers):
            return super().forward(image)
        maps = _run(self.layers, image.flatten(0, -4), [], self.product_dtype, runs_fused=self.runs_fused)
        return maps.reshape((*image.shape[:-3], self.output_dim))


class FastConvDecoder(ConvDecoder):
    """`ConvDecoder` by faster arithmetic. feat (..., F) -> (..., C, H, W)."""

    product_dtype: torch.dtype
    runs_fused: bool
    indexed = True

    def misfit(self) -> str:
        """As `FastRSSM.misfit`."""
        return _odd(self.layers)

    def sizes(self) -> list[tuple[int, int]]:
        """What each transposed convolution gives."""
        found, size = [], (self.start[1], self.start[2])
        for layer in self.layers:
            if isinstance(layer, nn.ConvTranspose2d):
                kernel, extra = layer.kernel_size[0], layer.output_padding
                size = (2 * size[0] - 2 + kernel + int(extra[0]), 2 * size[1] - 2 + kernel + int(extra[1]))
                found.append(size)
        return found

    def forward(self, feat: Tensor | Feat) -> Tensor:
        if not DECODER.intact() or _odd(self.layers):
            return super().forward(feat.dense() if isinstance(feat, Feat) else feat)
        if feat.device.type == "cpu" and is_standard(self.linear):
            unit = self.__dict__.get("_unit")
            if unit is None or unit.layer is not self.linear or unit.dtype != self.product_dtype:  # new or replaced
                unit = self.__dict__["_unit"] = Unit(self.linear, None, False, self.product_dtype)
            maps = self.activation(unit(feat))
        else:
            maps = self.activation(self.linear(feat.dense() if isinstance(feat, Feat) else feat))
        given = maps.reshape((-1, *self.start))
        image = _run(self.layers, given, self.sizes(), self.product_dtype, runs_fused=self.runs_fused)
        return image.reshape(feat.shape[:-1] + self.shape)

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        if not DECODER.intact() or "forward" in vars(self):
            return super().loss(feat, target)
        return cast(Tensor, _HalfSquares.apply(self(feat), target))


class _HalfSquares(torch.autograd.Function):
    """`squared_error` over an image, keeping one difference instead of three intermediate images."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor) -> Tensor:
        difference = prediction.float().sub_(target) if prediction.dtype != torch.float32 else prediction - target
        ctx.save_for_backward(difference.to(prediction.dtype))
        rows = difference.movedim(-3, -1).flatten(-3)  # as it lies in memory
        return 0.5 * torch.linalg.vector_norm(rows, dim=-1) ** 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (difference,) = ctx.saved_tensors
        return difference * gradients[0][..., None, None, None].to(difference.dtype), None
