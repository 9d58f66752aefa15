"""How well a score warns: the area under its ROC curve, with an interval that knows of episodes.

`alarm_by_horizon` compares the disagreement of an ensemble, k steps into a dream, with scores that need no ensemble:
the entropy of the prior, and (with a look at what came) the surprise. A score that warns of the next step need not warn
of the fifteenth: dreams are drawn to what the model knows, and members then agree about a dream that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.replay import Batch
from ..errors import UserError
from ..train import DreamerV2
from .drift import open_loop, with_plain_stoch
from .run_reader import private_generator

#: Steps into a dream at which an alarm is judged.
HORIZONS = (1, 5, 15)


class AlarmScore(NamedTuple):
    """How well one score separates strange steps from usual ones."""

    auroc: float
    low: float  # 95 %, over episodes drawn again
    high: float


@torch.no_grad()
def alarm_by_horizon(
    agent: DreamerV2,
    batch: Batch,
    *,
    context: int = 5,
    horizons: Sequence[int] = HORIZONS,
    strange: Tensor | None = None,
    episode: np.ndarray | None = None,
    seed: int = 0,
) -> dict[int, dict[str, AlarmScore]]:
    """{k: {score: AlarmScore}} for dreams from given windows, with the recorded actions (drawing in `data/replay.py`).

    batch: tensors (N, context + H, ...) of one episode each, H at least the largest horizon. strange (N, context + H)
    bool: which steps an alarm should name; None: those whose predicted observation is among the worst tenth at that
    horizon. episode (N,): which episode a window is of; None: each of its own. Raises UserError without an ensemble.
    """
    if agent.ensemble is None:
        raise UserError("the agent has no ensemble.", "Train it with ensemble.members=5.")
    model, longest, chance = agent.world_model, max(horizons), private_generator(seed)
    steps = context + longest
    obs = {key: value[:, :steps] for key, value in model.preprocess(batch.obs).items()}
    noise = model.rssm.latent.noise(len(batch.reward), steps, generator=chance).to(agent.device)
    seen, _ = model.rssm.rollout_observation(
        model.encoder(obs), batch.action[:, :steps], batch.is_first[:, :steps], noise=noise
    )
    posterior = with_plain_stoch(seen)
    start = type(posterior)(*(x[:, context - 1] for x in posterior))
    actions = batch.action[:, context:steps]
    dreamt = open_loop(model, start, actions, noise[:, context:])
    feat = torch.cat([start.feat[:, None], dreamt.feat], 1)
    ahead = type(posterior)(*(x[:, context:] for x in posterior))
    scores = {
        "disagreement": agent.ensemble.of_arrivals(feat, actions),
        "prior entropy": model.rssm.latent.entropy(dreamt.stats),
        "surprise": model.rssm.latent.kl(ahead.stats, dreamt.stats),  # needs the look
    }
    wrong = _errors(agent, dreamt.feat, {key: value[:, context:] for key, value in obs.items()})
    labels = wrong > wrong.quantile(0.9, 0) if strange is None else strange[:, context:steps]
    rows = np.arange(len(wrong)) if episode is None else episode
    return {
        k: {name: _judge(value[:, k - 1], labels[:, k - 1], rows) for name, value in scores.items()} for k in horizons
    }


def _errors(agent: DreamerV2, feat: Tensor, obs: dict[str, Tensor]) -> Tensor:
    """What the decoders pay for the true observations, summed. feat (N, H, F), obs {key: (N, H, ...)} -> (N, H)."""
    model = agent.world_model
    names = [name for name in model.heads if name.startswith("obs/")]
    targets = {f"obs/{key.replace('.', '_')}": value for key, value in obs.items()}
    return torch.stack([model.head(name).loss(feat, targets[name]) for name in names]).sum(0)


def _judge(score: Tensor, label: Tensor, episode: np.ndarray) -> AlarmScore:
    scores, labels = score.float().cpu().numpy(), label.cpu().numpy()
    return AlarmScore(auroc(scores, labels), *auroc_interval(scores, labels, episode))


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The chance that a positive step scores higher than a negative one, ties counted half (Mann and Whitney).

    scores (N,), positive (N,) bool -> 0..1; 0.5 is guessing, NaN without both kinds.
    """
    scores, positive = np.asarray(scores, float), np.asarray(positive, bool)
    above, below = int(positive.sum()), int((~positive).sum())
    if not above or not below:
        return float("nan")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]  # of equal scores the mean rank
    return float((ranks[positive].sum() - above * (above + 1) / 2) / (above * below))


def auroc_interval(
    scores: np.ndarray, positive: np.ndarray, episode: np.ndarray, *, repetitions: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of `auroc` over episodes that are drawn again: steps of one episode resemble each other.

    scores (N,), positive (N,) bool, episode (N,) numbers of episodes -> low, high; NaN where it cannot be said.
    """
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(episode == each) for each in np.unique(episode)]
    found = []
    for _ in range(repetitions):
        drawn = np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])
        found.append(auroc(scores[drawn], positive[drawn]))
    found = [value for value in found if value == value]
    if not found:
        return float("nan"), float("nan")
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
