"""Is a directory of files what was written? Sizes and SHA-256 of each file, in a manifest that is written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import UserError

MANIFEST = "manifest.json"
#: Nothing of ours is larger; more would only be read to harm.
LARGEST_TEXT = {"config.yaml": 2**20, "spec.json": 2**24, "state.json": 2**28, MANIFEST: 2**22}


class Damaged(UserError):
    """A file is not what was written."""


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
        if not path.is_file() or path.is_symlink():
            raise Damaged(f"{path} is missing.", "Use another checkpoint.")
        if fingerprint(path) != known:
            raise Damaged(f"{path} is damaged: it is not what was written.", "Use another checkpoint.")


def check_manifest(folder: Path) -> None:
    """Is `folder` whole, by its manifest? Raises Damaged."""
    wanted = read_json(folder / MANIFEST)
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
