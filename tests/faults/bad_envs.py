"""Environments with faults, for `reverie train --env faults.bad_envs:NAME-v0`. The fault is in the 150th step."""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces

WHEN = 150


class PanicException(BaseException):
    """As extensions in Rust raise it (`pyo3_runtime.PanicException`): no `except Exception` catches it."""


class Bad(gym.Env):
    """Counts; episodes of 20 steps."""

    def __init__(self, fault="none", render_mode=None):
        self.observation_space, self.action_space = spaces.Box(-1e9, 1e9, (3,), np.float32), spaces.Discrete(2)
        self.fault, self.at, self.steps = fault, 0, 0
        self.metadata = {"render_modes": ["rgb_array"]}
        self.render_mode = "rgb_array" if fault == "render" else None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.at, self.steps = self.at + 1, self.steps + 1
        obs, reward = np.full(3, self.at, np.float32), 1.0
        if self.steps >= WHEN:
            if self.fault == "nan":
                obs[1] = np.nan
            elif self.fault == "shape":
                obs = np.zeros(4, np.float32)
            elif self.fault == "reward":
                reward = float("inf")
            elif self.fault == "hang":
                time.sleep(1000)
            elif self.fault == "raise":
                raise ValueError("the robot fell over")
            elif self.fault == "panic":
                raise PanicException("index out of bounds")
        info = {"legal": list(range(self.steps % 3)), "crashed": True, "log": "text"} if self.fault == "info" else {}
        return obs, reward, False, self.at >= 20, info

    def render(self):
        if self.steps > 5:
            raise RuntimeError("graphics context lost")
        return np.zeros((16, 16, 3), np.uint8)

    def close(self):
        if self.fault == "close":
            raise RuntimeError("the simulator is gone")


for name in ("none", "nan", "shape", "reward", "hang", "raise", "panic", "info", "render", "close"):
    gym.register(f"{name.capitalize()}-v0", entry_point=Bad, kwargs={"fault": name}, disable_env_checker=True)
