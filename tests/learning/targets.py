"""One small task with every kind of observation and action space: see a target, answer it.

A target (a few small numbers) is drawn again at every step and shown in one of many kinds of observation; the action
that answers it is wanted in one of many kinds of action space. Reward: the share of the answer that
is right, so the optimum is 1 per step whatever the spaces are.
"""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium import spaces

LENGTH = 8
SHOWN = (
    "discrete",
    "multi_discrete",
    "multi_binary",
    "vector",
    "image",
    "chw",
    "float_image",
    "frames",
    "dict",
    "tuple",
)
ANSWERED = ("discrete", "multi_discrete", "multi_binary", "box", "bounded_box", "hybrid", "tuple", "masked")


def observation_space(shown):
    bits = spaces.MultiBinary(2)
    image = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    return {
        "discrete": spaces.Discrete(4, start=1),
        "multi_discrete": spaces.MultiDiscrete([2, 2], start=[5, 0]),
        "multi_binary": bits,
        "vector": spaces.Box(-100, 100, (2,), np.float64),
        "image": image,
        "chw": spaces.Box(0, 255, (3, 16, 16), np.uint8),
        "float_image": spaces.Box(0, 1, (16, 16, 3), np.float32),
        "frames": spaces.Box(0, 255, (2, 16, 16, 3), np.uint8),
        "dict": spaces.Dict({"left": image, "body": spaces.Dict({"right": spaces.Discrete(2)})}),
        "tuple": spaces.Tuple([spaces.Box(-1, 1, (1,)), spaces.MultiDiscrete([2])]),
    }[shown]


def show(shown, target):
    """Two bits (a, b) as an observation of that kind."""
    a, b = target
    image = np.zeros((16, 16, 3), np.uint8)
    if a:
        image[2:7, 2:7] = 255
    if b:
        image[9:14, 9:14] = 200
    only_a = image.copy()
    only_a[9:14, 9:14] = 0
    return {
        "discrete": 1 + 2 * a + b,
        "multi_discrete": np.array([5 + a, b]),
        "multi_binary": np.int8([a, b]),
        "vector": np.array([30.0 * a, 1.0 * b]),
        "image": image,
        "chw": np.moveaxis(image, -1, 0).copy(),
        "float_image": np.float32(image) / 255,
        "frames": np.stack([only_a, image]),
        "dict": {"left": only_a, "body": {"right": b}},
        "tuple": (np.float32([2 * a - 1]), np.array([b])),
    }[shown]


def action_space(answered):
    return {
        "discrete": spaces.Discrete(4, start=-1),
        "multi_discrete": spaces.MultiDiscrete([2, 3]),
        "multi_binary": spaces.MultiBinary(2),
        "box": spaces.Box(-1, 1, (2,), np.float32),
        "bounded_box": spaces.Box(np.array([[0.0], [-50]]), np.array([[10.0], [0]]), dtype=np.float64),
        "hybrid": spaces.Dict({"how_much": spaces.Box(-1, 1, (1,), np.float32), "which": spaces.Discrete(3)}),
        "tuple": spaces.Tuple([spaces.Discrete(2), spaces.Tuple([spaces.Discrete(3)])]),
        "masked": spaces.Discrete(4),
    }[answered]


def _near(value, bit, low, high):
    """1 at the quarter (bit 0) or three quarters (bit 1) of the range, falling to 0 half a range away."""
    share = (float(value) - low) / (high - low)
    return max(0.0, 1 - 2 * abs(share - (0.25 + 0.5 * bit)))


def right(answered, action, target):
    """How much of the action is the right answer to two bits. -> 0..1."""
    a, b = target
    if answered == "discrete":
        return float(action == -1 + 2 * a + b)
    if answered == "multi_discrete":
        return 0.5 * (action[0] == a) + 0.5 * (action[1] == 2 * b)
    if answered == "multi_binary":
        return 0.5 * (action[0] == a) + 0.5 * (action[1] == b)
    if answered == "box":
        return 0.5 * _near(action[0], a, -1, 1) + 0.5 * _near(action[1], b, -1, 1)
    if answered == "bounded_box":
        return 0.5 * _near(action[0, 0], a, 0, 10) + 0.5 * _near(action[1, 0], b, -50, 0)
    if answered == "hybrid":
        return 0.5 * _near(action["how_much"][0], a, -1, 1) + 0.5 * (action["which"] == 2 * b)
    if answered == "tuple":
        return 0.5 * (action[0] == a) + 0.5 * (action[1][0] == 2 * b)
    # masked: 3 pays most, then 2, 1, 0; what is allowed depends on the target
    return (action + 1) / _best(target)


def _best(target):
    return float(np.flatnonzero(mask_of(target)).max() + 1)


def mask_of(target):
    """Which of four actions the target allows: always 0, 1 and 2 by its bits, never 3."""
    return np.int8([1, target[0], target[1], 0])


class TargetEnv(gym.Env):
    """See the target, answer it, LENGTH times. `taken` counts the steps, `forbidden` the actions against the mask."""

    forbidden = 0
    taken = 0

    def __init__(self, shown="discrete", answered="discrete"):
        self.shown, self.answered = shown, answered
        self.observation_space, self.action_space = observation_space(shown), action_space(answered)
        self.target, self.at = (0, 0), 0

    def _draw(self):
        self.target = tuple(int(x) for x in self.np_random.integers(0, 2, 2))
        return show(self.shown, self.target), {"action_mask": mask_of(self.target)} if self.answered == "masked" else {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self._draw()

    def step(self, action):
        assert self.action_space.contains(action), action
        if self.answered == "masked":
            TargetEnv.taken += 1
            TargetEnv.forbidden += not mask_of(self.target)[action]
        reward = right(self.answered, action, self.target)
        self.at += 1
        obs, info = self._draw()
        return obs, reward, False, self.at >= LENGTH, info
