"""The algorithm a second time: NumPy, float64, plain loops, written from FACTS.md and not from the package.

Read it as a second explanation. Nothing here is fast, batched or differentiable; gradients are given as formulas
where the algorithm is about gradients. Section numbers are those of FACTS.md.
"""

import math

import numpy as np

# ------------------------------------------------------------------------------------------------ small functions


def symlog(x):
    """Design document: sign(x) ln(1 + |x|), for one number."""
    return math.copysign(math.log(1 + abs(x)), x)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def softmax(logits):
    """Over the last axis."""
    e = np.exp(logits - np.max(logits, -1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm(x, scale, offset, eps=1e-3):
    """Over the last axis, with Keras' eps (1.6)."""
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * scale + offset


# ---------------------------------------------------------------------------------------------------- world model


def gru_step(x, h, weight, bias, scale=None, offset=None):
    """One step of the recurrent cell (1.6). x (X,), h (D,), weight (3D, X + D) -> (D,).

    One Dense makes reset, candidate and update in this order, one LayerNorm spans all three. The reset gate multiplies
    the whole candidate. The update gate has a bias of -1, so that a new cell mostly remembers.
    """
    size = len(h)
    parts = weight @ np.concatenate([x, h]) + bias
    if scale is not None:
        parts = layer_norm(parts, scale, offset)
    reset = sigmoid(parts[:size])
    candidate = np.tanh(reset * parts[size : 2 * size])
    update = sigmoid(parts[2 * size :] - 1)
    return update * candidate + (1 - update) * h


def categorical_kl(left, right):
    """KL(left || right) in nats, summed over the S variables. Logits (S, K) -> number (1.8)."""
    total = 0.0
    for p, q in zip(softmax(left), softmax(right), strict=True):
        for p_k, q_k in zip(p, q, strict=True):
            total += p_k * (math.log(p_k) - math.log(q_k))
    return total


def categorical_kl_gradients(left, right):
    """(d KL / d left logits, d KL / d right logits), each (S, K).

    With p = softmax(left), q = softmax(right): d KL / d right = q - p, and d KL / d left_k = p_k (ln p_k/q_k - KL) with
    the KL of that variable alone.
    """
    p, q = softmax(left), softmax(right)
    ratio = np.log(p) - np.log(q)
    return p * (ratio - (p * ratio).sum(-1, keepdims=True)), q - p


def free_nats_mean(values, free_nats, free_avg):
    """The mean KL, not below `free_nats` (1.8): average and then compare, or compare each state and then average."""
    if free_avg:
        return max(float(np.mean(values)), free_nats)
    return float(np.mean([max(value, free_nats) for value in values]))


def gaussian_kl(mean_1, std_1, mean_2, std_2):
    """KL(N1 || N2) of diagonal Gaussians, summed over dimensions (1.6, DreamerV1's latent)."""
    total = 0.0
    for m1, s1, m2, s2 in zip(mean_1, std_1, mean_2, std_2, strict=True):
        total += math.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5
    return total


# ------------------------------------------------------------------------------------------------------ behaviour


def lambda_return(rewards, values, discounts, lambda_):
    """Backward recursion of 1.11 for one dream: H rewards, H discounts gamma * c, H + 1 values -> H targets."""
    target, targets = values[len(rewards)], [0.0] * len(rewards)
    for k in reversed(range(len(rewards))):
        target = rewards[k] + discounts[k] * ((1 - lambda_) * values[k + 1] + lambda_ * target)
        targets[k] = target
    return np.array(targets)


def lambda_return_forward(rewards, values, discounts, lambda_):
    """The same by its definition, Sutton's forward view: a mixture of n-step returns with weights (1-l) l^(n-1).

    The longest one, which ends in the bootstrap v_H, takes all the weight that is left.
    """
    horizon = len(rewards)

    def n_step(k, n):
        total, discount = 0.0, 1.0
        for i in range(k, k + n):
            total += discount * rewards[i]
            discount *= discounts[i]
        return total + discount * values[k + n]

    targets = []
    for k in range(horizon):
        longest = horizon - k
        mixed = sum((1 - lambda_) * lambda_ ** (n - 1) * n_step(k, n) for n in range(1, longest))
        targets.append(mixed + lambda_ ** (longest - 1) * n_step(k, longest))
    return np.array(targets)


def discount_weights(discounts):
    """w_k = product of the discounts BEFORE k (1.10), so w_0 = 1 and the discount of k itself is not in w_k."""
    weights, product = [], 1.0
    for discount in discounts:
        weights.append(product)
        product *= discount
    return np.array(weights)


def actor_loss(log_probs, entropies, targets, baseline, weights, *, mode, mix, entropy_scale):
    """1.12 with the paper's centring G_k - v_k. All (N, H) -> number. Its value only: no gradient in here."""
    total = 0.0
    for place in np.ndindex(*np.shape(targets)):
        score = log_probs[place] * (targets[place] - baseline[place])
        share = {"reinforce": 0.0, "dynamics": 1.0, "both": mix}[mode]
        objective = share * targets[place] + (1 - share) * score
        total -= weights[place] * (objective + entropy_scale * entropies[place])
    return total / np.size(targets)


def critic_loss(values, targets, weights):
    """1.13 without the constant. All (N, H) -> number."""
    total = 0.0
    for place in np.ndindex(*np.shape(targets)):
        total += weights[place] * 0.5 * (values[place] - targets[place]) ** 2
    return total / np.size(targets)


# ------------------------------------------------------------------------------------------------------- policies


def normal_cdf(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def truncated_normal_log_prob(x, mean, std):
    """log density at x of N(mean, std) cut to [-1, 1] (1.12): the Gaussian's, over the mass that was kept."""
    mass = normal_cdf((1 - mean) / std) - normal_cdf((-1 - mean) / std)
    return -0.5 * ((x - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi) - math.log(mass)


def truncated_normal_cdf(x, mean, std):
    low, high = normal_cdf((-1 - mean) / std), normal_cdf((1 - mean) / std)
    return (normal_cdf((x - mean) / std) - low) / (high - low)


def integrate(function, low, high, steps=4000):
    """Midpoint rule."""
    width = (high - low) / steps
    return width * sum(function(low + (i + 0.5) * width) for i in range(steps))


def truncated_normal_entropy(mean, std):
    """-integral of p ln p over [-1, 1], by summing it up."""

    def term(x):
        log_p = truncated_normal_log_prob(x, mean, std)
        return -math.exp(log_p) * log_p

    return integrate(term, -1, 1)


def tanh_normal_entropy(mean, std):
    """Entropy of tanh(x), x ~ N(mean, std): that of x plus E ln(1 - tanh(x)^2), the expectation summed up."""

    def term(x):
        density = math.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
        return density * -2 * math.log(math.cosh(x))  # 1 - tanh^2 = 1 / cosh^2

    gaussian = 0.5 * math.log(2 * math.pi * math.e * std**2)
    return gaussian + integrate(term, mean - 9 * std, mean + 9 * std)
