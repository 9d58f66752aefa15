"""Environments: `make_env` turns an id, an instance or a callable into a Gymnasium environment for the agent.

A family is one file in `families/`, found by the first word of the id: "MiniGrid-..." -> families/minigrid.py (see
`family.py`). Any other id goes to `gymnasium.make`. No torch in here: this code also runs in worker processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from ..errors import UserError
from .family import Request, all_families, family_of, free_options, installed, parse_options
from .spaces import ActionSpec, AgentView, ObsKey, Spec, make_spec
from .wrappers import ActionRepeat

__all__ = [
    "ActionSpec",
    "AgentView",
    "EnvLike",
    "ObsKey",
    "Spec",
    "families",
    "installed",
    "make_env",
    "make_request",
    "make_spec",
    "make_vector",
    "protocol_of",
]

EnvLike = str | gym.Env | Callable[[], gym.Env]


def make_env(
    env: EnvLike,
    *,
    actions: str = "full",
    pixels: bool = False,
    action_repeat: int = 1,
    time_limit: int = 0,
    image_size: int = 0,
    grayscale: bool = False,
    options: Sequence[str] = (),
) -> gym.Env:
    """A Gymnasium environment from an id, an instance or a callable that makes one, wrapped as asked.

    action_repeat 0 is what is usual in the family. Its spaces are its own: `AgentView` (for training) and `Player`
    turn observations and actions into the agent's, images resized and made grey there; image_size and grayscale only
    tell a family what it need not draw. Raises UserError for anything that is missing.
    """
    if isinstance(env, str):
        request = make_request(env, actions, pixels, action_repeat, time_limit, image_size, grayscale, options)
        made = _from_id(request, options)
    else:
        if options:
            raise UserError("env.options are for environments made from an id.", "Put them into your function.")
        made = env() if callable(env) else env
        made = _finished(made, Request("", pixels=pixels, repeat=max(1, action_repeat)))
    return gym.wrappers.TimeLimit(made, time_limit) if time_limit else made


def make_request(
    env_id: str,
    actions: str = "full",
    pixels: bool = False,
    action_repeat: int = 0,
    time_limit: int = 0,
    image_size: int = 0,
    grayscale: bool = False,
    options: Sequence[str] = (),
) -> Request:
    """What is asked of the id's family, its usual action repeat and its options filled in. Raises UserError."""
    family = family_of(env_id)
    repeat = action_repeat or (family.REPEAT if family else 1)
    chosen = parse_options(family, options) if family else None
    return Request(env_id, actions, pixels, repeat, image_size, grayscale, time_limit, chosen)


def protocol_of(request: Request) -> str:
    """One line: every choice that a published score depends on."""
    family = family_of(request.env_id)
    return family.protocol(request) if family else f"as Gymnasium makes it, action repeat {request.repeat}"


def _from_id(request: Request, options: Sequence[str]) -> gym.Env:
    env_id = request.env_id
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a display
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if not env_id:
        raise UserError("no environment is given.", "Add --env, e.g. --env MiniGrid-Empty-Random-6x6-v0.")
    if env_id.startswith("custom:"):
        raise UserError(
            f"'{env_id}' is a custom environment, which cannot be made from its name.",
            "Pass it: reverie.load(path, env=your_function).",
        )
    family = family_of(env_id)
    try:
        if family is None:
            return _finished(_from_gymnasium(env_id, free_options(options)), request)
        return family.make(request)
    except (ModuleNotFoundError, gym.error.DependencyNotInstalled) as error:
        hint = family.INSTALL if family else "Install that package."
        raise UserError(f"'{env_id}' needs a package that is not installed ({error}).", hint) from error
    except gym.error.Error as error:
        raise UserError(
            f"Gymnasium cannot make '{env_id}': {error}", "`reverie envs` lists the families and their packages."
        ) from error


def _finished(env: Any, request: Request) -> gym.Env:
    """A plain environment, with the repeat and the pictures that a family would care for itself."""
    if not isinstance(env, gym.Env):
        raise UserError(
            f"expected a gymnasium.Env, got {type(env).__module__}.{type(env).__name__}.",
            "Pass an id, a gymnasium.Env or a function that returns one.",
        )
    made = ActionRepeat(env, request.repeat) if request.repeat > 1 else env
    return _render_observation(made) if request.pixels else made


def _from_gymnasium(env_id: str, options: dict[str, Any]) -> gym.Env:
    try:
        return gym.make(env_id, render_mode="rgb_array", **options)
    except TypeError as error:
        if "render_mode" in str(error):  # an environment that cannot draw itself need not know the argument
            return gym.make(env_id, **options)
        raise UserError(f"'{env_id}' does not take env.options {options} ({error}).") from error


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
        made = make_env(one, image_size=image_size, grayscale=grayscale, **options)
        return AgentView(made, image_size=image_size, grayscale=grayscale)

    makers = [partial(make_view, env) for _ in range(count)]
    if backend == "async":
        return AsyncVectorEnv(makers, context="spawn" if isinstance(env, str) else None)
    return SyncVectorEnv(makers)
