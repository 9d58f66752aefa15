"""One optimiser step after another (1.9): clip, decay, Adam in two dialects, LaProp. Weights are {name: array}."""

import numpy as np


def norm(arrays):
    return np.sqrt(sum((x**2).sum() for x in arrays))


def clip_global(gradients, limit):
    """All gradients times one number, so that their common norm is at most `limit` (1.9)."""
    factor = min(1.0, limit / norm(gradients.values()))
    return {name: factor * g for name, g in gradients.items()}


def clip_adaptive(gradients, weights, limit, floor=1e-3):
    """Each gradient by itself: its norm at most `limit` times that of its weights (DreamerV3's AGC)."""
    clipped = {}
    for name, g in gradients.items():
        most = limit * max(floor, norm([weights[name]]))
        clipped[name] = g * min(1.0, most / norm([g]))
    return clipped


class Adam:
    """Averages of gradients and of their squares, both too small at first and corrected for it.

    `dialect` says where epsilon enters. torch: after the correction of the squares. Keras, and so the released code:
    before it, so that the same epsilon does more in the first updates (1.9).
    """

    def __init__(self, beta1=0.9, beta2=0.999, eps=1e-5, dialect="torch"):
        self.beta1, self.beta2, self.eps, self.dialect = beta1, beta2, eps, dialect
        self.m, self.v, self.t = 0.0, 0.0, 0

    def change(self, g, lr):
        self.t += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * g**2
        missing_1, missing_2 = 1 - self.beta1**self.t, 1 - self.beta2**self.t
        if self.dialect == "keras":
            return -lr * np.sqrt(missing_2) / missing_1 * self.m / (np.sqrt(self.v) + self.eps)
        return -lr * (self.m / missing_1) / (np.sqrt(self.v / missing_2) + self.eps)


class LaProp:
    """DreamerV3's: divide each gradient by its usual size first, then average."""

    def __init__(self, beta1=0.9, beta2=0.999, eps=1e-20):
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.m, self.v, self.t = 0.0, 0.0, 0

    def change(self, g, lr):
        self.t += 1
        self.v = self.beta2 * self.v + (1 - self.beta2) * g**2
        u = g / (np.sqrt(self.v / (1 - self.beta2**self.t)) + self.eps)
        self.m = self.beta1 * self.m + (1 - self.beta1) * u
        return -lr * self.m / (1 - self.beta1**self.t)


def steps(o, weights, gradients):
    """`gradients`: one {name: array} per update. -> (weights after each update, norms before clipping).

    Weight decay comes before the step and multiplies every weight by (1 - decay), whatever the learning rate (1.9);
    "lr_scaled" is AdamW's habit, (1 - lr * decay).
    """
    kind = {"adam": Adam, "laprop": LaProp}[o["optimizer"]]
    dialect = {"dialect": o["adam_eps_mode"]} if kind is Adam else {}
    rules = {name: kind(beta2=o["adam_beta2"], eps=o["adam_eps"], **dialect) for name in weights}
    history, norms = [], []
    for update, g in enumerate(gradients, 1):
        lr = o["critic_lr"] * (min(1.0, update / o["lr_warmup"]) if o["lr_warmup"] else 1.0)
        decay = o["weight_decay"] * (lr if o["weight_decay_mode"] == "lr_scaled" else 1.0)
        norms.append(norm(g.values()))
        g = clip_adaptive(g, weights, o["agc"]) if o["agc"] else clip_global(g, o["grad_clip"])
        weights = {name: (1 - decay) * w + rules[name].change(g[name], lr) for name, w in weights.items()}
        history.append(weights)
    return history, norms
