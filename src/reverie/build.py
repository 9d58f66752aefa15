"""From settings and a task's description to modules. Used by training and by playing; the modules see plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .actor_critic import Actor, Critic
from .behavior import Behavior, RewardSource, imitation_loss
from .config import Config
from .distributions import Part
from .envs.spaces import MASK, Spec
from .errors import UserError
from .extensions.cloning import Cloning
from .extensions.director import GoalActor, GoalAutoencoder, Hierarchy, Judge
from .extensions.ensemble import Ensemble, OneStepEnsemble, PriorEnsemble
from .extensions.explore import DisagreementReward, PenalizedReward
from .extensions.overshooting import Overshooting
from .extensions.own import OwnModules
from .latents import LATENTS
from .layers import MLP, MLPOptions, Norm
from .networks import (
    CategoricalDecoder,
    ContinuePredictor,
    ConvDecoder,
    Head,
    MaskPredictor,
    RewardPredictor,
    SharedVectorDecoder,
    VectorDecoder,
    deconv_size,
)
from .observations import ObservationEncoder, module_name
from .rssm import DiscreteRSSM
from .world_model import WorldModel

if TYPE_CHECKING:
    from .optim import Optimizers


def build_world_model(config: Config, spec: Spec) -> WorldModel:
    """Encoder, RSSM and one head per observation, reward and continue."""
    model = config.model
    _check_images(config, spec)
    mlp = MLPOptions(model.layers, model.hidden_dim, _norm(config, model.norm), model.activation)
    own = OwnModules(model.own_modules)
    encoder = own.encoder(spec.images, spec.vectors) or ObservationEncoder(
        spec.images,
        spec.vectors,
        embed_dim=model.embed_dim,
        depth=model.cnn_depth,
        conv_norm=_norm(config, model.conv_norm),
        conv_activation=_conv_activation(config),
        mlp=mlp,
    )
    rssm = DiscreteRSSM(
        spec.action.size,
        encoder.output_dim,
        rnn_hidden_dim=model.rnn_hidden_dim,
        cell=model.recurrent_cell,
        gru_norm=_norm(config, model.gru_norm),
        latent=own.latent() or LATENTS[model.latents](vars(model)),
        hidden_dim=model.rssm_hidden_dim or model.hidden_dim,
        norm=mlp.norm,
        activation=mlp.activation,
    )
    heads, scales = _heads(config, spec, rssm.feat_dim, mlp)
    heads = own.heads(heads, rssm.feat_dim)
    kl = {
        "mode": model.kl_mode,
        "kl_balance": model.kl_balance,
        "dyn_scale": model.dyn_scale,
        "rep_scale": model.rep_scale,
        "free_nats": model.free_nats,
        "free_avg": model.free_avg,
    }
    return WorldModel(
        encoder,
        rssm,
        heads,
        scales=scales,
        kl_scale=model.kl_scale,
        kl=kl,
        vector_transform=model.vector_transform,
        detached_heads=model.detached_heads,
        reward_unit=model.reward_unit,
        mask_key=MASK if spec.masked else "",
        choice_keys=_choice_keys(config, spec),
        beyond=_build_overshooting(config),
    )


def _build_overshooting(config: Config) -> Overshooting | None:
    """Losses several steps ahead; None: off."""
    model = config.model
    if not (model.overshooting or model.open_loop_heads):
        return None
    return Overshooting(
        kl_weight=model.overshooting,
        head_weight=model.open_loop_heads,
        depth=model.overshooting_depth,
        starts=model.overshooting_starts,
        growth=model.overshooting_growth,
        decay=model.overshooting_decay,
        start_grad=model.overshooting_start_grad,
        free_nats=model.free_nats,
        free_avg=model.free_avg,
    )


def _choice_keys(config: Config, spec: Spec) -> list[str]:
    """The discrete observations that are predicted as what they are."""
    if config.model.discrete_decoder == "gaussian":
        return []
    return [key for key, item in spec.obs.items() if item.kind == "discrete"]


def _norm(config: Config, on: bool) -> Norm:
    return config.model.norm_kind if on else False


def _conv_activation(config: Config) -> str:
    model = config.model
    return model.activation if model.conv_activation == "same" else model.conv_activation


def _check_images(config: Config, spec: Spec) -> None:
    """UserError for images that the convolutions cannot take, by name."""
    for key, (_, height, width) in spec.images.items():
        if min(height, width) < 4:
            raise UserError(
                f"image observation '{key}' has {height}x{width} pixels, at least 4x4 are needed.",
                "Set env.image_size, or give it as a float vector.",
            )
        kernels = config.model.decoder_kernels
        reached = deconv_size(kernels)
        if kernels and (height, width) != (reached, reached):
            raise UserError(
                f"model.decoder_kernels {kernels} make {reached}x{reached} images, '{key}' has {height}x{width}.",
                "Leave them empty for a decoder that fits any size, or set env.image_size.",
            )


def _heads(config: Config, spec: Spec, feat_dim: int, mlp: MLPOptions) -> tuple[dict[str, Head], dict[str, float]]:
    model = config.model
    heads: dict[str, Head] = {}
    for key, shape in spec.images.items():
        heads[module_name(key)] = ConvDecoder(
            feat_dim,
            shape,
            target=module_name(key),
            depth=model.cnn_depth,
            norm=_norm(config, model.conv_norm),
            activation=_conv_activation(config),
            kernels=model.decoder_kernels,
        )
    heads |= _vector_heads(config, spec, feat_dim, mlp)
    scales = dict.fromkeys(map(module_name, spec.images), model.image_scale)
    scales |= dict.fromkeys(map(module_name, spec.vectors), model.vector_scale)
    scales |= dict.fromkeys(map(module_name, _choice_keys(config, spec)), 1.0)  # in nats, as the KL
    heads["reward"], scales["reward"] = (
        RewardPredictor(
            feat_dim,
            transform=model.reward_transform,
            distribution=model.reward_distribution,
            zero_init=model.zero_init,
            mlp=mlp,
        ),
        model.reward_scale,
    )
    if model.predict_continue:
        discount = config.behavior.gamma if model.continue_target == "discounted" else 1.0
        heads["continue"] = ContinuePredictor(feat_dim, discount=discount, mlp=mlp)
        scales["continue"] = model.continue_scale
    return heads, scales


def _vector_heads(config: Config, spec: Spec, feat_dim: int, mlp: MLPOptions) -> dict[str, Head]:
    """A decoder for each vector observation, and one for the action mask."""
    heads: dict[str, Head] = {}
    choices = _choice_keys(config, spec)
    plain = [key for key in spec.vectors if spec.obs[key].kind != "mask" and key not in choices]
    shared = config.model.vector_decoder == "shared" and len(plain) > 1  # of one key it is the same network
    trunk = MLP(feat_dim, None, mlp) if shared else None
    for key, size in spec.vectors.items():
        name = module_name(key)
        if key in choices:
            heads[name] = CategoricalDecoder(feat_dim, spec.obs[key].choices, target=name, mlp=mlp)
        elif key not in plain:
            heads[name] = MaskPredictor(feat_dim, action_parts(config, spec), target=name, mlp=mlp)
        elif trunk is not None:
            heads[name] = SharedVectorDecoder(trunk, size, target=name, keeps=key == plain[0])
        else:
            heads[name] = VectorDecoder(feat_dim, size, target=name, mlp=mlp)
    return heads


def build_actor(config: Config, spec: Spec, feat_dim: int) -> Actor:
    """The policy that fits the task's actions, or the one that was asked for."""
    parts, unimix = action_parts(config, spec), config.behavior.policy_unimix
    mlp, zero = _behavior_mlp(config), config.behavior.zero_policy
    options = config.hierarchy
    if not options.goal_every:
        return Actor(feat_dim, spec.action.size, parts=parts, unimix=unimix, mlp=mlp, zero_init=zero)
    size, norm = config.model.rnn_hidden_dim, _norm(config, config.model.norm)
    goals = GoalAutoencoder(
        size,
        variables=options.goal_variables,
        classes=options.goal_classes,
        mlp=MLPOptions(options.goal_layers, options.goal_dim, norm, config.model.activation),
    )
    return GoalActor(
        feat_dim,
        spec.action.size,
        goals=goals,
        deter_dim=size,
        every=options.goal_every,
        parts=parts,
        unimix=unimix,
        mlp=mlp,
        zero_init=zero,
    )


def action_parts(config: Config, spec: Spec) -> list[Part]:
    """Which distribution describes which stretch of the action: one-hots for choices, `behavior.policy` for numbers.

    Raises UserError for a policy that does not fit.
    """
    wanted = config.behavior.policy
    numbers: str = "trunc_normal" if wanted == "auto" else wanted
    misfit = {"onehot": "box"}.get(wanted, "discrete")
    if wanted != "auto" and spec.action.kind == misfit:
        raise UserError(
            f"behavior.policy={wanted} does not fit the actions of the task: {spec.action.describe()}.",
            "Set behavior.policy=auto.",
        )
    if wanted == "onehot":
        numbers = "trunc_normal"
    if numbers == "trunc_normal" and config.behavior.sample_grad == "released":
        numbers = "trunc_normal_released"
    return [
        Part("onehot" if group.kind == "onehot" else numbers, group.size, group.copies) for group in spec.action.groups
    ]


def build_hierarchy(config: Config, spec: Spec, world_model: WorldModel) -> Hierarchy:
    """Manager and worker, as the behaviour of the task."""
    options, rssm = config.hierarchy, world_model.rssm
    actor = build_actor(config, spec, rssm.feat_dim)

    def judge(size: int) -> Judge:
        return Judge(build_critic(config, size), build_critic(config, size))

    return Hierarchy(
        world_model,
        actor,
        build_critic(config, rssm.feat_dim),
        build_critic(config, rssm.feat_dim),
        config.behavior,
        actor_grad=_actor_grad(config, spec),
        is_choice=torch.from_numpy(spec.action.is_choice),
        novelty=judge(rssm.feat_dim),
        reach=judge(rssm.feat_dim + rssm.rnn_hidden_dim),
        windows=options.windows,
        task_weight=options.task_weight,
        novelty_weight=options.novelty_weight,
        manager_entropy=options.manager_entropy,
        worker_entropy=options.worker_entropy,
        kl_target=options.goal_kl,
    )


def build_critic(config: Config, feat_dim: int) -> Critic:
    """The value network."""
    return Critic(
        feat_dim,
        zero_init=config.model.zero_init,
        distribution=config.behavior.critic_distribution,
        transform=config.behavior.critic_transform,
        mlp=_behavior_mlp(config),
    )


def build_ensemble(config: Config, spec: Spec, world_model: WorldModel) -> Ensemble | None:
    """The ensemble, with weights from a generator of its own: the rest of the agent is as without. None: off."""
    options, rssm = config.ensemble, world_model.rssm
    if not options.members:
        return None
    common: dict[str, Any] = {
        "members": options.members,
        "layers": options.member_layers,
        "hidden_dim": options.member_dim,
        "norm": options.member_norm,
        "activation": config.model.activation,
        "bootstrap": options.bootstrap,
        "generator": torch.Generator().manual_seed(config.train.seed + 7),
    }
    if options.kind == "one_step":
        return OneStepEnsemble(rssm.feat_dim, spec.action.size, rssm.latent.stoch_dim, **common)
    return PriorEnsemble(rssm.latent, rssm.rnn_hidden_dim, measure=options.measure, **common)


def build_cloning(config: Config, spec: Spec, world_model: WorldModel) -> Cloning | None:
    """The actor that only imitates; None: off."""
    if not config.behavior.cloning:
        return None
    return Cloning(build_actor(config, spec, world_model.rssm.feat_dim), world_model.mask_key, imitation_loss)


def build_behaviors(
    config: Config, spec: Spec, world_model: WorldModel, ensemble: Ensemble | None = None
) -> list[Behavior]:
    """The behaviours that an agent learns; the first is the task's."""
    behavior, options = config.behavior, config.ensemble
    if config.hierarchy.goal_every:
        return [build_hierarchy(config, spec, world_model)]
    if ensemble is None:
        return [build_behavior(config, spec, world_model)]
    penalty: RewardSource | None = None
    if behavior.uncertainty_penalty:
        penalty = PenalizedReward(ensemble, weight=behavior.uncertainty_penalty, reward_index=behavior.reward_index)
    if behavior.explore == "none":
        return [build_behavior(config, spec, world_model, reward=penalty)]
    learns, share = options.collect == "explore", options.start_share
    rest = 1 - share if learns and share < 1 else 1.0
    curiosity = DisagreementReward(
        ensemble,
        reward_index=behavior.reward_index,
        intrinsic=options.intrinsic_weight,
        extrinsic=options.extrinsic_weight,
        momentum=options.reward_momentum,
    )
    # Its rewards are never negative and change their meaning from update to update, so its critic is always late:
    # advantages are centred, and divided by the range of returns. No one weight of the entropy fits early and late.
    bold = replace(
        behavior,
        entropy_scale=1e-4,  # at least; the released code's weight
        entropy_final=1e-4,
        entropy_decay=0,
        entropy_target=options.explore_entropy,
        entropy_target_final=options.explore_entropy,
        bc_scale=0.0,
        zero_policy=True,
        advantage_center="depth",
        return_norm="percentile",
    )
    return [
        build_behavior(config, spec, world_model, reward=penalty, share=rest),
        build_behavior(
            replace(config, behavior=bold),
            spec,
            world_model,
            prefix="explore_",
            reward=curiosity,
            share=share,
            learns=learns,
        ),
    ]


def build_behavior(
    config: Config,
    spec: Spec,
    world_model: WorldModel,
    *,
    prefix: str = "",
    reward: RewardSource | None = None,
    share: float = 1.0,
    learns: bool = True,
) -> Behavior:
    """A behaviour with networks of its own, whose names begin with `prefix`; the rest as `Behavior` takes it."""
    feat_dim = world_model.rssm.feat_dim
    return Behavior(
        world_model,
        build_actor(config, spec, feat_dim),
        build_critic(config, feat_dim),
        build_critic(config, feat_dim),
        config.behavior,
        actor_grad=_actor_grad(config, spec),
        is_choice=torch.from_numpy(spec.action.is_choice),
        prefix=prefix,
        share=share,
        reward=reward,
        learns=learns,
    )


def _actor_grad(config: Config, spec: Spec) -> str:
    """`behavior.actor_grad`; auto: what fits the actions."""
    fits = {"discrete": "reinforce", "box": "dynamics", "mixed": "per_part"}
    return fits[spec.action.kind] if config.behavior.actor_grad == "auto" else config.behavior.actor_grad


def _behavior_mlp(config: Config) -> MLPOptions:
    norm = _norm(config, config.model.norm)
    return MLPOptions(config.behavior.actor_critic_layers, config.model.hidden_dim, norm, config.model.activation)


def build_optimizers(config: Config, modules: Mapping[str, nn.Module], *, on_device: bool = False) -> Optimizers:
    """An optimizer for each of {"world_model", "ensemble", "goals", "cloning", "actor", ...}, whatever their prefix.

    on_device: for a captured CUDA graph.
    """
    from .optim import Optimizer, Optimizers  # a player that only acts does without

    train = config.train
    rates = {
        "world_model": config.model.world_model_lr,
        "actor": config.behavior.actor_lr,
        "critic": config.behavior.critic_lr,
        "ensemble": config.ensemble.ensemble_lr,
        "cloning": config.behavior.actor_lr,
        "goals": config.hierarchy.goal_lr,
        "manager": config.behavior.actor_lr,
        "novelty_critic": config.behavior.critic_lr,
        "reach_critic": config.behavior.critic_lr,
    }
    return Optimizers(
        {
            name: Optimizer(
                module.parameters(),
                lr=rates[name.removeprefix("explore_")],
                kind=train.optimizer,
                beta2=train.adam_beta2,
                eps=train.adam_eps,
                eps_mode=train.adam_eps_mode,
                weight_decay=train.weight_decay,
                weight_decay_mode=train.weight_decay_mode,
                warmup=train.lr_warmup,
                decay=train.lr_decay,
                clip=train.grad_clip,
                adaptive_clip=train.agc,
                on_device=on_device,
            )
            for name, module in modules.items()
        }
    )


def pick_device(name: str) -> torch.device:
    """'auto' is CUDA where there is one. Raises UserError for a device that does not exist."""
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        device = torch.device(chosen)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch reports a missing CUDA build by an AssertionError
        reason = str(error).splitlines()[0]
        raise UserError(f"compute.device '{name}' cannot be used ({reason}).", "Use auto or cpu.") from error
    return device


def require_device(name: str) -> torch.device:
    """The device of `pick_device`, if it computes: torch's "meta" has shapes alone. Raises UserError."""
    device = pick_device(name)
    if device.type == "meta":
        raise UserError(f"compute.device '{name}' cannot be used (torch computes nothing there).", "Use auto or cpu.")
    return device


def count_parameters(module: nn.Module) -> int:
    """Trainable numbers in a module."""
    return sum(p.numel() for p in module.parameters())
