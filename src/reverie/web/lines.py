"""Following a .jsonl file that grows, and that a resumed run may cut off and write anew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

#: Lines that are parsed of a file that is long when first seen: every so-many-th, so that a page opens in a second.
MOST_LINES = 20_000
#: Lines with these are never left out, up to as many again: evaluations are rare, and null is a number that was NaN.
PRECIOUS = (b'"eval/', b'"phase": "eval"', b'"phase": "random"', b"null")
_CHUNK, _WHOLE_TAIL, _MARK = 2**22, 2**18, 64


class Follow:
    """What is new in a .jsonl file since it was last read."""

    def __init__(self, path: Path, *, most: int = MOST_LINES) -> None:
        self.path, self.most = path, most
        self.stride = 1  # 1 in so many lines was read at first
        self._forget()

    def _forget(self) -> None:
        self._offset, self._mark, self._seen = 0, b"", (0, 0, 0)

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """-> (did the file begin anew, its new lines). A half-written last line waits for the next time."""
        try:
            stat = os.stat(self.path)
        except OSError:
            anew = self._offset > 0
            self._forget()
            return anew, []
        now = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        if now == self._seen:
            return False, []
        try:
            with open(self.path, "rb") as file:
                anew = self._cut(file, stat.st_size)
                if anew:
                    self._forget()
                lines = self._lines(file, stat.st_size)
        except OSError:
            return False, []
        self._seen = now
        return anew, lines

    def _cut(self, file: Any, size: int) -> bool:
        """Is what we have read no longer there as it was?"""
        if size < self._offset:
            return True
        file.seek(self._offset - len(self._mark))
        return bool(file.read(len(self._mark)) != self._mark)

    def _lines(self, file: Any, size: int) -> list[dict[str, Any]]:
        file.seek(self._offset)
        self.stride = self._choose_stride(file, size) if self._offset == 0 else 1
        found: list[dict[str, Any]] = []
        rest, count, extra = b"", 0, 0
        tail = max(0, size - _WHOLE_TAIL)  # the end is read whole: it is what people look at
        while chunk := file.read(min(_CHUNK, (tail if file.tell() < tail else size) - file.tell())):
            *whole, rest = (rest + chunk).split(b"\n")
            all_of_it = self.stride == 1 or file.tell() > tail
            for text in whole:
                count += 1
                wanted = all_of_it or count % self.stride == 1
                if not wanted and extra < self.most and any(word in text for word in PRECIOUS):
                    extra, wanted = extra + 1, True
                if wanted:
                    _parse(text, found)
        self._offset = file.tell() - len(rest)
        file.seek(max(0, self._offset - _MARK))
        self._mark = file.read(min(_MARK, self._offset))
        return found

    def _choose_stride(self, file: Any, size: int) -> int:
        """From the length of the first lines."""
        sample = file.read(2**16)
        file.seek(0)
        lines = sample.count(b"\n")
        guess = size / (len(sample) / lines) if lines else 1
        return max(1, -(-int(guess) // self.most))


def _parse(text: bytes, found: list[dict[str, Any]]) -> None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(line, dict):
        found.append(line)
