"""What the first experience looks like: ranges of observations and rewards, ends, and in words what looks wrong.

Pure NumPy on the rows of the drawing in `replay.py`, before anything has been learnt from them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

BARS = " ▁▂▃▄▅▆▇█"
WIDTH, KEY_WIDTH = 100, 24  # of the terminal, and of the names in it at most
LARGE, UNEVEN = 100.0, 1000.0  # numbers beyond this, or this many times larger than others, drown them
ENDLESS = 500  # steps of one environment without an end that are worth a word
ROUNDING = 1e-6  # what varies by less of itself does not vary
SCALING = "set model.vector_transform=symlog, running or standardize"


@dataclass(frozen=True)
class KeyRange:
    """One observation."""

    kind: str
    low: float
    high: float
    mean: float
    deviation: float
    constant: float  # share of dimensions (pictures: of pixels) that never change
    black: float = 0.0  # pictures: share that are black all over
    flat: float = 0.0  # pictures: share that have one colour all over, black included


@dataclass(frozen=True)
class Ranges:
    """Of all observations and rewards."""

    steps: int
    keys: Mapping[str, KeyRange]
    rewards: np.ndarray  # (N,) without those of resets, which there are none of
    transformed: np.ndarray  # (N,) as the reward head learns them
    transform: str
    episodes: int  # ended ones
    terminations: int
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """For the terminal, at most 100 columns: a table, two histograms, warnings."""
        width = min(KEY_WIDTH, max([8, *map(len, self.keys)]))
        lines = [f"{'':{width}}  {'min':>9} {'max':>9} {'mean':>9} {'std':>9}  never changes"]
        for key, item in self.keys.items():
            numbers = " ".join(f"{x:9.3g}" for x in (item.low, item.high, item.mean, item.deviation))
            dark = f", {item.black:.0%} black" if item.black else ""
            lines.append(f"{_cut(key, width):{width}}  {numbers}  {item.constant:.0%}{dark}")
        lines.append(f"{'rewards':{width}}  {histogram(self.rewards)}")
        if self.transform not in ("", "none"):
            lines.append(f"{'  ' + self.transform:{width}}  {histogram(self.transformed)}")
        lines.append(f"{'episodes':{width}}  {self._ends()}; {_zeros(self.rewards):.0%} of rewards are 0")
        for warning in self.warnings:
            lines += textwrap.wrap(f"note: {warning}", WIDTH, subsequent_indent=" " * 6)
        return lines

    def _ends(self) -> str:
        if not self.episodes:
            return f"none ended in {self.steps:,} steps"
        share = self.terminations / self.episodes
        return f"{self.episodes} ended in {self.steps:,} steps, {share:.0%} terminated, {1 - share:.0%} truncated"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "steps": self.steps,
            "observations": {key: vars(item) for key, item in self.keys.items()},
            "rewards": _summary(self.rewards),
            "transformed rewards": _summary(self.transformed),
            "transform": self.transform,
            "rewards of 0": _zeros(self.rewards),
            "episodes": self.episodes,
            "terminations": self.terminations,
            "truncations": self.episodes - self.terminations,
            "warnings": list(self.warnings),
        }


def range_report(
    rows: Mapping[str, np.ndarray],
    kinds: Mapping[str, str],
    *,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
    transform_name: str = "",
    scaled: bool = False,
) -> Ranges:
    """Look at the first rows of a run. rows as stored, {"obs/KEY" (N, *shape), "reward" (N,), "is_last" (N,), ...}.

    kinds {KEY: "image", "vector", "discrete" or "mask"}; transform: from rewards to what the reward head learns;
    scaled: vectors are brought to one scale before they are learnt, so that their ranges do not matter.
    """
    rewards = rows["reward"][~rows["is_first"]]
    learnt = rewards if transform is None else transform(rewards)
    keys = {key: _range(rows[f"obs/{key}"], kind) for key, kind in kinds.items() if len(rows["reward"])}
    episodes, terminations = int(rows["is_last"].sum()), int(rows["is_terminal"].sum())
    warnings = [text for key, item in keys.items() for text in _about(key, item, rows[f"obs/{key}"], scaled)]
    warnings += _about_rewards(rewards, learnt, transform_name)
    stretch = len(rewards) / max(1, int(rows["is_first"].sum()))
    if not episodes and stretch >= ENDLESS:
        warnings.append(f"no episode ended in {stretch:,.0f} steps: env.time_limit cuts them")
    return Ranges(len(rewards), keys, rewards, learnt, transform_name, episodes, terminations, tuple(warnings))


def _range(values: np.ndarray, kind: str) -> KeyRange:
    flat = values.reshape(len(values), -1)
    still = flat.min(0) == flat.max(0) if kind == "image" else _spread(flat) == 0
    plain = flat.min(1) == flat.max(1) if kind == "image" else np.zeros(len(flat), bool)
    black = plain & (flat.max(1) == 0)
    numbers = (flat.min(), flat.max(), flat.mean(dtype=np.float64), flat.std(dtype=np.float64))
    shares = (still.mean(), black.mean(), plain.mean())
    return KeyRange(kind, *map(float, (*numbers, *shares)))


def _spread(flat: np.ndarray) -> np.ndarray:
    """Standard deviation of each number (N, V) -> (V,), 0 for what is rounding."""
    spread = flat.astype(np.float64).std(0)
    return np.where(spread > ROUNDING * np.abs(flat).max(0), spread, 0)


# ---------------------------------------------------------------------------------------------------------------- words


def _about(key: str, item: KeyRange, values: np.ndarray, scaled: bool) -> list[str]:
    if item.kind == "image":
        return _about_picture(key, item)
    if item.kind == "mask":
        return []
    if item.constant == 1:
        return [f"'{key}' never changes: env.obs_ignore={key} leaves it out"]
    return [] if item.kind == "discrete" or scaled else _about_scale(key, values.reshape(len(values), -1))


def _about_picture(key: str, item: KeyRange) -> list[str]:
    if item.black == 1:
        return [f"every picture '{key}' is black: is it drawn at all? without a display, try MUJOCO_GL=egl or osmesa"]
    if item.constant == 1:
        return [f"the picture '{key}' never changes: is it drawn at every step?"]
    if item.high <= 1:
        return [f"the picture '{key}' holds only 0 and 1 of 255: it was divided by 255 before it became uint8"]
    if item.flat > 0.5:
        return [f"{item.flat:.0%} of the pictures '{key}' have one colour all over ({item.black:.0%} are black)"]
    return []


def _about_scale(key: str, flat: np.ndarray) -> list[str]:
    """(N, V): are some numbers so large that others do not count?"""
    spread = _spread(flat)
    moving = np.flatnonzero(spread)
    low, high = moving[spread[moving].argmin()], moving[spread[moving].argmax()]
    if spread[high] > UNEVEN * spread[low]:
        ratio = spread[high] / spread[low]
        return [f"number {high} of '{key}' varies {ratio:,.0f} times more than number {low}: {SCALING}"]
    extreme = flat.flat[np.abs(flat).argmax()]
    return [f"'{key}' reaches {extreme:.4g}: {SCALING}"] if abs(extreme) > LARGE else []


def _about_rewards(rewards: np.ndarray, learnt: np.ndarray, name: str) -> list[str]:
    if not rewards.any():
        return [
            f"no reward but 0 in {len(rewards):,} steps: learning begins when there is one; more train.prefill "
            "finds it earlier, replay.prioritize=rewards replays it more often"
        ]
    extreme = rewards[np.abs(rewards).argmax()]
    if name in ("tanh", "sign") and abs(extreme) > 1:
        told = f"model.reward_transform={name} flattens them at 1, symlog does not"
        return [f"rewards reach {extreme:.4g}: {told}"]
    if np.abs(learnt).max() > LARGE:
        return [f"rewards reach {extreme:.4g}: set model.reward_transform=symlog"]
    if abs(extreme) < 0.01:
        told = "behavior.entropy_scale drowns them, multiply them by 100 or divide it by 100"
        return [f"rewards are at most {abs(extreme):.2g}: {told}"]
    return []


# -------------------------------------------------------------------------------------------------------------- numbers


def histogram(values: np.ndarray, bins: int = 30) -> str:
    """Bars over the range of the numbers, as text: "-1 |▁  █ ▂| 2". (N,) -> str."""
    if not len(values):
        return "none"
    low, high = float(values.min()), float(values.max())
    if low == high:
        return f"always {low:.4g}"
    counts, _ = np.histogram(values, bins, (low, high))
    heights = np.ceil(np.log1p(counts) / np.log1p(counts.max()) * (len(BARS) - 1)).astype(int)
    return f"{low:.3g} |{''.join(BARS[height] for height in heights)}| {high:.3g} (log counts)"


def _summary(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    names: dict[str, Callable[[np.ndarray], Any]] = {"min": np.min, "max": np.max, "mean": np.mean, "std": np.std}
    return {name: float(measure(values)) for name, measure in names.items()}


def _zeros(values: np.ndarray) -> float:
    return float((values == 0).mean()) if len(values) else 1.0


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
