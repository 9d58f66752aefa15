"""Demonstrations: recorded episodes beside the agent's own experience, a falling share of each batch (`replay.demos`).

The share goes in a straight line from `replay.demo_share` at the first step to 0 at `replay.demo_until`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Config
from ..data.replay import STEP_KEYS, Batch, Replay
from ..envs.spaces import Spec
from ..errors import UserError
from ..files import absolute
from .data_check import findings
from .data_set import DataSet, read_data

#: Beside the run's seed, so that demonstrations are not drawn by the numbers that its own experience is drawn by.
STREAM = 1


class Demonstrations:
    """The episodes, and how many of them are drawn."""

    def __init__(self, data: DataSet, config: Config) -> None:
        options = config.replay
        self.identity = data.identity  # a run keeps its data from beginning to end
        self.share = options.demo_share
        self.until = options.demo_until or config.train.env_steps
        self.replay = data.replay(prioritize=options.prioritize, priority_share=options.priority_share)
        self.replay.rng = np.random.default_rng([config.train.seed, STREAM])
        self.notes: list[str] = []

    def share_at(self, env_steps: int) -> float:
        """The share of a batch that is drawn at a step of the run."""
        return self.share * max(0.0, 1 - env_steps / self.until)

    def sample(self, own: Replay, batch_size: int, seq_len: int, *, env_steps: int) -> Batch:
        """Windows of demonstrations and, for the rest, of the agent's own replay. -> Batch of arrays (B, T, ...).

        Where the share is no whole number of windows, one more is drawn as often as makes it right on average.
        """
        count = int(batch_size * self.share_at(env_steps) + self.replay.rng.random())
        shown, lived = self.replay.sample(count, seq_len), own.sample(batch_size - count, seq_len)
        obs = {key: np.concatenate([value, lived.obs[key]]) for key, value in shown.obs.items()}
        rows = {name: np.concatenate([getattr(shown, name), getattr(lived, name)]) for name in ("action", *STEP_KEYS)}
        return Batch(obs, **rows, demo=np.repeat(np.arange(batch_size) < count, seq_len).reshape(batch_size, seq_len))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as values for JSON."""
        return {"identity": self.identity, "until": self.until, "rng": self.replay.rng.bit_generator.state}

    def recall(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken. Raises UserError for other data, ValueError for damage."""
        if type(state["until"]) is not int or state["until"] < 1:
            raise ValueError("no number of steps")
        if state["identity"] != self.identity:
            raise UserError(
                "the demonstrations are not those that this run began with.", "Give those, or choose another --run."
            )
        self.until = state["until"]
        self.replay.rng.bit_generator.state = state["rng"]


def open_demonstrations(config: Config, spec: Spec) -> Demonstrations | None:
    """Those that the settings name, checked against the task's spaces; None without any. Raises UserError."""
    if not config.replay.demos:
        return None
    path = absolute(Path(config.replay.demos))
    data = read_data(path)
    try:
        spec.require_same_task(data.spec)
    except UserError as error:
        raise UserError(
            f"the demonstrations {path} are of another task: {'; '.join(data.spec.describe())}; this environment has "
            f"{'; '.join(spec.describe())}.",
            "Record them in this environment, or import them with --env.",
        ) from error
    _require_finite(data, path)
    found = Demonstrations(data, config)
    if not found.replay.can_sample(config.train.seq_len):
        raise UserError(
            f"the demonstrations {path} have {len(data)} rows, a sequence needs train.seq_len={config.train.seq_len}.",
            "Record more, or set train.seq_len lower.",
        )
    found.notes = [f"demonstrations: {sentence}" for sentence in findings(data)]
    return found


def resume_demonstrations(demos: Demonstrations | None, saved: Mapping[str, Any] | None) -> None:
    """Continue those of a checkpoint. Raises UserError if it had none and there are some now, or the reverse."""
    if (demos is None) != (saved is None):
        began = "without demonstrations" if saved is None else "with demonstrations"
        raise UserError(f"this run began {began}, which does not change.", "Choose another --run.")
    if demos is not None and saved is not None:
        demos.recall(saved)


def _require_finite(data: DataSet, path: Path) -> None:
    """Raises UserError: an update would find it too, but after hours."""
    taken = ~data.rows["is_first"]
    values = {"reward": data.rows["reward"], "action": data.rows["action"][taken]}
    values |= {f"observation '{key}'": data.rows[f"obs/{key}"] for key in data.spec.vectors}
    wrong = [name for name, value in values.items() if not np.isfinite(value).all()]
    if wrong:
        raise UserError(
            f"the demonstrations {path} hold numbers that are not finite: {', '.join(wrong)}.", "Import them again."
        )
