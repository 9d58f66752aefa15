"""Fixtures of the behaviour's formulas and of the optimiser, one function per equation. {name: (options, arrays)}."""

import numpy as np

from . import networks, optimiser, slow
from .derivative import gradient, gradients
from .dream import returns_of
from .fixture import Random, fixture
from .policies import DRAWN, POLICIES

N, H = 3, 4


def returns():
    """Eq. 4 (1.11): the numbers worked out by hand in 1.19, and random ones with their derivatives."""
    by_hand = {
        "rewards": np.array([[0.0, 0.0, 1.0]]),
        "values": np.array([[0.5, 0.4, 0.3, 2.0]]),
        "continues": np.array([[1.0, 1.0, 0.0]]),
    }
    options = {"gamma": 0.9, "lambda_": 0.95}
    yield "returns/by_hand", fixture(options, inputs=by_hand, out={"returns": np.array([[0.7605675, 0.8685, 1.0]])})
    r = Random("returns")
    inputs = {
        "rewards": r.normal(N, H), "values": r.normal(N, H + 1), "continues": r.uniform(N, H), "pull": r.normal(N, H)
    }  # fmt: skip

    def go(x):
        return returns_of(x["rewards"], x["values"], 0.9 * x["continues"], 0.7)

    grad = gradients(lambda x: (x["pull"] * go(x)).sum(), inputs, only=["rewards", "values", "continues"])
    options = {"gamma": 0.9, "lambda_": 0.7}
    yield "returns/random", fixture(options, inputs=inputs, out={"returns": go(inputs)}, grad=grad)


def discount_weights():
    """1.10; by hand from 1.19: discounts .9 .8 0 .7 -> 1, .9, .72, 0."""
    d, by_hand = np.array([[0.9, 0.8, 0.0, 0.7]]), np.array([[1, 0.9, 0.72, 0]])
    yield "weights/by_hand", fixture({"gamma": 1.0}, inputs={"continues": d}, out={"weights": by_hand})
    c = Random("weights").uniform(N, H)
    out = {"weights": np.stack([slow.discount_weights(0.9 * row) for row in c])}
    yield "weights/random", fixture({"gamma": 0.9}, inputs={"continues": c}, out=out)


def actor_outputs(r, policy, *shape):
    """Outputs of an actor, noise for a draw and an action in range. The spread of tanh_normal is kept small (0.1 to
    0.5), where the package's entropy, a sum over 15 points, is exact to 1e-7."""
    if policy == "onehot":
        return r.normal(*shape, 3), r.uniform(*shape), r.one_hot(*shape, 3)
    raw = r.normal(*shape, 2, scale=0.5) - 4 * (policy == "tanh_normal")
    stats = np.concatenate([r.normal(*shape, 2, scale=0.7), raw], -1)
    noise = r.uniform(*shape, 2, low=0.05, high=0.95) if policy.startswith("trunc_normal") else r.normal(*shape, 2)
    return stats, noise, r.uniform(*shape, 2, low=-0.9, high=0.9)


def policies():
    for name, policy in DRAWN.items():
        r = Random(f"policy/{name}")
        stats, noise, action = actor_outputs(r, name, N, H)
        pull = r.normal(*action.shape)
        pi = policy(stats)
        out = {"sample": pi.sample(noise), "log_prob": pi.log_prob(action), "entropy": pi.entropy()}
        grad = {
            "sample": gradient(lambda x, p=policy, n=noise, w=pull: (w * p(x).sample(n)).sum(), stats),
            "log_prob": gradient(lambda x, p=policy, a=action: p(x).log_prob(a).sum(), stats),
            "entropy": gradient(lambda x, p=policy: p(x).entropy().sum(), stats),
        }
        inputs = {"stats": stats, "noise": noise, "action": action, "pull": pull}
        yield f"policy/{name}", fixture({"policy": name}, inputs=inputs, out=out, grad=grad)


def actor_losses():
    """Eq. 6 (1.12) in its three forms, for each policy."""
    for mode in ("reinforce", "dynamics", "both"):
        for name, policy in POLICIES.items():
            r = Random(f"actor/{mode}/{name}")
            stats, _, action = actor_outputs(r, name, N, H)
            inputs = {
                "stats": stats, "action": action, "targets": r.normal(N, H), "baseline": r.normal(N, H),
                "weights": r.uniform(N, H),
            }  # fmt: skip

            def loss(x, mode=mode, policy=policy):
                pi = policy(x["stats"])
                return slow.actor_loss(
                    pi.log_prob(x["action"]), pi.entropy(), x["targets"], x["baseline"], x["weights"],
                    mode=mode, mix=0.3, entropy_scale=0.7,
                )  # fmt: skip

            options = {"policy": name, "actor_grad": mode, "actor_grad_mix": 0.3, "entropy_scale": 0.7}
            grad = gradients(loss, inputs, only=["stats", "targets", "baseline", "weights"])
            yield f"actor/{mode}/{name}", fixture(options, inputs=inputs, out={"loss": loss(inputs)}, grad=grad)


def credit():
    """Which target scores which action: paper, k by G_k; last released code, k by G_{k+1} (1.12)."""
    r = Random("credit")
    terms = {name: r.normal(N, H) for name in ("targets", "baseline", "weights")} | {"action": r.normal(N, H, 2)}
    yield "credit/released", fixture(inputs=terms, out=slow.released_credit(terms))


def critic_losses():
    """Eq. 5 (1.13); for a critic that classifies, its cross-entropy instead of the squared error."""
    for distribution, transform in (("normal", "none"), ("normal", "symlog"), ("twohot", "symlog")):
        name = f"critic/{distribution}_{transform}"
        r, number = Random(name), networks.Number(distribution, transform)
        size = 255 if distribution == "twohot" else 1
        shape = (1, 2) if distribution == "twohot" else (N, H)  # 255 outputs are enough numbers for a file
        inputs = {"stats": r.normal(*shape, size), "targets": r.normal(*shape, scale=3), "weights": r.uniform(*shape)}

        def loss(x, number=number):
            return (np.real(x["weights"]) * number.nats(x["stats"], np.real(x["targets"]))).mean()

        grad = gradients(loss, inputs, only=["stats", "targets", "weights"])
        out = {"loss": loss(inputs), "value": number.mean(inputs["stats"])}
        if (distribution, transform) == ("normal", "none"):
            out["plain"] = slow.critic_loss(inputs["stats"][..., 0], inputs["targets"], inputs["weights"])
        options = {"distribution": distribution, "transform": transform}
        yield name, fixture(options, inputs=inputs, out=out, grad=grad)


def slow_critics():
    """1.13: a whole copy, or a part of the way (DreamerV3), and when it happens."""
    for name, fraction in (("copy", 1.0), ("follow", 0.02)):
        r = Random(f"slow_critic/{name}")
        mine, theirs = (
            {f"mlp.{key}": w for key, w in r.mlp(3, 1, layers=1, hidden=4, norm=None).items()} for _ in range(2)
        )
        weights, after = {"mine": mine, "theirs": theirs}, slow.follow(mine, theirs, fraction)
        yield f"slow_critic/{name}", fixture({"fraction": fraction}, weights=weights, out=after)
    every, updates = 3, 8
    out = {"copied_at": np.array([slow.copied_at(update, every) for update in range(updates)])}
    yield "slow_schedule", fixture({"slow_critic_every": every, "updates": updates}, out=out)


def return_scale():
    """DreamerV3's range of returns, over three updates with larger and larger returns."""
    returns = Random("return_scale").normal(3, N, H) * np.array([1.0, 30.0, 900.0])[:, None, None]
    returns = returns.astype(np.float32).astype(np.float64)
    rule = slow.ReturnRange()
    scales = [rule.update(x) for x in returns]
    out = {"scale": np.array(scales), "low": np.array(rule.low), "high": np.array(rule.high)}
    yield "return_scale", fixture(inputs={"returns": returns}, out=out)


OPTIMISER = {
    "optimizer": "adam", "adam_eps": 1e-2, "adam_eps_mode": "torch", "adam_beta2": 0.999, "critic_lr": 0.05,
    "grad_clip": 2.0, "weight_decay": 0.01, "weight_decay_mode": "per_update", "agc": 0.0, "lr_warmup": 0,
}  # fmt: skip
OPTIMISERS = {
    "adam": {},
    "adam_keras": {"adam_eps_mode": "keras", "adam_eps": 1e-4},
    "adam_beta2": {"adam_beta2": 0.99},
    "decay_by_lr": {"weight_decay_mode": "lr_scaled", "weight_decay": 0.5},
    "warmup": {"lr_warmup": 3},
    "laprop": {"optimizer": "laprop"},
    "agc": {"agc": 0.3},
}


def optimisers():
    """1.9: five updates with gradients of very different sizes, so that the limit is passed by some and not by others.

    The epsilon is larger than anyone's, and so are decay and learning rate: what is small cannot be told from rounding.
    """
    r = Random("optimiser")
    weights = {f"mlp.{name}": w for name, w in r.mlp(4, 1, layers=1, hidden=3, norm="layer").items()}
    weights["mlp.3.bias"] *= 0  # as biases are at first: adaptive clipping must still let them move
    gs = [
        {name: r.normal(*w.shape, scale=size) for name, w in weights.items()} for size in (0.1, 3.0, 0.3, 0.02, 1.0)
    ]  # fmt: skip

    def rows(updates):
        """A row per update: all tensors in the order of their names."""
        return np.stack([np.concatenate([named[name].ravel() for name in sorted(named)]) for named in updates])

    for name, change in OPTIMISERS.items():
        options = OPTIMISER | change
        history, norms = optimiser.steps(options, weights, gs)
        out = {"norm": np.array(norms), "weights": rows(history)}
        inputs = {"weights": rows([weights])[0], "gradients": rows(gs)}
        yield f"optimiser/{name}", fixture(options, inputs=inputs, out=out)


def cases():
    """Every fixture of this file."""
    groups = (returns, discount_weights, policies, actor_losses, credit, critic_losses, slow_critics, return_scale)
    for group in (*groups, optimisers):
        yield from group()
