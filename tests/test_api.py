"""The interface for Python programs: how `learn` ends."""

import os
import signal
import sys

import pytest
from toys import CountingEnv

import reverie
from reverie import UserError, checkpoint, cli

TINY = {
    "env_steps": 120,
    "prefill": 40,
    "pretrain": 1,
    "train_ratio": 0.1,
    "eval_every": 0,
    "eval_episodes": 1,
    "video": False,
    "tensorboard": False,
    "forecast": False,
    "random_baseline": False,
}


@pytest.fixture
def usual_signals():
    """Python's own handlers: a test may run in a background shell, which ignores Ctrl-C."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before:
        signal.signal(number, handler)


class SignalEnv(CountingEnv):
    """Sends a signal to the training process at a step of one of its objects; `after` counts all steps of the class."""

    number, after, steps, whole = signal.SIGINT, 60, 0, 0

    def step(self, action):
        type(self).steps += 1
        if type(self).steps == self.after:
            os.kill(self.whole, self.number)
        return super().step(action)


def signalling(number, after):
    """A maker of SignalEnv with a counter of its own."""
    kind = type("Signals", (SignalEnv,), {"number": number, "after": after, "steps": 0, "whole": os.getpid()})
    return lambda: kind(lengths=(10,))


ENDS = {signal.SIGINT: (KeyboardInterrupt, None), signal.SIGTERM: (SystemExit, 143), signal.SIGHUP: (SystemExit, 129)}


@pytest.mark.parametrize(
    ("number", "after", "settings"),
    [
        (signal.SIGINT, 70, {}),
        (signal.SIGTERM, 70, {}),
        (signal.SIGHUP, 70, {}),
        (signal.SIGINT, 10, {}),  # in the prefill
        (signal.SIGTERM, 125, {}),  # in the evaluation after the last step
        (signal.SIGTERM, 20, {"num_envs": 2, "backend": "async"}),
    ],
)
def test_a_signal_ends_the_program_and_not_learn_alone(tmp_path, usual_signals, number, after, settings):
    agent = reverie.Dreamer(signalling(number, after), preset="debug", run=tmp_path / "run", **TINY | settings)
    kind, code = ENDS[number]
    with pytest.raises(kind) as ended:
        agent.learn(quiet=True)
    assert getattr(ended.value, "code", None) == code
    assert checkpoint.checkpoints(tmp_path / "run")
    if number == signal.SIGINT:
        assert "the same call of learn continues it" in str(ended.value)
    done = agent.agent.updates  # what was learnt so far is at hand for who catches it
    if "backend" in settings:  # new workers would count from 0, and send the signal again
        return
    assert agent.learn(quiet=True).agent.updates >= done
    assert checkpoint.checkpoints(tmp_path / "run")[-1].name == f"step-{120:012d}"


# ------------------------------------------------------------------------------------------- an edited environment

EDITED = """
import numpy as np
from toys import CountingEnv


class Mine(CountingEnv):
    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, REWARD * reward, terminated, truncated, info


def make():
    return Mine(lengths=(10,))
"""


def edit(folder, reward):
    """The user's file with another reward, as a program that begins now imports it."""
    (folder / "mine.py").write_text(EDITED.replace("REWARD", str(reward)))
    for name in [name for name in sys.modules if name.startswith("reverie_user_mine")]:
        del sys.modules[name]


def mine(run, **settings):
    return reverie.Dreamer("mine.py:make", preset="debug", run=run, **TINY | settings)


@pytest.mark.parametrize("quiet", [True, False])
def test_a_complete_run_whose_environment_was_edited_says_so(in_tmp, capsys, quiet):
    edit(in_tmp, 1)
    mine("run").learn(quiet=quiet)
    mine("run").learn(quiet=quiet)
    assert "edited" not in capsys.readouterr().err
    edit(in_tmp, 20)
    for _ in range(2):  # it stays so until something is trained
        mine("run").learn(quiet=quiet)
        message = capsys.readouterr().err
        assert message.count("the source of the environment was edited since") == 1
        assert "fresh=True" in message
    mine("run").learn(130)
    assert "note      the source of the environment was edited since the last checkpoint" in capsys.readouterr().err
    mine("run").learn(130)
    assert "edited" not in capsys.readouterr().err


@pytest.mark.parametrize("preset", ["debug", "auto+debug"])
def test_fresh_begins_again_and_keeps_the_old_run(in_tmp, capsys, preset):
    edit(in_tmp, 1)
    first = reverie.Dreamer("mine.py:make", preset=preset, run="run", **TINY).learn(quiet=True)
    before = first.evaluate(1).mean
    edit(in_tmp, 20)
    agent = reverie.Dreamer("mine.py:make", preset=preset, run="run", **TINY | {"gamma": 0.5}, fresh=True)
    agent.learn()
    assert "note      the run that was here is" in capsys.readouterr().err
    assert agent.evaluate(1).mean == 20 * before
    assert {path.name for path in in_tmp.iterdir() if path.is_dir()} - {"__pycache__"} == {"run", "run-before-1"}
    assert checkpoint.checkpoints(in_tmp / "run-before-1")
    updates = agent.agent.updates
    assert agent.learn(130, quiet=True).agent.updates >= updates  # fresh once, not again
    agent.learn(120, fresh=True, quiet=True)
    assert (in_tmp / "run-before-2").exists()


def test_fresh_on_the_command_line(in_tmp, capsys):
    edit(in_tmp, 1)
    command = ["train", "--env", "mine.py:make", "--preset", "debug", "--run", "run"]
    command += [f"{key}={str(value).lower()}" for key, value in TINY.items()]
    assert cli.main([*command, "--fresh"]) == 0  # nothing is in the way
    edit(in_tmp, 20)
    assert cli.main(command) == 0
    assert "the source of the environment was edited since" in capsys.readouterr().err
    assert cli.main([*command, "gamma=0.5"]) == 2
    assert "--fresh" in capsys.readouterr().err
    assert cli.main([*command, "gamma=0.5", "--fresh"]) == 0
    assert (in_tmp / "run-before-1").exists()


def test_fresh_of_an_environment_that_cannot_be_made_leaves_the_old_run(in_tmp, files_of):
    edit(in_tmp, 1)
    mine("run").learn(quiet=True)
    before = files_of(in_tmp / "run")
    edit(in_tmp, "nothing")
    (in_tmp / "mine.py").write_text("def make():\n    raise RuntimeError('no simulator')\n")
    with pytest.raises(Exception, match="no simulator"):
        mine("run", fresh=True).learn(quiet=True)
    assert files_of(in_tmp / "run") == before
    assert not (in_tmp / "run-before-1").exists()


def test_a_run_in_use_is_not_moved(make_run, tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="is using"):
        reverie.Dreamer(CountingEnv, preset="debug", run=tmp_path / "run", fresh=True, **TINY).learn(quiet=True)
    run.close()
