"""Saving and restoring a run: everything besides weights, optimisers and replay, in each checkpoint.

In `train.deterministic` mode a run that was killed and repeated ends with the same weights, the same replay and the
same metrics, bit for bit, as one that was not (on a CPU with as many threads; tests/run/test_resume.py).
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import checkpoint
from ..errors import UserError, digits
from ..fast.modes import usual_switches
from ..fast.products import Types
from ..files import Damaged, check, read_json, sound, writing
from . import shards
from .clock import Clock
from .demonstrations import resume_demonstrations
from .directory import FRESH, clear_leftovers
from .evaluation import Evaluation
from .lines import read_lines
from .logger import Logger
from .state import RunState
from .trackers import flat_settings, open_trackers

#: Counters that are the same on all ranks.
SHARED_COUNTS = ("env_steps", "updates", "prefilled", "skipped", "rollbacks")


def state_of(run: RunState) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(plain values for JSON, tensors)."""
    drawn = np.random.get_state(legacy=False)  # noqa: NPY002  environments may draw from it
    state: dict[str, Any] = {
        "clock": asdict(run.clock),
        "replay": {
            "counts": run.replay.counts.tolist(),
            "rng": run.replay.rng.bit_generator.state,
            "marked": run.replay.marked(),
        },
        "collector": run.collector.state(),
        "rng": run.rng.bit_generator.state,
        "python_rng": random.getstate(),
        "numpy_rng": {**drawn, "state": {**drawn["state"], "key": drawn["state"]["key"].tolist()}},
        "recent": run.recent,
        "health": run.health.found,
        "source": run.source,
        "fused": run.agent.fused.on,
        "types": run.agent.precision.types.to_dict(),
        "log": {
            "sizes": run.logger.sizes(),
            "count": run.logger.count,
            "missed": run.logger.missed,
            "names": list(run.logger.sums),  # in the order of a line
            "written_at": run.written_at,
        },
    }
    tensors = {f"player/{key}": value for key, value in run.player.memory().items()}
    tensors |= {f"log/{key}": value for key, value in run.logger.sums.items()}
    if run.demos is not None:
        state["demos"] = run.demos.state()
    if run.ranks.size > 1:
        state["ranks"] = run.ranks.size
    if run.replay_log.directory.name != "replay":
        state["replay"]["log"] = run.replay_log.directory.name
    return state, {key: value.detach().cpu().contiguous() for key, value in tensors.items()}


def generators_of(run: RunState) -> dict[str, torch.Generator]:
    """torch's random streams by name."""
    found = {"torch": torch.default_generator, "player": run.player.generator} | run.agent.generators
    if run.agent.device.type == "cuda":
        found["cuda"] = torch.cuda.default_generators[run.agent.device.index or torch.cuda.current_device()]
    return found


def save_run(run: RunState, *, wait: bool) -> None:
    """Copy everything now; write it in the run's writer, wait for that if asked to. Raises UserError.

    Of several ranks, each writes its replay's new steps at once, and rank 0 the rest.
    """
    run.writer.finish()
    others: dict[str, Any] = {}
    if not run.ranks.first:
        shards.exchange(run.ranks, *_own_state(run))
        return
    rows = run.replay_log.prepare()
    state, tensors = state_of(run)
    files, updates = checkpoint.checkpoint_files(run.agent, generators_of(run), tensors), run.agent.updates
    if run.ranks.size > 1:
        others = shards.exchange(run.ranks, {}, {})
    _start(run, rows, state, files | others, updates)
    if wait:
        run.writer.finish()


def _start(run: RunState, rows: Callable[[], None], state: dict[str, Any], files: dict[str, Any], updates: int) -> None:
    """Let rank 0's writer write: new steps of the replay, then the checkpoint."""
    path = run.root / "checkpoints" / f"step-{run.clock.env_steps:012d}"

    def write() -> None:
        with writing("a checkpoint", run.root), run.lock.guard():
            rows()
            state["replay"]["files"] = run.replay_log.needed(np.array(state["replay"]["counts"]))
            checkpoint.write_atomically(path, files | checkpoint.state_text(state, updates))
            _prune(run)

    run.writer.start(write)


def _own_state(run: RunState) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Of a rank that is not the first: its state, its new steps written and its log pruned."""
    shards.prune_logs(run, checkpoint.checkpoints(run.root))
    state, tensors = state_of(run)
    state["replay"]["files"] = shards.write_log(run)
    return state, tensors | {f"rng/{name}": each.get_state() for name, each in generators_of(run).items()}


def save_alone(run: RunState) -> None:
    """A checkpoint by this rank after another was lost. Raises UserError.

    The agent is this rank's, in whatever update the loss has met it; of the other ranks it holds what the newest
    checkpoint does.
    """
    newest = next(reversed(checkpoint.checkpoints(run.root)), None)
    others = shards.others_of(newest, run.ranks.rank)
    if run.ranks.first:
        run.writer.finish()
        rows = run.replay_log.prepare()
        state, tensors = state_of(run)
        files = checkpoint.checkpoint_files(run.agent, generators_of(run), tensors)
        _start(run, rows, state, files | others, run.agent.updates)
        run.writer.finish()
    elif newest is not None:
        _save_without_first(run, newest, others)


def _save_without_first(run: RunState, newest: Path, others: dict[str, Any]) -> None:
    """A checkpoint by another rank than the first, which has ended: its state is that of the newest checkpoint."""
    own, tensors = _own_state(run)
    state, known = read_json(newest / "state.json"), checkpoint.read_tensors(newest / "optimizers.safetensors")
    state["clock"] |= {"env_steps": run.clock.env_steps, "updates": run.clock.updates}
    files = checkpoint.checkpoint_files(run.agent, {}, checkpoint.run_tensors(newest))
    files["optimizers.safetensors"] |= {name: value for name, value in known.items() if name.startswith("rng/")}
    files |= others | shards.files_of(run.ranks.rank, own, tensors)
    with writing("a checkpoint", run.root), run.lock.guard():
        path = run.root / "checkpoints" / f"step-{run.clock.env_steps:012d}"
        checkpoint.write_atomically(path, files | checkpoint.state_text(state, run.agent.updates))


def _prune(run: RunState) -> None:
    keep, found = run.config.log.keep_checkpoints, checkpoint.checkpoints(run.root)
    for path in found[:-keep]:
        shutil.rmtree(path)
    shards.prune_logs(run, found[-keep:])


def restore_newest(run: RunState) -> dict[str, Any]:
    """Continue from the newest whole checkpoint, if there is one. -> its state.json, else {}. Raises UserError."""
    found = checkpoint.step_directories(run.root)
    damage: Damaged | None = None
    for at, path in reversed(list(enumerate(found))):
        trouble: Damaged | None = None
        try:
            saved = restore(run, path)
        except Damaged as error:
            trouble = error
        if run.ranks.any(trouble is not None):
            trouble = trouble or Damaged(f"{path} is damaged for another rank.", "Use another checkpoint.")
            damage = damage or trouble
            run.notes.append(f"{trouble.message} What was learnt since the checkpoint before it is lost.")
            continue
        for later in found[at + 1 :] if run.ranks.first else ():
            checkpoint.set_aside(later)
        run.resumed = True
        if run.ranks.size > 1:
            shards.require_samples(run)
        return saved
    if damage is not None:
        raise UserError(f"no checkpoint of {run.root} is whole: {damage.message}", _what_is_left(run.root))
    if clear_leftovers(run.directory) and run.ranks.first:
        every = digits(run.config.train.checkpoint_every)
        run.notes.append(
            f"{run.root} has no checkpoint yet: the run begins again, at step 0. One is written every {every} s "
            "(train.checkpoint_every)"
        )
    return {}


def _what_is_left(directory: Path) -> str:
    """Advice for a run without a whole checkpoint: where only the replay is damaged, the agent is not lost."""
    for path in [*reversed(checkpoint.checkpoints(directory)), directory / "checkpoints" / "best"]:
        with suppress(Damaged):
            checkpoint.verify(path)
            return f"Its agent is whole: reverie.load('{path}').learn(...) continues with its weights in another run."
    return "Start another --run."


def restore(run: RunState, path: Path) -> dict[str, Any]:
    """Restore all but the logger from checkpoint `path`. -> this rank's state in it. Raises UserError.

    With another number of ranks than it was written by, only what they share is restored, and the replay is dealt out.
    """
    checkpoint.verify(path)
    known = checkpoint.read_agent(path)[1]
    if known.to_dict() != run.spec.to_dict():
        raise UserError(
            f"{run.root} was trained on another task: {'; '.join(known.describe())}; now: "
            f"{'; '.join(run.spec.describe())}.",
            f"Choose another --run, or {FRESH}.",
        )
    as_many = shards.ranks_in(path) == run.ranks.size
    state_file = shards.state_file(path, run.ranks.rank if as_many else 0)
    with sound(state_file):
        own = read_json(state_file)
        if as_many:
            shards.use_log(run, own.get("replay", {}).get("log", "replay"))
            check(run.replay_log.directory, own.get("replay", {}).get("files", {}))
    with usual_switches():
        saved = checkpoint.load_checkpoint(path, run.agent, generators_of(run) if run.ranks.first else {})
        tensors = shards.tensors_of(path, run.ranks.rank if as_many else 0)
        own = saved if run.ranks.first else own
    with usual_switches(), sound(state_file):
        _resume_shared(run, own, saved)
        if as_many:
            _resume_own(run, own, tensors)
    if not as_many:
        shards.spread(run, path)
        _recall_evaluation(run)
        return saved if run.ranks.first else {}
    _resume_episodes(run, own, tensors)  # not in `sound`: an error of an environment says nothing about the file
    _recall_evaluation(run)
    return own


def _resume_shared(run: RunState, own: dict[str, Any], saved: dict[str, Any]) -> None:
    """Counters, and how the agent computes; saved: rank 0's state, whose counters are those of all."""
    counted = {name: saved["clock"][name] for name in SHARED_COUNTS if name in saved["clock"]}
    _whole([saved["clock"]["env_steps"], saved["clock"]["updates"]], 2)
    run.clock = Clock(**own["clock"] | counted)
    run.recent = list(own["recent"])
    run.nan_policy.resume(run.clock)
    run.agent.keep_types(Types.from_dict(saved["types"]) if "types" in saved else None)
    run.agent.keep_fused(bool(saved.get("fused", False)))
    run.health.found = {str(key): float(value) for key, value in own.get("health", {}).items()}
    known_source = saved.get("source", "")
    run.edited = bool(known_source) and known_source != run.source


def _resume_own(run: RunState, own: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Random streams and replay of this rank."""
    _require_form(run, own, {name: value for name, value in tensors.items() if not name.startswith("rng/")})
    if not run.ranks.first:
        shards.set_streams(tensors, generators_of(run))
    run.replay.rng.bit_generator.state = own["replay"]["rng"]
    run.rng.bit_generator.state = own["rng"]
    resume_demonstrations(run.demos, own.get("demos"))
    run.replay_log.load(np.array(own["replay"]["counts"]))
    if "collector" in own:
        run.replay.mark_again(own["replay"]["marked"])
        _global_generators(own)


def _require_form(run: RunState, saved: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Do all values have the form in which `state_of` wrote them? Raises what `sound` turns into Damaged."""
    streams, replay = len(run.replay.counts), saved["replay"]
    _whole([saved["clock"]["env_steps"], saved["clock"]["updates"]], 2)
    _whole(replay["counts"], streams)
    clock = dict(saved["clock"])
    _numbers([*clock.pop("spent", {}).values(), *clock.values(), *saved["recent"]])
    if "collector" not in saved:  # an older format
        return
    held, log = saved["collector"], saved["log"]
    _whole([held["steps"], held["seed"], log["count"], log["written_at"]], 4)
    _whole(held["lengths"], streams)
    _numbers(held["scores"])
    _whole(list(log["sizes"].values()), len(log["sizes"]))
    _whole(replay["marked"], len(replay["marked"]))
    if max(replay["marked"], default=0) >= streams * run.replay.size:
        raise ValueError("a marked step is outside of the replay")
    if len(held["scores"]) != streams or len(held["places"]) != streams:
        raise ValueError(f"the collector was not one of {streams} environments")
    for place in held["places"]:
        if place is not None:
            _whole(place, 2)
    wanted = {f"player/{key}": value for key, value in run.player.memory().items()}
    wanted |= {f"log/{name}": torch.zeros(()) for name in log["names"]}
    odd = [n for n in {**wanted, **tensors} if n not in wanted or n not in tensors or not _fits(tensors[n], wanted[n])]
    if odd:
        raise ValueError(f"run.safetensors does not fit it: '{odd[0]}'")


def _fits(found: Tensor, wanted: Tensor) -> bool:
    """Shape and kind: of floats the precision may be another, as `compute.precision` may change in a run."""
    kinds = (torch.float32, torch.bfloat16, torch.float16) if wanted.is_floating_point() else (wanted.dtype,)
    return found.shape == wanted.shape and found.dtype in kinds


def _numbers(values: list[Any]) -> None:
    """Numbers or none, else ValueError: a text would end the run where it is first added up."""
    odd = [type(value).__name__ for value in values if value is not None and type(value) not in (int, float)]
    if odd:
        raise ValueError(f"expected a number, found {odd[0]}")


def _whole(values: Any, count: int) -> None:
    """`count` whole numbers from 0 to what 64 bits hold, else ValueError."""
    if len(values) != count or not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise ValueError(f"expected {count} whole numbers")


def open_logger(run: RunState, saved: dict[str, Any]) -> None:
    """Continue the text files where checkpoint state `saved` ends, with the means that were being taken for a line."""
    log = saved.get("log", {})
    first = run.ranks.first
    run.logger = Logger(
        run.directory,
        env_steps=run.clock.env_steps,
        sizes=log.get("sizes"),
        tensorboard=run.config.log.tensorboard and first,
        trackers=open_trackers(run.directory, run.config) if first else [],
        settings=flat_settings(run.config),
        may_write=run.lock.check,
    )
    if run.resumed:
        tensors = shards.tensors_of(checkpoint.checkpoints(run.root)[-1], run.ranks.rank) if log else {}
        run.logger.sums = {name: tensors[f"log/{name}"].to(run.agent.device) for name in log.get("names", [])}
        run.logger.count, run.logger.missed = log.get("count", 0), log.get("missed", {})
        run.written_at = log.get("written_at", run.clock.env_steps)


def _global_generators(saved: dict[str, Any]) -> None:
    version, inner, gauss = saved["python_rng"]
    random.setstate((version, tuple(inner), gauss))
    drawn = saved["numpy_rng"]
    np.random.set_state({**drawn, "state": {**drawn["state"], "key": np.array(drawn["state"]["key"], np.uint32)}})  # noqa: NPY002


def _resume_episodes(run: RunState, saved: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Continue in the middle of the unfinished episodes, where they can be played again."""
    run.collector.steps = run.clock.env_steps  # `restore` knows better, of several ranks
    memory = {key[7:]: value for key, value in tensors.items() if key.startswith("player/")}
    if run.agent.dtype == torch.float32:  # it was bfloat16, if compute.precision was
        memory = {key: value.float() if value.is_floating_point() else value for key, value in memory.items()}
    if "collector" not in saved or not memory:  # an older format
        run.collector.seed += run.clock.env_steps  # other starts than the first time
        return
    last, held = run.replay.last_rows(), saved["collector"]
    none = np.zeros((0, run.spec.action.size), np.float32)
    actions = [
        none if last["is_last"][i] or not length else run.replay.last_actions(i, length)
        for i, length in enumerate(held["lengths"])
    ]
    run.player.recall(memory)
    lost = run.collector.restore(held, last, actions)
    if lost:
        which = "all environments" if len(lost) == run.collector.count else f"environments {', '.join(map(str, lost))}"
        run.notes.append(f"the unfinished episodes of {which} could not be played again. New ones begin there.")


def _recall_evaluation(run: RunState) -> None:
    """The last evaluation before the checkpoint, and when it was; later ones are undone like everything else."""
    past = read_lines(run.root / "episodes.jsonl")
    lines = [x for x in past if x.get("env_steps", 0) <= run.clock.env_steps and x.get("phase") == "eval"]
    if lines:
        run.evaluated_at = lines[-1]["env_steps"]
        last = [line for line in lines if line["env_steps"] == run.evaluated_at]
        run.evaluation = Evaluation([x["return"] for x in last], [x["length"] for x in last])
