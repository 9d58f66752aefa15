"""What all fuzzes share: one case for each seed, and their command line."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable


def try_seeds(try_case: Callable[[int], list[str]], count: int, seed: int, say: Callable[[str], None]) -> list[str]:
    """`count` cases from `seed` on; each fault is said at once. -> the faults."""
    started, faults = time.monotonic(), []
    for number in range(seed, seed + count):
        found = try_case(number)
        for fault in found:
            say(fault)
        faults += found
    say(f"seeds {seed} to {seed + count - 1}: {len(faults)} faults, {time.monotonic() - started:.0f} s")
    return faults


def from_command_line(fuzz: Callable[[int, int], list[str]], description: str | None) -> int:
    """Fuzz as the command line says; -> 1 if there were faults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    return int(bool(fuzz(args.count, args.seed)))
