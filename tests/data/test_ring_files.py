"""Rings on disk: names that any disk takes, and sizes that can be."""

import numpy as np
import pytest
from gymnasium import spaces
from toys import SpaceEnv

from reverie.config.presets import load_preset
from reverie.config.validation import MOST_OF_ALL
from reverie.data import replay as ring
from reverie.data.replay import Replay, require_possible, row_forms
from reverie.errors import UserError
from reverie.run.loop import Run

SHAPE = ((3,), np.dtype(np.float32))
NAMES = [
    "/".join(["sensor_group_with_a_long_name"] * 10),
    "é" * 200,
    "a\nb",
    'a:b?*|<>"',
    ".",
    "x" * 5000,
    "\x01",
    "con/",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_an_observation_becomes_a_file(tmp_path, name):
    replay = Replay({name: SHAPE, f"{name}2": SHAPE}, 2, capacity=20, streams=2, directory=tmp_path / "ring")
    row = {f"obs/{name}": np.ones((2, 3)), f"obs/{name}2": np.zeros((2, 3)), "action": np.full((2, 2), np.nan)}
    row |= {"reward": np.zeros(2), "is_first": np.ones(2), "is_last": np.zeros(2), "is_terminal": np.zeros(2)}
    replay.add(row)
    assert replay.last_rows()[f"obs/{name}"].all()
    assert not replay.last_rows()[f"obs/{name}2"].any()  # files of their own
    assert len(list((tmp_path / "ring").iterdir())) == 7


def test_usual_names_stay_as_they_were(tmp_path):
    Replay({"camera/left": SHAPE}, 2, capacity=20, streams=2, directory=tmp_path)
    assert (tmp_path / "ring-obs-camera-left.npy").exists()


@pytest.mark.parametrize("capacity", [10**13, 10**18, 2**63, 10**30])
@pytest.mark.parametrize("storage", ["disk", "memory"])
def test_an_absurd_capacity_is_refused_before_anything_is_written(tmp_path, capacity, storage):
    settings = {"env.id": "custom:toy", "replay_capacity": capacity, "storage": storage, "forecast": False}
    env = lambda: SpaceEnv(spaces.Box(-1, 1, (3,)))  # noqa: E731
    beyond = capacity >= MOST_OF_ALL  # refused as a setting; else by the task's rows
    with pytest.raises(
        UserError, match=r"replay\.replay_capacity'" if beyond else r"replay\.replay_capacity="
    ) as refused:
        Run(load_preset("debug", settings), tmp_path / "run", env)
    assert "must be at most" in refused.value.message if beyond else "Choose at most" in refused.value.hint
    assert not (tmp_path / "run").exists()


def test_a_disk_that_refuses_is_a_sentence(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(27, "File too large")

    monkeypatch.setattr(ring.np.lib.format, "open_memmap", full)
    with pytest.raises(UserError, match=r"cannot be made in .*File too large"):
        Replay({"x": SHAPE}, 2, capacity=20, streams=2, directory=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made in"):
        Replay({"x": SHAPE}, 2, capacity=20, streams=2, directory=tmp_path / "file")


def test_what_can_be_is_not_refused(tmp_path):
    for directory in (tmp_path, tmp_path / "not" / "yet", None):
        require_possible(row_forms({"x": SHAPE}, 2), 10**6, 8, directory)
