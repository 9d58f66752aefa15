"""An exported policy does what the agent does: the graph beside the player, the files beside the graph."""

import json
import os
import shutil
import subprocess
import venv

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toys import DictEnv, SpaceEnv

import reverie
from reverie import checkpoint, cli
from reverie.config.presets import load_preset
from reverie.distributions import policy_noise
from reverie.envs.images import area_resize, to_gray
from reverie.envs.spaces import make_spec
from reverie.errors import UserError
from reverie.share import export, normal, policy_graph
from reverie.train import DreamerV2

BOX = spaces.Box(np.float32([-2, 0]), np.float32([2, 5]))
VECTOR = spaces.Box(-3, 3, (3,))
IMAGE = spaces.Box(0, 255, (16, 16, 3), np.uint8)
HYBRID = spaces.Dict({"move": spaces.Discrete(3, start=1), "push": BOX, "keys": spaces.MultiDiscrete([2, 3, 3])})

#: name -> (observation space, action space, settings, options of make_spec)
TASKS = {
    "vector": (VECTOR, spaces.Discrete(4), {}, {}),
    "standardized": (VECTOR, spaces.Discrete(4), {"vector_transform": "standardize"}, {}),
    "running": (VECTOR, spaces.Discrete(4), {"vector_transform": "running"}, {}),
    "symlog": (VECTOR, spaces.Discrete(4), {"vector_transform": "symlog", "latents": "gaussian"}, {}),
    "numbers": (spaces.MultiDiscrete([3, 4], start=[-1, 2]), spaces.MultiDiscrete([3, 3, 2]), {}, {}),
    "switches": (VECTOR, spaces.MultiBinary((2, 2)), {"unimix": 0.01}, {}),
    "box": (VECTOR, BOX, {"policy": "trunc_normal"}, {}),
    "tanh": (VECTOR, BOX, {"policy": "tanh_normal"}, {}),
    "whole": (VECTOR, spaces.Box(-50, 50, (2,), np.int32), {}, {}),
    "hybrid": (VECTOR, HYBRID, {}, {}),
    "tuple": (spaces.Tuple([VECTOR, spaces.Discrete(3, start=-1)]), spaces.Tuple([spaces.Discrete(2), BOX]), {}, {}),
    "pixels": (IMAGE, spaces.Discrete(3), {}, {}),
    "small_gray": (spaces.Box(0, 255, (30, 40, 3), np.uint8), BOX, {}, {"image_size": 16, "grayscale": True}),
    "channels_first": (spaces.Box(0, 1, (3, 21, 16), np.float32), BOX, {}, {"image_size": 16}),
    "frames": (spaces.Box(0, 255, (2, 16, 16, 3), np.uint8), BOX, {}, {"grayscale": True}),
}


def agent_for(name, mode="reference", **more):
    observation, action, settings, options = TASKS[name]
    torch.manual_seed(1)
    config = load_preset("debug", {"compute.mode": mode} | settings | more)
    agent = DreamerV2(config, make_spec(SpaceEnv(observation, action), **options))
    with torch.no_grad():  # nothing at its first value, and opinions in the policy
        for parameter in agent.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for key in agent.world_model.scaled_keys:
            values = 2 + 3 * torch.randn(50, agent.spec.obs[key].shape[0])
            agent.world_model.fit_observations({key: values})
            agent.world_model.follow_observations({key: values})
    return agent


def graph_of(agent, mode="eval"):
    return export.plain_graph(agent.config, agent.spec, agent.world_model, agent.actor, mode)


def leaf(value, path):
    for key in path:
        value = value[key]
    return value


def stacked(values):
    """Observations of single environments -> one with a leading axis."""
    if isinstance(values[0], dict):
        return {key: stacked([value[key] for value in values]) for key in values[0]}
    if isinstance(values[0], tuple):
        return tuple(stacked(list(items)) for items in zip(*values, strict=True))
    return np.stack(values)


def noise_of(graph, agent, count, generator):
    """The noise inputs as the player would draw them from its generator."""
    drawn = [agent.world_model.rssm.latent.noise(count, generator=generator)]
    if graph.mode == "train":
        drawn.append(policy_noise(agent.actor.parts, count, generator).reshape(count, -1))
    found, wide = {"uniform": [], "normal": []}, torch.cat(drawn, -1)
    for (kind, _), piece in zip(graph.noise, torch.split(wide, [size for _, size in graph.noise], -1), strict=True):
        found[kind].append(piece)
    return {kind: torch.cat(pieces, -1) for kind, pieces in found.items() if pieces and pieces[0].shape[-1]}


def walk(agent, graph, run, count, steps, space, resets=(0, 50, 120, 170)):
    """Play both for some steps. Yields (the player's action, the graph's outputs by name, the player)."""
    player, generator = agent.player(num_envs=count, mode=graph.mode, seed=3), torch.Generator().manual_seed(3)
    state = {p.name: np.zeros((count, *p.shape), p.dtype) for p in graph.inputs if p.role == "state"}
    space.seed(0)
    for step in range(steps):
        obs = stacked([space.sample() for _ in range(count)])
        first = np.array([step in resets and (step == 0 or row != 1) for row in range(count)])
        noise = noise_of(graph, agent, count, generator)
        feed = []
        for port in graph.inputs:
            if port.role == "observation":
                feed.append(np.asarray(leaf(obs, port.path)).astype(port.dtype))
            else:
                feed.append({"is_first": first, **state, **{k: v.numpy() for k, v in noise.items()}}[port.name])
        found = dict(zip([p.name for p in graph.outputs], run(*feed), strict=True))
        state = {name: np.asarray(found[f"next_{name}"]) for name in state}
        yield player(obs, first=first), found, player


def eagerly(graph):
    def run(*values):
        with torch.no_grad():
            return [x.numpy() for x in graph(*(torch.from_numpy(np.ascontiguousarray(v)) for v in values))]

    return run


def require_same(graph, wanted, found, player):
    for port in graph.outputs:
        if port.role == "action":
            np.testing.assert_allclose(found[port.name], leaf(wanted, port.path), rtol=1e-5, atol=1e-5)
            assert found[port.name].dtype == np.asarray(leaf(wanted, port.path)).dtype
    np.testing.assert_allclose(found["next_deter"], player.state.deter.numpy(), atol=1e-5)
    np.testing.assert_array_equal(found["next_last_action"].argmax(-1), player.action.numpy().argmax(-1))


#: With chance in z and in the action all of them, with chance in z alone some.
CASES = [*((name, "train") for name in TASKS), ("vector", "eval"), ("hybrid", "eval"), ("small_gray", "eval")]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_the_graph_acts_as_the_player_does(name, mode):
    """200 steps with 3 resets (of some of the environments), for 1 and for 3 environments."""
    agent = agent_for(name)
    graph = graph_of(agent, mode)
    for count in (1, 3):
        for wanted, found, player in walk(agent, graph, eagerly(graph), count, 200, TASKS[name][0]):
            require_same(graph, wanted, found, player)


def test_deterministic_takes_the_most_likely_z_and_needs_no_noise():
    agent = agent_for("vector")
    graph = graph_of(agent, "deterministic")
    assert {port.role for port in graph.inputs} == {"observation", "state", "is_first"}
    feed = [x.numpy() for x in export.example(graph.inputs, 2)]
    first, again = eagerly(graph)(*feed), eagerly(graph)(*feed)
    np.testing.assert_array_equal(first[-2], again[-2])
    rssm = agent.world_model.rssm
    with torch.no_grad():
        embed = agent.world_model.encoder(agent.world_model.preprocess({"observation": torch.zeros(2, 3)}))
        zeros = rssm.initial(2)
        state = rssm.observe(zeros, torch.zeros(2, 4), embed, torch.zeros(2, dtype=torch.bool))
    np.testing.assert_array_equal(first[-2], rssm.latent.mode(state.stats).numpy())


def test_a_forbidden_action_is_never_taken_and_a_mask_of_zeros_forbids_nothing():
    agent = DreamerV2(
        load_preset("debug", {"compute.mode": "reference"}),
        make_spec(
            SpaceEnv(spaces.Dict({"body": VECTOR, "action_mask": spaces.MultiBinary(4)}), spaces.Discrete(4)),
            action_mask="action_mask",
        ),
    )
    assert agent.spec.masked
    graph = graph_of(agent, "train")
    names = [port.name for port in graph.inputs]
    rng = np.random.default_rng(0)
    for _ in range(50):
        feed = dict(zip(names, [x.numpy() for x in export.example(graph.inputs, 8)], strict=True))
        feed |= {"uniform": rng.random(feed["uniform"].shape, np.float32)}
        mask = rng.integers(0, 2, (8, 4)).astype(np.uint8)
        feed["mask"] = mask
        action = eagerly(graph)(*feed.values())[0]
        allowed = np.where(mask.any(1, keepdims=True), mask, 1)
        assert allowed[np.arange(8), action].all()


def test_images_are_resized_and_made_gray_as_by_the_environment():
    """Gray to the pixel; of resized pixels three of a thousand may be the next level: both round float32."""
    colours = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3), -1).reshape(-1, 1, 3).astype(np.uint8)
    mine = policy_graph._gray(torch.from_numpy(colours)[None]).numpy()[0]
    np.testing.assert_array_equal(mine, to_gray(colours))
    rng, apart, pixels = np.random.default_rng(0), 0, 0
    for height, width in ((16, 16), (32, 48), (210, 160), (84, 84), (30, 41), (8, 9)):
        image = rng.integers(0, 256, (2, height, width, 3)).astype(np.uint8)
        wanted = np.stack([area_resize(x, 16, 16) for x in image])
        mine = policy_graph._resized(torch.from_numpy(image).float(), 16, 16).numpy()
        assert np.abs(mine - wanted).max() <= 1
        apart, pixels = apart + (mine != wanted).sum(), pixels + mine.size
    assert apart / pixels < 3e-3


def test_the_normal_distribution_of_exported_files_is_torchs():
    x = torch.linspace(-8, 8, 4001)
    torch.testing.assert_close(normal.ndtr(x), torch.special.ndtr(x.double()).float(), rtol=2e-5, atol=1e-15)
    torch.testing.assert_close(normal.ndtr(x), torch.special.ndtr(x), rtol=0, atol=2e-7)
    p = torch.cat([torch.linspace(1e-6, 1 - 1e-6, 4001), torch.logspace(-6, -1, 500)])
    torch.testing.assert_close(normal.ndtri(p), torch.special.ndtri(p), rtol=1e-5, atol=2e-6)


# -------------------------------------------------------------------------------------------------- plain or refused


def test_the_fast_path_is_exported_as_plain_modules_that_act_alike():
    agent = agent_for("pixels", mode="fast")
    assert type(agent.world_model.rssm).__name__ == "FastRSSM"
    graph = graph_of(agent)
    assert not {type(part).__name__ for part in graph.modules()} & {kind.__name__ for kind in export.FASTER.values()}
    for _, found, player in walk(agent, graph, eagerly(graph), 3, 20, IMAGE):
        np.testing.assert_allclose(found["next_deter"], player.state.deter.numpy(), atol=1e-4)


def test_a_module_that_the_settings_do_not_make_is_refused(tmp_path):
    agent = agent_for("vector")

    class Doubled(type(agent.actor)):
        def forward(self, feat, mask=None):
            return super().forward(2 * feat, mask)

    agent.actor.__class__ = Doubled  # the same weights, another function
    with pytest.raises(UserError, match=r"actor\.forward is a Doubled"):
        graph_of(agent)


def test_is_first_is_an_input_and_erases_even_nan():
    agent = agent_for("vector")
    graph = graph_of(agent)
    feed = dict(zip([p.name for p in graph.inputs], [x.numpy() for x in export.example(graph.inputs, 3)], strict=True))
    fresh = eagerly(graph)(*feed.values())
    for port in graph.inputs:
        if port.role == "state":
            feed[port.name] = np.full_like(feed[port.name], np.nan)
    feed["is_first"] = np.array([True, False, True])
    found = eagerly(graph)(*feed.values())
    np.testing.assert_array_equal(found[1][[0, 2]], fresh[1][[0, 2]])
    assert np.isnan(found[1][1]).all()


def test_a_file_that_acts_differently_is_refused(tmp_path, monkeypatch):
    agent = agent_for("vector")

    def wrong(graph, path):
        path.write_bytes(b"")

        def run(*values):
            found = eagerly(graph)(*values)
            found[1] = found[1] + 0.01
            return found

        return run

    monkeypatch.setattr(export, "_write_torch", wrong)
    with pytest.raises(UserError, match=r"does not act as the agent does: next_deter differs by 0\.01"):
        export.export_policy(agent.config, agent.spec, agent.world_model, agent.actor, tmp_path / "a.pt2", kind="torch")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A saved agent of an image, a vector and a direction, and its policy.onnx."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    agent = DreamerV2(load_preset("debug", {"compute.mode": "reference"}), make_spec(DictEnv()))
    checkpoint.save_agent(folder / "agent", agent)
    assert cli.main(["export", str(folder / "agent"), "--onnx", "--out", str(folder / "policy.onnx")]) == 0
    return folder, agent


def test_the_shipped_player_plays_the_file_as_the_agent_does(exported, monkeypatch):
    """The player's noise is NumPy's: given to the agent's player, too, both take the same actions."""
    folder, agent = exported
    monkeypatch.syspath_prepend(str(folder))
    import policy_player

    theirs, mine = policy_player.Policy(folder / "policy.onnx", seed=5), agent.player(mode="eval")
    rng = np.random.default_rng(5)
    size = agent.world_model.rssm.latent.num_categoricals
    monkeypatch.setattr(
        agent.world_model.rssm.latent, "noise", lambda *b, **_: torch.from_numpy(rng.random((*b, size), np.float32))
    )
    env, returns = DictEnv(), []
    for episode in range(10):
        obs, _ = env.reset(seed=episode)
        first, over, total = True, False, 0.0
        while not over:
            wanted, action = mine(obs, first=first), theirs(obs, first=first)
            assert action == wanted
            assert type(action) is int
            np.testing.assert_allclose(theirs.state["deter"], mine.state.deter.numpy(), atol=1e-5)
            obs, reward, terminated, truncated, _ = env.step(action)
            first, over, total = False, terminated or truncated, total + reward
        returns.append(total)
    assert returns == [6.0] * 10


def test_the_interface_says_what_goes_in_and_out(exported):
    face = json.loads((exported[0] / "policy.json").read_text())
    assert [(p["name"], p["dtype"], p["shape"]) for p in face["inputs"] if p["role"] == "observation"] == [
        ("obs_body_facing", "int64", []),
        ("obs_body_speed", "float32", [2]),
        ("obs_camera", "uint8", [16, 16, 3]),
    ]
    assert face["mode"] == "eval"
    assert [p["name"] for p in face["outputs"]] == ["action", "next_deter", "next_stoch", "next_last_action"]


def test_the_player_refuses_what_the_agent_was_not_trained_on(exported, monkeypatch):
    monkeypatch.syspath_prepend(str(exported[0]))
    import policy_player

    obs, _ = DictEnv().reset(seed=0)
    act = policy_player.Policy(exported[0] / "policy.onnx")
    with pytest.raises(ValueError, match="obs_camera holds 0 to 1"):
        act(obs | {"camera": obs["camera"] / 255})
    with pytest.raises(ValueError, match="obs_body_facing must be -1 to 1, got 2"):
        act(obs | {"body": obs["body"] | {"facing": 2}})
    with pytest.raises(ValueError, match="obs_camera must be finite and of shape"):
        act(obs | {"camera": obs["camera"][:8]})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{}/agent", "--onnx", "--out", "{}/policy.pt2"], "--onnx writes a file NAME.onnx"),
        (["{}/nowhere", "--torch", "--out", "{}/policy.pt2"], "nowhere"),
    ],
)
def test_a_wrong_command_line_gets_a_sentence(exported, capsys, words, sentence):
    assert cli.main(["export", *(word.format(exported[0]) for word in words)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert sentence in err


def test_what_is_missing_is_said_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs onnx, onnxscript, onnxruntime") as caught:
        export.require_exporter("onnx")
    assert "reverie-rl[export]" in str(caught.value.hint)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), CASES)
def test_the_onnx_file_acts_as_the_agent_does(name, mode, tmp_path):
    """Of every kind of observation and action: 200 steps with 3 resets, for 1 and for 3 environments."""
    agent = agent_for(name)
    graph = graph_of(agent, mode)
    run = export._write_onnx(graph, tmp_path / "policy.onnx")
    for count in (1, 3):
        for wanted, found, player in walk(agent, graph, run, count, 200, TASKS[name][0]):
            require_same(graph, wanted, found, player)


@pytest.mark.slow
def test_the_torch_file_acts_as_the_agent_does(tmp_path):
    agent = agent_for("hybrid")
    dreamer = reverie.Dreamer("CartPole-v1", preset="debug", run=tmp_path / "run")
    dreamer.agent = agent
    path = dreamer.export(tmp_path / "policy.pt2", mode="train")
    loaded = torch.export.load(path).module()
    graph = graph_of(agent, "train")
    for count in (1, 3):
        run = eagerly(loaded)
        for wanted, found, player in walk(agent, graph, run, count, 60, VECTOR):
            require_same(graph, wanted, found, player)


@pytest.mark.slow
def test_a_clean_environment_with_numpy_and_onnxruntime_plays_the_file(exported, tmp_path):
    """Neither torch nor Reverie nor Gymnasium: what the player needs is what it says."""
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "numpy", "onnxruntime"], check=True, timeout=400)
    for name in ("policy.onnx", "policy.json", "policy_player.py"):
        shutil.copy(exported[0] / name, tmp_path)
    script = (
        "import importlib.util as u, numpy as np\n"
        "assert not [n for n in ('torch', 'reverie', 'gymnasium') if u.find_spec(n)]\n"
        "from policy_player import Policy\n"
        "act = Policy('policy.onnx')\n"
        "obs = {'camera': np.zeros((16, 16, 3), np.uint8), 'body': {'speed': np.zeros(2), 'facing': 0}}\n"
        "print([act(obs, first=i == 3) for i in range(6)])\n"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [python, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=True, timeout=300)
    assert {5, 6, 7, 8} >= set(json.loads(done.stdout))


def test_a_hierarchy_is_refused():
    """Its player keeps a goal for some steps; a graph that asks the manager anew in each step is another policy."""
    agent = agent_for("vector", goal_every=4, goal_dim=16, goal_layers=1)
    with pytest.raises(UserError, match="remembers its goal"):
        graph_of(agent)
