"""Incremental reading of a .jsonl file that grows, and that a resumed run may truncate and write again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import open_own_file
from ..run.lines import LONGEST_LINE, parse_line

#: Lines that are parsed at first of a long file: one in `stride`, so that a page opens in a second.
MOST_LINES = 5000
#: Lines with these are never left out, up to as many again: evaluations are rare, and null was NaN or infinity.
PRECIOUS = {"metrics.jsonl": (b'"eval/', b"null"), "episodes.jsonl": (b'"phase": "eval"', b'"phase": "random"')}
_CHUNK, _WHOLE_TAIL, _MARK, _NEWLINE = 2**22, 2**18, 64, 10


class JsonlTail:
    """Reads the lines that were added to a .jsonl file since the last call."""

    def __init__(self, path: Path, *, most: int = MOST_LINES) -> None:
        self.path = path
        self.most = most
        self.stride = 1  # one in so many lines was parsed by the first read
        self._reset()

    def _reset(self) -> None:
        self._offset = 0  # bytes that have been read
        self._mark = b""  # the last of them
        self._too_long = False  # whether what follows belongs to a line that is too long
        self._seen = (0, 0, 0)  # size, time and inode of the file at the last read

    @property
    def modified(self) -> float:
        """The time of the last change that was read, in seconds since 1970; 0 without a file."""
        return self._seen[1] / 1e9

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """-> (whether the file was truncated or replaced, new lines). An incomplete last line is left for later."""
        try:
            stat = os.lstat(self.path)
        except OSError:
            restarted = self._offset > 0
            self._reset()
            return restarted, []
        now = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if now == self._seen:
            return False, []
        try:
            with open_own_file(self.path) as file:
                restarted = self._was_rewritten(file, stat.st_size)
                if restarted:
                    self._reset()
                lines = self._lines(file, stat.st_size)
        except (OSError, UserError):  # a link or a pipe; or it has just been removed
            return False, []
        self._seen = now
        return restarted, lines

    def _was_rewritten(self, file: Any, size: int) -> bool:
        """Whether the part that has been read is no longer the same."""
        if size < self._offset:
            return True
        file.seek(self._offset - len(self._mark))
        return bool(file.read(len(self._mark)) != self._mark)

    def _lines(self, file: Any, size: int) -> list[dict[str, Any]]:
        file.seek(self._offset)
        self.stride = self._choose_stride(file, size) if self._offset == 0 else 1
        found: list[dict[str, Any]] = []
        rest, count, spare = b"", 0, self.most
        tail = max(0, size - _WHOLE_TAIL)  # the end is parsed completely: it is what users look at
        while chunk := file.read(min(_CHUNK, (tail if file.tell() < tail else size) - file.tell())):
            if self._too_long:  # the rest of a line that is none of ours
                _, newline, chunk = chunk.partition(b"\n")
                self._too_long = not newline
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            if len(rest) > LONGEST_LINE:
                rest, self._too_long = b"", True
            if self.stride == 1 or file.tell() > tail:
                for text in whole.split(b"\n") if newline else ():
                    _parse(text, found)
                continue
            ends = np.flatnonzero(np.frombuffer(whole + newline, np.uint8) == _NEWLINE)
            wanted = set(range(-count % self.stride, len(ends), self.stride))
            rare = sorted(_lines_with(whole, ends, PRECIOUS.get(self.path.name, ()), spare) - wanted)
            count, spare = count + len(ends), spare - len(rare)
            for line in sorted(wanted.union(rare)):
                _parse(whole[ends[line - 1] + 1 if line else 0 : ends[line]], found)
        self._offset = file.tell() - len(rest)
        file.seek(max(0, self._offset - _MARK))
        self._mark = file.read(min(_MARK, self._offset))
        return found

    def _choose_stride(self, file: Any, size: int) -> int:
        """The stride, estimated from the length of the first lines."""
        sample = file.read(2**16)
        file.seek(0)
        lines = sample.count(b"\n")
        guess = size / (len(sample) / lines) if lines else 1
        return max(1, -(-int(guess) // self.most))


def _lines_with(text: bytes, ends: np.ndarray, words: Sequence[bytes], most: int) -> set[int]:
    """Numbers of the lines that contain one of these words, at most `most`. ends (n,): offsets of the line ends."""
    lines: set[int] = set()
    for word in words:
        at = text.find(word)
        while at >= 0 and len(lines) < most:
            line = int(np.searchsorted(ends, at))
            lines.add(line)
            at = text.find(word, int(ends[line]))
    return lines


def _parse(text: bytes, found: list[dict[str, Any]]) -> None:
    line = parse_line(text)
    if line is not None:
        found.append(line)
