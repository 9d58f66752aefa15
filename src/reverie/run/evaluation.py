"""How good is the agent: whole episodes, the environment's own rewards, and one of them on film."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

from ..config import Config
from ..data.collect import ActFunction, Collector
from ..envs import EnvLike
from ..envs.images import area_resize
from ..envs.spaces import MASK, Spec
from ..train import DreamerV2
from .tasks import make_envs


@dataclass(frozen=True)
class Evaluation:
    """Scores (sums of raw rewards) and lengths (steps) of episodes; frames (H, W, 3) uint8 of the first one."""

    scores: list[float]
    lengths: list[int]
    frames: list[np.ndarray] = field(default_factory=list, repr=False)
    note: str = ""  # why there is no video, if one was asked for

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    @property
    def interval(self) -> float:
        """Half width of the 95 % confidence interval of the mean (normal approximation); NaN for one episode."""
        if len(self.scores) < 2:
            return math.nan
        return 1.96 * float(np.std(self.scores, ddof=1)) / math.sqrt(len(self.scores))

    @property
    def spread(self) -> str:
        """The interval as text behind a mean: " ± 0.013", or nothing for one episode."""
        return "" if math.isnan(self.interval) else f" ± {self.interval:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "mean": self.mean,
            "ci95": None if math.isnan(self.interval) else self.interval,
            "episodes": len(self.scores),
            "scores": self.scores,
            "lengths": self.lengths,
        }


MAX_LENGTH = 30_000  # steps after which an episode of an evaluation is counted as it stands (Atari's limit: 27,000)
MAX_FRAMES = 300  # of a film; of a longer episode every second one is kept, every fourth, ...


def evaluate(
    envs: VectorEnv,
    act: ActFunction,
    episodes: int,
    *,
    seed: int,
    film: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Play exactly `episodes` episodes. Each environment plays a fixed number of them: no preference for short ones.

    `stopped` is asked after every step and ends the evaluation early, with the episodes so far. An episode longer than
    MAX_LENGTH is cut there, so that a task without an end does not hang.
    """
    collector = Collector(envs, seed=seed)
    quota = np.full(envs.num_envs, episodes // envs.num_envs)
    quota[: episodes % envs.num_envs] += 1
    scores: list[float] = []
    lengths: list[int] = []
    frames: list[np.ndarray] = []
    camera, note = _camera(envs) if film else (None, "")
    stride, seen = 1, 0
    for row, finished in collector.rows(act):
        if camera is not None:
            if seen % stride == 0 or row["is_last"][0]:
                frames.append(camera(row))
            if len(frames) == MAX_FRAMES:
                frames, stride = frames[::2], 2 * stride
            seen += 1
            camera = None if row["is_last"][0] else camera
        for episode in finished:
            if quota[episode.index] > 0 and not episode.crashed:
                quota[episode.index] -= 1
                scores.append(episode.score)
                lengths.append(episode.length)
        for index in np.nonzero((collector.lengths >= MAX_LENGTH) & (quota > 0))[0]:
            quota[index] = 0
            scores.append(float(collector.scores[index]))
            lengths.append(int(collector.lengths[index]))
        if not quota.any() or stopped():
            return Evaluation(scores, lengths, frames, note)
    raise RuntimeError("the collector never ends")


def random_policy(random: Callable[[int, np.ndarray | None], np.ndarray]) -> ActFunction:
    """Uniformly random allowed actions, the baseline to beat. random: count, mask (count, A) or None -> (count, A)."""
    return lambda obs, is_first: random(len(is_first), obs.get(MASK))


Camera = Callable[[dict[str, np.ndarray]], np.ndarray]


def _camera(envs: VectorEnv) -> tuple[Camera | None, str]:
    """How to picture environment 0: drawn by itself, else its first image observation; or None and why not."""
    if not isinstance(envs, SyncVectorEnv):
        return None, "no video: env.backend=async environments run in other processes"
    env = envs.envs[0]
    images = [key for key, item in env.get_wrapper_attr("agent_spec").obs.items() if item.kind == "image"]
    if env.render_mode == "rgb_array":
        try:
            env.reset()
            env.render()
            return lambda row: _picture(env.render()), ""
        except Exception as error:  # a film is never worth a run
            if not images:
                return None, f"no video: {type(error).__name__}: {error}".rstrip(": ")
    if images:
        return lambda row: _picture(row[f"obs/{images[0]}"][0]), ""
    return None, "no video: the environment cannot draw itself (render_mode is not rgb_array)"


def _picture(picture: Any) -> np.ndarray:
    """Any picture as uint8 RGB of at most 240 pixels a side. (H, W, C) -> (height, width, 3)."""
    picture = np.asarray(picture)
    picture = picture[..., :3] if picture.shape[-1] >= 3 else np.repeat(picture[..., :1], 3, -1)
    scale = min(1.0, 240 / max(picture.shape[:2]))
    height, width = (max(16, round(side * scale)) for side in picture.shape[:2])
    return area_resize(picture.astype(np.uint8), height, width)


def keep_film(path: Path, frames: list[np.ndarray]) -> str:
    """Like `write_gif`, but a film is never worth a run. -> why there is none, or nothing."""
    try:
        write_gif(path, frames)
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # half a film
        return f"no video: it could not be written ({error.strerror})"
    return ""


def write_gif(path: Path, frames: list[np.ndarray], *, fps: int = 8) -> None:
    """An animated GIF, no ffmpeg needed; the last picture stays for a second. frames of uint8 (H, W, 3)."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [Image.fromarray(frame) for frame in frames]
    durations = [round(1000 / fps)] * (len(frames) - 1) + [1000]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)


#: Seconds that the random policy may take before its measurement is given up.
RANDOM_LIMIT = 10.0


class Evaluator:
    """Plays evaluation episodes; its environments are made when they are first needed."""

    def __init__(self, config: Config, env: EnvLike | None, spec: Spec) -> None:
        self.config, self.env, self.spec = config, env, spec
        self._envs: VectorEnv | None = None

    def _environments(self) -> VectorEnv:
        if self._envs is None:
            episodes = self.config.train.eval_episodes
            count = 1 if isinstance(self.env, gym.Env) else min(self.config.env.num_envs, episodes)
            self._envs = make_envs(self.config, self.env, count, backend="sync")  # which can be filmed
        return self._envs

    def random(self, stopped: Callable[[], bool]) -> Evaluation | None:
        """The level to beat; None if there was not enough time for it.

        Whole episodes only: those that end early in the prefill are the lucky ones.
        """
        settings, end = self.config.train, time.monotonic() + RANDOM_LIMIT
        rng = np.random.default_rng(settings.seed + 3)
        result = evaluate(
            self._environments(),
            random_policy(lambda count, mask: self.spec.action.random(rng, count, mask)),
            settings.eval_episodes,
            seed=20_000 + 1000 * settings.seed,
            stopped=lambda: stopped() or time.monotonic() > end,
        )
        return result if len(result.scores) == settings.eval_episodes else None

    def agent(self, agent: DreamerV2, stopped: Callable[[], bool]) -> Evaluation:
        """How good is the agent now? Ends early, with the episodes so far, when `stopped` says so."""
        settings, envs = self.config.train, self._environments()
        player = agent.player(num_envs=envs.num_envs, mode=settings.eval_mode, seed=settings.seed + 2)
        seed, film = 10_000 + 1000 * settings.seed, self.config.log.video
        return evaluate(envs, player.act, settings.eval_episodes, seed=seed, film=film, stopped=stopped)

    def close(self) -> None:
        """Close the environments."""
        if self._envs is not None:
            self._envs.close()
