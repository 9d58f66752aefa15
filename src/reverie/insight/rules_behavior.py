"""The doctor's rules about actor, critic and dreams.

A rule is a pure function from the `RunFacts` of a run to a `Finding`, or None if it does not see its fault; more in
`rules_model.py`. `rules.py` has the list of all rules.
"""

from __future__ import annotations

from .findings import LIMITS, Finding, RunFacts, finite, number
from .history import median
from .task_numbers import relative_entropy


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
    sizable = m.highest_value > LIMITS["values seen"] * m.planned_reward  # a critic of nearly 0 has large relative gaps
    if behavior.slow_critic and m.slow_gap > LIMITS["slow gap warn"] and sizable:
        rarely = behavior.slow_critic_every > 100
        key, change = "behavior.slow_critic_every", f"lower it from {behavior.slow_critic_every} to 100"
        if not rarely:
            key, change = (
                "behavior.critic_lr",
                f"lower it from {behavior.critic_lr:.1g} to {behavior.critic_lr / 3:.1g}",
            )
        return Finding(
            "critic diverging",
            "FAIL" if m.slow_gap > LIMITS["slow gap fail"] else "WARN",
            f"the slow critic, which makes the targets, differs from the critic by {100 * m.slow_gap:.0f} % of its "
            f"values (healthy: below 10 %); it is updated every {number(behavior.slow_critic_every)} updates",
            "With targets that do not follow, nothing beyond the length of a dream is learned. " + why,
            key,
            change,
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
        *_less_entropy(facts),
    )


def _less_entropy(facts: RunFacts) -> tuple[str, str]:
    """The setting that lets a policy become more certain, and the change."""
    behavior = facts.config.behavior
    if behavior.entropy_target:
        target = behavior.entropy_target
        return "behavior.entropy_target", f"lower it from {target:g} to {target / 2:g}, or train longer"
    scale = behavior.entropy_scale
    return "behavior.entropy_scale", f"lower it from {scale:g} to {min(1e-3, scale / 10):g}"


def one_sided(facts: RunFacts) -> Finding | None:
    """Fault: nearly all advantages have one sign, so that whatever was tried is made more likely, or less."""
    m, behavior = facts.measured, facts.config.behavior
    means, spreads = facts.history.series("actor/advantage"), dict(facts.history.series("actor/advantage_std"))
    ratios = [mean / max(spreads[at], 1e-8) for at, mean in means if at in spreads]
    if m is None or not finite(m.most_entropy) or len(ratios) < 6:
        return None  # numbers are learned by gradients through the dream, where advantages do not matter
    late = median(ratios[-(len(ratios) // 3) :])
    if abs(late) < LIMITS["one-sided"]:
        return None
    key, change = (
        "behavior.critic_lr",
        f"raise it from {behavior.critic_lr:.1g} to {max(1e-3, 3 * behavior.critic_lr):.1g}",
    )
    if behavior.critic_lr > LIMITS["critic lr"] and behavior.slow_critic_every > 10:
        key, change = (
            "behavior.slow_critic_every",
            f"lower it from {behavior.slow_critic_every} to 10: targets follow sooner",
        )
    return Finding(
        "one-sided advantages",
        "WARN",
        f"the mean advantage is {late:+.1f} of its deviations (median of the last third of the run), so most have one "
        f"sign; the critic's values are {number(m.value[0])} on average, its learning rate is {behavior.critic_lr:.1g}",
        "The critic has not arrived at the level of the returns: the actor repeats or avoids whatever it tried, and "
        "learns nothing about which action is better.",
        key,
        change,
    )


def entropy_shares(facts: RunFacts) -> list[tuple[int, float]]:
    """(updates, share of the way from the least to the largest entropy), as medians of five lines of the log."""
    m = facts.measured
    if m is None or not finite(m.most_entropy):
        return []
    least = m.least_entropy if finite(m.least_entropy) else 0.0
    lines = facts.history.series("actor/entropy")
    return [
        (lines[i + 4][0], relative_entropy(median([value for _, value in lines[i : i + 5]]), least, m.most_entropy))
        for i in range(len(lines) - 4)
    ]


def _no_bonus(facts: RunFacts) -> bool:
    behavior = facts.config.behavior
    if behavior.entropy_target:
        return False
    return max(behavior.entropy_scale, behavior.entropy_final if behavior.entropy_decay else 0.0) < 1e-5


def _more_entropy(facts: RunFacts) -> tuple[str, str]:
    """The setting that keeps a policy more random, and the change."""
    behavior = facts.config.behavior
    if behavior.entropy_target:
        final = behavior.entropy_target_final
        return "behavior.entropy_target_final", f"raise it from {final:g} to {min(0.6, max(0.2, 2 * final)):g}"
    scale = behavior.entropy_scale
    return "behavior.entropy_scale", f"raise it from {scale:g} to {max(3e-3, scale * 3):g}"


def early_collapse(facts: RunFacts) -> Finding | None:
    """Fault: the policy became certain before the model or the critic knew anything."""
    m, behavior = facts.measured, facts.config.behavior
    if m is None or not finite(m.most_entropy) or facts.history.better_than_random() or _no_bonus(facts):
        return None
    limit = LIMITS["early collapse"]
    fell = [at for at, share in entropy_shares(facts) if share < limit and at <= LIMITS["early collapse updates"]]
    if m.randomness > limit or not (fell or facts.updates <= LIMITS["early collapse updates"]):
        return None
    blind = m.information < LIMITS["information warn"]
    if facts.early and not blind and m.randomness > limit / 3:
        return None  # healthy runs dip there, too, and come back
    knows = f"the state has {number(m.information)} nats of information from the observation"
    return Finding(
        "early collapse",
        "WARN" if facts.early else "FAIL",
        f"the policy has {100 * max(0.0, m.randomness):.1f} % of the largest possible randomness after "
        f"{number(facts.updates)} updates"
        + (f", and fell below {100 * limit:.0f} % by update {number(fell[0])}" if fell else "")
        + f"; returns are not better than random; {knows}"
        + (", so the model is still blind" if blind else ""),
        "What it is certain of are errors of a critic that knew nothing; it no longer tries what would show that.",
        "behavior.actor_lr",
        f"lower it from {behavior.actor_lr:.1g} to {behavior.actor_lr / 5:.1g}, so that model and critic learn first",
    )


def actor_collapsed(facts: RunFacts) -> Finding | None:
    """Fault: the policy is deterministic and no longer explores."""
    m, behavior = facts.measured, facts.config.behavior
    if m is None or not finite(m.randomness) or m.randomness > 0.5 or early_collapse(facts):
        return None
    shares = entropy_shares(facts)
    early = min((share for _, share in shares[: max(1, len(shares) // 2)]), default=1.0)
    if m.randomness > LIMITS["collapsed"] and early > LIMITS["collapsed early"]:
        return None
    better = facts.history.better_than_random()
    if better and not _no_bonus(facts):
        return None  # certain because it has learned
    return Finding(
        "actor collapsed",
        "WARN" if better or m.randomness > LIMITS["collapsed"] else "FAIL",
        f"the policy has {100 * max(0.0, m.randomness):.1f} % of the largest possible randomness after "
        f"{number(facts.updates)} updates"
        + (f", {100 * max(0.0, early):.1f} % at its lowest early in the run" if early < 1 else "")
        + f"; behavior.entropy_scale is {behavior.entropy_scale:g}",
        "It no longer tries other actions: the replay fills with the same experience, and nothing better is found.",
        *_more_entropy(facts),
    )


def imagination_drift(facts: RunFacts) -> Finding | None:
    """Fault: dreams are longer than the useful horizon."""
    m, behavior = facts.measured, facts.config.behavior
    if m is None or m.drift is None or not m.drift.warning or facts.unforeseeable:
        return None
    drift, shorter = m.drift, max(5, m.drift.useful_horizon)
    change = f"lower it to {shorter}, or" if shorter < behavior.imagination_horizon else "it is short already:"
    floor, guess = drift.error["floor"][0], drift.error["mean"][0]
    blurred = floor is None or guess is None or floor > LIMITS["drift floor"] * guess
    kl = [value for value in drift.latent_kl if value is not None]
    caveat = "the reconstruction itself is hardly better than guessing, so this says little" if blurred else ""
    return Finding(
        "imagination drift",
        "WARN",
        f"useful horizon {drift.useful} of {behavior.imagination_horizon} imagined steps; latent KL grows from "
        f"{number(kl[0])} to {number(kl[-1])} nats" + (f"; {caveat}" if caveat else ""),
        "The actor learns from the whole dream, including the part that is no better than guessing.",
        "behavior.imagination_horizon",
        f"{change} train the world model longer",
    )
