"""The standing list of what to measure next on a GPU (queue.toml): what is done, and the next items in slices.

    python benchmarks/gpu_queue.py list                  every item: done, begun, or waiting
    python benchmarks/gpu_queue.py next --minutes 9      from the top until the time is over; again: resumes there
    python benchmarks/gpu_queue.py next --small --only crafter --minutes 3      an item on a CPU: tiny networks

A run that has not finished when its slice ends gets SIGTERM, writes a checkpoint, and is resumed by the next slice. A
complete run leaves OUT/NAME.json (benchmarks/results/gpu): commit it. An interrupted evaluation starts again: the last
one of a run has to fit into a slice.

Slices of one run need a machine, or at least a disk, that stays: weights and moments of the full-size presets are
190 to 370 MB, more than may travel to and from a lent one.

The package must be installed, or PYTHONPATH=src be set. On a bare machine `benchmarks/gpu.sh --wheels` brings what is
missing there, but for dm-control: with MuJoCo it is larger (over 80 MB) than what may travel to the lent one. Results
that are committed count as done, wherever --out points. Exit code 1: something failed, 2: a mistake, in one sentence.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from reverie.config import Config, build
from reverie.config.presets import load_preset
from reverie.envs.family import family_of, installed
from reverie.errors import UserError
from reverie.evidence.plan import written
from reverie.evidence.results import read_result, result_of, write_result
from reverie.run.directory import holds_run

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "benchmarks" / "queue.toml"
KEPT = ROOT / "benchmarks" / "results" / "gpu"
TRAIN = (sys.executable, "-m", "reverie.cli", "train")
#: On top of a run with --small, after preset debug's tiny networks: ends in a minute, on a CPU.
SMALL = {
    "env.image_size": 64, "env.time_limit": 50, "train.env_steps": 400, "train.eval_episodes": 2,
    "compute.mode": "auto", "compute.device": "cpu", "compute.threads": 1,
}  # fmt: skip
GRACE = 40.0  # seconds after SIGTERM; the command line promises a checkpoint within 20
COMMAND_FORMAT = "reverie-command-1"


@dataclass(frozen=True)
class Task:
    """One run or one command of the list."""

    name: str
    item: str  # the entry of the list it comes from
    preset: str = ""  # of a run
    env: str = ""
    seed: int = 0
    label: str = ""  # of the experiment
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""  # of a command, with {out}
    minutes: float = 0  # that a command needs

    def config(self) -> Config:
        """The settings of a run. Raises UserError."""
        base = _experiment(self.preset, json.dumps(dict(self.settings)))
        return build({"env.id": self.env, "train.seed": self.seed}, base=base)

    def words(self, run: Path) -> list[str]:
        """What follows `reverie train`."""
        named = ["--preset", self.preset, "--env", self.env, "--seed", str(self.seed), "--run", str(run)]
        return [*named, "--no-doctor", *(f"{key}={written(value)}" for key, value in self.settings.items())]


@cache
def _experiment(preset: str, settings: str) -> Config:
    """What all its runs have; reading presets for each of them would take seconds. settings: as JSON."""
    return load_preset(preset, json.loads(settings))


@dataclass(frozen=True)
class Item:
    """One entry of the list."""

    name: str
    why: str
    estimate: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class State:
    """How it stands with a task."""

    word: str  # done, failed (a command that was tried), begun, waiting, damaged
    steps: int = 0
    total: int = 0
    note: str = ""

    @property
    def over(self) -> bool:
        return self.word in ("done", "failed")

    def text(self) -> str:
        steps = f" {self.steps:,} of {self.total:,} steps" if self.word == "begun" else ""
        return f"{self.word}{steps}{f' ({self.note})' if self.note else ''}"


@dataclass(frozen=True)
class Place:
    """Where runs and results are, and how much time is left."""

    version: int
    runs: Path
    out: Path
    small: bool
    end: float = 0.0  # on time.monotonic's clock
    reserve: float = 45.0  # seconds at the end for a checkpoint

    def left(self) -> float:
        return self.end - time.monotonic()

    def file(self, task: Task) -> Path | None:
        """The result file of a task; one that is committed counts wherever new ones go."""
        folders = [self.out] if self.small else [self.out, KEPT]
        return next((path for path in (folder / f"{task.name}.json" for folder in folders) if path.exists()), None)


# ------------------------------------------------------------------------------------------------------------- the list


def read_list(path: Path = LIST, *, small: bool = False) -> tuple[int, list[Item]]:
    """(version, items). small: each task in its small form. Raises UserError."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        items = [_item(entry, found) for entry in found["item"]]
        version = int(found["version"])
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not as a list should be ({type(error).__name__}: {error}).") from error
    names = [task.name for item in items for task in item.tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path} has '{twice[0]}' twice.", "Each game and seed of an experiment belongs to one item.")
    return version, [_small(item, found) for item in items] if small else items


def _item(entry: Mapping[str, Any], found: Mapping[str, Any]) -> Item:
    name, estimate = entry["name"], entry.get("estimate", "")
    if "command" in entry:
        tasks = (Task(name, name, command=entry["command"], minutes=float(entry["minutes"])),)
        return Item(name, entry["why"], estimate, tasks)
    label = entry["experiment"]
    made = found["experiment"][label]
    settings = {**found.get("settings", {}), **made.get("settings", {})}
    tasks = tuple(
        Task(
            f"{label}-{game.lower()}-s{seed}",
            name,
            made["preset"],
            made["env"].format(game=game),
            seed,
            label,
            settings,
        )
        for seed in entry["seeds"]
        for game in entry["games"]
    )
    return Item(name, entry["why"], estimate, tasks)


def _small(item: Item, found: Mapping[str, Any]) -> Item:
    """The same at the size of a trial."""
    entry = next(entry for entry in found["item"] if entry["name"] == item.name)
    tasks = []
    for task in item.tasks:
        if task.command:
            tasks.append(replace(task, command=entry.get("small", task.command), minutes=0))
            continue
        settings = {**task.settings, **SMALL}
        settings |= {"train.eval_every": 200} if task.settings.get("train.eval_every") else {}
        tasks.append(replace(task, preset=f"{task.preset}+debug", label=f"{task.label}-small", settings=settings))
    return replace(item, tasks=tuple(tasks))


def chosen(items: Sequence[Item], only: str) -> list[Task]:
    """The tasks in their order; only: those of one item, or one task. Raises UserError for an unknown name."""
    tasks = [task for item in items for task in item.tasks]
    found = [task for task in tasks if only in ("", task.name, task.item)]
    if not found:
        close = difflib.get_close_matches(only, [*(item.name for item in items), *(task.name for task in tasks)], 3)
        hint = f"Did you mean {', '.join(close)}?" if close else f"Items: {', '.join(item.name for item in items)}."
        raise UserError(f"the list has nothing called '{only}'.", hint)
    return found


def state_of(task: Task, place: Place) -> State:
    """How it stands with a task, from its result file or its run."""
    file = place.file(task)
    if task.command:
        mark = _read_mark(file, place.version) if file else None
        if mark is None:
            return State("waiting")
        return State("done") if mark["exit_code"] == 0 else State("failed", note=f"exit code {mark['exit_code']}")
    total = task.config().train.env_steps
    try:
        result = read_result(file) if file else None
        if result and result.complete:
            return State("done", result.env_steps, total)
        run = place.runs / task.name
        if not holds_run(run):
            return State("waiting", 0, total)
        result = result_of(run, label=task.label)
    except UserError as error:
        return State("damaged", 0, total, error.message)
    note = "complete, without a result file" if result.complete else "its last evaluation is missing"
    return State("begun", result.env_steps, total, note if result.env_steps >= total else "")


def _read_mark(path: Path, version: int) -> dict[str, Any] | None:
    """What a command left behind, if it was the command of this version of the list."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("format") == COMMAND_FORMAT and found.get("version") == version:
            return found
    return None


# --------------------------------------------------------------------------------------------------------- the commands


def list_command(args: argparse.Namespace) -> int:
    """Every item, and its tasks as far as something has happened to them."""
    place, items = _place(args)
    states = {task.name: state_of(task, place) for item in items for task in item.tasks}
    if args.json:
        rows = [_row(item, task, states[task.name], place) for item in items for task in item.tasks]
        print(json.dumps(rows, indent=1))
        return 0
    for item in items:
        found = [(task, states[task.name]) for task in item.tasks]
        words = [state.word for _, state in found]
        counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
        print(f"{item.name:18} {counts if len(words) > 1 else found[0][1].text():28} {item.why}")
        if item.estimate and not all(state.over for _, state in found):
            print(f"{'':18} {item.estimate}")
        for task, state in found if len(words) > 1 else []:
            if state.word != "waiting":
                print(f"  {task.name:32} {state.text()}")
    return 0


def _row(item: Item, task: Task, state: State, place: Place) -> dict[str, Any]:
    command = task.command.format(out=place.out) or shlex.join(
        ["reverie", "train", *task.words(place.runs / task.name)]
    )
    steps = {"env_steps": state.steps, "of": state.total} if state.total else {}
    return {"name": task.name, "item": item.name, "state": state.word, **steps, "note": state.note, "command": command}


def next_command(args: argparse.Namespace) -> int:
    """Work on the list from the top until the time is over. -> 1 if something failed."""
    place, items = _place(args)
    tasks = chosen(items, args.only)
    if not args.small and gpu_name() is None:
        raise UserError("there is no GPU here, for which this list is.", "Try its items on the CPU with --small.")
    failed = False
    for task in tasks:
        state = state_of(task, place)
        if state.over and not (state.word == "failed" and args.only):
            continue
        if place.left() < 2 * place.reserve:
            print(f"the slice is over; next is {task.name}", flush=True)
            break
        if place.left() < 60 * task.minutes:
            print(f"{task.name}: waits for a slice that has {task.minutes:g} minutes left for it", flush=True)
            continue
        said, well = (run_command if task.command else run_training)(task, place)
        print(f"{task.name}: {said}", flush=True)
        failed |= not well
    else:
        print("the end of the list" if not args.only else f"that was {args.only}", flush=True)
    return int(failed)


def _place(args: argparse.Namespace) -> tuple[Place, list[Item]]:
    version, items = read_list(args.list, small=args.small)
    runs = args.runs or ROOT / "runs" / ("queue-small" if args.small else "queue")
    out = args.out or (runs / "results" if args.small else KEPT)
    place = Place(version, runs.resolve(), out.resolve(), args.small)
    if "minutes" in args:
        if args.minutes <= 0:
            raise UserError(f"--minutes must be above 0, got {args.minutes:g}.")
        reserve = args.reserve if args.reserve is not None else 10.0 if args.small else 45.0
        place = replace(place, end=time.monotonic() + 60 * args.minutes, reserve=reserve)
    return place, items


# -------------------------------------------------------------------------------------------------- one after the other


def run_training(task: Task, place: Place) -> tuple[str, bool]:
    """Begin or continue a run, up to the end of the slice. -> (one sentence, did it go well?)"""
    lacking = _lacking(task)
    if lacking:
        return lacking, False
    run, log = place.runs / task.name, place.runs / f"{task.name}.log"
    print(f"{task.name}: {place.left() / 60:.1f} minutes are left; output: {log}", flush=True)
    code, stopped, tail = _run([*TRAIN, *task.words(run)], log, place.left() - place.reserve)
    if code != 0 and not (stopped and code == -signal.SIGTERM):  # the signal came before there was anything to save
        how = "had to be killed; it resumes from its last checkpoint" if stopped else f"failed with exit code {code}"
        return f"{how}: {_sentence(tail)}", False
    if not holds_run(run):
        return "was stopped before it had begun", True
    result = result_of(run, label=task.label)
    if result.complete:
        path = write_result(result, place.out / f"{task.name}.json")
        return f"complete after {result.env_steps:,} steps; {path}", True
    said = state_of(task, place).text()
    return (f"{said}; the next slice resumes it", True) if stopped else (f"ended by itself, but is only {said}", False)


def _lacking(task: Task) -> str:
    family = family_of(task.env)
    if family is None or installed(family):
        return ""
    return f"not begun, for {' or '.join(family.MODULES)} is not installed; {family.INSTALL}"


def run_command(task: Task, place: Place) -> tuple[str, bool]:
    """Run a command and write its mark: it was run at this version of the list, with this outcome."""
    command, start = task.command.format(out=shlex.quote(str(place.out))), time.monotonic()
    log = place.runs / f"{task.name}.log"
    print(f"{task.name}: {command}", flush=True)
    code, stopped, tail = _run(shlex.split(command), log, place.left() - 5)
    took = time.monotonic() - start
    if stopped:
        return f"stopped after {took:.0f} s, at the end of the slice; it starts again next time", False
    mark = {"format": COMMAND_FORMAT, "name": task.name, "version": place.version, "command": command}
    mark |= {"commit": commit(), "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "gpu": gpu_name()}
    mark |= {"small": place.small, "exit_code": code, "seconds": round(took, 1), "tail": tail[-40:]}
    place.out.mkdir(parents=True, exist_ok=True)
    (place.out / f"{task.name}.json").write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")
    if code:
        return f"failed with exit code {code}: {_sentence(tail)}", False
    return f"done in {took:.0f} s: {tail[-1] if tail else ''}", True


def _run(command: Sequence[str], log: Path, seconds: float) -> tuple[int, bool, list[str]]:
    """Run with a time limit. -> (exit code, was it stopped by the limit?, the lines of its output)"""
    log.parent.mkdir(parents=True, exist_ok=True)
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    programs = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PATH": os.pathsep.join(programs)}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        stopped = False
        try:
            process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            stopped = True
        finally:  # Ctrl-C, too: what was learnt is kept
            _end(process)
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    return process.returncode, stopped, [line.rstrip() for line in text.splitlines() if line.strip()]


def _end(process: subprocess.Popen) -> None:
    """Ask it to end, give it the time for a checkpoint, and leave nothing of it running."""
    with suppress(subprocess.TimeoutExpired):
        if process.poll() is None:
            process.terminate()  # of it alone: its workers are its own
        process.wait(GRACE)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _sentence(tail: Sequence[str]) -> str:
    return " ".join(line.strip() for line in tail[-3:])[-500:] or "it said nothing"


def gpu_name() -> str | None:
    """What nvidia-smi calls the first GPU; None without one, or where torch does not see it: all tests would skip."""
    if not torch.cuda.is_available():
        return None
    with suppress(OSError, subprocess.TimeoutExpired):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.strip().splitlines()[0]
    return None


def commit() -> str:
    """Of the source tree; $COMMIT where there is no repository."""
    with suppress(OSError):
        command = ["git", "describe", "--always", "--dirty"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.stdout.strip():
            return done.stdout.strip()
    return os.environ.get("COMMIT", "unknown")


# ----------------------------------------------------------------------------------------------------- the command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listed = commands.add_parser("list", help="the state of every item")
    listed.set_defaults(function=list_command)
    listed.add_argument("--json", action="store_true", help="one JSON list, with the command of each")
    on = commands.add_parser("next", help="run items from the top until the time is over")
    on.set_defaults(function=next_command)
    on.add_argument("--minutes", type=float, required=True, help="the slice, checkpoint at its end included")
    on.add_argument("--only", default="", metavar="NAME", help="an item or one of its runs; a failed command once more")
    on.add_argument("--reserve", type=float, help="seconds of it for the checkpoint (45; with --small 10)")
    for command in (listed, on):
        command.add_argument("--out", type=Path, help="where result files go (benchmarks/results/gpu)")
        command.add_argument("--runs", type=Path, help="where runs live (runs/queue; with --small runs/queue-small)")
        command.add_argument(
            "--small", action="store_true", help="the same at reduced size on a CPU, apart from the rest"
        )
        command.add_argument("--list", type=Path, default=LIST, help="another list")
    return parser


def _interrupted(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """-> exit code."""
    args = _parser().parse_args(argv)
    before = signal.signal(signal.SIGTERM, _interrupted)  # of the machine: the run gets its checkpoint, too
    try:
        return args.function(args)
    except UserError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command resumes", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `... list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
