"""The plain definitions that the fast path stands for, and whether they are the ones it was proven against.

tests/fast/test_fast.py holds the fast path equal to the plain one: for the plain functions as they were when it last
passed. Their fingerprints are in `proven.json`. Where a function is another one now (its source was edited, a subclass
or a monkey-patch replaces it), the part of the network that it belongs to is computed the plain way, and the run says
so. After editing one of them on purpose: adapt the fast code, then `make prove` (tests, then new fingerprints).
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import io
import json
import os
import sys
import textwrap
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache, reduce
from importlib import resources
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.module import _has_any_global_hook


class FastPart(NamedTuple):
    """One part of the networks that has a fast form."""

    name: str
    functions: tuple[str, ...]  # "module:Class.method" of `reverie`, whose work the fast form does instead
    slowdown: float  # of an update of the preset `demo` with this part computed the plain way: one core, Intel Xeon


PARTS = {
    "DiscreteRSSM": FastPart(
        "the RSSM",
        (
            "rssm:DiscreteRSSM.initial",
            "rssm:DiscreteRSSM.recurrent_step",
            "rssm:DiscreteRSSM.prior",
            "rssm:DiscreteRSSM.posterior",
            "rssm:DiscreteRSSM._state",
            "rssm:DiscreteRSSM.observe",
            "rssm:DiscreteRSSM.rollout_observation",
            "rssm:DiscreteRSSM.rollout_imagination",
            "rssm:State.feat",
            "rssm:reset_where",
            "rssm:over_time",
            "latents:CategoricalLatent.sample",
            "latents:CategoricalLatent.logits",
            "latents:mix_uniform",
            "latents:one_hot_sample",
            "ops:sample_index",
            "ops:straight_through",
            "layers:NormGRUCell.forward",
            "layers:NormGRUCell.__call__",
            "layers:ExactLinear.forward",
            "layers:ExactLinear.__call__",
            "layers:without_autocast",
            "layers:MLP.forward",
            "layers:MLP.__call__",
        ),
        1.1,
    ),
    "ConvEncoder": FastPart(
        "the image encoder", ("networks:ConvEncoder.forward", "networks:ConvEncoder.__call__"), 1.05
    ),
    "ConvDecoder": FastPart(
        "the image decoder",
        (
            "networks:ConvDecoder.forward",
            "networks:ConvDecoder.loss",
            "networks:squared_error",
            "networks:ConvDecoder.__call__",
        ),
        1.1,
    ),
    "MLP": FastPart(
        "the dense layers",
        (
            "layers:ExactLinear.forward",
            "layers:ExactLinear.__call__",
            "layers:without_autocast",
            "layers:MLP.forward",
            "layers:MLP.__call__",
        ),
        1.0,
    ),
}


def resolve(place: str) -> Any:
    """The function behind "module:Class.method"; of a property, its getter."""
    module, _, path = place.partition(":")
    found: Any = importlib.import_module(f"reverie.{module}")
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    return found.fget if isinstance(found, property) else getattr(found, "__func__", found)


#: torch's own layers that the fast path stands for as well.
TORCH_LAYERS = (nn.Linear, nn.LayerNorm, nn.ELU, nn.Conv2d, nn.ConvTranspose2d)
_FORWARDS = [(vars(kind), "forward", vars(kind)["forward"]) for kind in TORCH_LAYERS]


class Watch:
    """Notices when a function of a part is replaced after the part was made fast."""

    def __init__(self, part: FastPart) -> None:
        self.seen: list[tuple[Mapping[str, Any], str, Any]] = []
        for place in part.functions:
            module, _, path = place.partition(":")
            *owner, name = path.split(".")
            space = vars(reduce(getattr, owner, importlib.import_module(f"reverie.{module}")))
            self.seen.append((space, name, space.get(name)))  # None: inherited
        self.seen += _FORWARDS

    def intact(self) -> bool:
        """Are all functions the same objects as when this was made? Takes a microsecond."""
        for space, name, value in self.seen:
            if space.get(name) is not value:
                return False
        return not _has_any_global_hook()


def changed(part: FastPart) -> str:
    """What is not as it was proven, as "DiscreteRSSM.prior was changed"; "" if all is."""
    proven = load_proven()
    for place in part.functions:
        found = fingerprint(resolve(place))
        if found != proven[place]:
            return f"{place.partition(':')[2]} was changed" if _has_source(place) else "the source is not available"
    layers = [kind.__name__ for kind in TORCH_LAYERS if not _is_torchs(kind)]
    return f"torch's {layers[0]}.forward was changed" if layers else ""


def _has_source(place: str) -> bool:
    try:
        return bool(inspect.getsource(importlib.import_module(f"reverie.{place.partition(':')[0]}")))
    except OSError:
        return False


def _is_torchs(kind: type[nn.Module]) -> bool:
    forward = vars(kind)["forward"]
    code = getattr(forward, "__code__", None)
    return code is not None and code.co_name == "forward" and f"nn{os.sep}modules" in code.co_filename


@cache
def load_proven() -> dict[str, str]:
    """{"module:Class.method": fingerprint} of the functions that the fast path was proven against."""
    text = resources.files("reverie.fast").joinpath("proven.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def fingerprint(function: Any) -> str:
    """A short hash of what a function says, without comments, docstrings and layout; "" if its source is not to be had.

    The code that runs is compared with the code that the source compiles to: a function whose code was replaced has no
    fingerprint.
    """
    if not hasattr(function, "__code__"):
        return ""
    return _fingerprint(function, function.__code__)


@lru_cache(maxsize=256)
def _fingerprint(function: Any, code: CodeType) -> str:
    if (function.__module__ or "").startswith("torch."):  # MLP has no forward of its own, but nn.Sequential's
        return f"{function.__module__}.{function.__qualname__}"
    try:
        source = textwrap.dedent(inspect.getsource(function))
        compiled = _compiled(sys.modules[function.__module__])[function.__qualname__]
    except (OSError, TypeError, SyntaxError, LookupError):
        return ""
    if _essence(compiled) != _essence(code):
        return ""
    defaults = repr((function.__defaults__, sorted((function.__kwdefaults__ or {}).items())))
    return hashlib.sha256(f"{' '.join(_tokens(source))}|{defaults}".encode()).hexdigest()[:16]


@cache
def _compiled(module: ModuleType) -> dict[str, CodeType]:
    """{qualified name: code} of every function in a module's source."""
    return {code.co_qualname: code for code in _inner(compile(inspect.getsource(module), "", "exec"))}


def _inner(code: CodeType) -> Iterator[CodeType]:
    for item in code.co_consts:
        if isinstance(item, CodeType):
            yield item
            yield from _inner(item)


def _essence(code: CodeType) -> tuple[Any, ...]:
    """What a function does, without where it stands: instructions, names and constants."""
    constants = [_essence(item) if isinstance(item, CodeType) else repr(item).split() for item in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, constants


def _tokens(source: str) -> Iterable[str]:
    """Words of the source that mean something to Python: no comments, no docstring, no layout."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    line: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            if not (len(line) == 1 and line[0][-3:] == '"""'):  # a docstring
                yield from line
            line = []
        elif token.type not in skipped:
            line.append(token.string)
    yield from line
