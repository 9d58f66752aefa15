"""Glossary of all logged metrics: meaning, unit, healthy values, advice, and where each is computed.

`reverie explain KEY` prints an entry. A test fails if a run logs a key without an entry, or if an entry is never
logged. A head or latent of your own brings its entries itself (`metrics_doc`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One metric. `<part>` in a key stands for a name from the task."""

    key: str
    meaning: str
    unit: str
    healthy: str  # usual values of a healthy run
    advice: str  # what to do about other values
    where: str  # file:function in src/reverie


def _e(key: str, where: str, unit: str, meaning: str, healthy: str, advice: str) -> Entry:
    return Entry(key, meaning, unit, healthy, advice, where)


_NOTHING = "Nothing to do: it is a counter."
_FREE = "model.free_nats"

ENTRIES: tuple[Entry, ...] = (
    # ----------------------------------------------------------------------------------------------------------- returns
    _e("episode/return", "run/loop.py:write", "reward", "Mean return of the last 20 training episodes, exploration included.",
       "Above the random policy's, and rising; plateaus of many thousand steps are usual.",
       "Compare with eval/return and the random policy (episodes.jsonl, phase random); then `reverie doctor RUN`."),
    _e("eval/return", "run/loop.py:evaluate", "reward", "Mean return of the evaluation episodes, acting as train.eval_mode says.",
       "At least episode/return, within eval/ci95.",
       "Far below it: the most likely action is worse than a sampled one; try train.eval_mode=train."),
    _e("eval/ci95", "run/loop.py:evaluate", "reward", "Half width of the 95 % interval of eval/return over its episodes.",
       "Small compared with the differences of interest.", "More train.eval_episodes."),
    _e("eval/length", "run/loop.py:evaluate", "steps", "Mean length of the evaluation episodes.", "It depends on the task.",
       "At the time limit in a task with a goal: the agent does not reach it."),
    _e("return", "run/loop.py:_note", "reward", "Return of one episode (episodes.jsonl).", "See episode/return.", _NOTHING),
    _e("length", "run/loop.py:_note", "steps", "Length of one episode (episodes.jsonl).", "See eval/length.", _NOTHING),
    _e("phase", "run/loop.py:_stamp", "name", "prefill, train, eval, random (the baseline) or crashed (the environment failed).",
       "No crashed ones.", "Crashed: `reverie check-env`."),
    # ---------------------------------------------------------------------------------------------------------- counters
    _e("env_steps", "run/logger.py:write", "steps", "Environment steps so far, prefill included; of all environments together.",
       "Rises to train.env_steps.", _NOTHING),
    _e("frames", "run/loop.py:write", "frames", "env_steps times env.action_repeat, the horizontal axis of published curves.",
       "See env_steps.", _NOTHING),
    _e("updates", "run/loop.py:write", "updates", "Updates of world model, actor and critic so far.",
       "train.train_ratio per step after the prefill, plus train.pretrain.", _NOTHING),
    _e("seconds", "run/clock.py:speeds", "s", "Time spent on acting and learning, without evaluations.", "Rises.", _NOTHING),
    _e("replay/demo_share", "run/demonstrations.py:share_at", "share", "Share of a batch that is drawn from demonstrations "
       "(replay.demos).", "Falls from replay.demo_share to 0.", "0 before the agent is good: raise replay.demo_until."),
    _e("replay/steps", "run/loop.py:write", "steps", "Steps in replay.", "Rises to replay.replay_capacity.",
       "Full early and the return falls: a larger replay.replay_capacity."),
    _e("train/ratio", "run/clock.py:achieved_ratio", "updates per step", "Updates per environment step since the prefill.",
       "train.train_ratio, within 1 %.", "Lower: the run was stopped before an update that was due; it is made up later."),
    _e("speed/env_steps_per_second", "run/clock.py:speeds", "1/s", "Environment steps per second since the beginning.",
       "Steady.", "`reverie bench train` shows where the time goes."),
    _e("speed/updates_per_second", "run/clock.py:speeds", "1/s", "Updates per second of updating.", "Steady.",
       "`reverie bench update`; a smaller train.batch_size or model; compute.precision=bfloat16."),
    _e("time/env", "run/clock.py:speeds", "share", "Share of time in environments and acting.", "Below 0.3.",
       "Slow environments: env.num_envs, env.backend=async."),
    _e("time/replay", "run/clock.py:speeds", "share", "Share of time drawing batches.", "Below 0.05.",
       "replay.storage=memory if it fits."),
    _e("time/update", "run/clock.py:speeds", "share", "Share of time in updates.", "The largest of the three.", "See speed."),
    _e("collectors/rows_per_second", "run/collectors.py:numbers", "1/s",
       "Rows of single environments that collectors elsewhere have sent and the loop has taken, since the last line.",
       "Their number times the pace of one.", "Below it: the learner is slower, and they wait. Far below: one was lost."),
    _e("collectors/weights_age", "run/collectors.py:numbers", "updates",
       "Updates between the weights that chose an action and the moment when its row is taken, on average.",
       "env.weights_every and a few updates more.", "Much more: weights take long to travel; see env.weights_every."),
    _e("collectors/bytes_per_row", "run/collectors.py:numbers", "bytes", "Size of a row of one environment, as it is sent.",
       "That of the observation and a few bytes.", _NOTHING),
    _e("collectors/replaced", "run/collectors.py:numbers", "times", "Collectors that died or hung and were replaced.",
       "0.", "The note of that moment says why."),
    _e("machine/<part>_gb", "run/machine.py:numbers", "GB", "Memory in use: ram of the training process, gpu as torch has reserved it.",
       "Rises with the replay up to the forecast, then steady.", "replay.storage=disk; a smaller train.batch_size for the GPU."),
    _e("machine/<part>_busy", "run/machine.py:numbers", "cores, or the whole GPU",
       "Computing: cpu in cores (1 is one core always busy; workers of environments are not counted), gpu as a share of it.",
       "cpu near compute.threads where there is no GPU.", "`reverie bench train` shows where the time goes."),
    _e("nonfinite/skipped", "run/loop.py:write", "updates", "Updates skipped because of a NaN or infinity (on_nonfinite).",
       "0.", "`reverie replay-crash RUN` names the tensor that broke first."),
    _e("nonfinite/rollbacks", "run/loop.py:write", "times", "Returns to a checkpoint for the same reason.", "0.",
       "`reverie replay-crash RUN`; lower learning rates."),
    # ------------------------------------------------------------------------------------------------------- world model
    _e("world_model/loss", "world_model.py:loss", "nats", "Weighted sum of all losses of the world model, the KL included.",
       "Falls at first, then slowly; rises a little when the agent sees new things.",
       "Rising for long: learning rate model.world_model_lr too high, or the task changes."),
    _e("world_model/grad_norm", "train.py:_step", "norm", "Gradient norm of the world model before clipping.",
       "Mostly below train.grad_clip.", "Always far above it: unscaled inputs or rewards (first_rows.json), or a lower "
       "model.world_model_lr."),
    _e("world_model/obs/<key>_loss", "world_model.py:loss", "nats",
       "Negative log likelihood of an observation given the latent state: half the squared error, summed over pixels or "
       "dimensions.", "Falls by a large factor early on.",
       "Flat: inputs are unscaled, or the posterior has collapsed (latent/perplexity)."),
    _e("world_model/reward_loss", "world_model.py:loss", "nats", "Negative log likelihood of rewards (0.5 x squared error "
       "of symlog rewards, or of a two-hot code).", "Falls below half the variance of the rewards; see reward/explained.",
       "Sparse rewards: replay.prioritize=rewards, model.reward_scale."),
    _e("world_model/continue_loss", "world_model.py:loss", "nats", "Cross entropy of the prediction whether the episode continues.",
       "Below the entropy of the share of ends.", "See continue/brier."),
    _e("world_model/kl", "rssm.py:kl_loss", "nats per state", "KL(posterior || prior): the information of the observation that "
       "the prior did not predict.", f"Above {_FREE} early on, later near it; neither 0 nor growing.",
       "Near 0 with bad reconstructions: posterior collapse, lower model.kl_scale. Large for long: the prior does not learn; "
       "higher model.kl_balance."),
    _e("world_model/kl_reverse", "rssm.py:kl_loss", "nats per state", "KL(prior || posterior), the other direction; it is only logged.", "Same order as world_model/kl; larger if the posterior is more certain than the prior.",
       "Many times larger: the posterior is overconfident; model.unimix=0.01 bounds it."),
    _e("world_model/overshooting_kl", "extensions/overshooting.py:by_depth", "nats per state", "KL(posterior || prior "
       "predicted without observations), mean over 2 to model.overshooting_depth steps ahead.",
       "Falls; above world_model/kl.", "Rising while world_model/kl falls: the model only learns to copy; a higher "
       "model.overshooting."),
    _e("world_model/overshooting_kl_last", "extensions/overshooting.py:by_depth", "nats per state", "The same at the last step ahead.",
       "Falls; the largest of all depths.", "See world_model/overshooting_kl."),
    _e("world_model/open_loop_<head>_loss", "extensions/overshooting.py:open_loop_losses", "nats", "What a head pays for states "
       "predicted 1, 2, 4, 8, 15 steps ahead (model.open_loop_heads).", "Falls; above the head's loss on observed states.",
       "Far above it: predictions several steps ahead are worth little."),
    _e("world_model/kl_below_free", "rssm.py:kl_loss", "share", f"Share of states whose KL is below {_FREE}.",
       "Anything below 1 while learning.", f"1 for long: the KL has no gradient any more; lower {_FREE}."),
    _e("world_model/prior_entropy", "rssm.py:kl_loss", "nats per state", "Entropy of the prior, summed over variables.",
       "Above the posterior's, falling.", "At its maximum S ln K: the prior has learned nothing."),
    _e("world_model/posterior_entropy", "rssm.py:kl_loss", "nats per state", "Entropy of the posterior.",
       "Well below its maximum S ln K.", "At the maximum: the latent has no information; lower model.kl_scale."),
    # -------------------------------------------------------------------------------------------------- health of the code
    _e("latent/perplexity", "latents.py:perplexity", "classes, 1..K", "exp(entropy) of the average probability of each class, "
       "averaged over categoricals: the number of equally used classes.", "Above 2; it need not be near K.",
       "Near 1: the latent is hardly used; lower model.kl_scale, or fewer model.num_categoricals."),
    _e("latent/perplexity_min", "latents.py:perplexity", "classes, 1..K", "The same of the least used categorical.",
       "Above 1.1.", "1: that categorical is dead; harmless while few are (latent/dead)."),
    _e("latent/used", "latents.py:used_share", "share", "Share of all S x K classes with an average probability above a tenth "
       "of the uniform one.", "0.1 and more; the demo has 0.2.", "Small: the model is larger than the task needs."),
    _e("latent/dead", "latents.py:dead_share", "share", "Share of categoricals that always have the same class.", "Below 0.3.",
       "Near 1: posterior collapse; lower model.kl_scale or model.free_nats."),
    _e("kl/loss", "rssm.py:kl_loss", "nats", f"The KL's term in the loss: after balancing and {_FREE}, before "
       "model.kl_scale.", f"At least {_FREE}, near it late in training.", f"Exactly {_FREE} from the start: see "
       "world_model/kl_below_free."),
    _e("kl/grad_prior", "run/health.py:kl_gradient_norms", "norm", "Gradient norm of KL(posterior || prior) with respect to the prior's "
       "logits, root mean square over states. model.kl_balance weighs this gradient against kl/grad_posterior.",
       "Falls as the prior learns.", "0: prior and posterior are equal, or the latent has no information."),
    _e("kl/grad_posterior", "run/health.py:kl_gradient_norms", "norm", "The same with respect to the posterior's logits.",
       "Same order as kl/grad_prior.", "Much larger: the posterior is pulled towards a bad prior; higher model.kl_balance."),
    # ------------------------------------------------------------------------------------------------------------- heads
    _e("reward/mse", "run/health.py:_of_rewards", "reward squared", "Mean squared error of predicted rewards on a batch, in the "
       "space that the actor plans in.", "Falls.", "See reward/explained."),
    _e("reward/explained", "run/health.py:explained", "share", "Share of the rewards' variance that is predicted: 1 all, 0 no "
       "better than their mean, below 0 worse.", "Above 0.5 once rewards are seen.",
       "Near 0 with rewards in replay: reward head blind; replay.prioritize=rewards, model.reward_scale."),
    _e("reward/symlog_min", "run/health.py:_of_rewards", "symlog reward", "Smallest reward of a batch, through symlog.",
       "Between -5 and 5.", "Beyond: rewards in the hundreds; model.reward_transform=symlog, or scale them."),
    _e("reward/symlog_max", "run/health.py:_of_rewards", "symlog reward", "Largest reward of a batch, through symlog.",
       "Between -5 and 5.", "See reward/symlog_min."),
    _e("continue/brier", "run/health.py:brier", "0..1", "Mean squared error of the predicted probability that the episode continues.",
       "Below p (1 - p), where p is the share of steps that end an episode.", "Larger: worse than a constant prediction; model.continue_scale."),
    _e("continue/ece", "run/health.py:expected_calibration_error", "0..1", "Expected calibration error: mean distance of predicted "
       "probabilities of continuing from their frequencies (10 groups).", "Below 0.05.", "Above: dreams end too early or too late; model.continue_scale."),
    # --------------------------------------------------------------------------------------------------- actor and critic
    _e("actor/loss", "actor_critic.py:compute_actor_loss", "reward", "The actor's loss. Its size has little meaning.",
       "Anything finite.", "Look at actor/entropy and critic/value."),
    _e("actor/entropy", "actor_critic.py:compute_actor_loss", "nats", "Entropy of the policy in dreams.",
       "Falls from ln(number of actions), not to 0.",
       "0 early: higher behavior.entropy_scale. At its maximum for long: lower it."),
    _e("actor/entropy_part<i>", "run/health.py:entropies", "nats", "The same for each part of an action of several parts.",
       "As actor/entropy.", "As actor/entropy."),
    _e("actor/advantage", "actor_critic.py:compute_actor_loss", "reward", "Mean of return minus baseline.",
       "Near 0, slightly above.", "Far from 0: the critic lags behind; behavior.critic_lr, slow_critic_every."),
    _e("actor/advantage_std", "actor_critic.py:compute_actor_loss", "reward", "Its standard deviation: the actor's signal.",
       "Well above 0.", "0: all actions seem equal to the actor; see reward/explained, and whether the task has rewards at all."),
    _e("actor/grad_norm", "train.py:_step", "norm", "Gradient norm of the actor before clipping.", "Below train.grad_clip.",
       "Above it for long: large rewards or advantages; behavior.return_norm=percentile."),
    _e("critic/loss", "behavior.py:losses", "reward squared or nats", "The critic's loss.", "Falls, with bumps.",
       "Growing: critic diverges; behavior.critic_lr down, slow critic on."),
    _e("critic/value", "actor_critic.py:compute_critic_loss", "reward", "Mean value of dreamed states.",
       "Within the range of possible returns.", "Beyond any possible return: diverging; see critic/bias."),
    _e("critic/target", "actor_critic.py:compute_critic_loss", "reward", "Mean lambda-return of dreamed states.",
       "Near critic/value.", "See actor/advantage."),
    _e("critic/error", "actor_critic.py:compute_critic_loss", "reward", "Mean distance of values from lambda-returns.",
       "A small share of the range of values.", "See critic/loss."),
    _e("critic/grad_norm", "train.py:_step", "norm", "Gradient norm of the critic before clipping.",
       "Below train.grad_clip.", "Above it for long: large returns; behavior.critic_distribution=twohot."),
    _e("critic/bias", "run/health.py:fit", "reward", "Mean of values minus the discounted real returns in windows of the replay.",
       "Small compared with the spread of values; positive is usual while old experience is worse than today's policy.",
       "Large and positive: the critic expects rewards that do not come; imagination horizon, reward head."),
    _e("critic/slope", "run/health.py:fit", "ratio", "Slope of the regression of real returns on values: 1 is calibrated.",
       "0.5 to 1.5.", "Below: values are too far apart; above: too close together."),
    _e("critic/correlation", "run/health.py:fit", "-1..1", "Correlation of values with real returns.", "Above 0.5.",
       "Near 0 with varied returns: the critic predicts nothing; see reward/explained first."),
    _e("critic/symlog_min", "run/health.py:snapshot", "symlog reward", "Smallest value in a batch, through symlog.",
       "Between -7 and 7.", "Beyond: returns in the thousands; behavior.critic_transform=symlog."),
    _e("critic/symlog_max", "run/health.py:snapshot", "symlog reward", "Largest value in a batch, through symlog.",
       "Between -7 and 7.", "See critic/symlog_min."),
    _e("imagination/reward", "behavior.py:losses", "reward", "Mean predicted reward in dreams.",
       "Near the mean reward of recent episodes, or above.", "Far above: dreams promise too much (`reverie drift`)."),
    _e("imagination/continue", "behavior.py:losses", "probability", "Mean predicted probability of continuing in dreams.",
       "About 1 - 1/length of an episode.", "Much lower: dreams end too early; continue/ece."),
    # --------------------------------------------------------------------------------------------------------- ensembles
    _e("ensemble/loss", "extensions/ensemble.py:loss", "nats", "Loss of the ensemble's members, weighted by the bootstrap "
       "(docs: ensembles).", "Falls with world_model/kl.", "Flat: ensemble.ensemble_lr, ensemble.member_dim."),
    _e("ensemble/grad_norm", "train.py:_step", "norm", "Gradient norm of the ensemble before clipping.",
       "Below train.grad_clip.", "Above it for long: lower ensemble.ensemble_lr."),
    _e("ensemble/disagreement", "extensions/ensemble.py:loss", "nats (kind one_step, or measure distance: no unit)",
       "How much the members disagree, mean over a batch of the replay.", "Falls while learning; rises where new things are met.",
       "Flat from the start: the members are too alike (ensemble.bootstrap) or learn nothing."),
    _e("ensemble/disagreement_p99", "extensions/ensemble.py:follow", "as ensemble/disagreement",
       "Its 99 % quantile over the batch: the strangest states that the replay holds.", "Well above the mean.",
       "Near the mean: disagreement says the same of all states."),
    _e("imagination/disagreement", "extensions/explore.py:__call__", "as ensemble/disagreement",
       "Mean disagreement in the exploring policy's dreams, before it is divided by its deviation.",
       "Above ensemble/disagreement: the policy finds what is new.", "Below it: the policy does not seek; ensemble.explore_entropy."),
    _e("actor/entropy_weight", "behavior.py:actor_loss", "reward per nat", "Weight of the entropy, where it follows a target "
       "(behavior.entropy_target, ensemble.explore_entropy).", "Low while the policy is random enough.",
       "At 10 for long: the target cannot be reached; lower it."),
    _e("imagination/predicted_reward", "extensions/explore.py:__call__", "reward",
       "Mean predicted reward in the exploring policy's dreams.", "Anything.", "See imagination/reward of the task's policy."),
    _e("cloning/loss", "behavior.py:imitation_loss", "nats", "-log probability of the batch's actions under the actor that only "
       "imitates them (behavior.cloning).", "Falls, to the entropy of the data's policy.", "Flat: behavior.actor_lr, longer."),
    _e("cloning/grad_norm", "train.py:_step", "norm", "Gradient norm of the imitating actor before clipping.",
       "As actor/grad_norm.", "Mostly clipped: lower behavior.actor_lr."),
    _e("actor/imitation", "behavior.py:add_imitation", "nats", "-log probability of the batch's actions under the actor "
       "(behavior.bc_scale).", "Near cloning/loss: it stays where the data is.", "Far above: raise behavior.bc_scale."),
    _e("imagination/penalty", "extensions/explore.py:__call__", "reward", "Mean of what behavior.uncertainty_penalty takes off "
       "dreamed rewards.", "Below the spread of rewards.", "Larger: nothing but the penalty counts; behavior.uncertainty_penalty."),
    # --------------------------------------------------------------------------------------------------------- hierarchy
    _e("goals/loss", "extensions/director.py:loss", "mixed", "Loss of the goal autoencoder: squared error plus weighted KL "
       "(docs: hierarchy).", "Falls.", "Flat: hierarchy.goal_lr, hierarchy.goal_dim."),
    _e("goals/error", "extensions/director.py:loss", "share", "Squared error of states given back by their codes, as a share of "
       "the states' variance in a batch.", "Below 0.5, falling.", "Near 1: codes say nothing; hierarchy.goal_lr, hierarchy.goal_variables."),
    _e("goals/kl", "extensions/director.py:loss", "nats", "KL of codes from uniform ones.", "Near hierarchy.goal_kl.",
       "0: no information in the codes; at its maximum: codes without chance."),
    _e("goals/kl_weight", "extensions/director.py:loss", "weight", "Weight of goals/kl, which follows hierarchy.goal_kl.",
       "Between its limits 1e-5 and 1.", "At a limit for long: the target cannot be reached; hierarchy.goal_kl."),
    _e("goals/perplexity", "extensions/director.py:loss", "classes", "How many classes each variable of the code uses over a batch.",
       "Above half of hierarchy.goal_classes.", "Near 1: one code for all states; hierarchy.goal_lr."),
    _e("goals/grad_norm", "train.py:_step", "norm", "Gradient norm of the goal autoencoder before clipping.", "Below train.grad_clip.",
       "Above it for long: lower hierarchy.goal_lr."),
    _e("manager/loss", "extensions/director.py:policy_loss", "deviations", "The manager's loss. Its size has little meaning.",
       "Anything finite.", "Look at manager/entropy and critic/value."),
    _e("manager/entropy", "actor_critic.py:compute_actor_loss", "nats", "Entropy of the manager's codes.",
       "Falls to hierarchy.manager_entropy of its maximum.", "At its maximum for long: no goal is better than others; manager/task_share."),
    _e("manager/advantage", "actor_critic.py:compute_actor_loss", "deviations", "Mean of the manager's advantages, both critics together.",
       "Near 0.", "Far from 0: its critics lag behind; behavior.critic_lr."),
    _e("manager/advantage_std", "actor_critic.py:compute_actor_loss", "deviations", "Their standard deviation.", "Near 1.",
       "Far from 1 for long: returns change faster than their scale follows."),
    _e("manager/entropy_weight", "extensions/director.py:policy_loss", "deviations per nat", "Weight of the manager's entropy.",
       "Low while the manager is random enough.", "At 10 for long: hierarchy.manager_entropy cannot be reached; lower it."),
    _e("manager/grad_norm", "train.py:_step", "norm", "Gradient norm of the manager before clipping.", "Below train.grad_clip.",
       "Above it for long: lower behavior.actor_lr."),
    _e("manager/task_share", "extensions/director.py:manager_losses", "share", "Share of the task's reward in what drives the manager; "
       "the rest is novelty.", "Near 0.9 with the weights 1 and 0.1.", "Near 0: no goal pays more than another; see imagination/reward."),
    _e("<level>_critic/loss", "extensions/director.py:judge", "reward squared or nats", "Loss of a critic: reach_critic judges what the worker "
       "reaches, novelty_critic what is new to the goals.", "Falls, with bumps.", "Growing: lower behavior.critic_lr."),
    _e("<level>_critic/value", "actor_critic.py:compute_critic_loss", "max-cosine, or squared error of h", "Its mean value of dreamed states.",
       "reach_critic: rises, at most 1 / (1 - gamma).", "See imagination/goal_reached."),
    _e("<level>_critic/target", "actor_critic.py:compute_critic_loss", "as its value", "Mean lambda-return.", "Near its value.",
       "Far from it: the critic lags behind; behavior.critic_lr."),
    _e("<level>_critic/error", "actor_critic.py:compute_critic_loss", "as its value", "Mean distance of values from lambda-returns.",
       "A small share of the range of values.", "See its loss."),
    _e("<level>_critic/grad_norm", "train.py:_step", "norm", "Its gradient norm before clipping.", "Below train.grad_clip.",
       "Above it for long: lower behavior.critic_lr."),
    _e("imagination/goal_start", "extensions/director.py:worker_losses", "up to 1", "How alike states are to a goal when it is set: max-cosine.",
       "Below imagination/goal_reached.", "As high as it: goals are what the agent already sees, or are not pursued."),
    _e("imagination/goal_reached", "extensions/director.py:worker_losses", "up to 1", "The same after hierarchy.goal_every steps of the worker.",
       "Above imagination/goal_start, rising.", "Not above it: the worker learns nothing; behavior.actor_lr, hierarchy.goal_every."),
    _e("imagination/novelty", "extensions/director.py:manager_losses", "squared", "Squared error of dreamed states given back by their codes, mean "
       "over the numbers of h: what the manager explores for.", "Falls while the codes learn.", "Flat and large: see goals/error."),
)  # fmt: skip

_PATTERNS = [(re.compile(re.sub(r"<[^>]+>", "(.+)", re.escape(entry.key).replace(r"\<", "<").replace(r"\>", ">"))), entry)
             for entry in ENTRIES]  # fmt: skip


#: In front of the names of all that the exploring behaviour logs: the same numbers of another policy.
EXPLORING = "explore_"


def find(key: str) -> Entry | None:
    """The entry of a logged key, or None; for keys without one here, what a head or latent says of its numbers."""
    key = key.removeprefix(EXPLORING)
    known = next((entry for pattern, entry in _PATTERNS if pattern.fullmatch(key)), None)
    return known or _brought(key)


def _brought(key: str) -> Entry | None:
    """The entry of a number that a head logs (world_model/NAME_METRIC) or a latent (latent/METRIC)."""
    if not key.startswith(("world_model/", "latent/")):
        return None
    from ..latents import Latent
    from ..networks import Head

    group, _, rest = key.partition("/")
    kinds = list(_subclasses(Latent if group == "latent" else Head))
    documented = [(kind, *item) for kind in kinds for item in kind.metrics_doc.items() if rest.endswith(item[0])]
    named = [
        found
        for found in documented
        if group == "latent"
        or rest.removesuffix(f"_{found[1]}").replace("_", "") in (found[0].target, _short(found[0]))
    ]
    for kind, _, doc in named or [found for found in documented if found[1] != "loss"]:
        where = f"{kind.__module__.removeprefix('reverie.').replace('.', '/')}.py:{kind.__name__}"
        return Entry(key, doc.meaning, doc.unit, doc.healthy, doc.advice, where)
    if group == "world_model" and rest.endswith("_loss"):
        meaning = f"Loss of the prediction head '{rest.removesuffix('_loss')}', mean over batch and time."
        return Entry(
            key, meaning, "nats", "Falls.", "Flat: its target does not depend on the state.", "networks.py:loss"
        )
    return None


def _subclasses(kind: Any) -> Iterator[Any]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


def _short(kind: Any) -> str:
    """StartPredictor -> start: the name under which a head is usually entered, without underscores."""
    return str(re.sub("(Predictor|Decoder|Head)$", "", kind.__name__).lower())


def near(key: str, count: int = 3) -> list[str]:
    """Known keys that are similar to this one or contain it."""
    keys = [entry.key for entry in ENTRIES]
    inside = [known for known in keys if key.lower() in known.lower()]
    return (inside + difflib.get_close_matches(key, [k for k in keys if k not in inside], count, 0.4))[: max(count, 8)]


def explain(key: str) -> Entry:
    """The entry of a logged key. Raises KeyError, with similar keys in the message, if there is none."""
    found = find(key)
    if found is None:
        others = near(key)
        raise KeyError(f"no metric is called '{key}'" + (f"; similar ones: {', '.join(others)}" if others else ""))
    return found
