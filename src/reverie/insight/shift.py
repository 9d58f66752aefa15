"""Shift: what an agent does, and whether it notices, in a task that was changed since it learned.

One factor of the task (`envs.family:factors_of`: a mass, a length, a size, a color) takes one value after the other;
the agent plays whole episodes with each, from the same seeds, and as it was trained beside them:

    return      of whole episodes, with its 95 % interval
    surprise    KL(posterior || prior) per step in nats: what looking changed
    surprising  share of the steps with more surprise than 99 % of those of the unchanged task
    alarm       share of the steps about which the agent's ensemble disagreed more than about 99 % of its own replay
    auroc       how well surprise and disagreement separate steps of the changed task from the unchanged one's

All of one step: a model may know the next step and not the fifteenth. Intervals are over episodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import Config, build
from ..envs.family import factors_of
from ..errors import UserError
from ..player import Player
from ..run.evaluation import Evaluation
from ..train import DreamerV2
from .alarm import AlarmScore, auroc, auroc_interval
from .trust import Task

Array = NDArray[np.float64]
#: Above this percentile of what is usual a step counts as strange; episodes drawn again for the intervals.
STRANGE, REPETITIONS = 0.99, 200


@dataclass(frozen=True)
class Watched:
    """Every step of the episodes that were played: arrays (steps,)."""

    surprise: Array
    episode: NDArray[np.int64]
    disagreement: Array | None = None  # None: the agent has no ensemble
    uncertainty: Array | None = None  # its percentile in the run's own replay


@dataclass(frozen=True)
class ShiftPoint:
    """What happened with one value of the factor; "" is the task as it was trained."""

    value: str
    played: Evaluation
    surprise: float  # nats per step
    surprise_ci: float  # half of its 95 % interval; NaN with one episode
    surprising: float
    alarm: float | None  # None: no ensemble
    auroc: dict[str, AlarmScore] = field(default_factory=dict)  # "surprise", "disagreement"; of "" none

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        scores = {name: {key: _plain(x) for key, x in each._asdict().items()} for name, each in self.auroc.items()}
        found = {"value": self.value, **self.played.to_dict(), "surprise": self.surprise}
        found |= {"surprise_ci95": _plain(self.surprise_ci), "surprising": self.surprising}
        return found | {"alarm": self.alarm, "auroc": scores}


@dataclass(frozen=True)
class Shift:
    """The measurement: the task as it was trained first, then each value of the factor."""

    task: str
    factor: str
    meaning: str
    mode: str
    points: tuple[ShiftPoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        head = {"env": self.task, "factor": self.factor, "meaning": self.meaning, "mode": self.mode}
        return head | {"points": [point.to_dict() for point in self.points]}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def shift(
    agent: DreamerV2,
    factor: str,
    values: Sequence[str],
    *,
    episodes: int = 20,
    mode: str = "",
    seed: int = 0,
    report: Callable[[str], None] = lambda value: None,
) -> Shift:
    """Play the agent's task as it was trained and with each value of a factor; mode "": `train.eval_mode`.

    report: gets each value before it is played. Raises UserError for a factor that the task does not have, for values
    that it does not take, and where observations or actions are others then.
    """
    config, mode = agent.config, mode or agent.config.train.eval_mode
    meaning = _meaning(agent, factor)
    usual, watched = _play(agent, config, episodes, mode, seed, lambda: report(""))
    points = [_point("", usual, watched, None)]
    for value in values:
        try:
            changed = _changed(config, factor, value)
            found = _play(agent, changed, episodes, mode, seed, lambda value=value: report(value))  # type: ignore[misc]
        except UserError as error:
            raise UserError(f"{factor}={value}: {error.message}", error.hint) from error
        points.append(_point(value, *found, watched))
    return Shift(config.env.id, factor, meaning, mode, tuple(points))


def _meaning(agent: DreamerV2, factor: str) -> str:
    """What the factor is, and how it usually is. Raises UserError with the known ones."""
    config = agent.config
    known = factors_of(config.env.id)
    if factor in known:
        return known[factor]
    if not known:
        with Task(config, None, agent.spec, episodes=1, seed=0):
            pass  # a package that is missing is reported first
    raise UserError(
        f"'{factor}' is nothing that can be changed in {config.env.id}.",
        f"It has: {', '.join(known)}." if known else "Its code offers no arguments: evaluate on another task instead.",
    )


def _changed(config: Config, factor: str, value: str) -> Config:
    kept = [each for each in config.env.options if each.partition("=")[0].strip() != factor]
    return build({"env.options": (*kept, f"{factor}={value}")}, base=config)


def _play(
    agent: DreamerV2, config: Config, episodes: int, mode: str, seed: int, begin: Callable[[], None]
) -> tuple[Evaluation, Watched]:
    with Task(config, None, agent.spec, episodes=episodes, seed=seed) as task:
        begin()
        witness = Witness(agent.player(num_envs=task.envs.num_envs, mode=mode, seed=seed), episodes)
        return task.play(witness.act), witness.found()


class Witness:
    """A player's `act` that keeps what each step was to the model, within the episodes that count."""

    def __init__(self, player: Player, episodes: int) -> None:
        self.player = player
        count = player.count
        self.quota = np.full(count, episodes // count) + (np.arange(count) < episodes % count)  # as `evaluate` has it
        self.seen = np.zeros(count, np.int64)
        self.steps: list[dict[str, Array]] = []

    def act(self, obs: Mapping[str, np.ndarray], first: np.ndarray) -> np.ndarray:
        """As `Player.act`."""
        action = self.player.act(obs, first)
        self.seen += np.asarray(first | (self.seen == 0), np.int64)
        rssm, state, last = self.player.world_model.rssm, self.player.state, self.player.last
        with torch.no_grad():
            surprise = rssm.latent.kl(state.stats, rssm.prior_net(state.deter)) if last is None else last.surprise
        row = {"surprise": surprise, "episode": torch.from_numpy(self.seen * len(first) + np.arange(len(first)))}
        row |= {} if last is None else {"disagreement": last.disagreement, "uncertainty": last.uncertainty}
        counts = self.seen <= self.quota
        self.steps.append({key: x.double().cpu().numpy()[counts] for key, x in row.items()})
        return action

    def found(self) -> Watched:
        """All steps so far."""
        joined = {key: np.concatenate([step[key] for step in self.steps]) for key in self.steps[0]}
        return Watched(episode=joined.pop("episode").astype(np.int64), **joined)


def _point(value: str, played: Evaluation, seen: Watched, usual: Watched | None) -> ShiftPoint:
    limit = np.quantile((usual or seen).surprise, STRANGE)
    scores = {}
    if usual is not None:
        parts = {"surprise": (usual.surprise, seen.surprise)}
        if usual.disagreement is not None and seen.disagreement is not None:
            parts["disagreement"] = (usual.disagreement, seen.disagreement)
        scores = {name: _separation(*part, usual.episode, seen.episode) for name, part in parts.items()}
    return ShiftPoint(
        value,
        played,
        float(seen.surprise.mean()),
        _half_width(seen.surprise, seen.episode),
        float((seen.surprise > limit).mean()),
        None if seen.uncertainty is None else float((seen.uncertainty > STRANGE).mean()),
        scores,
    )


def _separation(usual: Array, changed: Array, *episodes: NDArray[np.int64]) -> AlarmScore:
    """AUROC of a score between the steps of both, with its interval over the episodes of both."""
    scores = np.concatenate([usual, changed])
    label = np.arange(len(scores)) >= len(usual)
    rows = np.concatenate([episodes[0], episodes[1] + episodes[0].max() + 1])
    return AlarmScore(auroc(scores, label), *auroc_interval(scores, label, rows, repetitions=REPETITIONS))


def _half_width(values: Array, episode: NDArray[np.int64]) -> float:
    """Half of the 95 % interval of the mean per step, over episodes: linearized, as of any ratio of sums."""
    names, index = np.unique(episode, return_inverse=True)
    if len(names) < 2:
        return math.nan
    off = np.bincount(index, values - values.mean()) / (len(values) / len(names))
    return float(1.96 * off.std(ddof=1) / math.sqrt(len(names)))
