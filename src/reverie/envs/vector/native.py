"""`NativeView`: a family's own vector environment, presented like a vector of `AgentView`s.

Families have one (`make_vector`) where the environments of a batch are stepped in C++ or as NumPy arrays, so that
wrapping each separately would cost more than its step.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ...errors import UserError
from ..border import LARGEST, number_of
from ..spaces import make_spec
from ..view import agent_space


class NativeView(VectorEnv):
    """A vector environment with the task's own single spaces, presented like a vector of `AgentView`s.

    observations: {key: uint8 (N, H, W, C) or float32 (N, V)}; actions: the agent's vectors (N, A). NEXT_STEP
    autoreset: the step after an end ignores the action and returns the next episode's first row, reward 0.
    view: options of `make_spec`. Checks every step as AgentView does. The environment must not write into arrays that
    it has returned. Raises UserError for other autoreset modes and for spaces that the agent cannot use.
    """

    def __init__(self, env: VectorEnv, **view: Any) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode is None or AutoresetMode(mode) != AutoresetMode.NEXT_STEP:
            raise UserError(
                f"the vector environment {type(env).__name__} does not reset with NEXT_STEP, but with {mode}.",
                "Make it with autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP.",
            )
        if view.get("action_mask") == "info":
            raise UserError(
                "env.action_mask=info does not work with a family's own vector environment.",
                "Set env.backend=sync or async.",
            )
        single: Any = SimpleNamespace(
            observation_space=env.single_observation_space, action_space=env.single_action_space
        )
        self.agent_spec = spec = make_spec(single, **view)
        self.env = env
        self.num_envs = env.num_envs
        self.metadata = env.metadata
        self.spec = env.spec
        self.render_mode = env.render_mode
        self.steps = 0
        self.single_observation_space = agent_space(spec)
        self.single_action_space = spaces.Box(-1, 1, (spec.action.size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """First observations. One seed makes all environments repeatable, and all different."""
        obs, _ = self.env.reset(seed=cast(Any, seed), options=options)
        return self._checked(obs), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """actions (N, A) -> observations, rewards (N,) float64, terminated (N,), truncated (N,), no infos."""
        obs, reward, terminated, truncated, _ = self.env.step(self.agent_spec.action.decode(np.asarray(actions)))
        self.steps += 1
        reward = np.asarray(reward, np.float64)
        if not (np.abs(reward) <= LARGEST).all():
            index = int(np.flatnonzero(~(np.abs(reward) <= LARGEST))[0])
            number_of(reward[index], f" in environment {index} at step {self.steps}")
        return self._checked(obs), reward, terminated, truncated, {}

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Attribute `name` of this view, once per environment."""
        return (getattr(self, name),) * self.num_envs

    def close_extras(self, **kwargs: Any) -> None:
        self.env.close(**kwargs)

    def _checked(self, obs: Any) -> dict[str, np.ndarray]:
        encoded = self.agent_spec.encode(obs)
        for key, value in encoded.items():
            if value.dtype == np.float32 and not np.isfinite(value).all():
                bad = "NaN" if np.isnan(value).any() else "infinity"
                index = int(np.argwhere(~np.isfinite(value))[0][0])
                raise UserError(
                    f"observation '{key}' of environment {index} contains {bad} at step {self.steps}.",
                    "Fix the environment: observations must be finite numbers.",
                )
        return encoded
