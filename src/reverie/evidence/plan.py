"""A sweep as data: tasks x variants x seeds, each one run of `reverie train`, all checked before the first begins.

name = "ablation"                       # TOML; everything but the tasks may be left out
seeds = [0, 1, 2, 3, 4]
settings = { "compute.threads" = 1 }    # of every run
vary = ["kl_balance=0.5,0.8", "norm+gru_norm=false"]    # variants: one factor after the other, beside the base

[[task]]
name = "pendulum"
env = "Pendulum-v1"
preset = "vector"
settings = { "train.env_steps" = 3200 }

[[variant]]                             # instead of `vary`, or besides; the first one is what others are compared with
name = "V2"
preset = "dreamerv2+small"              # instead of the task's
presets = { pendulum = "dmc-proprio+small" }   # on single tasks
settings = { }

[slurm]                                 # of --on slurm (executors.ClusterOptions); [ray] likewise
time = "4:00:00"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..config import SETTINGS, Config
from ..config.presets import load_preset
from ..errors import UserError
from ..files import Damaged, read_text
from .executors import Where, options_of

BASE = "base"
CLUSTERS: tuple[Where, ...] = ("slurm", "ray")
#: What every run of a sweep has unless it says otherwise: one evaluation at the end, nothing that only a person needs.
USUAL: Mapping[str, Any] = {
    "train.eval_every": 0, "train.eval_episodes": 20, "train.forecast": False, "log.tensorboard": False,
    "log.video": False, "train.deterministic": True,
}  # fmt: skip
EXAMPLES = {"seeds": "[0, 1, 2]", "vary": '["kl.balance=0.5,0.8"]', "settings": '{ "train.env_steps" = 3000 }'}
EXAMPLES |= {"slurm": '{ time = "4:00:00" }', "ray": "{ cpus = 2 }"}
EXAMPLES |= {"presets": '{ pendulum = "vector" }'}
LONGEST = 200  # letters of a job's name: it is a file's name, too
_LEAVES = {key.split(".")[1]: key for key in SETTINGS}


@dataclass(frozen=True)
class Task:
    """An environment with a preset and settings."""

    name: str
    preset: str
    settings: Mapping[str, Any]  # "env.id" among them


@dataclass(frozen=True)
class Variant:
    """A change of settings or preset, tried on every task."""

    name: str
    settings: Mapping[str, Any]
    preset: str = ""  # instead of the task's
    presets: Mapping[str, str] | None = None  # instead of that, by task

    def preset_on(self, task: Task) -> str:
        """The preset that it stands on."""
        return (self.presets or {}).get(task.name) or self.preset or task.preset


@dataclass(frozen=True)
class PlannedRun:
    """One run."""

    task: str
    variant: str
    seed: int
    preset: str
    overrides: Mapping[str, Any]
    config: Config

    @property
    def name(self) -> str:
        """Of its directory and its result file."""
        return f"{_slug(self.task)}--{_slug(self.variant)}--s{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A whole sweep."""

    name: str
    tasks: Sequence[Task]
    variants: Sequence[Variant]
    seeds: Sequence[int]
    jobs: Sequence[PlannedRun]  # one seed of everything before the next: a sweep broken off is a smaller sweep
    clusters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # tables slurm and ray, as they stand there
    settings: Mapping[str, Any] = field(default_factory=dict)  # of every run, as full names


def read_plan(path: Path) -> Plan:
    """A plan from a TOML file. Raises UserError with every fault at once."""
    try:
        found = tomllib.loads(read_text(path.resolve()))  # a link that the user names is meant
    except Damaged as error:
        raise UserError(error.message, "Give a TOML file; `reverie sweep --help` has one.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {error}.", "`reverie sweep --help` has an example.") from error
    kinds = {"name": str, "seeds": (int, list), "settings": dict, "vary": list, "task": list, "variant": list}
    kinds |= dict.fromkeys(CLUSTERS, dict)
    _only(found, str(path), kinds)
    for name in CLUSTERS:
        options_of(found.get(name, {}), {}, name)
    plan = make_plan(
        found.get("name", path.stem),
        [_task(item) for item in found.get("task", [])],
        [*_varied(found.get("vary", [])), *(_variant(item) for item in found.get("variant", []))],
        found.get("seeds", [0]),
        found.get("settings", {}),
    )
    return replace(plan, clusters={name: found.get(name, {}) for name in CLUSTERS})


def _task(item: Mapping[str, Any]) -> Task:
    _only(item, "[[task]]", {"name": str, "env": str, "preset": str, "settings": dict})
    settings = _dotted(item.get("settings", {})) | ({"env.id": item["env"]} if "env" in item else {})
    preset = item.get("preset", "default")
    return Task(item.get("name") or item.get("env") or preset, preset, settings)


def _variant(item: Mapping[str, Any]) -> Variant:
    _only(item, "[[variant]]", {"name": str, "preset": str, "presets": dict, "settings": dict})
    name = item.get("name") or item.get("preset") or ""
    if not name:
        raise UserError("a [[variant]] has no name.", "Add name = ...")
    return Variant(name, _dotted(item.get("settings", {})), item.get("preset", ""), item.get("presets"))


def _only(item: Any, what: str, kinds: Mapping[str, Any]) -> None:
    """Raises UserError for a key that is not in `kinds`, or a value of another type."""
    if not isinstance(item, Mapping):
        raise UserError(f"{what} must hold name = value lines, found {item!r}.", "`reverie sweep --help` has one.")
    for key, value in item.items():
        if key not in kinds:
            raise UserError(f"{what} has no '{key}'.", f"It may have: {', '.join(kinds)}.")
        if not isinstance(value, kinds[key]):
            wanted = {str: "text", dict: "a table", list: "a list"}.get(kinds[key], "a number or a list")
            hint = f"Write [[{key}]] with two brackets." if key in ("task", "variant") else f"E.g. {EXAMPLES.get(key)}."
            raise UserError(f"{what}: {key} must be {wanted}, found {value!r}.", hint)


def _dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """TOML's nested tables and dotted keys alike. {"train": {"seed": 1}} or {"train.seed": 1} -> {"train.seed": 1}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[setting_name(key)] = value
    return flat


def setting_name(key: str) -> str:
    """ "kl.balance", "kl_balance" or "model.kl_balance" -> "model.kl_balance"; other words stay as they are."""
    plain = key.replace("-", "_")
    joined = plain.replace(".", "_")
    return plain if plain in SETTINGS else _LEAVES.get(plain) or _LEAVES.get(joined) or plain


def parse_vary(words: Sequence[str]) -> list[Variant]:
    """`key=a,b` -> one variant per value; `a+b=false` sets two settings together, `preset=a,b` is other presets.

    Raises UserError.
    """
    found = []
    for word in words:
        keys, equals, values = str(word).partition("=")
        if not equals or not keys or not values:
            raise UserError(f"'{word}' is not of the form name=value,value.", "E.g. --vary kl.balance=0.5,0.8")
        if keys.strip() == "preset":
            found += [Variant(f"preset={value}", {}, value) for value in map(str.strip, values.split(","))]
            continue
        names = [setting_name(key.strip()) for key in keys.split("+")]
        shown = "+".join(name.split(".")[-1] for name in names)
        for value in map(str.strip, values.split(",")):
            found.append(Variant(f"{shown}={value}", dict.fromkeys(names, value)))
    return found


def _varied(words: Sequence[str]) -> list[Variant]:
    return [Variant(BASE, {}), *parse_vary(words)] if words else []


def make_plan(
    name: str,
    tasks: Sequence[Task],
    variants: Sequence[Variant],
    seeds: int | Sequence[int],
    settings: Mapping[str, Any],
) -> Plan:
    """Expand and check. A variant that changes nothing on a task is left out there. Raises UserError."""
    variants = list(variants) or [Variant(BASE, {})]
    seeds = list(range(max(0, seeds))) if isinstance(seeds, int) else list(seeds)
    faults = [] if tasks else ["no task is given"]
    good = seeds and all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in seeds)
    faults += [] if good else ["seeds must be whole numbers from 0 on, at least one"]
    for what, names in (("task", [t.name for t in tasks]), ("variant", [v.name for v in variants])):
        slugs = [_slug(each) for each in names]
        faults += [f"{what} '{names[i]}' is given twice" for i, each in enumerate(slugs) if each in slugs[:i]]
    faults += [f"seed {seed} is given twice" for i, seed in enumerate(seeds) if seed in seeds[:i]]
    known = {task.name for task in tasks}
    faults += [
        f"variant '{v.name}' has a preset for '{name}', which is not a task"
        for v in variants
        for name in v.presets or {}
        if name not in known
    ]
    if faults:
        raise UserError("; ".join(faults) + ".", "`reverie sweep --help` has an example.")
    jobs: list[PlannedRun] = []
    for seed in seeds:
        for task in tasks:
            base = None
            for variant in variants:
                job = _job(task, variant, seed, _dotted(settings))
                if base is not None and job.config == base:
                    continue
                base = job.config if base is None else base
                jobs.append(job)
    taken: set[str] = set()
    for job in jobs:
        if job.name in taken or len(job.name) > LONGEST:
            why = "two runs would have the name" if job.name in taken else f"more than {LONGEST} letters:"
            raise UserError(f"{why} {job.name}.", "Give tasks and variants other, shorter names.")
        taken.add(job.name)
    return Plan(_slug(name), tasks, variants, seeds, jobs, settings=_dotted(settings))


def _job(task: Task, variant: Variant, seed: int, settings: Mapping[str, Any]) -> PlannedRun:
    overrides = {**USUAL, **settings, **task.settings, **variant.settings, "train.seed": seed}
    if overrides.get("train.minutes"):  # a deterministic run does not end by the clock
        overrides["train.deterministic"] = False
    preset = variant.preset_on(task)
    try:
        config = load_preset(preset, overrides)
    except UserError as error:
        raise UserError(f"task '{task.name}', variant '{variant.name}': {error.message}", error.hint) from error
    if not config.env.id:
        raise UserError(f"task '{task.name}' has no environment.", "Add env = ..., or a preset that has one.")
    return PlannedRun(task.name, variant.name, seed, preset, overrides, config)


def written(value: Any) -> str:
    """A setting's value as on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _slug(name: str) -> str:
    """Fit for a file's name."""
    return re.sub(r"[^A-Za-z0-9_.=+-]+", "-", name).strip("-.") or "x"
