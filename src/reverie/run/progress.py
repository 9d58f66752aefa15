"""Terminal progress: header, progress line with ETA, one line per evaluation."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..build import count_parameters
from ..envs.names import NamedMaker
from ..errors import counted, digits, printable, wrapped
from ..fast.modes import usual_switches
from ..fast.products import said
from .directory import FRESH
from .evaluation import MAX_LENGTH, Evaluation, best_beyond_noise, evaluations_due, logged_evaluations
from .forecast import duration, in_bytes
from .lines import read_lines
from .notebook import NotebookBlock
from .state import RunState
from .tasks import protocol_of_task

if TYPE_CHECKING:
    from rich.text import Text

#: Steps with learning after which their own pace says more about the rest of a run than its forecast.
MEASURED = 100
#: A log file gets a line after each such share of the run; a display is drawn again after so many seconds.
SHARE, REDRAWN = 0.05, 0.25
#: What a narrow terminal leaves out of the line of progress, first things first.
LEAVE = ("time", "collectors", "losses", "unfinished", "update", "bar", "eval", "phase", "return", "eta")


class Progress:
    """One line that is drawn again on a terminal, one block in a notebook, a line per 5 % elsewhere (a file, CI)."""

    def __init__(
        self, *, quiet: bool = False, every: float = SHARE, advise: Callable[[RunState], list[str]] | None = None
    ) -> None:
        """every: share of the run between lines without a display; advise: gives lines after each evaluation."""
        from rich.console import Console

        self.quiet = quiet
        self.every = every
        self.advise = advise
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        terminal = self.console.is_terminal and not self.console.is_dumb_terminal
        self.live = (terminal or self.console.is_jupyter) and not quiet
        self.metrics: dict[str, float] = {}
        self._display: Any = None
        self._block = NotebookBlock() if self.live and self.console.is_jupyter else None
        self._last = 0.0
        self._shown = -1  # how many times `every` of the run the last line was shown after
        self._said: set[str] = set()
        self._begin = (0, 0.0)  # env_steps, seconds of training

    def say(self, text: str) -> None:
        """One line, unless quiet; on a terminal as many as it needs."""
        if self.quiet:
            return
        block = self._block
        if block is not None:
            self._draw(lambda: block.say(printable(text)))
        else:
            width = self.console.width if self.console.is_terminal else 0
            self._draw(lambda: self.console.print(wrapped(printable(text), width), markup=False))

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
            self._display = None

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
        kept, size = config.replay, in_bytes(run.replay.nbytes())
        self.say(f"replay    {kept.replay_capacity:,} steps, up to {size} ({kept.storage})")
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
        if self.live:
            if self._block is not None:
                self._display = self._block
            else:
                from rich.live import Live

                self._display = Live(console=self.console, auto_refresh=False)
            self._draw(self._display.start)

    def tick(self, run: RunState) -> None:
        """Called after every step; draws a few times per second at most."""
        if run.forecast is not None and run.clock.updates <= run.config.train.pretrain:
            self._begin = (run.clock.env_steps, run.clock.seconds)  # steps without learning say nothing about the rest
        if not self.quiet and self._due(run):
            self._show(run)

    def _show(self, run: RunState) -> None:
        self._last = time.monotonic()
        block = self._block
        share, text = self._status(run)
        if block is not None:
            self._draw(lambda: block.update(share, printable(text)))
        elif self._display is not None:
            line = terminal_line(share, self._parts(run), self.console.width)
            self._draw(lambda: self._display.update(line, refresh=True))
        else:
            self.say(f"{share:4.0%}  {text}")

    def _due(self, run: RunState) -> bool:
        """Is it time to show the progress again?"""
        if self.live:
            return time.monotonic() - self._last >= REDRAWN
        if self.every <= 0:
            return True
        count = int(self._share(run) / self.every + 1e-9)
        due, self._shown = count > self._shown, max(count, self._shown)
        return due

    def _share(self, run: RunState) -> float:
        """How much of the run is done, 0 to 1, by whichever limit ends it first."""
        clock, settings = run.clock, run.config.train
        done = [clock.env_steps / settings.env_steps]
        if settings.minutes:
            done.append(clock.seconds / (60 * settings.minutes))
        return min(1.0, max(done))

    def _status(self, run: RunState) -> tuple[float, str]:
        """(share of the run, all parts as one text)."""
        parts = dict(self._parts(run))
        groups = (
            ("phase", "step", "update"),
            ("return", "unfinished", "eval"),
            ("losses",),
            ("time",),
            ("collectors",),
            ("eta",),
        )
        return self._share(run), "  ".join(
            filter(None, (" ".join(parts[name] for name in group if parts[name]) for group in groups))
        )

    def _parts(self, run: RunState) -> list[tuple[str, str]]:
        """(name, text) of what a line of progress shows, in its order."""
        clock, pretrain = run.clock, run.config.train.pretrain
        shares = " ".join(f"{name} {share:.0%}" for name, share in clock.shares().items())
        recent = f"{sum(run.recent) / len(run.recent):.2f}" if run.recent else "-"
        unfinished = run.unfinished()
        lasting = f"(unfinished: {unfinished[0]:.2f} after {unfinished[1]:,} steps)" if unfinished else ""
        tested = f"{run.evaluation.mean:.2f}" if run.evaluation else "-"
        shown = [
            *((key[:12], f"world_model/obs/{key}_loss") for key in list(run.spec.obs)[:2]),
            ("reward", "world_model/reward_loss"),
            ("kl", "world_model/kl"),
            ("entropy", "actor/entropy"),
        ]
        losses = " ".join(f"{name} {digits(self.metrics[key])}" for name, key in shown if key in self.metrics)
        left = int(self.seconds_left(run))
        learning = "pretraining" if clock.prefilled and clock.updates < pretrain else ""
        return [
            ("phase", learning if clock.prefilled else "prefill"),
            ("step", f"step {clock.env_steps:,}"),
            ("update", f"update {clock.updates:,}" + (f" of {pretrain:,}" if learning else "")),
            ("return", f"return {recent}"),
            ("unfinished", lasting),
            ("eval", f"eval {tested}"),
            ("losses", losses),
            ("time", shares),
            ("collectors", f"collectors {said}" if (said := run.collectors_say()) else ""),
            ("eta", f"eta {clock_time(left)}"),
        ]

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
        if self._display is not None:
            if run.over():
                self._show(run)  # where it ended, not where it was drawn last
            self._draw(self._display.stop)
            self._display = None
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
        counts = f"{clock.env_steps:,} steps, {counted(clock.updates, 'update')}"
        times = f"{clock.seconds:.0f} s of training and {clock.eval_seconds:.0f} s of evaluations"
        self.say(f"{ended}: {counts}, {times}; {achieved(run)}")
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


def terminal_line(share: float, parts: Sequence[tuple[str, str]], width: int) -> Text:
    """A bar and as many parts of `Progress._parts` as one line of `width` letters holds: the last of LEAVE stay."""
    from rich.text import Text

    found, bar = {name: text for name, text in parts if text}, 20 if width >= 80 else 10

    def text() -> str:
        return "  ".join([f"{share:4.0%}", *found.values()])

    for name in LEAVE:
        if len(text()) + bar + 2 < width:
            break
        if name == "bar":
            bar = -2
        else:
            found.pop(name, None)
    if bar < 0:
        return Text(text()[: width - 1])
    full = round(share * bar)
    return Text.assemble(("━" * full, "green"), ("─" * (bar - full), "dim"), f"  {text()}")


def clock_time(seconds: int) -> str:
    """ "0:24", "12:05", "3:00:59"."""
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}:{minutes:02d}:{seconds % 60:02d}" if hours else f"{minutes}:{seconds % 60:02d}"


def achieved(run: RunState) -> str:
    """Updates per step beside what was asked for, or how far the updates before the first of these are."""
    clock, train = run.clock, run.config.train
    if not clock.prefilled:
        return "no updates yet"
    if clock.updates <= train.pretrain:  # no step has earned an update yet, so there is no ratio
        return f"pretraining was at update {clock.updates:,} of {train.pretrain:,}"
    return f"{digits(clock.achieved_ratio(train.pretrain))} updates per step (asked for {train.train_ratio:g})"


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
