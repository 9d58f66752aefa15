"""Networks that learn from the states of each batch without shaping them: what `DreamerV2` asks of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from ..data.replay import Batch
from ..ops import Combine
from ..rssm import State


class StateLearner(Protocol):
    """A part of an agent with an optimizer and a share of each update of its own, after the world model's."""

    name: str  # of its optimizer, its weights, its share of an update, and in front of its metrics

    @property
    def module(self) -> nn.Module:
        """What learns."""

    @property
    def scales(self) -> list[Tensor]:
        """Small buffers () or (n,) that computing the loss changes."""

    @property
    def generators(self) -> Mapping[str, torch.Generator]:
        """Random streams of its own by name, which checkpoints keep."""

    def join(self, mean: Combine, gather: Combine) -> None:
        """Measure over several ranks from now on: by the mean of theirs, or all that they have."""

    def prepare(self, batch_size: int) -> None:
        """The host's share before an update with so many sequences."""

    def loss(self, posterior: State, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """posterior and batch of (B, T, ...) -> loss (), metrics."""
