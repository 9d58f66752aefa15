"""Behaviour cloning: an actor that learns the recorded actions from the world model's states, and nothing else.

The baseline beside every policy that is learnt from recorded data: where it is as good, dreams have added nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..actor_critic import Actor
from ..data.replay import Batch
from ..ops import Combine
from ..rssm import State


class Cloning(nn.Module):
    """A `StateLearner` whose module is an actor; the state is not shaped by it."""

    name = "cloning"

    def __init__(self, actor: Actor, mask_key: str, loss: Callable[[Actor, str, State, Batch], Tensor]) -> None:
        """loss: `behavior.imitation_loss`."""
        super().__init__()
        self.actor = actor
        self.mask_key = mask_key
        self.imitation = loss

    @property
    def module(self) -> nn.Module:
        return self

    @property
    def scales(self) -> list[Tensor]:
        return []

    @property
    def generators(self) -> Mapping[str, torch.Generator]:
        return {}

    def join(self, mean: Combine, gather: Combine) -> None:
        """Nothing: imitation is learnt by one process."""

    def prepare(self, batch_size: int) -> None:
        """Nothing changes before an update."""

    def loss(self, posterior: State, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        found = self.imitation(self.actor, self.mask_key, posterior, batch)
        return found, {"loss": found.detach()}
