"""Whole models: several runs of one task, each with a world model of its own, dream of the same real actions.

Where independent seeds predict different things, at least one of them is wrong. That is the honest upper reference of
an ensemble's cheap heads, which share one recurrent state and cannot disagree about what it has forgotten.

Windows come from the replays of all runs. Each model observes `context` steps of a window and dreams on with the
recorded actions, SAMPLES times; its prediction of the observations is the mean of these dreams, in the environment's
own units. Errors and variances are in shares of the data's variance, mean over the observation's entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.replay import Batch
from ..errors import UserError
from ..rssm import State
from ..train import to_batch
from .alarm import auroc
from .drift import CONTEXT, SEED, dreams_of, open_loop, sample_windows, with_plain_stoch
from .horizon import FEWEST_STARTS
from .run_reader import Experience, RunReader, private_generator, require_memory

Array = NDArray[np.float64]
Curve = list[float | None]
#: Dreams of each model from each window, whose mean is its prediction.
SAMPLES = 4
#: Scores that may name the worst tenth of the dreams, as tables and plots name them.
ALARMS = {
    "models": "whole models disagree",
    "heads": "an ensemble's heads disagree",
    "entropy": "entropy of the prior",
}


@dataclass(frozen=True)
class WholeModels:
    """Lists have an entry for each step 1..H, None where too few windows are that long, or where it is not known."""

    runs: list[str]
    context: int
    windows: list[int]
    error: Curve  # squared error of one model's prediction, mean over the models
    error_of_mean: Curve  # of the mean of all models' predictions
    spread: Curve  # variance between the models; what sampling alone makes of it is taken off
    reward_spread: Curve  # standard deviation between the models' rewards, in the task's own unit; likewise
    alarms: dict[str, Curve]  # ALARMS -> AUROC for the worst tenth of a model's errors, mean over the models

    @property
    def horizon(self) -> int:
        return len(self.windows)

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return {**vars(self), "horizon": self.horizon}


def whole_models(
    runs: Sequence[RunReader],
    *,
    horizon: int = 0,
    context: int = 0,
    starts: int = 0,
    seed: int = SEED,
    report: Callable[[str], None] = lambda name: None,
) -> WholeModels:
    """The disagreement of several runs. report: gets the name of each run before it dreams.

    horizon 0: the longest imagination horizon, 15 at least. Raises UserError for fewer than two runs, for runs without
    replay, and for runs of different tasks.
    """
    experience = _experience_of(runs)
    horizon = horizon or max(15, *(run.config.behavior.imagination_horizon for run in runs))
    context = context or max(1, min(CONTEXT, *(run.config.train.seq_len - 2 for run in runs)))
    starts = starts or dreams_of(experience, horizon)
    require_memory(experience, SAMPLES * starts, context + horizon)
    batch, valid = sample_windows(experience, starts, context=context, horizon=horizon, seed=seed)
    found = []
    for index, run in enumerate(runs):
        report(run.path.name)
        found.append(_dream(run, batch, context, private_generator(1000 * seed + index)))  # independent of the others
    return _compared([str(run.path) for run in runs], found, _truth(batch, found[0], context), valid, context)


def _experience_of(runs: Sequence[RunReader]) -> Experience:
    """The steps of all runs. Raises UserError where there is nothing to compare."""
    if len(runs) < 2:
        raise UserError("only one run is given: there is nothing to compare.", "Give two or more runs of one task.")
    first = runs[0]
    for run in runs[1:]:
        try:
            first.spec.require_same_task(run.spec)
        except UserError as error:
            message = f"{run.path} is a run of another task than {first.path}: {run.config.env.id} has other "
            raise UserError(f"{message}observations or actions.", "Give runs of one task.") from error
        if run.config.env.id != first.config.env.id or run.spec.shapes != first.spec.shapes:
            raise UserError(
                f"{run.path} is a run of {run.config.env.id} that sees it otherwise than {first.path} sees "
                f"{first.config.env.id}.",
                "Give runs of one task with the same size of images.",
            )
    return Experience(tuple(segment for run in runs for segment in run.need_experience().segments))


@dataclass(frozen=True)
class _Dreams:
    """What one model predicts for N windows, 1..H steps ahead."""

    observations: dict[str, Array]  # {key: (N, H, D)}, means over SAMPLES dreams
    noise: dict[str, Array]  # {key: (N, H, D)} variance of that mean, as sampling has it
    reward: Array  # (N, H)
    reward_noise: Array
    heads: Array | None  # (N, H) disagreement of the ensemble
    entropy: Array  # (N, H) of the prior


@torch.no_grad()
def _dream(run: RunReader, arrays: Batch, context: int, generator: torch.Generator) -> _Dreams:
    """arrays (N, C + H, ...) -> the predictions for the last H steps."""
    model = run.agent.world_model
    batch = to_batch(arrays, run.agent.device)
    count, steps = batch.reward.shape
    latent = model.rssm.latent
    noise = latent.noise(count, context, generator=generator).to(run.agent.device)
    embed = model.encoder(model.preprocess({key: value[:, :context] for key, value in batch.obs.items()}))
    seen, _ = model.rssm.rollout_observation(embed, batch.action[:, :context], batch.is_first[:, :context], noise=noise)
    start = State(*(x[:, -1] for x in with_plain_stoch(seen)))
    actions = batch.action[:, context:].nan_to_num()
    samples: list[dict[str, Array]] = []
    for _ in range(SAMPLES):
        drawn = latent.noise(count, steps - context, generator=generator).to(run.agent.device)
        dream = open_loop(model, start, actions, drawn)
        feat = dream.feat
        parts = {**model.reconstruct(feat), **model.reconstruct_vectors(feat)}
        one = {f"obs/{key}": _flat(value) for key, value in parts.items()}
        one |= {
            "reward": _flat(model.predict_reward(feat) * model.reward_unit),
            "entropy": _flat(latent.entropy(dream.stats)),
        }
        if run.agent.ensemble is not None:
            one["heads"] = _flat(run.agent.ensemble.of_arrivals(torch.cat([start.feat[:, None], feat], 1), actions))
        samples.append(one)
    mean = {key: np.mean([one[key] for one in samples], 0) for key in samples[0]}
    spread = {key: np.var([one[key] for one in samples], 0, ddof=1) / SAMPLES for key in samples[0]}
    keys = [key for key in mean if key.startswith("obs/")]
    return _Dreams(
        {key[4:]: mean[key] for key in keys},
        {key[4:]: spread[key] for key in keys},
        mean["reward"][..., 0],
        spread["reward"][..., 0],
        mean["heads"][..., 0] if "heads" in mean else None,
        mean["entropy"][..., 0],
    )


def _flat(value: Tensor) -> Array:
    """(N, H, ...) -> (N, H, D)."""
    found: Array = value.double().cpu().numpy()
    return found.reshape(*found.shape[:2], -1)


def _truth(arrays: Batch, like: _Dreams, context: int) -> dict[str, Array]:
    """What really came, of the same observations. -> {key: (N, H, D)}."""
    found = {key: np.asarray(arrays.obs[key][:, context:], np.float64) for key in like.observations}
    return {key: value.reshape(*value.shape[:2], -1) for key, value in found.items()}


def _compared(
    names: list[str], found: Sequence[_Dreams], truth: dict[str, Array], valid: NDArray[np.bool_], context: int
) -> WholeModels:
    scale = {key: max(1e-8, float(value[valid].var(0).mean())) for key, value in truth.items()}

    def mean_over_keys(per_key: dict[str, Array]) -> Array:
        """{key: (N, H, D)} -> (N, H), each key in shares of its variance."""
        return np.mean([per_key[key].mean(-1) / scale[key] for key in truth], 0)

    errors = [mean_over_keys({k: (one.observations[k] - truth[k]) ** 2 for k in truth}) for one in found]
    center = {k: np.mean([one.observations[k] for one in found], 0) for k in truth}
    raw = mean_over_keys({k: np.var([one.observations[k] for one in found], 0, ddof=1) for k in truth})
    by_chance = np.mean([mean_over_keys(one.noise) for one in found], 0)
    rewards = np.var([one.reward for one in found], 0, ddof=1) - np.mean([one.reward_noise for one in found], 0)
    scores: dict[str, list[Array | None]] = {
        "models": [raw] * len(found),
        "heads": [one.heads for one in found],
        "entropy": [one.entropy for one in found],
    }
    reward = _curve(rewards, valid)
    return WholeModels(
        names,
        context,
        valid.sum(0).tolist(),
        _curve(np.mean(errors, 0), valid),
        _curve(mean_over_keys({k: (center[k] - truth[k]) ** 2 for k in truth}), valid),
        [None if x is None else max(0.0, x) for x in _curve(raw - by_chance, valid)],
        [None if x is None else max(0.0, x) ** 0.5 for x in reward],
        {name: _warned(values, errors, valid) for name, values in scores.items()},
    )


def _curve(values: Array, valid: NDArray[np.bool_]) -> Curve:
    """Means over the windows that are long enough. (N, H) -> H numbers."""
    fewest = min(FEWEST_STARTS, len(valid))
    return [float(values[rows, k].mean()) if rows.sum() >= fewest else None for k, rows in enumerate(valid.T)]


def _warned(scores: Sequence[Array | None], errors: Sequence[Array], valid: NDArray[np.bool_]) -> Curve:
    """AUROC of a score for the worst tenth of each model's own errors, mean over the models that have the score."""
    curve: Curve = []
    for k, rows in enumerate(valid.T):
        found = [
            auroc(score[rows, k], error[rows, k] > np.quantile(error[rows, k], 0.9))
            for score, error in zip(scores, errors, strict=True)
            if score is not None and rows.sum() >= 20
        ]
        found = [value for value in found if value == value]
        curve.append(float(np.mean(found)) if found else None)
    return curve
