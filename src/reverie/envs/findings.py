"""What `check_env` tells: findings, in the order of their weight."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: Severities in the order in which findings are told.
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One kind of mistake, and where."""

    code: str  # short and stable, e.g. "nan"
    severity: str  # "error": it will not learn or not run; "warning": it probably hurts; "note": good to know
    message: str  # one sentence: what, where, with the numbers seen
    fix: str  # one sentence
    key: str = ""  # the observation concerned


@dataclass
class Report:
    """Everything found, and what was seen on the way."""

    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def add(self, severity: str, code: str, message: str, fix: str, key: str = "") -> None:
        """Tell a mistake; once for each observation."""
        if not any(known.code == code and known.key == key for known in self.findings):
            self.findings.append(Finding(code, severity, message, fix, key))

    @property
    def ordered(self) -> list[Finding]:
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
            lines += ["", f"{number}. {finding.severity}: {finding.message} [{finding.code}]", f"   {finding.fix}"]
        counts = [f"{sum(f.severity == s for f in self.findings)} {s}s" for s in SEVERITIES]
        return [*lines, "", "nothing found" if not self.findings else ", ".join(counts)]
