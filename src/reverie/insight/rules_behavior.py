"""The doctor's rules about actor, critic and dreams, and the order of all rules. As in `verdicts.py`."""

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


def critic_diverging(case: RunFacts) -> Finding | None:
    """Values beyond any possible return, or targets that no longer follow."""
    m, behavior = case.measured, case.config.behavior
    if m is None or not finite(m.highest_value):
        return None
    bound = m.planned_reward / max(1e-6, 1 - behavior.gamma)
    why = "The actor climbs the critic's values: what is wrong in them is what it learns."
    if bound > 0 and m.highest_value > LIMITS["value"] * bound:
        return Finding(
            "critic diverging", "FAIL",
            f"values reach {number(m.highest_value)}, but rewards up to {number(m.planned_reward)} at gamma "
            f"{behavior.gamma:g} allow {number(bound)} at most",
            why, "behavior.critic_lr", f"lower it from {behavior.critic_lr:.1g} to {behavior.critic_lr / 5:.1g}",
        )  # fmt: skip
    if behavior.slow_critic and m.slow_gap > LIMITS["slow gap warn"]:
        return Finding(
            "critic diverging", "FAIL" if m.slow_gap > LIMITS["slow gap fail"] else "WARN",
            f"the slow critic, which makes the targets, differs from the critic by {100 * m.slow_gap:.0f} % of its "
            f"values (sound: below 10 %); it is renewed every {number(behavior.slow_critic_every)} updates",
            "With targets that do not follow, nothing beyond one dream is ever learnt. " + why,
            "behavior.slow_critic_every", "set it to 100",
        )  # fmt: skip
    return None


def actor_random(case: RunFacts) -> Finding | None:
    """The policy is still as random as at the beginning, and no better."""
    m, behavior = case.measured, case.config.behavior
    if m is None or not finite(m.randomness) or m.randomness < LIMITS["random"]:
        return None
    if case.history.better_than_random() and behavior.entropy_scale < 0.1:
        return None
    told = {True: "better than", False: "no better than", None: "not compared with"}[case.history.better_than_random()]
    return Finding(
        "actor random", "WARN",
        f"the policy has {100 * m.randomness:.0f} % of the largest possible randomness after {number(case.updates)} "
        f"updates; its returns are {told} the random policy's; behavior.entropy_scale is {behavior.entropy_scale:g}",
        "Either the entropy bonus outweighs all rewards, or there is no advantage to be seen in the dreams.",
        "behavior.entropy_scale",
        f"lower it from {behavior.entropy_scale:g} to {min(1e-3, behavior.entropy_scale / 10):g}",
    )  # fmt: skip


def actor_collapsed(case: RunFacts) -> Finding | None:
    """The policy always does the same in a state, and explores no more."""
    m, behavior = case.measured, case.config.behavior
    if m is None or not finite(m.randomness):
        return None
    lowest = case.history.lowest("actor/entropy")
    early = lowest / m.most_entropy if lowest is not None and finite(m.most_entropy) else 1.0
    if m.randomness > LIMITS["collapsed"] and early > LIMITS["collapsed early"]:
        return None
    no_bonus = max(behavior.entropy_scale, behavior.entropy_final if behavior.entropy_decay else 0.0) < 1e-5
    if case.history.better_than_random() and not no_bonus:
        return None  # sharp because it knows
    return Finding(
        "actor collapsed",
        "WARN" if case.history.better_than_random() or m.randomness > LIMITS["collapsed"] else "FAIL",
        f"the policy has {100 * m.randomness:.1f} % of the largest possible randomness after {number(case.updates)} "
        f"updates"
        + (f", {100 * early:.1f} % at its lowest early in the run" if early < 1 else "")
        + f"; behavior.entropy_scale is {behavior.entropy_scale:g}",
        "It no longer tries anything else: replay fills with the same, and a better way is never found.",
        "behavior.entropy_scale",
        f"raise it from {behavior.entropy_scale:g} to {max(3e-3, behavior.entropy_scale * 3):g}",
    )  # fmt: skip


def imagination_drift(case: RunFacts) -> Finding | None:
    """Dreams are longer than they are good."""
    m, behavior = case.measured, case.config.behavior
    if m is None or m.drift is None or not m.drift.warning:
        return None
    drift = m.drift
    floor, guess = drift.error["floor"][0], drift.error["mean"][0]
    blurred = floor is None or guess is None or floor > LIMITS["drift floor"] * guess
    kl = [value for value in drift.latent_kl if value is not None]
    told = "the reconstruction itself is hardly better than guessing, so this says little" if blurred else ""
    return Finding(
        "imagination drift", "WARN",
        f"useful horizon {drift.useful_horizon} of {behavior.imagination_horizon} imagined steps; latent KL grows from "
        f"{number(kl[0])} to {number(kl[-1])} nats" + (f"; {told}" if told else ""),
        "The actor learns from the whole dream, also from the part that is no better than guessing.",
        "behavior.imagination_horizon", f"lower it to {max(5, drift.useful_horizon)}, or train the world model longer",
    )  # fmt: skip


#: In the order of causes: who stands above explains who stands below.
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
#: What can be told before anything has been learnt.
AT_ONCE: tuple[Rule, ...] = (non_finite, bad_input_scaling, memory_leaks)


def too_early(case: RunFacts) -> Finding:
    """What to say of a run that has hardly begun."""
    return Finding(
        "too early to tell", "WARN",
        f"{case.updates} updates, {number(case.history.env_steps)} environment steps; verdicts on what is learnt need "
        f"{number(LIMITS['early updates'])} updates",
        "Before that, healthy and broken runs look alike.", "train.env_steps", "train longer and ask again",
    )  # fmt: skip


def healthy(case: RunFacts) -> Finding:
    """The numbers of a run in which nothing was found."""
    m, parts = case.measured, []
    if m is not None and finite(m.kl):
        explained = max(m.explained.values(), default=0.0)
        parts.append(f"a look tells {number(m.information)} nats, the prior misses {number(m.kl)} of them")
        parts.append(f"reconstructions explain {100 * explained:.0f} % of the observations")
        if m.drift is not None:
            parts.append(f"useful horizon {m.drift.useful_horizon} of {m.drift.imagination_horizon} imagined steps")
        parts.append(f"policy {100 * m.randomness:.0f} % random")
    if case.history.random and case.history.returns:
        recent = case.history.returns[-20:]
        parts.append(
            f"return {number(sum(recent) / len(recent))}, random policy "
            f"{number(sum(case.history.random) / len(case.history.random))}"
        )
    return Finding(
        "healthy", "OK", "; ".join(parts) or f"{case.updates} updates", "Nothing that the doctor knows of is wrong.",
        "", "nothing to change",
    )  # fmt: skip


def judge(case: RunFacts, *, most: int = 5) -> list[Finding]:
    """At most `most` findings, FAIL before WARN, causes before effects; never none."""
    rules = AT_ONCE if case.early or case.measured is None else RULES
    found = [finding for finding in (rule(case) for rule in rules) if finding is not None]
    if rules is AT_ONCE:
        found.append(too_early(case))
    found.sort(key=lambda finding: finding.level != "FAIL")  # stable: the order of causes stays
    return found[:most] or [healthy(case)]
