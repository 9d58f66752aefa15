"""The interface for Python programs: how `learn` ends."""

import functools
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from odd_envs import OldGenerator, SignalEnv
from toys import CountingEnv

import reverie
from reverie import UserError, checkpoint, cli
from reverie.envs.repeatable import require_seed
from reverie.run import evaluation, progress

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


# ------------------------------------------------------------------------------------- switches of the user's program


SWITCHES = {
    "float64": (lambda: torch.set_default_dtype(torch.float64), lambda: torch.get_default_dtype() == torch.float64),
    "no gradients": (lambda: torch.set_grad_enabled(False), lambda: not torch.is_grad_enabled()),
    "NumPy raises": (lambda: np.seterr(all="raise"), lambda: set(np.geterr().values()) == {"raise"}),
    "another device": (lambda: torch.set_default_device("meta"), lambda: torch.get_default_device().type == "meta"),
}


@pytest.fixture
def as_it_was():
    """Puts torch's and NumPy's switches back."""
    before = np.geterr()
    yield
    np.seterr(**before)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_default_device(None)


class Small(CountingEnv):
    """Observations and rewards that underflow in float32; flips a switch at one of its calls."""

    def __init__(self, flip=None, when=""):
        super().__init__(lengths=(10,))
        self.observation_space = spaces.Box(-1e9, 1e9, (4,), np.float64)
        self.flip, self.when = flip, when
        self._flip("make")

    def _flip(self, when):
        if self.flip is not None and when == self.when:
            self.flip()

    def reset(self, **arguments):
        self._flip("reset")
        obs, info = super().reset(**arguments)
        return obs.astype(np.float64) + 1e-300, info

    def step(self, action):
        if self.at == 3:
            self._flip("step")
        obs, reward, *rest = super().step(action)
        return obs.astype(np.float64) + 1e-300, 1e-300 * reward, *rest


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("when", ["before", "make", "reset", "step"])
def test_switches_of_the_program_change_nothing(tmp_path, as_it_was, name, when):
    flip, is_flipped = SWITCHES[name]
    if when == "before":
        flip()
    env = functools.partial(Small, flip, when)
    settings = TINY | {"deterministic": True, "eval_every": 60}
    agent = reverie.Dreamer(env, preset="debug", run=tmp_path / "run", **settings).learn(100, quiet=True)
    agent.learn(120, quiet=True)  # and when it is continued
    assert {value.dtype for value in agent.agent.state_dict().values() if value.is_floating_point()} == {torch.float32}
    agent.save(tmp_path / "agent")
    assert agent.evaluate(1).lengths == [10]
    assert reverie.load(tmp_path / "agent", env=env).evaluate(1).lengths == [10]
    assert reverie.load_player(tmp_path / "agent")(np.zeros(4)) in range(3)
    assert is_flipped()  # the program has it as it wants it


# ------------------------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_the_largest_seed_reaches_old_generators(tmp_path, backend):
    settings = TINY | {"seed": 2**32 - 1, "backend": backend, "num_envs": 3, "random_baseline": True}
    env = functools.partial(OldGenerator, lengths=(10,))
    agent = reverie.Dreamer(env, preset="debug", run=tmp_path / "run", **settings).learn(quiet=True)
    agent.learn(130, quiet=True)  # and when it is continued
    assert len(agent.evaluate(2, seed=2**32 - 1).scores) == 2
    agent.player(seed=2**32 - 1)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**63 - 1, 2**64, 1.5, "1", True])
def test_other_seeds_are_refused_before_anything_is_done(tmp_path, seed):
    if seed not in ("1", True):
        with pytest.raises(UserError, match=r"'train.seed' must"):
            reverie.Dreamer(CountingEnv, preset="debug", run=tmp_path / "run", seed=seed)
    for refused in (require_seed, lambda seed: reverie.check_env("CartPole-v1", seed=seed)):
        with pytest.raises(UserError, match="is no whole number from 0 to 4,294,967,295"):
            refused(seed)


@pytest.mark.parametrize("words", [["eval", "RUN"], ["check-env", "CartPole-v1"], ["dream", "RUN"], ["drift", "RUN"]])
def test_seeds_of_commands_are_checked_at_once(words, capsys):
    for seed in ("-1", str(2**32), "one"):
        assert cli.main([*words, f"--seed={seed}"]) == 2
        assert "must be a whole number from 0 to 4,294,967,295" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- where the run lies


class Wanders(CountingEnv):
    """Changes the working directory at one of its calls, like the wrapper of a simulator."""

    def __init__(self, place, when):
        super().__init__(lengths=(10,))
        self.place, self.when = place, when
        self._move("make")

    def _move(self, when):
        if when == self.when:
            os.chdir(self.place)

    def reset(self, **arguments):
        self._move("reset")
        return super().reset(**arguments)

    def step(self, action):
        if self.at == 3:
            self._move("step")
        return super().step(action)


@pytest.mark.parametrize("when", ["make", "reset", "step"])
@pytest.mark.parametrize("preset", ["debug", "auto+debug"])
def test_the_run_lies_where_the_user_was(in_tmp, when, preset):
    elsewhere = in_tmp / "simulator"
    elsewhere.mkdir()
    agent = reverie.Dreamer(functools.partial(Wanders, elsewhere, when), preset=preset, run="runs/mine", **TINY)
    agent.learn(quiet=True)
    assert checkpoint.checkpoints(in_tmp / "runs" / "mine")
    assert list(elsewhere.iterdir()) == []
    assert Path.cwd() == elsewhere  # the simulator's own affair


def test_a_run_of_the_command_line_lies_where_the_user_was(in_tmp, monkeypatch):
    (in_tmp / "simulator").mkdir()
    (in_tmp / "robot.py").write_text(
        "import functools, os\nfrom test_api import Wanders\n"
        "make = functools.partial(Wanders, os.path.dirname(__file__) + '/simulator', 'make')\n"
    )
    settings = [f"{key}={str(value).lower()}" for key, value in TINY.items()]
    train = ["train", "--env", "robot.py:make", "--preset", "auto+debug", "--run", "mine", *settings]
    assert cli.main(train) == 0
    monkeypatch.chdir(in_tmp)
    assert cli.main(["eval", "mine", "--env", "robot.py:make", "--episodes", "1"]) == 0
    assert list((in_tmp / "simulator").iterdir()) == []
    assert checkpoint.checkpoints(in_tmp / "mine")


def test_a_tilde_is_the_home_directory(in_tmp, monkeypatch):
    monkeypatch.setenv("HOME", str(in_tmp / "home"))
    agent = reverie.Dreamer(CountingEnv, preset="debug", run="~/mine", **TINY).learn(quiet=True)
    assert checkpoint.checkpoints(in_tmp / "home" / "mine")
    agent.save("~/agent")
    assert (in_tmp / "home" / "agent" / "config.yaml").exists()
    reverie.load_player("~/agent")
    assert reverie.load("~/mine", env=CountingEnv).run == in_tmp / "home" / "mine"
    assert not (in_tmp / "~").exists()
    settings = [f"{key}={str(value).lower()}" for key, value in TINY.items()]
    assert cli.main(["train", "--env", "CartPole-v1", "--preset", "debug", "--run=~/other", *settings]) == 0
    assert cli.main(["eval", "~/other", "--episodes", "1"]) == 0
    for words in (
        ["info", "~/other"],
        ["report", "~/other", "-o", "~/page.html"],
        ["drift", "~/other", "--out=~/d.png"],
    ):
        cli.main(words)
    assert cli.main(["info", "~nobody-here/run"]) == 2
    assert not (in_tmp / "~").exists()


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_have_the_rights_of_the_umask(in_tmp, mask):
    before = os.umask(mask)
    try:
        agent = reverie.Dreamer(CountingEnv, preset="debug", run="run", **TINY | {"storage": "disk", "video": True})
        agent.learn(quiet=True).save("agent")
    finally:
        os.umask(before)
    rights = {path.name: path.stat().st_mode & 0o777 for path in in_tmp.rglob("*") if path.is_file()}
    assert len(rights) > 10
    assert set(rights.values()) == {0o666 & ~mask}


# ------------------------------------------------------------------------------------------------- tasks without an end


@pytest.mark.parametrize("quiet", [False, True])
def test_a_long_evaluation_says_how_far_it_is(tmp_path, monkeypatch, capsys, quiet):
    monkeypatch.setattr(evaluation.SlowEvaluation, "PATIENCE", 0.01)
    monkeypatch.setattr(evaluation, "MAX_LENGTH", 200)
    monkeypatch.setattr(progress, "MAX_LENGTH", 200)
    env = functools.partial(CountingEnv, lengths=(10**9,))
    agent = reverie.Dreamer(env, preset="debug", run=tmp_path / "run", **TINY).learn(quiet=quiet)
    message = capsys.readouterr().err
    assert ("evaluation: 0 of 1 episodes are done, the longest unfinished one has" in message) is not quiet
    assert ("cut at 200 steps" in message) is not quiet
    assert agent.evaluate(1).lengths == [200]
    message = capsys.readouterr().err
    assert message.count("evaluation: 0 of 1 episodes are done") == 1
    assert "env.time_limit" in message


class OutOfMemory(CountingEnv):
    """Cannot be made again once the agent has learnt."""

    full = False

    def __init__(self):
        super().__init__()
        if OutOfMemory.full:
            raise MemoryError("no memory")


def test_an_evaluation_that_memory_is_too_small_for_says_so(tmp_path, monkeypatch):
    agent = reverie.Dreamer(OutOfMemory, preset="debug", run=tmp_path / "run", **TINY).learn(quiet=True)
    monkeypatch.setattr(OutOfMemory, "full", True)
    with pytest.raises(UserError, match="memory"):
        agent.evaluate(1)
