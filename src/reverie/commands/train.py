"""`reverie train`: train an agent, or continue a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import SETTINGS, Config, build
from ..config.presets import AUTO, load_preset, preset_names
from ..config.validation import may_change
from ..errors import UserError
from .command import Command, add_json
from .presets import show

if TYPE_CHECKING:
    from ..envs.names import NamedMaker
    from ..run.loop import Run
    from ..run.progress import Progress
    from ..run.state import RunState


def _help() -> str:
    lines = ["settings, as --group.name VALUE or group.name=VALUE or name=VALUE, with their defaults:"]
    lines += [f"  {key:34} {show(default):14} {doc}" for key, (_, default, doc, _) in SETTINGS.items()]
    lines += ["", f"The same command continues a run. {may_change()} Other settings make another run."]
    return "\n".join(lines)


def _arguments(parser: argparse.ArgumentParser) -> None:
    known = ", ".join(preset_names())
    parser.add_argument("--preset", help=f"starting point, auto by default: {known}; FILE.yaml; A+B: B's values on A's")
    parser.add_argument("--env", help="id of the task, or FILE.py:FUNCTION, MODULE:FUNCTION, MODULE:Id-v0 (env.id)")
    parser.add_argument("--run", type=Path, help="directory of the run; an existing one is continued")
    parser.add_argument("--seed", help="random seed (train.seed)")
    parser.add_argument("--env-steps", help="environment steps in total, prefill included (train.env_steps)")
    parser.add_argument("--minutes", help="minutes of training in total (train.minutes)")
    parser.add_argument(
        "--fresh", action="store_true", help="begin again; a run in the directory is kept under another name"
    )
    parser.add_argument(
        "--adapt",
        action="store_true",
        help="continue a run that explored: the task's policy acts from now on, weights and replay are kept",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing while training")
    parser.add_argument(
        "--no-doctor",
        action="store_true",
        help="no diagnosis after evaluations (2 %% of the time, after the first ones)",
    )
    add_json(parser, "print the last evaluation as one JSON object on stdout")


def run_train(args: argparse.Namespace) -> int:
    """Train until the run ends or a signal stops it. -> 0. Raises UserError."""
    from ..guard.interrupts import Stopped, ending_at_once

    try:
        with ending_at_once():  # outside of `Run.train`, which ends in order
            _train(args)
    except Stopped as stopped:
        if not args.quiet:
            print(f"stopped by {stopped} with nothing to save; the same command resumes the run", file=sys.stderr)
    return 0


def _train(args: argparse.Namespace) -> None:
    from ..envs.names import maker_of

    env = maker_of(args.env or args.settings.get("env.id", args.settings.get("id", "")))
    config, directory, chosen = config_of(args, env)
    from ..run.loop import Run
    from ..run.progress import Progress

    progress = Progress(quiet=args.quiet, advise=None if args.quiet or args.no_doctor else live_doctor())
    run = Run(config, directory, env, fresh=args.fresh)
    for line in chosen:
        progress.say(line)
    run.train(progress)
    if run.state.stopping.signal in ("", "SIGINT"):  # after any other signal time is short
        _print_next_steps(run, progress)
    if args.json:
        result = run.evaluation.to_dict() if run.evaluation else None
        counts = {"env_steps": run.clock.env_steps, "updates": run.clock.updates, "seconds": run.clock.seconds}
        print(json.dumps({"run": str(directory), **counts, "evaluation": result}))


def live_doctor() -> Callable[[RunState], list[str]]:
    """-> what `Progress` calls after each evaluation for the doctor's new findings.

    The adviser's budget alone would leave the first evaluations without a diagnosis, and a policy that collapses does
    so before them. So each of them gets one, until it is no longer too early for a verdict.
    """
    from ..insight.live_doctor import Adviser

    adviser = Adviser()

    def advise(run: RunState) -> list[str]:
        if not adviser.reported or any(verdict.startswith("too early") for verdict in adviser.reported):
            adviser.last = adviser.spent = 0.0
        return adviser(run)

    return advise


def config_of(args: argparse.Namespace, env: NamedMaker | None = None) -> tuple[Config, Path, list[str]]:
    """-> configuration, directory of the run, what preset `auto` chose: of a run to continue, or of a preset.

    env: what makes the task, if `--env` names a function. Raises UserError.
    """
    named = {
        "env.id": args.env,
        "train.seed": args.seed,
        "train.env_steps": args.env_steps,
        "train.minutes": args.minutes,
    }
    settings = args.settings | {key: value for key, value in named.items() if value is not None}
    if args.adapt:
        settings["ensemble.collect"] = "task"
    from ..files import absolute
    from ..run.directory import holds_run, stored_config

    if args.run is not None:  # absolute from the start: an environment may change the working directory
        args.run = absolute(args.run)
    if args.adapt and (args.run is None or not holds_run(args.run)):
        raise UserError("--adapt continues a run that explored.", "Give its directory with --run.")
    if args.preset is None and args.run is not None and holds_run(args.run):
        if args.env_steps and not args.minutes:
            settings["train.minutes"] = "0"  # that of an earlier command would end this one at once
        return build(settings, base=stored_config(args.run, settings), where="setting"), args.run, []
    from ..run.auto import config_for, default_run

    preset = args.preset or AUTO
    directory = args.run or absolute(default_run(load_preset(preset, settings), preset))
    config, chosen = config_for(preset, settings, directory, env, fresh=args.fresh)
    return config, directory, chosen


def _print_next_steps(run: Run, progress: Progress) -> None:
    """Draw the learning curve, and print where curve, video and logs are."""
    from ..envs.family import names_function
    from ..insight.plots import learning_curve

    try:
        learning_curve(run.directory, title=run.config.env.id)
        progress.say(f"look at   {run.directory / 'curve.png'} (learning curve)")
    except UserError as error:
        progress.say(f"no curve  {error}")
    for video in sorted((run.directory / "videos").glob("*.gif"))[-1:]:
        progress.say(f"          {video} (one episode of the last evaluation)")
    progress.say(f"          tensorboard --logdir {run.directory} (all losses; pip install tensorboard)")
    named = f" --env {run.config.env.id}" if names_function(run.config.env.id) else ""
    progress.say(f"play it   reverie eval {run.directory}{named} (the newest agent)")


COMMAND = Command("train", "train an agent, or continue a run", _help(), _arguments, run_train, takes_settings=True)
