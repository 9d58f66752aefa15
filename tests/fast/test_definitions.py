"""The fast path earns its use: it computes what the plain functions say, or it is not used.

Every plain function that the fast path stands for is edited in a copy of the source, replaced by a subclass, and
monkey-patched, one at a time: each change must take effect.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import reverie
from reverie import latents, layers, networks, ops, rssm
from reverie.fast import FASTER, Feat, accelerate
from reverie.fast.definitions import PARTS, fingerprint, load_proven, resolve
from reverie.fast.scan import FastRSSM
from tests.fast.prove import fingerprints
from tests.fast.test_fast import agent_of, batch_of

SOURCE = Path(reverie.__file__).parent
PLACES = sorted({place for part in PARTS.values() for place in part.functions})
OURS = [place for place in PLACES if resolve(place).__module__.startswith("reverie.")]  # else torch's own


class Reached(Exception):
    """A changed function was called."""


def stop(*args, **kwargs):
    raise Reached


def used(agent):
    """Acting and one update: everything that the fast path stands for is needed by one of them."""
    batch = batch_of(agent)
    obs = {key: value[:, 0] for key, value in batch.obs.items()}
    state = agent.world_model.rssm.initial(len(batch.reward))
    agent.act(obs, state, torch.nan_to_num(batch.action[:, 0]), batch.is_first[:, 0])
    agent.update(batch)


# ------------------------------------------------------------------------------------------------------ fingerprints


def test_the_fast_path_was_proven_against_the_functions_of_now():
    """If this fails after an edit on purpose: adapt src/reverie/fast, then `make prove`."""
    assert fingerprints() == load_proven()
    assert all(load_proven().values())


@pytest.mark.parametrize("preset", ["demo", "vector", "dreamerv2", "atari"])
def test_all_of_it_is_used_where_nothing_was_changed(preset):
    agent = agent_of(preset, "fast")
    assert agent.notes == []
    kinds = {type(part) for part in agent.modules()}
    assert not kinds & FASTER.keys()
    assert agent.world_model.rssm.fits()
    used(agent)  # and nothing is reported while it is used: a warning would be an error here


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ('def f(x):\n    """Another docstring."""\n    return x + 1  # and a comment\n', True),
        ("def f(x):\n    return (x\n            + 1)\n", False),  # brackets are tokens: reproving is cheap
        ("def f(x):\n    return x + 2\n", False),
        ("def f(y):\n    return y + 1\n", False),
    ],
)
def test_comments_and_docstrings_do_not_count(tmp_path, monkeypatch, text, same):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for name, source in (("one_f", 'def f(x):\n    """Adds."""\n    return x + 1\n'), ("two_f", text)):
        (tmp_path / f"{name}.py").write_text(source)
        found.append(fingerprint(__import__(name).f))
        del sys.modules[name]
    assert (found[0] == found[1]) == same
    assert all(found)


def test_what_has_no_source_or_other_code_than_its_source_has_no_fingerprint():
    scope: dict = {}
    exec("def f(x):\n    return x", scope)
    assert fingerprint(scope["f"]) == ""
    assert fingerprint(len) == ""

    def victim(x):
        return x

    assert fingerprint(ops.symlog)
    victim.__code__ = (lambda x: x + 1).__code__
    assert fingerprint(victim) == ""


# ------------------------------------------------------------------------------------------------- edits of the source

#: Edits one function after the other in a copy of the source, each used in a process of its own (forked: torch is
#: loaded once). The function then raises as its first statement.
EDIT_AND_USE = """
import ast, json, os, sys
from pathlib import Path
import gymnasium, numpy, safetensors.torch, torch, yaml
torch.set_num_threads(1)
weight = torch.zeros(1, requires_grad=True)
weight.sum().backward()
torch.optim.AdamW([weight], fused=True).step()  # loads a lot of torch, here instead of in each process
FOLDER = Path(sys.argv[1])
sys.path.insert(0, str(FOLDER))

def edited(text, qualname):
    def walk(node, prefix=""):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                yield prefix + child.name, child
                yield from walk(child, prefix + child.name + ".")
    body = dict(walk(ast.parse(text)))[qualname].body
    first = body[1] if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) else body[0]
    lines = text.splitlines(keepends=True)
    lines.insert(first.lineno - 1, " " * first.col_offset + "raise RuntimeError('edited')\\n")
    return "".join(lines)

def use():
    from reverie.config.presets import load_preset
    from reverie.data.replay import Batch
    from reverie.envs.actions import ActionSpec
    from reverie.envs.spaces import ObsKey, Spec
    from reverie.train import DreamerV2
    spec = Spec({"image": ObsKey(("image",), "image", (16, 16, 3), (16, 16, 3), "hwc")}, ActionSpec.discrete(4))
    agent = DreamerV2(load_preset("debug", {"compute.mode": "fast"}), spec)
    image, no = torch.zeros(2, 4, 16, 16, 3, dtype=torch.uint8), torch.zeros(2, 4, dtype=torch.bool)
    action = torch.eye(4).repeat(2, 1, 1)
    batch = Batch({"image": image}, action, torch.zeros(2, 4), no, no, no)
    acting = lambda: agent.act({"image": image[:, 0]}, agent.world_model.rssm.initial(2), action[:, 0], no[:, 0])
    reached = []
    for what in (acting, lambda: agent.update(batch)):
        try:
            what()
        except RuntimeError as error:
            reached.append(str(error))
    return {"notes": agent.notes, "reached": reached}

for place, home in json.loads(sys.argv[2]).items():
    file = FOLDER / "reverie" / (home + ".py")
    before = file.read_text()
    file.write_text(edited(before, place.partition(":")[2]))
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            answer = use()
        except BaseException as error:
            answer = {"notes": [], "reached": [], "error": repr(error)}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as stream:
        print(json.dumps([place, json.loads(stream.read())]), flush=True)
    os.wait()
    file.write_text(before)
"""


@pytest.fixture(scope="module")
def edits(tmp_path_factory):
    """{place: {"notes": lines at the start, "reached": what was raised}} after an edit of that function."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(SOURCE, folder / "reverie", ignore=shutil.ignore_patterns("__pycache__"))
    homes = {place: resolve(place).__module__.removeprefix("reverie.") for place in PLACES}  # where it is defined
    homes = {place: home for place, home in homes.items() if not home.startswith("torch")}
    command = [sys.executable, "-c", EDIT_AND_USE, str(folder), json.dumps(homes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.parametrize("place", OURS)
def test_an_edit_of_the_source_takes_effect_and_is_reported(edits, place):
    found = edits[place]
    assert "edited" in found["reached"], found
    assert all("plain arithmetic for the" in note and "as long" in note for note in found["notes"])
    assert any(place.partition(":")[2] in note for note in found["notes"]), found


# --------------------------------------------------------------------------------------------------- monkey-patches


def patch(monkeypatch, place, value):
    """Replace what `place` names: an attribute of a module, or of a class."""
    module, _, path = place.partition(":")
    monkeypatch.setattr(f"reverie.{module}.{path}", property(value) if path == "State.feat" else value)


@pytest.mark.parametrize("place", PLACES)
def test_a_patch_before_the_agent_is_made_takes_effect_and_is_reported(monkeypatch, place):
    patch(monkeypatch, place, stop)
    agent = agent_of("demo", "fast")
    assert any(place.partition(":")[2] in note for note in agent.notes), agent.notes
    with pytest.raises(Reached):
        used(agent)


@pytest.mark.parametrize("place", PLACES)
def test_a_patch_of_an_agent_in_use_takes_effect(monkeypatch, place):
    agent = agent_of("demo", "fast")
    used(agent)
    patch(monkeypatch, place, stop)
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", lambda message, *_: said.append(message))
        with pytest.raises(Reached):
            used(agent)
    if (
        place in PARTS["DiscreteRSSM"].functions
        and not place.startswith(("layers:MLP", "layers:ExactLinear", "layers:without_autocast"))
        and not place.endswith("initial")
    ):  # met before the RSSM is
        assert any("plain arithmetic for the RSSM from now on" in str(message) for message in said)


@pytest.mark.parametrize("name", ["initial", "recurrent_step", "prior", "posterior", "_state", "observe",
                                  "rollout_observation", "rollout_imagination"])  # fmt: skip
def test_a_method_replaced_on_one_instance_takes_effect(name):
    agent = agent_of("demo", "fast")
    setattr(agent.world_model.rssm, name, stop)
    with pytest.raises(Reached):
        used(agent)


@pytest.mark.parametrize(
    "pick",
    [
        lambda agent: agent.world_model.rssm.gru,
        lambda agent: agent.world_model.rssm.gru.gates,
        lambda agent: agent.world_model.rssm.gru.norm,
        lambda agent: agent.world_model.rssm.input_net[0],
        lambda agent: agent.world_model.rssm.posterior_net[-1],
        lambda agent: agent.world_model.rssm.prior_net[0],
        lambda agent: next(iter(agent.world_model.encoder.convs.values())).layers[0],
        lambda agent: agent.world_model.head("obs/image").layers[0],
        lambda agent: agent.world_model.head("obs/image").linear,
        lambda agent: agent.world_model.head("reward").mlp[0],
        lambda agent: agent.actor.mlp[0],
    ],
)
def test_a_hook_on_a_module_is_called(pick):
    agent, called = agent_of("demo", "fast"), []
    pick(agent).register_forward_hook(lambda *_: called.append(1))
    used(agent)
    assert called


def replace_layers(agent):
    """Exchange one layer of every kind for another one with other weights."""
    model = agent.world_model
    for owner, name in [
        (model.rssm.gru, "gates"),
        (model.rssm.input_net, "0"),
        (model.rssm.posterior_net, "0"),
        (model.rssm.prior_net, "0"),
        (model.head("obs/image"), "linear"),
        (model.head("obs/image").layers, "0"),
        (model.head("reward").mlp, "0"),
        (next(iter(model.encoder.convs.values())).layers, "0"),
    ]:
        new = copy.deepcopy(getattr(owner, name))
        with torch.no_grad():
            new.weight.mul_(1.5)
        setattr(owner, name, new)


def test_a_layer_replaced_in_use_takes_effect():
    plain, fast = agent_of("demo", "reference"), agent_of("demo", "fast", precision="float32")
    start = {key: value.clone() for key, value in plain.state_dict().items()}
    batch, numbers = batch_of(plain), []
    for agent in (plain, fast):
        used(agent)
        agent.load_state_dict(start)
        replace_layers(agent)
        torch.manual_seed(1)
        numbers.append(agent.world_model_loss(batch)[0].item())
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-5)


# ---------------------------------------------------------------------------------------------------------- subclasses


class Coin(latents.CategoricalLatent):
    """A latent with another draw: always the first class."""

    def sample(self, stats, noise):
        first = torch.zeros(*stats.shape[:-1], self.num_categoricals, self.num_categories)
        first[..., 0] = 1
        return first.flatten(-2)


class OtherGRU(layers.NormGRUCell):
    def forward(self, x, h):
        raise Reached


class OtherRSSM(rssm.DiscreteRSSM):
    def recurrent_step(self, state, action):
        raise Reached


class OtherEncoder(networks.ConvEncoder):
    def forward(self, image):
        raise Reached


class OtherDecoder(networks.ConvDecoder):
    def forward(self, feat):
        raise Reached


class OtherMLP(layers.MLP):
    def forward(self, x):
        raise Reached


def test_a_subclass_of_the_latent_draws_for_itself():
    net = rssm.DiscreteRSSM(2, 3, rnn_hidden_dim=4, hidden_dim=4, latent=Coin(2, 3))
    (note,) = accelerate(net)
    assert note.startswith("the latent is Coin, or has methods of its own: plain arithmetic for the RSSM")
    embed, action, first = torch.randn(2, 3, 3), torch.zeros(2, 3, 2), torch.zeros(2, 3, dtype=torch.bool)
    posterior, _ = net.rollout_observation(embed, action, first)
    assert (posterior.stoch.reshape(2, 3, 2, 3)[..., 0] == 1).all()


@pytest.mark.parametrize(
    ("module", "kind", "name"),
    [
        ("reverie.build", OtherRSSM, "DiscreteRSSM"),
        ("reverie.observations", OtherEncoder, "ConvEncoder"),
        ("reverie.build", OtherDecoder, "ConvDecoder"),
        ("reverie.networks", OtherMLP, "MLP"),
    ],
)
def test_a_subclass_of_a_network_runs_as_it_is_written(monkeypatch, module, kind, name):
    monkeypatch.setattr(f"{module}.{name}", kind)
    agent = agent_of("demo", "fast")
    assert any(note.startswith(f"{kind.__name__} replaces {name}") for note in agent.notes)
    with pytest.raises(Reached):
        used(agent)


def test_a_subclass_of_the_cell_runs_as_it_is_written(monkeypatch):
    monkeypatch.setitem(rssm.CELLS, "norm_gru", OtherGRU)
    agent = agent_of("demo", "fast")
    assert any("the recurrent cell is OtherGRU" in note for note in agent.notes)
    with pytest.raises(Reached):
        used(agent)


@pytest.mark.parametrize(
    ("target", "change"),
    [
        ("reverie.layers.ACTIVATIONS", {"elu": lambda: nn.ELU(alpha=0.5)}),
        ("reverie.layers.ACTIVATIONS", {"elu": nn.Tanh}),
    ],
)
def test_other_layers_inside_the_networks_count(monkeypatch, target, change):
    """Equal to the plain path, whatever the layers are."""
    from reverie.layers import ACTIVATIONS

    for name, value in change.items():
        monkeypatch.setitem(ACTIVATIONS, name, value)
    plain, fast = agent_of("demo", "reference"), agent_of("demo", "fast", precision="float32")
    fast.load_state_dict(plain.state_dict())
    batch = batch_of(plain)
    numbers = []
    for agent in (plain, fast):
        torch.manual_seed(1)
        numbers.append(float(agent.train_world_model(batch)[1]["world_model/loss"]))
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-5)


def test_another_stride_in_the_encoder_counts(monkeypatch):
    class Padded(nn.Conv2d):
        def __init__(self, *sizes):
            super().__init__(*sizes, padding=0, bias=False)

    monkeypatch.setattr("reverie.networks.nn.Conv2d", Padded)
    encoder = networks.ConvEncoder((3, 16, 16), depth=2)
    image = torch.rand(2, 3, 16, 16)
    before = encoder(image)
    accelerate(encoder)
    torch.testing.assert_close(encoder(image), before)


# ----------------------------------------------------------------------------------- features where a tensor is wanted


class Plainly(networks.Head):
    """A head as a newcomer writes it: with torch's own layers and functions."""

    target = "reward"

    def __init__(self, feat_dim):
        super().__init__()
        self.linear = nn.Linear(feat_dim, 1)

    def forward(self, feat):
        doubled = torch.cat([feat, feat * 2], -1)[..., : feat.shape[-1]]
        return self.linear(feat).squeeze(-1) + 0 * (doubled.mean(-1) + feat.float().sum(-1) + (feat @ feat.new_ones(
            feat.shape[-1])))  # fmt: skip

    def loss(self, feat, target):
        return 0.5 * (self(feat) - target) ** 2


def test_a_head_with_torchs_own_layers_learns_the_same_in_both_modes(monkeypatch):
    from reverie import build

    heads = build._heads
    monkeypatch.setattr(
        build, "_heads", lambda *args: (heads(*args)[0] | {"plainly": Plainly(args[2])}, heads(*args)[1])
    )
    plain, fast = agent_of("demo", "reference"), agent_of("demo", "fast", precision="float32")
    fast.load_state_dict(plain.state_dict())
    batch, found = batch_of(plain), []
    for agent in (plain, fast):
        torch.manual_seed(1)
        metrics = agent.train_world_model(batch)[1]
        found.append((float(metrics["world_model/plainly_loss"]), agent.world_model.head("plainly").linear.weight.grad))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-6)


def test_features_are_still_kept_as_indices():
    agent = agent_of("demo", "fast")
    batch = batch_of(agent)
    posterior, _ = agent.train_world_model(batch)
    assert isinstance(agent.world_model.rssm, FastRSSM)
    assert isinstance(posterior.feat, Feat)
    assert posterior.feat._dense is None  # nothing in an update wrote it out


# ------------------------------------------------------------------------- kinds of change that a reader found ignored


def losses_of(change, **settings):
    """The world model's loss and gradient norm in both modes after `change(agent)` of an agent in use."""
    found = []
    start = None
    for mode in ("reference", "fast"):
        agent = agent_of("demo", mode, precision="float32", **settings)
        start = start or {key: value.clone() for key, value in agent.state_dict().items()}
        agent.load_state_dict(start)
        batch = batch_of(agent)
        torch.manual_seed(0)
        agent.world_model_loss(batch)  # everything that is kept between calls is kept now
        change(agent)
        torch.manual_seed(1)
        metrics = agent.train_world_model(batch)[1]
        found.append([metrics["world_model/loss"].item(), metrics["world_model/grad_norm"].item()])
    return found


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


def as_doubled(net):
    return Doubled(*net)


def twice(module, inputs, output):
    """A forward hook."""
    return 2 * output


def parts_of(agent):
    """RSSM, image encoder, image decoder."""
    model = agent.world_model
    return model.rssm, model.encoder.convs["obs/image"], model.head("obs/image")


def replace_container(agent):
    net = parts_of(agent)[0]
    net.input_net = as_doubled(net.input_net)


def replace_forward(agent):
    net = parts_of(agent)[0].posterior_net
    net.forward = lambda x: 2 * nn.Sequential.forward(net, x)


def change_slope(agent):
    for layer in parts_of(agent)[0].prior_net:
        if isinstance(layer, nn.ELU):
            layer.alpha = 0.5


def replace_class(agent):
    net = parts_of(agent)[0]
    net.__class__ = type("Other", (type(net),), {"_state": halved_state})


def replace_logits(agent):
    latent = parts_of(agent)[0].latent
    latent.logits = lambda stats: type(latent).logits(latent, stats / 2)


CHANGES = {
    "a container of another type": replace_container,
    "a container's forward": replace_forward,
    "a container's hook": lambda agent: parts_of(agent)[0].input_net.register_forward_hook(twice),
    "the encoder's container": lambda agent: parts_of(agent)[1].layers.register_forward_hook(twice),
    "the decoder's container": lambda agent: parts_of(agent)[2].layers.register_forward_hook(twice),
    "an activation's slope": change_slope,
    "a backward pre-hook": lambda agent: parts_of(agent)[0].gru.gates.register_full_backward_pre_hook(
        lambda module, gradients: (2 * gradients[0],)
    ),
    "a class made from the agent's own": replace_class,
    "logits of one latent": replace_logits,
}


def halved_state(self, deter, stats, noise):
    return rssm.DiscreteRSSM._state(self, deter, stats / 2, noise)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_of_an_agent_in_use_gives_what_the_plain_path_gives(change):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, fast = losses_of(change)
        same = losses_of(lambda agent: None)[0]
    assert fast == pytest.approx(plain, rel=1e-4)
    assert plain != pytest.approx(same, rel=1e-4)  # else the change changes nothing


def test_more_layers_in_the_rssm_run_as_they_are_written(monkeypatch):
    monkeypatch.setattr("reverie.rssm.MLPOptions", lambda layers, *rest: layers_options(2, *rest))
    plain, fast = losses_of(lambda agent: None)
    assert fast == pytest.approx(plain, rel=1e-4)


def layers_options(*args):
    return layers.MLPOptions(*args)


def test_a_decorator_is_another_function():
    import functools

    original = rssm.DiscreteRSSM.prior

    @functools.wraps(original)
    def decorated(*args, **kwargs):
        return original(*args, **kwargs)

    assert fingerprint(original)
    assert fingerprint(decorated) == ""


def test_global_hooks_of_torch_are_called():
    agent, called = agent_of("demo", "fast"), set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: called.add(type(module).__name__))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            used(agent)
    finally:
        handle.remove()
    assert {"NormGRUCell", "ExactLinear", "LayerNorm", "Conv2d", "ConvTranspose2d"} <= called


def test_features_index_like_a_tensor():
    agent = agent_of("demo", "fast")
    posterior, _ = agent.train_world_model(batch_of(agent))
    feat, size = posterior.feat, posterior.stoch.size
    dense = feat.dense()
    shuffled = torch.tensor([1, 0, *range(2, len(dense))])
    for key in (0, slice(1, 3), (slice(None), slice(1, None)), shuffled, (..., slice(0, size)), (..., 0), (0, 0, 0)):
        found = feat[key]
        torch.testing.assert_close(found.dense() if isinstance(found, Feat) else found, dense[key])
    assert len(feat) == len(dense)
    assert ((feat > 0) == (dense > 0)).all()
    assert (posterior.stoch.mean() - dense[..., :size].mean()).abs() < 1e-6
    assert torch.cat([posterior.stoch, posterior.deter], -1).shape == dense.shape


class Sees(networks.Head):
    """A head that asks what it was given."""

    target = "reward"
    given: list = []  # noqa: RUF012

    def __init__(self, feat_dim):
        super().__init__()
        self.linear = nn.Linear(feat_dim, 1)

    def forward(self, feat):
        self.given.append(type(feat))
        return self.linear(feat).squeeze(-1)

    def loss(self, feat, target):
        return (self(feat) - target) ** 2


def test_a_head_of_your_own_is_given_a_tensor(monkeypatch):
    from reverie import build

    heads = build._heads
    monkeypatch.setattr(build, "_heads", lambda *args: (heads(*args)[0] | {"sees": Sees(args[2])}, heads(*args)[1]))
    Sees.given.clear()
    agent = agent_of("demo", "fast")
    agent.train_world_model(batch_of(agent))
    assert Sees.given == [torch.Tensor]


def test_second_derivatives_are_refused_not_wrong():
    mlp = layers.MLP(3, 1, layers.MLPOptions(1, 4))
    accelerate(mlp)
    x = torch.randn(5, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(mlp(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        gradient.square().sum().backward()


def test_acting_works_in_inference_mode(tmp_path):
    from reverie import checkpoint

    agent = agent_of("demo", "fast")
    checkpoint.save_agent(tmp_path / "agent", agent)
    obs = {key: value[:, 0].numpy() for key, value in batch_of(agent).obs.items()}
    with torch.inference_mode():
        player = reverie.load_player(tmp_path / "agent", num_envs=len(next(iter(obs.values()))))
        first = player.act(obs, torch.ones(player.count, dtype=torch.bool).numpy())
    assert first.shape == (player.count, agent.spec.action.size)
