"""Every preset makes an agent that learns from a batch, in networks shrunk to a few units."""

import numpy as np
import pytest
import torch

from reverie.config.presets import load_preset, preset_names
from reverie.data.replay import Batch
from reverie.envs.actions import ActionSpec
from reverie.envs.spaces import ObsKey, Spec
from reverie.train import DreamerV2, to_batch

STACKS = [*preset_names(), "dreamerv1+small", "dreamerv2+small", "dreamerv3+small", "atari+small"]
DISCRETE = ActionSpec.discrete(3)
BOX = ActionSpec.box(2)
TINY = {
    "actor_warmup": 0,  # one update shall move everything
    "rnn_hidden_dim": 8, "hidden_dim": 8, "rssm_hidden_dim": 0, "layers": 1, "actor_critic_layers": 1, "cnn_depth": 2,
    "num_categories": 3, "num_categoricals": 3, "gaussian_dim": 3, "imagination_horizon": 3, "device": "cpu",
}  # fmt: skip


def make_spec(stack, action):
    """A task of the kind that a preset is for, with images of its size."""
    if stack in ("vector", "dmc-proprio"):
        return Spec({"body": ObsKey(("body",), "vector", (4,), (4,))}, action)
    env = load_preset(stack).env
    side = env.image_size or 10  # MinAtar's own
    shape = (side, side, 1 if env.grayscale else 3)
    return Spec({"image": ObsKey(("image",), "image", shape, shape, "hwc")}, action)


def make_batch(spec, batch=2, length=4):
    rng = np.random.default_rng(0)
    obs = {
        key: rng.integers(0, 256, (batch, length, *item.shape), dtype=np.uint8)
        if item.kind == "image"
        else rng.normal(size=(batch, length, *item.shape)).astype(np.float32)
        for key, item in spec.obs.items()
    }
    action = spec.action.random(rng, batch * length).reshape(batch, length, -1)
    first, no = np.zeros((batch, length), bool), np.zeros((batch, length), bool)
    first[:, 0] = True
    action[first] = np.nan
    return to_batch(Batch(obs, action, rng.normal(size=(batch, length)).astype(np.float32), first, no, no))


@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
@pytest.mark.parametrize("stack", STACKS)
def test_an_agent_of_every_preset_makes_an_update(stack, action):
    torch.manual_seed(0)
    spec = make_spec(stack, action)
    agent = DreamerV2(load_preset(stack, TINY), spec)
    before = {name: p.clone() for name, p in agent.named_parameters()}
    batch = make_batch(spec)
    posterior, metrics = agent.train_world_model(batch)
    metrics |= agent.train_actor_critic(posterior, batch.is_terminal)
    assert all(torch.isfinite(value) for value in metrics.values())
    changed = {name: p for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
    learning = {"world_model": agent.world_model}
    for behavior in agent.behaviors:
        learning |= behavior.learning
    owners = {id(p): name for name, module in learning.items() for p in module.parameters()}
    assert {owners.get(id(p)) for p in changed.values()} == set(learning)
    assert {"world_model", "actor", "critic"} <= set(learning)


@pytest.mark.parametrize(
    ("name", "action", "numbers"),
    [
        ("atari", ActionSpec.discrete(18), {"world_model": 19_975_379, "actor": 1_138_418, "critic": 1_131_601}),
        ("atari-paper", ActionSpec.discrete(18), {"world_model": 19_975_379}),
        ("atari", ActionSpec.discrete(6), {"world_model": 19_968_179, "actor": 1_133_606}),
        ("dmc-vision", ActionSpec.box(6), {"world_model": 13_656_772}),
        ("dreamerv2", ActionSpec.discrete(2), {"": 32_333_580 - 3}),  # theirs counts three steps of optimisers
    ],
)
def test_the_released_presets_have_the_released_size(name, action, numbers):
    """implementation-details.md#fingerprints: the shapes of all layers at once."""
    agent = DreamerV2(load_preset(name, {"device": "cpu"}), make_spec(name, action))
    assert {part: sum(p.numel() for p in agent.get_submodule(part).parameters()) for part in numbers} == numbers
