"""The mutation suite itself: every mutant applies, a few are really run here, the rest by `make mutants`."""

import hashlib
import subprocess
import sys

import pytest
from mutants.catalogue import MUTANTS, Mutant
from mutants.run import LIMIT, ROOT, SOURCE, choose, mutated, path_of, try_mutant

FINGERPRINT = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCE.rglob("*.py")))).hexdigest()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_every_mutant_applies_once_and_compiles(mutant):
    text = mutated(mutant, (SOURCE / mutant.file).read_text())
    if mutant.file.endswith(".py"):
        compile(text, mutant.file, "exec")
    assert mutant.harm.endswith((".", "!"))
    assert path_of(mutant.first).exists()


def test_there_are_enough_and_they_come_from_history():
    assert len({mutant.id for mutant in MUTANTS}) == len(MUTANTS)
    assert sum(mutant.thread != "ours" for mutant in MUTANTS) >= 25
    assert sum(any(word in mutant.thread for word in (" issue", " PR ")) for mutant in MUTANTS) >= 20


@pytest.mark.timeout(3 * LIMIT)
@pytest.mark.parametrize("mutant", choose(None, 2, FINGERPRINT), ids=lambda mutant: mutant.id)
def test_a_sample_is_killed(mutant):
    """Other ones whenever the source changes, so that CI sees all of them in time."""
    outcome = try_mutant(mutant)
    assert outcome.killer is not None
    assert outcome.seconds < LIMIT


def test_a_mutant_that_does_not_apply_is_an_error():
    gone = Mutant("gone", "ops.py", "no such text", "", "", "ours", "test_ops")
    with pytest.raises(ValueError, match=r"'gone'.*0 times in ops\.py"):
        mutated(gone, (SOURCE / "ops.py").read_text())


def test_a_survivor_is_noticed(monkeypatch):
    """A comment harms nobody: one small test file in place of all, and nothing is reported killed."""
    monkeypatch.setattr("mutants.run.TESTS", ["ops"])
    harmless = Mutant(
        "harmless", "ops.py", "Nothing here has parameters", "Nothing in here has parameters", "", "", "test_ops"
    )
    assert try_mutant(harmless).killer is None


def test_unknown_names_are_refused():
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants.run", "--only", "nonsense"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "there is no mutant 'nonsense'" in done.stderr
