"""Conversion of any Gymnasium observation to a flat dict of uint8 images and float vectors.

`Spec` describes the conversion and is stored in checkpoints; `AgentView` in `view.py` applies it. No torch in here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import UserError
from .actions import ActionSpec, Path, key_of, make_action_spec, require_few
from .images import area_resize, to_gray

#: The agent's name for the action mask, which is stored like any other observation.
MASK = "action_mask"
#: What NumPy does about numbers that do not fit, unless the user's program has it raise.
USUAL: dict[str, Any] = {"divide": "warn", "over": "ignore", "under": "ignore", "invalid": "ignore"}
#: Boxes of other numbers than uint8 with at least this many pixels a side are recognized as images.
MIN_FLOAT_IMAGE = 16
#: How far a pixel may be outside of 0..255, as rounding and noise make it; beyond, the image is on another scale.
OUTSIDE = 128.0
#: Ratios of height to width that differ by more than this are another shape to the user.
SQUASH = 1.02


@dataclass(frozen=True)
class ObsKey:
    """One entry of the agent's observation: its path in the environment's observation and its form."""

    path: Path  # keys from the root of a Dict or Tuple space; empty for a plain space
    kind: str  # "image", "vector", "discrete" or "mask"
    raw_shape: tuple[int, ...]  # as the environment gives it
    shape: tuple[int, ...]  # as the agent sees it: (H, W, C) or (V,)
    layout: str = ""  # images: "hwc", "chw", "hw" or, for stacked frames, "shwc"
    grayscale: bool = False  # images: converted to gray
    frames: int = 1  # images: number of stacked frames in the channels
    factor: float = 1.0  # images of floats: what scales them to 0..255
    choices: tuple[int, ...] = ()  # discrete: number of values of each number
    starts: tuple[int, ...] = ()  # discrete: smallest value of each number

    def encode(self, value: Any) -> np.ndarray:
        """Environment's value (..., *raw_shape) -> agent's (..., *shape): uint8 images, float32 vectors.

        Raises UserError for a wrong shape, an image on another scale than its space, and a choice that does not exist.
        """
        value = np.asarray(value)
        batch = value.shape[: value.ndim - len(self.raw_shape)]
        if value.shape[len(batch) :] != self.raw_shape:
            raise UserError(
                f"observation '{name_of(self.path)}' has shape {value.shape}, expected {self.raw_shape}.",
                "Pass the observation as the environment returned it.",
            )
        if self.kind == "image":
            return self._encode_images(value, batch)
        if self.choices:
            numbers = value.reshape((*batch, len(self.choices)))
            self._require_choices(numbers)
            one_hots = [
                np.arange(n) == (numbers[..., i, None] - start)
                for i, (n, start) in enumerate(zip(self.choices, self.starts, strict=True))
            ]
            return np.asarray(np.concatenate(one_hots, -1), np.float32)
        return value.reshape(batch + self.shape).astype(np.float32)

    def _require_choices(self, numbers: np.ndarray) -> None:
        """Is every number (..., choices) one of those that the space has? Raises UserError."""
        offsets = numbers - np.array(self.starts)
        wrong = ~((offsets >= 0) & (offsets < np.array(self.choices)) & (offsets == np.rint(offsets)))
        if wrong.any():
            index = int(np.argwhere(wrong)[0][-1])
            first, count = self.starts[index], self.choices[index]
            raise UserError(
                f"observation '{name_of(self.path)}' is {numbers[wrong][0]}, its space has {first} to "
                f"{first + count - 1}.",
                "Return a number of the space, or declare a larger one.",
            )

    def _require_scale(self, value: np.ndarray) -> None:
        """Is an image about as bright as its space says? Raises UserError for one that would be all black or white."""
        if not value.size:
            return
        low, high = float(value.min()), float(value.max())
        if not (low * self.factor >= -OUTSIDE and high * self.factor <= 255 + OUTSIDE):
            raise UserError(
                f"the image '{name_of(self.path)}' holds {low:.4g} to {high:.4g}, its space says 0 to "
                f"{255 / self.factor:g}.",
                "Return images on the scale of the space, or declare the scale that they have.",
            )

    def _encode_images(self, value: np.ndarray, batch: tuple[int, ...]) -> np.ndarray:
        if self.layout == "chw":
            value = np.moveaxis(value, -3, -1)
        elif self.layout == "hw":
            value = value[..., None]
        elif self.layout == "shwc":
            value = np.moveaxis(value, -4, -2)
            value = value.reshape((*value.shape[:-2], -1))
        if value.dtype != np.uint8:
            self._require_scale(value)
            value = np.clip(np.rint(value * self.factor), 0, 255).astype(np.uint8)
        if value.shape[len(batch) :] == self.shape:  # includes gray images, which have one channel per frame
            return value
        images = value.reshape((-1, *value.shape[len(batch) :]))
        return np.stack([self._resize(image) for image in images]).reshape(batch + self.shape)

    def _resize(self, image: np.ndarray) -> np.ndarray:
        """Resize and, with `grayscale`, convert to gray. uint8 (H, W, C) of any size -> uint8 of `shape`."""
        image = area_resize(image, self.shape[0], self.shape[1])
        if not self.grayscale:
            return image.astype(np.uint8, copy=False)
        return np.concatenate([to_gray(frame) for frame in np.split(image, self.frames, -1)], -1)

    @property
    def dtype(self) -> np.dtype:
        """uint8 for images and masks, float32 for the rest."""
        return np.dtype(np.uint8 if self.kind in ("image", "mask") else np.float32)

    def describe(self) -> str:
        """A few words for the header of a run, e.g. "image 64x64x3 -> convolutions"."""
        network = {"image": "convolutions", "mask": "mask head"}.get(self.kind, "MLP")
        return f"{self.kind} {'x'.join(map(str, self.shape))} -> {network}"


@dataclass(frozen=True)
class Spec:
    """The observations and actions of a task."""

    obs: Mapping[str, ObsKey]
    action: ActionSpec
    notes: tuple[str, ...] = field(default=(), compare=False)  # remarks on the spaces for the user

    @property
    def images(self) -> dict[str, tuple[int, int, int]]:
        """{key: (C, H, W)} of the images, channels first as in the networks."""
        return {k: (v.shape[2], v.shape[0], v.shape[1]) for k, v in self.obs.items() if v.kind == "image"}

    @property
    def vectors(self) -> dict[str, int]:
        """{key: V} of everything else: vectors, one-hots of discrete observations, and the action mask."""
        return {k: v.shape[0] for k, v in self.obs.items() if v.kind != "image"}

    @property
    def masked(self) -> bool:
        """Whether the task has an action mask."""
        return MASK in self.obs and self.obs[MASK].kind == "mask"

    @property
    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """{key: (shape, dtype)} as the replay memory stores them."""
        return {k: (v.shape, v.dtype) for k, v in self.obs.items()}

    @cached_property
    def _plain(self) -> list[tuple[str, ObsKey]]:
        return [(key, item) for key, item in self.obs.items() if item.kind != "mask"]

    @np.errstate(**USUAL)
    def encode(self, obs: Any, mask: Any = None) -> dict[str, np.ndarray]:
        """The environment's own observation (one or a batch) -> {key: (..., *shape)}.

        mask: info["action_mask"], if the task reports its mask there; None allows every action.
        Raises UserError for a missing key or a wrong shape.
        """
        out = {key: item.encode(entry(obs, item.path)) for key, item in self._plain}
        if self.masked:
            path, (key, item) = self.obs[MASK].path, self._plain[0]
            batch = out[key].shape[: out[key].ndim - len(item.shape)]
            out[MASK] = self.action.encode_mask(entry(obs, path) if path else mask, batch)
        return out

    def require_same_task(self, other: Spec) -> None:
        """Does `other` mean the same to an agent of this spec: observations of one form, the same actions?

        Images may have another size before they are resized. Raises UserError.
        """
        mine, its = self._meaning(), other._meaning()
        if mine != its:
            raise UserError(
                f"the agent was trained on another task: {'; '.join(self.describe())}; this environment has "
                f"{'; '.join(other.describe())}{_hidden_difference(self, other)}.",
                "Use the environment that it was trained on, or train another agent.",
            )

    def _meaning(self) -> tuple[Any, ...]:
        """What must be equal for two tasks to mean the same."""
        obs = {key: (item.kind, item.shape, item.choices, item.starts) for key, item in self.obs.items()}
        parts = [asdict(part) | {"dtype": part.dtype[:3]} for part in self.action.parts]
        return obs, parts

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return {"obs": {k: asdict(v) for k, v in self.obs.items()}, "action": self.action.to_dict()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Spec:
        """Inverse of `to_dict`; also reads format 1."""

        def read_key(items: Mapping[str, Any]) -> ObsKey:
            plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in items.items()}
            if "start" in plain:  # format 1
                start = plain.pop("start")
                if plain["kind"] == "discrete":
                    plain |= {"choices": plain["shape"], "starts": (start,)}
            return ObsKey(**plain)

        return Spec({k: read_key(v) for k, v in values["obs"].items()}, ActionSpec.from_dict(values["action"]))

    def describe(self) -> list[str]:
        """One line per observation and one for the action, for the header of a run."""
        return [*(f"{key}: {item.describe()}" for key, item in self.obs.items()), self.action.describe()]


def _hidden_difference(mine: Spec, its: Spec) -> str:
    """What differs between two tasks whose descriptions are the same: a first number, a limit, an order."""
    if mine.describe() != its.describe():
        return ""
    pairs = [("action", asdict(a), asdict(b)) for a, b in zip(mine.action.parts, its.action.parts, strict=False)]
    pairs += [("observation", asdict(a), asdict(b)) for a, b in zip(mine.obs.values(), its.obs.values(), strict=False)]
    for kind, a, b in pairs:
        name = next((name for name in a if a[name] != b[name]), None)
        if name is not None:
            return f", where the {kind}'s {name} is {_in_short(b[name])} instead of {_in_short(a[name])}"
    return ""


def _in_short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def entry(obs: Any, path: Path) -> Any:
    """The entry of a nested observation at `path`. Raises UserError if it is missing."""
    for part in path:
        try:
            obs = obs[part]
        except (KeyError, IndexError, TypeError):
            raise UserError(
                f"the observation lacks '{part}'.", "Pass the observation as the environment returned it."
            ) from None
    return obs


def name_of(path: Path) -> str:
    """The agent's key for an entry of the environment's observation."""
    return "/".join(map(str, path)) or "observation"


def _agent_name(item: ObsKey) -> str:
    """What the agent calls an observation: `MASK` is the mask's name alone, also where something else is called so."""
    name = name_of(item.path)
    return MASK if item.kind == "mask" else f"{name}_" if name == MASK else name


def make_spec(
    env: gym.Env,
    *,
    image_size: int = 0,
    grayscale: bool = False,
    images: Sequence[str] = (),
    vectors: Sequence[str] = (),
    ignore: Sequence[str] = (),
    action_bound: float = 1.0,
    action_mask: str = "auto",
) -> Spec:
    """Read an environment's spaces.

    image_size: side of the agent's images, 0 to keep their size. grayscale: convert images to gray. images, vectors,
    ignore: patterns of keys ("camera*") to present as images, as vectors, or not at all. action_bound: actions without
    limits get -action_bound to action_bound. action_mask: the observation that holds the mask; "auto" for one that is
    called action_mask and fits, "info" for info["action_mask"], "none" for none.

    Raises UserError for a space that the agent cannot use.
    """
    action, notes = make_action_spec(env.action_space, bound=action_bound)
    items: list[ObsKey] = []
    given = list(leaves(env.observation_space))
    _require_matches([name_of(path) for path, _ in given], images, vectors, ignore)
    for path, space in given:
        key = name_of(path)
        if key == (MASK if action_mask == "auto" else action_mask) and _could_mask(space, action):
            if _matches(key, ignore):
                raise UserError(
                    f"env.obs_ignore matches '{key}', which holds the action mask.", "Set env.action_mask=none as well."
                )
            items.append(ObsKey(path, "mask", space.shape or (), (action.size,)))
        elif 0 in (space.shape or ()):
            notes.append(f"'{key}' is empty, shape {space.shape}: it is ignored")
        elif _matches(key, ignore):
            notes.append(f"'{key}' is ignored (env.obs_ignore)")
        elif isinstance(space, spaces.Text) and not _matches(key, (*images, *vectors)):
            notes.append(f"'{key}' is text, which the agent cannot read: it is ignored")
        else:
            item = _obs_key(space, path, as_image=_matches(key, images), as_vector=_matches(key, vectors))
            notes += notes_on_image(item, image_size, grayscale)
            items.append(with_target_size(item, image_size, grayscale))
    obs = {_agent_name(item): item for item in items}
    if len({key.replace("/", "-").replace(".", "_") for key in obs}) < len(items):
        raise UserError(
            f"two observations have names that are too similar: {', '.join(name_of(item.path) for item in items)}.",
            "Rename one of them so that they differ in more than / and - or . and _.",
        )
    if not any(item.kind != "mask" for item in items):
        raise UserError(
            f"the environment has no usable observation: {env.observation_space}.",
            "Add one of the supported spaces: Box, Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of them.",
        )
    if action_mask not in ("auto", "none", "info") and MASK not in obs:
        raise UserError(
            f"env.action_mask: there is no observation '{action_mask}' that fits the {action.size} actions.",
            "Name an observation with one number per choice, or set it to info for info['action_mask'].",
        )
    return Spec(obs, action, tuple(notes))


def _matches(key: str, patterns: Sequence[str]) -> bool:
    """Is it the key itself, or does it fit one of the patterns? "cam[0]" is a key and a pattern for cam0."""
    return any(key == pattern or fnmatchcase(key, pattern) for pattern in patterns)


def _require_matches(keys: Sequence[str], images: Sequence[str], vectors: Sequence[str], ignore: Sequence[str]) -> None:
    """Refuse a pattern that matches nothing: a slip of the finger would otherwise go unnoticed. Raises UserError."""
    if keys and all(_matches(key, ignore) for key in keys):
        raise UserError(
            f"env.obs_ignore matches every observation: {', '.join(keys)}.", "Leave at least one for the agent to see."
        )
    settings = {"env.obs_images": images, "env.obs_vectors": vectors, "env.obs_ignore": ignore}
    for setting, patterns in settings.items():
        for pattern in patterns:
            if not any(_matches(key, [pattern]) for key in keys):
                near = difflib.get_close_matches(pattern, keys, 1, 0.6)
                known = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(keys[:20]) or 'none'}."
                raise UserError(
                    f"{setting}: no observation matches '{pattern}'; {known}",
                    "Correct it; in a run that has it already, in its config.yaml.",
                )


def leaves(space: spaces.Space, path: Path = ()) -> Iterator[tuple[Path, spaces.Space]]:
    """(path, space) for all spaces inside nested Dict and Tuple spaces."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        for key, sub in inner:
            yield from leaves(sub, (*path, key_of(key, "the observation space")))
    else:
        yield path, space


def _could_mask(space: spaces.Space, action: ActionSpec) -> bool:
    return int(np.prod(space.shape or (0,))) == action.size and action.kind == "discrete"


def _obs_key(space: spaces.Space, path: Path, *, as_image: bool, as_vector: bool) -> ObsKey:
    few = "Give a number in a Box, or leave it out with env.obs_ignore."
    if isinstance(space, spaces.Discrete):
        require_few(int(space.n), f"observation '{name_of(path)}'", few)
        return ObsKey(path, "discrete", (), (int(space.n),), choices=(int(space.n),), starts=(int(space.start),))
    if isinstance(space, spaces.MultiDiscrete):
        choices, starts = (tuple(int(x) for x in values.reshape(-1)) for values in (space.nvec, space.start))
        require_few(sum(choices), f"observation '{name_of(path)}'", few)
        return ObsKey(path, "discrete", space.shape, (sum(choices),), choices=choices, starts=starts)
    if isinstance(space, spaces.MultiBinary):
        return _vector(space.shape, path)
    if isinstance(space, spaces.Box):
        return _vector(space.shape, path) if as_vector else box_key(space, path, as_image=as_image)
    raise UserError(
        f"observation '{name_of(path)}' has the unsupported space {space}.",
        f"Set env.obs_ignore={name_of(path)}, or wrap with gymnasium.wrappers.TransformObservation.",
    )


def _vector(shape: tuple[int, ...], path: Path) -> ObsKey:
    return ObsKey(path, "vector", shape, (max(1, int(np.prod(shape))),))


def box_key(space: spaces.Box, path: Path = (), *, as_image: bool = False) -> ObsKey:
    """The form of a Box: an image, in any channel order and possibly a stack of frames, or else a vector.

    An image is uint8, or has the limits 0 and 1 or 0 and 255 and at least MIN_FLOAT_IMAGE pixels a side. as_image:
    require an image, whatever its size. Raises UserError if that is impossible.
    """
    shape, factor = space.shape, _scale_to_bytes(space)
    large = space.dtype == np.uint8 or sorted(shape)[-2:-1] >= [MIN_FLOAT_IMAGE]
    if factor and len(shape) in (3, 4) and (large or as_image):
        frames = shape[0] if len(shape) == 4 else 1
        height, width, channels, layout = _image_layout(shape[-3:])
        if frames > 1 and layout == "chw":
            raise UserError(
                f"observation '{name_of(path)}' is a stack of images with the channels first, {shape}.",
                "Put the channels last: (frames, height, width, channels).",
            )
        layout = "shwc" if len(shape) == 4 else layout
        return ObsKey(path, "image", shape, (height, width, channels * frames), layout, frames=frames, factor=factor)
    if factor and len(shape) == 2 and ((large and min(shape) >= 4) or as_image):
        return ObsKey(path, "image", shape, (*shape, 1), "hw", factor=factor)
    if as_image:
        raise UserError(
            f"observation '{name_of(path)}' cannot be an image (env.obs_images): {space}.",
            "Give a Box of 2 to 4 dimensions, uint8, or with the limits 0 and 1 or 0 and 255.",
        )
    return _vector(shape, path)


def _scale_to_bytes(space: spaces.Box) -> float:
    """The factor that scales an image to 0..255; 0 for a Box that is not an image."""
    if space.dtype == np.uint8:
        return 1.0
    if np.dtype(space.dtype).kind not in "iufb" or space.low.size == 0 or space.low.min() != 0:
        return 0.0
    return {1.0: 255.0, 255.0: 1.0}.get(float(space.high.max()), 0.0)


def _image_layout(shape: tuple[int, ...]) -> tuple[int, int, int, str]:
    """(height, width, channels, layout) of an image.

    The channels are the axis of size 1, 3 or 4, otherwise the shortest one, the last one if equal.
    """
    first = shape[0] < min(shape[1:])
    if shape[2] in (1, 3, 4) or (shape[0] not in (1, 3, 4) and not first):
        return shape[0], shape[1], shape[2], "hwc"
    return shape[1], shape[2], shape[0], "chw"


def with_target_size(item: ObsKey, image_size: int, grayscale: bool) -> ObsKey:
    """An image in the size and the colours that the agent sees; anything else as it is. image_size 0: its own."""
    if item.kind != "image":
        return item
    height, width, channels = item.shape
    grayscale = grayscale and _has_color(item)
    shape = (image_size or height, image_size or width, item.frames if grayscale else channels)
    return replace(item, shape=shape, grayscale=grayscale)


def _has_color(item: ObsKey) -> bool:
    """Red, green and blue, of a stack of frames also with alpha. Four channels of one image are four gray ones.

    Frames that are stacked in the channels, as usual on Atari, are many; an observation with alpha is hardly known.
    """
    channels = item.shape[2] // item.frames
    return channels == 3 or (channels == 4 and item.layout == "shwc")


def notes_on_image(item: ObsKey, image_size: int, grayscale: bool) -> list[str]:
    """What the user may not expect of how an image is presented."""
    if item.kind != "image":
        return []
    (height, width, channels), name, notes = item.shape, name_of(item.path), []
    if image_size and max(height, width) > SQUASH * min(height, width):
        notes.append(
            f"'{name}' has {height}x{width} pixels and is squashed to {image_size}x{image_size} "
            "(env.image_size; 0 keeps its own size)"
        )
    if grayscale and channels > item.frames and not _has_color(item):
        notes.append(
            f"'{name}' has {channels} channels, which are taken for as many gray images: env.grayscale leaves them"
        )
    return notes
