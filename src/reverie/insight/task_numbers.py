"""What the task gives the agent to learn from: rewards, ends, the size of what is seen, and what can be foreseen.

Measured on the replay, nearly without the model. Pure functions without verdicts (those are in `rules_task.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from ..observations import CUT_AT
from ..train import DreamerV2
from .foresight import Foresight, foresee
from .run_reader import Experience

#: A pixel moves if it differs from its mean by more than this share of the range from black to white.
MOVES = 0.1


@dataclass(frozen=True)
class ImageNumbers:
    """How much of an image moves."""

    moving: float  # pixels that differ from their mean, in the median image
    shown: int  # shorter side as the agent sees it
    native: int  # shorter side as the environment gives it


@dataclass(frozen=True)
class TaskNumbers:
    """Measurements of the task."""

    paid: tuple[float, float] = (0.0, 0.0)  # lowest and highest reward of an action; first steps have none
    ended: int = 0  # episodes that ended in the sample
    shown_images: dict[str, ImageNumbers] = field(default_factory=dict)
    worth: dict[str, float] = field(default_factory=dict)  # nats that knowing an observation exactly saves in the loss
    cut: dict[str, float] = field(default_factory=dict)  # share of steps in which a scaled number is cut off, by key
    foresight: Foresight | None = None

    @property
    def constant(self) -> bool:
        """Whether every action paid the same."""
        return self.paid[1] - self.paid[0] <= 1e-6 * max(1.0, abs(self.paid[1]))


def task_numbers(agent: DreamerV2, experience: Experience, obs: Mapping[str, Tensor]) -> TaskNumbers:
    """obs: preprocessed observations of a sample, (B, T, ...)."""
    rewards = [segment.rows["reward"][~segment.rows["is_first"]] for segment in experience.segments]
    paid = np.concatenate(rewards) if rewards else np.zeros(0)
    return TaskNumbers(
        paid=(float(paid.min()), float(paid.max())) if len(paid) else (0.0, 0.0),
        ended=sum(int(segment.rows["is_last"].sum()) for segment in experience.segments),
        shown_images=_image_numbers(agent, obs),
        worth=_worth(agent, obs),
        cut=_cut(agent, obs),
        foresight=foresee(experience, window=agent.config.train.seq_len),
    )


def _image_numbers(agent: DreamerV2, obs: Mapping[str, Tensor]) -> dict[str, ImageNumbers]:
    found = {}
    for key, item in agent.spec.obs.items():
        if item.kind == "image" and key in obs:
            images = obs[key].float().flatten(0, 1)  # (N, C, H, W)
            moved = ((images - images.mean(0)).abs().amax(1) > MOVES).float().sum((-2, -1))
            native = item.raw_shape[{"hwc": 0, "shwc": 1}.get(item.layout, -2) :][:2]
            found[key] = ImageNumbers(float(moved.median()), min(item.shape[:2]), min(native))
    return found


def _worth(agent: DreamerV2, obs: Mapping[str, Tensor]) -> dict[str, float]:
    """Half of the summed variance, times the loss's weight: what the best decoder gains over the mean."""
    model, images = agent.config.model, agent.world_model.encoder.image_keys
    found = {}
    for key, value in obs.items():
        if key in agent.world_model.choice_keys:  # which have no weight to raise
            continue
        if "obs/" + key.replace(".", "_") in agent.world_model.heads:
            spread = float(value.float().flatten(0, 1).var(0, correction=0).sum())
            found[key] = 0.5 * spread * (model.image_scale if key in images else model.vector_scale)
    return found


def _cut(agent: DreamerV2, obs: Mapping[str, Tensor]) -> dict[str, float]:
    """How often a vector goes further than `CUT_AT` deviations, where different values look the same to the model."""
    if not agent.world_model.standardizers:
        return {}
    keys = [key for key in agent.world_model.scaled_keys if key in obs]
    return {key: float((obs[key].abs() >= CUT_AT).any(-1).float().mean()) for key in keys}


def floor_entropy(agent: DreamerV2) -> float:
    """The entropy in nats that `policy_unimix` leaves to a policy that is certain; NaN if any actions are numbers."""
    if agent.spec.action.kind != "discrete":
        return math.nan
    share = agent.config.behavior.policy_unimix
    total = 0.0
    for group in agent.spec.action.groups:
        size = max(2, group.size)
        rest = share / size
        probs = np.array([1 - share + rest] + [rest] * (size - 1))
        total += group.copies * float(-(probs * np.log(np.maximum(probs, 1e-12))).sum())
    return total


def relative_entropy(entropy: float, floor: float, most: float) -> float:
    """The share of the way from the floor to the uniform policy: 0 is certain, 1 is uniform."""
    return (entropy - floor) / max(most - floor, 1e-9)
