"""`check_env`: every mistake is found, by its own sentence; what is healthy is left in peace."""

import json

import gymnasium as gym
import numpy as np
import pytest
from broken_envs import BROKEN, NOTED, Forgets, Healthy
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import DictEnv

import reverie
from reverie import cli
from reverie.envs.check import check_env

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")


def codes(report, *severities):
    return [finding.code for finding in report.findings if finding.severity in (severities or ("error", "warning"))]


@pytest.mark.parametrize("code", BROKEN)
def test_a_mistake_is_found_and_nothing_else(code):
    assert codes(check_env(BROKEN[code], steps=150)) == [code]


@pytest.mark.parametrize("code", NOTED)
def test_what_is_good_to_know_is_noted(code):
    report = check_env(NOTED[code], steps=150)
    assert codes(report) == []
    assert codes(report, "note") == [code]


def test_different_mistakes_have_different_sentences():
    found = [check_env(make, steps=150).findings[0] for make in [*BROKEN.values(), *NOTED.values()]]
    assert len({finding.message for finding in found}) == len(found) >= 45
    for finding in found:
        assert finding.fix
        assert not finding.message.endswith(".")
        assert "\n" not in finding.message + finding.fix
        assert len(finding.message) < 250


@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1", "MiniGrid-Empty-Random-6x6-v0"])
def test_known_environments_are_healthy(task):
    report = reverie.check_env(lambda: reverie.make_env(task))
    assert codes(report) == []
    assert "steps per second" in report.facts["speed"]


@pytest.mark.parametrize("make", [Healthy, lambda: TimeLimit(DictEnv(), 3)])
def test_small_environments_are_healthy(make):
    assert codes(check_env(make, steps=200)) == []


def test_an_instance_is_compared_with_its_copy():
    assert codes(check_env(Healthy(), steps=100)) == []
    assert codes(check_env(BROKEN["not-reproducible"](), steps=100)) == ["not-reproducible"]


def test_what_reset_forgets_is_found():
    report = check_env(Forgets, steps=60)
    assert "not-reproducible" in codes(report)


def test_an_exception_is_told_with_its_place():
    (finding,) = check_env(BROKEN["step-raises"], steps=10).findings
    assert "IndexError" in finding.message
    assert "broken_envs.py:" in finding.message


def test_the_numbers_are_in_the_sentence():
    def message(code):
        return next(f.message for f in check_env(BROKEN[code], steps=150).findings if f.code == code)

    assert "(2,)" in message("shape")
    assert "(3,)" in message("shape")
    assert "step 7" in message("reward-not-finite")
    assert "12 steps" in message("limit-terminates")
    assert "'b'" in message("key-extra")


class Garbage(gym.Env):
    """Returns whatever it was given, in turn."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def __init__(self, things):
        self.things, self.at = things, 0

    def _next(self):
        self.at += 1
        return self.things[self.at % len(self.things)]

    def reset(self, *, seed=None, options=None):
        return self._next()

    def step(self, action):
        return self._next()


_things = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=3), st.just(np.zeros(2)),
    st.lists(st.floats(), max_size=3), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)  # fmt: skip


@given(st.lists(st.one_of(_things, st.tuples(_things, _things), st.tuples(*[_things] * 5)), min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
def test_it_never_raises(things):
    assert check_env(Garbage(things), steps=12).findings


# --------------------------------------------------------------------------------------------------------- command line


def test_the_command_tells_and_exits(capsys, tmp_path, monkeypatch):
    assert cli.main(["check-env", "CartPole-v1", "--steps", "60"]) == 0
    assert "nothing found" in capsys.readouterr().out
    file = tmp_path / "mine.py"
    file.write_text(
        "import gymnasium as gym\n"
        "class Mine(gym.Env):\n"
        "    observation_space = gym.spaces.Box(-1, 1, (2,))\n"
        "    action_space = gym.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return self.observation_space.sample(), {}\n"
        "    def step(self, action):\n"
        "        raise ValueError('motor')\n"
    )
    assert cli.main(["check-env", f"{file}:Mine"]) == 1
    out = capsys.readouterr().out
    assert "1. error: step raises ValueError: motor in " in out
    assert "mine.py:8" in out
    assert cli.main(["check-env", f"{file}:Mine", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["findings"][0]["code"] == "step-raises"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing.py:make"], "there is no file nothing.py"),
        (["toys:nothing"], "toys has no function 'nothing'"),
        (["CartPole-v1", "env.colour=1"], "'env.colour' does not exist"),
    ],
)
def test_what_cannot_be_found_is_told(words, told, capsys):
    assert cli.main(["check-env", *words]) == 2
    assert told in capsys.readouterr().err


def test_an_id_that_does_not_exist_is_a_finding(capsys):
    assert cli.main(["check-env", "NoSuchTask-v0"]) == 1
    assert "Gymnasium cannot make 'NoSuchTask-v0'" in capsys.readouterr().out
