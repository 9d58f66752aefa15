"""Small environments whose every observation is known in advance. Used through the real vector environments."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class CountingEnv(gym.Env):
    """The observation is the whole state: [episode, step in it, last action (-1 after a reset), reset seed or -1].

    reward = 100 * episode + step, so a reward identifies its step. Episode i lasts `lengths[i % len]` steps and
    ends by termination where `terminal[i % len]`, else by truncation. Actions: Discrete(`actions`).
    """

    def __init__(self, lengths=(3,), terminal=(True,), actions=3):
        self.lengths, self.terminal = lengths, terminal
        self.observation_space = spaces.Box(-1e9, 1e9, (4,), np.float32)
        self.action_space = spaces.Discrete(actions)
        self.episode, self.at, self.seed, self.closed = -1, 0, -1, False

    def _observe(self, action):
        return np.array([self.episode, self.at, action, self.seed], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode += self.episode < 0 or self.at > 0  # AgentView resets once before the first episode, for its mask
        self.at = 0
        self.seed = -1 if seed is None else seed
        return self._observe(-1), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.at += 1
        ended = self.at >= self.lengths[self.episode % len(self.lengths)]
        terminal = bool(self.terminal[self.episode % len(self.terminal)])
        return self._observe(action), 100.0 * self.episode + self.at, ended and terminal, ended and not terminal, {}

    def close(self):
        self.closed = True


class RandomLengthEnv(CountingEnv):
    """Episodes of random length, terminated or truncated with equal probability."""

    def reset(self, *, seed=None, options=None):
        out = super().reset(seed=seed, options=options)
        self.lengths = (int(self.np_random.integers(1, 8)),)
        self.terminal = (bool(self.np_random.random() < 0.5),)
        return out


class EchoEnv(gym.Env):
    """The next observation, reward and end depend on the action alone.

    Action 0: nothing. Action 1: reward 1. Action 2: reward -1. Action 3: the episode terminates (reward 0).
    The observation after a step is the one-hot of that step's action, so a model that is aligned can predict reward
    and end exactly, and one that is shifted by a step cannot. Truncated after 5 steps.
    """

    def __init__(self):
        self.observation_space = spaces.Box(0, 1, (4,), np.float32)
        self.action_space = spaces.Discrete(4)
        self.at = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(4, np.float32), {}

    def step(self, action):
        self.at += 1
        obs = np.eye(4, dtype=np.float32)[action]
        return obs, {1: 1.0, 2: -1.0}.get(int(action), 0.0), bool(action == 3), self.at >= 5, {}


class DictEnv(gym.Env):
    """An image, a vector and a direction, nested; actions Discrete from 5, or a Box of `box` if given."""

    def __init__(self, box=None, size=16):
        self.observation_space = spaces.Dict(
            {
                "camera": spaces.Box(0, 255, (size, size, 3), np.uint8),
                "body": spaces.Dict(
                    {"speed": spaces.Box(-1, 1, (2,), np.float64), "facing": spaces.Discrete(3, start=-1)}
                ),
            }
        )
        self.action_space = box or spaces.Discrete(4, start=5)
        self.at = 0

    def _observe(self):
        self.observation_space["camera"].seed(int(self.np_random.integers(1 << 30)))
        return {
            "camera": self.observation_space["camera"].sample(),
            "body": {"speed": self.np_random.uniform(-1, 1, 2), "facing": int(self.np_random.integers(3)) - 1},
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.at += 1
        return self._observe(), 1.0, self.at >= 6, False, {}


class SpaceEnv(gym.Env):
    """Any pair of spaces: observations are samples, the actions are recorded in a list."""

    def __init__(self, observation, action=None):
        self.observation_space, self.action_space = observation, action or spaces.Discrete(2)
        self.actions = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.actions.append(action)
        return self.observation_space.sample(), 0.0, False, False, {}


class BrokenEnv(CountingEnv):
    """Observes `value` (NaN) from its `after`-th step on; with `reward` True the reward is `value` instead."""

    def __init__(self, after=0, value=np.nan, reward=False):
        super().__init__(lengths=(1000,))
        self.after, self.value, self.broken_reward = after, value, reward

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed, options=options)
        return self._broken(obs), info

    def step(self, action):
        obs, reward, *rest = super().step(action)
        if self.broken_reward and self.at >= self.after:
            return obs, self.value, *rest
        return self._broken(obs), reward, *rest

    def _broken(self, obs):
        if not self.broken_reward and self.at >= self.after:
            obs[1] = self.value
        return obs


class StillEnv(gym.Env):
    """An environment whose constructor does not take `render_mode`."""

    def __init__(self):
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, True, {}


def counting():
    """Episodes of 2, 5 and 3 steps; the middle one ends by truncation."""
    return CountingEnv(lengths=(2, 5, 3), terminal=(True, False, True))


def long_counting():
    """Episodes of ten steps."""
    return CountingEnv(lengths=(10,))
