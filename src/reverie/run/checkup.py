"""Looks at the agent every so many updates while it learns: numbers for the next line of metrics, RUN/latents.json.

By counts of updates, not by the clock, so that a run that was killed ends as one that was not (docs/reliability.md).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..guard.memory import writing
from .health import Look, look

if TYPE_CHECKING:
    from ..data.replay import Batch
    from ..train import DreamerV2

FILE = "latents.json"


class Checkup:
    """What was found last and is not yet written down."""

    def __init__(self, directory: Path, every: int, may_write: Callable[[], None]) -> None:
        """every: updates between looks, 0 for none; may_write raises if the directory is no longer ours."""
        self.directory, self.every, self.may_write = directory, every, may_write
        self.found: dict[str, float] = {}

    def follow(self, agent: DreamerV2, batch: Batch, *, updates: int, env_steps: int) -> None:
        """After an update: look at it, if it is time for that. batch: the one that was learnt from."""
        if not self.every or updates % self.every:
            return
        now = look(agent, batch, seed=updates)
        self.found = {key: value for key, value in now.numbers.items() if math.isfinite(value)}
        self._write(now, updates, env_steps)

    def take(self) -> dict[str, float]:
        """What was found since the last line."""
        found, self.found = self.found, {}
        return found

    def _write(self, now: Look, updates: int, env_steps: int) -> None:
        if now.usage is None or not bool(now.usage.isfinite().all()):  # NaN is no JSON: a browser would not read it
            return
        rows = [[round(share, 4) for share in row] for row in now.usage.tolist()]
        text = json.dumps({"env_steps": env_steps, "updates": updates, "usage": rows})
        self.may_write()
        draft = self.directory / f".{FILE}.tmp"
        with writing(FILE, self.directory):
            draft.write_text(text, encoding="utf-8")
            os.replace(draft, self.directory / FILE)
