"""Forecast of memory, disk and time before the first step of a run, and what to change if it cannot fit.

Replay, weights, Adam's moments and files are computed. Activations and the speed of this machine are measured: a copy
of the agent makes one or two updates on random numbers and is thrown away. All random number generators are restored
afterwards, so that a run is the same with and without its forecast.
"""

from __future__ import annotations

import contextlib
import copy
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..config import Config
from ..data.replay import Batch, Replay
from ..envs.spaces import Spec
from ..errors import UserError, counted, digits
from ..train import DreamerV2, to_batch
from .evaluation import evaluations_due

#: Beyond this share of what is available a warning is given; beyond all of it the run is refused.
TIGHT = 0.85
#: A second update is timed only if the first took less than this many seconds.
PATIENCE = 10.0
#: Bytes of the video of an evaluation: half of the most it can take.
VIDEO = 30_000_000
#: Bytes of its file, as large ones are: 300 frames of 240 pixels a side.
VIDEO_FILE = 3_000_000
#: Files of a container's limit and use of memory, versions 2 and 1.
CGROUPS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True)
class Forecast:
    """Bytes and seconds of a whole run. None: not known on this system."""

    now: int  # bytes of memory of the process before the first step
    replay: int  # of the steps that the run will hold (0 if they lie on disk)
    update: int  # what an update adds: gradients, moments, activations
    saving: int  # what writing a checkpoint adds for a moment
    gpu: int | None  # bytes on the GPU, if the agent is there
    disk: int  # bytes of files when the run ends
    memory_left: int | None  # available now, this process's own not counted
    gpu_left: int | None
    disk_left: int | None
    update_seconds: float
    act_seconds: float  # per environment step
    step_seconds: float  # of one environment
    updates_per_step: float
    idle: int  # steps before learning begins
    steps: int  # of the whole run
    row_bytes: int  # of one step in the replay
    batch_size: int
    on_disk: bool  # replay.storage=disk
    evaluations: int = 0  # of the whole run
    eval_episodes: int = 0  # of each

    @property
    def added(self) -> int:
        """Bytes of memory beyond what the process has now."""
        return self.replay + self.update + self.saving

    @property
    def peak(self) -> int:
        """Bytes of memory of the process at its largest."""
        return self.now + self.added

    def seconds(self, steps: int, idle: int = 0) -> float:
        """Of so many environment steps, the first `idle` of them without learning."""
        learning = max(0, steps - idle) * (self.act_seconds + self.updates_per_step * self.update_seconds)
        return steps * self.step_seconds + learning

    def lines(self) -> list[str]:
        """For the header of a run."""
        parts = f"replay {in_bytes(self.replay)}, an update {in_bytes(self.update)}, process {in_bytes(self.now)}"
        lines = [
            f"memory {in_bytes(self.peak)} at most ({parts}){_of(self.added, self.memory_left)}; "
            f"disk {in_bytes(self.disk)}{_of(self.disk, self.disk_left)}",
            f"about {duration(self.seconds(100_000))} per 100,000 steps, "
            f"{duration(self.seconds(self.steps, self.idle))} for {self.steps:,} "
            f"({digits(1000 * self.update_seconds)} ms an update)",
        ]
        if self.evaluations:  # how long an episode is, the first ones will show
            steps = 100 * self.evaluations * self.eval_episodes
            total = duration(steps * (self.step_seconds + self.act_seconds))
            many = f"{counted(self.evaluations, 'evaluation')} of {counted(self.eval_episodes, 'episode')}"
            lines.append(f"and {many}: {total} for each 100 steps that an episode lasts")
        if self.gpu is not None:
            lines.append(f"GPU memory {in_bytes(self.gpu)}{_of(self.gpu, self.gpu_left)}")
        return lines + [f"tight: {problem}" for problem in self.problems(TIGHT)]

    def problems(self, share: float = 1.0) -> list[str]:
        """What needs more than this share of what is there, each with the settings to change, as sentences."""
        found = []
        if self.memory_left is not None and self.added > share * self.memory_left:
            found.append(
                f"the run needs {in_bytes(self.added)} more memory, {in_bytes(self.memory_left)} are available: "
                f"{self._smaller_memory()}"
            )
        if self.gpu is not None and self.gpu_left is not None and self.gpu > share * self.gpu_left:
            found.append(
                f"the run needs {in_bytes(self.gpu)} of GPU memory, {in_bytes(self.gpu_left)} are available: "
                f"set train.batch_size={max(1, self.batch_size // 2)} or compute.precision=bfloat16"
            )
        if self.disk_left is not None and self.disk > share * self.disk_left:
            room = int(TIGHT * self.disk_left - (self.disk - self._rows() * self.row_bytes))
            fits = room // (self.row_bytes * (2 if self.on_disk else 1))
            advice = f"set replay.replay_capacity={fits}" if fits > 0 else "choose another disk with --run"
            found.append(f"the run writes {in_bytes(self.disk)}, {in_bytes(self.disk_left)} are free: {advice}")
        return found

    def _rows(self) -> int:
        return self.replay // self.row_bytes

    def _smaller_memory(self) -> str:
        left = self.memory_left or 0
        fits = int((TIGHT * left - self.update - self.saving) // self.row_bytes)
        if self.replay and fits >= self._rows() // 20:
            return f"set replay.replay_capacity={fits}, or replay.storage=disk"
        if self.replay and self.update + self.saving < TIGHT * left:
            return "set replay.storage=disk"
        return f"set train.batch_size={max(1, self.batch_size // 2)}, env.image_size=64 or smaller, or model.cnn_depth"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"peak": self.peak, "added": self.added, "problems": self.problems()}


def require_fit(forecast: Forecast) -> None:
    """Raises UserError if the run cannot fit."""
    problems = forecast.problems()
    if problems:
        raise UserError(f"{'; '.join(problems)}.", "Or try anyway with train.forecast=false.")


def make_forecast(agent: DreamerV2, directory: Path, *, step_seconds: float = 0.0) -> Forecast:
    """Measure and compute. step_seconds: of one environment, 0 if it is not known. Changes nothing."""
    config = agent.config
    row_bytes = Replay(agent.spec.shapes, agent.spec.action.size, capacity=1, streams=1).nbytes()
    rows = min(config.replay.replay_capacity, _rows_of(config))
    on_disk = config.replay.storage == "disk"
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        highest, gpu, update_seconds, act_seconds = _measure(agent, config, agent.spec)
    now = resident() or 0
    update = max(0, highest - now) + (VIDEO if config.log.video else 0)
    per_step = step_seconds + act_seconds + config.train.train_ratio * update_seconds
    fresh = min(rows, int(config.train.checkpoint_every / max(1e-9, per_step)) + 1, _rows_of(config))
    learning = [x for optimizer in agent.optimizers.values() for x in optimizer.parameters]
    weights, moments = _bytes(agent), sum(2 * x.numel() * x.element_size() for x in learning)
    disk = rows * row_bytes * (2 if on_disk else 1) + (config.log.keep_checkpoints + 1) * (weights + moments) + weights
    disk += VIDEO_FILE * kept_videos(config)
    return Forecast(
        now=now,
        replay=0 if on_disk else rows * row_bytes,
        update=update,
        saving=fresh * row_bytes + weights + moments,
        gpu=gpu,
        disk=disk,
        memory_left=memory_left(),
        gpu_left=torch.cuda.mem_get_info(agent.device)[0] if agent.device.type == "cuda" else None,
        disk_left=_disk_left(directory),
        update_seconds=update_seconds,
        act_seconds=act_seconds,
        step_seconds=step_seconds,
        updates_per_step=config.train.train_ratio,
        idle=max(0, config.train.prefill - int(config.train.pretrain / config.train.train_ratio)),
        steps=config.train.env_steps,
        row_bytes=row_bytes,
        batch_size=config.train.batch_size,
        on_disk=on_disk,
        evaluations=evaluations_due(config.train.eval_every, 0, config.train.env_steps),
        eval_episodes=config.train.eval_episodes,
    )


def kept_videos(config: Config) -> int:
    """How many videos lie in the run's directory when it ends."""
    made = evaluations_due(config.train.eval_every, 0, config.train.env_steps) if config.log.video else 0
    return min(made, config.log.keep_videos) if config.log.keep_videos else made


def _rows_of(config: Config) -> int:
    """How many rows the run will make at most: its steps, and one reset per episode (of 10 steps, say)."""
    return int(config.train.env_steps * 1.1) + config.env.num_envs


def _measure(agent: DreamerV2, config: Config, spec: Spec) -> tuple[int, int | None, float, float]:
    """Bytes of the process at most while updating, bytes used on the GPU or None, seconds of an update and of acting.

    The first without the copy that is measured; of acting per environment step.
    """
    gpu = agent.device.type == "cuda"
    batch = random_batch(spec, config.train.batch_size, config.train.seq_len)
    other = copy.deepcopy(agent)
    if gpu:
        torch.cuda.reset_peak_memory_stats(agent.device)
    reset_peak()
    seconds = _timed(lambda: _update(other, batch))
    if seconds < PATIENCE:
        seconds = min(seconds, _timed(lambda: _update(other, batch)))
    highest = (peak() or 0) - (0 if gpu else _bytes(agent))
    used = torch.cuda.max_memory_allocated(agent.device) - _bytes(agent) if gpu else None
    return highest, used, seconds, acting_seconds(other, _timed)


def acting_seconds(agent: DreamerV2, timed: Callable[[Callable[[], Any]], float]) -> float:
    """Seconds of acting per environment step, by the clock `timed`."""
    count = agent.config.env.num_envs
    player = agent.player(num_envs=count, mode="explore")
    obs = {key: value[:, 0] for key, value in random_rows(agent.spec, count, 1).items()}
    player.act(obs, np.ones(count, bool))
    return min(timed(lambda: player.act(obs, np.zeros(count, bool))) for _ in range(3)) / count


def _update(agent: DreamerV2, batch: Batch) -> None:
    on_device = to_batch(batch, agent.device)
    metrics = agent.update(on_device)
    float(metrics["critic/loss"])  # waits for the GPU


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def random_rows(spec: Spec, batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Observations of the right shapes, without meaning. -> {key: (B, T, *shape)}."""
    rng, rows = np.random.default_rng(seed), {}
    for key, (shape, dtype) in spec.shapes.items():
        full = (batch, length, *shape)
        if spec.obs[key].kind == "mask":
            rows[key] = np.ones(full, dtype)
        elif dtype == np.uint8:
            rows[key] = rng.integers(0, 256, full, dtype=np.uint8)
        else:
            rows[key] = rng.standard_normal(full, np.float32)
    return rows


def random_batch(spec: Spec, batch: int, length: int) -> Batch:
    """A batch of the right shapes, without meaning. -> arrays (B, T, ...)."""
    action = spec.action.random(np.random.default_rng(0), batch * length).reshape(batch, length, -1)
    no = np.zeros((batch, length), bool)
    return Batch(random_rows(spec, batch, length), action, np.zeros((batch, length), np.float32), no, no, no)


def _bytes(module: nn.Module) -> int:
    return sum(x.numel() * x.element_size() for x in [*module.parameters(), *module.buffers()])


# ---------------------------------------------------------------------------------------------------------- the machine


def resident() -> int | None:
    """Bytes of memory that this process has now; None where the system does not say."""
    return _status("VmRSS")


def peak() -> int | None:
    """Bytes of memory that this process had at its largest, since `reset_peak` if that works here."""
    found = _status("VmHWM")
    if found is None:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024
    return found


def reset_peak() -> None:
    """Let `peak` begin again from here (Linux)."""
    with contextlib.suppress(OSError):  # then `peak` is that of the whole process: too high rather than too low
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int | None:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def memory_left(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes of memory that can still be had: by the machine, and by the container if that is less. None: unknown."""
    found = []
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        pass
    for limit, used in CGROUPS:
        try:
            allowed = (cgroup / limit).read_text().strip()
            if allowed != "max" and int(allowed) < 2**60:  # version 1 says 2^63 for no limit
                found.append(int(allowed) - int((cgroup / used).read_text()))
        except (OSError, ValueError):
            pass
    return min(found) if found else None


def _disk_left(directory: Path) -> int | None:
    existing = next((path for path in (directory, *directory.absolute().parents) if path.exists()), None)
    try:
        return shutil.disk_usage(existing).free if existing else None
    except OSError:
        return None


def in_bytes(count: int) -> str:
    """ "0.47 GB", "3.9 MB"."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _of(used: int, left: int | None) -> str:
    return "" if left is None else f" of {in_bytes(left)}"


def duration(seconds: float) -> str:
    """ "52 s", "14 min", "3.1 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
