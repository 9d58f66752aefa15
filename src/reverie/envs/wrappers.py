"""Gymnasium wrappers that several families share. No torch in here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from gymnasium import spaces


class ActionSubset(gym.ActionWrapper):
    """An environment with only the given actions of its Discrete space, renumbered from 0."""

    def __init__(self, env: gym.Env, keep: Sequence[int]) -> None:
        super().__init__(env)
        self.keep = list(keep)
        self.action_space = spaces.Discrete(len(self.keep))

    def action(self, action: Any) -> int:
        return self.keep[int(action)]


class ActionRepeat(gym.Wrapper):
    """An environment that applies each action `times` times, adds up the rewards, and stops at an episode's end."""

    def __init__(self, env: gym.Env, times: int) -> None:
        super().__init__(env)
        self.times = times

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self.times):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info
