"""The recurrent loops and dense layers of this folder as compiled code (fused.c): tensors in, one call, tensors out.

Many small operations are then one: a step of a dream is 1 call instead of some thirty. float32 on a CPU, without
autograd; `scan.py` says what is computed and when this is used. Shapes as there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int64, c_void_p
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .fused_build import NotBuilt, open_library

#: Columns of a packed weight that lie together; as in fused.c.
PANEL = 32


class _Norm(ctypes.Structure):
    _fields_ = (("gamma", c_void_p), ("beta", c_void_p), ("eps", c_float))


def _fields(numbers: str, pointers: str) -> list[tuple[str, Any]]:
    return [(name, c_int64) for name in numbers.split()] + [(name, c_void_p) for name in pointers.split()]


class _Rssm(ctypes.Structure):
    _fields_ = (
        *_fields(
            "a x d y count classes", "columns action input_bias gates gates_bias head head_bias answer answer_bias"
        ),
        ("input_norm", _Norm),
        ("gates_norm", _Norm),
        ("head_norm", _Norm),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *_fields("rows step", "action"), *_fields("action_step", "h"), *_fields("h_step", "index"),
        *_fields("index_step", "from_z first"), *_fields("first_step", "noise"), ("noise_step", c_int64),
        *_fields("", "pre joined gates mean rstd parts look seen stats probs out drawn normed"),
        ("look_given", c_int64),
    )  # fmt: skip


class _BackWeights(ctypes.Structure):
    _fields_ = _fields("", "answer head gates from_z")


class _Back(ctypes.Structure):
    _fields_ = _fields(
        "rows length",
        "of_deter of_stats of_probs pre joined gates mean rstd parts look seen probs first g_stats to_look normed_look "
        "to_gates normed_gates to_pre normed_pre carry_h carry_probs direct wide",
    )


class _Layer(ctypes.Structure):
    _fields_ = (*_fields("ins outs elu count", "packed bias columns"), ("norm", _Norm))


_ARGUMENTS: dict[str, list[Any]] = {
    "pack": [c_int64, c_int64, c_void_p, c_int64, c_int64, c_void_p],
    "step": [c_int64, POINTER(_Rssm), POINTER(_Step)],
    "scan": [c_int64, POINTER(_Rssm), POINTER(_Step), c_int64],
    "back": [c_int64, POINTER(_Rssm), POINTER(_BackWeights), POINTER(_Back)],
    "scatter": [c_int64, c_int64, c_int64, c_void_p, c_void_p, c_int64, c_int64, c_void_p],
    "layers": [c_int64, c_int64, POINTER(_Layer), c_int64, c_void_p, c_int64, c_void_p, c_int64, POINTER(c_void_p)],
}


class Library:
    """fused.c, loaded; any number of threads may call it. level: 0 plain, 1 AVX2 and FMA, 2 AVX-512."""

    def __init__(self, level: int | None = None) -> None:
        """level None: the best that the processor has. Raises NotBuilt."""
        library = open_library()
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, f"reverie_{name}")
            function.argtypes, function.restype = arguments, None
            setattr(self, name, function)
        library.reverie_best.restype = c_int64
        self.best = int(library.reverie_best())
        self.level = self.best if level is None else level
        sizes = (c_int64 * 5)()
        library.reverie_sizes(sizes)
        if list(sizes) != [ctypes.sizeof(kind) for kind in (_Rssm, _Step, _BackWeights, _Back, _Layer)]:
            raise NotBuilt("the compiler lays structures out in another way")

    pack: Any
    step: Any
    scan: Any
    back: Any
    layers: Any
    scatter: Any


@cache
def library() -> Library:
    """The library at the best level of this processor. Raises NotBuilt."""
    return Library()


def address(x: Tensor | None) -> int | None:
    """Where a tensor's numbers begin."""
    return None if x is None else x.data_ptr()


def room(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers to be written, of the type that C writes: whatever torch's default type and device are."""
    return torch.empty(shape, dtype=dtype, device="cpu")


def pack(weight: Tensor, *, back: bool) -> Tensor:
    """A weight (out, in), any strides, as products want it: for x W', or, on the way back, for g W. -> flat."""
    lib, (outs, ins) = library(), weight.shape
    outs_step, ins_step = weight.stride()
    depth, width, steps = (outs, ins, (outs_step, ins_step)) if back else (ins, outs, (ins_step, outs_step))
    packed = room(-(-width // PANEL) * depth * PANEL)
    lib.pack(depth, width, weight.data_ptr(), *steps, packed.data_ptr())
    return packed


def _norm(norm: nn.Module | None) -> _Norm:
    if not isinstance(norm, nn.LayerNorm):
        return _Norm(None, None, 0.0)
    return _Norm(norm.weight.data_ptr(), norm.bias.data_ptr(), norm.eps)


class Parts(NamedTuple):
    """The RSSM's layers, packed for the way forward; head and answer of the posterior or of the prior."""

    sizes: tuple[int, int, int, int, int, int]  # action, input layer, h, head, categoricals, classes
    tensors: tuple[Tensor | None, ...]  # in the order of `_Rssm`
    norms: tuple[nn.Module | None, nn.Module | None, nn.Module | None]  # of input, gates, head

    def struct(self) -> _Rssm:
        """For a call; the tensors must outlive it."""
        return _Rssm(*self.sizes, *map(address, self.tensors), *map(_norm, self.norms))


class Kept(NamedTuple):
    """What a step leaves behind, (B, T, ...) of: X, X + D, 3D, 3, 3, 4D, Y, Y, Z, Z, D, S."""

    pre: Tensor
    joined: Tensor
    gates: Tensor
    mean: Tensor
    rstd: Tensor
    parts: Tensor
    look: Tensor
    seen: Tensor
    stats: Tensor
    probs: Tensor
    deter: Tensor
    drawn: Tensor


def empty_kept(parts: Parts, *shape: int) -> Kept:
    """Room for the steps of `shape`."""
    _, x, d, y, count, classes = parts.sizes
    widths = (x, x + d, 3 * d, 3, 3, 4 * d, y, y, count * classes, count * classes, d)
    return Kept._make([*(room(*shape, n) for n in widths), room(*shape, count, dtype=torch.int32)])


def scan(
    parts: Parts,
    action: Tensor,
    look: Tensor,
    first: Tensor,
    noise: Tensor,
    *,
    deter: Tensor | None = None,
    from_z: Tensor | None = None,
) -> Kept:
    """Filter sequences. action (B, T, A), first (B, T) of bool, noise (B, T, S); look (B, T, Y), W_e e + b, is
    overwritten; deter (B, D) and from_z (B, X), W_z z, are the state before, zeros without them. All dense."""
    lib, (batch, length) = library(), first.shape
    kept = empty_kept(parts, batch, length)._replace(look=look)
    normed = room(3 * parts.sizes[2])
    tensors = [kept.pre, kept.joined, kept.gates, kept.mean, kept.rstd, kept.parts, look, kept.seen, kept.stats,
               kept.probs, kept.deter, kept.drawn, normed]  # fmt: skip
    state = (address(deter), parts.sizes[2], None, 0, address(from_z))
    given = (first.data_ptr(), length, noise.data_ptr(), length * noise.shape[-1])
    step = _Step(batch, length, action.data_ptr(), length * action.shape[-1], *state, *given, *map(address, tensors), 1)
    lib.scan(lib.level, parts.struct(), step, length)
    return kept


def transition(parts: Parts, deter: Tensor, index: Tensor, action: Tensor, noise: Tensor) -> Kept:
    """One step of N dreams that keeps what the way back needs, as a scan of one step. deter (N, D), index (N, S) of z,
    action (N, A), noise (N, S), all dense."""
    lib, rows, kept = library(), len(deter), empty_kept(parts, len(deter), 1)
    normed = room(3 * parts.sizes[2])
    tensors = [kept.pre, kept.joined, kept.gates, kept.mean, kept.rstd, kept.parts, kept.look, kept.seen, kept.stats,
               kept.probs, kept.deter, kept.drawn, normed]  # fmt: skip
    state = (deter.data_ptr(), deter.shape[1], index.data_ptr(), index.shape[1], None, None, 0)
    step = _Step(
        rows, 1, action.data_ptr(), action.shape[1], *state, noise.data_ptr(), noise.shape[1], *map(address, tensors), 0
    )
    lib.step(lib.level, parts.struct(), step)
    return kept


class Gradients(NamedTuple):
    """Of a scan, (B, T, ...): of the stats, of what enters each layer's norm, and of what leaves it (None without)."""

    stats: Tensor
    look: Tensor
    normed_look: Tensor | None
    gates: Tensor
    normed_gates: Tensor | None
    pre: Tensor
    normed_pre: Tensor | None
    before: Tensor  # (B, D): of the state before the first step


def scan_back(
    parts: Parts, weights: Sequence[Tensor], kept: Kept, first: Tensor, of: Sequence[Tensor | None]
) -> Gradients:
    """The way back of `scan`. weights: answer, head, gates and W_z, packed for it; of: the gradients of deter, stats
    and probs, (B, T, ...) and dense, None for none."""
    lib, (batch, length) = library(), first.shape
    _, x, d, y, count, classes = parts.sizes
    normed = [isinstance(norm, nn.LayerNorm) for norm in parts.norms]
    widths = (count * classes, y, y if normed[2] else 0, 3 * d, 3 * d if normed[1] else 0, x, x if normed[0] else 0)
    found = tuple(room(batch, length, n) if n else None for n in widths)
    for_a_while = [room(batch, n) for n in (d, count * classes, d, max(y, x + d, 3 * d))]
    inputs = [*of, kept.pre, kept.joined, kept.gates, kept.mean, kept.rstd, kept.parts, kept.look, kept.seen,
              kept.probs, first]  # fmt: skip
    back = _Back(batch, length, *map(address, inputs), *map(address, found), *map(address, for_a_while))
    lib.back(lib.level, parts.struct(), _BackWeights(*map(address, weights)), back)
    return Gradients._make([*found, for_a_while[0]])


class Dreaming:
    """Steps of `rows` dreams without gradients, one after the other."""

    def __init__(self, parts: Parts, deter: Tensor, index: Tensor, noise: Tensor) -> None:
        """From deter (N, D) and index (N, S); noise (N, H, S). -> `deters` (H + 1, N, D), `index` (H + 1, N, S)."""
        rows, horizon = noise.shape[:2]
        self.deters = room(horizon + 1, *deter.shape)
        self.index = room(horizon + 1, *index.shape, dtype=torch.int32)
        self.deters[0], self.index[0], self.noise, self.parts = deter, index, noise.contiguous(), parts
        self._kept = empty_kept(parts, rows)
        self._normed = room(3 * parts.sizes[2])
        self._struct, self._done = parts.struct(), 0

    def step(self, action: Tensor) -> None:
        """The next state of each dream. action (N, A), dense."""
        lib, k, kept = library(), self._done, self._kept
        rows, horizon, count = self.noise.shape
        before, given = (self.deters[k], self.index[k]), self.noise.data_ptr() + 4 * k * count
        after = [kept.pre, kept.joined, kept.gates, None, None, None, kept.look, kept.seen, kept.stats, kept.probs,
                 self.deters[k + 1], self.index[k + 1], self._normed]  # fmt: skip
        state = (before[0].data_ptr(), before[0].shape[1], before[1].data_ptr(), count, None, None, 0)
        step = _Step(
            rows, 1, action.data_ptr(), action.shape[1], *state, given, horizon * count, *map(address, after), 0
        )
        lib.step(lib.level, self._struct, step)
        self._done = k + 1


def rows_gradient(index: Tensor, g: Tensor, size: int) -> Tensor:
    """d loss / d W_z: for each class, the sum over the states that chose it. index (N, S), g (N, out) -> (Z, out)."""
    lib, found = library(), room(size, g.shape[1])
    index, g = index.contiguous(), g.contiguous()
    lib.scatter(lib.level, *index.shape, index.data_ptr(), g.data_ptr(), g.shape[1], size, found.data_ptr())
    return found


class Dense(NamedTuple):
    """A dense layer for `layers`: packed weight, bias, the columns of z (Z, out) if it sees z, norm, ELU or not."""

    ins: int
    outs: int
    packed: Tensor
    bias: Tensor
    columns: Tensor | None
    norm: nn.Module | None
    elu: bool


def layers(found: Sequence[Dense], inputs: Tensor, index: Tensor | None) -> Tensor:
    """Layers one after the other. inputs (N, in), index (N, S) of z for the first one, both dense -> (N, out)."""
    lib, count = library(), 0 if index is None else index.shape[-1]
    structs = (_Layer * len(found))(
        *(
            _Layer(
                x.ins, x.outs, x.elu, count, x.packed.data_ptr(), x.bias.data_ptr(), address(x.columns), _norm(x.norm)
            )
            for x in found
        )
    )
    outs = [room(len(inputs), layer.outs) for layer in found]
    addresses = (c_void_p * len(outs))(*(out.data_ptr() for out in outs))
    place = (inputs.data_ptr(), inputs.stride(0), address(index), count)
    lib.layers(lib.level, len(found), structs, len(inputs), *place, addresses)
    return outs[-1]
