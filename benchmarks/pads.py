"""How often Pads-v0 and PinPad-v0 pay: random actions, random actions kept for 8 steps, and the shortest ways.

python benchmarks/pads.py --out benchmarks/results/pads.json       (some CPU minutes; --episodes 100 for seconds)
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

from reverie.envs.families.pads import MOVES, Options, Pads, board

#: name -> id, options, episodes of random play, of the shortest ways
TASKS = {
    "7x7, three pads": ("Pads-v0", Options(size=7), 4_000, 200),
    "9x9, three pads": ("Pads-v0", Options(), 4_000, 200),
    "9x9, four pads": ("Pads-v0", Options(pads="4"), 4_000, 200),
    "Pin Pad four": ("PinPad-v0", Options(), 250, 5),
}
HOLD = 8
State = tuple[tuple[int, int], tuple[int, ...]]


def shortest(env: Pads) -> dict[State, int]:
    """The first action of a shortest way to the next reward, from every state: a breadth-first search backwards."""
    before: dict[State, list[tuple[State, int]]] = defaultdict(list)
    waiting: deque[State] = deque((cell, ()) for cell in env.free)
    known, first = set(waiting), {}
    ends: deque[State] = deque()
    while waiting:
        here = waiting.popleft()
        for action in range(len(MOVES)):
            cell, history, right = env.move(*here, action)
            if right:
                if here not in first:
                    first[here] = action
                    ends.append(here)
                continue
            before[cell, history].append((here, action))
            if (cell, history) not in known:
                known.add((cell, history))
                waiting.append((cell, history))
    while ends:
        for here, action in before[ends.popleft()]:
            if here not in first:
                first[here] = action
                ends.append(here)
    return first


def play(env: Pads, act: Callable[[int], int], episodes: int) -> dict[str, float]:
    """Mean reward of an episode, share of episodes with one, and steps to the first reward where there was one."""
    paid, success, firsts = 0.0, 0, []
    for _ in range(episodes):
        env.reset()
        first = None
        for step in range(env.board.steps):
            reward = env.step(act(step))[1]
            paid += reward
            if reward and first is None:
                first = step + 1
        success += first is not None
        firsts += [] if first is None else [first]
    found = {"episodes": episodes, "return": paid / episodes, "success": success / episodes}
    return found | ({"first": float(np.mean(firsts))} if firsts else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--episodes", type=int, default=0, help="of random play on each task")
    args = parser.parse_args()
    rows = []
    for name, (env_id, options, episodes, few) in TASKS.items():
        env, rng = Pads(board(env_id, options), image=False), np.random.default_rng(0)
        env.reset(seed=0)
        env.observe = lambda: np.zeros(0, np.float32)  # nobody looks
        first, kept = shortest(env), [0]

        def random(step: int, hold: int, rng: np.random.Generator = rng, kept: list[int] = kept) -> int:
            if step % hold == 0:
                kept[0] = int(rng.integers(len(MOVES)))
            return kept[0]

        ways = {
            "random": (lambda step: random(step, 1), args.episodes or episodes),
            "held": (lambda step: random(step, HOLD), args.episodes or episodes),
            "shortest": (lambda _, env=env, first=first: first[env.cell, env.history], min(few, args.episodes or few)),
        }
        for way, (act, count) in ways.items():
            rows.append({"task": name, "id": env_id, "steps": env.board.steps, "way": way, **play(env, act, count)})
            print(json.dumps(rows[-1]), flush=True)
    if args.out:
        facts = {"command": f"python benchmarks/pads.py --out {args.out}", "hold": HOLD, "rows": rows}
        args.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
