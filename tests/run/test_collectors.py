"""Collectors elsewhere: whole rows in order, the ratio exact, weights that arrive, and whatever may be lost.

Most of it in threads (`thread_transport.py`), for a process needs seconds to start; two tests have real ones.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import cloudpickle
import numpy as np
import pytest
import torch
from toys import CountingEnv, RandomLengthEnv

from reverie.config.presets import load_preset
from reverie.data.collect import Collector
from reverie.envs.repeatable import seed_of
from reverie.errors import UserError
from reverie.ranks import Ranks
from reverie.run import collectors as module
from reverie.run import loop
from reverie.run.collector_local import LocalTransport
from reverie.run.collector_work import RANDOM, Task, Weights, Work, acting_weights, pack
from reverie.run.progress import Progress
from reverie.run.shards import require_shares
from reverie.run.tasks import make_envs, spec_of
from reverie.train import DreamerV2

from .thread_transport import ThreadTransport

ON = {"env.collectors": "local", "env.num_collectors": 2, "num_envs": 4, "env.backend": "sync", "forecast": False,
      "random_baseline": False}  # fmt: skip


def random_lengths():
    return RandomLengthEnv()


@pytest.fixture
def transport(monkeypatch):
    """Collectors in threads; the transport with all of them."""
    made = ThreadTransport()
    monkeypatch.setattr(loop, "make_transport", lambda config: made)
    return made


class Said(Progress):
    """Keeps the lines."""

    def __init__(self):
        super().__init__(quiet=True)
        self.lines = []

    def say(self, text):
        self.lines.append(text)


# ---------------------------------------------------------------------------------------------------------------- rows


def streams_of(replay):
    """The rows of each stream, in order."""
    for stream, count in enumerate(replay.counts):
        yield stream, {key: value[stream, :count] for key, value in replay.data.items()}


def play_again(stream, rows, seed):
    """The rows of one environment that is stepped with the same actions, without any of our loop."""
    env, index, ended, found, episode = RandomLengthEnv(), rows["action"].argmax(-1), True, [], 0
    for at in range(len(rows["reward"])):
        if ended:
            obs, _ = env.reset(seed=seed_of(seed + stream, episode))
            found.append((obs, 0.0, True, False, False))
            ended, episode = False, episode + 1
        else:
            obs, reward, terminal, truncated, _ = env.step(int(index[at]))
            ended = terminal or truncated
            found.append((obs, reward, False, ended, terminal))
    return [np.array(values) for values in zip(*found, strict=True)]


@pytest.mark.parametrize("count", [1, 3])
def test_rows_are_those_of_environments_that_are_stepped_one_after_the_other(count, transport, make_run, tmp_path):
    """Resets, ends, time limits and rewards stand where docs/time.md has them, in every stream."""
    run = make_run(tmp_path / "run", random_lengths, env_steps=150, **ON | {"env.num_collectors": count})
    seen, note = [], run._note
    run._note = lambda episodes: (seen.extend(episodes), note(episodes))
    run.train()
    assert len(transport.handles) == count
    run.replay.check_valid()
    for stream, rows in streams_of(run.replay):
        obs, reward, first, last, terminal = play_again(stream, rows, seed=0)
        assert len(reward) > 20
        assert np.array_equal(rows["obs/observation"], obs.astype(np.float32))
        assert np.array_equal(rows["reward"], reward.astype(np.float32))
        for key, wanted in (("is_first", first), ("is_last", last), ("is_terminal", terminal)):
            assert np.array_equal(rows[key], wanted), key
        assert np.array_equal(np.isnan(rows["action"]).any(-1), first)
        ends, begins = np.flatnonzero(last), np.flatnonzero(first)
        mine = [episode.length for episode in seen if episode.index == stream]  # by the run's own index
        assert mine == (ends - begins[: len(ends)]).tolist()


def test_random_actions_of_one_collector_are_those_of_a_run_without(transport, make_run, tmp_path):
    alone = make_run(tmp_path / "alone", random_lengths, num_envs=2, env_steps=60, prefill=100)
    alone.train()
    one = {**ON, "num_envs": 2, "env.num_collectors": 1, "prefill": 100}
    run = make_run(tmp_path / "run", random_lengths, env_steps=60, **one)
    run.train()
    for key, value in run.replay.contents().items():
        assert np.array_equal(value, alone.replay.contents()[key], equal_nan=True), key


def test_the_ratio_is_exact_and_nobody_is_far_ahead(transport, make_run, tmp_path):
    run = make_run(tmp_path / "run", env_steps=200, train_ratio=0.25, prefill=50, pretrain=3, **ON)
    most, owed, ahead = run._most_ahead(), [], []
    take = run._take

    def watched(item, progress):
        owed.append(run.clock.updates_due(0.25, 3))  # before a row everything that was owed has been done
        ahead.extend(slot.handle.most_asked - slot.taken for slot in run._collectors.slots)
        take(item, progress)

    run._take = watched
    run.train()
    assert 200 <= run.clock.env_steps <= 201
    assert max(owed) <= 0
    assert 0 <= run.clock.updates_due(0.25, 3) <= 1  # for the last row, with which the run ends
    assert most == 9
    assert max(ahead) <= most  # rows that were asked for and not taken: more cannot have been made
    assert all(handle.made <= handle.most_asked for handle in transport.handles)
    assert (~run.replay.contents()["is_first"]).sum() == run.clock.env_steps


# ------------------------------------------------------------------------------------------------------------- weights


def test_weights_arrive_and_are_those_of_the_learner(transport, make_run, tmp_path):
    """The version of the weights that act grows, no later than said, and they are the learner's of that update."""
    run = make_run(tmp_path / "run", env_steps=130, train_ratio=0.5, **ON | {"weights_every": 4})
    known, checked = {}, []
    update = run.update

    def snapshot(updates):
        return {key: value.clone() for key, value in acting_weights(run.agent.world_model, run.agent.actor).items()}

    def watched():
        metrics = update()
        if run._collectors.updates == run.clock.updates:
            known[run.clock.updates] = snapshot(run.clock.updates)
        return metrics

    def before(handle):
        if handle.work is not None and handle.work.version in known:
            mine = {f"world_model.{k}": v for k, v in handle.work.world_model.state_dict().items()}
            mine |= {f"actor.{k}": v for k, v in handle.work.actor.state_dict().items()}
            sent = known[handle.work.version]
            checked.append(all(torch.equal(mine[key], value) for key, value in sent.items()))
            assert sent.keys() == mine.keys()  # no head, no decoder, no critic there, and nothing that acts is missing

    run.update, transport.before = watched, before
    run.train()
    assert len(checked) > 5
    assert all(checked)
    for handle in transport.handles:
        assert handle.versions == sorted(handle.versions)
        assert handle.versions[0] == RANDOM
        assert len(set(handle.versions)) > 3
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in metrics if "collectors/weights_age" in line][-1]
    assert 0 <= last["collectors/weights_age"] < 40
    assert last["collectors/rows_per_second"] > 0
    assert last["collectors/bytes_per_row"] == sum(value[0, 0].nbytes for value in run.replay.data.values())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hierarchy.goal_every": 4},
        {"ensemble.members": 2, "behavior.explore": "ensemble"},
        {"behavior.cloning": True, "explore_hold": 8.0},
        {"model.vector_transform": "running", "action_hold": 3},
    ],
    ids=["policy", "hierarchy", "explore", "cloning", "running scale"],
)
def test_it_acts_as_the_learner_would_with_the_same_weights_and_chance(settings):
    """What explores, and a hierarchy, act by weights that are sent: nothing of them stays with the learner."""
    config = load_preset("debug", ON | {"env.id": "custom:toy", "compute.mode": "reference"} | settings)
    envs = make_envs(config, random_lengths, 2, backend="sync")
    agent = DreamerV2(config, spec_of(envs))
    agent.world_model.follow_observations({"observation": torch.randn(50, 4)})
    work = Work(Task(config, random_lengths, spec_of(envs), first=2, count=2, seed=5, noise=9), Weights())
    work.weights.newest = 7, pack(acting_weights(agent.world_model, agent.collecting.actor))
    block = work.make(25)
    player = agent.player(num_envs=2, mode="explore", seed=10)
    rows = Collector(envs, seed=7).rows(player.act)
    for at, (row, _) in zip(range(25), rows, strict=False):
        for key, value in row.items():
            assert np.array_equal(block.rows[key][at], value, equal_nan=True), (key, at)
    assert block.fault is None
    assert block.versions == [RANDOM] + [7] * 24  # a reset is no action


# -------------------------------------------------------------------------------------------------------------- losses


def test_a_collector_that_dies_is_told_and_replaced(transport, make_run, tmp_path):
    struck = []

    def before(handle):
        if handle is transport.handles[0] and handle.made > 20 and not struck:
            struck.append(True)
            handle.die()

    transport.before, said = before, Said()
    run = make_run(tmp_path / "run", random_lengths, env_steps=300, **ON)
    run.train(said)
    assert len(transport.handles) == 3
    assert [transport.handles[2].task.first, transport.handles[2].task.count] == [0, 2]
    assert transport.handles[2].task.seed != transport.handles[0].task.seed
    (line,) = [line for line in said.lines if "collector 0" in line]
    assert line == (
        "note      collector 0 (a thread) was killed by SIGKILL; another takes its place and begins new episodes"
    )
    run.replay.check_valid()
    assert run.clock.env_steps >= 300
    assert transport.handles[2].made > 0
    assert transport.closed


def test_a_collector_that_hangs_is_told_and_replaced(transport, make_run, tmp_path):
    free = threading.Event()

    def before(handle):
        if handle is transport.handles[1] and handle.made > 20:
            free.wait(20)

    transport.before, said = before, Said()
    run = make_run(tmp_path / "run", random_lengths, env_steps=4000, **ON | {"worker_timeout": 0.5, "prefill": 5000})
    stop = run.state.stop
    take = run._take

    def watched(item, progress):
        take(item, progress)
        time.sleep(0.002)
        if len(transport.handles) == 3 and transport.handles[2].made > 10:
            stop()

    run._take = watched
    run.train(said)
    free.set()
    assert [line for line in said.lines if "collector 1" in line] == [
        "note      collector 1 (a thread) sent no row for 0.5 s; another takes its place and begins new episodes"
    ]


def test_a_run_whose_collectors_all_die_again_and_again_ends_with_a_checkpoint(transport, make_run, tmp_path):
    def before(handle):
        if transport.handles.index(handle) > 1 or handle.made > 10:
            handle.die("ended with exit code 1")

    transport.before, said = before, Said()
    run = make_run(tmp_path / "run", env_steps=5000, **ON)
    with pytest.raises(
        UserError, match=r"no collector is left: each failed 4 times.*hows what happens in this process"
    ):
        run.train(said)
    assert sum("another takes its place" in line for line in said.lines) == 6
    assert sum("for the 4th time: it is left out, 1 of 2 continue" in line for line in said.lines) == 1
    again = make_run(tmp_path / "run", env_steps=5000, **ON)
    assert again.state.resumed
    assert again.clock.env_steps > 10
    again.close()


def test_the_end_of_the_whole_transport_is_one_sentence_and_a_checkpoint(transport, make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK", 0.1)

    def before(handle):
        if handle.made > 20:
            transport.gone = "the head of the Ray cluster at 1.2.3.4:6379 is gone (Connection refused)"
            time.sleep(1)

    transport.before = before
    run = make_run(tmp_path / "run", env_steps=5000, **ON)
    with pytest.raises(
        UserError, match=r"^the head of the Ray cluster at 1\.2\.3\.4:6379 is gone .*: no rows can come"
    ):
        run.train()
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


class Stuck(CountingEnv):
    """Raises at its 30th step."""

    def step(self, action):
        self.left = getattr(self, "left", 30) - 1
        if self.left == 0:
            raise ValueError("the arm is stuck")
        return super().step(action)


def test_an_environment_that_breaks_ends_the_run_with_the_sentence_of_the_border(transport, make_run, tmp_path):
    run = make_run(tmp_path / "run", lambda: Stuck(lengths=(1000,)), env_steps=300, **ON)
    with pytest.raises(
        UserError, match=r"step of the environment raises ValueError \(the arm is stuck\) in .*:\d+"
    ) as e:
        run.train()
    assert "Traceback" in str(e.value.__cause__)
    again = make_run(tmp_path / "run", env_steps=300, **ON)
    assert again.state.resumed
    assert 29 <= again.clock.env_steps <= 4 * 29
    again.close()


# ------------------------------------------------------------------------------------------------ resuming and refusing


def test_a_resumed_run_begins_new_episodes_and_counts_on(transport, make_run, tmp_path):
    """With as many collectors, with others, and without any."""
    make_run(tmp_path / "run", random_lengths, env_steps=150, **ON).train()
    steps = 150
    for settings in (ON, ON | {"env.num_collectors": 4}, {**ON, "env.collectors": "none", "env.num_collectors": 0}):
        steps += 50
        run = make_run(tmp_path / "run", random_lengths, env_steps=steps, **settings)
        before, taken = run.replay.counts.copy(), run.clock.env_steps
        assert run.state.resumed
        assert taken >= steps - 50
        assert any("could not be played again. New ones begin there" in note for note in run.state.notes)
        run.train()
        assert run.clock.env_steps >= steps
        assert (run.replay.counts > before).all()
        run.replay.check_valid()
        assert (~run.replay.contents()["is_first"]).sum() == run.clock.env_steps
        for stream, rows in streams_of(run.replay):
            assert rows["is_first"][before[stream]]
            seeds = rows["obs/observation"][:, 3]
            assert seeds[before[stream]] not in seeds[: before[stream]]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"train.deterministic": True}, "'env.collectors' act with whatever weights have come"),
        ({"env.async_collect": True}, "'env.async_collect' is about acting in this process"),
        ({"env.num_collectors": 5}, "'env.num_collectors' 5 cannot share 'env.num_envs' 4: set 'env.num_envs' to 5"),
        ({"env.collectors": "none"}, "'env.num_collectors' 2 is about collectors elsewhere"),
        ({"env.weights_every": 0}, "'env.weights_every' must be above 0"),
        ({"env.collectors": "slurm"}, "must be one of none, local, ray"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_sentence(settings, sentence):
    with pytest.raises(UserError) as error:
        load_preset("debug", ON | settings)
    assert sentence in str(error.value)


def test_several_ranks_an_instance_and_what_cannot_be_sent_are_refused(make_run, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"env\.collectors is for runs of one process, this run has 2 ranks"):
        require_shares(load_preset("debug", ON), Ranks(0, 2))
    with pytest.raises(UserError, match="collectors make environments of their own"):
        make_run(tmp_path / "run", CountingEnv(), **ON)
    lock = threading.Lock()
    with pytest.raises(UserError, match=r"cannot be sent to a collector \(TypeError: .*lock"):
        make_run(tmp_path / "run", lambda: (lock, CountingEnv())[1], **ON)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"env\.collectors=ray needs Ray.*pip install 'reverie-rl\[ray\]'"):
        make_run(tmp_path / "run", **ON | {"env.collectors": "ray"})
    assert not (tmp_path / "run").exists()


def test_without_collectors_nothing_of_them_is_there(make_run, tmp_path):
    run = make_run(tmp_path / "run", env_steps=60, **ON | {"env.collectors": "none", "env.num_collectors": 0})
    run.train()
    assert run.state.transport is None
    assert type(run.state.collector).__name__ == "Collector"
    assert "ray" not in sys.modules
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "collectors/" not in text


# ----------------------------------------------------------------------------------------------------- real processes


def gone(pid, seconds=10.0):
    """Has a process group ended?"""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_processes_one_of_which_is_killed_and_ctrl_c_leave_nothing_behind(make_run, tmp_path):
    """A note for the one that was killed, a checkpoint at Ctrl-C, and no process afterwards."""
    run = make_run(tmp_path / "run", random_lengths, env_steps=100_000, eval_episodes=1, **ON)
    said, seen, struck = Said(), set(), []
    take = run._take

    def watched(item, progress):
        take(item, progress)
        seen.update(slot.handle.process.pid for slot in run._collectors.slots)
        if len(seen) == 2 and not struck and all(slot.begun for slot in run._collectors.slots):
            struck.append(True)
            os.kill(run._collectors.slots[1].handle.process.pid, signal.SIGKILL)
        elif len(seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    run._take = watched
    run.train(said)
    assert [line for line in said.lines if "collector 1" in line] == [
        "note      collector 1 (this machine) was killed by SIGKILL, perhaps because memory ran out; another takes its "
        "place and begins new episodes"
    ]
    assert run.state.stopping.signal == "SIGINT"
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert len(seen) == 3
    assert all(gone(pid) for pid in seen)
    run.replay.check_valid()


class Hangs(CountingEnv):
    """Sleeps for an hour at its 5th step, with a child of its own that does so, too."""

    def step(self, action):
        if self.at >= 4:
            subprocess.run(["sleep", "3600"], check=False)
        return super().step(action)


def test_a_process_that_hangs_ends_when_it_is_told_to_and_when_the_learner_is_gone():
    config = load_preset("debug", ON | {"env.id": "custom:toy", "num_envs": 2})
    envs = make_envs(config, lambda: Hangs(lengths=(10,)), 1, backend="sync")
    task = Task(config, lambda: Hangs(lengths=(10,)), spec_of(envs), first=0, count=2, seed=0, noise=0)
    envs.close()
    answers, transport, data = {}, LocalTransport(), cloudpickle.dumps(task)
    handles = [transport.start(data, lambda handle, answer: answers.setdefault(handle, answer)) for _ in range(2)]
    for handle in handles:
        handle.ask(3)
        handle.ask(10)
    until = time.monotonic() + 120
    while len(answers) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert [answers[handle].rows["reward"].shape for handle in handles] == [(3, 2)] * 2
    time.sleep(0.3)
    begin = time.monotonic()
    handles[0].end(0.0)
    assert time.monotonic() - begin < 2
    assert gone(handles[0].process.pid)
    with socket.socket(fileno=os.dup(handles[1].link.fileno())) as link:
        link.shutdown(socket.SHUT_RDWR)  # as the learner's end does
    assert handles[1].process.wait(10) == -signal.SIGKILL
    assert gone(handles[1].process.pid)
