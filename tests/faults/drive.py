"""Inject one fault after the other into real processes; report what the user sees and what is lost.

    python tests/faults/drive.py               all rows, minutes
    python tests/faults/drive.py --quick       the rows that CI runs in tests/guard/test_faults.py
    python tests/faults/drive.py lock sigterm  some of them

On a crowded machine FAULTS_PATIENCE=5 waits five times as long; what is promised after a signal stays 20 seconds.
Exit code 1 if a row FAILED. Every process is started, and ended, by its own id.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASE = ["--preset", "debug", "log_every=0.2", "checkpoint_every=1", "tensorboard=false", "video=false"]
FOREVER = ["--env-steps", "100000000"]
PATIENCE = float(os.environ.get("FAULTS_PATIENCE", "1"))
SIGNAL_SECONDS = 20.0  # from a signal to the end of the process, at most


@dataclass
class Row:
    """One line of the table."""

    injected: str
    sees: str
    lost: str
    ok: bool | None  # None: cannot be injected on this machine


class Impossible(Exception):
    """The fault cannot be injected on this machine: small disks need root."""


class Training:
    """A `reverie train` in a process of its own; `patch` names what `patches.py` breaks in it first."""

    def __init__(self, run: Path, *words: str, patch: str = "", env: str = "CartPole-v1", **popen: object) -> None:
        self.run = run
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as this object)
        program = [str(HERE / "patches.py"), patch] if patch else ["-m", "reverie.cli"]
        path = os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE.parent)])
        self.since = time.monotonic()
        settings: dict = {
            "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": self.log, "text": True,
            "env": os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TERM": "dumb"},
        } | popen  # fmt: skip
        command = [sys.executable, *program, "train", *BASE, "--env", env, "--run", str(run), *words]
        self.process = subprocess.Popen(command, **settings)

    def end(self, seconds: float = 120) -> int:
        """Wait for it. -> exit code; what takes too long is killed and counts as code 99."""
        try:
            return self.process.wait(PATIENCE * seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return 99

    @property
    def text(self) -> str:
        """Its output so far."""
        self.log.seek(0)
        return self.log.read()

    def until(self, true: Callable[[], object], seconds: float = 90) -> bool:
        """Wait until something is true. -> is it, while the process lives?"""
        end = time.monotonic() + PATIENCE * seconds
        while time.monotonic() < end and self.process.poll() is None:
            if true():
                return True
            time.sleep(0.02)
        return bool(true())

    def ready(self, count: int = 1) -> bool:
        """Wait for its first checkpoints."""
        return self.until(lambda: len(checkpoints(self.run)) >= count)

    def message(self) -> str:
        """The error and its hint in one line, or the last line of the output."""
        found = re.search(r"error: (.*)\n(?:hint: (.*)\n)?", self.text)
        if found:
            return " ".join(part for part in found.groups() if part)
        return (self.text.strip().splitlines() or [""])[-1]

    def workers(self) -> list[int]:
        """The processes that it has started."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with suppress(OSError):
                found += [int(number) for number in task.read_text().split()]
        return found

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self.log.close()


def checkpoints(run: Path) -> list[int]:
    """Steps of the complete checkpoints."""
    return sorted(int(p.parent.name[5:]) for p in run.glob("checkpoints/step-*/state.json"))


def lines(run: Path, name: str = "metrics") -> list[dict]:
    """Strictly: a torn line is a fault."""
    path = run / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def lenient(run: Path) -> int:
    """Steps of the last whole line of metrics; after kill -9 the very last may be torn."""
    steps = [0]
    for line in (run / "metrics.jsonl").read_text().splitlines():
        with suppress(ValueError):
            steps.append(json.loads(line)["env_steps"])
    return steps[-1]


def continues(run: Path, *words: str, more: int = 100, env: str = "CartPole-v1") -> str:
    """Does the same command continue from the newest checkpoint, with its logs in order? -> the problem, or ""."""
    at = checkpoints(run)[-1]
    with Training(run, "--env-steps", str(at + more), "eval_every=0", *words, env=env) as again:
        code = again.end()
        if code != 0:
            return f"the same command ended with {code}: {again.message()}"
        if f"continues at step {at:,}" not in again.text:
            return f"the same command did not continue at step {at}"
    for name in ("metrics", "episodes"):
        steps = [line["env_steps"] for line in lines(run, name)]
        if steps != sorted(steps):
            return f"{name}.jsonl is out of order"
    drafts = [str(p) for p in run.rglob("*.tmp")]
    if drafts or (run / ".lock").exists():
        return f"left behind: {drafts or '.lock'}"
    return "" if lines(run)[-1]["env_steps"] >= at + more else "the last line is missing"


def lost(before: int, saved: int) -> str:
    """Steps that have to be made again."""
    return "nothing" if before <= saved else f"{before - saved} steps since the last checkpoint"


def verdict(
    training: Training, injected: str, gone: str, wrong: str, *, code: int, wanted: int, pattern: str = ""
) -> Row:
    """A row of the table. `pattern`: a regular expression that must be in the output."""
    if code != wanted:
        wrong = wrong or f"exit code {code}, not {wanted}"
    if "Traceback" in training.text:
        wrong = wrong or "a traceback"
    if not re.search(pattern, training.text):
        wrong = wrong or f"the output does not say: {pattern}"
    return Row(injected, f"[{code}] {training.message()}", wrong or gone, not wrong)


# ---------------------------------------------------------------------------------------------- killed and interrupted


def killed(folder: Path) -> Row:
    """kill -9 while training."""
    run = folder / "run"
    with Training(run, *FOREVER) as one:
        one.ready(2)
        time.sleep(0.05 + 0.5 * int.from_bytes(os.urandom(1), "big") / 255)
        one.process.kill()
        code = one.end()
        before = lenient(run)
        saved = checkpoints(run)[-1]
        row = verdict(one, "kill -9 while training", lost(before, saved), "", code=code, wanted=-9)
    wrong = continues(run)
    return Row(row.injected, "the same command continues", wrong or row.lost, row.ok and not wrong)


def interrupted(
    folder: Path, name: str, when: str, *words: str, env: str = "CartPole-v1", patch: str = "", marker: str = "",
    learnt: bool = True, wait: float = 0.5,
) -> Row:  # fmt: skip
    """A signal; exit code 0 within 20 s, a checkpoint of the very last step, and the same command continues."""
    run = folder / "run"
    with Training(run, *FOREVER, *words, env=env, patch=patch) as one:
        if marker:
            one.until(lambda: marker in one.text)
            time.sleep(wait)
        else:
            one.until(lambda: (run / "metrics.jsonl").exists() and len(lines(run)) > 2)
        since = time.monotonic()
        one.process.send_signal(getattr(signal, name))
        code = one.end(SIGNAL_SECONDS + 10)
        took = time.monotonic() - since
        wrong = "" if took < SIGNAL_SECONDS else f"took {took:.0f} s"
        found = checkpoints(run)
        if learnt and not (found and found[-1] >= lenient(run)):
            wrong = wrong or "no checkpoint of the last step"
        row = verdict(one, f"{name} {when}", f"nothing, {took:.1f} s", wrong, code=code, wanted=0, pattern=name)
    if row.ok and found and not patch and env == "CartPole-v1":
        wrong = continues(run, *[word for word in words if not word.startswith(("eval_e", "prefill"))])
        return Row(row.injected, row.sees, wrong or row.lost, not wrong) if "prefill" not in str(words) else row
    return row


def sigterm(folder: Path) -> Row:
    """While training."""
    return interrupted(folder, "SIGTERM", "while training")


def sigint(folder: Path) -> Row:
    """Ctrl-C."""
    return interrupted(folder, "SIGINT", "(Ctrl-C) while training")


def sighup(folder: Path) -> Row:
    """The terminal is closed."""
    return interrupted(folder, "SIGHUP", "(closed terminal) while training")


def sigterm_evaluating(folder: Path) -> Row:
    """An evaluation that would take hours."""
    return interrupted(folder, "SIGTERM", "in an evaluation", "eval_every=200", "eval_episodes=1000000",
                      marker="the first experience")  # fmt: skip


def sigterm_prefill(folder: Path) -> Row:
    """Random steps."""
    return interrupted(folder, "SIGTERM", "in the prefill", "prefill=1000000000")


def sigterm_pretraining(folder: Path) -> Row:
    """Many updates at one step."""
    return interrupted(folder, "SIGTERM", "in pretraining", "pretrain=1000")


def sigterm_starting(folder: Path) -> Row:
    """While the forecast is made."""
    return interrupted(folder, "SIGTERM", "while the forecast is made", "train.forecast=true", patch="slow-forecast",
                       marker="forecasting", learnt=False)  # fmt: skip


def sigterm_compiling(folder: Path) -> Row:
    """torch.compile takes a minute before the first update."""
    return interrupted(folder, "SIGTERM", "while torch.compile compiles", "compute.mode=compile",
                       marker="the first experience", learnt=False)  # fmt: skip


def hanging(folder: Path, backend: str) -> Row:
    """An environment that never answers."""
    return interrupted(folder, "SIGTERM", f"while an environment hangs, {backend}", "checkpoint_every=1000",
                       f"backend={backend}", patch="none", env="faults.bad_envs:Hang-v0", marker="the first experience",
                       wait=5)  # fmt: skip


def second_ctrl_c(folder: Path) -> Row:
    """Someone who does not want to wait."""
    run = folder / "run"
    with Training(run, *FOREVER, env="faults.bad_envs:Hang-v0") as one:
        one.until(lambda: "the first experience" in one.text)
        time.sleep(1)
        one.process.send_signal(signal.SIGINT)
        one.until(lambda: "SIGINT: stopping" in one.text)
        since = time.monotonic()
        one.process.send_signal(signal.SIGINT)
        code = one.end(30)
        took = time.monotonic() - since
        wrong = "" if took < 3 else f"took {took:.1f} s"
        gone = f"what followed the last checkpoint, {took:.1f} s"
        return verdict(one, "Ctrl-C twice", gone, wrong, code=code, wanted=130, pattern="at once")


def nohup(folder: Path) -> Row:
    """A run under nohup outlives its terminal."""
    run = folder / "run"
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN) and None  # noqa: E731
    with Training(run, "--env-steps", "3000", "eval_every=0", preexec_fn=ignore) as one:
        one.until(lambda: (run / "metrics.jsonl").exists())
        one.process.send_signal(signal.SIGHUP)
        code = one.end()
        return verdict(
            one, "SIGHUP under nohup", "nothing, it continues", "", code=code, wanted=0, pattern="reached train"
        )


def broken_pipe(folder: Path) -> Row:
    """The process that reads its output has ended."""
    run = folder / "run"
    reading, writing = os.pipe()
    with Training(run, "--env-steps", "1500", "eval_every=0", stderr=writing) as one:
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        code = one.end()
        done = lines(run)[-1]["env_steps"] if lines(run) else 0
        wrong = "" if code == 0 and done >= 1500 else f"exit code {code} at step {done}"
        return Row("the pipe that shows progress breaks", f"[{code}] nothing more", wrong or "nothing, it continues",
                   not wrong)  # fmt: skip


# ------------------------------------------------------------------------------------------------------ the directory


def lock(folder: Path) -> Row:
    """Two processes on one directory; afterwards, and after kill -9, it is free."""
    run = folder / "run"
    with Training(run, *FOREVER) as one:
        one.ready()
        with Training(run, *FOREVER) as two:
            code = two.end()
            pattern = rf"process {one.process.pid} on \S+ is using .* since .*train"
            row = verdict(two, "a second process on the directory", "nothing", "", code=code, wanted=2, pattern=pattern)
        info = subprocess.run([sys.executable, "-m", "reverie.cli", "info", run], capture_output=True, text=True)
        one.process.kill()
        one.end()
    wrong = "" if info.returncode == 0 else "`reverie info` does not work meanwhile"
    wrong = wrong or continues(run)
    return Row(row.injected, row.sees, wrong or row.lost, row.ok and not wrong)


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A small disk. Raises Impossible where the machine allows none."""
    place = folder / "disk"
    place.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place]
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Impossible(f"no small disk: {getattr(error, 'stderr', '') or error}") from error
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=False)


def disk_full(folder: Path) -> Row:
    """A real small disk, then more room, then the same command."""
    with tmpfs(folder, "1200k") as disk:
        run = disk / "run"
        with Training(run, *FOREVER, "keep_checkpoints=20") as one:
            code = one.end()
            before, found = lenient(run), checkpoints(run)
            row = verdict(
                one,
                "disk full (tmpfs of 1.2 MB)",
                lost(before, found[-1] if found else 0),
                "",
                code=code,
                wanted=2,
                pattern="No space left on device.*\n.*Free some space",
            )
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        wrong = continues(run, "keep_checkpoints=20")
        return Row(row.injected, row.sees, wrong or row.lost, row.ok and not wrong)


def ring_full(folder: Path) -> Row:
    """A replay on disk that finds no room: writing into its memory-mapped files would be SIGBUS.

    It would fit if nothing else lay there; one that is larger than the disk is refused before anything is written.
    """
    with tmpfs(folder, "3m") as disk:
        run = disk / "run"
        (disk / "others").write_bytes(bytes(2_500_000))
        with Training(run, *FOREVER, "storage=disk", "replay_capacity=50000") as one:
            code = one.end()
            return verdict(
                one,
                "disk full, replay.storage=disk",
                "what followed the last checkpoint",
                "",
                code=code,
                wanted=2,
                pattern="no space for the replay.*No space left",
            )


def file_limit(folder: Path) -> Row:
    """RLIMIT_FSIZE, as a quota: the system call returns EFBIG. 70 kB: weights fit, the optimisers' state does not."""
    import resource

    run = folder / "run"
    with Training(run, "--env-steps", "300") as one:
        one.end()
    before = {p.name: p.read_bytes() for p in (run / "checkpoints" / f"step-{checkpoints(run)[-1]:012d}").iterdir()}
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))  # noqa: E731
    with Training(run, *FOREVER, preexec_fn=limit) as one:
        code = one.end()
        good = run / "checkpoints" / f"step-{checkpoints(run)[-1]:012d}"
        wrong = "" if {p.name: p.read_bytes() for p in good.iterdir()} == before else "the old checkpoint changed"
        row = verdict(
            one,
            "files may not grow (RLIMIT_FSIZE)",
            lost(lenient(run), checkpoints(run)[-1]),
            wrong,
            code=code,
            wanted=2,
            pattern="File too large",
        )
    wrong = continues(run)
    return Row(row.injected, row.sees, wrong or row.lost, row.ok and not wrong)


def read_only(folder: Path) -> Row:
    """A file system that turns read-only, as broken disks do: all that is in RUN may not change any more."""
    run = folder / "run"
    trial = folder / "trial"
    trial.write_text("x")
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", trial], check=False).returncode:
        raise Impossible("no chattr +i")
    subprocess.run(["chattr", "-i", trial], check=True)
    with Training(run, *FOREVER) as one:
        one.ready(2)
        subprocess.run(["chattr", "-R", "-f", "+i", run], check=False)  # what vanishes meanwhile is no matter
        try:
            code = one.end(30)
            row = verdict(
                one,
                "RUN turns read-only (chattr +i)",
                lost(lenient(run), checkpoints(run)[-1]),
                "",
                code=code,
                wanted=2,
                pattern="Operation not permitted.*\n.*writable again",
            )
            with Training(run, *FOREVER) as again:
                wrong = "" if again.end() == 2 and "cannot write" in again.text else "a start in it is not refused"
        finally:
            subprocess.run(["chattr", "-R", "-f", "-i", run], check=False)
    wrong = wrong or continues(run)
    return Row(row.injected, row.sees, wrong or row.lost, row.ok and not wrong)


def read_only_disk(folder: Path) -> Row:
    """A start on a disk that is mounted read-only."""
    with tmpfs(folder, "10m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with Training(disk / "run", *FOREVER) as one:
            code = one.end()
            return verdict(
                one, "--run on a read-only disk", "nothing", "", code=code, wanted=2, pattern="Read-only file"
            )


def unwritable(folder: Path) -> Row:
    """The run's directory cannot be made."""
    (folder / "file").write_text("x")
    with Training(folder / "file" / "run", *FOREVER) as one:
        code = one.end()
        return verdict(one, "--run below a file", "nothing", "", code=code, wanted=2, pattern="cannot write to")


def vanished(folder: Path) -> Row:
    """rm -rf RUN while it runs."""
    run = folder / "run"
    with Training(run, *FOREVER) as one:
        one.ready()
        while run.exists():
            shutil.rmtree(run, ignore_errors=True)
        code = one.end()
        left = sorted(p.name for p in folder.rglob("*"))
        wrong = f"made again: {left}" if left else ""
        return verdict(one, "rm -rf RUN while it runs", "the run", wrong, code=code, wanted=2, pattern="removed")


def replaced(folder: Path) -> Row:
    """mv RUN elsewhere; another run begins in its place."""
    run = folder / "run"
    with Training(run, *FOREVER) as one:
        one.ready(2)
        run.rename(folder / "moved")
        run.mkdir()
        (run / "mine.txt").write_text("x")
        code = one.end()
        names = sorted(p.name for p in run.iterdir())
        wrong = "" if names == ["mine.txt"] else f"it wrote into it: {names}"
        row = verdict(
            one,
            "RUN is renamed and replaced",
            "steps since the last checkpoint",
            wrong,
            code=code,
            wanted=2,
            pattern="removed",
        )
    wrong = continues(folder / "moved")
    return Row(row.injected, row.sees, wrong or row.lost, row.ok and not wrong)


def extras(folder: Path) -> Row:
    """Videos and TensorBoard cannot be written: RUN/videos and RUN/tensorboard are files."""
    run = folder / "run"
    run.mkdir()
    with Training(run, "--env-steps", "200") as one:
        one.end()
    (run / "videos").write_text("x")
    (run / "tensorboard").write_text("x")
    with Training(run, "--env-steps", "600", "eval_every=200", "tensorboard=true", "video=true") as one:
        code = one.end()
        counts = [one.text.count(word) for word in ("no video: it could not", "TensorBoard events are no longer")]
        wrong = "" if counts == [1, 1] else f"reported {counts} times"
        row = verdict(
            one,
            "no room for videos and TensorBoard",
            "videos and curves, the run continues",
            wrong,
            code=code,
            wanted=0,
        )
        sees = " / ".join(line for line in one.text.splitlines() if "no video" in line or "TensorBoard events" in line)
        return Row(row.injected, f"[{code}] {sees}", row.lost, row.ok)


def changed(folder: Path) -> Row:
    """Other settings for an old run."""
    run = folder / "run"
    with Training(run, "--env-steps", "200") as one:
        one.end()
    with Training(run, *FOREVER, "gamma=0.5", "batch_size=3") as one:
        code = one.end()
        row = verdict(
            one,
            "other settings on resume",
            "nothing",
            "",
            code=code,
            wanted=2,
            pattern=r"gamma = 0.99 \(asked for 0.5\)(.*\n)*.*May change in a run: train.env_steps",
        )
    wrong = continues(run, "eval_episodes=1", "threads=1", "keep_checkpoints=3", "log_every=1")
    return Row(row.injected, row.sees, wrong or row.lost, row.ok and not wrong)


# ------------------------------------------------------------------------------------------------------- environments


def worker_fault(folder: Path, how: int, injected: str, pattern: str) -> Row:
    """A worker process gets a signal; the run continues with a new one."""
    run = folder / "run"
    with Training(run, *FOREVER, "backend=async", "worker_timeout=2") as one:
        one.ready()
        victim = one.workers()[0]
        os.kill(victim, how)
        one.until(lambda: re.search(pattern, one.text), 30)
        at = checkpoints(run)[-1]
        gone = one.until(lambda: checkpoints(run)[-1] > at + 100)
        one.process.send_signal(signal.SIGTERM)
        code = one.end()
        crashed = sum(line["phase"] == "crashed" for line in lines(run, "episodes"))
        wrong = "" if gone and crashed else "it did not continue"
        text = " ".join(line for line in one.text.splitlines() if re.search(pattern, line))
        row = verdict(one, injected, f"{crashed} episodes", wrong, code=code, wanted=0, pattern=pattern)
        return Row(injected, f"[{code}] {text[:200]}", row.lost, row.ok)


def worker_killed(folder: Path) -> Row:
    """As the system does when memory is short."""
    return worker_fault(folder, signal.SIGKILL, "a worker process is killed", r"was killed by SIGKILL")


def worker_hung(folder: Path) -> Row:
    """It stops answering."""
    return worker_fault(folder, signal.SIGSTOP, "a worker process hangs", r"did not answer for 2 s")


def worker_killed_before_checkpoint(folder: Path) -> Row:
    """Between two steps, before a checkpoint is due: the save asks no worker."""
    run = folder / "run"
    with Training(run, *FOREVER, "backend=async", "checkpoint_every=0.1") as one:
        one.ready()
        at, victims = checkpoints(run)[-1], one.workers()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        one.until(lambda: one.text.count("was killed by SIGKILL") >= len(victims), 30)
        gone = one.until(lambda: checkpoints(run)[-1] > at + 100)
        one.process.send_signal(signal.SIGTERM)
        code = one.end()
        injected = "all worker processes are killed, checkpoints every 0.1 s"
        crashed = sum(line["phase"] == "crashed" for line in lines(run, "episodes"))
        wrong = "" if gone else "it did not continue"
        return verdict_of_workers(one, injected, f"{crashed} episodes", wrong, code, 0, "was killed by SIGKILL")


def verdict_of_workers(
    one: Training, injected: str, gone: str, wrong: str, code: int, wanted: int, pattern: str
) -> Row:
    """As `verdict`; but the traceback of an environment in a worker is shown, and is not one of ours."""
    if code != wanted:
        wrong = wrong or f"exit code {code}, not {wanted}"
    if not re.search(pattern, one.text):
        wrong = wrong or f"the output does not say: {pattern}"
    return Row(injected, f"[{code}] {one.message()[:250]}", wrong or gone, not wrong)


def breaks(folder: Path, name: str, injected: str, pattern: str, backend: str) -> Row:
    """An environment that breaks its specification after 150 steps; what was learnt is kept."""
    run = folder / "run"
    words = ["checkpoint_every=1000", "num_envs=2", f"backend={backend}"]
    with Training(run, *FOREVER, *words, env=f"faults.bad_envs:{name}-v0") as one:
        code = one.end()
        found = checkpoints(run)
        wrong = "" if found and found[-1] >= 290 else f"checkpoints: {found}"
        injected = f"{injected}, {backend}"
        if backend == "sync":
            return verdict(one, injected, "nothing", wrong, code=code, wanted=2, pattern=pattern)
        return verdict_of_workers(one, injected, "nothing", wrong, code, 2, pattern)


def raises(folder: Path, name: str, injected: str, pattern: str, backend: str) -> Row:
    """One that raises then: the run ends; a worker process is made again, and an episode is lost each time."""
    if backend == "sync":
        return breaks(folder, name, injected, f"{pattern}.* at step 150", backend)
    run = folder / "run"
    with Training(run, "--env-steps", "1000", "backend=async", env=f"faults.bad_envs:{name}-v0") as one:
        code = one.end()
        crashed = sum(line["phase"] == "crashed" for line in lines(run, "episodes"))
        found = checkpoints(run)
        wrong = "" if crashed and found and found[-1] >= 1000 else f"{crashed} episodes, checkpoints {found}"
        injected = f"{injected} every 150 steps, async"
        return verdict_of_workers(one, injected, f"{crashed} episodes", wrong, code, 0, pattern)


def left_out(folder: Path, name: str, injected: str, pattern: str, backend: str) -> Row:
    """What a run does not need is left out with a note; it reaches its end."""
    run = folder / "run"
    words = [f"backend={backend}", "video=true" if name == "Render" else "video=false"]
    with Training(run, "--env-steps", "300", *words, env=f"faults.bad_envs:{name}-v0") as one:
        code = one.end()
        wrong = "" if checkpoints(run)[-1:] == [300] else f"checkpoints: {checkpoints(run)}"
        row = verdict(one, f"{injected}, {backend}", "nothing", wrong, code=code, wanted=0, pattern=pattern)
        note = next((line for line in one.text.splitlines() if re.search(pattern, line)), "")
        return Row(row.injected, f"[{code}] {' '.join(note.split())}", row.lost, row.ok)


#: Rows by name: what is tried, the environment, what is injected, and what the output must say. Each in both backends.
OF_ENVIRONMENTS: dict[str, tuple[Callable[..., Row], str, str, str]] = {
    "env_nan": (breaks, "Nan", "an environment observes NaN", "NaN at step"),
    "env_shape": (breaks, "Shape", "an observation of another shape", r"shape \(4,\) at step 150"),
    "env_reward": (breaks, "Reward", "a reward is infinite", "reward is inf at step 150"),
    "env_raises": (raises, "Raise", "an environment raises", r"ValueError(: | \()the robot fell over"),
    "env_panics": (
        raises,
        "Panic",
        "an extension of an environment panics",
        r"PanicException(: | \()index out of bounds",
    ),
    "env_info": (left_out, "Info", "ragged infos, info['crashed'], info['log'] is text", "it is left out"),
    "env_render": (
        left_out,
        "Render",
        "render() raises in an evaluation",
        "no video: (render raises|env.backend=async)",
    ),
    "env_close": (left_out, "Close", "close() raises", "close of the environment raises"),
}


# ----------------------------------------------------------------------------------------------- memory, clock, files


def gpu_memory(folder: Path) -> Row:
    """torch runs out of GPU memory in the 5th update (simulated)."""
    run = folder / "run"
    with Training(run, *FOREVER, patch="gpu-memory") as one:
        code = one.end()
        return verdict(
            one,
            "GPU out of memory (simulated)",
            "steps since the last checkpoint",
            "",
            code=code,
            wanted=2,
            pattern=r"GPU ran out of memory(.*\n)*.*train.batch_size=2 \(now 4\)",
        )


def memory(folder: Path) -> Row:
    """NumPy runs out of memory when a batch is sampled (simulated)."""
    run = folder / "run"
    with Training(run, *FOREVER, patch="memory") as one:
        code = one.end()
        return verdict(
            one,
            "memory runs out (simulated)",
            "steps since the last checkpoint",
            "",
            code=code,
            wanted=2,
            pattern=r"machine ran out of memory(.*\n)*.*replay.storage=disk",
        )


def clock(folder: Path) -> Row:
    """time.time jumps by hours, back and forth, at each call (simulated)."""
    run = folder / "run"
    with Training(run, "--env-steps", "3000", "tensorboard=true", patch="clock") as one:
        code = one.end()
        seconds = [line["seconds"] for line in lines(run) if "seconds" in line]
        passed = time.monotonic() - one.since
        wrong = "" if seconds == sorted(seconds) and 0 < seconds[-1] <= passed else f"seconds: {seconds} in {passed}"
        row = verdict(
            one, "the clock jumps (simulated)", "nothing", wrong, code=code, wanted=0, pattern="reached train"
        )
        return Row(row.injected, f"[{code}] nothing", row.lost, row.ok)


def damaged(folder: Path) -> Row:
    """The newest checkpoint is truncated: the one before is used."""
    run = folder / "run"
    with Training(run, *FOREVER) as one:
        one.ready(2)
        one.process.send_signal(signal.SIGTERM)
        one.end()
    newest = run / "checkpoints" / f"step-{checkpoints(run)[-1]:012d}" / "weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1000])
    before = checkpoints(run)
    with Training(run, "--env-steps", str(before[-1] + 100)) as one:
        code = one.end()
        row = verdict(
            one,
            "the newest checkpoint is truncated",
            lost(before[-1], before[-2]),
            "",
            code=code,
            wanted=0,
            pattern=rf"continues at step {before[-2]:,}(.*\n)*.*weights.safetensors\s+is\s+damaged",
        )
        notes = [line for line in one.text.splitlines() if re.match("note|files", line)]
        return Row(row.injected, f"[{code}] {' / '.join(notes)}", row.lost, row.ok)


def nan(folder: Path) -> Row:
    """A weight becomes NaN in the 5th update (simulated)."""
    run = folder / "run"
    with Training(run, *FOREVER, patch="nan") as one:
        code = one.end()
        return verdict(
            one,
            "NaN in training (simulated)",
            "steps since the last checkpoint",
            "",
            code=code,
            wanted=2,
            pattern="non-finite.*\n.*replay-crash",
        )


def slow_tests(name: str, folder: Path) -> tuple[int, str]:
    """Run the slow tests of a file below tests/. -> exit code, output."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-m", "slow", f"tests/{name}.py", "--basetemp", folder / "t"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parents[1])
    return done.returncode, done.stdout


def kills(folder: Path) -> Row:
    """Twenty times kill -9 in deterministic mode: five runs against one that is left alone."""
    code, text = slow_tests("run/test_resume", folder)
    places = [int(number) for line in re.findall(r"killed after \[(.*)\]", text) for number in line.split(",")]
    same = len(places) == 20 and code == 0
    sees = f"the same command continues; killed after {min(places, default=0)} to {max(places, default=0)} episodes"
    gone = "nothing: weights, optimisers, replay, random streams, metrics and episodes are bit-identical"
    return Row(f"{len(places)} x kill -9 at random times, deterministic", sees, gone if same else text[-300:], same)


def corruptions(folder: Path) -> Row:
    """Two hundred changed files of the newest checkpoint or the replay's log."""
    code, text = slow_tests("test_corruption", folder)
    found = re.findall(r"^ *(\d+)  \w+ \S+ +(.*)$", text, re.MULTILINE)
    count = {how: sum(int(n) for n, h in found if h == how) for _, how in found}
    before, refused = count.pop("before it", 0), count.pop("refused", 0)
    ok = code == 0 and not count and before + refused == 200
    sees = f"{before} x a note, the checkpoint before is used; {refused} x refused, in one sentence"
    gone = "steps since the checkpoint before; where the replay's log is hit, the replay"
    return Row("200 random corruptions", sees, gone if ok else f"{count}: {text[-300:]}", ok)


def stall(folder: Path) -> Row:
    """How long learning waits for checkpoints."""
    out = folder / "stall.json"
    command = [sys.executable, "benchmarks/checkpoint_stall.py", "--out", out, "--minutes", "0.7"]
    subprocess.run(command, capture_output=True, check=False, cwd=HERE.parents[1])
    share = json.loads(out.read_text())["background"]["stall_share"]
    return Row("a checkpoint every 10 s (demo)", f"learning waits {share:.2%} of the time", "nothing", share < 0.01)


def both(name: str, work: Callable[..., Row], *given: str) -> dict[str, Callable[[Path], Row]]:
    """Two rows: environments in this process, and in worker processes."""
    return {
        f"{name}{end}": lambda folder, backend=backend: work(folder, *given, backend=backend)
        for backend, end in (("sync", ""), ("async", "_async"))
    }


#: Rows of the directory, of signals, of memory, clock and files; `ROWS` has those of environments besides.
PLAIN = [
    sigterm, lock,
    killed, sigint, sighup, nohup, broken_pipe, second_ctrl_c, sigterm_evaluating, sigterm_prefill, sigterm_pretraining,
    sigterm_starting, sigterm_compiling, disk_full, ring_full, file_limit, read_only, read_only_disk,
    unwritable, vanished, replaced, extras, changed, worker_killed, worker_hung, worker_killed_before_checkpoint,
]  # fmt: skip
LAST = [gpu_memory, memory, clock, damaged, nan, kills, corruptions, stall]
ROWS: dict[str, Callable[[Path], Row]] = {function.__name__: function for function in PLAIN}
ROWS |= both("sigterm_hanging", hanging)
for row_name, (work, *given) in OF_ENVIRONMENTS.items():
    ROWS |= both(row_name, work, *given)
ROWS |= {function.__name__: function for function in LAST}
QUICK = ["sigterm", "lock"]
SLOW = [name for name in ROWS if name not in QUICK]


VERDICTS = {True: "ok", False: "FAILED", None: "not here"}


def run_row(name: str) -> Row:
    """One fault in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix=f"fault-{name}-", ignore_cleanup_errors=True) as folder:
        try:
            return ROWS[name](Path(folder))
        except Impossible as error:
            return Row(name, str(error), "not tried", None)
        except Exception as error:  # the other rows are still wanted
            return Row(name, f"{type(error).__name__}: {error}", "?", False)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], default=[])
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    names = args.rows or (QUICK if args.quick else list(ROWS))
    print("| injected how | what the user sees | what was lost | |\n|---|---|---|---|", flush=True)
    failed = 0
    for name in names:
        row = run_row(name)
        failed += row.ok is False
        cells = [re.sub(r"\s+", " ", cell).replace("|", "/") for cell in (row.injected, row.sees, row.lost)]
        print(f"| {' | '.join(cells)} | {VERDICTS[row.ok]} |", flush=True)
    print(f"\n{failed} of {len(names)} FAILED")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
