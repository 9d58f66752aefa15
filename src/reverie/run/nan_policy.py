"""What a run does about a number that is no number: `train.on_nonfinite` stop, skip or rollback. Told on the screen."""

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

MOST_SKIPS, MOST_ROLLBACKS = 100, 5  # in a row; in a run


class NanPolicy:
    """Holds a run's policy and carries it out; what it counts is in the clock, and so in checkpoints."""

    def __init__(self, directory: Path, agent: DreamerV2, say: Callable[[str], None] = print) -> None:
        self.directory, self.agent, self.say = directory, agent, say
        self.policy: str = agent.config.train.on_nonfinite
        self.in_a_row, self.told = 0, False

    def resume(self, clock: Clock) -> None:
        """Learning rates stay lowered over a stop."""
        self.agent.scale_learning_rates(0.5**clock.rollbacks)

    def reset_streak(self) -> None:
        """An update was made; elsewhere than on a CPU that is known only after a look."""
        if self.agent.guard.waits:
            self.in_a_row = 0

    def check(self, clock: Clock) -> bool:
        """Has the device left out updates? Then do what the policy says. Raises UserError like `apply`."""
        trouble = self.agent.guard.trouble()
        if trouble is None:
            self.in_a_row = self.in_a_row if self.agent.guard.waits else 0
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
        self.in_a_row += trouble.skipped
        if not self.told:
            self.told, report = True, self._report(trouble)
            self.say(f"skipped   update {clock.updates}: {report.verdict}")
            self.say(f"          {report.cause}; try {report.advice}; crash file {self.directory / 'crash'}")
        else:
            self.say(f"skipped   update {clock.updates} too: {clock.skipped} in all, {self.in_a_row} in a row")
        if self.in_a_row >= MOST_SKIPS:
            report = diagnose_update(self.agent, trouble.case, trouble.history)
            raise self._end(report, clock, f" {self.in_a_row} updates in a row were left out.")

    def _roll_back(self, trouble: NonFinite, clock: Clock) -> None:
        report, found = self._report(trouble), self._newest_whole()
        if found is None:
            raise self._end(report, clock, " There is no checkpoint to go back to.")
        if clock.rollbacks >= MOST_ROLLBACKS:
            raise self._end(report, clock, f" {clock.rollbacks} rollbacks did not help.")
        clock.rollbacks += 1
        checkpoint.load_checkpoint(found, self.agent, {})  # weights and optimisers; chance and replay go on
        self.agent.scale_learning_rates(0.5**clock.rollbacks)
        self.say(f"went back to {found.name} at update {clock.updates}: {report.verdict}")
        self.say(f"          learning rates are now {0.5**clock.rollbacks:g} of what was set; {report.cause}")

    def _newest_whole(self) -> Path | None:
        for path in reversed(checkpoint.checkpoints(self.directory)):
            with suppress(Damaged):
                checkpoint.verify(path)
                return path
        return None

    def _report(self, trouble: NonFinite) -> NanReport:
        """Made, and written to RUN/crash."""
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
