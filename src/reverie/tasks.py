"""From settings to environments."""

from __future__ import annotations

import copy
from typing import Any, cast

import gymnasium as gym
from gymnasium.vector import VectorEnv

from .config import Config
from .envs import EnvLike, make_vector
from .envs.spaces import Spec
from .errors import UserError


def options_of(config: Config) -> dict[str, Any]:
    """The keyword arguments of `make_env` from the settings."""
    names = ("actions", "pixels", "action_repeat", "time_limit")
    return {name: getattr(config.env, name) for name in names}


def make_envs(config: Config, env: EnvLike | None, count: int) -> VectorEnv:
    """`count` environments of the run's task."""
    source = config.env.id if env is None else env
    return make_vector(
        source,
        count,
        backend=config.env.backend,
        image_size=config.env.image_size,
        grayscale=config.env.grayscale,
        **options_of(config),
    )


def spec_of(envs: VectorEnv) -> Spec:
    """What the agent needs to know of the task that these environments pose."""
    return cast(Spec, cast(Any, envs).get_attr("agent_spec")[0])  # both vector classes have it


def twin(env: EnvLike | None) -> EnvLike | None:
    """An environment for evaluation beside the one that training uses."""
    if not isinstance(env, gym.Env):
        return env
    try:
        return copy.deepcopy(env)
    except Exception as error:
        raise UserError(
            f"the environment instance cannot be copied for evaluation ({error}).",
            "Pass a function that makes the environment instead of an instance.",
        ) from error
