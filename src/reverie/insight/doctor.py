"""`diagnose(RUN)`: findings about what is wrong with a run.

`measurements.py` measures, the rules (`rules_task.py`, `rules_model.py`, `rules_behavior.py`) turn that into findings.
"""

from __future__ import annotations

from pathlib import Path

from ..config import load_file
from ..errors import UserError
from ..train import DreamerV2
from .findings import Finding, Findings, RunFacts
from .history import History, read_history
from .measurements import Measurements, probe
from .rules import apply_rules
from .run_reader import Experience, open_run

__all__ = ["Finding", "Findings", "diagnose", "diagnose_agent"]


def diagnose(path: str | Path) -> Findings:
    """The findings about a run, finished or still training: at most five, the worst first. Raises UserError.

    A run that failed before its first checkpoint is judged by its logs only.
    """
    path = Path(path)
    history = read_history(path)
    try:
        run = open_run(path)
        experience = run.need_experience()
    except UserError:
        if not history.updates and not history.crashed:
            raise
        return Findings(apply_rules(RunFacts(load_file(path / "config.yaml"), history, None)))
    return diagnose_agent(run.agent, experience, history)


def diagnose_agent(agent: DreamerV2, experience: Experience, history: History) -> Findings:
    """The findings about an agent in memory, which may be training: neither it nor its random streams are changed.

    experience: `measurements.experience_of(replay)`; history: `history.read_history(run)`.
    """
    training = agent.training
    agent.eval()
    try:
        return Findings(apply_rules(RunFacts(agent.config, history, measure(agent, experience))))
    finally:
        agent.train(training)


def measure(agent: DreamerV2, experience: Experience) -> Measurements | None:
    """The measurements; None while the replay is too short for them."""
    try:
        return probe(agent, experience)
    except UserError:
        return None
