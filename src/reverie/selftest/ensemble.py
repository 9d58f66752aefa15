"""The equations of ensembles (docs/ensembles.md), and that their learning leaves the rest of the agent alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.replay import Batch
from ..extensions.ensemble import Ensemble, OneStepEnsemble, PriorEnsemble
from ..extensions.explore import DisagreementReward, PenalizedReward
from ..latents import CategoricalLatent, GaussianLatent, Latent
from ..rssm import Dream, State
from .golden import Check, Found, GoldenCase, derivatives


def _latent(case: GoldenCase) -> Latent:
    o = case.options
    if o["latents"] == "gaussian":
        return GaussianLatent(o["gaussian_dim"], std=o["gaussian_std"])
    return CategoricalLatent(o["num_categoricals"], o["num_categories"])


def _disagreement(case: GoldenCase) -> Found:
    latent, stats = _latent(case), case.inputs()["stats"].requires_grad_()
    found: Found = {}
    for name in ("disagreement", "distance"):
        value = getattr(latent, name)(stats)
        found |= {f"out.{name}": value} | derivatives(value.sum(), {name: stats})
    return found


def _learn(
    ensemble: Ensemble, case: GoldenCase, state: dict[str, Tensor], action: Tensor, first: Tensor
) -> tuple[Tensor, Found]:
    """Loss of an ensemble with a case's weights -> it, and its gradients into the ensemble and into the states."""
    ensemble.load_state_dict(case.weights(), strict=False)  # the table of what is usual is not part of it
    ensemble.weights = case.inputs()["times"][..., None]
    none = torch.zeros(first.shape)
    batch = Batch({}, action, none, first, first & False, first & False)
    posterior = State(**{name: x.requires_grad_() for name, x in state.items()})
    loss = ensemble.loss(posterior, batch)[0]
    wrt = {f"w.{name}": x for name, x in ensemble.named_parameters()}
    return loss, derivatives(loss, wrt | state)


def _prior(case: GoldenCase) -> Found:
    x = case.inputs()
    deter, stats = x["deter"], x["stats"]
    members, _, hidden = case.weights()["net.layers.0.weight"].shape
    ensemble = PriorEnsemble(
        _latent(case), deter.shape[-1], members=members, hidden_dim=hidden, generator=torch.Generator()
    )
    first, stoch = torch.zeros(deter.shape[:2], dtype=torch.bool), torch.zeros_like(stats)
    state = {"deter": deter, "stoch": stoch, "stats": stats}
    loss, slopes = _learn(ensemble, case, state, torch.zeros(*first.shape, 1), first)
    feat = torch.cat([stoch, deter], -1)
    action = feat[:, :-1]
    scores = {"states": ensemble.of_states(feat, action), "arrivals": ensemble.of_arrivals(feat, action)}
    slopes |= derivatives(ensemble.disagreement(deter).sum(), {"dream": deter})
    return {"out.loss": loss, **{f"out.{name}": value for name, value in scores.items()}} | slopes


def _one_step(case: GoldenCase) -> Found:
    x = case.inputs()
    deter, stoch, dreamed = x["deter"], x["stoch"], x["dreamed"]
    members, inputs, hidden = case.weights()["net.layers.0.weight"].shape
    sizes = inputs - dreamed.shape[-1], dreamed.shape[-1], stoch.shape[-1]
    ensemble = OneStepEnsemble(*sizes, members=members, layers=1, hidden_dim=hidden, generator=torch.Generator())
    state = {"deter": deter, "stoch": stoch, "stats": torch.zeros_like(stoch)}
    loss, slopes = _learn(ensemble, case, state, x["action"], x["first"].bool())
    feat = torch.cat([stoch, deter], -1)
    scores = {"states": ensemble.of_states(feat, dreamed), "arrivals": ensemble.of_arrivals(feat, dreamed)}
    return {"out.loss": loss, **{f"out.{name}": value for name, value in scores.items()}} | slopes


class _Given(Ensemble):
    """An ensemble with known disagreements."""

    def __init__(self, found: Tensor) -> None:
        super().__init__(members=2, bootstrap=False, generator=torch.Generator())
        self.found = found

    def of_states(self, feat: Tensor, action: Tensor) -> Tensor:
        return self.found


def _reward(case: GoldenCase) -> Found:
    x, o = case.inputs(), case.options
    dream = Dream(torch.zeros(1), torch.zeros(1))
    ensemble = _Given(x["found"][0])
    reward = DisagreementReward(ensemble, intrinsic=o["intrinsic"], extrinsic=o["extrinsic"])
    penalty = PenalizedReward(ensemble, weight=o["weight"])
    mixed, penalized = [], []
    for found, predicted in zip(x["found"], x["predicted"], strict=True):
        ensemble.found = found
        mixed.append(reward(dream, predicted)[0])
        penalized.append(penalty(dream, predicted)[0])
    return {"out.rewards": torch.stack(mixed), "out.penalized": torch.stack(penalized)}


_ENSEMBLE, _EXPLORE = "reverie.extensions.ensemble", "reverie.extensions.explore"

CHECKS = [
    Check(
        "ensemble: disagreement, categorical", "docs/ensembles.md", "reverie.latents:CategoricalLatent.disagreement",
        "ensemble/disagreement/categorical", _disagreement,
    ),
    Check(
        "ensemble: disagreement, Gaussian", "docs/ensembles.md", "reverie.latents:GaussianLatent.disagreement",
        "ensemble/disagreement/gaussian", _disagreement,
    ),
    Check(
        "ensemble: loss of priors", "docs/ensembles.md, after Offline DreamerV2", f"{_ENSEMBLE}:PriorEnsemble.loss",
        "ensemble/prior", _prior, ("out.loss", "grad.w", "grad.deter", "grad.stats"),
    ),
    Check(
        "ensemble: priors score states", "docs/ensembles.md", f"{_ENSEMBLE}:PriorEnsemble.of_states",
        "ensemble/prior", _prior, ("out.states", "out.arrivals", "grad.dream"),
    ),
    Check(
        "ensemble: loss of one-step heads", "docs/ensembles.md, Plan2Explore", f"{_ENSEMBLE}:OneStepEnsemble.loss",
        "ensemble/one_step", _one_step, ("out.loss", "grad."),
    ),
    Check(
        "ensemble: one-step heads score actions", "docs/ensembles.md, Plan2Explore",
        f"{_ENSEMBLE}:OneStepEnsemble.of_arrivals", "ensemble/one_step", _one_step, ("out.states", "out.arrivals"),
    ),
    Check(
        "ensemble: rewards", "docs/ensembles.md, URLB", f"{_EXPLORE}:DisagreementReward.__call__",
        "ensemble/reward", _reward,
    ),
]  # fmt: skip
