"""The doctor during training: at the first evaluation, and then as often as it takes at most 2 % of the time."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from .doctor import diagnose_agent
from .doctor_record import write_findings
from .history import read_history
from .measurements import experience_of

if TYPE_CHECKING:
    from ..run.state import RunState

#: Share of the training time that diagnoses may take. The first one and the one at the end of a run are always made: a
#: policy that collapses does so before the first evaluation, and all that is trained after that is lost.
SHARE = 0.02


class Adviser:
    """A callback for after each evaluation, which returns lines for the terminal."""

    def __init__(self) -> None:
        self.spent = 0.0  # seconds of all diagnoses
        self.last = 0.0  # seconds of the last one; 0 before the first
        self.reported: dict[str, str] = {}  # verdict -> level, of the last diagnosis

    def __call__(self, run: RunState) -> list[str]:
        """The new findings; [] if it is not yet time for a diagnosis. Never raises."""
        if self.last and self.spent + self.last > SHARE * run.clock.seconds and not run.finished():
            return []
        since = time.perf_counter()
        try:
            logged = read_history(run.directory)  # whose newest line is seconds old: hundreds of quick updates
            history = replace(logged, updates=run.clock.updates, env_steps=run.clock.env_steps)
            findings = diagnose_agent(run.agent, experience_of(run.replay), history)
        except Exception as error:  # advice is never worth a run
            return [f"doctor    the diagnosis failed ({type(error).__name__}: {error})"]
        found = [finding.to_dict() for finding in findings]
        write_findings(run.directory, found, updates=history.updates, env_steps=history.env_steps)
        self.last = time.perf_counter() - since
        self.spent += self.last
        lines = []
        for finding in findings:
            if self.reported.get(finding.verdict) != finding.level:
                lines.append(f"doctor    {finding.level} {finding.verdict}: {finding.evidence}")
                if finding.key:
                    lines.append(f"          {finding.key}: {finding.change}")
        self.reported = {finding.verdict: finding.level for finding in findings}
        return lines
