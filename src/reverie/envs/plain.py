"""Building blocks for families whose tasks are registered with Gymnasium: `make` by id, images as observations."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym

from ..errors import UserError
from .border import describe_error, pass_on
from .family import FreeOptions, Request
from .wrappers import ActionRepeat

#: Gymnasium's own checks of the first step raise before the border can say what is wrong.
WITHOUT_CHECKER = {"disable_env_checker": True}


def make_plain(request: Request, **arguments: Any) -> gym.Env:
    """`gymnasium.make` with action repeat and, for request.pixels, images as observations. Raises UserError."""
    return wrap_as_requested(from_gymnasium(request.env_id, arguments | _env_options(request)), request)


def plain_protocol(request: Request, **added: Any) -> str:
    """One line: what is observed, the action repeat, and the options. added: further items for the line."""
    seen = "its image" if request.pixels else "its own observation"
    more = "".join(f", {name} {value}" for name, value in (added | _env_options(request)).items())
    return f"{request.env_id}: {seen}, all actions, action repeat {request.repeat}{more}"


def _env_options(request: Request) -> dict[str, Any]:
    return dict(request.options.arguments) if isinstance(request.options, FreeOptions) else {}


def from_gymnasium(env_id: str, arguments: dict[str, Any]) -> gym.Env:
    """`gymnasium.make`, with render_mode rgb_array if possible. Raises UserError for unknown arguments."""
    try:
        with warnings.catch_warnings():
            # A task that cannot draw warns about render_mode.
            warnings.filterwarnings("ignore", message=".*render_mode.*", category=UserWarning)
            return gym.make(env_id, render_mode="rgb_array", **WITHOUT_CHECKER | arguments)
    except TypeError as error:
        # An environment that cannot draw need not accept the argument, or any argument.
        if "argument 'render_mode'" in str(error) or "takes no arguments" in str(error):
            return gym.make(env_id, **WITHOUT_CHECKER | arguments)
        raise UserError(
            f"'{env_id}' does not take env.options {arguments} ({error}).", "Correct the names, or leave them out."
        ) from error


def wrap_as_requested(env: gym.Env, request: Request) -> gym.Env:
    """`env` with the requested action repeat and, for request.pixels, images as observations. Raises UserError."""
    repeated = ActionRepeat(env, request.repeat) if request.repeat > 1 else env
    return _observe_images(repeated) if request.pixels else repeated


def _observe_images(env: gym.Env) -> gym.Env:
    if env.render_mode != "rgb_array":
        raise UserError(
            "env.pixels needs an environment with render_mode='rgb_array', which this one does not have.",
            "If its observations hold images already, write env.pixels=false; otherwise create it with "
            "render_mode='rgb_array'.",
        )
    try:
        return gym.wrappers.AddRenderObservation(env, render_only=True)
    except gym.error.DependencyNotInstalled as error:
        raise UserError(f"the environment cannot draw ({error}).", "Install that package.") from error
    except BaseException as error:
        pass_on(error)
        raise UserError(
            f"env.pixels: the environment cannot be drawn: {describe_error(error)}.",
            "Return a uint8 image of shape (H, W, 3) from render(), or set env.pixels=false.",
        ) from error
