"""For families whose tasks are Gymnasium's own: made by their id, with a picture instead of the state if asked."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym

from ..errors import UserError
from .family import FreeOptions, Request
from .wrappers import ActionRepeat


def make_plain(request: Request, **arguments: Any) -> gym.Env:
    """`gymnasium.make` with action repeat and, for request.pixels, the picture as observation. Raises UserError."""
    return finished(from_gymnasium(request.env_id, arguments | _asked(request)), request)


def plain_protocol(request: Request, **told: Any) -> str:
    """One line: how the task is seen and stepped."""
    seen = "its picture" if request.pixels else "its own observation"
    more = "".join(f", {name} {value}" for name, value in (told | _asked(request)).items())
    return f"{request.env_id}: {seen}, all actions, action repeat {request.repeat}{more}"


def _asked(request: Request) -> dict[str, Any]:
    return dict(request.options.arguments) if isinstance(request.options, FreeOptions) else {}


def from_gymnasium(env_id: str, arguments: dict[str, Any]) -> gym.Env:
    """`gymnasium.make`, able to draw if it can. Raises UserError for arguments that it does not take."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*render_mode.*", category=UserWarning
            )  # what cannot draw says so
            return gym.make(env_id, render_mode="rgb_array", **arguments)
    except TypeError as error:
        # An environment that cannot draw itself need not know the argument, or take any.
        if "argument 'render_mode'" in str(error) or "takes no arguments" in str(error):
            return gym.make(env_id, **arguments)
        raise UserError(f"'{env_id}' does not take env.options {arguments} ({error}).") from error


def finished(env: gym.Env, request: Request) -> gym.Env:
    """The repeat and the pictures."""
    made = ActionRepeat(env, request.repeat) if request.repeat > 1 else env
    return _pictured(made) if request.pixels else made


def _pictured(env: gym.Env) -> gym.Env:
    if env.render_mode != "rgb_array":
        raise UserError(
            "env.pixels needs an environment with render_mode='rgb_array'.",
            "Create the environment with gymnasium.make(id, render_mode='rgb_array').",
        )
    try:
        return gym.wrappers.AddRenderObservation(env, render_only=True)
    except gym.error.DependencyNotInstalled as error:
        raise UserError(f"the environment cannot draw itself ({error}).", "Install that package.") from error
