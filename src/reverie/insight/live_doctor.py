"""The doctor beside a training run: a look after evaluations, as often as it costs next to nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .doctor import diagnose_agent
from .history import read_history
from .measurements import experience_of

if TYPE_CHECKING:
    from ..run.state import RunState

#: Of the time spent on training, the share that looking may take; the look at the end of a run comes in any case.
SHARE = 0.02
#: Seconds that the first look is expected to take.
FIRST = 3.0


class Adviser:
    """Called after each evaluation. -> lines for the screen."""

    def __init__(self) -> None:
        self.spent, self.last = 0.0, FIRST
        self.told: dict[str, str] = {}  # verdict -> level, of the last look

    def __call__(self, run: RunState) -> list[str]:
        """Nothing where it is not time, or where nothing is new. Whatever goes wrong in here does not end a run."""
        if self.spent + self.last > SHARE * run.clock.seconds and not run.finished():
            return []
        since = time.perf_counter()
        try:
            findings = diagnose_agent(run.agent, experience_of(run.replay), read_history(run.directory))
        except Exception as error:  # advice is never worth a run
            return [f"doctor    could not look ({type(error).__name__}: {error})"]
        self.last = time.perf_counter() - since
        self.spent += self.last
        lines = []
        for finding in findings:
            if self.told.get(finding.verdict) != finding.level:
                lines.append(f"doctor    {finding.level} {finding.verdict}: {finding.evidence}")
                if finding.key:
                    lines.append(f"          {finding.key}: {finding.change}")
        self.told = {finding.verdict: finding.level for finding in findings}
        return lines
