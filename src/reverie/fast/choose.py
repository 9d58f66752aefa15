"""Which number type an agent's large products are made in on this processor: measured, not read from a flag.

A processor may have units for bfloat16 and still be slower in it than in float32 (docs/performance.md). So before an
agent computes anything, its own layers are timed both ways on a few rows: its convolutions, its dense layers, its
recurrent loops. Each of these `KINDS` is then computed in the type that is quicker for it.

The largest pieces of a kind come first, and it ends where the rest could no longer change the answer; where the answer
is close, all of them are timed at length. What was measured is kept in the user's cache folder, by processor, torch and
shapes. A file there that is damaged, cut short, or that another user may have written, is measured again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from .. import __version__
from ..config import Config
from ..rssm import State
from . import set_types
from .convs import FastConvDecoder, FastConvEncoder, channels_last, down, up, weight_gradient
from .dense import FastMLP, worth_fusing
from .fused_build import NotBuilt, cache_folder, is_ours
from .products import KINDS, Types, outer
from .rows import Feat, OneHots
from .scan import FastRSSM
from .steps import Product

FLOAT, HALF = torch.float32, torch.bfloat16
#: bfloat16 is taken where it needs at most this share of float32's time: what is as quick may as well be exact.
WORTH = 0.97
#: What is timed: rows of heads, dreams, steps of filtering, arithmetic of a product or convolution, rows or images at
#: least.
ROWS, DREAMS, STEPS, FLOPS, FEWEST = 128, 64, 2, 3e7, 2
#: Seconds in which a piece of work is repeated, and repetitions at most.
SECONDS, ROUNDS = 0.003, 9
#: A piece is not repeated where one type takes so many times as long as the other.
CLEAR = 1.3
#: What has not been timed is thought to run at a share `SLOWEST` of the speed of the rest at least, and to take from
#: 1 / `ODDEST` to `ODDEST` of float32's time in bfloat16.
SLOWEST, ODDEST = 0.5, 2.0
#: An answer so near to `WORTH` is measured at length.
CLOSE = 0.08
#: Raised when something else is measured, so that older files are measured again.
VERSION = 2


class Timing(NamedTuple):
    """One kind of work in an update: what it is, its arithmetic, and its seconds in each type."""

    what: str
    flops: float  # as dense products
    float32: float
    bfloat16: float


class Piece(NamedTuple):
    """Some of the work of an update: what `ready` returns does it, and an update has so many `times` as much."""

    kind: str
    what: str
    times: float
    flops: float
    ready: Callable[[], Callable[[], Any]]

    @property
    def weight(self) -> float:
        """Its arithmetic in an update."""
        return self.times * self.flops


Measured = Mapping[str, Timing]


def decide(found: Measured) -> Types:
    """The quicker type of each kind; float32 for one that the agent does not have."""
    kinds = {kind: HALF if each.bfloat16 <= WORTH * each.float32 else FLOAT for kind, each in found.items()}
    return Types(*(kinds.get(kind, FLOAT) for kind in KINDS))


def share(found: Measured, types: Types) -> float:
    """Time of what was measured in these types, float32's being 1."""
    chosen = sum(each.bfloat16 if types.of(kind) == HALF else each.float32 for kind, each in found.items())
    return chosen / sum(each.float32 for each in found.values())


# ------------------------------------------------------------------------------------------------------ what is kept


def measured(parts: Sequence[nn.Module], config: Config, *, fused: bool, again: bool = False) -> Measured:
    """What these parts of an agent (`pieces`) take in each type: from this process, from the cache folder, or timed.

    fused: may loops be run by compiled code? again: time them in any case, at length, and keep that.
    """
    gates = [part.prepared("gates").layer for part in _inside(parts) if type(part) is FastRSSM and part.fits()]
    fused = fused and all(worth_fusing(config.train.batch_size, layer.weight) for layer in gates)
    key = key_of(parts, config, fused=fused)
    known = _known()
    if again or key not in known:
        path = _path(key)
        found = None if again or path is None else read(path, key)
        if found is None:
            found = measure(parts, config, fused=fused, at_length=again)
            if path is not None:
                write(path, key, found)
        known[key] = found
    return known[key]


@cache
def _known() -> dict[str, Measured]:
    """What this process has measured or read."""
    return {}


def key_of(parts: Sequence[nn.Module], config: Config, *, fused: bool) -> str:
    """Everything that the times depend on."""
    shapes = [f"{name}{tuple(value.shape)}" for part in parts for name, value in part.named_parameters()]
    kinds = [type(module).__name__ for part in parts for module in part.modules()]
    layers = hashlib.sha256(" ".join(shapes + kinds).encode()).hexdigest()[:16]
    said = {
        "version": VERSION,
        "reverie": __version__,
        "torch": torch.__version__,
        "processor": processor(),
        "fused": fused,
        "layers": layers,
        "batch": [config.train.batch_size, config.train.seq_len, config.behavior.imagination_starts],
        "horizon": config.behavior.imagination_horizon,
    }
    return json.dumps(said, sort_keys=True)


@cache
def processor() -> str:
    """The processor's model, as far as the system says: two of one name may differ in family."""
    lines: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            lines.setdefault(name.strip(), value.strip())
    if "model name" not in lines:
        return torch.backends.cpu.get_cpu_capability()
    return f"{lines['model name']} (family {lines.get('cpu family', '?')} model {lines.get('model', '?')})"


def _path(key: str) -> Path | None:
    """Where it is kept; None without a folder."""
    try:
        return cache_folder() / f"choice-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    except NotBuilt:
        return None


def read(path: Path, key: str) -> Measured | None:
    """What was measured for `key`; None if there is no such file, or not one that can be believed."""
    try:
        if not is_ours(path):
            return None
        with open(path, encoding="utf-8") as file:
            saved = json.loads(file.read(100_000))
        if saved["key"] != key or not saved["kinds"].keys() <= set(KINDS):
            return None
        found = {kind: Timing(str(what), *map(float, rest)) for kind, (what, *rest) in saved["kinds"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    sound = all(math.isfinite(number) and number > 0 for each in found.values() for number in each[1:])
    return found if found and sound else None


def write(path: Path, key: str, found: Measured) -> None:
    """Keep it in a new file of this user's own. Where it cannot be written as a whole, or two processes write at once,
    a later one may find half of it and measures again (`read`)."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        with open(path, "x", encoding="utf-8", opener=partial(os.open, mode=0o600)) as file:
            json.dump({"key": key, "kinds": found}, file)


# ----------------------------------------------------------------------------------------------------------- timing


def measure(parts: Sequence[nn.Module], config: Config, *, fused: bool, at_length: bool = False) -> Measured:
    """Time copies of the parts; they and the random streams stay as they are.

    In one thread, by the processor's time: what is measured must not depend on what else the machine does. at_length:
    everything, several times; otherwise no more than the answer needs.
    """
    threads = torch.get_num_threads()
    found: dict[str, Timing] = {}
    try:
        torch.set_num_threads(1)
        forms = [pieces(parts, config, dtype, fused=fused) for dtype in (FLOAT, HALF)]
        for kind in KINDS:
            pairs = [pair for pair in zip(*forms, strict=True) if pair[0].kind == kind]
            if pairs:
                found[kind] = time_kind(sorted(pairs, key=lambda pair: -pair[0].weight), at_length=at_length)
    finally:
        torch.set_num_threads(threads)
    return found


def time_kind(pairs: Sequence[tuple[Piece, Piece]], *, at_length: bool) -> Timing:
    """One kind of work, its pieces in each type, the largest first."""
    whole, flops, seconds = sum(one.weight for one, _ in pairs), 0.0, [0.0, 0.0]
    timed = []
    for one, other in pairs:
        took = race([one.ready(), other.ready()], clear=math.inf if at_length else CLEAR)
        seconds = [so_far + one.times * each for so_far, each in zip(seconds, took, strict=True)]
        flops += one.weight
        timed.append(one.what)
        if not at_length and settled(seconds[0], seconds[1], (whole - flops) / flops):
            break
    ratio = seconds[1] / seconds[0]
    if not at_length and abs(ratio / WORTH - 1) < CLOSE:
        return time_kind(pairs, at_length=True)
    return Timing(", ".join(dict.fromkeys(timed)), whole, *(whole / flops * each for each in seconds))


def settled(float32: float, bfloat16: float, rest: float) -> bool:
    """Would what has not been timed leave the answer as it is? rest: its arithmetic, that of what was timed being 1."""
    unknown = float32 * rest / SLOWEST
    least, most = (
        (bfloat16 + unknown / ODDEST) / (float32 + unknown),
        (bfloat16 + unknown * ODDEST) / (float32 + unknown),
    )
    return most <= WORTH or least > WORTH


def race(forms: Sequence[Callable[[], Any]], *, clear: float = math.inf) -> list[float]:
    """Seconds of each: the least of several repetitions in turns, after one that warms up.

    clear: so many times as long as another one ends it at once.
    """
    least, spent = [math.inf] * len(forms), 0.0
    for turn in range(-1, ROUNDS):
        for at, run in enumerate(forms):
            clock, busy = time.perf_counter(), time.process_time()
            run()
            clock, busy = time.perf_counter() - clock, time.process_time() - busy
            took = min(clock, busy) if busy > 0 else clock  # what other programs took of the time is not in it
            spent += took
            if turn >= 0:
                least[at] = min(least[at], took)
        if turn >= 0 and (spent > SECONDS or max(least) > clear * min(least)):
            break
    return least


def pieces(parts: Sequence[nn.Module], config: Config, dtype: torch.dtype, *, fused: bool) -> list[Piece]:
    """The kinds of work in an update of an agent with these parts, on few rows and in one type."""
    inside = _inside(parts)
    rssm = next((part for part in inside if type(part) is FastRSSM), None)
    steps = config.train.batch_size * config.train.seq_len
    dreamt = (config.behavior.imagination_starts or steps) * config.behavior.imagination_horizon
    found = []
    for part in inside:
        if type(part) is FastConvEncoder:
            found += _encoder(part, steps, dtype)
        elif type(part) is FastConvDecoder:
            found += _decoder(part, steps, dtype)
    if rssm is None:
        return found
    mlps = [part for part in inside if type(part) is FastMLP and _inputs(part) == rssm.feat_dim]
    rssm, *mlps = (_in_type(part, dtype, fused=fused) for part in (rssm, *mlps[-1:]))
    if mlps:  # two heads at least learn from the batch, actor and critic from dreams, which they and three others judge
        found += [*_learning(mlps[0], rssm, 2 * steps + 2 * dreamt, dtype), _judging(mlps[0], rssm, 4 * dreamt)]
    return [*found, _filter(rssm, config), _dream(rssm, dreamt)]


def _inside(parts: Sequence[nn.Module]) -> list[nn.Module]:
    return [module for part in parts for module in part.modules()]


def _in_type(part: nn.Module, dtype: torch.dtype, *, fused: bool) -> Any:
    """A copy that computes in this type, with the same weights."""
    whole = nn.ModuleList([copy.deepcopy(part, {id(weight): weight for weight in part.parameters()})])
    set_types(whole, Types.all(dtype), fused=fused)
    return whole[0]


def _some(*shape: int) -> Tensor:
    """Numbers; which ones takes no time."""
    return torch.full(shape, 0.5, dtype=FLOAT, device="cpu")


def _random(*shape: int) -> Tensor:
    """Numbers between 0 and 1 that no random stream of a run misses."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=FLOAT, device="cpu")


# ----------------------------------------------------------------------------------------------------- convolutions


def _encoder(part: FastConvEncoder, steps: int, dtype: torch.dtype) -> list[Piece]:
    convs = [layer for layer in part.layers if isinstance(layer, nn.Conv2d)]
    sizes = list(zip(part.heights, part.widths, strict=True))
    found = []
    for at, (layer, big, small) in enumerate(zip(convs, sizes, sizes[1:], strict=False)):
        found += _conv(layer.weight, big, small, steps, dtype, to_input=at > 0)
    return found


def _decoder(part: FastConvDecoder, steps: int, dtype: torch.dtype) -> list[Piece]:
    convs = [layer for layer in part.layers if isinstance(layer, nn.ConvTranspose2d)]
    sizes = [(part.start[1], part.start[2]), *part.sizes()]
    return [
        piece
        for layer, small, big in zip(convs, sizes, sizes[1:], strict=False)
        for piece in _conv(layer.weight, big, small, steps, dtype, to_input=True)
    ]


def _conv(
    weight: Tensor, big: tuple[int, int], small: tuple[int, int], steps: int, dtype: torch.dtype, *, to_input: bool
) -> list[Piece]:
    """The products of a layer between images of these sizes (convs.py): down, up and that of the weight."""
    maps, channels, kernel, _ = weight.shape
    once = 2.0 * weight.numel() * small[0] * small[1]
    count = int(min(max(FEWEST, FLOPS / once), steps))

    @cache
    def given() -> list[Tensor]:
        large, little = _some(count, channels, *big), _some(count, maps, *small)
        return [channels_last(each.to(dtype)) for each in (large, little, weight.detach())]

    def forward() -> Callable[[], Any]:
        large, _, kernels = given()
        return lambda: down(large, kernels, few=0)

    def of_weight() -> Callable[[], Any]:
        large, little, _ = given()
        return lambda: weight_gradient(large, little, kernel)

    def back() -> Callable[[], Any]:
        _, little, kernels = given()
        return lambda: up(little, kernels, big)

    what = f"{channels}x{big[0]}x{big[1]} to {maps}x{small[0]}x{small[1]}"
    ways = (forward, of_weight, back) if to_input else (forward, of_weight)
    return [Piece("convolutions", what, steps / count, once * count, way) for way in ways]


# ------------------------------------------------------------------------------------------- dense layers and loops


def _inputs(mlp: FastMLP) -> int:
    return next((layer.in_features for layer in mlp if isinstance(layer, nn.Linear)), 0)


def _states(rssm: FastRSSM, rows: int) -> tuple[Tensor, Tensor]:
    """z and h of some states, z as the fast path has it."""
    deter, latent = _some(rows, rssm.rnn_hidden_dim), rssm.latent
    if not rssm.fits():
        return _some(rows, latent.stoch_dim), deter
    count, classes = cast(Any, latent).num_categoricals, cast(Any, latent).num_categories
    index = (_random(rows, count) * classes).long() + torch.arange(0, count * classes, classes, device="cpu")
    return cast(Tensor, OneHots(index.int(), None, latent.stoch_dim)), deter


def _learning(mlp: FastMLP, rssm: FastRSSM, rows: int, dtype: torch.dtype) -> list[Piece]:
    """The three products of each hidden layer: forward, backward, of its weight."""
    shapes = [(layer.in_features, layer.out_features) for layer in mlp if type(layer) is nn.Linear]
    # of z there are rows to be summed instead of a product
    shapes = [(rssm.rnn_hidden_dim if ins == rssm.feat_dim else ins, outs) for ins, outs in shapes]
    found = []
    for (ins, outs), layers in Counter(shapes).items():
        count = int(min(max(FEWEST, FLOPS / (2 * outs * ins)), rows))
        once, many = 2.0 * count * outs * ins, layers * rows / count
        ways = [partial(way, count, ins, outs, dtype) for way in (_forward, _back, _weight_gradient)]
        found += [Piece("dense", f"{layers} of {ins} to {outs}", many, once, way) for way in ways]
    return found


def _forward(count: int, ins: int, outs: int, dtype: torch.dtype) -> Callable[[], Any]:
    return partial(Product(_some(outs, ins).to(dtype), _some(outs).to(dtype)).__call__, _some(count, ins))


def _back(count: int, ins: int, outs: int, dtype: torch.dtype) -> Callable[[], Any]:
    return partial(Product(_some(outs, ins).to(dtype)).back, _some(count, outs))


def _weight_gradient(count: int, ins: int, outs: int, dtype: torch.dtype) -> Callable[[], Any]:
    x, g = _some(count, ins), _some(count, outs)
    return lambda: outer(g.to(dtype), x.to(dtype)).float()


def _judging(mlp: FastMLP, rssm: FastRSSM, rows: int) -> Piece:
    """All layers without gradients."""

    def ready() -> Callable[[], Any]:
        z, deter = _states(rssm, ROWS)
        feat = cast(Tensor, Feat(z, deter)) if isinstance(z, OneHots) else torch.cat([z, deter], -1)
        return torch.no_grad()(lambda: mlp(feat))

    weights = sum(layer.weight.numel() for layer in mlp if isinstance(layer, nn.Linear))
    return Piece("dense", "heads", rows / ROWS, 2.0 * ROWS * weights, ready)


def _filter(rssm: FastRSSM, config: Config) -> Piece:
    """Steps of filtering; the way back, some twice as much, is in proportion."""
    batch, net = config.train.batch_size, cast(nn.Linear, rssm.posterior_net[0])

    def ready() -> Callable[[], Any]:
        embed, action = _some(batch, STEPS, net.in_features - rssm.rnn_hidden_dim), _some(batch, STEPS, _actions(rssm))
        never, noise = torch.zeros(batch, STEPS, dtype=torch.bool, device="cpu"), _noise(rssm, batch, STEPS)
        return torch.no_grad()(lambda: rssm.rollout_observation(embed, action, never, noise=noise))

    once = batch * STEPS * _arithmetic(*rssm.children())
    return Piece("loops", f"{batch} sequences", 3.0 * config.train.seq_len / STEPS, once, ready)


def _arithmetic(*nets: nn.Module) -> float:
    """Of one row."""
    return 2.0 * sum(weight.numel() for net in nets for weight in net.parameters() if weight.dim() == 2)


def _dream(rssm: FastRSSM, rows: int) -> Piece:
    """A step of dreams, without gradients; rows: of all dreams together."""

    def ready() -> Callable[[], Any]:
        z, deter = _states(rssm, DREAMS)
        start = State(deter, z, _some(DREAMS, rssm.latent.stats_dim))
        action, noise = _some(DREAMS, _actions(rssm)), _noise(rssm, DREAMS, 1)
        return torch.no_grad()(lambda: rssm.rollout_imagination(lambda feat: action, start, 1, noise))

    once = _arithmetic(rssm.input_net, rssm.gru, rssm.prior_net)
    return Piece("loops", "dreams", rows / DREAMS, DREAMS * once, ready)


def _actions(rssm: FastRSSM) -> int:
    """Numbers of an action."""
    return cast(nn.Linear, rssm.input_net[0]).in_features - rssm.latent.stoch_dim


def _noise(rssm: FastRSSM, *batch: int) -> Tensor:
    return rssm.latent.noise(*batch, generator=torch.Generator().manual_seed(0))
