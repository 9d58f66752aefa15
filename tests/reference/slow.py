"""The algorithm a second time: NumPy, float64, plain loops, written from implementation-details.md and not from the
package.

Read it as a second explanation, from small to large: this file has one formula per function; `policies.py`,
`networks.py`, `model.py`, `dream.py` and `optimiser.py` put them together. Nothing here is fast. Gradients are
formulas where the algorithm is about gradients, and complex steps (`derivative.py`) elsewhere. Section numbers are
those of implementation-details.md.
"""

import math

import numpy as np

from .derivative import at_least, sg

# ------------------------------------------------------------------------------------------------ small functions


def symlog(x):
    """Design document: sign(x) ln(1 + |x|). Its slope at 0 is 1, from both sides."""
    sign = np.where(np.real(x) < 0, -1, 1)
    return sign * np.log(1 + sign * x)


def symexp(x):
    """What undoes it: sign(x) (e^|x| - 1)."""
    sign = np.where(np.real(x) < 0, -1, 1)
    return sign * np.expm1(sign * x)


#: What a reward head learns, and what turns its answer into what the actor plans with (1.4, 1.7, 1.10).
TRANSFORMS = {
    "none": (lambda x: x, lambda x: x),
    "tanh": (np.tanh, lambda x: x),  # the actor plans in the squashed space (1.10)
    "sign": (lambda x: np.sign(np.real(x)), lambda x: x),
    "symlog": (symlog, symexp),  # design document: squash, predict, undo
}


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def softmax(logits):
    """Over the last axis."""
    e = np.exp(logits - np.max(np.real(logits), -1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def mix_uniform(logits, share):
    """Logits of the mixture (1 - share) softmax + share / K (DreamerV3's unimix; V2 has none, 1.6)."""
    return np.log((1 - share) * softmax(logits) + share / logits.shape[-1]) if share else logits


def layer_norm(x, scale, offset, eps=1e-3):
    """Over the last axis, with Keras' eps (1.6)."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * scale + offset


def rms_norm(x, scale, eps=1e-4):
    """DreamerV3's: nothing is subtracted, the size alone is normalised."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def elu(x):
    return np.where(np.real(x) > 0, x, np.expm1(x))


def silu(x):
    return x * sigmoid(x)


def relu(x):
    return np.where(np.real(x) > 0, x, 0 * x)


ACTIVATIONS = {"elu": elu, "relu": relu, "silu": silu}


def one_hot_draw(probs, uniform):
    """Which class: the first whose cumulative probability exceeds the uniform number. probs (..., K) -> one-hot.

    A number within 2e-5 of a border could fall to either side in float32; such a fixture would be useless.
    """
    cumulative = np.cumsum(np.real(probs), -1)
    if np.abs(cumulative - uniform[..., None]).min() < 2e-5:
        raise ValueError("choose other noise: a draw is too close to a border")
    return np.eye(probs.shape[-1])[(cumulative < uniform[..., None]).sum(-1)]


def two_hot(x, bins):
    """One number as weights of the two bins around it, whose weighted average is the number (DreamerV3)."""
    x = min(max(x, bins[0]), bins[-1])
    weights = np.zeros(len(bins))
    above = min(int(np.searchsorted(bins, x, "right")), len(bins) - 1)
    weights[above] = (x - bins[above - 1]) / (bins[above] - bins[above - 1])
    weights[above - 1] = 1 - weights[above]
    return weights


# ---------------------------------------------------------------------------------------------------- world model


def gru_step(x, h, weight, bias, scale=None, offset=None):
    """One step of the recurrent cell (1.6). x (X,), h (D,), weight (3D, X + D) -> (D,).

    One Dense makes reset, candidate and update in this order, one LayerNorm spans all three (a scale alone: RMSNorm,
    neither: no norm). The reset gate multiplies the whole candidate. The update gate has a bias of -1, so that a new
    cell mostly remembers.
    """
    size = len(h)
    parts = weight @ np.concatenate([x, h]) + bias
    if scale is not None:
        parts = rms_norm(parts, scale) if offset is None else layer_norm(parts, scale, offset)
    reset = sigmoid(parts[:size])
    candidate = np.tanh(reset * parts[size : 2 * size])
    update = sigmoid(parts[2 * size :] - 1)
    return update * candidate + (1 - update) * h


def standard_gru_step(x, h, weight_x, weight_h, bias_x, bias_h):
    """The textbook cell, DreamerV1's. x (X,), h (D,), weights (3D, X) and (3D, D) -> (D,).

    Gates in the order reset, update, candidate. The reset gate multiplies the recurrent part of the candidate only,
    and `update` is the share that is kept: two differences from the cell above.
    """
    size = len(h)
    from_x, from_h = weight_x @ x + bias_x, weight_h @ h + bias_h
    reset = sigmoid(from_x[:size] + from_h[:size])
    keep = sigmoid(from_x[size : 2 * size] + from_h[size : 2 * size])
    candidate = np.tanh(from_x[2 * size :] + reset * from_h[2 * size :])
    return (1 - keep) * candidate + keep * h


def categorical_kl(left, right):
    """KL(left || right) in nats, summed over the S variables. Logits (S, K) -> number (1.8)."""
    total = 0.0
    for p, q in zip(softmax(left), softmax(right), strict=True):
        for p_k, q_k in zip(p, q, strict=True):
            total += p_k * (np.log(p_k) - np.log(q_k))
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
    return at_least(np.mean(values), free_nats) if free_avg else np.mean(at_least(np.array(values), free_nats))


def kl_loss(kl, pairs, *, mode, balance, free_nats, free_avg, dyn=0.5, rep=0.1):
    """The KL term of the model loss (1.8). pairs: (posterior, prior) of every step; kl(left, right) -> number.

    Balancing is about who moves: with the posterior held fixed the prior learns to predict it; with the prior held
    fixed the posterior is pulled towards what can be predicted. Both terms have the same value.
    """

    def term(left, right):
        return free_nats_mean([kl(left(*pair), right(*pair)) for pair in pairs], free_nats, free_avg)

    def posterior(q, p):
        return q

    def prior(q, p):
        return p

    def fixed_posterior(q, p):
        return sg(q)

    def fixed_prior(q, p):
        return sg(p)

    if mode == "balanced":  # the paper's Algorithm 2: KL(post || prior), 0.8 of it moves the prior
        return balance * term(fixed_posterior, prior) + (1 - balance) * term(posterior, fixed_prior)
    if mode == "forward":  # kl.forward = True of the released code: the KL the other way round
        return balance * term(prior, fixed_posterior) + (1 - balance) * term(fixed_prior, posterior)
    if mode == "bidirectional":  # the design document's formula; nothing is held
        return balance * term(posterior, prior) + (1 - balance) * term(prior, posterior)
    if mode == "plain":  # DreamerV1, and the released code at balance 0.5
        return term(posterior, prior)
    if mode == "separate":  # DreamerV3: balanced, with a weight for each side
        return dyn * term(fixed_posterior, prior) + rep * term(posterior, fixed_prior)
    raise ValueError(mode)


#: Standard deviation of the Gaussian latent, before 0.1 is added: "sigmoid2" (1.6) or DreamerV1's softplus.
STDS = {"sigmoid2": lambda raw: 2 * sigmoid(raw / 2), "softplus": lambda raw: np.log(1 + np.exp(raw))}


def gaussian(stats, std):
    """Outputs of the network (2Z,) -> mean (Z,), standard deviation (Z,), at least 0.1 (1.6)."""
    mean, raw = np.split(stats, 2, -1)
    return mean, STDS[std](raw) + 0.1


def gaussian_kl(mean_1, std_1, mean_2, std_2):
    """KL(N1 || N2) of diagonal Gaussians, summed over dimensions (1.6, DreamerV1's latent)."""
    total = 0.0
    for m1, s1, m2, s2 in zip(mean_1, std_1, mean_2, std_2, strict=True):
        total += np.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5
    return total


def squared_error_nats(prediction, target):
    """-log of a Gaussian of variance 1, without its constant, SUMMED over everything (1.5, 1.8)."""
    return 0.5 * ((prediction - target) ** 2).sum()


def bernoulli_nats(logit, target):
    """-log-likelihood of a coin, for a target that may be soft (1.7): -t ln p - (1 - t) ln(1 - p)."""
    p = sigmoid(logit)
    return -(target * np.log(p) + (1 - target) * np.log(1 - p))


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
    """1.12 with the paper's centring G_k - v_k. All (N, H) -> number.

    reinforce raises the probability of actions after which things went better than expected: the advantage is a
    number to it, nothing to differentiate. dynamics differentiates the target itself, through the dream.
    """
    total = 0.0
    for place in np.ndindex(*np.shape(targets)):
        score = log_probs[place] * sg(targets[place] - baseline[place])
        share = {"reinforce": 0.0, "dynamics": 1.0, "both": mix}[mode]
        objective = share * targets[place] + (1 - share) * score
        total -= sg(weights[place]) * (objective + entropy_scale * entropies[place])
    return total / np.size(targets)


def critic_loss(values, targets, weights):
    """1.13 without the constant. All (N, H) -> number. The critic goes to the targets, never the targets to it."""
    total = 0.0
    for place in np.ndindex(*np.shape(targets)):
        total += sg(weights[place]) * 0.5 * (values[place] - sg(targets[place])) ** 2
    return total / np.size(targets)


def released_credit(per_state):
    """The last released code's actor terms (1.12): the action of state k is scored by t_{k+1}, for k = 0..H-2.

    {"targets": (N, H), others (N, H, ...)} -> the same, H - 1 long: targets lose their first, the rest their last.
    """
    return {name: x[:, 1:] if name == "targets" else x[:, :-1] for name, x in per_state.items()}


def follow(slow, fast, fraction):
    """The slow critic's weights after it went `fraction` of the way: 1 in DreamerV2, at every 100th update (1.13)."""
    return {name: slow[name] + fraction * (fast[name] - slow[name]) for name in slow}


def copied_at(update, every):
    """Whose weights the slow critic has during an update (from 0): those of the critic before the update given (1.13).

    The released code copies right after updates 0, 100, ...; here it is right before them, and so the first targets
    do not come from an unrelated random network.
    """
    return update // every * every


class ReturnRange:
    """DreamerV3 divides advantages by the range of returns: 5 % to 95 % quantile, averaged over time, at least 1."""

    def __init__(self, low=0.0, high=0.0, decay=0.99):
        self.low, self.high, self.decay = low, high, decay

    def update(self, returns):
        low, high = np.quantile(sg(returns), [0.05, 0.95])
        self.low = self.decay * self.low + (1 - self.decay) * low
        self.high = self.decay * self.high + (1 - self.decay) * high
        return max(1.0, self.high - self.low)


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
