"""The same agent by quicker arithmetic: `accelerate(agent)` exchanges classes, not parameters, and not the algorithm.

Read the plain path first (`networks.py`, `rssm.py`); this folder only says how a machine likes the same sums:

    convs.py   convolutions in the form that is quickest for their shape
    products.py  matrix products by size
    rows.py    products with one-hot vectors as sums of rows
    dense.py   dense layers, float32 or bfloat16 by their size
    scan.py    the recurrent loops, with everything that can wait taken out of them

tests/fast/test_fast.py holds both paths equal, for every preset: losses and gradients.
"""

from __future__ import annotations

import torch
from torch import nn

from ..layers import MLP
from ..networks import ConvDecoder, ConvEncoder
from ..rssm import DiscreteRSSM
from .convs import FastConvDecoder, FastConvEncoder
from .dense import FastMLP
from .rows import Feat, OneHots
from .scan import FastRSSM

FASTER: dict[type[nn.Module], type[nn.Module]] = {
    MLP: FastMLP,
    ConvEncoder: FastConvEncoder,
    ConvDecoder: FastConvDecoder,
    DiscreteRSSM: FastRSSM,
}

__all__ = ["FASTER", "Feat", "OneHots", "accelerate"]


def accelerate(module: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Let every part that has a faster twin compute like it. Parameters, their names and checkpoints stay the same.

    dtype: what big products are made in; parameters, losses and everything else stay float32.
    """
    for part in module.modules():
        if type(part) in FASTER:
            part.__class__ = FASTER[type(part)]
            part.__dict__["product_dtype"] = dtype
