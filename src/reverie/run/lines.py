"""Lines of metrics.jsonl and episodes.jsonl: the one place where they are read and checked.

A file may be cut in the middle of a line, edited by hand, of another version, or from someone else. What is no line of
a run is left out, so that whatever uses these lines can rely on their form: numbers that can be computed with (None:
NaN or infinity), and the keys of `REQUIRED`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ..errors import UserError, printable
from ..files import open_own_file, plain_number, reason

#: Bytes of a line, and keys in it, at most; a longer line is left out unread.
LONGEST_LINE, MOST_KEYS = 2**20, 5000
#: Lines of metrics that a plot or a verdict is made of at most: a week of training writes more than memory holds.
ENOUGH = 10_000
#: File -> what each of its lines has: whole numbers from 0, and for episodes a return.
REQUIRED = {"metrics.jsonl": ("env_steps",), "episodes.jsonl": ("env_steps", "frames", "length")}
#: Counts: whole numbers from 0 wherever they occur.
COUNTS = {"env_steps", "frames", "updates", "length"}


Item = TypeVar("Item")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's .jsonl file in their checked form; [] without a file.

    Raises UserError for a file that cannot be read: a link, a pipe, one that is too large.
    """
    return list(each_line(path))


def each_line(path: Path) -> Iterator[dict[str, Any]]:
    """The same lines as `read_lines`, one at a time, for files that do not fit into memory. Raises UserError."""
    return (line for line in _lines_or_odd(path) if line is not None)


def odd_lines(path: Path) -> int:
    """How many lines of a file were left out because they are no lines of a run. Raises UserError."""
    return sum(line is None for line in _lines_or_odd(path))


def thinned(items: Iterable[Item], most: int = ENOUGH) -> list[Item]:
    """Every item where there are at most `most`, else each 2nd, 4th, 8th, ..., and always the newest one.

    Not more than 2 * most + 1 are held at a time.
    """
    kept: list[Item] = []
    every, count = 1, 0
    for item in items:
        if count % every == 0:
            kept.append(item)
        count += 1
        if len(kept) > 2 * most:
            kept, every = kept[::2], 2 * every
    if len(kept) > most:
        kept, every = kept[::2], 2 * every
    if count and (count - 1) % every:
        kept.append(item)
    return kept


def newest_values(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """The newest value of each of these keys that is a number. Raises UserError."""
    wanted, newest = set(keys), {}
    for line in each_line(path):
        newest.update({key: value for key, value in line.items() if key in wanted and value is not None})
    return newest


def _lines_or_odd(path: Path) -> Iterator[dict[str, Any] | None]:
    """Each line in its checked form; None for one that is no line of a run, but not for a half-written last one."""
    try:
        with open_own_file(path) as file:
            for text, complete in split_lines(file):
                line = parse_line(text)
                if line is not None and is_whole(line, path.name):
                    yield line
                elif complete and text.strip():
                    yield None
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot read {path} ({reason(error)}).", "Try again, or use a copy of the run.") from error


def split_lines(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """(line without its end, whether it had one) of each line; b"?" for one that is too long to be ours."""
    while text := file.readline(LONGEST_LINE + 1):
        complete = text.endswith(b"\n")
        if len(text) > LONGEST_LINE and not complete:
            while part := file.readline(LONGEST_LINE):
                if part.endswith(b"\n"):
                    break
            yield b"?", True
        else:
            yield text.rstrip(b"\r\n"), complete


def parse_line(text: bytes) -> dict[str, Any] | None:
    """A line as {key: number, or None for NaN and infinity; "phase": text}; None if it is no JSON object.

    Values of other kinds, and counts that are none, are left out.
    """
    try:
        line = json.loads(text.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or len(line) > MOST_KEYS:
        return None
    return {printable(key): value for key, value in map(_checked, line.items()) if value is not _ABSENT}


_ABSENT = object()


def _checked(item: tuple[str, Any]) -> tuple[str, Any]:
    key, value = item
    if key in COUNTS:
        whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
        return key, value if whole else _ABSENT
    if isinstance(value, int | float) and not isinstance(value, bool):
        return key, plain_number(value)
    if key == "phase" and isinstance(value, str):
        return key, printable(value[:40])
    return key, None if value is None and key != "phase" else _ABSENT


def is_whole(line: Mapping[str, Any], name: str) -> bool:
    """Does a parsed line have what each line of the file `name` has?"""
    if any(key not in line for key in REQUIRED.get(name, ())):
        return False
    return name != "episodes.jsonl" or ("phase" in line and line.get("return") is not None)
