"""Choice between one process and worker processes, by measurements of a few tenths of a second before a run.

`choose_backend` measures a step of one environment and, if workers might pay, a vector step in workers; `decide` and
`expected` are the arithmetic.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from ...errors import UserError, digits
from ..spaces import MASK, Spec
from .workers import WorkerVectorEnv, usable_cores

OVERHEAD = 50e-6  # seconds of a vector step besides stepping, plus
OVERHEAD_EACH = 50e-6  # for each worker (together, measured: 60e-6 to 120e-6 for 2 workers, 8 environments, 64x64 RGB)
GAIN = 1.25  # the factor by which workers must be faster
MEASURE = 0.3  # seconds per measurement


def expected(step_seconds: float, count: int, cores: int) -> float:
    """Estimated seconds of a vector step in workers: the largest slice, plus the messages."""
    workers = min(count, cores)
    return math.ceil(count / workers) * step_seconds + OVERHEAD + OVERHEAD_EACH * workers


def decide(sync_seconds: float, workers_seconds: float) -> str:
    """ "workers" or "sync". Workers need a clear gain, because they cost memory and take seconds to start."""
    return "workers" if sync_seconds >= GAIN * workers_seconds else "sync"


def choose_backend(make_view: Callable[[], gym.Env], count: int, *, cores: int | None = None) -> tuple[str, str]:
    """("sync" or "workers", the reason with the measured numbers) for `count` environments made by `make_view`.

    Makes and closes one environment and, if workers might pay, `count` of them. Chooses sync if workers fail; raises
    what the single environment raises.
    """
    cores = usable_cores() if cores is None else cores
    if count < 2 or cores < 2:
        return "sync", "one environment" if count < 2 else "one core"
    step = time_step(make_view)
    sync = count * step
    measured = f"{count} environments of {_ms(step)} a step"
    if decide(sync, expected(step, count, cores)) == "sync":
        return "sync", f"{measured}: too fast for processes"
    try:
        with_workers = time_workers(make_view, count, min(count, cores))
    except UserError as error:
        return "sync", f"{measured}: workers fail ({error.message})"
    backend = decide(sync, with_workers)
    return backend, f"{measured}: {_ms(sync)} one after the other, {_ms(with_workers)} in {min(count, cores)} processes"


def time_step(make_view: Callable[[], gym.Env]) -> float:
    """Mean seconds of a step of one environment under random actions, resets at the ends of episodes included.

    The first step does not count, because it loads and compiles; at least three others do.
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
    """A random action, an allowed one if the environment has an action mask."""
    if not isinstance(obs, dict) or MASK not in obs:
        return env.action_space.sample()
    spec: Spec = env.get_wrapper_attr("agent_spec")
    return spec.action.random(np.random.default_rng(int(obs[MASK].sum())), 1, obs[MASK][None])[0]


def time_workers(make_view: Callable[[], gym.Env], count: int, workers: int) -> float:
    """Mean seconds of a vector step of `count` environments in `workers` processes."""
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
    return f"{digits(1000 * seconds)} ms"
