"""What commands advise: the preset that fits a task, and the doctor's findings at the first evaluation."""

import json

import pytest
import torch

from reverie import cli
from reverie.commands.envs import FITS, FITTING
from reverie.commands.train import live_doctor
from reverie.config.presets import load_preset, preset_names
from reverie.insight import live_doctor as live
from reverie.insight.findings import Finding
from reverie.run.loop import Run
from reverie.run.progress import Progress

EARLY = Finding("too early to tell", "WARN", "9 updates", "it matters", "train.env_steps", "train longer")
SICK = Finding("actor collapsed", "FAIL", "entropy 0.0", "it matters", "behavior.entropy_scale", "3e-3")


def shown(capsys, *words):
    capsys.readouterr()
    assert cli.main([*words]) == 0
    return capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------- the preset


@pytest.mark.parametrize("asked", ["minigrid", "dmc/reacher-easy", "CartPole-v1"])
def test_a_family_or_task_is_shown_with_the_preset_that_fits(capsys, asked):
    found = json.loads(shown(capsys, "envs", asked, "--json"))
    assert found["preset"] == FITTING == "auto"
    assert found["task"] == (found["example"] if asked == found["family"] else asked)
    assert not found["protocol"] or found["protocol"].startswith(found["task"])
    page = shown(capsys, "envs", asked)
    assert f"reverie train --env {found['task']} --preset auto\n" in page
    assert FITS in page


def test_a_function_that_was_checked_is_shown_with_the_preset_that_fits(capsys, tmp_path):
    file = tmp_path / "robot.py"
    file.write_text("import gymnasium as gym\n\n\ndef make_robot():\n    return gym.make('CartPole-v1')\n")
    page = shown(capsys, "check-env", f"{file}:make_robot", "--steps", "30")
    assert f"reverie train --env {file}:make_robot --preset auto\n" in page
    assert FITS in page


@pytest.mark.skipif(FITTING not in preset_names(), reason="the preset is written elsewhere and not yet here")
def test_the_preset_that_is_advised_exists():
    assert load_preset(FITTING).env.num_envs >= 1


# ---------------------------------------------------------------------------------------------------------- the doctor


def test_the_first_evaluations_have_a_diagnosis_until_there_is_a_verdict(make_run, tmp_path, monkeypatch):
    """The budget alone would begin after 150 seconds."""
    verdicts, asked = [[EARLY], [EARLY], [SICK], [SICK]], []
    monkeypatch.setattr(live, "diagnose_agent", lambda *args: asked.append(1) or verdicts[len(asked) - 1])
    run, advise = make_run(tmp_path / "run", env_steps=10_000).state, live_doctor()
    run.clock.seconds = 0.001
    assert advise(run)[0] == "doctor    WARN too early to tell: 9 updates"
    assert advise(run) == []  # nothing new, and looked again
    assert len(asked) == 2
    assert advise(run) == ["doctor    FAIL actor collapsed: entropy 0.0", "          behavior.entropy_scale: 3e-3"]
    assert advise(run) == []
    assert len(asked) == 3  # from here on within the budget
    run.clock.seconds = 1e6
    advise(run)
    assert len(asked) == 4


def test_a_collapsed_run_hears_of_it_at_its_first_evaluation(tmp_path):
    """Planted: a policy that always takes the same action, and an actor that does not learn."""
    settings = {"env.id": "CartPole-v1", "tensorboard": False, "video": False, "train_ratio": 1.0, "actor_lr": 1e-12}
    settings |= {"env_steps": 2000, "eval_every": 500, "random_baseline": True, "entropy_scale": 1e-6}
    run, said = Run(load_preset("debug", settings), tmp_path / "run"), []
    with torch.no_grad():
        last = [module for module in run.agent.actor.modules() if isinstance(module, torch.nn.Linear)][-1]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([30.0, 0.0]))
    screen = Progress(advise=live_doctor())
    screen.say = said.append
    evaluated = screen.evaluated

    def stops(state, result, **options):
        evaluated(state, result, **options)
        state.stop()

    screen.evaluated = stops
    run.train(screen)
    assert any(line.startswith("evaluation at step 5") for line in said)
    assert any(line.startswith("doctor    FAIL") for line in said), [line for line in said if "doctor" in line]
