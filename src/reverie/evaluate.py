"""How good is the agent: whole episodes, the environment's own rewards, and one of them on film."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

from .collect import ActFunction, Collector
from .envs.wrappers import area_resize


@dataclass(frozen=True)
class Evaluation:
    """Scores (sums of raw rewards) and lengths (steps) of episodes; frames (H, W, 3) uint8 of the first one."""

    scores: list[float]
    lengths: list[int]
    frames: list[np.ndarray] = field(default_factory=list, repr=False)

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    @property
    def interval(self) -> float:
        """Half width of the 95 % confidence interval of the mean (normal approximation); NaN for one episode."""
        if len(self.scores) < 2:
            return math.nan
        return 1.96 * float(np.std(self.scores, ddof=1)) / math.sqrt(len(self.scores))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "mean": self.mean,
            "ci95": None if math.isnan(self.interval) else self.interval,
            "episodes": len(self.scores),
            "scores": self.scores,
            "lengths": self.lengths,
        }


def evaluate(envs: VectorEnv, act: ActFunction, episodes: int, *, seed: int, film: bool = False) -> Evaluation:
    """Play exactly `episodes` episodes. Each environment plays a fixed number of them: no preference for short ones."""
    collector = Collector(envs, seed=seed)
    quota = np.full(envs.num_envs, episodes // envs.num_envs)
    quota[: episodes % envs.num_envs] += 1
    scores: list[float] = []
    lengths: list[int] = []
    frames: list[np.ndarray] = []
    camera = envs if film and isinstance(envs, SyncVectorEnv) else None
    for row, finished in collector.rows(act):
        if camera is not None:
            frames.append(_frame(camera, row))
            camera = None if row["is_last"][0] else camera
        for episode in finished:
            if quota[episode.index] > 0:
                quota[episode.index] -= 1
                scores.append(episode.score)
                lengths.append(episode.length)
        if not quota.any():
            return Evaluation(scores, lengths, frames)
    raise RuntimeError("the collector never ends")


def random_policy(random: Callable[[int], np.ndarray]) -> ActFunction:
    """Uniformly random actions, the baseline to beat. random: count -> (count, A)."""
    return lambda obs, is_first: random(len(is_first))


def _frame(envs: SyncVectorEnv, row: dict[str, np.ndarray]) -> np.ndarray:
    """A picture of environment 0: rendered if it can, otherwise its first image observation."""
    env = envs.envs[0]
    picture = env.render() if env.render_mode == "rgb_array" else None
    if picture is None:
        images = [value[0] for key, value in row.items() if value.dtype == np.uint8]
        picture = images[0] if images else np.zeros((64, 64, 3), np.uint8)
    picture = np.asarray(picture)
    if picture.shape[-1] == 1:
        picture = np.repeat(picture, 3, -1)
    scale = min(1.0, 240 / max(picture.shape[:2]))
    height, width = (max(16, round(side * scale)) for side in picture.shape[:2])
    return area_resize(picture.astype(np.uint8), height, width)


def write_gif(path: Path, frames: list[np.ndarray], *, fps: int = 8) -> None:
    """An animated GIF, no ffmpeg needed; the last picture stays for a second. frames of uint8 (H, W, 3)."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [Image.fromarray(frame) for frame in frames]
    durations = [round(1000 / fps)] * (len(frames) - 1) + [1000]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)
