"""Lock of a run directory: one writing process, and the system releases the lock however that process dies.

RUN/.lock is locked with `flock` and holds a record of the process as JSON, for the message that a second one gets.
Reading a run (`reverie eval`, `info`) needs no lock. On a file system without locks the record decides: as long as that
process lives, or is on another machine, the directory is in use. The package `filelock` does not do this: it falls back
only where `flock` does not exist, its own marker file then replaces the record, and it never removes the lock file.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import sys
import textwrap
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import Damaged, read_bytes, require_own_file

if sys.platform == "win32":  # not covered by tests
    import msvcrt
else:
    import fcntl

NAME = ".lock"
#: Errors of a file system without locks, e.g. NFS without its lock daemon.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}


class RunLock:
    """The right to write into a directory. Released by `release`, by garbage collection, or when the process ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / NAME
        self.note = ""  # a warning, if the file system has no locks
        self._file = -1  # descriptor of the open lock file; -1: not held
        self._end: weakref.finalize | None = None

    @property
    def held(self) -> bool:
        """Does this object hold the lock?"""
        return self._file >= 0

    def acquire(self) -> None:
        """Acquire the lock if it is not held, and make the directory. Raises UserError that names the holder."""
        while not self.held:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):
                    require_own_file(self.path)  # a link would have its target overwritten
                file = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
            except OSError as error:
                raise UserError(
                    f"cannot write to {self.directory} ({error.strerror}).", "Choose another --run."
                ) from error
            try:
                locked = self._lock(file)
            except BaseException:
                os.close(file)
                raise
            if not _same(file, self.path):  # the last holder removed it after we opened it
                os.close(file)
                continue
            self._file = file
            _record(file)
            self._end = weakref.finalize(self, _release, file, self.path if locked else None, os.getpid())

    def _lock(self, file: int) -> bool:
        """-> does the file system have locks? Raises UserError if another process has this one."""
        try:
            _lock(file)
            return True
        except OSError as error:
            if error.errno in BUSY:
                raise self._refusal(_holder(self.path)) from error
            if error.errno not in NO_LOCKS:
                raise UserError(f"cannot lock {self.path} ({error.strerror}).", "Choose another --run.") from error
        holder = _holder(self.path)
        if holder and _alive(holder) is not False:
            raise self._refusal(holder)
        self.note = f"no locks on the file system of {self.directory}. Start no second run in it: it may go unnoticed."
        return False

    def _refusal(self, holder: dict[str, Any]) -> UserError:
        if not holder:
            return UserError(
                f"another process is writing to {self.directory}.", "Wait for it, or choose another --run."
            )
        pid, host, since = (holder.get(key) for key in ("pid", "host", "started"))
        command = textwrap.shorten(str(holder.get("command")), 120, placeholder=" ...")
        who = f"process {pid} on {host} is using {self.directory} since {since}: `{command}`"
        alive = _alive(holder)
        if alive is False:
            return UserError(
                f"{who}. It is gone, but a process that it started still holds the directory.",
                f"End that one (fuser {self.path} names it), or choose another --run.",
            )
        if (pid, host) == (os.getpid(), socket.gethostname()):
            return UserError(
                f"a run of this very process is using {self.directory}.", "Close it first, or choose another directory."
            )
        wait = f"Wait for it, stop it (kill {pid} on {host} leaves a checkpoint), or choose another --run."
        lost = "" if alive else f" If that process is no more, delete {self.path}."
        return UserError(f"{who}.", f"{wait}{lost} `reverie info` and `eval` work meanwhile.")

    def check(self) -> None:
        """Is it still the same directory? Raises UserError otherwise, so that a run never writes into another one."""
        if self.held and not _same(self._file, self.path):
            raise UserError(
                f"{self.directory} was removed, renamed or replaced while the run was writing to it.",
                "Bring it back under this name and repeat the command; or start the run again, in a place that stays.",
            )

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Context with a `check` before it, and another if it fails: the directory may have gone in between."""
        self.check()
        try:
            yield
        except Exception:
            self.check()
            raise

    def release(self) -> None:
        """Release the lock, if it is held."""
        self._file = -1
        if self._end is not None:
            self._end()


def in_use(directory: Path) -> bool:
    """Is a process writing to this run, according to the record? Changes nothing."""
    holder = _holder(directory / NAME)
    return bool(holder) and _alive(holder) is not False


def abandoned(directory: Path) -> bool:
    """Did a process that wrote to this run end without releasing it: killed, or lost with its machine?"""
    holder = _holder(directory / NAME)
    return bool(holder) and _alive(holder) is False


def _lock(file: int) -> None:
    """Lock an open file without waiting. Raises OSError."""
    if sys.platform == "win32":
        os.lseek(file, 2**30, os.SEEK_SET)  # far behind the record, which others read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _same(file: int, path: Path) -> bool:
    """Is the open file the one that has this name now?"""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def _record(file: int) -> None:
    """Write the record of this process. On a full disk there is none, and the lock holds."""
    record = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "born": _born(os.getpid()),
        "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "command": shlex.join(sys.argv),
    }
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, json.dumps(record).encode())


def _holder(path: Path) -> dict[str, Any]:
    """The record of the holder; {} if it cannot be read."""
    try:
        record = json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError, Damaged):
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("pid"), int) else {}


def _alive(holder: dict[str, Any]) -> bool | None:
    """Is that process running? None: it is on another machine, or this system does not say."""
    if holder.get("host") != socket.gethostname() or sys.platform == "win32":  # os.kill(_, 0) would end it there
        return None
    try:
        os.kill(holder["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it runs under another user
    born = _born(holder["pid"])
    return born is None or holder.get("born") in (None, born)  # else the process id was reused


def _born(pid: int) -> str | None:
    """Start time of a process in the system's ticks, because ids are reused. None where it is not known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _release(file: int, path: Path | None, owner: int) -> None:
    """Remove the file while it is still locked, so that no process can lock a file that is already removed.

    path None: the file system has no locks; the record is emptied.
    """
    if os.getpid() != owner:  # a fork does not own its parent's lock
        return
    with suppress(OSError):
        if path is None:
            os.ftruncate(file, 0)
        elif _same(file, path):
            path.unlink()
    os.close(file)
