"""Environments with one mistake each, which `check_env` must find and name."""

from __future__ import annotations

import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces

VECTOR = spaces.Box(-10, 10, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (20, 24, 3), np.uint8)


class Healthy(gym.Env):
    """A walk of numbers with noise; ends by termination in the middle or by truncation after 30 steps."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"
    observation_space, action_space = VECTOR, spaces.Discrete(3)

    def observe(self):
        return self.x.astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.at = self.np_random.uniform(-1, 1, 3), 0
        return self.observe(), {}

    def move(self, action):
        self.at += 1
        self.x = np.clip(self.x + self.np_random.normal(0, 0.3, 3), -9, 9)
        return 1.0 * int(action)

    def step(self, action):
        reward = self.move(action)
        return self.observe(), reward, bool(abs(self.x).max() > 2.5), self.at >= 30, {}

    def render(self):
        return np.full((10, 10, 3), 90, np.uint8)


def observing(space, observe):
    """Healthy, except for its observations: observe(self) in `space`."""
    return type("Observing", (Healthy,), {"observation_space": space, "observe": observe})


def stepping(change):
    """Healthy, except for the results of step: change(self, obs, reward, terminated, truncated, info)."""
    return type("Stepping", (Healthy,), {"step": lambda self, a: change(self, *Healthy.step(self, a))})


def image(self):
    return self.np_random.integers(0, 256, IMAGE.shape, dtype=np.uint8)


class NoSeed(Healthy):
    def reset(self):
        return super().reset()


class NoOptions(Healthy):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class ResetAlone(Healthy):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class InfoNone(Healthy):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], None


class SameArray(Healthy):
    def reset(self, *, seed=None, options=None):
        self.buffer = np.zeros(3, np.float32)
        return super().reset(seed=seed)

    def observe(self):
        self.buffer[:] = self.x
        return self.buffer


class Overwrites(SameArray):
    def observe(self):
        return super().observe()[:]  # another array on the same memory


class Unseeded(Healthy):
    def move(self, action):
        self.x = self.x + np.random.default_rng().normal(0, 0.01, 3)
        self.at += 1
        return 1.0


class Forgets(Healthy):
    """State that reset does not reset."""

    total = 0.0

    def observe(self):
        self.total = min(self.total + 0.01, 9)
        return np.float32([*self.x[:2], self.total])


class Crashes(Healthy):
    def step(self, action):
        return [][1]


class ResetCrashes(Healthy):
    def reset(self, *, seed=None, options=None):
        raise RuntimeError("no simulator")


class CloseCrashes(Healthy):
    def close(self):
        raise RuntimeError("already closed")


class FrozenEpisodes(Healthy):
    """Draws in reset alone."""

    observation_space = IMAGE

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.image = self.np_random.integers(0, 256, IMAGE.shape, dtype=np.uint8)
        return super().reset()

    def observe(self):
        return self.image.copy()


class OneAtATime(Healthy):
    """Like a simulator behind a fixed port."""

    busy = False

    def __init__(self):
        if type(self).busy:
            raise OSError("port 4000 is in use")
        type(self).busy = True

    def close(self):
        type(self).busy = False


class MaskAllZero(Healthy):
    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"action_mask": np.zeros(3, np.int8)}


class MaskTooShort(Healthy):
    def step(self, action):
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, reward, terminated, truncated, {"action_mask": np.ones(2, np.int8)}


class ChangesAction(Healthy):
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def step(self, action):
        action *= 0.5
        return super().step(0)


class RenderBreaks(Healthy):
    def render(self):
        raise OSError("no display")


class RenderFloat(Healthy):
    def render(self):
        return np.ones((10, 10, 3))


class RenderBlack(Healthy):
    def render(self):
        return np.zeros((10, 10, 3), np.uint8)


class Slow(Healthy):
    def step(self, action):
        time.sleep(0.003)
        return super().step(action)


class SlowReset(Healthy):
    def reset(self, *, seed=None, options=None):
        time.sleep(0.03)
        return super().reset(seed=seed)


class Rounding(Healthy):
    """Differs by the arithmetic of another machine, say."""

    def observe(self):
        return np.float32(self.x + np.random.default_rng().normal(0, 1e-7, 3))


def with_action(space):
    return type("WithAction", (Healthy,), {"action_space": space, "move": lambda self, a: Healthy.move(self, 1)})


def _scaled(self):
    return np.float32([self.x[0], 1e-3 * self.x[1] / 9, 9.9 * np.tanh(self.x[2])])


#: code -> what makes the environment with that mistake
BROKEN = {
    "dtype": observing(spaces.Box(-10, 10, (3,), np.int64), lambda self: self.x.astype(np.float32)),
    "shape": observing(VECTOR, lambda self: self.x.astype(np.float32)[:2]),
    "no-array": observing(VECTOR, lambda self: [float(x) for x in self.x]),
    "outside": observing(spaces.Box(-0.1, 0.1, (3,), np.float32), lambda self: self.x.astype(np.float32)),
    "float-image-0-255": observing(
        spaces.Box(0, 1, IMAGE.shape, np.float32), lambda self: image(self).astype(np.float32)
    ),
    "float-in-uint8": observing(IMAGE, lambda self: np.float32(image(self) / 255)),
    "float-image": observing(
        spaces.Box(-1, 1, IMAGE.shape, np.float32), lambda self: np.float32(image(self) / 127.5 - 1)
    ),
    "scaled-twice": observing(IMAGE, lambda self: np.uint8(image(self) > 127)),
    "black": observing(IMAGE, lambda self: np.zeros(IMAGE.shape, np.uint8)),
    "frozen": observing(IMAGE, lambda self: np.full(IMAGE.shape, 90, np.uint8)),
    "nan": observing(VECTOR, lambda self: np.float32([0.1 * self.at, np.nan, 1 * self.at / 10])),
    "infinite": observing(
        spaces.Box(-np.inf, np.inf, (3,), np.float32), lambda self: np.float32([np.inf, *self.x[1:]])
    ),
    "key-missing": observing(
        spaces.Dict({"a": VECTOR, "b": VECTOR}), lambda self: {"a": self.x.astype(np.float32)}
    ),
    "key-extra": observing(
        spaces.Dict({"a": VECTOR}), lambda self: {"a": self.x.astype(np.float32), "b": self.x.astype(np.float32)}
    ),
    "obs-none": observing(VECTOR, lambda self: None),
    "obs-type": observing(VECTOR, lambda self: "left"),
    "discrete-range": observing(spaces.Discrete(3), lambda self: 3),
    "observation-space": observing(spaces.Sequence(spaces.Discrete(2)), lambda self: (1,)),
    "constant": observing(VECTOR, lambda self: np.ones(3, np.float32)),
    "scales": observing(VECTOR, _scaled),
    "large": observing(
        spaces.Box(-np.inf, np.inf, (3,), np.float32), lambda self: np.float32(3e5 * self.x)
    ),
    "frozen-episodes": FrozenEpisodes,
    "obs-overwritten": Overwrites,
    "same-array": SameArray,
    "reset-no-seed": NoSeed,
    "reset-no-options": NoOptions,
    "reset-returns": ResetAlone,
    "info-no-dict": InfoNone,
    "reset-raises": ResetCrashes,
    "step-raises": Crashes,
    "step-four": stepping(lambda self, obs, r, end, cut, info: (obs, r, end, info)),
    "step-returns": stepping(lambda self, obs, r, end, cut, info: (obs, r)),
    "step-info": stepping(lambda self, obs, r, end, cut, info: (obs, r, end, cut, 1)),
    "flag-no-bool": stepping(lambda self, obs, r, end, cut, info: (obs, r, 0, cut, info)),
    "reward-type": stepping(
        lambda self, obs, r, end, cut, info: (obs, np.ones(1), end, cut, info)
    ),
    "reward-not-finite": stepping(
        lambda self, obs, r, end, cut, info: (obs, float("nan") if self.at == 7 else 1.0, end, cut, info)
    ),
    "reward-huge": stepping(
        lambda self, obs, r, end, cut, info: (obs, 1e6 * r, end, cut, info)
    ),
    "never-ends": stepping(lambda self, obs, r, end, cut, info: (obs, r, False, False, info)),
    "ends-at-once": stepping(lambda self, obs, r, end, cut, info: (obs, r, True, False, info)),
    "limit-terminates": stepping(
        lambda self, obs, r, end, cut, info: (obs, r, self.at >= 12, False, info)
    ),
    "not-reproducible": Unseeded,
    "reset-forgets": Forgets,
    "only-one": OneAtATime,
    "close-raises": CloseCrashes,
    "action-changed": ChangesAction,
    "action-unbounded": with_action(spaces.Box(-np.inf, np.inf, (2,), np.float32)),
    "action-wide": with_action(spaces.Box(-3e38, 3e38, (2,), np.float32)),
    "action-space": with_action(spaces.Text(3)),
    "mask": MaskTooShort,
    "mask-forbids-all": MaskAllZero,
    "render-raises": RenderBreaks,
    "render-returns": RenderFloat,
    "render-black": RenderBlack,
    "no-env": lambda: 3,
    "cannot-see": observing(
        spaces.Box(0, 255, (4, 3, 20, 24), np.uint8), lambda self: np.uint8([image(self).transpose(2, 0, 1)] * 4)
    ),
    "cannot-make": lambda: [][1],
    "no-space": type("NoSpace", (Healthy,), {"action_space": None}),
}  # fmt: skip
#: code -> the same for what is no mistake but good to know
NOTED = {
    "no-reward": stepping(lambda self, obs, r, end, cut, info: (obs, 0.0, end, cut, info)),
    "no-film": type("NoFilm", (Healthy,), {"render_mode": None}),
    "text": observing(
        spaces.Dict({"a": VECTOR, "words": spaces.Text(9)}),
        lambda self: {"a": self.x.astype(np.float32), "words": "go"},
    ),
    "constant-parts": observing(VECTOR, lambda self: np.float32([*self.x[:2], 1])),
    "often-black": observing(IMAGE, lambda self: image(self) * np.uint8(self.at % 3 == 0)),
    "rounding": Rounding,
    "action-uneven": with_action(spaces.Box(0, 5, (2,), np.float32)),
    "action-rounded": with_action(spaces.Box(0, 100, (2,), np.int64)),
    "both-ends": stepping(lambda self, obs, r, end, cut, info: (obs, r, end, cut or end, info)),
}
