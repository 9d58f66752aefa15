"""From measurements to verdicts: rules, in the order of causes. What stands above explains what stands below.

Each rule is a pure function of a `RunFacts` and returns a finding, or None where nothing is wrong. The thresholds are
in `findings.py`. Rules on actor, critic and dreams: `rules_behavior.py`.
"""

from __future__ import annotations

from .findings import LIMITS, Finding, RunFacts, finite, number
from .measurements import Measurements

# --------------------------------------------------------------------------------------------------- numbers and inputs


def non_finite(case: RunFacts) -> Finding | None:
    """NaN or infinity in weights, in the log, or in an autopsy."""
    history, lr = case.history, case.config.model.world_model_lr
    why = "One NaN spreads to all weights within an update; what was learnt since the last checkpoint is lost."
    change = f"lower it to {lr / 3:.1g}; `reverie replay-crash RUN` tells which tensor broke first"
    broken = case.measured.broken if case.measured else ()
    if broken or history.crashed:
        found = f"{len(broken)} tensors hold NaN or infinity, first '{broken[0]}'" if broken else "there is an autopsy"
        return Finding("non-finite", "FAIL", found, why, "model.world_model_lr", change)
    if history.skipped or history.rollbacks or history.nonfinite:
        found = f"{history.skipped} updates skipped, {history.rollbacks} rollbacks"
        found += f", '{history.nonfinite[0]}' was once no number" if history.nonfinite else ""
        return Finding("non-finite", "WARN", found, why, "model.world_model_lr", change)
    return None


def bad_input_scaling(case: RunFacts) -> Finding | None:
    """Inputs or rewards far from 1."""
    if case.measured is None:
        return None
    for check in (_image_scale, _vector_scale, _reward_scale):
        found = check(case, case.measured)
        if found:
            return found
    return None


def _image_scale(case: RunFacts, m: Measurements) -> Finding | None:
    for key, (mean, most) in m.inputs.items():
        if key in m.images and most > LIMITS["image input"]:
            return Finding(
                "bad input scaling", "FAIL",
                f"the image '{key}' reaches the networks with values up to {number(most)}, mean {number(mean)}; "
                "expected -0.5 to 0.5",
                "First layers saturate, and squared errors of pixels drown every other loss.",
                "", "divide images by 255 and subtract 0.5 before the encoder (observations.py: preprocess)",
            )  # fmt: skip
    return None


def _vector_scale(case: RunFacts, m: Measurements) -> Finding | None:
    for key, (low, high) in m.deviations.items():
        if high > LIMITS["vector input warn"] or low < LIMITS["vector input small"]:
            level = "FAIL" if high > LIMITS["vector input fail"] else "WARN"
            return Finding(
                "bad input scaling", level,
                f"dimensions of '{key}' have deviations from {number(low)} to {number(high)} when they reach the "
                "networks; about 1 is expected",
                "The squared error of a large dimension drowns the others; a small one costs less than the KL and is "
                "ignored.",
                "model.vector_transform", "set it to standardize, or to running if the range grows while learning",
            )  # fmt: skip
    return None


def _reward_scale(case: RunFacts, m: Measurements) -> Finding | None:
    if m.planned_reward <= LIMITS["reward warn"]:
        return None
    squashed = case.config.model.reward_transform in ("symlog", "twohot")
    key, change = ("model.reward_transform", "set it to tanh, or divide rewards in the environment")
    if squashed:
        key = "behavior.critic_transform"
        change = "set it to symlog together with behavior.return_norm=percentile, or divide rewards in the environment"
    return Finding(
        "bad input scaling", "FAIL" if m.planned_reward > LIMITS["reward fail"] else "WARN",
        f"rewards reach {number(m.planned_reward)} in size (from {number(m.rewards[0])} to {number(m.rewards[1])}), "
        "and values are sums of them",
        "Losses of critic and actor grow with rewards: entropy no longer counts, and the critic lags behind.",
        key, change,
    )  # fmt: skip


def memory_leaks(case: RunFacts) -> Finding | None:
    """The state after a reset hangs on the episode before it."""
    m = case.measured
    if m is None or not m.leak > LIMITS["leak"]:
        return None
    return Finding(
        "memory leaks", "FAIL",
        f"the state after a reset changes by up to {number(m.leak)} when only the episode before it is exchanged",
        "A new episode must begin with nothing: the agent acts on memories of another one.",
        "", "use is_first: zero state and action there (rssm.py: DiscreteRSSM.observe)",
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------- the learning


def unstable(case: RunFacts) -> Finding | None:
    """The world model's loss rises or jumps, or its weights run away."""
    key, lr = "world_model/loss", case.config.model.world_model_lr
    ends, values = case.history.thirds(key), case.history.metrics.get(key, [])
    signs = []
    if ends and ends[1] > LIMITS["loss rise"] * max(ends[0], 1e-3):
        signs.append(f"its loss rose from {number(ends[0])} to {number(ends[1])}")
    late = values[len(values) // 3 :]
    if ends and max(late) > LIMITS["loss spike"] * max(sorted(values)[len(values) // 2], 1e-3):
        signs.append(f"one line reached {number(max(late))}, the median is {number(sorted(values)[len(values) // 2])}")
    if case.measured is not None and case.measured.growth > LIMITS["growth"]:
        signs.append(f"its weights have grown to {case.measured.growth:.1f} times their first size")
        if lr > LIMITS["learning rate"]:
            signs.append(f"its learning rate is {lr:.1g}")
    if not signs:
        return None
    return Finding(
        "unstable", "FAIL" if len(signs) > 1 else "WARN", "the world model: " + "; ".join(signs),
        "Steps that are too large undo what was learnt; actor and critic chase a world that changes under them.",
        "model.world_model_lr", f"lower it from {lr:.1g} to {min(3e-4, lr / 10):.1g}",
    )  # fmt: skip


def starved_replay(case: RunFacts) -> Finding | None:
    """Every update sees the same few steps, or each step far too often."""
    config, m = case.config, case.measured
    per_update = config.train.batch_size * config.train.seq_len
    steps = min(case.history.env_steps, config.replay.replay_capacity)
    if m is not None and m.steps < steps:
        steps = m.steps
    if case.history.env_steps > 2 * steps and steps < LIMITS["replay batches"] * per_update:
        return Finding(
            "starved replay", "FAIL",
            f"the replay holds {number(steps)} of {number(case.history.env_steps)} steps, {steps / per_update:.1f} "
            f"batches of {number(per_update)}",
            "The world model learns a few episodes by heart and forgets everything else that it has seen.",
            "replay.replay_capacity", f"raise it to {number(max(100_000, 100 * per_update)).replace(',', '')}",
        )  # fmt: skip
    replays = case.updates * per_update / max(1, case.history.env_steps)
    if replays > LIMITS["replays"]:
        ratio = config.train.train_ratio
        return Finding(
            "overfit replay", "WARN", f"each step was replayed {number(replays)} times on average",
            "The world model learns by heart what it has seen, and is wrong about what the better policy will see.",
            "train.train_ratio", f"lower it from {ratio:g} to {ratio * 0.25:g}, or collect with more environments",
        )  # fmt: skip
    return None


# ------------------------------------------------------------------------------------------------------ the world model


def posterior_collapse(case: RunFacts) -> Finding | None:
    """A look at the observation tells the latent state nothing."""
    m, model = case.measured, case.config.model
    explained = max(m.explained.values(), default=0.0) if m else 0.0
    if m is None or not finite(m.information) or m.information > LIMITS["information warn"]:
        return None
    if explained > LIMITS["explained"]:
        return None  # a small world has little to tell
    key, change = "model.kl_scale", f"lower it from {model.kl_scale:g} to {min(0.5, model.kl_scale / 10):g}"
    if "obs" in model.detached_heads:
        key, change = "model.detached_heads", "empty it: the observation must shape the state"
    return Finding(
        "posterior collapse", "FAIL" if m.information < LIMITS["information"] else "WARN",
        f"a look tells {number(m.information)} nats (sound: above 5), KL {number(m.kl)} nats; reconstructions explain "
        f"{100 * explained:.0f} % of the observations",
        "Where the state holds nothing of the observation, rewards cannot be foreseen and the actor is blind.",
        key, change,
    )  # fmt: skip


def categorical_degeneracy(case: RunFacts) -> Finding | None:
    """Categoricals that never change, or that all say the same."""
    m, model = case.measured, case.config.model
    if m is None or m.dead is None or m.perplexity is None:
        return None
    why = "The latent has far less room than its size promises: details of the world are lost."
    if m.difference is not None and m.difference < LIMITS["difference"]:
        return Finding(
            "categorical degeneracy", "FAIL",
            f"the {model.num_categoricals} categoricals of a state all say the same (they differ by "
            f"{number(m.difference)}, sound: above 0.5)",
            why, "model.num_categoricals", "look for tied logits: each categorical needs its own (rssm.py: logits)",
        )  # fmt: skip
    if m.dead > LIMITS["dead warn"]:
        return Finding(
            "categorical degeneracy", "FAIL" if m.dead > LIMITS["dead"] else "WARN",
            f"{100 * m.dead:.0f} % of the categoricals never change, mean perplexity {m.perplexity:.1f} of "
            f"{model.num_categories}",
            why, "model.unimix", "set it to 0.01: no class ever dies out",
        )  # fmt: skip
    return None


def prior_not_learning(case: RunFacts) -> Finding | None:
    """The prior foresees worse than an average would."""
    m, model = case.measured, case.config.model
    if m is None or not finite(m.kl) or not finite(m.information) or m.information < LIMITS["information"]:
        return None
    miss = m.kl / m.information
    reversed_ = model.kl_mode == "balanced" and model.kl_balance < 0.5
    if miss < LIMITS["prior warn"] and not reversed_:
        return None
    evidence = (
        f"the prior misses the posterior by {number(m.kl)} nats; the average of all posteriors would miss by "
        f"{number(m.information)} (ratio {miss:.2f}, sound: below 0.3)"
    )
    key, change = "model.kl_scale", f"raise it from {model.kl_scale:g} to {max(0.1, model.kl_scale * 3):g}"
    if m.below_free > 0.9:
        key, change = "model.free_nats", f"lower it from {model.free_nats:g} to 1"
        evidence += f"; {100 * m.below_free:.0f} % of states are below the free nats and give no gradient"
    elif reversed_:
        key, change = "model.kl_balance", f"raise it from {model.kl_balance:g} to 0.8"
        evidence += f"; the prior gets {100 * model.kl_balance:.0f} % of the KL's gradient"
    return Finding(
        "prior not learning", "FAIL" if miss > LIMITS["prior fail"] else "WARN", evidence,
        "Dreams are made with the prior: the actor learns in a world that is not the real one.", key, change,
    )  # fmt: skip


def actions_ignored(case: RunFacts) -> Finding | None:
    """The dream does not hang on actions, or on those of another step."""
    m = case.measured
    if m is None or not finite(m.kl) or not finite(m.information) or m.information < LIMITS["information"]:
        return None
    if m.shifted < LIMITS["shifted"]:
        return Finding(
            "actions ignored", "FAIL",
            f"the model is surprised by {number(m.kl)} nats with each action at its own time, and by "
            f"{number(m.kl * m.shifted)} with actions one step off",
            "What an action does is credited to another one: a policy learnt in such dreams fails outside.",
            "", "actions must be those that led INTO a step (replay.py, docs/time.md)",
        )  # fmt: skip
    if finite(m.action_gain) and m.action_gain < LIMITS["action gain"] and m.kl < m.information:
        return Finding(
            "actions ignored", "WARN",
            f"dreaming one step with random actions is as good as with the right ones (ratio {m.action_gain:.3f}, "
            "sound: above 1.03)",
            "If actions change nothing in the dream, there is nothing to learn from it.",
            "behavior.entropy_scale", "raise it: more varied actions show what they do; or train longer",
        )  # fmt: skip
    return None


def continue_miscalibrated(case: RunFacts) -> Finding | None:
    """Ends are foretold worse than by their frequency, or not at all."""
    m, model = case.measured, case.config.model
    if m is None:
        return None
    why = "Dreams that end too early or never make the actor too careless or too shy: values are wrong everywhere."
    if not model.predict_continue:
        if m.terminals < 1e-3:
            return None
        return Finding(
            "continue head miscalibrated", "WARN",
            f"{100 * m.terminals:.1f} % of steps end the task, but no head learns that", why,
            "model.predict_continue", "set it to true",
        )  # fmt: skip
    if m.continues is None or m.continue_brier is None:
        return None
    brier, base = m.continue_brier
    told = f"Brier score {number(brier)} (their frequency alone: {number(base)}); predicted to go on: "
    told += f"{m.continues[0]:.2f} where it did, {m.continues[1]:.2f} where the task ended"
    if brier > LIMITS["brier"]:
        return Finding(
            "continue head miscalibrated", "FAIL", told, why,
            "", "its target must be 1 - is_terminal, not its opposite (world_model.py: targets)",
        )  # fmt: skip
    if m.terminals * m.steps >= LIMITS["events"] and brier > 1.25 * base and brier > 0.01:
        return Finding(
            "continue head miscalibrated", "WARN", told, why, "model.continue_scale",
            f"raise it from {model.continue_scale:g} to {5 * model.continue_scale:g}",
        )  # fmt: skip
    return None


def reward_blind(case: RunFacts) -> Finding | None:
    """No reward in the replay, or a head that does not see them."""
    m, config = case.measured, case.config
    if m is None:
        return None
    if m.rewards == (0.0, 0.0):
        return Finding(
            "reward head blind", "WARN", f"not one of {number(m.steps)} steps in the replay has a reward",
            "Without a reward there is nothing to learn: the random policy does not find it.",
            "train.prefill", f"raise it from {config.train.prefill} to {10 * max(1, config.train.prefill)}, or "
            "make the task's rewards less rare",
        )  # fmt: skip
    sparse = m.rewarding < 0.2
    seen = m.reward_contrast if sparse else m.reward_explained
    if m.events < LIMITS["events"] or seen is None or seen > LIMITS["contrast"]:
        return None
    what = f"{100 * max(0.0, seen):.0f} % of a reward is foreseen in the very step that pays it"
    what = what if sparse else f"the head explains {100 * max(0.0, seen):.0f} % of the rewards' variance"
    key, change = "model.reward_scale", f"raise it from {config.model.reward_scale:g} to 10"
    if sparse and config.replay.prioritize != "rewards":
        key, change = "replay.prioritize", "set it to rewards: windows with rewards are then drawn more often"
    return Finding(
        "reward head blind", "WARN", f"{what} ({100 * m.rewarding:.1f} % of steps have one, {m.events} looked at)",
        "The actor sees rewards through this head only.", key, change,
    )  # fmt: skip
