"""Loops, layers and Adam's steps as compiled code (fused.c): tensors in, one call, tensors out.

Many small operations are then one: a step of a dream is 1 call instead of some thirty. float32 on a CPU, without
autograd; `scan.py` says what is computed and when this is used. Shapes as there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_double, c_float, c_int64, c_void_p
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .fused_build import NotBuilt, open_library

#: Columns of a packed weight that lie together, and rows that go through all layers at a time; as in fused.c.
PANEL, BLOCK = 32, 128


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


class _Sums(ctypes.Structure):
    _fields_ = _fields("", "bias gamma beta")


class _Back(ctypes.Structure):
    _fields_ = (
        *_fields(
            "rows length",
            "of_deter of_stats of_probs pre joined gates mean rstd parts look seen probs first g_stats to_look "
            "to_gates to_pre carry_h carry_probs direct wide",
        ),
        ("look_sums", _Sums),
        ("gates_sums", _Sums),
        ("pre_sums", _Sums),
    )


class _Layer(ctypes.Structure):
    _fields_ = (*_fields("ins outs elu count classes", "packed bias columns"), ("norm", _Norm))


class _LayerKept(ctypes.Structure):
    _fields_ = _fields("", "before mean rstd y")


class _LayerBack(ctypes.Structure):
    _fields_ = (*_fields("", "packed columns weight scattered"), ("sums", _Sums))


class _Conv(ctypes.Structure):
    _fields_ = _fields("count height width channels rows cols maps kernel elu", "packed bias")


class _Adam(ctypes.Structure):
    _fields_ = tuple((x, c_double) for x in ("lr", "beta1", "beta2", "eps", "decay", "correction1", "correction2"))


class _Learned(ctypes.Structure):
    _fields_ = _fields("size", "weight gradient mean square count")


#: Of `layers`, and first of `layers_back`.
_LAYERS: list[Any] = [
    c_int64,
    c_int64,
    POINTER(_Layer),
    c_int64,
    c_void_p,
    c_int64,
    c_void_p,
    c_int64,
    POINTER(_LayerKept),
]
_ARGUMENTS: dict[str, list[Any]] = {
    "pack": [c_int64, c_int64, c_void_p, c_int64, c_int64, c_void_p],
    "step": [c_int64, POINTER(_Rssm), POINTER(_Step)],
    "scan": [c_int64, POINTER(_Rssm), POINTER(_Step), c_int64],
    "back": [c_int64, POINTER(_Rssm), POINTER(_BackWeights), POINTER(_Back)],
    "down": [c_int64, POINTER(_Conv), c_void_p, c_void_p, c_void_p],
    "up": [c_int64, POINTER(_Conv), c_void_p, c_void_p, c_void_p],
    "weight": [c_int64, POINTER(_Conv), c_void_p, c_void_p, c_void_p, c_void_p],
    "elu_back": [c_int64, c_int64, c_int64, c_void_p, c_void_p, c_void_p, c_void_p],
    "ones": [c_int64, c_int64, c_int64, c_void_p, c_void_p],
    "norms": [c_int64, c_int64, POINTER(_Learned), POINTER(c_float)],
    "adam": [c_int64, c_int64, POINTER(_Learned), POINTER(_Adam)],
    "scatter": [c_int64, c_int64, c_int64, c_void_p, c_void_p, c_int64, c_int64, c_void_p],
    "layers": [*_LAYERS],
    "layers_back": [
        *_LAYERS,
        POINTER(_LayerBack),
        c_void_p,
        c_void_p,
        c_void_p,
        c_void_p,
        c_int64,
    ],
    "outer": [c_int64, c_int64, c_int64, c_int64, c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_int64],
}


class Library:
    """fused.c, loaded; any number of threads may call it. level: 0 plain, 1 AVX2 and FMA, 2 AVX-512."""

    def __init__(self, level: int | None = None) -> None:
        """level None: the best that the processor has. Raises NotBuilt."""
        library = open_library()
        for name, arguments in _ARGUMENTS.items():
            function = getattr(library, f"reverie_{name}")
            function.argtypes, function.restype = arguments, c_int64 if name == "ones" else None
            setattr(self, name, function)
        library.reverie_best.restype = c_int64
        self.best = int(library.reverie_best())
        self.level = self.best if level is None else level
        kinds = (_Rssm, _Step, _BackWeights, _Back, _Layer, _LayerKept, _LayerBack, _Adam, _Learned, _Conv)
        sizes = (c_int64 * len(kinds))()
        library.reverie_sizes(sizes)
        if list(sizes) != [ctypes.sizeof(kind) for kind in kinds]:
            raise NotBuilt("the compiler lays structures out in another way")

    pack: Any
    step: Any
    scan: Any
    back: Any
    layers: Any
    layers_back: Any
    outer: Any
    ones: Any
    norms: Any
    adam: Any
    down: Any
    up: Any
    weight: Any
    elu_back: Any
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
    index: Tensor | None = None,
    from_z: Tensor | None = None,
) -> Kept:
    """Filter sequences. action (B, T, A), first (B, T) of bool, noise (B, T, S); look (B, T, Y), W_e e + b, is
    overwritten; deter (B, D) and z as index (B, S) or from_z (B, X), W_z z, are the state before, zeros without them.
    All dense."""
    lib, (batch, length) = library(), first.shape
    kept = empty_kept(parts, batch, length)._replace(look=look)
    normed = room(3 * parts.sizes[2])
    tensors = [kept.pre, kept.joined, kept.gates, kept.mean, kept.rstd, kept.parts, look, kept.seen, kept.stats,
               kept.probs, kept.deter, kept.drawn, normed]  # fmt: skip
    state = (address(deter), parts.sizes[2], address(index), parts.sizes[4], address(from_z))
    given = (first.data_ptr(), length, noise.data_ptr(), length * noise.shape[-1])
    step = _Step(batch, length, action.data_ptr(), length * action.shape[-1], *state, *given, *map(address, tensors), 1)
    lib.scan(lib.level, parts.struct(), step, length)
    return kept


def ones(z: Tensor, count: int) -> Tensor | None:
    """z (N, S * K), dense, as the indices (N, S) of its ones; None if it is not exactly one-hot."""
    lib, index = library(), room(len(z), count, dtype=torch.int32)
    return index if lib.ones(len(z), count, z.shape[1] // count, z.data_ptr(), index.data_ptr()) else None


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


class Sums(NamedTuple):
    """Gradients of a layer's bias and of its norm's weight and bias (None without norm)."""

    bias: Tensor
    gamma: Tensor | None
    beta: Tensor | None

    @staticmethod
    def zeros(size: int, norm: nn.Module | None) -> Sums:
        """Of a layer of that size, to be added to."""
        normed = isinstance(norm, nn.LayerNorm)
        found = torch.zeros(3 if normed else 1, size, dtype=torch.float32, device="cpu").unbind()
        return Sums(found[0], found[1] if normed else None, found[2] if normed else None)

    def struct(self) -> _Sums:
        """For a call; the tensors must outlive it."""
        return _Sums(*map(address, self))


class Gradients(NamedTuple):
    """Of a scan, (B, T, ...): of the stats and of what enters each layer's norm; then `Sums` of the layers."""

    stats: Tensor
    look: Tensor
    gates: Tensor
    pre: Tensor
    before: Tensor  # (B, D): of the state before the first step
    sums: tuple[Sums, ...]  # of look, gates and pre; empty where the layers do not learn


def scan_back(
    parts: Parts,
    weights: Sequence[Tensor],
    kept: Kept,
    first: Tensor,
    of: Sequence[Tensor | None],
    *,
    learns: bool = True,
) -> Gradients:
    """The way back of `scan`. weights: answer, head, gates and W_z, packed for it; of: the gradients of deter, stats
    and probs, (B, T, ...) and dense, None for none."""
    lib, (batch, length) = library(), first.shape
    _, x, d, y, count, classes = parts.sizes
    found = tuple(room(batch, length, n) for n in (count * classes, y, 3 * d, x))
    for_a_while = [room(batch, n) for n in (d, count * classes, d, max(y, x + d, 3 * d))]
    inputs = [*of, kept.pre, kept.joined, kept.gates, kept.mean, kept.rstd, kept.parts, kept.look, kept.seen,
              kept.probs, first]  # fmt: skip
    layers = zip((y, 3 * d, x), reversed(parts.norms), strict=True)
    sums = tuple(Sums.zeros(size, norm) for size, norm in layers) if learns else ()
    back = _Back(
        batch, length, *map(address, inputs), *map(address, found), *map(address, for_a_while),
        *(layer.struct() for layer in sums),
    )  # fmt: skip
    lib.back(lib.level, parts.struct(), _BackWeights(*map(address, weights)), back)
    return Gradients._make([*found, for_a_while[0], sums])


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


def outer(g: Tensor, x: Tensor) -> Tensor:
    """Gradient of a weight: the sum over rows of g x'. g (N, out), x (N, in), rows without gaps -> (out, in)."""
    lib, found = library(), torch.zeros(g.shape[1], x.shape[1], dtype=torch.float32, device="cpu")
    (rows, outs), ins = g.shape, x.shape[1]
    lib.outer(lib.level, rows, outs, ins, g.data_ptr(), g.stride(0), x.data_ptr(), x.stride(0), found.data_ptr(), ins)
    return found


class Dense(NamedTuple):
    """A dense layer for `Net`: packed weights of h and, for the way back, of h and z; the columns of z (Z, out)."""

    ins: int  # without z
    outs: int
    packed: Tensor
    bias: Tensor
    columns: Tensor | None
    norm: nn.LayerNorm | None
    elu: bool
    back: tuple[Tensor, Tensor | None] | None = None

    @property
    def classes(self) -> int:
        """Z, 0 for a layer that does not see z."""
        return 0 if self.columns is None else len(self.columns)


class Net:
    """Layers one after the other, both ways."""

    def __init__(self, layers: Sequence[Dense], count: int) -> None:
        """count: how many ones z has, S; 0 for inputs without z."""
        self.layers, self.count = layers, count
        self.structs = (_Layer * len(layers))(
            *(
                _Layer(
                    x.ins, x.outs, x.elu, count if x.classes else 0, x.classes, x.packed.data_ptr(),
                    x.bias.data_ptr(), address(x.columns), _norm(x.norm),
                )
                for x in layers
            )
        )  # fmt: skip

    def forward(self, inputs: Tensor, index: Tensor | None) -> list[Tensor]:
        """inputs (N, in), index (N, S) of z, both dense -> (N, out) of every layer."""
        lib, rows = library(), len(inputs)
        outs = [room(rows, layer.outs) for layer in self.layers]
        kept = (_LayerKept * len(outs))()
        for place, out in zip(kept, outs, strict=True):
            place.before = place.y = out.data_ptr()
        lib.layers(lib.level, len(outs), self.structs, *self._inputs(inputs, index), kept)
        return outs

    def _inputs(self, inputs: Tensor, index: Tensor | None) -> tuple[Any, ...]:
        return len(inputs), inputs.data_ptr(), inputs.stride(0), address(index), self.count

    def learn(self, inputs: Tensor, index: Tensor | None) -> list[tuple[Tensor, ...]]:
        """As `forward`, keeping what the way back needs: y (N, out) of every layer; with a norm also what entered it
        (N, out), its mean (N,) and 1 / deviation (N,)."""
        lib, rows, found = library(), len(inputs), list[tuple[Tensor, ...]]()
        for layer in self.layers:
            y = room(rows, layer.outs)
            found.append((y,) if layer.norm is None else (y, torch.empty_like(y), room(rows), room(rows)))
        lib.layers(lib.level, len(found), self.structs, *self._inputs(inputs, index), _kept(found))
        return found

    def back(
        self, inputs: Tensor, index: Tensor | None, kept: Sequence[tuple[Tensor, ...]], g: Tensor,
        *, learns: bool, wants_inputs: bool, wants_probs: bool,
    ) -> tuple[Tensor | None, Tensor | None, list[Tensor | None]]:  # fmt: skip
        """The way back of `learn`; g (N, out), dense, of the last layer's y. learns: are the layers' gradients wanted?

        -> of inputs (N, in), of the probabilities of z (N, Z), and of weight, bias, norm's weight and bias of each
        layer; None where not wanted.
        """
        lib, rows, layers = library(), len(inputs), self.layers
        back, gradients, held = (_LayerBack * len(layers))(), list[Tensor | None](), list[Tensor]()
        for place, layer in zip(back, layers, strict=True):
            packed, columns = layer.back or (None, None)
            place.packed, place.columns = address(packed), address(columns)
            if not learns:
                gradients += [None] * 4
                continue
            weight = torch.zeros(layer.outs, layer.classes + layer.ins, dtype=torch.float32, device="cpu")
            sums = Sums.zeros(layer.outs, layer.norm)
            place.weight, place.sums = weight.data_ptr(), sums.struct()
            if layer.classes:
                held.append(torch.zeros(layer.classes, layer.outs, dtype=torch.float32, device="cpu"))
                place.scattered = held[-1].data_ptr()
            gradients += [weight, *sums]
        to_inputs = room(rows, layers[0].ins) if wants_inputs else None
        to_probs = room(rows, layers[0].classes) if wants_probs else None
        widest = max(max(layer.ins, layer.outs) for layer in layers)
        held.append(room(2 * BLOCK * widest))
        lib.layers_back(
            lib.level, len(layers), self.structs, *self._inputs(inputs, index), _kept(kept), back, g.data_ptr(),
            address(to_inputs), address(to_probs), held[-1].data_ptr(), widest,
        )  # fmt: skip
        return to_inputs, to_probs, gradients


def _kept(found: Sequence[tuple[Tensor, ...]]) -> Any:
    structs = (_LayerKept * len(found))()
    for place, (y, *normed) in zip(structs, found, strict=True):
        place.y = place.before = y.data_ptr()
        if normed:
            place.before, place.mean, place.rstd = (x.data_ptr() for x in normed)
    return structs


class Conv(NamedTuple):
    """The sizes of a convolution of stride 2 between big images (N, H, W, C) and small ones (N, h, w, M)."""

    images: int
    height: int
    width: int
    channels: int
    rows: int
    cols: int
    maps: int
    kernel: int

    def _call(self, name: str, packed: Tensor | None, bias: Tensor | None, elu: bool, *tensors: Tensor) -> None:
        lib, patches = library(), room(BLOCK * self.kernel**2 * self.channels)
        places = (x.data_ptr() for x in (*tensors, patches))
        getattr(lib, name)(lib.level, _Conv(*self, elu, address(packed), address(bias)), *places)

    def down(self, big: Tensor, packed: Tensor, bias: Tensor | None, *, elu: bool) -> Tensor:
        """elu(W patch + b) of each patch. big (N, H, W, C), dense; W (M, k * k * C), packed for the way forward
        -> (N, h, w, M)."""
        small = room(self.images, self.rows, self.cols, self.maps)
        self._call("down", packed, bias, elu, big, small)
        return small

    def up(self, small: Tensor, packed: Tensor, bias: Tensor | None, *, elu: bool) -> Tensor:
        """The transpose of `down`: elu(sum of W' m over pixels + b). small (N, h, w, M), dense; W packed for the way
        back -> (N, H, W, C)."""
        big = room(self.images, self.height, self.width, self.channels)
        self._call("up", packed, bias, elu, small, big)
        return big

    def weight(self, big: Tensor, small: Tensor) -> Tensor:
        """Gradient of W, where big (N, H, W, C) or small (N, h, w, M), both dense, is one. -> (M, k, k, C)."""
        found = torch.zeros(self.maps, self.kernel, self.kernel, self.channels, dtype=torch.float32, device="cpu")
        self._call("weight", None, None, False, big, small, found)
        return found


def elu_back(g: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
    """The way back of elu, y its value (None: there was none), and of a bias before it. g (..., n) of y, dense
    -> (..., n) and (n,)."""
    lib, channels, to, bias = library(), g.shape[-1], torch.empty_like(g), room(g.shape[-1])
    rows = g.numel() // channels
    lib.elu_back(lib.level, rows, channels, g.data_ptr(), address(y), to.data_ptr(), bias.data_ptr())
    return to, bias


class AdamStep:
    """Norms and step of a torch AdamW, all its weights in one call each; state and settings stay torch's."""

    def __init__(self, optimizer: torch.optim.AdamW) -> None:
        self.optimizer = optimizer
        self._known: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # weight, running means, count of steps
        self._learned: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Of copies: pointers are not copied."""
        return {"optimizer": self.optimizer, "_known": [], "_learned": None}

    def fits(self) -> bool:
        """Has torch made the first step, so that there are running means, and is all of it dense float32 on a CPU?"""
        (group,), state = self.optimizer.param_groups, self.optimizer.state
        if len(state) != len(group["params"]):
            return False
        now = [(p, *map(state[p].__getitem__, ("exp_avg", "exp_avg_sq", "step"))) for p in group["params"]]
        if len(now) != len(self._known) or any(
            a is not b for x, y in zip(now, self._known, strict=True) for a, b in zip(x, y, strict=True)
        ):
            self._known, self._learned = [], (_Learned * len(now))()  # the first time, or a checkpoint was loaded
            if not all(_is_plain(x) for tensors in now for x in tensors):
                return False
            self._known = now
        return all(_is_plain(p) and p.grad is not None and _is_plain(p.grad) for p, *_ in now)

    def norms(self) -> tuple[Tensor, Tensor]:
        """Global norms () of the gradients, and of the running means that the next step starts from. After `fits`."""
        for place, (p, mean, square, count) in zip(self._learned, self._known, strict=True):
            place.size, place.weight, place.gradient = p.numel(), p.data_ptr(), cast(Tensor, p.grad).data_ptr()
            place.mean, place.square, place.count = mean.data_ptr(), square.data_ptr(), count.data_ptr()
        lib, found = library(), (c_float * 2)()
        lib.norms(lib.level, len(self._learned), self._learned, found)
        return room().fill_(found[0]), room().fill_(found[1])

    def step(self) -> None:
        """The step for which `norms` was called; the gradients still lie where they lay then."""
        (group,) = self.optimizer.param_groups
        count = float(self._known[0][3]) + 1
        beta1, beta2 = group["betas"]
        corrections = 1 - beta1**count, 1 - beta2**count
        adam = _Adam(group["lr"], beta1, beta2, group["eps"], group["weight_decay"], *corrections)
        lib = library()
        lib.adam(lib.level, len(self._learned), self._learned, adam)


def _is_plain(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.is_contiguous() and x.is_cpu
