"""The arithmetic of an update and of a policy step: operations and bytes by part, counted without computing them.

Operations: the paper's dense products and convolutions, a multiply-add as two operations, counted by torch's own
formulas over the plain path on the meta device, which has shapes but no values. What the fast path saves by one-hot
algebra is not taken off, so that a fraction of the ceiling compares implementations of one algorithm.
Bytes are an estimate: every product reads its inputs and writes its output once, all else is fused into it, caches
help nothing; the optimizer reads parameter, gradient and two moments and writes three of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..config import build
from ..data.replay import Batch
from ..train import DreamerV2
from .parts import Watch, watched
from .subject import Subject

#: Bytes that Adam moves per number: four read, three written, 4 bytes each.
ADAM_BYTES = 28


@dataclass
class Work:
    """Operations and bytes of a part of an update."""

    phase: str
    part: str
    forward_flops: int = 0
    backward_flops: int = 0
    weight_bytes: int = 0  # of parameters read by products, in 4-byte numbers
    other_bytes: int = 0  # of activations and gradients
    optimizer_bytes: int = 0

    @property
    def flops(self) -> int:
        """Operations forward and backward."""
        return self.forward_flops + self.backward_flops

    def bytes(self, *, itemsize: int = 4) -> float:
        """Moved, with products in numbers of `itemsize` bytes; the optimizer stays in float32."""
        return (self.weight_bytes + self.other_bytes) * itemsize / 4 + self.optimizer_bytes


class Counter(TorchDispatchMode, Watch):
    """Counts products while the agent's parts are watched.

    Backward belongs to the part whose forward made it: autograd numbers its nodes in the order of the forward pass.
    """

    def __init__(self, agent: torch.nn.Module) -> None:
        TorchDispatchMode.__init__(self)
        Watch.__init__(self)
        self.found: dict[tuple[str, str], Work] = {}
        self.borders: list[tuple[int, tuple[str, str]]] = []  # (first number after it, part), in order
        self.weights = {p.untyped_storage()._cdata for p in agent.parameters()}

    def change(self) -> None:
        """Remember which of autograd's numbers belong to the part that ends or is interrupted here."""
        self.borders.append((torch._C._autograd._get_sequence_nr(), self.here))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            node = torch._C._current_autograd_node()
            key = self.here if node is None else self._origin(node._sequence_nr())
            work = self.found.setdefault(key, Work(*key))
            flops = int(formula(*args, **(kwargs or {}), out_val=out))
            if node is None:
                work.forward_flops += flops
            else:
                work.backward_flops += flops
            for tensor in _tensors((args, out)):
                storage = tensor.untyped_storage()
                size = min(tensor.numel() * tensor.element_size(), storage.nbytes())  # less where it is broadcast
                if storage._cdata in self.weights:
                    work.weight_bytes += size
                else:
                    work.other_bytes += size
        return out

    def _origin(self, number: int) -> tuple[str, str]:
        for first_after, key in self.borders:
            if number < first_after:
                return key
        return self.here


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [t for value in values for t in _tensors(value)] if isinstance(values, tuple | list) else []


def meta_agent(subject: Subject) -> DreamerV2:
    """The reference agent on the meta device: shapes without values, no memory, no arithmetic."""
    plain = {"compute.device": "meta", "compute.mode": "reference", "compute.precision": "float32"}
    with torch.device("meta"):
        agent = DreamerV2(build(plain, base=subject.config), subject.spec)
    for optimizer in agent.optimizers.values():
        optimizer.torch.step = lambda: None  # type: ignore[assignment]  # its fused form does not work on the meta device
    return agent


def meta_batch(subject: Subject) -> Batch:
    """Shapes of a batch (B, T, ...)."""
    rows = (subject.config.train.batch_size, subject.config.train.seq_len)
    kinds = {np.dtype(np.uint8): torch.uint8}
    with torch.device("meta"):
        flags = [torch.zeros(rows, dtype=torch.bool) for _ in range(3)]
        obs = {
            key: torch.zeros((*rows, *shape), dtype=kinds.get(dtype, torch.float32))
            for key, (shape, dtype) in subject.spec.shapes.items()
        }
        return Batch(obs, torch.zeros((*rows, subject.spec.action.size)), torch.zeros(rows), *flags)


def count_update(subject: Subject) -> list[Work]:
    """The work of one update by part, nothing computed: about a second whatever the sizes."""
    agent, batch = meta_agent(subject), meta_batch(subject)
    counter = Counter(agent)
    with watched(agent, counter), counter:
        agent.update(batch)
    adam = [
        Work(phase, f"optimiser: {name}", optimizer_bytes=ADAM_BYTES * sum(p.numel() for p in module.parameters()))
        for phase, name, module in [
            ("world model", "world model", agent.world_model),
            ("behaviour", "actor", agent.actor),
            ("behaviour", "critic", agent.critic),
        ]
    ]
    return [*counter.found.values(), *adam]


def count_policy(subject: Subject, num_envs: int = 1) -> Work:
    """The work of one step of acting in `num_envs` environments."""
    agent = meta_agent(subject)
    batch = meta_batch(subject)
    with torch.device("meta"):
        obs = {key: torch.zeros((num_envs, *value.shape[2:]), dtype=value.dtype) for key, value in batch.obs.items()}
        action, first = torch.zeros(num_envs, subject.spec.action.size), torch.zeros(num_envs, dtype=torch.bool)
        state = agent.world_model.rssm.initial(num_envs)
    counter = Counter(agent)
    with counter:
        agent.act(obs, state, action, first)
    return next(iter(counter.found.values()))
