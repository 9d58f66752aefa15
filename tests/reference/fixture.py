"""What a golden fixture is: settings, inputs, weights, and what the reference makes of them.

Names inside: in.X inputs, w.X weights, out.X results, grad.X derivatives. Inputs and weights are rounded to float32
before anything is computed, so that both implementations begin with exactly the same numbers, and are stored as
float32; results are float64.
"""

import itertools
import zlib

import numpy as np


def flat(prefix, tree):
    """{name: array or nested dict} -> {prefix.name: array}."""
    out = {}
    for name, value in tree.items():
        out |= flat(f"{prefix}.{name}", value) if isinstance(value, dict) else {f"{prefix}.{name}": np.asarray(value)}
    return out


def fixture(options=None, *, inputs=None, weights=None, out=None, grad=None):
    """(options, {in.x, w.x, out.x, grad.x: array})."""
    trees = {"in": inputs or {}, "w": weights or {}, "out": out or {}, "grad": grad or {}}
    arrays = {}
    for prefix, tree in trees.items():
        kind = np.float32 if prefix in ("in", "w") else np.float64
        arrays |= {name: np.real(value).astype(kind) for name, value in flat(prefix, tree).items()}
    return options or {}, arrays


class Random:
    """Random inputs that depend on the fixture's name and on nothing else: a new fixture changes no other."""

    def __init__(self, name):
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))

    def normal(self, *shape, scale=1.0):
        return self._round(scale * self.rng.normal(size=shape))

    def uniform(self, *shape, low=0.0, high=1.0):
        return self._round(self.rng.uniform(low, high, shape))

    def one_hot(self, *shape):
        """(..., K) with a single 1 in each row."""
        return np.eye(shape[-1])[self.rng.integers(shape[-1], size=shape[:-1])]

    @staticmethod
    def _round(x):
        return np.asarray(x, np.float32).astype(np.float64)

    # ----------------------------------------------------------------------------------- weights, named as in torch

    def dense(self, inputs, outputs, norm=None):
        layer = {"weight": self.normal(outputs, inputs, scale=inputs**-0.5), "bias": self.normal(outputs, scale=0.3)}
        return layer, self.norm(outputs, norm)

    def norm(self, size, kind):
        if not kind:
            return {}
        scale = {"weight": self.uniform(size, low=0.5, high=1.5)}
        return scale | ({"bias": self.normal(size, scale=0.3)} if kind == "layer" else {})

    def mlp(self, inputs, outputs, *, layers, hidden, norm):
        """`layers` hidden layers, and an output layer unless `outputs` is None."""
        weights, place, size = {}, 0, inputs
        for _ in range(layers):
            dense, scale = self.dense(size, hidden, norm)
            weights |= flat(str(place), dense) | flat(str(place + 1), scale)
            place, size = place + 2 + bool(norm), hidden  # the activation takes a place too
        if outputs is not None:
            weights |= flat(str(place), self.dense(size, outputs)[0])
        return weights

    def gru(self, inputs, size, cell, norm):
        if cell == "gru":
            return {
                "weight_ih": self.normal(3 * size, inputs, scale=inputs**-0.5),
                "weight_hh": self.normal(3 * size, size, scale=size**-0.5),
                "bias_ih": self.normal(3 * size, scale=0.3),
                "bias_hh": self.normal(3 * size, scale=0.3),
            }
        gates, scale = self.dense(inputs + size, 3 * size, norm)
        return flat("gates", gates) | flat("norm", scale)

    def convolutions(self, channels, norm, *, transposed=False):
        """channels [C0, C1, ...]; a norm after each layer, but not after the last transposed one."""
        weights, place = {}, 0
        for i, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
            shape = (inputs, outputs, 4, 4) if transposed else (outputs, inputs, 4, 4)
            kernel = self.normal(*shape, scale=(16 * inputs) ** -0.5)
            weights |= flat(f"layers.{place}", {"weight": kernel, "bias": self.normal(outputs, scale=0.3)})
            normed = norm and not (transposed and i == len(channels) - 2)
            weights |= flat(f"layers.{place + 1}.norm", self.norm(outputs, norm)) if normed else {}
            place += 2 + bool(norm)
        return weights
