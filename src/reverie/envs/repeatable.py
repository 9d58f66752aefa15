"""Episodes that can be replayed exactly, so that a run can resume in the middle of one. No torch in here.

Gymnasium seeds an environment once; after that its state depends on everything that has happened since. Here every
episode begins with a seed of its own, derived from the first seed and the episode's number, so that first seed, number
and actions are the whole state of an unfinished episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from ..errors import UserError

#: Seeds are below this: NumPy's old generators, and with them many environments, take 32 bits.
SEEDS = 2**32


def require_seed(seed: int) -> int:
    """The seed, if every generator takes it. Raises UserError."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < SEEDS:
        raise UserError(f"the seed {seed!r} is no whole number from 0 to {SEEDS - 1:,}.", "Choose one of those.")
    return int(seed)


def seed_of(first: int, episode: int) -> int:
    """The seed of episode number `episode`; that of episode 0 is the first seed itself."""
    if episode == 0:
        return first
    return int(np.random.SeedSequence([first, episode]).generate_state(1)[0]) // 2


class Repeatable(gym.Wrapper):
    """A wrapper that seeds each episode by itself and can return to the middle of one by replaying its actions.

    Without a first seed it changes nothing, and its episodes cannot be replayed.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.first: int | None = None  # the seed given from outside
        self.episode = 0  # number of episodes finished since that seed
        self._next: Any = None  # the result of the next step, if it is known already

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._next = None
        if seed is not None:
            self.first = seed
            self.episode = 0
        elif self.first is not None:
            self.episode += 1
        if self.first is None:
            return self.env.reset(options=options)
        return self.env.reset(seed=seed_of(self.first, self.episode), options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self._next is not None:
            result = self._next
            self._next = None
            return result
        return self.env.step(action)

    def where(self) -> tuple[int, int] | None:
        """(first seed, number of the episode), None without a seed. With the actions so far it is the whole state."""
        return None if self.first is None else (self.first, self.episode)

    def go_to(self, first: int, episode: int, actions: Sequence[np.ndarray] | None) -> None:
        """Return to a point in an episode by replaying its actions.

        The next step ignores its action and returns the result of the last replayed one.
        actions: those of the episode so far. If empty, the next step returns the first observation and reward 0. If
        None, the episode had ended, and the next step is truncated, so that a vector of environments resets it.
        """
        self.first, self.episode = first, episode - 1
        obs, info = self.reset()
        result: tuple[Any, Any, bool, bool, dict[str, Any]] = (obs, 0.0, False, actions is None, info)
        for action in () if actions is None else actions:
            result = self.env.step(action)
        self._next = result
