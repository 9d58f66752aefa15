"""A run's files as pandas tables: two seeds, their curve, one CSV file to share. 100 CPU seconds; pip install pandas.

python examples/run_to_pandas.py [RUN ...]
"""

import sys
from pathlib import Path

import pandas as pd

import reverie

runs = [Path(word) for word in sys.argv[1:]]
if not runs:  # none given: make two that differ in their seed only
    for seed in (0, 1):
        runs.append(Path(f"runs/pandas-s{seed}"))
        agent = reverie.Dreamer("CartPole-v1", preset="vector", run=runs[-1], seed=seed, eval_every=500)
        agent.learn(env_steps=1500, quiet=True)


def table(name):
    """A .jsonl file of every run, one below the other, with a column that says which."""
    return pd.concat([pd.read_json(run / name, lines=True).assign(run=run.name) for run in runs], ignore_index=True)


# A row per episode. Phases: random (the baseline), prefill, train, eval.
episodes = table("episodes.jsonl")
print(episodes.groupby(["run", "phase"])["return"].agg(["count", "mean", "max"]).round(1), "\n")

# Evaluations: the mean of each run first, then over runs, so that a run counts once.
played = episodes[episodes["phase"] == "eval"]
by_run = played.groupby(["run", "env_steps"])["return"].mean().unstack("run")
print(by_run.assign(mean=by_run.mean(axis=1)).round(1), "\n")

# Numbers of training: a row per line, empty where a line has no such number. `reverie explain` says what they mean.
metrics = table("metrics.jsonl")
print(metrics.groupby("run")[["world_model/kl", "actor/entropy"]].last().round(3), "\n")

# Smoothed returns of training, for your own plot: curve.plot().
train = episodes[episodes["phase"] == "train"].copy()
train["smooth"] = train.groupby("run")["return"].transform(lambda score: score.rolling(10, min_periods=1).mean())
curve = train.pivot_table(index="env_steps", columns="run", values="smooth")
print(curve.tail(3).round(1), "\n")

# The same for a colleague without Reverie. In Python `agent.history.episodes.to_frame()` is one run's table at once.
episodes.to_csv("episodes.csv", index=False)
print(f"episodes.csv: {len(episodes)} rows")
