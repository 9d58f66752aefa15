"""The doctor's rules about the task: whether there is something to learn from, and whether anything was learned.

A rule is a pure function from the `RunFacts` of a run to a `Finding`, or None if it does not see its fault; more in
`rules_model.py`. `rules.py` has the list of all rules.
"""

from __future__ import annotations

import math

from ..observations import CUT_AT
from .findings import LIMITS, Finding, RunFacts, number


def no_episode_ended(facts: RunFacts) -> Finding | None:
    """Fault: episodes are so long, or endless, that not one was completed."""
    m, history, env = facts.measured, facts.history, facts.config.env
    steps = history.env_steps / max(1, env.num_envs)
    if m is None or m.task.ended or history.returns or steps < LIMITS["endless"]:
        return None
    return Finding(
        "no episode has ended",
        "WARN",
        f"not one episode ended in {number(steps)} steps of each of {env.num_envs} environments",
        "There is no return to judge by, every experience is from one start, and nothing is learned about ends.",
        "env.time_limit",
        "set it to 500, or to what one attempt at the task needs",
    )


def reward_never_varies(facts: RunFacts) -> Finding | None:
    """Fault: every action pays the same, and no episode ends by what the agent does."""
    m, train = facts.measured, facts.config.train
    if m is None or not m.task.constant or m.terminals * m.steps >= 1 or facts.history.better_than_random():
        return None
    paid = m.task.paid[1]
    evidence = f"not one of {number(m.steps)} steps in the replay has a reward"
    if paid:
        evidence = f"each of {number(m.steps)} steps in the replay paid {number(paid)}, and none ended the task"
    return Finding(
        "reward never varies",
        "FAIL" if paid and facts.returns_judged else "WARN",
        evidence,
        "As far as the agent has seen, all actions are equally good: no loss can separate them.",
        "train.prefill",
        f"raise it from {train.prefill} to {10 * max(1, train.prefill)} if random actions reach the goal in that time; "
        "else pay for progress towards it",
    )


def rewards_too_small(facts: RunFacts) -> Finding | None:
    """Fault: rewards that weigh nothing beside the KL and the entropy bonus."""
    m = facts.measured
    if m is None or not 0 < m.planned_reward < LIMITS["reward small"] or facts.history.better_than_random():
        return None
    factor = 10.0 ** -round(math.log10(m.planned_reward))
    return Finding(
        "rewards too small",
        "WARN",
        f"the largest reward is {number(m.planned_reward)} on the scale that the actor plans on: knowing it saves "
        f"{number(0.5 * m.planned_reward**2)} nats; behavior.entropy_scale is {facts.config.behavior.entropy_scale:g}",
        "The reward head gains more by sparing the KL than by knowing rewards, and the entropy bonus outweighs them.",
        "model.reward_unit",
        f"set it to {facts.config.model.reward_unit / factor:g}: rewards are divided by it",
    )


def is_noise(facts: RunFacts) -> bool:
    """Whether rewards vary, and neither the model nor any simple predictor foresees them.

    Dense rewards only: of rare ones there are too few to say so. Not where episodes end by what the agent does, which
    changes the return even if each reward is noise.
    """
    m = facts.measured
    if m is None or m.task.foresight is None or m.task.constant or m.terminals * m.steps >= 1:
        return False
    explained = m.reward_explained if m.reward_explained is not None else 0.0
    weak = max(m.task.foresight.reward, explained) < LIMITS["noise"]
    return m.rewarding > LIMITS["dense"] and weak and not facts.history.better_than_random()


def nothing_to_learn(facts: RunFacts) -> Finding | None:
    """Fault: rewards are noise."""
    m = facts.measured
    if m is None or m.task.foresight is None or not is_noise(facts):
        return None
    known, explained = m.task.foresight, m.reward_explained or 0.0
    return Finding(
        "nothing to learn",
        "WARN",
        f"observations and actions of the last {LIMITS['lags']:g} steps explain {100 * known.reward:.1f} % of the "
        f"rewards' variance by simple predictors, the reward head {100 * max(0.0, explained):.1f} % "
        f"({number(known.steps)} steps)",
        "As far as that shows, rewards do not depend on what the agent sees or does; no setting changes that.",
        "",
        "check the environment: is the reward computed from the state, and does the agent see that state?",
    )


def needs_longer_window(facts: RunFacts) -> bool:
    """Whether rewards depend on an observation that lies outside the windows that the model is trained on."""
    m = facts.measured
    if m is None or m.task.foresight is None:
        return False
    known = m.task.foresight
    return known.lag >= facts.config.train.seq_len and known.reward - known.recent > LIMITS["memory"]


def window_too_short(facts: RunFacts) -> Finding | None:
    """Fault: the task needs memory of more steps than a training sequence has."""
    m, train = facts.measured, facts.config.train
    if m is None or m.task.foresight is None or not needs_longer_window(facts):
        return None
    known = m.task.foresight
    return Finding(
        "window too short",
        "WARN" if facts.history.better_than_random() else "FAIL",
        f"the observation {known.lag} steps before and the action explain {100 * known.reward:.0f} % of the rewards' "
        f"variance; what lies within {train.seq_len} steps, the length of a training sequence, explains "
        f"{100 * known.recent:.0f} %",
        "A sequence begins with an empty state: what came before it cannot be learned to be remembered.",
        "train.seq_len",
        f"raise it from {train.seq_len} to {max(2 * known.lag, known.lag + 8)}",
    )


def reward_blind(facts: RunFacts) -> Finding | None:
    """Fault: a head that does not predict rewards, although they can be predicted."""
    m, config = facts.measured, facts.config
    if m is None or m.task.constant or is_noise(facts) or needs_longer_window(facts):
        return None  # nothing to predict, or not with such windows
    sparse = m.rewarding < LIMITS["dense"]
    explained = m.reward_contrast if sparse else m.reward_explained
    if m.events < LIMITS["events"] or explained is None or explained > LIMITS["contrast"]:
        return None
    evidence = f"{100 * max(0.0, explained):.0f} % of a reward is predicted in the step that pays it"
    evidence = evidence if sparse else f"the head explains {100 * max(0.0, explained):.0f} % of the rewards' variance"
    if m.task.foresight is not None and m.task.foresight.reward > LIMITS["contrast"]:
        known = m.task.foresight
        back = f" {known.lag} steps before" if known.lag > 1 else ""
        evidence += f"; simple predictors explain {100 * known.reward:.0f} % by what was seen{back} and done"
    key, change = "model.reward_scale", f"raise it from {config.model.reward_scale:g} to 10"
    if sparse and config.replay.prioritize != "rewards":
        key, change = "replay.prioritize", "set it to rewards: windows with rewards are then drawn more often"
    return Finding(
        "reward head blind",
        "WARN",
        f"{evidence} ({100 * m.rewarding:.1f} % of steps have one, {m.events} in the sample)",
        "The actor sees rewards only through this head.",
        key,
        change,
    )


def image_too_small(facts: RunFacts) -> Finding | None:
    """Fault: images were shrunk until what moves in them is a few pixels."""
    m, env = facts.measured, facts.config.env
    if m is None or facts.history.better_than_random():
        return None
    for key, image in m.task.shown_images.items():
        blind = m.information < LIMITS["information warn"] or m.explained.get(key, 0.0) < LIMITS["explained"]
        shrunk = image.native >= LIMITS["shrunk"] * image.shown
        if shrunk and blind and image.moving < LIMITS["moving pixels"]:
            size = min(image.native, max(64, 2 * image.shown))
            return Finding(
                "image too small",
                "FAIL" if m.information < LIMITS["information"] else "WARN",
                f"'{key}' is shrunk from {image.native} to {image.shown} pixels; {number(image.moving)} of "
                f"{image.shown**2} pixels differ by a tenth of the range from their mean; the state has "
                f"{number(m.information)} nats of information",
                "The squared error of a few pixels is less than what the KL costs: the model learns to ignore them.",
                "env.image_size",
                f"raise it from {env.image_size} to {size}",
            )
    return None


def numbers_cut_off(facts: RunFacts) -> Finding | None:
    """Fault: a vector goes further than random play showed, where all values look the same to the model."""
    m = facts.measured
    if m is None or not m.task.cut or max(m.task.cut.values()) < LIMITS["cut"]:
        return None
    key = max(m.task.cut, key=lambda name: m.task.cut[name])
    fitted = facts.config.model.vector_transform == "standardize"
    return Finding(
        "numbers cut off",
        "WARN",
        f"in {100 * m.task.cut[key]:.1f} % of the newest steps a number of '{key}' is {CUT_AT:g} or more deviations "
        f"from its mean{', as measured in the prefill' if fitted else ''}",
        "Beyond that all values look the same to the model: it cannot know, foresee or avoid what happens there.",
        "model.vector_transform",
        "set it to running: the scale then follows all that was seen"
        if fitted
        else "set it to symlog, which has no limit, or keep outliers out of the observation",
    )


def no_better_than_random(facts: RunFacts) -> Finding | None:
    """Fault: returns have not left the level of the random policy, or are below it."""
    found, train = facts.history.against_random(), facts.config.train
    if found is None or found.better or not facts.returns_judged:
        return None
    worse = "The agent has learned to do the opposite of what pays: dreams are wrong, or the reward's sign is."
    return Finding(
        "worse than random" if found.worse else "no better than random",
        "WARN",
        f"after {number(facts.updates)} updates: {found.text}",
        worse if found.worse else "What was learned so far does not show in the returns.",
        "" if found.worse else "train.env_steps",
        "compare the replay's rewards with those that the environment pays"
        if found.worse
        else f"if no other finding explains it, raise it from {train.env_steps} to {3 * train.env_steps}",
    )


def observations_unforeseeable(facts: RunFacts) -> Finding | None:
    """No fault: the next observation does not depend on the past, so the prior cannot be better than it is."""
    m = facts.measured
    if m is None or m.task.foresight is None or not facts.unforeseeable:
        return None
    return Finding(
        "observations unforeseeable",
        "OK",
        f"the last two observations and the action explain {100 * m.task.foresight.observation:.1f} % of the next "
        f"observation's variance; the prior's KL of {number(m.kl)} nats is close to the {number(m.information)} nats "
        "that an observation brings, and cannot be lower",
        "No verdict on the prior or on the length of dreams: no model could predict more.",
        "",
        "nothing to change",
    )
