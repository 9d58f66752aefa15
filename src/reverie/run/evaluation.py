"""Evaluation: whole episodes with the environment's own rewards, and a video of the first one."""

from __future__ import annotations

import io
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv, VectorEnv

from ..config import Config
from ..data.collect import ActFunction, Collector
from ..envs import EnvLike, is_instance
from ..envs.border import describe_error, require_apart
from ..envs.images import area_resize
from ..envs.spaces import MASK, Spec
from ..errors import UserError
from ..extensions.director import goal_feat
from ..files import write_file
from ..player import Player
from ..train import DreamerV2
from .html import html_table
from .tasks import make_envs, spec_of


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Scores (sums of raw rewards) and lengths (steps) of episodes; frames (H, W, 3) uint8 of the first one."""

    scores: list[float]
    lengths: list[int]
    frames: list[np.ndarray] = field(default_factory=list, repr=False)
    note: str = ""  # why there is no video, if one was asked for
    notes: tuple[str, ...] = field(default=(), repr=False)  # what the environments' border left out
    strange: float | None = None  # share of steps that the model knew less than 99 % of the replay; None: no ensemble

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

    def __repr__(self) -> str:
        if not self.scores:
            return "Evaluation(no episode)"
        video = f", {len(self.frames)} frames" if self.frames else ""
        lengths = f"{min(self.lengths):,} to {max(self.lengths):,} steps"
        return f"Evaluation(return {self.mean:.3f}{self.spread} over {len(self.scores)} episodes of {lengths}{video})"

    def _repr_html_(self) -> str:
        names = ("return", "95 % interval", "episodes", "lowest", "highest", "mean length")
        low, high, length = min(self.scores), max(self.scores), float(np.mean(self.lengths))
        return html_table(names, [(self.mean, self.spread, len(self.scores), low, high, length)])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        strange = {} if self.strange is None else {"strange": self.strange}
        return strange | {
            "mean": self.mean,
            "ci95": None if math.isnan(self.interval) else self.interval,
            "episodes": len(self.scores),
            "scores": self.scores,
            "lengths": self.lengths,
        }


class Better(NamedTuple):
    """The best evaluation of a run, where the last one is worse; env_steps and result of each."""

    best_at: int
    best: Evaluation
    last_at: int
    last: Evaluation


def logged_evaluations(lines: Iterable[Mapping[str, Any]]) -> dict[int, Evaluation]:
    """The evaluations in the lines of episodes.jsonl. -> {env_steps: Evaluation}, in order."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for line in lines:
        if line.get("phase") == "eval":
            found.setdefault(int(line["env_steps"]), []).append(line)
    return {at: Evaluation([x["return"] for x in rows], [x["length"] for x in rows]) for at, rows in found.items()}


def best_beyond_noise(past: Mapping[int, Evaluation]) -> Better | None:
    """The best evaluation, if it beats the last one by more than chance: None if not, or if that is not known.

    The largest of many equal agents' means is high by luck alone, so the 5 % of error that the interval of the
    difference has are shared among all evaluations that could have been the best (Bonferroni).
    """
    if len(past) < 2:
        return None
    last_at = max(past)
    best_at = max(past, key=lambda at: past[at].mean)  # the first of equal ones, as `checkpoints/best`
    best, last = past[best_at], past[last_at]
    if best_at == last_at or math.isnan(best.interval) or math.isnan(last.interval):
        return None
    widen = NormalDist().inv_cdf(1 - 0.025 / (len(past) - 1)) / 1.96
    beaten = best.mean - last.mean > widen * math.hypot(best.interval, last.interval)
    return Better(best_at, best, last_at, last) if beaten else None


def evaluations_due(every: int, since: int, end: int, *, at_end: bool = True) -> int:
    """How many evaluations are to come: every so many env_steps after the one at `since`, and one at the `end`.

    at_end: False if the one at `since` is that of the end.
    """
    if end <= since:
        return int(at_end)
    return math.ceil((end - since) / every) if every else 1


MAX_LENGTH = 30_000  # steps after which an episode of an evaluation is counted as it stands (Atari's limit: 27,000)
MAX_FRAMES = 300  # of a video; of a longer episode every second one is kept, every fourth, ...


def evaluate(
    envs: VectorEnv,
    act: ActFunction,
    episodes: int,
    *,
    seed: int,
    video: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    report: Callable[[int, int], None] = lambda done, longest: None,
    follow: Callable[[dict[str, np.ndarray]], None] = lambda row: None,
    beside: Callable[[], np.ndarray | None] = lambda: None,
) -> Evaluation:
    """Play exactly `episodes` episodes. Each environment plays a fixed number of them: no preference for short ones.

    `stopped` is asked after every step and ends the evaluation early, with the episodes so far. An episode longer than
    MAX_LENGTH is cut there, so that a task without an end does not hang. `report` is called after every step with the
    number of episodes that are done and the steps of the longest unfinished one; `follow` with every row. `beside`
    gives what frames of the video show on their right (H, W, 3).
    """
    collector = Collector(envs, seed=seed)
    quota = np.full(envs.num_envs, episodes // envs.num_envs)
    quota[: episodes % envs.num_envs] += 1
    scores: list[float] = []
    lengths: list[int] = []
    recording = Recording(envs) if video else None
    for row, finished in collector.rows(act):
        follow(row)
        if recording is not None:
            recording.add(row, beside)
        for episode in finished:
            if quota[episode.index] > 0 and not episode.crashed:
                quota[episode.index] -= 1
                scores.append(episode.score)
                lengths.append(episode.length)
        for index in np.nonzero((collector.lengths >= MAX_LENGTH) & (quota > 0))[0]:
            quota[index] = 0
            scores.append(float(collector.scores[index]))
            lengths.append(int(collector.lengths[index]))
        report(len(scores), int(collector.lengths[quota > 0].max(initial=0)))
        if not quota.any() or stopped():
            frames, note = (recording.frames, recording.note) if recording is not None else ([], "")
            return Evaluation(scores, lengths, frames, note, tuple(collector.notes))
    raise RuntimeError("the collector never ends")


class SlowEvaluation:
    """The `report` of `evaluate` that says how far it is: after PATIENCE seconds, then every REMIND seconds."""

    PATIENCE = 10.0
    REMIND = 60.0

    def __init__(self, episodes: int, say: Callable[[str], None]) -> None:
        self.episodes = episodes
        self.say = say
        self._due = time.monotonic() + self.PATIENCE

    def __call__(self, done: int, longest: int) -> None:
        """done: episodes; longest: steps of the longest unfinished one."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self.REMIND
        text = (
            f"evaluation: {done} of {self.episodes} episodes are done, the longest unfinished one has {longest:,} steps"
        )
        if not done:
            text += f"; it is cut at {MAX_LENGTH:,} steps, set env.time_limit to cut it earlier"
        self.say(text)


class Warned:
    """A player's `act` that counts the steps which the model knew less than 99 % of the run's own replay."""

    def __init__(self, player: Player) -> None:
        self.player = player
        self.steps = 0
        self.strange = 0

    def act(self, obs: Mapping[str, np.ndarray], first: np.ndarray) -> np.ndarray:
        """As `Player.act`."""
        action = self.player.act(obs, first)
        if self.player.last is not None:
            self.steps += len(first)
            self.strange += int((self.player.last.uncertainty > 0.99).sum())
        return action

    @property
    def share(self) -> float | None:
        """The share of such steps so far; None without an ensemble."""
        return self.strange / self.steps if self.steps else None


def random_policy(random: Callable[[int, np.ndarray | None], np.ndarray]) -> ActFunction:
    """Uniformly random allowed actions, the baseline to beat. random: count, mask (count, A) or None -> (count, A)."""
    return lambda obs, is_first: random(len(is_first), obs.get(MASK))


class GoalStrip:
    """What a hierarchy goes for in environment 0, as images: the goal of the last action and how old it is."""

    def __init__(self, player: Player) -> None:
        self.player = player

    def __call__(self) -> np.ndarray | None:
        """-> uint8 (H, W, 3); None without a hierarchy or without images."""
        player = self.player
        goal, every = player.plan.get("goal"), getattr(player.actor, "every", 0)
        images = player.world_model.encoder.image_keys
        if goal is None or not images:
            return None
        with torch.no_grad():
            feat = goal_feat(player.world_model.rssm, goal[:1])
            image = player.world_model.reconstruct(feat)[images[0]][0].cpu().numpy()
        image = image[..., -3:] if image.shape[-1] % 3 == 0 else image[..., -1:].repeat(3, -1)
        return with_ticks(image, int(player.plan["step"][0] - 1) % every, every)


def with_ticks(image: np.ndarray, over: int, every: int) -> np.ndarray:
    """An image with a tick for each step of a window along its lower edge, bright for steps that began. (H, W, 3)."""
    image, width = image.copy(), image.shape[1]
    height = max(1, len(image) // 16)
    for step in range(every):
        left, right = step * width // every, max(step * width // every + 1, (step + 1) * width // every - 1)
        image[-height:, left:right] = (255, 200, 0) if step <= over else (60, 60, 60)
    return image


def _beside(frame: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    """Two images side by side, the second made as high as the first, its pixels as squares. uint8 (H, W, 3)."""
    if other is None:
        return frame
    height = len(frame)
    rows = np.arange(height) * len(other) // height
    columns = np.arange(max(1, other.shape[1] * height // len(other))) * len(other) // height
    return np.concatenate([frame, other[rows][:, columns.clip(max=other.shape[1] - 1)]], 1)


Camera = Callable[[dict[str, np.ndarray]], np.ndarray]


class Recording:
    """Frames of the first episode of environment 0. What an environment draws never ends an evaluation."""

    def __init__(self, envs: VectorEnv) -> None:
        self.frames: list[np.ndarray] = []
        self._camera, self.note = camera(envs)  # note: why there are no frames
        self._stride = 1
        self._seen = 0

    def add(self, row: dict[str, np.ndarray], beside: Callable[[], np.ndarray | None] = lambda: None) -> None:
        """One more row of the evaluation; beside: what is shown on the right."""
        if self._camera is None:
            return
        if self._seen % self._stride == 0 or row["is_last"][0]:
            try:
                frame = _beside(self._camera(row), beside())
                self.frames.append(frame if not self.frames else area_resize(frame, *self.frames[0].shape[:2]))
            except Exception as error:
                self.frames, self._camera, self.note = [], None, _no_video(error)
                return
        if len(self.frames) == MAX_FRAMES:
            self.frames, self._stride = self.frames[::2], 2 * self._stride
        self._seen += 1
        if row["is_last"][0]:
            self._camera = None


def _no_video(error: BaseException) -> str:
    return f"no video: {error.message if isinstance(error, UserError) else describe_error(error)}".rstrip(": ")


def camera(envs: VectorEnv) -> tuple[Camera | None, str]:
    """How to get frames of environment 0: its own rendering, else its first image; or None and why not."""
    if not isinstance(envs, SyncVectorEnv):
        return None, "no video: env.backend=async environments run in other processes"
    env = envs.envs[0]
    images = [key for key, item in env.get_wrapper_attr("agent_spec").obs.items() if item.kind == "image"]
    if env.render_mode == "rgb_array":
        try:
            env.reset()
            _frame(env.render())
            return lambda row: _frame(env.render()), ""
        except Exception as error:  # a missing video does not end a run
            if not images:
                return None, _no_video(error)
    if images:
        return lambda row: _frame(row[f"obs/{images[0]}"][0]), ""
    return None, "no video: the environment cannot draw itself (render_mode is not rgb_array)"


def _frame(image: Any) -> np.ndarray:
    """Any image as uint8 RGB of at most 240 pixels a side. (H, W, C) -> (height, width, 3)."""
    image = np.asarray(image)
    image = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, -1)
    scale = min(1.0, 240 / max(image.shape[:2]))
    height, width = (max(16, round(side * scale)) for side in image.shape[:2])
    return area_resize(image.astype(np.uint8), height, width)


def save_video(path: Path, frames: list[np.ndarray], *, keep: int = 0) -> str:
    """Like `write_gif`, but a full disk does not end the run. -> why there is no video, or "".

    keep: how many of the newest eval-STEP.gif stay beside it, itself among them; 0: all. Other files stay.
    """
    try:
        write_gif(path, frames)
        ours = [each for each in path.parent.glob("eval-*.gif") if re.fullmatch(r"eval-\d{9,}\.gif", each.name)]
        for old in sorted(ours, key=lambda each: int(each.stem[5:]))[:-keep] if keep else ():
            old.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # incomplete
        return f"no video: it could not be written ({getattr(error, 'strerror', None) or error})"
    return ""


def write_gif(path: Path, frames: list[np.ndarray], *, fps: int = 8) -> None:
    """An animated GIF, no ffmpeg needed; the last frame stays for a second. frames of uint8 (H, W, 3)."""
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    durations = [round(1000 / fps)] * (len(frames) - 1) + [1000]
    out = io.BytesIO()
    images[0].save(out, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    write_file(path, out.getvalue())


#: Seconds that the evaluation of the random policy may take.
RANDOM_LIMIT = 10.0


class Evaluator:
    """Plays evaluation episodes; its environments are made when they are first needed."""

    def __init__(self, config: Config, env: EnvLike | None, spec: Spec) -> None:
        self.config = config
        self.env = env
        self.spec = spec
        self._envs: VectorEnv | None = None

    def _environments(self) -> VectorEnv:
        if self._envs is None:
            episodes = self.config.train.eval_episodes
            count = 1 if is_instance(self.env) else min(self.config.env.num_envs, episodes)
            envs = make_envs(self.config, self.env, count, backend="sync")  # only these can be rendered
            self._envs = envs
            require_same_task(spec_of(envs), self.spec)
        return self._envs

    def prepare(self, training: VectorEnv) -> None:
        """Make the environments now, and see that none of them is one of `training`. Raises UserError."""
        envs = self._environments()
        require_apart([*getattr(training, "envs", []), *getattr(envs, "envs", [])])

    def random(self, stopped: Callable[[], bool]) -> Evaluation | None:
        """The random policy, as a baseline; None if there was not enough time for it.

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

    def agent(self, agent: DreamerV2, stopped: Callable[[], bool], say: Callable[[str], None]) -> Evaluation:
        """Evaluate the agent as it is now. Ends early, with the episodes so far, when `stopped` says so.

        say: receives how far it is, if it takes long.
        """
        settings, envs = self.config.train, self._environments()
        player = agent.player(num_envs=envs.num_envs, mode=settings.eval_mode, seed=settings.seed + 2)
        seed, video = 10_000 + 1000 * settings.seed, self.config.log.video
        report = SlowEvaluation(settings.eval_episodes, say)
        return evaluate(
            envs,
            player.act,
            settings.eval_episodes,
            seed=seed,
            video=video,
            stopped=stopped,
            report=report,
            beside=GoalStrip(player),
        )

    def close(self) -> None:
        """Close the environments."""
        if self._envs is not None:
            self._envs.close()

    def take_notes(self) -> list[str]:
        """What closing left out."""
        return take_notes(self._envs)


def take_notes(envs: VectorEnv | None) -> list[str]:
    """What the border of these environments left out since the last time."""
    take = getattr(envs, "take_notes", None)
    return take() if take is not None else []


def require_same_task(found: Spec, trained: Spec) -> None:
    """Raises UserError if an environment made for evaluation differs from those of training."""
    if found.to_dict() != trained.to_dict():
        raise UserError(
            f"an environment made for evaluation has other spaces ({'; '.join(found.describe())}) than those of "
            f"training ({'; '.join(trained.describe())}).",
            "The function that makes them must give all of them the same spaces.",
        )
