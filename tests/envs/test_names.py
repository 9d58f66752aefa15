"""One way to name an environment: the same names in Python, in every command, and in worker processes."""

import sys

import gymnasium as gym
import pytest
from test_api import TINY

import reverie
from reverie import UserError, cli
from reverie.envs import make_vector
from reverie.envs.family import family_of, names_function
from reverie.envs.names import find_environment

ROBOT = """
import os

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from parts_of_it import LENGTH  # beside it, as scripts have it


class Robot(gym.Env):
    observation_space, action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.at += 1
        return np.zeros(2, np.float32), float(action), False, self.at >= LENGTH, {}


def make():
    return Robot()


class Moves(Robot):
    def reset(self, **arguments):
        os.chdir(os.path.dirname(__file__) + "/elsewhere")  # like a simulator that works in its own directory
        return super().reset(**arguments)


def needs(port):
    return Robot()


ready = Robot()
gym.register("NamedRobot-v0", Robot)
"""


@pytest.fixture
def folder(in_tmp, monkeypatch):
    """The current directory, with a file that makes environments; what is imported and registered goes away again."""
    before, path = set(sys.modules), list(sys.path)
    (in_tmp / "robot.py").write_text(ROBOT)
    (in_tmp / "elsewhere").mkdir()
    (in_tmp / "parts_of_it.py").write_text("LENGTH = 7\n")
    yield in_tmp
    gym.registry.pop("NamedRobot-v0", None)
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith(("robot", "parts_of_it", "reverie_user_")):
            del sys.modules[name]


NAMES = [
    "robot.py:make",
    "robot.py:Robot",
    "./robot.py:make",
    "robot:make",
    "robot:NamedRobot-v0",
    "robot.py:NamedRobot-v0",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_the_environment(folder, name, capsys):
    env = reverie.make_env(name)
    assert type(env.unwrapped).__name__ == "Robot"
    assert reverie.check_env(name, steps=20).errors == 0
    assert cli.main(["check-env", name, "--steps", "20"]) == 0
    assert f"reverie train --env {name} --preset auto" in capsys.readouterr().out


def test_an_absolute_name_and_one_of_the_home_directory(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert find_environment(f"{folder}/robot.py:make") == find_environment("~/robot.py:make")
    assert find_environment("~/robot.py:make")().action_space.n == 2


@pytest.mark.parametrize("name", ["robot.py:make", "robot:make", "robot:NamedRobot-v0", "robot.py:NamedRobot-v0"])
def test_worker_processes_make_it_too(folder, name):
    envs = make_vector(name, 2, backend="async")
    try:
        obs, _ = envs.reset(seed=0)
        assert obs["observation"].shape == (2, 2)
    finally:
        envs.close()


@pytest.mark.parametrize("name", ["robot.py:make", "robot:NamedRobot-v0"])
def test_the_commands_take_it(folder, name, capsys):
    settings = [f"{key}={str(value).lower()}" for key, value in TINY.items()]
    assert cli.main(["train", "--preset", "debug", "--env", name, "--run", "run", "--quiet", *settings]) == 0
    assert cli.main(["eval", "run", "--env", name, "--episodes", "1"]) == 0
    assert f"{name}: return" in capsys.readouterr().out
    assert cli.main(["presets", "auto", "--env", name, "--json"]) == 0
    assert cli.main(["eval", "run", "--episodes", "1"]) == 2  # code that a run's files name is not executed
    assert f"add --env {name}" in capsys.readouterr().err


def test_python_takes_it(folder):
    agent = reverie.Dreamer("robot.py:make", preset="debug", run="run", **TINY).learn(quiet=True)
    assert agent.make_env().unwrapped.action_space.n == 2
    assert reverie.load("run", env="robot.py:make").evaluate(1).lengths == [7]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("robot.py", "robot.py is a file: which function of it makes the environment"),
        ("robot.py:mak", "has no function 'mak'. It has Robot, make, Moves, needs"),
        ("robot:mak", "robot has no function 'mak'. It has Robot, make, Moves, needs"),
        ("robot.py:needs", "needs the argument port"),
        ("robot.py:ready", "is an environment, not a function"),
        ("nothing.py:make", "there is no file"),
        ("nothing:make", "there is no module 'nothing'"),
        ("nothing:Robot-v0", "there is no module 'nothing'"),
        ("nothing.inside:make", "there is no module 'nothing.inside'"),
        ("broken.py:make", r"broken.py fails \(ModuleNotFoundError: No module named 'simulator_x'\)"),
        ("broken:make", r"importing broken fails \(ModuleNotFoundError"),
        ("broken:Robot-v0", r"importing broken fails \(ModuleNotFoundError"),
        ("robot:Other-v0", "Gymnasium cannot make 'robot:Other-v0'"),
        ("robot.py:Other-v0", "has no function 'Other-v0'"),
    ],
)
def test_a_wrong_name_is_one_sentence_wherever_it_is_given(folder, name, message, capsys):
    (folder / "broken.py").write_text("import simulator_x\n")
    for make in (reverie.make_env, lambda name: make_vector(name, 1)):
        with pytest.raises(UserError, match=message):
            make(name)
    for command in (["train", "--preset", "debug", "--run", "run"], ["presets", "auto"]):
        assert cli.main([*command, "--env", name]) == 2
    assert "install that package" not in capsys.readouterr().err.lower()
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    "error", ["GeneratorExit", "asyncio.CancelledError('gone')", "Panic('index')", "SystemExit(0)"]
)
@pytest.mark.parametrize("name", ["ends.py:make", "ends:make", "ends:Robot-v0"])
def test_an_import_that_ends_with_no_exception_is_one_sentence(folder, name, error, capsys):
    (folder / "ends.py").write_text(f"import asyncio\nclass Panic(BaseException): pass\nraise {error}\n")
    for command in (["train", "--preset", "debug", "--run", "run"], ["presets", "auto"]):
        assert cli.main([*command, "--env", name]) == 2
        said = capsys.readouterr().err
        assert "error: importing ends" in said
        assert f"fails ({error.partition('(')[0].removeprefix('asyncio.')}" in said
        assert "Traceback" not in said
    assert not (folder / "run").exists()


def test_names_of_functions_belong_to_no_family():
    assert names_function("dmc/robot.py:make")
    assert family_of("dmc/robot.py:make") is None
    assert family_of("ale:make") is None
    assert not names_function("custom:make")
    assert not names_function("dmc/walker-walk")


def test_envs_of_an_own_environment_says_what_to_do(folder, capsys):
    assert cli.main(["envs", "robot.py:make"]) == 2
    assert "check-env robot.py:make" in capsys.readouterr().err
