"""Where the runs of a sweep are executed: an `Executor` starts commands, `Process` is what the queue sees of one.

Local processes are here, SLURM and Ray in `cluster.py`. The options of a cluster come from a [slurm] or [ray] table of
the plan and from the command line, which has the last word.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from ..errors import UserError

Where = Literal["local", "slurm", "ray"]
PLACES: tuple[Where, ...] = get_args(Where)


@dataclass(frozen=True)
class Work:
    """One command to run, with the directory that it writes to and the file that gets its output."""

    name: str
    command: Sequence[str]
    run: Path
    log: Path
    threads: int


class Process(Protocol):
    """A started command, with the methods of `subprocess.Popen` that the queue needs."""

    returncode: int | None

    def poll(self) -> int | None:
        """Exit code, minus the signal's number if one ended it; None while it runs or waits for its turn."""

    def terminate(self) -> None:
        """Ask it to end, with a checkpoint."""

    def wait(self, timeout: float | None = None) -> int:
        """Exit code. Raises subprocess.TimeoutExpired."""

    def kill(self) -> None:
        """End it at once."""


class Executor(Protocol):
    """Starts commands somewhere."""

    interval: float  # seconds between two checks of what is running

    def batch(self) -> AbstractContextManager[None]:
        """What is started within is submitted together, at the end of the context. Raises UserError there."""

    def start(self, work: Work) -> Process:
        """Start a command. Raises OSError or UserError."""

    def close(self) -> None:
        """Release what the executor holds."""


class LocalExecutor:
    """Processes of this machine. They outlive a sweep that is killed, and the next one waits for them."""

    interval = 0.2

    def batch(self) -> AbstractContextManager[None]:
        """Nothing to wait for."""
        return nullcontext()

    def start(self, work: Work) -> Process:
        """Raises OSError if the log cannot be written."""
        work.log.parent.mkdir(parents=True, exist_ok=True)
        with open(work.log, "w", encoding="utf-8") as file:
            return subprocess.Popen(
                work.command,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": str(work.threads)},
                text=True,
                start_new_session=True,
            )

    def close(self) -> None:
        """Nothing is held."""


# -------------------------------------------------------------------------------------------------------------- options


@dataclass(frozen=True)
class ClusterOptions:
    """What a job asks a cluster for; None and "" leave it to the cluster."""

    partition: str = ""  # SLURM
    account: str = ""  # SLURM
    time: float | None = None  # minutes of one allocation; a run that needs more is requeued and continues
    memory: float | None = None  # GB
    cpus: int | None = None
    gpus: int | None = None
    extra: Mapping[str, str] | None = None  # further options of sbatch, without "--"
    setup: tuple[str, ...] = ()  # shell commands of the job before the run, e.g. "module load cuda"
    submit: str = "slurm"  # to SLURM, or for trying a plan out on one machine: local, debug
    address: str = ""  # of the Ray cluster; "": RAY_ADDRESS, else a cluster on this machine alone

    def updated(self, found: Mapping[str, Any], where: str) -> ClusterOptions:
        """With values as in a table or on the command line. Raises UserError; where: for its message."""
        allowed = OPTIONS.get(where.strip("[]"), tuple(READERS))
        values = {}
        for key, value in found.items():
            if key not in allowed:
                raise UserError(f"{where} has no '{key}'.", f"It may have: {', '.join(allowed)}.")
            try:
                values[key] = READERS[key](value)
            except ValueError as error:
                raise UserError(f"{where}: {key} {error}, found {value!r}.", f"E.g. {EXAMPLES[key]}.") from error
        return replace(self, **values)


def minutes(value: Any) -> float:
    """ "90" (minutes), "45s", "30m", "4h", "2d", "4:00:00", "1-12:00:00" -> minutes. Raises ValueError."""
    text = str(value).strip()
    if clock := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text):
        days, first, second, third = (int(part or 0) for part in clock.groups())
        hours_given = clock[1] is not None or clock[4] is not None
        found = days * 1440 + (first * 60 + second + third / 60 if hours_given else first + second / 60)
    elif plain := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text):
        found = float(plain[1]) * {"s": 1 / 60, "": 1, "m": 1, "h": 60, "d": 1440}[plain[2]]
    else:
        raise ValueError("must be a time")
    if not 0 < found < 527_040:
        raise ValueError("must be above zero and less than a year")
    return found


def gigabytes(value: Any) -> float:
    """ "8", "8GB", "500MB", "1T" -> GB. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([MGT]?)i?B?", str(value).strip(), re.I)
    if match is None or not 0 < float(match[1]) < 1e6:
        raise ValueError("must be an amount of memory")
    return float(match[1]) * {"M": 1 / 1024, "": 1, "G": 1, "T": 1024}[match[2].upper()]


def _count(least: int) -> Any:
    def read(value: Any) -> int:
        text = str(value)
        if isinstance(value, bool) or not (text.isascii() and text.isdigit()) or not least <= int(text[:9]) <= 10_000:
            raise ValueError(f"must be a whole number from {least} on")
        return int(text)

    return read


def _word(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[\w.,:/@+*=\[\]-]+", value):
        raise ValueError("must be a word")
    return value


def _extra(value: Any) -> Mapping[str, str]:
    pairs = value.items() if isinstance(value, Mapping) else [str(x).partition("=")[::2] for x in _list(value)]
    found = {str(key).removeprefix("--"): str(x).lower() if isinstance(x, bool) else str(x) for key, x in pairs}
    if not all(re.fullmatch(r"[a-z][a-z-]*", key) and x and "\n" not in x for key, x in found.items()):
        raise ValueError("must hold options of sbatch as NAME=VALUE")
    return found


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("must be a list")
    return value


def _setup(value: Any) -> tuple[str, ...]:
    if not all(isinstance(line, str) for line in _list(value)):
        raise ValueError("must be a list of shell commands")
    return tuple(value)


def _submit(value: Any) -> str:
    if value not in ("slurm", "local", "debug"):
        raise ValueError("must be slurm, local or debug")
    return str(value)


READERS: dict[str, Any] = {
    "partition": _word, "account": _word, "time": minutes, "memory": gigabytes, "cpus": _count(1), "gpus": _count(0),
    "extra": _extra, "setup": _setup, "submit": _submit, "address": _word,
}  # fmt: skip
#: What a table of that name may hold.
OPTIONS = {"slurm": tuple(key for key in READERS if key != "address"), "ray": ("memory", "cpus", "gpus", "address")}
EXAMPLES = {
    "partition": '"gpu"', "account": '"lab"', "time": '"4:00:00", "90m" or 90 (minutes)', "memory": '"8GB"',
    "cpus": "2", "gpus": "1", "extra": '{ qos = "high" }, or --extra qos=high', "setup": '["module load cuda"]',
    "submit": '"local"', "address": '"auto"',
}  # fmt: skip


def options_of(table: Mapping[str, Any], given: Mapping[str, Any], where: Where) -> ClusterOptions:
    """The plan's table, with what the command line gives on top. Raises UserError."""
    options = ClusterOptions().updated(table, f"[{where}]")
    given = {key: value for key, value in given.items() if value not in (None, [], "")}
    if where == "local" and given:
        raise UserError(f"--{next(iter(given))} is an option of clusters.", "Add --on slurm or --on ray.")
    if where != "local" and (foreign := [key for key in given if key not in OPTIONS[where]]):
        other, word = ("ray", "Ray, not of SLURM") if where == "slurm" else ("slurm", "SLURM, not of Ray")
        raise UserError(f"--{foreign[0]} is an option of {word}.", f"Add --on {other}, or leave it out.")
    return options.updated(given, "the command line")


def option_names() -> list[str]:
    """The options that a command line has, as attributes of its arguments."""
    return [item.name for item in fields(ClusterOptions) if item.name != "setup"]
