"""The loop: act, remember, learn the world, dream, repeat. Everything a run owns is made, saved and restored here."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from . import checkpoint
from .clock import Clock
from .collect import Collector, Episode
from .compute import keep_memory
from .config import Config
from .envs import EnvLike
from .envs.spaces import MASK
from .errors import UserError
from .evaluate import Evaluation, write_gif
from .examiner import Examiner
from .forecast import Forecast, make_forecast, require_fit
from .logger import Logger, read_lines
from .nonfinite import NonFinite
from .ops import SCALAR_TRANSFORMS
from .ranges import range_report
from .recovery import Recovery
from .replay import Replay
from .rundir import check_directory, clear_leftovers, prepare_directory
from .screen import Screen
from .signals import on_signals
from .tasks import make_envs, protocol_of_task, repeat_of, spec_of, step_seconds, twin
from .train import DreamerV2, to_batch


class Run:
    """One training run in one directory; `Run(...).train()` starts it or goes on where it stopped."""

    def __init__(
        self, config: Config, directory: str | Path, env: EnvLike | None = None, *, weights: Path | None = None
    ) -> None:
        """weights: a saved agent to start from, if the directory has no checkpoint of its own."""
        self.config, self.directory = config, Path(directory)
        check_directory(self.directory, config)
        seed_everything(config)
        train, replay = config.train, config.replay
        self.envs = make_envs(config, env, config.env.num_envs)
        self.env, self.repeat = env, repeat_of(config)
        self.spec = spec_of(self.envs)
        self.examiner = Examiner(config, twin(env), self.spec)  # now: later is too late to learn that it has no twin
        self.agent = DreamerV2(config, self.spec)
        self.forecast: Forecast | None = None
        if train.forecast and not checkpoint.checkpoints(self.directory):
            self.forecast = make_forecast(self.agent, self.directory, step_seconds=step_seconds(config, env))
            require_fit(self.forecast)
        prepare_directory(
            self.directory, config, protocol_of_task(config)
        )  # last: a task that cannot be made leaves no directory behind
        self.replay = Replay(
            self.spec.shapes,
            self.spec.action.size,
            capacity=replay.replay_capacity,
            streams=config.env.num_envs,
            seed=train.seed,
            prioritize=replay.prioritize,
            priority_share=replay.priority_share,
            directory=self.directory / "ring" if replay.storage == "disk" else None,
        )
        self.collector = Collector(self.envs, seed=train.seed)
        self.player = self.agent.player(num_envs=config.env.num_envs, mode="explore", seed=train.seed + 1)
        self.rng = np.random.default_rng(train.seed)
        self.clock = Clock()
        self.evaluation: Evaluation | None = None
        self.recent: list[float] = []
        self._stop = False
        self._measure = weights is None  # loaded networks know their inputs as they were scaled before
        self._evaluated_at = -1
        self._written = 0.0
        self.recovery = Recovery(self.directory, self.agent)
        self.resumed = self._restore()
        if weights is not None and not self.resumed:
            checkpoint.load_weights(weights, self.agent)
        self.logger = Logger(
            self.directory,
            env_steps=self.clock.env_steps,
            tensorboard=config.log.tensorboard,
            wandb=config.log.wandb,
        )

    # ------------------------------------------------------------------------------------------------------- the loop

    def train(self, screen: Screen | None = None) -> DreamerV2:
        """Run to `env_steps` or `minutes`, whichever comes first; evaluate and save at the end.

        Raises UserError when the environment breaks or training becomes non-finite; the checkpoints stay good.
        """
        screen = screen or Screen(quiet=True)
        self.recovery.say = screen.say
        try:
            with on_signals(self.stop):
                screen.start(self)
                self._train(screen)
        finally:
            screen.stop(self)
            self.close()
        return self.agent

    def _train(self, screen: Screen) -> None:
        if self.resumed and self.finished() and self._evaluated_at == self.clock.env_steps:
            screen.say("nothing to do: the run is complete; a larger --env-steps or --minutes continues it")
            return
        if self.config.train.random_baseline and not self.resumed:
            self._play_randomly(screen)
        if not self.finished():  # else it was stopped between its end and its evaluation
            self._loop(screen)
            self.write(screen)
            self.save()  # before the evaluation: an interrupted evaluation loses nothing
        if not self._stop and self._evaluated_at != self.clock.env_steps:
            self.evaluate(screen)
            self.save()

    def _loop(self, screen: Screen) -> None:
        settings, clock = self.config.train, self.clock
        self._written = saved = time.monotonic()
        last_eval = max(0, self._evaluated_at)
        for row, episodes in self._timed_rows():
            self.replay.add(row)
            self._follow_observations(row)
            clock.env_steps = self.collector.steps
            self._note(episodes)
            if not clock.prefilled and clock.env_steps >= settings.prefill and self._can_learn():
                clock.prefilled = clock.env_steps
                self._report_ranges(screen)
                if self._measure:
                    self._measure_observations()
            while clock.updates_due(settings.train_ratio, settings.pretrain) > 0 and not self.finished():
                self.update()
                self._pulse(screen)  # pretraining is many updates at one step: no silence
            if settings.eval_every and clock.env_steps - last_eval >= settings.eval_every:
                last_eval = clock.env_steps
                self.evaluate(screen)
            if time.monotonic() - saved >= settings.checkpoint_every:
                self.save()
                saved = time.monotonic()
            self._pulse(screen)
            if self.finished():
                return

    def _pulse(self, screen: Screen) -> None:
        """Show and write how it stands, when it is time for that."""
        screen.tick(self)
        if time.monotonic() - self._written >= self.config.train.log_every:
            self.write(screen)
            self._written = time.monotonic()

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
            except Exception:
                self.save()  # an environment broke: what was learnt is kept
                raise
            yield item

    def _act(self, obs: dict[str, np.ndarray], is_first: np.ndarray) -> np.ndarray:
        if not self.clock.prefilled:
            return self.spec.action.random(self.rng, len(is_first), obs.get(MASK))
        return self.player.act(obs, is_first)

    def _can_learn(self) -> bool:
        return self.replay.can_sample(self.config.train.seq_len)

    def _report_ranges(self, screen: Screen) -> None:
        """What the prefill looks like: shown, and kept in RUN/first_rows.json."""
        squash, name = SCALAR_TRANSFORMS[self.config.model.reward_transform][0], self.config.model.reward_transform
        report = range_report(
            self.replay.first_rows(2000),
            {key: item.kind for key, item in self.spec.obs.items()},
            transform=lambda rewards: squash(torch.from_numpy(rewards)).numpy(),
            transform_name=name,
            scaled=self.config.model.vector_transform != "none",
        )
        for line in ["the first experience:", *report.lines()]:
            screen.say(line)
        (self.directory / "first_rows.json").write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")

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
                self.recovery.handle(trouble, self.clock)
                return
        self.recovery.fine()
        self.clock.updates += 1

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
        frames = steps * self.repeat
        return {"phase": phase, "env_steps": steps, "frames": frames, "seconds": round(self.clock.seconds, 2)}

    def write(self, screen: Screen) -> None:
        """One line of metrics."""
        clock, total = self.clock, max(1e-9, sum(self.clock.spent.values()))
        numbers: dict[str, float] = {
            "updates": clock.updates,
            "frames": clock.env_steps * self.repeat,
            "seconds": clock.seconds,
            "replay/steps": len(self.replay),
            "train/ratio": clock.achieved_ratio(self.config.train.pretrain),
            "speed/env_steps_per_second": clock.env_steps / max(1e-9, clock.seconds),
            "speed/updates_per_second": clock.updates / max(1e-9, clock.spent["update"]),
        }
        numbers |= {f"time/{part}": spent / total for part, spent in clock.spent.items()}
        if self.config.train.on_nonfinite != "stop":
            numbers |= {"nonfinite/skipped": clock.skipped, "nonfinite/rollbacks": clock.rollbacks}
        if self.recent:
            numbers["episode/return"] = float(np.mean(self.recent))
        self._require_finite()
        screen.metrics = self.logger.write(numbers, env_steps=clock.env_steps)

    def _require_finite(self) -> None:
        """Stop, or do what `train.on_nonfinite` says, before a NaN is saved over good checkpoints. Raises UserError."""
        if self.recovery.look(self.clock):
            self.logger.forget()
        broken = self.logger.nonfinite()
        if broken:
            raise UserError(
                f"training became non-finite before update {self.clock.updates}: {', '.join(broken[:3])}.",
                "The checkpoints are from before. Check the ranges of observations and rewards; lower learning rates.",
            )

    def _play_randomly(self, screen: Screen) -> None:
        """The level to beat."""
        result = self.examiner.random(lambda: self._stop)
        if result is None:
            screen.say("random policy: not measured, 10 s were not enough for its episodes")
            return
        self._log_episodes("random", result)
        screen.say(f"random policy: return {result.mean:.3f}{result.spread} over {len(result.scores)} episodes")

    def _log_episodes(self, phase: str, result: Evaluation) -> None:
        stamp = self._stamp(phase)
        for score, length in zip(result.scores, result.lengths, strict=True):
            self.logger.episode(stamp | {"return": score, "length": length})

    def evaluate(self, screen: Screen) -> None:
        """Play evaluation episodes, keep the numbers, the film and the best agent so far."""
        result = self.examiner.agent(self.agent, lambda: self._stop)
        if self._stop:
            return  # half an evaluation is none
        self.evaluation, self._evaluated_at = result, self.clock.env_steps
        self._log_episodes("eval", result)
        numbers = {
            "eval/return": result.mean,
            "eval/ci95": result.interval,
            "eval/length": float(np.mean(result.lengths)),
        }
        self.logger.write(numbers, env_steps=self.clock.env_steps)
        if result.frames:
            write_gif(self.directory / "videos" / f"eval-{self.clock.env_steps:09d}.gif", result.frames)
        if self.clock.best is None or result.mean > self.clock.best:
            self.clock.best = result.mean
            checkpoint.write_atomically(self.directory / "checkpoints" / "best", checkpoint.agent_files(self.agent))
        screen.evaluated(self, result)

    def save(self) -> None:
        """A checkpoint of everything, and the end of those that are no longer kept. Raises UserError if non-finite."""
        self._require_finite()
        folder = self.directory / "checkpoints"
        self.replay.save(self.directory / "replay")
        state = {
            "clock": asdict(self.clock),
            "replay": {"counts": self.replay.counts.tolist(), "rng": self.replay.rng.bit_generator.state},
            "rng": self.rng.bit_generator.state,
            "recent": self.recent,
        }
        checkpoint.save_checkpoint(folder / f"step-{self.clock.env_steps:012d}", self.agent, state, self._generators())
        keep, found = self.config.log.keep_checkpoints, checkpoint.checkpoints(self.directory)
        for path in found[:-keep]:
            shutil.rmtree(path)
        oldest = json.loads((found[-keep:][0] / "state.json").read_text())
        self.replay.prune(self.directory / "replay", np.array(oldest["replay"]["counts"]))

    def _restore(self) -> bool:
        """Continue from the newest checkpoint, if there is one. Unfinished episodes are cut: the tasks start anew."""
        found = checkpoint.checkpoints(self.directory)
        if not found:
            clear_leftovers(self.directory)
            return False
        known = checkpoint.read_agent(found[-1])[1]
        if known.to_dict() != self.spec.to_dict():
            raise UserError(
                f"{self.directory} was trained on another task: {'; '.join(known.describe())}; now: "
                f"{'; '.join(self.spec.describe())}.",
                "Choose another --run.",
            )
        state = checkpoint.load_checkpoint(found[-1], self.agent, self._generators())
        try:
            self.clock = Clock(**state["clock"])
            counts = np.array(state["replay"]["counts"])
            self.replay.rng.bit_generator.state = state["replay"]["rng"]
            self.rng.bit_generator.state = state["rng"]
            self.recent = list(state["recent"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{found[-1] / 'state.json'} is damaged ({error}).", "Remove that checkpoint.") from error
        self.recovery.resume(self.clock)
        self.replay.load(self.directory / "replay", counts)
        self.collector.steps = self.clock.env_steps
        self.collector.seed += self.clock.env_steps  # other starts than the first time
        self._recall_evaluation()
        return True

    def _generators(self) -> dict[str, torch.Generator]:
        found = {"torch": torch.default_generator, "player": self.player.generator}
        if self.agent.device.type == "cuda":
            found["cuda"] = torch.cuda.default_generators[self.agent.device.index or torch.cuda.current_device()]
        return found

    def _recall_evaluation(self) -> None:
        """The last evaluation before the checkpoint, and when it was; later ones are undone like everything else."""
        past = [line for line in self.history() if line.get("env_steps", 0) <= self.clock.env_steps]
        lines = [line for line in past if line.get("phase") == "eval"]
        if lines:
            self._evaluated_at = lines[-1]["env_steps"]
            last = [line for line in lines if line["env_steps"] == self._evaluated_at]
            self.evaluation = Evaluation([x["return"] for x in last], [x["length"] for x in last])

    def close(self) -> None:
        """Close environments and files."""
        self.logger.close()
        if not isinstance(self.env, gym.Env):  # an instance belongs to whoever made it
            self.envs.close()
        self.examiner.close()

    def history(self) -> list[dict[str, Any]]:
        """All episodes so far, as in episodes.jsonl."""
        return read_lines(self.directory / "episodes.jsonl")


# ------------------------------------------------------------------------------------------------------------- helpers


def seed_everything(config: Config) -> None:
    """Seed torch and set its threads. NumPy generators are seeded where they are made; nothing else draws numbers."""
    torch.manual_seed(config.train.seed)
    keep_memory()
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
