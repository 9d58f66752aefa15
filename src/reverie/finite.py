"""No non-finite number (NaN or infinity) reaches a weight: the update that meets one is stopped or skipped.

On a CPU, reading one number costs nothing: `FiniteGuard.check` raises `NonFinite` at once. On other devices reading
would wait for the device. There a tensor marks a bad step, the optimizers skip the step (`found_inf`), and a count of
skipped steps stays on the device until metrics are written (`FiniteGuard.trouble`). The diagnosis is in
`guard/nan_report.py`, the reaction in `run/nan_policy.py`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from .data.replay import Batch
from .optim import moments_of
from .rssm import State

WORLD_MODEL = "world model"  # the first stage of every update


class FailedUpdate(NamedTuple):
    """What one part of an update started from."""

    stage: str  # the world model's, or a behaviour's (`Behavior.stage`)
    batch: Batch | None  # of tensors (B, T, ...); None where only the posterior was given
    posterior: State | None  # (B, T, ...): what the behaviour's dreams start from; None for the world model
    is_terminal: Tensor | None  # (B, T), beside the posterior
    random: dict[str, Tensor]  # states of torch's random streams before it


class NonFinite(ArithmeticError):
    """A loss, a gradient or an optimizer's moment was not finite; no weight of that part was changed."""

    def __init__(self, case: FailedUpdate, history: list[dict[str, float]], skipped: int = 1) -> None:
        """history: metrics of the last updates, oldest first; skipped: so many updates were left out."""
        super().__init__(f"the update of the {case.stage} met a number that is not finite")
        self.case, self.history, self.skipped = case, history, skipped


class FiniteGuard:
    """Checks each step before it is made, and keeps what a NaN report needs."""

    def __init__(self, device: torch.device, scales: Sequence[Tensor] = (), stages: Sequence[str] = ()) -> None:
        """scales: small buffers that computing changes, to be put back with a step that is not made (on a CPU).

        stages: the parts of an update after the world model's, in their order.
        """
        self.device, self.scales = device, scales
        self.before: list[Tensor] = []
        self.waits = device.type == "cpu"  # reading a number of another device would wait for it
        self.stages = (WORLD_MODEL, *stages)
        self.counts = {stage: torch.zeros((), device=device) for stage in self.stages}
        self.cases: dict[str, FailedUpdate] = {}
        self.history: deque[Mapping[str, Tensor]] = deque(maxlen=10)

    def begin(
        self,
        stage: str,
        batch: Batch | None = None,
        *,
        posterior: State | None = None,
        is_terminal: Tensor | None = None,
    ) -> None:
        """Remember what a stage starts from, all of (B, T, ...): references, and the random states of now."""
        last = self.cases.get(WORLD_MODEL)
        if last is not None and last.batch is not None and last.batch.is_terminal is is_terminal:
            batch = last.batch  # the same update's
        self.before = [scale.clone() for scale in self.scales]
        self.cases[stage] = FailedUpdate(stage, batch, posterior, is_terminal, random_state(self.device))

    def check(self, stage: str, numbers: Iterable[Tensor], optimizers: Sequence[Optimizer]) -> None:
        """Are losses and norms (), and the optimisers' moments, finite? Else these optimisers must not step.

        Raises NonFinite on a CPU; elsewhere it sets the optimizers' `found_inf`, torch's own mechanism.
        """
        total = torch.stack([number.detach().float() for number in numbers]).sum()
        moments = moments_of(optimizers)
        if moments:  # a broken one would break its weights now
            total = total + torch.stack(torch._foreach_norm(moments)).sum()
        if self.waits:
            if not math.isfinite(float(total)):
                for scale, before in zip(self.scales, self.before, strict=False):
                    scale.copy_(before)
                raise NonFinite(
                    self.cases.get(stage) or FailedUpdate(stage, None, None, None, {}), self.recent_metrics()
                )
            return
        bad = 1 - total.isfinite().float()
        self.counts[stage].add_(bad)
        for optimizer in optimizers:
            optimizer.found_inf = bad  # type: ignore[attr-defined]

    def note(self, metrics: Mapping[str, Tensor]) -> None:
        """Keep the metrics of an update for a while, on their device."""
        self.history.append(metrics)

    def recent_metrics(self) -> list[dict[str, float]]:
        """Metrics of the last updates as numbers, oldest first (waits for the device)."""
        return [{key: float(value) for key, value in metrics.items()} for metrics in self.history]

    def trouble(self) -> NonFinite | None:
        """The skipped updates on the device since the last call (waits for it), with the batch of the last update."""
        if self.waits:
            return None
        counts = {stage: int(count) for stage, count in self.counts.items()}
        for count in self.counts.values():
            count.zero_()
        for stage in self.stages:
            if counts[stage]:
                case = self.cases.get(stage) or self.cases[WORLD_MODEL]._replace(stage=stage)
                return NonFinite(case, self.recent_metrics(), max(counts.values()))
        return None


def random_state(device: torch.device) -> dict[str, Tensor]:
    """States of the random streams that learning draws from. Host memory only, so that nothing waits."""
    found = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Inverse of `random_state`; a stream of a device that is not there is left out."""
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
