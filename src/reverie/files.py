"""Is a directory of files what was written? Sizes and SHA-256 of each file, in a manifest that is written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

MANIFEST = "manifest.json"
#: Nothing of ours is larger; more would only be read to harm.
LARGEST_TEXT = {"config.yaml": 2**20, "spec.json": 2**24, "state.json": 2**28, MANIFEST: 2**22}


class Damaged(UserError):
    """A file is not what was written."""


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """Around what takes values of file `path` as they should be. Raises Damaged where they are of another form."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Damaged(f"{path} is damaged ({error!r}).", "Use another checkpoint.") from error


def fingerprint(path: Path) -> str:
    """ "bytes:sha256" of a file."""
    with open(path, "rb") as file:
        return f"{path.stat().st_size}:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def manifest_of(folder: Path) -> str:
    """The manifest's text for the files in `folder` and below."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return json.dumps({str(path.relative_to(folder)): fingerprint(path) for path in files}, indent=1)


def check(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Are the files there, and as they were? wanted: {name: fingerprint}. Raises Damaged."""
    for name, known in wanted.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise Damaged(f"{folder} names a file outside of itself ({name}).", "Do not use it.")
        try:
            found = fingerprint(path) if path.is_file() and not path.is_symlink() else None
        except OSError as error:  # a name that no file can have, or a disk that no longer reads
            raise Damaged(f"cannot read {folder} ({error.strerror}).", "Use another checkpoint.") from error
        if found is None:
            raise Damaged(f"{path} is missing.", "Use another checkpoint.")
        if found != known:
            raise Damaged(f"{path} is damaged: it is not what was written.", "Use another checkpoint.")


def check_manifest(folder: Path) -> None:
    """Is `folder` whole, by its manifest? Raises Damaged."""
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
