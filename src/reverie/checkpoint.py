"""Saving and loading without pickle: tensors in safetensors, the rest in JSON and YAML; renamed into place.

agent/ (what `save` writes)    config.yaml  spec.json  weights.safetensors  manifest.json
a training checkpoint adds     optimizers.safetensors  run.safetensors  state.json; the replay is a log beside them
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .config import Config, to_dict
from .config import load_file as load_config
from .envs.spaces import Spec
from .errors import UserError, printable
from .files import (
    MANIFEST,
    Damaged,
    check_manifest,
    is_own_file,
    manifest_of,
    read_bytes,
    read_json,
    require_own_file,
    require_own_files,
    sound,
    usual_rights,
)

FORMAT = 3  # raised when a file's meaning changes; 2: actions of several parts; 3: manifest.json, run.safetensors
READABLE = (1, 2, 3)  # older formats must stay loadable
ADAM = ("exp_avg", "exp_avg_sq")  # what torch's own optimisers keep of each parameter; ours say it


class HasWeights(Protocol):
    """A module, as far as saving it goes."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


class HasMoments(Protocol):
    """An optimizer, as far as saving it goes: `reverie.optim.Optimizer` is one."""

    @property
    def torch(self) -> torch.optim.Optimizer: ...


class Agent(HasWeights, Protocol):
    """What is saved of an agent and restored: `reverie.train.DreamerV2` is one."""

    config: Config
    spec: Spec
    updates: int

    @property
    def optimizers(self) -> Mapping[str, HasMoments]: ...


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
            with usual_rights(temporary / name):
                save_file(content, temporary / name)
        _sync(temporary / name)
    (temporary / MANIFEST).write_text(manifest_of(temporary), encoding="utf-8")
    _sync(temporary / MANIFEST)
    old = path.with_name(f".{path.name}.old")
    for attempt in range(5):
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
            break
        except OSError:
            if attempt == 4 or not path.exists():  # else a reader's `recover` came between the two
                raise
    _sync_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Undo what a crash between the two renames of `write_atomically` left behind in `folder`."""
    for old in folder.glob(".*.old"):
        name = folder / old.name[1:-4]
        if not name.exists():
            with suppress(OSError):  # a reader on a disk that cannot be written, or the writer was quicker
                os.replace(old, name)


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def agent_files(agent: Agent) -> dict[str, Any]:
    """What describes a trained agent completely: settings, the task's spaces, weights."""
    weights = {key: _copied(value) for key, value in agent.state_dict().items()}
    return {
        "config.yaml": yaml.safe_dump(to_dict(agent.config), sort_keys=False),
        "spec.json": json.dumps({"format": FORMAT, **agent.spec.to_dict()}, indent=1),
        "weights.safetensors": weights,
    }


#: What a card adds to a saved agent (share/card.py).
CARD = {
    "README.md",
    "results.json",
    "learning_curve.png",
    "drift.png",
    "dream.gif",
    "dream.png",
    "episode.gif",
    "replay",
}


def require_room(path: Path) -> None:
    """Refuse a directory that holds something other than a saved agent. Raises UserError."""
    known = {"config.yaml", "spec.json", "weights.safetensors", "videos", MANIFEST} | CARD
    if path.exists() and not (path.is_dir() and {item.name for item in path.iterdir()} <= known):
        raise UserError(f"{path} exists and holds something other than a saved agent.", "Choose another directory.")


def save_agent(path: Path, agent: Agent, beside: Mapping[str, str | bytes] | None = None) -> None:
    """Write an agent to a new directory, or over an earlier one; beside: more files, of its card.

    Raises UserError before touching anything else.
    """
    require_room(path)
    files = agent_files(agent) | dict(beside or {})
    if path.is_dir():
        videos = path / "videos"  # `reverie eval` leaves them there
        own = [video for video in videos.glob("*.gif") if is_own_file(video)]
        files |= {f"videos/{video.name}": read_bytes(video) for video in own}
    try:
        write_atomically(path, files)
    except OSError as error:
        raise UserError(f"cannot write to {path} ({error.strerror}).", "Choose another directory.") from error


def optimizer_tensors(agent: Agent) -> dict[str, Tensor]:
    """Adam's moments and step counts, flat: "name/parameter index/moment"."""
    return {
        f"{name}/{index}/{moment}": _copied(value)
        for name, optimizer in agent.optimizers.items()
        for index, moments in optimizer.torch.state_dict()["state"].items()
        for moment, value in moments.items()
    }


def _copied(value: Tensor) -> Tensor:
    """A copy in the CPU's memory, which further updates do not change."""
    return value.detach().to("cpu", copy=True).contiguous()


def restore_optimizers(agent: Agent, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`. Raises ValueError or IndexError for what does not fit."""
    for name, optimizer in agent.optimizers.items():
        state: dict[int, dict[str, Tensor]] = {}
        shapes = [parameter.shape for group in optimizer.torch.param_groups for parameter in group["params"]]
        for key, value in tensors.items():
            owner, index, moment = key.split("/")
            if owner not in agent.optimizers:
                raise ValueError(f"no optimizer '{owner}'")
            if owner == name:
                wanted = torch.Size() if moment == "step" else shapes[int(index)]
                if value.shape != wanted or not value.is_floating_point():  # fused kernels would not look
                    raise ValueError(f"'{key}' has shape {tuple(value.shape)}, expected {tuple(wanted)}")
                state.setdefault(int(index), {})[moment] = value
        kept = {"step", *getattr(optimizer.torch, "moments", ADAM)}
        if any(moments.keys() != kept for moments in state.values()):
            raise ValueError(f"a parameter of '{name}' has not exactly {', '.join(sorted(kept))}")
        optimizer.torch.load_state_dict({"state": state, "param_groups": optimizer.torch.state_dict()["param_groups"]})


def checkpoint_files(
    agent: Agent, generators: Mapping[str, torch.Generator], run: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The tensors of a training checkpoint for `write_atomically`, copied: nothing that the agent does changes them.

    generators: torch's random streams by name; run: tensors that the run keeps besides the agent's. `state_text` is
    the rest.
    """
    rngs = {f"rng/{name}/state": generator.get_state() for name, generator in generators.items()}
    return agent_files(agent) | {
        "optimizers.safetensors": optimizer_tensors(agent) | rngs,
        "run.safetensors": {key: _copied(value) for key, value in run.items()},
    }


def state_text(state: Mapping[str, Any], updates: int) -> dict[str, str]:
    """The file with what is no tensor: whatever JSON can hold."""
    return {"state.json": json.dumps({"format": FORMAT, "updates": updates, **state})}


def verify(path: Path) -> None:
    """Is a checkpoint or a saved agent whole? Raises Damaged."""
    form = read_json(path / "spec.json").get("format")
    if form in (1, 2) and not (path / MANIFEST).exists():
        return  # they had none
    if not (isinstance(form, int) and form > FORMAT):  # which `read_agent` reports
        check_manifest(path)


def load_checkpoint(path: Path, agent: Agent, generators: Mapping[str, torch.Generator]) -> dict[str, Any]:
    """Restore weights, optimisers and random streams; -> the rest of the state. Raises UserError."""
    state = read_json(path / "state.json")
    if state.get("format") not in READABLE or type(state.get("updates")) is not int:
        raise UserError(f"{path / 'state.json'} is damaged or of another version.", "Remove that checkpoint.")
    load_weights(path, agent)
    tensors = read_tensors(path / "optimizers.safetensors")
    for name, generator in generators.items():
        known = tensors.get(f"rng/{name}/state")
        if known is None and generator.device.type == "cpu":
            raise Damaged(f"{path} lacks the random stream '{name}'.", "Use another checkpoint.")
        if known is None or known.shape != generator.get_state().shape:
            continue  # it was on another kind of device, whose streams are others: this one stays as it was seeded
        try:
            generator.set_state(known)
        except (RuntimeError, TypeError) as error:
            raise Damaged(f"{path} has no such random stream '{name}' ({error}).", "Use another checkpoint.") from error
    with sound(path / "optimizers.safetensors"):
        restore_optimizers(agent, {key: value for key, value in tensors.items() if not key.startswith("rng/")})
    agent.updates = state["updates"]
    return state


def run_tensors(path: Path) -> dict[str, Tensor]:
    """What `save_checkpoint` was given as `run`; nothing in older formats. Raises UserError."""
    return read_tensors(path / "run.safetensors") if (path / "run.safetensors").exists() else {}


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first ("best" not among them)."""
    return [path for path in step_directories(run) if (path / "state.json").exists()]


def step_directories(run: Path) -> list[Path]:
    """What is or was a checkpoint, complete or not, oldest first."""
    recover(run / "checkpoints")
    return sorted((run / "checkpoints").glob("step-*"))


def set_aside(path: Path) -> None:
    """A damaged checkpoint no longer counts as one."""
    other = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(other, ignore_errors=True)
    os.replace(path, other)


def find_agent(path: str | Path) -> Path:
    """The directory with the weights: `path` itself, or the newest whole checkpoint of the run. Raises UserError."""
    path = Path(path)
    require_own_files(path)
    if (path / "weights.safetensors").exists():
        verify(path)
        return path
    damage: list[Damaged] = []
    for found in reversed(checkpoints(path)):
        try:
            verify(found)
        except Damaged as error:
            damage.append(error)
            continue
        for problem in damage:
            print(f"note: {problem.message} The checkpoint before it is used.", file=sys.stderr)
        return found
    if damage:
        raise damage[0]
    what = "has no checkpoint yet" if (path / "config.yaml").exists() else "is not a run or a saved agent"
    raise UserError(f"{path} {what}.", "Give the directory of `reverie train --run` or of `agent.save`.")


def read_agent(path: Path) -> tuple[Config, Spec]:
    """Settings and spaces of a saved agent. Raises UserError."""
    spec = read_json(path / "spec.json")
    if spec.pop("format", None) not in READABLE:
        raise UserError(f"{path} was written by another version of reverie.", "Load it with that version.")
    config = load_config(path / "config.yaml")
    try:
        found = Spec.from_dict(spec)
        _require_form(found)
        return config, found
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError) as error:
        raise Damaged(f"{path / 'spec.json'} is damaged ({error}).", "Use another checkpoint.") from error


#: What a spec may say of observations and actions.
KINDS = ("image", "vector", "discrete", "mask")
LAYOUTS = ("hwc", "chw", "hw", "shwc")
ACTIONS = ("discrete", "multi_discrete", "multi_binary", "box")
#: Numbers along one axis at most.
MOST = 10_000_000


def _require_form(spec: Spec) -> None:
    """Do observations and actions have the form in which `Spec.to_dict` wrote them? Raises ValueError."""
    for key, item in spec.obs.items():
        whole = all(type(size) is int and 0 <= size <= MOST for size in (*item.raw_shape, *item.shape, *item.choices))
        image = item.kind == "image"
        axes = len(item.shape) == (3 if image else 1) and min(item.shape) > 0 and len(item.choices) == len(item.starts)
        numbers = all(map(_countable, (*item.starts, item.frames))) and _finite(item.factor)
        known = item.kind in KINDS and item.layout in (LAYOUTS if image else ("", *LAYOUTS)) and item.frames > 0
        if not (whole and axes and numbers and known and _is_path(item.path)):
            raise ValueError(f"observation '{printable(key)[:80]}'")
    for part in spec.action.parts:
        limits = all(map(_finite, (*part.low, *part.high)))
        sizes = [*part.shape, *part.choices]
        whole = all(type(size) is int and 0 <= size <= MOST for size in sizes) and len(part.low) == len(part.high)
        whole = whole and all(map(_countable, part.starts)) and len(part.choices) == len(part.starts)
        numbers = np.dtype(part.dtype).kind in "biuf"
        if not (limits and whole and numbers and part.size > 0 and part.kind in ACTIONS and _is_path(part.path)):
            raise ValueError("an action")
        if not _holds(np.dtype(part.dtype), zip(part.starts, part.choices, strict=True)):
            raise ValueError("an action whose choices its type cannot hold")
    if not spec.action.parts or not spec.obs:
        raise ValueError("nothing to see or to do")


def _countable(value: Any) -> bool:
    """A whole number that NumPy can add to."""
    return type(value) is int and abs(value) <= 2**62


def _finite(value: Any) -> bool:
    """A number that a float can hold."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _holds(kind: np.dtype[Any], choices: Iterable[tuple[int, int]]) -> bool:
    """Has a type all values of (smallest value, how many)?"""
    if kind.kind not in "iu":
        return True
    limits = np.iinfo(kind)
    return all(limits.min <= start and start + count - 1 <= limits.max for start, count in choices)


def _is_path(path: Any) -> bool:
    return isinstance(path, tuple) and all(isinstance(part, str | int) for part in path)


def require_fit(path: Path, make: Callable[[], nn.Module], *, below: str = "") -> None:
    """Do the saved weights have the shapes that the configuration asks for? Nothing is allocated for the answer.

    make: the module, here made without memory; below: its name in the file. Raises UserError.
    """
    try:
        with torch.device("meta"):
            module = make()
        with safe_open(require_own_file(path / "weights.safetensors"), "pt") as file:
            names = [name for name in file.keys() if name.startswith(below)]  # noqa: SIM118
            found = {name[len(below) :]: tuple(file.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        raise Damaged(f"cannot read {path / 'weights.safetensors'}: {error}.", "Use another checkpoint.") from error
    except (RuntimeError, OverflowError, MemoryError, ValueError, TypeError) as error:
        raise UserError(f"the configuration in {path} makes no model ({error}).", "Use another checkpoint.") from error
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if found != wanted:
        odd = next(name for name in {**wanted, **found} if wanted.get(name) != found.get(name))
        raise UserError(
            f"the weights in {path} do not fit this configuration: '{odd}' has shape {found.get(odd)}, expected "
            f"{wanted.get(odd)}.",
            "The files do not belong together; use another checkpoint.",
        )


def load_weights(path: Path, module: HasWeights, *, only: str = "", finite: bool = True) -> None:
    """Load weights into a module; `only` takes those below that name. Raises UserError if they do not fit.

    finite: refuse NaN and infinity, which training never saves: such an agent acts, but at random.
    """
    weights = read_tensors(path / "weights.safetensors")
    if only:
        weights = {key[len(only) + 1 :]: value for key, value in weights.items() if key.startswith(f"{only}.")}
    for name, value in weights.items() if finite else ():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise Damaged(
                f"the weights in {path} are no agent: '{name}' holds NaN or infinity.", "Use another checkpoint."
            )
    for name, wanted in module.state_dict().items():
        if name in weights and weights[name].dtype != wanted.dtype:  # torch would convert without a word
            raise UserError(
                f"the weights in {path} do not fit this configuration: '{name}' holds {weights[name].dtype}, expected "
                f"{wanted.dtype}.",
                "Use another checkpoint.",
            )
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).split("\n")[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"the weights in {path} do not fit this configuration: {first}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A file of tensors. Raises Damaged."""
    try:
        return load_file(require_own_file(path))
    except (OSError, SafetensorError) as error:
        raise Damaged(f"cannot read {path}: {error}.", "The file is damaged; use another checkpoint.") from error
