"""`reverie train`: train an agent, or continue a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import SETTINGS, Config, build, from_dict, to_dict
from ..config.presets import AUTO, load_preset, preset_names
from ..config.validation import may_change
from ..errors import Stopped, UserError
from .command import Command, add_json, positive
from .presets import show

if TYPE_CHECKING:
    from ..envs.names import NamedMaker
    from ..ranks import Ranks
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
    parser.add_argument(
        "--demonstrations",
        type=Path,
        metavar="DATA",
        help="a data set of which each batch has a share, from replay.demo_share to 0 at replay.demo_until",
    )
    parser.add_argument("--data", type=Path, help="learn from this data set alone, without an environment")
    parser.add_argument("--updates", type=positive, help="of --data: how many (default: 20000)")
    parser.add_argument(
        "--offline",
        choices=("agent", "world_model"),
        help="of --data: everything (default), or no policy in dreams; an imitating policy is always learnt beside",
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
    from ..guard.interrupts import ending_at_once
    from ..ranks import connected

    try:
        with ending_at_once(), connected() as ranks:  # outside of `Run.train`, which ends in order
            if args.data is not None or args.updates is not None or args.offline is not None:
                _train_offline(args, ranks)
            else:
                _train_as(args, ranks)
    except Stopped as stopped:
        if isinstance(stopped.__context__, UserError):  # torchrun ends the other ranks, which have an error to report
            raise stopped.__context__ from None
        if not args.quiet:
            print(f"stopped by {stopped} with nothing to save; the same command resumes the run", file=sys.stderr)
    return 0


def _train_as(args: argparse.Namespace, ranks: Ranks) -> None:
    """Train as one of several ranks: the one that meets an error reports it. Raises UserError."""
    from ..ranks import RankLost

    if ranks.first:
        _train(args, ranks)
        return
    args.quiet, args.json = True, False
    try:
        _train(args, ranks)
    except RankLost:
        raise SystemExit(2) from None
    except UserError as error:
        raise UserError(f"rank {ranks.rank}: {error.message}", error.hint) from error


def _train(args: argparse.Namespace, ranks: Ranks) -> None:
    from ..envs.names import maker_of

    env = maker_of(args.env or args.settings.get("env.id", args.settings.get("id", "")))
    config, directory, chosen = _agreed(args, env, ranks)
    from ..run.loop import Run
    from ..run.progress import Progress

    progress = Progress(quiet=args.quiet, advise=None if args.quiet or args.no_doctor else live_doctor())
    run = Run(config, directory, env, fresh=args.fresh, ranks=ranks)
    if ranks.size > 1:
        share = config.train.batch_size // ranks.size
        progress.say(
            f"ranks     {ranks.size} processes, each with {config.env.num_envs} environments of its own and "
            f"{share} of the {config.train.batch_size} sequences of a batch"
        )
    for line in chosen:
        progress.say(line)
    run.train(progress)
    if ranks.first and run.state.stopping.signal in ("", "SIGINT"):  # after any other signal time is short
        _print_next_steps(run, progress)
    if args.json:
        result = run.evaluation.to_dict() if run.evaluation else None
        counts = {"env_steps": run.clock.env_steps, "updates": run.clock.updates, "seconds": run.clock.seconds}
        print(json.dumps({"run": str(directory), **counts, "evaluation": result}))


def _train_offline(args: argparse.Namespace, ranks: Ranks) -> None:
    """`--data`. Raises UserError."""
    from ..files import absolute
    from ..run.data_check import findings
    from ..run.data_set import read_data
    from ..share.offline import learn_offline, offline_config, require_place

    if ranks.size > 1:
        raise UserError("--data is learnt from by one process.", "Start it without torchrun.")
    if args.data is None:
        raise UserError("--updates and --offline are about --data.", "Give --data DATA, or leave them out.")
    if args.run is None:
        raise UserError("--data needs a place for what is learnt.", "Give --run DIRECTORY.")
    if args.demonstrations is not None:
        raise UserError("--data is learnt from alone, --demonstrations beside an environment.", "Give one of them.")
    if args.env_steps or args.minutes or args.fresh or args.adapt:
        raise UserError("--data has no environment: it ends by --updates.", "Leave the other limits out.")
    directory = absolute(args.run)
    require_place(directory)  # before the data is read, which may take long
    data = read_data(absolute(args.data))
    say = (lambda line: None) if args.quiet else print
    for finding in findings(data):
        say(f"check     {finding}")
    named = {"env.id": args.env, "train.seed": args.seed}
    settings = args.settings | {key: value for key, value in named.items() if value is not None}
    config = offline_config(args.preset, settings, data, directory)
    learn_offline(config, data, directory, updates=args.updates or 20_000, what=args.offline or "agent", say=say)
    written = [directory / name for name in ("agent", "cloning") if (directory / name).exists()]
    if args.json:
        print(json.dumps({"run": str(directory), "agents": [str(path) for path in written]}))
    else:
        say(f"play it   {'; '.join(f'reverie eval {path}' for path in written)}")


def _agreed(args: argparse.Namespace, env: NamedMaker | None, ranks: Ranks) -> tuple[Config, Path, list[str]]:
    """`config_of`, as rank 0 has it: what is measured on a machine may differ. Raises UserError."""
    if ranks.size == 1:
        return config_of(args, env)
    text = ""
    if ranks.first:
        config, directory, chosen = config_of(args, env)
        text = json.dumps([to_dict(config), str(directory), chosen])
    values, directory_name, chosen = json.loads(ranks.exchange(text.encode())[0])
    return from_dict(values, where="setting of rank 0"), Path(directory_name), chosen


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
    from ..files import absolute

    if args.demonstrations is not None:
        named["replay.demos"] = str(absolute(args.demonstrations))
    settings = args.settings | {key: value for key, value in named.items() if value is not None}
    if args.adapt:
        settings["ensemble.collect"] = "task"
    from ..run.directory import holds_run, stored_config

    if args.run is not None:  # absolute from the start: an environment may change the working directory
        args.run = absolute(args.run)
    if args.adapt and (args.run is None or not holds_run(args.run)):
        raise UserError("--adapt continues a run that explored.", "Give its directory with --run.")
    if args.preset is None and args.run is not None and holds_run(args.run):
        if args.env_steps and not args.minutes:
            settings["train.minutes"] = "0"  # that of an earlier command would end this one at once
        return build(settings, base=stored_config(args.run, settings), where="setting"), args.run, []
    from ..run.auto import CHOOSING, config_for, default_run, will_choose

    preset = args.preset or AUTO
    directory = args.run or absolute(default_run(load_preset(preset, settings), preset))
    if will_choose(preset, directory, fresh=args.fresh) and not args.quiet:
        print(CHOOSING, file=sys.stderr, flush=True)
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
