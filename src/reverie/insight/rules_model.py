"""The doctor's rules about inputs, training and the world model.

A rule is a pure function: it gets the `RunFacts` of a run (configuration, logs, measurements) and returns a `Finding`
if it finds its fault, otherwise None. One rule stands for one fault, which its docstring names. All thresholds are in
`findings.LIMITS`. `rules_task.py` has the rules about the task, `rules_behavior.py` those about actor, critic and
dreams, and `rules.py` the list of all: to add one, write the function and put it there.
"""

from __future__ import annotations

from .findings import LIMITS, Finding, RunFacts, finite, number
from .measurements import Measurements

# --------------------------------------------------------------------------------------------------- numbers and inputs


def non_finite(facts: RunFacts) -> Finding | None:
    """Fault: NaN or infinity in weights or logs, or a NaN report."""
    history, lr = facts.history, facts.config.model.world_model_lr
    why = "One NaN spreads to all weights within an update; what was learned since the last checkpoint is lost."
    change = f"lower it to {lr / 3:.1g}; `reverie replay-crash RUN` names the tensor that broke first"
    broken = facts.measured.broken if facts.measured else ()
    if broken or history.crashed:
        evidence = (
            f"{len(broken)} tensors hold NaN or infinity, first '{broken[0]}'" if broken else "there is a NaN report"
        )
        return Finding("non-finite", "FAIL", evidence, why, "model.world_model_lr", change)
    if history.skipped or history.rollbacks or history.nonfinite:
        evidence = f"{history.skipped} updates skipped, {history.rollbacks} rollbacks"
        evidence += f", '{history.nonfinite[0]}' was once NaN or infinite" if history.nonfinite else ""
        return Finding("non-finite", "WARN", evidence, why, "model.world_model_lr", change)
    return None


def bad_input_scaling(facts: RunFacts) -> Finding | None:
    """Fault: inputs or rewards of a size far from 1."""
    if facts.measured is None:
        return None
    for check in (_image_scale, _vector_scale, _reward_scale):
        finding = check(facts, facts.measured)
        if finding:
            return finding
    return None


def _image_scale(facts: RunFacts, m: Measurements) -> Finding | None:
    for key, (mean, most) in m.inputs.items():
        if key in m.images and most > LIMITS["image input"]:
            return Finding(
                "bad input scaling",
                "FAIL",
                f"the image '{key}' reaches the networks with values up to {number(most)}, mean {number(mean)}; "
                "expected -0.5 to 0.5",
                "First layers saturate, and squared errors of pixels outweigh every other loss.",
                "",
                "divide images by 255 and subtract 0.5 before the encoder (observations.py: preprocess)",
            )
    return None


def _vector_scale(facts: RunFacts, m: Measurements) -> Finding | None:
    for key, (low, high) in m.deviations.items():
        if high > LIMITS["vector input warn"] or low < LIMITS["vector input small"]:
            level = "FAIL" if high > LIMITS["vector input fail"] else "WARN"
            return Finding(
                "bad input scaling",
                level,
                f"dimensions of '{key}' have deviations from {number(low)} to {number(high)} when they reach the "
                "networks; about 1 is expected",
                "The squared error of a large dimension outweighs the others; a small one costs less than the KL and "
                "is ignored.",
                "model.vector_transform",
                "set it to standardize, or to running if the range grows during training",
            )
    return None


def _reward_scale(facts: RunFacts, m: Measurements) -> Finding | None:
    if m.planned_reward <= LIMITS["reward warn"]:
        return None
    squashed = facts.config.model.reward_transform in ("symlog", "twohot")
    key, change = ("model.reward_transform", "set it to tanh, or divide rewards in the environment")
    if squashed:
        key = "behavior.critic_transform"
        change = "set it to symlog together with behavior.return_norm=percentile, or divide rewards in the environment"
    return Finding(
        "bad input scaling",
        "FAIL" if m.planned_reward > LIMITS["reward fail"] else "WARN",
        f"rewards reach {number(m.planned_reward)} in size (from {number(m.rewards[0])} to {number(m.rewards[1])}), "
        "and values are sums of them",
        "Losses of critic and actor grow with rewards: entropy no longer counts, and the critic lags behind.",
        key,
        change,
    )


def memory_leaks(facts: RunFacts) -> Finding | None:
    """Fault: the state after a reset depends on the episode before it."""
    m = facts.measured
    if m is None or not m.leak > LIMITS["leak"]:
        return None
    return Finding(
        "memory leaks",
        "FAIL",
        f"the state after a reset changes by up to {number(m.leak)} when only the episode before it is exchanged",
        "A new episode must begin with an empty state; here the agent acts on memories of another episode.",
        "",
        "use is_first: zero state and action there (rssm.py: DiscreteRSSM.observe)",
    )


# ------------------------------------------------------------------------------------------------------------- training


def unstable(facts: RunFacts) -> Finding | None:
    """Fault: the world model's loss rises or jumps, or its weights grow."""
    key, lr = "world_model/loss", facts.config.model.world_model_lr
    ends, values = facts.history.thirds(key), facts.history.metrics.get(key, [])
    signs = []
    if ends and ends[1] > LIMITS["loss rise"] * max(ends[0], 1e-3):
        signs.append(f"its loss rose from {number(ends[0])} to {number(ends[1])}")
    late = values[len(values) // 3 :]
    if ends and max(late) > LIMITS["loss spike"] * max(sorted(values)[len(values) // 2], 1e-3):
        signs.append(f"one line reached {number(max(late))}, the median is {number(sorted(values)[len(values) // 2])}")
    if facts.measured is not None and facts.measured.growth > LIMITS["growth"]:
        signs.append(f"its weights have grown to {facts.measured.growth:.1f} times their initial size")
        if lr > LIMITS["learning rate"]:
            signs.append(f"its learning rate is {lr:.1g}")
    if not signs:
        return None
    return Finding(
        "unstable",
        "FAIL" if len(signs) > 1 else "WARN",
        "the world model: " + "; ".join(signs),
        "Steps that are too large undo what was learned, and actor and critic train on a model that keeps changing.",
        "model.world_model_lr",
        f"lower it from {lr:.1g} to {min(3e-4, lr / 10):.1g}",
    )


def starved_replay(facts: RunFacts) -> Finding | None:
    """Fault: every update sees the same few steps, or each step is replayed far too often."""
    config, m = facts.config, facts.measured
    per_update = config.train.batch_size * config.train.seq_len
    steps = min(facts.history.env_steps, config.replay.replay_capacity)
    if m is not None and m.steps < steps:
        steps = m.steps
    if facts.history.env_steps > 2 * steps and steps < LIMITS["replay batches"] * per_update:
        return Finding(
            "starved replay",
            "FAIL",
            f"the replay holds {number(steps)} of {number(facts.history.env_steps)} steps, {steps / per_update:.1f} "
            f"batches of {number(per_update)}",
            "The world model memorizes a few episodes and forgets everything else that it has seen.",
            "replay.replay_capacity",
            f"raise it to {number(max(100_000, 100 * per_update)).replace(',', '')}",
        )
    replays = facts.updates * per_update / max(1, facts.history.env_steps)
    if replays > LIMITS["replays"]:
        ratio = config.train.train_ratio
        return Finding(
            "overfit replay",
            "WARN",
            f"each step was replayed {number(replays)} times on average",
            "The world model memorizes what it has seen and is wrong about what a better policy will see.",
            "train.train_ratio",
            f"lower it from {ratio:g} to {ratio * 0.25:g}, or collect with more environments",
        )
    return None


# ------------------------------------------------------------------------------------------------------ the world model


def posterior_collapse(facts: RunFacts) -> Finding | None:
    """Fault: the latent state has no information from the observation."""
    m, model = facts.measured, facts.config.model
    explained = max(m.explained.values(), default=0.0) if m else 0.0
    if m is None or not finite(m.information) or m.information > LIMITS["information warn"]:
        return None
    if explained > LIMITS["explained"]:
        return None  # a small world has little information
    key, change = "model.kl_scale", f"lower it from {model.kl_scale:g} to {min(0.5, model.kl_scale / 10):g}"
    worth, cheap = sum(m.task.worth.values()), ""
    if m.task.worth and worth < LIMITS["worth"] * model.kl_scale and model.kl_scale <= 1:
        name = "image_scale" if m.images else "vector_scale"
        scale = getattr(model, name)
        larger = max(10 * scale, 10 * scale * model.kl_scale / max(worth, 0.1))
        key, change = f"model.{name}", f"raise it from {scale:g} to {larger:.2g}"
        cheap = (
            f"; knowing the observations exactly saves {number(worth)} nats, at {model.kl_scale:g} for each nat of KL"
        )
    if "obs" in model.detached_heads:
        key, change = "model.detached_heads", "empty it: the observation must shape the state"
    return Finding(
        "posterior collapse",
        "FAIL" if m.information < LIMITS["information"] else "WARN",
        f"the posterior has {number(m.information)} nats of information (healthy: above 5), its KL from the prior is "
        f"{number(m.kl)} nats; reconstructions explain "
        f"{100 * explained:.0f} % of the observations{cheap}",
        "If the state has no information from the observation, rewards cannot be predicted and the actor is blind.",
        key,
        change,
    )


def categorical_degeneracy(facts: RunFacts) -> Finding | None:
    """Fault: categoricals that never change, or that are all the same."""
    m, model = facts.measured, facts.config.model
    if m is None or m.dead is None or m.perplexity is None:
        return None
    why = "The latent has far less capacity than its size suggests: details of the world are lost."
    if m.difference is not None and m.difference < LIMITS["difference"]:
        return Finding(
            "categorical degeneracy",
            "FAIL",
            f"the {model.num_categoricals} categoricals of a state are all the same (they differ by "
            f"{number(m.difference)}, healthy: above 0.5)",
            why,
            "model.num_categoricals",
            "look for tied logits: each categorical needs its own (latents.py: logits)",
        )
    if m.dead > LIMITS["dead warn"]:
        return Finding(
            "categorical degeneracy",
            "FAIL" if m.dead > LIMITS["dead"] else "WARN",
            f"{100 * m.dead:.0f} % of the categoricals never change, mean perplexity {m.perplexity:.1f} of "
            f"{model.num_categories}",
            why,
            "model.unimix",
            "set it to 0.01, so that every class keeps a probability",
        )
    return None


def prior_not_learning(facts: RunFacts) -> Finding | None:
    """Fault: the prior predicts no better than the average posterior."""
    m, model = facts.measured, facts.config.model
    if m is None or not finite(m.kl) or not finite(m.information) or m.information < LIMITS["information"]:
        return None
    ratio = m.kl / m.information
    reversed_ = model.kl_mode == "balanced" and model.kl_balance < 0.5
    if ratio < LIMITS["prior warn"] and not reversed_:
        return None
    if posterior_collapse(facts) or (facts.unforeseeable and not reversed_):
        return None  # a blind state has nothing to predict; what cannot be foreseen is no fault of the prior
    evidence = (
        f"the prior's KL is {number(m.kl)} nats; that of the average of all posteriors is "
        f"{number(m.information)} nats (ratio {ratio:.2f}, healthy: below 0.3)"
    )
    key, change = "model.kl_scale", f"raise it from {model.kl_scale:g} to {max(0.1, model.kl_scale * 3):g}"
    if m.below_free > 0.9:
        key, change = "model.free_nats", f"lower it from {model.free_nats:g} to 1"
        evidence += f"; {100 * m.below_free:.0f} % of states are below the free nats and give no gradient"
    elif reversed_:
        key, change = "model.kl_balance", f"raise it from {model.kl_balance:g} to 0.8"
        evidence += f"; the prior gets {100 * model.kl_balance:.0f} % of the KL's gradient"
    return Finding(
        "prior not learning",
        "FAIL" if ratio > LIMITS["prior fail"] else "WARN",
        evidence,
        "Dreams are sampled from the prior: the actor learns in a world that differs from the real one.",
        key,
        change,
    )


def actions_ignored(facts: RunFacts) -> Finding | None:
    """Fault: dreams do not depend on actions, or depend on those of another step."""
    m = facts.measured
    if m is None or not finite(m.kl) or not finite(m.information) or m.information < LIMITS["information"]:
        return None
    if m.shifted < LIMITS["shifted"]:
        return Finding(
            "actions ignored",
            "FAIL",
            f"the prior's KL is {number(m.kl)} nats with each action at its own time, and "
            f"{number(m.kl * m.shifted)} nats with actions one step off",
            "The effect of an action is credited to another one: a policy learned in such dreams fails in the real "
            "environment.",
            "",
            "actions must be those that led INTO a step (data/replay.py, docs/time.md)",
        )
    if facts.unforeseeable:
        return None  # no action changes what comes
    if finite(m.action_gain) and m.action_gain < LIMITS["action gain"] and m.kl < m.information:
        return Finding(
            "actions ignored",
            "WARN",
            f"dreaming one step with random actions is as good as with the recorded ones (ratio {m.action_gain:.3f}, "
            "healthy: above 1.03)",
            "If actions change nothing in a dream, the actor cannot learn from it.",
            "behavior.entropy_scale",
            "raise it: more varied actions show what they do; or train longer",
        )
    return None


def continue_miscalibrated(facts: RunFacts) -> Finding | None:
    """Fault: the ends of episodes are predicted worse than by their frequency, or not at all."""
    m, model = facts.measured, facts.config.model
    if m is None:
        return None
    why = "If dreams end too early or never, the actor becomes too cautious or too careless: all values are wrong."
    if not model.predict_continue:
        if m.terminals < 1e-3:
            return None
        return Finding(
            "continue head miscalibrated",
            "WARN",
            f"{100 * m.terminals:.1f} % of steps end the task, but no head learns that",
            why,
            "model.predict_continue",
            "set it to true",
        )
    if m.continues is None or m.continue_brier is None:
        return None
    brier, base = m.continue_brier
    evidence = f"Brier score {number(brier)} (of always predicting the frequency: {number(base)}); predicted "
    evidence += f"continuation: {m.continues[0]:.2f} where the task continued, {m.continues[1]:.2f} where it ended"
    if brier > LIMITS["brier"]:
        return Finding(
            "continue head miscalibrated",
            "FAIL",
            evidence,
            why,
            "",
            "its target must be 1 - is_terminal, not its opposite (world_model.py: targets)",
        )
    if m.terminals * m.steps >= LIMITS["events"] and brier > 1.25 * base and brier > 0.01:
        return Finding(
            "continue head miscalibrated",
            "WARN",
            evidence,
            why,
            "model.continue_scale",
            f"raise it from {model.continue_scale:g} to {5 * model.continue_scale:g}",
        )
    return None


def never_been(facts: RunFacts) -> Finding | None:
    """Fault: the agent acts in states that its model has hardly learnt from, and does not explore on purpose."""
    m, config = facts.measured, facts.config
    if m is None or m.strange is None or m.strange < LIMITS["strange"]:
        return None
    if config.behavior.explore != "none" and config.ensemble.collect == "explore":
        return None
    return Finding(
        "acting where the model has never been",
        "WARN",
        f"the members of the ensemble disagree about {100 * m.strange:.0f} % of the newest steps more than about 99 % "
        "of the replay's",
        "The policy was learnt in dreams of a model that does not know the states in which it acts now.",
        "train.train_ratio",
        f"raise it from {config.train.train_ratio:g} to {2 * config.train.train_ratio:g}; or the task has changed",
    )
