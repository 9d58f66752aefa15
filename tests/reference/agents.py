"""Fixtures of whole updates: four small agents that differ in nearly every option. {name: (options, arrays)}.

options: "settings" are the package's, "task" is what the agent sees and does. All numbers that could hide a fault by
being 0 or 1 (scales, discounts) are neither. The batch holds an end in mid-sequence, a first step after it whose action
is NaN, and a sequence that begins in mid-episode.
"""

import numpy as np

from .derivative import gradients
from .dream import behaviour, starts
from .fixture import Random, fixture
from .model import world_model_loss
from .networks import part, sizes

B, T = 2, 4

#: The paper's agent, with small networks.
DREAMER_V2 = {
    "latents": "categorical", "num_categoricals": 2, "num_categories": 3, "unimix": 0.0, "gaussian_dim": 3,
    "gaussian_std": "sigmoid2", "rnn_hidden_dim": 4, "hidden_dim": 5, "rssm_hidden_dim": 3, "embed_dim": 4, "layers": 1,
    "cnn_depth": 3, "norm": True, "conv_norm": True, "norm_kind": "layer", "recurrent_cell": "norm_gru",
    "gru_norm": True, "zero_init": False, "activation": "elu", "conv_activation": "elu", "vector_transform": "none",
    "reward_transform": "tanh", "reward_distribution": "normal", "predict_continue": True, "continue_target": "hard",
    "kl_mode": "balanced", "kl_balance": 0.8, "kl_scale": 1.5, "dyn_scale": 0.5, "rep_scale": 0.1, "free_nats": 0.05,
    "free_avg": True, "image_scale": 0.5, "vector_scale": 0.75, "reward_scale": 2.0, "continue_scale": 3.0,
    "detached_heads": [], "imagination_horizon": 3, "gamma": 0.875, "lambda_": 0.75, "reward_index": "current",
    "policy": "onehot", "policy_unimix": 0.0, "actor_grad": "reinforce", "actor_grad_mix": 0.25, "advantage": "paper",
    "return_norm": "none", "entropy_scale": 0.3, "entropy_final": 0.3, "entropy_decay": 0, "baseline": "online",
    "critic_distribution": "normal", "critic_transform": "none", "slow_critic": True, "slow_critic_every": 100,
    "slow_critic_fraction": 1.0, "critic_regularizer": 0.0, "actor_critic_layers": 1, "imagination_starts": 0,
    "start_states": "all",
}  # fmt: skip
PIXELS = {"images": {"camera": [1, 6, 7]}, "vectors": {"body": 2}, "kind": "discrete", "actions": 2, "updates": 1}
VECTORS = {"images": {}, "vectors": {"arm": 1, "body": 2}, "kind": "discrete", "actions": 2, "updates": 1}

AGENTS = {
    "dreamer_v2": (DREAMER_V2, PIXELS),
    #: The last released code: its credit and baseline, soft targets with gamma inside, no norm but the GRU's.
    "released": (
        DREAMER_V2 | {
            "norm": False, "rssm_hidden_dim": 0, "embed_dim": 0, "kl_mode": "forward", "free_avg": False,
            "free_nats": 0.1, "continue_target": "discounted", "actor_grad": "both", "advantage": "released",
            "baseline": "slow", "start_states": "drop_last",
        },
        VECTORS,
    ),
    #: DreamerV1: Gaussian states, the textbook cell, one KL, no continue head, no slow critic, gradients by dynamics.
    "dreamer_v1": (
        DREAMER_V2 | {
            "latents": "gaussian", "gaussian_std": "softplus", "recurrent_cell": "gru", "norm": False,
            "conv_norm": False, "conv_activation": "relu", "kl_mode": "plain", "predict_continue": False,
            "reward_transform": "none", "policy": "trunc_normal", "actor_grad": "dynamics", "slow_critic": False,
            "entropy_scale": 0.1, "entropy_final": 0.1,
        },
        PIXELS | {"kind": "box"},
    ),
    #: DreamerV3's choices: classification of rewards and values, RMSNorm, unimix, normalised returns, next-state index.
    "dreamer_v3": (
        DREAMER_V2 | {
            "norm_kind": "rms", "activation": "silu", "unimix": 0.1, "policy_unimix": 0.1, "vector_transform": "symlog",
            "hidden_dim": 2, "kl_mode": "separate", "free_avg": False, "reward_transform": "symlog",
            "reward_distribution": "twohot", "continue_target": "discounted", "critic_distribution": "twohot",
            "critic_transform": "symlog", "reward_index": "next", "return_norm": "percentile",
            "slow_critic_every": 1, "slow_critic_fraction": 0.25, "critic_regularizer": 0.5, "entropy_final": 0.1,
            "entropy_decay": 4, "detached_heads": ["reward"],
        },
        VECTORS,
    ),
}  # fmt: skip


def _prefixed(**networks):
    return {f"{prefix}.{name}": w for prefix, network in networks.items() for name, w in network.items()}


def _latent_sizes(o):
    """(size of z, number of statistics it is drawn from)."""
    z = o["num_categoricals"] * o["num_categories"]
    return (z, z) if o["latents"] == "categorical" else (o["gaussian_dim"], 2 * o["gaussian_dim"])


def _number(o, what):
    return 255 if o[f"{what}_distribution"] == "twohot" else 1


def _decoder(r, o, feat, shape, conv_norm):
    """One transposed convolution: from `cnn_depth` maps back to the image."""
    height, width = (sizes(size, 1)[-1] for size in shape[1:])
    dense, _ = r.dense(feat, o["cnn_depth"] * height * width)
    layers = r.convolutions([o["cnn_depth"], shape[0]], conv_norm, transposed=True)
    return {f"linear.{name}": w for name, w in dense.items()} | layers


def random_weights(r, o):
    """Every weight of an agent, under the names of the package."""
    norm = o["norm_kind"] if o["norm"] else None
    conv_norm = o["norm_kind"] if o["conv_norm"] else None
    z, stats = _latent_sizes(o)
    feat, deter, unit = z + o["rnn_hidden_dim"], o["rnn_hidden_dim"], o["rssm_hidden_dim"] or o["hidden_dim"]

    def mlp(inputs, outputs):
        return r.mlp(inputs, outputs, layers=1, hidden=o["hidden_dim"], norm=norm)

    def rssm_mlp(inputs, outputs):
        return r.mlp(inputs, outputs, layers=1, hidden=unit, norm=norm)

    natural = sum(o["cnn_depth"] * sizes(h, 1)[-1] * sizes(w, 1)[-1] for _, h, w in o["images"].values())
    encoder = {f"convs.obs/{k}": r.convolutions([c, o["cnn_depth"]], conv_norm) for k, (c, _, _) in o["images"].items()}
    encoder["mlp"], natural = mlp(sum(o["vectors"].values()), None), natural + o["hidden_dim"]
    if o["embed_dim"]:
        encoder["project"] = r.mlp(natural, None, layers=1, hidden=o["embed_dim"], norm=norm)
    heads = {f"obs/{key}": _decoder(r, o, feat, shape, conv_norm) for key, shape in o["images"].items()}
    heads |= {f"obs/{key}.mlp": mlp(feat, size) for key, size in o["vectors"].items()}
    heads["reward.mlp"] = mlp(feat, _number(o, "reward"))
    if o["predict_continue"]:
        heads["continue.mlp"] = mlp(feat, 1)
    rssm = {
        "input_net": rssm_mlp(z + o["actions"], None),
        "gru": r.gru(unit, deter, o["recurrent_cell"], o["norm_kind"] if o["gru_norm"] else None),
        "prior_net": rssm_mlp(deter, stats),
        "posterior_net": rssm_mlp(deter + (o["embed_dim"] or natural), stats),
    }
    outputs = o["actions"] * (1 if o["policy"] == "onehot" else 2)
    return _prefixed(
        **{f"world_model.encoder.{name}": w for name, w in encoder.items()},
        **{f"world_model.rssm.{name}": w for name, w in rssm.items()},
        **{f"world_model.heads.{name}": w for name, w in heads.items()},
        **{"actor.mlp": mlp(feat, outputs)},
        **{f"{name}.mlp": mlp(feat, _number(o, "critic")) for name in ("critic", "slow_critic")},
        return_scale={"low": np.array(-1.0), "high": np.array(2.5)},
    )


def _noise(r, o, rows, steps):
    """For the latent variables: one uniform number per categorical, or a standard normal one per dimension."""
    if o["latents"] == "gaussian":
        return r.normal(rows, steps, o["gaussian_dim"])
    return r.uniform(rows, steps, o["num_categoricals"])


def random_batch(r, o):
    """Row 1 begins in mid-episode, ends at its second step and begins anew at the third."""
    is_first, is_terminal = np.zeros((B, T), bool), np.zeros((B, T), bool)
    is_first[0, 0] = is_first[1, 2] = is_terminal[1, 1] = True
    box = o["kind"] == "box"
    action = r.uniform(B, T, o["actions"], low=-1, high=1) if box else r.one_hot(B, T, o["actions"])
    action[is_first] = np.nan
    obs = {key: r.rng.integers(0, 256, (B, T, h, w, c)) for key, (c, h, w) in o["images"].items()}
    obs |= {key: r.normal(B, T, size) for key, size in o["vectors"].items()}
    reward = np.where(is_first, 0, r.normal(B, T))
    return {
        "obs": obs, "action": action, "reward": reward, "is_first": is_first, "is_terminal": is_terminal,
        "noise": _noise(r, o, B, T),
    }  # fmt: skip


def whole_updates(name):
    """One update of an agent: what the world model made of a batch, what the dream gave, and all gradients."""
    settings, task = AGENTS[name]
    o, r = settings | task, Random(f"agent/{name}")
    weights, batch = random_weights(r, o), random_batch(r, o)
    model = part(weights, "world_model")
    seen = world_model_loss(o, model, batch)
    grad = {"world_model": gradients(lambda w: world_model_loss(o, w, batch)["loss"], model)}
    posterior = {key: r._round(np.real(seen[key])) for key in ("deter", "stoch", "stats")}
    rows, horizon = len(starts(o, [posterior["deter"]], batch["is_terminal"])[1]), o["imagination_horizon"]
    discrete = o["policy"] == "onehot"
    chance = {
        "noise": _noise(r, o, rows, horizon),
        "action_noise": r.uniform(rows, horizon) if discrete else r.uniform(rows, horizon, o["actions"]),
    }
    told = {**posterior, "is_terminal": batch["is_terminal"], **chance}
    dreamt = behaviour(o, weights, told)
    for who in ("actor", "critic"):
        names = [key for key in weights if key.startswith(f"{who}.")]
        found = gradients(lambda w, who=who: behaviour(o, w, told)[f"{who}/loss"], weights, only=names)
        grad[who] = part(found, who)
    return fixture(
        {"settings": settings, "task": task},
        inputs={**batch, "posterior": posterior, "dream": chance},
        weights=weights,
        out={"model": seen, "behaviour": dreamt, "changed": who_changes(o)},
        grad=grad,
    )


def who_changes(o):
    """Which of world model, actor, critic and slow critic an update changes: three optimisers, each with its own
    weights (1.9); the dream is differentiated through the world model without changing it (1.10)."""
    copied = o["updates"] % o["slow_critic_every"] == 0
    return {"by_model": np.array([1, 0, 0, 0]), "by_behaviour": np.array([0, 1, 1, copied])}


def cases():
    """Every fixture of this file."""
    for name in AGENTS:
        yield f"agent/{name}", whole_updates(name)
