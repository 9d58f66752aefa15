"""One process or several? Measured, because nobody can know it: for a few tenths of a second, before a run.

`decide` is the arithmetic, `choose_backend` measures: a step of one environment and, if workers might pay at all, a
vector step in them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from ...errors import UserError
from ..spaces import MASK, Spec
from .workers import WorkerVectorEnv, usable_cores

OVERHEAD = 50e-6  # seconds that a vector step takes besides stepping, and
OVERHEAD_EACH = 50e-6  # for each worker (measured together 60e-6 to 120e-6, two workers, 8 environments of 64 x 64 RGB)
GAIN = 1.25  # workers must be faster by this factor
MEASURE = 0.3  # seconds per measurement


def expected(step_seconds: float, count: int, cores: int) -> float:
    """Seconds of a vector step in workers, as arithmetic has it: the largest slice, and messages."""
    workers = min(count, cores)
    return math.ceil(count / workers) * step_seconds + OVERHEAD + OVERHEAD_EACH * workers


def decide(sync_seconds: float, workers_seconds: float) -> str:
    """ "workers" only for a clear gain: they take memory and seconds to start."""
    return "workers" if sync_seconds >= GAIN * workers_seconds else "sync"


def choose_backend(make_view: Callable[[], gym.Env], count: int, *, cores: int | None = None) -> tuple[str, str]:
    """("sync" or "workers", why, with the measured numbers) for `count` environments as `make_view` makes them.

    Makes and closes one environment and, if workers might pay, `count` of them. Where workers fail it says so and
    chooses sync; the environment's own mistakes are raised.
    """
    cores = usable_cores() if cores is None else cores
    if count < 2 or cores < 2:
        return "sync", "one environment" if count < 2 else "one core"
    step = time_step(make_view)
    sync, hoped = count * step, expected(step, count, cores)
    told = f"{count} environments of {_ms(step)} a step"
    if decide(sync, hoped) == "sync":
        return "sync", f"{told}: too fast for processes"
    try:
        with_workers = time_workers(make_view, count, min(count, cores))
    except UserError as error:
        return "sync", f"{told}: workers fail ({error.message})"
    backend = decide(sync, with_workers)
    return backend, f"{told}: {_ms(sync)} one after the other, {_ms(with_workers)} in {min(count, cores)} processes"


def time_step(make_view: Callable[[], gym.Env]) -> float:
    """Seconds of a step of one environment under random actions, resets included where episodes end.

    The first step does not count, because things are loaded and compiled in it; at least three do.
    """
    env = make_view()
    try:
        env.action_space.seed(0)
        obs, ended = env.reset(seed=0)[0], False

        def step() -> None:
            nonlocal obs, ended
            if ended:
                obs = env.reset()[0]
            obs, _, terminated, truncated, _ = env.step(_random(env, obs))
            ended = terminated or truncated

        return _mean_seconds(step)
    finally:
        env.close()


def _random(env: gym.Env, obs: Any) -> Any:
    """A random action, an allowed one where the environment says which are."""
    if not isinstance(obs, dict) or MASK not in obs:
        return env.action_space.sample()
    spec: Spec = env.get_wrapper_attr("agent_spec")
    return spec.action.random(np.random.default_rng(int(obs[MASK].sum())), 1, obs[MASK][None])[0]


def time_workers(make_view: Callable[[], gym.Env], count: int, workers: int) -> float:
    """Seconds of a vector step of `count` environments in `workers` processes."""
    envs = WorkerVectorEnv([make_view] * count, workers=workers, max_restarts=0, on_fault=lambda message: None)
    try:
        envs.action_space.seed(0)
        envs.reset(seed=0)
        return _mean_seconds(lambda: envs.step(envs.action_space.sample()))
    finally:
        envs.close()


def _mean_seconds(step: Callable[[], object]) -> float:
    step()
    steps, since = 0, time.perf_counter()
    while steps < 3 or time.perf_counter() - since < MEASURE:
        step()
        steps += 1
    return (time.perf_counter() - since) / steps


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"
