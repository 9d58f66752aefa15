"""The layers that the networks are built from: normalization, dense layers, recurrent cells, initial weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

NORM_EPS = 1e-3  # Keras' LayerNormalization default, which the released code uses (implementation-details.md#gru)
ACTIVATIONS = {"elu": nn.ELU, "relu": nn.ReLU, "silu": nn.SiLU}

Norm = bool | str  #: True or "layer": LayerNorm; "rms": RMSNorm (DreamerV3); False: none


def init_glorot(module: nn.Module) -> None:
    """Glorot-uniform weights and zero biases, the Keras defaults that the released code relies on
    (implementation-details.md#networks).

    Use as `network.apply(init_glorot)`. There is no special initialisation of output layers in DreamerV2.
    """
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def norm_layers(norm: Norm, size: int) -> list[nn.Module]:
    """The normalisation of `size` features as a list of one layer, or of none. Raises ValueError."""
    if norm is False:
        return []
    if norm == "rms":
        return [nn.RMSNorm(size, eps=1e-4)]  # DreamerV3's epsilon
    if norm in (True, "layer"):
        return [nn.LayerNorm(size, eps=NORM_EPS)]
    raise ValueError(f"norm must be True, False, 'layer' or 'rms', got {norm!r}")


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within it, the parameters need no gradients: less is kept for backward, and backward does less."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class ChannelNorm(nn.Module):
    """Normalise the channels of each pixel, as Keras does on NHWC. x (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, norm: Norm, size: int) -> None:
        super().__init__()
        self.norm = norm_layers(norm, size)[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def zero_output(mlp: MLP) -> None:
    """Let a network predict 0 before training. From DreamerV3, off in the V2 presets: a critic with random weights
    can commit a fast actor to one action before the world model has learned anything."""
    nn.init.zeros_(cast(nn.Linear, mlp[-1]).weight)


@dataclass(frozen=True)
class MLPOptions:
    """The hidden layers of a dense network; the defaults are the design document's."""

    layers: int = 4
    hidden_dim: int = 400
    norm: Norm = True
    activation: str = "elu"


#: A dense layer with a side of at most this many numbers is multiplied in float32, whatever `compute.precision` says.
SMALL_SIDE = 64


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Within it, an autocast for the device of x (...) does not change the type that products are made in."""
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


class ExactLinear(nn.Linear):
    """A Linear that multiplies in its weight's type, float32, where other products are made in bfloat16.

    x (..., in) -> (..., out).
    bfloat16 has 8 significant bits: near 200 its step is 1, and an advantage is a small difference of such numbers.
    """

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):
            return super().forward(x.to(self.weight.dtype))


def make_linear(inputs: int, outputs: int, *, exact: bool = False) -> nn.Linear:
    """A dense layer; `ExactLinear` for what must not be rounded, and for layers too narrow to gain from rounding."""
    kind = ExactLinear if exact or min(inputs, outputs) <= SMALL_SIDE else nn.Linear
    return kind(inputs, outputs)


class MLP(nn.Sequential):
    """`layers` x (Linear, LayerNorm or nothing, activation), then a Linear to `output_dim` if given.

    x (..., input_dim) -> (..., output_dim), or (..., hidden_dim) without an output layer. With `compute.mode=fast` the
    layers are computed by `fast/dense.py`; change this class, and it is this class that runs. The output layer is made
    in float32 whatever `compute.precision` says, unless `exact_output` is false.
    """

    def __init__(
        self, input_dim: int, output_dim: int | None, options: MLPOptions, *, exact_output: bool = True
    ) -> None:
        modules: list[nn.Module] = []
        size = input_dim
        for _ in range(options.layers):
            modules.append(make_linear(size, options.hidden_dim))
            modules += norm_layers(options.norm, options.hidden_dim)
            modules.append(ACTIVATIONS[options.activation]())
            size = options.hidden_dim
        if output_dim is not None:
            modules.append(make_linear(size, output_dim, exact=exact_output))
        super().__init__(*modules)
        self.output_dim = size if output_dim is None else output_dim
        self.apply(init_glorot)


class NormGRUCell(nn.Module):
    """The recurrent cell h' = f(x, h) of DreamerV2. x (B, X), h (B, D) -> (B, D). Released code, `GRUCell`.

    Not `nn.GRUCell`: one Linear makes all three gates and a LayerNorm spans them; the reset gate multiplies the whole
    candidate; the update gate starts with a bias of -1, so a new cell keeps 73 % of its state
    (implementation-details.md#gru).
    `fast/steps.py` computes the same with compute.mode=fast; change `forward`, and it is `forward` that runs.
    """

    def __init__(self, input_dim: int, rnn_hidden_dim: int, *, norm: Norm = True) -> None:
        super().__init__()
        self.gates = make_linear(input_dim + rnn_hidden_dim, 3 * rnn_hidden_dim)
        self.norm = (norm_layers(norm, 3 * rnn_hidden_dim) or [nn.Identity()])[0]
        self.apply(init_glorot)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        reset, candidate, update = self.norm(self.gates(torch.cat([x, h], -1))).chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        return update * candidate + (1 - update) * h


class GRUCell(nn.GRUCell):
    """The textbook cell, DreamerV1's: reset multiplies the recurrent part only. x (B, X), h (B, D) -> (B, D)."""

    def __init__(self, input_dim: int, rnn_hidden_dim: int, *, norm: Norm = False) -> None:
        super().__init__(input_dim, rnn_hidden_dim)  # there is nothing to normalise
        nn.init.xavier_uniform_(self.weight_ih)
        nn.init.orthogonal_(self.weight_hh)  # Keras' default for recurrent weights
        nn.init.zeros_(self.bias_ih)
        nn.init.zeros_(self.bias_hh)
        self.exact = min(input_dim, rnn_hidden_dim) <= SMALL_SIDE

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        if not self.exact:
            return super().forward(x, h)
        with without_autocast(x):
            return super().forward(x.to(self.weight_ih.dtype), None if h is None else h.to(self.weight_ih.dtype))


CELLS: dict[str, type[NormGRUCell] | type[GRUCell]] = {"norm_gru": NormGRUCell, "gru": GRUCell}
