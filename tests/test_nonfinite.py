"""A number that is no number: named, kept out of the weights, written down, and met again in a fresh process."""

import json
import math
import subprocess
import sys

import pytest
import torch
from test_fast import BOX, DISCRETE, agent_of, batch_of

from reverie import UserError, checkpoint
from reverie.autopsy import examine
from reverie.logger import read_lines
from reverie.nonfinite import NonFinite
from reverie.optim import LaProp, TensorAdamW
from reverie.screen import Screen

NAN, INF = math.nan, math.inf


def put(tensor, value, at=3):
    with torch.no_grad():
        tensor.view(-1)[at] = value


def moment(agent, name):
    optimizer = agent.optimizers[name]
    return optimizer.state[optimizer.param_groups[0]["params"][0]]["exp_avg"]


def weight(path, value=NAN):
    return lambda agent, batch: put(dict(agent.named_parameters())[path], value)


def hook(agent, batch):
    agent.world_model.heads["reward"].mlp[0].weight.register_hook(lambda gradient: gradient * INF)


def in_image(agent, batch):
    """Images are bytes and cannot be NaN; where they come out of the convolutions they can."""
    agent.world_model.encoder.convs["image"].register_forward_hook(lambda *_: torch.full_like(_[2], INF))


#: Where -> (how it gets there, kind and name that the verdict must tell, part of "where")
PLACES = {
    "vector": (lambda a, b: put(b.obs["body"][1, 4], INF), "batch", "obs/body", "infinity at sequence 1, step 4"),
    "reward": (lambda a, b: put(b.reward[2], INF), "batch", "reward", "sequence 2, step 3"),
    "reward NaN": (lambda a, b: put(b.reward[0], NAN), "batch", "reward", "NaN at sequence 0, step 3"),
    "action": (lambda a, b: put(b.action[3, 2], NAN, 0), "batch", "action", "sequence 3, step 2"),
    "encoder": (weight("world_model.encoder.{conv}"), "parameter", "world_model.encoder.{conv}", "the first at"),
    "recurrent": (weight("world_model.rssm.gru.{gru}"), "parameter", "world_model.rssm.gru.{gru}", "NaN"),
    "decoder": (weight("world_model.heads.obs/image.{deconv}", INF), "parameter", "{deconv}", "infinity"),
    "reward head": (weight("world_model.heads.reward.mlp.0.weight"), "parameter", "heads.reward.mlp.0.weight", "NaN"),
    "actor": (weight("actor.mlp.0.weight"), "parameter", "actor.mlp.0.weight", "NaN"),
    "critic": (weight("critic.mlp.0.weight", INF), "parameter", "critic.mlp.0.weight", "infinity"),
    "moment": (lambda a, b: put(moment(a, "actor"), NAN), "moment", "actor.mlp.0.weight/exp_avg", "NaN"),
    "moment world": (lambda a, b: put(moment(a, "world_model"), INF), "moment", "world_model.", "infinity"),
    "gradient": (hook, "gradient", "world_model.heads.reward.mlp.0.weight", ""),
    "return scale": (lambda a, b: a.return_scale.high.fill_(NAN), "buffer", "return_scale.high", "NaN"),
}  # fmt: skip


def named(agent, text):
    """Fill in names that differ from preset to preset."""
    names = [n for n, _ in agent.named_parameters()]
    conv = next(n for n in names if n.startswith("world_model.encoder.") and n.endswith("weight"))
    gru = next(n for n in names if n.startswith("world_model.rssm.gru.") and n.endswith("weight"))
    deconv = next(n for n in names if n.startswith("world_model.heads.obs/image.") and n.endswith("weight"))
    return text.format(
        conv=conv.removeprefix("world_model.encoder."),
        gru=gru.removeprefix("world_model.rssm.gru."),
        deconv=deconv.removeprefix("world_model.heads.obs/image."),
    )


def everything(agent):
    """All that must not change, moments of optimisers included."""
    state = {key: value.clone() for key, value in agent.state_dict().items() if "slow_critic" not in key}
    return state | {key: value.clone() for key, value in checkpoint.optimizer_tensors(agent).items()}


def equal(left, right):
    return left.keys() == right.keys() and all(
        torch.equal(left[key].nan_to_num(7.0), right[key].nan_to_num(7.0)) for key in left
    )


def broken(place, mode, action):
    """An agent after one good update, with something broken in it or its batch. -> agent, NonFinite, state before."""
    settings = {"reward_transform": "symlog", "return_norm": "percentile" if place == "return scale" else "none"}
    agent = agent_of("dreamerv2", mode, action, **settings)
    agent.update(batch_of(agent, 0))
    batch = batch_of(agent, 1)
    inject = PLACES[place][0]
    if place in ("encoder", "recurrent", "decoder"):
        path = named(agent, {"encoder": "world_model.encoder.{conv}", "recurrent": "world_model.rssm.gru.{gru}",
                             "decoder": "world_model.heads.obs/image.{deconv}"}[place])  # fmt: skip
        inject = weight(path)
    inject(agent, batch)
    before = everything(agent)
    with pytest.raises(NonFinite) as caught:
        agent.update(batch)
    return agent, caught.value, before


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("mode", ["reference", "fast"])
@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_what_is_broken_is_named_and_no_weight_is_harmed(place, mode, action):
    agent, trouble, before = broken(place, mode, action)
    _, kind, name, where = PLACES[place]
    after = everything(agent)
    if trouble.case.stage == "behaviour":  # the world model's own update was good
        after, before = ({k: v for k, v in x.items() if not k.startswith("world_model")} for x in (after, before))
    assert equal(after, before)
    report = examine(agent, trouble.case, trouble.history)
    assert (report.found, named(agent, name) in report.name) == (kind, True), report
    assert where in report.verdict
    assert report.cause
    assert report.advice
    assert len(report.history) == 1
    assert equal(everything(agent), everything(agent) | before), "an autopsy changes nothing"
    assert agent.mode == mode
