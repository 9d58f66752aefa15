"""Ray itself: a cluster of two nodes on this machine, one that a run starts, and the loss of whatever can be lost.

Each test has clusters of its own, in a folder of its own, and ends all of their processes. Skipped without Ray.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from reverie.errors import UserError
from reverie.run.ray_cluster import join_cluster

needs_ray = pytest.mark.skipif(
    not (Path(sys.executable).parent / "ray").exists(), reason="Ray is not installed (pip install 'reverie-rl[ray]')"
)
#: Seconds for whatever has to start, on a crowded machine.
LONG = 500
SETTINGS = ["env.collectors=ray", "env.num_collectors=2", "num_envs=2", "env_steps=10000000", "tensorboard=false",
            "video=false", "random_baseline=false", "forecast=false", "log_every=2"]  # fmt: skip
#: Processes of Ray that end minutes after their node, by themselves.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
STUCK = """
import gymnasium as gym

class Stuck(gym.Wrapper):
    left = 100

    def step(self, action):
        self.left -= 1
        if self.left == 0:
            raise ValueError("the arm is stuck")
        return super().step(action)

def make_env():
    return Stuck(gym.make("CartPole-v1"))
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(true, seconds=LONG):
    until = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < until:
        time.sleep(0.2)
    return found


class Place:
    """A folder for Ray and for runs, and all processes that were started with it."""

    def __init__(self, address):
        self.folder = Path(tempfile.mkdtemp(prefix="rr", dir="/tmp"))  # short: the paths of Ray's sockets are long
        self.env = os.environ | {"RAY_TMPDIR": str(self.folder), "RAY_ADDRESS": address, "OMP_NUM_THREADS": "1",
                                 "TERM": "dumb"}  # fmt: skip

    def start(self, *words, name):
        log = open(self.folder / f"{name}.txt", "w")  # noqa: SIM115 (the process writes to it)
        with log, open(self.folder / f"{name}.out", "w") as out:
            return subprocess.Popen(
                [sys.executable, "-m", *words], env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def node(self, *words, name):
        """Ray gives a node 30 seconds to start, too few on a crowded machine: one of five attempts."""
        size = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
        for _ in range(5):
            process = self.start("ray.scripts.scripts", "start", *words, *size, name=name)
            ready = partial(self.has_started, name)
            if wait_for(lambda process=process, ready=ready: ready() or process.poll() is not None) and ready():
                return process
            process.kill()
            process.wait()
        raise AssertionError((self.folder / f"{name}.txt").read_text())

    def has_started(self, name):
        return "Ray runtime started" in (self.folder / f"{name}.out").read_text()

    def learns(self, run, replaced=0):
        """Wait until it learns from rows of two collectors, after so many were replaced."""
        assert wait_for(lambda: run.poll() is not None or self.learning(replaced)), self.said
        assert run.poll() is None, self.said

    def train(self, *words, env="CartPole-v1"):
        words = ["train", "--preset", "debug", "--env", str(env), "--run", str(self.run), *SETTINGS, *words]
        return self.start("reverie", *words, name="run")

    @property
    def run(self):
        return self.folder / "run"

    @property
    def said(self):
        return (self.folder / "run.txt").read_text()

    def processes(self, name=""):
        """{number: command} of what was started with this folder, whatever has started it."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if str(self.folder).encode() in (path / "environ").read_bytes():
                    command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if name in command:
                        found[int(path.name)] = command
        return found

    def left(self):
        """What should have ended by now."""
        return {number: words for number, words in self.processes().items() if not words.startswith(AGENTS)}

    def collectors(self):
        return self.processes("ray::RayCollector")

    def notes(self):
        return [line for line in self.said.splitlines() if line.startswith("note ")]

    def learning(self, replaced=0):
        """Does it?"""
        with suppress(OSError, ValueError):
            last = json.loads((self.run / "metrics.jsonl").read_text().splitlines()[-1])
            now = last["env_steps"] > 100 and last.get("collectors/replaced") == replaced
            return now and "collectors/weights_age" in last and len(self.collectors()) == 2
        return False


def children(number):
    return [int(each) for each in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


@pytest.fixture
def make_place():
    made = []

    def make(address):
        made.append(Place(address))
        return made[-1]

    yield make
    for place in made:
        while left := place.processes():
            for number in left:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.2)
        shutil.rmtree(place.folder)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_ray
def test_a_killed_actor_a_killed_node_and_a_killed_head(make_place):
    """The first two are reported and replaced; the third ends the run within 20 seconds, with a checkpoint."""
    place = make_place(f"127.0.0.1:{free_port()}")
    head = place.node("--head", f"--port={place.env['RAY_ADDRESS'].partition(':')[2]}", "--include-dashboard=false",
                      name="head")  # fmt: skip
    second = place.node(f"--address={place.env['RAY_ADDRESS']}", name="second")
    run = place.train()
    place.learns(run)
    os.kill(next(iter(place.collectors())), signal.SIGKILL)
    place.learns(run, 1)
    for each in (*children(second.pid), second.pid):  # the whole node; its workers end without it
        os.kill(each, signal.SIGKILL)
    second.wait()
    third = place.node(f"--address={place.env['RAY_ADDRESS']}", name="third")
    place.learns(run, 2)
    (gcs,) = place.processes("gcs_server")
    begin = time.monotonic()
    os.kill(gcs, signal.SIGKILL)
    assert run.wait(LONG) == 2, place.said
    assert time.monotonic() - begin < 20
    assert len(place.notes()) == 2
    assert all("was lost (" in line and "another takes its place" in line for line in place.notes())
    assert place.said.count("error: the head of the Ray cluster at") == 1
    assert list((place.run / "checkpoints").glob("step-*"))
    assert "raylet" not in place.said  # Ray's own pages about what it has lost
    assert (place.folder / "run.out").read_text() == ""
    for each in (third, head):
        each.kill()
        each.wait()


@pytest.mark.slow
@pytest.mark.timeout(2400)
@needs_ray
def test_a_cluster_of_the_runs_own_ends_with_it(make_place):
    """Ctrl-C of a terminal reaches Ray's processes, too: there is a checkpoint all the same, and no cluster is left."""
    place = make_place("local")
    run = place.train()
    place.learns(run)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(LONG) == 0, place.said
    assert "stopped by SIGINT; the same command continues it" in place.said
    assert list((place.run / "checkpoints").glob("step-*"))
    assert wait_for(lambda: not place.left(), 30), place.left()
    assert not list((place.folder / "ray").glob("session_2*"))
    again = place.train()
    place.learns(again)  # it resumes
    again.kill()
    again.wait()
    assert wait_for(lambda: not place.left(), 60), place.left()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@needs_ray
def test_an_environment_that_raises_inside_an_actor_is_one_sentence(make_place):
    place = make_place("local")
    (place.folder / "stuck.py").write_text(STUCK)
    run = place.train(env=f"{place.folder / 'stuck.py'}:make_env")
    assert run.wait(LONG) == 2, place.said
    assert "error: step of the environment raises ValueError (the arm is stuck) in" in place.said
    assert "stuck.py:10" in place.said
    assert "Traceback" not in place.said
    assert list((place.run / "checkpoints").glob("step-*"))


# ------------------------------------------------------------------------------------------------- where a cluster is


@pytest.mark.parametrize("given", ["nonsense", "ray://127.0.0.1:10001", "127.0.0.1", ":6379", "host:port"])
def test_what_is_no_address_of_a_cluster_is_refused(given, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", _Silent)
    with pytest.raises(UserError, match=r"is not the address of a Ray cluster\. It is HOST:PORT of the head"):
        join_cluster("this", given)


@pytest.mark.parametrize("given", ["", "auto", "argument"])
def test_a_cluster_that_does_not_answer_is_named_at_once(given, tmp_path, monkeypatch):
    """Ray itself would try for minutes: also one that `ray start` has started and that was killed since."""
    monkeypatch.setitem(sys.modules, "ray", _Silent)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "" if given == "argument" else given)
    there = f"127.0.0.1:{free_port()}"
    if given != "argument":
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(f"{there}\n")
    begin = time.monotonic()
    with pytest.raises(UserError, match=rf"there is no Ray cluster at {there}: Connection refused.*RAY_ADDRESS=local"):
        join_cluster("this", there if given == "argument" else "")
    assert time.monotonic() - begin < 5


def test_auto_without_a_cluster_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", _Silent)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(UserError, match="no `ray start` has run on this machine"):
        join_cluster("this")


@pytest.mark.parametrize("failures", [2, 3])
def test_a_cluster_of_ones_own_is_tried_three_times(failures, monkeypatch):
    """Ray gives its processes 30 seconds to start, too few on a crowded machine."""
    said = []

    class Slow(_Silent):
        shutdown = staticmethod(lambda: said.append("shutdown"))

        @staticmethod
        def init(**options):
            said.append(options["address"])
            if said.count("local") <= failures:
                raise Exception("The current node timed out during startup. This could happen because")
            return SimpleNamespace(address_info={"session_dir": ""})

    monkeypatch.setitem(sys.modules, "ray", Slow)
    if failures == 3:
        with pytest.raises(UserError, match=r"Ray could not be started on this machine: The current node timed out"):
            join_cluster("this", "local")
    else:
        assert join_cluster("this", "local").ours
    assert said == ["local", "shutdown"] * failures + ["local"] * (failures < 3)


class _Silent:
    """Ray, where it must not be asked."""

    @staticmethod
    def is_initialized():
        return False
