"""A trained policy as a file: ONNX, or a program of torch.export. Beside it its interface as JSON, and a player.

The file is made from plain modules, whatever arithmetic the agent was trained with, and compared with the agent before
it gets its name: an export that acts differently is an error, never a file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import checkpoint
from ..actor_critic import Actor
from ..build import build_actor, build_world_model
from ..config import Config
from ..envs.spaces import MASK, Spec
from ..errors import UserError
from ..fast import FASTER
from ..world_model import WorldModel
from .policy_graph import MODES, PolicyGraph, Port, twice

FORMAT = 1
OPSET = 18
KINDS = {"onnx": ".onnx", "torch": ".pt2"}
#: Steps, and environments at a time, in which the file is compared with the agent.
STEPS, BATCHES = 20, (1, 3)
#: How far apart numbers of the two may be, as a share of the larger one or as such.
TOLERANCE = 1e-4
#: Warns of a package for images that is not there, and not needed.
REGISTRATION = "torch.onnx._internal.exporter._registration"
Outputs = tuple[np.ndarray, ...]


def export_policy(
    config: Config, spec: Spec, world_model: nn.Module, actor: nn.Module, path: Path, *, kind: str, mode: str = "eval"
) -> Path:
    """Write the policy of these modules to `path`, and beside it .json and, for ONNX, NAME_player.py. -> path.

    kind: one of `KINDS`; mode: one of `policy_graph.MODES`. Raises UserError.
    """
    require_exporter(kind)
    if mode not in MODES:
        raise UserError(f"mode must be one of {', '.join(MODES)}, got '{mode}'.")
    if path.suffix != KINDS[kind]:
        raise UserError(f"the name of the file must end in {KINDS[kind]}, got '{path.name}'.")
    graph = plain_graph(config, spec, world_model, actor, mode)
    draft = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        run = (_write_onnx if kind == "onnx" else _write_torch)(graph, draft)
        require_equal(graph, run)
        os.replace(draft, path)
        path.with_suffix(".json").write_text(json.dumps(interface(config, graph), indent=1) + "\n", encoding="utf-8")
        if kind == "onnx":
            player = path.with_name(f"{path.stem.replace('-', '_').replace('.', '_')}_player.py")
            with resources.as_file(resources.files("reverie.share") / "onnx_player.py") as source:
                shutil.copyfile(source, player)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}).", "Choose another place.") from error
    finally:
        with suppress(OSError):  # the folder may be a file
            draft.unlink(missing_ok=True)
    return path


def export_saved(source: Path, path: Path, *, kind: str, mode: str = "eval") -> Path:
    """As `export_policy`, of a saved agent or the newest checkpoint of a run. Raises UserError."""
    require_exporter(kind)
    return export_policy(*read_policy(source), path, kind=kind, mode=mode)


def read_policy(source: Path) -> tuple[Config, Spec, WorldModel, Actor]:
    """Settings, spec and plain modules of a saved agent or the newest checkpoint of a run. Raises UserError."""
    found = checkpoint.find_agent(source)
    config, spec = checkpoint.read_agent(found)
    checkpoint.require_fit(found, lambda: build_world_model(config, spec), below="world_model.")
    world_model = build_world_model(config, spec)
    actor = build_actor(config, spec, world_model.rssm.feat_dim)
    checkpoint.load_weights(found, world_model, only="world_model")
    checkpoint.load_weights(found, actor, only="actor")
    return config, spec, world_model, actor


def require_exporter(kind: str) -> None:
    """Raises UserError where the packages that ONNX needs are missing."""
    needed = ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ()
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export to ONNX needs {', '.join(missing)}.", "pip install 'reverie-rl[export]'")


def plain_graph(config: Config, spec: Spec, world_model: nn.Module, actor: nn.Module, mode: str) -> PolicyGraph:
    """The graph, of new plain modules with the same weights on the CPU. Raises UserError for modules of another kind:
    their weights might fit, and what they compute would be lost."""
    if config.hierarchy.goal_every:
        raise UserError(
            "the policy of a hierarchy remembers its goal between steps, which a graph of one step does not.",
            "`reverie.load_player` keeps it.",
        )
    own: dict[str, nn.Module] = {"world_model": build_world_model(config, spec)}
    own["actor"] = build_actor(config, spec, own["world_model"].rssm.feat_dim)  # type: ignore[union-attr,arg-type]
    plain_of: dict[Any, Any] = {fast: plain for plain, fast in FASTER.items()}
    for name, given in (("world_model", world_model), ("actor", actor)):
        theirs, kinds = dict(given.named_modules()), dict(own[name].named_modules())
        for key, module in kinds.items():
            kind = type(theirs.get(key))
            if plain_of.get(kind, kind) is not type(module):
                raise UserError(
                    f"{name}.{key or 'forward'} is a {kind.__name__}, which the settings of this agent do not make: it "
                    "cannot be exported.",
                    "Export it yourself: reverie.share.policy_graph.PolicyGraph takes modules.",
                )
        own[name].load_state_dict({key: value.detach().cpu() for key, value in given.state_dict().items()})
    world, policy = own["world_model"], own["actor"]
    assert isinstance(world, WorldModel) and isinstance(policy, Actor)  # noqa: PT018
    world.heads = nn.ModuleDict()  # acting predicts nothing
    graph = PolicyGraph(world, policy, spec, mode=mode)
    same = twice([*graph.inputs, *graph.outputs])
    if same:
        raise UserError(f"several observations or actions would be called '{same[0]}'.", "Give their keys other names.")
    return graph.eval().requires_grad_(False)


def interface(config: Config, graph: PolicyGraph) -> dict[str, Any]:
    """What a player must know, as values that JSON can hold."""
    env = config.env
    task = {name: getattr(env, name) for name in ("action_repeat", "actions", "time_limit", "pixels", "options")}
    return {
        "format": FORMAT,
        "env": env.id,
        "task": {name: value for name, value in task.items() if value},
        "mode": graph.mode,
        "mask_in_observation": list(graph.spec.obs[MASK].path) if graph.spec.masked else [],
        "inputs": [port.to_dict() for port in graph.inputs],
        "outputs": [port.to_dict() for port in graph.outputs],
    }


# ---------------------------------------------------------------------------------------------------- the two formats


def example(ports: Sequence[Port], count: int) -> tuple[Tensor, ...]:
    """Inputs of zeros for `count` environments; whole numbers are the smallest of their space."""
    made = (torch.full((count, *p.shape), p.low or 0, dtype=getattr(torch, p.dtype)) for p in ports)
    return tuple(made)


def _program(graph: PolicyGraph) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=2**16)
    with torch.no_grad(), _quiet():
        return torch.export.export(
            graph, example(graph.inputs, 3), dynamic_shapes=(tuple({0: batch} for _ in graph.inputs),)
        )


def _write_torch(graph: PolicyGraph, path: Path) -> Callable[..., Outputs]:
    with open(path, "wb") as file:
        torch.export.save(_program(graph), file)
    with open(path, "rb") as written:
        loaded = torch.export.load(written).module()

    def run(*values: np.ndarray) -> Outputs:
        with torch.no_grad():
            return tuple(x.numpy() for x in loaded(*map(torch.from_numpy, values)))

    return run


def _write_onnx(graph: PolicyGraph, path: Path) -> Callable[..., Outputs]:
    import onnxruntime

    from .normal import decompositions

    with _quiet():
        made = torch.onnx.export(
            _program(graph).run_decompositions(decompositions()),
            input_names=[port.name for port in graph.inputs],
            output_names=[port.name for port in graph.outputs],
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
        )
    assert made is not None
    made.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    used = {port.name for port in session.get_inputs()}
    names = [port.name for port in graph.inputs]
    if used != set(names):
        raise UserError(f"the graph does not use its inputs {sorted(set(names) - used)}.", "Report this as a fault.")

    def run(*values: np.ndarray) -> Outputs:
        return tuple(session.run([port.name for port in graph.outputs], dict(zip(names, values, strict=True))))

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter reports its steps, and what it left out, on the terminal."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx", REGISTRATION)]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


# ------------------------------------------------------------------------------------------------------- the comparison


def require_equal(graph: PolicyGraph, run: Callable[..., Outputs]) -> None:
    """Does the file do what the graph does, on random observations with resets in between? Raises UserError.

    Each is given the graph's own state, so that one rounding does not grow.
    """
    rng = np.random.default_rng(0)
    for count in BATCHES:
        state = {p.name: np.zeros((count, *p.shape), p.dtype) for p in graph.inputs if p.role == "state"}
        for step in range(STEPS):
            is_first = np.full(count, step == 0) | (rng.random(count) < 0.2)
            feed = [random_input(port, count, rng, state, is_first) for port in graph.inputs]
            with torch.no_grad():
                wanted = [x.numpy() for x in graph(*map(torch.from_numpy, feed))]
            _compare(graph, wanted, run(*feed))
            found = dict(zip((port.name for port in graph.outputs), wanted, strict=True))
            state = {name: found[f"next_{name}"] for name in state}


def random_input(
    port: Port, count: int, rng: np.random.Generator, state: Mapping[str, np.ndarray], is_first: np.ndarray
) -> np.ndarray:
    """A value of an input that can occur. -> (count, *shape)."""
    shape = (count, *port.shape)
    if port.role in ("state", "is_first"):
        return is_first if port.role == "is_first" else state[port.name]
    if port.role == "uniform":
        return rng.random(shape, np.float32)
    if port.role == "mask":
        return rng.integers(0, 2, shape).astype(np.uint8)
    if port.dtype == "uint8":
        return rng.integers(0, 256, shape).astype(np.uint8)
    if port.low is not None:
        return rng.integers(port.low, (port.high or 0) + 1, shape).astype(port.dtype)
    return rng.standard_normal(shape, np.float32)


def _compare(graph: PolicyGraph, wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> None:
    for port, mine, theirs in zip(graph.outputs, wanted, found, strict=True):
        if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
            raise UserError(f"the exported file gives {port.name} as {theirs.dtype} {theirs.shape}.", "Report this.")
        if not np.allclose(mine, theirs, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
            far = np.abs(mine.astype(float) - theirs.astype(float)).max()
            raise UserError(
                f"the exported file does not act as the agent does: {port.name} differs by {far:.3g}.",
                "No file was written. Report this, with the run's config.yaml.",
            )
