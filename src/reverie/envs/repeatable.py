"""Episodes that can be played again: how a run goes on in the middle of one. No torch in here.

Gymnasium seeds an environment once; from then on its state hangs on everything that happened since. Here every episode
begins with a seed of its own, made from the first seed and the episode's number, so that seed, number and actions are
the whole state of an unfinished episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np


def seed_of(first: int, episode: int) -> int:
    """The seed of an environment's episode number `episode`; of episode 0 it is the first seed itself."""
    if episode == 0:
        return first
    return int(np.random.SeedSequence([first, episode]).generate_state(1)[0]) // 2


class Repeatable(gym.Wrapper):
    """Seeds each episode by itself, and can go to the middle of one by playing it again.

    Without a first seed it changes nothing, and its episodes cannot be played again.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.first: int | None = None  # the seed given from outside
        self.episode = 0  # since then
        self._next: Any = None  # what the next step returns, if it is known already

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._next = None
        if seed is not None:
            self.first, self.episode = seed, 0
        elif self.first is not None:
            self.episode += 1
        if self.first is None:
            return self.env.reset(options=options)
        return self.env.reset(seed=seed_of(self.first, self.episode), options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._next is not None:
            known, self._next = self._next, None
            return known
        return self.env.step(action)

    def where(self) -> tuple[int, int] | None:
        """(first seed, number of the episode): with the actions so far, where it is. None without a seed."""
        return None if self.first is None else (self.first, self.episode)

    def go_to(self, first: int, episode: int, actions: Sequence[np.ndarray] | None) -> None:
        """Be in the middle of an episode; the next step, whatever its action, returns what the last of `actions` did.

        actions: those of the episode so far. None of them: the next step returns its first observation, reward 0. None:
        the episode had ended; the next step returns anything, truncated, so that a vector of environments resets it.
        """
        self.first, self.episode = first, episode - 1
        obs, info = self.reset()
        result: tuple[Any, Any, bool, bool, dict[str, Any]] = (obs, 0.0, False, actions is None, info)
        for action in () if actions is None else actions:
            result = self.env.step(action)
        self._next = result
