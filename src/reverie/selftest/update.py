"""Whole updates of small agents: what single equations do not see, such as a shift in time or a gradient that leaks.

The agent is the real one; only its random numbers are those of the fixture.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..config import build
from ..data.replay import Batch
from ..distributions import Policy
from ..envs.actions import ActionSpec
from ..envs.spaces import ObsKey, Spec
from ..rssm import Dream, State
from ..train import DreamerV2
from .golden import Check, Found, GoldenCase

PARTS = ("world_model", "actor", "critic", "slow_critic")


def _agent(case: GoldenCase) -> DreamerV2:
    """The agent of a case, with its weights; nothing is clipped or decayed, so that gradients can be read off."""
    task = case.options["task"]
    obs = {key: ObsKey((key,), "image", (h, w, c), (h, w, c), "hwc") for key, (c, h, w) in task["images"].items()}
    obs |= {key: ObsKey((key,), "vector", (size,), (size,)) for key, size in task["vectors"].items()}
    plain: dict[str, Any] = {"device": "cpu", "compute.mode": "reference", "grad_clip": 1e9, "weight_decay": 0.0}
    actions = ActionSpec.discrete(task["actions"]) if task["kind"] == "discrete" else ActionSpec.box(task["actions"])
    agent = DreamerV2(build(plain | case.options["settings"]), Spec(obs, actions))
    weights = case.weights()
    for name in list(agent.world_model.heads):  # a head of the reader's: the golden numbers know nothing of it
        if not any(key.startswith(f"world_model.heads.{name}.") for key in weights):
            del agent.world_model.heads[name]
    kept = {id(p) for p in agent.world_model.parameters()}
    world = agent.optimizers["world_model"]
    world.parameters = [p for p in world.parameters if id(p) in kept]
    agent.load_state_dict(weights)
    agent.updates = task["updates"]
    return agent


def _use_noise(agent: DreamerV2, latent: Tensor, action: Tensor | None = None) -> None:
    """Draw latent states by `latent` (rows, steps, ...) and the dream's actions by `action` (rows, steps, ...)."""
    steps = iter([] if action is None else action.unbind(1))
    actor = agent.actor.forward

    def with_noise(feat: Tensor, mask: Tensor | None = None) -> Policy:
        policy = actor(feat, mask)
        setattr(policy, "noise", lambda generator=None: next(steps))  # noqa: B010  mypy knows it as a method
        return policy

    setattr(agent.actor, "forward", with_noise)  # noqa: B010
    setattr(agent.world_model.rssm.latent, "noise", lambda *batch, device=None, generator=None: latent)  # noqa: B010


def _batch(case: GoldenCase) -> Batch:
    x, task = case.inputs(), case.options["task"]
    obs = {key: x[f"obs.{key}"].to(torch.uint8) for key in task["images"]}
    obs |= {key: x[f"obs.{key}"] for key in task["vectors"]}
    flags = {name: x[name].bool() for name in ("is_first", "is_terminal")}
    return Batch(obs, x["action"], x["reward"], is_last=flags["is_terminal"], **flags)


def _posterior(case: GoldenCase) -> tuple[State, Tensor]:
    x = case.inputs()
    return State(*(x[f"posterior.{name}"] for name in State._fields)), x["is_terminal"].bool()


def _gradients(module: nn.Module, name: str) -> Found:
    """What the last update left: {"grad.NAME.PARAMETER": gradient}."""
    return {f"grad.{name}.{key}": p.grad for key, p in module.named_parameters() if p.grad is not None}


def _filtering(case: GoldenCase) -> Found:
    agent, batch = _agent(case), _batch(case)
    model = agent.world_model
    embed = model.encoder(model.preprocess(batch.obs))
    noise = case.inputs()["noise"]
    seen, prior = model.rssm.rollout_observation(embed, batch.action, batch.is_first, noise=noise)
    return {f"out.model.{name}": x for name, x in seen._asdict().items()} | {"out.model.prior": prior}


def _model_update(case: GoldenCase) -> Found:
    agent = _agent(case)
    _use_noise(agent, case.inputs()["noise"])
    before = _snapshot(agent)
    posterior, metrics = agent.train_world_model(_batch(case))
    found = {f"out.model.{name}": x for name, x in posterior._asdict().items()}
    found |= {f"out.model.{name.removeprefix('world_model/')}": x for name, x in metrics.items()}
    found["out.changed.by_model"] = _changed(agent, before)
    return found | _gradients(agent.world_model, "world_model")


def _behaviour_update(case: GoldenCase) -> Found:
    agent, x = _agent(case), case.inputs()
    _use_noise(agent, x["dream.noise"], x["dream.action_noise"])
    before, dreams, imagine = _snapshot(agent), [], agent.task.imagine

    def watch(start: State) -> Dream:
        dreams.append(imagine(start))
        return dreams[-1]

    setattr(agent.task, "imagine", watch)  # noqa: B010
    metrics = agent.train_actor_critic(*_posterior(case))
    found = {f"out.behaviour.{name}": x for name, x in metrics.items()}
    found |= {f"out.behaviour.{name}": x for dream in dreams for name, x in dream._asdict().items()}
    found["out.changed.by_behaviour"] = _changed(agent, before)
    return found | _gradients(agent.actor, "actor") | _gradients(agent.critic, "critic")


def _snapshot(agent: DreamerV2) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in agent.named_parameters()}


def _changed(agent: DreamerV2, before: dict[str, Tensor]) -> Tensor:
    """1 for each of PARTS that has other weights now. -> (4,)"""
    moved = {name.split(".")[0] for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
    return torch.tensor([float(part in moved) for part in PARTS])


_TRAIN, _BEHAVIOR = "reverie.train:DreamerV2", "reverie.behavior:Behavior"
_STATES = ("deter", "stoch", "stats", "prior")
_MODEL, _DREAM = "out.model.", "out.behaviour."

CHECKS = [
    Check(
        "filtering",
        "paper Eq. 1, implementation-details.md#time, #rssm: the action at t leads to t, the past ends at is_first",
        "reverie.rssm:DiscreteRSSM.rollout_observation", "agent", _filtering, tuple(_MODEL + x for x in _STATES),
    ),
    Check(
        "what is predicted at t",
        "implementation-details.md#time, #heads: observation, reward and end of t, from the state at t",
        "reverie.world_model:WorldModel.targets", "agent", _model_update,
        (_MODEL + "obs/", _MODEL + "reward", _MODEL + "continue"),
    ),
    Check(
        "world model loss", "paper Eq. 2, implementation-details.md#model-loss", "reverie.world_model:WorldModel.loss",
        "agent", _model_update,
        (_MODEL + "kl", _MODEL + "loss"),
    ),
    Check(
        "world model gradient", "paper Eq. 2, implementation-details.md#heads, #model-loss",
        "reverie.train:DreamerV2.train_world_model", "agent",
        _model_update, ("grad.world_model",),
    ),
    Check(
        "dream", "implementation-details.md#imagination",
        f"{_BEHAVIOR}.imagine, reverie.rssm:DiscreteRSSM.rollout_imagination", "agent",
        _behaviour_update, (_DREAM + "feat", _DREAM + "action"),
    ),
    Check(
        "rewards, continues, targets of a dream", "implementation-details.md#imagination, #lambda-return",
        "reverie.world_model:WorldModel.dream_scores", "agent",
        _behaviour_update, (_DREAM + "imagination", _DREAM + "critic/target"),
    ),
    Check(
        "actor's update", "paper Eq. 6, implementation-details.md#actor-loss",
        f"{_BEHAVIOR}.actor_loss, losses", "agent",
        _behaviour_update, (_DREAM + "actor", "grad.actor"),
    ),
    Check(
        "critic's update", "paper Eq. 5, implementation-details.md#critic",
        f"{_BEHAVIOR}.critic_nll, losses", "agent",
        _behaviour_update, (_DREAM + "critic/value", _DREAM + "critic/loss", "grad.critic"),
    ),
    Check(
        "world model's update changes the world model only", "implementation-details.md#adam",
        f"{_TRAIN}.train_world_model", "agent",
        _model_update, ("out.changed.by_model",),
    ),
    Check(
        "behaviour's update changes actor and critic only", "implementation-details.md#imagination",
        f"{_TRAIN}.train_actor_critic", "agent",
        _behaviour_update, ("out.changed.by_behaviour",),
    ),
]  # fmt: skip
