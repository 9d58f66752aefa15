"""Guarded calls of an environment for `check_env`: exceptions become findings, return values get the right form.

A fault after which the environment cannot be stepped is reported and raises `Broken`. After any other fault the values
are repaired, so that one mistake does not hide the next.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np

from ...errors import UserError
from ..border import (
    SIGNATURE,
    describe_error,
    five_values,
    inside_of,
    kind_of,
    observation_and_info,
    pass_on,
    text_of,
)
from .report import CheckReport


class Broken(Exception):
    """Raised when the environment cannot be stepped any further; the report has the reason."""


def attempt(report: CheckReport, severity: str, code: str, what: str, fix: str, work: Callable[[], Any]) -> Any:
    """The result of `work`; None if it raises, which is reported."""
    try:
        return work()
    except BaseException as error:
        pass_on(error)
        report.add(severity, code, f"{what} raises {describe_error(error)}", fix)
        return None


# ---------------------------------------------------------------------------------------------------------------- reset


def reset(env: gym.Env, seed: int | None, report: CheckReport) -> tuple[Any, dict[str, Any]]:
    """observation, info. Raises Broken."""
    wanted: dict[str, Any] = {"seed": seed, "options": None}
    while True:
        try:
            return _observation_and_info(env, env.reset(**wanted), report)
        except BaseException as error:
            pass_on(error)
            refused = [x for x in ("seed", "options") if f"unexpected keyword argument '{x}'" in text_of(error)]
            if not refused or not isinstance(error, TypeError):
                failed("reset", error, report)
            if refused[0] not in wanted:  # a wrapper passes it nevertheless
                raise Broken from error
            if len(wanted) == 2:  # one finding is enough if it takes neither
                refuses = f"reset of {type(inside_of(env)).__name__} does not take '{refused[0]}'"
                report.add("error", f"reset-no-{refused[0]}", refuses, SIGNATURE)
            del wanted[refused[0]]


def _observation_and_info(env: gym.Env, result: Any, report: CheckReport) -> tuple[Any, dict[str, Any]]:
    try:
        obs, info = observation_and_info(env, result)
    except UserError as error:
        report.add("error", "reset-returns", error.message.rstrip("."), error.hint)
        return result, {}
    if isinstance(info, dict):
        return obs, info
    report.add("error", "info-no-dict", f"the info of reset is {kind_of(info)}, not a dict", "Return {} if empty.")
    return obs, {}


def failed(what: str, error: BaseException, report: CheckReport) -> NoReturn:
    """Report an exception of the environment. Raises Broken."""
    report.add("error", f"{what}-raises", f"{what} raises {describe_error(error)}", f"Fix {what} at that line.")
    raise Broken from error


# ----------------------------------------------------------------------------------------------------------------- step


def step(env: gym.Env, action: Any, at: int, report: CheckReport) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """observation, reward, terminated, truncated, info. at: number of the step. Raises Broken."""
    before = copy.deepcopy(action)
    try:
        result = env.step(action)
    except BaseException as error:
        pass_on(error)
        if inside_of(env) is not env:  # a wrapper may have failed on the values that step returned
            _step_unwrapped(inside_of(env), action, report)
        failed("step", error, report)
    _require_five(result, report)
    obs, reward, terminated, truncated, info = result
    if not equal(before, action):
        report.add(
            "warning",
            "action-changed",
            f"step changes the action that it is given (at step {at})",
            "Work on a copy: action = np.array(action).",
        )
    if not isinstance(info, dict):
        report.add("error", "step-info", f"the info of step {at} is {kind_of(info)}, not a dict", "Return {} if empty.")
        info = {}
    ends = [_flag(name, value, at, report) for name, value in (("terminated", terminated), ("truncated", truncated))]
    return obs, _reward(reward, at, report), ends[0], ends[1], info


def _step_unwrapped(env: gym.Env, action: Any, report: CheckReport) -> None:
    try:
        result = env.step(action)
    except BaseException as error:
        pass_on(error)
        return
    _require_five(result, report)


def _require_five(result: Any, report: CheckReport) -> None:
    try:
        five_values(result)
    except UserError as error:
        four = isinstance(result, tuple | list) and len(result) == 4
        report.add("error", "step-four" if four else "step-returns", error.message.rstrip("."), error.hint)
        raise Broken from error


def _flag(name: str, value: Any, at: int, report: CheckReport) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    try:
        severity, meant = "warning", bool(np.asarray(value, float).item())
    except BaseException as error:  # the meaning is unknown
        pass_on(error)
        severity, meant = "error", False
    if value is None:
        severity, meant = "error", False
    report.add(
        severity, "flag-no-bool", f"{name} is {kind_of(value)} at step {at}, not a bool", f"Return bool({name})."
    )
    return meant


def _reward(value: Any, at: int, report: CheckReport) -> float:
    try:
        number = float(np.asarray(value, float).sum())
    except BaseException as error:
        pass_on(error)
        number = float("nan")
    if not isinstance(value, int | float | np.integer | np.floating | np.bool_):
        severity = "warning" if isinstance(value, np.ndarray) and value.ndim == 0 else "error"
        report.add(
            severity,
            "reward-type",
            f"the reward is {kind_of(value)} at step {at}, not a number",
            "Return float(reward).",
        )
        return number if np.isfinite(number) else 0.0
    if np.isfinite(number):
        return number
    fix = "Find the division or logarithm that it comes from."
    report.add("error", "reward-not-finite", f"the reward is {number} at step {at}", fix)
    return 0.0


def equal(a: Any, b: Any) -> bool:
    """Whether two observations or actions are the same to the last bit. NaN equals NaN.

    Values that cannot be compared count as different.
    """
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return isinstance(b, tuple | list) and len(a) == len(b) and all(map(equal, a, b))
    try:
        left, right = np.asarray(a), np.asarray(b)
        return bool(np.array_equal(left, right, equal_nan=left.dtype.kind in "fc" and right.dtype.kind in "fc"))
    except BaseException as error:
        pass_on(error)
        return a is b
