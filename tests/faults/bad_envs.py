"""Environments with faults, for `reverie train --env faults.bad_envs:NAME-v0`. The fault is in the 150th step."""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces

WHEN = 150


class Bad(gym.Env):
    """Counts; episodes of 20 steps."""

    def __init__(self, fault="none", render_mode=None):
        self.observation_space, self.action_space = spaces.Box(-1e9, 1e9, (3,), np.float32), spaces.Discrete(2)
        self.fault, self.at, self.steps, self.render_mode = fault, 0, 0, None

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
        return obs, reward, False, self.at >= 20, {}


for name in ("none", "nan", "shape", "reward", "hang"):
    gym.register(f"{name.capitalize()}-v0", entry_point=Bad, kwargs={"fault": name}, disable_env_checker=True)
