"""One run's result as one small file: what was scored, every episode, and where it comes from.

    {"format": "reverie-result-1", "label", "task", "seed", "settings": {...}, "protocol": {...}, "env_steps", "frames",
     "updates", "ratio", "seconds", "complete", "episodes": {"train": [[frames, return, length], ...], "eval", ...},
     "logged": {"achievement/...": mean over episodes}, "provenance": {command, commit, versions, hardware}}

A run's directory says all of this, too; the file is what is kept, committed and compared when the run itself is gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Config, build, flatten, load_file
from ..errors import UserError
from ..files import is_own_file, open_own_file, read_bytes, read_record, write_file
from ..run.lines import each_line, read_lines
from .protocol import facts_of

FORMAT = "reverie-result-1"
PHASES = ("random", "prefill", "train", "eval")


@dataclass(frozen=True)
class RunResult:
    """What one run scored. episodes: {phase: (episodes, 3)}, columns frames at its end, return, length in steps."""

    label: str  # of the experiment: the same for all seeds of one
    task: str  # env.id
    seed: int
    settings: Mapping[str, Any]  # those that differ from the defaults
    protocol: Mapping[str, Any]
    env_steps: int
    frames: int
    updates: int
    ratio: float  # updates per environment step since learning began
    seconds: float  # of training, without evaluations
    complete: bool  # did it reach train.env_steps?
    episodes: Mapping[str, np.ndarray]
    logged: Mapping[str, float]  # means over all training episodes, random ones at the start included
    provenance: Mapping[str, Any]
    source: str = ""  # file or run it was read from

    def scores(self, phases: str | Sequence[str], after: float = -1, upto: float = float("inf")) -> np.ndarray:
        """Returns of the episodes of one phase or several that end in (after, upto] frames."""
        names = (phases,) if isinstance(phases, str) else phases
        found = np.concatenate([self.episodes.get(name, np.zeros((0, 3))) for name in names])
        return found[(found[:, 0] > after) & (found[:, 0] <= upto), 1]

    def final(self, after: float = -1, upto: float = float("inf")) -> np.ndarray:
        """Returns of the last evaluation in (after, upto] frames; empty if there was none."""
        found = self.episodes.get("eval", np.zeros((0, 3)))
        found = found[(found[:, 0] > after) & (found[:, 0] <= upto)]
        return found[found[:, 0] == found[-1, 0], 1] if len(found) else np.zeros(0)

    def to_json(self) -> str:
        """The file's text: one line per phase of episodes."""
        head = {
            key: getattr(self, key)
            for key in ("label", "task", "seed", "settings", "protocol", "env_steps", "frames", "updates", "ratio")
        }
        head |= {key: getattr(self, key) for key in ("seconds", "complete", "logged", "provenance")}
        lines = [f' "{key}": {json.dumps(value)}' for key, value in ({"format": FORMAT} | head).items()]
        phases = [f'  "{phase}": {json.dumps(_plain(rows))}' for phase, rows in self.episodes.items()]
        episodes = ",\n".join(phases)
        return "{\n" + ",\n".join([*lines, f' "episodes": {{\n{episodes}\n }}']) + "\n}\n"


def _plain(rows: np.ndarray) -> list[list[float]]:
    return [[int(frames), round(float(score), 4), int(length)] for frames, score, length in rows]


def result_of(run: Path, *, label: str = "") -> RunResult:
    """The result of a run's directory, finished or not. Raises UserError if it is not a run."""
    config = load_file(run / "config.yaml")
    provenance = read_record(run / "provenance.json")
    episodes = read_lines(run / "episodes.jsonl")
    newest: dict[str, Any] = {}
    for metrics in each_line(run / "metrics.jsonl"):
        newest = metrics if "updates" in metrics else newest
    rows = {phase: [x for x in episodes if x.get("phase") == phase] for phase in PHASES}
    steps = max((int(x.get("env_steps", 0)) for x in [*episodes, newest]), default=0)
    frames = max((int(x.get("frames", 0)) for x in [*episodes, newest]), default=0)
    line = str(provenance.get("protocol", {}).get("line", ""))
    return RunResult(
        label=label or _label(run, config.train.seed),
        task=config.env.id,
        seed=config.train.seed,
        settings=_unusual(config),
        protocol=facts_of(config, line) | ({"line": line} if line else {}),
        env_steps=steps,
        frames=frames,
        updates=int(newest.get("updates", 0)),
        ratio=float(newest.get("train/ratio", 0.0)),
        seconds=float(newest.get("seconds") or max((x.get("seconds", 0.0) for x in episodes), default=0.0)),
        complete=complete(config, episodes),
        episodes={phase: _rows(found) for phase, found in rows.items() if found},
        logged=_logged([*rows["prefill"], *rows["train"]]),
        provenance={key: value for key, value in provenance.items() if key != "protocol"},
        source=str(run),
    )


def complete(config: Config, episodes: Sequence[Mapping[str, Any]]) -> bool:
    """Did the run reach its steps, and was it evaluated there?"""
    return any(x.get("phase") == "eval" and x.get("env_steps", 0) >= config.train.env_steps for x in episodes)


def _rows(episodes: Sequence[Mapping[str, Any]]) -> np.ndarray:
    found = [(x["frames"], x["return"], x["length"]) for x in episodes if x.get("return") is not None]
    return np.array(found, float).reshape(-1, 3)


def _logged(episodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    keys = sorted({key for x in episodes for key in x if "/" in key})
    known = {key: [x[key] for x in episodes if x.get(key) is not None] for key in keys}  # a NaN is logged as none
    return {key: float(np.mean(values)) for key, values in known.items() if values}


def _unusual(config: Config) -> dict[str, Any]:
    usual = flatten(Config())
    return {key: listed(value) for key, value in flatten(config).items() if value != usual[key]}


def listed(value: Any) -> Any:
    """As JSON has it: a tuple is a list."""
    return list(value) if isinstance(value, tuple) else value


def _label(run: Path, seed: int) -> str:
    """The run's name without its seed: "pong-s3" and "pong--s3" are "pong"."""
    name = run.resolve().name
    for ending in (f"--s{seed}", f"-s{seed}", f"_s{seed}", f"-{seed}"):
        if name.endswith(ending) and name != ending:
            return name.removesuffix(ending)
    return name


# ---------------------------------------------------------------------------------------------------------------- files


def write_result(result: RunResult, path: Path) -> Path:
    """Write the file, whole or not at all. -> path. Raises UserError."""
    try:
        return write_file(path, result.to_json())
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}).", "Choose another directory.") from error


def read_result(path: Path) -> RunResult | None:
    """The result in a file; None if the file is something else. Raises UserError for a damaged one."""
    try:
        with open_own_file(path) as file:
            begins = file.read(200)
        text = read_bytes(path).decode("utf-8", "replace") if FORMAT.encode() in begins else ""
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}).", "Give a result file, a run, or a folder.") from error
    if not text:
        return None
    try:
        found = json.loads(text)
        found.pop("format")
        found["episodes"] = {phase: _checked(rows) for phase, rows in found["episodes"].items()}
        result = RunResult(**found, source=str(path))
        if not all(isinstance(getattr(result, name), int) for name in ("seed", "env_steps", "frames", "updates")):
            raise ValueError("a count is not a whole number")
        build(dict(result.settings), where=f"{path}:")  # settings of a later version, or nonsense
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is a damaged result ({error}).", "Make it again, or leave it out.") from error
    return result


def _checked(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Rows of (frames, return, length). Raises ValueError."""
    found = np.array(rows, float).reshape(len(rows), -1)
    if len(rows) and (found.shape[1] != 3 or not np.isfinite(found).all()):
        raise ValueError("an episode is not three numbers")
    return found.reshape(-1, 3)


def results_in(paths: Sequence[Path]) -> list[RunResult]:
    """All results of runs, result files, and folders with either, in order. Raises UserError if there are none."""
    found = [result for path in paths for result in _results(path)]
    if not found:
        raise UserError(
            f"there is no run and no result in {', '.join(map(str, paths))}.",
            "Give directories of `reverie train --run`, or folders with results of `reverie sweep`.",
        )
    return found


def _results(path: Path) -> Iterator[RunResult]:
    try:
        there = path.exists()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}).", "Give a run, a result file, or a folder.") from error
    if not there:
        raise UserError(f"{path} does not exist.", "Give a run, a result file, or a folder with either.")
    if path.is_file():
        result = read_result(path.resolve())  # a link that the user names is meant
        if result is None:
            raise UserError(f"{path} is not a result of a run.", f"Such a file begins with its format, {FORMAT}.")
        yield result
    elif (path / "config.yaml").exists():
        yield result_of(path)
    else:
        yield from _below(path)


def _below(folder: Path) -> Iterator[RunResult]:
    """Runs and result files below a folder; of a run that has its result file there, too, only that."""
    files = [path for path in sorted(folder.rglob("*.json")) if is_own_file(path) and not _inside_run(path, folder)]
    found = [result for result in map(read_result, files) if result]
    known = {(result.label, result.task, result.seed) for result in found}
    yield from found
    for config in sorted(folder.rglob("config.yaml")):
        run = config.parent
        within = {"checkpoints", "crash"} & set(config.relative_to(folder).parts)
        if not within and not (run.parent.parent / "results" / f"{run.name}.json").exists():
            result = result_of(run)
            if (result.label, result.task, result.seed) not in known:
                yield result


def _inside_run(path: Path, folder: Path) -> bool:
    """Is there a run between them?"""
    between = [
        folder.joinpath(*path.relative_to(folder).parts[:n]) for n in range(1, len(path.relative_to(folder).parts))
    ]
    return any((each / "config.yaml").exists() for each in between)
