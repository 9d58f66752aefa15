"""Input and output of the doctor's rules (`RunFacts`, `Finding`), and all their thresholds with reasons (`LIMITS`)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ..config import Config
from .history import History
from .measurements import Measurements

LEVELS = ("FAIL", "WARN", "OK")

#: Thresholds. Measured values of healthy and of broken runs: docs/doctor.md.
LIMITS: dict[str, float] = {
    "early updates": 200,  # before, networks and their measurements still change a lot from line to line
    "image input": 1.0,  # images are scaled to +-0.5: anything beyond 1 was not scaled
    "vector input fail": 100.0,  # a layer that is initialized for inputs of 1 sees nothing else
    "vector input warn": 10.0,  # deviation, where the networks are initialized for 1
    "vector input small": 0.03,  # such a dimension costs 0.0005 nats of squared error: cheaper to ignore than to learn
    "reward fail": 1000.0,  # weights that move by 1e-4 a step cannot reach the values of such rewards
    "reward warn": 100.0,  # the range of the design's symlog; losses of rewards and values outweigh all others
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
    "value": 1.5,  # times the largest return that rewards and discount allow
    "slow gap fail": 0.4,  # healthy slow critics stay within 0.1 of the critic
    "slow gap warn": 0.25,
    "random": 0.9,  # entropy in shares of its maximum
    "collapsed": 0.02,  # less than one in hundreds of choices differs from the most likely one
    "collapsed early": 0.03,  # the same in the first half of a run, when most is still to be explored
    "drift floor": 0.8,  # in shares of guessing; a worse reconstruction cannot serve to judge a dream
}


@dataclass(frozen=True)
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


def finite(value: float | None) -> bool:
    """Whether a value was measured."""
    return value is not None and math.isfinite(value)


def number(value: float) -> str:
    """Three significant digits, without an exponent for large numbers."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
