"""The looks of `check_env` at what an environment returned: one observation, all of them, whole episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from .findings import Report
from .spaces import leaves, name_of

SLOW = 0.02  # seconds of a step beyond which more environments or workers are worth a thought
KEPT = 400  # observations kept for the looks at ranges


@dataclass
class Seen:
    """What the episodes were like."""

    lengths: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    terminated: list[bool] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    same_array: int = 0


def look_at_observation(space: spaces.Space, obs: Any, at: int, seen: Seen, report: Report) -> None:
    """Does the observation of step `at` agree with its space? Keeps it for `look_at_ranges`."""
    for path, leaf in leaves(space):
        key, value = name_of(path), obs
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                report.add("error", "key-missing", f"the observation of step {at} lacks '{part}', which its space has",
                           "Return every key of the space in every step.", key)  # fmt: skip
                value = None
                break
        if value is None:
            if not path:
                report.add("error", "obs-none", f"the observation of step {at} is None", "Return it.", key)
            continue
        _leaf(leaf, value, key, at, seen, report)
    if isinstance(space, spaces.Dict) and isinstance(obs, dict) and set(obs) - set(space.spaces):
        extra = sorted(map(str, set(obs) - set(space.spaces)))
        report.add("warning", "key-extra", f"the observation has '{extra[0]}', which its space lacks: it is not seen",
                   "Add it to the observation space, or leave it out.")  # fmt: skip


def _leaf(space: spaces.Space, value: Any, key: str, at: int, seen: Seen, report: Report) -> None:
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return  # told already
    if isinstance(space, spaces.Discrete):
        if not space.contains(value):
            report.add("error", "discrete-range", f"'{key}' is {value!r:.40} at step {at}, outside of {space}",
                       "Return an integer of the space.", key)  # fmt: skip
        return
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        report.add("error", "obs-type", f"'{key}' is a {type(value).__name__} of {array.dtype} at step {at}",
                   "Return a NumPy array of the space's dtype.", key)  # fmt: skip
        return
    if array.shape != space.shape:
        report.add("error", "shape", f"'{key}' has the shape {array.shape} at step {at}, its space says {space.shape}",
                   "Make them agree.", key)  # fmt: skip
        return
    if len(seen.values.setdefault(key, [])) < KEPT:
        seen.values[key].append(np.array(array))
    if not isinstance(space, spaces.Box):
        return
    if array.dtype != space.dtype:
        severity = "warning" if np.can_cast(array.dtype, space.dtype or float, "same_kind") else "error"
        report.add(severity, "dtype", f"'{key}' is {array.dtype}, its space says {space.dtype}",
                   f"Return it as {space.dtype}: array.astype(np.{space.dtype}).", key)  # fmt: skip
    _numbers(space, array, key, at, report)


def _numbers(space: spaces.Box, array: np.ndarray, key: str, at: int, report: Report) -> None:
    if np.isnan(array).any():
        report.add(
            "error", "nan", f"'{key}' contains NaN at step {at}", "Find the division or root it comes from.", key
        )
        return
    if np.isinf(array).any():
        report.add("error", "infinite", f"'{key}' contains infinity at step {at}", "Clip it to a large number.", key)
        return
    picture = array.ndim == 3 and array.dtype.kind == "f"
    if picture and array.max() > 1.5 and space.high.max() <= 1:
        report.add(
            "error", "float-image-255",
            f"the picture '{key}' holds floats up to {array.max():.4g}, its space ends at {space.high.max():g}",
            "Return uint8 pictures with Box(0, 255, shape, np.uint8).", key,
        )  # fmt: skip
        return
    if ((array < space.low) | (array > space.high)).any():
        low, high = array.min(), array.max()
        report.add("error", "outside", f"'{key}' goes from {low:.4g} to {high:.4g} at step {at}, outside of its space "
                   f"({space.low.min():.4g} to {space.high.max():.4g})", "Widen the space, or clip.", key)  # fmt: skip
    if picture and min(sorted(array.shape)[1:]) >= 16 and not (space.low.min() == 0 and space.high.max() in (1, 255)):
        report.add("warning", "float-image", f"'{key}' looks like a picture of floats, and is seen as a long vector",
                   "Declare uint8 with 0..255, or floats with 0..1; or set env.obs_images.", key)  # fmt: skip


def look_at_pace(seconds: float, steps: int, report: Report) -> None:
    """How fast is it?"""
    report.facts["speed"] = f"{steps / max(seconds, 1e-9):,.0f} steps per second, checks included"
    if seconds / steps > SLOW:
        report.add("note", "slow", f"a step takes {1000 * seconds / steps:.0f} ms",
                   "Set env.num_envs to some, with env.backend=async.")  # fmt: skip


def look_at_episodes(seen: Seen, steps: int, limit: int, report: Report) -> None:
    """Do episodes end, and how? What are rewards like? limit: steps after which they must, 0 if that is not known."""
    lengths, rewards = seen.lengths, np.array(seen.rewards)
    if not lengths and limit <= steps:
        report.add("warning", "never-ends", f"no episode ended in {steps} steps",
                   "Play more (--steps); set env.time_limit, or terminate when the task is done.")  # fmt: skip
    if lengths:
        share = np.mean(seen.terminated)
        report.facts["episodes"] = (
            f"{len(lengths)}, {np.mean(lengths):.0f} steps on average; return {np.mean(seen.returns):.3g} at random; "
            f"{share:.0%} terminated, {1 - share:.0%} truncated"
        )
        if len(lengths) > 1 and max(lengths) == 1:
            report.add("error", "ends-at-once", f"all {len(lengths)} episodes ended at their first step",
                       "Look at the condition for terminated, and at what reset forgets.")  # fmt: skip
        elif len(lengths) > 2 and len(set(lengths)) == 1 and all(seen.terminated):
            report.add(
                "warning", "limit-terminates",
                f"all {len(lengths)} episodes terminated after exactly {lengths[0]} steps, as by a time limit",
                "Return truncated=True for a time limit: the agent must not believe that the task was over.",
            )  # fmt: skip
    if not rewards.any():
        report.add("note", "no-reward", f"no reward but 0 in {steps} random steps",
                   "If that is so rare, set replay.prioritize=rewards and a longer train.prefill.")  # fmt: skip
    elif np.abs(rewards).max() > 1e4:
        report.add("warning", "reward-huge", f"rewards reach {np.abs(rewards).max():.3g}",
                   "Divide them, or set model.reward_transform=symlog.")  # fmt: skip


def look_at_ranges(key: str, values: np.ndarray, report: Report) -> None:
    """Do the values (N, *shape) of an observation make sense as numbers to learn from?"""
    if len(values) < 10 or values.size == 0 or not np.isfinite(values).all():
        return
    flat = values.reshape(len(values), -1).astype(np.float64)
    if values.ndim == 4:
        if flat.max() == 0:
            report.add("error", "black", f"every picture '{key}' is black", "Is it drawn? Does it need a GPU?", key)
        elif (flat == flat[0]).all():
            report.add("error", "frozen", f"the picture '{key}' never changes", "Draw it anew in every step.", key)
        elif values.dtype == np.uint8 and flat.max() <= 1:
            report.add("error", "scaled-twice", f"the uint8 picture '{key}' holds only 0 and 1 of 255",
                       "Multiply by 255 before the cast to uint8.", key)  # fmt: skip
        return
    spread = flat.std(0)
    if not spread.any():
        report.add("warning", "constant", f"'{key}' never changes", f"Leave it out, or set env.obs_ignore={key}.", key)
    elif (spread == 0).any():
        dead = np.flatnonzero(spread == 0)
        report.add("note", "constant-parts", f"{len(dead)} of {len(spread)} numbers of '{key}' never change "
                   f"(the first is number {dead[0]})", "Nothing, if that is so in this task.", key)  # fmt: skip
    moving = spread[spread > 0]
    if len(moving) > 1 and moving.max() > 1000 * moving.min():
        ratio = moving.max() / moving.min()
        report.add("warning", "scales", f"the numbers of '{key}' differ {ratio:,.0f} times in scale",
                   "Set model.vector_transform=standardize, running or symlog.", key)  # fmt: skip
