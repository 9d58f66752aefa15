"""The behaviour's equations and the optimiser's: what the package makes of the golden inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..actor_critic import (
    Critic,
    ReturnScale,
    compute_actor_loss,
    compute_critic_loss,
    compute_discount_weights,
    compute_lambda_returns,
    released_credit,
)
from ..config import build
from ..distributions import POLICIES
from ..envs.actions import ActionSpec
from ..envs.spaces import ObsKey, Spec
from ..layers import MLPOptions
from ..rssm import State
from ..train import DreamerV2
from .golden import Check, Found, GoldenCase, derivatives


def _returns(case: GoldenCase) -> Found:
    x = case.inputs()
    returns = compute_lambda_returns(x["rewards"], x["values"], x["continues"], **case.options)
    if "pull" not in x:
        return {"out.returns": returns}
    wrt = {name: x[name] for name in ("rewards", "values", "continues")}
    return {"out.returns": returns} | derivatives((x["pull"] * returns).sum(), wrt)


def _weights(case: GoldenCase) -> Found:
    return {"out.weights": compute_discount_weights(case.inputs()["continues"], **case.options)}


def _policy(case: GoldenCase) -> Found:
    x = case.inputs()
    stats = x["stats"].requires_grad_()
    policy = POLICIES[case.options["policy"]](stats)
    sample, log_prob, entropy = policy.sample(x["noise"]), policy.log_prob(x["action"]), policy.entropy()
    found = derivatives((x["pull"] * sample).sum(), {"sample": stats})
    found |= derivatives(log_prob.sum(), {"log_prob": stats}) | derivatives(entropy.sum(), {"entropy": stats})
    return {"out.sample": sample, "out.log_prob": log_prob, "out.entropy": entropy} | found


def _actor_loss(case: GoldenCase) -> Found:
    x, o = case.inputs(), dict(case.options)
    policy = POLICIES[o.pop("policy")](x["stats"])
    loss, _ = compute_actor_loss(policy, x["action"], x["targets"], x["baseline"], x["weights"], **o)
    wrt = {name: x[name] for name in ("stats", "targets", "baseline", "weights")}
    return {"out.loss": loss} | derivatives(loss, wrt)


def _credit(case: GoldenCase) -> Found:
    names = ("action", "targets", "baseline", "weights")
    x = case.inputs()
    kept = released_credit(*(x[name] for name in names))
    return {f"out.{name}": y for name, y in zip(names, kept, strict=True)}


def _critic_loss(case: GoldenCase) -> Found:
    x = case.inputs()
    critic = Critic(2, mlp=MLPOptions(1, 2), **case.options)
    value, nll = critic.mean(x["stats"]), critic.nll(x["stats"], x["targets"].detach())
    loss, _ = compute_critic_loss(value, x["targets"], x["weights"], nll=nll)
    plain, _ = compute_critic_loss(value, x["targets"], x["weights"])
    both = (loss + plain) / 2 if "out.plain" in case.arrays else loss  # for a Gaussian critic they are the same
    found = derivatives(both, {name: x[name] for name in ("stats", "targets", "weights")})
    return {"out.loss": loss, "out.plain": plain, "out.value": value} | found


def _slow_critic(case: GoldenCase) -> Found:
    mine, theirs = (Critic(3, mlp=MLPOptions(1, 4, norm=False)) for _ in range(2))
    mine.load_state_dict(case.weights("w.mine"))
    theirs.load_state_dict(case.weights("w.theirs"))
    mine.copy_from(theirs, fraction=case.options["fraction"])
    return {f"out.{name}": x for name, x in mine.state_dict().items()}


def _return_scale(case: GoldenCase) -> Found:
    rule = ReturnScale()
    scales = [rule(returns) for returns in case.inputs()["returns"]]
    return {"out.scale": torch.stack(scales), "out.low": rule.low, "out.high": rule.high}


def _small_agent(**settings: object) -> DreamerV2:
    """An agent with a critic of 4 inputs and 3 hidden units, with nothing set but two numbers."""
    small = {
        "device": "cpu", "num_categoricals": 1, "num_categories": 2, "rnn_hidden_dim": 2, "hidden_dim": 3, "layers": 1,
        "actor_critic_layers": 1, "embed_dim": 0, "imagination_horizon": 2,
    }  # fmt: skip
    spec = Spec({"body": ObsKey(("body",), "vector", (2,), (2,))}, ActionSpec.discrete(2))
    return DreamerV2(build(small | settings), spec)


def _optimiser(case: GoldenCase) -> Found:
    """Several steps of the critic's optimiser with given gradients: those of a loss that is linear in the weights."""
    agent, x = _small_agent(**case.options), case.inputs()
    named = dict(sorted(agent.critic.named_parameters()))

    def split(row: Tensor) -> list[Tensor]:
        pieces, place = [], 0
        for parameter in named.values():
            pieces.append(row[place : place + parameter.numel()].reshape(parameter.shape))
            place += parameter.numel()
        return pieces

    with torch.no_grad():
        for parameter, start in zip(named.values(), split(x["weights"]), strict=True):
            parameter.copy_(start)
    norms, history = [], []
    for gradients in x["gradients"]:
        pairs = zip(named.values(), split(gradients), strict=True)
        loss = torch.stack([(parameter * gradient).sum() for parameter, gradient in pairs]).sum()
        agent.prepare("critic")
        norms.append(agent._step("behaviour", {"critic": loss})["critic/grad_norm"])
        agent.optimizers.count("critic")
        history.append(torch.cat([parameter.detach().flatten() for parameter in named.values()]))
    return {"out.norm": torch.stack(norms), "out.weights": torch.stack(history)}


def _slow_schedule(case: GoldenCase) -> Found:
    """Which update's critic the slow one is a copy of, update after update; -1: of none."""
    agent = _small_agent(slow_critic_every=case.options["slow_critic_every"])
    start = State(torch.zeros(1, 3, 2), torch.tensor([1.0, 0.0]).expand(1, 3, 2), torch.zeros(1, 3, 2))
    with torch.no_grad():
        for parameter in agent.slow_critic.parameters():
            parameter.add_(1)  # no copy of any critic yet
    critics: list[dict[str, Tensor]] = []
    copied = []
    for _ in range(case.options["updates"]):
        critics.append({name: x.clone() for name, x in agent.critic.state_dict().items()})
        agent.train_actor_critic(start, torch.zeros(1, 3, dtype=torch.bool))
        slow = agent.slow_critic.state_dict()
        same = [i for i, critic in enumerate(critics) if all(torch.equal(critic[key], slow[key]) for key in slow)]
        copied.append(same[-1] if same else -1)
    return {"out.copied_at": torch.tensor(copied)}


_ACTOR, _CRITIC = "reverie.actor_critic:compute_actor_loss", "reverie.actor_critic:compute_critic_loss"
_STEP, _AC = "reverie.train:DreamerV2._step", "reverie.actor_critic"
_POL = "reverie.distributions"

CHECKS = [
    Check(
        "lambda-return, by hand", "implementation-details.md#fingerprints",
        f"{_AC}:compute_lambda_returns", "returns/by_hand", _returns,
    ),
    Check(
        "lambda-return", "paper Eq. 4, implementation-details.md#lambda-return",
        f"{_AC}:compute_lambda_returns", "returns/random", _returns,
    ),
    Check(
        "discount weights", "implementation-details.md#imagination",
        f"{_AC}:compute_discount_weights", "weights", _weights,
    ),
    Check("policy, one-hot", "implementation-details.md#actor-loss", f"{_POL}:OneHotPolicy", "policy/onehot", _policy),
    Check(
        "policy, truncated normal", "implementation-details.md#continuous-actor",
        f"{_POL}:TruncatedNormalPolicy", "policy/trunc_normal", _policy,
    ),
    Check(
        "policy, truncated normal as released", "implementation-details.md#continuous-actor",
        f"{_POL}:ReleasedTruncatedNormalPolicy", "policy/trunc_normal_released", _policy,
    ),
    Check("policy, tanh normal", "DreamerV1", f"{_POL}:TanhNormalPolicy", "policy/tanh_normal", _policy),
    Check(
        "actor loss, reinforce", "paper Eq. 6, implementation-details.md#actor-loss",
        _ACTOR, "actor/reinforce", _actor_loss,
    ),
    Check(
        "actor loss, dynamics", "paper Eq. 6, implementation-details.md#actor-loss",
        _ACTOR, "actor/dynamics", _actor_loss,
    ),
    Check("actor loss, both", "paper Eq. 6, implementation-details.md#actor-loss", _ACTOR, "actor/both", _actor_loss),
    Check(
        "the released code's credit", "implementation-details.md#actor-loss, HEAD",
        f"{_AC}:released_credit", "credit", _credit,
    ),
    Check("critic loss", "paper Eq. 5, implementation-details.md#critic", _CRITIC, "critic/normal_none", _critic_loss),
    Check("critic loss, symlog", "DreamerV3", _CRITIC, "critic/normal_symlog", _critic_loss),
    Check("critic loss, two-hot", "DreamerV3", _CRITIC, "critic/twohot_symlog", _critic_loss),
    Check(
        "slow critic, copy", "implementation-details.md#critic",
        f"{_AC}:Critic.copy_from", "slow_critic/copy", _slow_critic,
    ),
    Check("slow critic, moving average", "DreamerV3", f"{_AC}:Critic.copy_from", "slow_critic/follow", _slow_critic),
    Check("range of returns", "DreamerV3", f"{_AC}:ReturnScale", "return_scale", _return_scale),
    Check("optimiser: Adam, clipping, decay", "implementation-details.md#adam", _STEP, "optimiser/adam", _optimiser),
    Check(
        "optimiser: second moment's decay", "implementation-details.md#adam",
        _STEP, "optimiser/adam_beta2", _optimiser,
    ),
    Check(
        "optimiser: Keras' epsilon", "implementation-details.md#adam",
        "reverie.optim:keras_eps", "optimiser/adam_keras", _optimiser,
    ),
    Check("optimiser: decay times learning rate", "AdamW", _STEP, "optimiser/decay_by_lr", _optimiser),
    Check("optimiser: warm-up", "DreamerV3", "reverie.optim:Optimizer.schedule", "optimiser/warmup", _optimiser),
    Check("optimiser: LaProp", "DreamerV3", "reverie.optim:LaProp.step", "optimiser/laprop", _optimiser),
    Check("optimiser: adaptive clipping", "DreamerV3", "reverie.optim:clip_adaptive_", "optimiser/agc", _optimiser),
    Check(
        "slow critic's schedule", "paper Table D.1, implementation-details.md#critic",
        "reverie.behavior:Behavior.prepare",
        "slow_schedule", _slow_schedule,
    ),
]  # fmt: skip
