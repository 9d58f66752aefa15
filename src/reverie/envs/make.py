"""Construction of environments: one (`make_env`) or several that are stepped together (`make_vector`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from ..errors import UserError
from .adapters import adapt, require_one
from .border import EnvironmentFailed, describe_error, make_by, pass_on
from .family import Request, family_of, free_options, parse_options
from .names import find_environment
from .plain import make_plain, wrap_as_requested
from .repeatable import Repeatable
from .vector.backend import choose_backend
from .vector.local import LocalVectorEnv
from .vector.native import NativeView
from .vector.workers import WorkerVectorEnv
from .view import AgentView

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
    """A Gymnasium environment from a name (`names.py`), an instance, or a callable that returns one.

    actions: "full" or "minimal" (an id's family only). pixels: observe images instead of vectors. action_repeat: 0 for
    the family's usual one. time_limit: agent steps, 0 for none. options: "name=value" for the id's family.
    image_size, grayscale: hints that let a family draw what the agent will see.

    The environment keeps its own spaces: `AgentView` (for training) and `Player` convert observations and actions, and
    resize images. Raises UserError for an unknown id, a missing package or a wrong option.
    """
    env = find_environment(env) if isinstance(env, str) else env
    if isinstance(env, str):
        request = make_request(env, actions, pixels, action_repeat, time_limit, image_size, grayscale, options)
        made = _from_id(request, options)
    else:
        if options:
            raise UserError(
                "env.options works only for environments that are made from an id.",
                "Set the options inside your function.",
            )
        given = env if is_instance(env) else make_by(env)
        made = wrap_as_requested(adapt(given), Request("", pixels=pixels, repeat=max(1, action_repeat)))
    return gym.wrappers.TimeLimit(made, time_limit) if time_limit else made


def is_instance(env: EnvLike | None) -> bool:
    """Whether this is an environment that exists already, of any kind: it is the caller's, who closes it."""
    return isinstance(env, gym.Env) or not (env is None or isinstance(env, str) or callable(env))


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
    """The request to the id's family, with its usual action repeat and its options filled in. Raises UserError."""
    family = family_of(env_id)
    repeat = action_repeat or (family.REPEAT if family else 1)
    parsed = parse_options(family, options) if family else None
    return Request(env_id, actions, pixels, repeat, image_size, grayscale, time_limit, parsed)


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
            f"'{env_id}' is a custom environment and cannot be made from its name.",
            "Pass the function that makes it: reverie.load(path, env=your_function).",
        )
    family = family_of(env_id)
    try:
        if family is None:
            return make_plain(request, **free_options(options))
        return family.make(request)
    except (ModuleNotFoundError, gym.error.DependencyNotInstalled) as error:
        hint = family.INSTALL if family else "Install that package."
        raise UserError(f"'{env_id}' needs a package that is not installed ({error}).", hint) from error
    except gym.error.Error as error:
        raise UserError(
            f"Gymnasium cannot make '{env_id}': {error}", "`reverie envs` lists the families and their packages."
        ) from error
    except (UserError, MemoryError):
        raise
    except BaseException as error:
        pass_on(error)
        raise EnvironmentFailed(f"making '{env_id}' raises {describe_error(error)}.", "Fix that line.") from error


def make_vector(
    env: EnvLike,
    count: int,
    *,
    backend: str = "sync",
    timeout: float = 60.0,
    view: Mapping[str, Any] | None = None,
    **options: Any,
) -> VectorEnv:
    """`count` environments stepped together, as the agent sees them (`AgentView`).

    backend: "sync" steps them in this process, "async" in worker processes (restarted after a crash, or without an
    answer for `timeout` seconds), "native" in the family's own vector environment; "auto" takes the fastest by a short
    measurement. The attribute `stepping` of the result describes the choice. view: options of `make_spec`; the other
    options are those of `make_env`.

    After the end of an episode the next step ignores the action and returns the first observation of the next episode
    (Gymnasium's NEXT_STEP autoreset): these are the rows of the drawing in `data/replay.py`.
    All but "native" are `Repeatable`. Raises UserError.
    """
    shared = {key: options[key] for key in ("image_size", "grayscale") if key in options}
    view = shared | dict(view or {})
    env = find_environment(env) if isinstance(env, str) else env
    if is_instance(env) and not isinstance(env, gym.Env):
        require_one(env)
    if is_instance(env) and count > 1:
        raise UserError(
            f"one environment instance cannot be stepped as {count} environments.",
            "Pass a function that makes one, or set env.num_envs=1.",
        )

    def make_view(one: EnvLike) -> gym.Env:
        return Repeatable(AgentView(make_env(one, **options), **view))

    family = family_of(env) if isinstance(env, str) else None
    request = make_request(env, **options) if isinstance(env, str) else None
    native = getattr(family, "make_vector", None)
    fits = native is not None and getattr(family, "vector_fits", lambda request: True)(request)
    makers = [partial(make_view, env) for _ in range(count)]
    why = "as requested"
    if backend == "auto":
        backend, why = _fastest(env, fits, makers)
        backend = {"workers": "async"}.get(backend, backend)
    envs: VectorEnv
    if backend == "native":
        if native is None:
            raise UserError(
                f"env.backend=native: the family of '{env}' has no vector environment.", "Set env.backend=auto."
            )
        envs = NativeView(native(request, count), **view)
    elif backend == "async":
        envs = WorkerVectorEnv(makers, timeout=timeout)
    else:
        envs = LocalVectorEnv(makers, owned=not is_instance(env))
    setattr(envs, "stepping", f"{backend}, {why}")  # noqa: B010  VectorEnv has no such attribute
    return envs


def _fastest(env: EnvLike, native: bool, makers: Sequence[Callable[[], gym.Env]]) -> tuple[str, str]:
    if native:
        return "native", "the family's own vector environment"
    if is_instance(env) or len(makers) == 1:
        return "sync", "one environment"
    try:
        return choose_backend(makers[0], len(makers))
    except Exception as error:  # the fault is reported when the environments are stepped for real
        return "sync", f"because the measurement failed ({type(error).__name__})"
