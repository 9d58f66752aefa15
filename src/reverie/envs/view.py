"""The outermost wrapper of every environment, `AgentView`: the agent's observations and actions. No torch in here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import UserError
from .spaces import MASK, USUAL, ObsKey, Spec, make_spec


class AgentView(gym.Wrapper):
    """The environment as the agent sees it.

    observation: {key: uint8 (H, W, C) or float32 (V,)}; action: the agent's vector (A,). view: options of `make_spec`.
    A mask in info["action_mask"] or from a method `action_masks()` becomes the observation "action_mask", uint8 (A,),
    1: allowed. To look for one in info, the environment is reset once.

    Every step is checked: UserError for NaN, infinity and wrong shapes, naming the observation and the step.
    """

    def __init__(self, env: gym.Env, **view: Any) -> None:
        super().__init__(env)
        self.agent_spec = make_spec(env, **view)
        self.steps = 0
        # info -> the environment's own mask
        self._mask_of = _mask_source(env, self.agent_spec, view.get("action_mask", "auto"))
        if self._mask_of is not None:
            key = ObsKey((), "mask", (), (self.agent_spec.action.size,))
            self.agent_spec = replace(self.agent_spec, obs={**self.agent_spec.obs, MASK: key})
        self._vectors = [
            (key, item.path, item.raw_shape, item.shape)
            for key, item in self.agent_spec.obs.items()
            if item.kind == "vector"
        ]
        self._only_vectors = len(self._vectors) == len(self.agent_spec.obs)  # then `_encode_vectors` is enough
        part = self.agent_spec.action.parts[0]
        self._unit_box = (
            part.path == ()
            and part.kind == "box"
            and part.shape == (part.size,)
            and part.dtype.startswith("float")
            and set(part.low) == {-1.0}
            and set(part.high) == {1.0}
        )
        dtype = part.dtype if self._unit_box else "float32"  # an unsigned type cannot hold -1
        self._low, self._high = np.array(-1, dtype), np.array(1, dtype)
        self.observation_space = agent_space(self.agent_spec)
        self.action_space = spaces.Box(-1, 1, (self.agent_spec.action.size,), np.float32)

    def reset(self, **kwargs: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        return self._checked(obs, info, ended=False), info

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        if self._unit_box:  # the same as `decode_one`, in a fraction of its time
            own = np.minimum(np.maximum(action, self._low), self._high).astype(self._low.dtype, copy=False)
        else:
            own = self.agent_spec.action.decode_one(np.asarray(action))
        obs, reward, terminated, truncated, info = self.env.step(own)
        self.steps += 1
        reward = float(reward)
        if reward - reward != 0:  # NaN or infinite
            raise UserError(
                f"the reward is {reward} at step {self.steps}.", "Fix the environment: rewards must be finite."
            )
        terminated, truncated = bool(terminated), bool(truncated)
        return self._checked(obs, info, ended=terminated or truncated), reward, terminated, truncated, info

    def _checked(self, obs: Any, info: Any, *, ended: bool) -> dict[str, np.ndarray]:
        if self._only_vectors:
            encoded = self._encode_vectors(obs)
            if encoded is not None:
                return encoded
        mask = self._mask_of(info) if self._mask_of is not None else None
        encoded = self.agent_spec.encode(obs, mask)
        for key, value in encoded.items():
            if value.dtype == np.float32 and not np.isfinite(value).all():
                bad = "NaN" if np.isnan(value).any() else "infinity"
                raise UserError(
                    f"observation '{key}' contains {bad} at step {self.steps}.",
                    "Fix the environment: observations must be finite numbers.",
                )
        if mask is not None and not ended and self.agent_spec.action.forbids_all(mask):
            raise UserError(
                f"the action mask forbids every action at step {self.steps}.",
                "Allow at least one action, or end the episode there.",
            )
        return encoded

    @np.errstate(**USUAL)
    def _encode_vectors(self, obs: Any) -> dict[str, np.ndarray] | None:
        """The same as `encode` and the checks for vectors, in a fraction of their time; None if anything is wrong."""
        out = {}
        for key, path, raw_shape, shape in self._vectors:
            value = obs
            try:
                for part in path:
                    value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
            vector = np.array(value, np.float32)
            if vector.shape != raw_shape:
                return None
            if raw_shape != shape:
                vector = vector.reshape(shape)
            if not vector.dot(vector) < np.inf:  # NaN, infinity, or just large: the full check finds out
                return None
            out[key] = vector
        return out


def agent_space(spec: Spec) -> spaces.Dict:
    """The space of the agent's observations."""

    def box(item: ObsKey) -> spaces.Box:
        if item.kind == "image":
            return spaces.Box(0, 255, item.shape, np.uint8)
        if item.kind == "mask":
            return spaces.Box(0, 1, item.shape, np.uint8)
        return spaces.Box(-np.inf, np.inf, item.shape, np.float32)

    return spaces.Dict({key: box(item) for key, item in spec.obs.items()})


def _mask_source(env: gym.Env, spec: Spec, wanted: str) -> Callable[[Any], Any] | None:
    """A function from info to the environment's action mask; None if it is in the observation or does not exist."""
    if spec.masked or wanted == "none" or spec.action.kind == "box":
        return None
    if callable(getattr(env.unwrapped, "action_masks", None)):
        return lambda info: env.unwrapped.action_masks()  # type: ignore[attr-defined]
    result = env.reset()
    info = result[1] if isinstance(result, tuple) and len(result) == 2 else None
    if isinstance(info, dict) and MASK in info:
        return lambda info: info.get(MASK) if isinstance(info, dict) else None
    if wanted == "info":
        raise UserError(
            "env.action_mask=info, but reset returns no info['action_mask'].",
            "Return one, or set env.action_mask=none.",
        )
    return None
