"""What `check_env` tells: findings, in the order of their weight."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

#: Severities in the order in which findings are told.
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Problem:
    """One kind of mistake, and where."""

    code: str  # short and stable, e.g. "nan"
    severity: str  # "error": it will not learn or not run; "warning": it probably hurts; "note": good to know
    message: str  # one sentence: what, where, with the numbers seen the first time
    fix: str  # one sentence
    key: str = ""  # the observation concerned
    count: int = 1  # how often it was seen


@dataclass
class CheckReport:
    """Everything found, and what was seen on the way. `print` it."""

    facts: dict[str, str] = field(default_factory=dict)  # for people
    numbers: dict[str, float] = field(default_factory=dict)  # of the random policy, for programs
    findings: list[Problem] = field(default_factory=list)

    def add(self, severity: str, code: str, message: str, fix: str, key: str = "") -> None:
        """Tell a mistake; once for each observation, and then only count it."""
        for index, known in enumerate(self.findings):
            if (known.code, known.key) == (code, key):
                self.findings[index] = replace(known, count=known.count + 1)
                return
        self.findings.append(Problem(code, severity, message, fix, key))

    def merge(self, other: CheckReport) -> None:
        """Take over what another report has and this one lacks."""
        known = {(finding.code, finding.key) for finding in self.findings}
        self.findings += [finding for finding in other.findings if (finding.code, finding.key) not in known]

    def has(self, *codes: str) -> bool:
        """Was one of these found?"""
        return any(finding.code in codes for finding in self.findings)

    @property
    def ordered(self) -> list[Problem]:
        """Errors first."""
        return sorted(self.findings, key=lambda finding: SEVERITIES.index(finding.severity))

    @property
    def errors(self) -> int:
        """How many of them are errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    def lines(self) -> list[str]:
        """For the terminal: what was seen, then one numbered sentence each with its fix."""
        lines = [f"{name:12} {value}" for name, value in self.facts.items()]
        for number, finding in enumerate(self.ordered, 1):
            again = f", {finding.count:,} times" if finding.count > 1 else ""
            lines += ["", f"{number}. {finding.severity}: {finding.message} [{finding.code}{again}]"]
            lines.append(f"   {finding.fix}")
        counts = {severity: sum(f.severity == severity for f in self.findings) for severity in SEVERITIES}
        told = [f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in counts.items() if count]
        return [*lines, "", ", ".join(told) or "nothing found"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"facts": self.facts, "numbers": self.numbers, "findings": [asdict(x) for x in self.ordered]}

    def __str__(self) -> str:
        return "\n".join(self.lines())
