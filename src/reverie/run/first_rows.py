"""What the prefill looks like: the ranges of everything the agent will learn from, told before it learns."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..config import Config
from ..data.data_report import range_report
from ..data.replay import Replay
from ..envs.spaces import Spec
from ..files import writing
from ..ops import SCALAR_TRANSFORMS


def tell_first_rows(replay: Replay, spec: Spec, config: Config, directory: Path) -> list[str]:
    """Lines for the screen; the same numbers are written to RUN/first_rows.json. Raises UserError if they cannot be."""
    squash, name = SCALAR_TRANSFORMS[config.model.reward_transform][0], config.model.reward_transform
    report = range_report(
        replay.first_rows(2000),
        {key: item.kind for key, item in spec.obs.items()},
        transform=lambda rewards: squash(torch.from_numpy(rewards)).numpy(),
        transform_name=name,
        scaled=config.model.vector_transform != "none",
    )
    with writing("first_rows.json", directory):
        (directory / "first_rows.json").write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
    return ["the first experience:", *report.lines()]
