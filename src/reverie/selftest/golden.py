"""Golden fixtures: inputs, and what an independent NumPy implementation in float64 made of them.

They are written by `python -m tests.reference.generate` into `reverie/golden/`. Names inside a case: in.X inputs,
w.X weights, out.X results, grad.X derivatives.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

#: max |found - golden| <= TOLERANCE * max(FLOOR, max |golden|) must hold in every array.
TOLERANCE, FLOOR = 1e-5, 1e-3


class GoldenCase(NamedTuple):
    """One fixture."""

    name: str
    options: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose names begin with `prefix.`, without it."""
        return {key[len(prefix) + 1 :]: x for key, x in self.arrays.items() if key.startswith(f"{prefix}.")}

    def inputs(self) -> dict[str, Tensor]:
        """Inputs as float32 tensors of any shape (...); those with a golden derivative can be differentiated."""
        return {
            key: torch.tensor(x, dtype=torch.float32, requires_grad=f"grad.{key}" in self.arrays)
            for key, x in self.part("in").items()
        }

    def weights(self, prefix: str = "w") -> dict[str, Tensor]:
        """Weights as float32 tensors, ready for `load_state_dict`."""
        return {key: torch.tensor(x, dtype=torch.float32) for key, x in self.part(prefix).items()}


#: {"out.X" or "grad.X": tensor}, computed by the package.
Found = dict[str, Tensor]


class Check(NamedTuple):
    """One equation: which function must give the numbers of which cases."""

    name: str
    equation: str  # where it is written: the paper, or docs/implementation-details.md
    where: str  # the code that is checked, module:function
    cases: str  # all cases whose names are this or begin with this and a slash
    compute: Callable[[GoldenCase], Found]
    only: tuple[str, ...] = ()  # of the case's out.X and grad.X those that begin like this; empty: all


@cache
def load_cases() -> dict[str, GoldenCase]:
    """Every fixture that ships with the package, by name."""
    found: dict[str, GoldenCase] = {}
    folder = resources.files("reverie").joinpath("golden")
    for file in sorted(item.name for item in folder.iterdir() if item.name.endswith(".safetensors")):
        with resources.as_file(folder.joinpath(file)) as path, safe_open(path, "numpy") as stored:
            for name, options in json.loads(stored.metadata()["options"]).items():
                found[name] = GoldenCase(name, options, {})
            for full in stored.keys():  # noqa: SIM118  not a dict
                name, key = full.split(":")
                found[name].arrays[key] = stored.get_tensor(full)
    return found


def derivatives(scalar: Tensor, wrt: Mapping[str, Tensor]) -> Found:
    """d scalar / d x of each named tensor, as {"grad.NAME": (...)}; zeros where it does not depend on it."""
    if not scalar.requires_grad:
        return {f"grad.{name}": torch.zeros_like(x) for name, x in wrt.items()}
    slopes = torch.autograd.grad(scalar, list(wrt.values()), retain_graph=True, materialize_grads=True)
    return {f"grad.{name}": slope for name, slope in zip(wrt, slopes, strict=True)}


def compare(case: GoldenCase, found: Found, only: tuple[str, ...] = ()) -> dict[str, float]:
    """{"out.X" or "grad.X": relative error} of everything golden in a case; infinite where something is missing."""
    goldens = {key: x for key, x in case.arrays.items() if key.startswith(only or ("out.", "grad."))}
    if not goldens:
        raise LookupError(f"case {case.name} has nothing of {only}")
    return {key: _error(found.get(key), golden) for key, golden in goldens.items()}


def _error(found: Tensor | None, golden: np.ndarray) -> float:
    if found is None or tuple(found.shape) != golden.shape:
        return float("inf")
    distance = np.abs(found.detach().double().numpy() - golden).max(initial=0)
    return float(distance / max(FLOOR, np.abs(golden).max(initial=0))) if np.isfinite(distance) else float("inf")
