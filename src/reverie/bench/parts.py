"""Time and arithmetic of an update by part, measured from outside: the agent's methods are wrapped for a while.

The algorithm does not know about it. What happens between the parts counts as "rest".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch

from ..train import DreamerV2

WORLD, BEHAVIOUR = "world model", "behaviour"


class PartTime(NamedTuple):
    """A part of an update; calls inside of a closed one belong to it."""

    name: str
    closed: bool = True


class Watch:
    """Follows which part is running: `path`, outermost first; `change` is called at every border."""

    def __init__(self) -> None:
        self.path: list[PartTime] = []

    def change(self) -> None:
        """Called before every change of `path`."""

    @property
    def here(self) -> tuple[str, str]:
        """(phase, part) that is running."""
        if not self.path:
            return "", "rest"
        return self.path[0].name, self.path[-1].name if len(self.path) > 1 else "rest"

    def wrap(self, function: Callable[..., Any], part: PartTime) -> Callable[..., Any]:
        """The same function, watched."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            if self.path and self.path[-1].closed:
                return function(*args, **kwargs)
            self.change()
            self.path.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.change()
                self.path.pop()

        return watched


def _methods(agent: DreamerV2) -> list[tuple[Any, str, PartTime]]:
    """(object, method, part): the methods with which parts begin."""
    model = agent.world_model
    methods: list[tuple[Any, str, PartTime]] = [
        (agent, "train_world_model", PartTime(WORLD, closed=False)),
        (agent, "train_actor_critic", PartTime(BEHAVIOUR, closed=False)),
        (agent, "_step", PartTime("clipping", closed=False)),
        (torch.autograd, "grad", PartTime("backward")),
        (model.encoder, "forward", PartTime("encoder")),
        (model.rssm, "rollout_observation", PartTime("dynamics")),
        (model.rssm, "kl_loss", PartTime("KL")),
    ]
    for behavior in agent.behaviors:
        methods += [
            (behavior, "imagine", PartTime("imagination: dynamics", closed=False)),
            (behavior, "dream_action", PartTime("imagination: actor")),
            (behavior, "predict", PartTime("imagined rewards, ends, values")),
            (behavior, "actor_loss", PartTime("actor loss")),
            (behavior.critic, "stats", PartTime("critic loss")),
            (behavior, "critic_nll", PartTime("critic loss")),
        ]
    for name, head in model.heads.items():
        kind = name.split("/")[0]
        image = name in {f"obs/{key.replace('.', '_')}" for key in model.encoder.image_keys}
        methods.append((head, "loss", PartTime("decoder" if image else f"{kind} head")))
    methods += [(optimizer, "step", PartTime("optimiser")) for optimizer in agent.optimizers.values()]
    return [item for item in methods if hasattr(item[0], item[1])]


@contextmanager
def watched(agent: DreamerV2, watch: Watch) -> Iterator[None]:
    """Wrap the agent's methods, and put everything back afterwards."""
    with ExitStack() as stack:
        for owner, name, part in _methods(agent):
            stack.callback(_put_back, owner, name, owner.__dict__.get(name))
            setattr(owner, name, watch.wrap(getattr(owner, name), part))
        yield


def _put_back(owner: Any, name: str, before: Any) -> None:
    if before is None:
        delattr(owner, name)
    else:
        setattr(owner, name, before)


class Stopwatch(Watch):
    """Seconds of each part, without those of parts inside it."""

    def __init__(self, finish: Callable[[], None]) -> None:
        """finish: waits for the device before the time is read."""
        super().__init__()
        self.finish, self.last = finish, 0.0
        self.spent: dict[tuple[str, str], float] = {}

    def change(self) -> None:
        """Add the time since the last change to the part that it was spent in."""
        self.finish()
        now = time.perf_counter()
        if self.path:
            self.spent[self.here] = self.spent.get(self.here, 0.0) + now - self.last
        self.last = now
