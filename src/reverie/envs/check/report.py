"""The report of `check_env`: findings, the most severe first."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

#: Severities in the order in which findings are listed.
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Problem:
    """One kind of mistake and where it was found."""

    code: str  # short and stable, e.g. "nan"
    severity: str  # "error": training fails or learns nothing; "warning": it probably hurts; "note": good to know
    message: str  # one sentence: what and where, with the numbers of the first time
    fix: str  # one sentence: what to do
    key: str = ""  # the observation concerned
    count: int = 1  # how often it was found


@dataclass(repr=False)
class CheckReport:
    """All findings of `check_env` and a summary of the environment. `print` it."""

    facts: dict[str, str] = field(default_factory=dict)  # the summary for readers: spaces, speed, episodes
    numbers: dict[str, float] = field(default_factory=dict)  # statistics of the random policy, for programs
    findings: list[Problem] = field(default_factory=list)

    def add(self, severity: str, code: str, message: str, fix: str, key: str = "") -> None:
        """Add a finding; one with the same code and observation is only counted."""
        for index, known in enumerate(self.findings):
            if (known.code, known.key) == (code, key):
                self.findings[index] = replace(known, count=known.count + 1)
                return
        self.findings.append(Problem(code, severity, message, fix, key))

    def merge(self, other: CheckReport) -> None:
        """Add the findings of another report that this one does not have."""
        known = {(finding.code, finding.key) for finding in self.findings}
        self.findings += [finding for finding in other.findings if (finding.code, finding.key) not in known]

    def has(self, *codes: str) -> bool:
        """Whether one of these codes was found."""
        return any(finding.code in codes for finding in self.findings)

    @property
    def ordered(self) -> list[Problem]:
        """The findings, errors first."""
        return sorted(self.findings, key=lambda finding: SEVERITIES.index(finding.severity))

    @property
    def errors(self) -> int:
        """The number of errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    def lines(self) -> list[str]:
        """Lines for the terminal: the summary, then each finding, numbered, with its fix."""
        lines = [f"{name:12} {value}" for name, value in self.facts.items()]
        for number, finding in enumerate(self.ordered, 1):
            again = f", {finding.count:,} times" if finding.count > 1 else ""
            lines += ["", f"{number}. {finding.severity}: {finding.message} [{finding.code}{again}]"]
            lines.append(f"   {finding.fix}")
        counts = {severity: sum(f.severity == severity for f in self.findings) for severity in SEVERITIES}
        totals = [f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in counts.items() if count]
        return [*lines, "", ", ".join(totals) or "nothing found"]

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return {"facts": self.facts, "numbers": self.numbers, "findings": [asdict(x) for x in self.ordered]}

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def __repr__(self) -> str:
        return str(self)  # what a notebook shows of the last line of a cell
