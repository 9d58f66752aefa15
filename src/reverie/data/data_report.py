"""Report on the first experience: ranges of observations and rewards, episode ends, warnings about unusual values.

Computed from the rows of the drawing in `replay.py` before anything is learnt from them. The limits here are also those
of `check_env`.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import digits
from ..files import write_file, writing

BARS = " ▁▂▃▄▅▆▇█"
WIDTH = 100  # columns of the terminal
KEY_WIDTH = 24  # columns of an observation's name, at most
FILE = "first_rows.json"
ENDLESS = 500  # steps of one environment without an episode end before a warning

LARGE = 100.0  # an unscaled value above this dominates the loss
UNEVEN = 1000.0  # so does a value whose standard deviation is this many times that of another
ROUNDING = 1e-6  # a standard deviation below this share of the largest value is rounding
SCALING = "Set model.vector_transform=symlog, running or standardize."


@dataclass(frozen=True)
class KeyRange:
    """Range of one observation."""

    kind: str
    low: float
    high: float
    mean: float
    deviation: float
    constant: float  # share of dimensions (images: of pixels) that never change
    black: float = 0.0  # share of images that are all black
    flat: float = 0.0  # share of images that have a single colour, black included


@dataclass(frozen=True)
class Ranges:
    """Ranges of all observations and rewards, and the warnings."""

    steps: int
    keys: Mapping[str, KeyRange]
    rewards: np.ndarray  # (N,) without the zeros of reset rows
    transformed: np.ndarray  # (N,) as the reward head learns them
    transform: str
    episodes: int  # ended ones
    terminations: int
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """For the terminal, at most 100 columns: a table, two histograms, warnings."""
        width = min(KEY_WIDTH, max([8, *map(len, self.keys)]))
        lines = [f"{'':{width}}  {'min':>9} {'max':>9} {'mean':>9} {'std':>9}  constant"]
        for key, item in self.keys.items():
            numbers = " ".join(f"{_column(x):>9}" for x in (item.low, item.high, item.mean, item.deviation))
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
    """Summarize the first rows of a run, as stored: {"obs/KEY" (N, *shape), "reward" (N,), "is_last" (N,), ...}.

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
        warnings.append(f"no episode ended in {stretch:,.0f} steps. Set env.time_limit to cut them.")
    return Ranges(len(rewards), keys, rewards, learnt, transform_name, episodes, terminations, tuple(warnings))


def write_report(report: Ranges, directory: Path) -> list[str]:
    """Write a run's RUN/first_rows.json. -> the same report as lines for the terminal. Raises UserError."""
    with writing(FILE, directory):
        write_file(directory / FILE, json.dumps(report.to_dict(), indent=1))
    return ["the first experience:", *report.lines()]


def _range(values: np.ndarray, kind: str) -> KeyRange:
    flat = values.reshape(len(values), -1)
    still = flat.min(0) == flat.max(0) if kind == "image" else spread_of(flat) == 0
    plain = flat.min(1) == flat.max(1) if kind == "image" else np.zeros(len(flat), bool)
    black = plain & (flat.max(1) == 0)
    numbers = (flat.min(), flat.max(), flat.mean(dtype=np.float64), flat.std(dtype=np.float64))
    shares = (still.mean(), black.mean(), plain.mean())
    return KeyRange(kind, *map(float, (*numbers, *shares)))


def spread_of(flat: np.ndarray) -> np.ndarray:
    """Standard deviation of each dimension (N, V) -> (V,), 0 where it is only rounding."""
    spread = flat.astype(np.float64).std(0)
    return np.where(spread > ROUNDING * np.abs(flat).max(0), spread, 0)


def uneven_pair(spread: np.ndarray) -> tuple[int, int] | None:
    """Do some dimensions vary more than UNEVEN times as much as others? spread (V,), not all 0.

    -> index of the dimension that varies least (without those that never change), index of the one that varies most;
    None where their ratio is within the limit.
    """
    moving = np.flatnonzero(spread)
    low, high = int(moving[spread[moving].argmin()]), int(moving[spread[moving].argmax()])
    return (low, high) if spread[high] > UNEVEN * spread[low] else None


def large_value(flat: np.ndarray) -> float | None:
    """The value of the largest magnitude (N, V) -> number, None where it is within LARGE."""
    extreme = flat.flat[np.abs(flat).argmax()]
    return float(extreme) if abs(extreme) > LARGE else None


# ------------------------------------------------------------------------------------------------------------- warnings


def _about(key: str, item: KeyRange, values: np.ndarray, scaled: bool) -> list[str]:
    if item.kind == "image":
        return _about_image(key, item)
    if item.kind == "mask":
        return []
    if item.constant == 1:
        return [f"'{key}' never changes. Set env.obs_ignore={key} to leave it out."]
    return [] if item.kind == "discrete" or scaled else _about_scale(key, values.reshape(len(values), -1))


def _about_image(key: str, item: KeyRange) -> list[str]:
    if item.black == 1:
        return [
            f"every image '{key}' is black. Check that it is drawn; without a display, set MUJOCO_GL=egl or osmesa."
        ]
    if item.constant == 1:
        return [f"the image '{key}' never changes. Check that it is drawn at every step."]
    if item.high <= 1:
        return [f"the image '{key}' holds only 0 and 1 of 255. Do not divide it by 255 before the conversion to uint8."]
    if item.flat > 0.5:
        return [
            f"{item.flat:.0%} of the images '{key}' have a single colour ({item.black:.0%} are black). Check that this "
            "is how the task draws them."
        ]
    return []


def _about_scale(key: str, flat: np.ndarray) -> list[str]:
    """Values (N, V) of such a scale that others have no weight in the loss."""
    spread = spread_of(flat)
    if pair := uneven_pair(spread):
        low, high = pair
        ratio = spread[high] / spread[low]
        return [f"number {high} of '{key}' varies {ratio:,.0f} times more than number {low}. {SCALING}"]
    extreme = large_value(flat)
    return [f"'{key}' reaches {digits(extreme)}. {SCALING}"] if extreme is not None else []


def _about_rewards(rewards: np.ndarray, learnt: np.ndarray, name: str) -> list[str]:
    if not rewards.any():
        return [
            f"no reward but 0 in {len(rewards):,} steps: learning begins with the first one. Raise train.prefill to "
            "find it earlier, or set replay.prioritize=rewards to replay it more often."
        ]
    extreme = rewards[np.abs(rewards).argmax()]
    most = np.abs(learnt).max()
    if name in ("tanh", "sign") and abs(extreme) > 1:
        return [
            f"rewards reach {digits(extreme)}: model.reward_transform={name} flattens them at 1. Set "
            "model.reward_transform=symlog to keep them apart."
        ]
    if most > LARGE:
        return [f"rewards reach {digits(extreme)}. Set model.reward_transform=symlog."]
    if most < 0.01:
        return [
            f"rewards are at most {digits(abs(extreme))}: the entropy bonus (behavior.entropy_scale) outweighs them. "
            f"Set model.reward_unit={abs(extreme):.1g}, or divide it by 100."
        ]
    return []


# -------------------------------------------------------------------------------------------------------------- numbers


def histogram(values: np.ndarray, bins: int = 30) -> str:
    """Bars over the range of the numbers, as text: "-1 |▁  █ ▂| 2". (N,) -> str."""
    if not len(values):
        return "none"
    low, high = float(values.min()), float(values.max())
    if low == high:
        return f"always {digits(low)}"
    counts, _ = np.histogram(values, bins, (low, high))
    heights = np.ceil(np.log1p(counts) / np.log1p(counts.max()) * (len(BARS) - 1)).astype(int)
    return f"{digits(low)} |{''.join(BARS[height] for height in heights)}| {digits(high)} (log counts)"


def _summary(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    values = values.astype(np.float64)  # a sum of the largest numbers that fit is larger
    names: dict[str, Callable[[np.ndarray], Any]] = {"min": np.min, "max": np.max, "mean": np.mean, "std": np.std}
    return {name: float(measure(values)) for name, measure in names.items()}


def _zeros(values: np.ndarray) -> float:
    return float((values == 0).mean()) if len(values) else 1.0


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _column(value: float) -> str:
    """For a column of 9 letters: with an exponent where the plain number is longer."""
    text = digits(value)
    return text if len(text) <= 9 else f"{value:.3g}"
