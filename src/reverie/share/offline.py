"""Learn from recorded data alone: a world model, a policy in its dreams, and always an imitating policy beside it.

RUN/agent       what was learnt, as `agent.save` writes it
RUN/cloning     the same world model with the actor that only imitates: the baseline
RUN/metrics.jsonl    a line for every LOG_EVERY updates
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .. import checkpoint
from ..config import Config, build
from ..config.presets import AUTO, load_preset
from ..errors import UserError, digits
from ..fast.modes import seed_everything, usual_switches
from ..files import append_text, writing
from ..finite import NonFinite
from ..guard.interrupts import Stopping, on_signals
from ..train import DreamerV2, to_batch
from .data_set import DataSet

#: What is learnt. agent: everything; world_model: no policy in dreams, the imitating one all the same.
WHAT = ("agent", "world_model")
LOG_EVERY = 100
#: Steps at which the scale of vector observations is measured, at most.
MEASURED = 100_000


def offline_config(preset: str, settings: Mapping[str, Any], data: DataSet) -> Config:
    """The settings: preset auto means one for the data's observations. Cloning is on unless it is turned off.

    Raises UserError.
    """
    if preset == AUTO:
        preset = "small" if data.spec.images else "vector"
    known = {"env.id": data.about.get("env") or "custom:recorded", "env.num_envs": 1, "behavior.cloning": True}
    config = load_preset(preset, known | dict(settings))
    if config.env.collectors != "none":
        raise UserError("env.collectors steps environments, and a data set has none.", "Leave it out.")
    if len(data) < config.train.seq_len:
        raise UserError(
            f"the data set has {len(data)} rows, a sequence needs train.seq_len={config.train.seq_len}.",
            "Record more, or set train.seq_len lower.",
        )
    return config


def require_free(directory: Path) -> None:
    """Raises UserError where another run, or anything else, is."""
    if directory.exists() and any(directory.iterdir()):
        raise UserError(f"{directory} is not empty.", "Learning from data begins in a new --run, and is not continued.")


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
    """Make so many updates from the data, and write what was learnt. -> the agent.

    Ctrl-C, SIGTERM and SIGHUP end it early: what was learnt so far is written, and `stopping.signal` says which came.
    Raises UserError.
    """
    if what not in WHAT:
        raise UserError(f"offline must be one of {', '.join(WHAT)}, got '{what}'.")
    if updates < 1:
        raise UserError(f"updates must be above 0, got {updates}.")
    require_free(directory)
    seed_everything(config)
    agent = DreamerV2(config, data.spec)
    options = config.replay
    replay = data.replay(seed=config.train.seed, prioritize=options.prioritize, priority_share=options.priority_share)
    _measure(agent, data)
    stopping = stopping or Stopping()

    def stop() -> None:
        stopping.requested = True

    log = _Log(directory, updates, say)
    with on_signals(stopping, stop):
        for count in range(1, updates + 1):
            batch = to_batch(replay.sample(config.train.batch_size, config.train.seq_len), agent.device)
            try:
                log.add(count, agent.update(batch) if what == "agent" else _model_alone(agent, batch))
            except NonFinite as error:
                raise UserError(f"update {count}: {error}.", "`reverie import` says what it finds in data.") from error
            if stopping.requested:
                break
        with stopping.held():
            log.write()
            checkpoint.save_agent(directory / "agent", agent)
            if agent.cloning is not None:
                checkpoint.save_agent(directory / "cloning", cloned(agent))
    return agent


class _Log:
    """Means of metrics, a line for every LOG_EVERY updates."""

    def __init__(self, directory: Path, updates: int, say: Callable[[str], None]) -> None:
        self.directory = directory
        self.updates = updates
        self.say = say
        self.sums: dict[str, torch.Tensor] = {}
        self.since = 0
        self.count = 0

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
            append_text(self.directory / "metrics.jsonl", json.dumps(line) + "\n")
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
