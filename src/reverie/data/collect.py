"""Experience from environments: steps them with any policy and yields the rows of the drawing in `replay.py`.

Independent of replay, networks and torch. The collector owns the unfinished episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

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
    crashed: bool = False  # its environment broke and was recreated: the score means nothing
    log: Mapping[str, float] = field(default_factory=dict)  # the numbers of info["log"] of the last step


class Collector:
    """Steps a vector of environments without end. `steps` counts real steps: resets are rows but not steps."""

    def __init__(self, envs: VectorEnv, *, seed: int) -> None:
        """seed: of the first episode of environment 0; i more for environment i. Those beyond 32 bits begin at 0."""
        self.envs = envs
        self.count = envs.num_envs
        self.seed = seed
        self.steps = 0
        self.scores = np.zeros(self.count)  # of the unfinished episodes so far
        self.lengths = np.zeros(self.count, np.int64)
        self.notes: list[str] = []  # what the environments' border left out, each once
        self._row: dict[str, np.ndarray] | None = None

    def _reset(self) -> dict[str, np.ndarray]:
        """Step 0 of the drawing in `replay.py`."""
        obs = self._reset_all()
        shape = (self.count, *(self.envs.single_action_space.shape or ()))
        yes, no = np.ones(self.count, bool), np.zeros(self.count, bool)
        return _rows(obs, np.full(shape, np.nan, np.float32), np.zeros(self.count), yes, no, no)

    def _seeds(self) -> list[int]:
        """The seed of each environment, as all of them take it: many use generators of 32 bits."""
        return [(self.seed + i) % 2**32 for i in range(self.count)]

    def _reset_all(self) -> dict[str, np.ndarray]:
        """The first observations of all environments."""
        usual = self.seed + self.count <= 2**32  # then environment i has seed + i by Gymnasium's own rule
        seeds: Any = self.seed if usual else self._seeds()
        obs, infos = self.envs.reset(seed=seeds)
        self._note(infos)
        return cast(dict[str, np.ndarray], obs)

    def rows(self, act: ActFunction) -> Iterator[tuple[dict[str, np.ndarray], list[Episode]]]:
        """Yield (row of every environment, episodes that end with it), one vector step at a time, without end.

        The very first yield is the reset. `act` gets each row before the next one is made. To change the policy,
        start a new `rows`: it continues where the last one stopped.
        """
        if self._row is None:
            self._row = self._reset()
            yield self._row, []
        while True:
            obs = {key[4:]: value for key, value in self._row.items() if key.startswith("obs/")}
            action = np.asarray(act(obs, self._row["is_first"]), np.float32)  # as it is stored: it may be played again
            self._row, episodes = self._step(action, self._row["is_last"])
            yield self._row, episodes

    @property
    def last_action(self) -> np.ndarray:
        """The actions of the last row (N, A); NaN where an episode began."""
        if self._row is None:
            raise RuntimeError("nothing was collected yet")
        return self._row["action"]

    def _step(self, action: np.ndarray, ended: np.ndarray) -> tuple[dict[str, np.ndarray], list[Episode]]:
        """The next step of the drawing in `replay.py`: what arrives, with the action that led there."""
        obs, reward, terminated, truncated, infos = self.envs.step(action)
        self._note(infos)
        crashed, logs = infos.get("crashed", np.zeros(self.count, bool)), infos.get("logs", {})
        action = np.where(ended[:, None], np.float32(np.nan), action)
        reward = np.where(ended, 0.0, reward)
        self.scores = np.where(ended, 0.0, self.scores) + reward
        self.lengths = np.where(ended, 0, self.lengths + 1)  # the reset row is not a step
        self.steps += int((~ended).sum())
        last = terminated | truncated
        episodes = [
            Episode(
                i, float(self.scores[i]), int(self.lengths[i]), bool(terminated[i]), bool(crashed[i]), logs.get(i, {})
            )
            for i in map(int, np.nonzero(last)[0])
        ]
        return _rows(obs, action, reward, ended, last, terminated), episodes

    def _note(self, infos: dict[str, Any]) -> None:
        self.notes += [note for note in infos.get("notes", ()) if note not in self.notes]

    # ----------------------------------------------------------------------------------- resuming in another process

    def state(self) -> dict[str, Any]:
        """What `restore` needs besides the last rows and the actions of the unfinished episodes; for JSON.

        No environment is asked: it may hang, or be gone.
        """
        places: list[Any] = list(getattr(self.envs, "places", [None] * self.count))
        counts = {"scores": self.scores.tolist(), "lengths": self.lengths.tolist()}
        return {"steps": self.steps, "seed": self.seed, "places": places, **counts}

    def restore(
        self, state: Mapping[str, Any], last: dict[str, np.ndarray], actions: list[np.ndarray | None]
    ) -> list[int]:
        """Return to where `state` was taken by playing the unfinished episodes again. -> environments that could not.

        last: the last row of each (N, ...); actions: of each unfinished episode (L, A), None where they are not known.
        An environment that does not do the same again (it is compared with its last row) begins a new episode: in the
        replay the old one has no end, as after a crash. Native vectors all do.
        """
        self.steps = state["steps"]
        if not _repeatable(self.envs) or len(state["places"]) != self.count or "elsewhere" in state:
            self.seed = state["seed"] + self.steps  # other starts than the first time
            return list(range(self.count))
        try:
            return self._continue(state, last, actions)
        except RuntimeError:  # a process died or did not answer while it played again: all begin new episodes
            self.scores, self.lengths = np.zeros(self.count), np.zeros(self.count, np.int64)
            self.seed, self._row = state["seed"] + self.steps, None
            return list(range(self.count))

    def _continue(
        self, state: Mapping[str, Any], last: dict[str, np.ndarray], actions: list[np.ndarray | None]
    ) -> list[int]:
        self.scores, self.lengths = np.array(state["scores"], float), np.array(state["lengths"], np.int64)
        self.seed = state["seed"]
        self._reset_all()
        places = [place or (seed, 0) for seed, place in zip(self._seeds(), state["places"], strict=True)]
        lost = set()
        with _longer_timeout(self.envs):
            for i, done in enumerate(actions):
                ended = bool(last["is_last"][i])
                if (done is None and not ended) or not _play_again(self.envs, i, places[i], None if ended else done):
                    lost.add(i)
                    _call(self.envs, "go_to", i, *places[i], None)
        obs, reward, *_ = self.envs.step(np.nan_to_num(last["action"]))
        for i in set(range(self.count)) - lost - set(np.flatnonzero(last["is_last"]).tolist()):
            same = all(np.array_equal(obs[key][i], last[f"obs/{key}"][i]) for key in obs)
            if not same or np.float32(reward[i]) != last["reward"][i]:
                lost.add(i)
                _call(self.envs, "go_to", i, places[i][0], places[i][1] + 1, [])
        self._row = {key: value.copy() for key, value in last.items()}
        self._row["is_last"][list(lost)] = True  # only here: the next row of these is a first one
        return sorted(lost)


def _repeatable(envs: VectorEnv) -> bool:
    return hasattr(envs, "places")


def _call(envs: Any, name: str, index: int, *arguments: Any) -> Any:
    return envs.call(name, *arguments, only=[index])[0]


def _play_again(envs: Any, index: int, place: tuple[int, int], actions: np.ndarray | None) -> bool:
    """Play an episode with the same actions. -> False where the environment raises."""
    try:
        _call(envs, "go_to", index, *place, actions)
    except Exception:  # a new episode that meets it will report it
        return False
    return True


@contextmanager
def _longer_timeout(envs: Any) -> Iterator[None]:
    """Playing long episodes again takes longer than a worker may usually take to answer."""
    usual = getattr(envs, "timeout", None)
    if usual is None:
        yield
        return
    envs.timeout = 3600.0
    try:
        yield
    finally:
        envs.timeout = usual


@np.errstate(all="ignore")  # a user's program may have NumPy raise, e.g. where a small reward becomes a float32
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
