"""Environments of a run from its settings."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any, cast

import numpy as np
from gymnasium.vector import VectorEnv

from ..config import Config
from ..envs import AgentView, EnvLike, is_instance, make_env, make_request, make_vector, protocol_of
from ..envs.border import pass_on
from ..envs.family import Request
from ..envs.spaces import MASK, Spec
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
    usual = config.env.backend
    if config.env.async_collect and usual == "auto" and not is_instance(env):
        usual = "async"  # in processes of their own they hold nothing up, and may draw in the thread that made them
    return make_vector(
        config.env.id if env is None else env,
        count,
        backend=backend or usual,
        timeout=config.env.worker_timeout,
        view=view_of(config),
        **options_of(config),
    )


def step_seconds(config: Config, env: EnvLike | None) -> float:
    """Seconds of a step of one environment, measured on one made for it; 0 if there can be no second one."""
    if is_instance(env):
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
    """An environment for evaluation beside the one that training uses.

    A copy is never closed: what it holds, a simulator or a window, may be the caller's own.
    """
    if not is_instance(env):
        return env
    try:
        return copy.deepcopy(env)
    except BaseException as error:
        pass_on(error)
        raise UserError(
            f"the environment instance cannot be copied for evaluation ({error}).",
            "Pass a function that makes the environment instead of an instance.",
        ) from error


def require_copies_apart(config: Config, env: EnvLike | None) -> None:
    """Raises UserError for an instance whose copies are one simulator: evaluation would step the training's episode.

    So it is with a number of a simulator elsewhere, a socket, a C library. The instance itself is not stepped.
    """
    if not is_instance(env):
        return
    views = [_view_of_copy(config, env) for _ in range(2)]
    try:
        alone, again = _trace(views[0]), _trace(views[0])
        shared = alone == again and _trace(views[0], views[1]) != alone
    except Exception:  # the run itself reports what is wrong with the task
        return
    if shared:
        raise UserError(
            "copies of the environment instance are not independent: stepping one changes the other.",
            "Pass a function that makes the environment, each with a simulator of its own, instead of an instance.",
        )


def _view_of_copy(config: Config, env: EnvLike | None) -> AgentView:
    return AgentView(make_env(copy_env(env) or "", **options_of(config)), **view_of(config))


def _trace(view: AgentView, other: AgentView | None = None, *, steps: int = 3) -> list[bytes]:
    """The first observations of one seed under fixed actions. other: is reset and stepped in between."""
    rng, found = np.random.default_rng(0), []
    obs, _ = view.reset(seed=1)
    for _ in range(steps):
        found += [np.ascontiguousarray(value).tobytes() for value in obs.values()]
        action = view.agent_spec.action.random(rng, 1, obs[MASK][None] if MASK in obs else None)[0]
        if other is not None:
            other.reset(seed=2)
            other.step(action)
        obs, reward, terminated, truncated, _ = view.step(action)
        found.append(np.float64(reward).tobytes())
        if terminated or truncated:
            break
    return found
