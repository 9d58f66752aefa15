"""Latent overshooting, start by start and step by step (PlaNet, Eq. 7; DreamerV2's latents)."""

from . import model, slow
from .derivative import sg


def loss(o, weights, posterior, action, is_first, rows, noise, *, depth, first, decay, free_nats, free_avg):
    """posterior (deter, stoch, stats) of (B, T, ...), rows [(b, t)], noise (N, L, S) -> a number."""
    deter, stoch, stats = posterior
    kl, terms = model.kl(o), [[] for _ in range(depth)]
    for n, (b, t) in enumerate(rows):
        h, z = deter[b, t], stoch[b, t]
        for d in range(1, depth + 1):
            if t + d >= is_first.shape[1] or is_first[b, t + d]:
                break
            h = model.recurrent(o, weights, h[None], z[None], action[b, t + d][None])[0]
            predicted = model.prior(o, weights, h[None])[0]
            terms[d - 1].append(kl(sg(stats[b, t + d]), predicted))
            z = model.sample(o, predicted[None], noise[n, d - 1][None])[0]
    share = [decay ** (d - 1) for d in range(1, depth + 1)]
    total = 0.0
    for d in range(first, depth + 1):
        if terms[d - 1]:
            total = total + share[d - 1] / sum(share) * slow.free_nats_mean(terms[d - 1], free_nats, free_avg)
    return total
