"""Record episodes of an environment as a data set: played by a trained agent, or at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import checkpoint
from ..config import Config, build
from ..data.collect import Collector
from ..envs import EnvLike
from ..envs.names import maker_of
from ..envs.spaces import MASK, Spec
from ..player import Player
from ..run.data_set import Rows, write_data
from ..run.tasks import make_envs, spec_of
from .export import read_policy

Act = Callable[[dict[str, np.ndarray], np.ndarray], np.ndarray]


def config_of(env: str, agent: Path | None = None, settings: Mapping[str, Any] | None = None) -> Config:
    """Settings of the task: those that an agent was trained with, or the defaults. Raises UserError."""
    base = None if agent is None else checkpoint.read_agent(checkpoint.find_agent(agent))[0]
    chosen = {"env.id": env, "env.num_envs": 1, **(settings or {})}
    return build(chosen, base=base, where="setting") if base else build(chosen)


def spec_of_env(env: str, settings: Mapping[str, Any] | None = None) -> Spec:
    """The spec of a task by its name. Raises UserError."""
    with closing(make_envs(config_of(env, None, settings), maker_of(env), 1, backend="sync")) as envs:
        return spec_of(envs)


def player_of(agent: Path, *, mode: str, seed: int) -> Player:
    """A player of one environment, in the agent's own terms. Raises UserError."""
    _, spec, world_model, actor = read_policy(agent)
    return Player(world_model, actor, spec, num_envs=1, mode=mode, seed=seed)


def record(
    config: Config,
    env: EnvLike | None,
    path: Path,
    *,
    episodes: int,
    player: Player | None = None,
    seed: int = 0,
    noise: float = 0.0,
) -> dict[str, Any]:
    """Play whole episodes and write them. -> what data.json says. Raises UserError.

    player: a `Player` of one environment, None for random actions. noise: share of random actions beside the player's.
    """
    rng = np.random.default_rng(seed)
    with ExitStack() as stack:
        envs = make_envs(config, env, 1, backend="sync")
        stack.callback(envs.close)
        spec = spec_of(envs)
        if player is not None:
            player.spec.require_same_task(spec)

        def act(obs: dict[str, np.ndarray], first: np.ndarray) -> np.ndarray:
            random = spec.action.random(rng, 1, obs.get(MASK))
            if player is None:
                return random
            chosen = player.act(obs, first)
            if not noise or rng.random() >= noise:
                return chosen
            player.action = torch.from_numpy(random).to(player.device)  # what led to the next observation
            return random

        about = {
            "source": f"record {config.env.id}",
            "env": config.env.id,
            "policy": "random" if player is None else "agent",
            "noise": noise,
            "seed": seed,
        }
        return write_data(path, spec, _episodes(Collector(envs, seed=seed), act, episodes), about)


def _episodes(collector: Collector, act: Act, count: int) -> Iterator[Rows]:
    rows: list[Rows] = []
    for row, ended in collector.rows(act):
        rows.append({key: value[0] for key, value in row.items()})
        if ended:
            yield {key: np.stack([one[key] for one in rows]) for key in rows[0]}
            rows, count = [], count - 1
            if not count:
                return
