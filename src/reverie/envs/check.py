"""Is an environment what it says it is? Plays random episodes and tells mistakes, one sentence each, with the fix.

`check_env` looks from outside, with Gymnasium's contract in mind and with what breaks learning silently: numbers on
odd scales, ends that are no ends, arrays that change after they were returned. It never raises for a broken
environment: what it raises itself is a finding, too.
"""

from __future__ import annotations

import copy
import time
import traceback
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import UserError
from .actions import make_action_spec
from .findings import Report
from .looks import Seen, look_at_episodes, look_at_observation, look_at_pace, look_at_ranges
from .spaces import MASK, leaves, name_of


class _Broken(Exception):
    """The environment cannot be played on; why is in the report."""


def check_env(make: Any, *, steps: int = 500, seed: int = 0) -> Report:
    """Play `steps` random steps and look. make: a function that makes the environment, or an environment.

    Two environments are compared under one seed; of an instance a copy is made, if it lets itself be copied.
    """
    report = Report()
    try:
        env = make() if callable(make) else make
    except UserError as error:
        report.add("error", "cannot-make", error.message.rstrip("."), error.hint or "Make it work in Python first.")
        return report
    except Exception as error:
        report.add("error", "cannot-make", f"making it raises {told(error)}", "Make it work in Python first.")
        return report
    if not isinstance(env, gym.Env):
        kind = f"{type(env).__module__}.{type(env).__name__}"
        report.add("error", "no-env", f"it is a {kind}, not a gymnasium.Env", "Subclass gymnasium.Env, or return one.")
        return report
    try:
        _spaces(env, report)
        _play(env, steps, seed, report)
        _compare(make, env, seed, report)
        _drawing(env, report)
    except _Broken:
        pass
    return report


def told(error: BaseException) -> str:
    """An exception in one line, with the place in the user's code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = (str(Path(gym.__file__).parent), str(Path(__file__).parent))
    mine = [frame for frame in frames if not frame.filename.startswith(inside)]
    where = f" in {mine[-1].filename}:{mine[-1].lineno}" if mine else ""
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}{f': {text}' if text else ''}{where}"


# ------------------------------------------------------------------------------------------------------------- spaces


def _spaces(env: gym.Env, report: Report) -> None:
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), spaces.Space):
            report.add(
                "error", "no-space", f"{name} is {getattr(env, name, None)!r:.60}, not a gymnasium space",
                f"Set self.{name} in __init__, e.g. to gymnasium.spaces.Box or Discrete.",
            )  # fmt: skip
            raise _Broken
    report.facts |= {
        "observation": " ".join(repr(env.observation_space).split())[:200],
        "action": " ".join(repr(env.action_space).split())[:200],
    }
    try:
        notes = make_action_spec(env.action_space)[1]
    except UserError as error:
        report.add("error", "action-space", error.message.rstrip("."), error.hint)
        return
    for note in notes:
        report.add("warning", "action-unbounded", note, "Declare the limits in the action space.")
    for path, space in leaves(env.observation_space):
        key = name_of(path)
        if isinstance(space, spaces.Text):
            report.add("note", "text", f"'{key}' is text and is ignored", "Nothing, if it does not matter.", key)
        elif not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            kind = type(space).__name__
            report.add("error", "observation-space", f"'{key}' is a {kind} space, which cannot be learnt",
                       "Give Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of them.", key)  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- play


def _reset(env: gym.Env, seed: int | None, report: Report) -> tuple[Any, Any]:
    try:
        found = env.reset(seed=seed)
    except TypeError as error:
        if "seed" not in str(error):
            return _failed("reset", error, report)
        report.add("error", "reset-no-seed", f"reset does not take a seed ({error})",
                   "Write def reset(self, *, seed=None, options=None) and call super().reset(seed=seed).")  # fmt: skip
        try:
            found = env.reset()
        except Exception as inner:
            return _failed("reset", inner, report)
    except Exception as error:
        return _failed("reset", error, report)
    if not (isinstance(found, tuple) and len(found) == 2):
        report.add("error", "reset-returns", f"reset returns a {type(found).__name__}, not (observation, info)",
                   "Return observation, {}.")  # fmt: skip
        return found, {}
    if not isinstance(found[1], dict):
        kind = type(found[1]).__name__
        report.add("error", "info-no-dict", f"the info of reset is a {kind}, not a dict", "Return {} if there is none.")
        return found[0], {}
    return found


def _failed(what: str, error: Exception, report: Report) -> Any:
    report.add("error", f"{what}-raises", f"{what} raises {told(error)}", "Fix the environment there.")
    raise _Broken


def _step(env: gym.Env, action: Any, at: int, report: Report) -> tuple[Any, float, bool, bool, Any]:
    before = copy.deepcopy(action)
    try:
        found = env.step(action)
    except Exception as error:
        return _failed("step", error, report)
    if not isinstance(found, tuple) or len(found) != 5:
        size = len(found) if isinstance(found, tuple) else 0
        old = size == 4
        report.add(
            "error", "step-four" if old else "step-returns",
            f"step returns {size or 'no'} values{', as in the old gym' if old else ''}, not 5",
            "Return observation, reward, terminated, truncated, info.",
        )  # fmt: skip
        raise _Broken
    obs, reward, terminated, truncated, info = found
    if not _equal(before, action):
        report.add("warning", "action-changed", f"step changes the action that it is given (step {at})",
                   "Work on a copy: action = np.array(action).")  # fmt: skip
    for name, value in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(value, bool | np.bool_):
            report.add("error", "flag-no-bool", f"{name} is a {type(value).__name__} ({value!r:.30}), not a bool",
                       f"Return bool({name}).")  # fmt: skip
    if not isinstance(info, dict):
        report.add("error", "step-info", f"the info of step is a {type(info).__name__}, not a dict", "Return {}.")
        info = {}
    return obs, _reward(reward, at, report), bool(np.any(terminated)), bool(np.any(truncated)), info


def _reward(reward: Any, at: int, report: Report) -> float:
    if not isinstance(reward, int | float | np.integer | np.floating | np.bool_):
        report.add("error", "reward-type", f"the reward is a {type(reward).__name__} ({reward!r:.40}), not a number",
                   "Return float(reward).")  # fmt: skip
        try:
            reward = float(np.asarray(reward, float).sum())
        except (TypeError, ValueError):
            return 0.0
    if not np.isfinite(reward):
        report.add("error", "reward-not-finite", f"the reward is {float(reward)} at step {at}",
                   "Find the division or logarithm it comes from.")  # fmt: skip
        return 0.0
    return float(reward)


def _play(env: gym.Env, steps: int, seed: int, report: Report) -> None:
    seen, total, length = Seen(), 0.0, 0
    env.action_space.seed(seed)
    obs, info = _reset(env, seed, report)
    look_at_observation(env.observation_space, obs, 0, seen, report)
    since = time.perf_counter()
    for at in range(1, steps + 1):
        kept, before = copy.deepcopy(obs), obs
        action = _action(env, obs, info, report)
        obs, reward, terminated, truncated, info = _step(env, action, at, report)
        _same_memory(kept, before, obs, at, seen, report)
        look_at_observation(env.observation_space, obs, at, seen, report)
        seen.rewards.append(reward)
        total, length = total + reward, length + 1
        if terminated and truncated:
            report.add("note", "both-ends", f"step {at} both terminates and truncates: it counts as terminated",
                       "Return truncated only where the task itself did not end.")  # fmt: skip
        if terminated or truncated:
            seen.lengths.append(length)
            seen.returns.append(total)
            seen.terminated.append(terminated)
            total, length = 0.0, 0
            obs, info = _reset(env, None, report)
    look_at_pace(time.perf_counter() - since, steps, report)
    look_at_episodes(seen, steps, _limit(env), report)
    for key, values in seen.values.items():
        look_at_ranges(key, np.stack(values), report)


def _limit(env: gym.Env) -> int:
    """Steps after which the environment says that it ends, 0 if it does not say."""
    return (env.spec.max_episode_steps if env.spec else 0) or 0


def _action(env: gym.Env, obs: Any, info: Any, report: Report) -> Any:
    own = info.get(MASK) if isinstance(info, dict) else None
    if own is None and isinstance(obs, dict):
        own = obs.get(MASK)
    if own is None:
        return env.action_space.sample()
    try:
        spec = make_action_spec(env.action_space)[0]
        mask = spec.encode_mask(own)
    except UserError as error:
        report.add("error", "mask", error.message.rstrip("."), error.hint)
        return env.action_space.sample()
    if spec.forbids_all(own):
        report.add("error", "mask-forbids-all", "the action mask forbids every action in a running episode",
                   "Allow at least one, or end the episode there.")  # fmt: skip
    return spec.decode_one(spec.random(np.random.default_rng(int(mask.sum())), 1, mask[None])[0])


def _same_memory(kept: Any, before: Any, now: Any, at: int, seen: Seen, report: Report) -> None:
    """Was the observation of the last step written over by this one?"""
    if not _equal(kept, before):
        report.add("error", "obs-overwritten", f"step {at} changes the observation that was returned before it",
                   "Return a copy: return self.state.copy(), ...")  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- looks


def _compare(make: Any, env: gym.Env, seed: int, report: Report, steps: int = 60) -> None:
    """Two environments under one seed, and one environment reset twice."""
    try:
        other = make() if callable(make) else copy.deepcopy(env)
    except Exception as error:
        report.add("note", "no-copy", f"no second environment could be made ({told(error)}): seeds were not compared",
                   "Pass a function that makes the environment.")  # fmt: skip
        return
    if any(finding.code == "reset-no-seed" for finding in report.findings):
        return
    first, second = _rollout(env, seed, steps, report), _rollout(other, seed, steps, report)
    again = _rollout(env, seed, steps, report)
    for name, found in (("two environments", second), ("one environment reset twice", again)):
        for at, (a, b) in enumerate(zip(first, found, strict=False)):
            if not _equal(a, b):
                key = _differs(a[0], b[0])
                report.add(
                    "warning", "not-reproducible", f"{name} with the same seed and actions differ at step {at}{key}",
                    "Draw from self.np_random only, after super().reset(seed=seed), and reset all state.",
                )  # fmt: skip
                break
    if callable(make):
        other.close()


def _differs(a: Any, b: Any) -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        return next((f" ('{key}')" for key in a if not _equal(a[key], b.get(key))), "")
    return ""


def _rollout(env: gym.Env, seed: int, steps: int, report: Report) -> list[Any]:
    env.action_space.seed(seed)
    obs, info = _reset(env, seed, report)
    found = [(copy.deepcopy(obs), 0.0, False, False)]
    for at in range(1, steps + 1):
        obs, *rest, info = _step(env, _action(env, obs, info, report), at, report)
        found.append((copy.deepcopy(obs), *rest))
        if rest[1] or rest[2]:
            break
    return found


def _drawing(env: gym.Env, report: Report) -> None:
    if env.render_mode != "rgb_array":
        report.add("note", "no-film", f"render_mode is {env.render_mode!r}: there will be no films of it",
                   "Accept render_mode='rgb_array' and return a uint8 (H, W, 3) picture from render().")  # fmt: skip
        return
    try:
        picture: Any = env.render()
    except Exception as error:
        report.add("warning", "render-raises", f"render raises {told(error)}", "Without it there are no films.")
        return
    if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.dtype != np.uint8:
        kind = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        report.add("warning", "render-returns", f"render returns {kind}, not a uint8 picture (H, W, 3)",
                   "Return np.uint8 with the channels last.")  # fmt: skip


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return isinstance(b, tuple | list) and len(a) == len(b) and all(map(_equal, a, b))
    try:
        return bool(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True))
    except TypeError:
        return bool(np.all(np.asarray(a) == np.asarray(b)))
