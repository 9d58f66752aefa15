"""From settings and a task's description to modules. Used by training and by playing; the modules see plain numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .actor_critic import Actor, Critic
from .config import Config
from .envs.spaces import Spec
from .networks import (
    ContinuePredictor,
    ConvDecoder,
    Head,
    ObservationEncoder,
    RewardPredictor,
    VectorDecoder,
    module_name,
)
from .rssm import DiscreteRSSM, GaussianLatent, Latent
from .world_model import WorldModel


def build_world_model(config: Config, spec: Spec) -> WorldModel:
    """Encoder, RSSM and one head per observation, reward and continue."""
    model = config.model
    dense: dict[str, Any] = {"hidden_dim": model.hidden_dim, "norm": model.norm, "activation": model.activation}
    encoder = ObservationEncoder(
        spec.images,
        spec.vectors,
        embed_dim=model.embed_dim,
        depth=model.cnn_depth,
        layers=model.layers,
        conv_norm=model.conv_norm,
        **dense,
    )
    latent: Latent | None = GaussianLatent(model.gaussian_dim) if model.latents == "gaussian" else None
    rssm = DiscreteRSSM(
        spec.action.size,
        encoder.output_dim,
        num_categoricals=model.num_categoricals,
        num_categories=model.num_categories,
        rnn_hidden_dim=model.rnn_hidden_dim,
        gru_norm=model.gru_norm,
        latent=latent,
        **dense,
    )
    heads, scales = _heads(config, spec, rssm.feat_dim, {"layers": model.layers, **dense})
    kl = {"mode": model.kl_mode, "kl_balance": model.kl_balance, "free_nats": model.free_nats}
    return WorldModel(
        encoder,
        rssm,
        heads,
        scales=scales,
        kl_scale=model.kl_scale,
        kl=kl | {"free_avg": model.free_avg},
        vector_transform=model.vector_transform,
    )


def _heads(config: Config, spec: Spec, feat_dim: int, mlp: dict[str, Any]) -> tuple[dict[str, Head], dict[str, float]]:
    model = config.model
    heads: dict[str, Head] = {}
    for key, shape in spec.images.items():
        heads[module_name(key)] = ConvDecoder(
            feat_dim,
            shape,
            target=module_name(key),
            depth=model.cnn_depth,
            norm=model.conv_norm,
            activation=model.activation,
            kernels=model.decoder_kernels,
        )
    for key, size in spec.vectors.items():
        heads[module_name(key)] = VectorDecoder(feat_dim, size, target=module_name(key), **mlp)
    scales = dict.fromkeys(map(module_name, spec.images), model.image_scale)
    scales |= dict.fromkeys(map(module_name, spec.vectors), model.vector_scale)
    heads["reward"], scales["reward"] = (
        RewardPredictor(feat_dim, transform=model.reward_transform, **mlp),
        model.reward_scale,
    )
    if model.predict_continue:
        heads["continue"], scales["continue"] = ContinuePredictor(feat_dim, **mlp), model.continue_scale
    return heads, scales


def build_actor(config: Config, spec: Spec, feat_dim: int) -> Actor:
    """The policy that fits the task's actions, or the one that was asked for."""
    policy = config.behavior.policy
    if policy == "auto":
        policy = "onehot" if spec.action.kind == "discrete" else "trunc_normal"
    return Actor(feat_dim, spec.action.size, policy=policy, **_behavior_mlp(config))


def build_critic(config: Config, feat_dim: int) -> Critic:
    """The value network."""
    return Critic(feat_dim, **_behavior_mlp(config))


def _behavior_mlp(config: Config) -> dict[str, Any]:
    return {
        "layers": config.behavior.actor_critic_layers,
        "hidden_dim": config.model.hidden_dim,
        "norm": config.model.norm,
        "activation": config.model.activation,
    }


def pick_device(name: str) -> torch.device:
    """'auto' is CUDA where there is one. Raises RuntimeError (torch's) for a device that does not exist."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def count_parameters(module: nn.Module) -> int:
    """Trainable numbers in a module."""
    return sum(p.numel() for p in module.parameters())
