"""Environments for the tests of workers: importable by a worker, and some of them misbehave when told to."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import subprocess
import sys
import threading
import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from toys import BrokenEnv, DictEnv, RandomLengthEnv

from reverie.envs import AgentView, make_env
from reverie.errors import UserError


class Steady(gym.Env):
    """A picture and [seed, step, *action], from nothing but seed and actions. `cost`: seconds asleep in a step.

    Episodes are of random length, or of `length`; they end by termination where that is even.
    """

    def __init__(self, cost=0.0, length=0, size=8):
        picture = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = spaces.Dict({"picture": picture, "state": spaces.Box(-1e9, 1e9, (4,), np.float32)})
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.cost, self.fixed, self.at, self.seed = cost, length, 0, -1

    def _observe(self, action):
        picture = self.np_random.integers(0, 256, self.observation_space["picture"].shape, np.uint8)
        return {"picture": picture, "state": np.array([self.seed % 2**20, self.at, *action], np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.seed = 0, self.seed if seed is None else seed
        self.length = self.fixed or int(self.np_random.integers(3, 30))
        return self._observe((0, 0)), {}

    def step(self, action):
        time.sleep(self.cost)
        self.at += 1
        ended = self.at >= self.length
        terminal = ended and self.length % 2 == 0
        info = {"log": {"length": self.at}, "secret": threading.Lock()} if ended else {"log": {"length": self.at}}
        return self._observe(action), self.at + 0.1 * float(action[0]), terminal, ended and not terminal, info

    def process(self):
        return os.getpid()

    def fail(self):
        raise KeyError("no such thing")


class Faulty(Steady):
    """Fails in its `at`-th step (or reset: `where`), if the first seed that it got is 100, or always.

    So of environments that are reset with seed=100 only the first fails, and not again when it was made anew.
    """

    def __init__(self, fault, at=5, where="step", always=False, lengths=(20,)):
        super().__init__(length=20)
        self.fault, self.when, self.where, self.always, self.lengths = fault, at, where, always, lengths
        self.first_seed, self.count = None, {"step": 0, "reset": 0}

    def _misbehave(self, where):
        self.count[where] += 1
        if (self.always or self.first_seed == 100) and where == self.where and self.count[where] == self.when:
            FAULTS[self.fault]()

    def reset(self, *, seed=None, options=None):
        if self.first_seed is None:
            self.first_seed = seed
            self.fixed = self.lengths[seed % len(self.lengths)]
        self._misbehave("reset")
        return super().reset(seed=seed, options=options)

    def step(self, action):
        self._misbehave("step")
        return super().step(action)


def fall():
    raise ValueError("the robot fell over")


FAULTS = {
    "exception": fall,
    "os._exit": lambda: os._exit(3),
    "sys.exit": lambda: sys.exit(4),
    "segfault": lambda: ctypes.string_at(0),
    "out of memory": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(1000),
}


class GlobalRandom(Steady):
    """Draws from the global generators instead of its own."""

    def _observe(self, action):
        drawn = [random.random(), np.random.random(), hash("words") % 997, 0]  # noqa: NPY002
        return super()._observe(action) | {"state": np.array(drawn, np.float32)}


class WithChild(Steady):
    """Has a process of its own, as ViZDoom has, and takes for ever to close."""

    def __init__(self):
        super().__init__()
        self.own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])

    def child(self):
        return self.own.pid

    def close(self):
        time.sleep(1000)


def steady(**options):
    return AgentView(Steady(**options))


def faulty(fault, **options):
    return AgentView(Faulty(fault, **options))


def random_length():
    return AgentView(RandomLengthEnv())


def nested():
    return AgentView(DictEnv())


def broken(after):
    return AgentView(BrokenEnv(after=after))


def minigrid():
    return AgentView(make_env("MiniGrid-Empty-Random-6x6-v0"), image_size=32)


def unmakeable():
    raise FileNotFoundError("robot.xml")


def not_installed():
    raise UserError("'robots' is not installed.", "pip install robots")
