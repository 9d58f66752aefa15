"""The one exception that means "the user can fix this", the one that ends a run, and how text is shown to people.

For a UserError the command line prints `error: ...` and `hint: ...` and exits with code 2; in Python it is an ordinary
exception. A bug of ours is never a UserError: it keeps its traceback.
"""

from __future__ import annotations

import re

#: Characters of a message that are shown: a received file may hold a name of a megabyte.
LONGEST = 4000
#: A colour of our own in a line: it takes no room.
COLOUR = re.compile(r"\033\[[0-9;]*m")
#: Label and gap before a text, as in "task      CartPole-v1": what is broken off hangs below the text.
LABELLED = re.compile(r" *\S+(?: \S+)* {2,}(?=\S)")


def printable(text: str) -> str:
    r"""Text whose control characters are shown as escapes (`\x1b`), so that no name from a file commands a terminal.

    Line ends stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def digits(value: float, *, sign: bool = False) -> str:
    """A number as people read it, three digits and no exponent: 5,400, 54.3, 0.0123; 1.2e-05 below 0.0001.

    From 1,000 on it is whole, from a billion on it has an exponent. sign: also show a plus.
    """
    plus = "+" if sign else ""
    if 1000 <= abs(float(f"{value:.3g}")) < 1e9:
        return f"{value:{plus},.0f}"
    return f"{value:{plus}.3g}"


def counted(count: int, what: str) -> str:
    """ "1 update", "2,000 updates"."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def wrapped(text: str, width: int) -> str:
    """Lines broken between words after at most `width` letters; width 0, and anything like JSON: as they are.

    A word that is longer, such as a path, stays whole.
    """
    if width <= 0:
        return text
    return "\n".join(_broken(line, width) if len(line) > width else line for line in text.split("\n"))


def _broken(line: str, width: int) -> str:
    if line.startswith(("{", "[")):
        return line
    plain = COLOUR.sub("", line)
    label = LABELLED.match(plain)
    indent = " " * (len(plain) - len(plain.lstrip()))
    if label is not None and label.end() <= max(12, width // 2):
        indent = " " * label.end()
    lines, now = [], ""
    for word in re.findall(r"\s*\S+", line):
        if now.strip() and len(COLOUR.sub("", now + word)) > width:
            lines.append(now)
            now = indent[: max(0, width - len(word.lstrip()))] + word.lstrip()
        else:
            now += word
    return "\n".join([*lines, now])


class UserError(Exception):
    """Bad input, reported in one sentence: what was found where, what was expected; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.message = _shown(message)
        self.hint = _shown(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class Stopped(BaseException):
    """A signal ended the program here. Not an Exception: only the end of a run should catch it."""


def _shown(text: str) -> str:
    return printable(text if len(text) <= LONGEST else f"{text[:LONGEST]} ...")
