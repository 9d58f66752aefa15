"""A number that is no number: named, kept out of the weights, written down, and met again in a fresh process."""

import json
import math
import subprocess
import sys

import pytest
import torch

from reverie import UserError, checkpoint
from reverie.finite import NonFinite
from reverie.guard.nan_report import diagnose_update
from reverie.optim import LaProp, TensorAdamW
from reverie.run.logger import read_lines
from reverie.run.progress import Progress
from tests.fast.test_fast import BOX, DISCRETE, agent_of, batch_of

NAN, INF = math.nan, math.inf


def put(tensor, value, at=3):
    with torch.no_grad():
        tensor.view(-1)[at] = value


def moment(agent, name):
    optimizer = agent.optimizers[name].torch
    return optimizer.state[optimizer.param_groups[0]["params"][0]]["exp_avg"]


def weight(path, value=NAN):
    return lambda agent, batch: put(dict(agent.named_parameters())[path], value)


def hook(agent, batch):
    agent.world_model.heads["reward"].mlp[0].weight.register_hook(lambda gradient: gradient * INF)


#: Where -> (how it gets there, kind and name that the verdict must tell, part of "where")
PLACES = {
    "vector": (lambda a, b: put(b.obs["body"][1, 4], INF), "batch", "obs/body", "infinity at sequence 1, step 4"),
    "reward": (lambda a, b: put(b.reward[2], INF), "batch", "reward", "sequence 2, step 3"),
    "reward NaN": (lambda a, b: put(b.reward[0], NAN), "batch", "reward", "NaN at sequence 0, step 3"),
    "action": (lambda a, b: put(b.action[3, 2], NAN, 0), "batch", "action", "sequence 3, step 2"),
    "encoder": (None, "parameter", "world_model.encoder.", "the first at"),
    "recurrent": (None, "parameter", "world_model.rssm.gru.", "NaN"),
    "decoder": (None, "parameter", "world_model.heads.obs/image.", "infinity"),
    "reward head": (weight("world_model.heads.reward.mlp.0.weight"), "parameter", "heads.reward.mlp.0.weight", "NaN"),
    "actor": (weight("actor.mlp.0.weight"), "parameter", "actor.mlp.0.weight", "NaN"),
    "critic": (weight("critic.mlp.0.weight", INF), "parameter", "critic.mlp.0.weight", "infinity"),
    "moment": (lambda a, b: put(moment(a, "actor"), NAN), "moment", "actor.mlp.0.weight/exp_avg", "NaN"),
    "moment world": (lambda a, b: put(moment(a, "world_model"), INF), "moment", "world_model.", "infinity"),
    "gradient": (hook, "gradient", "world_model.heads.reward.mlp.0.weight", ""),
    "return scale": (lambda a, b: a.return_scale.high.fill_(NAN), "buffer", "return_scale.high", "NaN"),
}  # fmt: skip


#: These names differ from preset to preset: the first weight below.
BELOW = {
    "encoder": ("world_model.encoder.", NAN),
    "recurrent": ("world_model.rssm.gru.", NAN),
    "decoder": ("world_model.heads.obs/image.", INF),
}


def first_weight(agent, below):
    return next(n for n, _ in agent.named_parameters() if n.startswith(below) and n.endswith("weight"))


def everything(agent):
    """All that must not change, moments of optimisers included."""
    state = {key: value.clone() for key, value in agent.state_dict().items() if "slow_critic" not in key}
    return state | {key: value.clone() for key, value in checkpoint.optimizer_tensors(agent).items()}


def equal(left, right):
    return left.keys() == right.keys() and all(
        torch.equal(left[key].nan_to_num(7.0), right[key].nan_to_num(7.0)) for key in left
    )


def broken(place, mode, action):
    """An agent after one good update, with something broken in it or its batch. -> agent, NonFinite, state before."""
    settings = {"reward_transform": "symlog", "return_norm": "percentile" if place == "return scale" else "none"}
    agent = agent_of("dreamerv2", mode, action, **settings)
    agent.update(batch_of(agent, 0))
    batch = batch_of(agent, 1)
    inject = PLACES[place][0]
    if place in BELOW:
        inject = weight(first_weight(agent, BELOW[place][0]), BELOW[place][1])
    inject(agent, batch)
    before = everything(agent)
    with pytest.raises(NonFinite) as caught:
        agent.update(batch)
    return agent, caught.value, before


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("mode", ["reference", "fast"])
@pytest.mark.parametrize("action", [DISCRETE, BOX], ids=["discrete", "box"])
def test_what_is_broken_is_named_and_no_weight_is_harmed(place, mode, action):
    agent, trouble, before = broken(place, mode, action)
    _, kind, name, where = PLACES[place]
    after = everything(agent)
    if trouble.case.stage == "behaviour":  # the world model's own update was good
        after, before = ({k: v for k, v in x.items() if not k.startswith("world_model")} for x in (after, before))
    assert equal(after, before)
    report = diagnose_update(agent, trouble.case, trouble.history)
    name = first_weight(agent, name) if place in BELOW else name
    assert (report.found, name in report.name) == (kind, True), report
    assert where in report.verdict
    assert report.cause
    assert report.advice
    assert len(report.history) == 1
    assert equal(everything(agent), everything(agent) | before), "an autopsy changes nothing"
    assert agent.mode == mode


# ------------------------------------------------------------------------------------------- computing on the way there


@pytest.mark.parametrize("mode", ["reference", "fast"])
def test_the_first_module_whose_output_is_broken_is_named_with_its_inputs(mode):
    """Finite weights whose product is not: nothing that goes in is broken."""
    agent = agent_of("dreamerv2", mode)
    with torch.no_grad():
        agent.world_model.heads["reward"].mlp[-1].weight.fill_(3e38)
    with pytest.raises(NonFinite) as caught:
        agent.update(batch_of(agent))
    report = diagnose_update(agent, caught.value.case)
    assert report.found == "module"
    assert report.name.startswith("world_model.heads.reward")
    assert "its inputs: (" in report.verdict
    assert "weights that have grown too large: world_model.heads.reward" in report.cause


def test_unscaled_observations_are_suspected():
    agent = agent_of("dreamerv2", "fast")
    batch = batch_of(agent)
    batch.obs["body"].mul_(1e25)
    with pytest.raises(NonFinite) as caught:
        agent.update(batch)
    report = diagnose_update(agent, caught.value.case)
    assert "'body' reaches" in report.cause
    assert "model.vector_transform" in report.advice


def test_a_healthy_update_has_nothing_to_report():
    agent = agent_of("dreamerv2", "fast")
    agent.update(batch_of(agent))
    for stage in ("world model", "behaviour"):
        report = diagnose_update(agent, agent.guard.cases[stage])
        assert (report.found, report.name) == ("", "")


# --------------------------------------------------------------------------------------------------- steps left undone


@pytest.mark.parametrize("kind", [TensorAdamW, LaProp])
@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("first", [True, False], ids=["at-first", "later"])
def test_our_optimisers_leave_a_bad_step_out_bitwise(kind, on_device, first):
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(3, 4)), torch.nn.Parameter(torch.randn(5))]
    optimizer = kind(weights, 0.1, weight_decay=0.1, on_device=on_device)

    def step(bad):
        for w in weights:
            w.grad = torch.full_like(w, NAN) if bad else torch.randn_like(w)
        optimizer.found_inf = torch.tensor(float(bad))
        optimizer.step()

    def state():
        moments = [m.clone() for s in optimizer.state.values() for m in s.values()]
        return [w.detach().clone() for w in weights] + moments

    if not first:
        step(False)
        before = state()
        step(True)
        assert all(torch.equal(a, b) for a, b in zip(state(), before, strict=True))
    else:
        before = [w.detach().clone() for w in weights]
        step(True)
        assert all(torch.equal(a, b) for a, b in zip(weights, before, strict=True))
    step(False)
    assert all(w.isfinite().all() for w in state())
    assert not torch.equal(weights[0], before[0])


@pytest.mark.parametrize("kind", [TensorAdamW, LaProp])
def test_a_good_step_is_the_same_with_the_mechanism_and_without(kind):
    found = []
    for told in (None, torch.zeros(())):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(3, 4))
        optimizer = kind([weight], 0.1, weight_decay=0.1, on_device=True)
        for _ in range(3):
            weight.grad = torch.randn(3, 4)
            optimizer.found_inf = told
            optimizer.step()
        found.append(weight.detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("optimizer", ["adam", "laprop"])
def test_where_nobody_may_wait_bad_steps_are_left_out_and_counted(optimizer):
    """The way of CUDA, on a CPU: nothing is raised, the count is read later."""
    agent = agent_of("dreamerv2", "fast", optimizer=optimizer, adam_eps_mode="torch", reward_transform="symlog")
    agent.guard.waits = False
    agent.update(batch_of(agent))
    assert agent.guard.trouble() is None
    before = everything(agent)
    batch = batch_of(agent, 1)
    put(batch.reward[1], INF)
    agent.update(batch)
    world = {key for key in before if key.startswith("world_model")}
    after = everything(agent)
    assert all(torch.equal(before[key], after[key]) for key in world)
    trouble = agent.guard.trouble()
    assert trouble.case.stage == "world model"
    assert trouble.skipped == 1
    assert diagnose_update(agent, trouble.case).name == "reward"
    assert agent.guard.trouble() is None


# ------------------------------------------------------------------------------------------------- what a run does then


class Notes(Progress):
    """Remembers what it is told."""

    def __init__(self):
        super().__init__(quiet=True)
        self.said = []

    def say(self, text):
        self.said.append(text)


def spoil(run, at, times=1):
    """Put an infinite reward into the batches of some updates, counted in draws."""
    draw, drawn = run.replay.sample, [0]

    def sample(*size):
        batch = draw(*size)
        drawn[0] += 1
        if at <= drawn[0] < at + times:
            batch.reward[0, 2] = INF
        return batch

    run.replay.sample = sample


QUICK = {"reward_transform": "symlog", "device": "cpu", "log_every": 1e-9, "random_baseline": False, "eval_every": 0}


def test_stop_ends_with_the_verdict_and_replay_crash_tells_it_again_in_a_fresh_process(make_run, tmp_path):
    run = make_run(tmp_path / "run", **QUICK)
    spoil(run, 5)
    screen = Notes()
    with pytest.raises(
        UserError, match="non-finite before update 5: batch 'reward' holds infinity at sequence 0, step"
    ):
        run.train(screen)
    crash = tmp_path / "run" / "crash"
    report = json.loads((crash / "crash.json").read_text())["report"]
    assert any(report["verdict"] in line for line in screen.said)
    assert not [p for p in crash.iterdir() if p.suffix not in (".json", ".yaml", ".safetensors")]
    for path in (tmp_path / "run", crash / "crash.json"):
        command = [sys.executable, "-m", "reverie.cli", "replay-crash", str(path), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1, done.stderr
        told = json.loads(done.stdout)
        assert told["reproduced"]
        assert {key: told[key] for key in report} == report


def test_skip_leaves_the_update_out_and_goes_on_to_learn(make_run, tmp_path):
    run = make_run(tmp_path / "run", on_nonfinite="skip", **QUICK)
    spoil(run, 5, times=3)
    screen = Notes()
    run.train(screen)
    assert run.clock.skipped == 3
    assert run.agent.updates == run.clock.updates > 5
    assert all(p.isfinite().all() for p in run.agent.parameters())
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["nonfinite/skipped"] for line in lines if "nonfinite/skipped" in line][-1] == 3
    assert sum(line.startswith("skipped") for line in screen.said) == 3
    assert sum("crash file" in line for line in screen.said) == 1


def test_a_run_that_may_not_wait_skips_too(make_run, tmp_path):
    """The way of CUDA, on a CPU: what the device left out is met when a line is written."""
    run = make_run(tmp_path / "run", on_nonfinite="skip", **QUICK)
    look, guard = run.agent.guard.trouble, run.agent.guard
    guard.waits = False
    run.agent.optimizers.set_quick(None)  # which is for CPUs
    spoil(run, 3, times=2)
    screen = Notes()
    run.train(screen)
    assert look() is None
    assert run.clock.skipped == 2
    assert all(p.isfinite().all() for p in run.agent.parameters())
    numbers = [
        line["world_model/loss"]
        for line in read_lines(tmp_path / "run" / "metrics.jsonl")
        if "world_model/loss" in line
    ]
    assert numbers
    assert None not in numbers


def test_skip_gives_up_after_many_in_a_row(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr("reverie.run.nan_policy.MOST_SKIPS", 6)
    run = make_run(tmp_path / "run", on_nonfinite="skip", **QUICK)
    spoil(run, 5, times=1000)
    with pytest.raises(UserError, match="6 consecutive updates were left out"):
        run.train(Notes())


def test_rollback_returns_to_the_checkpoint_with_lower_learning_rates_and_keeps_them(make_run, tmp_path):
    settings = QUICK | {"on_nonfinite": "rollback"}
    make_run(tmp_path / "run", **settings).train()
    run = make_run(tmp_path / "run", **settings | {"env_steps": 240})
    spoil(run, 4)
    kept = {key: value.clone() for key, value in run.agent.state_dict().items()}
    at, handle = {}, run.state.nan_policy.apply

    def watch(*args):
        handle(*args)
        at.update({key: value.clone() for key, value in run.agent.state_dict().items()})

    run.state.nan_policy.apply = watch
    screen = Notes()
    run.train(screen)
    assert all(torch.equal(kept[key], at[key]) for key in kept), "weights are those of the checkpoint again"
    assert run.clock.rollbacks == 1
    assert run.agent.optimizers["actor"].scale == 0.5
    assert any("went back to step-" in line for line in screen.said)
    assert any(not torch.equal(kept[key], value) for key, value in run.agent.state_dict().items())
    again = make_run(tmp_path / "run", **settings | {"env_steps": 260})
    again.agent.optimizers["actor"].schedule()
    assert again.agent.optimizers["actor"].torch.param_groups[0]["lr"] == again.config.behavior.actor_lr / 2
    again.close()


def test_rollback_gives_up_after_five_and_without_a_checkpoint(make_run, tmp_path):
    settings = QUICK | {"on_nonfinite": "rollback"}
    run = make_run(tmp_path / "run", **settings)
    spoil(run, 3)
    with pytest.raises(UserError, match="no checkpoint to go back to"):
        run.train(Notes())
    make_run(tmp_path / "two", **settings).train()
    run = make_run(tmp_path / "two", **settings | {"env_steps": 300})
    spoil(run, 3, times=1000)
    with pytest.raises(UserError, match="5 rollbacks did not help"):
        run.train(Notes())


def test_a_policy_may_be_chosen_when_a_run_goes_on(make_run, tmp_path):
    make_run(tmp_path / "run", **QUICK).train()
    run = make_run(tmp_path / "run", **QUICK | {"on_nonfinite": "rollback"})
    assert run.state.nan_policy.policy == "rollback"
    run.close()


@pytest.mark.parametrize("damage", ["crash.json", "case.safetensors", "optimizers.safetensors"])
def test_a_damaged_crash_is_told_in_a_sentence(damage, make_run, tmp_path, capsys):
    from reverie.cli import main

    run = make_run(tmp_path / "run", **QUICK)
    spoil(run, 3)
    with pytest.raises(UserError):
        run.train()
    (tmp_path / "run" / "crash" / damage).write_bytes(b"{}")
    assert main(["replay-crash", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert main(["replay-crash", str(tmp_path)]) == 2


def test_a_crash_that_does_not_come_back_ends_with_0(make_run, tmp_path, capsys):
    from reverie.cli import main

    run = make_run(tmp_path / "run", **QUICK)
    run.agent.critic.mlp[0].weight.register_hook(lambda gradient: gradient * NAN)
    with pytest.raises(UserError, match=r"gradient 'critic\.mlp\.0\.weight'"):
        run.train()
    assert main(["replay-crash", str(tmp_path / "run")]) == 0
    assert "are finite when it is computed again" in capsys.readouterr().out
