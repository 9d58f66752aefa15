"""The looks of `check_env` at what an environment returned: one observation, all of them, whole episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from ...data.data_report import SCALING, large_value, spread_of, uneven_pair
from ...errors import UserError
from ..spaces import MASK, MIN_FLOAT_IMAGE, box_key, leaves, name_of
from .guarded_calls import equal, kind_of
from .report import CheckReport

SLOW = 0.02  # seconds of a step beyond which more environments or workers are worth a thought
SLOW_RESET = 1.0  # seconds
KEPT, KEPT_BYTES = 400, 2**25  # observations of a key that are kept for the looks at ranges
HUGE_REWARD = 1e4
MOMENTS = 10  # fewer observations say nothing about ranges


@dataclass
class Seen:
    """What the episodes were like."""

    lengths: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    terminated: list[bool] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    reset_seconds: list[float] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    changes: dict[str, list[bool]] = field(default_factory=dict)  # did a picture change, at each step in an episode?


def look_at_observation(
    space: spaces.Space, obs: Any, at: int, seen: Seen, report: CheckReport, *, first: bool
) -> None:
    """Does the observation of step `at` agree with its space? Keeps it for `look_at_ranges`. first: of an episode."""
    for path, leaf in leaves(space):
        key, value = name_of(path), obs
        try:
            for part in path:
                value = value[part]
        except (KeyError, IndexError, TypeError):
            report.add(
                "error", "key-missing", f"the observation of step {at} lacks '{part}', which its space has",
                "Return every key of the space at every step.", key,
            )  # fmt: skip
            continue
        if value is None:
            report.add("error", "obs-none", f"'{key}' is None at step {at}", "Return the observation.", key)
        elif isinstance(leaf, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            _leaf(leaf, value, key, at, seen, report, first)
    extra = set(obs) - set(space.spaces) if isinstance(space, spaces.Dict) and isinstance(obs, dict) else set()
    for key in sorted(map(str, extra)):
        report.add(
            "warning", "key-extra", f"the observation has '{key}', which its space lacks: it is not seen",
            "Add it to the observation space, or leave it out.", key,
        )  # fmt: skip


def look_at_memory(space: spaces.Space, kept: Any, before: Any, now: Any, at: int, report: CheckReport) -> None:
    """Was the observation that was returned last (kept: a copy of then, before: itself) written over by step `at`?"""
    if equal(kept, before):
        return
    for path, _ in leaves(space):
        then, old, new = (_entry(x, path) for x in (kept, before, now))
        key = name_of(path)
        if old is None or equal(then, old):
            continue
        if old is new:
            report.add(
                "warning", "same-array", f"every step returns the same array as '{key}' and writes into it",
                "Return a copy of it: replay memories and wrappers keep what they were given.", key,
            )  # fmt: skip
        else:
            report.add(
                "warning", "obs-overwritten", f"step {at} changes the '{key}' that was returned before it",
                "Return a copy instead of a view of your own state: array.copy().", key,
            )  # fmt: skip


def _entry(obs: Any, path: tuple[Any, ...]) -> Any:
    try:
        for part in path:
            obs = obs[part]
    except (KeyError, IndexError, TypeError):
        return None
    return obs


# ------------------------------------------------------------------------------------------------------------ one value


def _leaf(space: spaces.Space, value: Any, key: str, at: int, seen: Seen, report: CheckReport, first: bool) -> None:
    try:
        array = np.asarray(value)
    except Exception:  # ragged lists and stranger things
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        report.add(
            "error", "obs-type", f"'{key}' is {kind_of(value)} at step {at}, not numbers",
            f"Return a NumPy array of {space.dtype}.", key,
        )  # fmt: skip
        return
    if array.shape != (space.shape or ()):
        report.add(
            "error", "shape", f"'{key}' has the shape {array.shape} at step {at}, its space says {space.shape}",
            "Make them agree: change the space, or what is returned.", key,
        )  # fmt: skip
        return
    _keep(array, key, seen, first)
    if not isinstance(space, spaces.Box):
        if not _contains(space, array):
            report.add(
                "error", "discrete-range", f"'{key}' is {array.tolist()!s:.40} at step {at}, outside of {space!s:.80}",
                "Return whole numbers of the space; n choices are 0 to n-1, unless it has a start.", key,
            )  # fmt: skip
        return
    if not isinstance(value, np.ndarray | np.generic):
        report.add(
            "warning", "no-array", f"'{key}' is a {type(value).__name__} at step {at}, not a NumPy array",
            f"Return np.asarray(value, np.{space.dtype}).", key,
        )  # fmt: skip
    elif _would_be_dark(space, array):
        report.add(
            "error", "float-in-uint8", f"'{key}' holds floats up to {array.max():.3g} at step {at}, its space says "
            "uint8 up to 255: it would be seen as black",
            "Multiply by 255 and return it as uint8, or declare Box(0, 1, shape, np.float32).", key,
        )  # fmt: skip
        return
    elif array.dtype != space.dtype:
        report.add(
            "warning", "dtype",
            f"'{key}' is {array.dtype} at step {at}, its space says {space.dtype}",
            f"Return array.astype(np.{space.dtype}).", key,
        )  # fmt: skip
    _numbers(space, array, key, at, report)


def _keep(array: np.ndarray, key: str, seen: Seen, first: bool) -> None:
    kept = seen.values.setdefault(key, [])
    if array.ndim >= 2 and kept and not first:
        seen.changes.setdefault(key, []).append(not np.array_equal(kept[-1], array))
    if len(kept) < min(KEPT, max(2 * MOMENTS, KEPT_BYTES // max(1, array.nbytes))):
        kept.append(np.array(array))
    elif array.ndim >= 2:
        kept[-1] = np.array(array)  # what the next one is compared with


def _contains(space: spaces.Space, array: np.ndarray) -> bool:
    try:
        array = array.astype(int) if array.dtype.kind == "b" else array
        value = array if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary) else array[()]
        return bool(space.contains(value))
    except Exception:
        return False


def _would_be_dark(space: spaces.Box, array: np.ndarray) -> bool:
    """Floats up to 1 where uint8 is expected: as whole numbers they are 0 and 1."""
    if space.dtype != np.uint8 or array.dtype.kind != "f" or not array.size:
        return False
    return bool(array.max() <= 1 and (array % 1 != 0).any())


def _numbers(space: spaces.Box, array: np.ndarray, key: str, at: int, report: CheckReport) -> None:
    fix = "Find the division, root or logarithm that it comes from."
    for code, bad, what in (("nan", np.isnan(array), "NaN"), ("infinite", np.isinf(array), "infinite")):
        if bad.any():
            report.add("error", code, f"{_which(key, bad)} is {what} at step {at} ({_share(bad)})", fix, key)
            return
    if not array.size or _float_picture(space, array, key, at, report):
        return
    out = (array < space.low) | (array > space.high)
    if out.any():
        index = tuple(np.argwhere(out)[0])
        limits = f"{space.low[index]:.6g} to {space.high[index]:.6g}"
        report.add(
            "warning", "outside", f"{_which(key, out)} is {array[index]:.6g} at step {at}, its space says {limits}",
            "Widen the space to what can happen, or clip.", key,
        )  # fmt: skip


def _float_picture(space: spaces.Box, array: np.ndarray, key: str, at: int, report: CheckReport) -> bool:
    """Is this a picture of floats on a scale that is not seen? Then it is told."""
    if array.ndim != 3 or space.dtype.kind != "f" or sorted(array.shape)[1] < MIN_FLOAT_IMAGE:
        return False
    low, high = float(space.low.min()), float(space.high.max())
    fix = "Return uint8 pictures with Box(0, 255, shape, np.uint8)."
    if array.max() > 1.5 and array.min() >= 0 and high != 255:
        report.add(
            "error", "float-image-0-255", f"the picture '{key}' holds floats up to {array.max():.4g} at step {at}, "
            f"its space says {low:g} to {high:g}", fix, key,
        )  # fmt: skip
        return True
    if _seen_as(space) == "vector":
        report.add(
            "warning", "float-image", f"'{key}' looks like a picture, but its space goes from {low:g} to {high:g}: it "
            f"is seen as a vector of {array.size:,} numbers",
            "Declare uint8 with the limits 0 and 255, or floats with 0 and 1.", key,
        )  # fmt: skip
    return False


def _which(key: str, bad: np.ndarray) -> str:
    """The first of the numbers that are bad: 'position'[2]."""
    index = np.argwhere(bad)[0]
    return f"'{key}'" + (f"[{', '.join(map(str, index))}]" if len(index) else "")


def _share(bad: np.ndarray) -> str:
    return f"{int(bad.sum()):,} of {bad.size:,} numbers"


# ---------------------------------------------------------------------------------------------------------- all of them


def look_at_pace(seen: Seen, report: CheckReport) -> None:
    """How fast is it?"""
    step = float(np.mean(seen.step_seconds))
    report.numbers["steps_per_second"] = 1 / max(step, 1e-9)
    told = f"{1 / max(step, 1e-9):,.0f} steps per second"
    reset = float(np.mean(seen.reset_seconds))
    if reset > 0.01:
        told += f"; a reset takes {_seconds(reset)}"
    report.facts["speed"] = told
    if step > SLOW:
        report.add(
            "note", "slow", f"a step takes {_seconds(step)}",
            "Set env.num_envs=4, say, and env.backend=async: they are stepped in processes.",
        )  # fmt: skip
    if reset > SLOW_RESET:
        report.add(
            "note", "slow-reset", f"a reset takes {_seconds(reset)}",
            "Do once in __init__ what does not change, or set env.backend=async.",
        )  # fmt: skip


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def look_at_episodes(seen: Seen, limit: int, report: CheckReport) -> None:
    """Do episodes end, and how? What are rewards like? limit: steps after which they must, 0 if that is not known."""
    lengths, rewards, steps = seen.lengths, np.array(seen.rewards), len(seen.rewards)
    if lengths:
        _ends(seen, steps, report)
    elif limit > steps:
        report.facts["episodes"] = f"none ended in {steps:,} random steps; the limit is {limit:,}"
    else:
        report.facts["episodes"] = f"none ended in {steps:,} random steps"
        report.add(
            "warning", "never-ends", f"no episode ended in {steps:,} steps, neither terminated nor truncated",
            "Return terminated=True when the task is done, or set env.time_limit.",
        )  # fmt: skip
    if not rewards.any():
        report.add(
            "note", "no-reward", f"no reward but 0 in {steps:,} random steps",
            "If rewards are that rare: replay.prioritize=rewards, and a longer train.prefill.",
        )  # fmt: skip
    elif np.abs(rewards).max() > HUGE_REWARD:
        extreme = rewards[np.abs(rewards).argmax()]
        report.add(
            "warning", "reward-huge", f"rewards reach {extreme:,.6g} (at step {np.abs(rewards).argmax() + 1})",
            "Keep model.reward_transform=symlog (the default), or divide them.",
        )  # fmt: skip


def _ends(seen: Seen, steps: int, report: CheckReport) -> None:
    lengths, share = seen.lengths, float(np.mean(seen.terminated))
    report.numbers |= {
        "episodes": len(lengths), "mean_length": float(np.mean(lengths)), "mean_return": float(np.mean(seen.returns)),
        "terminated": share,
    }  # fmt: skip
    spread = f"{min(lengths)} to {max(lengths)} steps long" if len(set(lengths)) > 1 else f"{lengths[0]} steps long"
    ends = f"{share:.0%} terminated, {1 - share:.0%} truncated"
    report.facts["episodes"] = (
        f"{len(lengths)} in {steps:,} random steps, {spread}, {ends}; mean return {np.mean(seen.returns):.4g}"
    )
    if len(lengths) > 1 and max(lengths) == 1:
        report.add(
            "error", "ends-at-once", f"all {len(lengths)} episodes ended at their first step",
            "Look at the condition for terminated, and at what reset forgets.",
        )  # fmt: skip
    elif len(lengths) > 2 and len(set(lengths)) == 1 and all(seen.terminated):
        report.add(
            "warning", "limit-terminates",
            f"all {len(lengths)} episodes terminated after exactly {lengths[0]} steps, as by a time limit",
            "If it is one, return truncated=True there: otherwise the agent learns that the task was over.",
        )  # fmt: skip


def look_at_ranges(key: str, space: spaces.Space, seen: Seen, report: CheckReport) -> None:
    """Do the values of an observation make sense as numbers to learn from?"""
    values = np.stack(seen.values[key])
    told = any(known.key == key and known.severity == "error" for known in report.findings)
    if told or key == MASK or len(values) < MOMENTS or values.size == 0:
        return
    flat = values.reshape(len(values), -1)
    if isinstance(space, spaces.Box) and _seen_as(space) != "vector":
        _picture_ranges(key, float(space.high.max()), flat, seen.changes.get(key, []), report)
        return
    spread = spread_of(flat)
    if not spread.any():
        report.add(
            "warning", "constant", f"'{key}' never changes: it is always {_first(flat[0])}",
            f"Leave it out, or set env.obs_ignore={key}.", key,
        )  # fmt: skip
        return
    still = np.flatnonzero(spread == 0)
    if len(still):
        report.add(
            "note", "constant-parts", f"{len(still)} of the {len(spread)} numbers of '{key}' never change: "
            f"{', '.join(map(str, still[:6]))}{', ...' if len(still) > 6 else ''}",
            "Nothing, if that is so in this task; otherwise look where they are filled in.", key,
        )  # fmt: skip
    if not isinstance(space, spaces.Box):
        return  # one-hot, or 0 and 1
    if pair := uneven_pair(spread):
        low, high = pair
        report.add(
            "warning", "scales", f"'{key}'[{high}] varies {spread[high] / spread[low]:,.0f} times more than "
            f"'{key}'[{low}] (by {spread[high]:.3g} and {spread[low]:.3g})", SCALING, key,
        )  # fmt: skip
    elif (extreme := large_value(flat)) is not None:
        report.add("warning", "large", f"'{key}' reaches {extreme:,.6g}", SCALING, key)


def _seen_as(space: spaces.Box) -> str:
    """ "image" or "vector"; "" for what was told of the space already."""
    try:
        return box_key(space).kind
    except UserError:
        return ""


def _picture_ranges(key: str, white: float, flat: np.ndarray, changes: list[bool], report: CheckReport) -> None:
    dark = float((flat.max(1) == 0).mean())
    if dark == 1:
        report.add(
            "error", "black", f"every picture '{key}' is black ({len(flat)} looked at)",
            "Look whether anything is drawn; without a display, MuJoCo needs MUJOCO_GL=egl or osmesa.", key,
        )  # fmt: skip
    elif (flat == flat[0]).all():
        report.add(
            "error", "frozen", f"the picture '{key}' never changes ({len(flat)} looked at)",
            "Draw it anew at every step.", key,
        )  # fmt: skip
    elif white == 255 and flat.max() <= 1:
        report.add(
            "error", "scaled-twice", f"the picture '{key}' is never brighter than {flat.max():.3g} of 255",
            "Multiply by 255 before the cast to uint8, or leave out a division by 255.", key,
        )  # fmt: skip
    elif len(changes) >= MOMENTS and not any(changes):
        report.add(
            "warning", "frozen-episodes", f"the picture '{key}' changes in resets, but at none of {len(changes)} steps",
            "Draw it in step, too.", key,
        )  # fmt: skip
    elif dark > 0.5:
        report.add(
            "note", "often-black", f"{dark:.0%} of the pictures '{key}' are black", "Nothing, if it is dark there.", key
        )


def _first(numbers: np.ndarray) -> str:
    return ", ".join(f"{x:g}" for x in numbers[:4]) + (", ..." if len(numbers) > 4 else "")
