"""Directory of a run: whether it may be used, its settings, and the provenance of its numbers."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import yaml

from ..config import Config, flatten, load_file, to_dict
from ..config.parsing import full_name
from ..config.validation import MAY_CHANGE, may_change, names_code
from ..errors import UserError
from ..files import read_record, write_file, writing
from ..guard.lock import NAME as LOCK
from ..guard.lock import RunLock

#: How to begin again in a directory that holds a run.
FRESH = "train again from the beginning with --fresh (in Python fresh=True), which keeps the old run under another name"


def holds_run(directory: Path) -> bool:
    """Is there a run in it? Raises UserError for a path that the system does not accept."""
    try:
        return (directory / "config.yaml").exists()
    except OSError as error:
        raise UserError(f"cannot write to {directory} ({error.strerror}).", "Choose another --run.") from error


def stored_config(directory: Path, given: Collection[str]) -> Config:
    """The settings of the run in a directory, to continue it. given: names of the settings that the user gives now.

    Raises UserError where its environment is code that only its files name: that is not imported on their word.
    """
    config = load_file(directory / "config.yaml")
    if names_code(config.env.id) and "env.id" not in map(full_name, given):
        raise UserError(
            f"the environment of {directory} is made by code that its files name ({config.env.id}).",
            f"If you trust it, add --env {config.env.id}.",
        )
    return config


def check_directory(directory: Path, config: Config) -> None:
    """Is the directory free, or does it hold this very run? Raises UserError; changes nothing."""
    if holds_run(directory):
        old, new = flatten(load_file(directory / "config.yaml")), flatten(config)
        changed = [k for k in new if old.get(k) != new[k] and not k.startswith(MAY_CHANGE)]
        if changed:
            shown = ", ".join(f"{k} = {old.get(k)!r} (asked for {new[k]!r})" for k in changed[:4])
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise UserError(
                f"{directory} holds another run: {shown}{more}.",
                f"Choose another --run, or repeat the settings that it was started with. {may_change()} Or {FRESH}.",
            )
    elif directory.exists() and (not directory.is_dir() or any(p.name != LOCK for p in directory.iterdir())):
        raise UserError(f"{directory} exists and is not the directory of a run.", "Choose another --run.")


def move_aside(directory: Path) -> Path | None:
    """Rename a run that is in the way of a new one: RUN-before-1, -2, ... -> its new name; None if there is no run.

    Raises UserError if it is in use, or cannot be renamed.
    """
    if not holds_run(directory):
        return None
    lock = RunLock(directory)
    lock.acquire()  # no other process writes into it
    try:
        number = 1
        while (aside := directory.with_name(f"{directory.name}-before-{number}")).exists():
            number += 1
        os.replace(directory, aside)
        (aside / LOCK).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot rename {directory} ({error.strerror}).", "Choose another --run.") from error
    finally:
        lock.release()
    return aside


def clear_leftovers(directory: Path) -> bool:
    """Start a run without a checkpoint from the beginning: delete its replay log, set its lines aside as *.lost.

    -> whether there were any lines.
    """
    began = False
    for path in (directory / "replay").glob("steps-*"):
        path.unlink()
    for name in ("metrics.jsonl", "episodes.jsonl"):
        if (directory / name).exists():
            began = began or (directory / name).stat().st_size > 0
            os.replace(directory / name, directory / f"{name}.lost")
    return began


def prepare_directory(directory: Path, config: Config, protocol: str = "") -> None:
    """Create the run's directory with its settings and provenance. Raises UserError if it cannot be written.

    protocol: one line from the task's family with the choices that scores depend on.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_file(directory / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))
    except OSError as error:
        raise UserError(f"cannot write to {directory} ({error.strerror}).", "Choose another --run.") from error
    with writing("provenance.json", directory):
        _add_provenance(directory / "provenance.json", provenance(config, protocol))


def _add_provenance(path: Path, record: dict[str, Any]) -> None:
    """Write `record`, or add it to the one of the first start: a resumed run may use other code or another machine."""
    known = read_record(path)
    if known:
        earlier = known.get("continued")
        record = known | {"continued": [*(earlier if isinstance(earlier, list) else []), record]}
    elif path.exists():
        record["earlier"] = "the record of how the run began was damaged"
    write_file(path, json.dumps(record, indent=1))


def provenance(config: Config, protocol: str = "") -> dict[str, Any]:
    """Origin of the numbers: command, commit, versions, hardware, seed, protocol."""
    return {
        "command": shlex.join(sys.argv),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "gymnasium": gym.__version__,
        },
        "hardware": {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "seed": config.train.seed,
        "protocol": asdict(config.env) | ({"line": protocol} if protocol else {}),
    }


def _commit() -> str | None:
    """The commit of the source tree, if the package runs from one."""
    where = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=where, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
