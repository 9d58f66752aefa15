"""benchmarks/roofline.py and benchmarks/throughput.py: the floor of an update, and steps per second in a real run."""

import importlib.util
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from reverie.bench.arithmetic import count_update
from reverie.bench.ceilings import Ceilings
from reverie.bench.subject import make_subject

from .test_bench import TINY, settings

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"reverie_{name}", BENCHMARKS / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


roofline, throughput, gpu, gpu_lab = (load(name) for name in ("roofline", "throughput", "gpu", "gpu_lab"))


@pytest.fixture
def script(monkeypatch, capsys):
    """script(module, *words) -> (exit code, stdout, stderr)."""

    def run(module, *words):
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *words])
        try:
            code = module.main()
        except SystemExit as ended:
            code = ended.code
        return (code, *capsys.readouterr())

    return run


def test_a_floor_is_the_longer_one_of_arithmetic_and_memory():
    subject = make_subject("vector", TINY, shape=(5,))
    works = count_update(subject)
    only_sums = roofline.Floor(works, Ceilings(1e9, 1e9, 1e30), torch.float32).to_dict()
    assert only_sums["floor_ms_estimate"] == pytest.approx(1e3 * sum(work.flops for work in works) / 1e9)
    only_bytes = roofline.Floor(works, Ceilings(1e30, 1e30, 1e9), torch.float32).to_dict()
    assert only_bytes["floor_ms_estimate"] == pytest.approx(1e3 * sum(work.bytes() for work in works) / 1e9)
    half = roofline.Floor(works, Ceilings(1e30, 1e30, 1e9), torch.bfloat16).to_dict()
    assert half["memory_floor_ms_estimate"] < only_bytes["memory_floor_ms_estimate"]


def test_the_roofline_of_sizes_that_are_given(script):
    words = ["--preset", "atari", "--shape", "64", "64", "1", "--actions", "4", *settings()]
    words += ["--tflops", "780", "--bandwidth", "4000"]
    code, out, err = script(roofline, *words)
    assert code == 0
    assert "4 discrete actions (the command line)" in out
    assert "2 x 4" in out
    assert "stated: products" in out
    assert err.startswith("... roofline, preset atari")
    found = json.loads(script(roofline, *words, "--json")[1])
    assert {"command", "commit", "hardware", "versions", "settings", "started"} <= found.keys()
    assert found["command"].startswith("python benchmarks/roofline.py --preset atari")
    assert found["floor_ms_estimate"] > 0


def test_stepping_and_learning_in_a_real_environment():
    subject = make_subject("vector", TINY | {"env.id": "CartPole-v1", "env.num_envs": 2}, needs_env=True)
    found = throughput.bench_collect(subject, 0.4, print)
    assert found["random"]["env_steps_per_s"] > found["policy"]["env_steps_per_s"] > 0
    found = throughput.bench_train(subject, 1.0, print)
    assert found["updates_per_env_step"] == pytest.approx(subject.config.train.train_ratio, rel=0.5)
    assert sum(found["shares"].values()) == pytest.approx(1)


def test_the_throughput_of_a_command_line(script):
    words = ["--preset", "vector", "--env", "CartPole-v1", "--seconds", "0.2", *settings()]
    code, out, _ = script(throughput, "collect", *words)
    assert code == 0
    assert "environment steps/s" in out
    assert json.loads(script(throughput, "collect", *words, "--json")[1])["benchmark"] == "collect"


@pytest.mark.parametrize(
    ("module", "words", "message"),
    [
        (roofline, ["--tflops", "1"], "describe a machine together"),
        (roofline, ["--tflops", "0", "--bandwidth", "1"], "--tflops must be a number above 0"),
        (throughput, ["collect", "--shape", "5"], "a real environment is stepped here"),
        (throughput, ["train", "--preset", "vector"], "no environment is given"),
        (throughput, ["train", "--seconds", "soon"], "--seconds must be a number above 0"),
    ],
)
def test_mistakes_get_a_sentence(script, module, words, message):
    code, out, err = script(module, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_the_script_for_a_gpu_knows_where_each_item_is_measured():
    measured = {item.words.split()[0] for item in gpu.ITEMS}
    assert measured == {"update", "policy", "replay", "train", *gpu_lab.EXPERIMENTS}
    assert set(gpu.SCRIPTS) == {"train", *gpu_lab.EXPERIMENTS}
    assert all((BENCHMARKS.parent / words[0]).exists() for words in gpu.SCRIPTS.values())


def test_a_step_that_is_stopped_keeps_what_it_printed(monkeypatch):
    """With all processes that it has started."""
    text = "import subprocess, sys; print('{\"a\": 1}', flush=True); subprocess.run(['sleep', '60'])"
    monkeypatch.setitem(gpu.SCRIPTS, "updates", ["benchmarks/gpu_lab.py"])
    real = gpu.finish
    monkeypatch.setattr(gpu, "finish", lambda command, limit: real([sys.executable, "-c", text], limit))
    begin = time.monotonic()
    row = gpu.run(gpu.Item("updates", "updates", limit=3), 100)
    assert time.monotonic() - begin < 30
    assert row["error"].startswith("stopped after")
    assert row["result"] == [{"a": 1}]
    assert gpu.line_of(row).startswith("updates")
    assert gpu.run(gpu.Item("updates", "updates"), 10)["error"] == "not begun: no time left"
    monkeypatch.setattr(gpu, "finish", lambda command, limit: (1, "", "first\nlast words"))
    assert gpu.run(gpu.Item("policy", "policy"), 100)["error"] == "first last words"


def test_all_steps_for_a_gpu_fit_into_their_time():
    assert gpu.TESTS + sum(item.limit for item in gpu.ITEMS[:-2]) <= 550
    assert [item.name for item in gpu.ITEMS][:2] == ["updates-16x64", "profile-16x64"]


@pytest.mark.parametrize("name", gpu_lab.BEFORE)
def test_what_is_compared_with_is_an_update_as_well(name):
    """The forms from before are put in and taken out again, and learn the same on a CPU."""
    small = TINY | {"rnn_hidden_dim": 8, "compute.fused": "off", "compute.precision": "float32"}
    subject = make_subject("demo", small, shape=(12, 12, 1), actions=2)
    losses = []
    for before in (nullcontext(), gpu_lab.BEFORE[name](), nullcontext()):
        torch.manual_seed(0)
        updater = gpu_lab.Updater(subject, before)
        torch.manual_seed(1)
        with gpu_lab.BEFORE[name]() if len(losses) == 1 else nullcontext():
            losses.append(float(updater.agent.update(updater.batch)["world_model/loss"]))
    assert losses[0] == losses[2] == pytest.approx(losses[1], rel=1e-6)
