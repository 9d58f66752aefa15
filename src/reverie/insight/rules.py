"""All rules of the doctor in their order, and `apply_rules`, which makes findings of them.

`RULES` goes from causes to effects: inputs and task, training, world model, critic, actor, returns, dreams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from .findings import LEVELS, LIMITS, Finding, RunFacts, finite, number
from .rules_behavior import (
    actor_collapsed,
    actor_random,
    critic_diverging,
    early_collapse,
    imagination_drift,
    one_sided,
)
from .rules_hierarchy import goals_not_reached, manager_blind, one_code
from .rules_model import (
    actions_ignored,
    bad_input_scaling,
    categorical_degeneracy,
    continue_miscalibrated,
    memory_leaks,
    never_been,
    non_finite,
    posterior_collapse,
    prior_not_learning,
    starved_replay,
    unstable,
)
from .rules_task import (
    image_too_small,
    no_better_than_random,
    no_episode_ended,
    nothing_to_learn,
    numbers_cut_off,
    observations_unforeseeable,
    reward_blind,
    reward_never_varies,
    rewards_too_small,
    window_too_short,
)

Rule = Callable[[RunFacts], Finding | None]

#: All rules, causes before effects: an earlier finding may explain a later one.
RULES: tuple[Rule, ...] = (
    non_finite,
    bad_input_scaling,
    memory_leaks,
    no_episode_ended,
    reward_never_varies,
    rewards_too_small,
    nothing_to_learn,
    window_too_short,
    unstable,
    starved_replay,
    image_too_small,
    numbers_cut_off,
    posterior_collapse,
    categorical_degeneracy,
    actions_ignored,
    prior_not_learning,
    continue_miscalibrated,
    never_been,
    one_code,
    goals_not_reached,
    manager_blind,
    critic_diverging,
    one_sided,
    early_collapse,
    actor_random,
    actor_collapsed,
    no_better_than_random,
    reward_blind,
    imagination_drift,
    observations_unforeseeable,
)
#: The rules that apply before anything has been learned.
EARLY_RULES: tuple[Rule, ...] = (non_finite, bad_input_scaling, memory_leaks, no_episode_ended, early_collapse)


def too_early(facts: RunFacts, seen: str = "") -> Finding:
    """The finding about a run that has hardly begun. seen: what is known so far."""
    return Finding(
        "too early to tell",
        "WARN",
        f"{facts.updates} updates, {number(facts.history.env_steps)} environment steps; verdicts on the model need "
        f"{number(LIMITS['early updates'])} updates, on returns {number(LIMITS['returns updates'])}"
        + (f"; {seen}" if seen else ""),
        "Before that, healthy and broken runs look alike.",
        "train.env_steps",
        "train longer and run the doctor again",
    )


def healthy(facts: RunFacts) -> Finding:
    """The finding about a run without faults: its most important numbers.

    "healthy" only where the return has left the level of the random policy, beyond the interval.
    """
    m, parts = facts.measured, []
    if m is not None and finite(m.kl):
        explained = max(m.explained.values(), default=0.0)
        parts.append(
            f"the posterior has {number(m.information)} nats of information, the prior's KL is {number(m.kl)} nats"
        )
        parts.append(f"reconstructions explain {100 * explained:.0f} % of the observations")
        if m.drift is not None:
            parts.append(f"useful horizon {m.drift.useful} of {m.drift.imagination_horizon} imagined steps")
        parts.append(f"policy {100 * m.randomness:.0f} % random")
    compared = facts.history.against_random()
    if compared is None:
        parts.append("returns cannot be compared with the random policy's: too few episodes of one of them")
        return Finding(
            "no fault found", "OK", "; ".join(parts), "Whether it has learned, returns have to show.", "", "train on"
        )
    parts.append(compared.text)
    if not compared.better:
        return too_early(facts, "; ".join(parts))
    return Finding(
        "healthy",
        "OK",
        "; ".join(parts),
        "The doctor found no fault.",
        "",
        "nothing to change",
    )


def without_contradictions(findings: Sequence[Finding]) -> list[Finding]:
    """The same findings, where only the first one that names a setting says what to do with it.

    A later one may want the opposite, or another value: it refers to the first, which is the cause or the worse one.
    """
    advised: dict[str, Finding] = {}
    kept = []
    for finding in findings:
        first = advised.setdefault(finding.key, finding)
        if finding.key and first.change != finding.change:
            change = f"first do what '{first.verdict}' says about {finding.key}, then run the doctor again"
            finding = replace(finding, key="", change=change)
        kept.append(finding)
    return kept


def apply_rules(facts: RunFacts, *, most: int = 5) -> list[Finding]:
    """At most `most` findings, the worst first, causes before effects; `healthy` if no rule finds a fault."""
    rules = EARLY_RULES if facts.early or facts.measured is None else RULES
    found = [finding for finding in (rule(facts) for rule in rules) if finding is not None]
    if rules is EARLY_RULES:
        found.append(too_early(facts))
    if all(finding.level == "OK" for finding in found):
        found.insert(0, healthy(facts))
    found.sort(key=lambda finding: LEVELS.index(finding.level))  # stable: the order of causes stays
    return without_contradictions(found[:most])
