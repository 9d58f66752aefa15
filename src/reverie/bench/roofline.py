"""The arithmetic of an update, what the hardware can do, and hence the time below which nobody gets.

Arithmetic: the paper's dense products and convolutions, a multiply-add as two operations, counted by torch's own
formulas over the plain path on the meta device, which has shapes but no numbers. What the fast path saves by one-hot
algebra is not taken off, so that a fraction of the ceiling compares implementations of one algorithm.
Bytes are an estimate: every product reads its inputs and writes its output once, all else is fused into it, caches
help nothing; the optimiser reads parameter, gradient and two moments and writes three of them.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..config import build
from ..data.replay import Batch
from ..fast.modes import has_bfloat16
from ..train import DreamerV2
from .clocks import Effort, repeat, waiter
from .parts import Watch, watched
from .subject import Subject

#: Bytes that Adam moves per number: four read, three written, 4 bytes each.
ADAM_BYTES = 28
#: Side of the square matrices and bytes of the copies that ceilings are measured with.
SIZES = {"cpu": (2048, 2**27), "cuda": (8192, 2**30)}


# ----------------------------------------------------------------------------------------------------------- arithmetic


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
        """Moved, with products in numbers of `itemsize` bytes; the optimiser stays in float32."""
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
    """The plain agent with shapes but without numbers. Takes no memory, and its updates take no arithmetic."""
    plain = {"compute.device": "meta", "compute.mode": "reference", "compute.precision": "float32"}
    with torch.device("meta"):
        agent = DreamerV2(build(plain, base=subject.config), subject.spec)
    for optimizer in agent.optimizers.values():
        optimizer.step = lambda: None  # type: ignore[assignment]  # its fused form has no meta twin
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


# ------------------------------------------------------------------------------------------------------------- ceilings


@dataclass(frozen=True)
class Ceilings:
    """What a machine can do at most; measured by large products and copies, or stated."""

    fp32_flops_per_s: float
    bf16_flops_per_s: float | None  # None: the hardware has no bfloat16
    copy_bytes_per_s: float  # read and written bytes together
    measured: bool = True

    def flops_per_s(self, dtype: torch.dtype) -> float:
        """Of products in a number type."""
        if dtype == torch.bfloat16 and self.bf16_flops_per_s:
            return self.bf16_flops_per_s
        return self.fp32_flops_per_s

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure_ceilings(device: torch.device) -> Ceilings:
    """Large square products and a large copy, the median of several; seconds, and only once per process."""
    return _measured(str(device), torch.get_num_threads())


@functools.cache
def _measured(name: str, threads: int) -> Ceilings:
    device = torch.device(name)
    side, size = SIZES["cuda" if device.type == "cuda" else "cpu"]
    low = _product(device, torch.bfloat16, side) if has_bfloat16(device) else None
    return Ceilings(_product(device, torch.float32, side), low, _copy(device, size))


def _product(device: torch.device, dtype: torch.dtype, side: int) -> float:
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)
    finish = waiter(device)
    torch.mm(a, b, out=out)
    samples = repeat(lambda: torch.mm(a, b, out=out), Effort(0, 5), finish)
    return 2 * side**3 / samples.median


def _copy(device: torch.device, size: int) -> float:
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    samples = repeat(lambda: target.copy_(source), Effort(0, 7), waiter(device))
    return 2 * size / samples.median


# ---------------------------------------------------------------------------------------------------------------- floor


@dataclass(frozen=True)
class Floor:
    """The least time of an update, by part: the longer one of arithmetic and memory."""

    works: list[Work]
    ceilings: Ceilings
    dtype: torch.dtype  # of products

    @property
    def flops(self) -> int:
        """Operations of one update."""
        return sum(work.flops for work in self.works)

    @property
    def bytes(self) -> float:
        """Moved by one update, an estimate."""
        return sum(work.bytes(itemsize=self.dtype.itemsize) for work in self.works)

    def seconds(self, work: Work) -> tuple[float, float]:
        """(arithmetic, memory) of a part."""
        moved = work.bytes(itemsize=self.dtype.itemsize)
        return work.flops / self.ceilings.flops_per_s(self.dtype), moved / self.ceilings.copy_bytes_per_s

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        parts = [
            {
                "phase": work.phase,
                "part": work.part,
                "forward_flops": work.forward_flops,
                "backward_flops": work.backward_flops,
                "bytes_estimate": work.bytes(itemsize=self.dtype.itemsize),
                "arithmetic_ms": 1e3 * self.seconds(work)[0],
                "memory_ms_estimate": 1e3 * self.seconds(work)[1],
            }
            for work in self.works
        ]
        rate = self.ceilings.flops_per_s(self.dtype)
        floor = 1e3 * sum(max(self.seconds(work)) for work in self.works)
        return {
            "parts": parts,
            "flops_per_update": self.flops,
            "weight_bytes_estimate": sum(work.weight_bytes for work in self.works) * self.dtype.itemsize / 4,
            "activation_bytes_estimate": sum(work.other_bytes for work in self.works) * self.dtype.itemsize / 4,
            "optimizer_bytes_estimate": sum(work.optimizer_bytes for work in self.works),
            "ceilings": self.ceilings.to_dict(),
            "ceiling_flops_per_s": rate,
            "arithmetic_floor_ms": 1e3 * self.flops / rate,
            "memory_floor_ms_estimate": 1e3 * self.bytes / self.ceilings.copy_bytes_per_s,
            "floor_ms_estimate": floor,
            "floor_updates_per_s_estimate": 1e3 / floor,
        }
