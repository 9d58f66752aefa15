"""What `reverie tune` searches: SETTING=LOW..HIGH, SETTING=A,B,C, and SETTING=VALUE for what stays as it is.

A range is searched on a logarithmic scale where its ends are positive and a factor of ten or more apart; `log:` and
`lin:` in front of it decide otherwise. A range of a whole number gives whole numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import SETTINGS
from ..errors import UserError
from .plan import setting_name

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"(?:(log|lin):)?({_NUMBER})\.\.({_NUMBER})")
#: Ends of a range this far apart are searched on a logarithmic scale.
DECADE = 10.0
EXAMPLE = "E.g. world_model_lr=1e-4..1e-2 batch_size=8..32 latents=categorical,gaussian gamma=0.99"


@dataclass(frozen=True)
class Range:
    """A setting between two values, ends included."""

    key: str
    low: float
    high: float
    whole: bool
    log: bool

    @property
    def corners(self) -> tuple[Any, ...]:
        """Values that must be valid for all others to be."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}" + (" (log)" if self.log else "")


@dataclass(frozen=True)
class Choice:
    """A setting with one of some values, as text."""

    key: str
    values: tuple[str, ...]

    @property
    def corners(self) -> tuple[Any, ...]:
        """Values that must be valid."""
        return self.values

    def __str__(self) -> str:
        return ",".join(self.values)


Dimension = Range | Choice


def read_space(words: Mapping[str, str]) -> tuple[list[Dimension], dict[str, str]]:
    """{setting: text} -> what is searched, and what is set for all trials. Raises UserError."""
    dimensions: list[Dimension] = []
    fixed: dict[str, str] = {}
    for word, text in words.items():
        key = setting_name(word)
        if key not in SETTINGS:
            from ..config import build

            build({word: text})  # its sentence, with the nearest name
        found = _dimension(key, text)
        if found is None:
            fixed[key] = text
        else:
            dimensions.append(found)
    if not dimensions:
        raise UserError("there is nothing to search: no setting has a range or several values.", EXAMPLE)
    return dimensions, fixed


def _dimension(key: str, text: str) -> Dimension | None:
    kind = SETTINGS[key].kind
    if ".." in text and kind in (int, float):
        return _range(key, text, kind is int)
    if text.startswith(("log:", "lin:")):
        raise UserError(f"'{key}={text}' is not a range.", EXAMPLE)
    if "," in text and not str(kind).startswith("tuple"):  # whose values have commas themselves
        values = tuple(part.strip() for part in text.split(","))
        if not all(values) or len(set(values)) < len(values):
            raise UserError(f"'{key}={text}' has an empty value, or one twice.", EXAMPLE)
        return Choice(key, values)
    return None


def _range(key: str, text: str, whole: bool) -> Range:
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise UserError(f"'{key}={text}' is not of the form LOW..HIGH.", EXAMPLE)
    scale, low, high = match[1], float(match[2]), float(match[3])
    if whole and not (low.is_integer() and high.is_integer()):
        raise UserError(f"'{key}' is a whole number, and the ends of {text} are not.", EXAMPLE)
    if not low < high < float("inf"):
        raise UserError(f"'{key}={text}': the first number must be below the second.", EXAMPLE)
    if scale == "log" and low <= 0:
        raise UserError(f"'{key}={text}': a logarithmic scale begins above zero.", EXAMPLE)
    log = scale == "log" or (scale is None and low > 0 and high >= DECADE * low)
    return Range(key, low, high, whole, log)


def first_values(dimensions: Sequence[Dimension]) -> dict[str, Any]:
    """One configuration of the space: the low ends, the first choices."""
    return {each.key: each.corners[0] for each in dimensions}
