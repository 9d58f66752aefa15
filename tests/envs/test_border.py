"""The contract at the border: whatever an environment returns is read, left out with a note, or refused in a sentence.

The same in both backends: `EnvSlice` is what a worker process runs, here without the process.
"""

import asyncio
import collections
import enum
import json
import pickle
import re
import signal
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector.utils import CloudpickleWrapper

from reverie import check_env
from reverie.envs import AgentView, make_env, make_vector
from reverie.envs.border import EnvironmentFailed, Notes, episode_log, image_of, is_bright, limit_of, number_of
from reverie.envs.spaces import Spec
from reverie.envs.vector.worker_process import EnvSlice, SharedArrays, WorkerTask, _fault, anonymous_file
from reverie.errors import Stopped, UserError

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
PICTURE = spaces.Box(0, 255, (20, 24, 3), np.uint8)
LATE = 40  # after the essential checks of the first steps


class Task(gym.Env):
    """Episodes of 50 steps. The parts of a step and of a reset can be replaced by keyword, from step `since` on."""

    def __init__(self, space=VECTOR, action=None, since=0, **parts):
        self.observation_space, self.action_space = space, action or spaces.Discrete(2)
        self.parts, self.since, self.steps, self.t = parts, since, 0, 0
        self.render_mode = "rgb_array" if "render" in parts else None
        if "metadata" in parts:
            self.metadata = parts["metadata"]

    def part(self, name, usual):
        found = self.parts.get(name, usual) if self.steps >= self.since else usual
        return found(self) if callable(found) else found

    def look(self):
        return self.part("obs", np.zeros(self.observation_space.shape or (), self.observation_space.dtype))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.part("reset", (self.look(), self.part("reset_info", {})))

    def step(self, action):
        self.steps, self.t = self.steps + 1, self.t + 1
        usual = self.look(), self.part("reward", 1.0), self.part("ended", self.t >= 50), self.part("cut", False)
        return self.part("step", (*usual, self.part("info", {})))

    def render(self):
        return self.part("render", None)

    def close(self):
        self.part("close", None)


def fail(self):
    raise ValueError("the motor is hot")


def leave(self):
    raise SystemExit(3)


def wrapped(self):
    return AgentView(self)


class Slice:
    """Environments as a worker process steps them, with the interface of a vector environment."""

    def __init__(self, makers):
        packed = [CloudpickleWrapper(maker) for maker in makers]
        task = pickle.loads(pickle.dumps(WorkerTask(packed, 0, len(makers))))
        self.slice, self.memory = EnvSlice(task, anonymous_file()), None
        self.make()

    def guarded(self, work):
        """As `serve` answers and as the parent raises it."""
        try:
            return work()
        except BaseException as error:
            fault = _fault(error, 0)
            raise (RuntimeError(fault.reason) if fault.hint is None else UserError(fault.reason, fault.hint)) from error

    def make(self):
        made = self.guarded(self.slice.make)
        SharedArrays(self.slice.memory, *made.spaces[0], len(made.spaces))  # gives the file its size

    def reset(self, seed):
        return self.guarded(lambda: self.slice.reset({i: seed + i for i in range(len(self.slice.envs))}, None, {}))

    def step(self):
        self.slice.shared.action[:] = np.eye(self.slice.shared.action.shape[-1])[0]
        return self.guarded(self.slice.step)

    def close(self):
        return self.slice.close()


class Local:
    """The same for environments in this process."""

    def __init__(self, makers):
        assert len({id(maker) for maker in makers}) == 1
        self.envs = make_vector(makers[0].args[0], len(makers), backend="sync")

    def reset(self, seed):
        return self.envs.reset(seed=seed)[1]

    def step(self):
        return self.envs.step(np.eye(self.envs.single_action_space.shape[0])[[0] * self.envs.num_envs])[-1]

    def close(self):
        self.envs.close()
        return self.envs.take_notes()


def view(make):
    return AgentView(make_env(make))


@pytest.fixture(params=[Local, Slice], ids=["sync", "async"])
def vector(request):
    """vector(maker, count) -> environments of either backend."""
    return lambda make, count=1: request.param([partial(view, make)] * count)


def play(envs, steps=LATE + 3):
    """The infos of a reset and so many steps."""
    return [envs.reset(1), *(envs.step() for _ in range(steps))]


# --------------------------------------------------------------------------------------------------------- the contract

#: what the environment does -> words of the sentence
VIOLATIONS = {
    "extra axis": ({"obs": np.zeros((1, 3), np.float32)}, ["'observation' has shape (1, 3)", "says (3,)"]),
    "scalar for a vector": ({"obs": np.float32(0)}, ["has shape ()"]),
    "ragged": ({"obs": [[1, 2], [3]]}, ["'observation' is", "not numbers"]),
    "text": ({"obs": "left"}, ["'left' (str)", "not numbers"]),
    "None": ({"obs": lambda self: None}, ["'observation' is None"]),
    "complex": ({"obs": np.zeros(3, complex)}, ["not numbers"]),
    "objects": ({"obs": np.array([None] * 3)}, ["not numbers"]),
    "dict for a vector": ({"obs": {"x": 1}}, ["not numbers"]),
    "NaN": ({"obs": np.float32([0, np.nan, 0])}, ["'observation' contains NaN", "first at [1]"]),
    "infinite": ({"obs": np.array([0, 0, np.inf])}, ["contains infinity"]),
    "beyond float32": ({"obs": np.array([0, 1e300, 0])}, ["contains 1e+300", "float32"]),
    "reward None": ({"reward": lambda self: None}, ["the reward is None"]),
    "reward (1,)": ({"reward": np.ones(1)}, ["the reward is array([1.])"]),
    "reward vector": ({"reward": np.ones(2)}, ["the reward is"]),
    "reward text": ({"reward": "1.0"}, ["the reward is '1.0' (str)"]),
    "reward complex": ({"reward": 1j}, ["the reward is 1j"]),
    "reward masked": ({"reward": np.ma.masked}, ["the reward is nan"]),
    "reward NaN": ({"reward": np.float64("nan")}, ["the reward is nan"]),
    "reward beyond float32": ({"reward": 1e300}, ["the reward is 1e+300", "float32"]),
    "reward beyond float": ({"reward": 10**400}, ["the reward is inf"]),
    "terminated None": ({"ended": lambda self: None}, ["terminated is None"]),
    "terminated text": ({"ended": "False"}, ["terminated is 'False' (str)"]),
    "truncated vector": ({"cut": np.zeros(2, bool)}, ["truncated is array"]),
    "truncated NaN": ({"cut": float("nan")}, ["truncated is nan"]),
    "4 values": ({"step": (np.zeros(3), 1.0, False, {})}, ["step returns 4 values, as in the old gym"]),
    "2 values": ({"step": (np.zeros(3), 1.0)}, ["step returns a tuple of 2, not 5 values"]),
    "nothing": ({"step": lambda self: None}, ["step returns a NoneType"]),
}


@pytest.mark.parametrize("since", [1, LATE])
@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_is_a_sentence_with_its_step(vector, name, since):
    parts, words = VIOLATIONS[name]
    envs = vector(partial(Task, since=since, **parts))
    with pytest.raises(UserError) as caught:
        play(envs)
    assert not isinstance(caught.value, EnvironmentFailed)
    for word in [*words, f"at step {since}"]:
        assert word in caught.value.message
    assert caught.value.hint


RESETS = {
    "observation alone": ({"reset": np.zeros(3, np.float32)}, "reset returns a ndarray, not (observation, info)"),
    "three values": ({"reset": (np.zeros(3), {}, 1)}, "reset returns a tuple of 3"),
    "nothing": ({"reset": lambda self: None}, "reset returns a NoneType"),
    "a pair of numbers": ({"reset": (1, 2), "space": spaces.MultiDiscrete([3, 3])}, "reset returns a tuple of 2"),
    "NaN": ({"obs": np.float32([np.nan, 0, 0])}, "contains NaN at step 0"),
    "extra axis": ({"obs": np.zeros((1, 3))}, "has shape (1, 3) at step 0"),
    "state as array": ({"obs": np.array([1]), "space": spaces.Discrete(3)}, "has shape (1,) at step 0"),
    "tuple alone": (
        {"reset": (0, 1), "space": spaces.Tuple([spaces.Discrete(3), spaces.Discrete(3)])},
        "reset returns a tuple of 2, not (observation, info)",
    ),
    "missing key": ({"obs": {"a": 1}, "space": spaces.Dict(a=spaces.Discrete(3), b=VECTOR)}, "lacks 'b' at step 0"),
}


@pytest.mark.parametrize("name", RESETS)
def test_a_reset_that_breaks_the_contract_is_a_sentence(vector, name):
    parts, words = RESETS[name]
    with pytest.raises(UserError) as caught:
        play(vector(partial(Task, **parts)), 2)
    assert words in caught.value.message


class NoSeed(Task):
    def reset(self):
        return super().reset()


class Positional(Task):
    def reset(self, seed):
        return super().reset()


@pytest.mark.parametrize("make", [partial(NoSeed, action=VECTOR), partial(Positional, action=VECTOR)])
def test_a_reset_without_the_arguments_is_a_sentence(vector, make):
    with pytest.raises(UserError, match=r"does not take '(seed|options)'"):
        play(vector(make), 2)


@pytest.mark.parametrize("make", [NoSeed, lambda: gym.wrappers.TimeLimit(NoSeed(), 5)], ids=["plain", "limited"])
def test_a_reset_without_the_arguments_is_a_sentence_where_masks_are_looked_for(vector, make):
    with pytest.raises(UserError, match=r"reset of NoSeed does not take '(seed|options)'"):
        play(vector(make), 2)


def refuse(self, *_):
    raise ValueError("not now")


#: Attributes with a meaning of their own elsewhere, as an environment may have them.
ODD_ATTRIBUTES = {
    "unwrapped raises": ("unwrapped", property(refuse)),
    "unwrapped is None": ("unwrapped", None),
    "is_adapter": ("is_adapter", True),
    "notes": ("notes", 5),
    "agent_spec": ("agent_spec", None),
    "action_masks": ("action_masks", 5),
    "action_masks raises": ("action_masks", property(refuse)),
    "spec raises": ("spec", property(refuse)),
    "metadata raises": ("metadata", property(refuse)),
    "render_mode raises": ("render_mode", property(refuse, lambda self, mode: None)),
    "no length": ("__len__", lambda self: 0),
    "unprintable": ("__repr__", refuse),
}


@pytest.mark.parametrize("name", ODD_ATTRIBUTES)
def test_attributes_that_mean_something_else_do_not_matter(vector, name):
    kind = type("Own", (Task,), dict([ODD_ATTRIBUTES[name]]))
    envs = vector(kind, 2)
    assert len(play(envs, 60)) == 61
    envs.close()
    assert "Own" not in str(check_env(kind, steps=20).findings)


@pytest.mark.parametrize("result", [None, 5, "text", {"x": 1}])
def test_an_info_of_any_kind_gives_no_warning_of_another_library(vector, result, recwarn):
    play(vector(partial(Task, reset_info=result, info=result)), 2)
    assert not recwarn.list


def test_the_sentence_about_other_spaces_names_the_one_that_differs():
    spaces_by_turn = [spaces.Dict(a=VECTOR, b=VECTOR), spaces.Dict(a=VECTOR, b=spaces.Discrete(4))]
    with pytest.raises(UserError, match=r"observation 'b' is Box\(.*\(4,\).* instead of Box\(.*\(3,\)") as caught:
        make_vector(lambda: Task(space=spaces_by_turn.pop(0)), 2)
    assert "'a'" not in caught.value.message
    actions = [spaces.Discrete(2), spaces.Discrete(3)]
    with pytest.raises(UserError, match=r"actions of \(3,\) numbers instead of \(2,\)"):
        make_vector(lambda: Task(action=actions.pop(0)), 2)


@pytest.mark.parametrize("space", [None, "Box", [VECTOR]])
def test_what_is_no_space_is_a_sentence(vector, space):
    with pytest.raises(UserError, match=r"observation_space of the environment is .*, not a Gymnasium space"):
        vector(lambda: type("Odd", (Task,), {"__init__": lambda self: setattr(self, "observation_space", space)})())


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"space": spaces.Discrete(3), "obs": 3}, "'observation' is 3 at step 0, outside of Discrete(3)"),
        ({"space": spaces.MultiDiscrete([2, 2]), "obs": np.array([0, 2])}, "outside of MultiDiscrete"),
        ({"space": PICTURE, "obs": np.full((20, 24, 3), 0.5)}, "the agent would see black"),
        ({"space": spaces.Box(0, 1, PICTURE.shape), "obs": np.full((20, 24, 3), 200.0)}, "holds floats up to 200"),
        ({"space": spaces.Box(0, 1, PICTURE.shape), "obs": np.full((20, 24, 3), np.nan)}, "contains NaN"),
    ],
)
def test_the_first_observations_get_the_essential_checks(vector, parts, words):
    with pytest.raises(UserError) as caught:
        play(vector(partial(Task, **parts)), 2)
    assert words in caught.value.message


@pytest.mark.parametrize(
    "parts",
    [
        {"reward": 1},
        {"reward": np.float32(1)},
        {"reward": True},
        {"reward": np.array(1.0)},
        {"ended": 0, "cut": np.bool_(False)},
        {"cut": np.array(False)},
        {"obs": [0.0, 0.5, 1.0]},
        {"obs": np.zeros(3, np.float64)},
        {"obs": (0, 1, 0)},
        {"step": lambda self: [np.zeros(3), 1.0, False, False, {}]},
        {"metadata": None},
        {"metadata": {"render_modes": None, "tool": lambda: 0}},
        {"space": spaces.Dict(a=VECTOR, none=spaces.Box(-1, 1, (0,))), "obs": {"a": np.zeros(3), "none": np.zeros(0)}},
        {"action": spaces.Dict(a=spaces.Discrete(2), none=spaces.Box(-1, 1, (0,)))},
    ],
)
def test_what_has_one_meaning_is_taken(vector, parts):
    assert not any(play(vector(partial(Task, **parts), 2), 3))


def test_an_empty_action_gets_its_empty_array_and_only_that_is_refused():
    env = AgentView(Task(action=spaces.Dict(a=spaces.Discrete(2), none=spaces.Box(-1, 1, (0,)))))
    assert env.agent_spec.action.size == 2
    assert env.agent_spec.action.decode_one(np.float32([0, 1]))["none"].shape == (0,)
    with pytest.raises(UserError, match="takes no action"):
        AgentView(Task(action=spaces.Box(-1, 1, (0,))))


# ------------------------------------------------------------------------------------------------ exceptions, wrappers


@pytest.mark.parametrize("fault", [fail, leave, lambda self: next(iter(()))])
@pytest.mark.parametrize("name", ["step", "reset", "info"])
def test_an_exception_of_the_environment_is_a_sentence_with_its_line(name, fault):
    with pytest.raises(EnvironmentFailed, match=r"raises (ValueError|SystemExit|StopIteration).*test_border.py:\d+"):
        play(Local([partial(view, partial(Task, since=int(name != "reset"), **{name: fault}))]), 2)


class PanicException(BaseException):
    """As extensions in Rust raise it (`pyo3_runtime.PanicException`)."""


#: Raised by user code and caught by no `except Exception`.
NO_EXCEPTIONS = [PanicException("index out of bounds"), asyncio.CancelledError(), GeneratorExit(), SystemExit(0)]


def raise_it(error, *_):
    raise error


@pytest.mark.parametrize("error", NO_EXCEPTIONS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("name", ["make", "reset", "step", "info", "reward", "close"])
def test_what_is_no_exception_is_one_of_the_environments_faults(vector, name, error):
    fault = partial(raise_it, error)
    reward = type("Own", (), {"__float__": fault, "__repr__": fault})()
    parts = {name: reward if name == "reward" else fault}
    make = fault if name == "make" else partial(Task, since=int(name != "reset"), **parts)
    if name == "close":
        envs = vector(make)
        play(envs)
        assert any(type(error).__name__ in note for note in envs.close())
        return
    with pytest.raises((UserError, RuntimeError), match=type(error).__name__):
        play(vector(make))


@pytest.mark.parametrize("error", NO_EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_what_is_no_exception_in_a_drawing_an_attribute_or_a_check_is_left_out_or_told(error):
    fault = partial(raise_it, error)
    with pytest.raises(EnvironmentFailed, match=f"render raises {type(error).__name__}"):
        AgentView(Task(render=fault)).render()
    kind = type("Own", (Task,), {"metadata": property(fault), "action_masks": property(fault)})
    AgentView(kind()).reset(seed=0)
    for parts in (
        {"step": fault},
        {"reset": fault},
        {"close": fault},
        {"obs": type("Own", (), {"__array__": fault})()},
    ):
        report = check_env(partial(Task, **parts), steps=20)
        assert report.findings
        assert "bug of reverie" not in str(report)


class Handler:
    """Handlers of a signal that end the program, in the forms that Python allows."""

    def __call__(self, number, frame):
        raise SystemExit(7)

    def method(self, number, frame):
        raise SystemExit(7)

    def early(self, ours, number, frame):
        raise SystemExit(7)


def leave_by_signal(number, frame):
    raise PanicException("a signal")


HANDLERS = {
    "function": leave_by_signal,
    "lambda": lambda number, frame: raise_it(SystemExit(7)),
    "method": Handler().method,
    "object": Handler(),
    "partial": partial(Handler().early, 1),
    "partial of an object": partial(Handler()),
}


@pytest.mark.parametrize("name", HANDLERS)
@pytest.mark.parametrize("call", ["reset", "step", "render", "close"])
def test_what_a_signal_handler_raises_ends_the_program_wherever_it_comes(name, call):
    def play():
        env = AgentView(Task(since=int(call == "step"), **{call: lambda self: signal.raise_signal(signal.SIGUSR1)}))
        getattr(env, call)(*[np.zeros(2)] if call == "step" else [])

    before = signal.signal(signal.SIGUSR1, HANDLERS[name])
    try:
        with pytest.raises(PanicException if name == "function" else SystemExit) as caught:
            play()
        assert getattr(caught.value, "code", 7) == 7
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Stopped("SIGTERM")])
def test_ctrl_c_and_the_end_of_a_run_pass(error):
    env = AgentView(Task(step=partial(raise_it, error)))
    with pytest.raises(type(error)):
        env.step(np.zeros(2))


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no SIGALRM here")
def test_an_alarm_of_the_environments_own_is_its_fault():
    def too_late(number, frame):
        raise TimeoutError("the simulator is slow")

    before = signal.signal(signal.SIGALRM, too_late)
    try:
        env = AgentView(Task(step=lambda self: signal.raise_signal(signal.SIGALRM)))
        with pytest.raises(EnvironmentFailed, match="the simulator is slow"):
            env.step(np.zeros(2))
    finally:
        signal.signal(signal.SIGALRM, before)


async def make_later():
    return Task()


class Gone(dict):
    """An info or a log that another machine holds, which has gone."""

    def _raise(self, *_):
        raise ConnectionError("gone")

    get = items = __contains__ = __getitem__ = __iter__ = _raise


class Proxy:
    def __getattr__(self, name):
        raise ConnectionError(f"no {name}")


@pytest.mark.parametrize(
    ("info", "noted"),
    [
        (lambda self: Gone(a=1), 2),  # of reset and of step
        (lambda self: Gone(action_mask=[1, 1]), 2),
        (lambda self: {"log": Gone(a=1)}, 1),
        (lambda self: {"log": {"a": Proxy()}}, 1),
    ],
)
def test_infos_that_raise_are_left_out_with_a_note(vector, info, noted):
    envs = vector(partial(Task, info=info, reset_info=info))
    found = " ".join(str(news) for news in play(envs, 101))
    assert found.count(" is left out") == noted
    assert "raises ConnectionError (gone) in" in found or "is not a finite number" in found


def test_an_info_of_a_class_of_its_own_is_read_as_a_dict_is():
    env = AgentView(Task(info=collections.OrderedDict(log={"a": 1}), reset_info=collections.defaultdict(int)))
    env.reset(seed=0)
    assert env.step(np.eye(2)[0])[-1] == {"log": {"a": 1}}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"reward": lambda self: Proxy()}, "the reward is of type Proxy at step 1, not a number"),
        ({"ended": lambda self: Proxy()}, "terminated is of type Proxy at step 1, not a bool"),
        ({"step": lambda self: Proxy()}, "step returns a Proxy, not 5 values at step 1"),
        ({"obs": lambda self: Proxy()}, "'observation' is of type Proxy at step 1, not numbers"),
    ],
)
def test_a_value_whose_attributes_raise_is_a_sentence(vector, parts, words):
    with pytest.raises(UserError, match=re.escape(words)):
        play(vector(partial(Task, since=1, **parts)))


@pytest.mark.parametrize("mask", [[np.nan, 1], np.array([1, np.nan]), (float("nan"), 0)])
def test_a_mask_of_nan_is_a_sentence(vector, mask):
    with pytest.raises(UserError, match="the action mask contains NaN at step 1"):
        play(vector(partial(Task, reset_info={"action_mask": [1, 1]}, info={"action_mask": mask})))


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no")


def raise_unprintable(self):
    raise Unprintable


def test_an_exception_that_cannot_be_printed_is_named(vector):
    with pytest.raises((EnvironmentFailed, RuntimeError), match="Unprintable"):
        play(vector(partial(Task, since=1, step=raise_unprintable)), 2)


def test_in_a_worker_it_is_a_fault_that_may_not_come_again():
    envs = Slice([partial(view, partial(Task, since=2, step=fail))])
    envs.reset(1)
    envs.step()
    with pytest.raises(RuntimeError, match=r"^ValueError: the motor is hot"):
        envs.step()


@pytest.mark.parametrize("wrap", [lambda env: gym.wrappers.TimeLimit(env, 9), gym.wrappers.PassiveEnvChecker])
@pytest.mark.parametrize(
    "parts", [{"step": (np.zeros(3, np.float32), 1.0, False, {})}, {"reset": np.zeros(3, np.float32)}]
)
def test_a_wrapper_that_fails_on_the_values_does_not_hide_them(vector, wrap, parts):
    with pytest.raises(UserError, match=r"step returns 4 values|reset returns a ndarray"):
        play(vector(lambda: wrap(Task(**parts))), 2)


def test_an_action_repeat_does_not_hide_them_either():
    env = AgentView(make_env(partial(Task, reward=lambda self: None), action_repeat=2))
    env.reset()
    with pytest.raises(UserError, match="the reward is None at step 1"):
        env.step(np.float32([1, 0]))


def needs(size):
    return Task()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (needs, "cannot be called without arguments"),
        (lambda: None, "got builtins.NoneType"),
        (lambda: "CartPole-v1", "got builtins.str"),
        (lambda: Task, "the class Task is not an environment yet"),
        (lambda: gym.make_vec("CartPole-v1", 2), "it is a vector of 2 environments"),
        (make_later, "is an async function, which returns a coroutine"),
        (lambda: type("Parallel", (), {"possible_agents": ["a", "b"]})(), "several agents"),
    ],
)
def test_a_function_that_makes_no_environment_is_a_sentence(vector, make, words):
    with pytest.raises(UserError) as caught:
        vector(make)
    assert words in caught.value.message


def test_a_function_that_raises_is_a_sentence_with_its_line():
    with pytest.raises(
        EnvironmentFailed, match=r"making .* raises ValueError \(the motor is hot\) in .*test_border.py:"
    ):
        make_vector(lambda: fail(None), 1)


# -------------------------------------------------------------------------------------------- infos, drawing, closing

INFOS = [
    {"crashed": True},
    {"log": None},
    {"_log": np.zeros(2), "final_info": [1], "logs": 3, "notes": "x", "episode": {"r": 1}},
    {"legal": [[1], [1, 2]], "goal": None, 3: {}},
]


@pytest.mark.parametrize("info", INFOS)
def test_the_infos_of_an_environment_are_its_own(vector, info):
    envs = vector(lambda: Task(info=info, ended=True), 2)
    assert not any(play(envs, 6))


@pytest.mark.parametrize("info", [None, 3, "text", [("a", 1)]])
def test_an_info_that_is_no_dict_is_left_out_with_a_note(vector, info):
    notes = [found for found in play(vector(lambda: Task(info=lambda self: info), 1), 5) if found]
    assert len(notes) == 1
    assert "not a dict: it is left out" in str(notes)


@pytest.mark.parametrize(
    ("log", "kept", "noted"),
    [
        ({"a": 1, "b": np.float32(0.5), "c": np.array([2]), "d": True}, {"a": 1, "b": 0.5, "c": 2, "d": 1}, 0),
        ({"a": 1, "b": "text", "c": {"d": 1}, "e": [1, 2], "f": None}, {"a": 1}, 4),
        ({"a": np.nan, "b": np.inf, "c": 10**400}, {}, 3),
        ("door opened", {}, 1),
        ([1, 2], {}, 1),
        ({3: 1.0, "esc\x1b[2J": 2.0}, {"3": 1, "esc?[2J": 2}, 0),
        ({}, {}, 0),
    ],
)
def test_the_numbers_of_a_log_are_kept_and_the_rest_is_noted(log, kept, noted):
    notes = Notes()
    assert episode_log({"log": log}, notes) == kept
    assert len(notes.take()) == noted


def test_each_environment_has_its_own_log(vector):
    info = lambda self: {"log": {"success": 1.0}} if self.np_random_seed == 1 else {}  # noqa: E731
    infos = play(vector(lambda: Task(ended=True, info=info), 2), 1)[-1]
    logs = infos["logs"] if isinstance(infos, dict) else infos.logs
    assert logs == {0: {"success": 1.0}}


@pytest.mark.parametrize(
    ("drawn", "level", "shape"),
    [
        (np.full((8, 9, 3), 0.5), 128, (8, 9, 3)),
        (np.full((8, 9), 100, np.uint8), 100, (8, 9, 1)),
        (np.full((3, 8, 9), 100, np.int64), 100, (8, 9, 3)),
        (np.full((8, 9, 4), 100.0, np.float32), 100, (8, 9, 4)),
        ([np.zeros((8, 9, 3), np.uint8), np.full((8, 9, 3), 7, np.uint8)], 7, (8, 9, 3)),
        (np.ones((8, 9, 1), bool), 255, (8, 9, 1)),
    ],
)
def test_what_is_drawn_becomes_an_image(drawn, level, shape):
    image = AgentView(Task(render=lambda self: drawn)).render()
    assert (image.dtype, image.shape) == (np.uint8, shape)
    assert abs(float(image.mean()) - level) < 1


@pytest.mark.parametrize(
    "drawn", [None, [], "ascii", np.zeros(5), np.zeros((0, 4, 3)), np.zeros((2, 3, 4, 5)), np.array([object()] * 4)]
)
def test_what_is_no_image_is_named(drawn):
    with pytest.raises(UserError, match=r"render returns .*, not an image"):
        AgentView(Task(render=lambda self: drawn)).render()


def test_floats_of_one_video_have_one_scale():
    env = AgentView(Task(render=lambda self: np.full((8, 9, 3), [0.5, 90.0, 0.5][self.steps])))
    env.reset()
    levels = [float(env.render().mean())]
    for _ in range(2):
        env.step(np.float32([1, 0]))
        levels.append(float(env.render().mean()))
    assert [round(level) for level in levels] == [128, 90, 0]
    assert image_of(np.ones((2, 2, 3)), 1.0).max() == 1


@pytest.mark.parametrize("fault", [fail, leave])
def test_closing_never_raises_and_is_noted(vector, fault):
    envs = vector(lambda: Task(close=fault), 2)
    envs.reset(1)
    assert "close of the environment raises" in str(envs.close())


# ------------------------------------------------------------------------------------------------------- action masks

MASK = {"action_mask": np.array([1, 1, 0], np.int8)}
THREE = spaces.Discrete(3)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"info": MASK}, "step returns info['action_mask'] at step 1, but reset does not"),
        ({"info": MASK, "since": 3}, "at step 3, but reset does not"),
        ({"reset_info": MASK}, "info has no 'action_mask' at step 1"),
        ({"reset_info": MASK, "info": lambda self: MASK if self.t < 5 else {}}, "no 'action_mask' at step 5"),
        ({"reset_info": MASK, "info": {"action_mask": "all"}}, "at step 1"),
        ({"reset_info": MASK, "info": {"action_mask": np.zeros(3)}}, "forbids every action at step 1"),
        ({"reset_info": MASK, "info": {"action_mask": np.ones(2)}}, "has 2 entries for 3 choices at step 1"),
    ],
)
def test_a_mask_that_comes_now_and_then_is_refused(vector, parts, words):
    with pytest.raises(UserError) as caught:
        play(vector(partial(Task, action=THREE, **parts)), 9)
    assert words in caught.value.message


def test_a_mask_of_the_observation_that_forbids_everything_is_refused(vector):
    space = spaces.Dict(x=VECTOR, action_mask=spaces.MultiBinary(3))
    obs = {"x": np.zeros(3, np.float32), "action_mask": np.zeros(3, np.int8)}
    with pytest.raises(UserError, match="forbids every action at step 0"):
        play(vector(partial(Task, space=space, obs=lambda self: obs, action=THREE)), 2)


def test_a_mask_may_be_missing_where_an_episode_ends(vector):
    info = lambda self: {} if self.t >= 50 else MASK  # noqa: E731
    assert not any(play(vector(partial(Task, action=THREE, reset_info=MASK, info=info)), 60))


def test_masks_can_be_left_alone():
    env = AgentView(Task(action=THREE, info=MASK), action_mask="none")
    env.reset()
    assert set(env.step(np.float32([1, 0, 0]))[0]) == {"observation"}


# --------------------------------------------------------------------------------------------- one object, two users


def test_one_object_cannot_be_two_environments(vector):
    env = Task()
    for make in (lambda: env, lambda: gym.wrappers.TimeLimit(env, 9)):
        if vector.__closure__[0].cell_contents.param is Local:
            with pytest.raises(UserError, match="returned the same Task twice"):
                vector(make, 2)
        else:
            vector(make, 2)  # each worker's function has its own copy


def test_environments_with_other_spaces_are_refused_in_both_backends(vector):
    made = []

    def make():
        made.append(1)
        return Task(space=spaces.Box(-1, 1, (len(made),)))

    if vector.__closure__[0].cell_contents.param is Local:
        with pytest.raises(UserError, match="environment 1 has other spaces than environment 0"):
            vector(make, 2)


def test_rewards_are_exact():
    assert number_of(np.float32(0.1), "") == float(np.float32(0.1))
    assert number_of(-3.4e38, "") == -3.4e38


class Color(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


#: Keys of a Dict space -> do they work in observations, and in actions?
DICT_KEYS = {
    "text": ("a", True, True),
    "text of NumPy": (np.str_("a"), True, True),
    "whole number": (0, True, False),
    "whole number of NumPy": (np.int64(3), True, False),
    "member of an IntEnum": (Number.ONE, True, False),
    "member of an Enum": (Color.RED, False, False),
    "tuple": (("a", 1), False, False),
    "float": (0.5, False, False),
    "None": (None, False, False),
    "bytes": (b"a", False, False),
    "half a character": ("\ud800", False, False),
}


@pytest.mark.parametrize("part", ["observation", "action"])
@pytest.mark.parametrize("kind", DICT_KEYS)
def test_keys_that_no_file_can_hold_are_refused_before_anything_is_learnt(vector, kind, part):
    key, *works = DICT_KEYS[kind]
    space, value = spaces.Dict([(key, spaces.Discrete(2))]), {key: 1}
    make = partial(Task, space=space, obs=value) if part == "observation" else partial(Task, action=space)
    if works[part == "action"]:
        view = AgentView(make_env(make))
        assert view.agent_spec == Spec.from_dict(json.loads(json.dumps(view.agent_spec.to_dict())))
        play(vector(make), 2)
        return
    with pytest.raises(UserError, match=r"has the key .*(to a file|not text)\. Use text as keys"):
        vector(make)
    assert "the key" in str(check_env(make, steps=5))


@pytest.mark.parametrize("empty", [spaces.Dict({}), spaces.Tuple(())])
@pytest.mark.parametrize("nest", [lambda x: spaces.Dict(a=VECTOR, b=x), lambda x: spaces.Tuple((x, VECTOR))])
def test_an_empty_part_of_an_action_is_refused(vector, empty, nest):
    with pytest.raises(UserError, match=r"the action space '(b|0)' is empty"):
        vector(partial(Task, action=nest(empty)))


HUGE = [spaces.Discrete(2**40), spaces.MultiDiscrete([3, 10**9]), spaces.Dict(a=spaces.Discrete(2**21))]


def test_an_action_of_too_many_numbers_is_a_sentence(vector):
    with pytest.raises(UserError, match=r"the action has 12,000,000 values"):
        vector(partial(Task, action=spaces.Box(0, 255, (2000, 2000, 3), np.uint8)))


@pytest.mark.parametrize("part", ["space", "action"])
@pytest.mark.parametrize("huge", HUGE)
def test_a_choice_of_too_many_values_is_a_sentence(vector, part, huge):
    with pytest.raises(UserError, match=r"(the action|observation).* has [\d,]+ values, each of which"):
        vector(partial(Task, **{part: huge}))


@pytest.mark.parametrize(
    ("image", "bright"),
    [
        (np.full((4, 4, 3), np.nan), False),
        (np.where(np.eye(4) > 0, np.nan, 0.5), False),
        (np.where(np.eye(4) > 0, np.nan, 200.0), True),
        ([np.full((4, 4, 3), np.inf)], True),
        (np.zeros((0, 4, 3)), False),
        (np.full((4, 4, 3), 255, np.uint8), False),
        (None, False),
        ([[1.0], [2.0, 3.0]], True),
    ],
)
def test_drawings_of_floats_are_bright_beyond_1_whatever_else_they_hold(image, bright):
    with np.errstate(all="raise"):
        assert is_bright(image) == bright


# -------------------------------------------------------------------------------------------------------------- limits


class Foreign:
    """A wrapper of no package: it has an `env`, and whatever else is given."""

    def __init__(self, env, **given):
        self.env = env
        self.__dict__.update(given)


class Closed(gym.Wrapper):
    """Whoever asks it for its spec or for a limit gets an exception, and not only an Exception."""

    @property
    def spec(self):
        raise SystemExit("no spec")

    @property
    def _max_episode_steps(self):
        raise RuntimeError("no limit")


def cut(env, steps):
    return gym.wrappers.TimeLimit(env, steps)


def counting(steps):
    env = Task()
    env.max_steps = steps
    return env


def specified(steps):
    env = Task()
    env.spec = gym.envs.registration.EnvSpec("Task-v0", max_episode_steps=steps)
    return env


def own_wrapper(steps):
    env = Task()
    env.env = cut(Task(), steps)  # a subclass of Env that passes everything on, which many write
    return env


@pytest.mark.parametrize(("make", "steps"), [
    (Task, 0),
    (lambda: cut(Task(), 30), 30),
    (lambda: gym.wrappers.TimeAwareObservation(gym.wrappers.RecordEpisodeStatistics(cut(Task(), 30))), 30),
    (lambda: cut(cut(Task(), 30), 90), 30),
    (lambda: cut(cut(Task(), 90), 30), 30),
    (lambda: Closed(cut(Task(), 30)), 30),
    (lambda: Closed(Closed(gym.make("CartPole-v1"))), 500),
    (lambda: Foreign(cut(Task(), 30)), 30),
    (lambda: Foreign(Foreign(Task(), _max_episode_steps=np.int64(30))), 30),
    (lambda: own_wrapper(30), 30),
    (lambda: gym.make("CartPole-v1"), 500),
    (lambda: gym.make("CartPole-v1", max_episode_steps=30), 30),
    (lambda: cut(gym.make("CartPole-v1").unwrapped, 900), 900),  # longer than registered
    (lambda: gym.make("CartPole-v1").unwrapped, 0),
    (lambda: Closed(specified(30)), 30),
    (lambda: Foreign(Foreign(specified(30))), 30),
    (lambda: counting(30), 30),
    (lambda: cut(counting(30), 90), 30),
    (lambda: cut(counting(90), 30), 30),
])  # fmt: skip
def test_the_limit_of_an_episode_is_found_behind_every_wrapper(make, steps):
    assert limit_of(make()) == steps


@pytest.mark.parametrize("limit", [None, 0, -1, True, False, "30", float("inf"), float("nan"), [30], np.zeros(3), len])
def test_what_is_no_number_of_steps_is_no_limit(limit):
    assert limit_of(Foreign(Task(), _max_episode_steps=limit)) == 0
    assert limit_of(Foreign(Task(), _max_episode_steps=limit, spec=Foreign(None, max_episode_steps=limit))) == 0
    assert limit_of(counting(limit)) == 0
    assert limit_of(Foreign(cut(Task(), 30), _max_episode_steps=limit)) == 30


def test_wrappers_in_a_circle_and_without_end_have_an_end():
    round_about = Foreign(None, _max_episode_steps=7)
    round_about.env = Foreign(round_about)
    assert limit_of(round_about) == 7

    class Endless:
        @property
        def env(self):
            return Endless()

    assert limit_of(Endless()) == 0


def test_check_env_knows_the_limit_of_a_wrapper():
    def never(steps):
        return check_env(lambda: cut(Task(ended=False), steps), steps=300)

    assert "the limit is 5,000" in str(never(5000))
    assert "the limit is" not in str(check_env(lambda: Task(ended=False), steps=300))
