"""Drift: errors of open-loop dreams after 1..H steps, compared with those of simple guesses.

The world model observes `context` steps of a window of replay and then continues without observations, with the
recorded actions (drawing in `data/replay.py`). Step k of the horizon is compared with the real step k:

    dream   the prior after k steps without observations       floor   the posterior, which observes the same step
    copy    the last observed step, unchanged                  mean    the average over all steps

Windows lie in one episode; steps after its end do not count (`valid`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..config import Config
from ..data.replay import Batch
from ..errors import UserError
from ..extensions.overshooting import roll_out
from ..ops import SCALAR_TRANSFORMS
from ..rssm import State
from ..train import to_batch
from ..world_model import WorldModel
from .horizon import FEWEST_STARTS, useful_horizon, useful_interval
from .run_reader import Experience, RunReader, private_generator, require_memory

GUESSES = ("dream", "floor", "copy", "mean")
#: Dreams, observed steps before them, and seed of the measurement: the same for `reverie drift`, the doctor and the
#: report, which must not contradict each other about one checkpoint. With 48 dreams its interval was up to 8 steps wide
#: (MiniGrid, seed 2: 7 to 15), with 256 none of 16 was wider than 0 (docs/doctor.md).
STARTS, CONTEXT, SEED = 256, 5, 0
#: Numbers in the images that are dreamed, and the fewest dreams, where STARTS of large images would take many seconds.
MOST_PIXELS, FEWEST_DREAMS = 6e6, 64


@dataclass(frozen=True)
class Drift:
    """The curves of all errors. Lists have one entry per horizon 1..H, None where too few windows are that long."""

    horizon: int
    context: int
    starts: list[int]  # windows that reach each horizon
    latent_kl: list[float | None]  # nats, KL(posterior || open-loop prior)
    observations: dict[str, dict[str, dict[str, list[float | None]]]]  # key -> mse, psnr, ssim -> guess -> curve
    error: dict[str, list[float | None]]  # guess -> squared error in shares of the data's variance, mean over keys
    reward: dict[str, list[float | None]]  # guess -> squared error, on the scale that the actor plans on
    continues: dict[str, list[float | None]]  # guess -> Brier score; empty without such a head
    returns: dict[str, Any]  # imagined and realized discounted returns of the windows: correlation, bias, pairs
    useful_horizon: int
    imagination_horizon: int
    useful_interval: tuple[int, int] | None = None  # 95 %, over starts that are drawn again; None: not measured

    @property
    def warning(self) -> str:
        """A sentence if the actor learns from dreams that are longer than the useful horizon, else ""."""
        high = self.useful_interval[1] if self.useful_interval else self.useful_horizon
        if self.imagination_horizon <= high or high >= self.reach:
            return ""
        return (
            f"behavior.imagination_horizon is {self.imagination_horizon}, but the dream is better than guessing for "
            f"{self.useful} steps only. Lower it, or train the world model longer."
        )

    @property
    def useful(self) -> str:
        """The useful horizon with its interval as text."""
        if self.useful_interval is None:
            return str(self.useful_horizon)
        low, high = self.useful_interval
        return f"{self.useful_horizon} (95 %: {low} to {high}, {max(self.starts, default=0)} dreams)"

    @property
    def reach(self) -> int:
        """The longest horizon that was measured."""
        return max((k + 1 for k, count in enumerate(self.starts) if count >= FEWEST_STARTS), default=0)

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        interval = None if self.useful_interval is None else list(self.useful_interval)
        return {**self.__dict__, "useful_interval": interval, "warning": self.warning}


def with_plain_stoch(state: State) -> State:
    """The state (...) with a dense tensor for z, which the fast path stores as indices (`fast/rows.py`)."""
    stoch: Any = state.stoch
    return state if isinstance(stoch, Tensor) else State(state.deter, stoch.dense(), state.stats)


@torch.no_grad()
def open_loop(world_model: WorldModel, state: State, actions: Tensor, noise: Tensor | None = None) -> State:
    """Continue from `state` with given actions and without observations.

    state of (N, ...), actions (N, H, A), noise (N, H, S); actions[:, k] leads from step k to step k + 1 (drawing in
    `data/replay.py`).
    -> State of (N, H, ...): the prior after 1..H steps.
    """
    return roll_out(world_model.rssm, with_plain_stoch(state), actions, noise=noise)


def ssim(left: Tensor, right: Tensor, *, window: int = 7) -> Tensor:
    """Structural similarity (Wang et al. 2004) with a uniform window, for images with values 0..1. 1: equal.

    (..., C, H, W), (..., C, H, W) -> (...), the mean over all positions and channels.
    """
    size = min(window, *left.shape[-2:])
    x, y = (image.flatten(0, -4) if image.dim() > 4 else image for image in (left, right))

    def blur(image: Tensor) -> Tensor:
        return avg_pool2d(image, size, 1)

    mx, my = blur(x), blur(y)
    vx, vy = (blur(image * image) - mean * mean for image, mean in ((x, mx), (y, my)))
    covariance = blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return score.mean((-3, -2, -1)).reshape(left.shape[:-3])


def sample_windows(
    experience: Experience, count: int, *, context: int, horizon: int, seed: int = 0
) -> tuple[Batch, np.ndarray]:
    """Windows that begin anywhere in an episode and have at least one step after their context.

    -> Batch of arrays (N, context + horizon, ...) and valid (N, horizon). Steps after the end of the episode repeat
    its last one and are not valid. Raises UserError if no episode is long enough.
    """
    starts = [
        (segment, start, int(end))
        for segment in experience.segments
        for start, end in enumerate(_ends(segment.rows))
        if start + context <= end
    ]
    if not starts:
        raise UserError(
            f"no episode in the replay is longer than {context} steps.", "Choose a smaller --context, or train longer."
        )
    chosen = np.random.default_rng(seed).choice(len(starts), count, replace=len(starts) < count)
    rows: list[dict[str, np.ndarray]] = []
    valid = np.zeros((count, horizon), bool)
    for index, choice in enumerate(chosen):
        segment, start, end = starts[choice]
        steps = np.minimum(start + np.arange(context + horizon), end)
        rows.append({key: value[steps] for key, value in segment.rows.items()})
        valid[index, : end - start - context + 1] = True
    joined: dict[str, Any] = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    obs = {key[4:]: joined.pop(key) for key in list(joined) if key.startswith("obs/")}
    return Batch(obs=obs, **joined), valid


def _ends(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """For each step, the index of the last recorded step of its episode. -> (T,)."""
    length = len(rows["reward"])
    stop = rows["is_last"].copy()
    stop[:-1] |= rows["is_first"][1:]
    stop[-1] = True
    places = np.where(stop, np.arange(length), length)
    return np.minimum.accumulate(places[::-1])[::-1]


def drift(
    run: RunReader, *, horizon: int = 0, context: int = 0, starts: int = 0, seed: int = SEED, similarity: bool = True
) -> Drift:
    """The drift of a run; zeros as in `drift_of`. Raises UserError without a replay."""
    return drift_of(
        run.agent.world_model,
        run.need_experience(),
        run.config,
        horizon=horizon,
        context=context,
        starts=starts,
        seed=seed,
        similarity=similarity,
    )


def drift_of(
    world_model: WorldModel,
    experience: Experience,
    config: Config,
    *,
    horizon: int = 0,
    context: int = 0,
    starts: int = 0,
    seed: int = SEED,
    similarity: bool = True,
) -> Drift:
    """As `drift`, for a model in memory. similarity: also SSIM, which takes longest.

    horizon 0: the imagination horizon, at least 15. context 0: CONTEXT, or what a short training window leaves.
    starts 0: STARTS, or fewer where images are large.
    """
    horizon = horizon or max(15, config.behavior.imagination_horizon)
    context = context or max(1, min(CONTEXT, config.train.seq_len - 2))
    starts = starts or dreams_of(experience, horizon)
    require_memory(experience, starts, context + horizon)
    arrays, valid = sample_windows(experience, starts, context=context, horizon=horizon, seed=seed)
    device = next(iter(world_model.parameters())).device
    batch, mask = to_batch(arrays, device), torch.from_numpy(valid).to(device)
    return measure(world_model, batch, mask, config, seed=seed, similarity=similarity)


@torch.no_grad()
def measure(
    world_model: WorldModel, batch: Batch, valid: Tensor, config: Config, *, seed: int = 0, similarity: bool = True
) -> Drift:
    """The drift on given windows (drawing in `data/replay.py`). batch: tensors (N, C + H, ...), valid (N, H)."""
    count, length = batch.reward.shape
    horizon = valid.shape[1]
    context = length - horizon
    obs = world_model.preprocess(batch.obs)
    latent, generator = world_model.rssm.latent, private_generator(seed)
    noise = latent.noise(count, length + horizon, generator=generator).to(valid.device)
    posterior, _ = world_model.rssm.rollout_observation(
        world_model.encoder(obs), batch.action, batch.is_first, noise=noise[:, :length]
    )
    posterior = with_plain_stoch(posterior)
    start, looked = (State(*(x[:, cut] for x in posterior)) for cut in (context - 1, slice(context, None)))
    dream = open_loop(world_model, start, batch.action[:, context:], noise[:, length:])
    feats = {"dream": dream.feat, "floor": looked.feat}
    seen = torch.cat([valid.new_ones(count, context), valid], 1)
    errors, observations = [], {}
    for head, target in _observed(world_model, obs):
        guesses = {name: world_model.head(head)(feat) for name, feat in feats.items()}
        curve, error = _observation(guesses, target, context, valid, seen, similarity)
        observations[head.removeprefix("obs/")] = curve
        errors.append(error)
    error = {name: torch.stack([each[name] for each in errors]).mean(0) for name in GUESSES}
    reward, returns = _reward(world_model, batch, feats, context, valid, seen, config)
    return Drift(
        horizon=horizon,
        context=context,
        starts=valid.sum(0).tolist(),
        latent_kl=_curve(latent.kl(looked.stats, dream.stats), valid),
        observations=observations,
        error={name: _curve(value, valid) for name, value in error.items()},
        reward=reward,
        continues=_continues(world_model, batch, feats, context, valid, seen),
        returns=returns,
        useful_horizon=useful_horizon(error, valid),
        imagination_horizon=config.behavior.imagination_horizon,
        useful_interval=useful_interval(error, valid),
    )


def dreams_of(experience: Experience, horizon: int) -> int:
    """How many dreams are measured unless a number is given: the same for everyone who measures this run."""
    rows = experience.segments[0].rows if experience.segments else {}
    shapes = [value.shape[1:] for key, value in rows.items() if key.startswith("obs/") and value.ndim == 4]
    pixels = sum(math.prod(shape) for shape in shapes)
    return max(FEWEST_DREAMS, min(STARTS, int(MOST_PIXELS / max(1, pixels * horizon))))


def _observed(world_model: WorldModel, obs: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """(name, target) of the heads that predict observations."""
    named = {"obs/" + key.replace(".", "_"): value for key, value in obs.items() if key != world_model.mask_key}
    return [(head, target) for head, target in named.items() if head in world_model.heads]


def _observation(
    guesses: dict[str, Tensor], target: Tensor, context: int, valid: Tensor, seen: Tensor, similarity: bool
) -> tuple[dict[str, dict[str, list[float | None]]], dict[str, Tensor]]:
    """The errors of one observation. guesses {name: (N, H, ...)}, target (N, C + H, ...).

    -> curves, errors (N, H) in shares of the variance.
    """
    truth, event = target[:, context:], list(range(2, target.dim()))
    mean = target[seen].mean(0)
    spread = float(((target[seen] - mean) ** 2).mean().clamp(min=1e-8))
    guesses = {**guesses, "copy": target[:, context - 1 : context].expand_as(truth), "mean": mean.expand_as(truth)}
    squared = {name: ((guess.float() - truth) ** 2).mean(event) for name, guess in guesses.items()}
    curves = {"mse": {name: _curve(value, valid) for name, value in squared.items()}}
    if target.dim() == 5:
        curves["psnr"] = {name: [_psnr(value) for value in curve] for name, curve in curves["mse"].items()}
        if similarity:
            curves["ssim"] = {
                name: _curve(ssim(guess.float() + 0.5, truth + 0.5), valid) for name, guess in guesses.items()
            }
    return curves, {name: value / spread for name, value in squared.items()}


def _psnr(mse: float | None) -> float | None:
    """PSNR in decibels of images whose values span 1, at most 100, so that it is finite without an error."""
    return None if mse is None else min(100.0, -10 * math.log10(max(mse, 1e-10)))


def _reward(
    world_model: WorldModel,
    batch: Batch,
    feats: Mapping[str, Tensor],
    context: int,
    valid: Tensor,
    seen: Tensor,
    config: Config,
) -> tuple[dict[str, list[float | None]], dict[str, Any]]:
    """Errors of rewards, and imagined against realized returns, both on the scale that the actor plans on."""
    squash, unsquash = SCALAR_TRANSFORMS[config.model.reward_transform]
    target = unsquash(squash(batch.reward / config.model.reward_unit))
    truth = target[:, context:]
    guesses = {name: world_model.head("reward")(feat).float() for name, feat in feats.items()}
    guesses |= {"copy": target[:, context - 1 : context].expand_as(truth), "mean": target[seen].mean().expand_as(truth)}
    curves = {name: _curve((guess - truth) ** 2, valid) for name, guess in guesses.items()}
    weights = valid * config.behavior.gamma ** torch.arange(valid.shape[1], device=valid.device)
    return curves, _agreement((guesses["dream"] * weights).sum(1), (truth * weights).sum(1))


def _agreement(imagined: Tensor, realised: Tensor) -> dict[str, Any]:
    """(N,), (N,) -> correlation (None if one of them is constant), bias, and the pairs."""
    left, right = imagined.double() - imagined.double().mean(), realised.double() - realised.double().mean()
    scale = float(left.norm() * right.norm())
    correlation = float(left @ right) / scale if scale > 1e-9 else None
    bias = float((imagined - realised).mean())
    return {"correlation": correlation, "bias": bias, "imagined": imagined.tolist(), "realised": realised.tolist()}


def _continues(
    world_model: WorldModel, batch: Batch, feats: Mapping[str, Tensor], context: int, valid: Tensor, seen: Tensor
) -> dict[str, list[float | None]]:
    """Brier scores of the continue head: mean squared errors of probabilities against 0 and 1."""
    if "continue" not in world_model.heads:
        return {}
    target = 1 - batch.is_terminal.float()
    truth = target[:, context:]
    guesses = {name: world_model.continues(feat).clamp(max=1) for name, feat in feats.items()}
    guesses |= {"copy": torch.ones_like(truth), "mean": target[seen].mean().expand_as(truth)}
    return {name: _curve((guess - truth) ** 2, valid) for name, guess in guesses.items()}


def _curve(values: Tensor, valid: Tensor) -> list[float | None]:
    """Means over the windows that are long enough for each horizon. values, valid (N, H) -> H numbers."""
    counts = valid.sum(0)
    means = torch.where(valid, values.double(), 0.0).sum(0) / counts.clamp(min=1)
    return [
        float(mean) if count >= min(FEWEST_STARTS, len(valid)) else None
        for mean, count in zip(means, counts, strict=True)
    ]
