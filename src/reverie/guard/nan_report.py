"""NaN report: a failed update is computed again with a hook on every module, to find the first non-finite tensor.

The first one found is the verdict, in this order: inputs (batch, posterior), parameters, optimiser moments, buffers,
outputs of modules in the order in which they run, losses, gradients. Always on the plain path, whose modules can have
hooks, with the same weights and random numbers. `write_crash` and `read_crash` keep such an update in RUN/crash.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import checkpoint
from ..config import Config
from ..data.replay import Batch
from ..envs.spaces import Spec
from ..errors import UserError
from ..fast import FASTER, set_types
from ..fast.products import Types
from ..files import check_manifest, is_own_file, read_json, require_own_files
from ..finite import FailedUpdate, NonFinite, random_state, set_random_state
from ..rssm import State

if TYPE_CHECKING:
    from ..train import DreamerV2

PLAIN = {quick: plain for plain, quick in FASTER.items()}
LARGE = 1e3  # observations and rewards above this are reported as unscaled


class BrokenTensor(NamedTuple):
    """The first tensor that is not finite."""

    kind: str  # batch, posterior, parameter, moment, buffer, module, loss, gradient
    name: str
    where: str  # which of its values: "NaN at sequence 1, step 4"
    detail: str = ""  # of a module: the ranges of its inputs


@dataclass(frozen=True)
class NanReport:
    """Verdict, likely cause and advice; `found` is empty where everything is finite when it is computed again."""

    found: str  # kind of the finding
    name: str
    verdict: str
    cause: str
    advice: str
    history: list[str] = field(default_factory=list)  # norms and losses of the last updates, oldest first

    def lines(self) -> list[str]:
        """Lines for the terminal."""
        last = [f"          {line}" for line in self.history[-10:]]
        return [f"verdict   {self.verdict}", f"cause     {self.cause}", f"try       {self.advice}"] + (
            ["updates   the last ones, oldest first:", *last] if last else []
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def diagnose_update(agent: DreamerV2, case: FailedUpdate, history: list[dict[str, float]] | None = None) -> NanReport:
    """Compute a failed update again, without a step, and find the first non-finite tensor. The agent is not changed."""
    case = case._replace(posterior=case.posterior and dense(case.posterior))
    with _plain(agent), _undisturbed(agent), agent.apart():
        finding = _first(agent, case)
        cause, advice = _explain(agent, case, finding, history or [])
    lines = [_summary(line) for line in history or []]
    if finding is None:
        verdict = f"all values of the {case.stage}'s update are finite when it is computed again"
        return NanReport("", "", verdict, cause, advice, lines)
    verdict = f"{finding.kind} '{finding.name}' holds {finding.where}, in the update of the {case.stage}"
    return NanReport(finding.kind, finding.name, verdict + finding.detail, cause, advice, lines)


def dense(posterior: State) -> State:
    """With tensors throughout: the fast path keeps one-hots as indices."""
    return State(*(value if isinstance(value, Tensor) else value.dense() for value in posterior))


# --------------------------------------------------------------------------------------------------- what is non-finite


def _first(agent: DreamerV2, case: FailedUpdate) -> BrokenTensor | None:
    return _given(case) or _kept(agent) or _computed(agent, case)


def _given(case: FailedUpdate) -> BrokenTensor | None:
    """The first non-finite input: batch or posterior. Actions of first steps are NaN by contract."""
    if case.batch is not None:
        batch = case.batch
        action = batch.action.masked_fill(batch.is_first[..., None], 0)
        for name, value in {
            **{f"obs/{k}": v for k, v in batch.obs.items()},
            "action": action,
            "reward": batch.reward,
        }.items():
            if not _finite(value):
                return BrokenTensor("batch", name, _where(value, batch.reward.shape))
    if case.posterior is not None:
        for name, value in case.posterior._asdict().items():
            if isinstance(value, Tensor) and not _finite(value):
                return BrokenTensor("posterior", name, _where(value, value.shape[:2]))
    return None


def _kept(agent: DreamerV2) -> BrokenTensor | None:
    """The first non-finite value that lasts from update to update: parameter, moment or buffer."""
    for name, parameter in agent.named_parameters():
        if not _finite(parameter):
            return BrokenTensor("parameter", name, _where(parameter))
    names: dict[Tensor, str] = {parameter: name for name, parameter in agent.named_parameters()}
    for optimizer in agent.optimizers.values():
        for owner, moments in optimizer.torch.state.items():
            for moment, value in moments.items():
                if isinstance(value, Tensor) and not _finite(value):
                    return BrokenTensor("moment", f"{names[owner]}/{moment}", _where(value))
    for name, value in agent.named_buffers():
        if not _finite(value):
            return BrokenTensor("buffer", name, _where(value))
    return None


def _computed(agent: DreamerV2, case: FailedUpdate) -> BrokenTensor | None:
    """The first non-finite result on the way to the gradients."""
    found: list[BrokenTensor] = []
    order: list[str] = []
    lead = case.batch.reward.shape if case.batch is not None else ()
    if case.is_terminal is not None:
        lead = case.is_terminal.shape

    def hook_of(name: str) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            order.append(name)
            bad = next((x for x in _tensors(output) if not _finite(x)), None)
            if bad is not None and not found:
                ranges = ", ".join(_range(x) for x in _tensors(inputs)) or "none"
                found.append(BrokenTensor("module", name, _where(bad, lead), f"; its inputs: {ranges}"))

        return hook

    gradients: dict[str, Tensor] = {}

    names = {parameter: name for name, parameter in agent.named_parameters()}
    with ExitStack() as stack:
        for name, module in agent.named_modules():
            if name:
                stack.callback(module.register_forward_hook(hook_of(name)).remove)
        totals, metrics = _again(agent, case)
        for optimizer, loss in totals.items():
            if not _finite(loss):
                found.append(BrokenTensor("loss", optimizer, _where(loss)))
            owner = agent.optimizers[optimizer]
            owner.compute_gradients(loss)
            gradients |= {names[p]: p.grad for p in owner.parameters if p.grad is not None}
    losses = [BrokenTensor("loss", key, _where(value)) for key, value in metrics.items() if not _finite(value)]
    losses.sort(key=lambda finding: (not finding.name.endswith("_loss"), not finding.name.endswith("loss")))
    broken = [name for name, gradient in gradients.items() if not _finite(gradient)]
    broken.sort(key=lambda name: -_last(order, name.rpartition(".")[0]))  # backward meets the last module first
    of_gradients = [BrokenTensor("gradient", name, _where(gradients[name])) for name in broken]
    modules = [finding for finding in found if finding.kind == "module"]
    return next(iter([*modules, *losses, *[f for f in found if f.kind == "loss"], *of_gradients]), None)


def _again(agent: DreamerV2, case: FailedUpdate) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The part of the update that failed, with the same random numbers. -> losses by optimizer, metrics."""
    set_random_state(case.random, agent.device)
    for behavior in agent.behaviors:
        behavior.entropy_weight = behavior.entropy_scale(agent.updates)
    if case.posterior is not None and case.is_terminal is not None:
        for learner in agent.learners:
            if learner.name == case.stage and case.batch is not None:
                loss, metrics = agent.learner_loss(learner, case.posterior, case.batch)
                return {learner.name: loss}, metrics
        behavior = next(behavior for behavior in agent.behaviors if behavior.stage == case.stage)
        return agent.behavior_losses(behavior, case.posterior, case.is_terminal, case.batch)
    if case.batch is None:
        raise ValueError("a failed update needs a batch or a posterior")
    loss, posterior, metrics = agent.world_model_loss(case.batch)
    losses = {"world_model": loss}
    wanted = agent.guard.stages[: agent.guard.stages.index(case.stage) + 1]  # a whole update was captured as one
    for learner in agent.learners:
        if learner.name in wanted:
            losses[learner.name], others = agent.learner_loss(learner, posterior.detach(), case.batch)
            metrics |= others
    for behavior in agent.learning:
        if behavior.stage in wanted:
            more, others = agent.behavior_losses(behavior, posterior.detach(), case.batch.is_terminal, case.batch)
            losses, metrics = losses | more, metrics | others
    return losses, metrics


@contextmanager
def _plain(agent: DreamerV2) -> Iterator[None]:
    """Context in which all modules compute on the plain path, with the same parameters and their hooks."""
    mode, parts = agent.mode, list(agent.modules())
    classes = [part.__class__ for part in parts]
    compiled = [part.__dict__.get("_compiled_call_impl") for part in parts]
    agent.mode = "reference"
    for part in parts:
        part.__class__ = PLAIN.get(type(part), type(part))
        part._compiled_call_impl = None
    try:
        yield
    finally:
        agent.mode = mode
        for part, kind, call in zip(parts, classes, compiled, strict=True):
            part.__class__ = kind
            part._compiled_call_impl = call


@contextmanager
def _undisturbed(agent: DreamerV2) -> Iterator[None]:
    """Context that restores what computing changes: random states, gradients, return scale, entropy weight."""
    before = random_state(agent.device)
    weights = [behavior.entropy_weight for behavior in agent.behaviors]
    buffers = {name: value.clone() for name, value in agent.named_buffers()}
    gradients = [(parameter, parameter.grad) for parameter in agent.parameters()]
    try:
        yield
    finally:
        set_random_state(before, agent.device)
        for behavior, weight in zip(agent.behaviors, weights, strict=True):
            behavior.entropy_weight = weight
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for name, value in agent.named_buffers():
            value.copy_(buffers[name])


# ----------------------------------------------------------------------------------------------------- cause and advice


def _explain(
    agent: DreamerV2, case: FailedUpdate, finding: BrokenTensor | None, history: list[dict[str, float]]
) -> tuple[str, str]:
    """-> the most likely cause, and what to change."""
    kind = finding.kind if finding else ""
    if finding is None:
        return (
            "the batch was another one, the device rounds differently, or memory was faulty",
            "resume from the last checkpoint; if it happens again, lower the learning rates",
        )
    if kind == "batch":
        sources = {
            "reward": "the environment gave a non-finite reward",
            "action": "a policy or environment gave a non-finite action",
        }
        return (
            sources.get(finding.name, "the environment gave a non-finite observation"),
            "`reverie check-env` on the task, and a fix there; the replay keeps the value until it is overwritten",
        )
    if kind in ("parameter", "moment"):
        return (
            "it was non-finite before this update: loaded so, changed from outside, or by faulty memory",
            "resume from a checkpoint (train.on_nonfinite=rollback does), and lower the learning rate "
            f"{_rate(finding.name)}",
        )
    if kind == "buffer":
        what = "behavior.return_norm=none" if "return_scale" in finding.name else "model.vector_transform=symlog"
        return "a running scale was non-finite before this update", f"resume from a checkpoint, or set {what}"
    return _explain_overflow(agent, case, finding, history)


def _explain_overflow(
    agent: DreamerV2, case: FailedUpdate, finding: BrokenTensor, history: list[dict[str, float]]
) -> tuple[str, str]:
    """Cause and advice where all inputs were finite."""
    if agent.dtype == torch.bfloat16:
        agent.dtype = torch.float32
        set_types(agent, Types.all(torch.float32), fused=agent.fused.on)
        try:
            again = _computed(agent, case)
        finally:
            agent.dtype = torch.bfloat16
            set_types(agent, agent.precision.types, fused=agent.fused.on)
        if again is None:
            return "too coarse or too large for bfloat16: in float32 it is finite", "compute.precision=float32"
    if case.batch is not None:
        for key, value in case.batch.obs.items():
            if value.is_floating_point() and float(value.abs().max()) > LARGE:
                return f"unscaled observations: '{key}' reaches {float(value.abs().max()):.3g}", (
                    "model.vector_transform=symlog or running"
                )
        if float(case.batch.reward.abs().max()) > LARGE:
            return (
                f"unscaled rewards: up to {float(case.batch.reward.abs().max()):.3g}",
                "model.reward_transform=symlog",
            )
    name, weight = max(((n, float(p.detach().abs().max())) for n, p in agent.named_parameters()), key=lambda x: x[1])
    if weight > LARGE:
        return f"weights that have grown too large: {name} up to {weight:.3g}", f"lower {_rate(name)}"
    for key in history[-1] if history else {}:
        norms = [line[key] for line in history if key in line]
        if key.endswith("grad_norm") and len(norms) > 2 and norms[-1] > 10 * median(norms[:-1]):
            return f"{key} rose to {norms[-1]:.3g} from {median(norms[:-1]):.3g}: the learning rate is too high", (
                f"lower {_rate(key)} or train.grad_clip"
            )
    return "a learning rate that is too high, or a gradient that was changed on its way", f"lower {_rate(finding.name)}"


def _rate(name: str) -> str:
    """The learning rate that moves a parameter, loss or module."""
    part = name.split(".")[0].split("/")[0]
    if part == "goals" or name.startswith("actor.goals."):
        return "hierarchy.goal_lr"
    if part in ("actor", "manager"):
        return "behavior.actor_lr"
    judging = part.split("_")[0] in ("critic", "slow", "novelty", "reach")
    return "behavior.critic_lr" if judging else "model.world_model_lr"


# ----------------------------------------------------------------------------------------------------------- formatting


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value.detach()).all())


def _where(value: Tensor, lead: tuple[int, ...] = ()) -> str:
    """Kind, index and count of the non-finite values. lead: (B, T) of the batch, if the rows are its steps."""
    bad = ~torch.isfinite(value.detach())
    what = "NaN" if value.detach().isnan().any() else "infinity"
    count = f"{int(bad.sum())} of {bad.numel()} values"
    rows, (sequences, steps) = bad.reshape(bad.shape[0], -1).any(1) if bad.dim() else bad[None], lead or (0, 0)
    if lead and bad.shape[:2] == lead:
        rows = bad.reshape(sequences * steps, -1).any(1)
    if not bad.dim() or not lead or len(rows) not in (sequences, sequences * steps):
        index = tuple(torch.nonzero(bad)[0].tolist())
        return f"{what} ({count}" + (f", the first at {index})" if index else ")")
    indices = torch.nonzero(rows).flatten().tolist()
    if len(indices) == len(rows) > 1:
        return f"{what} in all rows of the batch ({count})"
    steps_at = [
        f"sequence {i // steps}, step {i % steps}" if len(rows) > sequences or steps == 1 else f"sequence {i}"
        for i in indices
    ]
    return (
        f"{what} at {'; '.join(steps_at[:3])}{f' and {len(steps_at) - 3} more' if len(steps_at) > 3 else ''} ({count})"
    )


def _range(value: Tensor) -> str:
    value = value.detach().float()
    if not value.numel():
        return "empty"
    return f"{tuple(value.shape)} from {float(value.min()):.4g} to {float(value.max()):.4g}"


def _tensors(item: Any, depth: int = 4) -> Iterator[Tensor]:
    """All tensors among the inputs or outputs of a module."""
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, nn.Module) or depth == 0:
        return
    elif isinstance(item, Mapping):
        for value in item.values():
            yield from _tensors(value, depth - 1)
    elif isinstance(item, list | tuple):
        for value in item:
            yield from _tensors(value, depth - 1)
    elif hasattr(item, "__dict__"):
        yield from _tensors(vars(item), depth - 1)


def _last(order: list[str], name: str) -> int:
    """Index of a module's last run in `order`; -1 if it did not run."""
    return len(order) - 1 - order[::-1].index(name) if name in order else -1


def _summary(line: Mapping[str, float]) -> str:
    shown = {key: value for key, value in line.items() if key.endswith(("loss", "grad_norm", "kl"))}
    return "  ".join(f"{key} {value:.4g}" for key, value in shown.items())


# --------------------------------------------------------------------------------------------------- files of RUN/crash

FORMAT = 1


def write_crash(path: Path, agent: DreamerV2, trouble: NonFinite, report: NanReport) -> None:
    """Write the agent, the failed update and its report to the directory `path`. Raises UserError."""
    record = {
        "format": FORMAT,
        "stage": trouble.case.stage,
        "steps": {name: optimizer.updates for name, optimizer in agent.optimizers.items()},
        "report": report.to_dict(),
        "history": [{key: repr(value) for key, value in line.items()} for line in trouble.history],  # JSON has no NaN
    }
    files: dict[str, Any] = {
        "optimizers.safetensors": checkpoint.optimizer_tensors(agent),
        "case.safetensors": _tensors_of(trouble.case),
        "crash.json": json.dumps(record, indent=1, allow_nan=False),
    }
    try:
        checkpoint.write_atomically(path, checkpoint.agent_files(agent) | files)
    except OSError as error:
        raise UserError(f"cannot write the crash file {path} ({error.strerror}).", "Free some space.") from error


def find_crash(path: Path) -> Path:
    """The directory RUN/crash from the path of a run, of that directory, or of a file in it. Raises UserError."""
    require_own_files(path)
    for where in (path, path / "crash", path.parent):
        if is_own_file(where / "crash.json"):
            return where
    raise UserError(
        f"{path} holds no crash.", "Give a run that stopped at a non-finite update, or its directory `crash`."
    )


def read_setup(path: Path) -> tuple[Config, Spec]:
    """Settings and spaces of the agent of a failed update. Raises UserError."""
    return checkpoint.read_agent(path)


def read_crash(path: Path, agent: DreamerV2) -> NonFinite:
    """Load the agent as it was before the update. -> the failed update. Raises UserError for a damaged file."""
    check_manifest(path)
    record = read_json(path / "crash.json")
    damaged = UserError(f"{path} is damaged or of another version.", "Train again to write a new one.")
    if record.get("format") != FORMAT or record.get("stage") not in agent.guard.stages:
        raise damaged
    checkpoint.load_weights(path, agent, finite=False)  # a NaN in them may be what is looked for
    try:
        checkpoint.restore_optimizers(agent, checkpoint.read_tensors(path / "optimizers.safetensors"))
        for name, optimizer in agent.optimizers.items():
            optimizer.updates = int(record["steps"][name])
        case = _case_of(str(record["stage"]), checkpoint.read_tensors(path / "case.safetensors"), agent)
        history = [{str(key): float(value) for key, value in line.items()} for line in record["history"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged from error
    return NonFinite(case, history)


def _tensors_of(case: FailedUpdate) -> dict[str, Tensor]:
    found = {f"random/{name}": value for name, value in case.random.items()}
    if case.batch is not None:
        found |= {f"batch/obs/{key}": value for key, value in case.batch.obs.items()}
        others = {key: value for key, value in case.batch._asdict().items() if key != "obs" and value is not None}
        found |= {f"batch/{key}": value for key, value in others.items()}
    if case.posterior is not None:
        found |= {f"posterior/{key}": value for key, value in dense(case.posterior)._asdict().items()}
    if case.is_terminal is not None:
        found["is_terminal"] = case.is_terminal
    return {key: value.detach().cpu().clone().contiguous() for key, value in found.items()}


def _case_of(stage: str, tensors: dict[str, Tensor], agent: DreamerV2) -> FailedUpdate:
    def below(prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v.to(agent.device) for k, v in tensors.items() if k.startswith(prefix)}

    parts, obs, posterior = below("batch/"), below("batch/obs/"), below("posterior/")
    rest = {key: value for key, value in parts.items() if not key.startswith("obs/")}
    random = {key.removeprefix("random/"): value for key, value in tensors.items() if key.startswith("random/")}
    terminal = tensors.get("is_terminal")
    return FailedUpdate(
        stage,
        Batch(obs=obs, **rest) if rest else None,
        State(**posterior) if posterior else None,
        terminal.to(agent.device) if terminal is not None else None,
        random,
    )
