"""The interface for Python programs: how `learn` ends."""

import os
import signal

import pytest
from toys import CountingEnv

import reverie
from reverie import checkpoint

TINY = {
    "env_steps": 120,
    "prefill": 40,
    "pretrain": 1,
    "train_ratio": 0.1,
    "eval_every": 0,
    "eval_episodes": 1,
    "video": False,
    "tensorboard": False,
    "forecast": False,
    "random_baseline": False,
}


@pytest.fixture
def usual_signals():
    """Python's own handlers: a test may run in a background shell, which ignores Ctrl-C."""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before:
        signal.signal(number, handler)


class SignalEnv(CountingEnv):
    """Sends a signal to the training process at a step of one of its objects; `after` counts all steps of the class."""

    number, after, steps, whole = signal.SIGINT, 60, 0, 0

    def step(self, action):
        type(self).steps += 1
        if type(self).steps == self.after:
            os.kill(self.whole, self.number)
        return super().step(action)


def signalling(number, after):
    """A maker of SignalEnv with a counter of its own."""
    kind = type("Signals", (SignalEnv,), {"number": number, "after": after, "steps": 0, "whole": os.getpid()})
    return lambda: kind(lengths=(10,))


ENDS = {signal.SIGINT: (KeyboardInterrupt, None), signal.SIGTERM: (SystemExit, 143), signal.SIGHUP: (SystemExit, 129)}


@pytest.mark.parametrize(
    ("number", "after", "settings"),
    [
        (signal.SIGINT, 70, {}),
        (signal.SIGTERM, 70, {}),
        (signal.SIGHUP, 70, {}),
        (signal.SIGINT, 10, {}),  # in the prefill
        (signal.SIGTERM, 125, {}),  # in the evaluation after the last step
        (signal.SIGTERM, 20, {"num_envs": 2, "backend": "async"}),
    ],
)
def test_a_signal_ends_the_program_and_not_learn_alone(tmp_path, usual_signals, number, after, settings):
    agent = reverie.Dreamer(signalling(number, after), preset="debug", run=tmp_path / "run", **TINY | settings)
    kind, code = ENDS[number]
    with pytest.raises(kind) as ended:
        agent.learn(quiet=True)
    assert getattr(ended.value, "code", None) == code
    assert checkpoint.checkpoints(tmp_path / "run")
    if number == signal.SIGINT:
        assert "the same call of learn continues it" in str(ended.value)
    done = agent.agent.updates  # what was learnt so far is at hand for who catches it
    if "backend" in settings:  # new workers would count from 0, and send the signal again
        return
    assert agent.learn(quiet=True).agent.updates >= done
    assert checkpoint.checkpoints(tmp_path / "run")[-1].name == f"step-{120:012d}"
