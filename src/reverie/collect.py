"""Experience from environments: steps them with any policy and yields the rows of the drawing in `replay.py`.

Knows neither replay nor networks nor torch. The collector owns the unfinished episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

#: (obs {key: (N, *shape)}, is_first (N,)) -> agent's actions (N, A)
ActFunction = Callable[[dict[str, np.ndarray], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Episode:
    """A finished episode, with the environment's own rewards."""

    index: int  # which environment
    score: float  # sum of raw rewards
    length: int  # environment steps
    terminal: bool  # ended by the task (True) or by a time limit
    crashed: bool = False  # ended because its environment broke and was made anew: the score means nothing
    log: Mapping[str, float] = field(default_factory=dict)  # what the environment told in info["log"] at the end


class Collector:
    """Steps a vector of environments for ever. `steps` counts real steps: resets are rows but not steps."""

    def __init__(self, envs: VectorEnv, *, seed: int) -> None:
        self.envs, self.count = envs, envs.num_envs
        self.steps = 0
        self.scores, self.lengths = np.zeros(self.count), np.zeros(self.count, np.int64)
        self.seed = seed
        self._row: dict[str, np.ndarray] | None = None

    def _reset(self) -> dict[str, np.ndarray]:
        """Step 0 of the drawing in `replay.py`."""
        obs, _ = self.envs.reset(seed=self.seed)
        shape = (self.count, *(self.envs.single_action_space.shape or ()))
        yes, no = np.ones(self.count, bool), np.zeros(self.count, bool)
        return _rows(obs, np.full(shape, np.nan, np.float32), np.zeros(self.count), yes, no, no)

    def rows(self, act: ActFunction) -> Iterator[tuple[dict[str, np.ndarray], list[Episode]]]:
        """Yield (row of every environment, episodes that end with it), one vector step at a time, for ever.

        The very first yield is the reset. `act` sees each row before the next one is made. To change the policy,
        start a new `rows`: it goes on where the last one stopped.
        """
        if self._row is None:
            self._row = self._reset()
            yield self._row, []
        while True:
            obs = {key[4:]: value for key, value in self._row.items() if key.startswith("obs/")}
            action = act(obs, self._row["is_first"])
            self._row, episodes = self._step(action, self._row["is_last"])
            yield self._row, episodes

    def _step(self, action: np.ndarray, ended: np.ndarray) -> tuple[dict[str, np.ndarray], list[Episode]]:
        """The next step of the drawing in `replay.py`: what arrives, with the action that led there."""
        obs, reward, terminated, truncated, infos = self.envs.step(action)
        crashed = infos.get("crashed", np.zeros(self.count, bool))
        action = np.where(ended[:, None], np.float32(np.nan), action)
        reward = np.where(ended, 0.0, reward)
        self.scores, self.lengths = np.where(ended, 0.0, self.scores) + reward, np.where(ended, 0, self.lengths) + 1
        self.lengths -= ended  # the reset row is not a step
        self.steps += int((~ended).sum())
        last = terminated | truncated
        episodes = [
            Episode(
                i, float(self.scores[i]), int(self.lengths[i]), bool(terminated[i]), bool(crashed[i]), _log(infos, i)
            )
            for i in map(int, np.nonzero(last)[0])
        ]
        return _rows(obs, action, reward, ended, last, terminated), episodes


def _log(infos: dict[str, Any], index: int) -> dict[str, float]:
    """info["log"] of one environment: numbers about a finished episode, e.g. Crafter's achievements."""
    logs = infos.get("log", {})
    return {key: float(values[index]) for key, values in logs.items() if not key.startswith("_")}


def _rows(
    obs: dict[str, Any], action: np.ndarray, reward: np.ndarray, first: np.ndarray, last: np.ndarray, end: np.ndarray
) -> dict[str, np.ndarray]:
    """Copies, because vector environments reuse their buffers."""
    rows = {f"obs/{key}": np.array(value) for key, value in obs.items()}
    return rows | {
        "action": np.asarray(action, np.float32),
        "reward": np.asarray(reward, np.float32),
        "is_first": np.array(first, bool),
        "is_last": np.array(last, bool),
        "is_terminal": np.array(end, bool),
    }
