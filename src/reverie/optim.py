"""One step of learning: schedules, gradients, clipping, and the optimizers that torch lacks.

`Optimizer` has all that belongs to a step of one module. Below it: Keras' epsilon (the released DreamerV2 code), LaProp
and adaptive clipping (DreamerV3), and an AdamW whose settings are tensors (CUDA graphs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .ranks import ALONE, Ranks


class StepInOneCall(Protocol):
    """The same norms and the same step as torch's, made by less work (fast/fused.py)."""

    def fits(self) -> bool: ...
    def norms(self) -> tuple[Tensor, Tensor]: ...
    def step(self) -> None: ...


class Optimizer:
    """Adam or LaProp for the parameters of one module, and all that belongs to a step: schedule, gradients, clipping.

    A step is `schedule()`, `compute_gradients(loss)`, `clip()`, `step()`, and `updates += 1`; `Optimizers.step`
    does the middle three for several losses. Nothing here waits for the device.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        kind: str = "adam",
        beta2: float = 0.999,
        eps: float = 1e-5,
        eps_mode: str = "torch",
        weight_decay: float = 0.0,
        weight_decay_mode: str = "per_update",
        warmup: int = 0,
        decay: int = 0,
        clip: float = 100.0,
        adaptive_clip: float = 0.0,
        on_device: bool = False,
    ) -> None:
        """kind: "adam" or "laprop". warmup, decay: updates until the full rate, and until a tenth of it (0: never).

        eps_mode: "torch", or "keras" for `keras_eps`. weight_decay_mode: "per_update" multiplies weights by
        1 - weight_decay (the released code), "lr_scaled" by 1 - lr * weight_decay (AdamW). clip: the largest global
        norm of the gradients; `adaptive_clip` other than 0 replaces it by `clip_adaptive_`. on_device: settings are
        tensors (for CUDA graphs).
        """
        self.parameters = list(parameters)
        self.lr = lr
        self.scale = 1.0  # of the learning rate; halved by each rollback (run/nan_policy.py)
        self.updates = 0  # steps made
        self.warmup = warmup
        self.decay = decay
        self.beta2 = beta2
        self.eps = eps
        self.eps_mode = eps_mode
        self.weight_decay = weight_decay
        self.weight_decay_mode = weight_decay_mode
        self.max_norm = clip
        self.adaptive_clip = adaptive_clip
        betas = (0.9, beta2)
        self.torch: torch.optim.Optimizer
        if on_device or kind == "laprop":
            own = LaProp if kind == "laprop" else TensorAdamW
            self.torch = own(self.parameters, lr, betas=betas, eps=eps, on_device=on_device)
        else:
            self.torch = torch.optim.AdamW(self.parameters, lr, betas=betas, eps=eps, fused=True)
        self.quick: StepInOneCall | None = None
        self.moments_norm: Tensor | None = None  # (), of the running means: known between `clip` and `step` by `quick`
        self.schedule()

    def schedule(self) -> None:
        """Set what changes from step to step, for the next one: learning rate, epsilon and weight decay."""
        update = self.updates + 1
        lr = self.lr * self.scale * (min(1.0, update / self.warmup) if self.warmup else 1.0)
        lr *= 1 - 0.9 * min(1.0, update / self.decay) if self.decay else 1.0
        eps = keras_eps(self.eps, update, self.beta2) if self.eps_mode == "keras" else self.eps
        # torch multiplies weights by 1 - lr * weight_decay; the released code by 1 - weight_decay
        # (implementation-details.md#weight-decay).
        weight_decay = self.weight_decay / lr if self.weight_decay_mode == "per_update" else self.weight_decay
        for group in self.torch.param_groups:
            for key, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
                if isinstance(group[key], Tensor):
                    group[key].fill_(value)
                else:
                    group[key] = value

    def compute_gradients(self, loss: Tensor) -> None:
        """Gradients of exactly its own parameters, whatever else the loss () depends on, into their `grad`."""
        for parameter, gradient in zip(self.parameters, torch.autograd.grad(loss, self.parameters), strict=True):
            parameter.grad = gradient.contiguous()  # fused steps go through memory in order, whatever the strides say

    def clip(self) -> Tensor:
        """Clip the gradients in place. -> their global norm before, ()."""
        if self.adaptive_clip:
            return clip_adaptive_(self.parameters, self.adaptive_clip)
        limit, self.moments_norm = self.max_norm, None
        if self.quick is not None and self.quick.fits():
            norm, self.moments_norm = self.quick.norms()
            if float(norm) + 1e-6 > limit:  # as in torch's; below, gradients would be multiplied by 1
                nn.utils.clip_grads_with_norm_(self.parameters, limit, norm)
            return norm
        return nn.utils.clip_grad_norm_(self.parameters, limit)

    def step(self) -> None:
        """One step along the gradients."""
        if self.quick is not None and self.moments_norm is not None:
            self.quick.step()
            self.moments_norm = None  # where the gradients lay is known for one step
        else:
            self.torch.step()
        torch.autograd.graph.increment_version(self.parameters)  # fused steps do not, and the fast path must know


class Optimizers(dict[str, Optimizer]):
    """The optimizers of an agent by name, and what is done with several of them."""

    ranks: Ranks = ALONE  # that share the batch

    def schedule(self, *names: str) -> None:
        """Set the learning rates and the rest for the next step of these."""
        for name in names:
            self[name].schedule()

    def count(self, *names: str) -> None:
        """One more step of these was made."""
        for name in names:
            self[name].updates += 1

    def set_quick(self, make: Callable[[torch.optim.Optimizer], StepInOneCall | None] | None) -> None:
        """Let norms and steps be computed by what `make` gives for torch's optimizers, or, without it, by torch."""
        for optimizer in self.values():
            optimizer.quick = make(optimizer.torch) if make is not None else None

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rates that were set; a rollback halves them (run/nan_policy.py)."""
        for optimizer in self.values():
            optimizer.scale = factor

    def step(
        self, losses: Mapping[str, Tensor], check: Callable[[list[Tensor], list[torch.optim.Optimizer]], None]
    ) -> dict[str, Tensor]:
        """One step for each loss (), by the name of its optimizer, or for none of them if `check` raises.

        check: given losses and norms before any weight changes, and the torch optimizers whose running means it must
        look at itself (`FiniteGuard.check`).
        -> {"NAME/grad_norm": () before clipping}.
        """
        chosen = [self[name] for name in losses]
        for optimizer, loss in zip(chosen, losses.values(), strict=True):
            optimizer.compute_gradients(loss)
        losses = self._averaged(chosen, losses)
        norms = [optimizer.clip() for optimizer in chosen]
        known = [optimizer.moments_norm for optimizer in chosen if optimizer.moments_norm is not None]
        others = [optimizer.torch for optimizer in chosen if optimizer.moments_norm is None]
        check([*losses.values(), *norms, *known], others)
        for optimizer in chosen:
            optimizer.step()
        return {f"{name}/grad_norm": norm for name, norm in zip(losses, norms, strict=True)}

    def _averaged(self, chosen: Sequence[Optimizer], losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Give each rank the mean of all ranks' gradients, and of their losses: a check then decides alike on each.

        One message for all of a step's optimizers; what was made of float32 on one rank is the same bit on each.
        """
        if self.ranks.size == 1:
            return losses
        parameters = [parameter for optimizer in chosen for parameter in optimizer.parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        values = [loss.detach().float() for loss in losses.values()]
        means = self.ranks.average_([*gradients, *values])
        for parameter, gradient in zip(parameters, means[: len(gradients)], strict=True):
            parameter.grad = gradient
        return dict(zip(losses, means[len(gradients) :], strict=True))


def keras_eps(eps: float, update: int, beta2: float) -> float:
    """The epsilon that makes torch's Adam equal Keras' at an update (counted from 1). implementation-details.md#adam.

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


class _Tensors(torch.optim.Optimizer):
    """What both have in common. With `on_device` the settings are tensors beside the parameters, as is the count of
    steps: a captured CUDA graph then reads new ones (fast/cuda_graph.py).

    `found_inf`, a tensor () as torch's own optimisers take it: where it is 1, the step leaves everything as it is.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        on_device: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.on_device = on_device
        for group in self.param_groups:
            if on_device:
                device = group["params"][0].device
                group |= {key: torch.tensor(group[key], device=device) for key in ("lr", "eps", "weight_decay")}
                group["capturable"] = True  # torch then restores the count to the device, too

    def __getstate__(self) -> dict[str, Any]:
        """Of copies: torch keeps only what it knows of."""
        return super().__getstate__() | {"on_device": self.on_device, "found_inf": self.found_inf}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            for p in parameters:
                if not self.state[p]:
                    count = torch.zeros((), device=p.device if self.on_device else "cpu")
                    self.state[p] = {"step": count} | {key: torch.zeros_like(p) for key in self.moments}
            count, bad = self.state[parameters[0]]["step"], self.found_inf
            counted = 1 if bad is None or bad.device != count.device else 1 - bad
            _plus_([self.state[p]["step"] for p in parameters], counted)
            t = count if self.on_device else max(1.0, float(count))  # on the CPU otherwise: no waiting for the device
            decay = group["lr"] * group["weight_decay"]
            _times_(parameters, 1 - (decay if bad is None else decay * (1 - bad)))
            mean, square = ([self.state[p][key] for p in parameters] for key in self.moments)
            self._move(parameters, [p.grad for p in parameters], mean, square, t, group)

    moments: tuple[str, str]

    def _follow_squares(self, square: Any, gradients: Any, beta2: float) -> None:
        """v = b2 v + (1 - b2) g^2."""
        bad = self.found_inf
        _times_(square, beta2 if bad is None else 1 - (1 - bad) * (1 - beta2))
        gradients = _unless(bad, gradients)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - beta2)

    def _move(self, parameters: Any, gradients: Any, mean: Any, square: Any, t: Any, group: Any) -> None:
        raise NotImplementedError


class TensorAdamW(_Tensors):
    """torch's AdamW, with epsilon and weight decay that may change while a captured graph runs.

    m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g^2;   w -= lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)
    """

    moments = ("exp_avg", "exp_avg_sq")  # torch's names: checkpoints fit both

    def _move(self, parameters: Any, gradients: Any, mean: Any, square: Any, t: Any, group: Any) -> None:
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(mean, _unless(self.found_inf, gradients, mean), 1 - beta1)
        self._follow_squares(square, gradients, beta2)
        scale = torch._foreach_sqrt(square)
        _times_(scale, (1 - beta2**t) ** -0.5)
        _plus_(scale, group["eps"])
        change = torch._foreach_div(mean, scale)
        _times_(change, -group["lr"] / (1 - beta1**t))
        torch._foreach_add_(parameters, _unless(self.found_inf, change))


class LaProp(_Tensors):
    """Adam with the order changed: normalise each gradient, then average (Ziyin et al. 2020; DreamerV3's optimiser).

    v = b2 v + (1 - b2) g^2;   u = g / (sqrt(v / (1 - b2^t)) + eps);   m = b1 m + (1 - b1) u;   w -= lr m / (1 - b1^t)
    `weight_decay` multiplies the weights by 1 - lr * weight_decay first, like AdamW's.
    """

    moments = ("m", "v")

    def _move(self, parameters: Any, gradients: Any, mean: Any, square: Any, t: Any, group: Any) -> None:
        beta1, beta2 = group["betas"]
        self._follow_squares(square, gradients, beta2)
        scale = torch._foreach_sqrt(square)
        _times_(scale, (1 - beta2**t) ** -0.5)
        _plus_(scale, group["eps"])
        torch._foreach_lerp_(mean, _unless(self.found_inf, torch._foreach_div(gradients, scale), mean), 1 - beta1)
        change = torch._foreach_mul(mean, 1.0)
        _times_(change, -group["lr"] / (1 - beta1**t))
        torch._foreach_add_(parameters, _unless(self.found_inf, change))


def _times_(tensors: Sequence[Tensor], factor: float | Tensor) -> None:
    """By name of the overload: torch's own choice would wait for the device and turn a tensor into a number."""
    kind = torch.ops.aten._foreach_mul_
    kind.Tensor(tensors, factor) if isinstance(factor, Tensor) else kind.Scalar(tensors, factor)


def _plus_(tensors: Sequence[Tensor], term: float | Tensor) -> None:
    kind = torch.ops.aten._foreach_add_
    kind.Tensor(tensors, term) if isinstance(term, Tensor) else kind.Scalar(tensors, term)


def _unless(bad: Tensor | None, new: Any, old: Any = None) -> Any:
    """`old`, or zeros, where `bad` () is 1, even if `new` is not finite; else `new`. In a few large kernels."""
    if bad is None:
        return new
    flat = torch.cat([x.flatten() for x in new])
    instead = torch.zeros_like(flat) if old is None else torch.cat([x.flatten() for x in old])
    chosen = torch.where(bad > 0, instead, flat).split([x.numel() for x in new])
    return [x.view(like.shape) for x, like in zip(chosen, new, strict=True)]


def moments_of(optimizers: Iterable[torch.optim.Optimizer]) -> list[Tensor]:
    """The running means that the next step starts from."""
    found = [moment for optimizer in optimizers for state in optimizer.state.values() for moment in state.values()]
    return [moment for moment in found if moment.dim()]
