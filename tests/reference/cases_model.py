"""Fixtures of the world model's formulas, one function per equation. {name: (options, arrays)}."""

import numpy as np

from . import model, networks, slow
from .derivative import gradient, gradients
from .fixture import Random, fixture

B, T = 2, 3


def squashing():
    r = Random("symlog")
    x = np.concatenate([[0.0, 1e-3, -1e-3], r.normal(5, scale=3), [40.0, -40.0]])
    y = np.concatenate([[0.0, 1e-3, -1e-3], r.normal(5)])
    grad = {
        "symlog": gradient(lambda x: slow.symlog(x).sum(), x),
        "symexp": gradient(lambda y: slow.symexp(y).sum(), y),
    }
    out = {"symlog": slow.symlog(x), "symexp": slow.symexp(y)}
    yield "symlog", fixture(inputs={"x": x, "y": y}, out=out, grad=grad)


def samples():
    """Straight-through one-hots (1.6), with and without DreamerV3's uniform share; their entropy."""
    for name, unimix in (("plain", 0.0), ("unimix", 0.1)):
        r = Random(f"sample/{name}")
        o = {"latents": "categorical", "num_categoricals": 2, "num_categories": 4, "unimix": unimix}
        stats, noise, pull = r.normal(5, 8), r.uniform(5, 2), r.normal(5, 8)

        def entropy(stats, unimix=unimix):
            p = slow.softmax(slow.mix_uniform(stats.reshape(-1, 2, 4), unimix))
            return -(p * np.log(p)).sum((-2, -1))

        out = {"sample": model.sample(o, stats, noise), "entropy": entropy(stats)}
        grad = {
            "sample": gradient(lambda x, o=o, n=noise, p=pull: (p * model.sample(o, x, n)).sum(), stats),
            "entropy": gradient(lambda x, f=entropy: f(x).sum(), stats),
        }
        yield f"sample/{name}", fixture(o, inputs={"stats": stats, "noise": noise, "pull": pull}, out=out, grad=grad)


def gaussian_latents():
    """DreamerV1's latent (1.6): draw, KL and entropy."""
    for std in slow.STDS:
        r = Random(f"gaussian/{std}")
        left, right, noise, pull = r.normal(4, 6), r.normal(4, 6), r.normal(4, 3), r.normal(4, 3)

        def sample(x, std=std, noise=noise):
            mean, deviation = slow.gaussian(x, std)
            return mean + deviation * noise

        def kl(left, right, std=std):
            rows = zip(left, right, strict=True)
            return np.array([slow.gaussian_kl(*slow.gaussian(p, std), *slow.gaussian(q, std)) for p, q in rows])

        def entropy(x, std=std):
            return (np.log(slow.gaussian(x, std)[1]) + 0.5 * np.log(2 * np.pi * np.e)).sum(-1)

        grad = {
            "sample": gradient(lambda x, f=sample, p=pull: (p * f(x)).sum(), left),
            "left": gradient(lambda x, f=kl, y=right: f(x, y).sum(), left),
            "right": gradient(lambda y, f=kl, x=left: f(x, y).sum(), right),
        }
        out = {"sample": sample(left), "kl": kl(left, right), "entropy": entropy(left)}
        inputs = {"left": left, "right": right, "noise": noise, "pull": pull}
        yield f"gaussian/{std}", fixture({"std": std, "dim": 3}, inputs=inputs, out=out, grad=grad)


def kl_losses():
    """All five forms, with free nats below the mean, above it, and compared with each state (1.8)."""
    o = {"latents": "categorical", "num_categoricals": 2, "num_categories": 3, "unimix": 0.0}
    kl = model.kl(o)
    for mode in ("balanced", "bidirectional", "forward", "plain", "separate"):
        r = Random("kl")
        post, prior = r.normal(B, T, 6), r.normal(B, T, 6)
        values, reverse = (
            [kl(left[place], right[place]) for place in np.ndindex(B, T)]
            for left, right in ((post, prior), (prior, post))
        )
        for name, free_avg, chosen in (
            ("mean_above", True, 0.9 * min(np.mean(values), np.mean(reverse))),  # some single states are below
            ("mean_below", True, 20.0),
            ("each_some", False, np.median(values)),
        ):
            options = {
                "mode": mode, "kl_balance": 0.8, "free_nats": chosen, "free_avg": free_avg,
                "dyn_scale": 0.5, "rep_scale": 0.1,
            }  # fmt: skip

            def loss(post, prior, chosen=chosen, mode=mode, free_avg=free_avg):
                pairs = [(post[place], prior[place]) for place in np.ndindex(B, T)]
                return slow.kl_loss(kl, pairs, mode=mode, balance=0.8, free_nats=chosen, free_avg=free_avg)

            grad = {
                "posterior": gradient(lambda x, f=loss, y=prior: f(x, y), post),
                "prior": gradient(lambda y, f=loss, x=post: f(x, y), prior),
            }
            out = {"loss": loss(post, prior), "kl": np.mean(values)}
            inputs = {"posterior": post, "prior": prior}
            yield f"kl/{mode}/{name}", fixture(options, inputs=inputs, out=out, grad=grad)


def cells():
    """One step of each recurrent cell (1.6)."""
    for name, norm in (("layer", "layer"), ("none", None), ("rms", "rms"), ("standard", None)):
        cell = "gru" if name == "standard" else "norm_gru"
        r = Random(f"gru/{name}")
        x, h, pull, weights = r.normal(3, 4), r.normal(3, 3), r.normal(3, 3), r.gru(4, 3, cell, norm)
        grad = {
            "x": gradient(lambda x, w=weights, h=h, p=pull: (p * networks.gru(w, x, h)).sum(), x),
            "h": gradient(lambda h, w=weights, x=x, p=pull: (p * networks.gru(w, x, h)).sum(), h),
            "w": gradients(lambda w, x=x, h=h, p=pull: (p * networks.gru(w, x, h)).sum(), weights),
        }
        yield (
            f"gru/{name}",
            fixture(
                {"cell": cell, "norm": norm or False},
                inputs={"x": x, "h": h, "pull": pull},
                weights=weights,
                out={"h": networks.gru(weights, x, h)},
                grad=grad,
            ),
        )


def layers():
    """Dense, norm, activation (1.5)."""
    for norm, activation in (("layer", "elu"), ("rms", "silu"), (None, "relu")):
        name = f"mlp/{norm or 'none'}_{activation}"
        r = Random(name)
        x, pull, weights = r.normal(4, 3), r.normal(4, 2), r.mlp(3, 2, layers=2, hidden=4, norm=norm)
        grad = {
            "x": gradient(lambda x, w=weights, a=activation, p=pull: (p * networks.mlp(w, x, a)).sum(), x),
            "w": gradients(lambda w, x=x, a=activation, p=pull: (p * networks.mlp(w, x, a)).sum(), weights),
        }
        options = {"norm": norm or False, "activation": activation}
        out = {"y": networks.mlp(weights, x, activation)}
        yield name, fixture(options, inputs={"x": x, "pull": pull}, weights=weights, out=out, grad=grad)


def convolutions():
    """Two layers each way on 10 x 11 pixels, a size that the decoder has to repair (1.5)."""
    r, shape = Random("image"), (2, 10, 11)
    image, pull = r.uniform(1, *shape, low=-0.5, high=0.5), r.normal(1, 4)
    encoder = r.convolutions([2, 2, 4], "layer")

    def embed(w):
        return networks.conv_encoder(w, image, "elu")

    grad = {"w": gradients(lambda w: (pull * embed(w)).sum(), encoder)}
    yield (
        "image/encoder",
        fixture({"shape": shape, "depth": 2}, inputs={"image": image, "pull": pull}, weights=encoder,
                out={"embed": embed(encoder)}, grad=grad),
    )  # fmt: skip
    feat = r.normal(1, 3)
    decoder = decoder_weights(r, 3)

    def nats(w, feat=feat):
        pictures = networks.conv_decoder(w, feat, shape, "elu")
        return np.stack([slow.squared_error_nats(*pair) for pair in zip(pictures, image, strict=True)])

    yield (
        "image/decoder",
        fixture(
            {"shape": shape, "depth": 2, "feat": 3},
            inputs={"feat": feat, "target": image},
            weights=decoder,
            out={"loss": nats(decoder)},
            grad={
                "feat": gradient(lambda x: nats(decoder, x).sum(), feat),
                "w": gradients(lambda w: nats(w).sum(), decoder),
            },
        ),
    )


def decoder_weights(r, feat):
    """A decoder's weights: Dense to the encoder's last map (4 channels of 1 x 1), then back."""
    dense, _ = r.dense(feat, 4)
    return {f"linear.{name}": w for name, w in dense.items()} | r.convolutions([4, 2, 2], "layer", transposed=True)


def heads():
    """Vector, reward and continue heads (1.7): likelihood of a target, and the mean that the actor plans with."""
    feat_dim, hidden = 4, 2

    def case(name, options, outputs, target, mean, nats):
        r = Random(name)
        feat, weights = r.normal(B, T, feat_dim), r.mlp(feat_dim, outputs, layers=1, hidden=hidden, norm=None)

        def loss(w, feat=feat):
            return nats(networks.mlp(w, feat, "elu"), target)

        prefixed = {f"mlp.{key}": w for key, w in weights.items()}
        return name, fixture(
            {"feat": feat_dim, "hidden": hidden, **options},
            inputs={"feat": feat, "target": target},
            weights=prefixed,
            out={"loss": loss(weights), "mean": mean(networks.mlp(weights, feat, "elu"))},
            grad={"feat": gradient(lambda x: loss(weights, x).sum(), feat)},
        )

    r = Random("heads")
    vector = r.normal(B, T, 2)
    yield case("vector", {"size": 2}, 2, vector, lambda x: x, lambda x, y: 0.5 * ((x - y) ** 2).sum(-1))
    rewards = np.array([[0.0, 1.0, -1.0], [3.5, -20.0, 0.25]])
    for distribution, transform in (
        ("normal", "none"), ("normal", "tanh"), ("normal", "sign"), ("normal", "symlog"), ("twohot", "symlog")
    ):  # fmt: skip
        number = networks.Number(distribution, transform)
        options = {"distribution": distribution, "transform": transform}
        target = np.concatenate([rewards[:, :2], [[1e9], [-1e9]]], 1) if distribution == "twohot" else rewards
        outputs = 255 if distribution == "twohot" else 1
        yield case(f"reward/{distribution}_{transform}", options, outputs, target, number.mean, number.nats)
    lives = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    for name, d in (("hard", 1.0), ("discounted", 0.875)):
        yield case(
            f"continue/{name}", {"discount": d}, 1, lives,
            lambda x, d=d: slow.sigmoid(x[..., 0]) / d,
            lambda x, y, d=d: slow.bernoulli_nats(x[..., 0], d * y),
        )  # fmt: skip


def states():
    """Eq. 1: memory, prior and posterior of a small RSSM, from given states."""
    r = Random("rssm")
    o = {"activation": "elu", "latents": "categorical", "num_categoricals": 2, "num_categories": 3, "unimix": 0.0}
    sizes = {"action": 2, "embed": 4, "deter": 3, "hidden": 4}
    inputs = {
        "deter": r.normal(B, 3), "stoch": r.one_hot(B, 2, 3).reshape(B, 6), "action": r.one_hot(B, 2),
        "embed": r.normal(B, 4), "noise": r.uniform(B, 2), "pull": r.normal(B, 3), "pull_stats": r.normal(B, 6),
    }  # fmt: skip
    nets = {
        "input_net": r.mlp(8, None, layers=1, hidden=4, norm="layer"),
        "gru": r.gru(4, 3, "norm_gru", "layer"),
        "prior_net": r.mlp(3, 6, layers=1, hidden=4, norm="layer"),
        "posterior_net": r.mlp(7, 6, layers=1, hidden=4, norm="layer"),
    }
    weights = {f"{net}.{name}": w for net, named in nets.items() for name, w in named.items()}

    def look(x):
        deter = model.recurrent(o, weights, x["deter"], x["stoch"], x["action"])
        return deter, model.prior(o, weights, deter), model.posterior(o, weights, deter, x["embed"])

    def pulled(x):
        deter, prior, posterior = look(x)
        return (x["pull"] * deter).sum() + (x["pull_stats"] * (prior + 2 * posterior)).sum()

    deter, prior, posterior = look(inputs)
    # A first step forgets memory, state and action (1.6, Resets); row 0 is one.
    first = np.array([True, False])
    forgot = {name: np.where(first[:, None], 0, inputs[name]) for name in ("deter", "stoch", "action")}
    fresh_deter, _, fresh = look({**inputs, **forgot})
    out = {
        "deter": deter, "prior": prior, "posterior": posterior,
        "prior_sample": model.sample(o, prior, inputs["noise"]),
        "posterior_sample": model.sample(o, posterior, inputs["noise"]),
        "reset": {"deter": fresh_deter, "stats": fresh},
    }  # fmt: skip
    grad = gradients(pulled, inputs, only=["deter", "stoch", "action", "embed"])
    yield "rssm", fixture(sizes, inputs=inputs | {"is_first": first}, weights=weights, out=out, grad=grad)


def cases():
    """Every fixture of this file."""
    for group in (squashing, samples, gaussian_latents, kl_losses, cells, layers, convolutions, heads, states):
        yield from group()
