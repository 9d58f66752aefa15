"""Fixtures of ensembles (docs/ensembles.md): one member, one row after another. {name: (options, arrays)}.

Time as in the drawing of `replay.py`: in a recorded sequence `action[t]` led into step t, so the action that leaves t
is `action[t + 1]`; in a dream `action[k]` leads from k to k + 1.
"""

import numpy as np

from . import model, slow
from .derivative import gradient, gradients, sg
from .fixture import Random, fixture

M, B, T, D = 3, 2, 4, 3
CATEGORICAL = {"latents": "categorical", "num_categoricals": 2, "num_categories": 3, "unimix": 0.0}
GAUSSIAN = {"latents": "gaussian", "gaussian_dim": 2, "gaussian_std": "softplus"}


def entropy(probs):
    return -sum(p * np.log(p) for p in probs)


def mutual_information(o, stats):
    """Of one state, stats (M, P): per variable the entropy of the members' mean minus the mean of their entropies."""
    if o["latents"] == "gaussian":
        means, stds = zip(*(slow.gaussian(member, o["gaussian_std"]) for member in stats), strict=True)
        total = 0.0
        for d in range(len(means[0])):
            mus = [mean[d] for mean in means]
            center = sum(mus) / len(mus)
            variance = sum((mu - center) ** 2 for mu in mus) / len(mus)
            total = total + 0.5 * np.log(1 + variance / (sum(std[d] ** 2 for std in stds) / len(stds)))
        return total
    size = o["num_categoricals"], o["num_categories"]
    members = [[slow.softmax(row) for row in member.reshape(size)] for member in stats]
    total = 0.0
    for s in range(size[0]):
        mean = sum(member[s] for member in members) / len(members)
        total = total + entropy(mean) - sum(entropy(member[s]) for member in members) / len(members)
    return total


def distance(o, stats):
    """Of one state: mean distance of the class probabilities from their mean; of Gaussians the spread of the means."""
    if o["latents"] == "gaussian":
        return spread([slow.gaussian(member, o["gaussian_std"])[0] for member in stats])
    size = o["num_categoricals"], o["num_categories"]
    members = [np.concatenate([slow.softmax(row) for row in member.reshape(size)]) for member in stats]
    mean = sum(members) / len(members)
    return sum(np.sqrt(((member - mean) ** 2).sum()) for member in members) / len(members)


def spread(means):
    """Standard deviation over the members, mean over dimensions. [M arrays (Z,)] -> number."""
    center = sum(means) / len(means)
    return np.sqrt(sum((mean - center) ** 2 for mean in means) / len(means)).mean()


def member(weights, m, x, *, norm):
    """One member's answer: one hidden layer with LayerNorm or without, elu, and an output layer. x (in,) -> (out,)."""
    x = x @ weights["net.layers.0.weight"][m] + weights["net.layers.0.bias"][m, 0]
    if norm:
        x = slow.layer_norm(x, weights["net.layers.1.weight"][m, 0], weights["net.layers.1.bias"][m, 0])
    last = "net.layers.3" if norm else "net.layers.2"
    return slow.elu(x) @ weights[f"{last}.weight"][m] + weights[f"{last}.bias"][m, 0]


def weights_of(r, inputs, outputs, *, hidden, norm):
    found = {
        "net.layers.0.weight": r.normal(M, inputs, hidden, scale=inputs**-0.5),
        "net.layers.0.bias": r.normal(M, 1, hidden, scale=0.3),
    }
    if norm:
        found["net.layers.1.weight"] = r.uniform(M, 1, hidden, low=0.5, high=1.5)
        found["net.layers.1.bias"] = r.normal(M, 1, hidden, scale=0.3)
    last = "net.layers.3" if norm else "net.layers.2"
    found[f"{last}.weight"] = r.normal(M, hidden, outputs, scale=hidden**-0.5)
    return found | {f"{last}.bias": r.normal(M, 1, outputs, scale=0.3)}


def disagreements():
    for name, o, size in (("categorical", CATEGORICAL, 6), ("gaussian", GAUSSIAN, 4)):
        r = Random(f"ensemble/disagreement/{name}")
        stats = r.normal(M, B, size, scale=2.0)
        measures = {"disagreement": mutual_information, "distance": distance}
        out, grad = {}, {}
        for measure, one in measures.items():
            out[measure] = np.array([one(o, stats[:, row]) for row in range(B)])
            grad[measure] = gradient(lambda x, f=one, o=o: sum(f(o, x[:, row]) for row in range(B)), stats)
        yield f"ensemble/disagreement/{name}", fixture(o, inputs={"stats": stats}, out=out, grad=grad)


def priors():
    r, o = Random("ensemble/prior"), CATEGORICAL
    deter, stats, times = r.normal(B, T, D), r.normal(B, T, 6), np.array([[0, 2], [1, 1], [3, 0]])
    weights = weights_of(r, D, 6, hidden=2, norm=True)
    kl = model.kl(o)

    def loss(weights, deter, stats):
        deter, stats = sg(deter), sg(stats)
        terms = [
            times[m, b] * kl(stats[b, t], member(weights, m, deter[b, t], norm=True))
            for m in range(M) for b in range(B) for t in range(T)
        ]  # fmt: skip
        return sum(terms) / len(terms)

    def disagreement(deter):
        rows = [np.stack([member(weights, m, row, norm=True) for m in range(M)]) for row in deter.reshape(-1, D)]
        return np.array([mutual_information(o, row) for row in rows]).reshape(deter.shape[:-1])

    grad = {
        "w": gradients(lambda w: loss(w, deter, stats), weights),
        "deter": gradient(lambda x: loss(weights, x, stats), deter),
        "stats": gradient(lambda x: loss(weights, deter, x), stats),
        "dream": gradient(lambda x: disagreement(x).sum(), deter),
    }
    found = disagreement(deter)
    out = {"loss": loss(weights, deter, stats), "states": found[:, :-1], "arrivals": found[:, 1:]}
    inputs = {"deter": deter, "stats": stats, "times": times}
    yield "ensemble/prior", fixture(o, inputs=inputs, weights=weights, out=out, grad=grad)


def one_step():
    r, z, a = Random("ensemble/one_step"), 4, 2
    deter, stoch, action = r.normal(B, T, D), r.one_hot(B, T, 2, 2).reshape(B, T, z), r.one_hot(B, T, a)
    first = np.zeros((B, T))
    first[0, 0] = first[1, 2] = 1
    times = np.array([[0, 2], [1, 1], [3, 0]])
    weights = weights_of(r, z + D + a, z, hidden=2, norm=False)

    def answer(weights, m, stoch, deter, action):
        return member(weights, m, np.concatenate([stoch, deter, action]), norm=False)

    def loss(weights, deter, stoch):
        deter, stoch, total, count = sg(deter), sg(stoch), 0.0, 0
        for b in range(B):
            for t in range(T - 1):
                if first[b, t + 1]:
                    continue  # no step: another episode begins
                for m in range(M):
                    mean = answer(weights, m, stoch[b, t], deter[b, t], action[b, t + 1])
                    total = total + times[m, b] * 0.5 * ((stoch[b, t + 1] - mean) ** 2).sum()
                    count += 1
        return total / count

    dreamed = r.one_hot(B, T - 1, a)
    arrivals = np.array(
        [
            [
                spread([answer(weights, m, stoch[b, k], deter[b, k], dreamed[b, k]) for m in range(M)])
                for k in range(T - 1)
            ]
            for b in range(B)
        ]
    )
    states = np.concatenate([np.zeros((B, 1)), arrivals[:, :-1]], 1)
    grad = {
        "w": gradients(lambda w: loss(w, deter, stoch), weights),
        "deter": gradient(lambda x: loss(weights, x, stoch), deter),
        "stoch": gradient(lambda x: loss(weights, deter, x), stoch),
    }
    inputs = {
        "deter": deter, "stoch": stoch, "first": first, "times": times, "dreamed": dreamed,
        "action": np.where(first[..., None] == 1, np.nan, action),
    }  # fmt: skip
    out = {"loss": loss(weights, deter, stoch), "states": states, "arrivals": arrivals}
    yield "ensemble/one_step", fixture(inputs=inputs, weights=weights, out=out, grad=grad)


def rewards():
    """Three updates: the deviation starts with the first one's and then moves by 0.05 of the way."""
    r = Random("ensemble/reward")
    found, predicted = r.uniform(3, B, T, low=0.0, high=2.0), r.normal(3, B, T)
    deviation, mixed = None, []
    for u, own in zip(found, predicted, strict=True):
        new = np.sqrt(((u - u.mean()) ** 2).mean())
        deviation = new if deviation is None else 0.95 * deviation + 0.05 * new
        mixed.append(0.7 * u / deviation + 0.3 * own)
    options = {"intrinsic": 0.7, "extrinsic": 0.3, "weight": 2.5}
    out = {"rewards": np.array(mixed), "penalized": predicted - 2.5 * found}
    yield "ensemble/reward", fixture(options, inputs={"found": found, "predicted": predicted}, out=out)


def cases():
    for group in (disagreements, priors, one_step, rewards):
        yield from group()
