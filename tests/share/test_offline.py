"""Learning from recorded data: imitation by its equation, a run without an environment, what stays as it was."""

import json

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
from reverie.rssm import State
from reverie.share.data_set import episode_rows, read_data, write_data
from reverie.share.offline import learn_offline, offline_config
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
