"""Faults that are planted before training, each a setting or a patch, and the verdict that the doctor should reach.

`python -m tests.planted.run NAME SEED DIRECTORY` trains with one of them in a process of its own and asks the doctor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.planted.tasks import Catch, Constant, Noise, Symbols

#: The tasks and their training: shipped presets, shortened, without output that is not needed.
_QUICK = {"tensorboard": False, "video": False, "eval_every": 0, "eval_episodes": 5, "forecast": False}
_QUICK |= {"checkpoint_every": 1e6, "backend": "sync", "log_every": 1.0, "threads": 1}
_SMALL = {"num_categories": 8, "num_categoricals": 8, "rnn_hidden_dim": 64, "hidden_dim": 64, "layers": 1}
_SMALL |= {"actor_critic_layers": 1, "imagination_horizon": 10, "imagination_starts": 64}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "minigrid": ("demo", _QUICK | {"env_steps": 3000, "eval_episodes": 8}),
    "cartpole": ("vector", _QUICK | _SMALL | {"env.id": "CartPole-v1", "env_steps": 3200}),
    "pendulum": ("vector", _QUICK | _SMALL | {"env.id": "Pendulum-v1", "env_steps": 6000}),
    "acrobot": ("vector", _QUICK | _SMALL | {"env.id": "Acrobot-v1", "env_steps": 3000, "eval_episodes": 4}),
    "pixel-cartpole": ("demo", _QUICK | {"env.id": "CartPole-v1", "env.pixels": True, "env_steps": 3000}),
    "endless": ("vector", _QUICK | _SMALL | {"env_steps": 2900, "random_baseline": False, "eval_episodes": 1}),
    "catch": ("demo", _QUICK | {"env.id": "", "image_size": 16, "eval_episodes": 20, "env_steps": 3200}),
    "big-catch": ("demo", _QUICK | {"env.id": "", "eval_episodes": 20, "env_steps": 3000}),
    "symbols": ("vector", _QUICK | _SMALL | {"env_steps": 2700}),
    "recall-12": ("vector", _QUICK | _SMALL | {"env_steps": 2700, "seq_len": 8}),
    "noise": ("vector", _QUICK | _SMALL | {"env_steps": 2700}),
    "constant": ("vector", _QUICK | _SMALL | {"env_steps": 2700}),
}


def _endless() -> Any:
    from gymnasium.envs.classic_control import PendulumEnv

    return PendulumEnv()


#: The tasks that are learned well enough in that time to be called healthy, beside the fault `unforeseeable`, which
#: is none. Not Catch, where the model is blind with the demo preset (0.06 nats of information after 598 updates).
HEALTHY = ("minigrid", "cartpole", "pendulum")

#: What makes the environment of a task that has no id.
ENVS: dict[str, Callable[[], Any]] = {
    "endless": _endless,
    "catch": Catch,
    "big-catch": partial(Catch, side=112, ball=6, cells=8),
    "symbols": Symbols,
    "recall-12": partial(Symbols, lag=12),
    "noise": Noise,
    "constant": Constant,
}


@dataclass(frozen=True)
class Fault:
    """One mistake, the task that shows its effect, and the expected verdicts."""

    task: str
    verdicts: tuple[str, ...]  # any of these is correct
    settings: dict[str, Any] = field(default_factory=dict)
    patch: Callable[[], None] | None = None
    never: tuple[str, ...] = ()  # verdicts that would be wrong, wherever they stand


# ------------------------------------------------------------------------------------------------------------ patches


def _plain_rssm() -> None:
    """Turn off the fast path, which would not use what the patches below change."""
    from reverie.fast.scan import FastRSSM

    FastRSSM.fits = lambda self: False  # type: ignore[method-assign]


def tied_logits() -> None:
    """Give all categoricals the same distribution."""
    from reverie.rssm import CategoricalLatent

    _plain_rssm()
    usual = CategoricalLatent.logits

    def logits(self: Any, stats: Any) -> Any:
        found = usual(self, stats)
        return found[..., :1, :].expand(found.shape)

    CategoricalLatent.logits = logits  # type: ignore[method-assign]


def rewards_times(factor: float) -> None:
    """Multiply what the environments pay, before anything else sees it."""
    from reverie.data.replay import Replay

    usual = Replay.add

    def add(self: Any, rows: Any, streams: Any = None) -> None:
        usual(self, {**rows, "reward": rows["reward"] * factor}, streams)

    Replay.add = add  # type: ignore[method-assign]


def short_evaluations() -> None:
    """Cut evaluations that would play 30,000 steps of an endless task. Not a fault."""
    from reverie.run import evaluation

    evaluation.MAX_LENGTH = 300  # type: ignore[misc]


def action_shifted() -> None:
    """Train the model with the action out of a step instead of the one into it."""
    from reverie.world_model import WorldModel

    usual = WorldModel.loss

    def loss(self: Any, batch: Any, noise: Any = None) -> Any:
        return usual(self, batch._replace(action=batch.action.roll(-1, 1).nan_to_num()), noise)

    WorldModel.loss = loss  # type: ignore[method-assign]


def is_first_ignored() -> None:
    """Keep the recurrent state from one episode to the next."""
    from reverie.rssm import DiscreteRSSM

    _plain_rssm()

    def observe(self: Any, state: Any, action: Any, embed: Any, is_first: Any, noise: Any = None) -> Any:
        return self.posterior(self.recurrent_step(state, action.nan_to_num()), embed, noise)

    DiscreteRSSM.observe = observe  # type: ignore[method-assign]


def continue_inverted() -> None:
    """Train the continue head to predict ends instead of continuations."""
    from reverie.world_model import WorldModel

    usual = WorldModel.targets

    def targets(self: Any, batch: Any, obs: Any) -> Any:
        return usual(self, batch, obs) | {"continue": batch.is_terminal.float()}

    WorldModel.targets = targets  # type: ignore[method-assign]


def unscaled_images() -> None:
    """Pass images to the networks as 0..255."""
    from reverie import world_model

    usual = world_model.preprocess

    def preprocess(obs: Any, image_keys: Any, *, vector_transform: str) -> Any:
        out = usual(obs, image_keys, vector_transform=vector_transform)
        return {key: (value + 0.5) * 255 if key in image_keys else value for key, value in out.items()}

    world_model.preprocess = preprocess  # type: ignore[assignment]


#: The faults of the first doctor.
OLD: dict[str, Fault] = {
    "free-nats-1000": Fault("minigrid", ("prior not learning",), {"free_nats": 1000.0}),
    "kl-x1000": Fault("minigrid", ("posterior collapse",), {"kl_scale": 500.0}),
    "decoder-detached": Fault("minigrid", ("posterior collapse",), {"detached_heads": "obs"}),
    "tied-logits": Fault("cartpole", ("categorical degeneracy",), patch=tied_logits),
    "lr-x100": Fault("cartpole", ("unstable",), {"world_model_lr": 0.1}),
    "reward-x10000": Fault("cartpole", ("bad input scaling", "critic diverging"), patch=partial(rewards_times, 10_000)),
    "kl-balance-reversed": Fault("cartpole", ("prior not learning",), {"kl_balance": 0.2}),
    "action-shifted": Fault("minigrid", ("actions ignored",), patch=action_shifted),
    "is-first-ignored": Fault("cartpole", ("memory leaks",), patch=is_first_ignored),
    "continue-inverted": Fault("cartpole", ("continue head miscalibrated",), patch=continue_inverted),
    "entropy-1": Fault("minigrid", ("actor random",), {"entropy_scale": 1.0, "entropy_final": 1.0}),
    "entropy-0": Fault("minigrid", ("actor collapsed",), {"entropy_scale": 0.0, "entropy_final": 0.0}),
    "one-episode-replay": Fault("cartpole", ("starved replay",), {"replay_capacity": 128}),
    "unscaled-images": Fault("minigrid", ("bad input scaling",), patch=unscaled_images),
    "frozen-target": Fault("cartpole", ("critic diverging",), {"slow_critic_every": 1_000_000}),
}

#: What the doctor got wrong, or did not see, on the runs of users.
NEW: dict[str, Fault] = {
    "blind-collapse": Fault(
        "catch", ("early collapse", "posterior collapse"), {"actor_lr": 1e-2, "kl_scale": 20.0, "entropy_scale": 1e-3}
    ),
    "acrobot-stuck": Fault(
        "acrobot",
        ("reward never varies", "no better than random", "early collapse"),
        {"entropy_scale": 1e-3},
        never=("healthy", "reward head blind"),
    ),
    "constant-reward": Fault("constant", ("reward never varies",), never=("reward head blind",)),
    "small-rewards": Fault("minigrid", ("rewards too small",), patch=partial(rewards_times, 0.01)),
    "unforeseeable": Fault(
        "symbols", ("healthy", "observations unforeseeable"), never=("prior not learning", "imagination drift")
    ),
    "short-window": Fault("recall-12", ("window too short",), never=("prior not learning",)),
    "pure-noise": Fault("noise", ("nothing to learn", "too early to tell"), never=("prior not learning", "healthy")),
    "endless": Fault("endless", ("no episode has ended",), patch=short_evaluations),
    "shrunken-image": Fault("big-catch", ("image too small",), {"image_size": 8}),
    "worse-than-random": Fault(
        "cartpole", ("worse than random",), {"reward_transform": "none"}, partial(rewards_times, -1.0), ("healthy",)
    ),
    "one-sided": Fault("cartpole", ("one-sided advantages",), {"critic_lr": 1e-7}),
    "unimix-floor": Fault(
        "minigrid", ("actor collapsed",), {"entropy_scale": 0.0, "entropy_final": 0.0, "policy_unimix": 0.01}
    ),
    "blind-by-kl": Fault("minigrid", ("posterior collapse",), {"kl_scale": 30.0}, never=("prior not learning",)),
    "349-updates": Fault("pixel-cartpole", ("too early to tell",), {"env_steps": 2196}, never=("imagination drift",)),
}
FAULTS = OLD | NEW
