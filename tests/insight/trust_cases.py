"""One healthy run and four that are broken, each in its own way: does `trust` put them in the right order?

    python -m tests.insight.trust_cases --seeds 0 1 2 --runs runs/trust

healthy          preset demo for 6000 steps
reward broken    the same model, its reward head with random weights
actions ignored  the same model, in which no action has an effect
kl_scale 1000    preset demo for 2500 steps with model.kl_scale=1000: the latent holds nothing
stopped early    preset demo for 1100 steps, 1000 of them random

Four to five minutes on one core for each seed; runs that are already there are not trained again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import reverie
from reverie.insight.run_reader import open_run
from reverie.insight.trust import Task, trust

BROKEN = ("reward broken", "actions ignored", "kl_scale 1000", "stopped early")


def trained(folder, name, seed, steps, **settings):
    """A run of preset demo, or the one that is there."""
    path = Path(folder) / f"{name}-{seed}"
    quick = {"video": False, "tensorboard": False, "eval_every": 0, "random_baseline": False, "forecast": False}
    reverie.Dreamer(preset="demo", run=path, seed=seed, settings=quick, **settings).learn(steps, quiet=True)
    return path


def broken_in_memory(path, fault):
    """The run at `path` with a fault in its world model."""
    run = open_run(path)
    model = run.agent.world_model
    if fault == "reward broken":
        torch.manual_seed(0)
        for parameter in model.head("reward").parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    else:
        model.rssm.input_net[0].weight[:, model.rssm.latent.stoch_dim :].zero_()
    return run


@torch.no_grad()
def measured(folder, seed, *, updates=1000, episodes=20):
    """{case: Trust} of one seed."""
    healthy = trained(folder, "healthy", seed, 6000)
    runs = {"healthy": open_run(healthy)}
    runs |= {fault: broken_in_memory(healthy, fault) for fault in BROKEN[:2]}
    runs["kl_scale 1000"] = open_run(trained(folder, "kl1000", seed, 2500, kl_scale=1000.0))
    runs["stopped early"] = open_run(trained(folder, "early", seed, 1100))
    found = {}
    with Task(runs["healthy"].config, None, runs["healthy"].spec, episodes=episodes, seed=seed) as task:
        for name, run in runs.items():
            with torch.enable_grad():
                found[name] = trust(run, task, updates=updates, seed=seed)
    return found


def faults_of(found):
    """What is not as it should be, as sentences; found: {case: Trust} of one seed."""
    wrong = []
    healthy = found["healthy"]
    if healthy.level != "yes":
        wrong.append(f"the healthy run is trusted: {healthy.level}")
    if healthy.share is None or abs(healthy.share - 1) > 0.1:
        wrong.append(f"the policy made in the healthy run's dreams is within 10 % of the run's own: {healthy.share}")
    for name in BROKEN:
        if found[name].level == "yes":
            wrong.append(f"'{name}' is trusted")
        if found[name].policies["made"].mean >= healthy.policies["made"].mean:
            wrong.append(f"'{name}' makes a policy as good as the healthy run")
        if found[name].rank >= healthy.rank:
            wrong.append(f"'{name}' ranks as high as the healthy run")
    return wrong


def main(argv=None):
    """Print a table, write it as JSON. -> exit code, 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/trust"))
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows, wrong = [], []
    for seed in args.seeds:
        found = measured(args.runs, seed, updates=args.updates)
        for name, each in found.items():
            scores = "  ".join(f"{key} {score.mean:.3f}{score.spread}" for key, score in each.policies.items())
            print(f"seed {seed}  {name:16} {each.level:7} {each.steps:3} steps  {scores}", flush=True)
            rows.append({"seed": seed, "case": name, **each.to_dict()})
        wrong += [f"seed {seed}: {text}" for text in faults_of(found)]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    print("\n".join(wrong) or "all as it should be")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
