"""Train an agent in a world of `worlds.py`, then compare what it knows and does with the truth.

Everything is measured on fresh episodes, which the agent was not trained on, from states filtered since their reset.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reverie.actor_critic import compute_lambda_returns
from reverie.config import Config
from reverie.config.presets import load_preset
from reverie.data.collect import Collector
from reverie.data.replay import Batch
from reverie.rssm import State
from reverie.run.loop import Run
from reverie.run.tasks import make_envs
from reverie.train import DreamerV2, to_batch

from . import worlds
from .worlds import GAMMA, LQR, WORLDS, Delay, Dice, Grid, Recall

COMMON: dict[str, Any] = {
    "env.num_envs": 16,
    "rnn_hidden_dim": 64,
    "hidden_dim": 64,
    "vector_transform": "none",
    "reward_transform": "none",  # rewards are small: the head predicts the reward itself
    "kl_scale": 1.0,
    "free_nats": 0.0,
    "kl_balance": 0.8,
    # Seeing and being paid must be worth far more than the nats that it takes to say it: else rare things are left out.
    "vector_scale": 100.0,
    "reward_scale": 20.0,
    "gamma": GAMMA,
    "entropy_scale": 1e-3,
    "explore_noise": 0.2,  # a policy that is nearly perfect shows the model nothing else
    "batch_size": 32,
    "env_steps": 24000,  # steps are cheap here; with few of them the model learns them by heart
    "train_ratio": 0.12,
    # At a constant rate the heads' biases wander by 0.01 to the end, and a value adds them up over a whole dream.
    "lr_decay": 2900,
    "eval_every": 0,
    "eval_episodes": 1,
    "random_baseline": False,
    "checkpoint_every": 1e9,
    "tensorboard": False,
    "video": False,
    "threads": 1,
    "device": "cpu",
}
SETTINGS: dict[str, dict[str, Any]] = {
    "grid": {
        "num_categoricals": 4, "num_categories": 8, "seq_len": 8, "imagination_horizon": 8, "continue_scale": 5.0,
    },
    # A low rate: the reward head's bias wanders with the rate, and a value adds it up over nine steps.
    "delay": {
        "num_categoricals": 2, "num_categories": 8, "seq_len": 16, "imagination_horizon": 9, "world_model_lr": 3e-4,
        "batch_size": 64,  # with 32 one seed of three dreamt the start 7 % too high
    },
    # One categorical: the prior treats several as independent, so what they say twice counts twice in the KL.
    "dice": {"num_categoricals": 1, "num_categories": 16, "seq_len": 8, "imagination_horizon": 5},
    "recall": {
        "num_categoricals": 2, "num_categories": 8, "seq_len": 16, "imagination_horizon": 9, "world_model_lr": 6e-4,
    },
    # Gaussian latents, for the same reason: independent categoricals that share one noisy number average its noise
    # away in a dream (8 of them dreamt 0.13 of the 0.3), and the dream is then too good to be true.
    "lqr": {
        "latents": "gaussian", "gaussian_dim": 2, "vector_scale": 300.0, "imagination_horizon": 10,
        "seq_len": 20, "batch_size": 16,  # windows as long as the episodes, or the state drifts where it never learnt
        "kl_scale": 0.1, "actor_lr": 3e-4, "critic_lr": 5e-4, "entropy_scale": 1e-4, "explore_noise": 0.1,
    },
}  # fmt: skip


def settings(world: str, seed: int) -> Config:
    """Preset `vector`, made smaller, with what this world needs."""
    return load_preset("vector", COMMON | SETTINGS[world] | {"env.id": f"custom:{world}", "train.seed": seed})


class Figure(NamedTuple):
    """A measured number, what it should be, and the interval that it has to be in."""

    value: float
    truth: float
    low: float
    high: float

    @property
    def ok(self) -> bool:
        return bool(self.low <= self.value <= self.high)  # False for NaN

    @property
    def wanted(self) -> str:
        """The interval as text."""
        if self.high == np.inf:
            return f"at least {self.low:.4g}"
        return f"at most {self.high:.4g}" if self.low == -np.inf else f"{self.low:.4g} to {self.high:.4g}"

    def describe(self) -> str:
        """All of it, for the message of a failed test."""
        return f"measured {self.value:.4g}, truth {self.truth:.4g}, must be {self.wanted}"


def within(value: float, truth: float, share: float) -> Figure:
    """It must be within this share of the truth."""
    margin = abs(truth) * share
    return Figure(value, truth, truth - margin, truth + margin)


def at_least(value: float, low: float, *, truth: float) -> Figure:
    return Figure(value, truth, low, float("inf"))


def at_most(value: float, high: float, *, truth: float) -> Figure:
    return Figure(value, truth, float("-inf"), high)


# ------------------------------------------------------------------------------------------------------ held-out data


@dataclass(frozen=True)
class Episodes:
    """One whole episode of each of N environments, side by side: (N, T, ...), and what the model makes of them."""

    batch: Batch
    inside: Tensor  # (N, T) bool: the first episode, without what was played after its end
    posterior: State
    prior: Tensor  # statistics of the prior

    @property
    def feat(self) -> Tensor:
        return self.posterior.feat

    def returns(self, gamma: float) -> np.ndarray:
        """Discounted sums of the rewards that were really received. -> (N,)."""
        discounts = gamma ** torch.arange(self.inside.shape[1])
        return (self.batch.reward * self.inside * discounts).sum(1).numpy()


@torch.no_grad()
def play(agent: DreamerV2, env: Callable[[], worlds.World], *, mode: str, seed: int, count: int = 256) -> Episodes:
    """Play `count` episodes, mode "random" or one of the player's, and filter them from their reset on.

    One episode of each environment: to count whatever ends first would favour short ones.
    """
    envs = make_envs(agent.config, env, count)
    player = agent.player(num_envs=count, mode="train" if mode == "random" else mode, seed=seed)
    rng = np.random.default_rng(seed)
    act = (lambda obs, first: agent.spec.action.random(rng, count)) if mode == "random" else player.act
    rows = []
    for row, _ in Collector(envs, seed=seed).rows(act):
        rows.append(row)
        if len(rows) > env().limit:
            break
    envs.close()
    stacked = {key: np.stack([row[key] for row in rows], 1) for key in rows[0]}
    obs = {key[4:]: stacked.pop(key) for key in list(stacked) if key.startswith("obs/")}
    batch = to_batch(Batch(obs, **stacked))
    return Episodes(batch, batch.is_first.cumsum(1) == 1, *filtered(agent, batch))


def filtered(agent: DreamerV2, batch: Batch) -> tuple[State, Tensor]:
    """The posterior states of these steps, z sampled again, and the statistics of the prior."""
    model = agent.world_model
    embed = model.encoder(model.preprocess(batch.obs))
    return model.rssm.rollout_observation(embed, batch.action, batch.is_first)


@torch.no_grad()
def predictions(agent: DreamerV2, episodes: Episodes, *, draws: int = 64) -> tuple[Tensor, Tensor]:
    """Expected reward and continue at every step, the mean over draws of z: the model's answer, not one sample's."""
    rewards, continues = (torch.zeros_like(episodes.batch.reward) for _ in range(2))
    for _ in range(draws):
        feat = filtered(agent, episodes.batch)[0].feat
        rewards += agent.world_model.head("reward")(feat) / draws
        continues += agent.world_model.continues(feat) / draws
    return rewards, continues


@torch.no_grad()
def critic_values(agent: DreamerV2, start: State) -> Tensor:
    """What the critic says of these states. State of (N, ...) -> (N,)."""
    return agent.critic(start.feat)


@torch.no_grad()
def lambda_returns(agent: DreamerV2, start: State, *, dreams: int = 8) -> Tensor:
    """What the critic is trained towards at these states, the mean of some dreams. start of (N, ...) -> (N,)."""
    options, total = agent.config.behavior, torch.zeros(len(start.deter))
    for _ in range(dreams):
        feat = agent.imagine(start).feat
        continues = agent.world_model.continues(feat[:, :-1])
        continues[:, 0] = 1.0  # known: these starts have not ended
        rewards, values = agent.world_model.head("reward")(feat[:, :-1]), agent.critic(feat)
        total += compute_lambda_returns(
            rewards, values, continues, gamma=options.gamma, lambda_=options.lambda_
        )[:, 0]  # fmt: skip
    return total / dreams


@torch.no_grad()
def imagined_rewards(agent: DreamerV2, start: State, actions: Tensor) -> Tensor:
    """Predicted rewards of an open-loop rollout with these actions. start (N, ...), actions (N, H, A) -> (N, H + 1).

    Column 0 is the start's own reward, column k that of the state after k actions.
    """
    queue = iter(actions.unbind(1))
    dream = agent.world_model.rssm.rollout_imagination(lambda feat: next(queue), start, actions.shape[1])
    return agent.world_model.head("reward")(dream.feat)


def states(episodes: Episodes, where: Tensor | int) -> State:
    """The filtered states at a mask (N, T), or at one time. -> State of (M, ...)."""
    index = where if isinstance(where, Tensor) else (slice(None), where)
    return State(*(part[index] for part in episodes.posterior))


# ------------------------------------------------------------------------------------------------ one world at a time


def measure_grid(agent: DreamerV2, seed: int) -> dict[str, Figure]:
    """Rewards, ends and values at every state of the agent's and of random episodes; the policy by its return."""
    own, random = (play(agent, Grid, mode=mode, seed=seed) for mode in ("train", "random"))
    inside = torch.cat([own.inside, random.inside])
    feat = torch.cat([own.feat, random.feat])[inside]
    reward, terminal, last = (
        torch.cat([getattr(own.batch, key), getattr(random.batch, key)])[inside]
        for key in ("reward", "is_terminal", "is_last")
    )
    cell = torch.cat([own.batch.obs["observation"], random.batch.obs["observation"]])[inside].argmax(-1)
    with torch.no_grad():
        chances = agent.actor(feat).log_probs.exp()
        policy = torch.stack([chances[cell == c].mean(0) for c in range(Grid.cells)]).double().numpy()
    answers = zip(predictions(agent, own), predictions(agent, random), strict=True)
    rewards, continues = (torch.cat(pair)[inside] for pair in answers)
    true_values = worlds.grid_values(policy / policy.sum(1, keepdims=True))
    starts = own.batch.obs["observation"][:, 0].argmax(-1).numpy()
    at_start = states(own, 0)
    critic = critic_values(agent, at_start).numpy()
    dreamt = lambda_returns(agent, at_start).numpy()
    truth = true_values[starts]
    best = worlds.grid_optimal_values()[starts].mean()
    return {
        "discounted return / optimum": at_least(own.returns(GAMMA).mean() / best, 0.95, truth=1.0),
        "reward at the goal, least": at_least(float(rewards[reward > 0].min()), 0.9, truth=1.0),
        "reward elsewhere, largest": at_most(float(rewards[reward == 0].abs().max()), 0.05, truth=0.0),
        "continue at the goal, most": at_most(float(continues[terminal].max()), 0.1, truth=0.0),
        "continue elsewhere, least": at_least(float(continues[~terminal].min()), 0.95, truth=1.0),
        "continue at time limits, least": at_least(float(continues[last & ~terminal].min()), 0.95, truth=1.0),
        "lambda-return of starts": within(float(dreamt.mean()), truth.mean(), 0.05),
        "critic at starts": within(float(critic.mean()), truth.mean(), 0.05),
        "lambda-return, worst start cell": at_most(_worst(dreamt, truth, starts), 0.1, truth=0.0),
    }


def _worst(values: np.ndarray, truth: np.ndarray, groups: np.ndarray) -> float:
    """Largest relative error of the mean of a group."""
    return max(abs(values[groups == g].mean() / truth[groups == g].mean() - 1) for g in np.unique(groups))


def measure_delay(agent: DreamerV2, seed: int) -> dict[str, Figure]:
    """When and how much reward is expected after each first action, filtered and dreamed; the policy."""
    own, random = (play(agent, Delay, mode=mode, seed=seed) for mode in ("train", "random"))
    choice = random.batch.action[:, 1].argmax(-1)
    true = torch.stack([torch.as_tensor(worlds.delay_rewards(int(c))) for c in choice]).float()
    with torch.no_grad():
        seen = agent.world_model.head("reward")(random.feat)
        policy = agent.actor(own.feat[:, 0]).log_probs.exp().mean(0).double().numpy()
    dreamt = imagined_rewards(agent, states(random, 0), random.batch.action[:, 1:])
    truth = worlds.delay_value(policy / policy.sum())
    at_start = states(own, 0)
    critic = float(critic_values(agent, at_start).mean())
    figures = {"return": at_least(own.returns(1.0).mean(), 0.95, truth=1.0)}
    for name, rewards in (("seen", seen), ("dreamt", dreamt)):
        late = rewards[choice == 1]
        figures |= {
            f"{name}: late reward on its step": at_least(
                float((late.argmax(1) == Delay.delay).float().mean()), 1.0, truth=1.0
            ),
            f"{name}: late reward": within(float(late[:, Delay.delay].mean()), Delay.late, 0.1),
            f"{name}: early reward": within(float(rewards[choice == 0][:, 1].mean()), Delay.early, 0.1),
            f"{name}: error elsewhere, mean": at_most(float((rewards - true)[true == 0].abs().mean()), 0.05, truth=0),
        }
    return figures | {
        "lambda-return of the start": within(float(lambda_returns(agent, at_start).mean()), truth, 0.05),
        "critic at the start": within(critic, truth, 0.05),
    }


def measure_dice(agent: DreamerV2, seed: int) -> dict[str, Figure]:
    """The news of each throw, the chances that the prior gives to the faces, the value of betting, the bets."""
    own = play(agent, Dice, mode="train", seed=seed, count=512)
    later = own.inside & ~own.batch.is_first
    rssm, head = agent.world_model.rssm, agent.world_model.head
    with torch.no_grad():
        kl = rssm.latent.kl(own.posterior.stats[later], own.prior[later])
        guess = rssm.prior(own.posterior.deter[later])  # z from the prior: a dreamt throw
        face = head("obs/observation")(guess.feat).argmax(-1)
        known = head("obs/observation")(own.feat[later]).argmax(-1)
        policy = agent.actor(own.feat[:, :-1]).log_probs.exp().flatten(0, 1).mean(0).numpy()
    at_start = states(own, 0)
    critic = float(critic_values(agent, at_start).mean())
    true_face = own.batch.obs["observation"][later].argmax(-1)
    dreamt = torch.bincount(face, minlength=4) / len(face)
    far = 0.5 * float((dreamt - torch.tensor(Dice.chances)).abs().sum())
    truth = worlds.dice_value(float(policy @ np.array(Dice.chances)))
    best = max(Dice.chances) * Dice.limit
    return {
        "KL(posterior || prior), nats": within(float(kl.mean()), worlds.dice_entropy(), 0.1),
        "faces recognised": at_least(float((known == true_face).float().mean()), 0.99, truth=1.0),
        "dreamt faces, total variation": at_most(far, 0.05, truth=0.0),
        "return / optimum": at_least(own.returns(1.0).mean() / best, 0.95, truth=1.0),
        "lambda-return of starts": within(float(lambda_returns(agent, at_start).mean()), truth, 0.05),
        "critic at starts": within(critic, truth, 0.05),
    }


def measure_recall(agent: DreamerV2, seed: int) -> dict[str, Figure]:
    """Is the bit still known at the question? By the rewards expected for each answer, and by what is answered."""
    own, random = (play(agent, Recall, mode=mode, seed=seed) for mode in ("train", "random"))
    bit = random.batch.obs["observation"][:, 0].argmax(-1)
    asked = states(random, Recall.wait)
    answers = torch.eye(2)
    expected = torch.stack(
        [imagined_rewards(agent, asked, answers[a].expand(len(bit), 1, 2))[:, 1] for a in range(2)], 1
    )
    right, wrong = expected.gather(1, bit[:, None]), expected.gather(1, 1 - bit[:, None])
    score = float(own.returns(1.0).mean())
    at_start = states(own, 0)
    critic = float(critic_values(agent, at_start).mean())
    truth = worlds.recall_value(score)
    return {
        "return": at_least(score, 0.95, truth=1.0),
        "bit decoded at the question": at_least(float((right > wrong).float().mean()), 0.97, truth=1.0),
        "expected reward of the right answer": at_least(float(right.mean()), 0.9, truth=1.0),
        "expected reward of the wrong answer": at_most(float(wrong.mean()), 0.1, truth=0.0),
        "lambda-return of starts": within(float(lambda_returns(agent, at_start).mean()), truth, 0.05),
        "critic at starts": within(critic, truth, 0.05),
    }


def measure_lqr(agent: DreamerV2, seed: int) -> dict[str, Figure]:
    """The cost of the most likely action beside the Riccati optimum, and the value of the sampled policy."""
    best = play(agent, LQR, mode="eval", seed=seed, count=1024)
    own = play(agent, lambda: LQR(limit=100), mode="train", seed=seed, count=512)  # 0.95^100 = 0.6 % is left out
    x0 = best.batch.obs["observation"][:, 0, 0].double().numpy()
    _, square, constant = worlds.lqr_optimum(LQR.limit, 1.0)
    optimum = float((square * x0**2 + constant).mean())  # of these very starts
    truth = float(own.returns(GAMMA).mean())
    at_start = states(own, 0)
    critic = float(critic_values(agent, at_start).mean())
    with torch.no_grad():
        continues = agent.world_model.continues(own.feat)
    return {
        "cost / Riccati optimum": at_most(-best.returns(1.0).mean() / optimum, 1.1, truth=1.0),
        "lambda-return of starts": within(float(lambda_returns(agent, at_start).mean()), truth, 0.1),
        "critic at starts": within(critic, truth, 0.2),
        "continue, least": at_least(float(continues.min()), 0.95, truth=1.0),
    }


MEASURES = {
    "grid": measure_grid,
    "delay": measure_delay,
    "dice": measure_dice,
    "recall": measure_recall,
    "lqr": measure_lqr,
}


def train(world: str, seed: int) -> DreamerV2:
    """A whole run in a directory that is thrown away."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        return Run(settings(world, seed), f"{directory}/run", WORLDS[world]).train()


def measure(world: str, seed: int) -> tuple[dict[str, Figure], float]:
    """Train one world with one seed. -> {name: Figure}, seconds of training."""
    began = time.monotonic()
    agent = train(world, seed)
    seconds = time.monotonic() - began
    return MEASURES[world](agent, 1_000_000 + seed), seconds
