"""Files of checkpoints and runs: the one reader, the one writer, manifests, errors of the disk as sentences.

A run's directory may come from someone else. So files are opened here: regular ones only, of limited size, never
through a link, and `require_own_files` refuses a directory in which a link leads out of it. Text and numbers in them
are checked by `read_json`, `plain_values` and, for lines, `run/lines.py`.

A manifest holds the size and SHA-256 of each file in a directory and is written last.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import UserError, printable

MANIFEST = "manifest.json"
#: Bytes that a file of ours can have at most; a larger one is refused unread. Others: by their ending, see `_limit`.
LARGEST = {"config.yaml": 2**20, "spec.json": 2**24, "state.json": 2**28, MANIFEST: 2**22}
LARGEST |= {"provenance.json": 2**24, "latents.json": 2**26, ".json": 2**28}
LARGEST |= {"end.json": 2**16, "notes.json": 2**16, "doctor.json": 2**20}
LARGEST |= {".safetensors": 2**38, ".jsonl": 2**32, ".gif": 2**30, ".mp4": 2**30, "": 2**24}
LARGEST[".tmp"] = LARGEST[".safetensors"]  # a draft of the replay's log
#: What we write into a directory of a run, a checkpoint or a saved agent; the rest of it belongs to the user.
OURS = {
    "config.yaml", "spec.json", "state.json", "weights.safetensors", "optimizers.safetensors", "run.safetensors",
    MANIFEST, "metrics.jsonl", "episodes.jsonl", "provenance.json", "first_rows.json", "latents.json", "wandb_id",
    "mlflow_id", ".lock", "checkpoints", "replay", "ring", "videos", "crash", "tensorboard", "crash.json",
    "case.safetensors", "ranks", "end.json", "notes.json", "doctor.json",
}  # fmt: skip
#: Absolute numbers beyond this are taken for infinite: their squares must still be numbers.
LARGEST_NUMBER = 1e100
#: Letters of a text in a record that people read.
LONGEST_TEXT = 10_000
#: Flags with which all of them are opened; some do not exist on every system.
_OPEN = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


def absolute(path: str | Path) -> Path:
    """A path that the user gave, from the root and without ~: an environment may change the working directory later.

    Raises UserError for a home directory that is not known, for a relative path where the current directory has been
    removed, and for what `require_possible` refuses.
    """
    try:
        return require_possible(Path(os.path.abspath(Path(path).expanduser())))
    except TypeError as error:
        raise UserError(f"{printable(str(path))[:60]} is no path.", "Give the name of a directory or file.") from error
    except RuntimeError as error:
        raise UserError(f"there is no home directory for '{path}'.", "Write the whole path.") from error
    except FileNotFoundError as error:  # of getcwd
        raise UserError(
            f"'{path}' lies in the current directory, which has been removed.", "Change to one that exists."
        ) from error


def require_possible(path: Path) -> Path:
    """Refuse a path that the system does not follow: too long, links in a circle, no permission. -> path.

    Whether there is anything does not matter. Raises UserError.
    """
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot use the path '{path}' ({why}).", "Choose another path.") from error
    return path


class Damaged(UserError):
    """A file is not what was written."""


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """Context in which values of file `path` are used. Raises Damaged where they have another form than expected."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Damaged(f"{path} is damaged ({error!r}).", "Use another checkpoint.") from error


# ------------------------------------------------------------------------------------------------------------- reading


def require_own_files(folder: Path) -> None:
    """Refuse a directory in which a name of ours is a link that leads out of it, a pipe or a device. Raises Damaged.

    Its maker could otherwise choose what is read, overwritten or published. What is missing, or is
    not ours, does not matter.
    """
    root, waiting = os.path.realpath(folder), [Path(folder)]
    while waiting:
        here = waiting.pop()
        try:
            entries = list(os.scandir(here))
        except OSError:  # no directory, or one that a running training has just removed
            continue
        for entry in entries:
            if here == Path(folder) and not is_ours(entry.name):
                continue
            kind = _kind(entry, root)
            if kind == "folder":
                waiting.append(Path(entry.path))
            elif kind:
                raise Damaged(
                    f"{entry.path} is {kind}: a run keeps its files in its own directory.",
                    "Delete it, or put a copy of what you want there in its place.",
                )


def is_ours(name: str) -> bool:
    """Is it the name of a file or directory that we write into a run?"""
    return name in OURS or name.startswith("replay-") or (name.startswith(".") and name.endswith((".tmp", ".old")))


def _kind(entry: os.DirEntry[str], root: str) -> str:
    """ "" for what may stay, "folder", or what it is in words."""
    try:
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            return "" if target.startswith(root + os.sep) else f"a link to {target}"
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "" if entry.is_file(follow_symlinks=False) else _named(entry.stat(follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return ""


def _named(mode: int) -> str:
    kinds = {"a link": stat.S_ISLNK, "a directory": stat.S_ISDIR, "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    return next((name for name, is_kind in kinds.items() if is_kind(mode)), "a device")


def is_own_file(path: Path) -> bool:
    """Is it a regular file, and no link?"""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def require_own_file(path: Path) -> Path:
    """Refuse anything but a regular file of possible size, for readers that open by name. -> path.

    Raises Damaged; FileNotFoundError where there is none.
    """
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise Damaged(
            f"cannot read {path}: it is {_named(found.st_mode)}, no file.", "Put a file in its place, or delete it."
        )
    if found.st_size > _limit(path):
        raise Damaged(f"{path} is larger than such a file can be.", "Use another checkpoint.")
    return path


def open_own_file(path: Path) -> BufferedReader:
    """A regular file of possible size, open for reading; never waits.

    Raises Damaged for another kind; OSError where it cannot be read.
    """
    require_own_file(path)
    return os.fdopen(os.open(path, os.O_RDONLY | _OPEN), "rb")  # not through a link that replaced it just now


def read_bytes(path: Path) -> bytes:
    """All bytes of a file, not more than such a file can have. Raises Damaged; OSError where it cannot be read."""
    with open_own_file(path) as file:
        return file.read(_limit(path))


def _limit(path: Path) -> int:
    return LARGEST.get(path.name, LARGEST.get(path.suffix, LARGEST[""]))


def read_text(path: Path) -> str:
    """A text file of ours, not larger than such files are. Raises Damaged."""
    try:
        return read_bytes(path).decode("utf-8")
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise Damaged(f"cannot read {path}: {why}.", "The file is damaged; use another checkpoint.") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises Damaged."""
    try:
        values = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"cannot read {path}: {error}.", "The file is damaged; use another checkpoint.") from error
    if not isinstance(values, dict):
        raise Damaged(f"{path} holds no settings.", "The file is damaged; use another checkpoint.")
    return values


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object for people to read, as `plain_values`; {} for a missing or damaged one."""
    try:
        found = plain_values(read_json(path))
    except Damaged:
        return {}
    return found if isinstance(found, dict) else {}


def plain_values(value: Any, depth: int = 8) -> Any:
    """JSON values that can be shown: printable text of limited length, possible numbers, None for the rest."""
    if isinstance(value, str):
        return printable(value[:LONGEST_TEXT])
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return plain_number(value)
    if depth and isinstance(value, Mapping):
        return {printable(str(key)[:200]): plain_values(each, depth - 1) for key, each in list(value.items())[:1000]}
    if depth and isinstance(value, list):
        return [plain_values(each, depth - 1) for each in value[:100_000]]
    return None


def plain_number(value: Any) -> int | float | None:
    """A number that can be computed with; None for NaN, infinity, and other values."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return value if -(2**62) < value < 2**62 else None
    return value if math.isfinite(value) and abs(value) <= LARGEST_NUMBER else None


# ------------------------------------------------------------------------------------------------------------- writing


def write_file(path: Path, content: str | bytes, *, new_folder: bool = True) -> Path:
    """Replace a file as a whole: written beside it, then renamed. -> path. Raises OSError.

    A link of that name is replaced, not followed. new_folder: make its directory if there is none; a run that was moved
    away must not be made again.
    """
    if new_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path) and not (path.is_symlink() or path.is_file()):
        raise OSError(errno.EEXIST, "there is something else than a file")  # /dev/null is not to be replaced
    draft = path.with_name(f".{path.name}.tmp")
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN
    try:
        with open(os.open(draft, flags, 0o666), "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    return path


def append_text(path: Path, text: str) -> None:
    """Append to a text file, which may be new. Raises OSError; Damaged for anything but a regular file."""
    if os.path.lexists(path):
        require_own_file(path)
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _OPEN, 0o666), "ab") as file:
        file.write(text.encode("utf-8"))


def truncate(path: Path, size: int) -> None:
    """Cut a file to `size` bytes, if it is longer. Raises OSError; Damaged for anything but a regular file."""
    require_own_file(path)
    file = os.open(path, os.O_WRONLY | _OPEN)
    try:
        os.ftruncate(file, min(size, os.fstat(file).st_size))
    finally:
        os.close(file)


@contextmanager
def usual_rights(path: Path) -> Iterator[None]:
    """Context that writes a file with safetensors, which lets its owner alone read it: with the umask's rights."""
    path.touch()
    rights = path.stat().st_mode & 0o777
    yield
    os.chmod(path, rights)


# ----------------------------------------------------------------------------------------------------------- manifests


def fingerprint(path: Path) -> str:
    """ "bytes:sha256" of a file. Raises OSError; Damaged for anything but a regular file."""
    with open_own_file(path) as file:
        return f"{os.fstat(file.fileno()).st_size}:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def manifest_of(folder: Path) -> str:
    """The manifest's text for the files in `folder` and below, without README.md, which people edit."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, "README.md"))
    return json.dumps({str(path.relative_to(folder)): fingerprint(path) for path in files}, indent=1)


def check(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Are the files there and unchanged? wanted: {name: fingerprint}. Raises Damaged."""
    for name, known in wanted.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise Damaged(f"{folder} names a file outside of itself ({name}).", "Use another checkpoint.")
        try:
            same_size = is_own_file(path) and str(path.stat().st_size) == str(known).partition(":")[0]
            found = fingerprint(path) if same_size else "another size" if is_own_file(path) else None
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
