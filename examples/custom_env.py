"""A custom Gymnasium environment: train, save, load, play."""

import gymnasium as gym
import numpy as np

import reverie


class Corridor(gym.Env):
    """Walk right along eight cells: +1 at the end, which ends the episode."""

    observation_space, action_space = gym.spaces.Box(0, 1, (8,), np.float32), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return np.eye(8, dtype=np.float32)[self.place], {}

    def step(self, action):
        self.place = max(0, self.place + (1 if action == 1 else -1))
        return np.eye(8, dtype=np.float32)[self.place], float(self.place == 7), self.place == 7, False, {}


def make() -> gym.Env:
    return gym.wrappers.TimeLimit(Corridor(), 50)


agent = reverie.Dreamer(make, preset="vector", run="runs/corridor", seed=0)
agent.learn(env_steps=3000)
agent.save("corridor")

act, env = reverie.load("corridor").player(), make()
obs, _ = env.reset()
first, score, done = True, 0.0, False
while not done:
    obs, reward, terminated, truncated, _ = env.step(act(obs, first=first))
    first, score, done = False, score + reward, terminated or truncated
print("return", score)
