"""One step of acting as one function of tensors, with everything that changes from call to call as an input.

    environment's observation, state, last action, is_first, noise  ->  environment's action, state, last action

Inside: the preprocessing of observations, the reset by `is_first`, the filter, the policy, and the conversion of its
action to the environment's own. The graph uses the plain modules as they are; what is written here is only what
`envs/spaces.py` and `envs/actions.py` do in NumPy, once more in torch.

Shapes: B environments, which may be any number; A the agent's action vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..actor_critic import Actor
from ..distributions import POLICIES, OneHotPolicy, Part, TanhNormalPolicy
from ..envs.actions import ActionPart, Path
from ..envs.images import area_weights
from ..envs.spaces import MASK, ObsKey, Spec
from ..latents import CategoricalLatent
from ..rssm import State
from ..world_model import WorldModel

#: What is drawn at each step. eval: z, as `agent.evaluate` plays; train: z and the action; deterministic: nothing, both
#: are the most likely ones.
MODES = ("eval", "train", "deterministic")


@dataclass(frozen=True)
class Port:
    """An input or output of the graph. All have a leading axis of environments."""

    name: str
    role: str  # "observation", "mask", "state", "is_first", "uniform", "normal" or "action"
    dtype: str
    shape: tuple[int, ...]  # without the leading axis
    path: Path = ()  # where it lies in the environment's nested observation, mask or action; empty: it is all of it
    low: int | None = None  # whole numbers: the smallest and the largest value of the space
    high: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold; limits only where there are some."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class PolicyGraph(nn.Module):
    """The function above. Inputs and outputs in the order of `inputs` and `outputs`; no gradient, no random numbers.

    world_model and actor: plain ones, not accelerated. mode: one of `MODES`.
    """

    def __init__(self, world_model: WorldModel, actor: Actor, spec: Spec, *, mode: str = "eval") -> None:
        super().__init__()
        self.world_model, self.actor, self.spec, self.mode = world_model, actor, spec, mode
        rssm = world_model.rssm
        self.z_noise = rssm.latent.noise(1).shape[-1]
        z_noise = self.z_noise if mode != "deterministic" else 0
        z_is_uniform = isinstance(rssm.latent, CategoricalLatent)
        self.noise: list[tuple[str, int]] = [("uniform" if z_is_uniform else "normal", z_noise)]
        if mode == "train":
            self.noise += [(_draw(part), _width(part)) for part in actor.parts]
        sizes = {kind: sum(size for name, size in self.noise if name == kind) for kind in ("uniform", "normal")}
        self.observed = [(key, item) for key, item in spec.obs.items() if item.kind != "mask"]
        self.choices = [part for part in spec.action.parts if part.choices] if spec.masked else []
        self.inputs = [
            *(_observation(key, item) for key, item in self.observed),
            *(Port(_named("mask", p.path), "mask", "uint8", (p.size,), p.path) for p in self.choices),
            Port("deter", "state", "float32", (rssm.rnn_hidden_dim,)),
            Port("stoch", "state", "float32", (rssm.latent.stoch_dim,)),
            Port("last_action", "state", "float32", (spec.action.size,)),
            Port("is_first", "is_first", "bool", ()),
            *(Port(kind, kind, "float32", (size,)) for kind, size in sizes.items() if size),
        ]
        self.outputs = [
            *(Port(_named("action", p.path), "action", p.dtype, p.shape, p.path) for p in spec.action.parts),
            *(
                Port(f"next_{port.name}", "state", port.dtype, port.shape)
                for port in self.inputs
                if port.role == "state"
            ),
        ]

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        given = {port.name: value for port, value in zip(self.inputs, values, strict=True)}
        obs = {key: encode(item, given[_named("obs", item.path)]) for key, item in self.observed}
        if self.spec.masked:
            obs[MASK] = self._mask(given, given["is_first"].shape[0])
        vector, state = self.act(obs, given)
        return (*self._decoded(vector), state.deter, state.stoch, vector)

    def act(self, obs: dict[str, Tensor], given: dict[str, Tensor]) -> tuple[Tensor, State]:
        """The same in the agent's own terms. obs {key: (B, *shape)}; given: the inputs that are no observations, by
        name -> the action's vector (B, A), State of (B, ...)."""
        is_first, stoch, deter = given["is_first"], given["stoch"], given["deter"]
        drawn = list(self._drawn(given))
        model, rssm = self.world_model, self.world_model.rssm
        before = State(deter, stoch, deter.new_zeros(is_first.shape[0], rssm.latent.stats_dim))
        if self.mode != "deterministic":
            state = model.observe(obs, given["last_action"], is_first, before, drawn[0])
        else:
            idle = deter.new_zeros(is_first.shape[0], self.z_noise)  # what is drawn with it is thrown away
            state = model.observe(obs, given["last_action"], is_first, before, idle)
            state = state._replace(stoch=rssm.latent.mode(state.stats))
        policy = self.actor(state.feat, obs[MASK] if model.mask_key else None)
        if self.mode != "train":
            return policy.mode(), state
        single = isinstance(policy, OneHotPolicy)
        return policy.sample(drawn[1].squeeze(-1) if single else torch.cat(drawn[1:], -1)), state

    def _drawn(self, given: dict[str, Tensor]) -> Iterator[Tensor]:
        """The stretches of the noise inputs, first z's, then the action's, part by part."""
        at = {"uniform": 0, "normal": 0}
        for kind, size in self.noise:
            if size:
                yield given[kind][:, at[kind] : at[kind] + size]
            at[kind] += size

    def _mask(self, given: dict[str, Tensor], count: int) -> Tensor:
        """As `ActionSpec.encode_mask`: where a choice has no allowed value, all are allowed. -> uint8 (B, A)."""
        pieces = []
        for part in self.spec.action.parts:
            if not part.choices:
                pieces.append(torch.ones(count, part.size, dtype=torch.uint8))
                continue
            for piece in torch.split(given[_named("mask", part.path)] > 0, list(part.choices), -1):
                pieces.append((piece | ~piece.any(-1, keepdim=True)).to(torch.uint8))
        return torch.cat(pieces, -1)

    def _decoded(self, vector: Tensor) -> list[Tensor]:
        """The agent's vector (B, A) -> the environment's own action, part by part (B, *shape)."""
        pieces = torch.split(vector, [part.size for part in self.spec.action.parts], -1)
        return [decode(part, piece) for part, piece in zip(self.spec.action.parts, pieces, strict=True)]


def _draw(part: Part) -> str:
    return "normal" if POLICIES[part.policy] is TanhNormalPolicy else "uniform"


def _width(part: Part) -> int:
    return part.copies if part.policy == "onehot" else part.size


def _named(what: str, path: Path) -> str:
    return "_".join([what, *("".join(c if c.isalnum() else "_" for c in str(key)) for key in path)])


def _observation(key: str, item: ObsKey) -> Port:
    name = _named("obs", item.path)
    if item.kind == "image":
        return Port(name, "observation", "uint8" if item.factor == 1 else "float32", item.raw_shape, item.path)
    if not item.choices:
        return Port(name, "observation", "float32", item.raw_shape, item.path)
    ends = [start + count - 1 for start, count in zip(item.starts, item.choices, strict=True)]
    return Port(name, "observation", "int64", item.raw_shape, item.path, min(item.starts), max(ends))


def twice(ports: Sequence[Port]) -> list[str]:
    """The names that two of them have: a graph needs one for each."""
    names = [port.name for port in ports]
    return sorted({name for name in names if names.count(name) > 1})


# ------------------------------------------------------------------------------------ what spaces.py and actions.py do


def encode(item: ObsKey, value: Tensor) -> Tensor:
    """`ObsKey.encode` of a batch. value (B, *raw_shape) -> (B, *shape): uint8 images, float32 vectors."""
    count = value.shape[0]
    if item.kind != "image":
        if not item.choices:
            return value.reshape(count, item.shape[0]).float()
        numbers = value.reshape(count, len(item.choices))
        one_hots = [
            numbers[:, i, None] - start == torch.arange(n)
            for i, (n, start) in enumerate(zip(item.choices, item.starts, strict=True))
        ]
        return torch.cat(one_hots, -1).float()
    if item.layout == "chw":
        value = value.movedim(-3, -1)
    elif item.layout == "hw":
        value = value[..., None]
    elif item.layout == "shwc":
        value = value.movedim(-4, -2).flatten(-2)
    if value.dtype != torch.uint8:
        value = (value.float() * item.factor).round().clamp(0, 255)
    value = _resized(value.float(), item.shape[0], item.shape[1])
    if item.grayscale and value.shape[-1] != item.shape[-1]:
        value = torch.cat([_gray(frame) for frame in torch.chunk(value, item.frames, -1)], -1)
    return value.to(torch.uint8)


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    """`area_resize`: means over areas, rounded. Whole numbers (B, H, W, C) -> the same, (B, height, width, C)."""
    if tuple(image.shape[1:3]) == (height, width):
        return image
    rows, columns = (
        torch.from_numpy(np.kron(np.eye(np.gcd(have, want), dtype=np.float32), area_weights(have, want)))
        for have, want in ((image.shape[1], height), (image.shape[2], width))
    )
    lines = columns @ image  # (B, H, width, C)
    return (rows @ lines.flatten(2)).reshape(-1, height, width, image.shape[3]).round()


def _gray(frame: Tensor) -> Tensor:
    """`to_gray`. Whole numbers (B, H, W, C) -> (B, H, W, 1)."""
    count = frame.shape[-1]
    weights = [0.299, 0.587, 0.114, 0.0][:count] if count in (3, 4) else [1 / count] * count
    exact = frame.double()
    return sum(exact[..., i : i + 1] * weight for i, weight in enumerate(weights)).round()  # type: ignore[union-attr]


def decode(part: ActionPart, vector: Tensor) -> Tensor:
    """`ActionPart.decode` of a batch. vector (B, size) -> the environment's own (B, *shape), inside its space."""
    count, dtype = vector.shape[0], getattr(torch, part.dtype)
    if part.choices:
        picked = [piece.argmax(-1) for piece in torch.split(vector, list(part.choices), -1)]
        own = torch.stack(picked, -1) + torch.tensor(part.starts)
        return own.to(dtype).reshape(count, *part.shape)
    low, high = (torch.tensor(values, dtype=torch.float64) for values in (part.low, part.high))
    own = torch.minimum(torch.maximum(low + ((vector + 1) / 2).double() * (high - low), low), high)
    return (own if dtype.is_floating_point else own.round()).to(dtype).reshape(count, *part.shape)
