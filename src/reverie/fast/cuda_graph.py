"""A whole update as one CUDA graph: the host says "again", the device does some thousand kernels without asking.

What changes from update to update without being computed on the device (the batch, learning rates, the weight of the
entropy) lies in tensors that are overwritten before each replay. The first updates run as usual, on a stream of their
own, as CUDA wants it; they count like all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..data.replay import Batch

WARM_UP = 3


class CapturedUpdate:
    """Runs `compute` on a batch; after a few times from a captured graph."""

    def __init__(self, compute: Callable[[Batch], Mapping[str, Tensor]]) -> None:
        """compute: device work only, a pure function of the batch and of tensors that stay where they are."""
        self.compute = compute
        self.batch: Batch | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.names: list[str] = []
        self.numbers = torch.empty(0)
        self.stream, self.count = torch.cuda.Stream(), 0

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Batch of tensors (B, T, ...) on the device, always of the same shapes -> metrics, valid for ever."""
        if self.batch is None:
            self.batch = clone(batch)
        copy(batch, self.batch)
        if self.graph is None and self.count < WARM_UP:
            self.count += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                metrics = dict(self.compute(self.batch))
            torch.cuda.current_stream().wait_stream(self.stream)
            return metrics
        if self.graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                metrics = dict(self.compute(self.batch))
                self.names, self.numbers = list(metrics), torch.stack([value.float() for value in metrics.values()])
            self.graph = graph
        self.graph.replay()
        return dict(zip(self.names, self.numbers.clone().unbind(), strict=True))


def clone(batch: Batch) -> Batch:
    """The same numbers elsewhere."""
    return batch.map(Tensor.clone)


def copy(source: Batch, target: Batch) -> None:
    """Overwrite a batch. Raises ValueError where shapes differ: a graph is made for one shape."""
    pairs = [(source.obs[key], value) for key, value in target.obs.items()]
    for new, old in [*pairs, *zip(source[1:], target[1:], strict=True)]:
        if new is None and old is None:
            continue
        if new.shape != old.shape:
            raise ValueError(f"a captured update is made for batches of {tuple(old.shape)}, got {tuple(new.shape)}")
        old.copy_(new, non_blocking=True)
