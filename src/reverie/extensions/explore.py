"""What a behaviour is rewarded with that goes where the model has not been, or that stays away from there.

Both score a dream by an ensemble (`ensemble.py`), by the time index that rewards have (`behavior.reward_index`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops import Combine, alone
from ..rssm import Dream
from .ensemble import Ensemble


class RunningDeviation(nn.Module):
    """The standard deviation of rewards, a moving average over updates, by which they are divided.

    Rewards of disagreement fall by orders of magnitude while the model learns; so one weight of the entropy fits. The
    form is that of URLB's Plan2Explore (Rajeswar et al. 2022), whose momentum is 0.95.
    """

    value: Tensor

    def __init__(self, *, momentum: float = 0.95, limit: float = 1e-8) -> None:
        super().__init__()
        self.momentum = momentum
        self.limit = limit
        self.gather: Combine = alone  # of several ranks: the rewards of all
        self.register_buffer("value", torch.zeros(()))  # 0: nothing seen yet

    @torch.no_grad()
    def forward(self, rewards: Tensor) -> Tensor:
        """Take new rewards into account. (...) -> (), without gradient."""
        new = self.gather(rewards.detach().float()).std(correction=0)
        moved = torch.where(self.value == 0, new, new.lerp(self.value, self.momentum))
        self.value.copy_(torch.where(moved.isfinite(), moved, self.value))  # a bad update must leave nothing behind
        return self.value.clamp(min=self.limit)


class DisagreementReward:
    """r_k = intrinsic * u_k / std(u) + extrinsic * predicted reward, u the disagreement of an ensemble."""

    def __init__(
        self,
        ensemble: Ensemble,
        *,
        reward_index: str = "current",
        intrinsic: float = 1.0,
        extrinsic: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        self.ensemble = ensemble
        self.reward_index = reward_index
        self.intrinsic = intrinsic
        self.extrinsic = extrinsic
        self.deviation = RunningDeviation(momentum=momentum)

    @property
    def gather(self) -> Combine:
        """What joins the rewards of several ranks."""
        return self.deviation.gather

    @gather.setter
    def gather(self, gather: Combine) -> None:
        """Measure over several ranks from now on."""
        self.deviation.gather = gather

    @property
    def parts(self) -> dict[str, nn.Module]:
        """What checkpoints keep."""
        return {"reward_deviation": self.deviation}

    @property
    def scales(self) -> list[Tensor]:
        """Small buffers () that computing changes."""
        return [self.deviation.value]

    def __call__(self, dream: Dream, predicted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """predicted (N, H): the world model's rewards -> rewards (N, H), metrics."""
        found = disagreement_of(self.ensemble, dream, self.reward_index)
        rewards = self.intrinsic * found / self.deviation(found) + self.extrinsic * predicted
        return rewards, {"disagreement": found.detach().mean(), "predicted_reward": predicted.detach().mean()}


class PenalizedReward:
    """r_k = predicted reward - weight * u_k, u the disagreement of an ensemble in its own unit (nats)."""

    def __init__(self, ensemble: Ensemble, *, weight: float, reward_index: str = "current") -> None:
        self.ensemble = ensemble
        self.weight = weight
        self.reward_index = reward_index
        self.gather: Combine = alone  # nothing is measured

    @property
    def parts(self) -> dict[str, nn.Module]:
        """What checkpoints keep: nothing."""
        return {}

    @property
    def scales(self) -> list[Tensor]:
        """Small buffers () that computing changes: none."""
        return []

    def __call__(self, dream: Dream, predicted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """predicted (N, H): the world model's rewards -> rewards (N, H), metrics."""
        penalty = self.weight * disagreement_of(self.ensemble, dream, self.reward_index)
        return predicted - penalty, {"penalty": penalty.detach().mean()}


def disagreement_of(ensemble: Ensemble, dream: Dream, reward_index: str) -> Tensor:
    """The disagreement that stands where the rewards of a dream stand. -> (N, H)."""
    score = ensemble.of_arrivals if reward_index == "next" else ensemble.of_states
    return score(dream.feat, dream.action)
