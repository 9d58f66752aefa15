"""What checkpoints hold of a run of several ranks: the state of each, beside the agent that they share.

RUN/checkpoints/step-*/    as of one process, with rank 0's state; rank-1.json and rank-1.safetensors, ... the others'
RUN/ranks/1/, ...          replay log, ring and lines of a rank's own; rank 0 has those of RUN

With as many ranks as before a resumed run is exact. With another number the episodes of all replays are dealt to the
ranks of now (`spread`). After the loss of a rank the lowest one left writes a checkpoint by itself (`save_alone`).
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from .. import checkpoint
from ..config import Config, flatten
from ..data.replay_log import ReplayLog, log_files, read_log_file
from ..errors import UserError
from ..files import Damaged, read_json, sound, writing
from ..ranks import Ranks, seed_of
from .state import RunState

#: Names of the directory of a replay's log: the first one, and those after a change of the number of ranks.
LOG_NAME = re.compile(r"replay(-\d+)?")
#: What only a run of one process has, and the value without it.
ALONE: dict[str, Any] = {
    "env.async_collect": False,
    "env.collectors": "none",
    "hierarchy.goal_every": 0,
    "behavior.cloning": False,
    "behavior.bc_scale": 0,
    "replay.demos": "",
}
#: Seconds that a rank waits for rank 0 to save and end, after another was lost.
HANDOVER = 12.0


def home_of(directory: Path, ranks: Ranks) -> Path:
    """Where a rank keeps what is its own; rank 0 keeps it in the run's directory."""
    return directory if ranks.first else directory / "ranks" / str(ranks.rank)


def require_shares(config: Config, ranks: Ranks) -> None:
    """Can the batch be shared out, and be computed so? Raises UserError."""
    batch_size = config.train.batch_size
    if ranks.size > 1 and config.compute.mode == "graph":
        raise UserError(
            f"compute.mode=graph captures an update of one process, this run has {ranks.size} ranks.",
            "Use compute.mode=fast.",
        )
    values = flatten(config)
    given = [name for name, off in ALONE.items() if values[name] != off]
    if ranks.size > 1 and given:
        raise UserError(
            f"{given[0]} is for runs of one process, this run has {ranks.size} ranks.",
            f"Set {given[0]}={str(ALONE[given[0]]).lower()}, or start one process.",
        )
    if batch_size % ranks.size:
        least = max(1, batch_size // ranks.size) * ranks.size
        raise UserError(
            f"train.batch_size={batch_size} sequences cannot be shared equally by {ranks.size} ranks.",
            f"Set train.batch_size={least}, or start another number of ranks.",
        )


def ranks_in(path: Path) -> int:
    """Of how many ranks a checkpoint has the state: 1, and all that follow without a gap."""
    count = 1
    while (path / f"rank-{count}.json").exists():
        count += 1
    return count


def state_file(path: Path, rank: int) -> Path:
    """The file of a checkpoint with the plain values of a rank."""
    return path / ("state.json" if rank == 0 else f"rank-{rank}.json")


def tensors_of(path: Path, rank: int) -> dict[str, Tensor]:
    """A rank's tensors of a checkpoint; of the others than rank 0 their random streams too, as "rng/NAME"."""
    return checkpoint.run_tensors(path) if rank == 0 else checkpoint.read_tensors(path / f"rank-{rank}.safetensors")


def files_of(rank: int, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The files of a checkpoint with the state of one of the other ranks, as bytes."""
    content = safetensors.torch.save({key: value.contiguous() for key, value in tensors.items()})
    return {f"rank-{rank}.json": json.dumps(state), f"rank-{rank}.safetensors": content}


def exchange(ranks: Ranks, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The files of all ranks but rank 0, on each rank."""
    mine = {} if ranks.first else files_of(ranks.rank, state, tensors)
    texts = ranks.exchange(mine.get(f"rank-{ranks.rank}.json", "").encode())
    contents = ranks.exchange(mine.get(f"rank-{ranks.rank}.safetensors", b""))
    files: dict[str, Any] = {f"rank-{rank}.json": text.decode() for rank, text in enumerate(texts) if rank}
    return files | {f"rank-{rank}.safetensors": content for rank, content in enumerate(contents) if rank}


def set_streams(tensors: Mapping[str, Tensor], generators: Mapping[str, torch.Generator]) -> None:
    """Continue a rank's random streams. Raises Damaged."""
    for name, generator in generators.items():
        known = tensors.get(f"rng/{name}")
        if known is None or known.shape != generator.get_state().shape:
            if generator.device.type == "cpu":
                raise Damaged(f"the checkpoint lacks the random stream '{name}' of a rank.", "Use another checkpoint.")
            continue  # it was on another kind of device
        generator.set_state(known)


# --------------------------------------------------------------------------------------------- another number of ranks


def use_log(run: RunState, name: str) -> None:
    """Keep the replay's log in this directory from now on. Raises ValueError for a name that is not ours."""
    if not LOG_NAME.fullmatch(name):
        raise ValueError(f"'{name}' is no directory of a replay's log")
    if run.replay_log.directory.name != name:
        run.replay_log = ReplayLog(run.replay, run.directory / name)


def spread(run: RunState, path: Path) -> None:
    """Deal the episodes of all replays of a checkpoint to the ranks of now, each to the shortest stream.

    Every rank reads all of them, so they must lie on a disk that all can read. Raises UserError.
    """
    saved, count = read_json(path / "state.json"), ranks_in(path)
    per_rank = len(run.replay.counts)
    lengths = np.zeros(run.ranks.size * per_rank, np.int64)
    mine: list[list[dict[str, np.ndarray]]] = [[] for _ in range(per_rank)]
    for rank in range(count):
        for rows in _episodes(run, path, rank, count):
            stream = int(lengths.argmin())
            lengths[stream] += len(rows["reward"])
            if stream // per_rank == run.ranks.rank:
                mine[stream % per_rank].append(rows)
    for stream, episodes in enumerate(mine):
        if episodes:
            rows = {key: np.concatenate([each[key] for each in episodes])[-run.replay.size :] for key in episodes[0]}
            total = int(sum(len(each["reward"]) for each in episodes))
            run.replay.put_rows(stream, total - len(rows["reward"]), total, rows)
    counts = lengths.reshape(run.ranks.size, per_rank)[run.ranks.rank]
    run.replay.reserve(counts)
    run.replay.set_counts(counts)
    use_log(run, f"replay-{run.clock.env_steps}")
    for left in log_files(run.replay_log.directory):
        left.unlink()  # of an attempt that came to no checkpoint
    _begin_again(run)
    now, before = _ranks(run.ranks.size), _ranks(saved.get("ranks", 1))
    lacking = f", of which {_ranks(count)} had saved" if count < saved.get("ranks", 1) else ""
    run.notes.append(
        f"this run was trained by {before}{lacking} and continues with {now}: their replays are shared out again, "
        "new episodes begin, and it is not the same bit for bit."
    )


def _ranks(count: int) -> str:
    return "1 process" if count == 1 else f"{count} ranks"


def _begin_again(run: RunState) -> None:
    """Seeds of now for what draws: nothing of it is known of this rank."""
    seed = seed_of(run.config.train.seed + run.clock.env_steps, run.ranks.rank)
    run.replay.rng = np.random.default_rng(seed)
    run.rng = np.random.default_rng(seed)
    run.collector.seed = seed
    run.player.generator.manual_seed(seed)
    torch.manual_seed(seed)


def require_samples(run: RunState) -> None:
    """Can every rank draw batches, if learning has begun? Raises UserError."""
    lacking = bool(run.clock.prefilled) and not run.replay.can_sample(run.config.train.seq_len)
    if run.ranks.any(lacking):
        raise UserError(
            f"the replay of {run.root} has too few episodes for {run.ranks.size} ranks.",
            "Resume with the number of ranks that it had, and with more after some episodes have ended.",
        )


def _episodes(run: RunState, path: Path, rank: int, ranks: int) -> Iterator[dict[str, np.ndarray]]:
    """The episodes of one replay as it was, stream by stream, without beginnings that are no longer there."""
    file = state_file(path, rank)
    with sound(file):
        replay = read_json(file)["replay"]
        counts, name = np.array(replay["counts"]), replay.get("log", "replay")
        if not LOG_NAME.fullmatch(name):
            raise ValueError(f"'{name}' is no directory of a replay's log")
    folder = (run.root if rank == 0 else run.root / "ranks" / str(rank)) / name
    size = run.config.replay.replay_capacity // ranks // len(counts)
    streams: list[list[dict[str, np.ndarray]]] = [[] for _ in counts]
    for log in log_files(folder):
        first, parts = read_log_file(log)
        for stream, (begin, rows) in enumerate(zip(first, parts, strict=True)):
            keep = slice(max(0, int(counts[stream]) - size - begin), max(0, int(counts[stream]) - begin))
            streams[stream].append({key: value[keep] for key, value in rows.items()})
    for parts in streams:
        if parts:
            rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            begins = [*np.flatnonzero(rows["is_first"]).tolist(), len(rows["is_first"])]
            for begin, end in itertools.pairwise(begins):
                yield {key: value[begin:end].copy() for key, value in rows.items()}


def prune_logs(run: RunState, kept: list[Path]) -> None:
    """Delete the replay logs that no kept checkpoint needs, whole directories of earlier numbers of ranks included."""
    rank, used = run.ranks.rank, {run.replay_log.directory.name}
    oldest: np.ndarray | None = None
    try:
        for file in [state_file(path, rank) for path in kept if rank < ranks_in(path)]:
            with sound(file):
                replay = read_json(file)["replay"]
                name = replay.get("log", "replay")
                if name == run.replay_log.directory.name and oldest is None:
                    oldest = np.array(replay["counts"])
                used.add(name)
    except Damaged:  # an old one that rots must not end the run
        return
    if oldest is not None:
        run.replay_log.prune(oldest)
    for folder in run.directory.glob("replay*"):
        if LOG_NAME.fullmatch(folder.name) and folder.name not in used and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)


# -------------------------------------------------------------------------------------------------- the loss of a rank


def others_of(path: Path | None, rank: int) -> dict[str, Any]:
    """The files of a checkpoint with the state of all other ranks but rank 0."""
    if path is None:
        return {}
    numbers = [number for number in range(1, ranks_in(path)) if number != rank]
    names = [f"rank-{number}.{ending}" for number in numbers for ending in ("json", "safetensors")]
    return {name: (path / name).read_bytes() for name in names}


def may_take_over(run: RunState) -> bool:
    """Wait for rank 0 to end; -> has it ended without a checkpoint of these steps, which this rank then writes?"""
    until = time.monotonic() + HANDOVER
    while not run.lock.held:
        try:
            run.lock.acquire()
        except UserError:
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
    found = checkpoint.checkpoints(run.root)
    return bool(found) and int(found[-1].name.partition("-")[2]) < run.clock.env_steps


def write_log(run: RunState) -> dict[str, str]:
    """Write the replay's new steps now. -> the files that a checkpoint needs, with their fingerprints."""
    with writing("the replay of a rank", run.directory):
        run.replay_log.save()
    return run.replay_log.needed(run.replay.counts)
