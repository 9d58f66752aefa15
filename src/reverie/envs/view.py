"""The outermost wrapper of every environment, `AgentView`: the agent's observations and actions. No torch in here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import UserError
from .border import (
    LARGEST,
    EnvironmentFailed,
    Notes,
    attribute_of,
    describe_error,
    five_values,
    flag_of,
    image_of,
    inside_of,
    is_bright,
    kind_of,
    number_of,
    numbers_in,
    observation_and_info,
    pass_on,
    plain_metadata,
    require_finite,
    require_spaces,
    reset_failure,
    step_failure,
)
from .spaces import MASK, USUAL, ObsKey, Spec, entry, make_spec

#: Resets and steps of an environment whose observations get the essential checks of `check_env`.
FIRST_CHECKS = 30
#: Numbers whose squares add up to less than this are finite in float32.
SAFE = 1e38
#: Stands for a mask that an info should have.
MISSING = object()


class AgentView(gym.Wrapper):
    """The environment as the agent sees it, and the border that nothing passes unchecked (`border.py`).

    observation: {key: uint8 (H, W, C) or float32 (V,)}; action: the agent's vector (A,). view: options of `make_spec`.
    A mask in info["action_mask"] or from a method `action_masks()` becomes the observation "action_mask", uint8 (A,),
    1: allowed. To look for one in info, the environment is reset once.

    Every reset and step is checked: a violation of the contract is a UserError with the step, the key, the value and
    what to do; an exception of the environment is an EnvironmentFailed. `notes` has what was left out instead. `close`
    never raises; `render` gives uint8 (H, W, C), if the mode is "rgb_array".
    """

    def __init__(self, env: gym.Env, **view: Any) -> None:
        require_spaces(env)
        super().__init__(env)
        self.metadata = plain_metadata(env)
        self.notes = Notes()  # for the user
        self.agent_spec = make_spec(env, **view)
        self.steps = 0
        self._first_checks = FIRST_CHECKS
        self._image_scale = 255.0  # of images in floats that are drawn; 1 as soon as one is not within 0 and 1
        self._masked_by = view.get("action_mask", "auto")
        # info -> the environment's own mask
        self._mask_of = self._mask_source()
        if self._mask_of is not None:
            key = ObsKey((), "mask", (), (self.agent_spec.action.size,))
            self.agent_spec = replace(self.agent_spec, obs={**self.agent_spec.obs, MASK: key})
        #: Is a mask in info that comes with a step only still to be noticed?
        self._mask_may_come = self._mask_of is None and self._may_be_masked()
        self._plain = [(key, item) for key, item in self.agent_spec.obs.items() if item.kind != "mask"]
        self._vectors = [(key, item.path, item.raw_shape, item.shape) for key, item in self._plain]
        # then `_encode_vectors` is enough
        self._only_vectors = all(item.kind == "vector" for item in self.agent_spec.obs.values())
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

    @property
    def render_mode(self) -> str | None:  # type: ignore[override]
        """The environment's own; None if it is no text."""
        try:
            mode = self.env.render_mode
        except BaseException as error:
            pass_on(error)
            return None
        return mode if isinstance(mode, str) else None

    def reset(self, **kwargs: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        obs, info = self._reset(**kwargs)
        return self._checked(obs, info, first=True, ended=False), info

    def _reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """The environment's own observation and info."""
        try:
            result = self.env.reset(**kwargs)
        except (UserError, MemoryError):
            raise
        except BaseException as error:
            pass_on(error)
            raise reset_failure(self.env, error, kwargs, self._when(first=True)) from error
        obs, info = observation_and_info(self.env, result, self._when(first=True))
        return obs, info if type(info) is dict else self._plain_info("reset", info)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        if self._unit_box:  # the same as `decode_one`, in a fraction of its time
            own = np.minimum(np.maximum(action, self._low), self._high).astype(self._low.dtype, copy=False)
        else:
            own = self.agent_spec.action.decode_one(np.asarray(action))
        self.steps += 1
        try:
            result: Any = self.env.step(own)
        except (UserError, MemoryError):
            raise
        except BaseException as error:
            pass_on(error)
            raise step_failure(self.env, own, error, self._when()) from error
        if type(result) is not tuple or len(result) != 5:
            result = five_values(result, self._when())
        obs, reward, terminated, truncated, info = result
        if type(reward) is not float or not -LARGEST <= reward <= LARGEST:
            reward = number_of(reward, self._when())
        if type(terminated) is not bool:
            terminated = flag_of("terminated", terminated, self._when())
        if type(truncated) is not bool:
            truncated = flag_of("truncated", truncated, self._when())
        if type(info) is not dict:
            info = self._plain_info("step", info)
        if self._mask_may_come and MASK in info:
            raise UserError(
                f"step returns info['{MASK}']{self._when()}, but reset does not.",
                "Return it from both, or set env.action_mask=none.",
            )
        return self._checked(obs, info, ended=terminated or truncated), reward, terminated, truncated, info

    def render(self) -> Any:
        try:
            image = self.env.render()
        except BaseException as error:
            pass_on(error)
            raise EnvironmentFailed(f"render raises {describe_error(error)}.", "Fix it at that line.") from error
        if self.render_mode != "rgb_array":
            return image
        if self._image_scale != 1 and is_bright(image):
            self._image_scale = 1.0
        return image_of(image, self._image_scale)

    def close(self) -> None:
        try:
            self.env.close()
        except BaseException as error:
            pass_on(error)
            self.notes.add(f"close of the environment raises {describe_error(error)}: nothing is lost")

    def _when(self, *, first: bool = False) -> str:
        """For messages."""
        if first and not self.steps:
            return " at step 0, in its first reset"
        return f" at step {self.steps}" + (", in the reset after it" if first else "")

    def _plain_info(self, name: str, info: Any) -> dict[str, Any]:
        """Of an info of a class of its own the entries that are read; {} for what is no dict, or raises."""
        if not isinstance(info, dict):
            self.notes.add(f"the info of {name} is {kind_of(info)}, not a dict: it is left out")
            return {}
        try:
            return {key: info[key] for key in (MASK, "log") if key in info}
        except BaseException as error:
            pass_on(error)
            self.notes.add(f"the info of {name} raises {describe_error(error)}: it is left out")
            return {}

    def _may_be_masked(self) -> bool:
        """May an action mask come with the infos?"""
        spec = self.agent_spec
        return not (spec.masked or self._masked_by == "none" or spec.action.kind == "box")

    def _mask_source(self) -> Callable[[dict[str, Any]], Any] | None:
        """A function from info to the environment's action mask; None if it is in the observation or does not exist."""
        if not self._may_be_masked():
            return None
        masks = attribute_of(inside_of(self.env), "action_masks")
        if callable(masks):
            return lambda info: masks()
        if MASK in self._reset()[1]:
            return lambda info: info.get(MASK, MISSING)
        if self._masked_by == "info":
            raise UserError(
                "env.action_mask=info, but reset returns no info['action_mask'].",
                "Return one, or set env.action_mask=none.",
            )
        return None

    def _checked(self, obs: Any, info: dict[str, Any], *, first: bool = False, ended: bool) -> dict[str, np.ndarray]:
        if self._first_checks:
            self._check_closely(obs)
        if self._only_vectors:
            encoded = self._encode_vectors(obs)
            if encoded is not None:
                return encoded
        when, encoded = self._when(first=first), {}
        for key, item in self._plain:
            array = numbers_in(key, self._entry(obs, key, item, when), item.raw_shape, when)
            require_finite(key, array, when)
            encoded[key] = item.encode(array)
        if self.agent_spec.masked:
            encoded[MASK] = self._mask(obs, info, when, ended=ended)
        return encoded

    def _entry(self, obs: Any, key: str, item: ObsKey, when: str) -> Any:
        try:
            value = entry(obs, item.path)
        except UserError as error:
            raise UserError(
                f"{error.message.rstrip('.')}{when}.",
                "Return every key of the observation space, in reset and in step.",
            ) from None
        if value is None:
            raise UserError(f"observation '{key}' is None{when}.", "Return it in reset and in step.")
        return value

    def _mask(self, obs: Any, info: dict[str, Any], when: str, *, ended: bool) -> np.ndarray:
        """The action mask, uint8 (A,). Raises UserError where a running episode has none, or an unusable one."""
        path = self.agent_spec.obs[MASK].path
        try:
            own = entry(obs, path) if path else self._mask_of(info) if self._mask_of is not None else None
        except UserError as error:
            raise UserError(f"{error.message.rstrip('.')}{when}.", error.hint) from None
        except BaseException as error:
            pass_on(error)
            raise UserError(
                f"the action mask is unusable{when}: {describe_error(error)}.",
                "Give one number per choice, 1: allowed.",
            ) from error
        return self._own_mask(own, when, ended=ended)

    def _own_mask(self, own: Any, when: str, *, ended: bool) -> np.ndarray:
        action = self.agent_spec.action
        if own is MISSING and ended:  # no action follows
            own = None
        if own is MISSING:
            raise UserError(
                f"info has no '{MASK}'{when}, but the first reset gave one.",
                "Return it in every info, or set env.action_mask=none.",
            )
        try:
            mask, none = action.encode_mask(own), own is not None and not ended and action.forbids_all(own)
        except UserError as error:
            raise UserError(f"{error.message.rstrip('.')}{when}.", error.hint) from None
        except BaseException as error:
            pass_on(error)
            raise UserError(
                f"the action mask is {kind_of(own)}{when}, not numbers.", "Give one number per choice, 1: allowed."
            ) from error
        if none:
            raise UserError(
                f"the action mask forbids every action{when}.", "Allow at least one action, or end the episode there."
            )
        return mask

    def _check_closely(self, obs: Any) -> None:
        """The essential checks of `check_env` on the first observations that are not those of every step."""
        from .check.observations import require_leaf  # late: it checks with functions of this folder

        self._first_checks -= 1
        for key, item in self._plain:
            value, space = obs, self.env.observation_space
            try:
                for part in item.path:
                    value, space = value[part], space[part]  # type: ignore[index]
            except (KeyError, IndexError, TypeError):
                return  # the check of every step names it
            require_leaf(space, value, key, self.steps, image=item.kind == "image")

    @np.errstate(**USUAL)
    def _encode_vectors(self, obs: Any) -> dict[str, np.ndarray] | None:
        """The same as `encode` and the checks for vectors, in a fraction of their time; None if anything is wrong."""
        out = {}
        with np.errstate(all="ignore"):  # what overflows is named by the full check
            for key, path, raw_shape, shape in self._vectors:
                value = obs
                try:
                    for part in path:
                        value = value[part]
                except (KeyError, IndexError, TypeError):
                    return None
                if type(value) is not np.ndarray or value.shape != raw_shape or value.dtype.kind not in "fiub":
                    return None
                if value.dtype.kind == "f":
                    flat = value if value.ndim == 1 else value.ravel()
                    if not flat.dot(flat) < SAFE:  # NaN, infinity, or just large: the full check finds out
                        return None
                vector = value.astype(np.float32)
                if raw_shape != shape:
                    vector = vector.reshape(shape)
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
