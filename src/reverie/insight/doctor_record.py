"""What the doctor found last, as RUN/doctor.json, for pages: read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..files import plain_number, read_record, write_file

FILE, LEVELS = "doctor.json", ("FAIL", "WARN", "OK")
TEXTS = ("verdict", "level", "evidence", "why", "key", "change")
MOST = 20  # findings that are read


def write_findings(run: Path, findings: Sequence[Mapping[str, Any]], *, updates: int, env_steps: int) -> None:
    """Keep the findings in the run. findings: of `Finding.to_dict`; a run that cannot be written to keeps none."""
    record = {"updates": updates, "env_steps": env_steps, "findings": list(findings)}
    with suppress(OSError):
        write_file(run / FILE, json.dumps(record), new_folder=False)


def read_findings(run: Path) -> dict[str, Any] | None:
    """{"updates", "env_steps", "level" (the worst), "findings"} of the last diagnosis; None without a whole record."""
    found = read_record(run / FILE)
    findings = found.get("findings")
    counts = {key: plain_number(found.get(key)) for key in ("updates", "env_steps")}
    if not isinstance(findings, list) or not findings or None in counts.values():
        return None
    kept = [x for x in findings[:MOST] if isinstance(x, dict) and all(isinstance(x.get(key), str) for key in TEXTS)]
    levels = [finding["level"] for finding in kept]
    if len(kept) != len(findings[:MOST]) or not set(levels) <= set(LEVELS):
        return None
    return {**counts, "level": min(levels, key=LEVELS.index), "findings": kept}
