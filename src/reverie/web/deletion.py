"""Deleting a run from the dashboard: what we wrote of it, and never anything else.

A directory must be a run: one with a configuration of ours, not a link, and not reached through one. It must not be in
use; it is locked meanwhile. Files that are not ours stay, and with them the directory; links are removed, not followed.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from ..config import load_file
from ..errors import UserError
from ..files import OURS, is_own_file, reason
from ..guard.lock import NAME as LOCK
from ..guard.lock import RunLock, in_use

#: What our commands write into a run besides `files.OURS`.
OUTPUTS = {"report.html", "curve.png", "latents.png", "trust.json", "trust.png", "agent", "cloning"}
#: And by their form: logs of the replay after a change of ranks, plots of shifts, lines that were set aside.
FORMS = re.compile(r"replay-\d+|shift-.*\.png|(metrics|episodes)\.jsonl\.lost")
#: What is being written, or was when a process was killed.
DRAFT = re.compile(r"\.(.+)\.(tmp|old)")
CONFIG = "config.yaml"
#: What a checkpoint and a saved agent have beside their configuration, and a run has not.
OF_AGENTS = ("weights.safetensors", "spec.json", "manifest.json")


def delete_run(run: Path, root: Path) -> list[str]:
    """Delete it. root: the directory that the user named. -> names of what is left. Raises UserError."""
    require_deletable(run, root)
    lock = RunLock(run)
    lock.acquire()  # no training begins in it meanwhile
    try:
        _delete_ours(run)
    except OSError as error:
        raise UserError(f"cannot delete all of {run} ({reason(error)}).", "Make it writable, and try again.") from error
    finally:
        lock.release()
    try:
        left = sorted(entry.name for entry in os.scandir(run))
        if not left:
            run.rmdir()
    except OSError as error:  # the folder above cannot be written to, or another process began something in it just now
        raise UserError(f"{run} is empty but cannot be removed ({reason(error)}).", "Remove it yourself.") from error
    return left


def require_deletable(run: Path, root: Path) -> None:
    """Is it a run below `root`, itself and no link? Raises UserError."""
    inside = [run, *run.parents][: max(1, len(run.parts) - len(root.parts))]  # a root that is a link is the user's
    if root not in (run, *run.parents) or any(path.is_symlink() for path in inside):
        raise UserError(f"{run} is a link, or is reached through one.", "Delete the directory that it leads to.")
    if not run.is_dir() or not is_own_file(run / CONFIG):
        raise UserError(f"{run} is not a run.", "Only a directory of `reverie train` can be deleted here.")
    if any(os.path.lexists(run / name) for name in OF_AGENTS):
        raise UserError(f"{run} is a checkpoint or a saved agent, no run.", "Delete it yourself, if you want that.")
    load_file(run / CONFIG)  # raises UserError where it is no configuration of ours
    if any(map(in_use, inside)):
        raise UserError(f"{run} is training.", "Stop it first.")


def _delete_ours(run: Path) -> None:
    """All of ours but the lock; the configuration last: until then it is a run, and can be deleted again."""
    ours = [entry.name for entry in os.scandir(run) if _is_a_runs(entry.name) and entry.name != LOCK]
    for name in sorted(ours, key=lambda name: name == CONFIG):
        path = run / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)  # which removes links inside and does not follow them
        else:
            path.unlink()


def _is_a_runs(name: str) -> bool:
    """By names that we give and no others: `files.is_ours` takes more for ours, to be careful with what is read."""
    draft = DRAFT.fullmatch(name)
    known = draft[1] if draft else name
    return known in OURS or known in OUTPUTS or FORMS.fullmatch(known) is not None
