"""`reverie bench`: time and memory of an update, of a policy step, of sampling from the replay.

The public functions are also used by `benchmarks/roofline.py` and `benchmarks/throughput.py`.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import UserError, counted, digits
from .command import Command, add_json

if TYPE_CHECKING:
    from ..bench.subject import Subject
    from ..config import Config

EPILOG = """\
what to measure:
  update    one update of everything: time, memory, arithmetic, time by part       random batches, no environment
  policy    one step of acting: one environment, and as many as env.num_envs       no environment
  replay    drawing a batch, against copying as many bytes                         no environment
  choose    float32 against bfloat16 for what this agent computes, kept for runs   no environment

examples:
  reverie bench update                                     the demo's update, on this machine
  reverie bench update --preset atari --shape 64 64 1 --actions 18 --batch 16 --length 50
  reverie bench update --preset small precision=float32 compute.mode=reference     any setting of `reverie train`
  reverie bench policy --preset demo env.num_envs=16 --seconds 1

Shapes are those of the preset's environment if it has one that is installed, else 64x64x3 and 6 actions; the output
says which. Compare CPU seconds where other programs are running. compute.threads=1 uses one core only.
"""
#: What can be measured -> seconds that this takes if nothing else is said.
SECONDS = {"update": 5.0, "policy": 2.0, "replay": 1.0, "choose": 0.0}
#: What was measured here once -> the script of the repository that measures it now.
MOVED = {
    "collect": "benchmarks/throughput.py collect",
    "train": "benchmarks/throughput.py train",
    "roofline": "benchmarks/roofline.py",
}


def add_subject_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say what is measured: preset, task, batch, shapes, device."""
    parser.add_argument("--preset", default="demo", help="as of `reverie train`; A+B: B's values on A's")
    parser.add_argument("--env", help="id of the task, or FILE.py:FUNCTION, MODULE:FUNCTION, MODULE:Id-v0 (env.id)")
    parser.add_argument("--batch", help="sequences in a batch (train.batch_size)")
    parser.add_argument("--length", help="steps of a sequence (train.seq_len)")
    parser.add_argument("--device", help="cpu, cuda, auto (compute.device)")
    parser.add_argument("--shape", nargs="+", default=[], metavar="N", help="of the observation: H W C, or V")
    parser.add_argument("--actions", help="number of discrete actions")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=(*SECONDS, *MOVED), metavar=f"{{{','.join(SECONDS)}}}", help="see below")
    add_subject_arguments(parser)
    parser.add_argument("--seconds", help="how long to measure (update 5, policy 2, replay 1)")
    parser.add_argument("--repeats", help="how often to measure, instead of --seconds")
    parser.add_argument("--seeds", help="update: so many agents in one process, each on its own stream of a GPU")
    for name in ("--tflops", "--bandwidth"):  # of the roofline: refused with a sentence
        parser.add_argument(name, help=argparse.SUPPRESS)
    add_json(parser)


def run_bench(args: argparse.Namespace) -> int:
    """Measure and print. -> 0. Raises UserError."""
    if args.what in MOVED:
        raise UserError(
            f"`reverie bench {args.what}` is now a script of the repository, with the same options.",
            f"In a clone of it: python {MOVED[args.what]} ...",
        )
    for name in ("tflops", "bandwidth"):
        if getattr(args, name):
            raise UserError(f"--{name} is an option of the roofline.", f"See python {MOVED['roofline']} --help.")
    numbers = _numbers(args)
    from ..bench.subject import user_error_if_too_large

    with user_error_if_too_large():
        subject, settings = subject_of(args, args.settings)
        progress(f"{args.what}, preset {args.preset}; shapes: {subject.source}")
        result = _measure(args.what, subject, numbers)
    found = {
        "benchmark": args.what,
        "preset": args.preset,
        "settings": settings,
        **provenance_of(subject.config, ["reverie"]),
        **result,
    }
    print(json.dumps(found) if args.json else "\n".join([*header_lines(found), *PRINTERS[args.what](found)]))
    return 0


def subject_of(
    args: argparse.Namespace, settings: Mapping[str, str], *, needs_env: bool = False
) -> tuple[Subject, dict[str, str]]:
    """What the options of `add_subject_arguments` describe, and all settings given. Raises UserError.

    settings: further ones of the command line. needs_env: a real environment is required.
    """
    from ..bench.subject import make_subject

    named = {
        "env.id": args.env,
        "train.batch_size": args.batch,
        "train.seq_len": args.length,
        "compute.device": args.device,
    }
    words = [word for word in args.shape if "=" not in word]  # `--shape 64 64 3 gamma=0.9`: the last one is a setting
    given = dict(settings) | dict(word.split("=", 1) for word in args.shape if "=" in word)
    given |= {key: value for key, value in named.items() if value is not None}
    shape = [int(number("--shape", word, whole=True)) for word in "x".join(words).split("x") if words]
    actions = int(number("--actions", args.actions, whole=True)) if args.actions else 0
    return make_subject(args.preset, given, shape=shape, actions=actions, needs_env=needs_env), given


def progress(text: str) -> None:
    """What is being done, on stderr."""
    print(f"... {text}", file=sys.stderr, flush=True)


def number(name: str, text: str, *, whole: bool = False) -> float:
    """The number above 0 that an option has. Raises UserError."""
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e12:
        raise UserError(f"{name} must be a {'whole ' if whole else ''}number above 0, got '{text}'.")
    return value


def _numbers(args: argparse.Namespace) -> dict[str, float]:
    """--seconds, --repeats and --seeds, checked. Raises UserError."""
    given = {name: getattr(args, name) for name in ("seconds", "repeats", "seeds")}
    found = {name: number(f"--{name}", text, whole=name != "seconds") for name, text in given.items() if text}
    if found and args.what == "choose":
        raise UserError(f"--{min(found)} means nothing to `reverie bench choose`.", "It takes a fixed number of turns.")
    if "seeds" in found and args.what != "update":
        raise UserError(f"--seeds means nothing to `reverie bench {args.what}`.", "See reverie bench --help.")
    if {"seconds", "repeats"} <= found.keys():
        raise UserError("--seconds and --repeats exclude each other.", "Give one of them.")
    return {"seconds": SECONDS[args.what], "repeats": 0, "seeds": 1} | found


def _measure(what: str, subject: Subject, numbers: Mapping[str, float]) -> dict[str, Any]:
    from ..bench import learning
    from ..bench.clocks import Effort

    if what == "choose":
        return learning.bench_choose(subject)
    effort = Effort(numbers["seconds"], int(numbers["repeats"]))
    if numbers["seeds"] > 1:
        return learning.bench_packed(subject, int(numbers["seeds"]), effort, progress)
    if what == "update":
        return learning.bench_update(subject, effort, progress)
    if what == "policy":
        return learning.bench_policy(subject, effort, progress)
    return learning.bench_replay(subject, effort, progress)


def provenance_of(config: Config, program: list[str]) -> dict[str, Any]:
    """Where a number comes from: command, version, commit, time, hardware. program: the words before the arguments."""
    from ..run.directory import provenance

    found = provenance(config)
    return {
        "command": shlex.join([*program, *sys.argv[1:]]),
        "version": __version__,
        "commit": found["commit"],
        "started": found["started"],
        "hardware": {"cpu": cpu_model(), **found["hardware"]},
        "versions": found["versions"],
    }


def cpu_model() -> str:
    """The processor's name, or its architecture where the system does not name it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


# ------------------------------------------------------------------------------------------------------------- printing


def header_lines(found: Mapping[str, Any]) -> list[str]:
    """Machine, task, batch and parameters of a result."""
    machine = found["hardware"]
    where = " ".join([*(str(found[key]) for key in ("mode", "precision") if key in found), "on", found["device"]])
    lines = [
        f"machine     {machine['cpu']}, {counted(machine['cpus'], 'core')}, {counted(machine['threads'], 'thread')}; "
        f"GPU {machine['gpu'] or 'none'}; torch {found['versions']['torch']}",
        f"task        {'; '.join(found['sees'])} ({found['shapes_from']})",
        f"batch       {found['batch_size']} x {found['seq_len']}; {counted(found['num_envs'], 'environment')}; {where}",
    ]
    if "parameters" in found:
        lines.append(f"parameters  {found['parameters']:,}, the slow critic's included")
    return lines


def ceilings_line(ceilings: Mapping[str, Any]) -> str:
    """What the machine can do at most."""
    low = ceilings["bf16_flops_per_s"]
    products = [("float32", ceilings["fp32_flops_per_s"]), *([("bfloat16", low)] if low else [])]
    if not ceilings["measured"]:
        products = [("products", ceilings["fp32_flops_per_s"])]
    text = ", ".join(f"{name} {digits(rate / 1e9)} GFLOP/s" for name, rate in products)
    origin = "measured" if ceilings["measured"] else "stated"
    copies = f"copy {digits(ceilings['copy_bytes_per_s'] / 1e9)} GB/s (read and written)"
    return f"ceilings    {origin}: {text}, {copies}"


def _update_lines(found: Mapping[str, Any]) -> list[str]:
    if "seeds" in found:
        return _packed_lines(found)
    wall, cpu = found["update"]["wall_s"], found["update"]["cpu_s"]
    memory = found["memory"]
    return [
        f"update      {_spread(wall)}, {found['update']['count']} updates; first {_ms(found['first_update_s'])}",
        f"CPU time    {_spread(cpu)}",
        f"            {digits(found['updates_per_s'])} updates/s",
        f"arithmetic  {digits(found['flops_per_update'] / 1e9)} GFLOP (dense, as in the paper): "
        f"{digits(found['flops_per_s'] / 1e9)} GFLOP/s, {found['fraction_of_ceiling']:.0%} of the ceiling for "
        f"{found['precision']}, {found['fraction_of_fp32_ceiling']:.0%} of that for float32",
        ceilings_line(found["ceilings"]),
        f"memory      {memory['peak_over_idle_bytes'] / 1e6:,.0f} MB at most beyond {memory['idle_bytes'] / 1e6:,.0f} "
        "MB before the first update",
        "by part, in separate updates without capture:",
        *_part_lines(found["parts"]),
    ]


def _part_lines(parts: list[dict[str, Any]]) -> list[str]:
    from ..evidence.tables import columns

    rows = []
    for phase in dict.fromkeys(part["phase"] for part in parts):
        inside = [part for part in parts if part["phase"] == phase]
        rows.append((phase, sum(part["ms"] for part in inside), sum(part["share"] for part in inside)))
        rows += [(f"  {part['part']}", part["ms"], part["share"]) for part in inside]
    cells = [(name, f"{ms:.2f} ms", f"{share:.1%}") for name, ms, share in rows]
    return columns(cells, right=(1, 2), indent="  ")


def _packed_lines(found: Mapping[str, Any]) -> list[str]:
    return [
        f"one each    {_spread(found['round']['wall_s'])}: an update of {found['seeds']} agents",
        f"together    {digits(found['updates_per_s'])} updates/s",
        f"memory      {found['memory']['peak_over_idle_bytes'] / 1e6:,.0f} MB at most beyond what there was before",
    ]


def _policy_lines(found: Mapping[str, Any]) -> list[str]:
    return [
        f"policy      {counted(row['num_envs'], 'environment')}: {_spread(row['step']['wall_s'])}; CPU "
        f"{_ms(row['step']['cpu_s']['median'])}; at most {row['env_steps_per_s_bound']:,.0f} environment steps/s; "
        f"{digits(row['flops'] / 1e6)} MFLOP, {digits(row['weight_bytes'] / 1e6)} MB of weights"
        for row in found["policy"]
    ]


def _replay_lines(found: Mapping[str, Any]) -> list[str]:
    return [
        f"sample      {_spread(found['sample']['wall_s'])} for {digits(found['batch_bytes'] / 1e6)} MB",
        f"copying     {digits(found['copy_ms'])} ms, {digits(found['copy_to_new_memory_ms'])} ms to new memory: "
        f"sampling takes {found['ratio_to_copy']:.2f} and {found['ratio_to_copy_to_new_memory']:.2f} times that",
        f"to device   {digits(found['to_device_ms'])} ms",
        f"adding      {digits(found['add_us_per_step'])} us per step",
        f"storage     {found['bytes_per_step']:,.0f} bytes per step, {found['bytes_stored_per_raw_byte']:.3f} per byte "
        "of observation",
    ]


def _ms(seconds: float) -> str:
    return f"{digits(seconds)} s" if seconds >= 0.9995 else f"{digits(1e3 * seconds)} ms"


def _spread(seconds: Mapping[str, float]) -> str:
    quartiles = f"quartiles {_ms(seconds['lower_quartile'])} and {_ms(seconds['upper_quartile'])}"
    return f"{_ms(seconds['median'])} ({quartiles}, least {_ms(seconds['min'])})"


def _choose_lines(found: Mapping[str, Any]) -> list[str]:
    from ..evidence.tables import columns

    rows = [("", "float32 GFLOP/s", "bfloat16 GFLOP/s", "bfloat16 / float32", "choice")]
    rows += [
        (
            row["kind"],
            f"{row['flops'] / row['float32_s'] / 1e9:.0f}",
            f"{row['flops'] / row['bfloat16_s'] / 1e9:.0f}",
            f"{row['bfloat16_s'] / row['float32_s']:.2f}x",
            row["choice"],
        )
        for row in found["kinds"]
    ]
    shapes = [f"{'' if at else 'shapes':11} {row['kind']}: {row['shapes']}" for at, row in enumerate(found["kinds"])]
    return [*shapes, *columns(rows, right=(1, 2, 3), indent=""), f"choice      {found['why']}"]


PRINTERS: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "update": _update_lines,
    "policy": _policy_lines,
    "replay": _replay_lines,
    "choose": _choose_lines,
}
COMMAND = Command(
    "bench",
    "measure speed and memory, and compare with what the hardware allows",
    EPILOG,
    _arguments,
    run_bench,
    takes_settings=True,
)
