"""`python patches.py NAME train ...`: the command line with one simulated fault that is hard to produce for real."""

from __future__ import annotations

import itertools
import sys
import time


def gpu_memory():
    """torch has no more GPU memory in the 5th update."""
    import torch

    from reverie.train import DreamerV2

    usual, count = DreamerV2.update, itertools.count()

    def update(self, batch):
        if next(count) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total ...")
        return usual(self, batch)

    DreamerV2.update = update
    torch.cuda.mem_get_info = lambda device: (10**9, 16 * 10**9)
    torch.cuda.memory_reserved = lambda device: 14 * 10**9
    torch.cuda.max_memory_allocated = lambda device: 14 * 10**9


def memory():
    """NumPy has no more memory for the 5th batch."""
    from reverie.data.replay import Replay

    usual, count = Replay.sample, itertools.count()

    def sample(self, *args):
        if next(count) == 5:
            raise MemoryError("Unable to allocate 6.10 GiB for an array with shape (50, 50, 64, 64, 3)")
        return usual(self, *args)

    Replay.sample = sample


def clock():
    """time.time jumps by three hours, back and forth."""
    usual, count = time.time, itertools.count()
    time.time = lambda: usual() + (10_800 if next(count) % 2 else -10_800)


def slow_forecast():
    """The forecast takes minutes."""
    import reverie.run.loop  # noqa: F401  with everything that it imports

    def make_forecast(*args, **options):
        print("forecasting", file=sys.stderr, flush=True)
        for _ in range(600):
            time.sleep(0.1)

    users = [module for name, module in sys.modules.items() if name.startswith("reverie.run.")]
    for module in users:
        if hasattr(module, "make_forecast"):
            module.make_forecast = make_forecast


def nan():
    """A weight becomes NaN before the 5th update."""
    from reverie.train import DreamerV2

    usual, count = DreamerV2.update, itertools.count()

    def update(self, batch):
        if next(count) == 5:
            next(self.world_model.parameters()).data.view(-1)[0] = float("nan")
        return usual(self, batch)

    DreamerV2.update = update


if __name__ == "__main__":
    from reverie.cli import main

    patch = sys.argv.pop(1)
    if patch != "none":
        globals()[patch.replace("-", "_")]()
    sys.exit(main())
