"""Everything that a run is besides weights, optimisers and replay: written into each checkpoint, and put back.

In `train.deterministic` mode a run that was killed and repeated ends with the same weights, the same replay and the
same metrics, bit for bit, as one that was not (on a CPU with as many threads; tests/run/test_resume.py).
"""

from __future__ import annotations

import random
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import checkpoint
from ..errors import UserError
from ..files import Damaged, check, read_json, sound, writing
from .clock import Clock
from .directory import clear_leftovers
from .evaluation import Evaluation
from .logger import read_lines

if TYPE_CHECKING:
    from .loop import Run


def state_of(run: Run) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(plain values for JSON, tensors)."""
    drawn = np.random.get_state(legacy=False)  # noqa: NPY002  environments may draw from it
    state = {
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
        "log": {
            "sizes": run.logger.sizes(),
            "count": run.logger.count,
            "names": list(run.logger.sums),  # in the order of a line
            "written_at": run.written_at,
        },
    }
    tensors = {f"player/{key}": value for key, value in run.player.memory().items()}
    tensors |= {f"log/{key}": value for key, value in run.logger.sums.items()}
    return state, {key: value.detach().cpu().contiguous() for key, value in tensors.items()}


def generators_of(run: Run) -> dict[str, torch.Generator]:
    """torch's random streams by name."""
    found = {"torch": torch.default_generator, "player": run.player.generator}
    if run.agent.device.type == "cuda":
        found["cuda"] = torch.cuda.default_generators[run.agent.device.index or torch.cuda.current_device()]
    return found


def save_run(run: Run, *, wait: bool) -> None:
    """Copy everything now; write it in the run's writer, wait for that if asked to. Raises UserError."""
    run.writer.finish()
    rows = run.replay_log.prepare()
    state, tensors = state_of(run)
    files, updates = checkpoint.checkpoint_files(run.agent, generators_of(run), tensors), run.agent.updates
    path = run.directory / "checkpoints" / f"step-{run.clock.env_steps:012d}"

    def write() -> None:
        with writing("a checkpoint", run.directory), run.lock.guard():
            rows()
            state["replay"]["files"] = run.replay_log.needed(np.array(state["replay"]["counts"]))
            checkpoint.write_atomically(path, files | checkpoint.state_text(state, updates))
            _prune(run)

    run.writer.start(write)
    if wait:
        run.writer.finish()


def _prune(run: Run) -> None:
    keep, found = run.config.log.keep_checkpoints, checkpoint.checkpoints(run.directory)
    for path in found[:-keep]:
        shutil.rmtree(path)
    with suppress(Damaged), sound(found[-keep:][0] / "state.json"):  # an old one that rots must not end the run
        oldest = read_json(found[-keep:][0] / "state.json")
        run.replay_log.prune(np.array(oldest["replay"]["counts"]))


def restore_newest(run: Run) -> dict[str, Any]:
    """Continue from the newest whole checkpoint, if there is one. -> its state, or nothing. Raises UserError."""
    found, damage = checkpoint.step_directories(run.directory), None
    for at, path in reversed(list(enumerate(found))):
        try:
            state = restore(run, path)
        except Damaged as error:
            damage = damage or error
            run.notes.append(f"{error.message} What was learnt since the checkpoint before it is lost.")
            continue
        for later in found[at + 1 :]:
            checkpoint.set_aside(later)
        return state
    if damage is not None:
        raise UserError(f"no checkpoint of {run.directory} is whole: {damage.message}", _what_is_left(run.directory))
    clear_leftovers(run.directory)
    return {}


def _what_is_left(directory: Path) -> str:
    """Where only the replay is damaged, what was learnt is not lost."""
    for path in [*reversed(checkpoint.checkpoints(directory)), directory / "checkpoints" / "best"]:
        with suppress(Damaged):
            checkpoint.verify(path)
            return f"Its agent is whole: reverie.load('{path}').learn(...) goes on with its weights in another run."
    return "Start another --run."


def restore(run: Run, path: Path) -> dict[str, Any]:
    """Everything as it was when checkpoint `path` was written, but for the logger. -> its state. Raises UserError."""
    checkpoint.verify(path)
    known = checkpoint.read_agent(path)[1]
    if known.to_dict() != run.spec.to_dict():
        raise UserError(
            f"{run.directory} was trained on another task: {'; '.join(known.describe())}; now: "
            f"{'; '.join(run.spec.describe())}.",
            "Choose another --run.",
        )
    known_as = path / "state.json"
    with sound(known_as):
        check(run.directory / "replay", read_json(known_as).get("replay", {}).get("files", {}))
    state, tensors = checkpoint.load_checkpoint(path, run.agent, generators_of(run)), checkpoint.run_tensors(path)
    with sound(known_as):
        _require_form(run, state, tensors)
        run.clock = Clock(**state["clock"])
        counts = np.array(state["replay"]["counts"])
        run.replay.rng.bit_generator.state = state["replay"]["rng"]
        run.rng.bit_generator.state = state["rng"]
        run.recent = list(state["recent"])
        run.nan_policy.resume(run.clock)
        run.health.found = {str(key): float(value) for key, value in state.get("health", {}).items()}
        run.replay_log.load(counts)
        if "collector" in state:
            run.replay.mark_again(state["replay"]["marked"])
            _global_generators(state)
    _go_on(run, state, tensors)  # outside: what an environment raises in here is not the file's fault
    _recall_evaluation(run)
    return state


def _require_form(run: Run, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Are all values of the form in which `state_of` wrote them? Raises what `sound` turns into words."""
    streams, replay = len(run.replay.counts), state["replay"]
    _whole([state["clock"]["env_steps"], state["clock"]["updates"]], 2)
    _whole(replay["counts"], streams)
    if "collector" not in state:  # an older format
        return
    held, log = state["collector"], state["log"]
    _whole([held["steps"], held["seed"], log["count"], log["written_at"]], 4)
    _whole(held["lengths"], streams)
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
    odd = [
        n for n in {**wanted, **tensors} if n not in wanted or n not in tensors or tensors[n].shape != wanted[n].shape
    ]
    if odd:
        raise ValueError(f"run.safetensors does not fit it: '{odd[0]}'")


def _whole(values: Any, count: int) -> None:
    """`count` whole numbers from 0 to what 64 bits hold, else ValueError."""
    if len(values) != count or not all(type(value) is int and 0 <= value < 2**62 for value in values):
        raise ValueError(f"expected {count} whole numbers")


def restore_log(run: Run, path: Path, state: dict[str, Any]) -> None:
    """The means that were being taken for the next line."""
    tensors, log = checkpoint.run_tensors(path), state.get("log", {})
    run.logger.sums = {name: tensors[f"log/{name}"].to(run.agent.device) for name in log.get("names", [])}
    run.logger.count = log.get("count", 0)
    run.written_at = log.get("written_at", run.clock.env_steps)


def _global_generators(state: dict[str, Any]) -> None:
    version, inner, gauss = state["python_rng"]
    random.setstate((version, tuple(inner), gauss))
    drawn = state["numpy_rng"]
    np.random.set_state({**drawn, "state": {**drawn["state"], "key": np.array(drawn["state"]["key"], np.uint32)}})  # noqa: NPY002


def _go_on(run: Run, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """In the middle of the episodes, where they can be played again."""
    run.collector.steps = run.clock.env_steps
    memory = {key[7:]: value for key, value in tensors.items() if key.startswith("player/")}
    if "collector" not in state or not memory:  # an older format
        run.collector.seed += run.clock.env_steps  # other starts than the first time
        return
    last, held = run.replay.last_rows(), state["collector"]
    none = np.zeros((0, run.spec.action.size), np.float32)
    actions = [
        none if last["is_last"][i] or not length else run.replay.last_actions(i, length)
        for i, length in enumerate(held["lengths"])
    ]
    run.player.recall(memory)
    lost = run.collector.go_on(held, last, actions)
    if lost:
        which = "all environments" if len(lost) == run.collector.count else f"environments {', '.join(map(str, lost))}"
        run.notes.append(f"the unfinished episodes of {which} could not be played again: new ones begin")


def _recall_evaluation(run: Run) -> None:
    """The last evaluation before the checkpoint, and when it was; later ones are undone like everything else."""
    past = read_lines(run.directory / "episodes.jsonl")
    lines = [x for x in past if x.get("env_steps", 0) <= run.clock.env_steps and x.get("phase") == "eval"]
    if lines:
        run.evaluated_at = lines[-1]["env_steps"]
        last = [line for line in lines if line["env_steps"] == run.evaluated_at]
        run.evaluation = Evaluation([x["return"] for x in last], [x["length"] for x in last])
