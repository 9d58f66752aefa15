"""Environments in worker processes: the rows of SyncVectorEnv, and runs that survive their crashes and hangs."""

import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toys import DictEnv
from worker_envs import (
    GlobalRandom,
    Steady,
    WithChild,
    broken,
    faulty,
    minigrid,
    nested,
    not_installed,
    random_length,
    steady,
    unmakeable,
)

from reverie.data.collect import Collector
from reverie.envs import AgentView
from reverie.envs.vector import backend, workers
from reverie.envs.vector.backend import choose_backend, decide, expected
from reverie.envs.vector.workers import WorkerVectorEnv, share_cores, usable_cores
from reverie.errors import UserError

HERE = Path(__file__).parents[1]


@pytest.fixture
def make():
    """make(makers, ...) -> WorkerVectorEnv that is closed at the end; `.messages` are the messages about its faults."""
    made = []

    def start(makers, **options):
        messages = []
        envs = WorkerVectorEnv(makers, **{"workers": 2, "on_fault": messages.append} | options)
        envs.messages = messages
        made.append(envs)
        return envs

    yield start
    for envs in made:
        envs.close()


def alive(pid):
    """Is there such a process, other than a corpse?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(pids, seconds=5):
    until = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


def pids(envs):
    return [worker.process.pid for worker in envs.workers]


def actions(envs, count, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *envs.action_space.shape)).astype(np.float32)


def play(envs, count, each=lambda: None):
    """So many steps. -> observations"""
    seen = []
    for action in actions(envs, count):
        seen.append(envs.step(action)[0])
        each()
    return seen


def assert_equal(ours, theirs):
    """Everything that reset or step gave: same types, same bits."""
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(other, dict):
            assert list(mine) == list(other)
            assert_equal(list(mine.values()), list(other.values()))
        else:
            assert mine.dtype == other.dtype
            np.testing.assert_array_equal(mine, other, strict=True)


# -------------------------------------------------------------------------------------------------------- the same rows


@pytest.mark.parametrize(
    ("maker", "count", "processes"), [(steady, 5, 2), (random_length, 2, 2), (nested, 3, 1), (minigrid, 2, 2)]
)
def test_rows_are_those_of_sync(make, maker, count, processes):
    """500 steps, bit for bit, after resets with one seed and with several."""
    if maker is minigrid:
        pytest.importorskip("minigrid")
    ours, theirs = make([maker] * count, workers=processes), SyncVectorEnv([maker] * count)
    assert_equal(ours.reset(seed=7), theirs.reset(seed=7))
    for action in actions(ours, 500):
        assert_equal(ours.step(action)[:4], theirs.step(action)[:4])
    seeds = [3 * i for i in range(count)]
    assert_equal(ours.reset(seed=seeds), theirs.reset(seed=seeds))
    assert_equal(ours.step(action)[:4], theirs.step(action)[:4])
    assert ours.messages == []


def test_attributes_are_those_of_sync(make):
    ours, theirs = make([steady] * 3), SyncVectorEnv([steady] * 3)
    for name in ("num_envs", "single_observation_space", "single_action_space", "metadata", "render_mode"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert ours.get_attr("agent_spec") == theirs.get_attr("agent_spec")


def test_logs_of_finished_episodes_arrive(make):
    """Of the episodes that end, each its own; nothing else is sent."""
    envs = make([steady] * 3)
    envs.reset(seed=0)
    lengths, ends = np.zeros(3, int), 0
    for action in actions(envs, 60):
        _, _, terminated, truncated, infos = envs.step(action)
        ended = terminated | truncated
        logs = {i: {"length": float(lengths[i] + 1)} for i in np.flatnonzero(ended)}
        assert infos == ({"logs": logs} if logs else {})
        lengths = np.where(ended, -1, lengths + 1)
        ends += ended.sum()
    assert ends >= 6


def test_what_is_returned_stays(make):
    """Arrays are copies: neither later steps nor the caller's scribbling change what anybody else has."""
    envs = make([partial(faulty, "exception", at=2)] * 2, workers=1)
    first, _ = envs.reset(seed=100)
    kept = {key: value.copy() for key, value in first.items()}
    obs = envs.step(actions(envs, 1)[0])[0]
    assert_equal([first], [kept])
    before = obs["state"].copy()
    obs["state"][:] = -5
    np.testing.assert_array_equal(envs.step(actions(envs, 1)[0])[0]["state"], before)  # crashed: the last good one


def test_calls(make):
    envs = make([steady] * 3)
    one, two, three = envs.call("process")
    assert one == two != three
    assert {one, three} == set(pids(envs))
    assert envs.call("process", only=[2]) == (three,)
    with pytest.raises(RuntimeError, match="no such thing"):
        envs.call("fail", only=[1])
    with pytest.raises(RuntimeError, match="no_attribute"):
        envs.get_attr("no_attribute")
    assert envs.call("process") == (one, two, three)  # still the same processes


def test_wrong_calls_harm_nothing(make):
    envs = make([steady] * 2)
    with pytest.raises(RuntimeError, match="reset the environments first"):
        envs.step(actions(envs, 1)[0])
    envs.reset(seed=0)
    with pytest.raises(ValueError, match="expected"):
        envs.step(np.zeros(2, np.float32))  # would be broadcast
    with pytest.raises(ValueError, match="as many seeds"):
        envs.reset(seed=[1])
    with pytest.raises(ValueError, match="reset_mask"):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.step(actions(envs, 1)[0])
    envs.close()
    for use in (envs.reset, partial(envs.step, actions(envs, 1)[0]), partial(envs.get_attr, "agent_spec")):
        with pytest.raises(RuntimeError, match="closed"):
            use()


def test_global_generators_are_seeded(make):
    """For environments that draw from `random` and `np.random`: repeatable, and not the same in every worker."""
    maker = partial(lambda: AgentView(GlobalRandom()))
    drawn = []
    for _ in range(2):
        envs = make([maker] * 2)
        envs.reset(seed=3)
        drawn.append(envs.step(actions(envs, 1)[0])[0]["state"])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0][0, :2] != drawn[0][1, :2]).all()


# --------------------------------------------------------------------------------------------------------------- faults

MESSAGES = {  # the message of each fault, after "environment 0 (seed 100) failed at step 5: "
    "exception": ["ValueError: the robot fell over (worker_envs.py, line", "in fall"],
    "os._exit": ["its process ended with exit code 3"],
    "sys.exit": ["SystemExit: 4"],
    "segfault": ["its process was killed by SIGSEGV (worker_envs.py, line", "in string_at"],
    "out of memory": ["its process was killed by SIGKILL, perhaps because memory ran out"],
    "hang": ["it did not answer for 1 s (worker_envs.py, line", "in _misbehave"],
}


@pytest.mark.parametrize("fault", MESSAGES)
def test_a_fault_ends_the_episodes_of_its_worker_and_nothing_else(make, fault):
    ours = make([partial(faulty, fault)] * 4, timeout=1 if fault == "hang" else 60)
    theirs = SyncVectorEnv([lambda: AgentView(Steady(length=20))] * 4)
    ours.reset(seed=100)
    theirs.reset(seed=100)
    before = pids(ours)
    played = actions(ours, 30)
    for action in played[:4]:
        assert_equal((last := ours.step(action))[:4], theirs.step(action)[:4])
    obs, reward, terminated, truncated, infos = ours.step(played[4])
    expected_obs, expected_reward, *_ = theirs.step(played[4])
    for key in obs:
        np.testing.assert_array_equal(obs[key][:2], last[0][key][:2])  # the last good observation
        np.testing.assert_array_equal(obs[key][2:], expected_obs[key][2:])
    assert reward.tolist() == [0, 0, *expected_reward[2:]]
    assert terminated.tolist() == [False] * 4
    assert truncated.tolist() == infos["crashed"].tolist() == [True, True, False, False]

    obs, reward, terminated, truncated, infos = ours.step(played[5])  # the first rows of the next episodes
    np.testing.assert_array_equal(obs["state"][:2, 1:], np.zeros((2, 3)))
    assert reward[:2].tolist() == [0, 0]
    assert not (terminated | truncated).any()
    assert infos == {}
    expected_obs, expected_reward, *_ = theirs.step(played[5])
    np.testing.assert_array_equal(obs["picture"][2:], expected_obs["picture"][2:])
    np.testing.assert_array_equal(reward[2:], expected_reward[2:])
    for action in played[6:]:
        assert "crashed" not in ours.step(action)[4]

    assert len(ours.messages) == 1
    assert ours.messages[0].startswith("environment 0 (seed 100) failed at step 5: " + MESSAGES[fault][0])
    assert all(part in ours.messages[0] for part in [*MESSAGES[fault], "A new process makes environments 0-1 again"])
    assert "die_with_parent" not in ours.messages[0]
    after = pids(ours)
    assert after[1] == before[1]
    assert after[0] != before[0]
    assert gone(before[:1])


def test_killed_from_outside_between_steps(make):
    envs = make([steady] * 2)
    envs.reset(seed=0)
    os.kill(pids(envs)[1], signal.SIGKILL)
    assert gone([envs.workers[1].process.pid])
    *_, truncated, infos = envs.step(actions(envs, 1)[0])
    assert truncated.tolist() == infos["crashed"].tolist() == [False, True]
    assert "environment 1 (seed 1) failed at step 1: its process was killed by SIGKILL" in envs.messages[0]


def test_a_fault_as_another_episode_begins(make):
    """Environment 1 is due for its first row when environment 0 fails: it gets it, and lost nothing."""
    envs = make([partial(faulty, "exception", lengths=(20, 4))] * 2, workers=1)
    envs.reset(seed=100)
    for action in actions(envs, 4):
        _, _, terminated, truncated, _ = envs.step(action)
    assert terminated.tolist() == [False, True]
    obs, _, terminated, truncated, infos = envs.step(action)
    assert truncated.tolist() == infos["crashed"].tolist() == [True, False]
    assert not terminated.any()
    assert obs["state"][:, 1].tolist() == [4, 0]
    obs, *_ = envs.step(action)
    assert obs["state"][:, 1].tolist() == [0, 1]


def test_a_step_that_was_made_before_the_fault_does_not_count(make):
    """Environment 0 reached its end in the very step in which environment 1 fails, in the same worker."""
    envs = make([partial(faulty, "exception", at=4, lengths=(20, 4))] * 2, workers=1)
    envs.reset(seed=[101, 100])
    seen = play(envs, 3)
    obs, reward, terminated, truncated, infos = envs.step(actions(envs, 1)[0])
    assert_equal([obs], [seen[-1]])
    assert reward.tolist() == [0, 0]
    assert not terminated.any()
    assert truncated.all()
    assert infos["crashed"].all()


def test_a_fault_in_a_reset_between_episodes(make):
    """No episode is running then: the first row is that of a new process, and nothing is marked."""
    envs = make([partial(faulty, "exception", where="reset", at=2)] * 2)
    envs.reset(seed=100)
    for action in actions(envs, 20):
        _, _, terminated, _, _ = envs.step(action)
    assert terminated.all()
    obs, _, terminated, truncated, infos = envs.step(action)
    assert not (terminated | truncated).any()
    assert infos == {}
    assert obs["state"][0, 0] != 100
    assert obs["state"][0, 1] == 0
    assert len(envs.messages) == 1


def test_a_fault_in_a_later_reset_from_outside(make):
    envs = make([partial(faulty, "os._exit", where="reset", at=2)] * 2)
    envs.reset(seed=100)
    obs, _ = envs.reset(seed=200)
    assert obs["state"][0, 0] not in (100, 200)
    assert obs["state"][1, 0] == 201
    assert "failed in its reset" in envs.messages[0]


def test_seeds_after_a_fault_are_new_repeatable_and_of_each_environment(make):
    """The same run gives the same rows; every restart and every environment has its own seed."""

    runs = []
    for _ in range(2):
        envs = make([partial(faulty, "exception", at=3, always=True)] * 2, workers=1, max_restarts=9)
        envs.reset(seed=100)
        runs.append(play(envs, 14))
    assert_equal(*runs)
    seeds = [obs["state"][index, 0] for obs in runs[0] for index in (0, 1) if obs["state"][index, 1] == 1]
    assert len(seeds) == len(set(seeds)) == 8


def test_faults_without_end(make):
    """More than max_restarts: one sentence with the innermost error and the user's line; nothing is left running."""
    envs = make([partial(faulty, "exception", at=2, always=True)] * 2, max_restarts=3)
    envs.reset(seed=0)
    running = pids(envs)
    with pytest.raises(UserError) as caught:
        play(envs, 50, each=lambda: running.extend(pids(envs)))
    assert "ValueError: the robot fell over (worker_envs.py, line" in caught.value.message
    assert "4 faults" in caught.value.message
    assert "env.backend=sync" in caught.value.hint
    assert "in fall" in str(caught.value.__cause__)
    assert len(envs.messages) == 4
    assert envs.closed
    assert gone(running)


def test_rare_faults_are_forgiven(make, monkeypatch):
    monkeypatch.setattr(workers, "FORGIVEN", 5)
    envs = make([partial(faulty, "exception", at=10, always=True)], max_restarts=1)
    envs.reset(seed=0)
    play(envs, 50)
    assert len(envs.messages) == 4


@pytest.mark.parametrize(
    ("maker", "message"),
    [
        (unmakeable, "environment 0 failed while it was made: FileNotFoundError: robot.xml (worker_envs.py, line"),
        (partial(faulty, "segfault", where="reset", at=1), "environment 0 (seed 100) failed in its reset: its process"),
        (partial(faulty, "exception", where="reset", at=1), "environment 0 (seed 100) failed in its reset: ValueError"),
    ],
)
def test_faults_at_the_start_are_final(make, maker, message):
    messages = []
    with pytest.raises(UserError) as caught:
        make([maker] * 4, on_fault=messages.append).reset(seed=100)
    assert message in caught.value.message
    assert len(messages) == 1


def test_silence_at_the_start_is_final(make):
    with pytest.raises(UserError, match="did not answer for 1 s"):
        make([partial(faulty, "hang", where="reset", at=1)], start_timeout=1).reset(seed=100)


def test_mistakes_of_the_user_are_raised_as_in_sync(make):
    """UserError: at once, in the same words, without a restart."""
    envs, sync = make([partial(broken, 3)] * 2), SyncVectorEnv([partial(broken, 3)] * 2)
    errors = []
    for one in (envs, sync):
        one.reset(seed=0)
        with pytest.raises(UserError) as caught:
            play(one, 5)
        errors.append((caught.value.message, caught.value.hint))
    assert errors[0] == errors[1]
    assert "NaN" in errors[0][0]
    assert envs.messages == []
    assert envs.closed
    with pytest.raises(UserError, match=r"'robots' is not installed. pip install robots"):
        make([not_installed])


def test_all_environments_must_be_alike(make):
    with pytest.raises(UserError, match="environment 1 has other spaces"):
        make([steady, random_length])


def test_spaces_that_are_no_agent_view(make):
    with pytest.raises(TypeError, match="AgentView"):
        make([lambda: DictEnv()])


def test_the_collector_sees_a_crash_as_a_time_limit(make):
    """Rows: the crashed one is last and not terminal, with no reward; the next is a first one."""
    envs = make([partial(faulty, "exception")] * 2)
    rows, episodes = [], []
    for row, ended in Collector(envs, seed=100).rows(lambda obs, first: np.zeros((2, 2), np.float32)):
        rows.append(row)
        episodes += ended
        if len(rows) == 8:
            break
    assert [bool(row["is_last"][0]) for row in rows] == [False] * 5 + [True, False, False]
    assert not any(row["is_terminal"].any() for row in rows)
    assert [bool(row["is_first"][0]) for row in rows] == [True] + [False] * 5 + [True, False]
    assert rows[5]["reward"][0] == 0
    assert [(episode.index, episode.length, episode.score) for episode in episodes] == [(0, 5, 1 + 2 + 3 + 4)]


def test_faults_are_printed_by_default(make, capsys):
    envs = make([partial(faulty, "exception")], on_fault=None)
    envs.reset(seed=100)
    play(envs, 6)
    printed = capsys.readouterr().err
    assert printed.startswith("environment 0 (seed 100) failed at step 5: ValueError")
    assert printed.count("ValueError: the robot fell over\n") == 1  # the end of the traceback


# ----------------------------------------------------------------------------------------------------- sent to a worker


def test_closures_travel(make):
    size = 6
    envs = make([lambda: AgentView(Steady(size=size))])
    assert envs.single_observation_space["picture"].shape == (6, 6, 3)


def test_what_cannot_travel(make):
    lock = threading.Lock()
    with pytest.raises(UserError) as caught:
        make([lambda: (lock, steady())[1]])
    assert "cannot be sent to a worker process" in caught.value.message
    assert "env.backend=sync" in caught.value.hint


SCRIPT = """
import sys, time
sys.path.insert(0, {here!r})
from worker_envs import Steady, AgentView
from reverie.envs.vector.workers import WorkerVectorEnv

class Mine(Steady):
    def step(self, action):
        if {hang}:
            time.sleep(1000)
        return super().step(action)

envs = WorkerVectorEnv([lambda: AgentView(Mine())] * 2, workers=2)
envs.reset(seed=0)
print(*(worker.process.pid for worker in envs.workers), flush=True)
envs.step(envs.action_space.sample())
print("stepped", flush=True)
{end}
"""


def script(hang=False, end=""):
    source = SCRIPT.format(here=str(HERE), hang=hang, end=end)
    command = [sys.executable, "-W", "error", "-"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child.stdin.write(source)
    child.stdin.close()
    return child, [int(number) for number in child.stdout.readline().split()]


@pytest.mark.parametrize("end", ["", "envs.close()", "raise SystemExit(0)"])
def test_a_script_from_stdin_without_main_guard(end):
    """Classes and functions of the script itself travel too. It ends without output and leaves no process behind."""
    with script(end=end)[0] as child:
        assert child.stdout.read() == "stepped\n"
        assert child.stderr.read() == ""
        assert child.wait() == 0


@pytest.mark.parametrize("hang", [False, True])
def test_workers_die_with_their_parent(hang):
    """Workers end when their parent is killed, even one that hangs in its environment."""
    child, running = script(hang=hang, end="time.sleep(1000)")
    with child:
        if hang:
            time.sleep(0.3)  # until both are in the step that never ends
        else:
            child.stdout.readline()
        assert len(running) == 2
        assert all(map(alive, running))
        child.kill()
        assert gone(running)
        assert child.stderr.read() == ""


# ----------------------------------------------------------------------------------------------- signals, closing, time


def test_closing_leaves_nothing(make):
    before = sorted(os.listdir("/proc/self/fd"))
    envs = make([steady] * 3, workers=3)
    envs.reset(seed=0)
    running = pids(envs)
    envs.close()
    envs.close()
    assert not any(map(alive, running))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_forgotten_environments_are_closed(make):
    envs = WorkerVectorEnv([steady] * 2)
    running = pids(envs)
    del envs
    gc.collect()
    assert gone(running)


def test_children_of_environments_and_those_that_do_not_close(make, monkeypatch):
    monkeypatch.setattr(workers, "CLOSING", 0.2)
    envs = make([lambda: AgentView(WithChild())])
    children = envs.call("child")
    assert all(map(alive, children))
    envs.close()
    assert gone(children)


def test_a_fork_does_not_close_the_workers_of_its_parent(make):
    envs = make([steady] * 2)
    workers._close_workers(envs.workers, envs._memory, os.getpid() + 1)
    assert all(map(alive, pids(envs)))


def test_ctrl_c_and_sigterm_are_for_the_parent(make):
    envs = make([steady] * 2)
    envs.reset(seed=0)
    before = pids(envs)
    for pid in before:
        assert os.getpgid(pid) != os.getpgid(0)  # the terminal does not reach them
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    for action in actions(envs, 3):
        assert envs.step(action)[4] == {}
    assert pids(envs) == before


def test_a_step_that_was_interrupted(make):
    """After an interrupted step the workers' state is unknown: the next step refuses, a reset starts clean."""
    envs, quick = make([partial(steady, cost=0.5)] * 2), SyncVectorEnv([steady] * 2)
    envs.reset(seed=0)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            envs.step(actions(envs, 1)[0])
    finally:
        signal.signal(signal.SIGALRM, old)
    with pytest.raises(RuntimeError, match="interrupted"):
        envs.step(actions(envs, 1)[0])
    assert_equal(envs.reset(seed=5), quick.reset(seed=5))
    assert_equal(envs.step(actions(envs, 1)[0])[:4], quick.step(actions(envs, 1)[0])[:4])


def test_time_in_which_the_machine_was_halted_does_not_count(make):
    """Halt this process and the worker for longer than the time limit, as a suspended laptop is."""
    envs = make([partial(steady, cost=0.4)], timeout=1)
    envs.reset(seed=0)
    halt = f"kill -STOP {os.getpid()} {pids(envs)[0]}; sleep 1.3; kill -CONT {os.getpid()} {pids(envs)[0]}"
    with subprocess.Popen(["sh", "-c", f"sleep 0.1; {halt}"], start_new_session=True):
        assert envs.step(actions(envs, 1)[0])[4] == {}
    assert envs.messages == []


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_cores_are_shared_out(monkeypatch, count):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7, 9})
    shares = share_cores(count)
    assert len(shares) == count
    if count <= 4:
        assert sorted(core for share in shares for core in share) == [3, 5, 7, 9]
        assert all(shares)
    else:
        assert shares == [[]] * 5


@pytest.mark.parametrize(("text", "cores"), [("max 100000", 4), ("150000 100000", 2), ("5000 100000", 1), ("oops", 4)])
def test_a_containers_quota_counts(monkeypatch, text, cores):
    monkeypatch.setattr(workers, "_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    assert usable_cores() == cores


# -------------------------------------------------------------------------------------------------------- which backend


def test_arithmetic():
    assert expected(0.01, 8, 2) == pytest.approx(0.04, rel=0.02)
    assert expected(0.01, 3, 2) == pytest.approx(0.02, rel=0.02)  # the larger slice
    assert expected(0.01, 2, 64) == pytest.approx(0.01, rel=0.02)
    assert expected(0, 8, 8) > expected(0, 8, 2) > 0
    assert decide(1.25, 1.0) == "workers"
    assert decide(1.24, 1.0) == "sync"


def test_nothing_to_choose():
    """One environment or one core: sync, and nothing is made."""
    assert choose_backend(unmakeable, 1, cores=8) == ("sync", "one environment")
    assert choose_backend(unmakeable, 8, cores=1) == ("sync", "one core")


def test_fast_environments_stay_here(monkeypatch):
    monkeypatch.setattr(backend, "time_step", lambda make_view: 40e-6)
    monkeypatch.setattr(backend, "time_workers", None)  # not even tried
    assert choose_backend(steady, 8, cores=2) == ("sync", "8 environments of 0.04 ms a step: too fast for processes")


def test_slow_environments_go_to_workers(monkeypatch):
    monkeypatch.setattr(backend, "MEASURE", 0.1)
    name, why = choose_backend(partial(steady, cost=0.02), 4, cores=2)
    assert name == "workers"
    messages = r"4 environments of [\d.]+ ms a step: ([\d.]+) ms one after the other, ([\d.]+) ms in 2 processes"
    sync, parallel = map(float, re.fullmatch(messages, why).groups())
    assert sync > 80
    assert 40 < parallel < sync


def test_the_measurement_has_the_last_word(monkeypatch):
    """Arithmetic is in favour, but workers turn out no faster (say, the simulator uses all cores itself)."""
    monkeypatch.setattr(backend, "MEASURE", 0.02)
    monkeypatch.setattr(backend, "time_workers", lambda *_: 10.0)
    assert choose_backend(partial(steady, cost=0.01), 4, cores=2)[0] == "sync"
    monkeypatch.setattr(backend, "time_workers", lambda *_: 0.025)
    assert choose_backend(partial(steady, cost=0.01), 4, cores=2)[0] == "workers"


def test_where_workers_fail(monkeypatch):
    """What cannot be sent is stepped here, and the line says why; a mistake of the environment is raised."""
    monkeypatch.setattr(backend, "MEASURE", 0.02)
    lock = threading.Lock()
    name, why = choose_backend(lambda: (lock, steady(cost=0.01))[1], 4, cores=2)
    assert name == "sync"
    assert "cannot be sent to a worker process" in why
    with pytest.raises(UserError, match="NaN"):
        choose_backend(partial(broken, 2), 4, cores=2)


def test_a_step_is_timed_with_its_resets(monkeypatch):
    """Episodes of one step with slow resets; the first step, slower than all others, does not count."""

    class SlowResets(Steady):
        def reset(self, **options):
            time.sleep(0.01)
            return super().reset(**options)

        def step(self, action):
            if not hasattr(self, "warm"):
                time.sleep(0.2)
            self.warm = True
            return super().step(action)

    closed = []
    made = AgentView(SlowResets(length=1))
    monkeypatch.setattr(made, "close", lambda: closed.append(True))
    monkeypatch.setattr(backend, "MEASURE", 0.1)
    assert 0.009 < backend.time_step(lambda: made) < 0.06
    assert closed
