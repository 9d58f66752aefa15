"""Is an environment what it says it is? Plays random episodes and tells mistakes, one sentence each, with the fix.

`check_env` looks from outside, with Gymnasium's contract in mind and with what breaks learning silently: numbers on
odd scales, ends that are no ends, arrays that change after they were returned. It never raises for a broken
environment: what the environment raises is a finding, too.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import PassiveEnvChecker

from ...errors import UserError
from ..actions import MAX_CHOICES, ActionSpec, make_action_spec
from ..adapters import DmEnv, OldGym
from ..make import EnvLike, make_env
from ..spaces import MASK, leaves, make_spec, name_of
from .determinism import Choose, compare
from .guarded_calls import FAULTS, Broken, attempt, kind_of, reset, step, told
from .observations import Seen, look_at_episodes, look_at_memory, look_at_observation, look_at_pace, look_at_ranges
from .report import CheckReport

PATIENCE, FURTHER = 10.0, 10  # no end in `steps`: seconds, and times `steps`, to go on looking for one
WIDE = 1e4  # continuous actions beyond this are not limits, but the lack of them


def check_env(env: EnvLike, *, steps: int = 500, seed: int = 0, **make_env_options: Any) -> CheckReport:
    """Play `steps` random steps and look. env: an id, an environment, or a function that makes one.

    Others of it are made (of an environment: copied) and compared under one seed. make_env_options: of `make_env`.
    `print` the report; its `findings` are the mistakes. Never raises for what the environment does.
    """
    report = CheckReport()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium's own remarks on what is told here
        try:
            _check(env, steps, seed, make_env_options, report)
        except Broken:
            pass
        except FAULTS as error:  # values that raise when they are looked at; or a mistake of ours
            report.add(
                "error", "cannot-look", f"looking at what the environment returned raises {told(error)}",
                "Return NumPy arrays, floats, bools and dicts; if it does, this is a fault of reverie: report it.",
            )  # fmt: skip
    return report


def _check(source: EnvLike, steps: int, seed: int, options: dict[str, Any], report: CheckReport) -> None:
    env = _make(source, options, report)
    _look_at_spaces(env, options, report)
    another = _maker_of_others(source, env, options)
    fix = (
        "Pass a function that makes it: training needs another one for evaluation."
        if isinstance(source, gym.Env)
        else "Let two exist at a time (ports, files): training makes another one for evaluation."
    )
    other = attempt(report, "warning", "only-one", "making a second environment beside the first", fix, another)
    try:
        _play(env, steps, seed, report)
        if other is not None and not report.has("reset-no-seed"):
            compare(env, other, another, _policy(env.action_space), seed, min(steps, 60), report)
        _look_at_render(env, report)
    finally:
        for made in (other, *([] if isinstance(source, gym.Env) else [env])):
            if made is not None:
                attempt(report, "warning", "close-raises", "close", "Let close() end quietly, twice too.", made.close)


# --------------------------------------------------------------------------------------------------------------- making


def _make(source: EnvLike, options: dict[str, Any], report: CheckReport) -> gym.Env:
    """The environment. Raises Broken."""
    made: Any = source
    try:
        if callable(source) and not isinstance(source, gym.Env):
            made = source()
        env = _one(made, options)
    except UserError as error:
        code = "cannot-make" if isinstance(made, str | gym.Env) else "no-env"
        report.add("error", code, error.message.rstrip("."), error.hint or "Make it work in Python first.")
        raise Broken from error
    except FAULTS as error:
        report.add("error", "cannot-make", f"making it raises {told(error)}", "Fix that line.")
        raise Broken from error
    inner = env.unwrapped
    if isinstance(inner, OldGym | DmEnv):
        report.facts["made of"] = f"{'an old gym' if isinstance(inner, OldGym) else 'a dm_env'} environment, adapted"
    return env if isinstance(source, gym.Env) else _without_checker(env)


def _one(made: Any, options: dict[str, Any]) -> gym.Env:
    if isinstance(made, gym.vector.VectorEnv):
        raise UserError(
            f"it is a vector of {made.num_envs} environments, not one.",
            "Pass the function that makes one of them; training makes env.num_envs.",
        )
    return make_env(made, **options)


def _without_checker(env: gym.Env) -> gym.Env:
    """Gymnasium's own passive checker would raise before anything can be told here."""
    if not isinstance(env, gym.Wrapper):
        return env
    inner = _without_checker(env.env)
    if isinstance(env, PassiveEnvChecker):
        return inner
    env.env = inner
    return env


def _maker_of_others(source: EnvLike, env: gym.Env, options: dict[str, Any]) -> Callable[[], gym.Env]:
    """A function that makes environments like this one, as fresh as it is now."""
    if not isinstance(source, gym.Env):
        return lambda: _without_checker(make_env(source, **options))
    kept: list[gym.Env] = []

    def copied() -> gym.Env:
        if not kept:  # the first call comes before it is played with
            kept.append(copy.deepcopy(env))
        return copy.deepcopy(kept[0])

    return copied


# --------------------------------------------------------------------------------------------------------------- spaces


def _look_at_spaces(env: gym.Env, options: dict[str, Any], report: CheckReport) -> None:
    for name in ("observation_space", "action_space"):
        space = attempt(report, "error", "no-space", name, f"Set self.{name} in __init__.", lambda: getattr(env, name))  # noqa: B023
        if not isinstance(space, spaces.Space):
            report.add(
                "error", "no-space", f"{name} is {kind_of(space)}, not a Gymnasium space",
                f"Set self.{name} in __init__, e.g. to gymnasium.spaces.Box or Discrete.",
            )  # fmt: skip
            raise Broken
    report.facts |= {"observation": _shown(env.observation_space), "action": _shown(env.action_space)}
    for path, space in leaves(env.observation_space):
        key = name_of(path)
        if isinstance(space, spaces.Text):
            report.add("note", "text", f"'{key}' is text, which is not read", "Nothing, if it does not matter.", key)
        elif not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            report.add(
                "error", "observation-space", f"'{key}' is a {type(space).__name__} space, which cannot be learnt",
                "Give Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of them.", key,
            )  # fmt: skip
    for path, space in leaves(env.action_space):
        _look_at_action(space, f" '{name_of(path)}'" if path else "", report)
    view = {name: options[name] for name in ("image_size", "grayscale") if name in options}
    try:
        spec = make_spec(env, **view)
        report.facts["agent sees"] = ", ".join(f"{key}: {item.describe()}" for key, item in spec.obs.items())
    except UserError as error:
        if not report.has("observation-space", "action-space"):
            report.add("error", "cannot-see", error.message.rstrip("."), error.hint or "Change the spaces.")


def _shown(space: spaces.Space) -> str:
    """A space in one line, without the limits of every number."""
    if isinstance(space, spaces.Dict):
        return "; ".join(f"{key}: {_shown(inner)}" for key, inner in space.spaces.items())
    if isinstance(space, spaces.Tuple):
        return "; ".join(map(_shown, space.spaces))
    if isinstance(space, spaces.Box) and space.low.size:
        return f"Box {space.dtype} {space.shape}, {space.low.min():.4g} to {space.high.max():.4g}"
    return " ".join(repr(space).split())[:80]


def _look_at_action(space: spaces.Space, called: str, report: CheckReport) -> None:
    try:
        make_action_spec(space)
    except UserError as error:
        report.add("error", "action-space", error.message.rstrip("."), error.hint or "Declare one that is not empty.")
        return
    if not isinstance(space, spaces.Box):
        return
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if not np.isfinite([low, high]).all():
        report.add(
            "warning", "action-unbounded", f"the action{called} goes from {low.min():g} to {high.max():g} in its space",
            "Declare limits of useful actions; without them -1 to 1 is assumed (env.action_bound).", called,
        )  # fmt: skip
    elif max(abs(low).max(), abs(high).max()) > WIDE:
        report.add(
            "warning", "action-wide", f"the action{called} reaches from {low.min():g} to {high.max():g}",
            "Declare limits of useful actions: the agent's -1 to 1 is stretched onto them.", called,
        )  # fmt: skip
    elif np.issubdtype(space.dtype, np.integer) and (high - low + 1).max() > MAX_CHOICES:
        report.add(
            "note", "action-rounded", f"the action{called} has {(high - low + 1).max():.0f} whole numbers: it is "
            "learnt as one number and rounded", "Nothing, if neighbours mean nearly the same.", called,
        )  # fmt: skip
    elif np.issubdtype(space.dtype, np.floating) and not np.allclose(low, -high):
        index = tuple(np.argwhere(~np.isclose(low, -high))[0])
        which = f"number {', '.join(map(str, index))} of " if low.size > 1 else ""
        report.add(
            "note", "action-uneven",
            f"{which}the action{called} goes from {low[index]:g} to {high[index]:g}, not evenly around 0",
            "Nothing: the agent's -1 to 1 is stretched onto it, and its 0 is the middle.", called,
        )  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------- play


def _play(env: gym.Env, steps: int, seed: int, report: CheckReport) -> None:
    """`steps` random steps, looked at one by one; then, if no episode has ended, on to the first end."""
    seen, space, choose = Seen(), env.observation_space, _policy(env.action_space)(seed)
    total, length, until = 0.0, 0, 0.0
    obs, info = _timed(seen.reset_seconds, lambda: reset(env, seed, report))
    look_at_observation(space, obs, 0, seen, report, first=True)
    for at in range(1, FURTHER * steps + 1):
        looking = at <= steps
        if at == steps + 1:
            until = time.perf_counter() + PATIENCE
        if not looking and (seen.lengths or time.perf_counter() > until):
            break
        kept, before = copy.deepcopy(obs) if looking else None, obs
        action = choose(env, obs, info, report)
        obs, reward, terminated, truncated, info = _timed(
            seen.step_seconds, lambda: step(env, action, at, report)  # noqa: B023
        )  # fmt: skip
        if looking:
            look_at_memory(space, kept, before, obs, at, report)
            look_at_observation(space, obs, at, seen, report, first=False)
        seen.rewards.append(reward)
        total, length = total + reward, length + 1
        if terminated and truncated:
            report.add(
                "note", "both-ends", f"step {at} both terminates and truncates: it counts as terminated",
                "Return truncated=True only where the task itself did not end.",
            )  # fmt: skip
        if terminated or truncated:
            seen.lengths.append(length)
            seen.returns.append(total)
            seen.terminated.append(terminated)
            total, length = 0.0, 0
            obs, info = _timed(seen.reset_seconds, lambda: reset(env, None, report))
            if looking:
                look_at_observation(space, obs, at, seen, report, first=True)
    look_at_pace(seen, report)
    look_at_episodes(seen, (env.spec.max_episode_steps if env.spec else 0) or 0, report)
    for path, leaf in leaves(space):
        if name_of(path) in seen.values:
            look_at_ranges(name_of(path), leaf, seen, report)


def _timed(seconds: list[float], work: Callable[[], Any]) -> Any:
    since = time.perf_counter()
    found = work()
    seconds.append(time.perf_counter() - since)
    return found


def _policy(space: spaces.Space) -> Callable[[int], Choose]:
    """A function from a seed to the random policy of training, which takes allowed actions only."""
    spec: ActionSpec | None
    try:
        spec = make_action_spec(space)[0]
    except UserError:
        spec = None

    def seeded(seed: int) -> Choose:
        space.seed(seed)
        rng = np.random.default_rng(seed)

        def choose(env: gym.Env, obs: Any, info: Any, report: CheckReport) -> Any:
            if spec is None:
                return space.sample()
            mask = _mask(env, spec, obs, info, report) if spec.kind != "box" else None
            return spec.decode_one(spec.random(rng, 1, mask)[0])

        return choose

    return seeded


def _mask(env: gym.Env, spec: ActionSpec, obs: Any, info: dict[str, Any], report: CheckReport) -> np.ndarray | None:
    """The environment's own mask as (1, A), where it has one; what is wrong with it is told."""
    own = info.get(MASK)
    if own is None and isinstance(obs, dict):
        own = obs.get(MASK)
    if own is None and callable(getattr(env.unwrapped, "action_masks", None)):
        fix = "Return one number per choice, 1 for allowed."
        own = attempt(report, "error", "mask", "action_masks", fix, env.unwrapped.action_masks)  # type: ignore[attr-defined]
    if own is None:
        return None
    try:
        mask, none = spec.encode_mask(own), spec.forbids_all(own)
    except UserError as error:
        report.add("error", "mask", error.message.rstrip("."), error.hint)
        return None
    except Exception:
        report.add("error", "mask", f"the action mask is {kind_of(own)}, not numbers", "One number for each choice.")
        return None
    if none:
        report.add(
            "error", "mask-forbids-all", f"the action mask forbids all {spec.size} actions in a running episode",
            "Allow at least one, or end the episode there.",
        )  # fmt: skip
    return mask[None]


# ---------------------------------------------------------------------------------------------------------------- looks


def _look_at_render(env: gym.Env, report: CheckReport) -> None:
    mode = attempt(report, "warning", "render-raises", "render_mode", "Set it in __init__.", lambda: env.render_mode)
    if report.has("render-raises"):
        return
    if mode != "rgb_array":
        report.add(
            "note", "no-film", f"render_mode is {mode!r}: there will be no films of it",
            "Take render_mode='rgb_array' and return a uint8 (H, W, 3) picture from render().",
        )  # fmt: skip
        return
    fix = "Fix it, or set render_mode=None: without pictures there are no films."
    picture: Any = attempt(report, "warning", "render-raises", "render", fix, env.render)
    if report.has("render-raises"):
        return
    if not isinstance(picture, np.ndarray) or picture.shape[2:] != (3,) or picture.dtype != np.uint8:
        kind = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else kind_of(picture)
        report.add(
            "warning", "render-returns", f"render returns {kind}, not a uint8 picture (H, W, 3)",
            "Return np.uint8, channels last.",
        )  # fmt: skip
    elif picture.max() == 0:
        report.add(
            "warning", "render-black", f"render returns a picture {picture.shape} that is black",
            "Look whether anything is drawn; without a display, MuJoCo needs MUJOCO_GL=egl or osmesa.",
        )  # fmt: skip
