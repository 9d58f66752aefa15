"""The doctor during training: rarely enough, only new findings, and it never ends a run."""

import pytest
from toys import CountingEnv

from reverie.insight import live_doctor as live
from reverie.insight.doctor_record import read_findings
from reverie.insight.findings import Finding
from reverie.run.progress import Progress

SICK = Finding("actor random", "WARN", "entropy 1.0", "it matters", "behavior.entropy_scale", "3e-4")


@pytest.fixture
def asked(monkeypatch):
    calls = []
    monkeypatch.setattr(live, "diagnose_agent", lambda *args: calls.append(args) or [SICK])
    return calls


def test_a_finding_is_reported_once_and_looking_has_a_budget(make_run, tmp_path, asked):
    run, adviser = make_run(tmp_path / "run", CountingEnv), live.Adviser()
    run.train()
    assert adviser(run) == ["doctor    WARN actor random: entropy 1.0", "          behavior.entropy_scale: 3e-4"]
    assert adviser(run) == []  # nothing new
    assert len(asked) == 2  # the run has ended: the budget does not count
    kept = read_findings(tmp_path / "run")
    assert (kept["level"], kept["updates"], kept["findings"]) == ("WARN", run.clock.updates, [SICK.to_dict()])
    run.clock.env_steps, run.clock.seconds = 1, 10.0
    adviser.last, adviser.spent = 1.0, 0.0
    assert adviser(run) == []
    assert len(asked) == 2
    run.clock.seconds = 100.0
    adviser(run)
    assert len(asked) == 3


def test_the_first_evaluation_is_always_judged(make_run, tmp_path, asked):
    run, adviser = make_run(tmp_path / "run", CountingEnv), live.Adviser()
    run.clock.env_steps, run.clock.seconds = 1, 0.001
    assert len(adviser(run)) == 2
    assert adviser(run) == []  # that was it, for that time
    assert len(asked) == 1
    run.close()


def test_what_goes_wrong_in_it_does_not_end_a_run(make_run, tmp_path, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(live, "diagnose_agent", broken)
    said = []
    screen = Progress(advise=live.Adviser())
    screen.say = said.append
    make_run(tmp_path / "run", CountingEnv).train(screen)
    assert "doctor    the diagnosis failed (ZeroDivisionError: oh)" in said


def test_a_run_with_the_doctor_is_the_same_as_one_without(make_run, tmp_path):
    runs = []
    for name, advise in (("with", live.Adviser()), ("without", None)):
        run = make_run(tmp_path / name, CountingEnv, deterministic=True, log_steps=20, eval_every=40)
        screen = Progress(advise=advise)
        screen.say = lambda text: None
        run.train(screen)
        runs.append((tmp_path / name / "metrics.jsonl").read_text())
    assert runs[0] == runs[1]
