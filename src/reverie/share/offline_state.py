"""Continuing to learn from data: RUN/resume holds the whole state, so that what was killed ends as if it had not been.

As a checkpoint of a run with an environment (`checkpoint.py`), with how far it is, the data's identity and the streams
of random numbers. There is one, which a newer one replaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import checkpoint
from ..config import Config, flatten
from ..config import load_file as load_config
from ..config.validation import MAY_CHANGE
from ..data.replay import Replay
from ..errors import UserError
from ..fast.products import Types
from ..files import read_json, sound, writing
from ..train import DreamerV2

NAME = "resume"


def holds_offline(directory: Path) -> bool:
    """Is there something to continue?"""
    checkpoint.recover(directory)
    return (directory / NAME / "state.json").is_file()


def stored_config(directory: Path) -> Config:
    """The settings of what is there. Raises UserError."""
    return load_config(directory / NAME / "config.yaml")


def require_same(directory: Path, config: Config, identity: str, what: str) -> None:
    """Is it this very learning that is there? Raises UserError."""
    state = read_json(directory / NAME / "state.json")
    old, new = flatten(stored_config(directory)), flatten(config)
    changed = [key for key in new if old.get(key) != new[key] and not key.startswith(MAY_CHANGE)]
    others = "Choose another --run, or repeat what it was started with."
    if changed:
        shown = ", ".join(f"{key} = {old.get(key)!r} (asked for {new[key]!r})" for key in changed[:4])
        raise UserError(f"{directory} was learnt with other settings: {shown}.", others)
    if state.get("data") != identity:
        raise UserError(f"{directory} was learnt from other data.", others)
    if state.get("what") != what:
        raise UserError(f"{directory} was learnt with --offline {str(state.get('what'))[:40]}, not {what}.", others)


def save(
    directory: Path, agent: DreamerV2, replay: Replay, state: Mapping[str, Any], log: Mapping[str, Tensor]
) -> None:
    """Write all of it. state: plain values to be given back; log: sums of metrics. Raises UserError."""
    whole = {
        **state,
        "replay_rng": replay.rng.bit_generator.state,
        "types": agent.precision.types.to_dict(),
        "fused": agent.fused.on,
    }
    files = checkpoint.checkpoint_files(agent, _generators(agent), log)
    with writing("a checkpoint", directory):
        directory.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomically(directory / NAME, files | checkpoint.state_text(whole, agent.updates))


def restore(directory: Path, agent: DreamerV2, replay: Replay) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Continue where `save` was. -> its state and log. Raises UserError."""
    path = directory / NAME
    checkpoint.verify(path)
    saved = checkpoint.load_checkpoint(path, agent, _generators(agent))
    with sound(path / "state.json"):
        replay.rng.bit_generator.state = saved["replay_rng"]
        agent.keep_types(Types.from_dict(saved["types"]))
        agent.keep_fused(bool(saved["fused"]))
        whole = [saved["count"], saved["since"], saved["log_bytes"]]
        if not all(type(value) is int and 0 <= value < 2**62 for value in whole):
            raise ValueError("no count of updates")
    return saved, {key: value.to(agent.device) for key, value in checkpoint.run_tensors(path).items()}


def _generators(agent: DreamerV2) -> dict[str, torch.Generator]:
    found = {"torch": torch.default_generator} | agent.generators
    if agent.device.type == "cuda":
        found["cuda"] = torch.cuda.default_generators[agent.device.index or torch.cuda.current_device()]
    return found
