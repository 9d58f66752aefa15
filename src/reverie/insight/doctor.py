"""`diagnose(RUN)`: what is wrong with a run, in words. Measurements: probes.py; rules: verdicts*.py."""

from __future__ import annotations

from pathlib import Path

from ..config import load_file
from ..errors import UserError
from ..train import DreamerV2
from .findings import Finding, RunFacts
from .history import History, read_history
from .measurements import Measurements, probe
from .rules_behavior import judge
from .run_reader import Experience, open_run

__all__ = ["Finding", "diagnose", "diagnose_agent"]

#: Newest steps of the replay that are looked at: enough for every share, and read in a second.
MOST_STEPS = 8000


def diagnose(path: str | Path) -> list[Finding]:
    """Findings of a run, finished or still training: at most five, the worst first. Raises UserError.

    A run that broke before its first checkpoint is judged by its logs alone.
    """
    path = Path(path)
    history = read_history(path)
    try:
        opened = open_run(path, most_steps=MOST_STEPS)
        experience = opened.need_experience()
    except UserError:
        if not history.updates and not history.crashed:
            raise
        return judge(RunFacts(load_file(path / "config.yaml"), history, None))
    return diagnose_agent(opened.agent, experience, history)


def diagnose_agent(agent: DreamerV2, experience: Experience, history: History) -> list[Finding]:
    """The same of an agent in memory, also of one that is learning: nothing of it is changed and none of its random
    streams is used. `probes.experience_of(replay)` and `history.read_history(run)` give the rest."""
    training = agent.training
    agent.eval()
    try:
        return judge(RunFacts(agent.config, history, measure(agent, experience)))
    finally:
        agent.train(training)


def measure(agent: DreamerV2, experience: Experience) -> Measurements | None:
    """The probes' measurements; None while the replay is shorter than what they need."""
    try:
        return probe(agent, experience)
    except UserError:
        return None
