"""Mutation testing with bugs from history: `python -m tests.mutants.run` (or `make mutants`).

Each mutant is applied to a copy of the package and the fast tests of the algorithm run against that copy, the most
likely killer first, until one fails. A mutant that survives, or takes more than a minute, is a bug in the tests.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from reverie.fast.fused_build import SOURCES

from .catalogue import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "reverie"
LIMIT = 60.0  # seconds to kill a mutant
CONTROL_LIMIT = 10 * LIMIT  # seconds for all tests, when nothing is wrong

#: The fast tests of the algorithm and of the data that it sees, quick and sharp ones first.
TESTS = ["actor_critic", "rssm", "world_model", "train", "alignment", "networks", "ops", "options", "collect", "replay",
         "player", "parity", "ensemble"]  # fmt: skip


def path_of(name: str) -> Path:
    """The file of a test module by its name: "test_replay" -> tests/data/test_replay.py. Raises ValueError."""
    (found,) = (ROOT / "tests").rglob(f"{name}.py")
    return found


class Outcome(NamedTuple):
    """How a mutant fared: `killer` is the test that noticed it, None if none did in time."""

    mutant: Mutant
    killer: str | None
    seconds: float


def mutated(mutant: Mutant, source: str) -> str:
    """The source with the edit in it. Raises ValueError where the edit does not apply exactly once."""
    found = source.count(mutant.old)
    if found != 1:
        raise ValueError(f"mutant '{mutant.id}': its text occurs {found} times in {mutant.file}, not once; adapt it")
    return source.replace(mutant.old, mutant.new)


def run_tests(package: Path, first: str | None, limit: float) -> tuple[str | None, float]:
    """Run the fast tests against a copy of the package. -> (name of the first failing test or None, seconds)."""
    names = [f"test_{name}" for name in TESTS]
    if first is not None:
        names = [first, *(name for name in names if name != first)]
    command = [sys.executable, "-m", "pytest", "-x", "-m", "not slow", "-p", "no:cacheprovider", "--no-header"]
    command += [str(path_of(name)) for name in names]
    environment = os.environ | {
        "PYTHONPATH": str(package.parent),  # before the installed package
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "REVERIE_MUTANT": str(package),  # tests/conftest.py makes sure that it is this copy that is imported
    }
    if any((package / "fast" / name).read_bytes() != (SOURCE / "fast" / name).read_bytes() for name in SOURCES):
        environment["REVERIE_CACHE"] = str(package.parent / "cache")  # a mutant of C code leaves no library behind
    begin = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return None, time.monotonic() - begin
    seconds = time.monotonic() - begin
    failed = re.findall(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1, 2) or (done.returncode != 0 and not failed):
        raise RuntimeError(f"pytest itself failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return (failed[0] if failed else None), seconds


def try_mutant(mutant: Mutant | None) -> Outcome:
    """Apply one mutant (None: nothing, the control) to a fresh copy and run the tests against it."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "reverie"
        shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            path = package / mutant.file
            path.write_text(mutated(mutant, path.read_text()))
        first, limit = (mutant.first, LIMIT) if mutant else (None, CONTROL_LIMIT)
        killer, seconds = run_tests(package, first, limit)
    return Outcome(mutant or Mutant("(control)", "", "", "", "nothing changed", "", ""), killer, seconds)


def choose(only: list[str] | None, sample: int | None, seed: str) -> list[Mutant]:
    """The mutants to run: all, the named ones, or a random sample. Raises SystemExit for an unknown name."""
    known = {mutant.id: mutant for mutant in MUTANTS}
    if only:
        unknown = [name for name in only if name not in known]
        if unknown:
            sys.exit(f"error: there is no mutant '{unknown[0]}'; --list shows them")
        return [known[name] for name in only]
    return random.Random(seed).sample(MUTANTS, min(sample, len(MUTANTS))) if sample else list(MUTANTS)


def line(outcome: Outcome) -> str:
    """One row of the table."""
    state = outcome.killer or "SURVIVED"
    return f"{outcome.mutant.id:34} {outcome.seconds:5.1f} s  {state:76} {outcome.mutant.thread}"


def report(outcomes: list[Outcome]) -> dict[str, Any]:
    """What happened, with where it happened."""
    sys.path.insert(0, str(SOURCE.parent))
    from reverie.config import Config
    from reverie.run.directory import provenance

    rows = [
        {"id": o.mutant.id, "harm": o.mutant.harm, "thread": o.mutant.thread, "killed_by": o.killer,
         "seconds": round(o.seconds, 1)} for o in outcomes
    ]  # fmt: skip
    facts = provenance(Config()) | {"command": "python -m tests.mutants.run " + " ".join(sys.argv[1:])}
    return {"mutants": len(rows), "killed": sum(o.killer is not None for o in outcomes), "rows": rows} | {
        "provenance": facts
    }


def main() -> int:
    """Run the chosen mutants one by one and print the table. -> exit code, 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="ID")
    parser.add_argument("--sample", type=int, metavar="N", help="a random choice of N")
    parser.add_argument("--seed", default="0", help="of that choice")
    parser.add_argument("--list", action="store_true", help="what there is, and what each one breaks")
    parser.add_argument("--json", type=Path, help="write the table there as well")
    args = parser.parse_args()
    chosen = choose(args.only, args.sample, args.seed)
    if args.list:
        for mutant in chosen:
            print(f"{mutant.id:34} {mutant.harm}  [{mutant.thread}]")
        return 0
    control = try_mutant(None)
    if control.killer or control.seconds > CONTROL_LIMIT:
        print(f"error: without any mutant, {control.killer or 'time runs out'}; fix that first", file=sys.stderr)
        return 1
    print(line(control._replace(killer="all tests pass, as they should")), flush=True)
    outcomes = []
    for mutant in chosen:
        outcomes.append(try_mutant(mutant))
        print(line(outcomes[-1]), flush=True)
    killed = sum(outcome.killer is not None for outcome in outcomes)
    slowest = max(outcome.seconds for outcome in outcomes)
    total = sum(outcome.seconds for outcome in outcomes)
    print(f"{killed} of {len(outcomes)} killed, the slowest in {slowest:.0f} s, {total:.0f} s in all")
    if args.json:
        args.json.write_text(json.dumps(report(outcomes), indent=1))
    return 0 if killed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
