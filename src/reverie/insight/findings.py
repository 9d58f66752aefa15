"""What a rule of the doctor looks at and answers with, and every number that decides, each with its reason."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ..config import Config
from .history import History
from .measurements import Measurements

LEVELS = ("FAIL", "WARN", "OK")

#: The numbers that decide. Measured values of healthy and of broken runs: docs/doctor.md.
LIMITS: dict[str, float] = {
    "early updates": 200,  # networks and their measurements still move from line to line before
    "image input": 1.0,  # images are scaled to +-0.5: anything beyond 1 was not scaled
    "vector input fail": 100.0,  # a layer normalised at initialisation to inputs of 1 sees nothing else
    "vector input warn": 10.0,  # this many deviations of what the networks are made for
    "vector input small": 0.03,  # such a dimension costs 0.0005 nats of squared error: cheaper to ignore than to learn
    "reward fail": 1000.0,  # values of rewards this large are out of reach for weights that move by 1e-4 a step
    "reward warn": 100.0,  # the design's symlog range; losses of rewards and values dwarf all others
    "leak": 1e-3,  # after a reset nothing of the past is left: exactly 0 in a sound model
    "loss rise": 2.0,  # healthy world models end at their lowest loss, to within noise; new places add some
    "loss spike": 20.0,  # one line (seconds of updates) this far above the median is no noise
    "growth": 4.0,  # weights of all runs that we trained stay within 1.1 of their first size; at 100 x lr 5 and more
    "learning rate": 1e-2,  # ten times the largest of any published world model
    "replay batches": 2.0,  # fewer batches than this in the replay: every update sees nearly all of it
    "replays": 4000.0,  # times each step was replayed; the most eager published presets stay below 2000
    "information": 1.0,  # nats that a look tells about the state; sound ones tell 5 and more
    "information warn": 2.0,  # not yet collapsed, but close to it
    "explained": 0.3,  # share of the observations; who reconstructs more of them has not lost sight of them
    "dead": 0.9,  # share of categoricals that never change
    "dead warn": 0.5,
    "difference": 0.05,  # total variation between categoricals of one state; sound ones differ by 0.7 and more
    "prior fail": 1.0,  # the prior misses by more than the plain average of all posteriors would
    "prior warn": 0.6,  # sound ones miss by 0.1 to 0.25 of that
    "shifted": 0.7,  # actions told a step early or late surprise the model less than at their own time
    "action gain": 1.01,  # dreaming with random actions is as good as with the right ones
    "brier": 0.25,  # worse than tossing a coin
    "events": 5,  # rewarding or ending steps that must have been looked at to judge
    "contrast": 0.2,  # share of a reward that the head sees coming once it has arrived
    "value": 1.5,  # times the largest return that rewards and discount allow
    "slow gap fail": 0.4,  # sound slow critics stay within 0.1 of what they follow
    "slow gap warn": 0.25,
    "random": 0.9,  # entropy in shares of its maximum
    "collapsed": 0.02,  # less than one choice in hundreds is not the favourite
    "collapsed early": 0.03,  # the same in the first half of a run, when there is still everything to find
    "drift floor": 0.8,  # a reconstruction that is itself no better than guessing cannot judge a dream
}


@dataclass(frozen=True)
class Finding:
    """One verdict: what, how sure, why it matters, and which setting to change to what."""

    verdict: str
    level: str  # FAIL, WARN or OK
    evidence: str  # with numbers
    why: str
    key: str  # a setting, "" where none helps
    change: str  # what to do with it, in words

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class RunFacts:
    """Everything that a rule may look at."""

    config: Config
    history: History
    measured: Measurements | None  # None: there is no checkpoint, or no replay to measure on
    notes: tuple[str, ...] = field(default=())  # why something could not be measured

    @property
    def updates(self) -> int:
        return self.history.updates

    @property
    def early(self) -> bool:
        """Are there too few updates to judge what is learnt?"""
        return self.updates < LIMITS["early updates"]


def finite(value: float | None) -> bool:
    """Was it measured?"""
    return value is not None and math.isfinite(value)


def number(value: float) -> str:
    """Three figures, without an exponent where it can be helped."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
