"""Memory that runs out, on the GPU or the machine, as a UserError with settings that should fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..config import Config
from ..errors import UserError

#: Of what is free on the GPU, the share that a suggestion may use: memory is never without gaps.
USABLE = 0.85
#: Messages of CUDA and its libraries for a lack of memory, where torch has no exception of its own.
GPU_WORDS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


# --------------------------------------------------------------------------------------------------------------- memory


@dataclass(frozen=True)
class GPUMemory:
    """Bytes on one GPU at the moment when an allocation failed."""

    total: int
    others: int  # of other processes
    peak: int  # the most that this process has had in tensors
    fixed: int  # of it, what does not depend on the batch: weights, gradients, Adam's moments

    def fitting_batch(self, batch_size: int) -> int:
        """The batch that should fit, if what depends on it grows in proportion; at most half of the one that did not.

        The peak is a lower bound of what was needed, so this may be too large, never absurd.
        """
        room, used = USABLE * (self.total - self.others) - self.fixed, self.peak - self.fixed
        return max(1, min(batch_size // 2, int(batch_size * room / used) if used > 0 else batch_size))


@contextmanager
def enough_memory(config: Config, directory: Path, agent: Callable[[], nn.Module | None]) -> Iterator[None]:
    """Context of everything that computes. Raises UserError where the memory of the GPU or the machine runs out.

    directory: of the run; where it has begun, other sizes would be another run. agent: returns it, if there is one yet.
    """
    try:
        yield
    except MemoryError as error:
        raise memory_is_full(config, str(error)) from error
    except RuntimeError as error:  # torch.OutOfMemoryError is one; CUDA's libraries have no class
        if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in GPU_WORDS):
            memory, begun = gpu_memory(config.compute.device, agent()), (directory / "config.yaml").exists()
            raise gpu_is_full(config, memory, str(error), begun=begun) from error
        if "DefaultCPUAllocator" in str(error):
            raise memory_is_full(config, str(error)) from error
        raise


def gpu_memory(device: str, agent: nn.Module | None) -> GPUMemory:
    """Current numbers of the driver and torch. device: as in `compute.device`."""
    device = device if device.startswith("cuda") else "cuda"
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError:  # after some errors the device no longer answers
        return GPUMemory(0, 0, 0, 0)
    weights = sum(p.numel() * p.element_size() for p in agent.parameters()) if agent is not None else 0
    return GPUMemory(
        total,
        others=max(0, total - free - torch.cuda.memory_reserved(device)),
        peak=torch.cuda.max_memory_allocated(device),
        fixed=4 * weights,
    )


def gpu_is_full(config: Config, memory: GPUMemory, error: str, *, begun: bool) -> UserError:
    """The message, with settings that should fit."""
    wanted = re.search(r"Tried to allocate ([\d.]+ \w+)", error)
    known = f"{memory.peak / 1e9:.2f} GB of {memory.total / 1e9:.2f} GB were in use"
    parts = [known if memory.total else "its size is not known"]
    parts += [f"{wanted[1]} more were wanted"] if wanted else []
    if memory.others > 0.05 * memory.total:
        parts.append(f"other processes hold {memory.others / 1e9:.2f} GB")
    batch, size = config.train.batch_size, memory.fitting_batch(config.train.batch_size)
    smaller = f"train.batch_size={size} (now {batch})"
    now = [] if config.compute.precision == "bfloat16" else ["compute.precision=bfloat16"]
    if begun:
        again = f"repeat the command with {now[0]}, which continues this run; or " if now else ""
        hint = f"{again}start another --run with {smaller}."
    else:
        hint = f"set {' or '.join([smaller, *now])}."
    return UserError(f"the GPU ran out of memory: {', '.join(parts)}.", hint[0].upper() + hint[1:])


def memory_is_full(config: Config, error: str) -> UserError:
    """The message, with the settings that matter."""
    wanted = re.search(r"(?:allocate|tried to allocate) ([\d.]+ ?\w+)", error)
    more = f": {wanted[1]} more were wanted" if wanted else ""
    disk = "replay.storage=disk, or " if config.replay.storage == "memory" else ""
    return UserError(
        f"the machine ran out of memory{more}.",
        f"Start another --run with {disk}a smaller replay.replay_capacity (now {config.replay.replay_capacity:,}) or "
        f"train.batch_size (now {config.train.batch_size}); or end other programs and repeat the command.",
    )
