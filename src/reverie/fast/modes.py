"""Compute modes: from settings and hardware to a mode and a number type.

reference   plain PyTorch, as networks.py and rssm.py read; what the others are compared with
fast        the same by faster arithmetic (this folder)
compile     the plain networks through torch.compile
graph       fast, and the whole update captured as one CUDA graph (cuda_graph.py)
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from ..config import ComputeConfig, Config
from ..errors import UserError
from ..layers import MLP, NormGRUCell
from ..networks import ConvDecoder, ConvEncoder
from . import accelerate, fused
from .choose import Measured, decide, measured, processor, share
from .fused_build import NotBuilt
from .products import Types

COMPILED = (MLP, ConvEncoder, ConvDecoder, NormGRUCell)
#: Widest dense layers of a network that a CPU computes in float32 also where it has units for bfloat16.
NARROW = 128
#: Versions of a compiled function, one for each network and shape, before torch would silently stop compiling.
MANY = 64


def pick_mode(compute: ComputeConfig, device: torch.device) -> str:
    """The mode that "auto" means on a device, or the one asked for. Raises UserError where it cannot be had."""
    if compute.mode == "graph" and device.type != "cuda":
        raise UserError(
            f"compute.mode=graph needs a CUDA device, this is '{device.type}'.", "Use auto, fast or reference."
        )
    return "fast" if compute.mode == "auto" else compute.mode


def pick_dtype(config: Config, mode: str, device: torch.device) -> torch.dtype:
    """What big products are made in where nothing is measured; "auto" is bfloat16 where the hardware has units for it,
    float32 for the reference and, on a CPU, for networks that are not wide.
    """
    if config.compute.precision != "auto":
        return torch.bfloat16 if config.compute.precision == "bfloat16" else torch.float32
    narrow = device.type == "cpu" and is_narrow(config)
    return torch.float32 if mode == "reference" or narrow or not has_bfloat16(device) else torch.bfloat16


def is_narrow(config: Config) -> bool:
    """Are products so few and small beside the loops, which compiled code runs in float32, that nothing is gained by
    another type (docs/performance.md)?"""
    return max(config.model.rnn_hidden_dim, config.model.hidden_dim) <= NARROW


class Precision(NamedTuple):
    """The number types of an agent's products, and why: a line for the header of a run."""

    types: Types
    why: str


def pick_precision(config: Config, mode: str, device: torch.device, parts: Sequence[nn.Module]) -> Precision:
    """What the products of an agent's parts are made in: as `pick_dtype`, but measured (choose.py) for the fast mode on
    a CPU with units for bfloat16, once on each machine. A deterministic run measures nothing.

    parts: already computed fast.
    """
    dtype = pick_dtype(config, mode, device)
    fixed = Types.all(dtype)
    if config.compute.precision != "auto":
        return Precision(fixed, "by compute.precision")
    if mode != "fast" or device.type != "cpu":
        return Precision(fixed, "as usual in this mode")
    if dtype == torch.float32:
        return Precision(fixed, "its layers are narrow" if is_narrow(config) else "no units for bfloat16")
    if config.train.deterministic:
        return Precision(fixed, "by a fixed table, for a deterministic run")
    found = measure_types(config, parts)
    types = decide(found)
    if config.compute.fused == "on":
        types = types._replace(loops=torch.float32)
    whole = f"{share(found, types):.2f}x of float32's time"
    return Precision(types, f"{whole}, measured on {processor()}; all in bfloat16 {share(found, fixed):.2f}x")


def has_bfloat16(device: torch.device) -> bool:
    """Does the hardware multiply in bfloat16 (avx512_bf16 or AMX; CUDA from Ampere on)?"""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _has_instructions()
    except (AttributeError, RuntimeError):  # a torch without oneDNN
        return False


def _has_instructions() -> bool:
    """oneDNN also accepts bfloat16 where it has to imitate it, slower than float32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in names)


def measure_types(config: Config, parts: Sequence[nn.Module], *, again: bool = False) -> Measured:
    """What an agent's kinds of work take in each type on this CPU, loops as they would be run. As `pick_precision`."""
    available = config.compute.fused != "off" and not _why_not_built() and fused.library().best > 0
    return measured(parts, config, fused=available, again=again)


class Fused(NamedTuple):
    """Are the recurrent loops run by compiled code, and if that was to be had and is not, why: a note."""

    on: bool
    note: str = ""


def pick_fused(compute: ComputeConfig, mode: str, types: torch.dtype | Types, device: torch.device) -> Fused:
    """What `compute.fused` means with this mode, number types and device. Raises UserError where "on" cannot be had."""
    if compute.fused == "off":
        return Fused(False)
    if isinstance(types, Types):  # convolutions are never run by it
        types = torch.float32 if torch.float32 in (types.dense, types.loops) else torch.bfloat16
    dtype = types
    if mode != "fast" or device.type != "cpu" or dtype != torch.float32:
        reason = f"it is for the fast mode in float32 on a CPU, this is {mode} in {str(dtype)[6:]} on '{device.type}'"
        note = ""
    else:
        reason = _why_not_built()
        note = f"compiled loops are not used: {reason}. Updates take about 1.3x as long" if reason else ""
    if compute.fused == "auto":  # without AVX2 the compiled products are slower than torch's: nothing is missing
        return Fused(False, note) if reason else Fused(fused.library().best > 0)
    if reason:
        raise UserError(f"compute.fused=on cannot be had: {reason}.", "Use compute.fused=auto, which does without.")
    return Fused(True)


def _why_not_built() -> str:
    """Why there are no compiled loops; one clause, "" if there are."""
    try:
        fused.library()
    except NotBuilt as error:
        return str(error)
    return ""


def apply_mode(module: nn.Module, mode: str, dtype: torch.dtype | Types, *, fused: bool = False) -> list[str]:
    """Let a module's parts compute in this mode. Parameters, their names and checkpoints stay the same.

    -> a line for each part that is computed the plain way although a fast one was asked for, and why.
    """
    if mode in ("fast", "graph"):
        return accelerate(module, dtype, fused=fused)
    if mode == "compile":
        torch._dynamo.config.recompile_limit = MANY
        for part in module.modules():
            if isinstance(part, COMPILED):
                part.compile()
    return []


def autocast(mode: str, dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """The plain path multiplies in bfloat16 where torch says; on a CPU the fast path decides by itself.

    Within it a weight is converted once, also in a captured graph: the context is entered and left inside of what is
    captured, so that each replay converts again.
    """
    if dtype == torch.float32 or (mode == "fast" and device.type == "cpu"):
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype)


@contextmanager
def freezing() -> Iterator[None]:
    """Within it, torch.compile takes weights for constants. Raises UserError where no compiler is installed."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, about itself
            code = torch._inductor.config.patch(freezing=True, cpp_wrapper=True)
            with code, torch._dynamo.config.patch(recompile_limit=MANY):
                yield
    except torch._inductor.exc.InductorError as error:
        raise UserError(
            f"a compiled player could not be made: {str(error).splitlines()[0]}.",
            "Install a C++ compiler (g++ or clang++), or leave out compiled=True.",
        ) from error


#: What NumPy does about overflow and division by zero, unless a program says otherwise.
NUMPY_USUAL: dict[str, Any] = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


@contextmanager
def usual_switches() -> Iterator[None]:
    """Within it torch and NumPy compute as they usually do, whatever the user's program or environment has set.

    The default type is float32, gradients are on, new tensors are on the CPU, NumPy raises nothing. Afterwards all of
    it is as it was: the user's own code runs outside.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    plain = dtype == torch.float32 and device.type == "cpu" and np.geterr() == NUMPY_USUAL
    if plain and torch.is_grad_enabled() and not torch.is_inference_mode_enabled():  # the usual case, in half the time
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        elsewhere = nullcontext() if device.type == "cpu" else torch.device("cpu")
        with torch.inference_mode(False), torch.enable_grad(), np.errstate(**NUMPY_USUAL), elsewhere:
            yield
    finally:
        torch.set_default_dtype(dtype)


def seed_everything(config: Config) -> None:
    """Seed the global generators, from which only torch and perhaps environments draw, and set torch's threads."""
    import rich.style  # noqa: F401  draws from the global generator when it is first imported

    torch.manual_seed(config.train.seed)
    random.seed(config.train.seed)
    np.random.seed(config.train.seed % 2**32)  # noqa: NPY002
    if config.train.deterministic and torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    keep_memory()
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)


def keep_memory() -> None:
    """Let the C library keep freed memory for the next tensors: giving it back and fetching it again costs a large
    update up to a quarter of its time on a CPU. For programs that train; Linux with glibc, elsewhere nothing."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((-3, 2**30), (-1, 2**31 - 1), (-2, 2**26)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
        mallopt(option, value)
