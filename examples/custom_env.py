"""Your own environment: write it, check it, train on it, save the agent, play with it. Half a minute on one core."""

import gymnasium as gym
import numpy as np

import reverie


class Corridor(gym.Env):
    """Eight cells in a line, start at the left; +1 for reaching the right end, which ends the episode."""

    observation_space = gym.spaces.Box(0, 7, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)  # left, right

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = np.zeros(1, np.float32)
        return self.x.copy(), {}

    def step(self, action):
        self.x = np.clip(self.x + 2 * action - 1, 0, 7).astype(np.float32)
        reached = bool(self.x[0] == 7)
        return self.x.copy(), float(reached), reached, False, {}


def make_corridor():
    return gym.wrappers.TimeLimit(Corridor(), 50)  # a time limit truncates; it is not an end of the task


# Mistakes of an environment, one sentence each, with the fix.
print(reverie.check_env(make_corridor))

# Run again with more steps, this continues where it stopped.
agent = reverie.Dreamer(make_corridor, preset="vector", run="runs/corridor")
agent.learn(env_steps=1500)
agent.save("corridor")

# The player keeps the recurrent state and answers in the environment's own action space.
act = reverie.load("corridor").player()
env = make_corridor()
obs, _ = env.reset()
score, done = 0.0, False
while not done:
    obs, reward, terminated, truncated, _ = env.step(act(obs))
    score, done = score + reward, terminated or truncated
print("return", score)
