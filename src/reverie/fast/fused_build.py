"""From fused.c to a library that is loaded: compiled once per user, with the C compiler of this machine.

At first use, into the user's cache folder, and not while the package is installed: one pure wheel then fits every
platform, also offline and also where the compiler comes later, and an installation cannot fail because of it. Without a
compiler everything works, by `scan.py` alone.

A library is written under a name of its own and then renamed, so that processes that start together may all compile:
the last one wins, and none waits for a lock that a killed process has left.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib import resources
from pathlib import Path

SOURCES = ("fused.c", "fused_kernels.h")
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-fvisibility=default", "-w")
COMPILERS = ("cc", "gcc", "clang")
#: Seconds that a compiler may take; it takes three.
LIMIT = 60.0


class NotBuilt(Exception):
    """There is no library, and why: one clause."""


def cache_folder() -> Path:
    """Where libraries are kept: REVERIE_CACHE, else reverie/ in XDG_CACHE_HOME or ~/.cache. Raises NotBuilt."""
    own = os.environ.get("REVERIE_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "reverie"
    except RuntimeError as error:  # no home
        raise NotBuilt("there is no home folder to keep them in (set REVERIE_CACHE)") from error


@cache
def open_library() -> ctypes.CDLL:
    """The library, compiled if it is not there yet; once per process. Raises NotBuilt."""
    if sys.platform == "win32" or sys.byteorder != "little":
        raise NotBuilt(f"they are not made for {platform.system()}")
    texts = read_sources()
    path = library_path(cache_folder(), texts)
    if not _is_whole(path):
        _build(texts, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NotBuilt(f"{path} cannot be loaded ({error}); delete it to have it compiled again") from error


def read_sources() -> dict[str, str]:
    """{file: text} of what is compiled."""
    return {name: resources.files("reverie.fast").joinpath(name).read_text(encoding="utf-8") for name in SOURCES}


def library_path(folder: Path, texts: dict[str, str]) -> Path:
    """Of the library that these texts make here: another text, flag or machine is another file."""
    said = [*texts.values(), *FLAGS, sys.platform, platform.machine()]
    return folder / f"fused-{hashlib.sha256(chr(0).join(said).encode()).hexdigest()[:16]}.so"


def _is_whole(path: Path) -> bool:
    """Is it a library that this user wrote, all of it? Raises NotBuilt where another user may have."""
    try:
        if not is_ours(path):
            raise NotBuilt(f"{path} belongs to or can be changed by another user; delete it")
        return path.with_suffix(".sha256").read_text(encoding="utf-8") == _digest(path)
    except OSError:
        return False


def is_ours(path: Path) -> bool:
    """May this user alone have written it, as far as the system says? Raises OSError, also where there is no file."""
    state = path.stat()
    return not hasattr(os, "getuid") or (state.st_uid == os.getuid() and not state.st_mode & 0o022)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _build(texts: dict[str, str], path: Path) -> None:
    """Compile into `path`. A failure is remembered beside it, so that it does not delay every start."""
    failed = path.with_suffix(".failed")
    compiler = next(filter(None, map(shutil.which, [os.environ.get("CC", ""), *COMPILERS])), None)
    if compiler is None:
        raise NotBuilt("there is no C compiler (install gcc or clang)")
    with suppress(OSError):
        raise NotBuilt(f"{failed.read_text(encoding='utf-8')} (delete {failed} to try again)")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as folder:
            try:
                _compile(compiler, texts, Path(folder))
            except NotBuilt as error:
                failed.write_text(str(error), encoding="utf-8")
                raise
            made = Path(folder) / "fused.so"
            made.chmod(0o700)
            (Path(folder) / "sha256").write_text(_digest(made), encoding="utf-8")
            os.replace(made, path)
            os.replace(Path(folder) / "sha256", path.with_suffix(".sha256"))
    except OSError as error:
        raise NotBuilt(f"{path.parent} cannot be written ({error.strerror}); set REVERIE_CACHE") from error


def _compile(compiler: str, texts: dict[str, str], folder: Path) -> None:
    """fused.so in `folder`. Raises NotBuilt."""
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    command = [compiler, *FLAGS, "fused.c", "-o", "fused.so", "-lm"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NotBuilt(f"{compiler} took more than {LIMIT:g} seconds") from error
    if done.returncode or not (folder / "fused.so").exists():
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise NotBuilt(f"{compiler} does not compile them: {lines[0]}")
