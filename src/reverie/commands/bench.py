"""`reverie bench`: how quick it is, what it takes, and what the hardware would allow."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import UserError
from .command import Command, add_json

EPILOG = """\
what to measure:
  update    one update of everything: time, memory, arithmetic, time by part       random batches, no environment
  policy    one step of acting: one environment, and as many as env.num_envs       no environment
  replay    drawing a batch, against copying as many bytes                         no environment
  collect   environment steps per second without learning                          the preset's environment, or --env
  train     environment steps and updates per second of a real, short run          the same
  roofline  arithmetic of an update by part, and the least time that it can take   no environment

examples:
  reverie bench update                                     the demo's update, on this machine
  reverie bench update --preset atari --shape 64 64 1 --actions 18 --batch 16 --length 50
  reverie bench update --preset small precision=float32 compute.mode=reference     any setting of `reverie train`
  reverie bench policy --preset demo env.num_envs=16 --seconds 1
  reverie bench train --preset vector --env CartPole-v1 --seconds 30 --json
  reverie bench roofline --preset atari --batch 50 --length 50 --tflops 780 --bandwidth 4000     on an H200 in bfloat16

Shapes come from the preset's environment if it has one that is installed, else 64x64x3 and 6 actions are assumed; what
was taken is printed. Compare CPU seconds where other programs are running. compute.threads=1 keeps to one core.
"""
WHAT = ("update", "policy", "replay", "collect", "train", "roofline")
SECONDS = {"update": 5.0, "policy": 2.0, "replay": 1.0, "collect": 5.0, "train": 20.0, "roofline": 0.0}


def _arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `reverie bench`."""
    parser.add_argument("what", choices=WHAT, help="see below")
    parser.add_argument("--preset", default="demo", help="as of `reverie train`; A+B: B's values on A's")
    parser.add_argument("--env", help="Gymnasium id of the task (env.id)")
    parser.add_argument("--batch", help="sequences in a batch (train.batch_size)")
    parser.add_argument("--length", help="steps of a sequence (train.seq_len)")
    parser.add_argument("--device", help="cpu, cuda, auto (compute.device)")
    parser.add_argument("--shape", nargs="+", default=[], metavar="N", help="of the observation: H W C, or V")
    parser.add_argument("--actions", help="number of discrete actions")
    parser.add_argument("--seconds", help="how long to measure (update 5, policy 2, replay 1, collect 5, train 20)")
    parser.add_argument("--repeats", help="how often to measure, instead of --seconds: update, policy, replay")
    parser.add_argument("--seeds", help="update: so many agents in one process, each on its own stream of a GPU")
    parser.add_argument("--tflops", help="roofline: of another machine, TFLOP/s, instead of measuring this one")
    parser.add_argument("--bandwidth", help="roofline: of another machine, GB/s")
    add_json(parser)


def run_bench(args: argparse.Namespace) -> int:
    """Measure and print. -> 0. Raises UserError."""
    overrides = dict(args.settings)
    named = {"env.id": args.env, "train.batch_size": args.batch, "train.seq_len": args.length}
    named |= {"compute.device": args.device}
    words = [word for word in args.shape if "=" not in word]  # `--shape 64 64 3 gamma=0.9`: the last one is a setting
    overrides |= dict(word.split("=", 1) for word in args.shape if "=" in word)
    overrides |= {key: value for key, value in named.items() if value is not None}
    numbers = _numbers(args)
    shape = [int(_number("--shape", word, whole=True)) for word in "x".join(words).split("x") if words]
    actions = int(_number("--actions", args.actions, whole=True)) if args.actions else 0

    def say(text: str) -> None:
        print(f"... {text}", file=sys.stderr, flush=True)

    from ..bench.subject import make_subject, told_if_too_large

    needs_env = args.what in ("collect", "train")
    with told_if_too_large():
        subject = make_subject(args.preset, overrides, shape=shape, actions=actions, needs_env=needs_env)
        say(f"{args.what}, preset {args.preset}; shapes: {subject.source}")
        result = _measure(args.what, subject, numbers, say)
    facts = {"benchmark": args.what, "preset": args.preset, "settings": overrides, **_origin(subject.config), **result}
    print(json.dumps(facts) if args.json else "\n".join(_lines(args.what, facts)))
    return 0


def _numbers(args: argparse.Namespace) -> dict[str, float]:
    """--seconds, --repeats, --tflops and --bandwidth, checked. Raises UserError."""
    what = args.what
    given = {name: getattr(args, name) for name in ("seconds", "repeats", "seeds", "tflops", "bandwidth")}
    found = {
        name: _number(f"--{name}", text, whole=name in ("repeats", "seeds")) for name, text in given.items() if text
    }
    wrong = {"repeats", "seconds"} if what == "roofline" else {"tflops", "bandwidth"}
    wrong |= {"seeds"} if what != "update" else set()
    wrong |= {"repeats"} if what in ("collect", "train") else set()
    for name in sorted(wrong & found.keys()):
        raise UserError(f"--{name} means nothing to `reverie bench {what}`.", "See reverie bench --help.")
    if {"seconds", "repeats"} <= found.keys():
        raise UserError("--seconds and --repeats exclude each other.", "Give one of them.")
    if ("tflops" in found) != ("bandwidth" in found):
        raise UserError("--tflops and --bandwidth describe a machine together.", "Give both, or neither.")
    return {"seconds": SECONDS[what], "repeats": 0, "seeds": 1, "tflops": 0, "bandwidth": 0} | found


def _number(name: str, text: str, *, whole: bool = False) -> float:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = 0
    if not 0 < value < 1e12:
        raise UserError(f"{name} must be a {'whole ' if whole else ''}number above 0, got '{text}'.")
    return value


def _measure(what: str, subject: Any, numbers: dict[str, float], say: Callable[[str], None]) -> dict[str, Any]:
    from ..bench import learning
    from ..bench.clocks import Effort

    effort = Effort(numbers["seconds"], int(numbers["repeats"]))
    if what == "roofline":
        return learning.bench_roofline(subject, numbers["tflops"], numbers["bandwidth"], say)
    if what in ("collect", "train"):
        stepping = importlib.import_module(".bench.stepping", __package__)
        measure = stepping.bench_collect if what == "collect" else stepping.bench_train
        return measure(subject, numbers["seconds"], say)
    if numbers["seeds"] > 1:
        return learning.bench_packed(subject, int(numbers["seeds"]), effort, say)
    return {
        "update": learning.bench_update,
        "policy": learning.bench_policy,
        "replay": learning.bench_replay,
    }[what](subject, effort, say)


def _origin(config: Any) -> dict[str, Any]:
    """What a number is worth nothing without."""
    from ..run.directory import provenance

    facts = provenance(config)
    hardware = {"cpu": cpu_model(), **facts["hardware"]}
    return {
        "command": shlex.join(["reverie", *sys.argv[1:]]),
        "version": __version__,
        "commit": facts["commit"],
        "started": facts["started"],
        "hardware": hardware,
        "versions": facts["versions"],
    }


def cpu_model() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


# ------------------------------------------------------------------------------------------------------------- printing


def _lines(what: str, facts: dict[str, Any]) -> list[str]:
    return [*_header(facts), *PRINTERS[what](facts)]


def _header(facts: dict[str, Any]) -> list[str]:
    machine = facts["hardware"]
    where = " ".join([*(str(facts[key]) for key in ("mode", "precision") if key in facts), "on", facts["device"]])
    lines = [
        f"machine     {machine['cpu']}, {machine['cpus']} cores, {machine['threads']} threads; "
        f"GPU {machine['gpu'] or 'none'}; torch {facts['versions']['torch']}",
        f"task        {'; '.join(facts['sees'])} ({facts['shapes_from']})",
        f"batch       {facts['batch_size']} x {facts['seq_len']}; {facts['num_envs']} environment(s); {where}",
    ]
    if "parameters" in facts:
        lines.append(f"parameters  {facts['parameters']:,}, the slow critic's included")
    return lines


def _update_lines(facts: dict[str, Any]) -> list[str]:
    if "seeds" in facts:
        return _packed_lines(facts)
    wall, cpu = facts["update"]["wall_s"], facts["update"]["cpu_s"]
    memory = facts["memory"]
    lines = [
        f"update      {_spread(wall)}, {facts['update']['count']} updates; first {_ms(facts['first_update_s'])}",
        f"CPU time    {_spread(cpu)}",
        f"            {facts['updates_per_s']:.4g} updates/s",
        f"arithmetic  {facts['flops_per_update'] / 1e9:.4g} GFLOP (dense, as in the paper): "
        f"{facts['flops_per_s'] / 1e9:.4g} GFLOP/s, {facts['fraction_of_ceiling']:.0%} of the ceiling for "
        f"{facts['precision']}, {facts['fraction_of_fp32_ceiling']:.0%} of that for float32",
        f"ceilings    {_ceilings(facts['ceilings'])}",
        f"memory      {memory['peak_over_idle_bytes'] / 1e6:,.0f} MB at most beyond {memory['idle_bytes'] / 1e6:,.0f} "
        "MB before the first update",
        "by part, in updates of their own without capture:",
    ]
    for phase in dict.fromkeys(row["phase"] for row in facts["parts"]):
        rows = [row for row in facts["parts"] if row["phase"] == phase]
        lines.append(f"  {phase:34} {sum(r['ms'] for r in rows):10.2f} ms {sum(r['share'] for r in rows):6.1%}")
        lines += [f"    {row['part']:32} {row['ms']:10.2f} ms {row['share']:6.1%}" for row in rows]
    return lines


def _packed_lines(facts: dict[str, Any]) -> list[str]:
    return [
        f"one each    {_spread(facts['round']['wall_s'])}: an update of {facts['seeds']} agents",
        f"together    {facts['updates_per_s']:.4g} updates/s",
        f"memory      {facts['memory']['peak_over_idle_bytes'] / 1e6:,.0f} MB at most beyond what there was before",
    ]


def _policy_lines(facts: dict[str, Any]) -> list[str]:
    return [
        f"policy      {row['num_envs']} environment(s): {_spread(row['step']['wall_s'])}; CPU "
        f"{_ms(row['step']['cpu_s']['median'])}; at most {row['env_steps_per_s_bound']:,.0f} environment steps/s; "
        f"{row['flops'] / 1e6:.3g} MFLOP, {row['weight_bytes'] / 1e6:.3g} MB of weights"
        for row in facts["policy"]
    ]


def _replay_lines(facts: dict[str, Any]) -> list[str]:
    return [
        f"sample      {_spread(facts['sample']['wall_s'])} for {facts['batch_bytes'] / 1e6:.3g} MB",
        f"copying     {facts['copy_ms']:.3g} ms, {facts['copy_to_new_memory_ms']:.3g} ms to new memory: sampling takes "
        f"{facts['ratio_to_copy']:.2f} and {facts['ratio_to_copy_to_new_memory']:.2f} times that",
        f"to device   {facts['to_device_ms']:.3g} ms",
        f"adding      {facts['add_us_per_step']:.3g} us per step",
        f"storage     {facts['bytes_per_step']:,.0f} bytes per step, {facts['bytes_stored_per_raw_byte']:.3f} per byte "
        "of observation",
    ]


def _collect_lines(facts: dict[str, Any]) -> list[str]:
    return [f"stepping    {facts['stepping']}"] + [
        f"{label:11} {facts[name]['env_steps_per_s']:,.0f} environment steps/s; environment "
        f"{facts[name]['env_share']:.0%}, choosing {facts[name]['acting_share']:.0%} of the time"
        for name, label in (("random", "random"), ("policy", "policy"))
    ]


def _train_lines(facts: dict[str, Any]) -> list[str]:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in facts["shares"].items())
    return [
        f"learning    {facts['env_steps_per_s']:,.4g} environment steps/s, {facts['updates_per_s']:.4g} updates/s "
        f"({facts['env_steps']:,} steps, {facts['updates']:,} updates in {facts['seconds']:.3g} s)",
        f"time        {shares}",
    ]


def _roofline_lines(facts: dict[str, Any]) -> list[str]:
    title: tuple[str, ...] = ("part", "forward", "backward", "GFLOP", "share", "MB*", "arithmetic ms", "memory ms*")
    rows = [title]
    total = facts["flops_per_update"]
    for part in facts["parts"]:
        forward, backward = part["forward_flops"], part["backward_flops"]
        numbers = (forward / 1e9, backward / 1e9, (forward + backward) / 1e9)
        cells = [_figure(number) for number in numbers]
        cells += [f"{(forward + backward) / total:.1%}" if forward else "-", _figure(part["bytes_estimate"] / 1e6)]
        cells += [_figure(part["arithmetic_ms"]), _figure(part["memory_ms_estimate"])]
        rows.append((_label(part), *cells))
    widths = [max(len(row[i]) for row in rows) for i in range(len(title))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
             for row in rows]  # fmt: skip
    serial = facts["steps_one_after_another"]
    return [
        f"ceilings    {_ceilings(facts['ceilings'])}",
        "",
        *lines,
        "",
        f"arithmetic  {total / 1e9:.4g} GFLOP an update: {facts['arithmetic_floor_ms']:.4g} ms in {facts['precision']}",
        f"memory*     {facts['memory_floor_ms_estimate']:.4g} ms: weights "
        f"{facts['weight_bytes_estimate'] / 1e9:.3g} GB, "
        f"activations and gradients {facts['activation_bytes_estimate'] / 1e9:.3g} GB, "
        f"optimiser {facts['optimizer_bytes_estimate'] / 1e9:.3g} GB",
        f"floor*      {facts['floor_ms_estimate']:.4g} ms an update, {facts['floor_updates_per_s_estimate']:.4g} "
        "updates/s: of each part the longer one of both",
        f"in order    {serial['observe']} observed and {serial['imagine']} imagined steps one after another, the "
        "former forward and backward: latency comes on top",
        "* an estimate: every product reads its inputs and writes its output once, all else is fused, no caches",
    ]


def _label(part: dict[str, Any]) -> str:
    return part["part"]


def _figure(value: float) -> str:
    return "-" if value == 0 else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _ms(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _spread(seconds: dict[str, float]) -> str:
    quartiles = f"quartiles {_ms(seconds['lower_quartile'])} and {_ms(seconds['upper_quartile'])}"
    return f"{_ms(seconds['median'])} ({quartiles}, least {_ms(seconds['min'])})"


def _ceilings(ceilings: dict[str, Any]) -> str:
    low = ceilings["bf16_flops_per_s"]
    products = [("float32", ceilings["fp32_flops_per_s"]), *([("bfloat16", low)] if low else [])]
    if not ceilings["measured"]:
        products = [("products", ceilings["fp32_flops_per_s"])]
    text = ", ".join(f"{name} {rate / 1e9:,.4g} GFLOP/s" for name, rate in products)
    origin = "measured" if ceilings["measured"] else "stated"
    return f"{origin}: {text}, copy {ceilings['copy_bytes_per_s'] / 1e9:,.4g} GB/s (read and written)"


PRINTERS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "update": _update_lines,
    "policy": _policy_lines,
    "replay": _replay_lines,
    "collect": _collect_lines,
    "train": _train_lines,
    "roofline": _roofline_lines,
}


COMMAND = Command(
    "bench",
    "measure speed and memory, and compare with what the hardware allows",
    EPILOG,
    _arguments,
    run_bench,
    takes_settings=True,
)
