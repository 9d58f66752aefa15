"""Checks of `check_env` on returned values: single observations, their ranges, speed, episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from ...data.data_report import SCALING, large_value, spread_of, uneven_pair
from ...errors import UserError, digits
from ..border import kind_of, pass_on
from ..spaces import MASK, MIN_FLOAT_IMAGE, box_key, leaves, name_of
from .guarded_calls import equal
from .report import CheckReport

SLOW = 0.02  # seconds of a step from which several environments in worker processes may pay
SLOW_RESET = 1.0  # seconds of a reset
KEPT, KEPT_BYTES = 400, 2**25  # observations of a key that are kept for `check_ranges`
HUGE_REWARD = 1e4
MOMENTS = 10  # fewer observations say nothing about ranges


@dataclass
class Seen:
    """What was recorded while the episodes were played."""

    lengths: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    terminated: list[bool] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    reset_seconds: list[float] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    changes: dict[str, list[bool]] = field(default_factory=dict)  # at each step within an episode: the image changed


def check_observation(space: spaces.Space, obs: Any, at: int, seen: Seen, report: CheckReport, *, first: bool) -> None:
    """Check the observation of step `at` against its space and keep it for `check_ranges`. first: of an episode."""
    for path, leaf in leaves(space):
        key, value = name_of(path), obs
        try:
            for part in path:
                value = value[part]
        except (KeyError, IndexError, TypeError):
            report.add(
                "error",
                "key-missing",
                f"the observation of step {at} lacks '{part}', which its space has",
                "Return every key of the space at every step.",
                key,
            )
            continue
        if value is None:
            report.add("error", "obs-none", f"'{key}' is None at step {at}", "Return the observation.", key)
        elif isinstance(leaf, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            check_leaf(leaf, value, key, at, seen, report, first)
    extra = set(obs) - set(space.spaces) if isinstance(space, spaces.Dict) and isinstance(obs, dict) else set()
    for key in sorted(map(str, extra)):
        report.add(
            "warning",
            "key-extra",
            f"the observation has '{key}', which its space lacks: it is not seen",
            "Add it to the observation space, or leave it out.",
            key,
        )


def check_memory(space: spaces.Space, kept: Any, before: Any, now: Any, at: int, report: CheckReport) -> None:
    """Check that step `at` did not write into the observation that was returned before it.

    kept: a copy of that observation, made before the step; before: the observation itself; now: that of step `at`.
    """
    if equal(kept, before):
        return
    for path, _ in leaves(space):
        copied, old, new = (_entry(x, path) for x in (kept, before, now))
        key = name_of(path)
        if old is None or equal(copied, old):
            continue
        if old is new:
            report.add(
                "warning",
                "same-array",
                f"every step returns the same array as '{key}' and writes into it",
                "Return a copy of it: replay memories and wrappers keep what they were given.",
                key,
            )
        else:
            report.add(
                "warning",
                "obs-overwritten",
                f"step {at} changes the '{key}' that was returned before it",
                "Return a copy instead of a view of your own state: array.copy().",
                key,
            )


def _entry(obs: Any, path: tuple[Any, ...]) -> Any:
    try:
        for part in path:
            obs = obs[part]
    except (KeyError, IndexError, TypeError):
        return None
    return obs


# --------------------------------------------------------------------------------------------------- one observation


def require_leaf(space: spaces.Space, value: Any, key: str, at: int, *, image: bool) -> None:
    """Raises UserError for a value that the agent would misread silently. image: whether it is seen as an image."""
    report = CheckReport()
    check_leaf(space, value, key, at, Seen(), report, first=True)
    essential = {"discrete-range", "float-in-uint8"} | ({"float-image-0-255"} if image else set())
    for finding in report.findings:
        if finding.code in essential:
            what = finding.message if finding.message.startswith("the image") else f"observation {finding.message}"
            raise UserError(f"{what}.", finding.fix)


def check_leaf(
    space: spaces.Space, value: Any, key: str, at: int, seen: Seen, report: CheckReport, first: bool
) -> None:
    """Check one entry of an observation, except Text and other spaces that are not seen, and keep it in `seen`."""
    try:
        array = np.asarray(value)
    except BaseException as error:  # ragged lists and other values without a shape
        pass_on(error)
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        report.add(
            "error",
            "obs-type",
            f"'{key}' is {kind_of(value)} at step {at}, not numbers",
            f"Return a NumPy array of {space.dtype}.",
            key,
        )
        return
    if array.shape != (space.shape or ()):
        report.add(
            "error",
            "shape",
            f"'{key}' has the shape {array.shape} at step {at}, its space says {space.shape}",
            "Make them agree: change the space, or what is returned.",
            key,
        )
        return
    _keep(array, key, seen, first)
    if isinstance(space, spaces.Box):
        _check_box(space, value, array, key, at, report)
    elif not _contains(space, array):
        report.add(
            "error",
            "discrete-range",
            f"'{key}' is {array.tolist()!s:.40} at step {at}, outside of {space!s:.80}",
            "Return whole numbers of the space; n choices are 0 to n-1, unless it has a start.",
            key,
        )


def _check_box(space: spaces.Box, value: Any, array: np.ndarray, key: str, at: int, report: CheckReport) -> None:
    """Check type, dtype and numbers of a value of the right shape. array: the value as an array."""
    if not isinstance(value, np.ndarray | np.generic):
        report.add(
            "warning",
            "no-array",
            f"'{key}' is a {type(value).__name__} at step {at}, not a NumPy array",
            f"Return np.asarray(value, np.{space.dtype}).",
            key,
        )
    elif _would_be_dark(space, array):
        report.add(
            "error",
            "float-in-uint8",
            f"'{key}' holds floats up to {array.max():.3g} at step {at}, its space says "
            "uint8 up to 255: the agent would see black",
            "Multiply by 255 and return it as uint8, or declare Box(0, 1, shape, np.float32).",
            key,
        )
        return
    elif array.dtype != space.dtype:
        report.add(
            "warning",
            "dtype",
            f"'{key}' is {array.dtype} at step {at}, its space says {space.dtype}",
            f"Return array.astype(np.{space.dtype}).",
            key,
        )
    _check_numbers(space, array, key, at, report)


def _keep(array: np.ndarray, key: str, seen: Seen, first: bool) -> None:
    kept = seen.values.setdefault(key, [])
    if array.ndim >= 2 and kept and not first:
        seen.changes.setdefault(key, []).append(not np.array_equal(kept[-1], array))
    if len(kept) < min(KEPT, max(2 * MOMENTS, KEPT_BYTES // max(1, array.nbytes))):
        kept.append(np.array(array))
    elif array.ndim >= 2:
        kept[-1] = np.array(array)  # the next one is compared with it


def _contains(space: spaces.Space, array: np.ndarray) -> bool:
    """Whether these are choices of the space, in any type: 2.0 is 2, as where observations are stored."""
    try:
        whole = array.dtype.kind == "b" or (
            array.dtype.kind == "f" and bool((np.abs(array) < 2**53).all() and (array == np.round(array)).all())
        )
        array = array.astype(int) if whole else array
        value = array if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary) else array[()]
        return bool(space.contains(value))
    except BaseException as error:
        pass_on(error)
        return False


def _would_be_dark(space: spaces.Box, array: np.ndarray) -> bool:
    """Whether these are floats up to 1 where uint8 is expected: converted, they are 0 and 1."""
    if space.dtype != np.uint8 or array.dtype.kind != "f" or not array.size:
        return False
    return bool(array.max() <= 1 and (array % 1 != 0).any())


def _check_numbers(space: spaces.Box, array: np.ndarray, key: str, at: int, report: CheckReport) -> None:
    fix = "Find the division, root or logarithm that it comes from."
    for code, bad, what in (("nan", np.isnan(array), "NaN"), ("infinite", np.isinf(array), "infinite")):
        if bad.any():
            report.add("error", code, f"{_which(key, bad)} is {what} at step {at} ({_share(bad)})", fix, key)
            return
    if not array.size or _float_image(space, array, key, at, report):
        return
    out = (array < space.low) | (array > space.high)
    if out.any():
        index = tuple(np.argwhere(out)[0])
        limits = f"{space.low[index]:.6g} to {space.high[index]:.6g}"
        report.add(
            "warning",
            "outside",
            f"{_which(key, out)} is {array[index]:.6g} at step {at}, its space says {limits}",
            "Widen the space to what can happen, or clip.",
            key,
        )


def _float_image(space: spaces.Box, array: np.ndarray, key: str, at: int, report: CheckReport) -> bool:
    """Whether this is an image of floats with the wrong scale; reports it."""
    if array.ndim != 3 or space.dtype.kind != "f" or sorted(array.shape)[1] < MIN_FLOAT_IMAGE:
        return False
    low, high = float(space.low.min()), float(space.high.max())
    fix = "Return uint8 images with Box(0, 255, shape, np.uint8)."
    if array.max() > 1.5 and array.min() >= 0 and high != 255:
        report.add(
            "error",
            "float-image-0-255",
            f"the image '{key}' holds floats up to {array.max():.4g} at step {at}, its space says {low:g} to {high:g}",
            fix,
            key,
        )
        return True
    if _seen_as(space) == "vector":
        report.add(
            "warning",
            "float-image",
            f"'{key}' has the shape of an image, but its space goes from {low:g} to {high:g}: it "
            f"is treated as a vector of {array.size:,} numbers",
            "Declare uint8 with the limits 0 and 255, or floats with 0 and 1.",
            key,
        )
    return False


def _which(key: str, bad: np.ndarray) -> str:
    """The first bad number by name: "'position'[2]"."""
    index = np.argwhere(bad)[0]
    return f"'{key}'" + (f"[{', '.join(map(str, index))}]" if len(index) else "")


def _share(bad: np.ndarray) -> str:
    return f"{int(bad.sum()):,} of {bad.size:,} numbers"


# ----------------------------------------------------------------------------------------------------------- all steps


def check_pace(seen: Seen, report: CheckReport) -> None:
    """Report the speed of steps and resets."""
    step = float(np.mean(seen.step_seconds))
    report.numbers["steps_per_second"] = 1 / max(step, 1e-9)
    speed = f"{1 / max(step, 1e-9):,.0f} steps per second"
    reset = float(np.mean(seen.reset_seconds))
    if reset > 0.01:
        speed += f"; a reset takes {_seconds(reset)}"
    report.facts["speed"] = speed
    if step > SLOW:
        report.add(
            "note",
            "slow",
            f"a step takes {_seconds(step)}",
            "Set env.num_envs=4, for example, and env.backend=async: they are stepped in worker processes.",
        )
    if reset > SLOW_RESET:
        report.add(
            "note",
            "slow-reset",
            f"a reset takes {_seconds(reset)}",
            "Move work that need not be repeated to __init__, or set env.backend=async.",
        )


def _seconds(seconds: float) -> str:
    return f"{digits(1000 * seconds)} ms" if seconds < 0.9995 else f"{digits(seconds)} s"


def check_episodes(seen: Seen, limit: int, report: CheckReport) -> None:
    """Check how episodes end and how large rewards are. limit: the most steps of an episode, 0 if unknown."""
    lengths, rewards, steps = seen.lengths, np.array(seen.rewards), len(seen.rewards)
    if lengths:
        _ends(seen, steps, report)
    elif limit > steps:
        report.facts["episodes"] = f"none ended in {steps:,} random steps; the limit is {limit:,}"
    else:
        report.facts["episodes"] = f"none ended in {steps:,} random steps"
        report.add(
            "warning",
            "never-ends",
            f"no episode ended in {steps:,} steps, neither terminated nor truncated",
            "Return terminated=True when the task is done, or set env.time_limit.",
        )
    if not rewards.any():
        report.add(
            "note",
            "no-reward",
            f"no reward but 0 in {steps:,} random steps",
            "If rewards are that rare, set replay.prioritize=rewards and a longer train.prefill.",
        )
    elif np.abs(rewards).max() > HUGE_REWARD:
        extreme = rewards[np.abs(rewards).argmax()]
        report.add(
            "warning",
            "reward-huge",
            f"rewards reach {extreme:,.6g} (at step {np.abs(rewards).argmax() + 1})",
            "Keep model.reward_transform=symlog (the default), or divide them.",
        )


def _ends(seen: Seen, steps: int, report: CheckReport) -> None:
    lengths, share = seen.lengths, float(np.mean(seen.terminated))
    report.numbers |= {
        "episodes": len(lengths),
        "mean_length": float(np.mean(lengths)),
        "mean_return": float(np.mean(seen.returns)),
        "terminated": share,
    }
    spread = f"{min(lengths)} to {max(lengths)} steps long" if len(set(lengths)) > 1 else f"{lengths[0]} steps long"
    ends = f"{share:.0%} terminated, {1 - share:.0%} truncated"
    mean = digits(float(np.mean(seen.returns)))
    report.facts["episodes"] = f"{len(lengths)} in {steps:,} random steps, {spread}, {ends}; mean return {mean}"
    if len(lengths) > 1 and max(lengths) == 1:
        report.add(
            "error",
            "ends-at-once",
            f"all {len(lengths)} episodes ended at their first step",
            "Check the condition for terminated, and whether reset clears all state.",
        )
    elif len(lengths) > 2 and len(set(lengths)) == 1 and all(seen.terminated):
        report.add(
            "warning",
            "limit-terminates",
            f"all {len(lengths)} episodes terminated after exactly {lengths[0]} steps, as by a time limit",
            "If it is a time limit, return truncated=True there: otherwise the agent learns that the task ended.",
        )


def check_ranges(key: str, space: spaces.Space, seen: Seen, report: CheckReport) -> None:
    """Check that the values of an observation vary and have a suitable scale for learning."""
    values = np.stack(seen.values[key])
    failed = any(known.key == key and known.severity == "error" for known in report.findings)
    if failed or key == MASK or len(values) < MOMENTS or values.size == 0:
        return
    flat = values.reshape(len(values), -1)
    if isinstance(space, spaces.Box) and _seen_as(space) != "vector":
        _image_ranges(key, float(space.high.max()), flat, seen.changes.get(key, []), report)
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
    """ "image" or "vector"; "" for a space that is reported as unusable elsewhere."""
    try:
        return box_key(space).kind
    except UserError:
        return ""


def _image_ranges(key: str, white: float, flat: np.ndarray, changes: list[bool], report: CheckReport) -> None:
    dark = float((flat.max(1) == 0).mean())
    if dark == 1:
        report.add(
            "error",
            "black",
            f"every image '{key}' is black ({len(flat)} checked)",
            "Check that something is drawn; without a display, MuJoCo needs MUJOCO_GL=egl or osmesa.",
            key,
        )
    elif (flat == flat[0]).all():
        report.add(
            "error",
            "frozen",
            f"the image '{key}' never changes ({len(flat)} checked)",
            "Draw it again at every step.",
            key,
        )
    elif white == 255 and flat.max() <= 1:
        report.add(
            "error",
            "scaled-twice",
            f"the image '{key}' is never brighter than {flat.max():.3g} of 255",
            "Multiply by 255 before the cast to uint8, or leave out a division by 255.",
            key,
        )
    elif len(changes) >= MOMENTS and not any(changes):
        report.add(
            "warning",
            "frozen-episodes",
            f"the image '{key}' changes in resets, but at none of {len(changes)} steps",
            "Draw it in step, too.",
            key,
        )
    elif dark > 0.5:
        report.add(
            "note",
            "often-black",
            f"{dark:.0%} of the images '{key}' are black",
            "Nothing to fix if the scene is dark there.",
            key,
        )


def _first(numbers: np.ndarray) -> str:
    return ", ".join(f"{x:g}" for x in numbers[:4]) + (", ..." if len(numbers) > 4 else "")
