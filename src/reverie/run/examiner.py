"""Evaluations of a run: environments, player and random numbers of their own, so that training does not notice."""

from __future__ import annotations

import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from ..config import Config
from ..envs import EnvLike
from ..envs.spaces import Spec
from ..train import DreamerV2
from .evaluation import Evaluation, evaluate, random_policy
from .tasks import make_envs

#: Seconds that the random policy may take before its measurement is given up.
RANDOM_LIMIT = 10.0


class Examiner:
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
