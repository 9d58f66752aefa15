"""Collectors as actors of Ray: on a double of its interface, and (slow) on a cluster of two nodes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
from toys import RandomLengthEnv

from reverie.errors import UserError
from reverie.run import collectors as module

from . import fake_ray_actors
from .test_collectors import ON, Said

RAY = ON | {"env.collectors": "ray"}


def random_lengths():
    return RandomLengthEnv()


def test_rows_come_from_actors_and_weights_go_there(make_run, tmp_path, monkeypatch):
    ray = fake_ray_actors.install(monkeypatch)
    run = make_run(tmp_path / "run", random_lengths, env_steps=120, train_ratio=0.25, pretrain=3, **RAY)
    assert ray.asked == [{"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0}]
    run.train()
    run.replay.check_valid()
    assert run.clock.env_steps >= 120
    assert 0 <= run.clock.updates_due(0.25, 3) <= 1  # for the last row, with which the run ends
    assert (~run.replay.contents()["is_first"]).sum() == run.clock.env_steps
    assert all(actor.inside.work.version > 0 for actor in ray.actors)
    assert ray.calls.count("close") == 2
    assert ray.killed == 2
    assert not ray.open  # a cluster that was started for the run ends with it


def test_a_slow_environment_answers_before_all_rows_are_there(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr("reverie.run.collector_work.PATIENCE", 0.0)  # a row at a time
    fake_ray_actors.install(monkeypatch)
    run = make_run(tmp_path / "run", random_lengths, env_steps=60, **RAY)
    run.train()
    assert run.clock.env_steps >= 60
    run.replay.check_valid()


def test_an_actor_that_dies_is_replaced(make_run, tmp_path, monkeypatch):
    ray, said = fake_ray_actors.install(monkeypatch), Said()
    run = make_run(tmp_path / "run", random_lengths, env_steps=300, **RAY)
    take = run._take

    def watched(item, progress):
        take(item, progress)
        if run.clock.env_steps > 60:
            ray.actors[0].dead = True

    run._take = watched
    run.train(said)
    assert len(ray.actors) == 3
    (line,) = [line for line in said.lines if "collector 0" in line]
    assert line.startswith(f"note      collector 0 ({os.uname().nodename}) was lost (The actor died unexpectedly")
    assert line.endswith("); another takes its place and begins new episodes")


def test_the_death_of_the_head_ends_the_run_with_a_checkpoint(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.1)
    ray = fake_ray_actors.install(monkeypatch)
    run = make_run(tmp_path / "run", random_lengths, env_steps=5000, **RAY)
    take = run._take

    def watched(item, progress):
        take(item, progress)
        if run.clock.env_steps > 60:
            ray.die()
            for actor in ray.actors:
                actor.dead = True

    run._take = watched
    with pytest.raises(
        UserError, match=r"the head of the Ray cluster at 127\.0\.0\.1:\d+ is gone \(Connection refused\)"
    ):
        run.train()
    (kept,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert int(kept.name.partition("-")[2]) > 60


def test_too_few_cores_and_no_cluster_are_said_before_anything_is_written(make_run, tmp_path, monkeypatch):
    ray = fake_ray_actors.install(monkeypatch, cores=(1,))
    with pytest.raises(UserError, match=r"the Ray cluster has 1 cores, 2 collectors need one each"):
        make_run(tmp_path / "run", random_lengths, **RAY)
    assert not ray.open
    with socket.create_server(("127.0.0.1", 0)) as something:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{something.getsockname()[1]}")
        ray.init = lambda **options: (_ for _ in ()).throw(ConnectionError("this is no Ray"))
        with pytest.raises(UserError, match=r"there is no Ray cluster at 127\.0\.0\.1:\d+: this is no Ray"):
            make_run(tmp_path / "run", random_lengths, **RAY)
    assert not (tmp_path / "run").exists()


CLUSTER = """
import json, sys, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from reverie.config.presets import load_preset
from reverie.errors import UserError
from reverie.run.loop import Run
from reverie.run.progress import Progress

sys.path.insert(0, "tests")
folder, said = Path(sys.argv[1]), []
small = {"num_cpus": 1, "object_store_memory": 10**8}
cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **small})
second = cluster.add_node(**small)
ray.init(address=cluster.address, log_to_driver=False)
settings = {"env.id": "CartPole-v1", "env.collectors": "ray", "num_envs": 2, "tensorboard": False, "video": False,
            "random_baseline": False, "forecast": False, "eval_episodes": 1}

def train(name, env_steps, strike):
    run, struck = Run(load_preset("debug", settings | {"env_steps": env_steps}), folder / name), []
    take = run._take

    def watched(item, progress):
        take(item, progress)
        if run.clock.env_steps > 150 and not struck and all(slot.begun for slot in run._collectors.slots):
            struck.append(True)
            strike()

    run._take = watched
    progress = Progress(quiet=True)
    progress.say = said.append
    run.train(progress)
    return run

def replace_node():
    cluster.remove_node(second, allow_graceful=False)
    cluster.add_node(**small)

run = train("node", 1500, replace_node)
run.replay.check_valid()
found = {"steps": run.clock.env_steps, "updates": run.clock.updates, "said": said}
try:
    train("head", 1_000_000, lambda: cluster.head_node.kill_gcs_server())
except UserError as error:
    found["head"] = str(error)
found["kept"] = len(list((folder / "head" / "checkpoints").glob("step-*")))
print(json.dumps(found), flush=True)
import os
os._exit(0)  # the cluster of this process waits for its head
"""


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_a_cluster_of_two_nodes_that_loses_one_and_then_its_head(tmp_path):
    """The collector of the node that dies is replaced on another; the head's death ends the run with a checkpoint."""
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, str(tmp_path)], capture_output=True, text=True, timeout=1500, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["steps"] >= 1500
    assert sum("another takes its place" in line for line in found["said"]) == 1
    assert "the head of the Ray cluster" in found["head"]
    assert found["kept"] >= 1
