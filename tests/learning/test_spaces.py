"""Every kind of observation and of action is learnt: the task of `targets.py`, to 90 % of its optimum."""

import pytest
import torch
from learning.targets import ANSWERED, LENGTH, SHOWN, TargetEnv

import reverie

STEPS = 5000
SETTINGS = {
    "num_envs": 4, "backend": "sync", "image_size": 16, "num_categoricals": 8, "num_categories": 8,
    "rnn_hidden_dim": 64, "hidden_dim": 64, "layers": 1, "actor_critic_layers": 1, "embed_dim": 0, "cnn_depth": 8,
    "conv_norm": False, "zero_init": True, "reward_transform": "none", "kl_scale": 0.1, "free_nats": 0.0,
    "vector_transform": "standardize", "world_model_lr": 1e-3, "imagination_horizon": 5, "imagination_starts": 64,
    "gamma": 0.9, "actor_lr": 1e-3, "critic_lr": 1e-3, "entropy_scale": 1e-2, "slow_critic_every": 20, "prefill": 500,
    "pretrain": 50, "train_ratio": 0.3, "batch_size": 16, "seq_len": 8, "eval_every": 0, "eval_episodes": 50,
    "forecast": False, "random_baseline": False, "video": False, "tensorboard": False, "reward_scale": 1.0,
}  # fmt: skip


def learn(shown, answered, run, steps, **settings):
    """Train, then the mean reward of 50 greedy episodes; the optimum is 1."""
    torch.set_num_threads(1)
    agent = reverie.Dreamer(lambda: TargetEnv(shown, answered), preset="default", run=run, settings=SETTINGS | settings)
    agent.learn(env_steps=steps, quiet=True)
    return agent.evaluate(50).mean / LENGTH


@pytest.mark.slow
@pytest.mark.parametrize("shown", SHOWN)
def test_every_kind_of_observation_is_learnt(shown, tmp_path):
    assert learn(shown, "discrete", tmp_path / "run", STEPS) >= 0.9  # random: 0.25


@pytest.mark.slow
@pytest.mark.parametrize("answered", ANSWERED)
def test_every_kind_of_action_is_learnt(answered, tmp_path):
    TargetEnv.forbidden = TargetEnv.taken = 0
    assert learn("discrete", answered, tmp_path / "run", STEPS) >= 0.9
    assert TargetEnv.forbidden == 0
    assert (TargetEnv.taken > STEPS) == (answered == "masked")


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["symlog", "running"])
def test_vectors_of_different_scales_are_learnt(transform, tmp_path):
    assert learn("vector", "discrete", tmp_path / "run", STEPS, vector_transform=transform) >= 0.9
