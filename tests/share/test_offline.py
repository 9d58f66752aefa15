"""Learning from recorded data: imitation by its equation, a run without an environment, what stays as it was."""

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toys import SpaceEnv

import reverie
from reverie import cli
from reverie.actor_critic import compute_imitation_loss
from reverie.behavior import imitation_loss
from reverie.config.presets import load_preset
from reverie.data.replay import Batch
from reverie.distributions import Part, make_policy, stats_dim
from reverie.envs.spaces import make_spec
from reverie.errors import UserError
from reverie.guard.lock import RunLock
from reverie.rssm import State
from reverie.run.data_set import episode_rows, read_data, write_data
from reverie.share.offline import learn_offline, offline_config, require_place
from reverie.train import DreamerV2, to_batch

SPEC = make_spec(SpaceEnv(spaces.Box(-1, 1, (3,)), spaces.Discrete(3)))


def steered(seed, length=25):
    """The observation says which action is right: the largest of three numbers. The policy of the data knows it."""
    rng = np.random.default_rng(seed)
    obs = rng.uniform(-1, 1, (length + 1, 3)).astype(np.float32)
    action = np.eye(3, dtype=np.float32)[obs[:-1].argmax(-1)]
    return episode_rows({"observation": obs}, action, np.ones(length), terminal=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "steered"
    write_data(path, SPEC, [steered(seed) for seed in range(40)], {"env": ""})
    return read_data(path)


def batch_of(data, agent, seed=0):
    config = agent.config.train
    return to_batch(data.replay(seed=seed).sample(config.batch_size, config.seq_len), agent.device)


# ------------------------------------------------------------------------------------------------------ the equation


@pytest.mark.parametrize(
    "parts", [(Part("onehot", 3),), (Part("tanh_normal", 3),), (Part("onehot", 2), Part("trunc_normal", 1))]
)
def test_imitation_is_the_mean_over_steps_that_an_action_led_into(parts):
    """Against a loop over single steps; the NaN of first steps counts for nothing, nor does their gradient."""
    torch.manual_seed(0)
    stats = torch.randn(4, 5, stats_dim(parts), requires_grad=True)
    policy = make_policy(stats, parts)
    action = policy.sample().detach().clone()
    first = torch.rand(4, 5) < 0.3
    action[first] = torch.nan
    loss = compute_imitation_loss(policy, action, first)
    each = [-make_policy(stats[b, t], parts).log_prob(action[b, t]) for b, t in np.argwhere(~first.numpy())]
    torch.testing.assert_close(loss, torch.stack(each).mean())
    (gradient,) = torch.autograd.grad(loss, stats)
    assert torch.isfinite(gradient).all()
    assert not gradient[first].any()
    nothing = compute_imitation_loss(
        make_policy(stats, parts), torch.full_like(action, torch.nan), torch.ones_like(first)
    )
    assert nothing == 0


def test_imitation_of_choices_in_numpy():
    """An independent reference: log-softmax by hand in float64."""
    rng = np.random.default_rng(0)
    logits, first = rng.normal(size=(6, 4)), np.array([True, False, False, True, False, False])
    taken = rng.integers(0, 4, 6)
    action = np.where(first[:, None], np.nan, np.eye(4)[taken])
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -logs[np.arange(6), taken][~first].mean()
    policy = make_policy(torch.from_numpy(logits).float(), (Part("onehot", 4),))
    found = compute_imitation_loss(policy, torch.from_numpy(action).float(), torch.from_numpy(first))
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_the_action_that_leaves_a_state_is_the_next_rows():
    """An actor that reads z as the next stored action: only the right shift gives loss 0."""

    class Reads:
        def __call__(self, feat, mask):
            assert mask is None
            return make_policy(50 * feat[..., :3], (Part("onehot", 3),))

    torch.manual_seed(0)
    action = torch.eye(3)[torch.randint(0, 3, (2, 6))]
    first = torch.zeros(2, 6, dtype=torch.bool)
    first[:, 0] = first[1, 3] = True
    action[first] = torch.nan
    following = torch.cat([torch.nan_to_num(action[:, 1:]), torch.zeros(2, 1, 3)], 1)
    posterior = State(torch.zeros(2, 6, 1), following, torch.zeros(2, 6, 1))
    flags = torch.zeros(2, 6, dtype=torch.bool)
    batch = Batch({}, action, torch.zeros(2, 6), first, flags, flags)
    assert imitation_loss(Reads(), "", posterior, batch) < 1e-6
    late = posterior._replace(stoch=torch.roll(following, 1, 1))
    assert imitation_loss(Reads(), "", late, batch) > 1


# --------------------------------------------------------------------------------------------------------- off is off


def updated(data, count=2, **settings):
    torch.manual_seed(5)
    agent = DreamerV2(load_preset("debug", {"compute.mode": "reference"} | settings), SPEC)
    torch.manual_seed(6)
    for seed in range(count):
        metrics = agent.update(batch_of(data, agent, seed))
    return agent, metrics, torch.get_rng_state()


def test_off_changes_nothing_and_cloning_changes_nothing_but_itself(data):
    plain, before, drawn = updated(data)
    cloning, with_it, also = updated(data, cloning=True)
    assert not any("cloning" in key for key in plain.state_dict())
    assert not any("imitation" in key for key in before)
    state = cloning.state_dict()
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=0)
    assert torch.equal(drawn, also)
    assert set(with_it) - set(before) == {"cloning/loss", "cloning/grad_norm"}


def test_imitation_moves_the_task_actor_alone(data):
    plain, _, _ = updated(data, count=1)
    careful, metrics, _ = updated(data, count=1, bc_scale=0.5)
    assert metrics["actor/imitation"] > 0
    changed = {
        key.split(".")[0]
        for key, value in plain.state_dict().items()
        if not torch.equal(value, careful.state_dict()[key])
    }
    assert changed == {"actor"}


def test_the_weight_of_imitation_is_the_scale(data):
    """d(loss)/d(scale) is the imitation, through the whole update's loss."""
    found = {}
    for scale in (1e-9, 0.5):
        torch.manual_seed(5)
        agent = DreamerV2(load_preset("debug", {"compute.mode": "reference", "bc_scale": scale}), SPEC)
        batch = batch_of(data, agent)
        torch.manual_seed(6)
        _, posterior, _ = agent.world_model_loss(batch)
        losses, metrics = agent.behavior_losses(agent.task, posterior.detach(), batch.is_terminal, batch)
        found[scale] = float(losses["actor"].detach())
    assert found[0.5] - found[1e-9] == pytest.approx(0.5 * float(metrics["actor/imitation"]), rel=1e-3)


# ------------------------------------------------------------------------------------------------------------ learning


def test_a_data_set_has_nothing_for_collectors(data):
    with pytest.raises(UserError, match=r"env\.collectors steps environments, and a data set has none"):
        offline_config("debug", {"env.collectors": "local"}, data)


def test_what_is_continued_is_refused_the_same(data, tmp_path):
    learn(data, tmp_path / "run", updates=1)
    for name, value in {"env.collectors": "local", "replay.demos": "data"}.items():
        with pytest.raises(UserError, match=name):
            offline_config(None, {name: value}, data, tmp_path / "run")


def test_cloning_learns_what_the_data_does(data, tmp_path):
    config = offline_config("debug", {"actor_lr": 3e-3, "world_model_lr": 1e-3, "hidden_dim": 64}, data)
    assert config.behavior.cloning
    lines = []
    learn_offline(config, data, tmp_path / "run", updates=300, what="world_model", say=lines.append)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["updates"] for record in records] == [100, 200, 300]
    assert records[-1]["cloning/loss"] < 0.8 * np.log(3)
    assert not any(key.startswith("actor/") for key in records[-1])
    player = reverie.load_player(tmp_path / "run" / "cloning")
    looks = np.random.default_rng(9).uniform(-1, 1, (60, 3)).astype(np.float32)
    right = np.mean([player(obs) == obs.argmax() for obs in looks])
    assert right > 0.5  # chance: 0.33


def test_from_the_command_line_and_in_python(tmp_path, capsys):
    assert cli.main(["record", "CartPole-v1", "--episodes", "12", "--out", str(tmp_path / "data")]) == 0
    words = ["train", "--data", str(tmp_path / "data"), "--run", str(tmp_path / "run"), "--updates", "3"]
    settings = ["--preset", "debug", "members=2", "uncertainty_penalty=1", "bc_scale=1"]
    assert cli.main([*words, *settings]) == 0
    assert "reverie eval" in capsys.readouterr().out
    assert cli.main(["eval", str(tmp_path / "run" / "cloning"), "--episodes", "1"]) == 0
    assert reverie.load(tmp_path / "run" / "agent").config.behavior.bc_scale == 1
    agent = reverie.Dreamer("CartPole-v1", preset="debug", run=tmp_path / "python")
    agent.learn(data=tmp_path / "data", updates=2, quiet=True)
    assert len(agent.evaluate(1).scores) == 1
    assert (tmp_path / "python" / "cloning" / "weights.safetensors").exists()


# ------------------------------------------------------------------------------------------------------------ resuming


class Killed(BaseException):
    """As kill -9: nothing of ours handles it."""


def learn(data, run, *, updates=23, die_at=None, monkeypatch=None, **settings):
    """Learn with a checkpoint after every update; die at one."""
    quick = {"checkpoint_every": 0.0001, "compute.mode": "reference", "members": 2, "uncertainty_penalty": 0.5}
    config = offline_config("debug", quick | settings, data)
    if die_at is None:
        return learn_offline(config, data, run, updates=updates)
    usual = DreamerV2.update

    def update(self, batch):
        if self.updates == die_at:
            raise Killed
        return usual(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(DreamerV2, "update", update)
        with pytest.raises(Killed):
            learn_offline(config, data, run, updates=updates)
    return None


@pytest.mark.parametrize("settings", [{}, {"replay.prioritize": "ends", "bc_scale": 0.5}], ids=["plain", "marked"])
def test_resuming_ends_where_not_stopping_does(data, tmp_path, monkeypatch, settings):
    """Killed before, between and after lines of metrics: weights, moments, random states and lines, bit for bit."""
    monkeypatch.setattr("reverie.share.offline.LOG_EVERY", 10)
    learn(data, tmp_path / "whole", **settings)
    for count in (3, 9, 10, 16):
        learn(data, tmp_path / "parts", die_at=count, monkeypatch=monkeypatch, **settings)
        assert not (tmp_path / "parts" / "agent").exists()
    learn(data, tmp_path / "parts", **settings)
    names = ["metrics.jsonl", "agent/weights.safetensors", "cloning/weights.safetensors", "resume/state.json"]
    names += ["resume/optimizers.safetensors", "resume/weights.safetensors", "resume/run.safetensors"]
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


@pytest.mark.parametrize("died", [0, 7, 12])
def test_killed_before_the_first_checkpoint_by_the_clock(data, tmp_path, monkeypatch, died):
    """Before and after the first line of metrics: nothing but the beginning is on disk."""
    monkeypatch.setattr("reverie.share.offline.LOG_EVERY", 10)
    late = {"checkpoint_every": 1e6}
    learn(data, tmp_path / "whole", updates=14, **late)
    learn(data, tmp_path / "parts", updates=14, die_at=died, monkeypatch=monkeypatch, **late)
    assert (tmp_path / "parts" / "metrics.jsonl").exists() == (died == 12)
    learn(data, tmp_path / "parts", updates=14, **late)
    for name in ("metrics.jsonl", "agent/weights.safetensors", "resume/run.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


def test_killed_from_outside_and_repeated(in_tmp):
    """SIGKILL at any time, three times; then the same command ends with the same files."""
    write_data(in_tmp / "data", SPEC, [steered(seed) for seed in range(4)], {"env": ""})
    words = [sys.executable, "-m", "reverie", "train", "--data", "data", "--preset", "debug", "--updates", "250"]
    words += ["checkpoint_every=0.3", "compute.mode=reference"]
    subprocess.run([*words, "--run", "whole"], check=True, capture_output=True)
    for least in (20, 60, 120):
        process = subprocess.Popen([*words, "--run", "parts"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and reached(in_tmp / "parts") < least:
            time.sleep(0.02)
        process.kill()
        assert process.wait() == -9
    done = subprocess.run([*words, "--run", "parts"], check=True, capture_output=True, text=True)
    assert "continues at update" in done.stdout
    for name in ("metrics.jsonl", "agent/weights.safetensors", "cloning/weights.safetensors"):
        assert (in_tmp / "whole" / name).read_bytes() == (in_tmp / "parts" / name).read_bytes(), name


def tree(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_the_second_of_two_starts_is_refused_before_anything_is_written(in_tmp):
    write_data(in_tmp / "data", SPEC, [steered(seed) for seed in range(4)], {"env": ""})
    words = [sys.executable, "-m", "reverie", "train", "--data", "data", "--preset", "debug", "--run", "run"]
    first = subprocess.Popen([*words, "--updates", "1000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        ends = time.monotonic() + 60
        while not (in_tmp / "run" / ".lock").exists() or not (in_tmp / "run" / ".lock").read_text():
            assert first.poll() is None
            assert time.monotonic() < ends
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)  # it writes nothing while the second one may
        before = tree(in_tmp)
        second = subprocess.run([*words, "--updates", "1000000"], capture_output=True, text=True, timeout=120)
        assert second.returncode == 2
        assert second.stdout == ""
        assert f"process {first.pid} on" in second.stderr
        assert "is using" in second.stderr
        assert "Traceback" not in second.stderr
        assert tree(in_tmp) == before
    finally:
        first.kill()
        first.communicate()
    done = subprocess.run([*words, "--updates", "3"], capture_output=True, text=True)  # of a dead one nothing is left
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("there", [(), ("metrics.jsonl",), ("resume-old",)])
def test_nothing_changes_where_a_process_writes(data, tmp_path, monkeypatch, there):
    run = tmp_path / "run"
    lock = RunLock(run)
    lock.acquire()
    for name in there:  # as the process that holds it leaves them on its way
        (run / name).mkdir() if name == "resume-old" else (run / name).write_text("{}\n")
    monkeypatch.setattr("reverie.checkpoint.recover", lambda directory: pytest.fail("changed"))
    before = tree(run)
    for attempt in (lambda: require_place(run), lambda: learn(data, run)):
        with pytest.raises(UserError, match="is using") as found:
            attempt()
        assert "not empty" not in str(found.value)
    assert tree(run) == before
    lock.release()


def test_who_was_faster_is_noticed(data, tmp_path, monkeypatch):
    """Another process learns there, and ends, between the first look and the lock."""
    acquire = RunLock.acquire

    def slowly(self):
        monkeypatch.setattr(RunLock, "acquire", acquire)
        learn(data, tmp_path / "run", updates=2, bc_scale=3.0)
        acquire(self)

    monkeypatch.setattr(RunLock, "acquire", slowly)
    with pytest.raises(UserError, match="other settings"):
        learn(data, tmp_path / "run", updates=2)


def reached(run):
    with contextlib.suppress(OSError, ValueError):
        return json.loads((run / "resume" / "state.json").read_text())["count"]
    return 0


def test_more_updates_later_and_what_is_refused(data, tmp_path):
    """A larger number continues; other settings, other data or another way of learning are another run."""
    whole = learn(data, tmp_path / "whole", updates=30).state_dict()
    learn(data, tmp_path / "run", updates=20)
    again = learn(data, tmp_path / "run", updates=30).state_dict()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["updates"] for line in lines] == [20, 30]
    same = learn(data, tmp_path / "run", updates=10).state_dict()  # there is nothing left to do
    assert all(torch.equal(whole[key], same[key]) for key in whole)
    with pytest.raises(UserError, match=r"other settings: behavior\.bc_scale"):
        learn(data, tmp_path / "run", bc_scale=1.0)
    with pytest.raises(UserError, match="other data"):
        learn(dataclasses.replace(data, identity="another"), tmp_path / "run")
    config = offline_config(None, {}, data, tmp_path / "run")
    assert config.ensemble.members == 2  # as it was left
    with pytest.raises(UserError, match="--offline agent, not world_model"):
        learn_offline(config, data, tmp_path / "run", updates=40, what="world_model")
    (tmp_path / "run" / "resume" / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="damaged"):
        learn(data, tmp_path / "run", updates=40)


def test_in_python_the_same_call_continues(data, tmp_path):
    write_data(tmp_path / "data", SPEC, [steered(seed) for seed in range(4)], {"env": ""})
    agent = reverie.Dreamer(preset="debug", run=tmp_path / "run")
    agent.learn(data=tmp_path / "data", updates=2, quiet=True)
    first = agent.agent.state_dict()
    agent.learn(data=tmp_path / "data", updates=4, quiet=True)
    assert not all(torch.equal(first[key], value) for key, value in agent.agent.state_dict().items())
    assert reached(tmp_path / "run") == 4
    loaded = reverie.load(tmp_path / "run" / "agent", run=tmp_path / "run")
    with pytest.raises(UserError, match="begins with new weights"):
        loaded.learn(data=tmp_path / "data", updates=5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data", "nowhere", "--run", "run"], "is no data set"),
        (["--updates", "5", "--run", "run"], "are about --data"),
        (["--data", "data"], "needs a place"),
        (["--data", "data", "--run", "run", "--minutes", "1"], "has no environment"),
        (["--data", "data", "--run", "data"], "is not empty"),
        (["--data", "data", "--run", "run", "--preset", "debug", "seq_len=2000"], "a sequence needs train.seq_len"),
    ],
)
def test_a_wrong_command_line_gets_a_sentence(in_tmp, capsys, words, sentence):
    write_data(in_tmp / "data", SPEC, [steered(0)], {})
    assert cli.main(["train", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_python_refuses_two_kinds_of_ends(tmp_path):
    agent = reverie.Dreamer("CartPole-v1", preset="debug", run=tmp_path / "run")
    with pytest.raises(UserError, match="ends by updates"):
        agent.learn(env_steps=100, data=tmp_path)
