"""`LocalVectorEnv`: environments that are stepped one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv

from ...errors import UserError
from ..border import Notes, episode_log, require_apart


class LocalVectorEnv(SyncVectorEnv):
    """Gymnasium's SyncVectorEnv with NEXT_STEP autoreset, of environments as the agent sees them.

    makers: functions without arguments, each returning a new environment with a Dict of Boxes as observation and a Box
    as action (`AgentView`), all with the same spaces. owned: whether closing it closes them.

    infos has names of this package only, for the environments' own belong to the user: "logs", {index: the numbers of
    info["log"]} of episodes that end, and "notes", what was left out. `places` has the state of each environment for a
    checkpoint (`Repeatable.where`), as it was after the last whole step: to save a run, no environment is asked.
    Raises UserError.
    """

    def __init__(self, makers: Sequence[Callable[[], gym.Env]], *, owned: bool = True) -> None:
        self.owned = owned
        made: list[gym.Env] = []
        try:
            for maker in makers:
                made.append(maker())
            require_apart(made)
            for index, env in enumerate(made):
                require_alike(index, spaces_of(env), spaces_of(made[0]))
        except BaseException:
            self._close(made)
            raise
        super().__init__([lambda env=env: env for env in made])  # type: ignore[misc]
        self._notes = [notes_of(env) for env in made]
        self.places: list[tuple[int, int] | None] = [place_of(env) for env in made]

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """First observations. Environment i gets the seed `seed` + i, or `seed[i]`."""
        seeds = [None if seed is None else seed + i for i in range(self.num_envs)] if np.ndim(seed or 0) == 0 else seed
        if len(seeds) != self.num_envs:
            raise ValueError(f"{self.num_envs} environments need as many seeds, got {len(seeds)}")
        for index, env in enumerate(self.envs):
            self._keep(index, env.reset(seed=seeds[index], options=options)[0], 0.0, False, False)
        return self._copies(), self._finish({})

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """actions (N, A) -> observations, rewards (N,) float64, terminated, truncated, infos."""
        logs: dict[int, dict[str, float]] = {}
        for index, env in enumerate(self.envs):
            if self._autoreset_envs[index]:
                self._keep(index, env.reset()[0], 0.0, False, False)
                continue
            obs, reward, terminated, truncated, info = env.step(actions[index])
            self._keep(index, obs, float(reward), terminated, truncated)
            if (terminated or truncated) and (log := episode_log(info, self._notes[index])):
                logs[index] = log
        infos = self._finish({"logs": logs} if logs else {})
        return self._copies(), self._rewards.copy(), self._terminations.copy(), self._truncations.copy(), infos

    def _keep(self, index: int, obs: Any, reward: float, terminated: bool, truncated: bool) -> None:
        for key, array in self._observations.items():
            array[index] = obs[key]
        self._rewards[index], self._terminations[index], self._truncations[index] = reward, terminated, truncated

    def _copies(self) -> dict[str, np.ndarray]:
        return {key: array.copy() for key, array in self._observations.items()}

    def _finish(self, infos: dict[str, Any]) -> dict[str, Any]:
        """The end of a whole step or reset of all."""
        self._autoreset_envs = self._terminations | self._truncations
        self.places = [place_of(env) for env in self.envs]
        if any(self._notes):
            infos["notes"] = self.take_notes()
        return infos

    def take_notes(self) -> list[str]:
        """What was left out since the last time."""
        return [note for notes in self._notes for note in notes.take()]

    def call(self, name: str, *arguments: Any, only: Sequence[int] | None = None) -> tuple[Any, ...]:
        """Attribute `name`, or the result of the method of that name, of each environment or those of `only`."""
        values = []
        for index in range(self.num_envs) if only is None else only:
            value = self.envs[index].get_wrapper_attr(name)
            values.append(value(*arguments) if callable(value) else value)
        return tuple(values)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments, if they are its own. Never raises."""
        self._close(getattr(self, "envs", []))

    def _close(self, envs: Sequence[gym.Env]) -> None:
        for env in envs if self.owned else ():
            with suppress(Exception):  # an `AgentView` has made a note of it
                env.close()


# ------------------------------------------------------------------------------ also for the environments of workers


def spaces_of(env: gym.Env) -> tuple[gym.Space, gym.Space]:
    """(observation, action)."""
    return env.observation_space, env.action_space


def require_alike(index: int, found: tuple[gym.Space, gym.Space], first: tuple[gym.Space, gym.Space]) -> None:
    """Raises UserError if environment `index` has other spaces than environment 0."""
    if found != first:
        raise UserError(
            f"environment {index} has other spaces than environment 0: {_difference(found, first)}.",
            "Give all of them the same spaces: the function that makes them must not vary them.",
        )


def _difference(found: tuple[gym.Space, gym.Space], first: tuple[gym.Space, gym.Space]) -> str:
    """The first difference of (observation, action) in words, as the agent sees them."""
    if found[1] != first[1]:
        return f"actions of {found[1].shape} numbers instead of {first[1].shape}"
    mine, other = (
        dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {"": space} for space in (found[0], first[0])
    )
    key = next(key for key in [*mine, *other] if mine.get(key) != other.get(key))
    has, had = (f"{space[key]}" if key in space else "nothing" for space in (mine, other))
    return f"observation '{key}' is {has} instead of {had}"


def place_of(env: gym.Env) -> tuple[int, int] | None:
    """`Repeatable.where` of an environment; None for one of another kind."""
    where = getattr(env, "where", None)
    return where() if where is not None else None


def notes_of(env: gym.Env) -> Notes:
    """Those of the `AgentView` of an environment."""
    try:
        found = env.get_wrapper_attr("notes")
    except AttributeError:
        return Notes()
    return found if isinstance(found, Notes) else Notes()
