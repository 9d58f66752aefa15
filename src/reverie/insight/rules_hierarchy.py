"""The doctor's rules about a hierarchy: goals, the worker that shall reach them, and the manager that sets them.

They look at what a run logged; without a hierarchy it logs none of it. More in `rules_model.py`.
"""

from __future__ import annotations

from .findings import LIMITS, Finding, RunFacts, number
from .history import median

FEWEST = 6  # lines of metrics


def _late(facts: RunFacts, key: str) -> list[float]:
    """The values of the last third of the run; none if there are too few lines."""
    values = [value for _, value in facts.history.series(key)]
    return values[-(len(values) // 3) :] if len(values) >= FEWEST else []


def one_code(facts: RunFacts) -> Finding | None:
    """Fault: all states have the same code, so that the manager has nothing to choose from."""
    used, options = _late(facts, "goals/perplexity"), facts.config.hierarchy
    if not options.goal_every or not used or median(used) > LIMITS["code used"]:
        return None
    return Finding(
        "one goal code in use",
        "FAIL",
        f"each variable of the code uses {median(used):.2f} of its {options.goal_classes} classes (median of the last "
        "third of the run)",
        "Whatever the manager chooses was never the code of a state: the goals are not ones.",
        "hierarchy.goal_lr",
        f"raise it from {options.goal_lr:.1g} to {10 * options.goal_lr:.1g}, or train longer",
    )


def goals_not_reached(facts: RunFacts) -> Finding | None:
    """Fault: at the end of a window the worker is no nearer to the goal than at its beginning."""
    reached, begun = _late(facts, "imagination/goal_reached"), _late(facts, "imagination/goal_start")
    options = facts.config.hierarchy
    if not options.goal_every or not reached or not begun:
        return None
    end, start = median(reached), median(begun)
    if end - start > LIMITS["goal gain"] or end > LIMITS["goal near"]:
        return None
    return Finding(
        "goals never reached",
        "WARN",
        f"states are alike to the goal by {start:.2f} when it is set, after {options.goal_every} steps by {end:.2f} "
        "(max-cosine in dreams, median of the last third of the run)",
        "The worker does not go where the manager wants, so the manager cannot learn what its goals are good for.",
        "behavior.actor_lr",
        f"raise it from {facts.config.behavior.actor_lr:.1g} to {3 * facts.config.behavior.actor_lr:.1g}, or a longer "
        "hierarchy.goal_every",
    )


def manager_blind(facts: RunFacts) -> Finding | None:
    """Fault: the task's reward is the same in all dreams, so that the manager learns from novelty alone."""
    rewards, m = _late(facts, "imagination/reward"), facts.measured
    if not facts.config.hierarchy.goal_every or not rewards or m is None:
        return None
    size = m.planned_reward or 1.0
    if max(rewards) - min(rewards) > LIMITS["manager reward"] * size:
        return None
    weight = facts.config.hierarchy.novelty_weight
    return Finding(
        "manager's reward never moves",
        "WARN",
        f"the mean reward in dreams stays between {number(min(rewards))} and {number(max(rewards))} in the last third "
        f"of the run; rewards are up to {number(m.planned_reward)}",
        "The manager sees no goal that pays: only what is new to the goals drives it.",
        "hierarchy.novelty_weight" if m.rewarding == 0 else "replay.prioritize",
        f"raise it from {weight:g} to {10 * weight or 0.1:g} until rewards are found"
        if m.rewarding == 0
        else "rewards",
    )
