"""`reverie tune`: search for good settings, and write the best ones as a preset."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..files import absolute
from .command import Command, add_json, expand_home, positive, seed, settings_of
from .output import note, show_line
from .sweep import add_cluster_arguments, cluster_options

if TYPE_CHECKING:
    from ..evidence.plan import Plan
    from ..evidence.tune import Problem, Search

EPILOG = """\
What is searched:
  world_model_lr=1e-4..1e-2      between two values; logarithmic where they are positive and a factor of ten apart
  log:1..5    lin:1..100         (written in front of a range, these decide)
  batch_size=8..32               whole numbers stay whole
  latents=categorical,gaussian   one of these
  gamma=0.98                     a single value holds for all trials

Each trial is a run of `reverie train` (with --seeds, several), evaluated ten times; its score is the mean return of the
last evaluation. Poor trials are stopped early, by --pruner: median (worse than half of the trials at the same
evaluation), halving (not among the best third at evaluations 1, 3, 9), or none. A run that becomes non-finite is a
pruned trial. The same command resumes a search that was stopped; with more --trials it extends it.

OUT gets best.yaml, a preset with its origin that `--preset OUT/best.yaml` takes, trials.csv, trials.json, trials.png,
and study.log, which every tool of Optuna reads. Exit code 0: done, 1: trials failed, 2: invalid input, 130: stopped.

  reverie tune --env CartPole-v1 --preset vector --env-steps 6000 world_model_lr=1e-4..1e-2 gamma=0.95..0.995
  reverie tune plan.toml kl_scale=0.03..1 --trials 40 --jobs 4        (the file of a sweep with one task)
  reverie train --env CartPole-v1 --preset runs/tune/best.yaml
"""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", nargs="?", help="a TOML file as of `reverie sweep`, with one task and no variants")
    parser.add_argument("--env", help="id of the task, or FILE.py:FUNCTION and the like (default: the preset's)")
    parser.add_argument("--preset", help="what stays as it is, and where the search begins")
    parser.add_argument("--env-steps", type=positive, help="environment steps of a trial's run (default: the preset's)")
    parser.add_argument("--trials", type=positive, default=20, help="in all, earlier ones included (default: 20)")
    parser.add_argument("--seeds", type=positive, default=None, help="runs per trial (default: 1, or the plan's)")
    parser.add_argument("--seed", type=seed, default=0, help="of the proposals (default: 0)")
    parser.add_argument("--pruner", choices=("median", "halving", "none"), default="median", help="default: median")
    parser.add_argument("-o", "--out", type=Path, help="directory (default: runs/tune, or runs/tune-NAME)")
    parser.add_argument("--jobs", type=positive, default=1, help="trials at a time (default: 1)")
    parser.add_argument("--dry-run", action="store_true", help="only check and print what would be searched")
    add_json(parser, "print one JSON object at the end")
    add_cluster_arguments(parser)


def run_tune(args: argparse.Namespace) -> int:
    """Run or continue a search. -> 1 if trials failed. Raises UserError."""
    from ..evidence.cluster import make_executor
    from ..evidence.tune import Search, require_optuna
    from ..insight.plots import require_matplotlib

    if args.plan is not None and "=" in args.plan:  # the first setting; argparse cannot know
        args.settings = settings_of([args.plan]) | args.settings
        args.plan = None
    plan = _plan(args)
    problem = _problem(args, plan)
    problem.check()
    options = cluster_options(args, plan)
    out = absolute(args.out or Path("runs") / ("tune" if args.plan is None else f"tune-{problem.name}"))
    say = note if args.json else show_line
    searched = ", ".join(f"{each.key}={each}" for each in problem.dimensions)
    say(f"{problem.task.name}: {searched}; {args.trials} trials, {args.jobs} at a time, in {out}")
    if args.dry_run:
        if args.json:
            print(json.dumps(problem.identity()))
        return 0
    require_optuna()
    require_matplotlib()
    executor = make_executor(args.on, options, out, problem.name, args.jobs)
    try:
        search = Search(problem, out, pruner=args.pruner, seed=args.seed, say=say, executor=executor)
        search.run(args.trials, args.jobs)
    finally:
        executor.close()
    return _report(args, search)


def _plan(args: argparse.Namespace) -> Plan | None:
    if args.plan is None:
        if not args.preset:
            raise UserError("a search needs a plan, or --preset with what stays as it is.", "E.g. --preset vector.")
        return None
    from ..evidence.plan import read_plan

    given = [name for name in ("env", "preset", "env_steps") if getattr(args, name) is not None]
    if given:
        raise UserError(f"--{given[0].replace('_', '-')} is in the plan.", "Leave out one of them.")
    plan = read_plan(expand_home(Path(args.plan)))
    if len(plan.tasks) != 1 or any(each.settings or each.preset or each.presets for each in plan.variants):
        raise UserError(f"{args.plan} must have one task and no variants to be searched.", "The search varies it.")
    return plan


def _problem(args: argparse.Namespace, plan: Plan | None) -> Problem:
    from ..config.presets import chooses, load_preset
    from ..evidence.plan import Task
    from ..evidence.space import read_space
    from ..evidence.tune import EVALUATIONS, Problem

    dimensions, fixed = read_space(args.settings)
    if plan is None:
        task = {"env.id": args.env} if args.env else {}
        task |= {"train.env_steps": args.env_steps} if args.env_steps else {}
        found = Task(args.env or args.preset, args.preset, task)
    else:
        found, fixed = plan.tasks[0], {**plan.settings, **fixed}
    if chooses(found.preset):
        raise UserError(
            "preset auto chooses values by the speed of the machine, from run to run others.",
            "Give another --preset; `reverie presets` lists them.",
        )
    steps = load_preset(found.preset, {**found.settings, **fixed}).train.env_steps
    usual: dict[str, Any] = {"train.eval_every": max(1, steps // EVALUATIONS), "train.eval_episodes": 10}
    searched = {each.key for each in dimensions}
    if both := searched & ({*found.settings} | {*fixed}):
        raise UserError(f"'{sorted(both)[0]}' is both searched and set.", "Leave out one of them.")
    seeds: Any = range(args.seeds) if args.seeds else (plan.seeds if plan is not None else [0])
    known = {*found.settings, *fixed, *searched}
    background = {key: value for key, value in usual.items() if key not in known}
    return Problem(plan.name if plan else "tune", found, dimensions, fixed, list(seeds), background)


def _report(args: argparse.Namespace, search: Search) -> int:
    from ..evidence.tables import columns
    from ..evidence.tune import FAILED, short

    best, rows, files = search.best(), search.rows(), search.write()
    failed = sum(row["state"] == FAILED for row in rows)
    if args.json:
        facts = {"trials": rows, "failed": failed, "files": [str(file) for file in files]}
        top = {"trial": best.number, "score": best.value, "settings": best.params} if best is not None else None
        print(json.dumps({"best": top, **facts}))
    else:
        keys = [each.key for each in search.problem.dimensions]
        ended = [row for row in rows if row["score"] is not None]
        order = sorted(ended, key=lambda row: (row["state"] != "COMPLETE", -row["score"]))
        cells = [
            [str(r["trial"]), short(r["score"]), *(short(r.get(k, "")) for k in keys), r["outcome"]] for r in order
        ]
        print("\n".join(columns(cells[:20], header=["trial", "score", *keys, "outcome"])))
        if best is not None:
            print(f"\nbest      reverie train --preset {search.out / 'best.yaml'}")
        print(f"look at   {search.out / 'trials.png'}, trials.csv")
    if search.stopping.is_set():
        note("stopped; the same command resumes the search")
        return 130
    return 1 if failed else 0


COMMAND = Command(
    "tune", "search for good settings, stop poor trials early, write a preset", EPILOG, _arguments, run_tune, True
)
