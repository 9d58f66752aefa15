"""The quick paths compute what the plain one computes: losses, gradients and weights, for every preset."""

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reverie.config import ComputeConfig, build
from reverie.config.presets import load_preset, preset_names
from reverie.data.replay import Batch
from reverie.envs.actions import ActionSpec, make_action_spec
from reverie.envs.spaces import ObsKey, Spec
from reverie.errors import UserError
from reverie.fast import FASTER, Feat, OneHots, accelerate, products
from reverie.fast.convs import channels_last, down, up, weight_gradient
from reverie.fast.dense import FastMLP
from reverie.fast.modes import keep_memory, pick_dtype, pick_mode
from reverie.fast.pointwise import elu_, tanh
from reverie.fast.products import linear, outer
from reverie.layers import MLP, MLPOptions
from reverie.networks import ConvDecoder, ConvEncoder
from reverie.optim import TensorAdamW
from reverie.rssm import DiscreteRSSM, State
from reverie.train import DreamerV2, to_batch

B, T = 4, 6
DISCRETE, BOX = ActionSpec.discrete(3), ActionSpec.box(2)
MIXED = make_action_spec(gym.spaces.Tuple((gym.spaces.Discrete(3), gym.spaces.Box(-1, 1, (2,)))))[0]
SMALL = {
    "compute.device": "cpu", "compute.precision": "float32", "world_model_lr": 1e-3, "cnn_depth": 4,
    "rnn_hidden_dim": 24, "hidden_dim": 20, "rssm_hidden_dim": 28, "num_categoricals": 5,
    "num_categories": 7, "imagination_horizon": 4, "lr_warmup": 0, "compute.fused": "off",  # see test_fused.py
}  # fmt: skip


def agent_of(preset, mode, action=DISCRETE, **settings):
    config = load_preset(preset, SMALL | {"compute.mode": mode} | settings)
    size = 64 if config.model.decoder_kernels else 28
    image = ObsKey(("image",), "image", (size, size, 1), (size, size, 1), "hwc")
    torch.manual_seed(0)
    return DreamerV2(config, Spec({"image": image, "body": ObsKey(("body",), "vector", (5,), (5,))}, action))


def batch_of(agent, seed=0):
    """With an episode that ends and another that begins inside the window, and with NaN where an action is none."""
    rng, spec = np.random.default_rng(seed), agent.spec
    first, last = np.zeros((B, T), bool), np.zeros((B, T), bool)
    first[:, 0] = first[1, 3] = first[2, 5] = True
    last[1, 2] = last[2, 4] = last[3, 5] = True
    action = spec.action.random(rng, B * T).reshape(B, T, -1).astype(np.float32)
    action[first] = np.nan
    obs = {
        "image": rng.integers(0, 256, (B, T, *spec.obs["image"].shape), dtype=np.uint8),
        "body": rng.normal(size=(B, T, 5)).astype(np.float32),
    }
    return to_batch(Batch(obs, action, rng.normal(size=(B, T)).astype(np.float32), first, last, last), agent.device)


def updates(agent, count):
    """Some updates -> [(metrics, gradients)]."""
    found = []
    torch.manual_seed(1)
    for seed in range(count):
        metrics = {key: float(value) for key, value in agent.update(batch_of(agent, seed)).items()}
        found.append((metrics, {n: p.grad.clone() for n, p in agent.named_parameters() if p.grad is not None}))
    return found


def off(a, b):
    """Distance, relative to the size."""
    return float((a.float() - b.float()).norm() / (b.float().norm() + 1e-6))


def allowed(gradient, limit):
    """One number alone, as the bias of a gray picture, is a sum over all pixels of both signs: rounding counts more."""
    return max(limit, 2e-4) if gradient.numel() == 1 else limit


def compare(preset, action=DISCRETE, **settings):
    plain, quick = (agent_of(preset, mode, action, **settings) for mode in ("reference", "fast"))
    limit = 3e-5  # Adam then makes full steps of gradients that are nothing but rounding
    for (metrics, gradients), (told, found) in zip(updates(plain, 3), updates(quick, 3), strict=True):
        assert told == pytest.approx(metrics, rel=1e-3, abs=1e-4)
        assert found.keys() == gradients.keys()
        assert {n: d for n in found if (d := off(found[n], gradients[n])) > allowed(gradients[n], limit)} == {}
        limit = 1e-2
    for (name, mine), theirs in zip(quick.named_parameters(), plain.parameters(), strict=True):
        assert off(mine.detach(), theirs.detach()) < 1e-2, name


# ------------------------------------------------------------------------------------------------------ whole updates


@pytest.mark.parametrize("preset", [name for name in preset_names() if name != "small"])
@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_updates_are_those_of_the_reference_for_every_preset(preset, action):
    """Three updates: the second also needs the first one's step, and every weight that is kept in another form."""
    compare(preset, action)


@pytest.mark.parametrize("actor_grad", ["reinforce", "dynamics", "both"])
@pytest.mark.parametrize(
    "settings",
    [{"gru_norm": False, "norm": False}, {"optimizer": "laprop", "adam_eps_mode": "torch"},
     {"start_states": "drop_last", "imagination_starts": 9}, {"unimix": 0.01}, {"reward_index": "next"},
     {"detached_heads": ["reward"]}, {"straight_through": False}],
    ids=["no-norms", "laprop", "some-starts", "unimix", "next-reward", "detached", "no-straight-through"],
)  # fmt: skip
def test_updates_are_those_of_the_reference_with_other_options(settings, actor_grad):
    compare("dreamerv2", DISCRETE, actor_grad=actor_grad, **settings)


def test_updates_are_those_of_the_reference_for_hybrid_actions():
    compare("dreamerv2", MIXED)


def test_first_gradients_are_equal_to_1e_5():
    plain, quick = (updates(agent_of("dreamerv2", mode), 1)[0] for mode in ("reference", "fast"))
    assert quick[0] == pytest.approx(plain[0], rel=1e-5, abs=1e-6)
    assert max(off(quick[1][name], plain[1][name]) for name in plain[1]) < 1e-5


def test_bfloat16_is_the_same_up_to_its_rounding(monkeypatch):
    """At these sizes nothing would be worth halving: everything is told to be."""
    monkeypatch.setattr("reverie.fast.products.WORTH_HALVING", 0)
    plain = updates(agent_of("dreamerv2", "reference"), 1)[0]
    half = updates(agent_of("dreamerv2", "fast", **{"compute.precision": "bfloat16"}), 1)[0]
    for key in ("world_model/loss", "world_model/obs/image_loss", "critic/loss", "imagination/reward"):
        assert half[0][key] == pytest.approx(plain[0][key], rel=3e-2, abs=3e-3), key
    assert half[0]["world_model/loss"] != plain[0]["world_model/loss"]
    for name, gradient in plain[1].items():
        if name.startswith("world_model") and gradient.norm() > 1e-3:
            assert float(F.cosine_similarity(half[1][name].flatten(), gradient.flatten(), 0)) > 0.97, name


def test_plain_weights_fit_and_the_other_way_round():
    plain, quick = agent_of("dreamerv2", "reference"), agent_of("dreamerv2", "fast")
    updates(quick, 2)
    plain.load_state_dict(quick.state_dict())
    batch = batch_of(quick, 7)
    losses = []
    for agent in (plain, quick):
        torch.manual_seed(3)
        losses.append(float(agent.world_model.loss(batch)[0].detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_world_model_needs_no_gradients_while_behaviour_learns_and_has_them_again_after():
    agent = agent_of("dreamerv2", "fast", BOX)
    seen = []
    imagine = agent.task.imagine
    wanted = lambda: {p.requires_grad for p in agent.world_model.parameters()}  # noqa: E731
    agent.task.imagine = lambda start: seen.append(wanted()) or imagine(start)
    agent.update(batch_of(agent))
    assert seen == [{False}]
    assert {p.requires_grad for p in agent.world_model.parameters()} == {True}


@pytest.mark.parametrize("preset", ["demo", "dreamerv2", "dreamerv3"])
@pytest.mark.parametrize("count", [1, 20])
def test_acting_is_that_of_the_reference(preset, count):
    """Over a while, with episodes that begin at different steps, and with weights that change on the way."""
    plain, quick = (agent_of(preset, mode) for mode in ("reference", "fast"))
    rng = np.random.default_rng(0)
    players = [agent.player(num_envs=count, mode="train", seed=3) for agent in (plain, quick)]
    for step in range(12):
        obs = {
            "image": rng.integers(0, 256, (count, *plain.spec.obs["image"].shape), dtype=np.uint8),
            "body": rng.normal(size=(count, 5)).astype(np.float32),
        }
        first = rng.random(count) < 0.2
        actions = [player.act(obs, first) for player in players]
        np.testing.assert_array_equal(*actions)
        torch.testing.assert_close(players[1].state.deter, players[0].state.deter, rtol=1e-3, atol=1e-4)
        if step == 5:
            for agent in (plain, quick):
                for i, parameter in enumerate(agent.parameters()):
                    torch.manual_seed(i)
                    with torch.no_grad():
                        parameter.add_(torch.randn_like(parameter), alpha=0.1)


# ----------------------------------------------------------------------------------------------------------- the parts


def small_rssm(kind=DiscreteRSSM):
    torch.manual_seed(0)
    rssm = DiscreteRSSM(3, 11, num_categoricals=4, num_categories=5, rnn_hidden_dim=12, hidden_dim=10)
    if kind is not DiscreteRSSM:
        accelerate(rssm)
    return rssm


def test_a_dream_gives_weights_their_gradients_where_they_are_wanted():
    """Outside of `train`, where nothing is frozen."""
    start = State(torch.randn(3, 12), torch.eye(5)[torch.randint(5, (3, 4))].flatten(1), torch.zeros(3, 20))
    noise, policy = torch.rand(3, 2, 4), lambda feat: torch.tanh(feat[:, :3] + feat[:, -3:])
    found = []
    for kind in (DiscreteRSSM, FASTER[DiscreteRSSM]):
        rssm = small_rssm(kind)
        dream = rssm.rollout_imagination(policy, start, 2, noise)
        feat = dream.feat if isinstance(dream.feat, torch.Tensor) else dream.feat.dense()
        found.append(torch.autograd.grad(feat.square().sum(), list(rssm.gru.parameters())))
    for mine, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("state", [True, False])
def test_filtering_from_a_given_state_is_the_same(state):
    embed, action = torch.randn(2, 3, 11), torch.randn(2, 3, 3)
    first, noise = torch.zeros(2, 3, dtype=torch.bool), torch.rand(2, 3, 4)
    begin = State(torch.randn(2, 12), torch.randn(2, 20), torch.zeros(2, 20)) if state else None
    one, two = (
        small_rssm(kind).rollout_observation(embed, action, first, begin, noise)
        for kind in (DiscreteRSSM, FASTER[DiscreteRSSM])
    )
    stoch = two[0].stoch if isinstance(two[0].stoch, torch.Tensor) else two[0].stoch.dense()
    torch.testing.assert_close(stoch, one[0].stoch)
    torch.testing.assert_close(two[0].deter, one[0].deter)
    torch.testing.assert_close(two[1], one[1])


def test_wrong_shapes_are_refused_like_in_the_plain_path():
    with pytest.raises(ValueError, match="must agree"):
        small_rssm(None).rollout_observation(torch.zeros(2, 3, 11), torch.zeros(2, 4, 3), torch.zeros(2, 3).bool())


def test_places_stand_for_ones():
    index = torch.tensor([[1, 5, 9], [0, 4, 11]], dtype=torch.int32)
    z = OneHots(index, None, 12)
    dense = torch.zeros(2, 12)
    dense[0, [1, 5, 9]] = dense[1, [0, 4, 11]] = 1
    torch.testing.assert_close(z.dense(), dense)
    torch.testing.assert_close(z[1:].dense(), dense[1:])
    feat = Feat(z, torch.randn(2, 4))
    assert feat.shape == (2, 16)
    assert not feat.requires_grad
    torch.testing.assert_close(feat.dense(), torch.cat([dense, feat.deter], -1))
    torch.testing.assert_close(feat[:1].dense(), feat.dense()[:1])


def test_dense_layers_follow_their_weights():
    """What is kept in another form is made anew when an optimiser, a copy or a load has changed the weights."""
    mlp = MLP(16, 3, MLPOptions(2, 8))
    accelerate(mlp)
    assert isinstance(mlp, FastMLP)
    feat = Feat(OneHots(torch.tensor([[1, 5, 9]], dtype=torch.int32), None, 12), torch.randn(1, 4))
    for change in (
        lambda: None,
        lambda: mlp[0].weight.mul_(2),
        lambda: mlp.load_state_dict({key: value + 0.1 for key, value in mlp.state_dict().items()}),
        lambda: setattr(mlp[0], "weight", torch.nn.Parameter(torch.randn(8, 16))),
    ):
        with torch.no_grad():
            change()
            torch.testing.assert_close(mlp(feat), torch.nn.Sequential(*mlp)(feat.dense()))


@pytest.mark.parametrize("size", [(7, 7), (8, 12), (9, 5), (31, 30), (4, 4), (64, 64)])
@pytest.mark.parametrize("kernel", [4, 5, 6])
@pytest.mark.parametrize("channels", [1, 3, 50])
def test_convolutions_in_other_forms_are_the_same(size, kernel, channels):
    if min(size) < kernel:
        pytest.skip("the kernel does not fit")
    torch.manual_seed(0)
    big = channels_last(torch.randn(2, channels, *size))
    weight, bias = torch.randn(6, channels, kernel, kernel), torch.randn(6)
    small = F.conv2d(big, weight, bias, 2)
    torch.testing.assert_close(down(big, weight, bias), small, rtol=1e-4, atol=1e-4)
    small = channels_last(torch.randn_like(small))
    extra = [a - (2 * b - 2 + kernel) for a, b in zip(size, small.shape[-2:], strict=True)]
    back = F.conv_transpose2d(small, weight, torch.arange(channels) / 7.0, 2, output_padding=extra)
    torch.testing.assert_close(up(small, weight, size, torch.arange(channels) / 7.0), back, rtol=1e-4, atol=1e-4)
    of_weight = torch.nn.grad.conv2d_weight(big, list(weight.shape), small, 2)
    torch.testing.assert_close(weight_gradient(big, small, kernel), of_weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 28, 28), (2, 35, 50)])
def test_encoder_and_decoder_are_the_same(shape):
    torch.manual_seed(0)
    images, feat = torch.randn(2, 3, *shape), torch.randn(2, 3, 20)
    for plain, x in ((ConvEncoder(shape, depth=4), images), (ConvDecoder(20, shape, target="i", depth=4), feat)):
        expected = plain(x)
        weights = torch.autograd.grad(expected.square().sum(), list(plain.parameters()))
        accelerate(plain)
        got = plain(x)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        found = torch.autograd.grad(got.square().sum(), list(plain.parameters()))
        for mine, theirs in zip(found, weights, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(50,), (40, 30, 41), (3, 17, 33, 31)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elu_and_tanh_are_torchs(shape, dtype):
    torch.manual_seed(0)
    x = (torch.randn(shape) * 4).to(dtype)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1e-2}
    torch.testing.assert_close(tanh(x.float()), torch.tanh(x.float()), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(elu_(x.clone()), F.elu(x), **tolerance)
    if x.dim() == 4:
        image = x.to(memory_format=torch.channels_last)
        torch.testing.assert_close(elu_(image.clone()), F.elu(x), **tolerance)


def test_elu_of_what_is_not_a_number():
    x = torch.zeros(2**15)
    x[:3] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    assert elu_(x)[:3].tolist()[1:] == [float("inf"), -1.0]
    assert x[0].isnan()


@pytest.fixture
def onednn(monkeypatch):
    """Large products by oneDNN, also where the other library is quicker; at these sizes all count as large."""
    monkeypatch.setattr("reverie.fast.products.USES_ONEDNN", products.HAS_ONEDNN)
    monkeypatch.setattr("reverie.fast.products.WORTH_ONEDNN", 0)


@pytest.mark.parametrize(
    ("capability", "mkl", "quicker"), [("AVX512", True, True), ("AVX2", True, False), ("AVX2", False, True)]
)
def test_mkl_makes_products_where_avx2_is_all_there_is(capability, mkl, quicker, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert products.onednn_is_quicker() == (quicker and products.HAS_ONEDNN)


@pytest.mark.parametrize("uses", [True, False], ids=["onednn", "torch"])
def test_products_are_the_same_by_either_library(uses, onednn, monkeypatch):
    monkeypatch.setattr("reverie.fast.products.USES_ONEDNN", uses and products.HAS_ONEDNN)
    torch.manual_seed(0)
    x, weight, bias, g = torch.randn(33, 70), torch.randn(45, 70), torch.randn(45), torch.randn(33, 45)
    torch.testing.assert_close(linear(x, weight, bias), x @ weight.t() + bias, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(linear(x[:, 20:], weight[:, 20:]), x[:, 20:] @ weight[:, 20:].t(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(linear(g, weight.t()), g @ weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(outer(g, x), g.t() @ x, rtol=1e-4, atol=1e-4)


def test_updates_by_onednn_are_those_of_the_reference(onednn):
    compare("dreamerv2")


# ------------------------------------------------------------------------------------------------------------ choosing


CPU = torch.device("cpu")


def test_modes():
    assert pick_mode(ComputeConfig(), CPU) == "fast"
    assert pick_mode(ComputeConfig(mode="reference"), CPU) == "reference"
    with pytest.raises(UserError, match="needs a CUDA device"):
        pick_mode(ComputeConfig(mode="graph"), CPU)


@pytest.mark.parametrize("has", [True, False])
def test_precision(has, monkeypatch):
    monkeypatch.setattr("reverie.fast.modes.has_bfloat16", lambda device: has)
    best = torch.bfloat16 if has else torch.float32

    def picked(mode="fast", device=CPU, **settings):
        return pick_dtype(build({"precision": "auto", "rnn_hidden_dim": 200, **settings}), mode, device)

    assert picked() == best
    assert picked("reference") == torch.float32
    assert picked("reference", precision="bfloat16") == torch.bfloat16
    assert picked(precision="float32") == torch.float32
    narrow = {"rnn_hidden_dim": 128, "hidden_dim": 128}
    assert picked(**narrow) == torch.float32
    assert picked(**narrow, precision="bfloat16") == torch.bfloat16
    assert picked(device=torch.device("cuda"), **narrow) == best
    assert picked(rnn_hidden_dim=128, hidden_dim=200) == best


def test_memory_may_be_kept_any_number_of_times():
    keep_memory()
    keep_memory()


# ----------------------------------------------------------------------------------------- ready for a captured graph


@pytest.mark.parametrize("device", [True, False])
def test_adam_in_tensors_is_torchs(device):
    torch.manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3).clone())] for _ in range(2))
    mine = TensorAdamW(ours, 1e-2, eps=1e-3, on_device=device)
    torchs = torch.optim.AdamW(theirs, 1e-2, eps=1e-3, fused=True)
    for step in range(4):
        gradient = torch.randn(2, 3)
        for optimizer, (p,) in ((mine, ours), (torchs, theirs)):
            for key, value in (("lr", 1e-2 / (step + 1)), ("eps", 1e-3 * (step + 1)), ("weight_decay", 0.1 * step)):
                group = optimizer.param_groups[0]
                group[key].fill_(value) if isinstance(group[key], torch.Tensor) else group.update({key: value})
            p.grad = gradient.clone()
            optimizer.step()
        torch.testing.assert_close(ours[0], theirs[0])
    torchs.load_state_dict({"state": mine.state_dict()["state"], "param_groups": torchs.state_dict()["param_groups"]})


@pytest.mark.parametrize("preset", ["dreamerv2", "dreamerv3", "demo"])
@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_an_update_never_waits_for_the_device(preset, action, monkeypatch):
    """On torch's "meta" device there are no numbers: whoever asks for one (item, bool, tolist) raises."""
    monkeypatch.setattr("reverie.fast.modes.pick_mode", lambda compute, device: "graph")
    monkeypatch.setattr("reverie.train.pick_mode", lambda compute, device: "graph")
    agent = agent_of(preset, "auto", action, **{"compute.device": "meta", "compute.precision": "float32"})
    batch = batch_of(agent_of(preset, "reference", action))
    there = batch.map(lambda x: x.to("meta"))
    metrics = agent.compute_update(there)
    assert {value.device.type for value in metrics.values()} == {"meta"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, about itself
def test_compiled_networks_agree():
    """Takes a C++ compiler and a minute."""
    plain, compiled = (updates(agent_of("demo", mode, layers=1), 2) for mode in ("reference", "compile"))
    for (metrics, gradients), (told, found) in zip(plain, compiled, strict=True):
        assert told == pytest.approx(metrics, rel=1e-3, abs=1e-4)
        assert {n: d for n in found if (d := off(found[n], gradients[n])) > 1e-2} == {}
