"""Reaction of a run to a non-finite update: `train.on_nonfinite` stop, skip or rollback."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .. import checkpoint
from ..errors import UserError
from ..files import Damaged
from ..finite import NonFinite
from ..guard.nan_report import NanReport, diagnose_update, write_crash
from ..train import DreamerV2
from .clock import Clock

MOST_SKIPS = 100  # consecutive updates that may be left out
MOST_ROLLBACKS = 5  # in a run


class NanPolicy:
    """Applies the policy of a run. Its counts are in the clock, and so in checkpoints."""

    def __init__(
        self, directory: Path, agent: DreamerV2, say: Callable[[str], None] = print, *, root: Path | None = None
    ) -> None:
        """directory: for the report; root: of the run with the checkpoints, if that is another one."""
        self.directory = directory
        self.root = root or directory
        self.agent = agent
        self.say = say
        self.policy: str = agent.config.train.on_nonfinite
        self.consecutive = 0  # updates left out since the last one that was made
        self.reported = False  # a report was written: later skips are one line each

    def resume(self, clock: Clock) -> None:
        """Learning rates stay lowered over a stop."""
        self.agent.optimizers.scale_rates(0.5**clock.rollbacks)

    def reset_streak(self) -> None:
        """An update was made. Where the guard does not wait for the device, only `check` can know that."""
        if self.agent.guard.waits:
            self.consecutive = 0

    def check(self, clock: Clock) -> bool:
        """Has the device left out updates? Then do what the policy says. Raises UserError like `apply`."""
        trouble = self.agent.guard.trouble()
        if trouble is None:
            self.consecutive = self.consecutive if self.agent.guard.waits else 0
            return False
        self.apply(trouble, clock)
        return True

    def apply(self, trouble: NonFinite, clock: Clock) -> None:
        """Do what the policy says. Raises UserError where that is to stop, or where it has been tried too often."""
        if self.policy == "skip":
            self._skip(trouble, clock)
        elif self.policy == "rollback":
            self._roll_back(trouble, clock)
        else:
            raise self._end(self._report(trouble), clock, "")

    def _skip(self, trouble: NonFinite, clock: Clock) -> None:
        clock.skipped += trouble.skipped
        self.consecutive += trouble.skipped
        if not self.reported:
            self.reported = True
            report = self._report(trouble)
            self.say(f"skipped   update {clock.updates}: {report.verdict}")
            self.say(f"          {report.cause}; try {report.advice}; crash file {self.directory / 'crash'}")
        else:
            self.say(f"skipped   update {clock.updates} too: {clock.skipped} in all, {self.consecutive} consecutive")
        if self.consecutive >= MOST_SKIPS:
            report = diagnose_update(self.agent, trouble.case, trouble.history)
            raise self._end(report, clock, f" {self.consecutive} consecutive updates were left out.")

    def _roll_back(self, trouble: NonFinite, clock: Clock) -> None:
        report, found = self._report(trouble), self._newest_whole()
        if found is None:
            raise self._end(report, clock, " There is no checkpoint to go back to.")
        if clock.rollbacks >= MOST_ROLLBACKS:
            raise self._end(report, clock, f" {clock.rollbacks} rollbacks did not help.")
        clock.rollbacks += 1
        checkpoint.load_checkpoint(found, self.agent, {})  # weights and optimisers; replay and random states stay
        self.agent.optimizers.scale_rates(0.5**clock.rollbacks)
        self.say(f"went back to {found.name} at update {clock.updates}: {report.verdict}")
        self.say(f"          learning rates are now {0.5**clock.rollbacks:g} of what was set; {report.cause}")

    def _newest_whole(self) -> Path | None:
        for path in reversed(checkpoint.checkpoints(self.root)):
            with suppress(Damaged):
                checkpoint.verify(path)
                return path
        return None

    def _report(self, trouble: NonFinite) -> NanReport:
        """Diagnose the update and write the report to RUN/crash."""
        report = diagnose_update(self.agent, trouble.case, trouble.history)
        write_crash(self.directory / "crash", self.agent, trouble, report)
        return report

    def _end(self, report: NanReport, clock: Clock, why: str) -> UserError:
        for line in report.lines():
            self.say(line)
        return UserError(
            f"training became non-finite before update {clock.updates + 1}: {report.verdict}.{why}",
            f"The checkpoints are from before. Most likely: {report.cause}; try {report.advice}. "
            f"`reverie replay-crash {self.directory}` shows it again.",
        )
