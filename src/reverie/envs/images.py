"""Resizing and greying of pictures, in NumPy alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


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


def grey(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, C) -> (H, W, 1): luma of ITU-R 601 for RGB and RGBA, as ALE and OpenCV; else the mean."""
    count = image.shape[2]
    weights = np.array([0.299, 0.587, 0.114, 0.0])[:count] if count in (3, 4) else np.full(count, 1 / count)
    return np.rint(image @ weights).astype(np.uint8)[..., None]
