"""Conversion between any Gymnasium action space and one vector: one-hots for choices, [-1, 1] for Box, concatenated.

Users never see that vector: `decode` turns it into the environment's own action. No torch in here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from ..errors import UserError

Path = tuple[str | int, ...]  # keys of Dict spaces, positions in Tuple spaces, from the root
#: Integer Boxes with up to this many values per number become choices; larger ones become rounded continuous numbers.
MAX_CHOICES = 32
#: More values of one choice are a mistake: each is an input or an output of a network.
MOST_CHOICES = 2**20
#: Limits of this size, and the largest number of a type of floats, mean "any number".
NO_LIMIT = 1e9


def key_of(key: Any, where: str) -> str | int:
    """A key of a Dict space as it stands in files: text, or a whole number. where: "the observation space".

    Raises UserError for a key of another kind.
    """
    if isinstance(key, str):
        try:
            key.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            pass
        else:
            return key
    elif isinstance(key, int | np.integer):
        return int(key)
    raise UserError(f"{where} has the key {key!r}, which cannot be written to a file.", "Use text as keys.")


def require_few(count: int, what: str, hint: str) -> None:
    """Raises UserError for more choices than a network can have inputs or outputs. what: of which part."""
    if count > MOST_CHOICES:
        raise UserError(f"{what} has {count:,} values, each of which would be a number of its own.", hint)


class ActionGroup(NamedTuple):
    """A contiguous part of the vector that one distribution describes."""

    kind: str  # "onehot" or "box"
    size: int  # choices of each one-hot, or numbers of the box
    copies: int = 1  # one-hots of that size, one after the other

    @property
    def total(self) -> int:
        """Entries of the vector."""
        return self.size * self.copies


@dataclass(frozen=True)
class ActionPart:
    """One leaf of the environment's action space and its part of the agent's vector."""

    path: Path
    kind: str  # "discrete", "multi_discrete", "multi_binary" or "box"
    shape: tuple[int, ...]  # the environment's own
    choices: tuple[int, ...] = ()  # number of values of each choice; empty for a box
    starts: tuple[int, ...] = ()  # smallest value of each choice
    low: tuple[float, ...] = ()  # lower limits of a box
    high: tuple[float, ...] = ()  # upper limits of a box
    dtype: str = "int64"

    @property
    def size(self) -> int:
        """Entries of the vector."""
        return sum(self.choices) if self.choices else len(self.low)

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.low), np.array(self.high)

    def decode(self, vector: np.ndarray) -> np.ndarray:
        """Vectors (..., size) -> the environment's own actions (..., *shape), always inside its space."""
        batch = vector.shape[:-1]
        if not self.choices:
            low, high = self._bounds
            own = np.clip(low + (vector + 1) / 2 * (high - low), low, high)
            own = np.rint(own) if np.issubdtype(self.dtype, np.integer) else own
            return own.astype(self.dtype).reshape(batch + self.shape)
        if len(self.choices) == 1:  # the usual case, ten times faster
            return (vector.argmax(-1) + self.starts[0]).astype(self.dtype).reshape(batch + self.shape)
        picked = [part.argmax(-1) for part in self.split(vector)]
        return (np.stack(picked, -1) + np.array(self.starts)).astype(self.dtype).reshape(batch + self.shape)

    def encode(self, own: Any) -> np.ndarray:
        """Inverse of `decode`: the environment's own actions (..., *shape) -> vectors (..., size).

        Numbers outside of the limits are cut off there; a number that can have one value only becomes 0. Raises
        ValueError for another shape and for a choice that does not exist.
        """
        value = np.asarray(own)
        batch = value.shape[: value.ndim - len(self.shape)]
        if value.shape[len(batch) :] != self.shape:
            raise ValueError(f"actions{_quoted(self.path)} have shape {value.shape}, expected (..., {self.shape})")
        if not self.choices:
            low, high = self._bounds
            width = np.where(high > low, high - low, 1.0)
            numbers = value.reshape((*batch, len(self.low))).astype(np.float64)
            scaled = np.where(high > low, 2 * (numbers - low) / width - 1, 0.0)
            return np.clip(scaled, -1, 1).astype(np.float32)
        offsets = value.reshape((*batch, len(self.choices))) - np.array(self.starts)
        if not ((offsets >= 0) & (offsets < np.array(self.choices)) & (offsets == np.rint(offsets))).all():
            raise ValueError(f"the actions{_quoted(self.path)} hold a choice that the space does not have")
        one_hots = [np.arange(count) == offsets[..., i, None] for i, count in enumerate(self.choices)]
        return np.concatenate(one_hots, -1).astype(np.float32)

    def split(self, vector: np.ndarray) -> list[np.ndarray]:
        """(..., size) -> one array (..., n) for each choice."""
        return np.split(vector, np.cumsum(self.choices)[:-1], axis=-1)

    def groups(self) -> list[ActionGroup]:
        """The groups of this part, in order."""
        if not self.choices:
            return [ActionGroup("box", len(self.low))]
        return [ActionGroup("onehot", size, len(list(same))) for size, same in groupby(self.choices)]

    def encode_mask(self, own: Any, batch: tuple[int, ...]) -> np.ndarray:
        """The environment's mask of this part (None: all allowed) -> uint8 (*batch, size), 1: allowed.

        Raises UserError for a wrong number of entries, and for NaN.
        """
        if own is None or not self.choices:
            return np.ones((*batch, self.size), np.uint8)
        pieces = own if isinstance(own, tuple | list) else [own]
        try:
            flat = np.concatenate([np.asarray(x).reshape((*batch, -1)) for x in pieces], -1)
        except ValueError:
            flat = np.zeros((*batch, 0))
        if flat.shape[-1] != self.size:
            raise UserError(
                f"the action mask{_quoted(self.path)} has {flat.shape[-1]} entries for {self.size} choices.",
                "Give one entry per choice, 1 for allowed, in the form of `space.sample(mask)`.",
            )
        if flat.dtype.kind == "f" and np.isnan(flat).any():
            raise UserError(
                f"the action mask{_quoted(self.path)} contains NaN.", "Give 1 for allowed, 0 for forbidden."
            )
        return (flat > 0).astype(np.uint8)

    def describe(self) -> str:
        """A few words for the header of a run, e.g. "4 discrete actions"."""
        if self.kind == "discrete":
            return f"{self.size} discrete actions"
        if self.kind == "multi_binary":
            return f"{len(self.choices)} switches"
        if self.choices:
            return f"choices of {'x'.join(map(str, self.choices))}"
        return f"{self.size} continuous action(s)" + (", rounded" if np.issubdtype(self.dtype, np.integer) else "")


@dataclass(frozen=True)
class ActionSpec:
    """All parts of an action. The agent's vector (A,) is the vectors of the parts, concatenated."""

    parts: tuple[ActionPart, ...]

    @staticmethod
    def discrete(count: int, start: int = 0) -> ActionSpec:
        """One choice of `count`."""
        return ActionSpec((ActionPart((), "discrete", (), (count,), (start,)),))

    @staticmethod
    def box(size: int) -> ActionSpec:
        """`size` numbers in [-1, 1]."""
        return ActionSpec((ActionPart((), "box", (size,), low=(-1.0,) * size, high=(1.0,) * size, dtype="float32"),))

    @cached_property
    def size(self) -> int:
        """A, the entries of the vector."""
        return sum(part.size for part in self.parts)

    @cached_property
    def groups(self) -> tuple[ActionGroup, ...]:
        """The groups of the vector in order, neighbours of the same kind merged."""
        merged: list[ActionGroup] = []
        for group in (group for part in self.parts if part.size for group in part.groups()):
            last = merged[-1] if merged else None
            if last and last.kind == group.kind == "box":
                merged[-1] = ActionGroup("box", last.size + group.size)
            elif last and last.kind == group.kind and last.size == group.size:
                merged[-1] = ActionGroup("onehot", last.size, last.copies + group.copies)
            else:
                merged.append(group)
        return tuple(merged)

    @property
    def kind(self) -> str:
        """ "discrete" if all groups are choices, "box" if none is, else "mixed"."""
        kinds = {group.kind for group in self.groups}
        return "mixed" if len(kinds) > 1 else {"onehot": "discrete", "box": "box"}[kinds.pop()]

    @cached_property
    def is_choice(self) -> np.ndarray:
        """bool (A,): the entries of the vector that belong to one-hots."""
        return np.concatenate([np.full(group.total, group.kind == "onehot") for group in self.groups])

    @cached_property
    def _slices(self) -> list[slice]:
        ends = np.cumsum([part.size for part in self.parts])
        return [slice(int(end) - part.size, int(end)) for part, end in zip(self.parts, ends, strict=True)]

    def decode(self, vector: np.ndarray) -> Any:
        """The agent's vectors (..., A) -> the environment's own actions, same leading axes, nested as its space."""
        own = [part.decode(vector[..., where]) for part, where in zip(self.parts, self._slices, strict=True)]
        return _nested([(part.path, value) for part, value in zip(self.parts, own, strict=True)])

    def decode_one(self, vector: np.ndarray) -> Any:
        """The agent's vector (A,) -> the argument of `env.step`: a plain int for Discrete."""
        own = [_native_value(part, vector[where]) for part, where in zip(self.parts, self._slices, strict=True)]
        return _nested([(part.path, value) for part, value in zip(self.parts, own, strict=True)])

    def encode(self, own: Any) -> np.ndarray:
        """The environment's own actions, nested as its space, with any leading axes -> the agent's vectors (..., A).

        As `ActionPart.encode`. Raises ValueError, and KeyError or IndexError for a part that is missing.
        """
        return np.concatenate([part.encode(_mask_at(own, part.path)) for part in self.parts], -1)

    def random(self, rng: np.random.Generator, count: int, mask: np.ndarray | None = None) -> np.ndarray:
        """Uniformly random actions among the allowed ones. mask (count, A) or None -> float32 (count, A)."""
        out = []
        at = 0
        for group in self.groups:
            if group.kind == "box":
                out.append(rng.uniform(-1, 1, (count, group.size)).astype(np.float32))
            else:
                allowed = np.ones((count, group.total)) if mask is None else mask[:, at : at + group.total]
                cumulative = allowed.reshape(count * group.copies, group.size).cumsum(-1)
                drawn = rng.random((len(cumulative), 1)) * cumulative[:, -1:]
                picked = (cumulative <= drawn).sum(-1).clip(max=group.size - 1)
                out.append(np.eye(group.size, dtype=np.float32)[picked].reshape(count, group.total))
            at += group.total
        return np.concatenate(out, -1)

    def encode_mask(self, own: Any, batch: tuple[int, ...] = ()) -> np.ndarray:
        """The environment's action mask, nested as its action space -> uint8 (*batch, A), 1: allowed.

        Where a mask allows no choice at all (at the end of an episode), all are allowed. Raises UserError.
        """
        pieces = [part.encode_mask(_mask_at(own, part.path), batch) for part in self.parts]
        mask = np.concatenate(pieces, -1)
        for where in self._choices():
            mask[..., where] |= ~mask[..., where].any(-1, keepdims=True)
        return mask

    def forbids_all(self, own: Any) -> bool:
        """Whether the environment's mask leaves some choice without any allowed value."""
        mask = np.concatenate([part.encode_mask(_mask_at(own, part.path), ()) for part in self.parts])
        return any(not mask[where].any() for where in self._choices())

    def _choices(self) -> Iterator[slice]:
        """The one-hots of the vector."""
        at = 0
        for group in self.groups:
            if group.kind == "onehot":
                yield from (slice(at + k * group.size, at + (k + 1) * group.size) for k in range(group.copies))
            at += group.total

    def describe(self) -> str:
        """A few words for the header of a run, e.g. "2 continuous action(s)"."""
        return ", ".join(part.describe() + _quoted(part.path) for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return {"parts": [asdict(part) for part in self.parts]}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> ActionSpec:
        """Inverse of `to_dict`; also reads format 1, which has one part."""
        if "parts" not in values:
            old: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            if old["kind"] == "discrete":
                return ActionSpec.discrete(old["size"], old["start"])
            box = ActionPart((), "box", old["shape"], low=old["low"], high=old["high"], dtype=old["dtype"])
            return ActionSpec((box,))
        parts: list[dict[str, Any]] = [
            {k: tuple(v) if isinstance(v, list) else v for k, v in part.items()} for part in values["parts"]
        ]
        return ActionSpec(tuple(ActionPart(**part) for part in parts))


def make_action_spec(space: spaces.Space, *, bound: float = 1.0) -> tuple[ActionSpec, list[str]]:
    """Read an action space. -> (spec, notes for the user).

    bound: numbers without limits in the space get -bound to bound. Raises UserError for an unsupported space.
    """
    notes: list[str] = []
    parts = tuple(_parts(space, (), bound, notes))
    if not sum(part.size for part in parts):
        raise UserError(f"the environment takes no action: {space}.", "Give an action space with at least one number.")
    return ActionSpec(parts), notes


def _parts(space: spaces.Space, path: Path, bound: float, notes: list[str]) -> Iterator[ActionPart]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        yield from _inner_parts(space, path, bound, notes)
    elif 0 in (space.shape or ()):  # nothing to choose, but the environment wants its empty array
        yield ActionPart(path, "box", space.shape or (), dtype=str(space.dtype))
    elif isinstance(space, spaces.Discrete):
        require_few(int(space.n), f"the action{_quoted(path)}", "Use a Box for numbers, or several choices.")
        yield ActionPart(path, "discrete", (), (int(space.n),), (int(space.start),), dtype=str(space.dtype))
    elif isinstance(space, spaces.MultiDiscrete):
        choices, starts = (tuple(int(x) for x in values.reshape(-1)) for values in (space.nvec, space.start))
        require_few(sum(choices), f"the action{_quoted(path)}", "Use a Box for numbers, or fewer choices.")
        yield ActionPart(path, "multi_discrete", space.shape, choices, starts, dtype=str(space.dtype))
    elif isinstance(space, spaces.MultiBinary):
        count = int(np.prod(space.shape))
        yield ActionPart(path, "multi_binary", space.shape, (2,) * count, (0,) * count, dtype=str(space.dtype))
    elif isinstance(space, spaces.Box):
        require_few(int(np.prod(space.shape)), f"the action{_quoted(path)}", "Declare a smaller Box.")
        yield _box(space, path, bound, notes)
    else:
        raise UserError(
            f"the action space{_quoted(path)} {space} is not supported.",
            "Wrap the environment. Supported: Box, Discrete, MultiDiscrete, MultiBinary and Dict or Tuple of them.",
        )


def _inner_parts(space: spaces.Dict | spaces.Tuple, path: Path, bound: float, notes: list[str]) -> Iterator[ActionPart]:
    """The parts of a Dict or Tuple. Raises UserError for what `_nested` could not put together again."""
    inner = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    for given, sub in inner:
        key = key_of(given, f"the action space{_quoted(path)}")
        if isinstance(space, spaces.Dict) and isinstance(key, int):
            raise UserError(f"the action space{_quoted(path)} has the key {given!r}, not text.", "Use text as keys.")
        if isinstance(sub, spaces.Dict | spaces.Tuple) and not sub.spaces:
            raise UserError(f"the action space{_quoted((*path, key))} is empty: {sub}.", "Leave it out of the space.")
        yield from _parts(sub, (*path, key), bound, notes)


def _box(space: spaces.Box, path: Path, bound: float, notes: list[str]) -> ActionPart:
    low, high = (np.asarray(values, np.float64).reshape(-1) for values in (space.low, space.high))
    kind = np.dtype(space.dtype)
    if kind.kind in "iub":
        choices = tuple(int(x) for x in high - low + 1)
        if max(choices) <= MAX_CHOICES:
            starts = tuple(int(x) for x in low)
            return ActionPart(path, "multi_discrete", space.shape, choices, starts, dtype=str(kind))
        notes.append(f"the whole numbers of the action{_quoted(path)} are treated as continuous, then rounded")
    largest = float(np.finfo(kind.name).max) if kind.kind == "f" else np.inf
    no_low, no_high = (~(np.abs(values) < min(NO_LIMIT, 0.99 * largest)) for values in (low, high))
    low, high = np.where(no_low, -bound, low), np.where(no_high, bound, high)
    if (no_low | no_high).any():
        notes.append(
            f"the action{_quoted(path)} has no limits in its space: {-bound:g} to {bound:g} is used (env.action_bound)"
        )
    if (low > high).any():
        at = int(np.argmax(low > high))
        one = low[at] if no_high[at] else -high[at]
        raise UserError(
            f"number {at} of the action{_quoted(path)} has one limit only, {low[at] if no_high[at] else high[at]:g}, "
            f"and env.action_bound={bound:g} is on the wrong side of it.",
            f"Declare both limits in the space, or set env.action_bound above {one:g}.",
        )
    if (low == high).any():
        fixed = ", ".join(f"number {at} is always {low[at]:g}" for at in np.flatnonzero(low == high)[:3])
        notes.append(f"the limits of the action{_quoted(path)} leave no choice: {fixed}")
    limits = [tuple(float(x) for x in values) for values in (low, high)]
    return ActionPart(path, "box", space.shape, low=limits[0], high=limits[1], dtype=str(kind))


def _native_value(part: ActionPart, vector: np.ndarray) -> Any:
    own = part.decode(vector)
    return int(own) if part.kind == "discrete" else np.asarray(own)


def _quoted(path: Path) -> str:
    """ " 'arm/joint'" for messages; "" for a space that is not nested."""
    return f" '{'/'.join(map(str, path))}'" if path else ""


def _mask_at(own: Any, path: Path) -> Any:
    """The entry of a nested mask at `path`, None if there is none."""
    for key in path:
        if own is None or (isinstance(own, Mapping) and key not in own):
            return None
        own = own[key]
    return own


def _nested(items: Sequence[tuple[Path, Any]]) -> Any:
    """[(path, value), ...] -> nested dicts and tuples."""
    if items[0][0] == ():
        return items[0][1]
    keys = list(dict.fromkeys(path[0] for path, _ in items))
    inner = {key: _nested([(path[1:], value) for path, value in items if path[0] == key]) for key in keys}
    return tuple(inner.values()) if isinstance(keys[0], int) else inner
