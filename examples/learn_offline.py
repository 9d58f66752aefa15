"""Record random episodes, learn from them alone, compare with imitation: about a minute on one core."""

from pathlib import Path

import reverie
from reverie.run.data_set import read_data
from reverie.share.record import config_of, record

data = Path("data/random")
if not data.exists():
    record(config_of("CartPole-v1"), None, data, episodes=100)
recorded = read_data(data)
print(f"{len(recorded)} rows, return {recorded.returns().mean():.1f} on average")

agent = reverie.Dreamer("CartPole-v1", preset="vector", run="runs/learn_offline")
agent.learn(data=data, updates=1000, quiet=True)
cloning = reverie.load("runs/learn_offline/cloning")
print(f"learnt in dreams: return {agent.evaluate(10).mean:.1f}")
print(f"imitation alone:  return {cloning.evaluate(10).mean:.1f}")
