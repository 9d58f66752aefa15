"""Shared by all tests: threads, markers, and the fixtures that many files use.

torch gets one thread, so that tests neither fight for cores nor depend on their number.
"""

import os
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # several tests at a time: the processes that they start get one thread, too
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # `import toys`, whatever the import mode

torch.set_num_threads(1)

if "REVERIE_MUTANT" in os.environ:  # tests/mutants/run.py: never test another copy than the one with the fault in it
    import reverie

    if Path(reverie.__file__).parent != Path(os.environ["REVERIE_MUTANT"]):
        raise RuntimeError(f"{reverie.__file__} was imported instead of {os.environ['REVERIE_MUTANT']}")

#: Markers by path below tests/, a file without ".py" or a folder: no file has to name its own.
MARKERS = {
    "core": """test_ops test_layers test_latents test_networks test_rssm test_actor_critic test_world_model test_train
        test_parity test_alignment""",
    "process": """test_corruption test_mutants test_newcomer commands/test_cli envs/test_workers
        evidence/test_executors evidence/test_queue evidence/test_sweep evidence/test_tune guard/test_faults
        ranks/test_equal ranks/test_runs run/test_collector_ray run/test_collectors run/test_ray run/test_resume""",
    "web": "web",
}


def markers_of(path):
    """The markers of MARKERS that the tests of a file have."""
    inside = path.relative_to(Path(__file__).parent).with_suffix("")
    names = {inside.as_posix(), *(parent.as_posix() for parent in inside.parents)}
    return {marker for marker, places in MARKERS.items() if names & set(places.split())}


def pytest_ignore_collect(collection_path, config):
    """`-m core` imports the files of the core alone: reading all of the others takes eight seconds."""
    core_only = config.getoption("markexpr") in ("core", "core and not slow")
    return True if core_only and collection_path.is_file() and "core" not in markers_of(collection_path) else None


def pytest_collection_modifyitems(items):
    """Assign the markers of MARKERS."""
    for item in items:
        for marker in markers_of(item.path):
            item.add_marker(marker)


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
