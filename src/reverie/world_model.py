"""The world model: encoder + RSSM + a mapping of heads. One loop over the heads gives the model loss (paper Eq. 2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from .data.replay import Batch
from .networks import Head, MaskPredictor
from .observations import ObservationEncoder, RunningStandardizer, Standardizer, module_name, preprocess
from .ops import Combine, alone, symexp
from .rssm import DiscreteRSSM, State


class BeyondLoss(Protocol):
    """A loss on what the model predicts several steps ahead."""

    depth_now: int  # how many; may grow during a run

    def join(self, mean: Combine, ranks: int) -> None:
        """Be one of so many ranks that share the batch from now on."""

    def prepare(self, updates: int) -> None:
        """What changes before an update, after so many."""

    def __call__(
        self, model: WorldModel, posterior: State, batch: Batch, obs: Mapping[str, Tensor], /
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """posterior, batch of (B, T, ...), obs as network inputs -> loss (), metrics."""
        ...


class WorldModel(nn.Module):
    """Learns to predict what comes: images, vectors, rewards and ends, from states that also predict each other."""

    def __init__(
        self,
        encoder: ObservationEncoder,
        rssm: DiscreteRSSM,
        heads: Mapping[str, Head],
        *,
        scales: Mapping[str, float] | None = None,
        kl_scale: float = 1.0,
        kl: Mapping[str, Any] | None = None,
        vector_transform: str = "none",
        detached_heads: Collection[str] = (),
        mask_key: str = "",
        choice_keys: Collection[str] = (),
        reward_unit: float = 1.0,
        beyond: BeyondLoss | None = None,
    ) -> None:
        """scales {head name: weight of its loss}, 1 by default; kl: the options of `DiscreteRSSM.kl_loss`.

        detached_heads: kinds of heads ("obs", "reward", "continue") that learn without shaping the state.
        mask_key: the observation that says which actions are allowed, "" for none.
        choice_keys: observations that are one-hots and stay so: neither scaled nor squashed.
        reward_unit: rewards are learnt in this unit.
        beyond: what the model pays for steps further ahead (`extensions.overshooting`); None: nothing.
        """
        super().__init__()
        self.encoder, self.rssm, self.heads = encoder, rssm, nn.ModuleDict(dict(heads))
        self.scales, self.kl_scale, self.kl = dict(scales or {}), kl_scale, dict(kl or {})
        self.vector_transform, self.detached_heads = vector_transform, frozenset(detached_heads)
        self.reward_unit = reward_unit
        self.beyond = beyond
        self.mask_key, self.choice_keys = mask_key, list(choice_keys)
        self.scaled_keys = [key for key in encoder.vector_keys if key != mask_key and key not in self.choice_keys]
        self.standardizers = nn.ModuleDict()
        scalers = {"standardize": Standardizer, "running": RunningStandardizer}
        if vector_transform in scalers:
            kind, sizes = scalers[vector_transform], encoder.vector_sizes
            self.standardizers.update({module_name(key): kind(sizes[key]) for key in self.scaled_keys})

    def join(self, mean: Combine, ranks: int) -> None:
        """Be one of so many ranks that share the batch from now on. mean: over them."""
        self.kl["shared"] = mean if ranks > 1 else alone
        if self.beyond is not None:
            self.beyond.join(mean, ranks)

    def preprocess(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Raw observations {key: (..., *shape)} to network inputs; acting and training both come through here."""
        out = preprocess(obs, self.encoder.image_keys, vector_transform=self.vector_transform)
        if self.standardizers:
            out |= {key: self.standardizers[module_name(key)](out[key]) for key in self.scaled_keys}
        for key in [*self.choice_keys, *([self.mask_key] if self.mask_key else [])]:
            out[key] = obs[key].float()
        return out

    def fit_observations(self, obs: Mapping[str, Tensor]) -> None:
        """Measure the scale of vector observations once, on the data gathered before learning. raw {key: (N, V)}."""
        if self.vector_transform == "standardize":
            for key in self.scaled_keys:
                cast(Standardizer, self.standardizers[module_name(key)]).fit(obs[key])

    def follow_observations(self, obs: Mapping[str, Tensor]) -> None:
        """Let the running scale of vector observations take new ones into account. raw {key: (N, V)}."""
        if self.vector_transform == "running":
            for key in self.scaled_keys:
                cast(RunningStandardizer, self.standardizers[module_name(key)]).update(obs[key])

    def head(self, name: str) -> Head:
        """A head by its name."""
        return cast(Head, self.heads[name])

    def targets(self, batch: Batch, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What heads can be trained on by name (`Head.target`). -> {name: (B, T, ...)}."""
        return {module_name(key): value for key, value in obs.items()} | {
            "reward": batch.reward / self.reward_unit,
            "continue": 1 - batch.is_terminal.float(),
        }

    def loss(self, batch: Batch, noise: Tensor | None = None) -> tuple[Tensor, State, dict[str, Tensor]]:
        """Eq. 2: sum over heads of -log p(target | state), plus the KL. Batch of (B, T, ...) -> (), State, metrics.

        Every term is a mean over batch and time of nats summed over pixels, dimensions or latent variables.
        """
        obs = self.preprocess(batch.obs)
        posterior, prior_stats = self.rssm.rollout_observation(
            self.encoder(obs), batch.action, batch.is_first, noise=noise
        )
        features, known = posterior.feat, self.targets(batch, obs)
        losses: dict[str, Tensor] = {}
        extra: dict[str, Tensor] = {}
        for name in self.heads:
            head = self.head(name)
            feat = features_for(head, features.detach() if name.split("/")[0] in self.detached_heads else features)
            target = head.target_of(batch, obs)
            target = known[head.target] if target is None else target
            losses[name] = head.loss(feat, target).mean()
            extra |= {f"{name}_{key}": value.detach() for key, value in head.metrics(feat, target).items()}
        kl_loss, metrics = self.rssm.kl_loss(posterior.stats, prior_stats, **self.kl)
        total = self.kl_scale * kl_loss + sum(self.scales.get(name, 1.0) * loss for name, loss in losses.items())
        metrics |= {f"{name}_loss": loss.detach() for name, loss in losses.items()}
        if self.beyond is not None:
            further, found = self.beyond(self, posterior, batch, obs)
            total = total + further
            metrics |= found
        return total, posterior, metrics | extra | {"loss": total.detach()}

    def observe(
        self, obs: Mapping[str, Tensor], action: Tensor, is_first: Tensor, state: State, noise: Tensor
    ) -> State:
        """One step of acting: the state after looking. obs raw {key: (N, *shape)}, action (N, A) -> State."""
        return self.rssm.observe(state, action, self.encoder(self.preprocess(obs)), is_first, noise)

    def continues(self, feat: Tensor) -> Tensor:
        """Predicted probability that the episode continues, 1 without such a head. feat (..., F) -> (...)."""
        if "continue" not in self.heads:
            return feat.new_ones(feat.shape[:-1])
        head = self.head("continue")
        return head(features_for(head, feat))

    def predict_reward(self, feat: Tensor) -> Tensor:
        """Predicted rewards, in the space that the actor plans in. feat (..., F) -> (...)."""
        head = self.head("reward")
        return head(features_for(head, feat))

    def dream_scores(self, feat: Tensor, alive: Tensor, reward_index: str) -> tuple[Tensor, Tensor]:
        """Rewards and continues (N, H) of dreams. feat (N, H + 1, F); alive (N,) is 0 where a dream starts at an end.

        reward_index "current": r_k and c_k belong to the state k (drawing in `replay.py`); "next", DreamerV3's: to the
        state that u_k leads to, so that a value does not include the reward of its own state.
        """
        head = self.predict_reward
        if reward_index == "next":
            return head(feat[:, 1:]), self.continues(feat[:, 1:])
        states = feat[:, :-1]
        return head(states), torch.cat([alive[:, None], self.continues(states[:, 1:])], 1)

    def action_mask(self, feat: Tensor) -> Tensor | None:
        """Which actions are allowed in imagined states; None where all are. feat (..., F) -> (..., A) of 0 and 1."""
        return cast(MaskPredictor, self.heads[module_name(self.mask_key)]).allowed(feat) if self.mask_key else None

    def reconstruct(self, feat: Tensor) -> dict[str, Tensor]:
        """Decoded images as uint8, the way they came. feat (..., F) -> {key: (..., H, W, C)}."""
        return {
            key: ((self.heads[module_name(key)](feat).float() + 0.5) * 255)
            .clamp(0, 255)
            .round()
            .to(torch.uint8)
            .movedim(-3, -1)
            for key in self.encoder.image_keys
        }

    def reconstruct_vectors(self, feat: Tensor) -> dict[str, Tensor]:
        """Decoded vectors in the environment's own units; the action mask is none. feat (..., F) -> {key: (..., V)}."""
        keys = [key for key in self.encoder.vector_keys if key != self.mask_key and module_name(key) in self.heads]
        return {key: self.in_units(key, self.heads[module_name(key)](feat).float()) for key in keys}

    def in_units(self, key: str, value: Tensor) -> Tensor:
        """A decoded vector (..., V) in the environment's own units; choices are probabilities."""
        if key in self.choice_keys:
            return value
        if module_name(key) in self.standardizers:
            return cast(Standardizer, self.standardizers[module_name(key)]).undo(value)
        return symexp(value) if self.vector_transform == "symlog" else value


def features_for(head: Head, feat: Tensor) -> Tensor:
    """As a tensor, unless the head takes z as indices (`Head.indexed`, not inherited). feat (..., F) -> (..., F)."""
    if isinstance(feat, Tensor) or vars(type(head)).get("indexed", False):
        return feat
    return feat.dense()


def to_batch(batch: Batch, device: torch.device | str = "cpu") -> Batch:
    """A replay's arrays as tensors on a device; images stay uint8. Batch of (B, T, ...) -> Batch."""
    cuda = torch.device(device).type == "cuda"

    def move(value: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(value)
        return (tensor.pin_memory() if cuda else tensor).to(device, non_blocking=True)  # pinned: no wait

    return batch.map(move)
