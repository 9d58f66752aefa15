"""What the first experience looks like: ranges of observations and rewards, ends, and in words what looks wrong.

Pure NumPy on the rows of the drawing in `replay.py`, before anything has been learnt from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

BARS = " ▁▂▃▄▅▆▇█"
LARGE, UNEVEN = 100.0, 1000.0  # numbers beyond this, or this many times larger than others, drown them
ENDLESS = 500  # steps of one environment without an end that are worth a word
SCALING = "set model.vector_transform=standardize, running or symlog"


@dataclass(frozen=True)
class KeyRange:
    """One observation."""

    kind: str
    low: float
    high: float
    mean: float
    deviation: float
    constant: float  # share of dimensions (pictures: of pixels) that never change
    dark: float = 0.0  # pictures: share that are black all over


@dataclass(frozen=True)
class Ranges:
    """Of all observations and rewards."""

    steps: int
    keys: Mapping[str, KeyRange]
    rewards: np.ndarray
    transformed: np.ndarray
    transform: str
    episodes: int
    terminations: int
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """For the terminal: a table, two histograms, warnings."""
        width = max(8, *(len(key) for key in self.keys))
        lines = [f"{'':{width}}  {'min':>9} {'max':>9} {'mean':>9} {'std':>9}  constant"]
        for key, item in self.keys.items():
            numbers = " ".join(f"{x:9.3g}" for x in (item.low, item.high, item.mean, item.deviation))
            dark = f", {item.dark:.0%} black" if item.dark else ""
            lines.append(f"{key:{width}}  {numbers}  {item.constant:.0%}{dark}")
        lines.append(f"{'rewards':{width}}  {histogram(self.rewards)}")
        if self.transform != "none":
            lines.append(f"{'  ' + self.transform:{width}}  {histogram(self.transformed)}")
        zero = float((self.rewards == 0).mean()) if len(self.rewards) else 1.0
        cut = self.episodes - self.terminations
        lines.append(
            f"{'episodes':{width}}  {self.episodes}: {self.terminations} terminated, {cut} truncated; "
            f"{zero:.0%} of rewards are 0"
        )
        return lines + [f"note: {warning}" for warning in self.warnings]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "steps": self.steps,
            "observations": {key: vars(item) for key, item in self.keys.items()},
            "rewards": _summary(self.rewards),
            f"rewards {self.transform}": _summary(self.transformed),
            "episodes": self.episodes,
            "terminations": self.terminations,
            "warnings": list(self.warnings),
        }


def range_report(
    rows: Mapping[str, np.ndarray],
    kinds: Mapping[str, str],
    *,
    transform: Callable[[np.ndarray], np.ndarray] = lambda rewards: rewards,
    transform_name: str = "none",
    scaled: bool = False,
) -> Ranges:
    """Look at the first rows of a run. rows as stored, {"obs/KEY" (N, *shape), "reward" (N,), "is_last" (N,), ...}.

    kinds {KEY: "image", "vector", ...}; transform: what the reward head learns; scaled: vectors are brought to one
    scale before they are learnt, so that their ranges do not matter.
    """
    keys = {key: _range(rows[f"obs/{key}"], kind) for key, kind in kinds.items()}
    rewards = rows["reward"][~rows["is_first"]]
    episodes, terminations = int(rows["is_last"].sum()), int(rows["is_terminal"].sum())
    warnings = [text for key, item in keys.items() for text in _about(key, item, rows[f"obs/{key}"], scaled)]
    warnings += _about_rewards(rewards, transform(rewards), transform_name)
    stretch = len(rewards) / max(1, int(rows["is_first"].sum()))
    if not episodes and stretch >= ENDLESS:
        warnings.append(f"no episode ended in {stretch:,.0f} steps: env.time_limit cuts them")
    return Ranges(
        len(rewards), keys, rewards, transform(rewards), transform_name, episodes, terminations, tuple(warnings)
    )


def _range(values: np.ndarray, kind: str) -> KeyRange:
    flat = values.reshape(len(values), -1).astype(np.float32)
    same = float((flat == flat[:1]).all(0).mean())
    dark = float((flat.max(1) == 0).mean()) if kind == "image" else 0.0
    low, high, mean, deviation = (float(f(flat)) for f in (np.min, np.max, np.mean, np.std))
    return KeyRange(kind, low, high, mean, deviation, same, dark)


def _about(key: str, item: KeyRange, values: np.ndarray, scaled: bool) -> list[str]:
    found = []
    if item.kind == "image":
        if item.constant == 1:
            found.append(f"the picture '{key}' never changes: is it drawn at all?")
        elif item.dark > 0.5:
            found.append(f"{item.dark:.0%} of the pictures '{key}' are black: is it drawn at all?")
        elif item.high <= 1:
            found.append(f"the picture '{key}' holds only 0 and 1 of 255: it was scaled before it became uint8")
    elif item.kind == "vector":
        if item.constant == 1:
            found.append(f"'{key}' never changes: env.obs_ignore={key} leaves it out")
        spread = values.reshape(len(values), -1).std(0)
        moving = spread[spread > 0]
        if not scaled and max(abs(item.low), abs(item.high)) > LARGE:
            found.append(f"'{key}' reaches {max(abs(item.low), abs(item.high)):.3g}: {SCALING}")
        elif not scaled and len(moving) > 1 and moving.max() > UNEVEN * moving.min():
            ratio = moving.max() / moving.min()
            found.append(f"the numbers of '{key}' differ {ratio:.0f} times in scale: {SCALING}")
    return found


def _about_rewards(rewards: np.ndarray, transformed: np.ndarray, name: str) -> list[str]:
    found = []
    if not rewards.any():
        found.append(
            f"no reward but 0 in {len(rewards):,} steps: learning begins when there is one "
            "(more train.prefill, replay.prioritize=rewards)"
        )
    elif name in ("tanh", "sign") and np.abs(rewards).max() > 1:
        found.append(f"rewards reach {np.abs(rewards).max():.3g}, but model.reward_transform={name} flattens them at 1")
    elif np.abs(transformed).max() > LARGE:
        found.append(f"rewards reach {np.abs(rewards).max():.3g}: set model.reward_transform=symlog")
    elif np.abs(rewards).max() < 0.01:
        found.append(
            f"rewards are at most {np.abs(rewards).max():.2g}: behavior.entropy_scale drowns them, multiply them by 100"
        )
    return found


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
