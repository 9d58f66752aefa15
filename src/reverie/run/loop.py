"""The loop: act, remember, learn the world, dream, repeat. Everything a run owns is made, saved and restored here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from .. import checkpoint
from ..config import Config
from ..data.collect import Collector, Episode
from ..data.data_report import range_report, write_report
from ..data.replay import Replay
from ..data.replay_log import ReplayLog
from ..envs import EnvLike
from ..envs.spaces import MASK
from ..errors import UserError
from ..fast.modes import seed_everything
from ..files import Writer, remove_drafts, writing
from ..finite import NonFinite
from ..guard.interrupts import Stopped, Stopping, on_signals
from ..guard.lock import RunLock
from ..guard.memory import enough_memory
from ..ops import SCALAR_TRANSFORMS
from ..train import DreamerV2, to_batch
from .clock import Clock
from .directory import check_directory, prepare_directory
from .evaluation import Evaluation, Evaluator, keep_film
from .forecast import Forecast, make_forecast, require_fit
from .health import HealthMonitor
from .logger import Logger, read_lines
from .nan_policy import NanPolicy
from .progress import Progress
from .resume import restore_log, restore_newest, save_run
from .tasks import copy_env, make_envs, protocol_of_task, repeat_of, spec_of, step_seconds


class Run:
    """One training run in one directory; `Run(...).train()` starts it or goes on where it stopped."""

    def __init__(
        self, config: Config, directory: str | Path, env: EnvLike | None = None, *, weights: Path | None = None
    ) -> None:
        """weights: a saved agent to start from, if the directory has no checkpoint of its own."""
        self.config, self.directory = config, Path(directory)
        self.lock, self.stopping = RunLock(self.directory), Stopping()
        try:
            with enough_memory(config, self.directory, lambda: getattr(self, "agent", None)):
                self._make(config, env, weights)
        except BaseException:
            self._leave()
            raise

    def _make(self, config: Config, env: EnvLike | None, weights: Path | None) -> None:
        check_directory(self.directory, config)
        if config.train.deterministic and config.train.minutes:
            raise UserError("train.minutes ends a run by the clock.", "A deterministic run ends by train.env_steps.")
        if self.directory.exists():
            self.lock.acquire()  # now: nobody wants to wait for a forecast to be told this
        seed_everything(config)
        train = config.train
        self.envs = make_envs(config, env, config.env.num_envs)
        self.env, self.repeat, self.spec = env, repeat_of(config), spec_of(self.envs)
        self.evaluator = Evaluator(config, copy_env(env), self.spec)  # early: it may raise
        self.agent = DreamerV2(config, self.spec)
        self.forecast: Forecast | None = None
        if train.forecast and not checkpoint.checkpoints(self.directory):
            self.forecast = make_forecast(self.agent, self.directory, step_seconds=step_seconds(config, env))
            require_fit(self.forecast)
        self.lock.acquire()
        check_directory(self.directory, config)  # again: another process may have begun here meanwhile
        remove_drafts(self.directory)
        prepare_directory(
            self.directory, config, protocol_of_task(config)
        )  # last: a task that cannot be made leaves no directory behind
        self.replay = self._empty_replay()
        self.replay_log = ReplayLog(self.replay, self.directory / "replay")
        self.collector = Collector(self.envs, seed=train.seed)
        self.player = self.agent.player(num_envs=config.env.num_envs, mode="explore", seed=train.seed + 1)
        self.rng = np.random.default_rng(train.seed)
        self.clock = Clock()
        self.evaluation: Evaluation | None = None
        self.recent: list[float] = []
        self._stop = False
        self._measure = weights is None  # loaded networks know their inputs as they were scaled before
        self.evaluated_at = -1
        self.writer = Writer()
        self.notes: list[str] = []  # what the user should know before it begins
        self._written, self.written_at = 0.0, 0  # when, and at how many environment steps, the last line was written
        self._before: tuple[dict[str, torch.Tensor], torch.Tensor, Any] | None = None  # how the last action began
        self.nan_policy = NanPolicy(self.directory, self.agent)
        self.health = HealthMonitor(self.directory, config.log.health_every, self.lock.check)
        state = restore_newest(self)
        self.resumed = bool(state)
        if weights is not None and not self.resumed:
            checkpoint.load_weights(weights, self.agent)
        self.logger = Logger(
            self.directory,
            env_steps=self.clock.env_steps,
            sizes=state.get("log", {}).get("sizes"),
            tensorboard=config.log.tensorboard,
            wandb=config.log.wandb,
            may_write=self.lock.check,
        )
        if self.resumed:
            restore_log(self, checkpoint.checkpoints(self.directory)[-1], state)

    def _empty_replay(self) -> Replay:
        config = self.config.replay
        return Replay(
            self.spec.shapes,
            self.spec.action.size,
            capacity=config.replay_capacity,
            streams=self.config.env.num_envs,
            seed=self.config.train.seed,
            prioritize=config.prioritize,
            priority_share=config.priority_share,
            directory=self.directory / "ring" if config.storage == "disk" else None,
        )

    # ------------------------------------------------------------------------------------------------------- the loop

    def train(self, progress: Progress | None = None) -> DreamerV2:
        """Run to `env_steps` or `minutes`, whichever comes first; evaluate and save at the end.

        Raises UserError when the environment breaks or training becomes non-finite; the checkpoints stay good.
        """
        progress = progress or Progress(quiet=True)
        self.nan_policy.say = progress.say
        try:
            memory = enough_memory(self.config, self.directory, lambda: self.agent)
            with on_signals(self.stopping, self.stop, quiet=progress.quiet), memory:
                progress.start(self)
                self._train(progress)
        except Stopped:
            progress.broken_off(self)
        finally:
            progress.stop(self)
            self.close()
        return self.agent

    def _train(self, progress: Progress) -> None:
        if self.resumed and self.finished() and self.evaluated_at == self.clock.env_steps:
            progress.say("nothing to do: the run is complete; a larger --env-steps or --minutes continues it")
            return
        if self.config.train.random_baseline and not self.resumed:
            self._play_randomly(progress)
        if not self.finished():  # else it was stopped between its end and its evaluation
            self._loop(progress)
            if not (self._stop and self.config.train.deterministic):  # a line that the stop would add
                self.write(progress)
            self.save()  # before the evaluation: an interrupted evaluation loses nothing
        if not self._stop and self.evaluated_at != self.clock.env_steps:
            self.evaluate(progress)
            self.save()

    def _loop(self, progress: Progress) -> None:
        settings, clock = self.config.train, self.clock
        self._written = saved = time.monotonic()
        rows = self._timed_rows()
        if not self.resumed:  # else the last row is here already, and what follows from it may still be owed
            self._take(next(rows), progress)
        while True:
            while clock.updates_due(settings.train_ratio, settings.pretrain) > 0 and not self.finished():
                self.update()
                self._pulse(progress)  # pretraining is many updates at one step: no silence
            if settings.eval_every and clock.env_steps - max(0, self.evaluated_at) >= settings.eval_every:
                self.evaluate(progress)
            if not self.writer.busy:
                self.writer.finish()  # if the last checkpoint could not be written, it is told now
            if time.monotonic() - saved >= settings.checkpoint_every:
                self.save(wait=False)
                saved = time.monotonic()
            self._pulse(progress)
            if self.finished():
                return
            self._take(next(rows), progress)

    def _take(self, item: tuple[dict[str, np.ndarray], list[Episode]], progress: Progress) -> None:
        """One more row of every environment."""
        (row, episodes), clock = item, self.clock
        self.replay.add(row)
        self._follow_observations(row)
        clock.env_steps = self.collector.steps
        self._note(episodes)
        train = self.config.train
        if not clock.prefilled and clock.env_steps >= train.prefill and self.replay.can_sample(train.seq_len):
            clock.prefilled = clock.env_steps
            self._report_first_rows(progress)
            if self._measure:
                self._measure_observations()

    def _report_first_rows(self, progress: Progress) -> None:
        """Ranges of everything that the agent will learn from, before it learns."""
        name = self.config.model.reward_transform
        squash = SCALAR_TRANSFORMS[name][0]
        report = range_report(
            self.replay.first_rows(2000),
            {key: item.kind for key, item in self.spec.obs.items()},
            transform=lambda rewards: squash(torch.from_numpy(rewards)).numpy(),
            transform_name=name,
            scaled=self.config.model.vector_transform != "none",
        )
        for line in write_report(report, self.directory):
            progress.say(line)

    def _pulse(self, progress: Progress) -> None:
        """Show and write how it stands, when it is time for that."""
        progress.tick(self)
        if self._line_due():
            self.write(progress)
            self._written = time.monotonic()

    def _line_due(self) -> bool:
        if self.config.train.deterministic:  # not by the clock, which is another one each time
            every = self.config.train.log_steps
            return self.clock.env_steps // every > self.written_at // every
        return time.monotonic() - self._written >= self.config.train.log_every

    def finished(self) -> bool:
        """Has the run reached its end, or been asked to stop?"""
        limit = self.config.train.minutes * 60
        enough = self.clock.env_steps >= self.config.train.env_steps or (limit > 0 and self.clock.seconds >= limit)
        return enough or self._stop

    @property
    def stopped(self) -> bool:
        """Was it asked to stop?"""
        return self._stop

    def stop(self) -> None:
        """Ask the loop to end after the current update, with a checkpoint."""
        self._stop = True

    def _timed_rows(self) -> Iterator[tuple[dict[str, np.ndarray], list[Episode]]]:
        rows = self.collector.rows(self._act)
        while True:
            try:
                with self.clock.timed("env"):
                    item = next(rows)
            except (Exception, Stopped):  # an environment broke or hangs: what was learnt is kept
                self._undo_act()
                self.save()
                raise
            yield item

    def _act(self, obs: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        player = self.player
        self._before = player.memory(), player.generator.get_state(), self.rng.bit_generator.state
        if not self.clock.prefilled:
            return self.spec.action.random(self.rng, len(is_first), obs.get(MASK))
        return player.act(obs, is_first)

    def _undo_act(self) -> None:
        """An action whose step failed was never chosen: who goes on from here chooses again."""
        if self._before is not None:
            memory, drawn, self.rng.bit_generator.state = self._before
            self.player.recall(memory)
            self.player.generator.set_state(drawn)

    def _follow_observations(self, row: dict[str, np.ndarray]) -> None:
        if self.config.model.vector_transform == "running":
            vectors = {key: torch.from_numpy(row[f"obs/{key}"]).to(self.agent.device) for key in self.spec.vectors}
            self.agent.world_model.follow_observations(vectors)

    def _measure_observations(self) -> None:
        rows = self.replay.contents([f"obs/{key}" for key in self.spec.vectors])
        vectors = {key[4:]: torch.from_numpy(values).to(self.agent.device) for key, values in rows.items()}
        self.agent.world_model.fit_observations(vectors)

    def update(self) -> None:
        """One update of everything, from one batch."""
        with self.clock.timed("replay"):
            batch = to_batch(
                self.replay.sample(self.config.train.batch_size, self.config.train.seq_len), self.agent.device
            )
        with self.clock.timed("update"):
            try:
                self.logger.add(self.agent.update(batch))
            except NonFinite as trouble:
                self.writer.finish()  # a rollback reads what it writes
                self.nan_policy.apply(trouble, self.clock)
                return
        self.nan_policy.reset_streak()
        self.clock.updates += 1
        self.health.after_update(self.agent, batch, updates=self.clock.updates, env_steps=self.clock.env_steps)

    # ---------------------------------------------------------------------------------------------- numbers and files

    def _note(self, episodes: list[Episode]) -> None:
        for episode in episodes:
            phase = "train" if self.clock.prefilled else "prefill"
            if episode.crashed:
                phase = "crashed"
            else:
                self.recent = [*self.recent[-19:], episode.score]
            line = {"return": episode.score, "length": episode.length, **episode.log}
            self.logger.episode(self._stamp(phase) | line)

    def _stamp(self, phase: str) -> dict[str, Any]:
        steps = self.clock.env_steps
        stamp = {"phase": phase, "env_steps": steps, "frames": steps * self.repeat}
        return stamp if self.config.train.deterministic else stamp | {"seconds": round(self.clock.seconds, 2)}

    def write(self, progress: Progress) -> None:
        """One line of metrics."""
        clock = self.clock
        numbers: dict[str, float] = {"updates": clock.updates, "frames": clock.env_steps * self.repeat}
        numbers |= {"replay/steps": len(self.replay), "train/ratio": clock.achieved_ratio(self.config.train.pretrain)}
        if not self.config.train.deterministic:
            numbers |= clock.speeds()
        numbers |= self.health.take()
        if self.config.train.on_nonfinite != "stop":
            numbers |= {"nonfinite/skipped": clock.skipped, "nonfinite/rollbacks": clock.rollbacks}
        if self.recent:
            numbers["episode/return"] = float(np.mean(self.recent))
        self._require_finite()
        self.written_at = clock.env_steps
        progress.metrics = self.logger.write(numbers, env_steps=clock.env_steps)
        progress.once(self.logger.trouble)

    def _require_finite(self) -> None:
        """Stop, or do what `train.on_nonfinite` says, before a NaN is saved over good checkpoints. Raises UserError."""
        if self.nan_policy.check(self.clock):
            self.logger.forget()
        broken = self.logger.nonfinite()
        if broken:
            raise UserError(
                f"training became non-finite before update {self.clock.updates}: {', '.join(broken[:3])}.",
                "The checkpoints are from before. Check the ranges of observations and rewards; lower learning rates.",
            )

    def _play_randomly(self, progress: Progress) -> None:
        """The level to beat."""
        result = self.evaluator.random(lambda: self._stop)
        if result is None:
            progress.say("random policy: not measured, 10 s were not enough for its episodes")
            return
        self._log_episodes("random", result)
        progress.say(f"random policy: return {result.mean:.3f}{result.spread} over {len(result.scores)} episodes")

    def _log_episodes(self, phase: str, result: Evaluation) -> None:
        stamp = self._stamp(phase)
        for score, length in zip(result.scores, result.lengths, strict=True):
            self.logger.episode(stamp | {"return": score, "length": length})

    def evaluate(self, progress: Progress) -> None:
        """Play evaluation episodes, keep the numbers, the film and the best agent so far."""
        with suppress(Stopped):  # its environment hangs
            result = self.evaluator.agent(self.agent, lambda: self._stop)
        if self._stop:
            return  # half an evaluation is none
        self.evaluation, self.evaluated_at = result, self.clock.env_steps
        self._log_episodes("eval", result)
        numbers = {
            "eval/return": result.mean,
            "eval/ci95": result.interval,
            "eval/length": float(np.mean(result.lengths)),
        }
        self.logger.write(numbers, env_steps=self.clock.env_steps)
        if result.frames:
            film = self.directory / "videos" / f"eval-{self.clock.env_steps:09d}.gif"
            progress.once(keep_film(film, result.frames))
        if self.clock.best is None or result.mean > self.clock.best:
            self.clock.best = result.mean
            with self.stopping.held(), writing("the best agent", self.directory):
                checkpoint.write_atomically(self.directory / "checkpoints" / "best", checkpoint.agent_files(self.agent))
        progress.evaluated(self, result)

    def save(self, *, wait: bool = True) -> None:
        """A checkpoint of everything, and the end of those that are no longer kept. Raises UserError if non-finite.

        Without `wait` it is only copied now, and written while learning goes on; not even that while an earlier one is
        still being written.
        """
        if wait or not self.writer.busy:
            self._require_finite()
            with self.stopping.held():
                save_run(self, wait=wait)

    def close(self) -> None:
        """Close environments and files. Raises UserError if the last checkpoint could not be written."""
        try:
            with self.stopping.held():
                self.writer.finish()
        finally:
            self.logger.close()
            if not isinstance(self.env, gym.Env):  # an instance belongs to whoever made it
                self.envs.close()
            self.evaluator.close()
            self._leave()

    def _leave(self) -> None:
        """Give the directory back, without what a write that failed left in it."""
        if self.lock.held:
            with suppress(OSError):
                remove_drafts(self.directory)
        self.lock.release()

    def history(self) -> list[dict[str, Any]]:
        """All episodes so far, as in episodes.jsonl."""
        return read_lines(self.directory / "episodes.jsonl")
