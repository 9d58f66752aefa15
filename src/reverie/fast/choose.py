"""Which number type an agent's large products are made in on this processor: measured, not read from a flag.

A processor may have units for bfloat16 and still be slower in it than in float32 (docs/performance.md). So before an
agent computes anything, its own layers are timed both ways on a few rows: its convolutions, its dense layers, its
recurrent loops. Each of these `KINDS` is then computed in the type that is quicker for it.

What was measured is kept in the user's cache folder, by processor, torch and shapes. A file there that is damaged, or
that another user may have written, is measured again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import tempfile
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
#: What is timed: rows of heads, dreams, steps, arithmetic of one product or convolution, rows or images at least.
ROWS, DREAMS, STEPS, FLOPS, FEWEST = 256, 128, 3, 3e7, 2
#: Seconds in which a piece of work is repeated, and repetitions at most.
SECONDS, ROUNDS = 0.003, 9
#: Raised when something else is measured, so that older files are measured again.
VERSION = 1


class Timing(NamedTuple):
    """One kind of work in an update: what it is, its arithmetic, and its seconds in each type."""

    what: str
    flops: float  # as dense products
    float32: float
    bfloat16: float


class Piece(NamedTuple):
    """Some of the work of an update: `run` does it, and an update has so many `times` as much."""

    kind: str
    what: str
    times: float
    flops: float
    run: Callable[[], Any]


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

    fused: may loops be run by compiled code? again: time them in any case, and keep that.
    """
    gates = [part.prepared("gates").layer for part in _inside(parts) if type(part) is FastRSSM and part.fits()]
    fused = fused and all(worth_fusing(config.train.batch_size, layer.weight) for layer in gates)
    key = key_of(parts, config, fused=fused)
    known = _known()
    if again or key not in known:
        path = _path(key)
        found = None if again or path is None else read(path, key)
        if found is None:
            found = measure(parts, config, fused=fused)
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
    """Keep it: whole or not at all. Where it cannot be written, the next process measures again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".choice-")
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump({"key": key, "kinds": found}, file)
            os.replace(name, path)
        except OSError:
            with suppress(OSError):
                os.unlink(name)


# ----------------------------------------------------------------------------------------------------------- timing


def measure(parts: Sequence[nn.Module], config: Config, *, fused: bool) -> Measured:
    """Time copies of the parts; they and the random streams stay as they are.

    In one thread, by the processor's time: what is measured must not depend on what else the machine does.
    """
    threads = torch.get_num_threads()
    found: dict[str, list[tuple[Piece, list[float]]]] = {}
    try:
        torch.set_num_threads(1)
        forms = [pieces(parts, config, dtype, fused=fused) for dtype in (FLOAT, HALF)]
        for one, other in zip(*forms, strict=True):
            found.setdefault(one.kind, []).append((one, race([one.run, other.run])))
    finally:
        torch.set_num_threads(threads)
    return {
        kind: Timing(
            ", ".join(dict.fromkeys(piece.what for piece, _ in each)),
            sum(piece.times * piece.flops for piece, _ in each),
            *(sum(piece.times * seconds[at] for piece, seconds in each) for at in (0, 1)),
        )
        for kind, each in found.items()
    }


def race(forms: Sequence[Callable[[], Any]]) -> list[float]:
    """Seconds of each: the least of several repetitions in turns, after one that warms up."""
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
        if turn >= 0 and spent > SECONDS:
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
    """A copy that computes in this type."""
    whole = nn.ModuleList([copy.deepcopy(part)])
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
    large = channels_last(_some(count, channels, *big).to(dtype))
    little = channels_last(_some(count, maps, *small).to(dtype))
    weight = channels_last(weight.detach().to(dtype))
    runs: list[Callable[[], Any]] = [
        lambda: down(large, weight, few=0),
        lambda: weight_gradient(large, little, kernel),
        lambda: up(little, weight, big),
    ]
    what = f"{channels}x{big[0]}x{big[1]} to {maps}x{small[0]}x{small[1]}"
    return [Piece("convolutions", what, steps / count, once * count, run) for run in runs[: 3 if to_input else 2]]


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
        x, g = _some(count, ins), _some(count, outs)
        product = Product(_some(outs, ins).to(dtype), _some(outs).to(dtype))
        runs: list[Callable[[], Any]] = [
            partial(product.__call__, x),
            partial(product.back, g),
            partial(_weight_gradient, g, x, dtype),
        ]
        once, many = 2.0 * count * outs * ins, layers * rows / count
        found += [Piece("dense", f"{layers} of {ins} to {outs}", many, once, run) for run in runs]
    return found


def _weight_gradient(g: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    return outer(g.to(dtype), x.to(dtype)).float()


def _judging(mlp: FastMLP, rssm: FastRSSM, rows: int) -> Piece:
    """All layers without gradients."""
    z, deter = _states(rssm, ROWS)
    feat = cast(Tensor, Feat(z, deter)) if isinstance(z, OneHots) else torch.cat([z, deter], -1)
    weights = sum(layer.weight.numel() for layer in mlp if isinstance(layer, nn.Linear))
    return Piece("dense", "heads", rows / ROWS, 2.0 * ROWS * weights, torch.no_grad()(lambda: mlp(feat)))


def _filter(rssm: FastRSSM, config: Config) -> Piece:
    """Steps of filtering; the way back, some twice as much, is in proportion."""
    batch, net = config.train.batch_size, cast(nn.Linear, rssm.posterior_net[0])
    embed, action = _some(batch, STEPS, net.in_features - rssm.rnn_hidden_dim), _some(batch, STEPS, _actions(rssm))
    never, noise = torch.zeros(batch, STEPS, dtype=torch.bool, device="cpu"), _noise(rssm, batch, STEPS)
    run = torch.no_grad()(lambda: rssm.rollout_observation(embed, action, never, noise=noise))
    once = batch * STEPS * _arithmetic(*rssm.children())
    return Piece("loops", f"{batch} sequences", 3.0 * config.train.seq_len / STEPS, once, run)


def _arithmetic(*nets: nn.Module) -> float:
    """Of one row."""
    return 2.0 * sum(weight.numel() for net in nets for weight in net.parameters() if weight.dim() == 2)


def _dream(rssm: FastRSSM, rows: int) -> Piece:
    """Steps of dreams, without gradients; rows: of all dreams together."""
    z, deter = _states(rssm, DREAMS)
    start = State(deter, z, _some(DREAMS, rssm.latent.stats_dim))
    action, noise = _some(DREAMS, _actions(rssm)), _noise(rssm, DREAMS, STEPS)
    run = torch.no_grad()(lambda: rssm.rollout_imagination(lambda feat: action, start, STEPS, noise))
    once = _arithmetic(rssm.input_net, rssm.gru, rssm.prior_net)
    return Piece("loops", "dreams", rows / (DREAMS * STEPS), DREAMS * STEPS * once, run)


def _actions(rssm: FastRSSM) -> int:
    """Numbers of an action."""
    return cast(nn.Linear, rssm.input_net[0]).in_features - rssm.latent.stoch_dim


def _noise(rssm: FastRSSM, *batch: int) -> Tensor:
    return rssm.latent.noise(*batch, generator=torch.Generator().manual_seed(0))
