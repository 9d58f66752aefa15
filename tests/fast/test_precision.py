"""bfloat16 must not cost learning: what ends in small differences of large numbers stays in float32 in every mode."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reverie.fast import accelerate
from reverie.fast.dense import FastMLP
from reverie.fast.products import linear
from reverie.layers import MLP as PlainMLP
from reverie.layers import SMALL_SIDE, ExactLinear, GRUCell, MLPOptions, NormGRUCell, make_linear
from reverie.networks import ConvDecoder
from reverie.rssm import State
from tests.fast.test_fast import BOX, DISCRETE, SMALL, agent_of

STARTS = 64
WIDE = dict.fromkeys(("hidden_dim", "rssm_hidden_dim", "rnn_hidden_dim"), SMALL_SIDE + 32)


@pytest.fixture(autouse=True)
def everything_that_may_be_is_halved(monkeypatch):
    """At these sizes nothing would be worth it."""
    monkeypatch.setattr("reverie.fast.products.WORTH_HALVING", 0)


def actors_gradient(mode, precision, level):
    """Of a critic whose values lie around a level, as those of a long task do: the returns there agree with it."""
    settings = {"zero_init": False, "reward_transform": "none", "predict_continue": False, "gamma": 0.99}
    agent = agent_of("dreamerv2", mode, **WIDE, **settings, **{"compute.precision": precision})
    with torch.no_grad():
        for critic in (agent.critic, agent.slow_critic):
            critic.mlp[-1].bias.fill_(level)
        agent.world_model.head("reward").mlp[-1].bias.fill_(0.01 * level)
    torch.manual_seed(1)
    classes, count = SMALL["num_categories"], SMALL["num_categoricals"]
    stoch = F.one_hot(torch.randint(classes, (STARTS, count)), classes).flatten(1).float()
    start = State(torch.randn(STARTS, WIDE["rnn_hidden_dim"]), stoch, torch.zeros(STARTS, classes * count))
    agent.task.starts = lambda posterior, ended: (start, torch.ones(STARTS))
    loss = agent.behavior_losses(agent.task, start, torch.zeros(STARTS))[0]["actor"]
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(agent.actor.parameters()))])


@cache
def exact_gradient(level):
    return actors_gradient("reference", "float32", level)


@pytest.mark.parametrize("level", [20, 100, 200, 400])
@pytest.mark.parametrize("mode", ["fast", "reference"])  # reference: by torch's autocast, as on a GPU and in a graph
def test_the_actors_gradient_is_that_of_float32_at_every_level_of_the_return(mode, level):
    """With rounded output layers: 0.995 at level 100, 0.97 at 200, 0.91 at 400. What is left is the hidden layers'."""
    rounded = actors_gradient(mode, "bfloat16", level)
    cosine = float(F.cosine_similarity(rounded, exact_gradient(level), 0))
    assert cosine > {"fast": 0.999, "reference": 0.996}[mode]
    assert not torch.equal(rounded, exact_gradient(level))  # the hidden layers are made in bfloat16


# --------------------------------------------------------------------------------------------------------- which layers


def outputs_of(agent):
    """The last layer of every network that answers with numbers on the task's scale."""
    nets = [agent.actor.mlp, agent.critic.mlp, agent.slow_critic.mlp]
    nets += [head.mlp for head in agent.world_model.heads.values() if hasattr(head, "mlp")]
    return [net[-1] for net in nets]


@pytest.mark.parametrize("preset", ["demo", "dreamerv2", "dreamerv3", "vector"])
@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_output_layers_and_narrow_ones_are_exact_in_every_preset(preset, action):
    agent = agent_of(preset, "fast", action, **WIDE)
    assert {type(layer) for layer in outputs_of(agent)} == {ExactLinear}
    layers = [layer for layer in agent.modules() if isinstance(layer, nn.Linear)]
    assert [x for x in layers if min(x.weight.shape) <= SMALL_SIDE and type(x) is not ExactLinear] == []
    assert any(type(layer) is nn.Linear for layer in layers)  # wide ones may be rounded


@pytest.mark.parametrize("inputs", [SMALL_SIDE, SMALL_SIDE + 1])
@pytest.mark.parametrize("outputs", [SMALL_SIDE, SMALL_SIDE + 1])
@pytest.mark.parametrize("exact", [True, False])
def test_a_layer_is_exact_if_asked_for_or_narrow(inputs, outputs, exact):
    layer = make_linear(inputs, outputs, exact=exact)
    assert isinstance(layer, ExactLinear) == (exact or SMALL_SIDE in (inputs, outputs))
    assert layer.weight.shape == (outputs, inputs)


def test_other_dense_layers_ask_too():
    assert isinstance(ConvDecoder(SMALL_SIDE, (1, 64, 64), target="i", depth=4).linear, ExactLinear)
    assert isinstance(NormGRUCell(8, 8).gates, ExactLinear)
    assert not isinstance(NormGRUCell(SMALL_SIDE, SMALL_SIDE).gates, ExactLinear)


# ------------------------------------------------------------------------------------------------- what they compute


def net_of(kind, outputs):
    torch.manual_seed(0)
    net = PlainMLP(WIDE["hidden_dim"], outputs, MLPOptions(1, WIDE["hidden_dim"]))
    if kind == "fast":
        accelerate(net, torch.bfloat16)
        assert isinstance(net, FastMLP)
    return net


@pytest.mark.parametrize("kind", ["plain", "fast"])
@pytest.mark.parametrize("outputs", [1, 255])  # 255: the two-hot heads of DreamerV3
@pytest.mark.parametrize("grad", [True, False])
def test_an_output_of_200_keeps_its_decimals(kind, outputs, grad):
    """The step of bfloat16 is 1 there."""
    net, x = net_of(kind, outputs), torch.randn(32, WIDE["hidden_dim"])
    exact = net_of("plain", outputs)(x).detach()
    with torch.no_grad():
        net[-1].bias.fill_(200)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "plain"), torch.set_grad_enabled(grad):
        found = net(x)
    assert found.dtype == torch.float32
    assert (found.detach() - 200 - exact).abs().max() < 0.05


@pytest.mark.parametrize("cell", [NormGRUCell, GRUCell])
def test_a_narrow_cell_is_exact(cell):
    cell = cell(8, 16)
    x, h = torch.randn(4, 8), torch.randn(4, 16)
    expected = cell(x, h)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cell(x, h), expected)
        assert torch.equal(cell(x.bfloat16().float(), h.bfloat16()), cell(x.bfloat16().float(), h.bfloat16().float()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_keeps_its_type_under_an_autocast(dtype):
    """On a GPU the fast path runs inside of one."""
    x, weight = torch.randn(4, 8).to(dtype), torch.randn(3, 8).to(dtype)
    expected = F.linear(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear(x, weight)
    assert found.dtype == dtype
    assert torch.equal(found, expected)


def test_an_exact_layer_has_the_type_of_its_weight():
    layer = ExactLinear(3, 2).double()
    assert layer(torch.ones(1, 3)).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 3)).dtype == torch.float64
