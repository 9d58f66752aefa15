"""Input and output of the doctor's rules (`RunFacts`, `Finding`), and all their thresholds with reasons (`LIMITS`)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ..config import Config
from ..errors import digits
from ..run.html import html_table
from .doctor_record import LEVELS as LEVELS
from .history import History
from .measurements import Measurements

#: Thresholds. Measured values of healthy and of broken runs: docs/doctor.md.
LIMITS: dict[str, float] = {
    "early updates": 400,  # before, blind models are normal: one run had 5 wrong warnings at 349
    "returns updates": 500,  # healthy runs of the planted tasks have left the random level by then
    "endless": 700,  # steps of each environment without an end; classic tasks have limits of 200 to 500
    "image input": 1.0,  # images are scaled to +-0.5: anything beyond 1 was not scaled
    "vector input fail": 100.0,  # a layer that is initialized for inputs of 1 sees nothing else
    "vector input warn": 10.0,  # deviation, where the networks are initialized for 1
    "vector input small": 0.03,  # such a dimension costs 0.0005 nats of squared error: cheaper to ignore than to learn
    "reward fail": 1000.0,  # weights that move by 1e-4 a step cannot reach the values of such rewards
    "reward warn": 100.0,  # the range of the design's symlog; losses of rewards and values outweigh all others
    "reward small": 0.05,  # knowing it saves 0.001 nats; a KL of healthy models is 1 nat
    "noise": 0.03,  # a share that simple predictors reach on pure noise stays below 0.01
    "dense": 0.2,  # share of steps with a reward, from which on there are enough of them to be called noise
    "lags": 64,  # steps that the simple predictors look back (foresight.py)
    "memory": 0.1,  # of the rewards' variance, explained only by what lies outside a training sequence
    "foreseeable": 0.05,  # of the next observation's variance; on independent symbols 0.00, else above 0.9
    "shrunk": 1.5,  # from the environment's image to the agent's
    "moving pixels": 8.0,  # a pole or a ball that is drawn with fewer is worth less than a nat
    "worth": 10.0,  # nats that knowing an observation saves, for each nat that the KL costs; healthy: 13 and more
    "cut": 0.01,  # share of steps with a number beyond what the model sees; a healthy run of random play has 0
    "leak": 1e-3,  # after a reset nothing of the past is left: exactly 0 in a healthy model
    "loss rise": 2.0,  # healthy world models end at their lowest loss, up to noise; new observations add some
    "loss spike": 20.0,  # one line (seconds of updates) this far above the median is not noise
    "growth": 4.0,  # weights of all our runs stay within 1.1 of their initial size; at 100 x lr they reach 5 and more
    "learning rate": 1e-2,  # ten times the largest of any published world model
    "replay batches": 2.0,  # with fewer batches than this in the replay, every update sees nearly all of it
    "replays": 4000.0,  # times that each step was replayed; all published presets stay below 2000
    "information": 1.0,  # nats of information in the posterior; healthy ones have 5 and more
    "information warn": 2.0,  # not yet collapsed, but close to it
    "explained": 0.3,  # share of the observations' variance; a decoder that explains more uses the posterior
    "dead": 0.9,  # share of categoricals that never change
    "dead warn": 0.5,
    "difference": 0.05,  # total variation between categoricals of one state; healthy ones differ by 0.7 and more
    "prior fail": 1.0,  # the prior's KL is larger than that of the average of all posteriors
    "prior warn": 0.6,  # healthy priors have 0.1 to 0.25 of it
    "shifted": 0.7,  # the KL with actions one step early or late, in shares of that at their own time
    "action gain": 1.01,  # a dreamed step with random actions is as good as with the recorded ones
    "brier": 0.25,  # the score of always predicting 0.5
    "events": 5,  # rewarding or ending steps in the sample that are necessary to judge
    "contrast": 0.2,  # share of a reward that the head predicts in the step that pays it
    "strange": 0.1,  # share of the newest steps beyond 99 % of the replay's; where nothing is new it is 0.01
    "value": 1.5,  # times the largest return that rewards and discount allow
    "values seen": 0.1,  # of the largest reward: below, the critic has hardly left 0
    "slow gap fail": 0.4,  # healthy slow critics stay within 0.1 of the critic
    "slow gap warn": 0.25,
    "one-sided": 1.0,  # mean advantage in deviations: 84 % have one sign; healthy runs that learned are below 0.4
    "critic lr": 3e-5,  # a smaller one needs more updates to the level of returns than short runs have
    "random": 0.9,  # entropy, as a share of the way from what policy_unimix leaves to its maximum
    "early collapse": 0.15,  # the same; learning has always needed more, except where the policy already was good
    "early collapse updates": 600,  # until then model and critic know little
    "collapsed": 0.02,  # less than one in hundreds of choices differs from the most likely one
    "collapsed early": 0.03,  # the same in the first half of a run, when most is still to be explored
    "code used": 1.3,  # classes of each variable of a goal's code, as perplexity; at the start 4 and more of 8
    "goal gain": 0.03,  # by how much states are more alike to the goal at the end of a window
    "goal near": 0.8,  # or nearly there anyway
    "manager reward": 1e-3,  # spread of the mean reward in dreams, in shares of the largest reward
    "drift floor": 0.8,  # in shares of guessing; a worse reconstruction cannot serve to judge a dream
}


@dataclass(frozen=True, repr=False)
class Finding:
    """One finding of a rule: what is wrong, by which numbers, why it matters, and what to change."""

    verdict: str  # stable name, e.g. "posterior collapse"
    level: str  # FAIL, WARN or OK
    evidence: str  # the measured numbers, in a sentence
    why: str  # why it matters
    key: str  # the setting to change, "" if none helps
    change: str  # what to do

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return asdict(self)

    def __repr__(self) -> str:
        change = f" ({self.key}: {self.change})" if self.key else f" ({self.change})"
        return f"{self.level} {self.verdict}: {self.evidence}{change}"

    def _repr_html_(self) -> str:
        return Findings([self])._repr_html_()


class Findings(list[Finding]):
    """Findings, the worst first; a notebook shows them as a table."""

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "no finding"

    def _repr_html_(self) -> str:
        rows = [(x.level, x.verdict, x.evidence, x.why, f"{x.key}: {x.change}" if x.key else x.change) for x in self]
        return html_table(("level", "verdict", "found", "why", "change"), rows)


@dataclass(frozen=True)
class RunFacts:
    """The input of a rule."""

    config: Config
    history: History
    measured: Measurements | None  # None without a checkpoint, or without a replay to measure on
    notes: tuple[str, ...] = field(default=())  # why something could not be measured

    @property
    def updates(self) -> int:
        """Updates so far."""
        return self.history.updates

    @property
    def early(self) -> bool:
        """Whether there are too few updates to judge what has been learned."""
        return self.updates < LIMITS["early updates"]

    @property
    def returns_judged(self) -> bool:
        """Whether returns should have left the level of the random policy by now."""
        return self.updates >= LIMITS["returns updates"]

    @property
    def unforeseeable(self) -> bool:
        """Whether no simple predictor gets anything about the next observation from the past.

        Only with a prior that finds as little: what the model foresees can be foreseen.
        """
        m = self.measured
        if m is None or m.task.foresight is None or not m.kl > LIMITS["prior warn"] * m.information:
            return False
        return m.task.foresight.observation < LIMITS["foreseeable"]


def finite(value: float | None) -> bool:
    """Whether a value was measured."""
    return value is not None and math.isfinite(value)


def number(value: float) -> str:
    """Three significant digits, without an exponent for large numbers."""
    return digits(value)
