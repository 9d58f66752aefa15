"""Environments that tests of runs start in worker processes too.

They stand apart from those tests because a worker imports the file of an environment's class: torch, which the tests
need, would take each worker seconds.
"""

import asyncio
import os
import signal

import gymnasium as gym
import numpy as np
from toys import CountingEnv, RandomLengthEnv


class Walk(gym.Env):
    """A random walk that draws from its own generator at every step; forgetful ones also from the global one."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, forgetful=False):
        self.forgetful = forgetful

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=2)
        return self.x.astype(np.float32), {}

    def step(self, action):
        self.x = self.x + self.np_random.normal(size=2) + action
        if self.forgetful:
            self.x = self.x + np.random.normal()  # noqa: NPY002
        return self.x.astype(np.float32), float(self.x[0]), bool(self.np_random.random() < 0.1), False, {}


class Odd(CountingEnv):
    """Episodes of ten steps; what is replaced by `parts` is called with the environment."""

    def __init__(self, since=0, **parts):
        super().__init__(lengths=(10,))
        self.parts, self.since, self.steps = parts, since, 0
        self.metadata = {"render_modes": ["rgb_array"]}
        self.render_mode = "rgb_array" if "render" in parts else None

    def step(self, action):
        self.steps += 1
        result = super().step(action)
        return self.parts["step"](self, *result) if "step" in self.parts and self.steps > self.since else result

    def render(self):
        return self.parts["render"](self)

    def close(self):
        if "close" in self.parts:
            self.parts["close"](self)


def fail(*_):
    raise RuntimeError("the simulator is gone")


class PanicException(BaseException):
    """As extensions in Rust raise it."""


def panic(*_):
    raise PanicException("index out of bounds")


def cancel(*_):
    raise asyncio.CancelledError("a task of the environment's")


def leave(*_):
    raise SystemExit("the window was closed")


def nan(env, obs, *rest):
    return obs * np.float32(np.nan), *rest


def late(env):
    return fail() if env.at > 3 else np.zeros((32, 32, 3), np.uint8)


class Shaky(RandomLengthEnv):
    """Raises in its 120th step; the one that is made in its place is as shaky."""

    taken = 0

    def step(self, action):
        self.taken += 1
        if self.taken == 120:
            raise OSError("the simulator is gone")
        return super().step(action)


class SignalEnv(CountingEnv):
    """Sends a signal to the training process at a step of one of its objects; `after` counts all steps of the class."""

    number, after, steps, whole = signal.SIGINT, 60, 0, 0

    def step(self, action):
        type(self).steps += 1
        if type(self).steps == self.after:
            os.kill(self.whole, self.number)
        return super().step(action)


class OldGenerator(CountingEnv):
    """Seeds NumPy's old generator, which takes 32 bits."""

    def reset(self, *, seed=None, options=None):
        np.random.RandomState(seed)
        return super().reset(seed=seed, options=options)
