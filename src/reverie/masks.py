"""Which actions are allowed: the environment says so when awake, this head when dreaming."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .networks import MLP, Head, Norm
from .policies import Part, one_by_one


class MaskPredictor(Head):
    """Features to the probability that each action is allowed. feat (..., F) -> (..., A) in [0, 1].

    Trained like the continue predictor, by binary cross-entropy; numbers (parts that are no choice) are always allowed.
    """

    def __init__(
        self,
        feat_dim: int,
        parts: Sequence[Part],
        *,
        target: str,
        layers: int = 4,
        hidden_dim: int = 400,
        norm: Norm = True,
        activation: str = "elu",
    ) -> None:
        super().__init__()
        self.target, self.parts = target, tuple(parts)
        self.sizes = [part.size * part.copies for part in parts]
        self.mlp = MLP(
            feat_dim, sum(self.sizes), layers=layers, hidden_dim=hidden_dim, norm=norm, activation=activation
        )

    def forward(self, feat: Tensor) -> Tensor:
        return torch.sigmoid(self.mlp(feat).float())

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        """In nats, summed over choices. feat (..., F), target (..., A) of 0 and 1 -> (...)."""
        error = F.binary_cross_entropy_with_logits(self.mlp(feat).float(), target.float(), reduction="none")
        pieces = torch.split(error, self.sizes, -1)
        choices = [x.sum(-1) for x, part in zip(pieces, self.parts, strict=True) if part.policy == "onehot"]
        return torch.stack(choices).sum(0)

    @torch.no_grad()
    def allowed(self, feat: Tensor) -> Tensor:
        """The mask to dream with: what is more likely allowed than not, and always the likeliest of a choice.

        feat (..., F) -> (..., A) of 0 and 1.
        """
        out = []
        for probs, part in zip(torch.split(self(feat), self.sizes, -1), self.parts, strict=True):
            if part.policy == "onehot":
                each = one_by_one(probs, part)
                best = F.one_hot(each.argmax(-1), part.size).bool()
                out.append(((each > 0.5) | best).float().flatten(-2))
            else:
                out.append(torch.ones_like(probs))
        return torch.cat(out, -1)
