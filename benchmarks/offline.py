"""Learning from recorded data: make the sets, learn with each method, evaluate, write the table.

    OMP_NUM_THREADS=1 python benchmarks/offline.py benchmarks/offline.toml --out runs/evidence/offline

The plan says what is compared and by which rule, written down before the runs. Each cell is a JSON file; what is there
is not made again, so the command can be stopped and repeated. --quick: tiny sizes, to see that everything runs.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

import reverie
from reverie.evidence.statistics import student
from reverie.run.data_set import read_data, write_data
from reverie.share.data_sources import Options, open_source
from reverie.share.record import config_of, player_of, record

SETS = ("mixed", "medium", "expert")
ONLINE = "online reference"
QUICK = {"online_steps": 300, "medium_steps": 200, "record": 3}


def online(task: dict[str, Any], steps: int, folder: Path, seed: int, quick: bool) -> Path:
    """The run of an online agent, made if it is not there."""
    preset = "debug" if quick else task["preset"]
    agent = reverie.Dreamer(task["env"], preset=preset, run=folder, seed=seed)
    agent.learn(env_steps=steps, quiet=True)
    return folder


def make_sets(task: dict[str, Any], out: Path, quick: bool) -> dict[str, Path]:
    """Mixed: the replay up to the medium agent; medium, expert: episodes of the two agents. -> {set: its folder}."""
    base = out / task["name"]
    medium = online(task, task["medium_steps"], base / "medium-run", 60, quick)
    expert = online(task, task["online_steps"], base / "expert-run", 61, quick)
    sets = {name: base / "data" / name for name in SETS}
    if not sets["mixed"].exists():
        source = open_source(medium, Options())
        write_data(sets["mixed"], source.spec, source.episodes, {"source": "mixed", "env": task["env"]})
    for name, run, seed in (("medium", medium, 62), ("expert", expert, 63)):
        if not sets[name].exists():
            player = player_of(run, mode="train", seed=seed)
            record(config_of(task["env"], run), None, sets[name], episodes=task["record"], player=player, seed=seed)
    return sets


def evaluate(path: Path, episodes: int) -> float:
    """The mean return of a saved agent."""
    return float(np.mean(reverie.load(path).evaluate(episodes, seed=7).scores))


def cell(out: Path, name: str, make: Any) -> Any:
    """A result, from its file or made now."""
    path = out / "cells" / f"{name.replace(' ', '-').replace('+', 'and')}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def learn(task: dict[str, Any], data: Path, method: dict[str, Any], seed: int, folder: Path, updates: int) -> None:
    """One offline run, if it is not there."""
    if not (folder / "agent").exists():
        settings = {**method["settings"], "train.seed": seed}
        agent = reverie.Dreamer(task["env"], preset=task["preset"], run=folder, settings=settings)
        agent.learn(data=data, updates=updates, quiet=True)


def run(plan: dict[str, Any], out: Path, quick: bool) -> dict[str, Any]:
    """All cells. -> {task: {set or reference: ...}}."""
    found: dict[str, Any] = {}
    episodes = plan["episodes"]
    methods = sorted(plan["method"], key=lambda method: "of" in method)  # those that only read another's run come last
    for task in plan["task"]:
        if quick:
            task |= QUICK | {"preset": "debug"}
        name = task["name"]
        sets = make_sets(task, out, quick)
        rows = found[name] = {"reference": {}, "data": {}, "returns": {}}
        expert = out / name / "expert-run"
        rows["reference"]["online"] = cell(out, f"{name} online", lambda e=expert: evaluate(e, episodes))
        rows["reference"]["random"] = cell(out, f"{name} random", lambda t=task: random_return(t, out, episodes))
        for kind, data in sets.items():
            rows["data"][kind] = float(read_data(data).returns().mean())
            for method in methods:
                for seed in plan["seeds"]:
                    folder = out / name / kind / method.get("of", method["name"]).replace(" ", "-") / str(seed)
                    if "of" not in method:
                        learn(task, data, method, seed, folder, plan["updates"])
                    path = folder / method.get("agent", "agent")
                    title = f"{name} {kind} {method['name']} {seed}"
                    score = cell(out, title, lambda p=path: evaluate(p, episodes))
                    rows["returns"].setdefault(kind, {}).setdefault(method["name"], []).append(score)
                    print(f"{title}: {score:.1f}", flush=True)
    return found


def random_return(task: dict[str, Any], out: Path, episodes: int) -> float:
    """The mean return of random actions."""
    path = out / task["name"] / "data" / "random"
    if not path.exists():
        record(config_of(task["env"]), None, path, episodes=episodes, seed=64)
    return float(read_data(path).returns().mean())


def table(plan: dict[str, Any], found: dict[str, Any]) -> str:
    """Scores as a table: 0 is random, 100 the online reference; mean and 95 % interval over seeds."""
    lines = [
        "| task | set | its episodes | method | score | against world model + actor |",
        "|---|---|---|---|---|---|",
    ]
    for task, rows in found.items():
        low, high = rows["reference"]["random"], rows["reference"]["online"]
        for kind, methods in rows["returns"].items():
            scaled = {name: 100 * (np.array(x) - low) / (high - low) for name, x in methods.items()}
            base, own = scaled["world model + actor"], 100 * (rows["data"][kind] - low) / (high - low)
            for method in plan["method"]:
                mine = scaled[method["name"]]
                gap = "" if mine is base else said(mine - base)
                lines.append(f"| {task} | {kind} | {own:.0f} | {method['name']} | {said(mine)} | {gap} |")
        lines.append(f"| {task} | {ONLINE} | | | 100 ({high:.1f}; random {low:.1f}) | |")
    return "\n".join(lines)


def said(values: np.ndarray) -> str:
    """ "12.3 (8.1 to 16.5)"."""
    found = student(values.tolist())
    return f"{found.value:.1f}" + ("" if found.low is None else f" ({found.low:.1f} to {found.high:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run?")
    args = parser.parse_args()
    plan = tomllib.loads(args.plan.read_text())
    if args.quick:
        plan |= {"seeds": plan["seeds"][:2], "episodes": 1, "updates": 2}
    found = run(plan, args.out, args.quick)
    (args.out / "offline.json").write_text(json.dumps(found, indent=1))
    text = table(plan, found)
    (args.out / "offline.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
