"""A trained agent in a control loop of your own, without Gymnasium: readings in, commands out. 50 CPU seconds.

python examples/own_loop.py [SAVED_AGENT_OR_RUN]        without Reverie, too: examples/export_policy.py
"""

import math
import sys
import time

import numpy as np

import reverie


class Machine:
    """What you have instead: sensors and a motor. Here a cart with a pole, simulated in plain Python."""

    def __init__(self, seed):
        self.x, self.v, self.angle, self.spin = np.random.default_rng(seed).uniform(-0.05, 0.05, 4)

    def sensors(self):
        return {"track": (self.x, self.v), "pole": (self.angle, self.spin)}

    def motor(self, newton):
        sin, cos = math.sin(self.angle), math.cos(self.angle)
        pull = (newton + 0.05 * self.spin**2 * sin) / 1.1
        turn = (9.8 * sin - cos * pull) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
        self.x, self.v = self.x + 0.02 * self.v, self.v + 0.02 * (pull - 0.05 * turn * cos / 1.1)
        self.angle, self.spin = self.angle + 0.02 * self.spin, self.spin + 0.02 * turn

    def upright(self):
        return abs(self.angle) < 0.2095 and abs(self.x) < 2.4


if len(sys.argv) > 1:
    path = sys.argv[1]
else:  # none given: train a little one, in the simulator that Gymnasium has of such a machine
    agent = reverie.Dreamer("CartPole-v1", preset="vector", run="runs/cartpole", gamma=0.99, eval_every=0)
    path = agent.learn(env_steps=1500).save("cartpole-agent")

act = reverie.load_player(path)  # weights and settings only: no replay, no environment, no training code


def observation(readings):
    """Sensors to what the agent was trained with: the same order, units and type."""
    return np.array([*readings["track"], *readings["pole"]], np.float32)


def command(action):
    """The agent's action to what the motor takes."""
    return 10.0 if action == 1 else -10.0


machine, steps, slowest = Machine(seed=0), 0, 0.0
while machine.upright() and steps < 500:
    begin = time.perf_counter()
    action = act(observation(machine.sensors()), first=steps == 0)  # first=True: forget what was before
    slowest = max(slowest, time.perf_counter() - begin)
    machine.motor(command(action))
    steps += 1
print(f"upright for {steps} steps; the slowest answer took {1000 * slowest:.1f} ms")
