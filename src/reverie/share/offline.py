"""Learn from recorded data alone: a world model, a policy in its dreams, and always an imitating policy beside it.

RUN/agent       what was learnt, as `agent.save` writes it
RUN/cloning     the same world model with the actor that only imitates: the baseline
RUN/metrics.jsonl    a line for every LOG_EVERY updates
RUN/resume      from where the same call continues (offline_state.py)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .. import checkpoint
from ..config import Config, build
from ..config.presets import AUTO, load_preset
from ..errors import UserError, digits
from ..fast.modes import seed_everything, usual_switches
from ..files import append_text, sound, truncate, writing
from ..finite import NonFinite
from ..guard.interrupts import Stopping, on_signals
from ..guard.lock import NAME as LOCK
from ..guard.lock import RunLock, in_use
from ..run.data_set import DataSet
from ..train import DreamerV2, to_batch
from .offline_state import holds_offline, require_same, restore, save, stored_config

#: What is learnt. agent: everything; world_model: no policy in dreams, the imitating one all the same.
WHAT = ("agent", "world_model")
LOG_EVERY = 100
#: Steps at which the scale of vector observations is measured, at most.
MEASURED = 100_000


def offline_config(
    preset: str | None, settings: Mapping[str, Any], data: DataSet, directory: Path | None = None
) -> Config:
    """The settings: preset auto means one for the data's observations. Cloning is on unless it is turned off.

    preset None: of what is in the directory already, else auto. Raises UserError.
    """
    if preset is None and directory is not None and holds_offline(directory):
        config = build(settings, base=stored_config(directory), where="setting")
    else:
        chosen = preset or AUTO
        if chosen == AUTO:
            chosen = "small" if data.spec.images else "vector"
        known = {"env.id": data.about.get("env") or "custom:recorded", "env.num_envs": 1, "behavior.cloning": True}
        config = load_preset(chosen, known | dict(settings))
    if config.env.collectors != "none":
        raise UserError("env.collectors steps environments, and a data set has none.", "Leave it out.")
    if config.replay.demos:
        raise UserError("replay.demos is about a run with an environment.", "Leave it out.")
    if len(data) < config.train.seq_len:
        raise UserError(
            f"the data set has {len(data)} rows, a sequence needs train.seq_len={config.train.seq_len}.",
            "Record more, or set train.seq_len lower.",
        )
    return config


def require_place(directory: Path) -> None:
    """Raises UserError where another run, or anything else, is, and where a process is writing.

    Only what learnt from data is continued. Changes nothing while a process is writing there.
    """
    if in_use(directory):
        with _locked(directory):
            pass  # it has just ended
    _require_ours(directory)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """The directory for this process alone. Raises UserError that names the process that has it."""
    lock = RunLock(directory)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _require_ours(directory: Path) -> None:
    there = directory.exists() and any(item.name != LOCK for item in directory.iterdir())
    if there and not holds_offline(directory):
        raise UserError(
            f"{directory} is not empty.", "Learning from data begins in a new --run, or continues what it left there."
        )


@usual_switches()
def learn_offline(
    config: Config,
    data: DataSet,
    directory: Path,
    *,
    updates: int,
    what: str = "agent",
    say: Callable[[str], None] = lambda line: None,
    stopping: Stopping | None = None,
) -> DreamerV2:
    """Make so many updates from the data in all, and write what was learnt. -> the agent.

    What is in the directory already is continued: it ends, bit for bit, as if nothing had come between. Ctrl-C, SIGTERM
    and SIGHUP end it early: what was learnt so far is written, and `stopping.signal` says which came. Raises UserError.
    """
    if what not in WHAT:
        raise UserError(f"offline must be one of {', '.join(WHAT)}, got '{what}'.")
    if updates < 1:
        raise UserError(f"updates must be above 0, got {updates}.")
    require_place(directory)
    with _locked(directory):
        _require_ours(directory)  # once more: another process may have been faster
        if holds_offline(directory):
            require_same(directory, config, data.identity, what)
        return _Learning(config, data, directory, updates=updates, what=what, say=say).run(stopping or Stopping())


class _Learning:
    """Agent, replay and log, new or as they were left."""

    def __init__(
        self, config: Config, data: DataSet, directory: Path, *, updates: int, what: str, say: Callable[[str], None]
    ) -> None:
        seed_everything(config)
        options = config.replay
        self.config = config
        self.data = data
        self.directory = directory
        self.updates = updates
        self.what = what
        self.agent = DreamerV2(config, data.spec)
        self.replay = data.replay(
            seed=config.train.seed, prioritize=options.prioritize, priority_share=options.priority_share
        )
        self.log = _Log(directory, updates, say)
        if holds_offline(directory):
            self.log.restore(*restore(directory, self.agent, self.replay))
            say(f"continues at update {self.log.count} of {updates}")
        else:
            _measure(self.agent, data)

    def run(self, stopping: Stopping) -> DreamerV2:
        """Make the updates that are missing, and write agents and state."""

        def stop() -> None:
            stopping.requested = True

        with on_signals(stopping, stop):
            if self.log.count == 0:  # before the first line: what is killed from now on is continued
                with stopping.held():
                    self._save()
            saved = time.monotonic()
            for count in range(self.log.count + 1, self.updates + 1):
                self._update(count)
                if stopping.requested:
                    break
                if time.monotonic() - saved >= self.config.train.checkpoint_every:
                    with stopping.held():
                        self._save()
                    saved = time.monotonic()
            with stopping.held():
                if not stopping.requested:  # else the line is written where it would have been
                    self.log.write()
                self._save()
                checkpoint.save_agent(self.directory / "agent", self.agent)
                if self.agent.cloning is not None:
                    checkpoint.save_agent(self.directory / "cloning", cloned(self.agent))
        return self.agent

    def _update(self, count: int) -> None:
        train, agent = self.config.train, self.agent
        batch = to_batch(self.replay.sample(train.batch_size, train.seq_len), agent.device)
        try:
            self.log.add(count, agent.update(batch) if self.what == "agent" else _model_alone(agent, batch))
        except NonFinite as error:
            raise UserError(f"update {count}: {error}.", "`reverie import` says what it finds in data.") from error

    def _save(self) -> None:
        state = {"data": self.data.identity, "what": self.what} | self.log.state()
        save(self.directory, self.agent, self.replay, state, self.log.sums)


class _Log:
    """Means of metrics, a line for every LOG_EVERY updates."""

    def __init__(self, directory: Path, updates: int, say: Callable[[str], None]) -> None:
        self.directory = directory
        self.file = directory / "metrics.jsonl"
        self.updates = updates
        self.say = say
        self.sums: dict[str, torch.Tensor] = {}
        self.since = 0  # updates that were added
        self.count = 0  # updates in all

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the tensors."""
        size = self.file.stat().st_size if self.file.exists() else 0
        return {"count": self.count, "since": self.since, "log_bytes": size, "names": list(self.sums)}

    def restore(self, state: Mapping[str, Any], sums: Mapping[str, torch.Tensor]) -> None:
        """Continue there: lines that were written later are dropped. Raises UserError."""
        self.count, self.since = state["count"], state["since"]
        with sound(self.directory / "resume"):
            self.sums = {name: sums[name] for name in state["names"]}  # in the order of a line
        with writing("metrics.jsonl", self.directory):
            if self.file.exists():
                truncate(self.file, state["log_bytes"])

    def add(self, count: int, metrics: Mapping[str, torch.Tensor]) -> None:
        """The metrics of one more update."""
        for key, value in metrics.items():
            self.sums[key] = self.sums[key] + value if key in self.sums else value.clone()
        self.since += 1
        self.count = count
        if count % LOG_EVERY == 0:
            self.write()

    def write(self) -> None:
        """A line, if there is anything new."""
        if not self.since:
            return
        line = {"updates": self.count} | {key: float(value) / self.since for key, value in self.sums.items()}
        with writing("metrics.jsonl", self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            append_text(self.file, json.dumps(line) + "\n")
        self.say(f"update {self.count} of {self.updates}  {_shown(line)}")
        self.sums, self.since = {}, 0


def _model_alone(agent: DreamerV2, batch: Any) -> dict[str, torch.Tensor]:
    posterior, metrics = agent.train_world_model(batch)
    return metrics | agent.train_learners(posterior, batch)


def _measure(agent: DreamerV2, data: DataSet) -> None:
    """The scale of vector observations, from the data."""
    vectors = {key: torch.from_numpy(data.rows[f"obs/{key}"][:MEASURED]).to(agent.device) for key in data.spec.vectors}
    agent.world_model.fit_observations(vectors)
    agent.world_model.follow_observations(vectors)


def _shown(line: Mapping[str, float]) -> str:
    names = ("world_model/loss", "world_model/kl", "imagination/reward", "actor/imitation", "cloning/loss")
    return "  ".join(f"{name} {digits(line[name])}" for name in names if name in line)


def cloned(agent: DreamerV2) -> DreamerV2:
    """An agent whose policy is the imitating one, on the same world model."""
    config = build({"behavior.cloning": False, "behavior.bc_scale": 0.0}, base=agent.config)
    other = DreamerV2(config, agent.spec)
    state = agent.state_dict()
    imitating = {key.removeprefix("cloning."): x for key, x in state.items() if key.startswith("cloning.actor.")}
    other.load_state_dict({key: x for key, x in state.items() if not key.startswith("cloning.")} | imitating)
    return other
