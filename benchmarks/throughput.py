"""Environment steps and updates per second: without learning (`collect`), and of a short real run (`train`).

    python benchmarks/throughput.py collect --preset vector --env CartPole-v1
    python benchmarks/throughput.py train --preset demo --seconds 30 --json

Options are those of `reverie bench`; settings may follow as name=value. The run of `train` is in a temporary directory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reverie.bench.learning import Say
from reverie.bench.subject import Subject, require_possible, user_error_if_too_large
from reverie.commands.bench import add_subject_arguments, header_lines, number, progress, provenance_of, subject_of
from reverie.commands.command import add_json, settings_of
from reverie.config import Config, build
from reverie.data.collect import ActFunction, Collector
from reverie.envs.spaces import MASK
from reverie.errors import UserError
from reverie.run.loop import Run
from reverie.run.progress import Progress
from reverie.run.state import RunState
from reverie.run.tasks import make_envs

#: What can be measured -> seconds that this takes if nothing else is said.
SECONDS = {"collect": 5.0, "train": 20.0}
#: Seconds that a run may take to come to its first update before that is called too long.
PATIENCE = 600.0


class Meter:
    """Seconds inside one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.seconds = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself."""
        start = time.perf_counter()
        try:
            return self.function(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start


def bench_collect(subject: Subject, seconds: float, say: Say) -> dict[str, Any]:
    """Environment steps per second without learning: with random actions, then with a policy. Raises UserError."""
    config, rng = subject.config, np.random.default_rng(0)
    agent = subject.agent()
    envs = make_envs(config, None, config.env.num_envs)
    try:
        collector = Collector(envs, seed=config.train.seed)
        player = agent.player(num_envs=config.env.num_envs, mode="explore")
        random = _collect(
            collector, lambda obs, first: subject.spec.action.random(rng, len(first), obs.get(MASK)), seconds / 2
        )
        say(f"random actions: {random['env_steps_per_s']:.4g} environment steps/s")
        acting = _collect(collector, player.act, seconds / 2)
        stepping = getattr(envs, "stepping", "as given")
    finally:
        envs.close()
    return {**subject.facts(agent), "stepping": stepping, "random": random, "policy": acting}


def _collect(collector: Collector, act: ActFunction, seconds: float) -> dict[str, float]:
    meter = Meter(act)
    rows = collector.rows(meter)
    for _ in range(5):
        next(rows)  # the first reset and the first calls of everything
    meter.seconds, steps, calls, start = 0.0, collector.steps, 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not calls:
        next(rows)
        calls += 1
    steps = collector.steps - steps
    return {
        "seconds": elapsed,
        "env_steps": steps,
        "env_steps_per_s": steps / elapsed,
        "ms_per_vector_step": 1e3 * elapsed / calls,
        "acting_share": meter.seconds / elapsed,
        "env_share": 1 - meter.seconds / elapsed,
    }


# ---------------------------------------------------------------------------------------------------------------- train


class _Stopper(Progress):
    """Says nothing; measures from the first update after pretraining, and stops the run when that was long enough."""

    def __init__(self, seconds: float, say: Say) -> None:
        super().__init__(quiet=True)
        self.seconds = seconds
        self.say = say
        self.acting = Meter(lambda: None)
        self.begin: dict[str, float] = {}
        self.end: dict[str, float] = {}
        self.made, self.updates = time.perf_counter(), 0

    def tick(self, run: RunState) -> None:
        """Called by the loop after every step."""
        if not self.begin:
            if run.clock.updates > run.config.train.pretrain:
                self.begin = self._now(run)
                self.say(f"learning since {time.perf_counter() - self.made:.3g} s; measuring {self.seconds:g} s")
            elif time.perf_counter() - self.made > PATIENCE:
                run.stop()
        else:
            late = time.perf_counter() - self.begin["wall"] - self.seconds
            if (late >= 0 and run.clock.updates > self.updates) or late > 2 * self.seconds:  # from update to update
                self.end = self._now(run)
                run.stop()
        self.updates = run.clock.updates

    def _now(self, run: RunState) -> dict[str, float]:
        clock = run.clock
        spent = {f"spent/{part}": seconds for part, seconds in clock.spent.items()}
        counts = {"env_steps": float(clock.env_steps), "updates": float(clock.updates)}
        times = {"wall": time.perf_counter(), "cpu": time.process_time(), "acting": self.acting.seconds}
        return spent | counts | times


def bench_train(subject: Subject, seconds: float, say: Say) -> dict[str, Any]:
    """A real run in a temporary directory, measured from its first update after pretraining. Raises UserError."""
    require_possible(subject)
    config = shortened(subject.config)
    with tempfile.TemporaryDirectory(prefix="reverie-bench-", ignore_cleanup_errors=True) as place:
        run = Run(config, Path(place) / "run")
        stopper = _Stopper(seconds, say)
        stopper.acting = Meter(run.state.player.act)
        run.state.player.act = stopper.acting  # type: ignore[method-assign]
        run.train(stopper)
    if not stopper.end:
        raise UserError("the run ended before enough was measured.", "Set a smaller --seconds or train.prefill.")
    spent = {key: stopper.end[key] - stopper.begin[key] for key in stopper.end}
    wall = spent["wall"]
    shares = {key.split("/")[1]: value / wall for key, value in spent.items() if key.startswith("spent/")}
    shares["env"] = shares.get("env", 0.0) - spent["acting"] / wall  # the collector acts inside of it
    shares = {"acting": spent["acting"] / wall, **shares}
    shares["rest"] = 1 - sum(shares.values())
    return {
        **subject.facts(run.agent),
        "train_ratio": config.train.train_ratio,
        "seconds": wall,
        "cpu_s": spent["cpu"],
        "env_steps": int(spent["env_steps"]),
        "updates": int(spent["updates"]),
        "env_steps_per_s": spent["env_steps"] / wall,
        "updates_per_s": spent["updates"] / wall,
        "updates_per_env_step": spent["updates"] / max(1.0, spent["env_steps"]),
        "shares": shares,
    }


def shortened(config: Config) -> Config:
    """The same run without what would only delay its first update, and without evaluations, videos and an end."""
    train, envs = config.train, config.env.num_envs
    return build(
        {
            "train.prefill": min(train.prefill, max(100, 2 * envs * (train.seq_len + 1))),
            "train.pretrain": 1,
            "train.env_steps": 2**31,
            "train.minutes": 0,
            "train.eval_every": 0,
            "train.random_baseline": False,
            "train.forecast": False,
            "train.checkpoint_every": 1e9,
            "log.video": False,
            "log.tensorboard": False,
        },
        base=config,
    )


def collect_lines(found: dict[str, Any]) -> list[str]:
    return [f"stepping    {found['stepping']}"] + [
        f"{name:11} {found[name]['env_steps_per_s']:,.0f} environment steps/s; environment "
        f"{found[name]['env_share']:.0%}, choosing {found[name]['acting_share']:.0%} of the time"
        for name in ("random", "policy")
    ]


def train_lines(found: dict[str, Any]) -> list[str]:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in found["shares"].items())
    return [
        f"learning    {found['env_steps_per_s']:,.4g} environment steps/s, {found['updates_per_s']:.4g} updates/s "
        f"({found['env_steps']:,} steps, {found['updates']:,} updates in {found['seconds']:.3g} s)",
        f"time        {shares}",
    ]


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("what", choices=SECONDS)
    add_subject_arguments(parser)
    parser.add_argument("--seconds", help="how long to measure (collect 5, train 20)")
    add_json(parser)
    args, rest = parser.parse_known_args()
    measure = bench_collect if args.what == "collect" else bench_train
    try:
        seconds = number("--seconds", args.seconds or str(SECONDS[args.what]))
        with user_error_if_too_large():
            subject, settings = subject_of(args, settings_of(rest), needs_env=True)
            progress(f"{args.what}, preset {args.preset}; shapes: {subject.source}")
            result = measure(subject, seconds, progress)
    except UserError as error:
        parser.error(str(error))
    origin = provenance_of(subject.config, ["python", "benchmarks/throughput.py"])
    found = {"benchmark": args.what, "preset": args.preset, "settings": settings, **origin, **result}
    lines = [*header_lines(found), *(collect_lines if args.what == "collect" else train_lines)(found)]
    print(json.dumps(found) if args.json else "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
