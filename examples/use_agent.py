"""A trained agent in your own loop: one environment, several at once, and what its model predicts. Half a minute.

python examples/use_agent.py [SAVED_AGENT_OR_RUN]
"""

import sys

import gymnasium as gym
import numpy as np

import reverie

if len(sys.argv) > 1:
    path = sys.argv[1]
else:  # none given: train a little one
    agent = reverie.Dreamer("CartPole-v1", preset="vector", run="runs/cartpole", gamma=0.99, eval_every=0)
    agent.learn(env_steps=1500)
    path = agent.save("cartpole-agent")

# 1. One environment. `load_player` loads weights and settings: no optimizer, no replay, no training code.
act = reverie.load_player(path)
env = gym.make("CartPole-v1")
for episode in range(2):
    obs, _ = env.reset(seed=episode)
    first, score, done = True, 0.0, False
    while not done:
        action = act(obs, first=first)  # first=True: a new episode, forget the old one
        obs, reward, terminated, truncated, _ = env.step(action)
        first, score, done = False, score + float(reward), terminated or truncated
    print(f"episode {episode}: return {score:.0f}")

# 2. Four environments at once: observations and actions get a leading axis, `first` is a flag for each.
act = reverie.load_player(path, num_envs=4, mode="train", seed=1)  # mode "train" samples from the policy
envs = gym.make_vec("CartPole-v1", 4, vectorization_mode="sync")
obs, _ = envs.reset(seed=0)
first, total = np.ones(4, bool), 0.0
for _ in range(100):
    obs, reward, terminated, truncated, _ = envs.step(act(obs, first))
    first = terminated | truncated  # Gymnasium's vector returns the next episode's first observation after an end
    total += float(reward.sum())
print(f"four environments: {total:.0f} reward in 100 steps of each")

# 3. The state behind the last action, and what the model expects of it.
feat = act.state.feat  # (4, F)
model = act.world_model
print("expected reward  ", model.head("reward")(feat).detach().numpy().round(2))
print("continues with   ", model.continues(feat).detach().numpy().round(3))
