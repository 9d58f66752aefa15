"""What torch's optimisers lack: Keras' epsilon (the released DreamerV2 code), LaProp and adaptive clipping (V3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def keras_eps(eps: float, update: int, beta2: float) -> float:
    """The epsilon that makes torch's Adam equal Keras' at an update (counted from 1). FACTS.md 1.9.

    Keras adds it to sqrt(v) before the bias correction, torch after: 1e-5 becomes 3.2e-4 at the first update.
    """
    return float(eps / (1 - beta2**update) ** 0.5)


@torch.no_grad()
def clip_adaptive_(parameters: Sequence[Tensor], limit: float, *, floor: float = 1e-3) -> Tensor:
    """Scale each gradient so that its norm is at most `limit` x the norm of its weights (at least `floor`).

    Adaptive gradient clipping as in DreamerV3: no threshold to tune per task. -> the global norm before clipping, ().
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    weights = torch.stack(torch._foreach_norm([p for p in parameters if p.grad is not None]))
    scales = (limit * weights.clamp(min=floor) / norms.clamp(min=1e-30)).clamp(max=1.0)
    torch._foreach_mul_(gradients, list(scales.unbind()))
    return torch.linalg.vector_norm(norms)


class LaProp(Optimizer):
    """Adam with the order changed: normalise each gradient, then average (Ziyin et al. 2020; DreamerV3's optimiser).

    v = b2 v + (1 - b2) g^2;   u = g / (sqrt(v / (1 - b2^t)) + eps);   m = b1 m + (1 - b1) u;   w -= lr m / (1 - b1^t)
    `weight_decay` multiplies the weights by 1 - lr * weight_decay first, like AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            (beta1, beta2), gradients = group["betas"], [p.grad for p in parameters]
            for p in parameters:
                if not self.state[p]:
                    self.state[p] = {"step": torch.zeros(()), "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
                self.state[p]["step"] += 1
            t = int(self.state[parameters[0]]["step"])  # kept on the CPU: no waiting for the device
            mean, square = ([self.state[p][key] for p in parameters] for key in ("m", "v"))
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_mul_(square, beta2)
            torch._foreach_addcmul_(square, gradients, gradients, 1 - beta2)
            scale = torch._foreach_sqrt(torch._foreach_div(square, 1 - beta2**t))
            torch._foreach_add_(scale, group["eps"])
            torch._foreach_lerp_(mean, torch._foreach_div(gradients, scale), 1 - beta1)
            torch._foreach_add_(parameters, mean, alpha=-group["lr"] / (1 - beta1**t))
