"""Reverie, for `benchmarks/peers.py`: the preset `atari` in the sizes asked for, in a mode and a precision."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import Contestant, Size, random_batches, random_images, serve

import reverie
from reverie import load_player
from reverie.checkpoint import save_agent
from reverie.config.presets import load_preset
from reverie.data.replay import Batch
from reverie.envs.actions import ActionSpec
from reverie.envs.spaces import ObsKey, Spec
from reverie.fast.modes import keep_memory
from reverie.player import Player
from reverie.train import DreamerV2, to_batch


def settings(size: Size) -> dict[str, Any]:
    """What the preset `atari` is changed in; nothing but sizes, and the CPU."""
    return {
        "cnn_depth": size.cnn_depth,
        "rnn_hidden_dim": size.deter,
        "rssm_hidden_dim": size.deter,
        "hidden_dim": size.units,
        "batch_size": size.batch,
        "seq_len": size.length,
        "compute.device": "cpu",
    }


def batch_of(arrays: dict[str, np.ndarray]) -> Batch:
    """The replay's own form: actions that do not exist are NaN, see its drawing."""
    action = arrays["action"].copy()
    action[arrays["is_first"]] = np.nan
    rest = [arrays[key] for key in ("reward", "is_first", "is_last", "is_terminal")]
    return to_batch(Batch({"image": arrays["image"]}, action, *rest))


def make_player(agent: DreamerV2, count: int) -> Player:
    """For so many environments; compiled as for the user of a trained agent: with the weights in the machine code."""
    if agent.mode != "compile":
        return agent.player(num_envs=count, mode="train")
    with tempfile.TemporaryDirectory() as place:
        save_agent(Path(place) / "agent", agent)
        return load_player(Path(place) / "agent", num_envs=count, mode="train", device="cpu", compiled=True)


def make(size: Size, options: dict[str, Any]) -> Contestant:
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    torch.manual_seed(0)
    keep_memory()  # as every training run of ours does
    key = ObsKey(("image",), "image", size.image, size.image, "hwc")
    spec = Spec({"image": key}, ActionSpec.discrete(size.actions))
    agent = DreamerV2(load_preset("atari", settings(size) | options), spec)
    batches = [batch_of(arrays) for arrays in random_batches(size)]

    def acting(count: int) -> Callable[[bool], Any]:
        player, image = make_player(agent, count), random_images(size, count)
        return lambda first: player.act({"image": image}, np.full(count, first))

    return Contestant(
        update=lambda number: agent.update(batches[number]),
        acting=acting,
        parameters=lambda: sum(p.numel() for p in agent.parameters()),
        version=f"reverie {reverie.__version__}, torch {torch.__version__}",
        differences=[
            "the advantage is the paper's (preset atari), the released code's is shifted by one: same work",
            "slow critic evaluated once per update, in the released code twice",
        ],
    )


if __name__ == "__main__":
    serve(make)
