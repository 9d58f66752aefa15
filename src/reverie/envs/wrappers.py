"""Small Gymnasium wrappers that several families share. No torch in here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from .spaces import box_key


@lru_cache(maxsize=32)
def _area_weights(source: int, target: int) -> np.ndarray:
    """Row i holds how much of each source pixel falls into target pixel i; rows sum to 1. -> (target, source)."""
    edges = np.linspace(0, source, target + 1)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.clip(overlap, 0, None)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def area_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Exact area averaging, as cv2.INTER_AREA when shrinking. uint8 (H, W, C) -> uint8 (height, width, C)."""
    if image.shape[:2] == (height, width):
        return image
    rows, columns = _area_weights(image.shape[0], height), _area_weights(image.shape[1], width)
    mixed = np.einsum("ah,hwc,bw->abc", rows, image.astype(np.float32), columns, optimize=True)
    return np.rint(mixed).astype(np.uint8)


class PreparedImages(gym.ObservationWrapper):
    """Resize every image of the observation to size x size (0: keep) and make it grey if asked."""

    def __init__(self, env: gym.Env, *, size: int, grayscale: bool) -> None:
        super().__init__(env)
        self.size, self.grayscale = size, grayscale
        self.observation_space = self._space(env.observation_space)

    def _space(self, space: spaces.Space) -> spaces.Space:
        if isinstance(space, spaces.Dict):
            return spaces.Dict({key: self._space(sub) for key, sub in space.spaces.items()})
        if not _is_image(space):
            return space
        height, width, channels = box_key(space).shape
        shape = (self.size or height, self.size or width, 1 if self.grayscale else channels)
        return spaces.Box(0, 255, shape, np.uint8)

    def observation(self, observation: Any) -> Any:
        return self._convert(observation, self.env.observation_space)

    def _convert(self, obs: Any, space: spaces.Space) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self._convert(obs[key], sub) for key, sub in space.spaces.items()}
        if not _is_image(space):
            return obs
        image = box_key(space).encode(obs)
        image = area_resize(image, self.size, self.size) if self.size else image
        return _grey(image) if self.grayscale else image


def _is_image(space: spaces.Space) -> TypeGuard[spaces.Box]:
    return isinstance(space, spaces.Box) and box_key(space).kind == "image"


def _grey(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, C) -> (H, W, 1): luma of ITU-R 601 for RGB and RGBA, as ALE and OpenCV; else the mean."""
    count = image.shape[2]
    weights = np.array([0.299, 0.587, 0.114, 0.0])[:count] if count in (3, 4) else np.full(count, 1 / count)
    return np.rint(image @ weights).astype(np.uint8)[..., None]


class ActionSubset(gym.ActionWrapper):
    """Keep only the given actions of a Discrete space, renumbered from 0."""

    def __init__(self, env: gym.Env, keep: Sequence[int]) -> None:
        super().__init__(env)
        self.keep = list(keep)
        self.action_space = spaces.Discrete(len(self.keep))

    def action(self, action: Any) -> int:
        return self.keep[int(action)]


class ActionRepeat(gym.Wrapper):
    """Apply each action `times` times, add up rewards, stop at the end of the episode."""

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
