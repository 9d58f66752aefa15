"""What is each form of float32 arithmetic worth on this processor, part by part? CPU seconds of an update, in turns.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/forms.py --out benchmarks/results/forms.json

Products can be made by compiled code (`fast/fused.c`), by oneDNN or by MKL, convolutions by compiled code, oneDNN or
torch's own, each part in its fast or in its plain form. The first setting is what users have; each other one changes
one thing. Ratios are of neighbours in a turn: above 1, the other form is slower. Cases as in `precision.py`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from precision import CASES, in_turns, make_agents, ratio

from reverie.config import build
from reverie.fast import FASTER, products
from reverie.fast.choose import processor
from reverie.fast.convs import FastConvDecoder, FastConvEncoder
from reverie.fast.dense import FastMLP
from reverie.fast.modes import keep_memory
from reverie.fast.scan import FastRSSM
from reverie.run.directory import provenance
from reverie.train import DreamerV2

FLOAT32 = {"compute.precision": "float32"}
FASTS = {kind: base for base, kind in FASTER.items()}


def _parts(agent: DreamerV2) -> dict[str, list[torch.nn.Module]]:
    """The parts of each kind that are computed fast."""
    modules = list(agent.modules())
    loops = [part for rssm in modules if type(rssm) is FastRSSM for part in rssm.modules() if type(part) in FASTS]
    inside = {id(part) for part in loops}
    images = [part for part in modules if type(part) in (FastConvEncoder, FastConvDecoder)]
    dense = [part for part in modules if type(part) is FastMLP and id(part) not in inside]
    return {"convolutions": images, "dense": dense, "loops": loops}


def not_compiled(*kinds: str) -> Callable[[DreamerV2], None]:
    def change(agent: DreamerV2) -> None:
        for kind in kinds:
            for part in _parts(agent)[kind]:
                part.__dict__["runs_fused"] = False

    return change


def plain(kind: str) -> Callable[[DreamerV2], None]:
    def change(agent: DreamerV2) -> None:
        for part in _parts(agent)[kind]:
            part.__class__ = FASTS[type(part)]

    return change


def library(name: str) -> Callable[[], Any]:
    """Dense products by this library: oneDNN, or MKL, torch's usual one."""
    return lambda: mock.patch.object(products, "USES_ONEDNN", name == "oneDNN" and products.HAS_ONEDNN)


@contextmanager
def torchs_own() -> Iterator[None]:
    """No oneDNN at all."""
    with ExitStack() as stack:
        stack.enter_context(mkl())
        with warnings.catch_warnings():  # of settings for Intel's GPUs
            warnings.simplefilter("ignore", UserWarning)
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield


mkl, onednn = library("MKL"), library("oneDNN")
NOTHING = not_compiled()
EVERYTHING = not_compiled("convolutions", "dense", "loops")
#: name: settings, what is changed in the agent, and in what its updates run. The first is what users have.
FORMS: dict[str, tuple[dict[str, Any], Callable[[DreamerV2], None], Callable[[], Any]]] = {
    "as it is": ({}, NOTHING, nullcontext),
    "what is not compiled by MKL": ({}, NOTHING, mkl),
    "what is not compiled by oneDNN": ({}, NOTHING, onednn),
    "convolutions by oneDNN": ({}, not_compiled("convolutions"), nullcontext),
    "dense layers by oneDNN": ({}, not_compiled("dense"), onednn),
    "dense layers by MKL": ({}, not_compiled("dense"), mkl),
    "loops by oneDNN": ({}, not_compiled("loops"), onednn),
    "loops by MKL": ({}, not_compiled("loops"), mkl),
    "nothing compiled, oneDNN": ({"compute.fused": "off"}, NOTHING, onednn),
    "nothing compiled, MKL": ({"compute.fused": "off"}, NOTHING, mkl),
    "nothing compiled, no oneDNN": ({"compute.fused": "off"}, NOTHING, torchs_own),
    "plain convolutions": ({}, plain("convolutions"), nullcontext),
    "reference": ({"compute.mode": "reference"}, NOTHING, nullcontext),
}
#: Settings that change nothing where there are no images.
OF_IMAGES = {
    "what is not compiled by MKL",
    "what is not compiled by oneDNN",
    "convolutions by oneDNN",
    "plain convolutions",
}


def measure(name: str, forms: list[str], seconds: float, rounds: int) -> dict[str, Any]:
    """CPU seconds of an update of a case in each form, in turns."""
    forms = [form for form in forms if not (form in OF_IMAGES and len(CASES[name]["shape"]) == 1)]
    agents = make_agents(CASES[name], {form: FLOAT32 | FORMS[form][0] for form in forms})
    for form, agent in agents.items():
        FORMS[form][1](agent)
    times = in_turns(CASES[name], agents, seconds, rounds, lambda form: FORMS[form][2]())
    first = next(iter(times))
    return {
        "case": name,
        "updates_each": len(times[first]),
        "cpu_s": {form: round(statistics.median(each), 5) for form, each in times.items()},
        "over_as_it_is": {form: round(ratio(each, times[first]), 3) for form, each in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="the first is what others meet")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each case at least")
    parser.add_argument("--rounds", type=int, default=3, help="for each case at least")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    rows = []
    for name in args.cases:
        row = measure(name, args.forms, args.seconds, args.rounds)
        rows.append(row)
        print(f"{name}: {row['updates_each']} updates each")
        for form, share in row["over_as_it_is"].items():
            print(f"  {form:30} {1e3 * row['cpu_s'][form]:8.1f} CPU ms  {share:.2f}x", flush=True)
    found = provenance(build({}))
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "processor": processor(),
        **{key: found[key] for key in ("commit", "started", "hardware", "versions")},
        "rows": rows,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
