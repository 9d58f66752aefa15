"""The command line: reverie VERB (train, eval, check-env, ...). Mistakes end in one sentence and exit code 2."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
from pathlib import Path
from typing import Any

from . import __version__
from .commands import MORE
from .commands.bench import BENCH_HELP, add_arguments
from .commands.presets import presets_command, show
from .config import SETTINGS, Config, build, load_file
from .config.presets import load_preset, preset_names
from .config.validation import may_change
from .errors import UserError

CHECK_HELP = """\
Plays random steps and tells mistakes, one sentence each, with the fix. ENV is a Gymnasium id, or names a function (or
class) that makes an environment: FILE.py:FUNCTION or MODULE:FUNCTION. Settings of env.* may follow.

  reverie check-env CartPole-v1
  reverie check-env my_robot.py:make_env --steps 2000
  reverie check-env dmc/walker-walk env.pixels=true

Exit code 1 if there are errors. In Python: reverie.check_env(make_env).
"""
CRASH_HELP = """\
Loads RUN/crash (settings, weights, optimisers, batch, random state), computes the update that met a NaN or an infinity
once more, and tells what broke first. Nothing is trained and nothing is written.

Exit code 1 if the trouble comes back, 0 if all numbers are finite this time, 2 if there is no such crash.
"""
EPILOG = """\
examples:
  reverie train --preset demo                              learn MiniGrid from pixels in minutes
  reverie train --preset demo --env MiniGrid-DoorKey-5x5-v0 --run runs/doorkey
  reverie train --preset vector --env CartPole-v1 --minutes 5 gamma=0.98
  reverie eval runs/doorkey --episodes 20                  play the newest checkpoint, write a GIF
  reverie presets demo                                     every value of a preset and where it comes from
  reverie train --preset dreamerv3+small --env CartPole-v1 one preset's values on top of another's
  reverie check-env my_robot.py:make_env                   is my environment what it says it is?
  reverie bench update --preset demo                       how quick is an update, and where does its time go?
  reverie doctor runs/demo                                 what is wrong with a run, and which setting to change
  reverie watch                                            curves, findings, films; play inside the dream
  reverie selftest                                         does the code still compute what the equations say?
The same train command again continues a run. Stop with Ctrl-C: a checkpoint is written first.
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point of the `reverie` command. -> exit code: 0, or 2 for a user's mistake."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    try:
        if rest and args.verb not in ("train", "check-env", "bench"):
            raise UserError(f"unknown argument '{rest[0]}'.", f"See reverie {args.verb} --help.")
        code: int = args.function(args, rest)
        return code
    except UserError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ended at once by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `reverie presets | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="reverie", description="DreamerV2: learn a world model, learn to act in its dreams.", epilog=EPILOG,
        formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"reverie {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, function: Any, summary: str, epilog: str = "") -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name, help=summary, description=summary, epilog=epilog, formatter_class=raw, allow_abbrev=False
        )
        sub.set_defaults(function=function)
        return sub

    train = verb("train", _train, "train an agent, or continue a run", _settings_help())
    train.add_argument("--preset", help=f"starting point: {', '.join(preset_names())}; A+B: B's values on A's")
    train.add_argument("--env", help="Gymnasium id of the task (env.id)")
    train.add_argument("--run", type=Path, help="directory of the run; an existing one is continued")
    train.add_argument("--seed", help="random seed (train.seed)")
    train.add_argument("--env-steps", help="environment steps in all, prefill included (train.env_steps)")
    train.add_argument("--minutes", help="minutes of training in all (train.minutes)")
    train.add_argument("--quiet", action="store_true", help="print nothing while training")
    train.add_argument("--no-doctor", action="store_true", help="no diagnosis after evaluations (takes 2 %% at most)")
    train.add_argument("--json", action="store_true", help="print the last evaluation as one JSON object on stdout")

    play = verb("eval", _eval, "play whole episodes with a trained agent")
    _add_eval_arguments(play)

    presets = verb("presets", _presets, "list presets, show one, or compare two")
    presets.add_argument("name", nargs="?", help="a preset, or several: A+B has B's values on top of A's")
    presets.add_argument("--diff", nargs=2, metavar=("A", "B"), help="settings in which two presets differ")
    presets.add_argument("--keys", action="store_true", help="every setting: default, meaning, source of the default")

    envs = verb("envs", _envs, "list environment families and how to install them, or show one's options")
    envs.add_argument("family", nargs="?", help="a family of the list, or an id")

    check = verb("check-env", _check_env, "try an environment: mistakes in one sentence each, with the fix", CHECK_HELP)
    check.add_argument("env", help="an id, FILE.py:FUNCTION or MODULE:FUNCTION")
    check.add_argument("--steps", type=_positive, default=500, help="random steps to play")
    check.add_argument("--seed", type=int, default=0)

    selftest = verb("selftest", _selftest, "check every equation against golden numbers: run it after editing a loss")
    selftest.add_argument("--only", help="only the checks with this in their names, e.g. KL")
    bench = verb("bench", _bench, "measure speed, memory, and how far it is from what the hardware allows", BENCH_HELP)
    add_arguments(bench)
    crash = verb("replay-crash", _crash, "why a run stopped at a NaN: its last update once more", CRASH_HELP)
    crash.add_argument("path", type=Path, help="a run, or its directory `crash`")
    info = verb("info", _info, "versions and hardware, or the state of a run")
    info.add_argument("run", type=Path, nargs="?")
    for sub in (envs, check, selftest, presets, info, play, bench, crash):
        sub.add_argument("--json", action="store_true", help="print one JSON object")
    for more in MORE:
        more.add_arguments(verb(more.name, lambda args, rest, run=more.run: run(args), more.summary, more.epilog))
    return parser


def _add_eval_arguments(play: argparse.ArgumentParser) -> None:
    play.add_argument("--env", help="the environment, where the run's own is made by code that it names")
    play.add_argument("run", type=Path, help="a run, a checkpoint, or what agent.save wrote")
    play.add_argument("--episodes", type=_positive, default=20)
    play.add_argument("--seed", type=int, default=0)
    play.add_argument(
        "--mode", choices=("eval", "train"), help="most likely action, or sampled (default: the run's train.eval_mode)"
    )
    play.add_argument("--device", default="auto", help="auto, cpu, cuda")
    play.add_argument("--video", type=Path, help="where to write a GIF of the first episode (default: RUN/videos)")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, got '{text}'")
    return int(text)


def _settings_help() -> str:
    lines = ["settings, as --group.name VALUE or group.name=VALUE or name=VALUE (defaults: the design document):"]
    for key, (_, default, doc, _) in SETTINGS.items():
        lines.append(f"  {key:34} {show(default):14} {doc}")
    lines += ["", f"The same command continues a run. {may_change()} Other settings make another run."]
    return "\n".join(lines)


def _overrides(rest: list[str]) -> dict[str, str]:
    """--group.name VALUE, --group.name=VALUE, group.name=VALUE -> {"group.name": "VALUE"}."""
    found: dict[str, str] = {}
    words = iter(rest)
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            if not word.startswith("--"):
                raise UserError(f"unknown argument '{word}'.", "Settings are written as name=value.")
            value = next(words, "")
            if not value:
                raise UserError(f"setting '{key}' has no value.", f"Write --{key} VALUE.")
        found[key.replace("-", "_")] = value
    return found


# ---------------------------------------------------------------------------------------------------------------- verbs


def _train(args: argparse.Namespace, rest: list[str]) -> int:
    from .guard.interrupts import Stopped, ending_at_once

    try:
        with ending_at_once():  # outside of `Run.train`, which ends in order
            _train_run(args, rest)
    except Stopped as stopped:
        if not args.quiet:
            print(f"ended by {stopped} while nothing was to be saved; the same command goes on", file=sys.stderr)
    return 0


def _train_run(args: argparse.Namespace, rest: list[str]) -> None:
    config, run = _train_config(args, _overrides(rest))
    from .run.loop import Run
    from .run.progress import Progress

    advise = None
    if not args.quiet and not args.no_doctor:
        from .insight.live_doctor import Adviser

        advise = Adviser()
    progress = Progress(quiet=args.quiet, advise=advise)
    done = Run(config, run)
    done.train(progress)
    if done.state.stopping.signal in ("", "SIGINT"):  # else time is short
        _closing_words(done, progress)
    if args.json:
        result = done.evaluation.to_dict() if done.evaluation else None
        counts = {"env_steps": done.clock.env_steps, "updates": done.clock.updates, "seconds": done.clock.seconds}
        print(json.dumps({"run": str(run), **counts, "evaluation": result}))


def _train_config(args: argparse.Namespace, overrides: dict[str, str]) -> tuple[Config, Path]:
    named = {"env.id": args.env, "train.seed": args.seed, "train.env_steps": args.env_steps}
    named |= {"train.minutes": args.minutes}
    overrides |= {key: value for key, value in named.items() if value is not None}
    from .run.directory import holds_run

    if args.preset is None and args.run is not None and holds_run(args.run):
        if args.env_steps and not args.minutes:
            overrides["train.minutes"] = "0"  # of an earlier command: it would end this one at once
        return build(overrides, base=load_file(args.run / "config.yaml"), where="setting"), args.run
    preset = args.preset or "default"
    config = load_preset(preset, overrides)
    if args.run is None:
        from .api import default_run

        return config, default_run(config, preset)
    return config, args.run


def _closing_words(run: Any, progress: Any) -> None:
    """The curve, and what to look at."""
    from .insight.plots import learning_curve

    try:
        learning_curve(run.directory, title=run.config.env.id)
        progress.say(f"look at   {run.directory / 'curve.png'} (learning curve)")
    except UserError as error:
        progress.say(f"no curve  {error}")
    for video in sorted((run.directory / "videos").glob("*.gif"))[-1:]:
        progress.say(f"          {video} (one episode of the last evaluation)")
    progress.say(f"          tensorboard --logdir {run.directory} (all losses; pip install tensorboard)")
    progress.say(f"play it   reverie eval {run.directory}")


def _eval(args: argparse.Namespace, rest: list[str]) -> int:
    from .api import load, names_code

    agent = load(args.run, args.env, device=args.device)
    mode = args.mode or agent.config.train.eval_mode
    if agent.config.env.id.startswith("custom:") and names_code(agent.config.env.id[7:]):
        raise UserError(
            f"the environment of {args.run} is made by code that its files name ({agent.config.env.id[7:]}).",
            f"If you trust it, add --env {agent.config.env.id[7:]}.",
        )
    if agent.config.env.id.startswith("custom:"):
        raise UserError(
            f"{args.run} was trained on a custom environment, which the command line cannot make.",
            "In Python: reverie.load(path, env=your_function).evaluate().",
        )
    result = agent.evaluate(args.episodes, mode=mode, seed=args.seed, film=True)
    video = (args.video or args.run / "videos" / "play.gif") if result.frames else None
    if args.json:
        facts = {"env": agent.config.env.id, "mode": mode, **result.to_dict()}
        print(json.dumps(facts | {"video": str(video) if video else None}))
    else:
        interval = f"{result.spread} (95 % CI)" if result.spread else ""
        print(
            f"{agent.config.env.id}: return {result.mean:.3f}{interval} over {len(result.scores)} episodes, {mode} mode"
        )
        print(f"lowest {min(result.scores):.3f}, highest {max(result.scores):.3f}; {video or result.note}")
    if video:
        from .run.evaluation import write_gif

        try:
            write_gif(video, result.frames)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot write the video {video} ({error}).", "Choose another --video.") from error
    return 0


def _presets(args: argparse.Namespace, rest: list[str]) -> int:
    return presets_command(args)


def _envs(args: argparse.Namespace, rest: list[str]) -> int:
    from .commands.envs import envs_command

    return envs_command(args)


def _check_env(args: argparse.Namespace, rest: list[str]) -> int:
    from .commands.check_env import check_command
    from .run.tasks import options_of

    return check_command(args, options_of(build(_overrides(rest), where="setting")))


def _selftest(args: argparse.Namespace, rest: list[str]) -> int:
    from .selftest import selftest_command

    return selftest_command(args)


def _bench(args: argparse.Namespace, rest: list[str]) -> int:
    from .commands.bench import bench_command

    return bench_command(args, _overrides(rest))


def _crash(args: argparse.Namespace, rest: list[str]) -> int:
    from .commands.replay_crash import crash_command

    return crash_command(args)


def _info(args: argparse.Namespace, rest: list[str]) -> int:
    facts = _run_facts(args.run) if args.run else _machine_facts()
    if args.json:
        print(json.dumps(facts))
        return 0
    for key, value in facts.items():
        print(f"{key:14} {value}")
    return 0


def _machine_facts() -> dict[str, Any]:
    import torch

    packages = ("torch", "numpy", "gymnasium", "minigrid", "matplotlib", "tensorboardX", "wandb")
    facts: dict[str, Any] = {"reverie": __version__, "python": sys.version.split()[0]}
    for package in packages:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return facts | {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def _run_facts(run: Path) -> dict[str, Any]:
    from . import checkpoint
    from .envs.families.crafter import score_of
    from .run.logger import read_lines

    config = load_file(run / "config.yaml")
    lines, episodes = read_lines(run / "metrics.jsonl"), read_lines(run / "episodes.jsonl")
    steps = max((line["env_steps"] for line in lines), default=0)
    evaluations = [line for line in lines if "eval/return" in line]
    saved = checkpoint.checkpoints(run)
    score = score_of(line for line in episodes if line["phase"] in ("prefill", "train"))
    achieved = {} if score is None else {"Crafter score": f"{score:.1f} % of all training episodes"}
    return achieved | {
        "task": config.env.id,
        "seed": config.train.seed,
        "env steps": f"{steps} of {config.train.env_steps}",
        "updates": max((int(line["updates"]) for line in lines if "updates" in line), default=0),
        "episodes": sum(episode["phase"] == "train" for episode in episodes),
        "evaluation": evaluations[-1]["eval/return"] if evaluations else "none yet",
        "checkpoint": saved[-1].name if saved else "none yet",
    }


if __name__ == "__main__":
    sys.exit(main())
