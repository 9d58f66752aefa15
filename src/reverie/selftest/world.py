"""The world model's equations, from a squashed number to a posterior: what the package makes of the golden inputs."""

from __future__ import annotations

import torch
from torch import nn

from ..latents import CategoricalLatent, GaussianLatent
from ..layers import CELLS, MLP, MLPOptions
from ..networks import ContinuePredictor, ConvDecoder, ConvEncoder, Head, RewardPredictor, VectorDecoder
from ..ops import symexp, symlog
from ..rssm import DiscreteRSSM, State
from .golden import Check, Found, GoldenCase, derivatives


def _squashing(case: GoldenCase) -> Found:
    x, y = (case.inputs()[name].requires_grad_() for name in ("x", "y"))
    squashed, back = symlog(x), symexp(y)
    slopes = derivatives(squashed.sum() + back.sum(), {"symlog": x, "symexp": y})
    return {"out.symlog": squashed, "out.symexp": back} | slopes


def _sample(case: GoldenCase) -> Found:
    o, x = case.options, case.inputs()
    latent = CategoricalLatent(o["num_categoricals"], o["num_categories"], unimix=o["unimix"])
    stats = x["stats"].requires_grad_()
    sample, entropy = latent.sample(stats, x["noise"]), latent.entropy(stats)
    found = derivatives((x["pull"] * sample).sum(), {"sample": stats}) | derivatives(entropy.sum(), {"entropy": stats})
    return {"out.sample": sample, "out.entropy": entropy} | found


def _gaussian(case: GoldenCase) -> Found:
    x, latent = case.inputs(), GaussianLatent(case.options["dim"], std=case.options["std"])
    sample, kl = latent.sample(x["left"], x["noise"]), latent.kl(x["left"], x["right"])
    found = derivatives((x["pull"] * sample).sum(), {"sample": x["left"]})
    found |= derivatives(kl.sum(), {"left": x["left"], "right": x["right"]})
    return {"out.sample": sample, "out.kl": kl, "out.entropy": latent.entropy(x["left"])} | found


def _kl(case: GoldenCase) -> Found:
    x = case.inputs()
    rssm = DiscreteRSSM(2, 2, num_categoricals=2, num_categories=3, rnn_hidden_dim=2, hidden_dim=2)
    loss, metrics = rssm.kl_loss(x["posterior"], x["prior"], **case.options)
    found = derivatives(loss, {"posterior": x["posterior"], "prior": x["prior"]})
    return {"out.loss": loss, "out.kl": metrics["kl"]} | found


def _with_weights(module: nn.Module, case: GoldenCase) -> dict[str, torch.Tensor]:
    """Load a case's weights. -> {"w.NAME": parameter}"""
    module.load_state_dict(case.weights())
    return {f"w.{name}": parameter for name, parameter in module.named_parameters()}


def _gru(case: GoldenCase) -> Found:
    x = case.inputs()
    cell = CELLS[case.options["cell"]](4, 3, norm=case.options["norm"])
    weights = _with_weights(cell, case)
    h = cell(x["x"], x["h"])
    return {"out.h": h} | derivatives((x["pull"] * h).sum(), {"x": x["x"], "h": x["h"], **weights})


def _mlp(case: GoldenCase) -> Found:
    x, o = case.inputs(), case.options
    mlp = MLP(3, 2, MLPOptions(2, 4, o["norm"], o["activation"]))
    weights = _with_weights(mlp, case)
    y = mlp(x["x"])
    return {"out.y": y} | derivatives((x["pull"] * y).sum(), {"x": x["x"], **weights})


def _conv_encoder(case: GoldenCase) -> Found:
    x, encoder = case.inputs(), ConvEncoder(case.options["shape"], depth=case.options["depth"], norm="layer")
    weights = _with_weights(encoder, case)
    embed = encoder(x["image"])
    return {"out.embed": embed} | derivatives((x["pull"] * embed).sum(), weights)


def _image(case: GoldenCase) -> Found:
    x, o = case.inputs(), case.options
    decoder = ConvDecoder(o["feat"], o["shape"], target="obs/image", depth=o["depth"], norm="layer")
    weights = _with_weights(decoder, case)
    loss = decoder.loss(x["feat"], x["target"])
    return {"out.loss": loss} | derivatives(loss.sum(), {"feat": x["feat"], **weights})


def _head(case: GoldenCase, head: Head) -> Found:
    x = case.inputs()
    _with_weights(head, case)
    loss = head.loss(x["feat"], x["target"])
    return {"out.loss": loss, "out.mean": head(x["feat"])} | derivatives(loss.sum(), {"feat": x["feat"]})


def _vector(case: GoldenCase) -> Found:
    o = case.options
    head = VectorDecoder(o["feat"], o["size"], target="obs/vector", mlp=MLPOptions(1, o["hidden"], norm=False))
    return _head(case, head)


def _reward(case: GoldenCase) -> Found:
    o = case.options
    head = RewardPredictor(
        o["feat"],
        transform=o["transform"],
        distribution=o["distribution"],
        mlp=MLPOptions(1, o["hidden"], norm=False),
    )
    return _head(case, head)


def _continue(case: GoldenCase) -> Found:
    o = case.options
    head = ContinuePredictor(o["feat"], discount=o["discount"], mlp=MLPOptions(1, o["hidden"], norm=False))
    return _head(case, head)


def _rssm(case: GoldenCase) -> Found:
    x, o = case.inputs(), case.options
    rssm = DiscreteRSSM(
        o["action"],
        o["embed"],
        num_categoricals=2,
        num_categories=3,
        rnn_hidden_dim=o["deter"],
        hidden_dim=o["hidden"],
    )
    _with_weights(rssm, case)
    state = State(x["deter"], x["stoch"], torch.zeros_like(x["stoch"]))
    deter = rssm.recurrent_step(state, x["action"])
    prior, posterior = rssm.prior(deter, x["noise"]), rssm.posterior(deter, x["embed"], x["noise"])
    pulled = (x["pull"] * deter).sum() + (x["pull_stats"] * (prior.stats + 2 * posterior.stats)).sum()
    is_first = x["is_first"].bool()
    no_action = torch.where(is_first[:, None], torch.nan, x["action"])  # what replay stores at a first step
    fresh = rssm.observe(state, no_action, x["embed"], is_first, x["noise"])
    return {
        "out.deter": deter,
        "out.prior": prior.stats,
        "out.posterior": posterior.stats,
        "out.prior_sample": prior.stoch,
        "out.posterior_sample": posterior.stoch,
        "out.reset.deter": fresh.deter,
        "out.reset.stats": fresh.stats,
    } | derivatives(pulled, {name: x[name] for name in ("deter", "stoch", "action", "embed")})


_KL, _SCALAR = "reverie.rssm:DiscreteRSSM.kl_loss", "reverie.distributions:NormalScalar"
_END, _TWO_HOT = "reverie.networks:ContinuePredictor", "reverie.distributions:TwoHotScalar"
_STEP, _RESET = ("out.deter", "out.prior", "out.posterior", "grad."), ("out.reset",)

CHECKS = [
    Check("symlog and symexp", "design document, Symlog", "reverie.ops:symlog, symexp", "symlog", _squashing),
    Check("straight-through sample", "paper Algorithm 1", "reverie.rssm:CategoricalLatent.sample", "sample", _sample),
    Check(
        "Gaussian latent", "implementation-details.md#gaussian-latent",
        "reverie.rssm:GaussianLatent", "gaussian", _gaussian,
    ),
    Check("KL balanced", "paper Algorithm 2, implementation-details.md#kl-balancing", _KL, "kl/balanced", _kl),
    Check("KL bidirectional", "design document", _KL, "kl/bidirectional", _kl),
    Check("KL forward", "implementation-details.md#kl-balancing, forward: True", _KL, "kl/forward", _kl),
    Check("KL plain", "DreamerV1", _KL, "kl/plain", _kl),
    Check("KL separate", "DreamerV3", _KL, "kl/separate", _kl),
    Check(
        "GRU step, layer norm", "implementation-details.md#gru",
        "reverie.layers:NormGRUCell.forward", "gru/layer", _gru,
    ),
    Check("GRU step, no norm", "implementation-details.md#gru", "reverie.layers:NormGRUCell.forward", "gru/none", _gru),
    Check(
        "GRU step, RMS norm", "implementation-details.md#gru, DreamerV3's norm",
        "reverie.layers:NormGRUCell", "gru/rms", _gru,
    ),
    Check("GRU step, textbook cell", "DreamerV1", "reverie.layers:GRUCell", "gru/standard", _gru),
    Check("dense layers", "implementation-details.md#networks", "reverie.layers:MLP", "mlp", _mlp),
    Check(
        "image encoder", "implementation-details.md#networks",
        "reverie.networks:ConvEncoder", "image/encoder", _conv_encoder,
    ),
    Check(
        "image likelihood", "implementation-details.md#networks, #model-loss",
        "reverie.networks:ConvDecoder.loss", "image/decoder", _image,
    ),
    Check(
        "vector likelihood", "implementation-details.md#networks, #model-loss",
        "reverie.networks:VectorDecoder.loss", "vector", _vector,
    ),
    Check("reward likelihood, none", "implementation-details.md#heads", _SCALAR, "reward/normal_none", _reward),
    Check("reward likelihood, tanh", "implementation-details.md#heads", _SCALAR, "reward/normal_tanh", _reward),
    Check("reward likelihood, sign", "implementation-details.md#heads", _SCALAR, "reward/normal_sign", _reward),
    Check("reward likelihood, symlog", "design document", _SCALAR, "reward/normal_symlog", _reward),
    Check("reward likelihood, two-hot", "DreamerV3", _TWO_HOT, "reward/twohot_symlog", _reward),
    Check("continue likelihood, hard", "design document", _END, "continue/hard", _continue),
    Check("continue likelihood, discounted", "implementation-details.md#heads", _END, "continue/discounted", _continue),
    Check(
        "recurrent step, prior, posterior", "paper Eq. 1, implementation-details.md#rssm",
        "reverie.rssm:DiscreteRSSM.recurrent_step, "
        "prior, posterior", "rssm", _rssm, _STEP,
    ),
    Check(
        "reset at a first step", "implementation-details.md#rssm-reset",
        "reverie.rssm:DiscreteRSSM.observe", "rssm", _rssm, _RESET,
    ),
]  # fmt: skip
