"""`NativeView` shows a batched environment as a vector of `AgentView`s would."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from reverie.envs import AgentView
from reverie.envs.vector.native import NativeView
from reverie.errors import UserError


class Toy(gym.Env):
    """Everything that a spec may hold; fails on demand."""

    def __init__(self, act: spaces.Space) -> None:
        self.action_space = act
        self.observation_space = spaces.Dict(
            {
                "eye": spaces.Box(0, 255, (6, 8, 3), np.uint8),
                "arm": spaces.Box(-9, 9, (2,), np.float64),
                "mode": spaces.Discrete(3, start=1),
            }
        )
        self.fault: Any = None

    def draw(self) -> dict[str, Any]:
        rng = self.np_random
        eye, arm = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), rng.normal(size=2).clip(-9, 9)
        return {"eye": eye, "arm": arm * (np.nan if self.fault == "arm" else 1), "mode": rng.integers(1, 4)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(2, 6))
        return self.draw(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.left -= 1
        reward = float(np.inf if self.fault == "reward" else np.sum(action))
        return self.draw(), reward, self.left == 0, self.left == 0 and reward > 1, {}


ACTIONS = [spaces.Discrete(3, start=2), spaces.Box(-2, np.array([1, 3], np.float32), dtype=np.float32)]


@pytest.mark.parametrize("act", ACTIONS, ids=["discrete", "box"])
def test_native_view_shows_what_a_vector_of_agent_views_does(act: spaces.Space) -> None:
    look: dict[str, Any] = {"image_size": 4, "grayscale": True}
    views = SyncVectorEnv([lambda: AgentView(Toy(act), **look)] * 3)
    native = NativeView(SyncVectorEnv([lambda: Toy(act)] * 3), **look)
    assert native.get_attr("agent_spec") == views.get_attr("agent_spec")
    for name in ("num_envs", "single_observation_space", "single_action_space", "observation_space", "action_space"):
        assert getattr(native, name) == getattr(views, name), name
    assert native.metadata["autoreset_mode"] == views.metadata["autoreset_mode"]
    rng = np.random.default_rng(0)
    spec = native.agent_spec
    rows = [(native.reset(seed=4)[0], views.reset(seed=4)[0])]
    ends = 0
    for _ in range(30):
        actions = spec.action.random(rng, 3)
        ours, theirs = native.step(actions), views.step(actions)
        rows.append((ours[0], theirs[0]))
        for mine, other in zip(ours[1:4], theirs[1:4], strict=True):
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(mine, other)
        ends += int((ours[2] | ours[3]).sum())
    assert ends > 10
    for ours, theirs in rows:
        assert ours.keys() == theirs.keys() == spec.obs.keys()
        for key in ours:
            assert ours[key].dtype == theirs[key].dtype
            np.testing.assert_array_equal(ours[key], theirs[key])
    native.close()
    assert native.env.closed


@pytest.mark.parametrize(
    ("fault", "message"),
    [("reward", "reward is inf in environment 1 at step 2"), ("arm", "'arm' of environment 1 contains NaN at step 2")],
)
def test_native_view_stops_at_numbers_that_are_none(fault: str, message: str) -> None:
    toys = [Toy(ACTIONS[0]) for _ in range(2)]
    native = NativeView(SyncVectorEnv([lambda toy=toy: toy for toy in toys]))
    native.reset(seed=0)
    action = np.eye(3, dtype=np.float32)[[0, 1]]
    native.step(action)
    toys[1].fault = fault
    with pytest.raises(UserError, match=message):
        native.step(action)


def test_native_view_has_no_mask_in_info() -> None:
    with pytest.raises(UserError, match="action_mask=info"):
        NativeView(SyncVectorEnv([lambda: Toy(ACTIONS[0])]), action_mask="info")


def test_native_view_wants_next_step_autoreset() -> None:
    envs = SyncVectorEnv([lambda: Toy(ACTIONS[0])], autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(UserError, match="NEXT_STEP"):
        NativeView(envs)
