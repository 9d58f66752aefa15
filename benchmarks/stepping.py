"""How fast does each family step, and what do our wrappers cost? One table, one JSON file.

    taskset -c 0 python benchmarks/stepping.py --out benchmarks/results/stepping.json

Three things step side by side with the same random actions, in turns (the machine's mood hits all alike): the raw
environment (ALE's vector environment, dm_control with its action repeat, elsewhere the innermost Gymnasium environment,
which in MiniGrid renders no image), `make_env`, and what an agent sees: `AgentView`, for Atari `NativeView`. The
overhead is the median over turns of seen / raw - 1. CPU seconds of one core.

    taskset -c 0 python benchmarks/stepping.py --border --before OTHER/src --out benchmarks/results/border.json

What the border of environments (`reverie.envs.border`) costs in a step of training: the vector environment that a run
steps, by this version and by the one in OTHER/src, in turns, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from reverie.config import Config, build
from reverie.envs import AgentView, make_env, make_request, make_vector
from reverie.envs.family import all_families, family_of, installed
from reverie.run.directory import provenance

Step = Callable[[], None]


def cases() -> list[tuple[str, dict[str, Any]]]:
    """(id, options of make_env) of one task per family, and a few more."""
    found: list[tuple[str, dict[str, Any]]] = [
        ("ALE/Pong-v5", {"image_size": 64, "grayscale": True}),
        ("ALE/Breakout-v5", {"image_size": 64, "grayscale": True}),
        ("dmc/cartpole-swingup", {}),
        ("dmc/walker-walk", {}),
        ("dmc/cheetah-run", {}),
        ("dmc/walker-walk", {"pixels": True, "image_size": 64}),
    ]
    known = {id_.split("/")[0].split("-")[0].lower() for id_, _ in found}
    for family in all_families().values():
        if not known & set(family.PREFIXES):
            found.append((family.EXAMPLE, {}))
    return [(id_, options) for id_, options in found if (family := family_of(id_)) is None or installed(family)]


def raw(env_id: str, options: dict[str, Any]) -> Step:
    """One agent step of the raw environment, resets included; nothing of ours in it."""
    prefix = env_id.split("/")[0].split("-")[0].lower()
    if prefix == "dmc":
        return _raw_dmc(env_id, **options)
    if prefix == "ale":
        return _raw_atari(env_id)
    return _stepper(make_env(env_id, action_repeat=0).unwrapped)


def _raw_atari(env_id: str) -> Step:
    """ALE's own vector environment, which makes the 64x64 gray images, called for one environment."""
    from ale_py.vector_env import AtariVectorEnv
    from gymnasium.vector import AutoresetMode

    game = env_id.split("/")[1].split("-")[0].lower()
    envs = AtariVectorEnv(
        game, 1, img_height=64, img_width=64, grayscale=True, stack_num=1, frameskip=4, maxpool=True, noop_max=31,
        repeat_action_probability=0.25, full_action_space=True, reward_clipping=False, use_fire_reset=False,
        episodic_life=False, autoreset_mode=AutoresetMode.NEXT_STEP,
    )  # fmt: skip
    return _vector_stepper(envs, np.random.default_rng(0).integers(0, 18, (500, 1)))


def _vector_stepper(envs: VectorEnv, actions: np.ndarray) -> Step:
    envs.reset(seed=0)
    turn = cycle(actions)
    return lambda: envs.step(next(turn)) and None


def _raw_dmc(env_id: str, **options: Any) -> Step:
    from dm_control import suite

    domain, task = env_id.split("/")[1].split("-")
    env = suite.load(domain, task, task_kwargs={"random": 0})
    spec, rng = env.action_spec(), np.random.default_rng(0)
    actions = cycle(rng.uniform(spec.minimum, spec.maximum, (500, *spec.shape)))
    env.reset()

    def step() -> None:
        action = next(actions)
        for _ in range(2):
            done = env.step(action).last()
            if done:
                env.reset()
                break
        if options.get("pixels"):
            env.physics.render(64, 64, camera_id=0)

    return step


def _stepper(env: gym.Env) -> Step:
    """Random actions for ever."""
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = cycle([env.action_space.sample() for _ in range(500)])

    def step() -> None:
        _, _, terminated, truncated, _ = env.step(next(actions))
        if terminated or truncated:
            env.reset()

    return step


def _seen(env_id: str, options: dict[str, Any]) -> Step:
    """What an agent sees, by the backend that is chosen for it."""
    if hasattr(family_of(env_id), "make_vector"):
        envs = make_vector(env_id, 1, backend="native", action_repeat=0, **options)
        count = envs.single_action_space.shape[0]
        return _vector_stepper(
            envs, np.eye(count, dtype=np.float32)[np.random.default_rng(0).integers(0, count, (500, 1))]
        )
    view = {key: value for key, value in options.items() if key in ("image_size", "grayscale")}
    return _stepper(AgentView(make_env(env_id, action_repeat=0, **options), **view))


def timed(step: Step, seconds: float) -> float:
    """CPU seconds of one step."""
    count, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        for _ in range(5):
            step()
        count += 5
    return (time.process_time() - start) / count


def measure(env_id: str, options: dict[str, Any], turns: int, seconds: float) -> dict[str, Any]:
    """Steps per second of the three, and the overhead."""
    made = make_env(env_id, action_repeat=0, **options)
    steppers = {"raw": raw(env_id, options), "make_env": _stepper(made), "agent_view": _seen(env_id, options)}
    for step in steppers.values():
        timed(step, seconds / 4)
    times = [{name: timed(step, seconds) for name, step in steppers.items()} for _ in range(turns)]
    rates = {name: round(1 / float(np.median([turn[name] for turn in times]))) for name in steppers}
    overhead = float(np.median([turn["agent_view"] / turn["raw"] - 1 for turn in times]))
    repeat = make_request(env_id).repeat
    return {"env": env_id, **options, "repeat": repeat, "steps_per_second": rates, "overhead": round(overhead, 3)}


#: Tasks of the border's rows, with the options of make_vector.
BORDER: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ALE/Pong-v5", {"image_size": 64, "grayscale": True, "backend": "native"}),
    ("dmc/cartpole-swingup", {}),
    ("CartPole-v1", {}),
)


def serve(env_id: str, options: dict[str, Any]) -> None:
    """In a process of its own: for each line on stdin with seconds, print the CPU seconds of a step of training."""
    envs = make_vector(env_id, 1, action_repeat=0, **options)
    shape, rng = envs.action_space.shape, np.random.default_rng(0)
    step = _vector_stepper(envs, rng.uniform(-1, 1, (500, *shape)).astype(np.float32))
    for line in sys.stdin:
        print(timed(step, float(line)), flush=True)


def compare_border(before: Path | None, turns: int, seconds: float) -> list[dict[str, Any]]:
    """Rows: CPU microseconds of a step of training now, and before if another version is given, and the change."""
    sources = {"now": Path(__file__).parents[1] / "src"} | ({"before": before.resolve()} if before else {})
    rows = []
    for env_id, options in BORDER:
        command = [sys.executable, __file__, "--serve", json.dumps([env_id, options])]
        servers = {
            name: subprocess.Popen(
                command, env=os.environ | {"PYTHONPATH": str(path)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True, bufsize=1,
            )
            for name, path in sources.items()
        }  # fmt: skip
        for server in servers.values():
            _ask(server, seconds / 4)
        times = [{name: _ask(server, seconds) for name, server in servers.items()} for _ in range(turns)]
        for server in servers.values():
            server.communicate()
        row: dict[str, Any] = {"env": env_id, **options}
        row |= {name: round(1e6 * float(np.median([turn[name] for turn in times])), 2) for name in servers}
        if before:
            row["change"] = round(float(np.median([turn["now"] / turn["before"] - 1 for turn in times])), 4)
        print(row, flush=True)
        rows.append(row)
    return rows


def _ask(server: subprocess.Popen, seconds: float) -> float:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{seconds}\n")
    server.stdin.flush()
    return float(server.stdout.readline())


def all_rows(only: str, turns: int, seconds: float) -> list[dict[str, Any]]:
    """Measure and print the rows of all tasks with `only` in their id."""
    rows = []
    print(f"{'environment':32} {'raw':>8} {'make_env':>9} {'as seen':>8}  overhead")
    for env_id, options in cases():
        if only not in env_id:
            continue
        row = measure(env_id, options, turns, seconds)
        rows.append(row)
        rates, name = row["steps_per_second"], env_id + (" pixels" if options.get("pixels") else "")
        columns = f"{rates['raw']:8,} {rates['make_env']:9,} {rates['agent_view']:8,}"
        print(f"{name:32} {columns}  {row['overhead']:+.0%}", flush=True)
    return rows


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each turn")
    parser.add_argument("--only", default="", help="ids with this in them")
    parser.add_argument("--border", action="store_true", help="the cost of the border in a step of training")
    parser.add_argument("--before", type=Path, help="src of another version, for --border")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("MUJOCO_GL", "egl")
    if args.serve:
        serve(*json.loads(args.serve))
    elif args.border:
        _write(args.out, compare_border(args.before, args.turns, args.seconds), args.turns)
    else:
        _write(args.out, all_rows(args.only, args.turns, args.seconds), args.turns)


def _write(out: Path | None, rows: list[dict[str, Any]], turns: int) -> None:
    facts = provenance(build({"env.id": "several"}, base=Config()))
    del facts["protocol"], facts["seed"]
    if out:
        out.write_text(json.dumps({"rows": rows, "turns": turns, "provenance": facts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
