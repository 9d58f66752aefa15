"""The scripts in examples/ run, with small budgets, and do what they say."""

import re
import runpy
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

import reverie

ROOT = Path(__file__).parents[1]
EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}
#: What makes each short: text -> text. Every one must be found.
SHORTER = {
    "custom_env": {"env_steps=1500": "env_steps=150", 'preset="vector"': 'preset="debug"'},
    "mixed_observations": {
        "env_steps=1200": "env_steps=150",
        'preset="small"': 'preset="debug"',
        "prefill=300": "prefill=60",
        "episodes=20": "episodes=2",
    },
    "use_agent": {"env_steps=1500": "env_steps=150", 'preset="vector"': 'preset="debug"', "range(100)": "range(10)"},
    "read_run": {
        "env_steps=1500": "env_steps=150",
        'preset="vector"': 'preset="debug"',
        "eval_every=500": "eval_every=100",
    },
    "export_policy": {"env_steps=1500": "env_steps=150", 'preset="vector"': 'preset="debug"'},
    "learn_offline": {
        "episodes=100": "episodes=8",
        'preset="vector"': 'preset="debug"',
        "updates=1000": "updates=3",
        "agent.evaluate(10)": "agent.evaluate(1)",
        "cloning.evaluate(10)": "cloning.evaluate(1)",
    },
    "hybrid_actions": {
        "env_steps=1500": "env_steps=150",
        'preset="vector"': 'preset="debug"',
        "prefill=300": "prefill=60",
        "evaluate(20)": "evaluate(2)",
    },
    "own_loop": {"env_steps=1500": "env_steps=150", 'preset="vector"': 'preset="debug"'},
    "run_to_pandas": {
        "env_steps=1500": "env_steps=150",
        'preset="vector"': 'preset="debug"',
        "eval_every=500": "eval_every=100",
    },
    "custom_latent": {"else 150": "else 31"},
    "custom_head": {"else 200": "else 101"},
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example with its budget cut. -> (its names, what it printed)."""

    def go(name, *arguments):
        text = EXAMPLES[name].read_text(encoding="utf-8")
        for old, new in SHORTER[name].items():
            assert text.count(old) == 1, f"{name}.py: {old}"
            text = text.replace(old, new)
        script = tmp_path / f"{name}.py"
        script.write_text(text, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        names = runpy.run_path(str(script), run_name="__main__")
        return names, capsys.readouterr().out

    return go


def test_every_example_is_tested():
    assert set(EXAMPLES) == set(SHORTER)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_says_what_it_is_and_how_long_it_takes(name):
    first = EXAMPLES[name].read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith('"""')
    assert re.search(r"seconds|minute", first)


def test_custom_environment(run, tmp_path):
    names, out = run("custom_env")
    assert names["score"] in (0.0, 1.0)
    assert f"return {names['score']}" in out
    assert (tmp_path / "corridor" / "weights.safetensors").exists()


def test_mixed_observations(run):
    names, out = run("mixed_observations")
    assert {key: part.kind for key, part in names["agent"].agent.spec.obs.items()} == {
        "camera": "image",
        "position": "vector",
    }
    assert "return with the camera" in out


def test_hybrid_actions(run):
    names, out = run("hybrid_actions")  # the environment itself refuses a tool that is broken
    assert names["agent"].agent.spec.masked
    shown = re.findall(r"asks for +(-?[\d.]+): tool ([012]) with +(-?[\d.]+)", out)
    assert len(shown) == 10
    assert all(abs(float(force)) <= 1 for _, _, force in shown)
    assert re.search(r"random actions: +return -[\d.]+\nafter training: +return -?[\d.]+\n", out)


def test_own_loop(run, tmp_path):
    """Its machine is the one that the agent was trained on."""
    names, out = run("own_loop")
    assert re.search(r"upright for \d+ steps; the slowest answer took [\d.]+ ms", out)
    env = gymnasium.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    machine = names["Machine"](0)
    env.state = machine.x, machine.v, machine.angle, machine.spin
    for action in (1, 0, 0, 1, 1):
        expected = env.step(action)[0]
        machine.motor(names["command"](action))
        np.testing.assert_allclose(names["observation"](machine.sensors()), expected, rtol=1e-5, atol=1e-7)
    again = run("own_loop", str(tmp_path / "cartpole-agent"))[1]
    assert again.split(";")[0] == out.splitlines()[-1].split(";")[0]  # nothing was trained


def test_run_to_pandas(run, tmp_path):
    pandas = pytest.importorskip("pandas", reason="the example needs: pip install pandas")
    names, out = run("run_to_pandas")
    found = pandas.read_csv(tmp_path / "episodes.csv")
    assert len(found) == len(names["episodes"])
    assert set(found["run"]) == {"pandas-s0", "pandas-s1"}
    for seed in (0, 1):
        history = reverie.Dreamer("CartPole-v1", preset="debug", run=tmp_path / f"runs/pandas-s{seed}").history
        mine = names["by_run"][f"pandas-s{seed}"].dropna()
        assert mine.tolist() == pytest.approx(history.evaluations["mean"].tolist())
        assert mine.index.tolist() == history.evaluations["env_steps"].tolist()
    assert "world_model/kl" in out


def test_export_policy(run, tmp_path):
    names, out = run("export_policy")
    assert "observation  obs          float32 [4]" in out
    assert 8 <= names["score"] <= 500
    written = {path.name for path in (tmp_path / "exported").iterdir()}
    assert written == {"policy.onnx", "policy.json", "policy_player.py"}


def test_learn_offline(run):
    names, out = run("learn_offline")
    assert len(names["recorded"].episodes()) == 8
    assert "imitation alone:" in out


def test_use_agent(run, tmp_path):
    _, out = run("use_agent")
    assert re.search(r"episode 0: return \d+\nepisode 1: return \d+\nfour environments: \d+ reward", out)
    again = run("use_agent", str(tmp_path / "cartpole-agent"))[1]
    assert again.startswith("episode 0")  # nothing was trained
    assert again == out[out.index("episode 0: return") :]


def test_read_run(run, tmp_path):
    _, out = run("read_run")
    for what in ("command", "protocol", "train", "world_model/kl", "settings"):
        assert re.search(rf"^{what} ", out, re.M), what
    again = run("read_run", str(tmp_path / "runs" / "read-me"))[1]
    assert again.startswith("command")
    assert out.endswith(again)


def test_custom_latent_is_a_distribution(run):
    names, out = run("custom_latent")
    latent = names["BernoulliLatent"](5)
    left, right = torch.randn(2, 7, 5)
    a, b = (torch.distributions.Bernoulli(logits=x) for x in (left, right))
    torch.testing.assert_close(latent.kl(left, right), torch.distributions.kl_divergence(a, b).sum(-1))
    torch.testing.assert_close(latent.entropy(left), a.entropy().sum(-1))
    draws = torch.stack([latent.sample(left, latent.noise(7)) for _ in range(2000)])
    assert set(draws.unique().round(decimals=5).tolist()) <= {-0.0, 0.0, 1.0}
    torch.testing.assert_close(draws.mean(0), a.probs, atol=0.06, rtol=0)
    losses = [float(x) for x in re.findall(r"loss +([\d.]+)", out)]
    assert losses[-1] < losses[0] / 2


def test_custom_head_tells_what_the_mean_cannot(run):
    _, out = run("custom_head")
    found = re.findall(r"machine \d: mean ([\d.-]+), 80 % of rewards between ([\d.-]+) and ([\d.-]+)", out)
    (mean0, low0, high0), (mean1, low1, high1) = [[float(x) for x in row] for row in found]
    assert abs(mean0 - mean1) < 0.7
    assert high1 - low1 > 2 * (high0 - low0)
