"""The whole world model: filter a batch of sequences and add up the loss (1.1, 1.4 - 1.8).

`o` holds settings under the names of the package's configuration. Weights have the names of its modules. Time: the
reward, the end and the observation of step t are predicted from the state at t, which the action stored at t led to.
"""

import numpy as np

from . import slow
from .derivative import sg, straight_through
from .networks import Number, conv_decoder, conv_encoder, gru, mlp, part


def preprocess(o, obs):
    """Images to [-0.5, 0.5] with channels first, vectors as they are or squashed (1.4; DreamerV3 squashes)."""
    out = {}
    for key, value in obs.items():
        if key in o["images"]:
            out[key] = np.moveaxis(value / 255 - 0.5, -1, -3)
        else:
            out[key] = slow.symlog(value) if o["vector_transform"] == "symlog" else value
    return out


def encode(o, weights, obs):
    """Convolutions per image, one MLP for all vectors, side by side (1.5); one more layer brings them to embed_dim."""
    parts = [
        conv_encoder(part(weights, f"convs.obs/{key}"), obs[key], o["conv_activation"]) for key in sorted(o["images"])
    ]
    if o["vectors"]:
        vectors = np.concatenate([obs[key] for key in sorted(o["vectors"])], -1)
        parts.append(mlp(part(weights, "mlp"), vectors, o["activation"], output=False))
    embed, project = np.concatenate(parts, -1), part(weights, "project")
    return mlp(project, embed, o["activation"], output=False) if project else embed


# -------------------------------------------------------------------------------------------------------- dynamics


def sample(o, stats, noise):
    """The stochastic state from its statistics (1.6): straight-through one-hots, or mean + std * noise."""
    if o["latents"] == "gaussian":
        mean, std = slow.gaussian(stats, o["gaussian_std"])
        return mean + std * noise
    logits = stats.reshape((*stats.shape[:-1], o["num_categoricals"], o["num_categories"]))
    probs = slow.softmax(slow.mix_uniform(logits, o["unimix"]))
    return straight_through(slow.one_hot_draw(probs, noise), probs).reshape(stats.shape)


def recurrent(o, weights, deter, stoch, action):
    """h_t = f(h_{t-1}, z_{t-1}, a_{t-1}) (1.6, Eq. 1). Rows (B, ...) -> (B, D)."""
    x = mlp(part(weights, "input_net"), np.concatenate([stoch, action], -1), o["activation"], output=False)
    return gru(part(weights, "gru"), x, deter)


def prior(o, weights, deter):
    """What the state will be, from memory alone: statistics (1.6)."""
    return mlp(part(weights, "prior_net"), deter, o["activation"])


def posterior(o, weights, deter, embed):
    """What it is, now that the observation is there: statistics (1.6)."""
    return mlp(part(weights, "posterior_net"), np.concatenate([deter, embed], -1), o["activation"])


def feature(stoch, deter):
    """What heads, actor and critic see, in this order (1.6)."""
    return np.concatenate([stoch, deter], -1)


def filter_sequences(o, weights, embed, action, is_first, noise):
    """Go through B sequences (B, T, ...): posterior deter, stoch, stats, and the prior's stats, each (B, T, ...).

    Before the first step there is nothing: zeros. Where an episode begins in the middle, the past (state AND action)
    is erased in the same way (1.6, Resets); the action stored there does not exist and is NaN.
    """
    batch, length = is_first.shape
    deter = np.zeros((batch, weights["prior_net.0.weight"].shape[1]))
    stoch = np.zeros((batch, weights["input_net.0.weight"].shape[1] - action.shape[-1]))
    steps = []
    for t in range(length):
        erased = (is_first[:, t] | (t == 0))[:, None]
        deter, stoch, led_here = (np.where(erased, 0, x) for x in (deter, stoch, action[:, t]))
        deter = recurrent(o, weights, deter, stoch, led_here)
        stats = posterior(o, weights, deter, embed[:, t])
        stoch = sample(o, stats, noise[:, t])
        steps.append((deter, stoch, stats, prior(o, weights, deter)))
    return tuple(np.stack(parts, 1) for parts in zip(*steps, strict=True))


def kl(o):
    """KL(left || right) of two statistics (P,), summed over the latent variables (1.8)."""
    if o["latents"] == "gaussian":
        return lambda p, q: slow.gaussian_kl(*slow.gaussian(p, o["gaussian_std"]), *slow.gaussian(q, o["gaussian_std"]))
    shape = (o["num_categoricals"], o["num_categories"])
    return lambda p, q: slow.categorical_kl(*(slow.mix_uniform(stats.reshape(shape), o["unimix"]) for stats in (p, q)))


# ----------------------------------------------------------------------------------------------------------- heads


def reward_number(o):
    return Number(o["reward_distribution"], o["reward_transform"])


def reward(o, heads, feat):
    """What the actor plans with: the head's mean, in raw rewards for symlog, squashed for tanh (1.10)."""
    return reward_number(o).mean(mlp(part(heads, "reward.mlp"), feat, o["activation"]))


def continue_logit(o, heads, feat):
    return mlp(part(heads, "continue.mlp"), feat, o["activation"])[..., 0]


def continues(o, heads, feat):
    """Probability of going on. A head with soft targets has learnt gamma times that (1.7), which is taken out again
    because the returns multiply by gamma once."""
    if not o["predict_continue"]:
        return np.ones(feat.shape[:-1])
    return slow.sigmoid(continue_logit(o, heads, feat)) / _soft(o)


def _soft(o):
    return o["gamma"] if o["continue_target"] == "discounted" else 1.0


def head_losses(o, heads, feat, obs, rewards, is_terminal):
    """-log-likelihood of everything, summed over pixels and dimensions, averaged over batch and time (1.7, 1.8)."""
    count = np.prod(feat.shape[:-1])

    def seen_by(kind):
        """Some heads may learn without shaping the state; in the released code none does (1.7)."""
        return sg(feat) if kind in o["detached_heads"] else feat

    losses = {}
    for key in o["images"]:
        picture = conv_decoder(part(heads, f"obs/{key}"), seen_by("obs"), obs[key].shape[-3:], o["conv_activation"])
        losses[f"obs/{key}"] = slow.squared_error_nats(picture, obs[key]) / count
    for key in o["vectors"]:
        vector = mlp(part(heads, f"obs/{key}.mlp"), seen_by("obs"), o["activation"])
        losses[f"obs/{key}"] = slow.squared_error_nats(vector, obs[key]) / count
    stats = mlp(part(heads, "reward.mlp"), seen_by("reward"), o["activation"])
    losses["reward"] = reward_number(o).nats(stats, rewards).mean()
    if o["predict_continue"]:
        target = _soft(o) * (1 - is_terminal)
        losses["continue"] = slow.bernoulli_nats(continue_logit(o, heads, seen_by("continue")), target).mean()
    return losses


def world_model_loss(o, weights, batch):
    """Eq. 2: every head's loss times its scale, plus the KL times its own (1.8). -> everything worth comparing.

    batch: obs {key: (B, T, ...)}, action, reward, is_first, is_terminal, noise.
    """
    obs, rssm, heads = preprocess(o, batch["obs"]), part(weights, "rssm"), part(weights, "heads")
    embed = encode(o, part(weights, "encoder"), obs)
    deter, stoch, stats, prior_stats = filter_sequences(
        o, rssm, embed, batch["action"], batch["is_first"], batch["noise"]
    )
    losses = head_losses(o, heads, feature(stoch, deter), obs, batch["reward"], batch["is_terminal"])
    pairs = [(stats[place], prior_stats[place]) for place in np.ndindex(*batch["is_first"].shape)]
    kl_term = slow.kl_loss(
        kl(o), pairs, mode=o["kl_mode"], balance=o["kl_balance"], free_nats=o["free_nats"], free_avg=o["free_avg"],
        dyn=o["dyn_scale"], rep=o["rep_scale"],
    )  # fmt: skip
    scales = {"reward": o["reward_scale"], "continue": o["continue_scale"]}
    scales |= {f"obs/{key}": o["image_scale"] for key in o["images"]}
    scales |= {f"obs/{key}": o["vector_scale"] for key in o["vectors"]}
    total = o["kl_scale"] * kl_term + sum(scales[name] * loss for name, loss in losses.items())
    return {
        "deter": deter,
        "stoch": stoch,
        "stats": stats,
        "prior": prior_stats,
        **{f"{name}_loss": loss for name, loss in losses.items()},
        "kl": np.mean([kl(o)(*pair) for pair in pairs]),
        "loss": total,
    }
