"""Sequences per second of updates: one process on one core beside two ranks on two cores, with the same batch in all.

    python benchmarks/ranks.py --out benchmarks/results/ranks.json               Atari's sizes
    python benchmarks/ranks.py --preset demo --batch 16 --length 50 --rounds 9

The two take turns, round by round, so that a change of the machine's load meets both; the ratio is that of the medians.
Each process is pinned to one core and has one thread. The bytes of the messages and the time in them are measured too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from reverie.bench.subject import Subject, make_subject
from reverie.fast.choose import processor
from reverie.ranks import ALONE, Ranks
from reverie.run.directory import provenance
from reverie.run.forecast import random_batch
from reverie.world_model import to_batch


class Timed(Ranks):
    """Ranks that count the bytes of their messages, and the seconds in them: of waiting for the slower one, too."""

    bytes = 0
    seconds = 0.0

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        begin = time.perf_counter()
        self.bytes += values.numel() * values.element_size()
        found = super().all_reduce(values)
        self.seconds += time.perf_counter() - begin
        return found


def work(rank: int, size: int, core: int, port: int, subject: Subject, orders: Any, answers: Any) -> None:
    """A process: for each number on `orders` so many updates, and their seconds on `answers`; None ends it."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    agent, config = subject.agent(), subject.config
    ranks = ALONE
    if size > 1:
        torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
        ranks = Timed(rank, size)
    agent.join(ranks)
    batch = to_batch(random_batch(subject.spec, config.train.batch_size // size, config.train.seq_len))
    for count in iter(orders.get, None):
        sent, waited = getattr(ranks, "bytes", 0), getattr(ranks, "seconds", 0.0)
        begin, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            agent.update(batch)
        found = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
        if isinstance(ranks, Timed):
            found |= {"message_bytes": ranks.bytes - sent, "message_seconds": ranks.seconds - waited}
        answers.put((rank, found))


class Team:
    """Processes that make updates together."""

    def __init__(self, cores: list[int], port: int, subject: Subject) -> None:
        context = multiprocessing.get_context("spawn")
        self.orders = [context.Queue() for _ in cores]
        self.answers = context.Queue()
        self.processes = [
            context.Process(target=work, args=(rank, len(cores), core, port, subject, self.orders[rank], self.answers))
            for rank, core in enumerate(cores)
        ]
        for process in self.processes:
            process.start()

    def update(self, count: int) -> list[dict[str, float]]:
        """Make so many updates. -> what each process measured."""
        for order in self.orders:
            order.put(count)
        return [found for _, found in sorted((self.answers.get() for _ in self.orders), key=lambda each: each[0])]

    def close(self) -> None:
        for order in self.orders:
            order.put(None)
        for process in self.processes:
            process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="atari")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=1, help="of a round")
    parser.add_argument("--cores", type=int, nargs=2, default=[0, 1])
    parser.add_argument("--port", type=int, default=29431)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    load_before = os.getloadavg()
    settings = {"batch_size": args.batch, "seq_len": args.length, "compute.threads": 1}
    subject = make_subject(args.preset, settings, shape=(64, 64, 1), actions=18)
    teams = {"one": Team(args.cores[-1:], args.port, subject), "two": Team(args.cores, args.port, subject)}
    rounds: dict[str, list[list[dict[str, float]]]] = {name: [] for name in teams}
    for number in range(args.rounds + 1):
        for name, team in teams.items():
            found = team.update(args.updates)
            if number:  # the first one warms up
                rounds[name].append(found)
                print(name, json.dumps(found), flush=True)
    for team in teams.values():
        team.close()
    sequences = args.batch * args.updates
    rate = {
        name: sequences / statistics.median(max(x["seconds"] for x in each) for each in rounds[name]) for name in rounds
    }
    cpu = {name: statistics.median(max(x["cpu_seconds"] for x in each) for each in rounds[name]) for name in rounds}
    result = {
        "settings": subject.facts() | {"preset": args.preset, "rounds": args.rounds, "updates": args.updates},
        "sequences_per_second": rate,
        "ratio": rate["two"] / rate["one"],
        "ratio_by_cpu_seconds": cpu["one"] / cpu["two"],
        "rounds": rounds,
        "processor": processor(),
        "load_before": load_before,
        "load": os.getloadavg(),
        "provenance": provenance(subject.config),
    }
    print(json.dumps({key: result[key] for key in ("sequences_per_second", "ratio", "ratio_by_cpu_seconds", "load")}))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
