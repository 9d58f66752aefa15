"""Any Gymnasium task as the agent sees it: a flat dict of uint8 images and float vectors, and one action vector.

`Spec` is the description (it travels in checkpoints); `AgentView` is the wrapper that applies it. No torch in here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import UserError
from .images import area_resize, grey


@dataclass(frozen=True)
class ObsKey:
    """One entry of the observation: where it is found in the environment's own and how it is presented."""

    path: tuple[str, ...]  # keys from the root of a Dict space; empty for a plain space
    kind: str  # "image", "vector" or "discrete"
    raw_shape: tuple[int, ...]  # as the environment gives it
    shape: tuple[int, ...]  # as the agent sees it: (H, W, C) or (V,)
    layout: str = ""  # images: "hwc", "chw" or "hw"
    grayscale: bool = False  # images: made grey
    start: int = 0  # discrete: smallest value

    def encode(self, value: Any) -> np.ndarray:
        """Environment's value (..., *raw_shape) -> agent's (..., *shape): uint8 images, float32 vectors."""
        value = np.asarray(value)
        batch = value.shape[: value.ndim - len(self.raw_shape)]
        if value.shape[len(batch) :] != self.raw_shape:
            raise UserError(
                f"observation '{name_of(self.path)}' has shape {value.shape}, expected {self.raw_shape}.",
                "Give the observation as the environment returned it.",
            )
        if self.kind == "image":
            if self.layout == "chw":
                value = np.moveaxis(value, -3, -1)
            elif self.layout == "hw":
                value = value[..., None]
            pictures = value.reshape((-1, *value.shape[len(batch) :]))
            return np.stack([self._prepare(picture) for picture in pictures]).reshape(batch + self.shape)
        if self.kind == "discrete":
            return np.asarray(np.arange(self.shape[0]) == (value[..., None] - self.start), np.float32)
        return value.reshape(batch + self.shape).astype(np.float32)

    def _prepare(self, picture: np.ndarray) -> np.ndarray:
        """Resize and make grey as asked. uint8 (H, W, C) of any size -> uint8 of `shape`."""
        picture = area_resize(picture, self.shape[0], self.shape[1])
        return grey(picture) if self.grayscale else picture.astype(np.uint8, copy=False)

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.kind == "image" else np.float32)


@dataclass(frozen=True)
class ActionSpec:
    """The agent's action vector: one-hot for Discrete, [-1, 1] for Box. Users never see it."""

    kind: str  # "discrete" or "box"
    size: int  # A
    shape: tuple[int, ...] = ()  # box: the environment's own shape
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    start: int = 0  # discrete: smallest value
    dtype: str = "float32"

    def decode(self, action: np.ndarray) -> np.ndarray:
        """Agent's vector (..., A) -> the environment's own action (..., *shape)."""
        if self.kind == "discrete":
            return np.asarray(action.argmax(-1) + self.start, np.int64)
        low, high = np.array(self.low), np.array(self.high)
        scaled = low + (np.clip(action, -1, 1) + 1) / 2 * (high - low)
        return np.clip(scaled, low, high).astype(self.dtype).reshape(action.shape[:-1] + self.shape)

    def random(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Uniformly random agent actions. -> (count, A)."""
        if self.kind == "discrete":
            return np.eye(self.size, dtype=np.float32)[rng.integers(0, self.size, count)]
        return rng.uniform(-1, 1, (count, self.size)).astype(np.float32)


@dataclass(frozen=True)
class Spec:
    """What an agent needs to know of a task."""

    obs: Mapping[str, ObsKey]
    action: ActionSpec

    @property
    def images(self) -> dict[str, tuple[int, int, int]]:
        """{key: (C, H, W)} as networks want it."""
        return {k: (v.shape[2], v.shape[0], v.shape[1]) for k, v in self.obs.items() if v.kind == "image"}

    @property
    def vectors(self) -> dict[str, int]:
        """{key: V}, Discrete observations as one-hot vectors included."""
        return {k: v.shape[0] for k, v in self.obs.items() if v.kind != "image"}

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """{key: (shape, dtype)} as stored."""
        return {k: (v.shape, v.dtype) for k, v in self.obs.items()}

    def encode(self, obs: Any) -> dict[str, np.ndarray]:
        """The environment's own observation (one or a batch) -> {key: (..., *shape)}."""
        out = {}
        for key, item in self.obs.items():
            value = obs
            for part in item.path:
                if not isinstance(value, Mapping) or part not in value:
                    raise UserError(
                        f"the observation lacks '{part}'.", "Give the observation as the environment returned it."
                    )
                value = value[part]
            out[key] = item.encode(value)
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"obs": {k: asdict(v) for k, v in self.obs.items()}, "action": asdict(self.action)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Spec:
        """Inverse of `to_dict`."""

        def plain(items: Mapping[str, Any]) -> dict[str, Any]:
            return {k: tuple(v) if isinstance(v, list) else v for k, v in items.items()}

        obs = {k: ObsKey(**plain(v)) for k, v in values["obs"].items()}
        return Spec(obs, ActionSpec(**plain(values["action"])))

    def describe(self) -> list[str]:
        """One line per observation and one for the action, for the header of a run."""
        lines = [
            f"{key}: {item.kind} {'x'.join(map(str, item.shape))} -> "
            + ("convolutions" if item.kind == "image" else "MLP")
            for key, item in self.obs.items()
        ]
        kinds = {"discrete": f"{self.action.size} discrete actions", "box": f"{self.action.size} continuous action(s)"}
        return [*lines, kinds[self.action.kind]]


def name_of(path: tuple[str, ...]) -> str:
    """The agent's key for an entry of the environment's observation."""
    return "/".join(path) or "observation"


def make_spec(env: gym.Env, *, image_size: int = 0, grayscale: bool = False) -> Spec:
    """Read an environment's spaces; images are to be resized (0: not) and made grey as asked.

    Raises UserError for a space that the agent cannot use.
    """
    items = [_prepared(item, image_size, grayscale) for item in _obs_keys(env.observation_space, ())]
    obs = {name_of(item.path): item for item in items}
    if len({key.replace("/", "-").replace(".", "_") for key in obs}) < len(items):
        raise UserError(
            f"two observations have names that are too much alike: {', '.join(name_of(item.path) for item in items)}.",
            "Rename one of the keys.",
        )
    if not obs:
        raise UserError(f"the environment has no usable observation: {env.observation_space}.")
    return Spec(obs, _action_spec(env.action_space))


def _obs_keys(space: spaces.Space, path: tuple[str, ...]) -> Iterator[ObsKey]:
    if isinstance(space, spaces.Dict):
        for key, sub in space.spaces.items():
            yield from _obs_keys(sub, (*path, str(key)))
    elif isinstance(space, spaces.Discrete):
        yield ObsKey(path, "discrete", (), (int(space.n),), start=int(space.start))
    elif isinstance(space, spaces.Box):
        yield box_key(space, path)
    else:
        raise UserError(
            f"observation '{name_of(path)}' has the unsupported space {space}.",
            "Use Box, Discrete or a Dict of them, e.g. with gymnasium.wrappers.TransformObservation.",
        )


def box_key(space: spaces.Box, path: tuple[str, ...] = ()) -> ObsKey:
    """How a Box is presented: uint8 of rank 3 (or 2) is an image in any channel order, the rest a vector."""
    shape = space.shape
    if space.dtype == np.uint8 and len(shape) == 3:
        if shape[2] in (1, 3, 4) or shape[0] not in (1, 3, 4):
            return ObsKey(path, "image", shape, shape, "hwc")
        return ObsKey(path, "image", shape, (shape[1], shape[2], shape[0]), "chw")
    if space.dtype == np.uint8 and len(shape) == 2 and min(shape) >= 4:
        return ObsKey(path, "image", shape, (*shape, 1), "hw")
    return ObsKey(path, "vector", shape, (max(1, int(np.prod(shape))),))


def _prepared(item: ObsKey, image_size: int, grayscale: bool) -> ObsKey:
    if item.kind != "image":
        return item
    height, width, channels = item.shape
    shape = (image_size or height, image_size or width, 1 if grayscale else channels)
    return replace(item, shape=shape, grayscale=grayscale)


def _action_spec(space: spaces.Space) -> ActionSpec:
    if isinstance(space, spaces.Discrete):
        return ActionSpec("discrete", int(space.n), start=int(space.start))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise UserError(
                f"the action space {space} is unbounded, the agent needs finite limits.",
                "Declare the limits in the space, or wrap with gymnasium.wrappers.RescaleAction.",
            )
        low, high = (tuple(float(x) for x in bound.reshape(-1)) for bound in (space.low, space.high))
        return ActionSpec("box", len(low), space.shape, low, high, dtype=str(space.dtype))
    raise UserError(
        f"the action space {space} is not supported.", "Discrete and float Box actions are; wrap the environment."
    )


class AgentView(gym.Wrapper):
    """The environment as the agent sees it. Checks every step: NaN and wrong shapes stop here, by name.

    observation: {key: uint8 (H, W, C) or float32 (V,)}; action: the agent's vector (A,).
    """

    def __init__(self, env: gym.Env, *, image_size: int = 0, grayscale: bool = False) -> None:
        super().__init__(env)
        self.agent_spec = make_spec(env, image_size=image_size, grayscale=grayscale)
        self.steps = 0

        def box(item: ObsKey) -> spaces.Box:
            return (
                spaces.Box(0, 255, item.shape, np.uint8)
                if item.kind == "image"
                else spaces.Box(-np.inf, np.inf, item.shape, np.float32)
            )

        self.observation_space = spaces.Dict({k: box(v) for k, v in self.agent_spec.obs.items()})
        self.action_space = spaces.Box(-1, 1, (self.agent_spec.action.size,), np.float32)

    def reset(self, **kwargs: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        return self._checked(obs), info

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        own = self.agent_spec.action.decode(np.asarray(action))
        obs, reward, terminated, truncated, info = self.env.step(
            int(own) if self.agent_spec.action.kind == "discrete" else own
        )
        self.steps += 1
        reward = float(reward)
        if not np.isfinite(reward):
            raise UserError(f"the reward is {reward} at step {self.steps}.", "Fix the environment: rewards are finite.")
        return self._checked(obs), reward, bool(terminated), bool(truncated), info

    def _checked(self, obs: Any) -> dict[str, np.ndarray]:
        encoded = self.agent_spec.encode(obs)
        for key, value in encoded.items():
            if value.dtype == np.float32 and not np.isfinite(value).all():
                bad = "NaN" if np.isnan(value).any() else "infinity"
                raise UserError(
                    f"observation '{key}' contains {bad} at step {self.steps}.",
                    "Fix the environment: observations must be finite numbers.",
                )
        return encoded
