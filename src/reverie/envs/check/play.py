"""`check_env`: plays random episodes and reports mistakes of the environment, one sentence each, with the fix.

The checks cover Gymnasium's contract and what breaks learning silently: numbers on odd scales, time limits that are
reported as terminations, arrays that change after they were returned. `check_env` never raises for a broken
environment: an exception of the environment is a finding, too.
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
from ..border import attribute_of, describe_error, inside_of, kind_of, limit_of, pass_on
from ..make import EnvLike, make_env
from ..repeatable import require_seed
from ..spaces import MASK, leaves, make_spec, name_of, notes_on_image
from .determinism import Choose, compare
from .guarded_calls import Broken, attempt, reset, step
from .observations import Seen, check_episodes, check_memory, check_observation, check_pace, check_ranges
from .report import CheckReport

PATIENCE, FURTHER = 10.0, 10  # if no episode ends in `steps` steps: seconds, and multiples of `steps`, to continue
WIDE = 1e4  # larger limits of continuous actions count as no limits


def check_env(env: EnvLike, *, steps: int = 500, seed: int = 0, **make_env_options: Any) -> CheckReport:
    """Play `steps` random steps and check everything that the environment returns.

    env: an id, an environment, or a function that makes one. It is made (an environment: copied) two or three times,
    and the episodes of one seed are compared. make_env_options: options of `make_env`.
    `print` the report; its `findings` are the mistakes. Never raises because of the environment, but UserError for a
    seed that no generator takes.
    """
    require_seed(seed)
    report = CheckReport()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium warns about mistakes that are reported here
        try:
            _check(env, steps, seed, make_env_options, report)
        except Broken:
            pass
        except UserError as error:  # keys of a space, which nothing else can be asked about
            report.add("error", "cannot-see", error.message.rstrip("."), error.hint)
        except BaseException as error:  # values that raise when they are inspected, or a bug of this library
            pass_on(error)
            report.add(
                "error",
                "cannot-look",
                f"inspecting what the environment returned raises {describe_error(error)}",
                "Return NumPy arrays, floats, bools and dicts. If it does, this is a bug of reverie: please report it.",
            )
    return report


def _check(source: EnvLike, steps: int, seed: int, options: dict[str, Any], report: CheckReport) -> None:
    env = _make(source, options, report)
    _check_spaces(env, options, report)
    make_another = _maker_of_others(source, env, options)
    fix = (
        "Pass a function that makes it: training needs a second one for evaluation."
        if isinstance(source, gym.Env)
        else "Allow two to exist at a time (ports, files): training makes a second one for evaluation."
    )
    other = attempt(report, "warning", "only-one", "making a second environment beside the first", fix, make_another)
    try:
        _play(env, steps, seed, report)
        if other is not None and not report.has("reset-no-seed"):
            compare(env, other, make_another, _policy(env.action_space), seed, min(steps, 60), report)
        _check_render(env, report)
    finally:
        fix = "Let close() return without an exception, also when it is called twice."
        for made in (other, *([] if isinstance(source, gym.Env) else [env])):
            if made is not None:
                attempt(report, "warning", "close-raises", "close", fix, made.close)


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
    except BaseException as error:
        pass_on(error)
        report.add("error", "cannot-make", f"making it raises {describe_error(error)}", "Fix that line.")
        raise Broken from error
    inner = inside_of(env)
    if isinstance(inner, OldGym | DmEnv):
        report.facts["made of"] = f"{'an old gym' if isinstance(inner, OldGym) else 'a dm_env'} environment, adapted"
    return env if isinstance(source, gym.Env) else _without_checker(env)


def _one(made: Any, options: dict[str, Any]) -> gym.Env:
    return make_env(made, **options)


def _without_checker(env: gym.Env) -> gym.Env:
    """`env` without Gymnasium's passive checker, which would raise before a mistake can be reported here."""
    if not isinstance(env, gym.Wrapper):
        return env
    inner = _without_checker(env.env)
    if isinstance(env, PassiveEnvChecker):
        return inner
    env.env = inner
    return env


def _maker_of_others(source: EnvLike, env: gym.Env, options: dict[str, Any]) -> Callable[[], gym.Env]:
    """A function that makes more environments like `env`, in the state in which `env` is now."""
    if not isinstance(source, gym.Env):
        return lambda: _without_checker(make_env(source, **options))
    kept: list[gym.Env] = []

    def copied() -> gym.Env:
        if not kept:  # the first call comes before the environment is stepped
            kept.append(copy.deepcopy(env))
        return copy.deepcopy(kept[0])

    return copied


# --------------------------------------------------------------------------------------------------------------- spaces


def _check_spaces(env: gym.Env, options: dict[str, Any], report: CheckReport) -> None:
    for name in ("observation_space", "action_space"):
        space = attempt(report, "error", "no-space", name, f"Set self.{name} in __init__.", lambda: getattr(env, name))  # noqa: B023
        if not isinstance(space, spaces.Space):
            report.add(
                "error",
                "no-space",
                f"{name} is {kind_of(space)}, not a Gymnasium space",
                f"Set self.{name} in __init__, e.g. to gymnasium.spaces.Box or Discrete.",
            )
            raise Broken
    report.facts |= {"observation": _shown(env.observation_space), "action": _shown(env.action_space)}
    for path, space in leaves(env.observation_space):
        key = name_of(path)
        if isinstance(space, spaces.Text):
            fix = "Nothing to fix if it does not matter; otherwise encode it as numbers."
            report.add("note", "text", f"'{key}' is text, which the agent cannot read", fix, key)
        elif not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            report.add(
                "error",
                "observation-space",
                f"'{key}' is a {type(space).__name__} space, which is not supported",
                "Use Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of them.",
                key,
            )
    for path, space in leaves(env.action_space):
        _check_action(space, f" '{name_of(path)}'" if path else "", report)
    view = {name: options[name] for name in ("image_size", "grayscale") if name in options}
    try:
        spec = make_spec(env, **view)
        report.facts["agent sees"] = ", ".join(f"{key}: {item.describe()}" for key, item in spec.obs.items())
        for key, item in make_spec(env).obs.items():
            for note in notes_on_image(item, view.get("image_size", 0), view.get("grayscale", False)):
                report.add(
                    "note", "image-changed", note, "Set env.image_size or env.grayscale if you mean another.", key
                )
    except UserError as error:
        if not report.has("observation-space", "action-space"):
            report.add("error", "cannot-see", error.message.rstrip("."), error.hint or "Change the spaces.")


def _shown(space: spaces.Space) -> str:
    """A space in one line, with the extreme limits only."""
    if isinstance(space, spaces.Dict):
        return "; ".join(f"{key}: {_shown(inner)}" for key, inner in space.spaces.items())
    if isinstance(space, spaces.Tuple):
        return "; ".join(map(_shown, space.spaces))
    if isinstance(space, spaces.Box) and space.low.size:
        return f"Box {space.dtype} {space.shape}, {space.low.min():.4g} to {space.high.max():.4g}"
    return " ".join(repr(space).split())[:80]


def _check_action(space: spaces.Space, called: str, report: CheckReport) -> None:
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
            "warning",
            "action-unbounded",
            f"the action{called} goes from {low.min():g} to {high.max():g} in its space",
            "Declare the limits of useful actions; without them -1 to 1 is assumed (env.action_bound).",
            called,
        )
    elif max(abs(low).max(), abs(high).max()) > WIDE:
        report.add(
            "warning",
            "action-wide",
            f"the action{called} reaches from {low.min():g} to {high.max():g}",
            "Declare the limits of useful actions: the agent's range of -1 to 1 is scaled to them.",
            called,
        )
    elif np.issubdtype(space.dtype, np.integer) and (high - low + 1).max() > MAX_CHOICES:
        report.add(
            "note",
            "action-rounded",
            f"the action{called} has {(high - low + 1).max():.0f} whole numbers: it is "
            "learned as one number and rounded",
            "Nothing to fix if neighboring numbers mean nearly the same.",
            called,
        )
    elif np.issubdtype(space.dtype, np.floating) and not np.allclose(low, -high):
        index = tuple(np.argwhere(~np.isclose(low, -high))[0])
        which = f"number {', '.join(map(str, index))} of " if low.size > 1 else ""
        report.add(
            "note",
            "action-uneven",
            f"{which}the action{called} goes from {low[index]:g} to {high[index]:g}, not symmetric around 0",
            "Nothing to fix: the agent's range of -1 to 1 is scaled to it, and 0 is its middle.",
            called,
        )


# ----------------------------------------------------------------------------------------------------------------- play


def _play(env: gym.Env, steps: int, seed: int, report: CheckReport) -> None:
    """Play `steps` random steps and check each; then, if no episode has ended, continue to the first end."""
    seen, space, choose = Seen(), env.observation_space, _policy(env.action_space)(seed)
    total, length, until = 0.0, 0, 0.0
    obs, info = _timed(seen.reset_seconds, lambda: reset(env, seed, report))
    check_observation(space, obs, 0, seen, report, first=True)
    for at in range(1, FURTHER * steps + 1):
        looking = at <= steps
        if at == steps + 1:
            until = time.perf_counter() + PATIENCE
        if not looking and (seen.lengths or time.perf_counter() > until):
            break
        kept, before = copy.deepcopy(obs) if looking else None, obs
        action = choose(env, obs, info, report)
        obs, reward, terminated, truncated, info = _timed(
            seen.step_seconds,
            lambda: step(env, action, at, report),  # noqa: B023
        )
        if looking:
            check_memory(space, kept, before, obs, at, report)
            check_observation(space, obs, at, seen, report, first=False)
        seen.rewards.append(reward)
        total, length = total + reward, length + 1
        if terminated and truncated:
            report.add(
                "note",
                "both-ends",
                f"step {at} both terminates and truncates: it counts as terminated",
                "Return truncated=True only where the task itself did not end.",
            )
        if terminated or truncated:
            seen.lengths.append(length)
            seen.returns.append(total)
            seen.terminated.append(terminated)
            total, length = 0.0, 0
            obs, info = _timed(seen.reset_seconds, lambda: reset(env, None, report))
            if looking:
                check_observation(space, obs, at, seen, report, first=True)
    check_pace(seen, report)
    check_episodes(seen, limit_of(env), report)
    for path, leaf in leaves(space):
        if name_of(path) in seen.values:
            check_ranges(name_of(path), leaf, seen, report)


def _timed(seconds: list[float], work: Callable[[], Any]) -> Any:
    since = time.perf_counter()
    result = work()
    seconds.append(time.perf_counter() - since)
    return result


def _policy(space: spaces.Space) -> Callable[[int], Choose]:
    """A function from a seed to the random policy of training, which takes only allowed actions."""
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
    """The environment's action mask as uint8 (1, A), None without one; reports a faulty mask."""
    own = info.get(MASK)
    if own is None and isinstance(obs, dict):
        own = obs.get(MASK)
    if own is None and callable(masks := attribute_of(inside_of(env), "action_masks")):
        own = attempt(report, "error", "mask", "action_masks", "Return one number per choice, 1 for allowed.", masks)
    if own is None:
        return None
    try:
        mask, none = spec.encode_mask(own), spec.forbids_all(own)
    except UserError as error:
        report.add("error", "mask", error.message.rstrip("."), error.hint)
        return None
    except BaseException as error:
        pass_on(error)
        report.add("error", "mask", f"the action mask is {kind_of(own)}, not numbers", "Return one number per choice.")
        return None
    if none:
        report.add(
            "error",
            "mask-forbids-all",
            f"the action mask forbids all {spec.size} actions in a running episode",
            "Allow at least one action, or end the episode there.",
        )
    return mask[None]


# --------------------------------------------------------------------------------------------------------------- render


def _check_render(env: gym.Env, report: CheckReport) -> None:
    mode = attempt(report, "warning", "render-raises", "render_mode", "Set it in __init__.", lambda: env.render_mode)
    if report.has("render-raises"):
        return
    if mode != "rgb_array":
        report.add(
            "note",
            "no-film",
            f"render_mode is {mode!r}: no videos can be made",
            "Support render_mode='rgb_array' and return a uint8 (H, W, 3) image from render().",
        )
        return
    fix = "Fix it, or set render_mode=None to train without videos."
    image: Any = attempt(report, "warning", "render-raises", "render", fix, env.render)
    if report.has("render-raises"):
        return
    if not isinstance(image, np.ndarray) or image.shape[2:] != (3,) or image.dtype != np.uint8:
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else kind_of(image)
        report.add(
            "warning",
            "render-returns",
            f"render returns {kind}, not a uint8 image of shape (H, W, 3)",
            "Return np.uint8, channels last.",
        )
    elif image.max() == 0:
        report.add(
            "warning",
            "render-black",
            f"render returns an image of shape {image.shape} that is black",
            "Check that something is drawn; without a display, MuJoCo needs MUJOCO_GL=egl or osmesa.",
        )
