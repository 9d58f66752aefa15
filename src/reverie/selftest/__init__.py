"""`reverie selftest`: does the code still compute what the equations say? Run it after editing a loss.

Every check feeds the real functions, in float32, with the inputs of a golden fixture and compares results and
gradients with an independent NumPy reference (`golden.py`). The checks go from small to large: the first that fails is
where to look, the ones after it may only follow from it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import UserError
from . import behaviour, ensemble, hierarchy, update, world
from .golden import TOLERANCE, Check, Found, GoldenCase, compare, load_cases

__all__ = ["CHECKS", "Check", "Result", "run_checks", "selftest_command"]

CHECKS: list[Check] = [*world.CHECKS, *behaviour.CHECKS, *update.CHECKS, *ensemble.CHECKS, *hierarchy.CHECKS]


class CheckResult(NamedTuple):
    """How one check went."""

    name: str
    equation: str
    where: str
    ok: bool
    error: float  # the worst relative error
    quantity: str  # and where it was: case and array
    seconds: float
    note: str  # what was raised, if anything was


def run_checks(only: str | None = None) -> list[CheckResult]:
    """Run all checks, or those with `only` in their names, in their order. Raises UserError if there is none."""
    chosen = [check for check in CHECKS if (only or "").lower() in check.name.lower()]
    if not chosen:
        raise UserError(f"no check is called '{only}'.", f"There are: {'; '.join(check.name for check in CHECKS)}.")
    with torch.random.fork_rng(devices=[]):  # networks are made with random weights before they get the golden ones
        known: dict[tuple[Any, str], Found] = {}
        return [_run(check, known) for check in chosen]


def _run(check: Check, known: dict[tuple[Any, str], Found]) -> CheckResult:
    """One check. `known` keeps what was computed, since several checks look at parts of the same update."""
    start, worst, quantity, note = time.perf_counter(), 0.0, "", ""
    try:
        for case in cases_of(check):
            place = (check.compute, case.name)
            known[place] = known.get(place) or check.compute(case)
            for key, error in compare(case, known[place], check.only).items():
                if error > worst or not quantity:
                    worst, quantity = error, f"{case.name} {key}"
    except Exception as error:  # an edit may break a function in any way; and that is what is reported here
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "reverie" in frame.filename][-1]
        worst, note = math.inf, f"{type(error).__name__}: {error} ({Path(ours.filename).name}, line {ours.lineno})"
    seconds = time.perf_counter() - start
    return CheckResult(check.name, check.equation, check.where, worst <= TOLERANCE, worst, quantity, seconds, note)


def cases_of(check: Check) -> list[GoldenCase]:
    """The fixtures that a check goes through; there is at least one."""
    found = [case for name, case in load_cases().items() if name == check.cases or name.startswith(f"{check.cases}/")]
    if not found:
        raise LookupError(f"no fixture is called {check.cases}")
    return found


def selftest_command(args: argparse.Namespace) -> int:
    """Print what holds and what does not; args.json, args.only. -> exit code: 0, or 1 if an equation is broken."""
    start = time.perf_counter()
    results = run_checks(args.only)
    seconds = time.perf_counter() - start
    broken = [result for result in results if not result.ok]
    if args.json:
        rows = [result._asdict() | {"error": result.error if result.error < math.inf else None} for result in results]
        print(json.dumps({"ok": not broken, "seconds": round(seconds, 2), "checks": rows}))
    else:
        _print(results, broken, seconds)
    return 1 if broken else 0


def _print(results: list[CheckResult], broken: list[CheckResult], seconds: float) -> None:
    print(f"{'':4} {'check':50} {'error':>8} {'s':>5}  equation; code")
    for result in results:
        verdict = "ok" if result.ok else "FAIL"
        place = f"{result.equation}; {result.where}"
        print(f"{verdict:4} {result.name:50} {result.error:8.1e} {result.seconds:5.2f}  {place}")
    if not broken:
        worst = max(result.error for result in results)
        print(f"{len(results)} equations hold, worst relative error {worst:.1e}, in {seconds:.1f} s")
        return
    first, rest = broken[0], len(broken) - 1
    found = first.note or f"{first.quantity} is off by {first.error:.1e}, {TOLERANCE:.0e} is allowed"
    print(f"broken: {first.name} ({first.equation}), in {first.where}: {found}.")
    if rest:
        print(f"{rest} more {'fails' if rest == 1 else 'fail'}, which may follow from it: look at this one first.")
