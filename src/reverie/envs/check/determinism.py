"""Does the same seed give the same episode? Part of `check_env`."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from .guarded_calls import Broken, equal, reset, step
from .report import CheckReport

PATIENCE = 5.0  # seconds of one rollout
ROUNDING = 1e-5  # differences up to this are the arithmetic's, relative to the numbers

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
    """Roll out a fresh environment and one that was played with under one seed; tell the first difference.

    What differs is either random numbers that the seed does not reach, or something that reset leaves behind: another
    fresh environment tells which.
    """
    found = CheckReport()  # what is found here again was told before

    def roll(env: gym.Env) -> list[Any]:
        return _rollout(env, policy(seed), seed, steps, found)

    try:
        first = roll(fresh)
        difference = _difference(first, roll(played))
        if difference is not None:
            third = another()
            unseeded = _difference(first, roll(third)) is not None
            third.close()
            _tell(*difference, seed, report, unseeded=unseeded)
    except Broken:
        pass
    report.merge(found)


def _tell(at: int, where: str, size: float, seed: int, report: CheckReport, *, unseeded: bool) -> None:
    what = f"at step {at} in {where}" + (f" (by {size:.2g} of it)" if np.isfinite(size) else "")
    if 0 < size < ROUNDING:
        fix = "Nothing: so little does not matter to learning."
        report.add("note", "rounding", f"two episodes of seed {seed} differ by rounding {what}", fix)
    elif unseeded:
        fix = "Draw from self.np_random only, after super().reset(seed=seed)."
        message = f"two environments with seed {seed} and the same actions differ {what}"
        report.add("warning", "not-reproducible", message, fix)
    else:
        fix = "Let reset set everything anew that step changes."
        message = f"an environment reset with seed {seed} again differs from a new one {what}"
        report.add("warning", "reset-forgets", message, fix)


def _rollout(env: gym.Env, choose: Choose, seed: int, steps: int, report: CheckReport) -> list[Any]:
    """[(observation, reward, terminated, truncated)], to the first end."""
    until = time.perf_counter() + PATIENCE
    obs, info = reset(env, seed, report)
    found = [(copy.deepcopy(obs), 0.0, False, False)]
    for at in range(1, steps + 1):
        obs, *rest, info = step(env, choose(env, obs, info, report), at, report)
        found.append((copy.deepcopy(obs), *rest))
        if rest[1] or rest[2] or time.perf_counter() > until:
            break
    return found


def _difference(first: list[Any], second: list[Any]) -> tuple[int, str, float] | None:
    """(step, what, how much relative to the numbers; infinite for no numbers) of the first difference."""
    for at, (a, b) in enumerate(zip(first, second, strict=False)):
        for name, left, right in zip(("observation", "reward", "terminated", "truncated"), a, b, strict=True):
            if not equal(left, right):
                key, left, right = _inside(name, left, right)
                return at, key, _distance(left, right)
    return None


def _inside(name: str, a: Any, b: Any) -> tuple[str, Any, Any]:
    """The first entry of a Dict observation that differs."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a:
            if not equal(a[key], b.get(key)):
                return _inside(f"{name}/{key}" if name != "observation" else str(key), a[key], b.get(key))
    return f"'{name}'" if name != "reward" else "the reward", a, b


def _distance(a: Any, b: Any) -> float:
    try:
        left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return float(np.abs(left - right).max() / (1 + np.abs(left).max()))
    except Exception:
        return float("inf")
