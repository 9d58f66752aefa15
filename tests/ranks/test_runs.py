"""Runs of two ranks: what they share, resuming, another number of ranks, and the loss of one."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import CountingEnv

from reverie import checkpoint
from reverie.config.presets import load_preset
from reverie.data import replay_log
from reverie.errors import UserError
from reverie.ranks import ALONE, connected
from reverie.run.loop import Run
from reverie.run.shards import ranks_in

from ..run.test_resume import Walk
from .test_equal import run_ranks

SMALL = {"env.id": "custom:toy", "tensorboard": False, "video": False, "train.deterministic": True, "eval_episodes": 1,
         "prefill": 40, "num_envs": 1}  # fmt: skip


def train(ranks, directory, env_steps, env=Walk, **settings):
    """Train in a forked process. -> what is compared of a run."""
    torch.set_num_threads(1)
    run = Run(load_preset("debug", SMALL | {"env_steps": env_steps} | settings), directory, env, ranks=ranks)
    run.train()
    state = run.state
    return {
        "weights": {name: value.numpy() for name, value in run.agent.state_dict().items()},
        "rows": run.replay.contents(),
        "steps": state.clock.env_steps,
        "updates": state.clock.updates,
        "stream": torch.get_rng_state().numpy(),
        "drawn": state.replay.rng.bit_generator.state,
        "notes": state.notes,
    }


def same(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[k], right[k], equal_nan=True) for k in left)


def worked(found):
    """Raise what a rank raised."""
    for each in found:
        if isinstance(each, Exception):
            raise each
    return found


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_ranks_share_weights_and_counts_but_no_experience(tmp_path):
    first, second = worked(run_ranks(train, 2, tmp_path / "run", 120))
    assert same(first["weights"], second["weights"])
    assert (first["steps"], first["updates"]) == (second["steps"], second["updates"])
    assert first["steps"] in (120, 121)  # steps of two at a time
    assert len(first["rows"]["reward"]) + len(second["rows"]["reward"]) > 120  # rows of resets too
    assert not np.array_equal(first["rows"]["action"], second["rows"]["action"], equal_nan=True)
    assert not np.array_equal(first["stream"], second["stream"])
    episodes = lines(tmp_path / "run" / "episodes.jsonl")
    assert 60 < sum(line["length"] for line in episodes if line["phase"] in ("prefill", "train")) <= 120  # of both
    assert sum(line["phase"] == "eval" for line in episodes) == 1  # by rank 0 alone
    assert not (tmp_path / "run" / "ranks" / "1" / "checkpoints").exists()
    assert ranks_in(checkpoint.checkpoints(tmp_path / "run")[-1]) == 2


def test_resuming_with_as_many_ranks_is_exact(tmp_path):
    whole = worked(run_ranks(train, 2, tmp_path / "whole", 160))
    worked(run_ranks(train, 2, tmp_path / "parts", 100))
    parts = worked(run_ranks(train, 2, tmp_path / "parts", 160))
    for one, other in zip(whole, parts, strict=True):
        assert same(one["weights"], other["weights"])
        assert same(one["rows"], other["rows"])
        assert np.array_equal(one["stream"], other["stream"])
        assert one["drawn"] == other["drawn"]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_ranks_is_reported_and_works(tmp_path, before, after):
    first = worked(run_ranks(lambda ranks: train(ranks, tmp_path / "run", 120), before))
    more = worked(run_ranks(lambda ranks: train(ranks, tmp_path / "run", 160), after))
    names = {1: "1 process", 2: "2 ranks"}
    assert f"trained by {names[before]} and continues with {names[after]}" in more[0]["notes"][0]
    assert more[0]["updates"] > first[0]["updates"]
    assert more[0]["steps"] >= 160
    kept = np.concatenate([each["rows"]["obs/observation"] for each in more])
    for each in first:  # every step of the first part is still there
        for row in each["rows"]["obs/observation"]:
            assert (kept == row).all(1).any()
    again = worked(run_ranks(lambda ranks: train(ranks, tmp_path / "run", 180), after))  # and now as usual
    assert again[0]["steps"] >= 180
    assert again[0]["notes"] == []


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    for found in run_ranks(lambda ranks: train(ranks, tmp_path / "run", 120, batch_size=5)):
        assert isinstance(found, UserError)
        assert "train.batch_size=5 sequences cannot be shared equally by 2 ranks" in str(found)
        assert "train.batch_size=4" in str(found)


class DyingEnv(CountingEnv):
    """Ends its process without a word after so many steps, and writes down when."""

    def __init__(self, after, file=None):
        super().__init__(lengths=(300,))
        self.left, self.file = after, file

    def step(self, action):
        self.left -= 1
        if self.left == 0:
            self.file.write_text(str(time.monotonic()))
            os._exit(9)
        return super().step(action)


@pytest.mark.parametrize("dying", [0, 1])
@pytest.mark.parametrize("after", [15, 60])
def test_the_loss_of_a_rank_ends_the_run_with_a_checkpoint(tmp_path, dying, after):
    """Before and after learning began; whichever rank it is."""
    run = tmp_path / "run"

    def work(ranks):
        return train(ranks, run, 400, lambda: DyingEnv(after if ranks.rank == dying else 10**9, tmp_path / "when"))

    found = run_ranks(work, 2, lost=dying)[1 - dying]
    assert time.monotonic() - float((tmp_path / "when").read_text()) < 20
    newest = checkpoint.checkpoints(run)
    if dying == 0 and after == 15:  # nothing was learnt yet, and rank 0 had made no checkpoint
        assert isinstance(found, SystemExit)
        return
    assert isinstance(found, UserError)
    assert "one of the 2 ranks of this run has ended" in found.message
    assert f"A checkpoint of step {2 * after - 2} is in {run}" in found.hint
    checkpoint.verify(newest[-1])
    saved = json.loads((newest[-1] / "state.json").read_text())
    assert saved["clock"]["env_steps"] == 2 * after - 2
    more = worked(run_ranks(train, 2, run, 200, lambda: DyingEnv(10**9)))
    assert [each["steps"] for each in more] in ([200, 200], [201, 201])
    assert same(more[0]["weights"], more[1]["weights"])


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_full_disk_of_one_rank_ends_all_and_leaves_the_last_checkpoint(tmp_path, rank):
    """The disk is full after the first checkpoint, on one rank: its replay's log cannot be written."""
    run = tmp_path / "run"

    def work(ranks):
        real, written = replay_log.save_file, []

        def save_file(*arguments, **options):
            if written and ranks.rank == rank:
                (tmp_path / "when").write_text(str(time.monotonic()))
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(True)
            return real(*arguments, **options)

        replay_log.save_file = save_file  # in this forked process alone
        return train(ranks, run, 200)

    found = run_ranks(work, 2)
    assert time.monotonic() - float((tmp_path / "when").read_text()) < 20
    assert isinstance(found[rank], UserError)
    assert "No space left on device" in found[rank].message
    assert "Free some space" in found[rank].hint
    assert isinstance(found[1 - rank], UserError)
    for each in checkpoint.checkpoints(run):
        checkpoint.verify(each)
    more = worked(run_ranks(train, 2, run, 200))
    assert [each["steps"] for each in more] in ([200, 200], [201, 201])
    assert same(more[0]["weights"], more[1]["weights"])


def test_without_torchrun_there_is_one_process(monkeypatch):
    with connected({}) as ranks:
        assert ranks is ALONE
    with connected({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}) as ranks:
        assert ranks is ALONE


@pytest.mark.slow
def test_the_command_of_the_manual_with_a_killed_rank(tmp_path):
    """torchrun itself: it ends the others, the exit code is not 0, and the same command resumes."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--",
               "reverie", "train", "--preset", "debug", "--env", "CartPole-v1", "--run", str(run), "tensorboard=false",
               "video=false", "--env-steps"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "100000"], env=environment, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 180
    while not checkpoint.checkpoints(run) and time.monotonic() < until:
        time.sleep(0.2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {rank_of(int(child)): int(child) for child in children}
    os.kill(ranks["1"], signal.SIGKILL)
    begin = time.monotonic()
    errors = process.communicate(timeout=60)[1]
    assert time.monotonic() - begin < 20
    assert process.returncode != 0
    assert errors.count("error: one of the 2 ranks of this run has ended") == 1
    steps = int(checkpoint.checkpoints(run)[-1].name.partition("-")[2])
    again = subprocess.run(
        [*command, str(steps + 40)], env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert again.returncode == 0, again.stderr
    assert f"reached train.env_steps={steps + 40}" in again.stderr


def rank_of(pid):
    values = dict(item.partition("=")[::2] for item in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    return values.get("RANK", "")
