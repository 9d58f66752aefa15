"""The doctor's rules about actor, critic and dreams, and the list of all rules.

A rule is a pure function from the `RunFacts` of a run to a `Finding`, or None if it does not see its fault; more in
`rules_model.py`. `RULES` is their order, causes before effects, and `apply_rules` applies them.
"""

from __future__ import annotations

from collections.abc import Callable

from .findings import LIMITS, Finding, RunFacts, finite, number
from .rules_model import (
    actions_ignored,
    bad_input_scaling,
    categorical_degeneracy,
    continue_miscalibrated,
    memory_leaks,
    non_finite,
    posterior_collapse,
    prior_not_learning,
    reward_blind,
    starved_replay,
    unstable,
)

Rule = Callable[[RunFacts], Finding | None]


def critic_diverging(facts: RunFacts) -> Finding | None:
    """Fault: values beyond any possible return, or targets that no longer follow the critic."""
    m, behavior = facts.measured, facts.config.behavior
    if m is None or not finite(m.highest_value):
        return None
    bound = m.planned_reward / max(1e-6, 1 - behavior.gamma)
    why = "The actor maximizes the critic's values, so it learns their errors."
    if bound > 0 and m.highest_value > LIMITS["value"] * bound:
        return Finding(
            "critic diverging",
            "FAIL",
            f"values reach {number(m.highest_value)}, but rewards up to {number(m.planned_reward)} at gamma "
            f"{behavior.gamma:g} allow {number(bound)} at most",
            why,
            "behavior.critic_lr",
            f"lower it from {behavior.critic_lr:.1g} to {behavior.critic_lr / 5:.1g}",
        )
    if behavior.slow_critic and m.slow_gap > LIMITS["slow gap warn"]:
        return Finding(
            "critic diverging",
            "FAIL" if m.slow_gap > LIMITS["slow gap fail"] else "WARN",
            f"the slow critic, which makes the targets, differs from the critic by {100 * m.slow_gap:.0f} % of its "
            f"values (healthy: below 10 %); it is updated every {number(behavior.slow_critic_every)} updates",
            "With targets that do not follow, nothing beyond the length of a dream is learned. " + why,
            "behavior.slow_critic_every",
            "set it to 100",
        )
    return None


def actor_random(facts: RunFacts) -> Finding | None:
    """Fault: the policy is still as random as at the beginning, and no better."""
    m, behavior = facts.measured, facts.config.behavior
    if m is None or not finite(m.randomness) or m.randomness < LIMITS["random"]:
        return None
    if facts.history.better_than_random() and behavior.entropy_scale < 0.1:
        return None
    better = facts.history.better_than_random()
    comparison = {True: "better than", False: "no better than", None: "not compared with"}[better]
    return Finding(
        "actor random",
        "WARN",
        f"the policy has {100 * m.randomness:.0f} % of the largest possible randomness after {number(facts.updates)} "
        f"updates; its returns are {comparison} the random policy's; behavior.entropy_scale is "
        f"{behavior.entropy_scale:g}",
        "Either the entropy bonus outweighs all rewards, or the dreams show no advantage of any action.",
        "behavior.entropy_scale",
        f"lower it from {behavior.entropy_scale:g} to {min(1e-3, behavior.entropy_scale / 10):g}",
    )


def actor_collapsed(facts: RunFacts) -> Finding | None:
    """Fault: the policy is deterministic and no longer explores."""
    m, behavior = facts.measured, facts.config.behavior
    if m is None or not finite(m.randomness):
        return None
    lowest = facts.history.lowest("actor/entropy")
    early = lowest / m.most_entropy if lowest is not None and finite(m.most_entropy) else 1.0
    if m.randomness > LIMITS["collapsed"] and early > LIMITS["collapsed early"]:
        return None
    no_bonus = max(behavior.entropy_scale, behavior.entropy_final if behavior.entropy_decay else 0.0) < 1e-5
    if facts.history.better_than_random() and not no_bonus:
        return None  # certain because it has learned
    return Finding(
        "actor collapsed",
        "WARN" if facts.history.better_than_random() or m.randomness > LIMITS["collapsed"] else "FAIL",
        f"the policy has {100 * m.randomness:.1f} % of the largest possible randomness after {number(facts.updates)} "
        f"updates"
        + (f", {100 * early:.1f} % at its lowest early in the run" if early < 1 else "")
        + f"; behavior.entropy_scale is {behavior.entropy_scale:g}",
        "It no longer tries other actions: the replay fills with the same experience, and nothing better is found.",
        "behavior.entropy_scale",
        f"raise it from {behavior.entropy_scale:g} to {max(3e-3, behavior.entropy_scale * 3):g}",
    )


def imagination_drift(facts: RunFacts) -> Finding | None:
    """Fault: dreams are longer than the useful horizon."""
    m, behavior = facts.measured, facts.config.behavior
    if m is None or m.drift is None or not m.drift.warning:
        return None
    drift = m.drift
    floor, guess = drift.error["floor"][0], drift.error["mean"][0]
    blurred = floor is None or guess is None or floor > LIMITS["drift floor"] * guess
    kl = [value for value in drift.latent_kl if value is not None]
    caveat = "the reconstruction itself is hardly better than guessing, so this says little" if blurred else ""
    return Finding(
        "imagination drift",
        "WARN",
        f"useful horizon {drift.useful_horizon} of {behavior.imagination_horizon} imagined steps; latent KL grows from "
        f"{number(kl[0])} to {number(kl[-1])} nats" + (f"; {caveat}" if caveat else ""),
        "The actor learns from the whole dream, including the part that is no better than guessing.",
        "behavior.imagination_horizon",
        f"lower it to {max(5, drift.useful_horizon)}, or train the world model longer",
    )


#: All rules, causes before effects: an earlier finding may explain a later one.
RULES: tuple[Rule, ...] = (
    non_finite,
    bad_input_scaling,
    memory_leaks,
    unstable,
    starved_replay,
    posterior_collapse,
    categorical_degeneracy,
    actions_ignored,
    prior_not_learning,
    continue_miscalibrated,
    critic_diverging,
    actor_random,
    actor_collapsed,
    reward_blind,
    imagination_drift,
)
#: The rules that apply before anything has been learned.
EARLY_RULES: tuple[Rule, ...] = (non_finite, bad_input_scaling, memory_leaks)


def too_early(facts: RunFacts) -> Finding:
    """The finding about a run that has hardly begun."""
    return Finding(
        "too early to tell",
        "WARN",
        f"{facts.updates} updates, {number(facts.history.env_steps)} environment steps; verdicts on learning need "
        f"{number(LIMITS['early updates'])} updates",
        "Before that, healthy and broken runs look alike.",
        "train.env_steps",
        "train longer and run the doctor again",
    )


def healthy(facts: RunFacts) -> Finding:
    """The finding about a run without faults: its most important numbers."""
    m, parts = facts.measured, []
    if m is not None and finite(m.kl):
        explained = max(m.explained.values(), default=0.0)
        parts.append(
            f"the posterior has {number(m.information)} nats of information, the prior's KL is {number(m.kl)} nats"
        )
        parts.append(f"reconstructions explain {100 * explained:.0f} % of the observations")
        if m.drift is not None:
            parts.append(f"useful horizon {m.drift.useful_horizon} of {m.drift.imagination_horizon} imagined steps")
        parts.append(f"policy {100 * m.randomness:.0f} % random")
    if facts.history.random and facts.history.returns:
        recent = facts.history.returns[-20:]
        parts.append(
            f"return {number(sum(recent) / len(recent))}, random policy "
            f"{number(sum(facts.history.random) / len(facts.history.random))}"
        )
    return Finding(
        "healthy",
        "OK",
        "; ".join(parts) or f"{facts.updates} updates",
        "The doctor found no fault.",
        "",
        "nothing to change",
    )


def apply_rules(facts: RunFacts, *, most: int = 5) -> list[Finding]:
    """At most `most` findings, FAIL before WARN, causes before effects; `healthy` if no rule finds a fault."""
    rules = EARLY_RULES if facts.early or facts.measured is None else RULES
    found = [finding for finding in (rule(facts) for rule in rules) if finding is not None]
    if rules is EARLY_RULES:
        found.append(too_early(facts))
    found.sort(key=lambda finding: finding.level != "FAIL")  # stable: the order of causes stays
    return found[:most] or [healthy(facts)]
