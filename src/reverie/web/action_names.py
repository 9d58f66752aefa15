"""Names of the actions of known environments, and the keys that trigger them in the dream player."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import Config
from ..config.validation import names_code
from ..envs.family import family_of
from ..envs.spaces import Spec
from ..errors import UserError

_ATARI = (
    "noop", "fire", "up", "right", "left", "down", "upright", "upleft", "downright", "downleft",
    "upfire", "rightfire", "leftfire", "downfire", "uprightfire",
    "upleftfire", "downrightfire", "downleftfire",
)  # fmt: skip
_MINIGRID = ("turn left", "turn right", "forward", "pick up", "drop", "toggle", "done")
_CRAFTER = (
    "noop", "left", "right", "up", "down", "do", "sleep", "place stone", "place table", "place furnace", "place plant",
    "wood pickaxe", "stone pickaxe", "iron pickaxe", "wood sword", "stone sword", "iron sword",
)  # fmt: skip
_MINATAR = ("noop", "left", "up", "right", "down", "fire")
_MAZE = ("noop", "forward", "turn left", "turn right", "forward left", "forward right")
_MINIWORLD = ("turn left", "turn right", "forward", "back", "pick up", "drop", "toggle", "done")
#: Tasks of Gymnasium, by the name before -v.
_GYMNASIUM = {
    "CartPole": ("push left", "push right"),
    "MountainCar": ("push left", "none", "push right"),
    "Acrobot": ("torque left", "none", "torque right"),
    "LunarLander": ("none", "left engine", "main engine", "right engine"),
    "FrozenLake": ("left", "down", "right", "up"),
    "CliffWalking": ("up", "right", "down", "left"),
    "Taxi": ("down", "up", "right", "left", "pick up", "drop"),
}
_NUMBERS = {
    "Pendulum": ("torque",),
    "MountainCarContinuous": ("force",),
    "LunarLander": ("main engine", "side engine"),
    "LunarLanderContinuous": ("main engine", "side engine"),
    "CarRacing": ("steering", "gas", "brake"),
    "BipedalWalker": ("hip 1", "knee 1", "hip 2", "knee 2"),
}
#: Key -> words in the names of actions that it may trigger, the best match first.
_KEYS = {
    "ArrowLeft": ("left", "turn left"),
    "ArrowRight": ("right", "turn right"),
    "ArrowUp": ("up", "forward", "main"),
    "ArrowDown": ("down", "back"),
    "Space": ("fire", "do", "toggle"),
    "Enter": ("pick up",),
}
LETTERS = {"ArrowLeft": "KeyA", "ArrowRight": "KeyD", "ArrowUp": "KeyW", "ArrowDown": "KeyS"}


def choice_names(config: Config, count: int) -> tuple[str, ...]:
    """Names of the `count` choices of the run's task; () if they are unknown."""
    env_id = config.env.id
    family = family_of(env_id)
    kind = family.__name__.rpartition(".")[2] if family is not None and hasattr(family, "__name__") else ""
    if kind == "minigrid":
        indices = {3: (0, 1, 2), 5: (0, 1, 2, 3, 5)}.get(count, tuple(range(7)))
        return _if_as_many([_MINIGRID[i] for i in indices], count)
    if kind == "minatar":
        game = re.sub("[^a-z]", "", env_id.lower())
        indices = {3: (0, 2, 4) if "freeway" in game else (0, 1, 3), 4: (0, 1, 3, 5), 5: (0, 1, 2, 3, 4)}.get(
            count, tuple(range(6))
        )
        return _if_as_many([_MINATAR[i] for i in indices], count)
    if kind == "atari" and count != len(_ATARI):
        return _if_as_many(_minimal_atari(config), count)
    known = {"atari": _ATARI, "crafter": _CRAFTER, "memory_maze": _MAZE, "miniworld": _MINIWORLD}.get(kind)
    return _if_as_many(list(known or _GYMNASIUM.get(_task(env_id), ())), count)


def number_names(config: Config, count: int) -> tuple[str, ...]:
    """Names of the `count` continuous numbers of the run's task; () if they are unknown."""
    return _if_as_many(list(_NUMBERS.get(_task(config.env.id), ())), count)


def controls(config: Config, spec: Spec) -> list[dict[str, Any]]:
    """The controls of the player: one entry for each choice and each group of numbers, in the order of the vector.

    {"kind": "choice", "names", "keys": {key: index}} or {"kind": "numbers", "names"}.
    """
    parts: list[dict[str, Any]] = []
    for group in spec.action.groups:
        if group.kind == "box":
            names = number_names(config, group.size) or tuple(f"action {i}" for i in range(group.size))
            parts.append({"kind": "numbers", "names": names})
        else:
            names = choice_names(config, group.size) if len(spec.action.groups) == group.copies == 1 else ()
            keys = keys_for(names, group.size) if not any(entry["kind"] == "choice" for entry in parts) else {}
            labels = names or tuple(str(i) for i in range(group.size))
            parts += [
                {"kind": "choice", "names": labels, "keys": keys if copy == 0 else {}} for copy in range(group.copies)
            ]
    return parts


def keys_for(names: tuple[str, ...], count: int) -> dict[str, int]:
    """{code of a key in browsers: index of the action}: arrows and WASD by name or by order, digits 1-9 by order."""
    keys = {f"Digit{i + 1}": i for i in range(min(count, 9))}
    if not names:
        keys |= {key: i for i, key in enumerate(LETTERS) if i < count}
    for key, words in _KEYS.items():
        matching = [i for word in words for i in _with_word(names, word)]
        if matching:  # "forward" before "pick up", although "up" comes first
            keys[key] = min(matching, key=lambda i: names[i] not in words)
    return keys | {letter: keys[arrow] for arrow, letter in LETTERS.items() if arrow in keys}


def vector_of(spec: Spec, wanted: Mapping[str, Any]) -> np.ndarray:
    """{"choices": [index of each one-hot], "numbers": [-1..1 of each]} -> the agent's vector (A,).

    Raises UserError for values out of range and for too few or too many.
    """
    choices, numbers = list(wanted.get("choices", ())), list(wanted.get("numbers", ()))
    pieces: list[np.ndarray] = []
    for group in spec.action.groups:
        for _ in range(group.copies if group.kind == "onehot" else 1):
            if group.kind == "onehot":
                index = choices.pop(0) if choices else -1
                if not isinstance(index, int) or not 0 <= index < group.size:
                    raise UserError(f"a choice must be 0 to {group.size - 1}, got {index!r}.")
                pieces.append(np.eye(group.size, dtype=np.float32)[index])
            else:
                own, numbers = numbers[: group.size], numbers[group.size :]
                if len(own) != group.size or not all(isinstance(x, int | float) and -1 <= x <= 1 for x in own):
                    raise UserError(f"this action needs {group.size} numbers from -1 to 1, got {own!r}.")
                pieces.append(np.array(own, np.float32))
    if choices or numbers:
        raise UserError("the action has more parts than the environment takes.")
    return np.concatenate(pieces)


def _with_word(names: tuple[str, ...], word: str) -> list[int]:
    """Indices of the actions of that name, then of those with the word in their name, short ones first."""
    inside = [i for i, name in enumerate(names) if f" {word} " in f" {name} "]
    return sorted(inside, key=lambda i: (names[i] != word, len(names[i])))


def _task(env_id: str) -> str:
    return re.sub(r"-v\d+$", "", env_id.rpartition("/")[2])


def _if_as_many(names: list[str], count: int) -> tuple[str, ...]:
    return tuple(names) if len(names) == count else ()


def _minimal_atari(config: Config) -> list[str]:
    """The names of a game's own actions, which only the emulator knows; [] if it cannot be started."""
    from ..envs import make_env
    from ..run.tasks import options_of

    if names_code(config.env.id):  # only what the user names is imported
        return []
    try:
        env: Any = make_env(config.env.id, **options_of(config))
    except Exception:  # e.g. the package is missing on this machine; numbers are shown instead of names
        return []
    names = [str(name).lower() for name in env.unwrapped.get_action_meanings()]
    env.close()
    return names
