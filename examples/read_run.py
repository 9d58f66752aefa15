"""Read what a run wrote: settings, every episode, metrics over time, findings. Half a minute.

python examples/read_run.py [RUN]
"""

import json
import sys
from pathlib import Path

import numpy as np

import reverie
from reverie.insight.doctor import diagnose

if len(sys.argv) > 1:
    run = Path(sys.argv[1])
else:  # none given: make one
    run = Path("runs/read-me")
    reverie.Dreamer("CartPole-v1", preset="vector", run=run, gamma=0.99, eval_every=500).learn(env_steps=1500)


def rows(name):
    """A .jsonl file as a list of dicts; pandas.read_json(path, lines=True) reads it too."""
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


# Where it comes from: command, commit, versions, hardware, and the protocol that scores depend on.
provenance = json.loads((run / "provenance.json").read_text())
print("command   ", provenance["command"])
print("protocol  ", provenance["protocol"]["line"])

# Every episode, by phase: random play, prefill, train, eval.
episodes = rows("episodes.jsonl")
for phase in sorted({episode["phase"] for episode in episodes}):
    returns = [episode["return"] for episode in episodes if episode["phase"] == phase]
    print(f"{phase:10} {len(returns):4} episodes, mean return {np.mean(returns):.1f}")

# Metrics: each line has env_steps and some of the numbers that `reverie explain` lists.
metrics = rows("metrics.jsonl")
for key in ("world_model/kl", "world_model/reward_loss", "actor/entropy"):
    values = [(row["env_steps"], row[key]) for row in metrics if key in row]
    if values:
        (first_step, first), (last_step, last) = values[0], values[-1]
        print(f"{key:24} {first:8.3f} at step {first_step:,} -> {last:8.3f} at step {last_step:,}")

# The complete settings, and what `reverie doctor` finds.
print("settings  ", (run / "config.yaml").read_text().splitlines()[0], "...")
for finding in diagnose(run):
    print(f"{finding.level:10} {finding.verdict}")
