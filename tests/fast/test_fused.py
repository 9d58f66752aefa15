"""The compiled loops compute what the Python ones do, and where there are none everything works without."""

import copy
import gc
import os
import stat
import threading
import warnings
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from reverie.config import ComputeConfig
from reverie.errors import UserError
from reverie.fast import Feat, OneHots, accelerate, convs, fused, fused_build, fused_step, set_types
from reverie.fast.dense import worth_fusing
from reverie.fast.fused_build import NotBuilt, open_library
from reverie.fast.modes import pick_fused
from reverie.layers import MLP, MLPOptions, frozen
from reverie.optim import Optimizer, Optimizers
from reverie.rssm import DiscreteRSSM, State
from tests.fast.test_definitions import CHANGES
from tests.fast.test_fast import BOX, DISCRETE, MIXED, agent_of, allowed, batch_of, off, updates

try:
    BEST = fused.Library().best
    REASON = ""
except NotBuilt as error:  # a machine without a compiler
    BEST, REASON = 0, str(error)
there = pytest.mark.skipif(bool(REASON), reason=REASON)
LEVELS = list(range(BEST + 1))
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def at_level(monkeypatch):
    """Computes with an instruction set of one's choice."""

    def choose(level):
        found = fused.Library(level)
        monkeypatch.setattr(fused, "library", lambda: found)

    return choose


def rssm_of(on, *, norm=True, gru_norm=True, classes=5, count=4, sizes=(12, 10)):
    torch.manual_seed(0)
    rssm = DiscreteRSSM(
        3, 11, num_categoricals=count, num_categories=classes, rnn_hidden_dim=sizes[0], hidden_dim=sizes[1], norm=norm,
        gru_norm=gru_norm,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in rssm.named_parameters():  # biases and norms that count
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3), name
    accelerate(rssm, fused=on)
    return rssm


def filtered(rssm, batch=3, length=4, wanted=("deter", "stats", "stoch", "prior"), seed=1):
    """Outputs and gradients of a filtering with episodes that begin inside of it."""
    torch.manual_seed(seed)
    embed = torch.randn(batch, length, 11, requires_grad=True)
    action, noise = torch.randn(batch, length, 3), torch.rand(batch, length, rssm.latent.num_categoricals)
    first = torch.rand(batch, length) < 0.3
    state, prior = rssm.rollout_observation(embed, action, first, None, noise)
    stoch = state.stoch.dense()
    outputs = {"deter": state.deter, "stats": state.stats, "stoch": stoch, "prior": prior}
    loss = sum((outputs[name] * torch.randn_like(outputs[name])).sum() for name in wanted)
    parameters = [embed, *rssm.parameters()]
    return list(outputs.values()), torch.autograd.grad(loss, parameters, allow_unused=True)


def assert_equal(mine, theirs, limit=2e-6):
    """To `limit`, relative to the size of the whole."""
    for a, b in zip(mine, theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert off(a.detach(), b.detach()) < limit


# ---------------------------------------------------------------------------------------------------- they are equal


@there
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "options",
    [{}, {"norm": False}, {"gru_norm": False}, {"norm": False, "gru_norm": False}, {"classes": 2, "count": 1},
     {"classes": 33, "count": 3, "sizes": (33, 65)}, {"classes": 16, "count": 4, "sizes": (64, 32)},
     {"classes": 8, "sizes": (1, 1), "norm": False, "gru_norm": False}],
    ids=["", "no-norm", "no-cell-norm", "no-norms", "smallest", "odd", "even", "ones"],
)  # fmt: skip
def test_filtering_and_its_gradients_are_those_of_the_loops_in_python(at_level, level, options):
    at_level(level)
    (outputs, gradients), (plain, expected) = (filtered(rssm_of(on, **options)) for on in (True, False))
    assert torch.equal(outputs[2], plain[2])  # the same draws
    assert_equal(outputs, plain)
    assert_equal(gradients, expected, 4e-5 if options.get("sizes") == (1, 1) else 2e-6)  # one number: differences


@there
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (9, 1), (17, 3)])
@pytest.mark.parametrize("wanted", [("deter",), ("stats",), ("stoch",), ("prior", "stoch")], ids="-".join)
def test_gradients_of_some_outputs_alone_are_those_of_the_loops_in_python(shape, wanted):
    (_, gradients), (_, expected) = (filtered(rssm_of(on), *shape, wanted) for on in (True, False))
    assert_equal(gradients, expected)


def dream_of(rssm, rows=19, horizon=3):
    torch.manual_seed(2)
    latent = rssm.latent
    shape = (rows, latent.num_categoricals)
    classes = torch.randint(latent.num_categories, shape)
    index = classes + torch.arange(0, latent.stoch_dim, latent.num_categories)
    stoch = OneHots(index.int(), None, latent.stoch_dim)
    start = State(torch.randn(rows, rssm.rnn_hidden_dim), stoch, torch.zeros(rows, latent.stats_dim))
    noise, seen = torch.rand(rows, horizon, shape[1]), []

    def policy(feat):
        seen.append(feat.dense())
        return torch.tanh(feat.dense()[:, :3] + feat.dense()[:, -3:])

    with torch.no_grad():
        dream = rssm.rollout_imagination(policy, start, horizon, noise)
    return [dream.feat.dense(), dream.action, *seen]


@there
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "options", [{}, {"norm": False, "gru_norm": False}, {"classes": 33, "sizes": (33, 65)}], ids=str
)
def test_dreams_without_gradients_are_those_of_the_loops_in_python(at_level, level, options):
    at_level(level)
    for mine, theirs in zip(*(dream_of(rssm_of(on, **options)) for on in (True, False)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-6)


def gradients_of_dream(rssm, rows=19, horizon=3):
    """Of an actor whose actions carry gradients through the dream, and of the start; the model is frozen."""
    torch.manual_seed(4)
    size, classes = rssm.latent.stoch_dim, rssm.latent.num_categories
    index = torch.randint(classes, (rows, size // classes)) + torch.arange(0, size, classes)
    probs, deter = (
        torch.rand(rows, size, requires_grad=True),
        torch.randn(rows, rssm.rnn_hidden_dim, requires_grad=True),
    )
    actor = nn.Linear(size + rssm.rnn_hidden_dim, 3)
    noise = torch.rand(rows, horizon, size // classes)
    start = State(deter, OneHots(index.int(), probs, size), torch.zeros(rows, size))
    with frozen(rssm):
        dream = rssm.rollout_imagination(lambda feat: torch.tanh(actor(feat.dense())), start, horizon, noise)
        feat = dream.feat.dense()
        loss = (feat * torch.randn_like(feat)).sum() + dream.action.square().sum()
        return [feat, dream.action], torch.autograd.grad(loss, [*actor.parameters(), deter, probs])


@there
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "options", [{}, {"norm": False, "gru_norm": False}, {"classes": 33, "sizes": (33, 65)}], ids=str
)
@pytest.mark.parametrize("horizon", [1, 4])
def test_dreams_with_gradients_are_those_of_the_loops_in_python(at_level, level, options, horizon):
    at_level(level)
    found, expected = (gradients_of_dream(rssm_of(on, **options), horizon=horizon) for on in (True, False))
    assert_equal(found[0], expected[0])
    assert_equal(found[1], expected[1])


@there
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("outputs", [None, 1, 33])
def test_dense_layers_without_gradients_are_torchs(at_level, level, norm, outputs):
    at_level(level)
    torch.manual_seed(0)
    net = MLP(20 + 13, outputs, MLPOptions(2, 35, norm))
    classes = torch.randint(5, (7, 3, 4)) + torch.arange(0, 20, 5)
    feat = Feat(OneHots(classes.int(), None, 20), torch.randn(7, 3, 26)[..., ::2])  # with gaps
    with torch.no_grad():
        expected = [net(feat.dense()), net(feat.dense()[0])]
        accelerate(net, fused=True)
        found = [net(feat), net(feat.dense()[0])]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-6)


@there
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(("outputs", "width", "rows"), [(None, 35, 7), (1, 64, 1), (33, 16, 131), (5, 3, 129)])
@pytest.mark.parametrize("wants", ["all", "weights", "inputs"])
def test_gradients_of_dense_layers_are_torchs(at_level, level, norm, outputs, width, rows, wants):
    at_level(level)
    torch.manual_seed(0)
    net = MLP(20 + 13, outputs, MLPOptions(2, width, norm))
    with torch.no_grad():
        for parameter in net.parameters():  # biases and norms that count
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    index = (torch.randint(5, (rows, 3, 4)) + torch.arange(0, 20, 5)).int()
    probs, deter = torch.rand(rows, 3, 20), torch.randn(rows, 3, 13)
    learns = [probs.requires_grad_(), deter.requires_grad_()] if wants != "weights" else []
    learns += list(net.parameters()) if wants != "inputs" else []
    net.requires_grad_(wants != "inputs")
    found = []
    for fast in (False, True):
        if fast:
            accelerate(net, fused=True)
        feat = Feat(OneHots(index, probs if probs.requires_grad else None, 20), deter)
        answers = [net(feat if fast else feat.dense()), net(feat.dense()[0])]  # with z as indices, and written out
        weights = [torch.linspace(-1, 2, y.numel()).reshape(y.shape) for y in answers]
        loss = sum((y * weight).sum() for y, weight in zip(answers, weights, strict=True))
        found.append([*answers, *torch.autograd.grad(loss, learns)])
    assert_equal(found[1], found[0], 5e-6)


@there
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (300, 7, 65), (129, 33, 32), (64, 16, 3)])
def test_the_gradient_of_a_weight_is_torchs(at_level, level, sizes):
    at_level(level)
    torch.manual_seed(0)
    rows, outs, ins = sizes
    g, x = torch.randn(rows, outs + 2)[:, 2:], torch.randn(rows, ins + 1)[:, :-1]
    torch.testing.assert_close(fused.outer(g, x), g.t() @ x, rtol=1e-5, atol=1e-4)


@there
@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (33, 64), (70, 35), (5, 130)])
def test_a_packed_weight_is_the_weight_in_panels(shape):
    weight = torch.randn(shape[0], shape[1] + 3)[:, 3:]
    for back, inputs in ((False, weight.t()), (True, weight)):  # (depth, width)
        panels = fused.pack(weight, back=back).reshape(-1, len(inputs), 32)
        wide = panels.transpose(0, 1).reshape(len(inputs), -1)
        assert torch.equal(wide[:, : inputs.shape[1]], inputs)
        assert not wide[:, inputs.shape[1] :].any()


def images(module, layers, x, sizes):
    """Answer and gradients of x and of the weights; sizes: None for the plain layers."""
    y = layers(x) if sizes is None else convs._run(layers, x, sizes, torch.float32, runs_fused=True)
    g = torch.linspace(-1, 2, y.numel()).reshape(y.shape)
    return [y, *torch.autograd.grad(y, [x, *module.parameters()], g)]


@there
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("channels", "maps", "kernel", "size", "count"),
    [
        (3, 8, 4, (28, 28), 5),
        (1, 1, 4, (4, 5), 1),
        (8, 16, 4, (13, 9), 3),
        (5, 33, 3, (7, 8), 40),
        (16, 4, 6, (6, 6), 9),
    ],
)
@pytest.mark.parametrize("elu", [True, False])
def test_convolutions_both_ways_are_torchs(at_level, level, channels, maps, kernel, size, count, elu):
    """Of both kinds; also where rows and columns are left over, which no kernel reaches."""
    at_level(level)
    torch.manual_seed(0)
    small = [(length - kernel) // 2 + 1 for length in size]
    extra = [length - (2 * short - 2 + kernel) for length, short in zip(size, small, strict=True)]
    big, few = torch.randn(count, channels, *size), torch.randn(count, maps, *small)
    pairs = [
        (nn.Conv2d(channels, maps, kernel, 2), big, []),
        (nn.ConvTranspose2d(maps, channels, kernel, 2, output_padding=extra), few, [size]),
    ]
    for module, x, sizes in pairs:
        layers = nn.Sequential(module, nn.ELU()) if elu else nn.Sequential(module)
        x.requires_grad_()
        expected = images(module, layers, x, None)
        assert_equal(images(module, layers, x, sizes), expected, 3e-6)
        assert module.__dict__["_packed"][2]  # it was compiled code
        with torch.no_grad():
            found = convs._run(layers, x, sizes, torch.float32, runs_fused=True)
            torch.testing.assert_close(found, expected[0].detach(), rtol=1e-5, atol=1e-5)
            module.weight.mul_(2)  # what was packed follows
            found = convs._run(layers, x, sizes, torch.float32, runs_fused=True)
            torch.testing.assert_close(found, layers(x), rtol=1e-5, atol=1e-5)


@there
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", [1, 16, 33])
def test_the_gradient_of_a_classs_weights_is_the_sum_over_its_states(at_level, level, width):
    at_level(level)
    torch.manual_seed(0)
    index = (torch.randint(5, (7, 3, 4)) + torch.arange(0, 20, 5)).int()
    g = torch.randn(21, width)
    expected = OneHots(index.reshape(-1, 4), None, 20).dense().t() @ g
    torch.testing.assert_close(fused.rows_gradient(index.reshape(-1, 4), g, 20), expected, rtol=1e-5, atol=1e-6)


@there
def test_a_state_is_seen_to_be_one_hot_or_not():
    index = (torch.randint(5, (7, 4)) + torch.arange(0, 20, 5)).int()
    z = OneHots(index, None, 20).dense()
    assert torch.equal(fused.ones(z, 4), index)
    for value in (0.0, 0.5, 2.0, float("nan")):  # a categorical without a one, or with other numbers
        odd = z.clone()
        odd[3, index[3, 2].long()] = value
        assert fused.ones(odd, 4) is None
    two = z.clone()
    two[2, :10] = 1
    assert fused.ones(two, 4) is None


@there
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("hot", [True, False])
def test_filtering_one_step_is_that_of_the_loops_in_python(at_level, level, hot):
    """From states that are one-hot and from others; where an episode begins nothing of them is left."""
    at_level(level)
    found = []
    for on in (True, False):
        rssm = rssm_of(on, classes=5)
        torch.manual_seed(3)
        index = torch.randint(5, (9, 4)) + torch.arange(0, 20, 5)
        stoch = OneHots(index.int(), None, 20).dense() if hot else torch.rand(9, 20)
        state, first = State(torch.randn(9, 12), stoch, torch.zeros(9, 20)), torch.rand(9) < 0.4
        action = torch.randn(9, 3).masked_fill(first[:, None], float("nan"))
        with torch.no_grad():
            found.append(rssm.observe(state, action, torch.randn(9, 11), first, torch.rand(9, 4)))
    assert_equal(*found)
    assert torch.equal(found[0].stoch, found[1].stoch)


def optimizers(clip, *, decay=1e-2):
    """Two of the same, by torch and by compiled code; sizes that fill vectors and sizes that do not."""
    made = []
    for quick in (False, True):
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(shape)) for shape in [(33, 65), (7,), (1,), (), (16, 4), (5, 3), (129,)]]
        mine = Optimizer(weights, lr=1e-2, eps=1e-5, eps_mode="keras", clip=clip, weight_decay=decay, warmup=3)
        mine.quick = fused_step(mine.torch) if quick else None
        made.append(mine)
    return made


def steps(optimizer, count, *, seed=1, size=1.0):
    """The norms before clipping, the gradients after it, and the weights, of some steps."""
    torch.manual_seed(seed)
    found = []
    for _ in range(count):
        optimizer.schedule()
        for p in optimizer.parameters:
            p.grad = size * torch.randn_like(p)
        norm = optimizer.clip()
        optimizer.was_quick = optimizer.moments_norm is not None
        optimizer.step()
        optimizer.updates += 1
        found.append(
            [norm, *(p.grad for p in optimizer.parameters), *(p.detach().clone() for p in optimizer.parameters)]
        )
    return found


@there
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("clip", "decay"), [(1e9, 0.0), (1e9, 1e-2), (5.0, 1e-2)])
def test_adams_steps_are_torchs(at_level, level, clip, decay):
    at_level(level)
    torchs, mine = optimizers(clip, decay=decay)
    found = steps(mine, 1)
    assert not mine.was_quick  # torch makes the first one, and with it the means
    found += steps(mine, 4, seed=2)
    assert mine.was_quick
    for a, b in zip(steps(torchs, 1) + steps(torchs, 4, seed=2), found, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(y, x, rtol=1e-6, atol=1e-7)
    assert torchs.torch.state_dict()["state"].keys() == mine.torch.state_dict()["state"].keys()
    for p, q in zip(torchs.parameters, mine.parameters, strict=True):
        kept, ours = torchs.torch.state[p], mine.torch.state[q]
        assert kept.keys() == ours.keys()
        for key in kept:
            torch.testing.assert_close(ours[key], kept[key], rtol=1e-6, atol=1e-7 if key == "exp_avg" else 1e-10)
        assert float(ours["step"]) == 5


@there
@pytest.mark.skipif(BEST < 2, reason="torch's vectors are as wide as ours where there is AVX-512")
def test_where_nothing_is_clipped_a_step_is_torchs_bit_for_bit():
    torchs, mine = optimizers(1e9)
    for a, b in zip(steps(torchs, 5), steps(mine, 5), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[1:], b[1:], strict=True))


@there
def test_the_norm_of_running_means_is_seen_before_a_step():
    _, mine = optimizers(1e9)
    steps(mine, 2)
    mine.clip()
    expected = torch.stack([x.norm() for state in mine.torch.state.values() for x in state.values() if x.dim()]).norm()
    p = mine.parameters[3]  # of no axes: it counts, too
    extra = (mine.torch.state[p]["exp_avg"] ** 2 + mine.torch.state[p]["exp_avg_sq"] ** 2).sqrt()
    torch.testing.assert_close(mine.moments_norm, (expected**2 + extra**2).sqrt(), rtol=1e-5, atol=0)
    mine.torch.state[mine.parameters[0]]["exp_avg_sq"][3, 2] = float("nan")
    mine.clip()
    assert not mine.moments_norm.isfinite()
    seen = []
    loss = sum((p**2).sum() for p in mine.parameters)
    Optimizers({"a": mine}).step({"a": loss}, lambda *given: seen.append(given))
    ((numbers, others),) = seen
    assert [bool(number.isfinite()) for number in numbers] == [True, True, False]  # loss, gradients, means
    assert others == []


@there
def test_adams_state_may_be_loaded_copied_and_replaced_between_steps():
    torchs, mine = optimizers(5.0)
    steps(torchs, 2), steps(mine, 2)
    mine.torch.load_state_dict(copy.deepcopy(torchs.torch.state_dict()))
    other = copy.deepcopy(mine)
    for optimizer in (torchs, mine, other):
        with torch.no_grad():
            optimizer.parameters[0].data = torch.ones(65, 33).t()  # with other strides: torch makes this step
        (found,) = steps(optimizer, 1, seed=5)
        assert not optimizer.was_quick
        with torch.no_grad():
            optimizer.parameters[0].data = optimizer.parameters[0].data.contiguous()
        found += steps(optimizer, 2, seed=6)
        assert optimizer.was_quick == (optimizer is not torchs)
        if optimizer is torchs:
            expected = found
        else:
            for a, b in zip(expected, found, strict=True):
                for x, y in zip(a, b, strict=True) if isinstance(a, list) else [(a, b)]:
                    torch.testing.assert_close(y, x, rtol=1e-6, atol=1e-7)


FUSED = {"compute.fused": "on"}


@there
@pytest.mark.parametrize(
    ("preset", "action", "settings"),
    [("demo", DISCRETE, {}), ("vector", BOX, {}), ("dreamerv2", MIXED, {}), ("atari", DISCRETE, {}),
     ("dmc-proprio", BOX, {}), ("dreamerv2", DISCRETE, {"gru_norm": False, "norm": False}),
     ("dreamerv2", DISCRETE, {"actor_grad": "both"}), ("dreamerv2", BOX, {"actor_grad": "reinforce"}),
     ("dreamerv2", DISCRETE, {"start_states": "drop_last", "imagination_starts": 9}),
     ("dreamerv1", BOX, {}), ("dreamerv3", DISCRETE, {})],
)  # fmt: skip
def test_updates_are_those_of_the_reference(preset, action, settings):
    plain, quick = (
        updates(agent_of(preset, mode, action, **settings, **more), 2)
        for mode, more in (("reference", {}), ("fast", FUSED))
    )
    for (metrics, gradients), (told, found), limit in zip(plain, quick, (3e-5, 1e-2), strict=True):
        assert told == pytest.approx(metrics, rel=1e-3, abs=1e-4)
        assert {n: d for n in found if (d := off(found[n], gradients[n])) > allowed(gradients[n], limit)} == {}


@there
@pytest.mark.parametrize("learn", [True, False])
@pytest.mark.parametrize("on", [True, False])
def test_nothing_of_a_sequence_is_kept_when_it_is_no_longer_needed(on, learn):
    """A result whose history holds the result itself is never freed: 3 MB with each update."""
    rssm = rssm_of(on)
    embed, action = torch.randn(3, 4, 11, requires_grad=True), torch.randn(3, 4, 3)
    first, noise = torch.rand(3, 4) < 0.3, torch.rand(3, 4, rssm.latent.num_categoricals)
    posterior, prior = rssm.rollout_observation(embed, action, first, None, noise)
    if learn:
        (posterior.deter.sum() + posterior.stats.sum() + posterior.stoch.dense().sum() + prior.sum()).backward()
    kept = [weakref.ref(x) for x in (posterior.deter, posterior.stats, prior)]
    del posterior, prior
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


@there
def test_it_is_the_compiled_code_that_runs(monkeypatch):
    """Both ways, in the dream and in the dense layers; with `off` none of it."""
    called = set()
    places = [(fused, name) for name in ("scan", "scan_back", "Dreaming", "transition", "rows_gradient")]
    for owner, name in [*places, *((fused.Net, name) for name in ("forward", "learn", "back"))]:
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *x, f=original, n=name, **y: called.add(n) or f(*x, **y))
    updates(agent_of("demo", "fast"), 1)
    assert called == set()
    agent = agent_of("demo", "fast", **FUSED)
    assert agent.notes == []
    updates(agent, 1)
    assert called == {"scan", "scan_back", "Dreaming", "rows_gradient", "forward", "learn", "back"}
    updates(agent_of("demo", "fast", BOX, **FUSED), 1)
    assert "transition" in called


@there
@pytest.mark.parametrize("count", [1, 20])
def test_acting_is_that_of_the_reference(count):
    agents = [agent_of("demo", "reference"), agent_of("demo", "fast", **FUSED)]
    players = [agent.player(num_envs=count, mode="train", seed=3) for agent in agents]
    rng, shape = np.random.default_rng(0), agents[0].spec.obs["image"].shape
    for step in range(8):
        obs = {
            "image": rng.integers(0, 256, (count, *shape), dtype=np.uint8),
            "body": rng.normal(size=(count, 5)).astype(np.float32),
        }
        first = rng.random(count) < 0.2
        np.testing.assert_array_equal(*(player.act(obs, first) for player in players))
        torch.testing.assert_close(players[1].state.deter, players[0].state.deter, rtol=1e-4, atol=1e-5)
        if step == 3:  # what was packed follows the weights
            for agent in agents:
                for i, parameter in enumerate(agent.parameters()):
                    torch.manual_seed(i)
                    with torch.no_grad():
                        parameter.add_(torch.randn_like(parameter), alpha=0.1)


@there
def test_a_result_is_the_same_every_time_and_in_any_number_of_threads():
    rssm = rssm_of(True)
    expected, found = filtered(rssm), {}
    agents = [copy.deepcopy(rssm) for _ in range(4)]

    def work(at):
        torch.set_num_threads(1)
        found[at] = dream_of_rows(agents[at])

    def dream_of_rows(part):
        generator = torch.Generator().manual_seed(3)
        action, look = torch.randn(8, 6, 3, generator=generator), torch.randn(8, 6, 10, generator=generator)
        first, noise = torch.zeros(8, 6, dtype=torch.bool), torch.rand(8, 6, 4, generator=generator)
        return [fused.scan(part.parts("look", "answer"), action, look.clone(), first, noise).deter for _ in range(20)]

    alone = dream_of_rows(rssm)[0]
    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(one, alone) for ones in found.values() for one in ones)
    assert len(found) == 4
    again = filtered(rssm)
    assert all(torch.equal(a, b) for a, b in zip(again[1], expected[1], strict=True))


@there
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("level", LEVELS)
def test_what_is_not_finite_stays_seen(at_level, level, value):
    """The guard must find it, and no index may leave its range."""
    at_level(level)
    rssm = rssm_of(True)
    with torch.no_grad():
        rssm.gru.gates.bias[0] = value
    (deter, _, stoch, _), _ = filtered(rssm)
    plain = filtered(rssm_of(False))[0]
    assert stoch.shape == plain[2].shape
    if value != value:
        assert not deter.isfinite().all()
    with torch.no_grad():
        rssm.posterior_net[-1].bias.fill_(value)
    assert filtered(rssm)[0][2].shape == stoch.shape


@there
@pytest.mark.parametrize("level", LEVELS)
def test_exp_sigmoid_and_tanh_are_right_over_their_whole_range(at_level, level):
    """Through a layer of one number: elu(x) for x from -200 to 80."""
    at_level(level)
    net = MLP(1, None, MLPOptions(1, 1, False))
    with torch.no_grad():
        net[0].weight.fill_(1), net[0].bias.fill_(0)
    x = torch.linspace(-200, 80, 2001)[:, None]
    expected = nn.functional.elu(x)
    accelerate(net, fused=True)
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, rtol=1e-6, atol=2e-7)


@there
def test_torchs_default_type_does_not_matter():
    """An environment's library may change it after the agent was made."""
    rssm = rssm_of(True)
    gradients = filtered(rssm)[1]
    torch.set_default_dtype(torch.float64)
    try:
        found = fused.room(3)
        kept = fused.empty_kept(rssm.parts("look", "answer"), 2, 3)
        assert {found.dtype, *(x.dtype for x in kept[:-1])} == {torch.float32}
        packed = fused.pack(rssm.gru.gates.weight.detach(), back=False)
        dreaming = fused.Dreaming(
            rssm.parts("foresee", "foretell"), torch.zeros(2, 12), torch.zeros(2, 4).int(), torch.rand(2, 1, 4).float()
        )
        assert dreaming.deters.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(packed, fused.pack(rssm.gru.gates.weight.detach(), back=False))
    assert all(torch.equal(a, b) for a, b in zip(filtered(rssm)[1], gradients, strict=True))


@there
@pytest.mark.parametrize("part", ["gru", "prior_net", "input_net"])
def test_weights_of_another_type_are_not_its_work(part):
    rssm = rssm_of(True)
    assert rssm.is_fused(torch.zeros(2, 3))
    getattr(rssm, part).double()
    assert not rssm.is_fused(torch.zeros(2, 3))


@there
def test_acting_works_in_inference_mode(tmp_path):
    import reverie
    from reverie import checkpoint

    agent = agent_of("demo", "fast", **FUSED)
    checkpoint.save_agent(tmp_path / "agent", agent)
    obs = {key: value[:, 0].numpy() for key, value in batch_of(agent).obs.items()}
    first = np.ones(len(obs["body"]), bool)
    actions = []
    for inference in (True, False):
        with torch.inference_mode(inference):
            player = reverie.load_player(tmp_path / "agent", num_envs=len(first), mode="eval")
            actions.append([player.act(obs, first), player.act(obs, ~first)])
        assert player.world_model.rssm.runs_fused
    np.testing.assert_array_equal(*actions)


# --------------------------------------------------------------------------------------------- edits still take effect


@there
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_of_an_agent_in_use_gives_what_the_plain_path_gives(change):
    found = []
    for mode, settings in (("reference", {}), ("fast", FUSED)):
        agent = agent_of("demo", mode, **settings)
        batch = batch_of(agent)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            agent.update(batch)
            start = start_of(found, agent)
            agent.load_state_dict(start)
            change(agent)
            torch.manual_seed(1)
            found.append(({k: float(v) for k, v in agent.update(batch).items()}, start))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-3, abs=1e-4)


def start_of(found, agent):
    return found[0][1] if found else {key: value.clone() for key, value in agent.state_dict().items()}


@there
def test_a_prior_of_another_form_is_dreamt_in_python_and_named():
    for change in (
        lambda net: net.register_forward_hook(lambda module, inputs, output: output / 2),
        lambda net: setattr(net[2], "alpha", 0.5),
    ):
        dreams = []
        for on in (True, False):
            rssm = rssm_of(on)
            change(rssm.prior_net)
            if on:
                assert "dreams are not run by compiled code" in " ".join(plain_parts_of(rssm))
            dreams.append(dream_of(rssm))
        for mine, theirs in zip(*dreams, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-6)


def plain_parts_of(module):
    from reverie.fast import plain_parts

    return plain_parts(module)


# --------------------------------------------------------------------------------------------------------- choosing


@there
def test_it_is_chosen_where_it_can_be_had():
    auto, on, none = (ComputeConfig(fused=value) for value in ("auto", "on", "off"))
    assert pick_fused(on, "fast", torch.float32, CPU) == (True, "")
    assert pick_fused(none, "fast", torch.float32, CPU) == (False, "")
    assert pick_fused(auto, "fast", torch.float32, CPU).on == (BEST > 0)
    for mode, dtype, device in (
        ("fast", torch.bfloat16, CPU),
        ("reference", torch.float32, CPU),
        ("compile", torch.float32, CPU),
        ("graph", torch.float32, torch.device("meta")),
    ):
        assert pick_fused(auto, mode, dtype, device) == (False, "")  # another mode: nothing is missing
        with pytest.raises(UserError, match=r"compute\.fused=on cannot be had: it is for the fast mode in float32 on"):
            pick_fused(on, mode, dtype, device)


@there
def test_a_slow_processor_does_without(monkeypatch):
    monkeypatch.setattr(fused, "library", lambda: type("Old", (), {"best": 0}))
    assert pick_fused(ComputeConfig(), "fast", torch.float32, CPU) == (False, "")
    assert pick_fused(ComputeConfig(fused="on"), "fast", torch.float32, CPU).on


@there
def test_bfloat16_is_never_computed_by_it():
    agent = agent_of("demo", "fast", **{"compute.fused": "auto", "compute.precision": "bfloat16"})
    assert (agent.fused.on, agent.notes) == (False, [])
    set_types(agent, agent.precision.types, fused=True)
    assert not any(part.__dict__.get("runs_fused") for part in agent.modules())


def test_with_many_threads_large_products_are_torchs():
    weight = torch.zeros(600, 1800)
    assert worth_fusing(800, weight)
    torch.set_num_threads(4)
    assert not worth_fusing(800, weight)
    assert worth_fusing(8, weight)


@there
def test_a_resumed_run_keeps_what_it_had():
    settings = {"compute.fused": "auto"}
    agent = agent_of("demo", "fast", **settings)
    if agent.fused.on:
        agent.keep_fused(True)
        assert (agent.fused.on, agent.notes) == (True, [])
        agent.keep_fused(False)  # it began on a machine without, or with an older version
        assert agent.notes == [
            "compiled loops stay off, as this run began without them; compute.fused=on turns them on"
        ]
        assert not any(part.__dict__.get("runs_fused") for part in agent.modules())
    else:
        agent.keep_fused(True)
        assert "does not continue bit for bit" in agent.notes[0]
    for value, mode in (("on", True), ("off", False)):  # whoever sets it means it
        agent = agent_of("demo", "fast", **{"compute.fused": value})
        agent.keep_fused(not mode)
        assert (agent.fused.on, agent.notes) == (mode, [])


# ------------------------------------------------------------------------------------------------------ without it


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A cache folder of its own, and nothing remembered."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("REVERIE_CACHE", str(folder))
    open_library.cache_clear(), fused.library.cache_clear()
    yield folder
    open_library.cache_clear(), fused.library.cache_clear()


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def works_without(reason):
    """An agent says why, learns, and `on` is refused in one sentence."""
    fused.library.cache_clear(), open_library.cache_clear()
    agent = agent_of("demo", "fast", **{"compute.fused": "auto"})
    (note,) = agent.notes
    assert note.startswith("compiled loops are not used: ")
    assert reason in note
    assert "\n" not in note
    updates(agent, 1)
    with pytest.raises(UserError, match=r"compute\.fused=on cannot be had"):
        agent_of("demo", "fast", **FUSED)


def test_without_a_compiler_everything_works_and_it_is_said(empty_cache, monkeypatch):
    monkeypatch.setattr("reverie.fast.fused_build.shutil.which", lambda name: None)
    works_without("there is no C compiler (install gcc or clang)")
    assert not empty_cache.exists()


def test_a_compiler_that_fails_is_named_and_not_called_at_every_start(empty_cache, tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    compiler = script(tmp_path / "cc", f"echo x >> {calls}; echo 'fused.c:1: error: no such thing' >&2; exit 1")
    monkeypatch.setenv("CC", compiler)
    works_without("does not compile them: fused.c:1: error: no such thing")
    works_without("to try again)")
    assert calls.read_text().count("x") == 1
    assert [path.name for path in empty_cache.iterdir() if path.name.startswith(".build")] == []


def test_a_compiler_that_hangs_is_given_up(empty_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", script(tmp_path / "cc", "exec sleep 30"))
    monkeypatch.setattr(fused_build, "LIMIT", 0.2)
    works_without("took more than 0.2 seconds")


def test_a_compiler_that_makes_nothing_is_named(empty_cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", script(tmp_path / "cc", "exit 0"))
    works_without("does not compile them")


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, empty_cache):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "file" / "cache"))
    if not REASON or "compiler" not in REASON:
        works_without("cannot be written")


@there
def test_it_is_compiled_once_and_what_was_damaged_again(empty_cache, monkeypatch):
    open_library()
    (path,) = empty_cache.glob("*.so")
    assert stat.S_IMODE(empty_cache.stat().st_mode) & 0o022 == 0
    whole, made = path.read_bytes(), path.stat().st_mtime_ns
    open_library.cache_clear()
    open_library()
    assert path.stat().st_mtime_ns == made
    path.unlink()  # a new file: the old one is in use
    path.write_bytes(whole[: len(whole) // 2])
    open_library.cache_clear()
    open_library()
    assert len(path.read_bytes()) > len(whole) // 2
    path.chmod(0o777)
    open_library.cache_clear()
    with pytest.raises(NotBuilt, match="can be changed by another user"):
        open_library()


def test_the_cache_folder_is_where_caches_are(monkeypatch, tmp_path):
    monkeypatch.delenv("REVERIE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fused_build.cache_folder() == tmp_path / "reverie"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fused_build.cache_folder() == tmp_path / ".cache" / "reverie"
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(NotBuilt, match="REVERIE_CACHE"):
        fused_build.cache_folder()


def test_another_system_is_named(monkeypatch, empty_cache):
    monkeypatch.setattr("reverie.fast.fused_build.sys.platform", "win32")
    works_without("they are not made for")


def test_the_source_is_part_of_the_package():
    from importlib import resources

    for name in fused_build.SOURCES:
        assert resources.files("reverie.fast").joinpath(name).read_text().startswith("/*")
    assert os.path.exists(fused_build.__file__)
