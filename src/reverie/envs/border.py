"""The contract at the border between an environment and everything else. No torch in here.

`AgentView` passes every reset, step, render and close through these functions, in every backend, in training and in
evaluation. A violation is a UserError: one sentence with the step, the key and the value, and what to change. An
exception of the environment's own code is an EnvironmentFailed. What a run does not need (infos, drawing, closing) is
left out with a note.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import signal
import site
import sysconfig
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import Stopped, UserError

#: The largest number that is still finite where observations and rewards are stored.
LARGEST = float(np.finfo(np.float32).max)
#: Notes of one environment that are kept.
MAX_NOTES = 20
#: Wrappers around one environment that are looked into: an `env` may lead in a circle, or make another each time.
MAX_WRAPPERS = 100
SIGNATURE = "Write def reset(self, *, seed=None, options=None) and call super().reset(seed=seed) in it."
FIVE = "Return observation, reward, terminated, truncated, info."
FIX = "Fix it there; `check_env` plays the environment alone and reports every mistake that it finds."

_GYMNASIUM = str(Path(gym.__file__).parent)
_OURS = (str(Path(__file__).parent), _GYMNASIUM)
_INSTALLED = (sysconfig.get_paths()["stdlib"], *site.getsitepackages(), site.getusersitepackages(), "<frozen")


class EnvironmentFailed(UserError):
    """An exception of the environment's own code, in a sentence; the exception itself is `__cause__`.

    Worker processes make such an environment again; a UserError of another kind ends the run in every backend.
    """


# ---------------------------------------------------------------------------------------------------- whose exception


def pass_on(error: BaseException) -> None:
    """Raises `error` again if it ends the program; returns for whatever else the user's code may raise.

    For the first line of `except BaseException as error:` around code of the user's. Not only Exceptions come from
    there: a panic of an extension written in Rust, a cancelled task of asyncio, GeneratorExit, SystemExit. What ends
    the program is Ctrl-C, the end of a run, and whatever a signal handler raises (a user's own may raise SystemExit).
    """
    if isinstance(error, KeyboardInterrupt | Stopped):
        raise error
    if not isinstance(error, Exception) and _by_signal(error):  # a TimeoutError by SIGALRM may be the environment's
        raise error


def _by_signal(error: BaseException) -> bool:
    """Whether a handler of a signal raised it: one of its frames runs the code of a handler that is installed."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = [code for code in map(_code_of, handlers) if code is not None]
    frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(frame is code for frame in frames for code in codes)


def _code_of(handler: Any) -> Any:
    """The code object of a function, a method, a partial or an object that can be called; None for what is none."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if callable(handler) and not inspect.isroutine(handler):
        handler = type(handler).__call__
    return getattr(getattr(handler, "__func__", handler), "__code__", None)


# ------------------------------------------------------------------------------------------------------------- in words


def describe_error(error: BaseException) -> str:
    """An exception in one line with its origin, which is a line of the user's code where possible."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OURS)]
    of_user = [frame for frame in frames if not frame.filename.startswith(_INSTALLED)]
    origin = (of_user or frames)[-1] if frames else None
    text = " ".join(text_of(error).split())[:160]
    where = f" in {_short(origin.filename)}:{origin.lineno}" if origin else ""
    return f"{type(error).__name__}{f' ({text})' if text else ''}{where}"


def text_of(error: BaseException) -> str:
    """What an exception says; "" for one that cannot be printed."""
    try:
        return str(error)
    except BaseException as error:
        pass_on(error)
        return ""


def _short(filename: str) -> str:
    try:
        return str(Path(filename).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return filename


def kind_of(value: Any) -> str:
    """A value in a few words: its repr, if that is short, and its type."""
    if value is None:
        return "None"
    try:
        text = " ".join(repr(value).split())
    except BaseException as error:  # a value that cannot be printed
        pass_on(error)
        text = ""
    kind = type(value).__name__
    return f"{text} ({kind})" if 0 < len(text) <= 40 else f"of type {kind}"


# --------------------------------------------------------------------------------------------------------------- making


def make_by(maker: Any) -> Any:
    """The result of the user's function without arguments. Raises EnvironmentFailed if it raises."""
    try:
        return maker()
    except (UserError, MemoryError):
        raise
    except BaseException as error:
        pass_on(error)
        inside = error.__traceback__ is not None and error.__traceback__.tb_next is not None
        if isinstance(error, TypeError) and not inside:
            raise UserError(
                f"the function that makes the environment cannot be called without arguments ({error}).",
                "Give it defaults, or pass functools.partial(function, argument, ...).",
            ) from error
        raise EnvironmentFailed(
            f"making the environment raises {describe_error(error)}.", "Fix that line, or pass another environment."
        ) from error


def require_spaces(env: gym.Env) -> None:
    """Raises UserError for an environment without spaces of Gymnasium."""
    for name in ("observation_space", "action_space"):
        try:
            space = getattr(env, name)
        except BaseException as error:
            pass_on(error)
            space = error
        if not isinstance(space, spaces.Space):
            found = f"raises {describe_error(space)}" if isinstance(space, BaseException) else f"is {kind_of(space)}"
            raise UserError(
                f"{name} of the environment {found}, not a Gymnasium space.",
                f"Set self.{name} in __init__, e.g. to gymnasium.spaces.Box or Discrete.",
            )


def require_apart(envs: Iterable[gym.Env]) -> None:
    """Raises UserError if two of these environments are one object: each would step the other's episode."""
    cores = [core_of(env) for env in envs]
    if len({id(core) for core in cores}) < len(cores):
        raise UserError(
            f"the function that makes the environment returned the same {type(cores[0]).__name__} twice.",
            "Create a new one at each call: training makes several, and others for evaluation.",
        )


def attribute_of(env: Any, name: str) -> Any:
    """An attribute that an environment need not have; None also if asking for it raises."""
    try:
        return getattr(env, name, None)
    except BaseException as error:
        pass_on(error)
        return None


def inside_of(env: gym.Env) -> gym.Env:
    """The environment inside of all wrappers; itself, if `unwrapped` is none of Gymnasium's."""
    found = attribute_of(env, "unwrapped")
    return found if isinstance(found, gym.Env) else env


def core_of(env: gym.Env) -> Any:
    """The environment inside of all wrappers and adapters."""
    core: Any = inside_of(env)
    if attribute_of(core, "is_adapter") is True and attribute_of(core, "env") is not None:
        core = core.env
        core = attribute_of(core, "unwrapped") or core
    return core


def limit_of(env: gym.Env) -> int:
    """After how many of its steps an episode is cut, as far as the environment says so; 0: not known.

    By the wrappers around it, also those of packages that only resemble Gymnasium's; where none has a limit, by the
    spec that the task was registered with; and by its own counter.
    """
    around = list(_wrappers(env))
    limit = _least(attribute_of(each, "_max_episode_steps") for each in around)
    for each in around:  # the `spec` of a wrapper may raise
        limit = limit or _least([attribute_of(attribute_of(each, "spec"), "max_episode_steps")])
    return _least([limit, attribute_of(inside_of(env), "max_steps")])


def _wrappers(env: Any) -> Iterator[Any]:
    """The environment and what it holds as `env`, from the outside to the inside."""
    seen: list[Any] = []
    while env is not None and len(seen) < MAX_WRAPPERS and not any(env is each for each in seen):
        seen.append(env)
        yield env
        env = attribute_of(env, "env")


def _least(limits: Iterable[Any]) -> int:
    """The least of those that are numbers of steps: 1 or more, and not the infinity that some write for none; or 0."""
    known = (float(each) for each in limits if isinstance(each, numbers.Real) and not isinstance(each, bool))
    return min((int(each) for each in known if 1 <= each < math.inf), default=0)


def plain_metadata(env: gym.Env) -> dict[str, Any]:
    """The environment's metadata as far as another process can read it; {} for what is no dict."""
    try:
        found = env.metadata
    except BaseException as error:
        pass_on(error)
        return {}
    if not isinstance(found, Mapping):
        return {}
    return {str(key): value for key, value in found.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


# ---------------------------------------------------------------------------------------------------- exceptions


def step_failure(env: gym.Env, action: Any, error: BaseException, when: str) -> UserError:
    """What to raise for an exception of `env.step(action)`.

    A wrapper may have failed on values that break the contract: then the environment inside is asked once more.
    """
    inner = inside_of(env)
    if inner is not env and _raised_by_wrapper(error):
        try:
            result = inner.step(action)
        except BaseException as again:
            pass_on(again)
            result = None
        if result is not None:
            try:
                _, reward, terminated, truncated, _ = five_values(result, when)
                number_of(reward, when)
                flag_of("terminated", terminated, when)
                flag_of("truncated", truncated, when)
            except UserError as found:
                return found
    return EnvironmentFailed(f"step of the environment raises {describe_error(error)}{when}.", FIX)


def reset_failure(env: gym.Env, error: BaseException, wanted: Mapping[str, Any], when: str) -> UserError:
    """What to raise for an exception of `env.reset(**wanted)`."""
    inner = inside_of(env)
    refused = [name for name in ("seed", "options") if f"unexpected keyword argument '{name}'" in text_of(error)]
    if isinstance(error, TypeError) and refused:
        return UserError(f"reset of {type(inner).__name__} does not take '{refused[0]}'.", SIGNATURE)
    if inner is not env and _raised_by_wrapper(error):
        try:
            result = inner.reset(**wanted)
        except BaseException as again:
            pass_on(again)
            result = None
        if result is not None:
            try:
                observation_and_info(inner, result, when)
            except UserError as found:
                return found
    return EnvironmentFailed(f"reset of the environment raises {describe_error(error)}{when}.", FIX)


def _raised_by_wrapper(error: BaseException) -> bool:
    """Whether the line that raised is one of Gymnasium or of this package, not of the environment."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(_OURS)


# --------------------------------------------------------------------------------------------------- what they return


def five_values(result: Any, when: str = "") -> Sequence[Any]:
    """The result of a step as its five values. when: " at step 3". Raises UserError."""
    if isinstance(result, tuple | list) and len(result) == 5:
        return result
    if isinstance(result, tuple | list) and len(result) == 4:
        raise UserError(
            f"step returns 4 values, as in the old gym, not 5{when}.",
            "Split done: return observation, reward, terminated, truncated, info, truncated=True for a time limit.",
        )
    size = f" of {len(result)}" if isinstance(result, tuple | list) else ""
    raise UserError(f"step returns a {type(result).__name__}{size}, not 5 values{when}.", FIVE)


def observation_and_info(env: gym.Env, result: Any, when: str = "") -> tuple[Any, Any]:
    """The result of a reset as its two values; the info may be of any type. Raises UserError."""
    paired = isinstance(result, tuple | list) and len(result) == 2
    if paired and (isinstance(result[1], Mapping) or not _fits(env, result)):
        return result[0], result[1]
    size = f" of {len(result)}" if isinstance(result, tuple) else ""
    raise UserError(
        f"reset returns a {type(result).__name__}{size}, not (observation, info){when}.", "Return observation, {}."
    )


def _fits(env: gym.Env, value: Any) -> bool:
    try:
        with warnings.catch_warnings():  # of Gymnasium about what is no observation
            warnings.simplefilter("ignore")
            return bool(env.observation_space.contains(value))
    except BaseException as error:
        pass_on(error)
        return False


def number_of(reward: Any, when: str) -> float:
    """A reward as a float that is finite where it is stored. Raises UserError."""
    try:
        if getattr(reward, "ndim", 0) != 0 or not (hasattr(reward, "__float__") or isinstance(reward, numbers.Real)):
            raise UserError(f"the reward is {kind_of(reward)}{when}, not a number.", "Return float(reward).")
        number = math.nan if reward is np.ma.masked else float(reward)  # NumPy would warn and make it NaN, too
    except OverflowError:  # a whole number of any length
        number = math.inf
    except UserError:
        raise
    except BaseException as error:
        pass_on(error)
        raise UserError(
            f"the reward is {kind_of(reward)}{when}, not a number ({type(error).__name__}).", "Return float(reward)."
        ) from error
    if abs(number) <= LARGEST:
        return number
    if math.isfinite(number):
        raise UserError(
            f"the reward is {number:g}{when}: it is stored as float32, which ends at {LARGEST:.3g}.",
            "Divide the rewards, or clip them.",
        )
    raise UserError(f"the reward is {number}{when}.", "Fix the environment: rewards must be finite.")


def flag_of(name: str, value: Any, when: str) -> bool:
    """`terminated` or `truncated` as a bool; 0 and 1 are taken, too. Raises UserError."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    try:
        meant = None if isinstance(value, str | bytes) else float(np.asarray(value, float).reshape(()))
    except BaseException as error:
        pass_on(error)
        meant = None
    if meant in (0.0, 1.0):
        return bool(meant)
    raise UserError(f"{name} is {kind_of(value)}{when}, not a bool.", f"Return bool({name}).")


def numbers_in(key: str, value: Any, shape: tuple[int, ...], when: str) -> np.ndarray:
    """An entry of an observation as an array of `shape`, the one of its space. Raises UserError."""
    try:
        array = np.asarray(value)
    except BaseException as error:  # ragged lists, and objects that cannot be converted
        pass_on(error)
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        raise UserError(
            f"observation '{key}' is {kind_of(value)}{when}, not numbers.", "Return a NumPy array as its space says."
        )
    if array.shape != shape:
        raise UserError(
            f"observation '{key}' has shape {array.shape}{when}, its space says {shape}.",
            "Make them agree: change the space, or what reset and step return.",
        )
    return array


def require_finite(key: str, array: np.ndarray, when: str) -> None:
    """Raises UserError for NaN, infinity, and numbers that float32 cannot hold. array: as the environment gave it."""
    if array.dtype.kind != "f":
        return
    with np.errstate(all="ignore"):  # `not <=` finds NaN, too
        bad = ~(np.abs(array) <= LARGEST)
    if not bad.any():
        return
    index = tuple(map(int, np.argwhere(bad)[0]))
    at = f", first at {list(index)}" if index else ""
    value = float(array[index])
    if math.isfinite(value):
        raise UserError(
            f"observation '{key}' contains {value:g}{when}{at}: float32 ends at {LARGEST:.3g}.",
            "Divide it, or clip it.",
        )
    found = "NaN" if np.isnan(array).any() else "infinity"
    raise UserError(
        f"observation '{key}' contains {found}{when}{at}.", "Fix the environment: observations must be finite numbers."
    )


def image_of(value: Any, scale: float = 255.0) -> np.ndarray:
    """What `render` returned as uint8 (H, W, C). scale: of floats. Raises UserError."""
    try:
        if isinstance(value, list | tuple) and value and np.ndim(value[-1]) >= 2:
            value = value[-1]  # of several frames the last one
        array = np.asarray(value)
    except BaseException as error:
        pass_on(error)
        array = np.asarray(None)
    if array.dtype.kind not in "biuf" or array.ndim not in (2, 3) or array.size == 0:
        what = f"{array.dtype} of shape {array.shape}" if array.dtype.kind in "biuf" else kind_of(value)
        raise UserError(f"render returns {what}, not an image.", "Return a uint8 array of shape (H, W, 3).")
    array = array[..., None] if array.ndim == 2 else array
    if array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.dtype.kind in "fb":
        array = np.nan_to_num(array.astype(np.float64), nan=0.0) * (255.0 if array.dtype.kind == "b" else scale)
    if array.dtype != np.uint8:
        array = np.clip(np.rint(array), 0, 255).astype(np.uint8)
    return array


def is_bright(value: Any) -> bool:
    """Whether an image is one of floats that are not within 0 and 1."""
    try:
        array = np.asarray(value[-1] if isinstance(value, list | tuple) else value)
        return bool(array.dtype.kind == "f" and (array > 1).any())
    except BaseException as error:  # no image at all: `image_of` says so
        pass_on(error)
        return False


# ---------------------------------------------------------------------------------------------------------------- infos


def episode_log(info: Any, notes: Notes) -> dict[str, float]:
    """The finite numbers of info["log"], at the end of an episode; a note for whatever else it holds.

    No other entry of an info is read, except for action masks: its names are the environment's.
    """
    found = info.get("log") if isinstance(info, Mapping) else None
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        notes.add(f"info['log'] is {kind_of(found)}, not a dict of numbers: it is left out")
        return {}
    try:
        items = list(found.items())
    except BaseException as error:
        pass_on(error)
        notes.add(f"info['log'] raises {describe_error(error)}: it is left out")
        return {}
    log = {}
    for key, value in items:
        number = _finite(value)
        if number is None:
            notes.add(f"info['log']['{_printable(key)}'] is not a finite number: it is left out")
        else:
            log[_printable(key)] = number
    return log


def _finite(value: Any) -> float | None:
    try:
        if isinstance(value, str | bytes) or getattr(value, "size", 1) != 1:
            return None
        number = float(np.asarray(value, float).reshape(()))
    except BaseException as error:
        pass_on(error)
        return None
    return number if math.isfinite(number) else None


def _printable(key: Any) -> str:
    """A name for files and terminals: at most 100 characters, none that controls a terminal."""
    try:
        text = str(key)
    except BaseException as error:
        pass_on(error)
        text = type(key).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:100]


class Notes:
    """What was left out, for the user: each note once, and not more than MAX_NOTES."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._new: list[str] = []

    def add(self, text: str) -> None:
        """One more, unless it is known or there are many."""
        if text not in self._known and len(self._known) < MAX_NOTES:
            self._known.add(text)
            self._new.append(text)

    def take(self) -> list[str]:
        """Those since the last time."""
        found, self._new = self._new, []
        return found

    def __bool__(self) -> bool:
        return bool(self._new)
