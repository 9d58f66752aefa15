"""A custom Gymnasium environment: train, save, load and play it."""

import gymnasium as gym
import numpy as np

import reverie


class Corridor(gym.Env):
    """Eight cells in a row, start at the left; +1 for reaching the right end, which ends the episode."""

    observation_space, action_space = gym.spaces.Box(0, 7, (1,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.x = np.zeros(1, np.float32)
        return self.x.copy(), {}

    def step(self, action):
        self.x = np.clip(self.x + 2 * action - 1, 0, 7).astype(np.float32)
        return self.x.copy(), float(self.x[0] == 7), bool(self.x[0] == 7), False, {}


def make_corridor():
    return gym.wrappers.TimeLimit(Corridor(), 50)


agent = reverie.Dreamer(make_corridor, preset="vector", run="runs/corridor")
agent.learn(env_steps=1500)
agent.save("corridor")

act = reverie.load("corridor").player()
env, score, done = make_corridor(), 0.0, False
obs, _ = env.reset()
while not done:
    obs, reward, terminated, truncated, _ = env.step(act(obs))
    score, done = score + reward, terminated or truncated
print("return", score)
