"""One-hot algebra: z is S ones among S*K, so W z is a sum of S columns of W, and never needs the 1024 zeros.

`Feat` stands for the features [z, h] without writing z out. What follows is exact, not an approximation:

    W [z, h]            = sum of S columns of W + W_h h            (S = 32 of 1024: a 32nd of the work)
    d loss / d W_z      = for each class, the sum of the gradients of the states that chose it
    d loss / d probs    = g W_z, dense: the straight-through gradient reaches all classes (paper Algorithm 1)

Shapes as everywhere: N rows, S categoricals, K classes, Z = S*K, D size of h, F = Z + D.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import straight_through


class Indexed:
    """Stands for a tensor. Anything that is not written out in a subclass is done with the tensor itself.

    Functions of torch, methods and properties of tensors, operators: all of them, by writing the tensor out once.
    """

    _dense: Tensor | None = None

    def _write_out(self) -> Tensor:
        raise NotImplementedError

    def dense(self) -> Tensor:
        """Written out."""
        if self._dense is None:  # every head asks for it: on a GPU some 260 MB in an update of 50 x 50
            self._dense = self._write_out()
        return self._dense

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Any function of torch: with tensors instead."""
        return function(*_as_tensors(args), **_as_tensors(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        """Any other method or property of tensors. Raises AttributeError where tensors have none of that name."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dense(), name)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.dense().__array__(*args, **kwargs)

    def __len__(self) -> int:
        return int(self.shape[0])

    __hash__ = object.__hash__


class OneHots(Indexed):
    """One-hot variables z (..., Z) as the indices of their ones: index (..., S), int32 in 0..Z-1.

    probs (..., Z) are what z was drawn from, where straight-through gradients shall flow, else None.
    """

    def __init__(self, index: Tensor, probs: Tensor | None, size: int) -> None:
        self.index, self.probs, self.size = index, probs, size

    @property
    def requires_grad(self) -> bool:
        """Do gradients flow into it?"""
        return self.probs is not None and self.probs.requires_grad

    def __getitem__(self, key: Any) -> OneHots:
        """Leading axes only, as the algorithm does."""
        return OneHots(self.index[key], None if self.probs is None else self.probs[key], self.size)

    def flatten(self, start: int, end: int) -> OneHots:
        """Merge leading axes."""
        probs = None if self.probs is None else self.probs.flatten(start, end)
        return OneHots(self.index.flatten(start, end), probs, self.size)

    def detach(self) -> OneHots:
        """The same without gradients."""
        return OneHots(self.index, None, self.size)

    def join(self, deter: Tensor) -> Feat:
        """[z, h], the features. deter (..., D) -> Feat (..., F)."""
        return Feat(self, deter)

    def _write_out(self) -> Tensor:
        zeros = torch.zeros((*self.index.shape[:-1], self.size), device=self.index.device)
        z = zeros.scatter_(-1, self.index.long(), 1.0)
        return z if self.probs is None else straight_through(z, self.probs)


class Feat(Indexed):
    """Features [z, h] (..., F), z as the indices of its ones."""

    def __init__(self, stoch: OneHots, deter: Tensor) -> None:
        self.stoch = stoch
        self.deter = deter
        self._order: tuple[Tensor, Tensor] | None = None

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.deter.shape[:-1], self.stoch.size + self.deter.shape[-1]))

    @property
    def device(self) -> torch.device:
        return self.deter.device

    @property
    def requires_grad(self) -> bool:
        """Do gradients flow into it?"""
        return self.deter.requires_grad or self.stoch.requires_grad

    def __getitem__(self, key: Any) -> Any:
        """Numbers and slices of leading axes give a Feat, anything else a tensor."""
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) >= len(self.shape) or not all(isinstance(k, int | slice) for k in keys):
            return self.dense()[key]
        deter = self.deter[key]
        return self if deter.shape == self.deter.shape else Feat(self.stoch[key], deter)

    def detach(self) -> Feat:
        """The same without gradients."""
        if not self.deter.requires_grad and self.stoch.probs is None:
            return self
        return Feat(self.stoch.detach(), self.deter.detach())

    def new_ones(self, *size: Any) -> Tensor:
        """Ones of the same kind."""
        return self.deter.new_ones(*size)

    def _write_out(self) -> Tensor:
        return torch.cat([self.stoch.dense(), self.deter], -1)

    def order(self) -> tuple[Tensor, Tensor]:
        """Class by class, the states that chose it; see `by_class`."""
        if self._order is None:
            self._order = by_class(self.stoch.index.reshape(-1, self.stoch.index.shape[-1]), self.stoch.size)
        return self._order


def _as_tensors(value: Any) -> Any:
    if isinstance(value, Indexed):
        return value.dense()
    if isinstance(value, dict):
        return {key: _as_tensors(item) for key, item in value.items()}
    return type(value)(map(_as_tensors, value)) if type(value) in (tuple, list) else value


def _operator(name: str) -> Any:
    def apply(self: Indexed, *others: Any) -> Any:
        return getattr(self.dense(), name)(*_as_tensors(others))

    return apply


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "matmul", "pow", "and", "or", "xor")
_OTHERS = ("eq", "ne", "lt", "le", "gt", "ge", "neg", "pos", "abs", "invert")
_NAMES = (*_BINARY, *(f"r{name}" for name in _BINARY), *_OTHERS)
for _name in _NAMES:
    if hasattr(Tensor, f"__{_name}__"):
        setattr(Indexed, f"__{_name}__", _operator(f"__{_name}__"))


def by_class(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Turn `state -> classes` round into `class -> states`. index (N, S) -> rows (N * S,), where each begins (Z,)."""
    flat = index.flatten()
    counts = torch.bincount(flat, minlength=size)
    return torch.div(flat.argsort(), index.shape[-1], rounding_mode="floor"), counts.cumsum(0) - counts


def rows_gradient(order: tuple[Tensor, Tensor], gradient: Tensor) -> Tensor:
    """d loss / d W_z: for each class, the sum over the states that chose it. gradient (N, out) -> (Z, out)."""
    return F.embedding_bag(order[0], gradient, order[1], mode="sum")
