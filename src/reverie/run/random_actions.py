"""The random actions before learning begins, held and masked as the settings say."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from ..config import Config
from ..data.collect import Collector
from ..envs.spaces import MASK, Spec
from ..ops import renewed
from ..player import forbidden


class Explorer(Protocol):
    """What random actions depend on: a run, or the part of one that a collector does elsewhere."""

    config: Config
    spec: Spec
    collector: Collector
    rng: np.random.Generator


def random_action(who: Explorer, obs: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
    """obs {key: (N, *shape)}, is_first (N,) bool -> actions (N, A)."""
    drawn = who.spec.action.random(who.rng, len(is_first), obs.get(MASK))
    action = _kept_action(who, drawn, obs, is_first)
    longest = who.config.behavior.explore_hold
    if longest <= 1 or MASK in obs:  # what was allowed may not be any more
        return action
    draw = torch.from_numpy(who.rng.random(len(is_first)))
    fresh = renewed(draw, longest).numpy() | is_first
    return np.where(fresh[:, None], action, who.collector.last_action)


def _kept_action(who: Explorer, action: np.ndarray, obs: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
    """`behavior.action_hold` for random actions. action (N, A) -> (N, A)."""
    hold, collector = who.config.behavior.action_hold, who.collector
    if hold == 1:
        return action
    last = np.nan_to_num(collector.last_action)  # NaN where an episode begins
    fresh = is_first | (collector.lengths % hold == 0)
    if MASK in obs:
        fresh = fresh | forbidden(torch.from_numpy(last), torch.from_numpy(obs[MASK])).numpy()
    return np.where(fresh[:, None], action, last)
