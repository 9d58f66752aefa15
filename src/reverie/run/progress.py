"""Terminal progress: header, progress line with ETA, one line per evaluation."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

from ..build import count_parameters
from ..envs.names import NamedMaker
from ..errors import printable
from ..fast.modes import usual_switches
from ..fast.products import said
from .directory import FRESH
from .evaluation import MAX_LENGTH, Evaluation, best_beyond_noise, evaluations_due, logged_evaluations
from .forecast import duration
from .lines import read_lines
from .notebook import NotebookBar
from .state import RunState
from .tasks import protocol_of_task

#: Steps with learning after which their own pace says more about the rest of a run than its forecast.
MEASURED = 100


class Progress:
    """Progress on a terminal; plain lines every few seconds where there is none (a log file, CI)."""

    def __init__(
        self, *, quiet: bool = False, every: float = 10.0, advise: Callable[[RunState], list[str]] | None = None
    ) -> None:
        """every: seconds between lines without a terminal; advise: gives lines after each evaluation."""
        from rich.console import Console

        self.quiet = quiet
        self.every = every
        self.advise = advise
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.live = (self.console.is_terminal or self.console.is_jupyter) and not quiet
        self.metrics: dict[str, float] = {}
        self._progress: Any = None
        self._task: Any = None
        self._last = 0.0
        self._said: set[str] = set()
        self._begin = (0, 0.0)  # env_steps, seconds of training

    def say(self, text: str) -> None:
        """One line, unless quiet."""
        if not self.quiet:
            self._draw(lambda: self.console.print(printable(text), markup=False))

    def once(self, text: str) -> None:
        """One line, unless it is empty or was said before."""
        if text and text not in self._said:
            self._said.add(text)
            self.say(text)

    def _draw(self, work: Callable[[], Any]) -> None:
        """A terminal that was closed, or a pipe without a reader, ends the display, not the run."""
        try:
            work()
        except (OSError, ValueError, SystemExit):  # rich leaves the program when a pipe breaks
            self.quiet = True
            self.live = False
            self._progress = None

    def start(self, run: RunState) -> None:
        """The header: the task, the model, the limits and the directory."""
        config, agent = run.config, run.agent
        task = config.env.id or "custom environment"
        self.say(f"task      {task} x {config.env.num_envs}, seed {config.train.seed}")
        self.say(f"protocol  {protocol_of_task(config)}")
        self.say(f"stepping  {getattr(run.envs, 'stepping', 'as given')}")
        self.say(f"sees      {'; '.join(run.spec.describe())}")
        for note in run.spec.notes:
            self.say(f"          {note}")
        sizes = " + ".join(
            f"{name} {count_parameters(module):,}"
            for name, module in [("world model", agent.world_model), ("actor", agent.actor), ("critic", agent.critic)]
        )
        self.say(f"model     {sizes} parameters on {agent.device}")
        self.say(f"products  {said(agent.precision.types)}: {agent.precision.why}")
        gigabytes = run.replay.nbytes() / 1e9
        self.say(
            f"replay    {config.replay.replay_capacity:,} steps, up to {gigabytes:.2f} GB ({config.replay.storage})"
        )
        for index, line in enumerate(run.forecast.lines() if run.forecast else []):
            self.say(f"{'' if index else 'forecast':9} {line}")
        self.say(f"learns    {config.train.train_ratio:g} updates per step after {config.train.prefill} random steps")
        self.say(f"files     {run.directory}")
        if config.train.prefill >= config.train.env_steps:
            self.say(
                f"note      nothing will be learnt: the run ends within its {config.train.prefill:,} random steps "
                "(train.prefill)"
            )
        if run.resumed:
            self.say(f"continues at step {run.clock.env_steps:,}, update {run.clock.updates:,}")
        for note in [*agent.notes, *run.notes, *filter(None, [run.lock.note])]:
            self.say(f"note      {note}")
        self._begin = (run.clock.env_steps, run.clock.seconds)
        if self.live and self.console.is_jupyter:
            self._progress = NotebookBar()
            self._draw(self._progress.start)
        elif self.live:
            from rich.progress import BarColumn, Progress, TextColumn

            columns = [TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[text]}")]
            self._progress = Progress(*columns, console=self.console)
            self._draw(self._progress.start)
        if self._progress is not None:
            self._task = self._progress.add_task("train", total=1.0, text="")

    def tick(self, run: RunState) -> None:
        """Called after every step; draws a few times per second at most."""
        if run.forecast is not None and run.clock.updates <= run.config.train.pretrain:
            self._begin = (run.clock.env_steps, run.clock.seconds)  # steps without learning say nothing about the rest
        if self.quiet or time.monotonic() - self._last < (0.25 if self.live else self.every):
            return
        self._last = time.monotonic()
        fraction, text = self._status(run)
        if self.live:
            self._draw(lambda: self._progress.update(self._task, completed=fraction, text=printable(text)))
        else:
            self.say(f"{fraction:4.0%}  {text}")

    def _status(self, run: RunState) -> tuple[float, str]:
        clock, settings = run.clock, run.config.train
        done = [clock.env_steps / settings.env_steps]
        if settings.minutes:
            done.append(clock.seconds / (60 * settings.minutes))
        parts = " ".join(f"{name} {share:.0%}" for name, share in clock.shares().items())
        recent = f"{sum(run.recent) / len(run.recent):.2f}" if run.recent else "-"
        if (unfinished := run.unfinished()) is not None:
            recent += f" (unfinished: {unfinished[0]:.2f} after {unfinished[1]:,} steps)"
        tested = f"{run.evaluation.mean:.2f}" if run.evaluation else "-"
        shown = [
            *((key[:12], f"world_model/obs/{key}_loss") for key in list(run.spec.obs)[:2]),
            ("reward", "world_model/reward_loss"),
            ("kl", "world_model/kl"),
            ("entropy", "actor/entropy"),
        ]
        losses = " ".join(f"{name} {self.metrics[key]:.3g}" for name, key in shown if key in self.metrics)
        left = int(self.seconds_left(run))
        phase = "" if clock.prefilled else "prefill "
        elsewhere = f"  collectors {said}" if (said := run.collectors_say()) else ""
        return min(1.0, max(done)), (
            f"{phase}step {clock.env_steps:,} update {clock.updates:,}  return {recent} eval {tested}  "
            f"{losses}  {parts}{elsewhere}  eta {left // 60}:{left % 60:02d}"
        )

    def seconds_left(self, run: RunState) -> float:
        """Expected seconds to the end of the run: of training, and of the evaluations that are to come."""
        clock, settings = run.clock, run.config.train
        steps, done = max(0.0, settings.env_steps - clock.env_steps), clock.env_steps - self._begin[0]
        if run.forecast is not None and done < MEASURED:
            left = run.forecast.seconds(int(steps), max(0, run.forecast.idle - clock.env_steps))
        else:
            left = steps * (clock.seconds - self._begin[1]) / max(1, done)
        if settings.minutes and left > (rest := max(0.0, 60 * settings.minutes - clock.seconds)):
            left, steps = rest, steps * rest / left
        since, end = max(0, run.evaluated_at), math.ceil(clock.env_steps + steps)
        count = evaluations_due(settings.eval_every, since, end, at_end=not run.evaluated())
        return left + count * evaluation_seconds(run)

    def baseline(self, run: RunState, result: Evaluation) -> None:
        """The random policy's level, and what its episodes let expect of the evaluations."""
        self.say(f"random policy: return {result.mean:.3f}{result.spread} over {len(result.scores)} episodes")
        train, length = run.config.train, sum(result.lengths) / len(result.lengths)
        count = evaluations_due(train.eval_every, 0, train.env_steps)
        many = "the evaluation" if count == 1 else f"{count:,} evaluations"
        expected = duration(count * evaluation_seconds(run))
        self.say(f"{many} will take about {expected} with episodes as long as these ({length:,.0f} steps)")

    def evaluated(self, run: RunState, result: Evaluation, *, played: bool = True) -> None:
        """One line per evaluation."""
        mode = run.config.train.eval_mode
        note = "" if played else "; as before: no update since the last one"
        self.say(
            f"evaluation at step {run.clock.env_steps:,} ({run.clock.seconds:.0f} s of training): "
            f"return {result.mean:.3f}{result.spread} over {len(result.scores)} episodes ({mode} mode{note})"
        )
        if max(result.lengths, default=0) >= MAX_LENGTH:
            self.once(
                f"episodes of an evaluation are cut at {MAX_LENGTH:,} steps. Set env.time_limit to cut them earlier."
            )
        self.once(result.note)
        if self.advise is not None and not self.quiet:
            with usual_switches():
                found = self.advise(run)
            for line in found:
                self.say(line)

    def broken_off(self, run: RunState) -> None:
        """The line for a run that was asked to stop and did not end in time."""
        signal, patience, steps = run.stopping.signal, run.stopping.patience, run.clock.env_steps
        saved = (run.directory / "checkpoints" / f"step-{steps:012d}").exists()
        lost = "a checkpoint was written" if saved else "what follows the last checkpoint is lost"
        self.say(f"interrupted {patience:g} s after {signal}; {lost}")

    def complete(self, run: RunState) -> None:
        """The line for a run that has nothing left to do; also if quiet, where this is hardly what the user expects."""
        if not run.edited:
            self.say("the run is complete. Continue it with a larger --env-steps or --minutes.")
            return
        text = (
            f"note: {run.directory} is complete and nothing was trained, but the source of the environment was edited "
            f"since; {FRESH}, or continue with a larger --env-steps"
        )
        self._draw(lambda: self.console.print(text, markup=False))

    def stop(self, run: RunState) -> None:
        """The last lines: how the run ended."""
        if self._progress is not None:
            self._draw(self._progress.stop)
            self._progress = None
        clock, settings = run.clock, run.config.train
        if not run.over():
            return  # an error message follows
        if run.stopping.requested:
            by = f" by {run.end()}" if run.end() else ""
            ended = f"stopped{by}; the same command continues it"
        elif clock.env_steps >= settings.env_steps:
            ended = f"reached train.env_steps={settings.env_steps:,}"
        else:
            ended = f"reached train.minutes={settings.minutes:g}"
        ratio = clock.achieved_ratio(run.config.train.pretrain)
        self.say(
            f"{ended}: {clock.env_steps:,} steps, {clock.updates:,} updates, {clock.seconds:.0f} s of training and "
            f"{clock.eval_seconds:.0f} s of evaluations; ratio {ratio:.4g} updates per step (asked for "
            f"{settings.train_ratio:g})"
        )
        if not clock.prefilled:
            self.say(
                f"nothing was learnt: the run ended within its {settings.prefill} random steps. Lower train.prefill."
            )
        if run.evaluated():  # else the newest is not known: a signal came first
            self._name_best(run)

    def _name_best(self, run: RunState) -> None:
        """Which checkpoint to use, where the newest is not the best one."""
        found = best_beyond_noise(logged_evaluations(read_lines(run.directory / "episodes.jsonl")))
        best = run.directory / "checkpoints" / "best"
        if found is None or not best.exists():
            return
        self.say(
            f"best      the agent of step {found.best_at:,} beats the newest beyond noise: return "
            f"{found.best.mean:.3f}{found.best.spread}, now {found.last.mean:.3f}{found.last.spread}"
        )
        use = f"in Python reverie.load_player('{best}')"
        if run.env is None:  # else the task is the caller's own code
            use = f"reverie eval {best}, or {use}"
        elif isinstance(run.env, NamedMaker):  # which a command can make by its name
            use = f"reverie eval {best} --env {run.config.env.id}, or {use}"
        self.say(f"          {use}")


def evaluation_seconds(run: RunState) -> float:
    """What an evaluation will take: what the last one took, else what the training episodes so far show; 0: not known.

    Before the first evaluation of the agent the clock holds that of the random policy.
    """
    clock = run.clock
    if clock.next_eval_seconds:
        return clock.next_eval_seconds
    if not run.lengths:
        return 0.0
    acting = run.forecast.act_seconds if run.forecast and not clock.prefilled else 0.0  # random actions: no network
    step = clock.spent["env"] / max(1, clock.env_steps) + acting
    return step * run.config.train.eval_episodes * sum(run.lengths) / len(run.lengths)
