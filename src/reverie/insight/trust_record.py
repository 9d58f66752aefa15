"""What `reverie trust` left in a run, for pages: read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import plain_number, read_record

#: Where a run keeps the result of its last measurement; its policies and levels.
FILE, POLICIES, LEVELS = "trust.json", ("random", "own", "made"), ("yes", "partly", "no")


def read_trust(run: Path) -> dict[str, Any] | None:
    """What `reverie trust` left in a run, None if nothing; for pages. Raises UserError where it is damaged."""
    path = run / FILE
    if not path.exists():
        return None
    found = read_record(path)
    try:
        optimism, errors = found["optimism"], found["errors"]
        curves = [optimism[key] for key in ("dream", "real", "gap", "low", "high")]
        curves += [curve for part in errors.values() for curve in part.values()]
        sound = all(isinstance(each, list) and len(each) == len(curves[0]) for each in curves)
        sound &= all(value is None or plain_number(value) is not None for curve in curves for value in curve)
        means = [plain_number(found["policies"][name]["mean"]) for name in POLICIES]
        sound &= None not in means and found["level"] in LEVELS and all(isinstance(x, str) for x in found["verdict"])
    except (KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f"{path} is damaged.", "Run `reverie trust` again.")
    return found
