"""The breadth suite beside Stable-Baselines3: same tasks, same CPU seconds, and same environment steps.

    python benchmarks/beside_sb3.py --jobs 2 --ours benchmarks/results/breadth --out benchmarks/results/beside_sb3
    python benchmarks/beside_sb3.py --report --docs     # tables into docs/evidence.md, plots into docs/media

PPO on every task, DQN and SAC where rl-baselines3-zoo has settings for them (`peer/sb3_zoo.toml`, each with its
source), SB3 2.9 in an environment of its own (`peer/sb3.txt`, installed into ~/.cache/reverie-peers; or --python). One
run per task, algorithm and seed is evaluated both after CPU seconds and after environment steps; both tables are read
off it. A run that is done is a file OUT/TASK--ALGORITHM-sSEED.json and is not made again; one that was stopped starts
again. Reverie's runs are those of `suite.py`, in --ours.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peers import environment_python
from suites.plan import Plan, Task, read_plan
from suites.report import band, number, shown
from suites.results import read_results, result_path
from suites.schedule import Job, run_jobs

from reverie.evidence.statistics import welch

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
MARKS = ("<!-- beside_sb3 -->", "<!-- /beside_sb3 -->")
OURS = "reverie"
COLOURS = {OURS: "#2f6f9f", "ppo": "#d08a2e", "dqn": "#7a9a3a", "sac": "#a04a6a"}
Runs = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]  # task -> learner -> its results

# ----------------------------------------------------------------------------------------------------------------- runs


def algorithms() -> dict[str, list[str]]:
    """{task: the algorithms that `peer/sb3_zoo.toml` has for it}."""
    found = tomllib.loads((HERE / "peer" / "sb3_zoo.toml").read_text(encoding="utf-8"))
    return {task: list(each) for task, each in found.items()}


def run_all(args: argparse.Namespace, plan: Plan) -> int:
    """Everything that is missing, `jobs` at a time. -> exit code."""
    python = args.python or environment_python("sb3")
    path = os.pathsep.join([str(HERE.parent / "src"), str(HERE)])
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True).stdout
    jobs, minutes = [], 0.0
    for seed in plan.seeds:
        for task in plan.tasks:
            for algorithm in algorithms()[task.name]:
                if args.algorithms and algorithm not in args.algorithms:
                    continue
                label, out = f"{task.name}--{algorithm}", result_path(args.out, f"{task.name}--{algorithm}", seed)
                command = f"python benchmarks/beside_sb3.py --tasks {task.name} --algorithms {algorithm} --seeds {seed}"
                words = [python, str(HERE / "peer" / "sb3_worker.py"), str(args.plan), task.name, algorithm, str(seed)]
                words += [str(out), "--about", commit.strip(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())]
                words += [command, *(["--minutes", str(args.minutes)] if args.minutes else [])]
                log = Path("runs/suites/beside_sb3/logs") / f"{label}-s{seed}.txt"
                jobs.append(Job(f"{label}, seed {seed}", words, out, log, {"PYTHONPATH": path}))
                minutes += 0 if out.exists() else task.cpu_minutes
    missing = sum(not job.result.exists() for job in jobs)
    print(f"{len(jobs)} runs, {missing} to do, about {minutes / 60:.1f} CPU hours and the evaluations", flush=True)
    return run_jobs(jobs, args.jobs, outcome)


def outcome(job: Job) -> str:
    """What became of a run, in a line."""
    found = json.loads(job.result.read_text(encoding="utf-8"))
    reached = found["first_reached"]
    when = (
        f"threshold after {reached['env_steps']:,} steps, {reached['cpu_seconds']:.0f} CPU seconds" if reached else ""
    )
    return f"{found['final']['mean']:.4g} after {found['env_steps']:,} steps, {found['cpu_seconds']:.0f} CPU s; {when}"


# -------------------------------------------------------------------------------------------------------------- reading


def collect(args: argparse.Namespace, plan: Plan) -> Runs:
    """All results, Reverie's and SB3's."""
    runs: dict[str, dict[str, list[Mapping[str, Any]]]] = {task.name: {} for task in plan.tasks}
    for found in read_results(args.ours):
        if found["label"] in runs and found["seed"] in plan.seeds:
            runs[found["label"]].setdefault(OURS, []).append(found)
    for found in read_results(args.out):
        task, _, algorithm = found["label"].partition("--")
        if task in runs and found["seed"] in plan.seeds:
            runs[task].setdefault(algorithm, []).append(found)
    return runs


def score_at(result: Mapping[str, Any], clock: str, limit: float) -> float:
    """The last evaluation with `clock` (cpu_seconds, env_steps) at most `limit`; before the first: random actions.

    A run that ended earlier, because its budget or the zoo's number of steps was used up, keeps its last score.
    """
    before = [mark["mean"] for mark in result["evaluations"] if mark[clock] <= limit]
    return before[-1] if before else result["random"]


def to_threshold(results: Sequence[Mapping[str, Any]], clock: str) -> tuple[float, bool]:
    """(what it took to reach the threshold, median of the seeds, True); (at least so much, False) if most never did."""
    values = [x["first_reached"][clock] if x["first_reached"] else float("inf") for x in results]
    middle = float(np.median(values)) if values else float("inf")
    if np.isfinite(middle):
        return middle, True
    return (min(x[clock] for x in results if not x["first_reached"]) if results else 0.0), False


def verdict(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """ahead or behind if the 95 % interval of the difference leaves out 0 (Welch), else equal or not clear."""
    if len(ours) < 2 or len(theirs) < 2:
        return "not clear"
    difference = welch(ours, theirs)
    if difference.low is None or difference.high is None:
        return "equal" if difference.value == 0 else "ahead" if difference.value > 0 else "behind"
    return "ahead" if difference.low > 0 else "behind" if difference.high < 0 else "not clear"


# --------------------------------------------------------------------------------------------------------------- tables


def same(
    task: Task, each: Mapping[str, Sequence[Mapping[str, Any]]], clock: str
) -> tuple[float, dict[str, list[float]]]:
    """(how much of `clock` ours used, the median of its seeds; {learner: scores of its seeds there})."""
    limit = float(np.median([x[clock] for x in each[OURS]]))
    return limit, {name: [score_at(x, clock, limit) for x in found] for name, found in each.items()}


def table(plan: Plan, runs: Runs, clock: str) -> list[str]:
    """Markdown: scores of all at the same CPU seconds or environment steps."""
    rows, verdicts, above = [], list[str](), 0
    for task in plan.tasks:
        each = runs[task.name]
        peers = [name for name in each if name != OURS]
        if OURS not in each or not peers:
            rows.append(f"| {task.name} | {task.threshold:g} | | no runs yet | | | |")
            continue
        limit, scores = same(task, each, clock)
        best = max(peers, key=lambda name: float(np.mean(scores[name])))
        verdicts.append(verdict(scores[OURS], scores[best]))
        above += np.mean(scores[OURS]) >= np.mean(scores[best])
        other = next((name for name in peers if name != "ppo"), None)
        cells = [shown(scores.get("ppo", [])), f"{other.upper()}: {shown(scores[other])}" if other else ""]
        rows.append(
            f"| {task.name} | {task.threshold:g} | {limit:,.0f} | {shown(scores[OURS])} | {' | '.join(cells)} "
            f"| {verdicts[-1]} |"
        )
    what = "CPU seconds" if clock == "cpu_seconds" else "environment steps"
    count = ", ".join(f"{name} {verdicts.count(name)}" for name in ("ahead", "equal", "not clear", "behind"))
    return [
        f"**The same {what}**: of {len(verdicts)} tasks, {count} (Reverie against the best of SB3's on that task, "
        f"95 % of Welch's interval); its mean is at least theirs on {above}.",
        "",
        f"| task | threshold | {what} | Reverie | PPO | DQN or SAC | Reverie is |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]


def ratios(plan: Plan, runs: Runs, clock: str) -> list[str]:
    """Markdown: what it took to reach the threshold."""
    rows, found = [], list[float]()
    for task in plan.tasks:
        each = runs[task.name]
        peers = [name for name in each if name != OURS]
        if OURS not in each or not peers:
            continue
        ours, reached = to_threshold(each[OURS], clock)
        theirs = {name: to_threshold(each[name], clock) for name in peers}
        able = {name: value for name, (value, good) in theirs.items() if good}
        best = min(able, key=lambda name: able[name]) if able else min(theirs, key=lambda name: -theirs[name][0])
        value, good = theirs[best]
        ratio = value / ours if reached else 0.0 if good else float("nan")
        if not np.isnan(ratio):
            found.append(ratio)
        text = "neither" if np.isnan(ratio) else "only SB3" if not reached else f"{'' if good else '> '}{ratio:.1f}"
        shown_ours, shown_best = (f"{'' if yes else 'not in '}{x:,.0f}" for x, yes in ((ours, reached), (value, good)))
        rows.append(f"| {task.name} | {shown_ours} | {best.upper()}: {shown_best} | {text} |")
    what = "CPU seconds" if clock == "cpu_seconds" else "environment steps"
    fewer = sum(ratio > 1 for ratio in found)
    middle = number(float(np.median(found))) if found else "-"
    return [
        f"**{what[0].upper()}{what[1:]} to the threshold** (median of the seeds): fewer than SB3's quickest on {fewer} "
        f"of {len(found)} tasks that either reached; the median ratio is {middle} (bounds count as they stand, tasks "
        "that only SB3 reached as 0).",
        "",
        "| task | Reverie | SB3's quickest | SB3 / Reverie |",
        "|---|---|---|---|",
        *rows,
    ]


def draw(plan: Plan, runs: Runs, clock: str, path: Path) -> None:
    """A panel per task: mean and 95 % interval of the seeds of every learner."""
    from matplotlib.figure import Figure

    lines = -(-len(plan.tasks) // 4)
    figure = Figure(figsize=(14, 2.6 * lines), dpi=100, layout="constrained")
    panels = np.atleast_1d(figure.subplots(lines, 4)).ravel()
    names: dict[str, Any] = {}
    for axes, task in zip(panels, plan.tasks, strict=False):
        for name, results in runs[task.name].items():
            curves = [[(max(1.0, m[clock]), m["mean"]) for m in x["evaluations"]] for x in results]
            x, mean, half = band(curves)
            (names[name],) = axes.plot(x, mean, color=COLOURS[name], lw=1.6)
            axes.fill_between(x, mean - half, mean + half, color=COLOURS[name], alpha=0.15, lw=0)
        axes.axhline(task.threshold, color="tab:green", lw=1, ls=":")
        axes.axhline(task.random, color="0.5", lw=1, ls="--")
        levels = [y for line in axes.lines for y in np.asarray(line.get_ydata(), float)]
        reach = max(levels) - min(levels)
        axes.set_ylim(min(levels) - 0.08 * reach, max(levels) + 0.08 * reach)
        axes.set_xscale("log")
        axes.set_title(task.name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
    for axes in panels[len(plan.tasks) :]:
        axes.set_visible(False)
    labels = [{OURS: "Reverie"}.get(name, f"SB3 {name.upper()}") for name in names]
    if names:
        figure.legend(names.values(), labels, loc="outside upper center", ncol=len(names), frameon=False, fontsize=9)
    words = "CPU seconds without evaluations" if clock == "cpu_seconds" else "environment steps"
    figure.supxlabel(f"{words} (dotted: threshold, dashed: random)", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def report(args: argparse.Namespace, plan: Plan) -> str:
    """Write tables and plots. -> the text."""
    runs = collect(args, plan)
    wanted = {(task.name, name) for task in plan.tasks for name in [OURS, *algorithms()[task.name]]}
    missing = [
        f"{task}--{name} ({len(plan.seeds) - len(runs[task].get(name, ()))})"
        for task, name in sorted(wanted)
        if len(runs[task].get(name, ())) < len(plan.seeds)
    ]
    found = [x for each in runs.values() for results in each.values() for x in results]
    if not found:
        return f"there are no results in {args.ours} and {args.out} yet"
    processors = sorted({x["hardware"]["processor"] for x in found})
    commits = sorted({str(x["commit"]) for x in found})
    lines: list[str] = []
    for clock in ("cpu_seconds", "env_steps"):
        lines += [*table(plan, runs, clock), "", *ratios(plan, runs, clock), ""]
    lines += [f"{len(found)} runs; processor: {', '.join(processors)}; commits: {', '.join(commits)}."]
    if missing:
        lines += ["", f"**Missing** (seeds): {', '.join(missing)}."]
    text = "\n".join(lines) + "\n"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "report.md").write_text(text, encoding="utf-8")
    folder = DOCS / "media" if args.docs else args.out
    for clock in ("cpu_seconds", "env_steps"):
        draw(plan, runs, clock, folder / f"beside_sb3-{clock}.png")
    if args.docs:
        into_docs(DOCS / "evidence.md", text)
    return text


def into_docs(path: Path, text: str) -> None:
    """Put the text between the two marks in a document."""
    before, _, rest = path.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    plots = "\n\n".join(
        f"![scores over {words}](media/beside_sb3-{clock}.png)"
        for clock, words in (("cpu_seconds", "CPU seconds"), ("env_steps", "environment steps"))
    )
    path.write_text(f"{before}{MARKS[0]}\n{text}\n{plots}\n{MARKS[1]}{after}", encoding="utf-8")


def main() -> int:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=HERE / "suites" / "breadth.toml")
    parser.add_argument("--tasks", nargs="+", default=[])
    parser.add_argument("--algorithms", nargs="+", choices=["ppo", "dqn", "sac"], default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="default: the plan's")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each")
    parser.add_argument("--ours", type=Path, default=HERE / "results" / "breadth", help="results of suite.py")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "beside_sb3")
    parser.add_argument("--python", help="of an environment with peer/sb3.txt; default: one is made")
    parser.add_argument("--minutes", type=float, help="so many CPU minutes and 600 steps, to try it out")
    parser.add_argument("--report", action="store_true", help="run nothing, report on the results so far")
    parser.add_argument("--docs", action="store_true", help="tables into docs/evidence.md, plots into docs/media")
    args = parser.parse_args()
    try:
        plan = read_plan(args.plan).only(args.tasks, args.seeds)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    code = 0 if args.report else run_all(args, plan)
    print(report(args, plan))
    if not args.report:
        print("made by", shlex.join(["python", "benchmarks/beside_sb3.py", *sys.argv[1:]]))
    return code


if __name__ == "__main__":
    sys.exit(main())
