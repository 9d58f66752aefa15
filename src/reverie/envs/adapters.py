"""Adapters from dm_env and from gym before 0.26 to Gymnasium.

Environments are recognised by their methods, so neither package need be installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import UserError
from .border import flag_of, kind_of


def adapt(env: Any) -> gym.Env:
    """A Gymnasium environment unchanged, a dm_env or old gym one wrapped. Raises UserError for anything else."""
    if isinstance(env, gym.Env):
        return env
    require_one(env)
    if all(callable(getattr(env, name, None)) for name in ("reset", "step", "observation_spec", "action_spec")):
        return from_dm_env(env)
    if callable(getattr(env, "reset", None)) and callable(getattr(env, "step", None)) and hasattr(env, "action_space"):
        return from_old_gym(env)
    raise UserError(
        f"expected a gymnasium.Env, got {type(env).__module__}.{type(env).__name__}.",
        "Pass an id, a gymnasium.Env or a function that returns one; dm_env and old gym environments work, too.",
    )


def require_one(env: Any) -> None:
    """Raises UserError for a class, and for several environments or agents in one object."""
    name = type(env).__name__
    if inspect.iscoroutine(env):
        env.close()  # else Python warns that it was never awaited
        raise UserError(
            "what makes the environment is an async function, which returns a coroutine.", "Use a plain def."
        )
    if isinstance(env, type):
        raise UserError(
            f"the class {env.__name__} is not an environment yet.", f"Call it: lambda: {env.__name__}(...)."
        )
    if isinstance(env, gym.vector.VectorEnv) or hasattr(env, "num_envs"):
        raise UserError(
            f"it is a vector of {getattr(env, 'num_envs', 'several')} environments, not one.",
            "Pass the function that makes one of them; training makes env.num_envs.",
        )
    if hasattr(env, "possible_agents"):
        raise UserError(f"{name} has several agents.", "Wrap it as an environment with one observation and one action.")


def from_dm_env(env: Any) -> gym.Env:
    """Adapt a `dm_env.Environment`: an end with discount 0 is a termination, any other a truncation."""
    return DmEnv(env)


def from_old_gym(env: Any) -> gym.Env:
    """Adapt an environment of gym before 0.26, whose reset returns only the observation and whose step four values."""
    return OldGym(env)


class DmEnv(gym.Env):
    """A dm_env environment as a Gymnasium environment; see `from_dm_env`."""

    is_adapter = True

    def __init__(self, env: Any) -> None:
        self.env = env
        self.observation_space = space_of(env.observation_spec(), unlimited=True)
        self.action_space = space_of(env.action_spec())

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        task: Any = getattr(self.env, "task", None)
        if seed is not None and hasattr(task, "_random"):  # a task of dm_control
            task._random = np.random.RandomState(seed)
        return _observation(self.observation_space, "reset", self.env.reset()), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        timestep = self.env.step(action)
        obs = _observation(self.observation_space, "step", timestep)
        terminated = bool(timestep.last() and timestep.discount == 0)
        truncated = bool(timestep.last()) and not terminated
        reward = timestep.reward  # None: nothing was earned; the border checks the rest
        return obs, 0.0 if reward is None else reward, terminated, truncated, {}

    def close(self) -> None:
        if callable(getattr(self.env, "close", None)):
            self.env.close()


class OldGym(gym.Env):
    """An old gym environment as a Gymnasium environment; see `from_old_gym`. The border checks its values."""

    is_adapter = True

    def __init__(self, env: Any) -> None:
        self.env = env
        self.observation_space = space_of(env.observation_space)
        self.action_space = space_of(env.action_space)
        found = getattr(env, "metadata", None)
        self.metadata = dict(found) if isinstance(found, Mapping) else {}
        self.render_mode = "rgb_array" if "rgb_array" in (self.metadata.get("render.modes") or ()) else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None and callable(getattr(self.env, "seed", None)):
            self.env.seed(seed)
        result = self.env.reset()
        has_info = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)  # gym 0.26 itself
        return result if has_info else (result, {})

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        if not isinstance(result, tuple | list) or len(result) != 4:
            return cast(Any, result)  # of gym 0.26, or what the border refuses
        obs, reward, done, info = result
        cut = info.get("TimeLimit.truncated", False) if isinstance(info, Mapping) else False
        ended = flag_of("done", done, "")
        return obs, reward, ended and not cut, bool(ended and cut), info

    def render(self) -> Any:
        return self.env.render(mode="rgb_array")

    def close(self) -> None:
        if callable(getattr(self.env, "close", None)):
            self.env.close()


def space_of(spec: Any, *, unlimited: bool = False) -> spaces.Space:
    """The Gymnasium space of a dm_env spec or of an old gym space, with the same nesting.

    Scalars become vectors of size 1. unlimited: leave out the limits that a spec gives to its numbers.
    Raises UserError for an unknown kind of space.
    """
    if isinstance(spec, spaces.Space):
        return spec
    kind = type(spec).__name__
    if kind == "Dict" or isinstance(spec, Mapping):
        inner = spec.spaces if kind == "Dict" else spec
        return spaces.Dict({key: space_of(value, unlimited=unlimited) for key, value in inner.items()})
    if kind == "Tuple" or isinstance(spec, list | tuple):
        inner = spec.spaces if kind == "Tuple" else spec
        return spaces.Tuple([space_of(value, unlimited=unlimited) for value in inner])
    if kind == "Discrete":
        return spaces.Discrete(int(spec.n), start=int(getattr(spec, "start", 0)))
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(spec.nvec)
    if kind == "MultiBinary":
        return spaces.MultiBinary(spec.n)
    if kind == "Box":
        low, high = (np.asarray(limit, spec.dtype) for limit in (spec.low, spec.high))
        return spaces.Box(low, high, spec.shape, spec.dtype)
    if hasattr(spec, "num_values"):  # dm_env's DiscreteArray
        return spaces.Discrete(int(spec.num_values))
    if hasattr(spec, "shape") and hasattr(spec, "dtype"):
        return _array_space(spec, unlimited)
    raise UserError(f"the environment has an unknown kind of space: {spec!r}.", "Wrap it as a gymnasium.Env.")


def _array_space(spec: Any, unlimited: bool) -> spaces.Space:
    """The space of dm_env's Array and BoundedArray."""
    shape, dtype = tuple(spec.shape) or (1,), np.dtype(spec.dtype)
    low: Any = getattr(spec, "minimum", None)
    high: Any = getattr(spec, "maximum", None)
    if dtype == np.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    if dtype.kind in "iub" and low is not None and np.ndim(low) <= 1 and not unlimited:
        start = np.broadcast_to(np.asarray(low, np.int64), shape)
        return spaces.MultiDiscrete(np.broadcast_to(high, shape) - start + 1, start=start)
    kind = np.float32 if dtype.kind in "iub" or unlimited else dtype
    if low is None or unlimited:
        return spaces.Box(-np.inf, np.inf, (int(np.prod(shape)),) if unlimited else shape, kind)
    return spaces.Box(np.broadcast_to(low, shape).astype(kind), np.broadcast_to(high, shape).astype(kind), dtype=kind)


def _observation(space: spaces.Space, name: str, timestep: Any) -> Any:
    """The observation of a TimeStep; what does not fit its space is refused at the border. Raises UserError."""
    if not all(hasattr(timestep, part) for part in ("observation", "reward", "discount", "last")):
        raise UserError(
            f"{name} of the dm_env environment returns {kind_of(timestep)}, not a TimeStep.",
            "Return dm_env.restart, transition or termination.",
        )
    try:
        return _fit_space(space, timestep.observation)
    except TypeError:  # another nesting
        return timestep.observation


def _fit_space(space: spaces.Space, value: Any) -> Any:
    """A dm_env observation in the form of its space: arrays, scalars as vectors. What does not fit stays as it is."""
    if isinstance(space, spaces.Dict):
        return {key: _fit_space(inner, value[key]) for key, inner in space.spaces.items() if key in value}
    if isinstance(space, spaces.Tuple):
        return tuple(_fit_space(inner, part) for inner, part in zip(space.spaces, value, strict=False))
    try:
        return np.asarray(value, space.dtype).reshape(space.shape or ())
    except (TypeError, ValueError):
        return value
