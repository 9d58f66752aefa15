"""What a collector does, in a process of its own or on another machine: act, step, and hand over whole rows.

`Work` makes its environments by the functions that a run uses, and holds encoder, recurrent model and actor, whose
weights the learner sends. `collectors.py` is the learner's side; how the two talk is in `collector_local.py` and
`collector_ray.py`.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from ..build import build_actor, build_world_model
from ..config import Config
from ..data.collect import Collector, Episode
from ..envs import EnvLike
from ..envs.border import pass_on
from ..envs.spaces import Spec
from ..errors import UserError
from ..fast import accelerate
from ..fast.modes import usual_switches
from ..player import Exploring, Player
from .evaluation import require_same_task, take_notes
from .random_actions import random_action
from .tasks import make_envs, spec_of

#: The parts of the world model that acting needs.
ACTING = ("encoder.", "rssm.", "standardizers.")
#: The version of the weights of rows that were made with random actions, before any arrived.
RANDOM = -1
#: Seconds after which rows are sent although more were asked for: a slow environment is not one that hangs.
PATIENCE = 1.0


@dataclass(frozen=True)
class Task:
    """All that a collector has to know of a run. It has the environments `first`, ... of those of the run."""

    config: Config
    env: EnvLike | None
    spec: Spec
    first: int
    count: int
    seed: int  # of the run's environment 0
    noise: int  # seed of what this collector draws, and no other one
    path: list[str] = field(default_factory=lambda: list(sys.path))


@dataclass(frozen=True)
class Fault:
    """What ended a collector's work, in words."""

    message: str
    hint: str | None = None  # only for what the user can fix
    details: str = ""  # the traceback


@dataclass(frozen=True)
class Block:
    """Rows one after the other, of all environments of a collector, as the replay takes them."""

    rows: dict[str, np.ndarray]  # (R, N, *shape)
    episodes: list[list[Episode]]  # that end with each row
    versions: list[int]  # of the weights that chose the action of each row; RANDOM: none did
    scores: np.ndarray  # (N,) of the unfinished episodes after the last row
    lengths: np.ndarray  # (N,) of the same
    notes: list[str]  # what the environments' border left out
    seconds: float  # that they took
    fault: Fault | None = None  # after the last row

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return sum(value.nbytes for value in self.rows.values())


class Weights:
    """The newest weights that have arrived, as safetensors, with their version."""

    def __init__(self) -> None:
        self.newest: tuple[int, bytes] = (RANDOM, b"")  # replaced as one by the thread that receives them


def acting_weights(world_model: nn.Module, actor: nn.Module) -> dict[str, Tensor]:
    """What acting needs of a learner's networks, on the CPU. -> {name: tensor}."""
    found = {f"world_model.{key}": value for key, value in world_model.state_dict().items() if key.startswith(ACTING)}
    found |= {f"actor.{key}": value for key, value in actor.state_dict().items()}
    return {key: value.detach().cpu().contiguous() for key, value in found.items()}


def pack(weights: dict[str, Tensor]) -> bytes:
    """As they are sent."""
    return safetensors.torch.save(weights)


def fault_of(error: BaseException) -> Fault:
    """An exception of a collector in words."""
    details = "".join(traceback.format_exception(error))
    if isinstance(error, UserError):
        return Fault(error.message, error.hint, details)
    return Fault(f"{type(error).__name__}: {error}", None, details)


def task_of(data: bytes, path: list[str]) -> Task:
    """A task that was pickled elsewhere. path: where modules are found there. Raises UserError."""
    sys.path += [each for each in path if each not in sys.path and os.path.exists(each)]
    try:
        task: Task = pickle.loads(data)
    except Exception as error:
        raise UserError(
            f"the environment cannot be made on {os.uname().nodename} ({type(error).__name__}: {error}).",
            "What makes it must be installed, or lie in the same place, on every machine that collects.",
        ) from error
    return task


class Work:
    """A collector's environments and the part of the agent that acts."""

    @usual_switches()
    def __init__(self, task: Task, weights: Weights) -> None:
        """Raises UserError, e.g. for what the environments' border finds."""
        self.config, self.spec, self.weights = task.config, task.spec, weights
        self.rng = np.random.default_rng(task.noise)
        random.seed(task.noise)  # for environments that draw from the global generators
        np.random.seed(task.noise % 2**32)  # noqa: NPY002
        torch.manual_seed(task.noise)
        config = replace(task.config, env=replace(task.config.env, num_envs=task.count))
        self.envs = make_envs(config, task.env, task.count)
        require_same_task(spec_of(self.envs), task.spec)
        self.collector = Collector(self.envs, seed=task.seed + task.first)
        self.world_model = build_world_model(task.config, task.spec)
        self.actor = build_actor(task.config, task.spec, self.world_model.rssm.feat_dim)
        self.world_model.heads.clear()  # acting needs none of them
        for part in (self.world_model, self.actor):
            part.requires_grad_(False)
            if task.config.compute.mode in ("auto", "fast", "graph"):
                accelerate(part)
        self.player = Player(
            self.world_model,
            self.actor,
            task.spec,
            num_envs=task.count,
            mode="explore",
            seed=task.noise + 1,
            exploring=Exploring.of(task.config.behavior),
        )
        self.version = RANDOM
        self._noted = 0
        self._rows = self.collector.rows(self._act)

    @usual_switches()
    def _act(self, obs: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        version, data = self.weights.newest
        if version != self.version:
            self._load(data)
            self.version = version
        return random_action(self, obs, is_first) if self.version == RANDOM else self.player.act(obs, is_first)

    @torch.no_grad()
    def _load(self, data: bytes) -> None:
        mine = {f"world_model.{key}": value for key, value in self.world_model.state_dict().items()}
        mine |= {f"actor.{key}": value for key, value in self.actor.state_dict().items()}
        for key, value in safetensors.torch.load(data).items():
            mine[key].copy_(value)

    def make(self, count: int) -> Block:
        """The next rows of every environment: `count`, or fewer if that takes long or one of them breaks."""
        begin, fault = time.perf_counter(), None
        made: list[tuple[dict[str, np.ndarray], list[Episode], int]] = []
        while len(made) < count and (not made or time.perf_counter() - begin < PATIENCE):
            try:
                row, episodes = next(self._rows)
            except BaseException as error:
                pass_on(error)
                fault = fault_of(error)
                break
            made.append((row, episodes, self.version))
        notes = self.collector.notes[self._noted :]
        self._noted += len(notes)
        keys = made[0][0] if made else {}
        return Block(
            {key: np.stack([row[key] for row, _, _ in made]) for key in keys},
            [episodes for _, episodes, _ in made],
            [version for _, _, version in made],
            self.collector.scores.copy(),
            self.collector.lengths.copy(),
            notes,
            time.perf_counter() - begin,
            fault,
        )

    def close(self) -> list[str]:
        """Close the environments, whatever they raise. -> what was left out since the last row."""
        with suppress(Exception):
            self.envs.close()
        return take_notes(self.envs)


def failed(error: BaseException) -> Block:
    """The answer of a collector that could not begin."""
    none: Any = np.zeros(0)
    return Block({}, [], [], none, none, [], 0.0, fault_of(error))
