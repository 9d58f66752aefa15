"""Fixtures of the hierarchy (docs/hierarchy.md): one dream, one window, one step after another.

States of a dream are numbered 0..H, H = W K; the goal of window w is set in state w K.
"""

import numpy as np

from . import model, networks, slow
from .derivative import gradient, gradients, sg, straight_through
from .fixture import Random, fixture

B, T, D = 2, 3, 3
N, W, K = 2, 2, 3
CODE = {"latents": "categorical", "num_categoricals": 2, "num_categories": 3, "unimix": 0.0}
ACTIVATION = "elu"


def code_of(logits, uniform):
    """Straight-through one-hots. logits (S * C,), uniform (S,) -> (S * C,)."""
    drawn = []
    for row, chance in zip(logits.reshape(2, 3), uniform, strict=True):
        probs = slow.softmax(row)
        drawn.append(straight_through(slow.one_hot_draw(probs[None], np.array([chance]))[0], probs))
    return np.concatenate(drawn)


def coded(weights, h, uniform):
    """-> what the code of a state says about it (D,), the code's logits."""
    logits = networks.mlp(networks.part(weights, "encoder"), h, ACTIVATION)
    return networks.mlp(networks.part(weights, "decoder"), code_of(logits, uniform), ACTIVATION), logits


def goals():
    r, beta = Random("hierarchy/goals"), 0.3
    weights = {f"encoder.{name}": x for name, x in r.mlp(D, 6, layers=1, hidden=4, norm="layer").items()}
    weights |= {f"decoder.{name}": x for name, x in r.mlp(6, D, layers=1, hidden=4, norm="layer").items()}
    deter, uniform = r.normal(B, T, D), r.uniform(B, T, 2)
    kl = model.kl(CODE)

    def terms(weights, deter):
        errors, nats = [], []
        for b in range(B):
            for t in range(T):
                h = sg(deter[b, t])
                answer, logits = coded(weights, h, uniform[b, t])
                errors.append(((answer - h) ** 2).sum())
                nats.append(kl(logits, np.zeros(6)))
        return errors, nats

    def loss(weights, deter):
        errors, nats = terms(weights, deter)
        return sum(errors) / len(errors) + beta * sum(nats) / len(nats)

    errors, nats = terms(weights, deter)
    out = {"error": np.array(errors).reshape(B, T), "kl": np.array(nats).reshape(B, T), "loss": loss(weights, deter)}
    grad = {
        "w": gradients(lambda w: loss(w, deter), weights),
        "deter": gradient(lambda x: loss(weights, x), deter),
    }
    inputs = {"deter": deter, "uniform": uniform}
    yield "hierarchy/goals", fixture({"beta": beta}, inputs=inputs, weights=weights, out=out, grad=grad)
    new = [
        [((coded(weights, deter[b, t], uniform[b, t])[0] - deter[b, t]) ** 2).mean() for t in range(T)]
        for b in range(B)
    ]
    yield "hierarchy/novelty", fixture(inputs=inputs, weights=weights, out={"novelty": np.array(new)})


def kl_weights():
    """Above 1.1 of the target it grows by a tenth, below 1 / 1.1 it shrinks by as much, from 1e-5 to 1."""
    r, target = Random("hierarchy/kl_weight"), 10.0
    nats = np.concatenate([r.uniform(6, low=0.0, high=25.0), [10.5, 9.5], np.full(40, 30.0), [1.0, 1.0]])
    weight, found = 0.1, []
    for each in nats:
        weight *= 1.1 if each > 1.1 * target else 1 / 1.1 if each < target / 1.1 else 1.0
        weight = min(max(weight, 1e-5), 1.0)
        found.append(weight)
    yield "hierarchy/kl_weight", fixture({"target": target}, inputs={"nats": nats}, out={"weights": np.array(found)})


def alike(goal, h):
    """g . h / max(|g|, |h|)^2."""
    left, right = np.sqrt((goal**2).sum()), np.sqrt((h**2).sum())
    longest = left if np.real(left) > np.real(right) else right
    return (goal * h).sum() / longest**2


def rewards():
    r = Random("hierarchy/reward")
    goal, deter = r.normal(5, D), r.normal(5, D, scale=2.0)
    out = {"reward": np.array([alike(g, h) for g, h in zip(goal, deter, strict=True)])}

    def total(goal, deter):
        return sum(alike(g, h) for g, h in zip(goal, deter, strict=True))

    grad = {"deter": gradient(lambda x: total(goal, x), deter), "goal": gradient(lambda x: total(x, deter), goal)}
    yield "hierarchy/reward", fixture(inputs={"goal": goal, "deter": deter}, out=out, grad=grad)


def worker():
    """Segments of K + 1 states: the last one is the next segment's first, and compared with this one's goal."""
    r, gamma = Random("hierarchy/worker"), 0.9
    deter, goal = r.normal(N, W * K + 1, D), r.normal(N, W, D)
    continues = r.uniform(N, W * K + 1, low=0.2, high=1.0)
    scale = r.normal(N * W, K + 1)

    def terms(deter, continues):
        paid, going_on, weights = [], [], []
        for n in range(N):
            for w in range(W):
                paid.append([alike(goal[n, w], deter[n, w * K + k]) for k in range(K + 1)])
                going_on.append([continues[n, w * K + k + 1] for k in range(K)])
                weight, row = sg(continues[n, w * K]), []
                for k in range(K):
                    row.append(weight)
                    weight = weight * gamma * sg(continues[n, w * K + k + 1])
                weights.append(row)
        return np.array(paid), np.array(going_on), np.array(weights)

    def total(deter, continues):
        paid, going_on, weights = terms(deter, continues)
        return (scale * paid).sum() + going_on.sum() + weights.sum()

    paid, going_on, weights = terms(deter, continues)
    grad = {
        "deter": gradient(lambda x: total(x, continues), deter),
        "continues": gradient(lambda x: total(deter, x), continues),
    }
    inputs = {"deter": deter, "goal": goal, "continues": continues, "scale": scale}
    out = {"rewards": paid, "continues": going_on, "weights": weights}
    yield "hierarchy/worker", fixture({"every": K, "gamma": gamma}, inputs=inputs, out=out, grad=grad)


def manager():
    """Windows: rewards as far as their steps are reached, the chance to survive, and discounts over windows."""
    r, gamma, lambda_ = Random("hierarchy/manager"), 0.9, 0.7
    pay, continues = r.normal(N, W * K), r.uniform(N, W * K, low=0.2, high=1.0)
    values, scale = r.normal(N, W + 1), r.normal(N, W)

    def windows(pay, continues):
        paid, survived = np.zeros((N, W), pay.dtype), np.zeros((N, W), continues.dtype)
        paid = paid.astype(np.result_type(pay, continues))
        for n in range(N):
            for w in range(W):
                reached = 1.0
                for k in range(K):
                    paid[n, w] += reached * pay[n, w * K + k] / K
                    reached = reached * continues[n, w * K + k]
                survived[n, w] = reached
        return paid, survived

    def returns(pay, continues):
        paid, survived = windows(pay, continues)
        return np.array([slow.lambda_return(paid[n], values[n], gamma * survived[n], lambda_) for n in range(N)])

    paid, survived = windows(pay, continues)
    out = {"rewards": paid, "continues": survived, "returns": returns(pay, continues)}
    out["weights"] = np.array([slow.discount_weights(gamma * survived[n]) for n in range(N)])
    grad = {
        "pay": gradient(lambda x: (scale * returns(x, continues)).sum(), pay),
        "continues": gradient(lambda x: (scale * returns(pay, x)).sum(), continues),
    }
    inputs = {"pay": pay, "continues": continues, "values": values, "scale": scale}
    options = {"every": K, "gamma": gamma, "lambda_": lambda_}
    yield "hierarchy/manager", fixture(options, inputs=inputs, out=out, grad=grad)


def moments():
    """Mean and deviation over three updates, corrected for having begun at 0."""
    r, decay, least = Random("hierarchy/moments"), 0.9, 0.5
    values = r.normal(3, 7) * np.array([2.0, 0.1, 5.0])[:, None] + 1
    values = values.astype(np.float32).astype(np.float64)
    mean = square = 0.0
    found = []
    for i, each in enumerate(values):
        mean = decay * mean + (1 - decay) * each.mean()
        square = decay * square + (1 - decay) * (each**2).mean()
        known = 1 - decay ** (i + 1)
        found.append([mean / known, max(least, np.sqrt(max(0.0, square / known - (mean / known) ** 2)))])
    options = {"decay": decay, "least": least}
    yield "hierarchy/moments", fixture(options, inputs={"values": values}, out={"moments": np.array(found)})


def cases():
    for group in (goals, kl_weights, rewards, worker, manager, moments):
        yield from group()
