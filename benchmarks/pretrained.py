"""Trains, verifies and packs the trained agents that come with the package, or beside it.

    python benchmarks/pretrained.py demo --out src/reverie/share/pretrained        a minute and a half on one core
    python benchmarks/pretrained.py demo --run runs/demo --out ...           a run that is there already
    python benchmarks/pretrained.py --list

Each agent is trained with the settings and the seed of its published table (docs/results.md), plays 50 fresh episodes,
whose seeds no evaluation of the run has used, and is packed with its card only if its mean reaches the table's level:
exit code 1 if not. A packed agent has at most 3 MB; the episodes that go with it are shortened until it has.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import reverie
from reverie import UserError
from reverie.files import MANIFEST, manifest_of, write_file

#: Bytes of a packed agent, and episodes that verify it, with a seed of `Dreamer.evaluate` that training does not use.
MOST, EPISODES, SEED = 3_000_000, 50, 7


@dataclass(frozen=True)
class Recipe:
    """How an agent is made, and what it must reach."""

    env: str
    preset: str
    env_steps: int  # the same on every machine, as minutes are not
    level: float  # "solved" of docs/results.md
    random: float
    optimum: float | None
    settings: dict[str, float]


AGENTS = {
    "demo": Recipe("MiniGrid-Empty-Random-6x6-v0", "demo", 6000, 0.90, 0.44, 0.97, {}),
    "doorkey": Recipe("MiniGrid-DoorKey-5x5-v0", "demo", 20000, 0.90, 0.14, 0.96, {}),
    "cartpole": Recipe("CartPole-v1", "vector", 8000, 475.0, 21.0, 500.0, {"gamma": 0.99}),
    "pendulum": Recipe("Pendulum-v1", "vector", 5600, -200.0, -1193.0, None, {}),
    "breakout": Recipe("MinAtar/Breakout-v1", "minatar", 30000, 3.0, 0.48, None, {}),
    "swingup": Recipe("dmc/cartpole-swingup", "dmc-small", 25000, 300.0, 57.0, None, {}),
}


def main() -> int:
    """-> 0; 1 where an agent does not reach its level; 2 for a wrong word."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="agents to make (default: all)")
    parser.add_argument("--out", type=Path, default=Path("pretrained"), help="folder of the packed agents")
    parser.add_argument("--run", type=Path, help="a run of that agent, continued if it is not complete")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="fresh episodes that verify an agent")
    parser.add_argument("--list", action="store_true", help="what can be made")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{name:10} {each.env}, level {each.level:g}" for name, each in AGENTS.items()))
        return 0
    try:
        if unknown := [name for name in args.names if name not in AGENTS]:
            raise UserError(f"there is no recipe '{unknown[0]}'.", f"There are {', '.join(AGENTS)}.")
        if args.run and len(args.names) != 1:
            raise UserError("--run is about one agent.", "Name it.")
        if args.episodes < EPISODES:
            raise UserError(f"an agent is verified by {EPISODES} episodes at least, got {args.episodes}.")
        reached = [make(name, args.out, args.run, args.episodes) for name in args.names or AGENTS]
    except UserError as error:
        print(f"error: {error.message} {error.hint}", file=sys.stderr)
        return 2
    return 0 if all(reached) else 1


def make(name: str, out: Path, run: Path | None, episodes: int) -> bool:
    """Train or continue, verify, pack. -> whether the level was reached."""
    recipe = AGENTS[name]
    where = run or Path("runs") / f"pretrained-{name}"
    agent = reverie.Dreamer(recipe.env, preset=recipe.preset, run=where, seed=0, **recipe.settings)
    agent.learn(env_steps=recipe.env_steps)
    command = f"python benchmarks/pretrained.py {name}"
    card = {"name": name, "random": recipe.random, "optimum": recipe.optimum, "license": "mit", "command": command}
    saved = agent.save(out / name, card=card, episodes=episodes, seed=SEED)
    results = json.loads((saved / "results.json").read_text(encoding="utf-8"))
    write_file(saved / "results.json", json.dumps(results | {"level": recipe.level}, indent=1))
    shorten(saved)
    size, mean = size_of(saved), results["mean_reward"]
    reached = mean >= recipe.level
    print(f"{name}: return {mean:.3f} over {episodes} fresh episodes (level {recipe.level:g}), {size / 1e6:.2f} MB")
    if not reached or size > MOST:
        failed = saved.rename(saved.with_name(f"failed-{name}"))
        print(f"{name}: {'below its level' if not reached else 'too large'}; kept as {failed}")
    return reached and size <= MOST


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def shorten(folder: Path) -> None:
    """Leave out what others can draw themselves, the largest first, until the folder fits; a new manifest."""
    spare = ("episode.gif", "dream.gif", "dream.png", "drift.png", "learning_curve.png")
    for name in sorted((n for n in spare if (folder / n).exists()), key=lambda n: -(folder / n).stat().st_size):
        if size_of(folder) <= MOST:
            break
        (folder / name).unlink()
        text = (folder / "README.md").read_text(encoding="utf-8")
        kept = "\n".join(line for line in text.splitlines() if f"]({name})" not in line)
        write_file(folder / "README.md", kept + "\n")
    write_file(folder / MANIFEST, manifest_of(folder))


if __name__ == "__main__":
    sys.exit(main())
