"""Trust: returns by hand, verdicts, a planted model that errors do not betray, and the command."""

import json
import math
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from insight.trust_cases import faults_of, measured

import reverie
from reverie.cli import main
from reverie.config.presets import load_preset
from reverie.data.collect import Collector
from reverie.data.replay import Batch
from reverie.errors import UserError
from reverie.files import manifest_of
from reverie.insight.run_reader import MOST_STEPS, RunReader, open_run
from reverie.insight.trust import (
    Optimism,
    Replayed,
    Tape,
    Task,
    Trust,
    _compared,
    _earned_after,
    _shares,
    better,
    make_policy_in_dreams,
    optimism_of,
    rare_rewards,
    run_updates,
    trust,
    verdict,
)
from reverie.insight.trust_record import read_trust
from reverie.networks import Head
from reverie.run.evaluation import Evaluation
from reverie.run.tasks import make_envs, spec_of
from reverie.train import DreamerV2, to_batch


def played(reward, first=(), last=(), end=()):
    """Arrays (1, T, ...) of one environment."""
    length = len(reward)
    flags = [np.zeros((1, length), bool) for _ in range(3)]
    for flag, places in zip(flags, (first, last, end), strict=True):
        flag[0, list(places)] = True
    action = np.full((1, length, 2), 0.0, np.float32)
    action[flags[0]] = np.nan
    return Batch({"vector": np.zeros((1, length, 4), np.float32)}, action, np.array([reward], np.float32), *flags)


# -------------------------------------------------------------------------------------------------------- real returns


def test_what_is_earned_after_a_step():
    """An episode of three steps that ends, then one that a time limit cuts."""
    steps = played([0, 1, 2, 0, 4, 8], first=(0, 3), last=(2, 5), end=(2,))
    sums, known = _earned_after(steps.reward.astype(float), steps, 3)
    assert known[0, 0].tolist() == [True, True, True]  # after the end there is nothing more
    assert sums[0, 0].tolist() == [1, 3, 3]
    assert sums[0, 1].tolist() == [2, 2, 2]
    assert not known[0, 2].any()  # from an end nothing follows
    assert known[0, 3].tolist() == [True, True, False]  # what would have come after a time limit is not known
    assert sums[0, 3, :2].tolist() == [4, 12]
    assert known[0, 4].tolist() == [True, False, False]
    assert not known[0, 5].any()


def test_a_time_limit_within_the_recording_is_no_end():
    steps = played([0, 1, 0, 5, 5], first=(0, 2), last=(1,))
    _, known = _earned_after(steps.reward.astype(float), steps, 3)
    assert known[0, 0].tolist() == [True, False, False]
    assert not known[0, 1].any()


def agent_that_expects(reward, going=1.0):
    """An agent for CartPole that predicts this reward and this probability of continuing in every state."""
    torch.manual_seed(0)
    config = load_preset("debug", {"env.id": "CartPole-v1", "model.reward_transform": "none"})
    envs = make_envs(config, None, 1, backend="sync")
    agent = DreamerV2(config, spec_of(envs))
    envs.close()
    agent.requires_grad_(False)
    logit = math.log(going / (1 - going)) if going < 1 else 40.0
    for name, value in (("reward", reward), ("continue", logit)):
        parameters = list(agent.world_model.head(name).parameters())
        for parameter in parameters:
            parameter.zero_()
        parameters[-1].fill_(value)
    return agent


def test_the_gap_is_the_dreamed_return_minus_the_real_one():
    agent = agent_that_expects(0.5, going=0.75)
    key = next(iter(agent.spec.obs))
    steps = played([0] + [1.0] * 39, first=(0,))
    steps = steps._replace(obs={key: np.zeros((1, 40, 4), np.float32)})
    found = optimism_of(agent, steps, horizon=3, mode="eval")
    assert found.real == pytest.approx([1, 2, 3])
    assert found.dream == pytest.approx([0.5, 0.5 * 1.75, 0.5 * (1.75 + 0.75**2)], rel=1e-5)
    assert found.gap == pytest.approx([a - b for a, b in zip(found.dream, found.real, strict=True)])
    assert found.size == pytest.approx([1, 2, 3])
    assert found.episodes == 1
    assert found.holds_until() == 0
    exact = optimism_of(agent_that_expects(1.0), steps, horizon=3, mode="train")
    assert exact.gap == pytest.approx([0, 0, 0], abs=1e-5)
    assert exact.holds_until() == 3


def test_nothing_played_gives_no_numbers():
    agent = agent_that_expects(1.0)
    steps = played([0.0], first=(0,))._replace(obs={next(iter(agent.spec.obs)): np.zeros((1, 1, 4), np.float32)})
    found = optimism_of(agent, steps, horizon=3, mode="eval")
    assert found.gap == [None] * 3
    assert found.holds_until() == 0


# ------------------------------------------------------------------------------------------------------------ verdicts


def scores(mean, spread=0.0):
    return Evaluation([mean - spread, mean + spread] * 10, [5] * 20)


def optimism_with(gap, horizon=10, size=1.0, sure=0.01):
    curve = [gap] * horizon
    return Optimism(curve, [0.0] * horizon, curve, [gap - sure] * horizon, [gap + sure] * horizon, [size] * horizon, 5)


def found_with(random, own, made, gap=0.0, horizon=5, **optimism):
    policies = {"random": scores(random), "own": scores(own), "made": scores(made)}
    return Trust("step-1", "T", 1, 0.1, policies, optimism_with(gap, **optimism), {}, None, horizon)


def test_levels():
    assert found_with(0.1, 1.0, 1.0).level == "yes"
    assert found_with(0.1, 1.0, 0.92).level == "yes"
    assert found_with(0.1, 1.0, 0.6).level == "partly"
    assert found_with(0.1, 1.0, 0.1).level == "no"
    assert found_with(0.1, 1.0, 0.0).level == "no"
    assert found_with(0.1, 1.0, 1.0, gap=0.5).level == "partly"  # good policies by luck, dreams that exaggerate
    assert found_with(0.1, 1.0, 1.0, gap=-0.5).level == "partly"
    assert found_with(0.1, 1.0, 1.0, gap=0.1).level == "yes"  # within the tolerance
    assert found_with(0.5, 0.5, 0.9).level == "yes"  # the run's own policy is no better than random
    assert found_with(0.5, 0.5, 0.9).share is None
    assert found_with(0.0, 1.0, 0.5).share == pytest.approx(0.5)
    assert found_with(0.1, 1.0, 0.1).steps == 0
    assert found_with(0.1, 1.0, 1.0).steps == 10


def test_noise_is_no_difference():
    noisy = {"random": scores(0.0), "own": scores(1.0, 0.9), "made": scores(0.8, 0.9)}
    found = Trust("step-1", "T", 1, 0.1, noisy, optimism_with(0.0), {}, None, 5)
    assert found.level == "yes"
    assert better(scores(1.0), scores(0.9))
    assert not better(scores(1.0, 0.9), scores(0.9, 0.9))
    assert better(Evaluation([1.0], [1]), Evaluation([0.0], [1]))


def test_verdicts_name_the_numbers():
    text = " ".join(verdict(found_with(0.1, 1.0, 0.6, gap=0.5)))
    assert "trusted in part" in text
    assert "56% of the way" in text
    assert "optimistic: within 5 steps" in text
    assert "gap +0.5" in text
    assert "pessimistic" in " ".join(verdict(found_with(0.1, 1.0, 0.6, gap=-0.5)))
    assert "cannot be trusted" in verdict(found_with(0.1, 1.0, 0.1))[0]
    assert "trusted for 10 steps" in verdict(found_with(0.1, 1.0, 1.0))[0]
    assert "little to compare" in " ".join(verdict(found_with(0.5, 0.5, 0.9)))


def test_errors_are_shares_of_what_varies():
    real = np.tile([[0.0, 2.0]], (10, 1))  # variance 1
    valid = np.ones((10, 2), bool)
    assert _shares(real + np.array([0.5, 0.0]), real, valid) == [0.25, 0.0]
    valid[3:, 1] = False  # too few to say
    assert _shares(real, real, valid)[1] is None
    assert _shares(real, np.zeros_like(real), np.ones((10, 2), bool)) == [None, None]


def test_intervals_are_over_episodes_and_few_starts_say_nothing():
    rng = np.random.default_rng(0)
    episode = np.repeat(np.arange(20), 10)
    real = rng.normal(size=20)[episode][:, None] * [[1.0, 1.0]]
    valid = np.ones((200, 2), bool)
    valid[7:, 1] = False
    found = _compared(real + 0.5, real, valid, episode)
    assert found.gap[0] == pytest.approx(0.5)
    assert found.low[0] == pytest.approx(0.5)
    assert found.gap[1] is None
    assert found.episodes == 20
    noisy = _compared(real * 0, real, valid, episode)
    half = 1.96 * real[::10, 0].std(ddof=1) / np.sqrt(20)  # of 20 episodes, not of 200 starts
    assert (noisy.high[0] - noisy.low[0]) / 2 == pytest.approx(half, rel=0.25)


def test_rare_rewards():
    real = np.zeros((10, 4))
    real[0, 1] = real[1, 2] = 1.0
    said = np.zeros((10, 4))
    said[0, 1] = said[5, 0] = 0.9
    valid = np.ones((10, 4), bool)
    replayed = Replayed(None, valid, (said, real), (said, real), (said, real))
    found = rare_rewards(replayed, 4)
    assert (found.came, found.foreseen, found.promised, found.kept) == (2, 1, 2, 1)
    assert rare_rewards(replayed, 1) is None  # none came
    often = Replayed(None, valid, (said, 1 - real), (said, real), (said, real))
    assert rare_rewards(often, 4).came == 2  # what is usual is the reward that most steps have
    varied = np.linspace(0, 1, 40).reshape(10, 4)
    assert rare_rewards(Replayed(None, valid, (varied, varied), (said, real), (said, real)), 4) is None
    shares = Replayed(None, valid, (said, real), (real, real), (0 * real, 0 * real)).errors()
    assert shares["reward"][3] == 0
    assert shares["reward"][2] == pytest.approx(0.1 / real.var())
    assert shares["continue"] == [0, 0, 0, 0]
    assert shares["value"] == [None] * 4


# ----------------------------------------------------------------------------------------------------------- real runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("trust") / "run"
    settings = {"tensorboard": False, "video": False, "checkpoint_every": 60, "keep_checkpoints": 2}
    reverie.Dreamer("CartPole-v1", preset="debug", run=path, **settings).learn(200, quiet=True)
    return path


def contents(run):
    return {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_the_made_policy_knows_the_model_only(run):
    opened = open_run(run)
    before = {key: value.clone() for key, value in opened.agent.state_dict().items()}
    parts = [(module, module.training) for module in opened.agent.modules()]
    state = torch.get_rng_state()
    shares = []
    fresh, made = make_policy_in_dreams(
        opened, updates=3, minutes=0, seed=5, report=lambda done, text: shares.append((done, text))
    )
    assert torch.equal(state, torch.get_rng_state())
    assert made == 3
    assert shares[-1] == (1.0, "update 3 of 3")
    after = opened.agent.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert fresh.world_model is fresh.task.world_model is opened.agent.world_model
    assert parts == [(module, module.training) for module in opened.agent.modules()]
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in opened.agent.parameters())
    assert not {*opened.agent.actor.parameters(), *opened.agent.critic.parameters()} & {*fresh.parameters()}
    assert not torch.equal(next(fresh.actor.parameters()), next(opened.agent.actor.parameters()))
    again, _ = make_policy_in_dreams(opened, updates=3, minutes=0, seed=5, report=lambda done, text: None)
    assert all(map(torch.equal, fresh.actor.parameters(), again.actor.parameters()))
    other, _ = make_policy_in_dreams(opened, updates=4, minutes=0, seed=5, report=lambda done, text: None)
    assert not all(map(torch.equal, fresh.actor.parameters(), other.actor.parameters()))


def test_minutes_end_the_training_early(run):
    opened = open_run(run)
    _, made = make_policy_in_dreams(opened, updates=500, minutes=1e-5, seed=0, report=lambda done, text: None)
    assert made < 500
    assert run_updates(opened) == json.loads((opened.source / "state.json").read_text())["updates"]


def test_dreams_that_are_not_finite_are_a_sentence(run):
    opened = open_run(run)
    next(opened.agent.world_model.head("reward").parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match=r"dreams of .* are not finite"):
        make_policy_in_dreams(opened, updates=3, minutes=0, seed=0, report=lambda done, text: None)


def test_the_command_writes_its_own_files_only(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    before = contents(run)
    code = main(["trust", str(run), "--updates", "3", "--episodes", "3", "--horizon", "6", "--json"])
    out = json.loads(capsys.readouterr().out)
    assert code == int(out["level"] == "no")
    after = contents(run)
    assert {path.name for path in after.keys() - before.keys()} == {"trust.json", "trust.png"}
    assert all(after[path] == value for path, value in before.items())
    assert out["updates"] == 3
    assert len(out["optimism"]["gap"]) == 6
    assert {len(curve) for part in out["errors"].values() for curve in part.values()} == {6}
    assert len(out["policies"]["made"]["scores"]) == 3
    stored = read_trust(run)
    assert stored["verdict"] == out["verdict"]
    page = tmp_path / "page.html"
    assert main(["report", str(run), "-o", str(page)]) == 0
    text = page.read_text()
    assert "Whether the dream can be trusted" in text
    assert out["verdict"][0].split("'")[0][:20] in text
    (run / "trust.json").write_text('{"optimism": {"dream": [1]}}')
    with pytest.raises(UserError, match="is damaged"):
        read_trust(run)
    assert main(["report", str(run), "-o", str(page)]) == 0
    assert "is damaged" in page.read_text()
    (run / "trust.json").unlink()
    (run / "trust.png").unlink()
    assert read_trust(run) is None
    capsys.readouterr()
    assert main(["trust", str(run), "--updates", "1", "--episodes", "2", "--no-files"]) in (0, 1)
    assert contents(run).keys() == before.keys()
    assert "in the real task" in capsys.readouterr().out


def test_all_ranks_the_kept_checkpoints(run, capsys):
    code = main(["trust", str(run), "--all", "--updates", "1", "--episodes", "2", "--json"])
    ranking = json.loads(capsys.readouterr().out)["ranking"]
    assert code in (0, 1)
    kept = {path.name for path in (run / "checkpoints").iterdir()}
    assert {each["checkpoint"] for each in ranking} == kept
    lower = [min(each["policies"][name]["mean"] for name in ("own", "made")) for each in ranking]
    assert lower == sorted(lower, reverse=True)
    assert not (run / "trust.json").exists()
    assert main(["trust", str(run), "--all", "--updates", "1", "--episodes", "2"]) in (0, 1)
    assert "first by the lower of both returns" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "is not a run or a saved agent"),
        (["RUN", "--minutes", "0"], "must be a number above 0"),
        (["RUN", "--updates", "0"], "must be a whole number above 0"),
        (["AGENT"], "has no replay"),
        (["RUN", "-o", "RUN"], "it is a directory"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(run, tmp_path, capsys, words, sentence):
    agent = tmp_path / "agent"
    reverie.load(run).save(agent)
    places = {"RUN": str(run), "AGENT": str(agent)}
    try:
        code = main(["trust", *(places.get(word, word) for word in words)])
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert sentence in err


def test_links_in_a_received_run_are_replaced(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "copied")
    (tmp_path / "mine").write_text("mine")
    for name in ("trust.json", "trust.png"):
        (tmp_path / "copied" / name).symlink_to(tmp_path / "mine")
    assert main(["trust", str(tmp_path / "copied"), "--updates", "1", "--episodes", "2"]) in (0, 1)
    capsys.readouterr()
    assert (tmp_path / "mine").read_text() == "mine"
    assert not any((tmp_path / "copied" / name).is_symlink() for name in ("trust.json", "trust.png"))


def test_an_environment_that_is_code_is_not_executed(run, tmp_path, capsys):
    copied = tmp_path / "copied"
    shutil.copytree(run, copied)
    for path in copied.rglob("config.yaml"):
        path.write_text(path.read_text().replace("CartPole-v1", "evil:CartPole-v1"))
    for path in copied.rglob("manifest.json"):
        path.write_text(manifest_of(path.parent))
    assert main(["trust", str(copied), "--updates", "1"]) == 2
    assert "evil" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- planted model


class Trapdoor(gym.Env):
    """Seven places; action 0 goes left, 1 right, 2 ends everything. Each step pays place / 6."""

    observation_space = gym.spaces.Box(0, 1, (7,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.time = 3, 0
        return self._seen(), {}

    def step(self, action):
        self.time += 1
        self.place = int(np.clip(self.place + (1 if action == 1 else -1 if action == 0 else 0), 0, 6))
        ended = action == 2
        return self._seen(), 0.0 if ended else self.place / 6, bool(ended), self.time >= 20, {}

    def _seen(self):
        return np.eye(7, dtype=np.float32)[self.place]


class Promise(Head):
    """The reward head, and a large reward where the state is as no state of the replay: `along` beyond `limit`."""

    target = "reward"

    def __init__(self, head, along, limit):
        super().__init__()
        self.head, self.along, self.limit = head, along, limit

    def forward(self, feat):
        return self.head(feat) + 3 * (feat @ self.along > self.limit).float()


def planted(env, steps=2500, updates=250):
    """A model that was trained without ever seeing action 2 and promises rewards for it. -> RunReader, its Task."""
    settings = {
        "env.num_envs": 4, "model.reward_transform": "none", "model.num_categoricals": 8, "model.num_categories": 8,
        "model.rnn_hidden_dim": 32, "model.hidden_dim": 32, "model.free_nats": 0.0, "model.kl_scale": 0.1,
        "model.world_model_lr": 3e-3, "behavior.actor_lr": 3e-3, "behavior.critic_lr": 3e-3,
        "behavior.imagination_horizon": 8, "train.batch_size": 16, "train.seq_len": 12, "env.id": "custom:Trapdoor",
    }  # fmt: skip
    config = load_preset("debug", settings)
    envs, tape, rng = make_envs(config, env, 4, backend="sync"), Tape(), np.random.default_rng(0)
    for count, (row, _) in enumerate(
        Collector(envs, seed=0).rows(lambda obs, first: np.eye(3, dtype=np.float32)[rng.integers(0, 2, len(first))])
    ):
        tape.add(row)
        if count == steps // 4:
            break
    torch.manual_seed(0)
    agent = DreamerV2(config, spec_of(envs))
    envs.close()
    experience = tape.experience()
    for update in range(updates):
        agent.train_world_model(to_batch(experience.windows(16, 12, seed=update)))
    agent.requires_grad_(False)
    model = agent.world_model
    model.rssm.input_net[0].weight[:, -1].mul_(0).add_(2 * torch.randn(32))  # what action 2 does was never learnt
    batch = to_batch(experience.windows(64, 12, seed=999))
    posterior, _ = model.rssm.rollout_observation(
        model.encoder(model.preprocess(batch.obs)), batch.action, batch.is_first
    )
    feats = posterior.feat.dense().flatten(0, 1) if not isinstance(posterior.feat, torch.Tensor) else posterior.feat
    feats = feats.reshape(-1, model.rssm.feat_dim)
    deter = posterior.deter.flatten(0, 1)
    stoch = feats[:, : model.rssm.latent.stoch_dim]
    press = torch.eye(3)[torch.full((len(feats),), 2)]
    after = model.rssm.recurrent_step(type(posterior)(deter, stoch, stoch), press)
    along = torch.cat([torch.zeros(model.rssm.latent.stoch_dim), after.mean(0) - deter.mean(0)])
    limit = float((feats @ along).max())
    reached = (after @ along[model.rssm.latent.stoch_dim :] > limit).float().mean()
    model.heads["reward"] = Promise(model.head("reward"), along, limit)
    assert reached > 0.5  # else nothing is planted
    return RunReader(Path("planted"), Path("planted"), config, agent.spec, agent, None, experience)


def test_errors_look_fine_and_trust_says_no():
    """The dream pays for an action that the replay never shows: replayed errors are small, the policy is worthless."""
    reader = planted(Trapdoor)
    with Task(reader.config, Trapdoor, reader.spec, episodes=16, seed=0) as task:
        found = trust(reader, task, updates=150, horizon=8)
    replay = found.errors["replay"]
    assert max(replay["reward"]) < 0.5, replay  # multi-step errors of rewards are small at every depth
    assert found.policies["made"].mean < found.policies["random"].mean
    assert found.level == "no"
    assert found.steps == 0
    assert found.optimism.gap[0] > 1
    assert "optimistic" in " ".join(verdict(found))
    assert len(reader.experience) < MOST_STEPS


# ---------------------------------------------------------------------------------------------------------------- slow


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_broken_runs_are_ordered_rightly(tmp_path, seed):
    pytest.importorskip("minigrid")
    assert faults_of(measured(tmp_path, seed)) == []
