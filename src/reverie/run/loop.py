"""The training loop: act, store, learn the world model, dream, repeat. `open_run` begins or continues a run."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import safetensors.numpy
import torch

from .. import checkpoint
from ..build import require_device
from ..config import Config
from ..data.collect import Collector, Episode
from ..data.data_report import range_report, write_report
from ..data.replay import Batch, Replay, require_possible, row_forms
from ..data.replay_log import ReplayLog
from ..envs import EnvLike
from ..envs.fingerprint import fingerprint
from ..envs.spaces import Spec
from ..errors import Stopped, UserError
from ..fast.modes import Precision, seed_everything, usual_switches
from ..fast.products import Types
from ..files import absolute, remove_drafts, writing
from ..finite import NonFinite
from ..guard.interrupts import on_signals
from ..guard.lock import RunLock
from ..guard.memory import enough_memory
from ..ops import SCALAR_TRANSFORMS
from ..ranks import ALONE, RankLost, Ranks, seed_of
from ..train import DreamerV2, to_batch
from .ahead import Ahead
from .callbacks import Callbacks, callbacks_of
from .clock import Clock
from .collector_transport import Transport
from .collectors import (
    CollectedRow,
    Collectors,
    RemoteCollector,
    collectors_of,
    make_transport,
    require_collectable,
    start_collectors,
)
from .demonstrations import open_demonstrations
from .directory import FRESH, check_directory, move_aside, prepare_directory
from .ending import recorded_end
from .evaluation import RANDOM_LIMIT, Evaluation, Evaluator, save_video, take_notes
from .forecast import Forecast, make_forecast, require_fit
from .health import HealthMonitor
from .lines import read_lines
from .machine import MachineMeter
from .nan_policy import NanPolicy
from .progress import Progress
from .random_actions import random_action
from .resume import open_logger, restore_newest, save_alone, save_run
from .shards import home_of, may_take_over, require_shares
from .state import RunState
from .tasks import copy_env, make_envs, protocol_of_task, repeat_of, require_copies_apart, spec_of, step_seconds

#: Rows of each environment that the report on the first experience reads.
FIRST_ROWS = 2000
#: Rows that may wait while the agent learns (env.async_collect): so many, and those that an update is owed to.
LEAST_AHEAD, MOST_AHEAD = 8, 1000
#: Names of a line of episodes.jsonl that an environment's info["log"] cannot take.
RESERVED = {"phase", "env_steps", "frames", "seconds", "return", "length"}

#: What the loop takes: a row of every environment, or of those of one collector.
Item = tuple[dict[str, np.ndarray], list[Episode]] | CollectedRow

# ------------------------------------------------------------------------------------------------------------ opening


def open_run(
    config: Config,
    directory: Path,
    env: EnvLike | None = None,
    *,
    weights: Path | None = None,
    fresh: bool = False,
    ranks: Ranks = ALONE,
) -> RunState:
    """Begin the run in `directory`, or continue it from its newest whole checkpoint. Raises UserError.

    env: the task, if it is not `env.id`; weights: a saved agent to start from, if the directory has no checkpoint;
    fresh: keep a run that is there under another name and begin. A task that cannot be made leaves no directory behind,
    and an old run in its place. ranks: the processes that train it together, of which this is one.
    """
    require_device(config.compute.device)  # before anything is moved
    require_shares(config, ranks)
    require_collectable(config, env)
    aside = move_aside(directory) if fresh and ranks.first else None
    try:
        run = _open(config, directory, env, weights, ranks)
    except BaseException:
        if aside is not None and not directory.exists():
            os.replace(aside, directory)
        raise
    run.notes += [f"the run that was here is {aside} now"] if aside else []
    run.notes += run.demos.notes if run.demos is not None and not run.resumed else []
    if run.edited and not run.complete():
        run.notes.append(f"the source of the environment was edited since the last checkpoint; to {FRESH}")
    return run


def _open(config: Config, root: Path, env: EnvLike | None, weights: Path | None, ranks: Ranks) -> RunState:
    lock, directory, elsewhere = RunLock(root), home_of(root, ranks), config.env.collectors != "none"
    transport: Transport | None = None
    try:
        if ranks.first:
            _claim(config, lock)
        with enough_memory(config, directory, lambda: None):
            require_copies_apart(config, env)
            seed_everything(config)
            envs = make_envs(config, env, 1 if elsewhere else config.env.num_envs)
            spec = spec_of(envs)
            _require_possible_replay(config, spec, root)
            demos = open_demonstrations(config, spec)
            evaluator = Evaluator(config, copy_env(env), spec)  # before the agent: it may raise
            if env is not None and not isinstance(env, str | gym.Env):
                evaluator.prepare(envs)  # one object for two users is refused before it is stepped
            with usual_switches():
                agent = DreamerV2(config, spec)
            transport = make_transport(config) if elsewhere else None
        with enough_memory(config, directory, lambda: agent):
            forecast = _forecast(agent, directory, env) if ranks.first else None
            if ranks.first:
                _prepare(config, lock)
            _connect(agent, directory, ranks)
            seed = seed_of(config.train.seed, ranks.rank)
            replay = _empty_replay(config, spec, directory, ranks)
            run = RunState(
                config=config,
                directory=directory,
                lock=lock,
                ranks=ranks,
                root=root,
                env=env,
                envs=envs,
                spec=spec,
                repeat=repeat_of(config),
                evaluator=evaluator,
                agent=agent,
                player=agent.player(num_envs=config.env.num_envs, mode="explore", seed=seed + 1),
                forecast=forecast,
                replay=replay,
                replay_log=ReplayLog(replay, directory / "replay"),
                collector=RemoteCollector(envs, config.env, seed=seed) if elsewhere else Collector(envs, seed=seed),
                transport=transport,
                rng=np.random.default_rng(seed),
                nan_policy=NanPolicy(directory, agent, root=root),
                health=HealthMonitor(directory, config.log.health_every, lock.check),
                demos=demos,
                source=fingerprint(config.env.id if env is None else env),
            )
            _restore(run, weights)
        return run
    except BaseException:
        if transport is not None:
            transport.close()
        leave(lock)
        raise


def _claim(config: Config, lock: RunLock) -> None:
    """Refuse at once what cannot run here, before the task and the forecast take their time."""
    check_directory(lock.directory, config)
    if config.train.deterministic and config.train.minutes:
        raise UserError("train.minutes ends a run by the clock.", "A deterministic run ends by train.env_steps.")
    if lock.directory.exists():
        lock.acquire()


def _restore(run: RunState, weights: Path | None) -> None:
    """Continue from the newest checkpoint; without one, from `weights` if they are given."""
    saved = restore_newest(run)
    if weights is not None and not run.resumed:
        try:
            with usual_switches():
                checkpoint.load_weights(weights, run.agent)
        except UserError:
            checkpoint.read_agent(weights)[1].require_same_task(run.spec)  # the likely reason, in its own words
            raise
    open_logger(run, saved)
    run.ranks.wait()  # for rank 0, which cuts the lines of what a crash undid
    if run.resumed:
        run.recall(read_lines(run.root / "episodes.jsonl"))


def _connect(agent: DreamerV2, directory: Path, ranks: Ranks) -> None:
    """Begin to share batches with the other ranks: the same weights and number types, other random numbers."""
    if ranks.size == 1:
        return
    ranks.wait()  # for the run's directory
    directory.mkdir(parents=True, exist_ok=True)
    types = json.loads(ranks.exchange(json.dumps(agent.precision.types.to_dict()).encode())[0])
    if agent.precision.types != Types.from_dict(types):
        agent.use(Precision(Types.from_dict(types), "as on rank 0"))
    with torch.no_grad():
        for value in [*agent.parameters(), *agent.buffers()]:
            value.copy_(ranks.all_reduce(value if ranks.first else torch.zeros_like(value)))
    agent.join(ranks)
    if not ranks.first:
        seed = seed_of(agent.config.train.seed, ranks.rank)
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        for stream in agent.generators.values():
            stream.manual_seed(seed)


@usual_switches()
def _forecast(agent: DreamerV2, directory: Path, env: EnvLike | None) -> Forecast | None:
    """What a new run will need. Raises UserError if it cannot fit."""
    if not agent.config.train.forecast or checkpoint.checkpoints(directory):
        return None
    seconds = step_seconds(agent.config, env) / collectors_of(agent.config)
    forecast = make_forecast(agent, directory, step_seconds=seconds)
    require_fit(forecast)
    return forecast


def _prepare(config: Config, lock: RunLock) -> None:
    """Make the directory with its settings, or take over the one of this run."""
    lock.acquire()
    check_directory(lock.directory, config)  # again: another process may have begun here meanwhile
    remove_drafts(lock.directory)
    prepare_directory(lock.directory, config, protocol_of_task(config))


def _require_possible_replay(config: Config, spec: Spec, directory: Path) -> None:
    forms, settings = row_forms(spec.shapes, spec.action.size), config.replay
    where = directory if settings.storage == "disk" else None
    require_possible(forms, settings.replay_capacity, config.env.num_envs, where)


def _empty_replay(config: Config, spec: Spec, directory: Path, ranks: Ranks) -> Replay:
    settings = config.replay
    return Replay(
        spec.shapes,
        spec.action.size,
        capacity=settings.replay_capacity // ranks.size,
        streams=config.env.num_envs,
        seed=seed_of(config.train.seed, ranks.rank),
        prioritize=settings.prioritize,
        priority_share=settings.priority_share,
        directory=directory / "ring" if settings.storage == "disk" else None,
    )


def leave(lock: RunLock) -> None:
    """Release the directory, without what a write that failed left in it."""
    if lock.held:
        with suppress(OSError):
            remove_drafts(lock.directory)
    lock.release()


class Run:
    """One training run in one directory; `Run(...).train()` starts it or continues where it stopped."""

    def __init__(
        self,
        config: Config,
        directory: str | Path,
        env: EnvLike | None = None,
        *,
        weights: Path | None = None,
        fresh: bool = False,
        callback: Any = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Arguments as those of `open_run`; callback: see `run.callbacks`. Raises UserError."""
        given = callbacks_of(callback)  # before anything is made
        self.state = open_run(config, absolute(directory), env, weights=weights, fresh=fresh, ranks=ranks)
        self.callbacks = Callbacks(given, self.state) if given else None
        self._saving: Path | None = None  # a checkpoint that is being written in the background
        self._counted = self.state.collector.steps  # of this rank's steps, those that all have counted
        self._ahead: Ahead | None = None  # acts in a thread, with `env.async_collect`
        self._collectors: Collectors | None = None  # act elsewhere, with `env.collectors`
        self._acting = threading.Lock()  # held while the weights that act are read or replaced
        self._progress = Progress(quiet=True)
        self._machine = MachineMeter(self.state.agent.device)
        self._measure = weights is None  # loaded networks keep the scales that they were trained with
        self._written = 0.0  # when the last line of metrics was written, in seconds of time.monotonic
        # the player's memory, its generator and the random actions' generator before the last action
        self._before: tuple[dict[str, torch.Tensor], torch.Tensor, Any] | None = None

    @property
    def config(self) -> Config:
        return self.state.config

    @property
    def directory(self) -> Path:
        return self.state.directory

    @property
    def spec(self) -> Spec:
        return self.state.spec

    @property
    def agent(self) -> DreamerV2:
        return self.state.agent

    @property
    def replay(self) -> Replay:
        return self.state.replay

    @property
    def clock(self) -> Clock:
        return self.state.clock

    @property
    def evaluation(self) -> Evaluation | None:
        """The last evaluation."""
        return self.state.evaluation

    # ------------------------------------------------------------------------------------------------------- the loop

    def train(self, progress: Progress | None = None) -> DreamerV2:
        """Run to `env_steps` or `minutes`, whichever comes first; evaluate and save at the end.

        Raises UserError when the environment breaks or training becomes non-finite; the checkpoints stay good.
        """
        progress = progress or Progress(quiet=True)
        self.state.nan_policy.say, self._progress = progress.say, progress
        try:
            memory = enough_memory(self.config, self.directory, lambda: self.agent)
            signals = on_signals(self.state.stopping, self.stop, quiet=progress.quiet)
            with recorded_end(self.state), signals, memory:
                progress.start(self.state)
                try:
                    self._train_with_callbacks(progress)
                except RankLost as lost:  # in here: torchrun sends SIGTERM to those that are left
                    raise self._left_behind(lost) from lost
        except Stopped:
            progress.broken_off(self.state)
        finally:
            progress.stop(self.state)
            with ExitStack() as stack:
                stack.callback(self.close)  # whatever a callback raises
                self._call("on_end")
            late = self.state.collector.notes  # those of a collector's end
            for note in [*late, *take_notes(self.state.envs), *self.state.evaluator.take_notes()]:
                progress.once(f"note      {note}")
        return self.agent

    def _call(self, hook: str, *arguments: Any) -> None:
        """One method of each callback; raises what it raises."""
        if self.callbacks is not None:
            self.callbacks.call(hook, *arguments)

    def _train_with_callbacks(self, progress: Progress) -> None:
        """What was learnt is kept when a callback raises."""
        try:
            self._call("on_start")
            self._train(progress)
        except (KeyboardInterrupt, Stopped):
            raise
        except BaseException:
            if self.callbacks is not None and self.callbacks.failed:
                self.callbacks.listening["on_checkpoint"] = []
                with suppress(UserError):  # non-finite, or a full disk: the callback's own error is the one to see
                    self.save()
            raise

    def _train(self, progress: Progress) -> None:
        if self.state.stopping.requested and self.state.stopped_by:  # by a callback: there is nothing new to keep
            return
        if self.state.complete():
            progress.complete(self.state)
            return
        if self.config.train.random_baseline and not self.state.resumed and self.state.ranks.first:
            self._play_randomly(progress)
        if not self.finished():  # else it was stopped between its end and its evaluation
            with self._collecting():
                self._loop(progress)
            if not (self.state.stopped() and self.config.train.deterministic):
                self.write(progress)  # a deterministic run that is stopped writes no line more than one that is not
            self.save()  # before the evaluation: an interrupted evaluation loses nothing
        if not self.state.stopped() and not self.state.evaluated():
            self.evaluate(progress)
            self.save()

    def _left_behind(self, lost: RankLost) -> BaseException:
        """Another rank was lost: save, if this is the one to do it. -> what ends this process."""
        run = self.state
        takes_over = run.ranks.first or may_take_over(run)
        if takes_over:
            with run.stopping.held():
                save_alone(run)
        run.ranks = Ranks(run.ranks.rank)  # what follows asks no other rank
        if not takes_over:
            return SystemExit(2)  # another rank says it
        kept = f"A checkpoint of step {run.clock.env_steps} is in {run.root}; the same command resumes the run."
        return UserError(lost.message, kept)

    def _loop(self, progress: Progress) -> None:
        settings, clock = self.config.train, self.clock
        several, checkpointed = self.state.ranks.size > 1, self.state.resumed
        self._written = saved = time.monotonic()
        rows = self._timed_rows()
        if self.state.demos is not None and not self.state.resumed:
            self._follow_observations(self.state.demos.replay.contents([f"obs/{key}" for key in self.spec.vectors]))
        if not self.state.resumed:  # else the last row is here already, and what follows from it may still be owed
            self._advance(rows, progress)
        while True:
            while clock.updates_due(settings.train_ratio, settings.pretrain) > 0 and not self.finished():
                metrics = self.update()
                self._pulse(progress)  # also during pretraining, which is many updates at one step
                if self.callbacks is not None and metrics is not None:
                    self.callbacks.call("on_update", metrics)
            if settings.eval_every and clock.env_steps - max(0, self.state.evaluated_at) >= settings.eval_every:
                self.evaluate(progress)
            if not self.state.writer.busy:
                self.state.writer.finish()  # raises if the last checkpoint could not be written
                self._report_saved()
            due = time.monotonic() - saved >= settings.checkpoint_every
            if several and clock.prefilled and not checkpointed:
                due = checkpointed = True  # from now on the loss of a rank loses no other's replay
            if self.state.ranks.of_first(due and not self.state.writer.busy) if several else due:
                self.save(wait=False)
                saved = time.monotonic()
            self._pulse(progress)
            if self.finished():
                return
            self._advance(rows, progress)

    def _advance(self, rows: Iterator[Item | None], progress: Progress) -> None:
        item = next(rows)
        if item is None:  # the run was asked to stop
            return
        self._take(item, progress)
        if self.callbacks is not None:  # once the row and all that it brings is in its place
            self.callbacks.call("on_step", item[0])
            for episode in item[1]:
                if not episode.crashed:
                    self.callbacks.call("on_episode", episode)

    @usual_switches()
    def _take(self, item: Item, progress: Progress) -> None:
        """One more row of every environment, or of those of one collector."""
        row, episodes, clock = item[0], item[1], self.clock
        for note in self.state.collector.notes:
            progress.once(f"note      {note}")
        self.replay.add(row, item.streams if isinstance(item, CollectedRow) else None)
        self._follow_observations(row)
        episodes = self._count(row, episodes)
        self._note(episodes)
        train = self.config.train
        if not clock.prefilled and clock.env_steps >= train.prefill and self._can_sample():
            clock.prefilled = clock.env_steps
            self._report_first_rows(progress)
            if self._measure:
                self._measure_observations()
            self._follow_weights()

    def _count(self, row: dict[str, np.ndarray], episodes: list[Episode]) -> list[Episode]:
        """Count the steps of a row, or of the rows of all ranks. -> the episodes to log: on rank 0 those of all."""
        run = self.state
        if self._ahead is not None or self._collectors is not None:
            run.clock.env_steps += int((~row["is_first"]).sum())  # the collector is further
            if self._collectors is not None:
                run.collector.steps = run.clock.env_steps
            return episodes
        if run.ranks.size == 1:
            run.clock.env_steps = run.collector.steps
            return episodes
        steps, ended = run.ranks.total(run.collector.steps - self._counted, len(episodes))
        self._counted = run.collector.steps
        run.clock.env_steps += steps
        if not ended:
            return episodes
        found = run.ranks.exchange(json.dumps([asdict(episode) for episode in episodes]).encode())
        return [Episode(**each) for text in found for each in json.loads(text)] if run.ranks.first else episodes

    def _can_sample(self) -> bool:
        """Is there a window to learn from, on every rank?"""
        return not self.state.ranks.any(not self.replay.can_sample(self.config.train.seq_len))

    def _report_first_rows(self, progress: Progress) -> None:
        """Ranges of everything that the agent will learn from, before it learns."""
        name = self.config.model.reward_transform
        squash = SCALAR_TRANSFORMS[name][0]
        report = range_report(
            self.replay.first_rows(FIRST_ROWS),
            {key: item.kind for key, item in self.spec.obs.items()},
            transform=lambda rewards: squash(torch.from_numpy(rewards) / self.config.model.reward_unit).numpy(),
            transform_name=name,
            scaled=self.config.model.vector_transform != "none",
        )
        for line in write_report(report, self.directory):
            progress.say(line)

    def _pulse(self, progress: Progress) -> None:
        """Show and write the progress, when it is time for that."""
        progress.tick(self.state)
        self._asked(progress)
        if self._line_due():
            self.write(progress)
            self._written = time.monotonic()

    def _line_due(self) -> bool:
        return self.state.ranks.of_first(self._own_line_due()) if self.state.ranks.size > 1 else self._own_line_due()

    def _own_line_due(self) -> bool:
        if self.config.train.deterministic:  # by steps: the same lines each time
            every = self.config.train.log_steps
            return self.clock.env_steps // every > self.state.written_at // every
        return time.monotonic() - self._written >= self.config.train.log_every

    def finished(self) -> bool:
        """Has the run reached its end, or been asked to stop?"""
        return self.state.finished()

    def stop(self) -> None:
        """Ask the loop to end after the current update, with a checkpoint."""
        self.state.stop()

    def _asked(self, progress: Progress) -> bool:
        """Has the run been asked to stop? To be looked at after every step of an environment."""
        taken = self.state.stopping.keep()
        if taken:
            progress.once(f"note      the environment handles {', '.join(taken)} itself: the run's own handler is back")
        return self.state.stopping.requested

    @contextmanager
    def _collecting(self) -> Iterator[None]:
        """Context of the loop: with `env.async_collect` a thread acts in it, and leaves no row behind."""
        options = self.config
        run = self.state
        if run.transport is not None:
            with start_collectors(run, self._most_ahead(), self._progress.say) as self._collectors:
                self._follow_weights()
                yield
            self._collectors = None
            return
        if not options.env.async_collect:
            yield
            return
        run.player.world_model = copy.deepcopy(run.player.world_model)
        run.player.actor = copy.deepcopy(run.player.actor)
        self._ahead = Ahead(
            run.collector.rows(self._act),
            most=self._most_ahead(),
            enough=lambda: run.collector.steps >= options.train.env_steps,
        )
        try:
            yield
            with self._ahead.standing():
                self._take_waiting()
        finally:
            self._ahead.close()
            self._ahead = None
            run.player.world_model, run.player.actor = self.agent.world_model, self.agent.collecting.actor

    def _most_ahead(self) -> int:
        rows_per_update = 1 / max(1e-6, self.config.train.train_ratio * self.config.env.num_envs)
        return LEAST_AHEAD + min(MOST_AHEAD, math.ceil(rows_per_update))

    def _take_waiting(self) -> None:
        """Store the rows that were made ahead, so that replay and environments are at the same step."""
        for item in self._ahead.waiting() if self._ahead is not None else ():
            self._take(item, self._progress)

    def _follow_weights(self) -> None:
        """Give the thread that acts, or the collectors if it is time for that, the weights of now."""
        if self._collectors is not None and self.clock.prefilled:
            self._collectors.follow(self.clock.updates, self.agent.world_model, self.agent.collecting.actor)
        if self._ahead is None:
            return
        agent, player = self.agent, self.state.player
        with torch.no_grad(), self._acting:
            for mine, theirs in ((player.world_model, agent.world_model), (player.actor, agent.collecting.actor)):
                for value, now in zip(
                    [*mine.parameters(), *mine.buffers()], [*theirs.parameters(), *theirs.buffers()], strict=True
                ):
                    value.copy_(now)

    def _timed_rows(self) -> Iterator[Item | None]:
        rows: Iterator[Item | None] = self.state.collector.rows(self._act)
        rows = self._collectors or self._ahead or rows
        while True:
            try:
                with self.clock.timed("env"):
                    item = next(rows)
            except KeyboardInterrupt:  # the second Ctrl-C: at once
                raise
            except BaseException:  # an environment broke or hangs: keep what was learnt
                if self._ahead is None or self._ahead.failed or not self._ahead.close():
                    self._undo_act()
                self._save_at_last()
                raise
            yield item

    def _save_at_last(self) -> None:
        """Save before an error ends the run; of several ranks the first does, and the others find it gone."""
        if self.state.ranks.size == 1:
            self.save()
        elif self.state.ranks.first:
            with self.state.stopping.held():
                save_alone(self.state)

    @usual_switches()
    def _act(self, obs: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        player = self.state.player
        self._before = player.memory(), player.generator.get_state(), self.state.rng.bit_generator.state
        if not self.clock.prefilled:
            return random_action(self.state, obs, is_first)
        with self._acting:
            return player.act(obs, is_first)

    def _undo_act(self) -> None:
        """Undo the choice of an action whose step failed: a resumed run chooses again."""
        if self._before is not None:
            memory, drawn, self.state.rng.bit_generator.state = self._before
            self.state.player.recall(memory)
            self.state.player.generator.set_state(drawn)

    def _follow_observations(self, row: dict[str, np.ndarray]) -> None:
        if self.config.model.vector_transform == "running":
            vectors = {key: torch.from_numpy(row[f"obs/{key}"]) for key in self.spec.vectors}
            vectors = {key: self.state.ranks.gather(value).to(self.agent.device) for key, value in vectors.items()}
            self.agent.world_model.follow_observations(vectors)

    def _measure_observations(self) -> None:
        keys = [f"obs/{key}" for key in self.spec.vectors]
        rows = self.replay.contents(keys)
        if self.state.demos is not None:
            shown = self.state.demos.replay.contents(keys)
            rows = {key: np.concatenate([value, shown[key]]) for key, value in rows.items()}
        if self.state.ranks.size > 1:
            found = [safetensors.numpy.load(data) for data in self.state.ranks.exchange(safetensors.numpy.save(rows))]
            rows = {key: np.concatenate([each[key] for each in found]) for key in rows}
        vectors = {key[4:]: torch.from_numpy(values).to(self.agent.device) for key, values in rows.items()}
        self.agent.world_model.fit_observations(vectors)

    @usual_switches()
    def update(self) -> dict[str, torch.Tensor] | None:
        """One update of everything, from one batch. -> its metrics; None if it was non-finite and left out."""
        with self.clock.timed("replay"):
            share = self.config.train.batch_size // self.state.ranks.size
            batch = to_batch(self._sample(share, self.config.train.seq_len), self.agent.device)
        with self.clock.timed("update"):
            try:
                metrics = self.agent.update(batch)
                self.state.logger.add(metrics)
            except NonFinite as trouble:
                self.state.writer.finish()  # a rollback reads what it writes
                self.state.ranks.wait()
                self.state.nan_policy.apply(trouble, self.clock)
                return None
        self.state.nan_policy.reset_streak()
        self.clock.updates += 1
        self._follow_weights()
        self.state.health.after_update(self.agent, batch, updates=self.clock.updates, env_steps=self.clock.env_steps)
        return metrics

    def _sample(self, batch_size: int, seq_len: int) -> Batch:
        """Windows of the replay and, with `replay.demos`, of demonstrations. -> Batch of arrays (B, T, ...)."""
        if self.state.demos is None:
            return self.replay.sample(batch_size, seq_len)
        return self.state.demos.sample(self.replay, batch_size, seq_len, env_steps=self.clock.env_steps)

    # ---------------------------------------------------------------------------------------------- numbers and files

    def _note(self, episodes: list[Episode]) -> None:
        for episode in episodes:
            phase = "train" if self.clock.prefilled else "prefill"
            if episode.crashed:
                phase = "crashed"
            else:
                self.state.recent = [*self.state.recent[-19:], episode.score]
                self.state.lengths = [*self.state.lengths[-19:], episode.length]
                self.state.ended_at = self.clock.env_steps
            line = self._stamp(phase) | {"return": episode.score, "length": episode.length}
            own = {key: value for key, value in episode.log.items() if key not in RESERVED}
            self.state.logger.episode(line | own)

    def _stamp(self, phase: str) -> dict[str, Any]:
        steps = self.clock.env_steps
        stamp = {"phase": phase, "env_steps": steps, "frames": steps * self.state.repeat}
        return stamp if self.config.train.deterministic else stamp | {"seconds": round(self.clock.seconds, 2)}

    @usual_switches()
    def write(self, progress: Progress) -> None:
        """One line of metrics."""
        clock = self.clock
        numbers: dict[str, float] = {"updates": clock.updates, "frames": clock.env_steps * self.state.repeat}
        numbers |= {"replay/steps": len(self.replay), "train/ratio": clock.achieved_ratio(self.config.train.pretrain)}
        if not self.config.train.deterministic:
            numbers |= clock.speeds() | self._machine.numbers()
        numbers |= self._collectors.numbers() if self._collectors is not None else {}
        if self.state.demos is not None:
            numbers["replay/demo_share"] = self.state.demos.share_at(clock.env_steps)
        numbers |= self.state.health.take()
        if self.config.train.on_nonfinite != "stop":
            numbers |= {"nonfinite/skipped": clock.skipped, "nonfinite/rollbacks": clock.rollbacks}
        if self.state.ended_at > self.state.written_at:  # else the last line has it: without an end nothing is new
            numbers["episode/return"] = float(np.mean(self.state.recent))
        self._require_finite()
        self.state.written_at = clock.env_steps
        progress.metrics = self.state.logger.write(numbers, env_steps=clock.env_steps)
        progress.once(self.state.logger.trouble)
        self._call("on_metrics", progress.metrics)

    def _require_finite(self) -> None:
        """Stop, or do what `train.on_nonfinite` says, before a NaN is saved over good checkpoints. Raises UserError."""
        if self.state.nan_policy.check(self.clock):
            self.state.logger.forget()
        broken = self.state.logger.nonfinite()
        if broken:
            raise UserError(
                f"training became non-finite before update {self.clock.updates}: {', '.join(broken[:3])}.",
                "The checkpoints are from before. Check the ranges of observations and rewards; lower learning rates.",
            )

    def _play_randomly(self, progress: Progress) -> None:
        """The baseline: evaluate the random policy."""
        with self.clock.evaluating(played=False):
            result = self.state.evaluator.random(lambda: self._asked(progress))
        if result is None:
            progress.say(f"random policy not measured: its episodes take more than {RANDOM_LIMIT:g} s")
            return
        self._log_episodes("random", result)
        acting = self.state.forecast.act_seconds if self.state.forecast else 0.0  # random actions need no network
        self.clock.next_eval_seconds = self.clock.eval_seconds + acting * sum(result.lengths)
        progress.baseline(self.state, result)

    def _log_episodes(self, phase: str, result: Evaluation) -> None:
        stamp = self._stamp(phase)
        for score, length in zip(result.scores, result.lengths, strict=True):
            self.state.logger.episode(stamp | {"return": score, "length": length})

    def evaluate(self, progress: Progress) -> None:
        """Play evaluation episodes (again only if the agent has changed); keep numbers, video and the best agent.

        Of several ranks the first plays, and the others wait for it.
        """
        run = self.state
        if run.ranks.first:
            self._evaluate(progress)
        if run.ranks.of_first(run.evaluated()):
            run.evaluated_at, run.evaluated_changes = run.clock.env_steps, run.clock.changes

    def _evaluate(self, progress: Progress) -> None:
        played = not self.state.unchanged()
        with self.clock.evaluating(played=played):
            result = self.state.evaluation
            if played or result is None:
                with suppress(Stopped):  # its environment hangs
                    result = self._play_evaluation(progress)
            if self.state.stopping.requested or result is None:
                return  # an incomplete evaluation does not count
            self.state.evaluation, self.state.evaluated_changes = result, self.clock.changes
            self.state.evaluated_at = self.clock.env_steps
            self._log_episodes("eval", result)
            for note in result.notes:
                progress.once(f"note      {note}")
            length = float(np.mean(result.lengths))
            numbers = {"eval/return": result.mean, "eval/ci95": result.interval, "eval/length": length}
            self.state.logger.write(numbers, env_steps=self.clock.env_steps)
            if result.frames:
                video = self.directory / "videos" / f"eval-{self.clock.env_steps:09d}.gif"
                progress.once(save_video(video, result.frames, keep=self.config.log.keep_videos))
                self.state.logger.video(video, env_steps=self.clock.env_steps)
            if self.clock.best is None or result.mean > self.clock.best:
                self.clock.best = result.mean
                best = self.state.root / "checkpoints" / "best"
                with self.state.stopping.held(), writing("the best agent", self.directory):
                    checkpoint.write_atomically(best, checkpoint.agent_files(self.agent))
            progress.evaluated(self.state, result, played=played)
        self._call("on_evaluation", result)

    def _play_evaluation(self, progress: Progress) -> Evaluation:
        try:
            return self.state.evaluator.agent(self.agent, lambda: self._asked(progress), progress.say)
        except (KeyboardInterrupt, Stopped):
            raise
        except BaseException:  # the environment broke: keep what was learnt
            self._save_at_last()
            raise

    @usual_switches()
    def save(self, *, wait: bool = True) -> None:
        """A checkpoint of everything, and the end of those that are no longer kept. Raises UserError if non-finite.

        Without `wait` the state is copied now and written in the background; while an earlier checkpoint is still
        being written, nothing is done.
        """
        if wait or not self.state.writer.busy:
            self._require_finite()
            with self._ahead.standing() if self._ahead is not None else nullcontext(), self.state.stopping.held():
                self._take_waiting()
                save_run(self.state, wait=wait)  # after the end of one that was still being written
            self._report_saved()
            self._saving = self.state.root / "checkpoints" / f"step-{self.clock.env_steps:012d}"
            if wait:
                self._report_saved()

    def _report_saved(self) -> None:
        """To the callbacks: the checkpoint that was begun last is on the disk."""
        path, self._saving = self._saving, None
        if path is not None:
            self._call("on_checkpoint", path)

    def close(self) -> None:
        """Close environments and files. Raises UserError if the last checkpoint could not be written."""
        try:
            with self.state.stopping.held():
                self.state.writer.finish()
        finally:
            with ExitStack() as stack:  # all of them, whatever one of them raises
                stack.callback(leave, self.state.lock)
                stack.callback(self.state.evaluator.close)
                stack.callback(self.state.envs.close)  # but an instance, which belongs to the caller
                stack.callback(self.state.logger.close)
                if self.state.transport is not None:
                    stack.callback(self.state.transport.close)

    def history(self) -> list[dict[str, Any]]:
        """All episodes so far, as in episodes.jsonl."""
        return read_lines(self.directory / "episodes.jsonl")
