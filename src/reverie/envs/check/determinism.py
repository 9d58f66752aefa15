"""The reproducibility check of `check_env`: whether the same seed gives the same episode."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from ..border import pass_on
from .guarded_calls import Broken, equal, reset, step
from .report import CheckReport

PATIENCE = 5.0  # seconds after which a rollout is cut
ROUNDING = 1e-5  # relative differences up to this are rounding

Choose = Callable[[gym.Env, Any, Any, CheckReport], Any]  # (environment, observation, info, report) -> action


def compare(
    played: gym.Env,
    fresh: gym.Env,
    another: Callable[[], gym.Env],
    policy: Callable[[int], Choose],
    seed: int,
    steps: int,
    report: CheckReport,
) -> None:
    """Roll out a fresh and a used environment under one seed and report the first difference.

    A difference comes either from random numbers that the seed does not control or from state that reset does not
    clear: a second fresh environment decides which.
    """
    found = CheckReport()  # merged at the end, so that known findings are not counted again

    def roll(env: gym.Env) -> list[Any]:
        return _rollout(env, policy(seed), seed, steps, found)

    try:
        first = roll(fresh)
        difference = _difference(first, roll(played))
        if difference is not None:
            third = another()
            unseeded = _difference(first, roll(third)) is not None
            third.close()
            _report_difference(*difference, seed, report, unseeded=unseeded)
    except Broken:
        pass
    report.merge(found)


def _report_difference(at: int, where: str, size: float, seed: int, report: CheckReport, *, unseeded: bool) -> None:
    what = f"at step {at} in {where}" + (f" (by {size:.2g} of its size)" if np.isfinite(size) else "")
    if 0 < size < ROUNDING:
        fix = "Nothing to fix: learning does not notice such a difference."
        report.add("note", "rounding", f"two episodes of seed {seed} differ by rounding {what}", fix)
    elif unseeded:
        fix = "Draw from self.np_random only, after super().reset(seed=seed)."
        message = f"two environments with seed {seed} and the same actions differ {what}"
        report.add("warning", "not-reproducible", message, fix)
    else:
        fix = "In reset, set everything again that step changes."
        message = f"an environment that is reset with seed {seed} differs from a new one {what}"
        report.add("warning", "reset-forgets", message, fix)


def _rollout(env: gym.Env, choose: Choose, seed: int, steps: int, report: CheckReport) -> list[Any]:
    """[(observation, reward, terminated, truncated)] up to the first end of an episode."""
    until = time.perf_counter() + PATIENCE
    obs, info = reset(env, seed, report)
    trajectory = [(copy.deepcopy(obs), 0.0, False, False)]
    for at in range(1, steps + 1):
        obs, *rest, info = step(env, choose(env, obs, info, report), at, report)
        trajectory.append((copy.deepcopy(obs), *rest))
        if rest[1] or rest[2] or time.perf_counter() > until:
            break
    return trajectory


def _difference(first: list[Any], second: list[Any]) -> tuple[int, str, float] | None:
    """(step, what, relative size) of the first difference, None without one; the size of other than numbers is inf."""
    for at, (a, b) in enumerate(zip(first, second, strict=False)):
        for name, left, right in zip(("observation", "reward", "terminated", "truncated"), a, b, strict=True):
            if not equal(left, right):
                key, left, right = _first_difference(name, left, right)
                return at, key, _distance(left, right)
    return None


def _first_difference(name: str, a: Any, b: Any) -> tuple[str, Any, Any]:
    """(name, value, value) of the first entry of a Dict observation that differs."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a:
            if not equal(a[key], b.get(key)):
                return _first_difference(f"{name}/{key}" if name != "observation" else str(key), a[key], b.get(key))
    return f"'{name}'" if name != "reward" else "the reward", a, b


def _distance(a: Any, b: Any) -> float:
    try:
        left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return float(np.abs(left - right).max() / (1 + np.abs(left).max()))
    except BaseException as error:
        pass_on(error)
        return float("inf")
