"""Behaviour: one dream from every state of a batch, lambda-returns, the actor's and the critic's loss (1.10 - 1.13).

Dream states are numbered 0..H; 0 is real. Action u_k is taken in state k and leads to k + 1. Letters as in
implementation-details.md.
"""

import numpy as np

from . import model, slow
from .derivative import sg
from .networks import Number, mlp, part
from .policies import POLICIES


def policy(o, actor, feat):
    """pi(u | state). Its input is held (1.10): the actor is not judged by how it could have changed the state."""
    stats = mlp(part(actor, "mlp"), sg(feat), o["activation"])
    return POLICIES[o["policy"]](slow.mix_uniform(stats, o["policy_unimix"]) if o["policy"] == "onehot" else stats)


def critic_number(o):
    return Number(o["critic_distribution"], o["critic_transform"])


def value(o, critic, feat):
    return critic_number(o).mean(mlp(part(critic, "mlp"), feat, o["activation"]))


def imagine(o, weights, start, noise, action_noise):
    """Dream without looking (1.10): act, move the memory, guess the rest by the prior. -> feat (N, H + 1, F), actions.

    start: deter (N, D), stoch (N, Z); noise (N, H, ...); action_noise (N, H, ...).
    """
    rssm = part(weights, "world_model.rssm")
    deter, stoch = start
    feats, actions = [model.feature(stoch, deter)], []
    for k in range(noise.shape[1]):
        action = policy(o, part(weights, "actor"), feats[-1]).sample(action_noise[:, k])
        deter = model.recurrent(o, rssm, deter, stoch, action)
        stoch = model.sample(o, model.prior(o, rssm, deter), noise[:, k])
        feats.append(model.feature(stoch, deter))
        actions.append(action)
    return np.stack(feats, 1), np.stack(actions, 1)


def predict(o, weights, feat, alive, slow_critic):
    """Rewards and continues (N, H), values (N, H + 1) of a dream (1.10, 1.11).

    r_k and c_k are those OF state k: a value includes the reward of its own state. c_0 is known, not predicted: a dream
    that starts where the task ended has c_0 = 0. (reward_index "next", DreamerV3: those of the state that u_k led to.)
    """
    heads = part(weights, "world_model.heads")
    values = value(o, slow_critic if o["slow_critic"] else sg_all(part(weights, "critic")), feat)
    if o["reward_index"] == "next":
        return model.reward(o, heads, feat[:, 1:]), values, model.continues(o, heads, feat[:, 1:])
    c = model.continues(o, heads, feat[:, :-1])
    return model.reward(o, heads, feat[:, :-1]), values, np.concatenate([alive[:, None], c[:, 1:]], 1)


def sg_all(weights):
    return {name: sg(w) for name, w in weights.items()}


def starts(o, posterior, is_terminal):
    """All states of the batch, (B, T, ...) to (N, ...), or all but each sequence's last (1.17); alive: not ended."""
    if o["start_states"] == "drop_last":
        posterior, is_terminal = [x[:, :-1] for x in posterior], is_terminal[:, :-1]
    return [x.reshape(-1, x.shape[-1]) for x in posterior], 1.0 - is_terminal.reshape(-1)


def entropy_scale(o):
    """Constant, or on its linear way from `entropy_scale` to `entropy_final` (1.16, "Schedules")."""
    done = min(1.0, o["updates"] / o["entropy_decay"]) if o["entropy_decay"] else 0.0
    return (1 - done) * o["entropy_scale"] + done * o["entropy_final"]


def slow_weights(o, weights):
    """The slow critic for this update: it follows first, when its turn has come (1.13)."""
    old = part(weights, "slow_critic")
    if o["updates"] % o["slow_critic_every"]:
        return old
    return slow.follow(old, sg_all(part(weights, "critic")), o["slow_critic_fraction"])


def returns_of(rewards, values, discounts, lambda_):
    rows = zip(rewards, values, discounts, strict=True)
    return np.stack([slow.lambda_return(*row, lambda_) for row in rows])


def actor_term(o, weights, states, action, targets, baseline, w):
    """Eq. 6 (1.12), with the options of the released code and of DreamerV3."""
    if o["return_norm"] == "percentile":
        scale = slow.ReturnRange(weights["return_scale.low"], weights["return_scale.high"]).update(targets)
        targets, baseline = targets / scale, baseline / scale
    terms = {"states": states, "action": action, "targets": targets, "baseline": baseline, "w": w}
    if o["advantage"] == "released":
        terms = slow.released_credit(terms)
    pi = policy(o, part(weights, "actor"), terms["states"])
    loss = slow.actor_loss(
        pi.log_prob(sg(terms["action"])), pi.entropy(), terms["targets"], terms["baseline"], terms["w"],
        mode=o["actor_grad"], mix=o["actor_grad_mix"], entropy_scale=entropy_scale(o),
    )  # fmt: skip
    return loss, sg(pi.entropy().mean()), sg(np.mean(terms["targets"] - terms["baseline"]))


def critic_term(o, weights, slow_critic, states, targets, w):
    """Eq. 5 (1.13): go to the targets, more so where the dream is likely to get; states and targets are held."""
    stats = mlp(part(weights, "critic.mlp"), states, o["activation"])
    nats = critic_number(o).nats(stats, sg(targets))
    if o["critic_regularizer"]:  # DreamerV3: and do not run away from the slow critic
        nats = nats + o["critic_regularizer"] * critic_number(o).nats(stats, value(o, slow_critic, states))
    return (w * nats).mean()


def behaviour(o, weights, batch):
    """One update's losses. batch: deter, stoch (B, T, ...), is_terminal (B, T), noise, action_noise (N, H, ...)."""
    start, alive = starts(o, [batch["deter"], batch["stoch"]], batch["is_terminal"])
    slow_critic = slow_weights(o, weights)
    feat, action = imagine(o, weights, start, batch["noise"], batch["action_noise"])
    rewards, values, c = predict(o, weights, feat, alive, slow_critic)
    targets = returns_of(rewards, values, o["gamma"] * c, o["lambda_"])
    reached = np.stack([slow.discount_weights(row) for row in o["gamma"] * sg(c)])
    acts = reached * alive[:, None]  # nothing to act for after the end
    states = sg(feat[:, :-1])
    online = value(o, part(weights, "critic"), states)
    baseline = sg(online if o["baseline"] == "online" else values[:, :-1])
    actor_loss, entropy, advantage = actor_term(o, weights, states, action, targets, baseline, acts)
    # With "next" even state 0 of a dead start has a target made of the dream beyond the end: the critic leaves it out.
    critic_weights = acts if o["reward_index"] == "next" else reached
    return {
        "feat": feat,
        "action": action,
        "imagination/reward": np.mean(sg(rewards)),
        "imagination/continue": np.mean(sg(c)),
        "critic/target": np.mean(sg(targets)),
        "critic/value": np.mean(sg(online)),
        "actor/entropy": entropy,
        "actor/advantage": advantage,
        "actor/loss": actor_loss,
        "critic/loss": critic_term(o, weights, slow_critic, states, targets, critic_weights),
    }
