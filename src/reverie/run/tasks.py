"""Environments of a run from its settings."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any, cast

import gymnasium as gym
from gymnasium.vector import VectorEnv

from ..config import Config
from ..envs import AgentView, EnvLike, make_env, make_request, make_vector, protocol_of
from ..envs.family import Request
from ..envs.spaces import Spec
from ..envs.vector.backend import time_step
from ..errors import UserError


def options_of(config: Config) -> dict[str, Any]:
    """The keyword arguments of `make_env` from the settings."""
    names = ("actions", "pixels", "action_repeat", "time_limit", "image_size", "grayscale", "options")
    return {name: getattr(config.env, name) for name in names}


def view_of(config: Config) -> dict[str, Any]:
    """The keyword arguments of `make_spec` from the settings: how the task is presented to the agent."""
    env = config.env
    return {
        "images": env.obs_images,
        "vectors": env.obs_vectors,
        "ignore": env.obs_ignore,
        "action_bound": env.action_bound,
        "action_mask": env.action_mask,
    }


def make_envs(config: Config, env: EnvLike | None, count: int, *, backend: str = "") -> VectorEnv:
    """`count` environments of the run's task; backend: other than `env.backend`. Raises UserError."""
    return make_vector(
        config.env.id if env is None else env,
        count,
        backend=backend or config.env.backend,
        timeout=config.env.worker_timeout,
        view=view_of(config),
        **options_of(config),
    )


def step_seconds(config: Config, env: EnvLike | None) -> float:
    """Seconds of a step of one environment, measured on one made for it; 0 if there can be no second one."""
    if isinstance(env, gym.Env):
        return 0.0
    source = config.env.id if env is None else env

    def make() -> AgentView:
        view = AgentView(make_env(source, **options_of(config)), **view_of(config))
        if config.log.video and view.render_mode == "rgb_array":
            with suppress(Exception):  # the memory that rendering loads belongs to the forecast
                view.reset()
                view.render()
        return view

    try:
        return time_step(make)
    except Exception:  # the run itself reports what is wrong with the task
        return 0.0


def repeat_of(config: Config) -> int:
    """How many frames an agent step has: as set, or as usual in the task's family."""
    return _request(config).repeat


def protocol_of_task(config: Config) -> str:
    """One line: every choice that a published score depends on."""
    limit = f", time limit {config.env.time_limit} steps" if config.env.time_limit else ""
    return protocol_of(_request(config)) + limit


def _request(config: Config) -> Request:
    return make_request(config.env.id, **options_of(config))


def spec_of(envs: VectorEnv) -> Spec:
    """The spec of the task: the observations and actions of these environments."""
    return cast(Spec, cast(Any, envs).get_attr("agent_spec")[0])  # both vector classes have it


def copy_env(env: EnvLike | None) -> EnvLike | None:
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
