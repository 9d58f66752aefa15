"""The best possible return of the two MiniGrid tasks: breadth-first search over the true state, mean of 25 starts.

python benchmarks/shortest_paths.py
"""

from __future__ import annotations

import copy
import json
from collections import deque
from typing import Any

import numpy as np

from reverie.envs import make_env

STARTS = 25


def state_of(grid: Any) -> tuple[Any, ...]:
    """All that matters: position and direction of the agent, what it carries, what lies where."""
    return tuple(map(int, grid.agent_pos)), grid.agent_dir, grid.carrying is not None, grid.grid.encode().tobytes()


def shortest_path(start: Any, actions: list[int]) -> int:
    """Steps to the goal from an unwrapped MiniGrid environment."""
    waiting, seen = deque([(start, 0)]), {state_of(start)}
    while waiting:
        here, steps = waiting.popleft()
        for action in actions:
            there = copy.deepcopy(here)
            there.step_count = 0  # the search itself must not run into the step limit
            _, reward, terminated, _, _ = there.step(action)
            if terminated and reward > 0:
                return steps + 1
            if not terminated and state_of(there) not in seen:
                seen.add(state_of(there))
                waiting.append((there, steps + 1))
    raise RuntimeError("the goal cannot be reached")


def main() -> None:
    for env_id in ("MiniGrid-Empty-Random-6x6-v0", "MiniGrid-DoorKey-5x5-v0"):
        env = make_env(env_id, actions="minimal")
        returns = []
        for seed in range(STARTS):
            env.reset(seed=seed)
            steps = shortest_path(env.unwrapped, env.get_wrapper_attr("keep"))
            returns.append(1 - 0.9 * steps / env.unwrapped.max_steps)
        print(json.dumps({"task": env_id, "mean": round(float(np.mean(returns)), 4), "starts": STARTS}))


if __name__ == "__main__":
    main()
