"""sheeprl's DreamerV2, for `benchmarks/peers.py`: its own configuration, `build_agent` and `train`, unchanged."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import gymnasium as gym
import hydra
import numpy as np
import torch
from omegaconf import OmegaConf
from protocol import Contestant, Size, random_batches, random_images, serve
from sheeprl.algos.dreamer_v2 import dreamer_v2
from sheeprl.algos.dreamer_v2.agent import build_agent
from sheeprl.algos.dreamer_v2.utils import AGGREGATOR_KEYS, build_optimizer, prepare_obs
from sheeprl.utils.utils import dotdict
from torch import Tensor
from torch.distributions import Distribution


def configuration(size: Size, options: dict[str, Any]) -> Any:
    """Its experiment `dreamer_v2` (Atari) in these sizes, and with the discount head, which is off by default."""
    overrides = {
        "exp": "dreamer_v2",
        "env.id": "none",
        "env.num_envs": 1,
        "algo.dense_units": size.units,
        "algo.per_rank_batch_size": size.batch,
        "algo.per_rank_sequence_length": size.length,
        "algo.world_model.use_continues": True,
        "algo.world_model.encoder.cnn_channels_multiplier": size.cnn_depth,
        "algo.world_model.recurrent_model.recurrent_state_size": size.deter,
        "algo.world_model.transition_model.hidden_size": size.deter,
        "algo.world_model.representation_model.hidden_size": size.deter,
    }
    with hydra.initialize_config_module("sheeprl.configs", version_base="1.3"):
        config = hydra.compose("config", [f"{key}={value}" for key, value in (overrides | options).items()])
    return dotdict(OmegaConf.to_container(config, resolve=True))


def batch_of(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """As its replay hands it over: (T, B, ...), channels first, every entry float32 (`sample_batches`)."""
    named = {
        "rgb": np.moveaxis(arrays["image"], -1, 2),
        "actions": arrays["action"],
        "rewards": arrays["reward"][..., None],
        "is_first": arrays["is_first"][..., None],
        "terminated": arrays["is_terminal"][..., None],
    }
    return {key: torch.from_numpy(value).transpose(0, 1).contiguous().float() for key, value in named.items()}


class Trainer:
    """What its `main` keeps between updates, and the part of its loop that makes one."""

    def __init__(self, size: Size, options: dict[str, Any]) -> None:
        self.size, self.config, self.updates = size, configuration(size, options), 0
        Distribution.set_default_validate_args(self.config.distribution.validate_args)
        self.fabric = hydra.utils.instantiate(self.config.fabric, _convert_="all")
        height, width, channels = size.image
        space = gym.spaces.Dict({"rgb": gym.spaces.Box(0, 255, (channels, height, width), np.uint8)})
        *self.models, self.player = build_agent(self.fabric, (size.actions,), False, self.config, space)
        algo = self.config.algo
        world_model, actor, critic, _ = self.models
        self.optimizers = self.fabric.setup_optimizers(
            build_optimizer(algo.world_model.optimizer, world_model.parameters()),
            build_optimizer(algo.actor.optimizer, actor.parameters()),
            build_optimizer(algo.critic.optimizer, critic.parameters()),
        )
        metrics = self.config.metric.aggregator
        for key in set(metrics.metrics) - AGGREGATOR_KEYS:
            del metrics.metrics[key]
        self.aggregator = hydra.utils.instantiate(metrics, _convert_="all")
        self.batches = [batch_of(arrays) for arrays in random_batches(size)]

    def update(self, number: int) -> None:
        _, _, critic, target_critic = self.models
        if self.updates % self.config.algo.critic.per_rank_target_network_update_freq == 0:
            for online, target in zip(critic.module.parameters(), target_critic.module.parameters(), strict=True):
                target.data.copy_(online.data)
        batch = dict(self.batches[number])
        arguments = (self.fabric, *self.models, *self.optimizers, batch, self.aggregator, self.config)
        dreamer_v2.train(*arguments, (self.size.actions,))
        self.updates += 1

    def acting(self, count: int) -> Callable[[bool], Any]:
        images = {"rgb": np.moveaxis(random_images(self.size, count), -1, 1)}
        return lambda first: self.policy(images, count, first)

    @torch.inference_mode()
    def policy(self, images: dict[str, np.ndarray], count: int, first: bool) -> tuple[np.ndarray, np.ndarray]:
        """Its player serves as many environments as it is told to, with one state of that size at a time."""
        if first or self.player.num_envs != count:
            self.player.num_envs = count
            self.player.init_states()
        obs = prepare_obs(self.fabric, images, cnn_keys=["rgb"], num_envs=count)
        actions = self.player.get_actions(obs)
        return torch.cat(actions, -1).view(count, -1).cpu().numpy(), actions[0].argmax(dim=-1).cpu().numpy()

    def parameters(self) -> int:
        return sum(p.numel() for model in self.models for p in model.parameters())


def make(size: Size, options: dict[str, Any]) -> Contestant:
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    torch.manual_seed(0)
    trainer = Trainer(size, options)
    return Contestant(
        update=trainer.update,
        acting=trainer.acting,
        parameters=trainer.parameters,
        version=f"sheeprl {version('sheeprl')}, torch {torch.__version__}",
        differences=[
            "use_continues is switched on, else it has no discount head",
            "its replay makes images float32 before an update: not in its times, but in those of the others",
            "float32_matmul_precision stays highest, its command line sets high",
        ],
    )


if __name__ == "__main__":
    serve(make)
