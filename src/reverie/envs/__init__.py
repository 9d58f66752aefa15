"""Environments: `make_env` turns an id, an instance or a callable into a Gymnasium environment for the agent.

A family is one file in this folder, found by its name: "MiniGrid-..." -> minigrid.py, which has `make(id, actions=,
render_mode=)`, PACKAGE, EXAMPLE and NOTE. Any other id goes to `gymnasium.make`. No torch in here: this code also
runs in worker processes.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from ..errors import UserError
from .spaces import ActionSpec, AgentView, ObsKey, Spec, make_spec
from .wrappers import ActionRepeat

__all__ = ["ActionSpec", "AgentView", "EnvLike", "ObsKey", "Spec", "families", "make_env", "make_spec", "make_vector"]

EnvLike = str | gym.Env | Callable[[], gym.Env]
_NOT_FAMILIES = {"__init__", "images", "spaces", "wrappers"}


def families() -> dict[str, ModuleType]:
    """{name: module} of every family file in this folder."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _NOT_FAMILIES)
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


def _family(env_id: str) -> ModuleType | None:
    name = re.split(r"[-/:]", env_id)[0].lower()
    return families().get(name)


def make_env(
    env: EnvLike,
    *,
    actions: str = "full",
    pixels: bool = False,
    action_repeat: int = 1,
    time_limit: int = 0,
) -> gym.Env:
    """A Gymnasium environment from an id, an instance or a callable that makes one, wrapped as asked.

    Its spaces are its own: `AgentView` (for training) and `Player` turn observations and actions into the agent's,
    images resized and made grey there. Raises UserError for anything that is missing.
    """
    made = _from_id(env, actions) if isinstance(env, str) else env() if callable(env) else env
    if not isinstance(made, gym.Env):
        raise UserError(
            f"expected a gymnasium.Env, got {type(made).__module__}.{type(made).__name__}.",
            "Pass an id, a gymnasium.Env or a function that returns one.",
        )
    if action_repeat > 1:
        made = ActionRepeat(made, action_repeat)
    if time_limit:
        made = gym.wrappers.TimeLimit(made, time_limit)
    if pixels:
        made = _render_observation(made)
    return made


def _from_id(env_id: str, actions: str) -> gym.Env:
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a display
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if not env_id:
        raise UserError("no environment is given.", "Add --env, e.g. --env MiniGrid-Empty-Random-6x6-v0.")
    if env_id.startswith("custom:"):
        raise UserError(
            f"'{env_id}' is a custom environment, which cannot be made from its name.",
            "Pass it: reverie.load(path, env=your_function).",
        )
    family = _family(env_id)
    try:
        if family is None:
            return _from_gymnasium(env_id)
        return family.make(env_id, actions=actions, render_mode="rgb_array")
    except (ModuleNotFoundError, gym.error.DependencyNotInstalled) as error:
        hint = f"pip install {family.PACKAGE}" if family else "Install that package."
        raise UserError(f"'{env_id}' needs a package that is not installed ({error}).", hint) from error
    except gym.error.Error as error:
        raise UserError(
            f"Gymnasium cannot make '{env_id}': {error}", "`reverie envs` lists the families and their packages."
        ) from error


def _from_gymnasium(env_id: str) -> gym.Env:
    try:
        return gym.make(env_id, render_mode="rgb_array")
    except TypeError as error:  # an environment that cannot draw itself need not know the argument
        if "render_mode" not in str(error):
            raise
        return gym.make(env_id)


def _render_observation(env: gym.Env) -> gym.Env:
    if env.render_mode != "rgb_array":
        raise UserError(
            "env.pixels needs an environment with render_mode='rgb_array'.",
            "Create the environment with gymnasium.make(id, render_mode='rgb_array').",
        )
    try:
        return gym.wrappers.AddRenderObservation(env, render_only=True)
    except gym.error.DependencyNotInstalled as error:
        raise UserError(f"the environment cannot draw itself ({error}).", "Install that package.") from error


def make_vector(
    env: EnvLike,
    count: int,
    *,
    backend: str = "sync",
    image_size: int = 0,
    grayscale: bool = False,
    **options: Any,
) -> VectorEnv:
    """`count` environments stepped together, as the agent sees them (`AgentView`).

    After the end of an episode the next step returns the first observation of the next one and ignores the action
    (Gymnasium's NEXT_STEP): the rows of the drawing in `replay.py`. Raises UserError.
    """
    if isinstance(env, gym.Env) and count > 1:
        raise UserError(
            f"one environment instance cannot be stepped as {count} environments.",
            "Pass a function that makes one, or set env.num_envs=1.",
        )

    def make_view(one: EnvLike) -> AgentView:
        return AgentView(make_env(one, **options), image_size=image_size, grayscale=grayscale)

    makers = [partial(make_view, env) for _ in range(count)]
    if backend == "async":
        return AsyncVectorEnv(makers, context="spawn" if isinstance(env, str) else None)
    return SyncVectorEnv(makers)


def installed(family: ModuleType) -> bool:
    """Is the family's package there?"""
    return importlib.util.find_spec(family.PACKAGE) is not None
