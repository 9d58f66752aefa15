"""The commands that live in modules of their own, in the order of `reverie --help`."""

from __future__ import annotations

from . import compare, doctor, dream, explain, report, sweep, watch
from .command import Command

MORE: tuple[Command, ...] = (
    watch.VERB,
    doctor.DOCTOR,
    doctor.DRIFT,
    explain.VERB,
    dream.VERB,
    report.VERB,
    compare.VERB,
    sweep.SWEEP,
    sweep.ABLATE,
)
