"""From raw observations to one embedding: the same way when acting and when training.

Shapes: "..." any leading axes, E embedding, V size of a vector. Images are (..., H, W, C) uint8 outside and
(..., C, H, W) floats in [-0.5, 0.5] inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from .layers import MLP, MLPOptions, Norm
from .networks import ConvEncoder
from .ops import symlog


def preprocess(obs: Mapping[str, Tensor], image_keys: Iterable[str], *, vector_transform: str) -> dict[str, Tensor]:
    """Raw observations to network inputs; the same function when acting and when training
    (implementation-details.md#b1).

    image uint8 (..., H, W, C) -> float (..., C, H, W) in [-0.5, 0.5]; vector (..., V) -> float, symlog if asked.
    """
    images = set(image_keys)
    out = {}
    for key, value in obs.items():
        if key in images:
            if value.dtype != torch.uint8:
                raise ValueError(f"image '{key}' must be uint8 in 0..255, got {value.dtype}")
            out[key] = value.movedim(-1, -3).float().div_(255).sub_(0.5)
        else:
            out[key] = symlog(value.float()) if vector_transform == "symlog" else value.float()
    return out


#: Standardized numbers are cut off here, in deviations: a single outlier must not ruin an update.
CUT_AT = 10.0


class Standardizer(nn.Module):
    """Bring each dimension of a vector observation to mean 0 and deviation 1, measured once, before learning.

    Without it a quantity that moves by 0.1 (a pole's angle) costs less squared error than one nat of KL, and the
    model learns to ignore it. x (..., V) -> (..., V), kept within +-10. Saved with the weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))

    def fit(self, values: Tensor) -> None:
        """Measure. values (..., V); a dimension that never moves keeps deviation 1."""
        flat = values.float().flatten(0, -2)
        deviation = flat.std(0)
        self.mean.copy_(flat.mean(0))
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.deviation).clamp(-CUT_AT, CUT_AT)

    def undo(self, x: Tensor) -> Tensor:
        """Back to the environment's own units. (..., V) -> (..., V)."""
        return x * self.deviation + self.mean


class RunningStandardizer(nn.Module):
    """As `Standardizer`, but the scale follows everything seen so far: for tasks whose numbers grow as they are learnt.

    Welford's sums, in float64, merged batch by batch (Chan et al. 1979). x (..., V) -> (..., V), within +-10.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Take new ones into account. values (N, V)."""
        new = values.double()
        total = self.count + len(new)
        shift = new.mean(0) - self.mean
        self.squares += ((new - new.mean(0)) ** 2).sum(0) + shift**2 * self.count * len(new) / total
        self.mean += shift * len(new) / total
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean.float()) / self._deviation()).clamp(-CUT_AT, CUT_AT)

    def undo(self, x: Tensor) -> Tensor:
        """Back to the environment's own units, by the scale of now. (..., V) -> (..., V)."""
        return x * self._deviation() + self.mean.float()

    def _deviation(self) -> Tensor:
        variance = self.squares / self.count.clamp(min=1)
        return torch.where(variance > 1e-12, variance, torch.ones_like(variance)).sqrt().float()


class ObservationEncoder(nn.Module):
    """Any number of images and vectors to one embedding. {key: (..., *shape)} -> (..., output_dim).

    Each image key has its own ConvEncoder; all vectors go through one MLP; the results are concatenated. `embed_dim`
    other than 0 and other than the natural size adds one layer that brings it there.
    """

    def __init__(
        self,
        images: Mapping[str, Sequence[int]],
        vectors: Mapping[str, int],
        *,
        embed_dim: int = 1024,
        depth: int = 32,
        conv_norm: Norm = True,
        conv_activation: str = "elu",
        mlp: MLPOptions = MLPOptions(),
    ) -> None:
        super().__init__()
        if not images and not vectors:
            raise ValueError("an encoder needs at least one image or vector observation")
        self.vector_keys, self.vector_sizes = sorted(vectors), dict(vectors)
        self.convs = nn.ModuleDict(
            {
                module_name(key): ConvEncoder(images[key], depth=depth, norm=conv_norm, activation=conv_activation)
                for key in sorted(images)
            }
        )
        self.image_keys = sorted(images)
        natural = sum(cast(ConvEncoder, conv).output_dim for conv in self.convs.values())
        self.mlp: MLP | None = None
        if vectors:
            self.mlp = MLP(sum(vectors.values()), None, mlp)
            natural += self.mlp.output_dim
        self.output_dim = embed_dim or natural
        self.project: nn.Module = nn.Identity()
        if self.output_dim != natural:
            self.project = MLP(natural, None, replace(mlp, layers=1, hidden_dim=embed_dim))

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        parts = [self.convs[module_name(key)](obs[key]) for key in self.image_keys]
        if self.mlp is not None:
            parts.append(self.mlp(torch.cat([obs[key] for key in self.vector_keys], -1)))
        return self.project(torch.cat(parts, -1))


def module_name(key: str) -> str:
    """Name of the sub-module that serves an observation key: no dots, and no clash with attributes of torch's own."""
    return "obs/" + key.replace(".", "_")
