"""The published record: scores of DreamerV2 and others with their protocols, of random play and of people.

Data files with provenance and licences: data/LICENSES.md. Tasks have the short names of the score files ("ms_pacman",
"walker_walk"); `task_key` finds them for ids. Frames are emulator frames on Atari and simulator steps on control.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from ..errors import UserError
from .statistics import iqm, mean, mean_without_top, median

#: Where Atari-100k ends.
BUDGET_FRAMES = 400_000
#: DreamerV3's rule for Atari-100k: all training episodes that end in here, both ends included (its issues 138, 177).
WINDOW = (390_000, 400_000)
#: Rows of its table that are points of 200M-frame runs under another protocol: only for scale.
FOR_SCALE = "DreamerV2 official"

#: What published scores depend on: the facts of `protocol.facts_of` that must be equal, and whose episodes were scored.
PROTOCOLS: Mapping[str, Mapping[str, Any]] = {
    "dreamerv2-atari": {
        "suite": "atari", "actions": "full", "action_repeat": 4, "sticky": 0.25, "noop_max": 30, "max_frames": 108_000,
        "lives": "ignore", "grayscale": True, "scored": "evaluation, most likely action",
    },
    "dreamerv2-dmc": {
        "suite": "dmc", "pixels": True, "action_repeat": 2, "episode_steps": 1000, "look": "standard",
        "scored": "training episodes",
    },
    "atari-100k": {
        "suite": "atari", "actions": "minimal", "action_repeat": 4, "sticky": 0.0, "noop_max": 30,
        "max_frames": 108_000, "lives": "ignore", "scored": "window or 100 final episodes",
    },
    "crafter": {
        "suite": "crafter", "action_repeat": 1, "reward": True, "time_limit": 0, "scored": "training episodes",
    },
}  # fmt: skip
#: In words, for tables.
TITLES = {
    "dreamerv2-atari": "DreamerV2, official 200M-frame runs",
    "dreamerv2-dmc": "DreamerV2, official DMC vision runs",
    "atari-100k": "Atari-100k (400k frames)",
    "crafter": "Crafter scoreboard (1M steps)",
}


@dataclass(frozen=True)
class Curve:
    """A published learning curve: a point is the mean over seeds of all episodes that end in its bin (`bin_of`)."""

    reference: str  # key of PROTOCOLS
    task: str
    frames: np.ndarray  # (P)
    mean: np.ndarray  # (P)
    std: np.ndarray  # (P) sample standard deviation between seeds (n - 1)
    seeds: int
    per_seed: np.ndarray | None = None  # (seeds, P), where they are known
    width: float = float("inf")  # of a bin in frames; inf: it reaches back to the point before

    def bin_of(self, point: int) -> tuple[float, float]:
        """(after, up to) frames of a point."""
        upto, before = float(self.frames[point]), float(self.frames[point - 1]) if point else 0.0
        return max(before, upto - self.width), upto

    def last_point(self, frames: float) -> int | None:
        """The last point whose bin is over at so many frames; None before the first."""
        found = int(np.searchsorted(self.frames, frames + 0.5)) - 1
        return found if found >= 0 else None


def task_key(env_id: str) -> str | None:
    """The record's name of a task: "ALE/MsPacman-v5" -> "ms_pacman", "dmc/walker-walk" -> "walker_walk"; None: none."""
    family, *rest = re.split("[-/:]", env_id, maxsplit=1)
    old = re.fullmatch(r"(\w+?)(NoFrameskip)?-v[04]", env_id)  # as Gym had them; MinAtar/Breakout-v0 is another game
    if family.lower() in ("ale", "atari"):
        known, name = _levels()["games"], "".join(rest)
    elif family.lower() in ("dmc", "dm_control"):
        known, name = _read("dreamerv2_dmc.json")["tasks"], "".join(rest)
    elif old:
        known, name = _levels()["games"], old[1]
    else:
        return None
    plain = _squash(re.sub(r"-v\d+$", "", name))
    return {_squash(key): key for key in known}.get("ballincupcatch" if plain == "cupcatch" else plain)


def _squash(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def curve(reference: str, task: str) -> Curve:
    """A published curve. Raises UserError where there is none."""
    try:
        if reference == "dreamerv2-atari":
            found = _read("dreamerv2_atari.json")["games"][task]
        elif reference == "dreamerv2-dmc":
            found = _read("dreamerv2_dmc.json")["tasks"][task]
        else:
            raise KeyError(reference)
    except KeyError as error:
        raise UserError(
            f"there is no published curve of {task} in '{reference}'.",
            f"Curves: {', '.join(tasks(reference))}." if reference.startswith("dreamerv2-") else "It has no curves.",
        ) from error
    seeds = found["seeds"]
    return Curve(
        reference,
        task,
        np.array(found["frames"], float),
        np.array(found["score"], float),
        np.array(found["std"], float) * np.sqrt(seeds / (seeds - 1)),  # the files have the population's
        seeds,
        np.array(found["per_seed"], float) if "per_seed" in found else None,
        float(found["frames"][0]) if reference == "dreamerv2-dmc" else float("inf"),  # all of its bins are as the first
    )


def tasks(reference: str) -> list[str]:
    """Tasks that a reference has curves or scores of."""
    if reference == "dreamerv2-atari":
        return sorted(_read("dreamerv2_atari.json")["games"])
    if reference == "dreamerv2-dmc":
        return sorted(_read("dreamerv2_dmc.json")["tasks"])
    return sorted(_read("atari100k.json")["methods"]["Random"]) if reference == "atari-100k" else []


# ----------------------------------------------------------------------------------------------------- levels of a game


@dataclass(frozen=True)
class Levels:
    """Scores of a game: random play, a games tester, the human world record (None: not known)."""

    random: float
    gamer: float
    record: float | None


def levels(game: str, *, paper: bool = False) -> Levels:
    """Of an Atari game. paper: as DreamerV2's tables have them (James Bond's random play is 7 there instead of 29)."""
    found = _levels()["games"][game]
    if paper:
        found = found | _levels()["paper"].get(game, {})
    return Levels(found["random"], found["gamer"], found["record"])


def human_normalised(game: str, score: Any, *, paper: bool = False) -> Any:
    """(score - random) / (gamer - random): 0 is random play, 1 a games tester."""
    found = levels(game, paper=paper)
    return (score - found.random) / (found.gamer - found.random)


def record_normalised(game: str, score: Any, *, paper: bool = False) -> Any:
    """(score - random) / (world record - random)."""
    found = levels(game, paper=paper)
    if found.record is None:
        raise UserError(f"no human record of {game} is known.")
    return (score - found.random) / (found.record - found.random)


# ----------------------------------------------------------------------------------------------------- published tables


def final_scores(runs: str = "dv2_8") -> dict[str, dict[str, float]]:
    """{game: mean, std, min, max over seeds} at 200M frames: dv2_8, nosched_3 or sched_4."""
    games = _read("dreamerv2_atari.json")["games"]
    return {game: dict(found["final"][runs]) for game, found in games.items()}


def paper_table(runs: str = "dv2_8") -> dict[str, float]:
    """The paper's Table 1 from the score files: aggregates over 55 games of each game's mean over seeds."""
    scores = {game: found["mean"] for game, found in final_scores(runs).items()}
    gamer = np.array([human_normalised(game, score, paper=True) for game, score in scores.items()])
    record = np.array([record_normalised(game, score, paper=True) for game, score in scores.items()])
    return {
        "gamer median": float(np.median(gamer)),
        "gamer mean": float(gamer.mean()),
        "record mean": float(record.mean()),
        "clipped record mean": float(np.minimum(record, 1).mean()),
    }


def budget_methods() -> dict[str, dict[str, float]]:
    """{method: {game: score}} of Atari-100k."""
    methods = _read("atari100k.json")["methods"].items()
    return {name: dict(scores) for name, scores in methods if not name.startswith(FOR_SCALE)}


def for_scale() -> dict[str, dict[str, float]]:
    """The same of early points of DreamerV2's 200M-frame runs: sticky actions, all 18 of them, no result at 100k."""
    methods = _read("atari100k.json")["methods"].items()
    return {name: dict(scores) for name, scores in methods if name.startswith(FOR_SCALE)}


def budget_sources() -> dict[str, str]:
    """{method: where its scores come from}."""
    return dict(_read("atari100k.json")["_meta"]["sources"])


def budget_table(games: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Aggregates of every Atari-100k method over the same games (all 26 by default), from its mean scores per game."""
    return {
        name: aggregates_of_means({game: scores[game] for game in games or scores})
        for name, scores in budget_methods().items()
    }


def aggregates_of_means(scores: Mapping[str, float]) -> dict[str, float]:
    """Human-normalised aggregates where one mean per game is known. The IQM is then one of games, not of runs."""
    found = [np.array([human_normalised(game, score)]) for game, score in scores.items()]
    pooled = np.concatenate(found)
    return {
        "mean": float(mean(found)),
        "median": float(median(found)),
        "IQM of games": float(iqm(found)),
        "mean without top": float(mean_without_top(found)),
        "above human": int((pooled >= 1).sum()),
        "games": len(found),
    }


def crafter_methods() -> dict[str, dict[str, list[float | None]]]:
    """{method: {"score": [percent, spread], "reward": [return, spread]}}."""
    return dict(_read("crafter.json")["methods"])


def control_others(kind: str, task: str) -> dict[str, dict[str, float]]:
    """{method: {frames: score}} of a DMC task, kind "vision" or "proprio"; empty where nothing is known."""
    return {name: found[task] for name, found in _read("dmc_others.json")[kind].items() if task in found}


def _levels() -> dict[str, Any]:
    return _read("atari_levels.json")


@cache
def _read(name: str) -> dict[str, Any]:
    text = resources.files("reverie").joinpath("evidence", "data", name).read_text(encoding="utf-8")
    return dict(json.loads(text))
