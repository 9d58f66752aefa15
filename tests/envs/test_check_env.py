"""`check_env`: every mistake is found and has its own sentence; healthy environments have no findings."""

import json
import sys
import tracemalloc
from functools import cache
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from broken_envs import (
    BROKEN,
    IMAGE,
    NOTED,
    VECTOR,
    Forgets,
    Healthy,
    Slow,
    SlowReset,
    image,
    observing,
    stepping,
)
from gymnasium import spaces
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import DictEnv

import reverie
from reverie import cli
from reverie.envs.check import check_env, observations

SPACES = [
    spaces.Box(-1, 1, (2,)),
    spaces.Box(0, 255, (20, 20, 3), np.uint8),
    spaces.Discrete(3),
    spaces.Dict({"a": spaces.MultiBinary(2), "b": spaces.Tuple([spaces.MultiDiscrete([2, 3])])}),
]


def codes(report, *severities):
    return [finding.code for finding in report.findings if finding.severity in (severities or ("error", "warning"))]


@cache
def report_of(code):
    return check_env((BROKEN | NOTED)[code], steps=150)


@pytest.mark.parametrize("code", BROKEN)
def test_a_mistake_is_found_and_nothing_else(code):
    assert codes(report_of(code)) == [code]


@pytest.mark.parametrize("code", NOTED)
def test_what_is_good_to_know_is_noted(code):
    assert codes(report_of(code)) == []
    assert codes(report_of(code), "note") == [code]


def test_different_mistakes_have_different_sentences():
    found = [report_of(code).ordered[0] for code in BROKEN | NOTED]
    assert len({finding.message for finding in found}) == len(found) >= 60
    for finding in found:
        assert not finding.message.endswith(".")
        assert finding.fix.endswith((".", "?"))
        assert "\n" not in finding.message + finding.fix
        assert len(finding.message) < 220


def test_a_mistake_of_an_observation_names_its_key():
    found = [report_of(code).ordered[0] for code in BROKEN | NOTED]
    keyed = [finding for finding in found if finding.key]
    assert len(keyed) >= 25
    for finding in keyed:
        assert f"'{finding.key}'" in finding.message


def test_a_mistake_has_numbers():
    found = [report_of(code).ordered[0] for code in BROKEN | NOTED]
    assert sum(any(sign.isdigit() for sign in finding.message) for finding in found) >= 45


@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1", "MiniGrid-Empty-Random-6x6-v0"])
def test_known_environments_are_healthy(task):
    pytest.importorskip("minigrid")
    report = reverie.check_env(task)
    assert codes(report) == []
    assert "steps per second" in report.facts["speed"]
    assert report.numbers["episodes"] >= 2


@pytest.mark.parametrize("make", [Healthy, lambda: TimeLimit(DictEnv(), 3)])
def test_small_environments_are_healthy(make):
    assert codes(check_env(make, steps=200)) == []


def test_a_vector_is_not_one_environment():
    (finding,) = check_env(lambda: gym.vector.SyncVectorEnv([Healthy] * 2)).findings
    assert (finding.code, finding.message) == ("no-env", "it is a vector of 2 environments, not one")


def test_an_instance_is_compared_with_its_copy():
    assert codes(check_env(Healthy(), steps=100)) == []
    assert codes(check_env(BROKEN["not-reproducible"](), steps=100)) == ["not-reproducible"]
    assert codes(check_env(Forgets(), steps=100)) == ["reset-forgets"]


def test_an_instance_that_cannot_be_copied_is_reported():
    env = Healthy()
    env.socket = (x for x in ())  # generators cannot be copied
    (finding,) = check_env(env, steps=100).findings
    assert finding.code == "only-one"
    assert "Pass a function" in finding.fix


def test_options_are_those_of_make_env():
    report = check_env(BROKEN["never-ends"], steps=60, time_limit=20)
    assert codes(report) == []
    assert "0% terminated, 100% truncated" in report.facts["episodes"]
    assert "image 16x16x3" in check_env(lambda: DictEnv(), steps=20, image_size=16).facts["agent sees"]


@pytest.mark.parametrize(("words", "size"), [([], 20), (["env.image_size=8"], 8), (["--env.image_size", "8"], 8)])
def test_the_command_shows_images_as_python_does(tmp_path, capsys, words, size):
    """In their own size, unless a size is asked for."""
    (tmp_path / "mine.py").write_text("from toys import DictEnv\n\n\ndef make():\n    return DictEnv(size=20)\n")
    assert cli.main(["check-env", f"{tmp_path}/mine.py:make", "--steps", "20", *words]) == 0
    assert f"image {size}x{size}x3" in capsys.readouterr().out


def test_an_exception_is_reported_with_its_place():
    (finding,) = report_of("step-raises").findings
    assert "IndexError" in finding.message
    assert "broken_envs.py:" in finding.message


def test_the_place_is_the_users_though_numpy_raised():
    (finding,) = check_env(observing(VECTOR, lambda self: np.reshape(self.x, (2, 2))), steps=5).findings
    assert "cannot reshape" in finding.message
    assert "test_check_env.py:" in finding.message


@pytest.mark.parametrize("code", ["step-four", "step-returns", "reset-returns", "reset-no-seed", "step-raises", "nan"])
def test_wrappers_hide_nothing(code):
    found = codes(check_env(lambda: PassiveEnvChecker(TimeLimit(OrderEnforcing(BROKEN[code]()), 25)), steps=100))
    assert found == [code]


def test_a_registered_id_is_checked_by_us_and_not_by_gymnasium():
    gym.register("ReverieBroken-v0", lambda render_mode: BROKEN["reward-type"]())
    try:
        assert codes(check_env("ReverieBroken-v0", steps=100)) == ["reward-type"]
    finally:
        del gym.registry["ReverieBroken-v0"]


def test_an_end_is_looked_for_beyond_the_steps():
    report = check_env("MountainCarContinuous-v0", steps=150)
    assert codes(report) == []
    assert report.facts["episodes"].startswith("1 in 999 random steps")


def test_a_limit_that_is_known_need_not_be_reached():
    report = check_env("MountainCarContinuous-v0", steps=20)
    assert codes(report) == []
    assert report.facts["episodes"] == "none ended in 200 random steps; the limit is 999"


def test_mistakes_are_counted():
    (finding,) = report_of("flag-no-bool").findings
    assert finding.count == 150
    assert "[flag-no-bool, 150 times]" in str(report_of("flag-no-bool"))


def test_errors_come_first():
    both = stepping(lambda self, obs, r, end, cut, info: (obs, np.nan, int(end), cut, info))
    both.render_mode = None
    report = check_env(both, steps=60)
    assert [finding.severity for finding in report.ordered] == ["error", "warning", "note", "note"]
    assert str(report).index("1. error: the reward is nan") < str(report).index("2. warning: terminated is")


@pytest.mark.parametrize(("name", "env"), [("SLOW", Slow), ("SLOW_RESET", SlowReset)])
def test_what_is_slow_is_noted(name, env, monkeypatch):
    assert codes(check_env(env, steps=20), "note") == []
    monkeypatch.setattr(observations, name, 0.002)
    (finding,) = check_env(env, steps=20).findings
    assert finding.severity == "note"
    assert "ms" in finding.message


def test_rounding_is_no_movement():
    env = observing(spaces.Box(-1e9, 1e9, (3,)), lambda self: np.float32([2e6 + self.at % 2 / 8, *self.x[:2]]))
    assert codes(check_env(env, steps=60), "note", "warning") == ["constant-parts", "large"]


def test_floats_up_to_255_in_a_uint8_space_are_only_of_another_type():
    assert codes(check_env(observing(IMAGE, lambda self: image(self) / np.float32(1.01)), steps=40)) == ["dtype"]


def test_a_mask_may_be_constant():
    space = spaces.Dict({"action_mask": spaces.MultiBinary(3), "x": VECTOR})
    env = observing(space, lambda self: {"action_mask": np.ones(3, np.int8), "x": np.float32(self.x)})
    assert codes(check_env(env, steps=60)) == []


def test_a_mistake_of_one_key_does_not_hide_that_of_another():
    env = observing(
        spaces.Dict({"a": VECTOR, "b": VECTOR}),
        lambda self: {"a": np.float32([np.nan] * 3), "b": np.ones(3, np.float32)},
    )
    assert codes(check_env(env, steps=60)) == ["nan", "constant"]


def test_a_tuple_observation_alone_is_no_info():
    space = spaces.Tuple([VECTOR, VECTOR])
    env = type("Alone", (Healthy,), {"observation_space": space, "observe": lambda self: (np.float32(self.x),) * 2})
    env.reset = lambda self, seed=None, options=None: Healthy.reset(self, seed=seed)[0]
    assert codes(check_env(env, steps=60)) == ["reset-returns"]


def test_the_key_that_differs_is_named():
    noise = np.random.default_rng()
    env = observing(
        spaces.Dict({"a": VECTOR, "b": spaces.Dict({"c": VECTOR})}),
        lambda self: {"a": np.float32(self.x), "b": {"c": noise.uniform(-1, 1, 3).astype(np.float32)}},
    )
    (finding,) = check_env(env, steps=60).findings
    assert finding.code == "not-reproducible"
    assert "at step 0 in 'b/c' (by " in finding.message


def test_what_only_a_long_life_changes_is_found():
    class Tired(Healthy):
        life = 0

        def move(self, action):
            self.life += 1
            return super().move(action) + (self.life > 100)

    (finding,) = check_env(Tired, steps=150).findings
    assert finding.code == "reset-forgets"
    assert "in the reward" in finding.message


def test_large_images_take_little_memory():
    screen = spaces.Box(0, 255, (1080, 1920, 3), np.uint8)
    tracemalloc.start()
    env = observing(screen, lambda self: np.full(screen.shape, self.at + 1, np.uint8))
    assert codes(check_env(env, steps=40)) == []
    assert tracemalloc.get_traced_memory()[1] < 4e8  # 400 of them as float64 would be 20 GB
    tracemalloc.stop()


class Masked(Healthy):
    """Action 0 is never allowed; sb3's way to say so."""

    def action_masks(self):
        return [0, 1, 1]

    def step(self, action):
        assert action != 0, "forbidden"
        return super().step(action)


def test_only_allowed_actions_are_taken():
    assert codes(check_env(Masked, steps=100)) == []
    masked = stepping(lambda self, obs, r, end, cut, info: (obs, r, end, cut, {"action_mask": [1, 0, 0]}))
    played = check_env(masked, steps=60)
    assert (
        played.numbers["mean_return"] <= 2 * played.numbers["episodes"]
    )  # reward is the action: the first of each only


def test_old_gym_and_dm_env_are_adapted():
    class Old:
        observation_space, action_space = VECTOR, spaces.Discrete(2)
        at = 0

        def reset(self):
            self.at = 0
            return np.zeros(3, np.float32)

        def step(self, action):
            self.at += 1
            return np.random.default_rng(self.at).uniform(-1, 1, 3).astype(np.float32), 1.0, self.at > 9 + action, {}

    report = check_env(Old, steps=60)
    assert codes(report) == []
    assert report.facts["made of"] == "an old gym environment, adapted"


class Stubborn(np.ndarray):
    """Numbers that do not let themselves be copied."""

    def __deepcopy__(self, memo):
        raise RuntimeError("no copies")


def test_values_that_cannot_be_looked_at_are_reported():
    report = check_env(observing(VECTOR, lambda self: np.zeros(3, np.float32).view(Stubborn)), steps=10)
    assert codes(report) == ["cannot-look"]
    assert "no copies" in report.findings[0].message


@pytest.mark.parametrize(
    "change",
    [
        {"step": lambda self, action: sys.exit(3)},
        {"step": lambda self, action: (*Healthy.step(self, action)[:1], 10**400, False, False, {})},
        {"observation_space": property(lambda self: 1 / 0)},
        {"render_mode": property(lambda self: 1 / 0)},
        {"reset": lambda self, **kwargs: None},
        {"__init__": lambda self: sys.exit(1)},
    ],
)
def test_nothing_that_an_environment_does_is_raised(change):
    assert codes(check_env(type("Odd", (Healthy,), change), steps=10))


class Garbage(gym.Env):
    """Returns whatever it was given, in turn."""

    action_space = spaces.Discrete(2)

    def __init__(self, things, space):
        self.things, self.at, self.observation_space = things, 0, space

    def _next(self):
        self.at += 1
        return self.things[self.at % len(self.things)]

    def reset(self, *, seed=None, options=None):
        return self._next()

    def step(self, action):
        return self._next()


class Nasty:
    """Raises whatever is done with it."""

    def _no(self, *args, **kwargs):
        raise RuntimeError("no")

    __array__ = __len__ = __iter__ = __eq__ = __repr__ = __bool__ = __float__ = __getitem__ = __deepcopy__ = _no
    __hash__ = None


_things = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=3), st.just(np.zeros(2)),
    st.lists(st.floats(), max_size=3), st.dictionaries(st.sampled_from("abc"), st.integers(), max_size=2),
    st.sampled_from([np.zeros((0, 2)), np.array(["x"]), np.array([None]), np.zeros((20, 20, 3)), 10**400, 1j, object]),
    st.builds(Nasty), st.just({"action_mask": "no"}),
)  # fmt: skip
_returned = st.one_of(_things, st.tuples(_things, _things), st.tuples(*[_things] * 5))


@given(st.lists(_returned, min_size=1, max_size=6), st.sampled_from(SPACES))
@settings(max_examples=150, deadline=None)
def test_it_never_raises(things, space):
    report = check_env(Garbage(things, space), steps=12)
    assert report.findings
    json.dumps(report.to_dict())
    assert str(report)


# --------------------------------------------------------------------------------------------------------- command line


def test_the_command_reports_and_exits(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert cli.main(["check-env", "CartPole-v1", "--steps", "60"]) == 0
    out = capsys.readouterr().out
    assert "nothing found" in out
    assert "next         reverie train --env CartPole-v1 --preset auto\npreset       auto, the default" in out
    file = tmp_path / "mine.py"
    file.write_text(
        "import gymnasium as gym\n"
        "print('made')\n"
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
    assert "1. error: step raises ValueError (motor) in " in out
    assert "mine.py:9" in out
    assert cli.main(["check-env", f"{file}:Mine", "--json"]) == 1
    message = json.loads(capsys.readouterr().out)
    assert message["findings"][0]["code"] == "step-raises"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.py:make"], "there is no file nothing.py"),
        (["toys:nothing"], "toys has no function 'nothing'"),
        (["broken_envs:observing"], "observing of broken_envs needs the argument space"),
        (["tests/toys.py"], "which function of it makes the environment?"),
        (["tests/toys.py"], "CountingEnv"),
        (["tests/toys.py:Nothing"], "has no function 'Nothing'"),
        (["BAD.py:make"], "importing BAD.py fails (ModuleNotFoundError: No module named 'nowhere')"),
        (["EXIT.py:make"], "importing EXIT.py fails (SystemExit: 2)"),
        (["CartPole-v1", "env.colour=1"], "'env.colour' does not exist"),
    ],
)
def test_what_cannot_be_found_is_reported(words, message, capsys, tmp_path, monkeypatch):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "toys.py").write_text(Path(__file__).parents[1].joinpath("toys.py").read_text())
    (tmp_path / "BAD.py").write_text("import nowhere")
    (tmp_path / "EXIT.py").write_text("import sys; sys.exit(2)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert cli.main(["check-env", *words]) == 2
    assert message in capsys.readouterr().err


def test_modules_of_this_directory_and_names_of_theirs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # as the command has it
    (tmp_path / "random.py").write_text("from toys import EchoEnv as make\n")
    (tmp_path / "mine_too.py").write_text("from toys import EchoEnv as make\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check-env", "mine_too:make", "--steps", "30", "env.time_limit=2"]) == 0
    assert "1 to 2 steps long" in capsys.readouterr().out
    assert cli.main(["check-env", "random.py:make", "--steps", "30"]) == 0
    assert "next         reverie train --env random.py:make --preset auto" in capsys.readouterr().out
    assert "randint" in dir(__import__("random"))
    assert cli.main(["check-env", "minigrid:MiniGrid-Empty-5x5-v0", "--steps", "30"]) == 0


def test_an_id_that_does_not_exist_is_a_finding(capsys):
    assert cli.main(["check-env", "NoSuchTask-v0"]) == 1
    assert "Gymnasium cannot make 'NoSuchTask-v0'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("space", "value", "good"),
    [
        (spaces.MultiDiscrete([4, 4, 3]), [2.0, 3.0, 0.0], True),
        (spaces.MultiDiscrete([4, 4, 3]), [2.0, 4.0, 0.0], False),
        (spaces.MultiDiscrete([4, 4, 3]), [2.5, 3.0, 0.0], False),
        (spaces.MultiDiscrete([4, 4, 3]), [np.nan, 3.0, 0.0], False),
        (spaces.MultiDiscrete([4, 4, 3]), [1e300, 3.0, 0.0], False),
        (spaces.Discrete(3, start=-1), 1.0, True),
        (spaces.Discrete(3, start=-1), 2.0, False),
        (spaces.MultiBinary(2), [1.0, 0.0], True),
        (spaces.MultiBinary(2), [1.0, 2.0], False),
    ],
)
def test_choices_may_come_as_whole_floats(space, value, good):
    """Seed 7001981 of the fuzz: a sound environment was refused, whose choices were float64."""
    assert observations._contains(space, np.asarray(value, np.float64)) is good
