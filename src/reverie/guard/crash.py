"""RUN/crash: what an autopsy needs to be made again in another process. safetensors and JSON, never pickle.

config.yaml  spec.json  weights.safetensors  optimizers.safetensors    the agent, as in a checkpoint
case.safetensors    the batch, the posterior, the random states
crash.json          stage, counts of steps, report, norms and losses of the last updates
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import checkpoint
from ..config import Config
from ..data.replay import Batch
from ..envs.spaces import Spec
from ..errors import UserError
from ..files import check_manifest, read_json
from ..finite import STAGES, Case, NonFinite
from ..rssm import State
from .nan_report import Report, dense

if TYPE_CHECKING:
    from ..train import DreamerV2

FORMAT = 1


def write_crash(path: Path, agent: DreamerV2, trouble: NonFinite, report: Report) -> None:
    """Fill the directory `path`. Raises UserError where it cannot be written."""
    facts = {
        "format": FORMAT,
        "stage": trouble.case.stage,
        "steps": agent.steps,
        "report": report.to_dict(),
        "history": [{key: repr(value) for key, value in line.items()} for line in trouble.history],  # JSON has no NaN
    }
    files: dict[str, Any] = {
        "optimizers.safetensors": checkpoint.optimizer_tensors(agent),
        "case.safetensors": _tensors_of(trouble.case),
        "crash.json": json.dumps(facts, indent=1, allow_nan=False),
    }
    try:
        checkpoint.write_atomically(path, checkpoint.agent_files(agent) | files)
    except OSError as error:
        raise UserError(f"cannot write the crash file {path} ({error.strerror}).", "Free some space.") from error


def find_crash(path: Path) -> Path:
    """The directory of a crash: that of a run, of the crash itself, or of a file in it. Raises UserError."""
    for where in (path, path / "crash", path.parent):
        if (where / "crash.json").is_file():
            return where
    raise UserError(f"{path} holds no crash.", "Give a run that stopped at a NaN, or its directory `crash`.")


def read_setup(path: Path) -> tuple[Config, Spec]:
    """Settings and spaces of the agent that crashed. Raises UserError."""
    return checkpoint.read_agent(path)


def read_crash(path: Path, agent: DreamerV2) -> NonFinite:
    """Load the agent as it was, and -> what happened. Raises UserError for a damaged file."""
    check_manifest(path)
    facts = read_json(path / "crash.json")
    damaged = UserError(f"{path} is damaged or of another version.", "Write it anew: run the training again.")
    if facts.get("format") != FORMAT or facts.get("stage") not in STAGES:
        raise damaged
    checkpoint.load_weights(path, agent)
    try:
        checkpoint.restore_optimizers(agent, checkpoint.read_tensors(path / "optimizers.safetensors"))
        agent.steps = {name: int(facts["steps"][name]) for name in agent.steps}
        case = _case_of(str(facts["stage"]), checkpoint.read_tensors(path / "case.safetensors"), agent)
        history = [{str(key): float(value) for key, value in line.items()} for line in facts["history"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged from error
    return NonFinite(case, history)


def _tensors_of(case: Case) -> dict[str, Tensor]:
    found = {f"random/{name}": value for name, value in case.random.items()}
    if case.batch is not None:
        found |= {f"batch/obs/{key}": value for key, value in case.batch.obs.items()}
        found |= {f"batch/{key}": getattr(case.batch, key) for key in case.batch._fields if key != "obs"}
    if case.posterior is not None:
        found |= {f"posterior/{key}": value for key, value in dense(case.posterior)._asdict().items()}
    if case.is_terminal is not None:
        found["is_terminal"] = case.is_terminal
    return {key: value.detach().cpu().clone().contiguous() for key, value in found.items()}


def _case_of(stage: str, tensors: dict[str, Tensor], agent: DreamerV2) -> Case:
    def below(prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v.to(agent.device) for k, v in tensors.items() if k.startswith(prefix)}

    parts, obs, posterior = below("batch/"), below("batch/obs/"), below("posterior/")
    rest = {key: value for key, value in parts.items() if not key.startswith("obs/")}
    random = {key.removeprefix("random/"): value for key, value in tensors.items() if key.startswith("random/")}
    terminal = tensors.get("is_terminal")
    return Case(
        stage,
        Batch(obs=obs, **rest) if rest else None,
        State(**posterior) if posterior else None,
        terminal.to(agent.device) if terminal is not None else None,
        random,
    )
