"""Shared by all tests: one thread of torch, so that tests neither fight for cores nor depend on their number."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # `import toys`, whatever the import mode

torch.set_num_threads(1)

if "REVERIE_MUTANT" in os.environ:  # tests/mutants/run.py: never test another copy than the one with the fault in it
    import reverie

    if Path(reverie.__file__).parent != Path(os.environ["REVERIE_MUTANT"]):
        raise RuntimeError(f"{reverie.__file__} was imported instead of {os.environ['REVERIE_MUTANT']}")


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """Run the test in an empty directory, where default run directories do no harm."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make_run():
    """make_run(directory, env, name=value, ...): a Run of preset debug, without TensorBoard and films."""
    from toys import long_counting

    from reverie.config.presets import load_preset
    from reverie.run.loop import Run

    def make(directory, env=long_counting, **overrides):
        quick = {"env.id": "custom:toy", "tensorboard": False, "video": False, "env_steps": 120}
        return Run(load_preset("debug", quick | overrides), directory, env)

    return make


@pytest.fixture
def files_of():
    """files_of(directory) -> {relative path: bytes} of everything below it."""

    def read(directory):
        return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}

    return read
