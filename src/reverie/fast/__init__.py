"""Faster arithmetic for the same agent: `accelerate(agent)` exchanges classes, not parameters, not the algorithm.

Read the plain definitions first (`networks.py`, `rssm.py`, `layers.py`, `latents.py`). The files here compute the same:

    definitions.py  which plain functions that is, and whether they are the ones it was proven against
    convs.py        convolutions in the form that is fastest for their shape
    products.py     matrix products by size
    choose.py       which number type is quicker for what, measured on this processor
    rows.py         products with one-hot vectors as sums of rows
    dense.py        dense layers, float32 or bfloat16 by their size
    scan.py         the recurrent loops, with everything taken out of them that need not be in them
    fused.py        these loops, layers and Adam's steps by compiled code (fused.c, fused_kernels.h)
    fused_build.py  from fused.c to a library in the user's cache folder
    modes.py        from settings and hardware to a mode and a number type
    cuda_graph.py   a whole update as one CUDA graph

tests/fast/test_fast.py holds both paths equal, for every preset: losses and gradients.
"""

from __future__ import annotations

import torch
from torch import nn

from ..layers import MLP
from ..networks import ConvDecoder, ConvEncoder
from ..rssm import DiscreteRSSM
from .convs import FastConvDecoder, FastConvEncoder
from .definitions import PARTS, changed
from .dense import FastMLP
from .fused import AdamStep
from .products import Types
from .rows import Feat, OneHots
from .scan import FastRSSM

#: Of exactly these types: a subclass is computed as it is written.
FASTER: dict[type[nn.Module], type[nn.Module]] = {
    MLP: FastMLP,
    ConvEncoder: FastConvEncoder,
    ConvDecoder: FastConvDecoder,
    DiscreteRSSM: FastRSSM,
}

__all__ = ["FASTER", "Feat", "OneHots", "accelerate", "fused_step", "plain_parts", "set_types"]


def accelerate(module: nn.Module, dtype: torch.dtype | Types = torch.float32, *, fused: bool = False) -> list[str]:
    """Let every part that has a fast form compute by it. Parameters, their names and checkpoints stay the same.

    A part whose plain definition is not the one that the fast form was proven against keeps the plain one.
    dtype: of large products, or of each kind of them; parameters, losses and everything else stay float32. fused: loops
    by compiled code, which must be there (`modes.pick_fused`). -> `plain_parts` afterwards.
    """
    edited = {kind for kind in FASTER if changed(PARTS[kind.__name__])}
    for part in list(module.modules()):
        kind = type(part)
        if kind in FASTER and kind not in edited:
            part.__class__ = FASTER[kind]
    set_types(module, dtype if isinstance(dtype, Types) else Types.all(dtype), fused=fused)
    return plain_parts(module)


def set_types(module: nn.Module, types: Types, *, fused: bool) -> None:
    """The number types of parts that are computed fast, and whether what is float32 is run by compiled code (fused.py),
    where it can be."""
    loops = {id(part) for rssm in module.modules() if type(rssm) is FastRSSM for part in rssm.modules()}
    for part in module.modules():
        if type(part) in FASTER.values():
            images = isinstance(part, FastConvEncoder | FastConvDecoder)
            dtype = types.loops if id(part) in loops else types.convolutions if images else types.dense
            part.__dict__["product_dtype"] = dtype
            part.__dict__["runs_fused"] = fused and dtype == torch.float32


def fused_step(optimizer: torch.optim.Optimizer) -> AdamStep | None:
    """Adam's norms and step by compiled code, which must be there; None for another optimizer."""
    return AdamStep(optimizer) if type(optimizer) is torch.optim.AdamW else None


def plain_parts(module: nn.Module) -> list[str]:
    """A line for each part that has a fast form and is computed the plain way now, and why."""
    notes: list[str] = []
    for part in module.modules():
        base = next((known for known in FASTER if isinstance(part, known)), None)
        if base is None:
            continue
        if type(part) not in (base, FASTER[base]):
            reason = f"{type(part).__name__} replaces {base.__name__}"
        else:
            reason = changed(PARTS[base.__name__])
            if not reason and isinstance(part, FastRSSM | FastConvEncoder | FastConvDecoder):
                reason = part.misfit()
        if reason:
            notes.append(f"{reason}: {_plain(base)}")
        elif isinstance(part, FastRSSM) and part.runs_fused and part.fused_misfit():
            notes.append(f"{part.fused_misfit()}: dreams are not run by compiled code")
    return list(dict.fromkeys(notes))


def _plain(base: type[nn.Module]) -> str:
    part = PARTS[base.__name__]
    return f"plain arithmetic for {part.name}, updates take about {part.slowdown:g}x as long"
