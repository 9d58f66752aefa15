"""The equations of the hierarchy (docs/hierarchy.md)."""

from __future__ import annotations

import torch

from ..actor_critic import compute_discount_weights, compute_lambda_returns
from ..extensions.director import (
    GoalAutoencoder,
    KLWeight,
    RunningMoments,
    abstract,
    goal_reward,
    pursued,
)
from ..layers import MLPOptions
from .golden import Check, Found, GoldenCase, derivatives


def _autoencoder(case: GoldenCase) -> GoalAutoencoder:
    weights = case.weights()
    hidden, size = weights["encoder.0.weight"].shape
    goals = GoalAutoencoder(size, variables=2, classes=3, mlp=MLPOptions(1, hidden))
    goals.load_state_dict(weights, strict=False)  # without the weight of the KL
    return goals


def _goals(case: GoldenCase) -> Found:
    goals, x = _autoencoder(case), case.inputs()
    error, nats, _ = goals.losses(x["deter"], x["uniform"])
    loss = error.mean() + case.options["beta"] * nats.mean()
    wrt = {f"w.{name}": parameter for name, parameter in goals.named_parameters()}
    return {"out.error": error, "out.kl": nats, "out.loss": loss} | derivatives(loss, wrt | {"deter": x["deter"]})


def _novelty(case: GoldenCase) -> Found:
    x = case.inputs()
    return {"out.novelty": _autoencoder(case).novelty(x["deter"], x["uniform"])}


def _kl_weight(case: GoldenCase) -> Found:
    weight, found = KLWeight(), []
    for nats in case.inputs()["nats"]:
        weight.follow(nats, case.options["target"])
        found.append(weight())
    return {"out.weights": torch.stack(found)}


def _reward(case: GoldenCase) -> Found:
    x = case.inputs()
    found = goal_reward(x["goal"], x["deter"])
    return {"out.reward": found} | derivatives(found.sum(), x)


def _worker(case: GoldenCase) -> Found:
    x, o = case.inputs(), case.options
    terms = pursued(x["deter"], x["goal"], x["continues"], every=o["every"], gamma=o["gamma"])
    total = (x["scale"] * terms.rewards).sum() + terms.continues.sum() + terms.weights.sum()
    wrt = {name: x[name] for name in ("deter", "continues")}
    return {f"out.{name}": value for name, value in terms._asdict().items()} | derivatives(total, wrt)


def _manager(case: GoldenCase) -> Found:
    x, o = case.inputs(), case.options
    paid, survived = abstract(x["pay"], x["continues"], o["every"])
    returns = compute_lambda_returns(paid, x["values"], survived, gamma=o["gamma"], lambda_=o["lambda_"])
    weights = compute_discount_weights(survived, gamma=o["gamma"])
    out = {"rewards": paid, "continues": survived, "returns": returns, "weights": weights}
    wrt = {name: x[name] for name in ("pay", "continues")}
    return {f"out.{name}": value for name, value in out.items()} | derivatives((x["scale"] * returns).sum(), wrt)


def _moments(case: GoldenCase) -> Found:
    rule = RunningMoments(decay=case.options["decay"], least=case.options["least"])
    return {"out.moments": torch.stack([torch.stack(rule(values)) for values in case.inputs()["values"]])}


_DIRECTOR = "reverie.extensions.director"

CHECKS = [
    Check(
        "hierarchy: loss of goals", "docs/hierarchy.md, Director", f"{_DIRECTOR}:GoalAutoencoder.losses",
        "hierarchy/goals", _goals,
    ),
    Check(
        "hierarchy: novelty", "docs/hierarchy.md, Director", f"{_DIRECTOR}:GoalAutoencoder.novelty",
        "hierarchy/novelty", _novelty,
    ),
    Check(
        "hierarchy: weight of the code's entropy", "docs/hierarchy.md, Director", f"{_DIRECTOR}:KLWeight.follow",
        "hierarchy/kl_weight", _kl_weight,
    ),
    Check(
        "hierarchy: max-cosine", "docs/hierarchy.md, Director", f"{_DIRECTOR}:goal_reward",
        "hierarchy/reward", _reward,
    ),
    Check(
        "hierarchy: segments of the worker", "docs/hierarchy.md, Director", f"{_DIRECTOR}:pursued",
        "hierarchy/worker", _worker,
    ),
    Check(
        "hierarchy: windows of the manager", "docs/hierarchy.md, Director", f"{_DIRECTOR}:abstract",
        "hierarchy/manager", _manager,
    ),
    Check(
        "hierarchy: scale of returns", "docs/hierarchy.md, Director", f"{_DIRECTOR}:RunningMoments",
        "hierarchy/moments", _moments,
    ),
]  # fmt: skip
