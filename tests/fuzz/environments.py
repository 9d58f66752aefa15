"""Random environments through training, evaluation, a player, `check_env`, save and load: no traceback, no hang.

    python -m tests.fuzz.environments --count 200 --seed 0

Each seed gives one environment: spaces of all kinds, and none to three oddities, such as users' environments have:
values in other forms, infos and drawings of any kind, exceptions at any call. A sound one must train; an odd one either
trains or ends with one sentence (UserError) that names the oddity, and what was learnt until then is in a checkpoint.
A few are stepped in worker processes. A faulty case is printed with its seed, which repeats it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import fractions
import io
import locale
import logging
import os
import random
import signal
import sys
import tempfile
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from tests.fuzz.cases import from_command_line, try_seeds
from tests.fuzz.limits import HangError, limited

SECONDS = 60  # of one stage of a case, of computing
LENGTH = 9  # steps of an episode
QUICK = {
    "cnn_depth": 1, "rnn_hidden_dim": 4, "hidden_dim": 4, "num_categoricals": 2, "num_categories": 2, "prefill": 24,
    "train.batch_size": 2, "train.seq_len": 4, "log.tensorboard": False, "replay_capacity": 1000, "env_steps": 44,
    "eval_episodes": 1, "train_ratio": 0.2, "env.worker_timeout": 20.0, "imagination_horizon": 2,
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- spaces


def image_space(rng: random.Random) -> spaces.Box:
    """An image in some layout, size and type."""
    side, other = rng.choice([(16, 16), (17, 20), (24, 18)])
    shapes = [(side, other, 3), (side, other, 1), (side, other, 4), (3, side, other), (side, other)]
    shape = rng.choice([*shapes, (4, side, other, 3), (4, side, other, 1), (4, side, other)])
    high, dtype = rng.choice(
        [(255, np.uint8)] * 4 + [(1, np.float32), (255, np.float32), (1, np.float64), (255, np.int32), (255, np.uint16)]
    )
    return spaces.Box(0, high, shape, dtype)


def box_space(rng: random.Random) -> spaces.Box:
    """Numbers of some shape and type, with or without limits."""
    shape = rng.choice([(), (1,), (3,), (2, 3), (2, 1, 2), (20,)])
    kind = rng.choice(["float32", "float32", "float64", "float16", "int8", "int32", "int64", "uint16", "bool"])
    if kind == "bool":
        return spaces.Box(0, 1, shape, np.bool_)
    if not kind.startswith("float"):
        return spaces.Box(rng.choice([0, 1]), rng.choice([1, 9, 100]), shape, np.dtype(kind))
    low, high = rng.choice([(-1, 1), (0, 1), (-5, 3), (-np.inf, np.inf), (0, np.inf), (-np.inf, 2), (-1e4, 1e4)])
    return spaces.Box(low, high, shape, np.dtype(kind))


def choice_space(rng: random.Random) -> spaces.Space:
    """One or several choices."""
    kind = rng.randrange(6)
    if kind < 2:
        return spaces.Discrete(rng.choice([1, 2, 3, 5]), start=rng.choice([0, 0, 1, -3]))
    if kind == 2:
        return spaces.MultiDiscrete([rng.randint(1, 4) for _ in range(rng.randint(1, 3))])
    if kind == 3:
        return spaces.MultiDiscrete(np.array([[2, 3], [1, 2]]))
    if kind == 4:
        return spaces.MultiDiscrete([2, 4], start=[1, -2])
    return spaces.MultiBinary(rng.choice([1, 3, (2, 2)]))


KEYS = ["a", "b", "image", "reward", "action", "is_first", "é", "with space", "a.b", "cam[0]", "x" * 120, "deter", "0"]


def nested(rng: random.Random, leaf: Callable[[random.Random], spaces.Space], depth: int = 2) -> spaces.Space:
    """A space with other ones inside, or a leaf."""
    if depth == 0 or rng.random() < 0.55:
        return leaf(rng)
    parts = [nested(rng, leaf, depth - 1) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.4:
        return spaces.Tuple(parts)
    return spaces.Dict(dict(zip(rng.sample(KEYS, len(parts)), parts, strict=True)))


def observation_space(rng: random.Random) -> spaces.Space:
    """Any that the library says it takes."""

    def leaf(rng: random.Random) -> spaces.Space:
        return rng.choice([box_space, box_space, choice_space, image_space])(rng)

    found = nested(rng, leaf)
    extra = rng.choice([spaces.Text(5), spaces.Box(0, 1, (0,), np.float32)])
    return spaces.Dict({"main": found, "left out": extra}) if rng.random() < 0.1 else found


def action_space(rng: random.Random) -> spaces.Space:
    """Any that the library says it takes."""

    def leaf(rng: random.Random) -> spaces.Space:
        if rng.random() < 0.6:
            return choice_space(rng)
        shape = rng.choice([(1,), (2,), (2, 2), ()])
        low, high, kind = rng.choice(
            [(-1, 1, "float32"), (0, 5, "float64"), (-np.inf, np.inf, "float32"), (-2, 2, "float16"), (0, 4, "int32"),
             (0, 255, "uint8"), (-50, 50, "int8"), (0, np.inf, "float32"), (0.5, 0.5, "float32")]
        )  # fmt: skip
        return spaces.Box(low, high, shape, np.dtype(kind))

    return nested(rng, leaf)


def value_of(space: spaces.Space, rng: np.random.Generator) -> Any:
    """A random value; of numbers without limits a moderate one."""
    if isinstance(space, spaces.Dict):
        return {key: value_of(inner, rng) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(value_of(inner, rng) for inner in space.spaces)
    if isinstance(space, spaces.Box):
        low, high = (np.nan_to_num(x.astype(np.float64), posinf=5, neginf=-5) for x in (space.low, space.high))
        drawn = rng.uniform(np.minimum(low, high), np.maximum(low, high) + (space.dtype.kind in "iub"))
        drawn = np.floor(drawn) if space.dtype.kind in "iub" else drawn
        return np.asarray(np.clip(drawn, low, high), space.dtype).reshape(space.shape)
    space.seed(int(rng.integers(2**31)))
    return space.sample()


# ------------------------------------------------------------------------------------------------------------ oddities


class UnprintableError(Exception):
    """An exception that raises when it is printed."""

    def __str__(self) -> str:
        raise ValueError("no text")


class OwnBaseError(BaseException):
    """One that `except Exception` does not catch."""


class Awkward:
    """A value that raises at whatever is done with it."""

    def _raise(self, *_: Any) -> Any:
        raise RuntimeError("awkward")

    __repr__ = __str__ = __float__ = __bool__ = __len__ = __iter__ = __array__ = __eq__ = _raise
    __hash__ = None


ERRORS: list[Callable[[], BaseException]] = [
    lambda: ValueError("the motor is hot"), lambda: KeyError("door"), lambda: AssertionError(), StopIteration,
    lambda: SystemExit(3), lambda: RuntimeError("x" * 5000), lambda: OSError(28, "No space left on device"),
    lambda: MemoryError("no memory"), RecursionError, UnprintableError, lambda: ExceptionGroup("g", [ValueError("a")]),
    lambda: np.linalg.LinAlgError("singular"), lambda: gym.error.ResetNeeded("reset"), lambda: TimeoutError("slow"),
    NotImplementedError, StopAsyncIteration, lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "odd"), EOFError,
    lambda: ModuleNotFoundError("No module named 'simulator'"), lambda: TypeError("unexpected keyword argument 'x'"),
    lambda: ConnectionResetError("gone"), lambda: FloatingPointError("overflow"), lambda: DeprecationWarning("old"),
    lambda: ValueError("\x1b]0;title\x07 \ud800"), lambda: asyncio.CancelledError("c"), GeneratorExit, OwnBaseError,
]  # fmt: skip
INFOS: list[Any] = [
    None, [], "text", 5, {"crashed": True}, {"log": "text"}, {"log": {"a": 1, "b": None, "c": [1, 2], 5: "x"}},
    {"log": {"x" * 500: 1.0, "\x1b[2J": 2.0, "return": 3.0, "seconds": float("inf")}}, {"notes": 5, "logs": 7},
    {"final_info": 3, "_final_info": None, "final_obs": 4}, {1: 2, (1, 2): 3}, {"x": np.zeros((2, 0))},
    {"y": Awkward()},
    {"episode": {"r": 1, "l": 2}}, {"log": Awkward()}, {"log": {"a": Awkward(), Awkward: 1}}, {"places": 1},
    types.MappingProxyType({"a": 1}), {"log": {"a": np.array([1.0]), "b": torch.tensor(2.0), "c": True, "d": 10**400}},
]  # fmt: skip
REWARDS: list[tuple[bool, Any]] = [  # (must be taken, reward)
    (True, 1), (True, True), (True, np.float32(1)), (True, np.float16(2)), (True, np.int64(3)), (True, np.bool_(True)),
    (True, np.array(1.5)), (True, torch.tensor(0.5)), (True, fractions.Fraction(1, 3)), (True, Decimal("0.1")),
    (True, 1e-40), (False, 1e38), (False, None), (False, "1"), (False, [1.0]), (False, np.array([1.0])),
    (False, np.zeros(2)), (False, float("nan")), (False, float("-inf")), (False, 1e39), (False, 10**400),
    (False, 1j), (False, {}), (False, Awkward()), (False, np.array("x")), (False, torch.zeros(2)),
    (False, np.datetime64("2020-01-01")), (False, np.ma.masked), (False, b"1"), (False, Decimal("NaN")),
]  # fmt: skip
FLAGS: list[tuple[bool, Any]] = [
    (True, 0), (True, np.bool_(False)), (True, np.int8(0)), (True, np.array(False)), (True, torch.tensor(False)),
    (False, np.array([False])), (False, None), (False, "no"), (False, 2), (False, []), (False, np.zeros(2)),
    (False, float("nan")), (False, Awkward()), (False, {}), (False, b""),
]  # fmt: skip
PICTURES: list[Any] = [
    None, [], np.zeros((8, 8), np.uint8), np.zeros((8, 9, 3), np.uint8), np.ones((8, 9, 3)), [np.zeros((8, 9, 3))] * 2,
    np.full((8, 9, 3), np.nan), "text", "\x1b[2J", np.zeros((3, 8, 9), np.int64), np.zeros((0, 5, 3), np.uint8),
    np.zeros((8, 9, 2), np.uint8), np.zeros((2, 3, 8, 9), np.uint8), Awkward(), np.zeros((1, 1, 3), np.uint8),
    np.zeros((2, 900, 4), np.uint8), [[1, 2], [3]], torch.zeros(8, 9, 3), np.array([["a"]]),
    np.zeros((8, 9, 3), bool), 1e300,
    np.full((8, 9, 3), 1e300), np.full((8, 9, 3), -5, np.int64), {"frame": 1}, (np.zeros((4, 4, 3), np.uint8), None),
]  # fmt: skip


def _ragged(value: Any) -> Any:
    return [[1], [1, 2]]


#: Forms in which an observation may come. (must be taken, change of an array)
FORMS: list[tuple[bool, Callable[[np.ndarray], Any]]] = [
    (True, lambda x: x.tolist()), (True, lambda x: np.asarray(x, order="F")), (True, lambda x: x.astype(x.dtype)),
    (True, lambda x: x if x.dtype.kind in "US" else torch.from_numpy(x)),  # torch has no strings
    (True, lambda x: np.lib.stride_tricks.as_strided(x, x.shape, x.strides, writeable=False)),
    (True, lambda x: x.astype(np.float64)), (True, lambda x: x.astype(x.dtype.newbyteorder())),
    (False, lambda x: x.astype(object)), (False, lambda x: x[None]), (False, lambda x: x.reshape(-1)[:0]),
    (False, lambda x: x.astype(complex)), (False, lambda x: x.astype(str)), (False, _ragged), (False, lambda x: None),
    (False, lambda x: "text"), (False, lambda x: x.astype(np.float64) * np.nan), (False, lambda x: x + np.inf),
    (False, lambda x: x.astype(np.float64) + 1e200), (False, lambda x: Awkward()), (False, lambda x: {"a": x}),
    (False, lambda x: np.ma.masked_array(x, True)), (False, lambda x: -1000 - x.astype(np.float64)),
    (False, lambda x: 0),
    (False, lambda x: memoryview(np.ascontiguousarray(x))), (False, lambda x: x.astype("M8[s]")),
    (False, lambda x: np.longdouble("1e4000") + x), (False, lambda x: x.astype(np.float64) + 0.3),
    (False, lambda x: iter([x])),
]  # fmt: skip


@dataclass
class Recipe:
    """What an environment does. `odd` says in which ways it is odd, with a word that a refusal may have."""

    seed: int
    observation: spaces.Space
    action: spaces.Space
    parts: dict[str, Any] = field(default_factory=dict)  # what replaces the usual, by name
    since: int = 0  # from this step on (over all environments of a process)
    odd: list[str] = field(default_factory=list)
    sound: bool = True  # must train
    mask: str = ""  # "info", "observation" or "method"
    length: int = LENGTH
    program: str = ""  # what it does to the program's global switches
    settings: dict[str, Any] = field(default_factory=dict)
    form: str = "function"  # how it is given
    attribute: tuple[str, Any] | None = None  # of its class
    calls: dict[str, int] = field(default_factory=dict)  # of each method so far
    wrong: list[str] = field(default_factory=list)  # what the library did to it

    def note(self, text: str, *, sound: bool) -> None:
        self.odd.append(text)
        self.sound = self.sound and sound


def change_path(space: spaces.Space, value: Any, rng: random.Random, change: Callable[[Any], Any]) -> Any:
    """The value with one leaf changed."""
    if isinstance(space, spaces.Dict) and space.spaces:
        key = rng.choice(sorted(space.spaces))
        return {**value, key: change_path(space[key], value[key], rng, change)}
    if isinstance(space, spaces.Tuple) and space.spaces:
        at = rng.randrange(len(space.spaces))
        return tuple(change_path(space[at], x, rng, change) if i == at else x for i, x in enumerate(value))
    return change(np.asarray(value))


def odd_observation(recipe: Recipe, rng: random.Random) -> None:
    """One leaf in another form, or another nesting."""
    seed = rng.random()
    if rng.random() < 0.25:
        whole = rng.choice([None, (), {}, 5, "text", [], Awkward(), {"other": 1}])
        recipe.parts["observation"] = lambda value: whole
        recipe.note(f"observations are {type(whole).__name__}", sound=False)
        return
    at = rng.randrange(len(FORMS))
    sound, change = FORMS[at]
    space = recipe.observation
    recipe.parts["observation"] = lambda value: change_path(space, value, random.Random(seed), change)
    recipe.note(f"observations in form {at}", sound=sound)


WHOLES: list[Callable[[Any], Any]] = [  # forms of a whole observation that all mean the same
    lambda x: collections.OrderedDict(x) if isinstance(x, dict) else list(x) if isinstance(x, tuple) else x,
    lambda x: types.MappingProxyType(x) if isinstance(x, dict) else x,
    lambda x: collections.UserDict(x) if isinstance(x, dict) else x,
    lambda x: {**x, "more": 1} if isinstance(x, dict) else (*x, 1) if isinstance(x, tuple) else x,
    lambda x: collections.namedtuple("Pair", [f"a{i}" for i in range(len(x))])(*x) if isinstance(x, tuple) else x,
]


def odd_whole(recipe: Recipe, rng: random.Random) -> None:
    """A whole observation in another container."""
    at = rng.randrange(len(WHOLES))
    recipe.parts["observation"] = WHOLES[at]
    recipe.note(f"observations as container {at}", sound=True)


def odd_value(recipe: Recipe, rng: random.Random) -> None:
    """Another reward, flag or info."""
    name = rng.choice(["reward", "reward", "terminated", "truncated", "info", "info", "reset_info"])
    if name.endswith("info"):
        recipe.parts[name] = value = rng.choice(INFOS)
        recipe.note(f"{name} {type(value).__name__}", sound=True)
        return
    at = rng.randrange(len(REWARDS if name == "reward" else FLAGS))
    sound, value = (REWARDS if name == "reward" else FLAGS)[at]
    recipe.parts[name] = value
    recipe.note(f"{name} {at}", sound=sound)


def odd_result(recipe: Recipe, rng: random.Random) -> None:
    """A step or a reset that returns something else."""
    name = rng.choice(["step", "reset"])
    options: list[Callable[[Any], Any]] = [
        lambda x: None, lambda x: x[:-1], lambda x: (*x, 1), lambda x: x[0], lambda x: dict(enumerate(x)),
        lambda x: iter(x), lambda x: Awkward(), lambda x: np.array(5), lambda x: "12345"[: len(x)], lambda x: list(x),
    ]  # fmt: skip
    at = rng.randrange(len(options))
    recipe.parts[f"{name}_result"] = options[at]
    recipe.note(f"{name} returns form {at}", sound=at == 9)


def odd_error(recipe: Recipe, rng: random.Random) -> None:
    """An exception at some call."""
    name = rng.choice(["make", "reset", "step", "step", "render", "close", "action_masks"])
    late = {"make": 5, "reset": 7, "step": 60}.get(name, 3)
    at = rng.randrange(len(ERRORS))
    recipe.parts["error"] = (name, rng.randrange(late), ERRORS[at])
    recipe.note(f"error {at} at {recipe.parts['error'][1]} of {name}", sound=name in ("close", "render"))


def odd_drawing(recipe: Recipe, rng: random.Random) -> None:
    """Some drawing, or an odd mode."""
    recipe.parts["mode"] = rng.choice(["rgb_array"] * 6 + ["human", "ansi", "rgb_array_list", 5])
    at = rng.randrange(len(PICTURES))
    recipe.parts["picture"] = PICTURES[at]
    recipe.note(f"draws picture {at} in mode {recipe.parts['mode']}", sound=True)


def odd_making(recipe: Recipe, rng: random.Random) -> None:
    """Attributes and the way in which it is given."""
    name = rng.choice(["metadata", "no space", "odd space", "form", "signature", "shared", "other spaces"])
    if name == "metadata":
        recipe.parts[name] = value = rng.choice([None, [], 5, {"render_fps": Awkward()}, {"render_modes": None}])
        recipe.note(f"metadata {type(value).__name__}", sound=True)
        return
    if name == "form":
        forms = ["instance", "class", "partial", "needs arguments", "none", "vector", "old gym", "same", "text"]
        recipe.form = rng.choice(forms)
        recipe.note(f"given as {recipe.form}", sound=recipe.form == "partial")
        return
    if name == "odd space":
        odd = [
            spaces.Sequence(spaces.Discrete(2)), spaces.Text(3), spaces.Dict(), spaces.Tuple([]),
            spaces.Box(0, 1, (0,), np.float32), spaces.OneOf([spaces.Discrete(2)]),
            spaces.Dict({"": spaces.Discrete(2)}),
            spaces.Graph(spaces.Box(0, 1, (2,)), None),
            spaces.Dict({"a/b": spaces.Discrete(2), "a-b": spaces.Discrete(2)}),
            spaces.Dict({"action_mask": spaces.Box(0, 1, (3,), np.int8)}), spaces.Discrete(10**7),
            spaces.Box(-1e300, 1e300, (2,), np.float64), spaces.Box(2, 5, (16, 16, 3), np.float32),
            spaces.Box(0, 255, (16, 16), np.uint8), spaces.Box(0, 255, (1, 1, 1, 1, 2), np.uint8),
            spaces.Box(-(2**62), 2**62, (2,), np.int64), spaces.Box(0, 255, (3, 5, 16, 16), np.uint8),
        ]  # fmt: skip
        which, at = rng.choice(["observation", "action"]), rng.randrange(len(odd))
        setattr(recipe, which, odd[at])
    recipe.parts[name] = rng.choice(["observation_space", "action_space"])
    recipe.note(f"{name} {recipe.parts[name]}", sound=False)


def odd_mask(recipe: Recipe, rng: random.Random) -> None:
    """Action masks, some of them wrong."""
    recipe.mask = rng.choice(["info", "method", "observation"])
    wrong: list[Callable[[Any, int], Any]] = [
        lambda mask, t: None, lambda mask, t: "text", lambda mask, t: Awkward(), lambda mask, t: [1] * 50,
        lambda mask, t: mask if t else None, lambda mask, t: None if t else mask, lambda mask, t: {"a": 1},
        lambda mask, t: np.zeros(0), lambda mask, t: [[1], [1, 2]],
    ]  # fmt: skip
    if rng.random() < 0.5:
        at = rng.randrange(len(wrong))
        recipe.parts["mask"] = wrong[at]
    sound = "mask" not in recipe.parts and isinstance(recipe.action, spaces.Discrete) and recipe.mask != "observation"
    recipe.note(f"mask in {recipe.mask}{', wrong ' + str(at) if 'mask' in recipe.parts else ''}", sound=sound)


def odd_program(recipe: Recipe, rng: random.Random) -> None:
    """Something that it does to the program."""
    recipe.program = rng.choice(sorted(PROGRAMS))
    recipe.note(f"does {recipe.program}", sound=True)


def _raising(self: Any) -> Any:
    raise ValueError("not now")


#: Attributes of an environment's class that have a meaning elsewhere. (must be taken, name, value)
ATTRIBUTES: list[tuple[bool, str, Any]] = [
    (True, "__len__", lambda self: 0), (False, "__bool__", _raising), (False, "__eq__", _raising),
    (True, "__repr__", _raising), (True, "__str__", _raising),
    (False, "__deepcopy__", lambda self, memo: _raising(self)),
    (True, "notes", 5), (True, "agent_spec", None), (True, "where", 3), (True, "places", None), (True, "go_to", 1),
    (True, "first", "x"), (True, "episode", "x"), (True, "owned", 1), (True, "steps", "many"),
    (True, "action_masks", 5),
    (True, "render_mode", property(_raising)), (False, "num_envs", 1), (False, "is_adapter", True), (True, "env", None),
    (True, "spec", None), (True, "spec", 5), (False, "spec", property(_raising)),
    (True, "metadata", property(_raising)),
    (False, "unwrapped", property(_raising)), (False, "unwrapped", None), (True, "np_random", property(_raising)),
    (True, "__getattr__", lambda self, name: 1), (False, "__getattr__", lambda self, name: _raising(self)),
    (False, "possible_agents", ["a"]), (False, "get_wrapper_attr", _raising), (True, "__hash__", None),
    (False, "action_space", property(_raising)), (True, "reward_range", (0, 1)), (True, "seed", lambda self: None),
    (False, "__getattribute__", lambda self, name: object.__getattribute__(self, name)), (True, "__name__", 5),
    (True, "__doc__", None), (True, "__module__", "nowhere"), (True, "__module__", None),
]  # fmt: skip


def odd_attribute(recipe: Recipe, rng: random.Random) -> None:
    """An attribute of the class that something else may read."""
    sound, name, value = rng.choice(ATTRIBUTES)
    recipe.attribute = (name, value)
    recipe.note(f"has {name}", sound=sound)


ODDITIES = [odd_observation, odd_whole, odd_value, odd_value, odd_result, odd_error, odd_error, odd_drawing, odd_making,
            odd_mask,
            odd_program, odd_attribute, odd_attribute]  # fmt: skip
PROGRAMS: dict[str, Callable[[], Any]] = {
    "chdir": lambda: os.chdir("/"),
    "float64": lambda: torch.set_default_dtype(torch.float64),
    "seterr": lambda: np.seterr(all="raise"),
    "no gradients": lambda: torch.set_grad_enabled(False),
    "seed everything": lambda: (random.seed(0), np.random.seed(0), torch.manual_seed(0)),  # noqa: NPY002
    "warnings are errors": lambda: warnings.simplefilter("error"),
    "warn": lambda: warnings.warn("a user's own warning", stacklevel=1),
    "print": lambda: print("é±中 \ud800".encode("ascii", "replace").decode()),
    "threads": lambda: torch.set_num_threads(1),
    "print options": lambda: np.set_printoptions(precision=0, threshold=0),
    "no output": lambda: setattr(sys, "stdout", None),
    "no errors": lambda: setattr(sys, "stderr", None),
    "no environment": os.environ.clear,
    "no logging": lambda: logging.disable(),
    "umask": lambda: os.umask(0o077),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "no arguments": lambda: setattr(sys, "argv", []),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "recursion": lambda: sys.setrecursionlimit(400),
    "signals": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "time": lambda: os.environ.update(TZ="Asia/Tokyo"),
}


def make_recipe(seed: int) -> Recipe:
    """The environment of a seed."""
    rng = random.Random(seed)
    recipe = Recipe(seed, observation_space(rng), action_space(rng))
    for change in rng.sample(ODDITIES, rng.choice([0, 1, 1, 1, 2, 2, 3])):
        change(recipe, rng)
    recipe.since = rng.choice([0, 0, 3, 30, 40])
    recipe.length = rng.choice([1, 2, LENGTH, LENGTH, 13])
    recipe.settings = dict(QUICK) | {
        "env.time_limit": rng.choice([0, 20]),
        "env.num_envs": 1 if recipe.form == "instance" else rng.choice([1, 2, 3]),
        "log.video": rng.random() < 0.4,
        "random_baseline": rng.random() < 0.3,
        "env.backend": "async" if rng.random() < 0.02 else "sync",
        "env.image_size": rng.choice([16, 16, 32]),
        "env.grayscale": rng.random() < 0.2,
        "model.vector_transform": rng.choice(["none", "symlog", "running"]),
        "eval_every": rng.choice([0, 15]),
        "checkpoint_every": rng.choice([0.05, 300]),
    }
    if any(name in recipe.parts for name in ("terminated", "truncated", "step_result")):
        recipe.settings["env.time_limit"] = 20  # it may never end by itself
    return recipe


# ---------------------------------------------------------------------------------------------------- the environment


class Odd(gym.Env):
    """The environment of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        with contextlib.suppress(AttributeError):
            self.render_mode = recipe.parts.get("mode")
        self.recipe, self.t = recipe, 0
        self.rng = np.random.default_rng(recipe.seed)
        self.count("make")
        self.observation_space = recipe.observation
        with contextlib.suppress(AttributeError):
            self.action_space = recipe.action
        if recipe.parts.get("metadata", self) is not self:
            self.metadata = recipe.parts["metadata"]
        missing = recipe.parts.get("no space")
        if missing:
            setattr(self, missing, None)
        varied = recipe.parts.get("other spaces")
        if varied and recipe.calls["make"] > 1:
            setattr(self, varied, spaces.Discrete(7))
        if recipe.mask == "method":
            self.action_masks = self.mask

    def count(self, name: str) -> None:
        """One more call; raises if this is the one that shall."""
        calls = self.recipe.calls
        calls[name] = calls.get(name, 0) + 1
        where, at, error = self.recipe.parts.get("error", ("", 0, None))
        if where == name and calls[name] == at + 1:
            raise error()

    def odd(self, name: str, usual: Any) -> Any:
        """The recipe's own from step `since` on."""
        late = self.recipe.calls.get("step", 0) >= self.recipe.since
        return self.recipe.parts.get(name, usual) if late else usual

    def observe(self) -> Any:
        """The next observation."""
        return self.odd("observation", lambda value: value)(value_of(self.observation_space, self.rng))

    def mask(self) -> Any:
        """Everything but the first choice is allowed."""
        self.count("action_masks")
        space, mask = self.action_space, None
        if isinstance(space, spaces.Discrete):
            mask = np.ones(int(space.n), np.int8)
            mask[0] = space.n == 1
        return self.odd("mask", lambda mask, t: mask)(mask, self.t)

    def info(self, name: str) -> Any:
        """The next info."""
        found = self.odd(name, {})
        return {**found, "action_mask": self.mask()} if self.recipe.mask == "info" and type(found) is dict else found

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        if self.recipe.program:
            PROGRAMS[self.recipe.program]()
        self.count("reset")
        self.rng = np.random.default_rng(seed) if seed is not None else self.rng
        return self.odd("reset_result", lambda x: x)((self.observe(), self.info("reset_info")))

    def step(self, action: Any) -> Any:
        self.t += 1
        if not self.action_space.contains(action):
            self.recipe.wrong.append(f"the action {action!r} is not in {self.action_space}")
        if self.recipe.mask in ("info", "method") and isinstance(self.action_space, spaces.Discrete):
            forbidden = self.action_space.n > 1 and action == self.action_space.start
            self.recipe.wrong += (
                ["a forbidden action was taken"] if forbidden and "mask" not in self.recipe.parts else []
            )
        self.count("step")
        ended = self.t >= self.recipe.length
        first, second = (ended, False) if self.recipe.seed % 2 else (False, ended)
        flags = self.odd("terminated", first), self.odd("truncated", second)
        result = (self.observe(), self.odd("reward", float(self.rng.normal())), *flags, self.info("info"))
        return self.odd("step_result", lambda x: x)(result)

    def render(self) -> Any:
        self.count("render")
        return self.odd("picture", np.full((12, 14, 3), 9, np.uint8))

    def close(self) -> None:
        self.count("close")


class OldSignature(Odd):
    """With the reset of old gym."""

    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class OldGym:
    """The interface of gym before 0.26, no gymnasium.Env."""

    def __init__(self, recipe: Recipe) -> None:
        self.env = Odd(recipe)
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space

    def reset(self) -> Any:
        return self.env.reset()[0]

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        return (*result[:2], result[2] or result[3], result[4])


def given(recipe: Recipe) -> Any:
    """The environment as the user gives it."""
    kind = OldSignature if "signature" in recipe.parts else Odd
    if recipe.attribute:
        kind = type("Odd", (kind,), {"__module__": __name__} | dict([recipe.attribute]))

    def make() -> Any:
        return kind(recipe)

    form = recipe.form
    if form == "instance":
        return kind(recipe)
    if form == "vector":
        return lambda: gym.vector.SyncVectorEnv([make])
    if form == "same" or "shared" in recipe.parts:
        kept: list[Any] = []
        return lambda: kept[0] if kept else kept.append(make()) or kept[0]
    others: dict[str, Any] = {
        "class": kind,
        "needs arguments": lambda size: make(),
        "none": lambda: None,
        "old gym": lambda: OldGym(recipe),
        "text": "there.is_no:such_thing",
    }
    return others.get(form, make)


# ------------------------------------------------------------------------------------------------------------ the tries


@contextlib.contextmanager
def usual_program() -> Iterator[None]:
    """Context after which the program's switches are as before."""
    dtype, here, old = torch.get_default_dtype(), Path.cwd(), np.geterr()
    grad, options, threads = torch.is_grad_enabled(), np.get_printoptions(), torch.get_num_threads()
    streams, environment, mask, depth = (
        (sys.stdout, sys.stderr, sys.argv),
        dict(os.environ),
        os.umask(0),
        sys.getrecursionlimit(),
    )
    os.umask(mask)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        sys.stdout, sys.stderr, sys.argv = streams
        os.environ.clear()
        os.environ.update(environment)
        os.umask(mask)
        sys.setrecursionlimit(depth)
        signal.signal(signal.SIGTERM, handler)
        logging.disable(logging.NOTSET)
        torch.use_deterministic_algorithms(False)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        torch.set_num_threads(threads)
        np.seterr(**old)
        np.set_printoptions(**options)
        os.chdir(here)


@contextlib.contextmanager
def short_fingerprint() -> Iterator[None]:
    """Context in which the source of environments is not read: this file is longer than any user's."""
    from reverie.run import loop

    usual = loop.fingerprint
    loop.fingerprint = lambda env: ""  # type: ignore[assignment]
    try:
        yield
    finally:
        loop.fingerprint = usual


@dataclass
class Try:
    """What came of one call."""

    fault: str = ""
    refused: str = ""  # the sentence of a UserError
    value: Any = None


def attempt(what: str, work: Callable[[], Any], *, warns: bool = False) -> Try:
    """Call `work`; only a UserError may come out of it, and no warning of the library's."""
    import reverie

    out = io.StringIO()
    try:
        with warnings.catch_warnings(record=True) as caught, limited(SECONDS):
            warnings.simplefilter("always")
            with contextlib.redirect_stderr(out), contextlib.redirect_stdout(out):
                found = Try(value=work())
    except reverie.UserError as error:
        found = Try(refused=str(error))
        if not error.hint or len(error.message) < 10 or "\n" in error.message:
            return Try(f"{what}: no sentence with a hint: {error.message!r} {error.hint!r}")
    except HangError as error:
        return Try(f"{what}: HANG {error}\n{''.join(traceback.format_tb(error.__traceback__)[-6:])}")
    except BaseException:
        return Try(f"{what}: {traceback.format_exc()}")
    ours = [str(one.message) for one in caught if one.filename != __file__]
    if ours and not warns:
        return Try(f"{what}: warning {ours[0]}")
    if "Traceback" in out.getvalue() and not warns:
        return Try(f"{what}: printed {out.getvalue()[-1500:]}")
    if "a bug of" in found.refused:
        return Try(f"{what}: {found.refused}")
    return found


def play(agent: Any, recipe: Recipe) -> None:
    """The player in the user's own loop; what the environment raises is the user's."""
    import reverie

    player = agent.player()
    try:
        env = Odd(recipe)
        obs, info = env.reset(seed=3)
    except BaseException:
        return
    for at in range(6):
        mask = info.get("action_mask") if isinstance(info, dict) else None
        action = player(obs, first=at == 0, mask=mask)
        try:
            result = env.step(action)
            obs, info = result[0], result[4]
        except (reverie.UserError, HangError):
            raise
        except BaseException:
            return


def count_updates() -> Callable[[], int]:
    """Counts updates of all runs from now on."""
    from reverie.run.loop import Run

    usual, counted = Run.update, [0]

    def update(self: Any) -> None:
        usual(self)
        counted[0] += 1

    Run.update = update  # type: ignore[method-assign]

    def done() -> int:
        Run.update = usual  # type: ignore[method-assign]
        return counted[0]

    return done


def train(recipe: Recipe, run: Path) -> tuple[Any, list[str], bool]:
    """Train. -> the agent, faults, whether it went well."""
    import reverie

    env = Try()
    with contextlib.suppress(BaseException):
        env.value = given(recipe)
    if env.value is None:
        return None, [], False
    made: list[Any] = []

    def work() -> None:
        made.append(reverie.Dreamer(env.value, preset="debug", run=run, settings=recipe.settings))
        made[0].learn(quiet=bool(recipe.seed % 3))

    updates = count_updates()
    is_async = recipe.settings["env.backend"] == "async"
    tried = attempt("learn", work, warns=is_async)
    learnt, faults = updates(), [tried.fault] if tried.fault else []
    if learnt and not tried.fault and not list(run.glob("checkpoints/step-*/manifest.json")):
        faults.append(f"learn: {learnt} updates and no checkpoint after: {tried.refused}")
    if tried.refused and recipe.sound:
        faults.append(f"learn: a sound environment is refused: {tried.refused}")
    faults += [f"learn: {wrong}" for wrong in recipe.wrong[:1] if not is_async]
    return made[0] if made else None, faults, not tried.refused and not tried.fault


def try_case(folder: Path, seed: int) -> list[str]:
    """Make one environment and try it. -> its faults, with what is odd."""
    import reverie

    recipe = make_recipe(seed)
    rng, run = random.Random(-seed), folder / f"case-{seed}" / "run"
    faults: list[str] = []

    def more(what: str, work: Callable[[], Any]) -> Try:
        tried = attempt(what, work, warns=recipe.settings["env.backend"] == "async")
        faults.extend([tried.fault] if tried.fault else [])
        return tried

    with usual_program(), short_fingerprint() if seed % 5 else contextlib.nullcontext():
        if rng.random() < 0.3:
            other = make_recipe(seed)
            with contextlib.suppress(BaseException):
                env = given(other)
                tried = more("check_env", lambda: str(reverie.check_env(env, steps=30)))
                faults += [f"check_env: {tried.refused}"] if tried.refused else []
        agent, found, well = train(recipe, run)
        faults += found
        if agent is not None and not well and not faults and rng.random() < 0.3:
            more("learn again", lambda: agent.learn(quiet=True))
        if well:
            more("evaluate", lambda: agent.evaluate(2, film=recipe.settings["log.video"]))
            more("play", lambda: play(agent, recipe))
            saved = run.parent / "saved"
            more("save", lambda: agent.save(saved))
            more("load_player", lambda: reverie.load_player(saved, device="cpu"))
            if rng.random() < 0.5:
                source = given(make_recipe(seed)) if recipe.form != "instance" else agent.env
                more("resume", lambda: reverie.load(run, env=source, device="cpu").learn(60, quiet=True))
    odd = "; ".join(recipe.odd) or "sound"
    shown = f"{recipe.observation} -> {recipe.action}"[:600]
    return [
        f"seed {seed}: {odd} (since {recipe.since}, {recipe.settings['env.backend']})\n{shown}\n{x}" for x in faults
    ]


def fuzz(count: int, seed: int, *, say: Callable[[str], None] = print) -> list[str]:
    """`count` cases from `seed` on, in this process. -> the faults."""
    with tempfile.TemporaryDirectory(prefix="fuzz-envs-") as name:
        folder = Path(name).resolve()
        return try_seeds(lambda number: try_case(folder, number), count, seed, say)


if __name__ == "__main__":
    sys.exit(from_command_line(fuzz, __doc__))
