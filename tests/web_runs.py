"""Small runs and a real server for the tests of the dashboard."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import reverie
from reverie.web.runs import RunIndex
from reverie.web.server import prepare

#: What `reverie trust` leaves in a run.
TRUST = {
    "checkpoint": "step-000000000400", "level": "partly",
    "verdict": ["Its dreams can be trusted in part.", "That is so."],
    "policies": {name: {"mean": mean, "ci95": 0.1} for name, mean in (("random", 0.2), ("own", 0.9), ("made", 0.7))},
    "optimism": {"dream": [0.5, 0.6, 0.7], "real": [0.4, 0.5, 0.6], "gap": [0.1] * 3, "low": [0.0, 0.0, None],
                 "high": [0.2, 0.2, None]},
    "errors": {"replay": {"reward": [0.1, 0.2, 0.3], "value": [None] * 3}},
    "updates": 30, "cpu_minutes": 0.5,
}  # fmt: skip


class SquareEnv(gym.Env):
    """A bright square that goes left or right, or stays; reward 1 and the end at the right side."""

    def __init__(self, size=16):
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Discrete(3)
        self.size, self.at, self.steps = size, 0, 0

    def _observe(self):
        picture = np.full((self.size, self.size, 3), 30, np.uint8)
        picture[4:12, self.at * 3 : self.at * 3 + 4] = (240, 200, 60)
        return picture

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.steps = int(self.np_random.integers(3)), 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        self.at = int(np.clip(self.at + (0, -1, 1)[action], 0, 4))
        return self._observe(), float(self.at == 4), self.at == 4, self.steps >= 20, {}


def train_square(path, env_steps=400, **settings):
    """A run that sees pictures, in seconds."""
    quick = {"num_envs": 2, "image_size": 16, "tensorboard": False}
    dreamer = reverie.Dreamer(SquareEnv, preset="debug", run=path, **quick | settings)
    dreamer.learn(env_steps=env_steps, quiet=True)
    return path


def train_vectors(path, env="CartPole-v1", env_steps=300):
    """A run that sees vectors."""
    dreamer = reverie.Dreamer(env, preset="debug", run=path, num_envs=2, tensorboard=False, video=False)
    dreamer.learn(env_steps=env_steps, quiet=True)
    return path


@contextmanager
def serving(*roots, **options):
    """A server in a thread, on any free port; looks for news every 50 ms."""
    served = prepare(RunIndex(roots), port=0, **{"seconds": 0.05, **options})
    thread = threading.Thread(target=served.run, daemon=True)
    thread.start()
    until(lambda: served.server.started)
    try:
        yield served
    finally:
        served.stop()
        thread.join(10)
        assert not thread.is_alive()


def until(true, seconds=10.0):
    """Wait for a condition."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.01)
