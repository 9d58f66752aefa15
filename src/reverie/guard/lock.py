"""One process per run directory: a lock that the system itself takes back when its holder dies, however that happens.

RUN/.lock is locked with `flock` and holds who did it, as JSON, for the message that the second one gets. Reading a run
(`reverie eval`, `info`) needs no lock. Where the file system knows no locks, the recorded process decides: as long as
it lives, on this machine or unknown on another, the directory is taken.
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

if sys.platform == "win32":  # not tried by any test of ours
    import msvcrt
else:
    import fcntl

NAME = ".lock"
#: What a system answers that has no locks here, e.g. NFS without its lock daemon.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}


class RunLock:
    """The right to write into a directory. Released by `release`, when it is forgotten, or when the process ends."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.path = directory, directory / NAME
        self.note = ""  # if it is not a real lock
        self._handle = -1
        self._end: weakref.finalize | None = None

    @property
    def held(self) -> bool:
        """Is it ours?"""
        return self._handle >= 0

    def acquire(self) -> None:
        """Take it, or do nothing if it is ours; the directory is made. Raises UserError that says who has it."""
        while not self.held:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise UserError(
                    f"cannot write to {self.directory} ({error.strerror}).", "Choose another --run."
                ) from error
            try:
                locked = self._lock(handle)
            except BaseException:
                os.close(handle)
                raise
            if not _same(handle, self.path):  # its last holder has removed it since we opened it
                os.close(handle)
                continue
            self._handle = handle
            _record(handle)
            self._end = weakref.finalize(self, _release, handle, self.path if locked else None, os.getpid())

    def _lock(self, handle: int) -> bool:
        """-> was there a real lock to take? Raises UserError if another has it."""
        try:
            _lock(handle)
            return True
        except OSError as error:
            if error.errno in BUSY:
                raise self._refusal(_holder(self.path)) from error
            if error.errno not in NO_LOCKS:
                raise UserError(f"cannot lock {self.path} ({error.strerror}).", "Choose another --run.") from error
        holder = _holder(self.path)
        if holder and _alive(holder) is not False:
            raise self._refusal(holder)
        self.note = f"no locks on the file system of {self.directory}: two runs in it would not always be noticed"
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
            return UserError(f"{who}. It is gone, but a process that it started still holds the directory.",
                             f"End that one (fuser {self.path} names it), or choose another --run.")  # fmt: skip
        if (pid, host) == (os.getpid(), socket.gethostname()):
            return UserError(
                f"a run of this very process is using {self.directory}.", "Close it first, or choose another directory."
            )
        wait = f"Wait for it, stop it (kill {pid} on {host} leaves a checkpoint), or choose another --run."
        lost = "" if alive else f" If that process is no more, delete {self.path}."
        return UserError(f"{who}.", f"{wait}{lost} `reverie info` and `eval` work meanwhile.")

    def check(self) -> None:
        """Is the directory still there, and the same one? Raises UserError: nobody must write into another's run."""
        if self.held and not _same(self._handle, self.path):
            raise UserError(
                f"{self.directory} was removed, renamed or replaced while the run was writing to it.",
                "Bring it back under this name and repeat the command; or start the run again, in a place that stays.",
            )

    @contextmanager
    def guard(self) -> Iterator[None]:
        """`check` before what is done inside, and again if it fails: the directory may have gone in the middle."""
        self.check()
        try:
            yield
        except Exception:
            self.check()
            raise

    def release(self) -> None:
        """Give it back. May be called twice."""
        self._handle = -1
        if self._end is not None:
            self._end()


def in_use(directory: Path) -> bool:
    """Is a process writing to this run, as far as its record tells? Takes nothing and changes nothing."""
    holder = _holder(directory / NAME)
    return bool(holder) and _alive(holder) is not False


def _lock(handle: int) -> None:
    """Without waiting. Raises OSError."""
    if sys.platform == "win32":
        os.lseek(handle, 2**30, os.SEEK_SET)  # far behind the text, which others want to read
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _same(handle: int, path: Path) -> bool:
    """Is the open file the one that has this name now?"""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def _record(handle: int) -> None:
    """Who we are, for the second one. On a full disk the lock holds all the same."""
    facts = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "born": _born(os.getpid()),
        "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "command": shlex.join(sys.argv),
    }
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(facts).encode())


def _holder(path: Path) -> dict[str, Any]:
    """What the holder wrote; empty if nothing can be read."""
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) and isinstance(facts.get("pid"), int) else {}


def _alive(holder: dict[str, Any]) -> bool | None:
    """Is that process running? None: it is on another machine, or this system does not say."""
    if holder.get("host") != socket.gethostname() or sys.platform == "win32":  # os.kill(_, 0) would end it there
        return None
    try:
        os.kill(holder["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's
    born = _born(holder["pid"])
    return born is None or holder.get("born") in (None, born)  # else the number went to another process


def _born(pid: int) -> str | None:
    """When a process was started, in the system's ticks: its number may come again. None where it does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _release(handle: int, path: Path | None, owner: int) -> None:
    """Remove the file while it is still locked, so that nobody can hold what has no name any more.

    path None: there is no real lock, only the record, which is emptied.
    """
    if os.getpid() != owner:  # a fork does not own its parent's lock
        return
    with suppress(OSError):
        if path is None:
            os.ftruncate(handle, 0)
        elif _same(handle, path):
            path.unlink()
    os.close(handle)
