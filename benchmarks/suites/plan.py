"""A suite as data: the tasks with their thresholds and budgets, from a TOML file; and the environment of each task.

name = "breadth"
seeds = [0, 1, 2, 3, 4]
eval_episodes = 10          # of every evaluation on the way
final_episodes = 20         # of the last one, which decides
stop_when_solved = false    # end a run at the first evaluation that reaches the threshold

[[task]]
name = "acrobot"
env = "Acrobot-v1"          # an id, or toy:NAME of `toys.py`
before = "vector"           # the preset that suited it best before there was `auto`; `--preset before` takes it
threshold = -100
threshold_from = "where that number comes from"
random = -500               # return of uniformly random actions, measured by `suite.py PLAN --random`
env_steps = 15000           # the budget: whichever of the two is used up first
cpu_minutes = 4
eval_every = 1500
settings = {}               # settings that belong to the task, not to the learner, e.g. the action set
cells = ["plain", "x0.01", "+1"]    # only in an invariance suite: rewards times 0.01; plus 1 at every step

Needs neither torch nor a learner: other learners' environments read it, too.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import gymnasium as gym

from .toys import TOYS, RewardChange

PLAIN = "plain"


@dataclass(frozen=True)
class Task:
    """One task of a suite, in an invariance suite with one change of its rewards (`cell`)."""

    name: str
    env: str
    threshold: float
    threshold_from: str
    random: float
    env_steps: int
    cpu_minutes: float
    eval_every: int
    before: str = "vector"
    settings: Mapping[str, Any] = field(default_factory=dict)
    cell: str = PLAIN
    cells: Sequence[str] = ()  # only in the file: `read_plan` makes a task of each

    @property
    def label(self) -> str:
        """Of its results: "catch", or "catch--x0.01"."""
        return f"{self.name}--{self.cell}" if self.cells else self.name

    @property
    def change(self) -> tuple[float, float]:
        """(scale, shift) of `RewardChange`."""
        return parse_cell(self.cell)

    @property
    def custom(self) -> bool:
        """Is it made by a function, not by its id?"""
        return self.env.startswith("toy:") or bool(self.cells)


@dataclass(frozen=True)
class Plan:
    """A whole suite."""

    name: str
    tasks: Sequence[Task]
    seeds: Sequence[int]
    eval_episodes: int
    final_episodes: int
    stop_when_solved: bool
    invariance: bool  # do its tasks have cells?

    def runs(self) -> list[tuple[Task, int]]:
        """(task, seed) in the order in which they are made: seed 0 of everything, then seed 1, ..."""
        return [(task, seed) for seed in self.seeds for task in self.tasks]

    def only(self, tasks: Sequence[str] = (), seeds: Sequence[int] = ()) -> Plan:
        """The same with these tasks ("catch", or one cell "catch--x0.01") and seeds. Raises ValueError."""
        names = {name for task in self.tasks for name in (task.name, task.label)}
        if not set(tasks) <= names:
            raise ValueError(f"{self.name} has no task '{sorted(set(tasks) - names)[0]}'; it has {sorted(names)}")
        chosen = [task for task in self.tasks if not tasks or task.name in tasks or task.label in tasks]
        return replace(self, tasks=chosen, seeds=list(seeds) or self.seeds)


def parse_cell(cell: str) -> tuple[float, float]:
    """ "plain" -> (1, 0), "x0.01" -> (0.01, 0), "+1" -> (1, 1), "-1" -> (1, -1): (scale, shift). Raises ValueError."""
    if cell == PLAIN:
        return 1.0, 0.0
    if cell.startswith("x") and float(cell[1:]) > 0:
        return float(cell[1:]), 0.0
    if re.fullmatch(r"[+-]\d+(\.\d+)?", cell):
        return 1.0, float(cell)
    raise ValueError(f"'{cell}' is no change of rewards: plain, x0.01, +1 or -1")


def read_plan(path: Path) -> Plan:
    """The suite in a file. Raises ValueError for a wrong name or a missing value, in words."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    known = {item.name for item in fields(Task)} - {"cell"}
    tasks: list[Task] = []
    for item in found.pop("task", []):
        if not set(item) <= known:
            raise ValueError(f"{path}: a task has no '{sorted(set(item) - known)[0]}'; it may have {sorted(known)}")
        try:
            task = Task(**item)
        except TypeError as error:
            raise ValueError(f"{path}: task {item.get('name')}: {error}") from error
        if task.env.startswith("toy:") and task.env[4:] not in TOYS:
            raise ValueError(f"{path}: there is no {task.env}; toys are {sorted(TOYS)}")
        if task.cells and task.cells[0] != PLAIN:
            raise ValueError(f"{path}: the first cell of {task.name} must be plain, the others are compared with it")
        tasks += [Task(**item, cell=cell) for cell in task.cells] if task.cells else [task]
    for task in tasks:
        parse_cell(task.cell)
    labels = [task.label for task in tasks]
    if len(set(labels)) < len(labels):
        raise ValueError(f"{path}: two tasks have one name")
    plan = {"eval_episodes": 10, "final_episodes": 20, "stop_when_solved": False, "name": path.stem} | found
    try:
        return Plan(tasks=tasks, invariance=any(task.cells for task in tasks), **plan)
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error


def maker(task: Task) -> Callable[[], gym.Env]:
    """A function that makes the task's environment, as Reverie presents it (`reverie.envs.make_env`), rewards changed.

    For tasks of an id: with the task's own settings of group `env` only, so that other learners get the same.
    """
    scale, shift = task.change

    def make() -> gym.Env:
        made = TOYS[task.env[4:]]() if task.env.startswith("toy:") else _from_id(task)
        return RewardChange(made, scale, shift) if (scale, shift) != (1.0, 0.0) else made

    make.__name__ = task.label
    return make


def _from_id(task: Task) -> gym.Env:
    from reverie.envs import make_env

    options = {key.removeprefix("env."): value for key, value in task.settings.items() if key.startswith("env.")}
    return make_env(task.env, **({"action_repeat": 0} | options))
