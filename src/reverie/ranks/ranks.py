"""One process of several that train one agent, and all that they exchange.

Each rank has environments and a share of the replay of its own, and the same weights: gradients are averaged before
every step (`optim.py`). Whatever else a batch is measured for (a range of returns, a scale of observations) is measured
over all ranks, so that two ranks compute what one does with the whole batch. A `Ranks` is passed to what needs it;
with one process it is `ALONE` and returns what it is given.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

#: How long a rank waits for the others: an evaluation of rank 0 may take hours. One that dies is noticed at once: its
#: connections close.
PATIENCE = timedelta(hours=24)
#: Variables by which torchrun says which process of how many this is.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankLost(UserError):
    """Another rank has ended, or cannot be reached."""

    def __init__(self, size: int) -> None:
        super().__init__(
            f"one of the {size} ranks of this run has ended or cannot be reached.",
            "Its own output says why. The same command resumes the run.",
        )


class Ranks:
    """This process among those of a run: number `rank` of `size`. The methods are called by all ranks in one order."""

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        """group: of torch.distributed; None for the default one, which must be there if `size` is not 1."""
        self.rank = rank
        self.size = size
        self.group = group

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        """Copies of an agent share the connections."""
        return self

    @property
    def first(self) -> bool:
        """Is this the rank that logs, evaluates and saves?"""
        return self.rank == 0

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place. Any shape, the same on each."""
        if self.size > 1:
            with self._connected():
                torch.distributed.all_reduce(values, group=self.group)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all ranks, a new tensor without gradient. (...) -> (...)."""
        return self.all_reduce(values.detach().clone()) / self.size if self.size > 1 else values

    def gather(self, values: Tensor) -> Tensor:
        """What all ranks have, joined along the first axis by rank, without gradient. (N, ...) -> (N * size, ...)."""
        if self.size == 1:
            return values
        mine = values.detach().contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        with self._connected():
            torch.distributed.all_gather(parts, mine, group=self.group)
        return torch.cat(parts)

    def average_(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The means over all ranks by one message. Tensors of any shapes and one type -> views of one flat tensor."""
        flat = torch.cat([x.detach().flatten() for x in tensors])
        self.all_reduce(flat).div_(self.size)
        parts = flat.split([x.numel() for x in tensors])
        return [part.view(x.shape) for part, x in zip(parts, tensors, strict=True)]

    def total(self, *numbers: int) -> list[int]:
        """Whole numbers, each summed over all ranks."""
        return [int(x) for x in self.all_reduce(torch.tensor(numbers, dtype=torch.int64))]

    def any(self, flag: bool) -> bool:
        """Is it so on any rank?"""
        return flag if self.size == 1 else self.total(int(flag))[0] > 0

    def of_first(self, flag: bool) -> bool:
        """What rank 0 says."""
        return self.any(flag and self.first)

    def exchange(self, data: bytes) -> list[bytes]:
        """What each rank has, by rank. Any bytes, of any length."""
        if self.size == 1:
            return [data]
        lengths = self.gather(torch.tensor([len(data)], dtype=torch.int64)).tolist()
        padded = torch.zeros(max(1, *lengths), dtype=torch.uint8)
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else padded[:0]
        rows = self.gather(padded).view(self.size, -1)
        return [rows[i, :length].numpy().tobytes() for i, length in enumerate(lengths)]

    def wait(self) -> None:
        """Until all ranks are here."""
        self.any(False)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo: "Connection closed by peer"; NCCL has a subclass of it
            raise RankLost(self.size) from error


#: The only process of a run.
ALONE = Ranks()


def seed_of(seed: int, rank: int) -> int:
    """A seed of a rank's own; rank 0 has the seed itself, as a run of one process."""
    return seed if rank == 0 else int(np.random.SeedSequence([seed, rank]).generate_state(1)[0] >> 1)


@contextmanager
def connected(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """Context with this process' `Ranks`: those of torchrun, or `ALONE` without it.

    gloo between CPUs, NCCL between GPUs, of which each process of a machine gets one. Raises UserError.
    """
    if not all(name in environment for name in VARIABLES) or environment["WORLD_SIZE"] == "1":
        yield ALONE
        return
    gpus, local = torch.cuda.device_count(), int(environment.get("LOCAL_RANK", 0))
    if gpus:
        torch.cuda.set_device(local % gpus)
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    try:
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the ranks cannot be connected ({str(error).splitlines()[0][:200]}).",
            "Start them with torchrun, and let its --rdzv-endpoint name a free port of the first machine.",
        ) from error
    try:
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()
