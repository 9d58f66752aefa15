"""Files of checkpoints and runs: manifests that show damage, errors of the disk as sentences, a background writer.

A manifest holds the size and SHA-256 of each file in a directory and is written last.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import UserError

MANIFEST = "manifest.json"
#: Bytes that a file of ours can have at most; a larger one is refused unread.
LARGEST_TEXT = {"config.yaml": 2**20, "spec.json": 2**24, "state.json": 2**28, MANIFEST: 2**22}


def absolute(path: str | Path) -> Path:
    """A path that the user gave, from the root and without ~: an environment may change the working directory later.

    Raises UserError for a home directory that is not known.
    """
    try:
        return Path(os.path.abspath(Path(path).expanduser()))
    except RuntimeError as error:
        raise UserError(f"there is no home directory for '{path}'.", "Write the whole path.") from error


class Damaged(UserError):
    """A file is not what was written."""


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """Context in which values of file `path` are used. Raises Damaged where they have another form than expected."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Damaged(f"{path} is damaged ({error!r}).", "Use another checkpoint.") from error


@contextmanager
def usual_rights(path: Path) -> Iterator[None]:
    """Context that writes a file with safetensors, which lets its owner alone read it: with the umask's rights."""
    path.touch()
    rights = path.stat().st_mode & 0o777
    yield
    os.chmod(path, rights)


def fingerprint(path: Path) -> str:
    """ "bytes:sha256" of a file."""
    with open(path, "rb") as file:
        return f"{path.stat().st_size}:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def manifest_of(folder: Path) -> str:
    """The manifest's text for the files in `folder` and below."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return json.dumps({str(path.relative_to(folder)): fingerprint(path) for path in files}, indent=1)


def check(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Are the files there and unchanged? wanted: {name: fingerprint}. Raises Damaged."""
    for name, known in wanted.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise Damaged(f"{folder} names a file outside of itself ({name}).", "Use another checkpoint.")
        try:
            found = fingerprint(path) if path.is_file() and not path.is_symlink() else None
        except OSError as error:  # a name that no file can have, or a disk that no longer reads
            raise Damaged(f"cannot read {folder} ({error.strerror}).", "Use another checkpoint.") from error
        if found is None:
            raise Damaged(f"{path} is missing.", "Use another checkpoint.")
        if found != known:
            raise Damaged(f"{path} is damaged: it is not what was written.", "Use another checkpoint.")


def check_manifest(folder: Path) -> None:
    """Does `folder` hold what its manifest says? Raises Damaged."""
    wanted = read_json(folder / MANIFEST)
    ours = {path.name for path in folder.iterdir() if path.suffix in (".json", ".yaml", ".safetensors")} - {MANIFEST}
    if not ours <= wanted.keys():
        raise Damaged(f"{folder / MANIFEST} does not know {min(ours - wanted.keys())}.", "Use another checkpoint.")
    check(folder, wanted)


def read_text(path: Path) -> str:
    """A text file of ours, not larger than such files are. Raises Damaged."""
    try:
        if path.stat().st_size > LARGEST_TEXT.get(path.name, 2**24):
            raise Damaged(f"{path} is larger than such a file can be.", "Use another checkpoint.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(f"cannot read {path}: {error}.", "The file is damaged; use another checkpoint.") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises Damaged."""
    try:
        values = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"cannot read {path}: {error}.", "The file is damaged; use another checkpoint.") from error
    if not isinstance(values, dict):
        raise Damaged(f"{path} holds no settings.", "The file is damaged; use another checkpoint.")
    return values


# --------------------------------------------------------------------------------------------------- errors of the disk

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def writing(what: str, directory: Path) -> Iterator[None]:
    """Context in which a run writes into its directory. Raises UserError instead of OSError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError) and _number(error) is None:
            raise  # not an error of the disk
        raise UserError(
            f"cannot write {what} to {directory} ({reason(error)}).", remedy(_number(error), directory)
        ) from error


def reason(error: OSError | SafetensorError) -> str:
    """The system's message: "No space left on device"."""
    number = _number(error)
    return os.strerror(number) if number else str(error)


def remedy(number: int | None, directory: Path) -> str:
    """What the user can do about an error number of the system."""
    resume = "repeat the command: the run resumes from its last checkpoint"
    if number in FULL:
        try:
            free = f" ({shutil.disk_usage(directory).free / 1e6:,.0f} MB are free there, quotas not counted)"
        except OSError:
            free = ""
        return f"Free some space{free}, then {resume}."
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"Make it writable again, then {resume}."
    if number in (errno.EMFILE, errno.ENFILE):
        return f"Raise the limit of open files (ulimit -n), then {resume}."
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        return "The run's directory was removed or renamed. Bring it back, or start the run again elsewhere."
    return f"When the disk works again, {resume}."


def _number(error: BaseException) -> int | None:
    """The system's error number; safetensors has it only in its text: `IoError(Os { code: 28, ...`."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\bcode: (\d+)|os error (\d+)", str(error))
    return int(found[1] or found[2]) if found else None


def remove_drafts(directory: Path) -> None:
    """Delete what an interrupted write left in a run's directory: it takes space and is never read.

    Only for the process that holds the directory's lock.
    """
    for path in [*directory.glob("checkpoints/.*.tmp"), *directory.glob("replay/*.tmp"), *directory.glob(".*.tmp")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


# -------------------------------------------------------------------------------------------- writing in the background


class Writer:
    """Runs one job at a time in a background thread."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Is a job running?"""
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Callable[[], None]) -> None:
        """Start a job after the one before it has ended. Raises what that one raised."""
        self.finish()
        self._thread = threading.Thread(target=self._run, args=(job,), name="reverie-writer")
        self._thread.start()

    def finish(self) -> None:
        """Wait for the job. Raises what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # raised again by `finish`
            self._error = error
