"""Saving and loading without pickle: tensors in safetensors, the rest in JSON and YAML; renamed into place.

agent/ (what `save` writes)    config.yaml  spec.json  weights.safetensors
a training checkpoint adds     optimizers.safetensors  state.json; the replay is an append-only log beside them
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .config import Config, to_dict
from .config import load_file as load_config
from .envs.spaces import Spec
from .errors import UserError

if TYPE_CHECKING:
    from .train import DreamerV2

FORMAT = 2  # raised when a file's meaning changes; 2: actions of several parts
READABLE = (1, 2)  # older formats must stay loadable


def write_atomically(path: Path, files: Mapping[str, Any]) -> None:
    """Make directory `path` hold `files` {name: tensors, text or bytes}: written beside it, synced, then renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, content in files.items():
        (temporary / name).parent.mkdir(exist_ok=True)
        if isinstance(content, str):
            (temporary / name).write_text(content, encoding="utf-8")
        elif isinstance(content, bytes):
            (temporary / name).write_bytes(content)
        else:
            save_file(content, temporary / name)
        with open(temporary / name, "rb") as file:
            os.fsync(file.fileno())
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    os.replace(temporary, path)
    _sync_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Undo what a crash between the two renames of `write_atomically` left behind in `folder`."""
    for old in folder.glob(".*.old"):
        name = folder / old.name[1:-4]
        if not name.exists():
            os.replace(old, name)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def agent_files(agent: DreamerV2) -> dict[str, Any]:
    """What describes a trained agent completely: settings, the task's spaces, weights."""
    weights = {key: value.detach().cpu().contiguous() for key, value in agent.state_dict().items()}
    return {
        "config.yaml": yaml.safe_dump(to_dict(agent.config), sort_keys=False),
        "spec.json": json.dumps({"format": FORMAT, **agent.spec.to_dict()}, indent=1),
        "weights.safetensors": weights,
    }


def save_agent(path: Path, agent: DreamerV2) -> None:
    """Write an agent to a new directory, or over an earlier one. Raises UserError before touching anything else."""
    files = agent_files(agent)
    if path.is_dir() and {item.name for item in path.iterdir()} <= files.keys() | {"videos"}:
        films = path / "videos"  # `reverie eval` leaves them there
        files |= {f"videos/{film.name}": film.read_bytes() for film in films.glob("*.gif")}
    elif path.exists():
        raise UserError(f"{path} exists and holds something other than a saved agent.", "Choose another directory.")
    try:
        write_atomically(path, files)
    except OSError as error:
        raise UserError(f"cannot write to {path} ({error.strerror}).", "Choose another directory.") from error


def optimizer_tensors(agent: DreamerV2) -> dict[str, Tensor]:
    """Adam's moments and step counts, flat: "name/parameter index/moment"."""
    return {
        f"{name}/{index}/{moment}": value.detach().cpu().contiguous()
        for name, optimizer in agent.optimizers.items()
        for index, moments in optimizer.state_dict()["state"].items()
        for moment, value in moments.items()
    }


def restore_optimizers(agent: DreamerV2, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`."""
    for name, optimizer in agent.optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            owner, index, moment = key.split("/")
            if owner == name:
                state.setdefault(int(index), {})[moment] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(
    path: Path,
    agent: DreamerV2,
    state: Mapping[str, Any],
    generators: Mapping[str, torch.Generator],
    run: Mapping[str, Tensor],
) -> None:
    """A training checkpoint; `state` is whatever JSON can hold, `generators` are torch's random streams by name.

    run: tensors that the run keeps besides the agent's.
    """
    rngs = {f"rng/{name}/state": generator.get_state() for name, generator in generators.items()}
    tensors = optimizer_tensors(agent) | rngs
    text = json.dumps({"format": FORMAT, "updates": agent.updates, **state})
    files = {"optimizers.safetensors": tensors, "run.safetensors": dict(run), "state.json": text}
    write_atomically(path, agent_files(agent) | files)


def load_checkpoint(path: Path, agent: DreamerV2, generators: Mapping[str, torch.Generator]) -> dict[str, Any]:
    """Restore weights, optimisers and random streams; -> the rest of the state. Raises UserError."""
    state = _read_json(path / "state.json")
    if state.get("format") not in READABLE or not isinstance(state.get("updates"), int):
        raise UserError(f"{path / 'state.json'} is damaged or of another version.", "Remove that checkpoint.")
    load_weights(path, agent)
    tensors = _tensors(path / "optimizers.safetensors")
    for name, generator in generators.items():
        if f"rng/{name}/state" not in tensors:
            raise UserError(f"{path} lacks the random stream '{name}'.", "Remove that checkpoint.")
        generator.set_state(tensors.pop(f"rng/{name}/state"))
    restore_optimizers(agent, tensors)
    agent.updates = state["updates"]
    return state


def run_tensors(path: Path) -> dict[str, Tensor]:
    """What `save_checkpoint` was given as `run`; nothing in older formats. Raises UserError."""
    return _tensors(path / "run.safetensors") if (path / "run.safetensors").exists() else {}


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first ("best" not among them)."""
    recover(run / "checkpoints")
    return sorted(p for p in (run / "checkpoints").glob("step-*") if (p / "state.json").exists())


def find_agent(path: str | Path) -> Path:
    """The directory with the weights: `path` itself, or the newest checkpoint of the run. Raises UserError."""
    path = Path(path)
    if (path / "weights.safetensors").exists():
        return path
    found = checkpoints(path)
    if found:
        return found[-1]
    what = "has no checkpoint yet" if (path / "config.yaml").exists() else "is not a run or a saved agent"
    raise UserError(f"{path} {what}.", "Give the directory of `reverie train --run` or of `agent.save`.")


def read_agent(path: Path) -> tuple[Config, Spec]:
    """Settings and spaces of a saved agent. Raises UserError."""
    spec = _read_json(path / "spec.json")
    if spec.pop("format", None) not in READABLE:
        raise UserError(f"{path} was written by another version of reverie.", "Load it with that version.")
    try:
        return load_config(path / "config.yaml"), Spec.from_dict(spec)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path / 'spec.json'} is damaged ({error}).", "Use another checkpoint.") from error


def load_weights(path: Path, module: nn.Module, *, only: str = "") -> None:
    """Load weights into a module; `only` takes those below that name. Raises UserError if they do not fit."""
    weights = _tensors(path / "weights.safetensors")
    if only:
        weights = {key[len(only) + 1 :]: value for key, value in weights.items() if key.startswith(f"{only}.")}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).split("\n")[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"the weights in {path} do not fit this configuration: {first}") from error


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {path}: {error}.", "The file is damaged; use another checkpoint.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}.", "The file is damaged; use another checkpoint.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings.", "The file is damaged; use another checkpoint.")
    return values
