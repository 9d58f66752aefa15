"""All verbs that live in modules of their own, in the order of `reverie --help`."""

from __future__ import annotations

from . import verbs_compare, verbs_doctor, verbs_dream, verbs_explain, verbs_report, verbs_sweep, verbs_watch
from .verb import Verb

MORE: tuple[Verb, ...] = (
    verbs_watch.VERB,
    verbs_doctor.DOCTOR,
    verbs_doctor.DRIFT,
    verbs_explain.VERB,
    verbs_dream.VERB,
    verbs_report.VERB,
    verbs_compare.VERB,
    verbs_sweep.SWEEP,
    verbs_sweep.ABLATE,
)
