"""Faults that are planted before training, each a setting or a patch, and the verdict that the doctor should reach.

`python -m tests.planted.run NAME SEED DIRECTORY` trains with one of them in a process of its own and asks the doctor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: The tasks and their training: shipped presets, shortened, without output that is not needed.
_QUICK = {"tensorboard": False, "video": False, "eval_every": 0, "eval_episodes": 5, "forecast": False}
_QUICK |= {"checkpoint_every": 1e6, "backend": "sync", "log_every": 1.0, "threads": 1}
_SMALL = {"num_categories": 8, "num_categoricals": 8, "rnn_hidden_dim": 64, "hidden_dim": 64, "layers": 1}
_SMALL |= {"actor_critic_layers": 1, "imagination_horizon": 10, "imagination_starts": 64}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "minigrid": ("demo", _QUICK | {"env_steps": 3000}),
    "cartpole": ("vector", _QUICK | _SMALL | {"env.id": "CartPole-v1", "env_steps": 4000}),
    "pendulum": ("vector", _QUICK | _SMALL | {"env.id": "Pendulum-v1", "env_steps": 4000}),
}


@dataclass(frozen=True)
class Fault:
    """One mistake, the task that shows its effect, and the expected verdicts."""

    task: str
    verdicts: tuple[str, ...]  # any of these is correct
    settings: dict[str, Any] = field(default_factory=dict)
    patch: Callable[[], None] | None = None


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


def reward_x10000() -> None:
    """Multiply all rewards by 10,000."""
    from reverie.data.replay import Replay

    usual = Replay.add

    def add(self: Any, rows: Any, streams: Any = None) -> None:
        usual(self, {**rows, "reward": rows["reward"] * 10_000}, streams)

    Replay.add = add  # type: ignore[method-assign]


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


FAULTS: dict[str, Fault] = {
    "free-nats-1000": Fault("minigrid", ("prior not learning",), {"free_nats": 1000.0}),
    "kl-x1000": Fault("minigrid", ("posterior collapse",), {"kl_scale": 500.0}),
    "decoder-detached": Fault("minigrid", ("posterior collapse",), {"detached_heads": "obs"}),
    "tied-logits": Fault("cartpole", ("categorical degeneracy",), patch=tied_logits),
    "lr-x100": Fault("cartpole", ("unstable",), {"world_model_lr": 0.1}),
    "reward-x10000": Fault("cartpole", ("bad input scaling", "critic diverging"), patch=reward_x10000),
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
