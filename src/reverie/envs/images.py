"""Image resizing and conversion to gray, in NumPy only."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np


@lru_cache(maxsize=64)
def area_weights(source: int, target: int, channels: int = 1) -> np.ndarray:
    """Weights that average a line of `source` pixels to `target` pixels, for one block of the line.

    A line consists of g = gcd(source, target) equal blocks (160 -> 64: 32 blocks of 5 -> 2), which share their weights.
    -> float32 (target / g * channels, source / g * channels); rows sum to 1.
    """
    blocks = math.gcd(source, target)
    source, target = source // blocks, target // blocks
    edges = np.linspace(0, source, target + 1)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.clip(overlap, 0, None)
    return np.kron(weights / weights.sum(1, keepdims=True), np.eye(channels)).astype(np.float32)


def area_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize by exact area averaging, like cv2.INTER_AREA when shrinking. uint8 (H, W, C) -> (height, width, C)."""
    if image.shape[:2] == (height, width):
        return image
    count = image.shape[2]
    rows, columns = area_weights(image.shape[0], height), area_weights(image.shape[1], width, count)
    mixed = image.astype(np.float32).reshape(-1, columns.shape[1]) @ columns.T
    mixed = rows @ mixed.reshape(-1, rows.shape[1], width * count)
    return np.rint(mixed, out=mixed).astype(np.uint8).reshape(height, width, count)


def to_gray(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, C) -> (H, W, 1): ITU-R 601 luma for RGB and RGBA, as in ALE and OpenCV; the mean otherwise."""
    count = image.shape[2]
    weights = np.array([0.299, 0.587, 0.114, 0.0])[:count] if count in (3, 4) else np.full(count, 1 / count)
    return np.rint(image @ weights).astype(np.uint8)[..., None]
