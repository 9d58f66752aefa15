"""The benchmarks `update`, `policy` and `replay`: what can be measured without an environment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import torch

from ..build import pick_device
from ..data.replay import Replay
from ..errors import UserError, counted, digits
from ..fast.choose import decide
from ..fast.modes import measure_types, pick_precision
from ..run.forecast import memory_left, random_rows
from ..train import DreamerV2, to_batch
from .arithmetic import count_policy, count_update
from .ceilings import measure_ceilings
from .clocks import Effort, Memory, Samples, once, repeat, waiter
from .parts import Stopwatch, watched
from .subject import Subject, batch_bytes, random_batch, random_batches, require_possible

Say = Callable[[str], None]

#: Calls before timing begins: of eager code, and of code that is captured at its fourth call.
WARM_UP = {"graph": 6}
#: Replay: at least so many bytes, so that caches do not hold them, and at most so many steps.
REPLAY_BYTES, REPLAY_STEPS = 128_000_000, 20_000


def bench_update(subject: Subject, effort: Effort, say: Say) -> dict[str, Any]:
    """One update of everything on random batches that are in memory already. Raises UserError."""
    require_possible(subject)
    agent = subject.agent()
    batches = cycle([to_batch(batch, agent.device) for batch in random_batches(subject)])
    finish = waiter(agent.device)
    memory = Memory(agent.device)

    def update() -> None:
        agent.update(next(batches))

    first = once(update, finish)
    say(f"first update {digits(first)} s; warming up, then measuring")
    for _ in range(WARM_UP.get(agent.mode, 2) - 1):
        update()
    samples = repeat(update, effort, finish)
    streamed = _streamed(update, finish, len(samples.wall)) if agent.device.type == "cuda" else samples.median
    used = memory.to_dict()  # before the ceilings are measured with large matrices
    parts = time_parts(agent, lambda: next(batches), rounds=1 if samples.median > 2 else 3)
    ceilings, flops = measure_ceilings(agent.device), sum(work.flops for work in count_update(subject))
    rate = flops / samples.median
    return {
        **subject.facts(agent),
        "first_update_s": first,
        "update": samples.to_dict(),
        "updates_per_s": 1 / streamed,
        "flops_per_update": flops,
        "flops_per_s": rate,
        "ceilings": ceilings.to_dict(),
        "fraction_of_fp32_ceiling": rate / ceilings.fp32_flops_per_s,
        "fraction_of_ceiling": rate / ceilings.flops_per_s(agent.dtype),
        "memory": used,
        "parts": parts,
    }


def bench_choose(subject: Subject) -> dict[str, Any]:
    """Time the agent's kinds of work in each number type, and keep that for later runs. Raises UserError."""
    agent = subject.agent()
    if agent.mode != "fast" or agent.device.type != "cpu":
        raise UserError(
            f"number types are chosen for the fast mode on a CPU, this is {agent.mode} on '{agent.device}'.",
            "Leave out compute.mode, and set compute.device=cpu.",
        )
    parts, plain = (agent.world_model, agent.actor), replace(subject.config.compute, precision="auto")
    config = replace(subject.config, compute=plain)
    start = time.perf_counter()
    found = measure_types(config, parts, again=True)
    seconds = time.perf_counter() - start
    agent.use(pick_precision(subject.config, agent.mode, agent.device, parts))
    rows = [
        {
            "kind": kind,
            "shapes": each.what,
            "flops": each.flops,
            "float32_s": each.float32,
            "bfloat16_s": each.bfloat16,
            "quicker": decide(found).to_dict()[kind],
            "choice": agent.precision.types.to_dict()[kind],
        }
        for kind, each in found.items()
    ]
    return {**subject.facts(agent), "took_s": seconds, "kinds": rows, "why": agent.precision.why}


def bench_packed(subject: Subject, seeds: int, effort: Effort, say: Say) -> dict[str, Any]:
    """Several agents in one process, updated in turn. Raises UserError.

    On a GPU each has its own stream, and in mode "graph" its own graph, so that their kernels run side by side.
    """
    require_possible(subject)
    agents = [subject.agent() for _ in range(seeds)]
    device = agents[0].device
    batches = cycle([to_batch(batch, device) for batch in random_batches(subject)])
    streams = [torch.cuda.Stream(device) if device.type == "cuda" else None for _ in agents]
    finish = waiter(device)

    def one_each() -> None:
        for agent, stream in zip(agents, streams, strict=True):
            with torch.cuda.stream(stream):  # None: where one is
                agent.update(next(batches))

    memory = Memory(device)
    first = once(one_each, finish)
    say(f"first update of {seeds} agents {digits(first)} s; warming up, then measuring")
    for _ in range(WARM_UP.get(agents[0].mode, 2) - 1):
        one_each()
    finish()
    samples = repeat(one_each, effort, finish)
    seconds = _streamed(one_each, finish, len(samples.wall)) if device.type == "cuda" else samples.median
    return {
        **subject.facts(agents[0]),
        "seeds": seeds,
        "round": samples.to_dict(),
        "updates_per_s": seeds / seconds,
        "memory": memory.to_dict(),
    }


def _streamed(update: Callable[[], None], finish: Callable[[], None], count: int) -> float:
    """Seconds of an update when the next one is queued without waiting for it."""

    def many() -> None:
        for _ in range(count):
            update()

    return once(many, finish) / count


def time_parts(agent: DreamerV2, batch: Callable[[], Any], *, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of an update by part, in separate updates: waiting for the device at every border costs time."""
    watch = Stopwatch(waiter(agent.device))
    with watched(agent, watch):
        for _ in range(rounds):  # these two are an update, without graph capture in every mode
            given = batch()
            posterior, _ = agent.train_world_model(given)
            agent.train_actor_critic(posterior, given.is_terminal)
    total = sum(watch.spent.values())
    return [
        {"phase": phase, "part": part, "ms": 1e3 * spent / rounds, "share": spent / total}
        for (phase, part), spent in watch.spent.items()
    ]


# --------------------------------------------------------------------------------------------------------------- acting


def bench_policy(subject: Subject, effort: Effort, say: Say) -> dict[str, Any]:
    """A step of acting as the collector makes it, for one environment and for as many as are set."""
    agent = subject.agent()
    steps = []
    for count in sorted({1, subject.config.env.num_envs}):
        samples = _act(agent, subject, count, effort)
        say(f"{counted(count, 'environment')}: {digits(1e3 * samples.median)} ms")
        work = count_policy(subject, count)
        steps.append(
            {
                "num_envs": count,
                "step": samples.to_dict(),
                "ms_per_step": 1e3 * samples.median,
                "env_steps_per_s_bound": count / samples.median,
                "flops": work.flops,
                "weight_bytes": work.weight_bytes,
            }
        )
    return {**subject.facts(agent), "policy": steps}


def _act(agent: DreamerV2, subject: Subject, count: int, effort: Effort) -> Samples:
    player = agent.player(num_envs=count, mode="explore")
    obs = {key: value[:, 0] for key, value in random_rows(subject.spec, count, 1).items()}
    no = np.zeros(count, bool)
    for first in (~no, *[no] * 9):
        player.act(obs, first)
    return repeat(lambda: player.act(obs, no), effort)  # the action is on the host: nothing to wait for


# --------------------------------------------------------------------------------------------------------------- replay


def bench_replay(subject: Subject, effort: Effort, say: Say) -> dict[str, Any]:
    """Drawing a batch from a replay that does not fit into caches, against copying as many bytes. Raises UserError."""
    train, device = subject.config.train, pick_device(subject.config.compute.device)
    require_memory(subject)
    replay, add_seconds = _filled(subject)
    say(f"{len(replay):,} steps stored, {digits(1e6 * add_seconds)} us each")
    replay.sample(train.batch_size, train.seq_len)
    samples = repeat(lambda: replay.sample(train.batch_size, train.seq_len), effort)
    batch = replay.sample(train.batch_size, train.seq_len)
    arrays = [*batch.obs.values(), *(array for array in batch[1:] if array is not None)]
    targets = [np.zeros_like(array) for array in arrays]

    def copy() -> None:
        for target, array in zip(targets, arrays, strict=True):
            np.copyto(target, array)

    copies = repeat(copy, effort)
    fresh = repeat(lambda: [array.copy() for array in arrays], effort)
    move = repeat(lambda: to_batch(batch, device), effort, waiter(device))
    one = Replay(subject.spec.shapes, subject.spec.action.size, capacity=1000, streams=1)
    raw = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in subject.spec.shapes.values())
    return {
        **subject.facts(),
        "device": str(device),
        "stored_steps": len(replay),
        "add_us_per_step": 1e6 * add_seconds,
        "sample": samples.to_dict(),
        "sample_ms": 1e3 * samples.median,
        "batch_bytes": sum(array.nbytes for array in arrays),
        "copy_ms": 1e3 * copies.median,
        "ratio_to_copy": samples.median / copies.median,
        "copy_to_new_memory_ms": 1e3 * fresh.median,
        "ratio_to_copy_to_new_memory": samples.median / fresh.median,
        "to_device_ms": 1e3 * move.median,
        "bytes_per_step": one.nbytes() / 1000,
        "observation_bytes_per_step": raw,
        "bytes_stored_per_raw_byte": one.nbytes() / 1000 / raw,
    }


def require_memory(subject: Subject) -> None:
    """Raises UserError if a batch and its copies cannot fit into memory."""
    need, left = 4 * batch_bytes(subject), memory_left()
    if left is not None and need > left:
        raise UserError(
            f"drawing and copying such batches needs {digits(need / 1e9)} GB, {digits(left / 1e9)} GB are available.",
            "Set a smaller --batch or --length.",
        )


def _filled(subject: Subject) -> tuple[Replay, float]:
    """A replay with random steps, and the seconds that one step took."""
    train, streams, settings = subject.config.train, subject.config.env.num_envs, subject.config.replay
    window = random_batch(subject)
    row = batch_bytes(subject) // (train.batch_size * train.seq_len)
    count = max(2 * train.seq_len * streams, min(REPLAY_BYTES // row, REPLAY_STEPS)) // streams
    replay = Replay(
        subject.spec.shapes,
        subject.spec.action.size,
        capacity=count * streams,
        streams=streams,
        prioritize=settings.prioritize,
        priority_share=settings.priority_share,
    )
    flat = {f"obs/{key}": value for key, value in window.obs.items()} | window._asdict()
    flat = {key: value for key, value in flat.items() if key not in ("obs", "demo")}
    steps = {key: value.reshape(-1, *value.shape[2:]) for key, value in flat.items()}
    index = np.arange(count)[:, None] * streams + np.arange(streams)
    rows = [{key: value[at % len(value)] for key, value in steps.items()} for at in index[:100]]

    def fill() -> None:
        for i in range(count):
            replay.add(rows[i % len(rows)])

    return replay, once(fill, lambda: None) / (count * streams)
