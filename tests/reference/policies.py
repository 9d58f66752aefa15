"""The three policies (1.12): what the actor's outputs mean, a draw, its log-density, the entropy. Sections:
implementation-details.md.

stats are the actor's outputs, (..., A) or (..., 2A); all results but draws are summed over the action's dimensions.
"""

import math
from statistics import NormalDist

import numpy as np

from .derivative import sg, straight_through
from .slow import one_hot_draw, sigmoid, softmax

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def _density(z):
    return np.exp(-0.5 * z**2 - HALF_LOG_2PI)


def _cdf(z):
    """Of the standard normal. The imaginary part of a complex step is the slope, which is the density, times it."""
    real = np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)), otypes=[float])(sg(z))
    return real + 1j * _density(sg(z)) * np.imag(z) if np.iscomplexobj(z) else real


def _inverse_cdf(p):
    real = np.vectorize(NormalDist().inv_cdf, otypes=[float])(sg(p))
    return real + 1j * np.imag(p) / _density(real) if np.iscomplexobj(p) else real


NODES, WEIGHTS = np.polynomial.legendre.leggauss(100)


def _integral(function, low, high):
    """Gauss-Legendre over the last axis; low, high (...) -> (...). function takes (..., points)."""
    middle, half = (low + high) / 2, (high - low) / 2
    return half * (WEIGHTS * function(middle[..., None] + half[..., None] * NODES)).sum(-1)


class OneHot:
    """Discrete actions. A draw has the value of a one-hot vector and the gradient of the probabilities."""

    def __init__(self, stats):
        self.probs = softmax(stats)

    def sample(self, uniform):
        return straight_through(one_hot_draw(self.probs, uniform), self.probs)

    def log_prob(self, action):
        return (np.log(self.probs) * action).sum(-1)

    def entropy(self):
        return -(self.probs * np.log(self.probs)).sum(-1)


class TruncatedNormal:
    """A Gaussian cut to [-1, 1]: mean tanh(out), deviation 2 sigmoid(raw / 2) + 0.1."""

    def __init__(self, stats):
        out, raw = np.split(stats, 2, -1)
        self.mean, self.std = np.tanh(out), 2 * sigmoid(raw / 2) + 0.1
        self.below = _cdf((-1 - self.mean) / self.std)
        self.mass = _cdf((1 - self.mean) / self.std) - self.below

    def sample(self, uniform):
        """Where the cumulative distribution reaches the uniform number; clipped just inside, the gradient passes."""
        x = self.mean + self.std * _inverse_cdf(self.below + uniform * self.mass)
        return straight_through(np.clip(sg(x), -1 + 1e-6, 1 - 1e-6), x)

    def _log_density(self, x, wide=lambda parameter: parameter):
        z = (x - wide(self.mean)) / wide(self.std)
        return -0.5 * z**2 - HALF_LOG_2PI - np.log(wide(self.std)) - np.log(wide(self.mass))

    def log_prob(self, action):
        return self._log_density(action).sum(-1)

    def entropy(self):
        """-integral of p ln p over [-1, 1], by summing it up."""

        def term(x):
            log_p = self._log_density(x, lambda parameter: parameter[..., None])
            return -np.exp(log_p) * log_p

        ones = np.ones(self.mean.shape)
        return _integral(term, -ones, ones).sum(-1)


class ReleasedTruncatedNormal(TruncatedNormal):
    """The same draws; their gradient is TensorFlow's, as of a Gaussian that is not cut: mean + std * a fixed number."""

    def sample(self, uniform):
        fixed = sg(_inverse_cdf(sg(self.below + uniform * self.mass)))
        x = self.mean + self.std * fixed
        return straight_through(np.clip(sg(x), -1 + 1e-6, 1 - 1e-6), x)


class TanhNormal:
    """tanh of a Gaussian: mean 5 tanh(out / 5), deviation 2 sigmoid(raw / 2) + 0.1 (DreamerV1's policy)."""

    def __init__(self, stats):
        out, raw = np.split(stats, 2, -1)
        self.mean, self.std = 5 * np.tanh(out / 5), 2 * sigmoid(raw / 2) + 0.1

    def sample(self, normal):
        return np.tanh(self.mean + self.std * normal)

    def log_prob(self, action):
        """The Gaussian's density at atanh(action), over the slope of tanh there."""
        z = (np.arctanh(action) - self.mean) / self.std
        return (-0.5 * z**2 - HALF_LOG_2PI - np.log(self.std) - np.log(1 - action**2)).sum(-1)

    def entropy(self):
        """The Gaussian's, plus what tanh changes: E ln(1 - tanh(x)^2), the expectation summed up over 9 deviations."""
        mean, std = self.mean[..., None], self.std[..., None]

        def term(x):
            return np.exp(-0.5 * ((x - mean) / std) ** 2 - HALF_LOG_2PI) / std * -2 * np.log(np.cosh(x))

        expected = _integral(term, sg(self.mean - 9 * self.std), sg(self.mean + 9 * self.std))
        return (0.5 + HALF_LOG_2PI + np.log(self.std) + expected).sum(-1)


POLICIES = {"onehot": OneHot, "trunc_normal": TruncatedNormal, "tanh_normal": TanhNormal}
#: Those that differ in draws, too.
DRAWN = POLICIES | {"trunc_normal_released": ReleasedTruncatedNormal}
