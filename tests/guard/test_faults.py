"""Faults that are nobody's bug: told in one sentence, nothing torn, and the same command goes on.

The rows of tests/faults/drive.py use real processes; the rest injects the same faults in here, one by one.
"""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
import torch
from faults.drive import QUICK, SLOW, run_row
from gymnasium import spaces
from safetensors import SafetensorError
from toys import CountingEnv, SpaceEnv

import reverie
from reverie import UserError, checkpoint, cli, files
from reverie.config import SETTINGS, Config
from reverie.config.presets import load_preset
from reverie.config.validation import MAY_CHANGE
from reverie.data.disk_space import DiskReservation
from reverie.data.replay import Replay
from reverie.envs.view import AgentView
from reverie.guard import lock
from reverie.guard import memory as faults
from reverie.guard.interrupts import Stopped, Stopping, ending_at_once, on_signals
from reverie.guard.lock import RunLock
from reverie.run.directory import check_directory, prepare_directory
from reverie.run.logger import Events, Logger, read_lines
from reverie.run.progress import Progress


@pytest.mark.parametrize("name", QUICK)
def test_a_fault_in_a_real_process(name):
    row = run_row(name)
    assert row.ok, row


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_fault_in_a_real_process_that_takes_longer(name):
    row = run_row(name)
    if row.ok is None:
        pytest.skip(row.sees)
    assert row.ok, row


# ------------------------------------------------------------------------------------------------------------ the lock


HOLDER = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('ok', flush=True); input()"
)


def test_a_second_run_on_one_directory_is_refused_within_a_process(make_run, tmp_path):
    first = make_run(tmp_path / "run")
    with pytest.raises(UserError, match="a run of this very process is using"):
        make_run(tmp_path / "run")
    first.close()
    make_run(tmp_path / "run").close()


def test_another_process_is_named(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()
        with pytest.raises(UserError, match="another process is writing to"):
            RunLock(tmp_path).acquire()
        facts = {"pid": other.pid, "host": lock.socket.gethostname(), "started": "noon", "command": "reverie train"}
        (tmp_path / ".lock").write_text(json.dumps(facts))
        with pytest.raises(UserError) as caught:
            RunLock(tmp_path).acquire()
        assert f"process {other.pid} on {facts['host']}" in caught.value.message
        assert "since noon: `reverie train`" in caught.value.message
        assert f"kill {other.pid}" in caught.value.hint
        other.kill()
        other.wait()
    RunLock(tmp_path).acquire()  # the system has taken it back


def test_a_run_that_cannot_be_made_leaves_no_lock(make_run, tmp_path):
    with pytest.raises(UserError):
        make_run(tmp_path, None, **{"env.id": "CartPole-v77"})
    assert list(tmp_path.iterdir()) == []
    make_run(tmp_path).close()
    assert not (tmp_path / ".lock").exists()


def test_a_run_that_is_forgotten_frees_its_directory(tmp_path):
    one = RunLock(tmp_path)
    one.acquire()
    one.acquire()  # it has it
    del one
    two = RunLock(tmp_path)
    two.acquire()
    two.release()
    two.release()
    assert not two.held


def test_a_fork_does_not_free_the_directory_of_its_parent(tmp_path):
    one = RunLock(tmp_path)
    one.acquire()
    lock._release(one._file, one.path, os.getpid() + 1)  # what the fork's end would do
    assert one.path.exists()
    with pytest.raises(UserError):
        RunLock(tmp_path).acquire()
    one.release()


def no_locks(handle):
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize(
    ("holder", "free"),
    [
        ({"pid": 2**22 + 1}, True),  # no such process
        ({"pid": os.getpid()}, False),
        ({"pid": os.getpid(), "born": "1"}, True),  # its number went to another process
        ({"pid": 1, "host": "elsewhere"}, False),
        ({}, True),  # nothing to read
    ],
)
def test_without_locks_of_the_file_system_the_recorded_process_decides(tmp_path, monkeypatch, holder, free):
    monkeypatch.setattr(lock, "_lock", no_locks)
    facts = {"host": lock.socket.gethostname(), "started": "noon", "command": "x"} | holder if holder else {}
    (tmp_path / ".lock").write_text(json.dumps(facts))
    mine = RunLock(tmp_path)
    if free:
        mine.acquire()
        assert "no locks on the file system" in mine.note
        with pytest.raises(UserError):
            RunLock(tmp_path).acquire()
        mine.release()
        RunLock(tmp_path).acquire()
    else:
        with pytest.raises(UserError) as caught:
            mine.acquire()
        assert ("delete" in caught.value.hint) == (holder.get("host") == "elsewhere")


def test_the_user_is_told_that_there_are_no_locks(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_lock", no_locks)
    said = []
    screen = Progress()
    screen.say = said.append
    make_run(tmp_path / "run").train(screen)
    assert any("no locks on the file system" in line for line in said)


def test_a_holder_that_died_but_left_a_child_is_told(tmp_path, monkeypatch):
    one = RunLock(tmp_path)
    one.acquire()
    monkeypatch.setattr(lock, "_alive", lambda holder: False)
    with pytest.raises(UserError, match="It is gone, but a process that it started still holds"):
        RunLock(tmp_path).acquire()


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_run_does_not_write_into_a_directory_that_is_no_longer_its_own(make_run, tmp_path, how):
    def act(run):
        if run.clock.env_steps > 60 and (tmp_path / "run").exists() and not (tmp_path / "moved").exists():
            (tmp_path / "run").rename(tmp_path / "moved")
            if how == "replaced":
                (tmp_path / "run").mkdir()

    run = make_run(tmp_path / "run", env_steps=10_000, log_every=0.01)
    with pytest.raises(UserError, match="was removed, renamed or replaced"):
        run.train(Watcher(act))
    assert list((tmp_path / "run").rglob("*")) == []


# -------------------------------------------------------------------------------------------------------------- files


class Watcher(Progress):
    """Quiet; calls a function after every vector step."""

    def __init__(self, watch):
        super().__init__(quiet=True)
        self.watch = watch

    def tick(self, run):
        self.watch(run)


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_in_rust(*_, **__):
    raise SafetensorError('Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "No space" }')


@pytest.mark.parametrize(
    ("target", "what", "how"),
    [
        ("reverie.checkpoint.save_file", "a checkpoint", full_in_rust),
        ("reverie.data.replay_log.save_file", "a checkpoint", full_in_rust),
        ("reverie.checkpoint.os.fsync", "a checkpoint", full),
        ("reverie.checkpoint.os.replace", "a checkpoint", full),
        ("reverie.run.logger.json.dumps", "metrics.jsonl|episodes.jsonl", full),
    ],
)
def test_a_full_disk_is_told_and_leaves_the_last_checkpoint_as_it_was(
    make_run, tmp_path, monkeypatch, files_of, target, what, how
):
    make_run(tmp_path / "run").train()
    good = files_of(tmp_path / "run" / "checkpoints")
    run = make_run(tmp_path / "run", env_steps=400)
    with monkeypatch.context() as patch, pytest.raises(UserError) as caught:  # noqa: PT012
        patch.setattr(target, how)
        run.train()
    assert re.search(rf"cannot write ({what}) to .*No space left on device", caught.value.message)
    assert "Free some space" in caught.value.hint
    assert files_of(tmp_path / "run" / "checkpoints") == good
    assert not list((tmp_path / "run").rglob("*.tmp"))
    back = make_run(tmp_path / "run", env_steps=200)
    assert back.clock.env_steps == 120
    back.train()


def test_a_fault_of_safetensors_that_is_no_disk_stays_one(tmp_path):
    with pytest.raises(SafetensorError), files.writing("a checkpoint", tmp_path):
        raise SafetensorError("dtype not understood")


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EDQUOT, "Free some space"),
        (errno.EROFS, "Make it writable"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOENT, "removed or renamed"),
        (errno.EIO, "works again"),
    ],
)
def test_every_trouble_with_files_has_its_way_out(tmp_path, number, told):
    with pytest.raises(UserError) as caught, files.writing("metrics.jsonl", tmp_path):
        raise OSError(number, os.strerror(number))
    assert told in caught.value.hint
    assert os.strerror(number) in caught.value.message


def test_an_environment_that_raises_oserror_is_not_taken_for_a_full_disk(make_run, tmp_path):
    class Shaky(CountingEnv):
        def step(self, action):
            raise OSError(errno.ENOSPC, "the simulator's own disk")

    with pytest.raises(UserError, match=r"step of the environment raises OSError .*simulator's own disk") as caught:
        make_run(tmp_path / "run", Shaky).train()
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.timeout(60)
def test_tensorboard_on_a_full_disk_costs_curves_and_not_the_run(make_run, tmp_path, monkeypatch):
    """tensorboardX's own writer would wait for ever for its dead thread."""
    run, said = make_run(tmp_path / "run", tensorboard=True, log_every=1e-9, env_steps=200), []
    monkeypatch.setattr("tensorboardX.record_writer.RecordWriter.flush", full)
    screen = Progress()
    screen.say = said.append
    run.train(screen)
    assert sum("TensorBoard events are no longer written (No space" in line for line in said) == 1
    assert run.clock.env_steps == 200
    assert len(read_lines(tmp_path / "run" / "metrics.jsonl")) > 15


def test_events_are_what_tensorboard_reads(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    events = Events(tmp_path, env_steps=7)
    events.write({"a/b": 1.5, "c": float("nan")}, 8)
    events.close()
    data, found = next(tmp_path.iterdir()).read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    assert found[0].file_version == "brain.Event:2"
    assert (found[1].session_log.status, found[1].step) == (1, 7)  # START: what is later is forgotten
    assert [(e.step, e.summary.value[0].tag) for e in found[2:]] == [(8, "a/b")]  # NaN: no point
    assert found[2].summary.value[0].simple_value == 1.5
    assert threading.active_count() == 1 or not any("Event" in type(t).__name__ for t in threading.enumerate())


@pytest.mark.parametrize("prioritize", ["none", "ends"])
def test_a_disk_backed_replay_takes_its_room_before_it_writes(tmp_path, monkeypatch, prioritize):
    """Writing without room would be SIGBUS: the end of the process, without a word."""
    shapes = {"image": ((8, 8, 3), np.dtype(np.uint8)), "x": ((2,), np.dtype(np.float32))}
    replay = Replay(shapes, 2, capacity=200_000, streams=2, directory=tmp_path, prioritize=prioritize)
    row = {key: np.ones((2, *array.shape[2:]), array.dtype) for key, array in replay.data.items()}
    files = list(tmp_path.iterdir())
    assert sum(path.stat().st_blocks * 512 for path in files) < 100_000  # nothing yet
    replay.add(row)
    room = replay._reservation.rows[0]
    assert 8_000_000 // 192 - 1 <= room < 100_000
    before = {path.name: path.stat().st_blocks for path in files}
    assert before["ring-obs-image.npy"] * 512 >= 2 * room * 192
    for _ in range(99):
        replay.add(row)
    assert {path.name: path.stat().st_blocks for path in files} == before  # the pages that were written had their room
    replay.counts[:] = room
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"no space for the replay in .*ring-obs-image\.npy .No space left"):
        replay.add(row)


def test_what_lies_in_a_disk_backed_ring_stays_when_more_room_is_taken(tmp_path):
    memory = np.lib.format.open_memmap(tmp_path / "a.npy", mode="w+", dtype=np.int64, shape=(3, 50, 2))
    room = DiskReservation([memory], step=100)
    for place in range(50):
        for stream in (2, 0, 1):
            room.reserve(np.array([stream]), np.array([place]))
            memory[stream, place] = 100 * stream + place
    expected = 100 * np.arange(3)[:, None] + np.arange(50)
    assert (np.load(tmp_path / "a.npy") == expected[..., None]).all()
    assert room.rows.tolist() == [50, 50, 50]


def test_a_film_that_cannot_be_written_is_told_once(make_run, tmp_path, monkeypatch):
    from reverie.run.evaluation import Evaluation

    monkeypatch.setattr("reverie.run.evaluation.write_gif", full)
    run, said = make_run(tmp_path / "run", eval_every=40), []
    run.state.evaluator.agent = lambda *_: Evaluation([1.0], [1], frames=[0])
    screen = Progress()
    screen.say = said.append
    run.train(screen)
    assert [line for line in said if "no video" in line] == [
        "no video: it could not be written (No space left on device)"
    ]


def test_lines_survive_a_disk_that_is_full_when_a_run_is_continued(tmp_path, monkeypatch):
    lines = '{"env_steps": 1}\n{"env_steps": 9}\n'
    (tmp_path / "metrics.jsonl").write_text(lines)
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"metrics\.jsonl"):  # noqa: PT012
        patch.setattr("reverie.run.logger.os.replace", full)
        Logger(tmp_path, env_steps=5, tensorboard=False)
    assert (tmp_path / "metrics.jsonl").read_text() == lines


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_provenance_does_not_stop_a_run(make_run, tmp_path, content):
    make_run(tmp_path / "run").close()
    (tmp_path / "run" / "provenance.json").write_text(content)
    make_run(tmp_path / "run").close()
    assert "damaged" in json.loads((tmp_path / "run" / "provenance.json").read_text())["earlier"]


def test_what_an_interrupted_write_left_is_removed_at_the_next_start(make_run, tmp_path):
    make_run(tmp_path / "run").train()
    (tmp_path / "run" / "checkpoints" / ".step-000000000200.tmp").mkdir()
    (tmp_path / "run" / "checkpoints" / ".step-000000000200.tmp" / "weights.safetensors").write_bytes(b"x")
    (tmp_path / "run" / "replay" / "steps-000000000200.tmp").write_bytes(b"x")
    make_run(tmp_path / "run").close()
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.parametrize("fault", [OSError(5, "gone"), SystemExit(1), ValueError("I/O operation on closed file")])
def test_a_terminal_that_is_gone_ends_what_is_shown_and_not_the_run(make_run, tmp_path, fault):
    def gone(*_, **__):
        raise fault

    screen = Progress(every=0)
    screen.console.print = gone
    make_run(tmp_path / "run").train(screen)
    assert screen.quiet
    assert checkpoint.checkpoints(tmp_path / "run")


# ------------------------------------------------------------------------------------------------------------ signals


def send(name):
    os.kill(os.getpid(), getattr(signal, name))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_what_does_not_end_after_a_signal_is_broken_off(name):
    asked, stopping = [], Stopping(patience=0.1)
    with pytest.raises(Stopped, match=name), on_signals(stopping, lambda: asked.append(1)):  # noqa: PT012
        send(name)
        send("SIGTERM")  # some clusters send two
        time.sleep(20)  # a system call, not a loop
    assert asked == [1]


def test_a_checkpoint_is_not_broken_off():
    stopping, saved = Stopping(patience=0.05), []
    with pytest.raises(Stopped), on_signals(stopping, lambda: None):  # noqa: PT012
        send("SIGTERM")
        with stopping.held():
            time.sleep(0.3)
            saved.append(1)
        time.sleep(20)
    assert saved == [1]


def test_a_run_that_ends_in_time_is_not_broken_off():
    before, threads = signal.getsignal(signal.SIGTERM), threading.active_count()
    with on_signals(Stopping(patience=0.1), lambda: None):
        send("SIGTERM")
    time.sleep(0.2)
    assert signal.getsignal(signal.SIGTERM) == before
    assert threading.active_count() == threads


def test_handlers_that_an_environment_installs_are_replaced_again():
    stopping, asked = Stopping(), []
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert stopping.keep() == []
    with on_signals(stopping, lambda: asked.append(1)):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, lambda *_: None)
        assert stopping.keep() == ["SIGINT", "SIGTERM"]
        assert stopping.keep() == []
        send("SIGTERM")
        assert asked == [1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert stopping.keep() == []


def test_nohup_is_respected(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with on_signals(Stopping(), lambda: None), ending_at_once():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            send("SIGHUP")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_before_a_run_begins_a_signal_ends_it_at_once():
    with pytest.raises(Stopped, match="SIGTERM"), ending_at_once():  # noqa: PT012
        send("SIGTERM")
        time.sleep(20)


def test_in_another_thread_signals_are_left_alone():
    done = []

    def work():
        with on_signals(Stopping(), lambda: None), ending_at_once():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


class Hanging(CountingEnv):
    """Its 60th step takes for ever, in training (`hangs`) or in evaluation."""

    steps, where = 0, "train"

    def step(self, action):
        self.steps += 1
        if self.steps == 60:
            threading.Timer(0.1, send, ["SIGTERM"]).start()
            time.sleep(30)
        return super().step(action)


def test_a_hanging_environment_does_not_cost_what_was_learnt(make_run, tmp_path):
    run = make_run(tmp_path / "run", lambda: Hanging(lengths=(30,)), num_envs=1, env_steps=10_000)
    run.state.stopping.patience = 0.2
    run.train()
    assert run.state.stopping.signal == "SIGTERM"
    assert checkpoint.checkpoints(tmp_path / "run")[-1].name == "step-000000000059"
    back = make_run(tmp_path / "run", num_envs=1, env_steps=10_000)
    assert back.clock.env_steps == 59
    back.close()


def test_an_evaluation_that_hangs_is_left_out(make_run, tmp_path):
    def make():
        made.append(Hanging(lengths=(30,)) if made else CountingEnv(lengths=(30,)))
        return made[-1]

    made = []
    run = make_run(tmp_path / "run", make, num_envs=1, env_steps=100, eval_episodes=4)
    run.state.stopping.patience = 0.2
    run.train()
    assert not [line for line in run.history() if line["phase"] == "eval"]
    assert checkpoint.checkpoints(tmp_path / "run")[-1].name == "step-000000000100"


# ------------------------------------------------------------------------------------------------------------- memory


GB = 10**9


@pytest.mark.parametrize(
    ("memory", "fits"),
    [
        (faults.GPUMemory(16 * GB, 0, 15 * GB, 1 * GB), 25),  # never more than half
        (faults.GPUMemory(16 * GB, 12 * GB, 8 * GB, 1 * GB), 17),  # (0.85 x 4 - 1) / 7 of 50
        (faults.GPUMemory(16 * GB, 16 * GB, 1 * GB, 1 * GB), 25),  # nothing known of what a batch takes
        (faults.GPUMemory(16 * GB, 15 * GB, 8 * GB, 1 * GB), 1),
    ],
)
def test_a_batch_is_suggested_that_fits(memory, fits):
    assert memory.fitting_batch(50) == fits


def test_a_gpu_without_memory_is_told_with_settings(make_run, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", env_steps=10_000)

    def out_of_memory(batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has ...")

    run.agent.update = out_of_memory
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (0, 8 * GB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 8 * GB)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 7 * GB)
    with pytest.raises(UserError) as caught:
        run.train()
    assert caught.value.message == (
        "the GPU ran out of memory: 7.00 GB of 8.00 GB were in use, 2.50 GiB more were wanted."
    )
    assert "compute.precision=bfloat16, which continues this run" in caught.value.hint
    assert "another --run with train.batch_size=2 (now 4)" in caught.value.hint


@pytest.mark.parametrize("words", faults.GPU_WORDS)
def test_a_gpu_that_no_longer_answers_is_told_all_the_same(tmp_path, monkeypatch, words):
    def gone(device):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr("torch.cuda.mem_get_info", gone)
    memory = faults.enough_memory(Config(), tmp_path, lambda: None)
    with pytest.raises(UserError, match="GPU ran out of memory: its size is not known") as caught, memory:
        raise RuntimeError(f"{words} when calling `cublasCreate(handle)`")
    assert "train.batch_size=25" in caught.value.hint


def test_before_a_run_has_begun_the_same_directory_will_do():
    config, memory = load_preset("debug", {"precision": "bfloat16"}), faults.GPUMemory(8 * GB, GB, 7 * GB, 0)
    error = faults.gpu_is_full(config, memory, "", begun=False)
    assert error.hint == "Set train.batch_size=2 (now 4)."
    assert "other processes hold 1.00 GB" in error.message


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 6.10 GiB for an array"),
        RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 6550000000 bytes. Error code 12"
        ),
    ],
)
def test_a_machine_without_memory_is_told_with_settings(make_run, tmp_path, error):
    run = make_run(tmp_path / "run", env_steps=10_000)

    def out_of_memory(*_):
        raise error

    run.replay.sample = out_of_memory
    with pytest.raises(UserError, match=r"machine ran out of memory: 6\S* \w+ more were wanted") as caught:
        run.train()
    assert "replay.storage=disk" in caught.value.hint
    assert "replay.replay_capacity (now 4,000)" in caught.value.hint


def test_a_replay_that_cannot_be_had_is_told_before_the_run(make_run, tmp_path, monkeypatch):
    def no_memory(*_, **__):
        raise MemoryError("Unable to allocate 24.6 GiB for an array")

    monkeypatch.setattr("reverie.data.replay._allocate", no_memory)
    with pytest.raises(UserError, match="ran out of memory"):
        make_run(tmp_path / "run")


def test_other_errors_of_torch_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"), faults.enough_memory(Config(), tmp_path, lambda: None):
        raise RuntimeError("shapes do not fit")


# --------------------------------------------------------------------------------------------------------- clock jumps


def test_no_duration_is_measured_with_the_clock_on_the_wall():
    """time.time jumps; only dates for people may come from it."""
    source = Path(reverie.__file__).parent
    users = {
        p.name
        for p in source.rglob("*.py")
        if re.search(r"\btime\.time\(|datetime\.now|utcnow|from time import", p.read_text())
    }
    assert users == {"logger.py", "trackers.py"}  # lines of a log, points of MLflow


def test_jumps_of_the_clock_do_no_harm(make_run, tmp_path, monkeypatch):
    jumps = iter(range(0, -(10**9), -3600))
    monkeypatch.setattr("time.time", lambda: 1e9 + next(jumps))
    run = make_run(tmp_path / "run", minutes=5.0, log_every=0.01, checkpoint_every=0.05, tensorboard=True)
    run.train()
    seconds = [line["seconds"] for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "seconds" in line]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] < 60
    assert run.clock.env_steps == 120


# ----------------------------------------------------------------------------------------------- changed configuration


def another(kind, value):
    """Another value of a setting."""
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != value)
    if kind is bool:
        return not value
    if kind in (int, float):
        return value + kind(1)
    return ("x",) if value == () else type(value)(list(value)[:-1]) if isinstance(value, tuple) else f"{value}x"


@pytest.mark.parametrize("key", SETTINGS)
def test_each_setting_may_change_in_a_run_or_is_told(tmp_path, key):
    config = load_preset("debug", {"env.id": "custom:toy"})
    prepare_directory(tmp_path, config)
    group, name = key.split(".")
    old = getattr(getattr(config, group), name)
    changed = replace(config, **{group: replace(getattr(config, group), **{name: another(SETTINGS[key].kind, old)})})
    assert changed != config
    if key.startswith(MAY_CHANGE):
        check_directory(tmp_path, changed)
        return
    with pytest.raises(UserError, match=re.escape(f"{key} = {old!r} (asked for")) as caught:
        check_directory(tmp_path, changed)
    for word in ("train.env_steps", "train.minutes", "train.eval_*", "compute.*", "log.*"):
        assert word in caught.value.hint


def test_the_help_of_train_tells_what_may_change(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    assert "May change in a run: train.env_steps, train.minutes, train.eval_*" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------- small boxes


@pytest.mark.parametrize(
    ("space", "own"),
    [(spaces.Box(-1, 1, (), np.int16), np.int16), (spaces.Box(0, 255, (2,), np.uint8), np.uint8)],
)
def test_an_integer_box_gets_arrays_as_its_space_wants_them(space, own):
    """Found by fuzzing: the first gave a warning at each step, the second an OverflowError."""
    env = AgentView(SpaceEnv(spaces.MultiBinary(1), space))
    env.reset()
    env.step(np.zeros(env.agent_spec.action.size, np.float32))
    action = env.env.actions[-1]
    assert isinstance(action, np.ndarray)
    assert action.dtype == own
    assert space.contains(action)
