"""The user's own networks: checked by shape, named in files and never imported because of them."""

import subprocess
import sys

import pytest
import torch
from test_api import TINY
from torch import nn
from toys import EchoEnv

import reverie
from reverie import UserError, cli
from reverie.insight.drift import drift
from reverie.insight.run_reader import open_run
from reverie.latents import Latent
from reverie.networks import Head, RewardPredictor

QUICK = TINY | {"preset": "debug", "env_steps": 60, "prefill": 20}


class Encoder(nn.Module):
    def __init__(self, images, vectors):
        super().__init__()
        self.net = nn.Linear(sum(vectors.values()), 7)

    def forward(self, obs):
        return self.net(torch.cat([obs[key] for key in sorted(obs)], -1))


class Reward(Head):
    def __init__(self, feat_dim):
        super().__init__()
        self.net = nn.Linear(feat_dim, 1)

    def forward(self, feat):
        return self.net(feat)[..., 0]

    def loss(self, feat, target):
        return (self(feat) - target).square()


GIVEN = {"encoder": Encoder, "heads": {"reward": Reward}}


def agent_of(run, modules, **settings):
    return reverie.Dreamer(EchoEnv, run=run, modules=modules, **QUICK | settings)


def test_own_networks_learn_are_saved_and_loaded(tmp_path):
    agent = agent_of(tmp_path / "run", GIVEN).learn(quiet=True)
    model = agent.agent.world_model
    assert type(model.encoder.net) is Encoder
    assert type(model.heads["reward"]) is Reward
    assert model.encoder.output_dim == 7
    assert agent.config.model.own_modules == ("encoder=custom:Encoder", "heads/reward=custom:Reward")
    again = reverie.load(agent.save(tmp_path / "saved"), EchoEnv, modules=GIVEN)
    obs = torch.zeros(4)
    for one, other in ((agent.player(seed=3), again.player(seed=3)),):
        assert [int(one(obs.numpy())) for _ in range(5)] == [int(other(obs.numpy())) for _ in range(5)]
    assert int(reverie.load_player(tmp_path / "saved", modules=GIVEN, seed=3)(obs.numpy())) in range(4)
    assert drift(open_run(tmp_path / "run"), horizon=3, starts=8).starts[0] == 8  # this process knows them
    assert agent_of(tmp_path / "run", GIVEN, env_steps=80).learn(quiet=True).agent.updates > agent.agent.updates


def test_without_modules_nothing_is_different(tmp_path):
    torch.manual_seed(0)
    plain = agent_of(tmp_path / "a", None).learn(quiet=True).agent
    empty = agent_of(tmp_path / "b", {}).learn(quiet=True).agent
    assert plain.state_dict().keys() == empty.state_dict().keys()
    for one, other in zip(plain.state_dict().values(), empty.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


TRAP = """
import pathlib
from torch import nn

pathlib.Path("imported").write_text("")


class Net(nn.Module):
    def __init__(self, images, vectors):
        super().__init__()
        self.net = nn.Linear(sum(vectors.values()), 5)

    def forward(self, obs):
        return self.net(next(iter(obs.values())))
"""


def test_a_name_in_files_is_imported_only_when_the_user_gives_it_again(in_tmp, capsys):
    (in_tmp / "my_nets.py").write_text(TRAP)
    modules = {"encoder": "my_nets.py:Net"}
    agent_of("run", modules).learn(quiet=True).save("saved")
    assert "my_nets.py:Net" in (in_tmp / "saved" / "config.yaml").read_text()
    (in_tmp / "imported").unlink()
    code = "import sys, reverie.cli; sys.exit(reverie.cli.main(sys.argv[1:]))"
    for words in (["drift", "run"], ["eval", "saved"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr.count("\n")) == (2, 2)
        assert "networks of its user's own (encoder: my_nets.py:Net)" in done.stderr
        assert not (in_tmp / "imported").exists()
    assert reverie.load("saved", EchoEnv, modules=modules).agent.world_model.encoder.output_dim == 5


def test_a_program_that_does_not_give_them_is_told(tmp_path, capsys, monkeypatch):
    agent = agent_of(tmp_path / "run", GIVEN).learn(quiet=True)
    agent.save(tmp_path / "saved")
    monkeypatch.setattr("reverie.extensions.own._GIVEN", {})  # as in another process
    for open_it in (reverie.load, reverie.load_player):
        with pytest.raises(UserError, match=r"networks of its user's own \(encoder: custom:Encoder\)"):
            open_it(tmp_path / "saved")
    assert cli.main(["drift", str(tmp_path / "run")]) == 2
    assert "networks of its user's own" in capsys.readouterr().err
    with pytest.raises(UserError, match="own for encoder, heads/reward, modules gives encoder"):
        reverie.load(tmp_path / "saved", modules={"encoder": Encoder})


class Flat(Encoder):
    def forward(self, obs):
        return super().forward(obs).flatten(0, 1)


class Short(Latent):
    stoch_dim = stats_dim = 4

    def noise(self, *batch, device=None, generator=None):
        return torch.rand(*batch, 4)

    def sample(self, stats, noise):
        return stats

    mode = entropy = kl = lambda self, stats, *_: stats


class Wide(Reward):
    def forward(self, feat):
        return self.net(feat)


class Nowhere(Reward):
    target = "somewhere"


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"decoder": Encoder}, "modules has no place 'decoder'"),
        ({"encoder": 3}, r"modules\['encoder'\] is '3', not a function"),
        ({"encoder": "nowhere"}, "'nowhere' names no function"),
        ({"encoder": "no_such_module_x:Net"}, "there is no module 'no_such_module_x'"),
        ({"heads": [Reward]}, r"modules\['heads'\] must be a dict"),
        ({"heads": {"a.b": Reward}}, "'heads/a.b' is no name for a head"),
        ({"encoder": lambda: None}, "the function for encoder does not take what it is given"),
        ({"encoder": lambda images, vectors: 3}, "encoder must be a torch.nn.modules.module.Module, got a int"),
        ({"encoder": Flat}, r"the encoder makes \(6, 7\) of observations \(2, 3, ...\) and \(28,\) of \(4, ...\)"),
        ({"encoder": lambda images, vectors: nn.Linear(3, 3)}, "the encoder fails on"),
        ({"latent": Short}, r"Short.kl gives \(2, 3, 4\) where \(2, 3\) is needed"),
        ({"latent": Latent}, "the latent Latent has no stoch_dim"),
        ({"heads": {"reward": Wide}}, r"the head reward predicts \(2, 3, 1\)"),
        ({"heads": {"more": Nowhere}}, "nothing is known as the target 'somewhere' of the head more"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path, modules, message):
    with pytest.raises(UserError, match=message):
        agent_of(tmp_path / "run", modules).learn(quiet=True)
    assert not (tmp_path / "run").exists()


def test_usual_heads_can_be_made_with_other_options(tmp_path):
    modules = {"heads": {"reward": lambda feat_dim: RewardPredictor(feat_dim, transform="none")}}
    assert agent_of(tmp_path / "run", modules).learn(quiet=True).agent.updates > 0
