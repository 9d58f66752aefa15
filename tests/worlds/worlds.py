"""Five small worlds whose truth is known in closed form: what is optimal, what is predictable, and what is not.

Time is counted as in `replay.py`: the action u_t leads from o_t to o_{t+1}, the reward r_{t+1} arrives with o_{t+1}.
The value of a state includes its own reward, V(s_t) = r_t + gamma V(s_{t+1}), and 0 follows a terminal state. A reset
has r_0 = 0. Time limits truncate: they are no ends, so the values below are those without any limit.
"""

from __future__ import annotations

from functools import cache

import gymnasium as gym
import numpy as np
from gymnasium import spaces

GAMMA = 0.95


def one_hot(index: int, size: int) -> np.ndarray:
    return np.eye(size, dtype=np.float32)[index]


def vector(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


class World(gym.Env):
    """Counts steps and seeds; a world says what happens in `begin` and `move`. `limit`: steps until truncation."""

    limit: int

    def __init__(self, limit: int | None = None) -> None:
        self.limit, self.at = limit or self.limit, 0

    def begin(self) -> np.ndarray:
        """The first observation."""
        raise NotImplementedError

    def move(self, action) -> tuple[np.ndarray, float, bool]:
        """Observation, reward, terminal; `self.at` is the number of this step, from 1."""
        raise NotImplementedError

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self.begin(), {}

    def step(self, action):
        self.at += 1
        obs, reward, terminal = self.move(action)
        return obs, reward, terminal, self.at >= self.limit and not terminal, {}


# ------------------------------------------------------------------------------------------------- deterministic grid


class Grid(World):
    """4 x 4 cells, four moves, walls hold; a random start, reward 1 and the end at the goal (the last cell).

    Observation: the cell, one-hot. A random walk often meets the time limit, which must not look like an end.
    """

    size, limit = 4, 12
    cells = size * size
    goal = cells - 1
    moves = ((-1, 0), (1, 0), (0, -1), (0, 1))

    observation_space, action_space = vector(cells), spaces.Discrete(len(moves))

    def begin(self):
        self.cell = int(self.np_random.integers(self.goal))  # any cell but the goal
        return one_hot(self.cell, self.cells)

    def move(self, action):
        self.cell = int(grid_next()[self.cell, action])
        return one_hot(self.cell, self.cells), float(self.cell == self.goal), self.cell == self.goal


@cache
def grid_next() -> np.ndarray:
    """The cell that each move leads to. -> (cells, moves) int."""
    row, column = np.divmod(np.arange(Grid.cells), Grid.size)
    ends = [
        np.clip(row + down, 0, Grid.size - 1) * Grid.size + np.clip(column + right, 0, Grid.size - 1)
        for down, right in Grid.moves
    ]
    return np.stack(ends, 1)


def grid_optimal_values(gamma: float = GAMMA) -> np.ndarray:
    """gamma^d, d the Manhattan distance to the goal: nothing is in the way, and the one reward comes at step d."""
    row, column = np.divmod(np.arange(Grid.cells), Grid.size)
    return gamma ** (2.0 * (Grid.size - 1) - row - column)


def grid_values(policy: np.ndarray, gamma: float = GAMMA) -> np.ndarray:
    """Values of a policy (cells, moves) of probabilities: the linear system V = r + gamma P V, exactly. -> (cells,)."""
    transition = np.zeros((Grid.cells, Grid.cells))
    np.add.at(transition, (np.arange(Grid.cells)[:, None], grid_next()), policy)
    transition[Grid.goal] = 0  # nothing follows
    reward = one_hot(Grid.goal, Grid.cells).astype(float)
    return np.linalg.solve(np.eye(Grid.cells) - gamma * transition, reward)


# ----------------------------------------------------------------------------------------------------- delayed reward


class Delay(World):
    """The first action decides everything: 0 pays 0.3 at once, 1 pays 1.0 at step 6, 2 pays nothing.

    The observation says only whether this is the first step: which action was taken, and how long ago, has to be
    remembered. The episode ends two steps after the late reward, so that this is not simply its last step.
    """

    delay, early, late = 6, 0.3, 1.0
    length = limit = delay + 2

    observation_space, action_space = vector(2), spaces.Discrete(3)

    def begin(self):
        self.choice = -1
        return one_hot(0, 2)

    def move(self, action):
        if self.at == 1:
            self.choice = int(action)
        return one_hot(1, 2), float(delay_rewards(self.choice)[self.at]), self.at == self.length


def delay_rewards(choice: int) -> np.ndarray:
    """The reward of every step after the choice at step 0. -> (length + 1,)."""
    rewards = np.zeros(Delay.length + 1)
    if choice == 0:
        rewards[1] = Delay.early
    elif choice == 1:
        rewards[Delay.delay] = Delay.late
    return rewards


def delay_value(policy: np.ndarray, gamma: float = GAMMA) -> float:
    """Value of the start for the probabilities (3,) of the first action. Optimal: gamma^6 (return 1), by waiting."""
    discounts = gamma ** np.arange(Delay.length + 1.0)
    return float(sum(policy[choice] * delay_rewards(choice) @ discounts for choice in range(3)))


# ---------------------------------------------------------------------------------------------- stochastic transition


class Dice(World):
    """A die with four unequal faces, thrown at every step; the action bets on the next face, reward 1 for a hit.

    Actions change nothing of the die, and no throw says anything about the next: whatever the model knows, each step
    holds exactly `dice_entropy` nats of news. That is what KL(posterior || prior) must come to, if the posterior knows
    the face and the prior its chances: less means a lost face or a peek, more a wrong prior or a wasteful code.
    """

    chances = (0.5, 0.25, 0.125, 0.125)
    limit = 12

    observation_space, action_space = vector(4), spaces.Discrete(4)

    def _throw(self) -> int:
        return int(self.np_random.choice(4, p=self.chances))

    def begin(self):
        return one_hot(self._throw(), 4)

    def move(self, action):
        face = self._throw()
        return one_hot(face, 4), float(face == action), False


def dice_entropy() -> float:
    """-sum p ln p = 1.75 ln 2 = 1.2130 nats."""
    chances = np.array(Dice.chances)
    return float(-(chances * np.log(chances)).sum())


def dice_value(hit: float, gamma: float = GAMMA) -> float:
    """Value of a reset when every bet hits with this probability: gamma + gamma^2 + ... times it. Best: 0.5, face 0."""
    return hit * gamma / (1 - gamma)


# -------------------------------------------------------------------------------------------------------------- memory


class Recall(World):
    """A random bit is shown at the first step and never again; six steps later its name is asked for.

    Observation: [bit is 0, bit is 1, question]. The action at the question (step 6) earns 1 if it names the bit, and
    the episode ends. What happens in between does not matter. Optimal return 1; without memory 0.5, whatever is done.
    """

    wait = 6
    length = limit = wait + 1

    observation_space, action_space = vector(3), spaces.Discrete(2)

    def begin(self):
        self.bit = int(self.np_random.integers(2))
        return one_hot(self.bit, 3)

    def move(self, action):
        if self.at == self.wait:
            return one_hot(2, 3), 0.0, False
        answered = self.at == self.length
        return np.zeros(3, np.float32), float(answered and action == self.bit), answered


def recall_value(right: float, gamma: float = GAMMA) -> float:
    """Value of the start when the bit is named with this probability: it counts at step 7. Optimal: gamma^7."""
    return right * gamma**Recall.length


# ----------------------------------------------------------------------------------------------------------------- LQR


class LQR(World):
    """x' = a x + b u + noise, cost q x'^2 + r u^2, u in [-1, 1]: the linear-quadratic regulator in one dimension.

    Observation: x. The cost is that of arriving, so it belongs to (x', u). It never ends, it is only cut. Starts are
    uniform in +-`start`, small enough that the best action -K x stays within its limits (|K x| > 1 is very rare).
    """

    a, b, q, r, noise, start = 1.0, 1.0, 1.0, 1.0, 0.3, 1.5
    limit = 20

    observation_space, action_space = vector(1), spaces.Box(-1, 1, (1,), np.float32)

    def begin(self):
        self.x = self.np_random.uniform(-self.start, self.start)
        return np.array([self.x], np.float32)

    def move(self, action):
        u = float(np.clip(action[0], -1, 1))
        self.x = self.a * self.x + self.b * u + self.noise * self.np_random.normal()
        return np.array([self.x], np.float32), -(self.q * self.x**2 + self.r * u**2), False


def lqr_optimum(steps: int, gamma: float = GAMMA) -> tuple[np.ndarray, float, float]:
    """The Riccati recursion: gains (steps,), in order of time, and the coefficients of J(x) = S x^2 + c.

    J_0 = 0 and J_n(x) = min_u gamma E[q x'^2 + r u^2 + J_{n-1}(x')] with x' = a x + b u + noise. Let M = q + S. The
    minimum of r u^2 + M (a x + b u)^2 is at u = -K x, K = a b M / (r + b^2 M), hence
    S <- gamma (r K^2 + M (a - b K)^2) and c <- gamma (M noise^2 + c). Many steps with gamma < 1: the stationary one.
    """
    square = constant = 0.0
    gains = []
    for _ in range(steps):
        after = LQR.q + square
        gain = LQR.a * LQR.b * after / (LQR.r + LQR.b**2 * after)
        square = gamma * (LQR.r * gain**2 + after * (LQR.a - LQR.b * gain) ** 2)
        constant = gamma * (after * LQR.noise**2 + constant)
        gains.append(gain)
    return np.array(gains[::-1]), square, constant


def lqr_cost(gain: float, steps: int, gamma: float = GAMMA, *, spread: float = 0.0) -> tuple[float, float]:
    """S and c of J(x) = S x^2 + c for u = -gain x + e, e independent of x with variance `spread`; no limits on u.

    The same recursion as the optimum's, without its minimum. gain 0: doing nothing; with spread 1/3: random actions.
    """
    square = constant = 0.0
    for _ in range(steps):
        after = LQR.q + square
        square = gamma * (LQR.r * gain**2 + after * (LQR.a - LQR.b * gain) ** 2)
        constant = gamma * (LQR.r * spread + after * (LQR.noise**2 + LQR.b**2 * spread) + constant)
    return square, constant


def lqr_mean(square: float, constant: float) -> float:
    """Mean of S x^2 + c over the starts: a uniform x in +-L has E x^2 = L^2 / 3."""
    return square * LQR.start**2 / 3 + constant


WORLDS = {"grid": Grid, "delay": Delay, "dice": Dice, "recall": Recall, "lqr": LQR}
