"""Which edits of the user's source are edits of the environment."""

import functools
import subprocess
import sys

import gymnasium as gym
import pytest
from envs.test_names import ROBOT

from reverie.envs.fingerprint import fingerprint
from reverie.envs.names import find_environment

PROGRAM = '''
"""A program of a user's."""
import sys
from functools import partial

import gymnasium as gym

from parts_of_it import LENGTH

GOAL, STEPS = 2.0, 100
SHAPE = (3,)


def distance(x):
    return GOAL - x


class Robot(gym.Env):
    """A robot."""

    size = 1
    observation_space = gym.spaces.Box(-1, 1, SHAPE)
    calls = 0

    def __init__(self, legs=2):
        Robot.calls += 1

    def step(self, action):
        return distance(action) + LENGTH


def make():
    # as usual
    return Robot(legs=2)


def unrelated():
    return 1


if __name__ == "__main__":
    from reverie.envs.fingerprint import fingerprint

    makers = [make, Robot, lambda: Robot(legs=2), partial(Robot, legs=2), Robot()]
    print(" ".join(fingerprint(makers[i]) for i in map(int, sys.argv[1:])))
'''


@pytest.fixture
def folder(in_tmp, monkeypatch):
    """The current directory, with a file that makes environments; what is imported and registered goes away again."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (in_tmp / "robot.py").write_text(ROBOT)
    (in_tmp / "parts_of_it.py").write_text("LENGTH = 7\n")
    yield in_tmp
    gym.registry.pop("NamedRobot-v0", None)
    for name in set(sys.modules) - before:
        if name.startswith(("robot", "parts_of_it", "reverie_user_")):
            del sys.modules[name]


def prints(folder, program=PROGRAM, parts="LENGTH = 7\n"):
    """The fingerprints of the makers of a program, which runs in a process of its own."""
    (folder / "program.py").write_text(program)
    (folder / "parts_of_it.py").write_text(parts)
    done = subprocess.run(
        [sys.executable, "program.py", *"01234"], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_of_a_program_the_environment_counts_and_nothing_else(folder):
    first = prints(folder)
    assert len(first) == 5
    assert all(first)
    same = (
        PROGRAM.replace("# as usual", "# as ever")
        .replace("A robot.", "My robot.")
        .replace("STEPS = 2.0, 100", "STEPS = 2.0,  100")
    )
    assert prints(folder, same.replace("return 1", "return 2").replace("print(", "print(  ")) == first
    for old, new in [
        ("GOAL - x", "x - GOAL"),
        ("GOAL, STEPS = 2.0", "GOAL, STEPS = 3.0"),
        ("(3,)", "(4,)"),
        ("size = 1", "size = 5"),
    ]:
        changed = prints(folder, PROGRAM.replace(old, new))
        assert not set(changed) & set(first), old
    assert not set(prints(folder, parts="LENGTH = 8\n")) & set(first)
    legs = prints(
        folder, PROGRAM.replace("Robot(legs=2), partial(Robot, legs=2)", "Robot(legs=3), partial(Robot, legs=3)")
    )
    assert [a == b for a, b in zip(first, legs, strict=True)] == [True, True, False, False, True]


@pytest.mark.parametrize("name", ["robot.py:make", "robot.py:Robot", "robot:make", "robot:NamedRobot-v0"])
def test_of_a_file_and_what_it_imports_everything_counts(folder, name):
    before = fingerprint(find_environment(name))
    assert before
    for file, text in (("robot.py", ROBOT + "\n# a comment\n"), ("robot.py", ROBOT)):
        (folder / file).write_text(text)
        assert fingerprint(find_environment(name)) == before
    for file, text in (
        ("robot.py", ROBOT.replace("float(action)", "2 * float(action)")),
        ("parts_of_it.py", "LENGTH = 8"),
    ):
        (folder / file).write_text(text)
        assert fingerprint(find_environment(name)) != before
        before = fingerprint(find_environment(name))


def test_values_that_a_maker_keeps_count(folder):
    robot = find_environment("robot.py:Robot")
    assert fingerprint(functools.partial(robot, 1)) != fingerprint(functools.partial(robot, 2))

    def maker(size):
        return lambda: (robot, size)

    assert fingerprint(maker(1)) == fingerprint(maker(1)) != fingerprint(maker(2))


def test_an_installed_environment_has_none():
    assert fingerprint("CartPole-v1") == ""
    assert fingerprint(gym.make("CartPole-v1")) == ""
    assert fingerprint("custom:make") == ""
    assert fingerprint("NoSuchTask-v0") == ""
