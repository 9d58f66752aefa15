"""Sessions of a served policy: each has a recurrent state and random numbers of its own; several act in one batch."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import UserError
from ..fast.modes import usual_switches
from ..share.policy_graph import PolicyGraph

#: Environments that act in one batch.
MOST_AT_ONCE = 64


class Gone(UserError):
    """The session has expired or never was."""


class Full(UserError):
    """There are as many sessions as there may be."""


@dataclass
class Session:
    """What is remembered of one environment."""

    rng: np.random.Generator
    state: dict[str, np.ndarray]  # {name of a state input: (size,)}
    used: float  # when, by the clock of `Sessions`
    steps: int = 0
    busy: int = 0  # requests that wait for an answer


class Asked(NamedTuple):
    """One observation that is to be acted on."""

    session: Session
    obs: dict[str, np.ndarray]  # encoded, without a leading axis
    first: bool


@dataclass
class Sessions:
    """All sessions of one policy. Not for several threads at a time, but for `step`."""

    graph: PolicyGraph
    most: int = 100
    expire: float = 600.0  # seconds without a request
    clock: Callable[[], float] = time.monotonic
    held: dict[str, Session] = field(default_factory=dict)

    def begin(self, seed: int | None = None) -> str:
        """A new session. -> its name. Raises Full."""
        now = self.clock()
        for name, session in list(self.held.items()):
            if not session.busy and now - session.used > self.expire:
                del self.held[name]
        if len(self.held) >= self.most:
            raise Full(f"there are {self.most} sessions already.", "End one with DELETE, or wait until one expires.")
        state = {p.name: np.zeros(p.shape, np.float32) for p in self.graph.inputs if p.role == "state"}
        name = secrets.token_urlsafe(16)
        self.held[name] = Session(np.random.default_rng(seed), state, now)
        return name

    def get(self, name: str) -> Session:
        """The session of that name, which does not expire now. Raises Gone."""
        session = self.held.get(name)
        if session is None or (not session.busy and self.clock() - session.used > self.expire):
            self.held.pop(name, None)
            raise Gone("this session has expired or never was.", "Begin a new one: send no session.")
        session.used = self.clock()
        return session

    def end(self, name: str) -> None:
        """Forget a session. Raises Gone."""
        self.get(name)
        del self.held[name]

    @usual_switches()
    @torch.no_grad()
    def step(self, batch: Sequence[Asked]) -> list[Any]:
        """Act for several sessions, no two of which are the same. -> the environments' own actions.

        Raises UserError where the policy gives no finite numbers, and leaves the sessions as they were.
        """
        drawn: list[dict[str, np.ndarray]] = []
        for asked in batch:
            found = {}
            for port in self.graph.inputs:
                if port.role == "uniform":
                    found[port.name] = asked.session.rng.random(port.shape, np.float32)
                elif port.role == "normal":
                    found[port.name] = asked.session.rng.standard_normal(port.shape, np.float32)
            drawn.append({**asked.session.state, **found, "is_first": np.array(asked.first or not asked.session.steps)})
        given = {key: torch.from_numpy(np.stack([row[key] for row in drawn])) for key in drawn[0]}
        obs = {key: torch.from_numpy(np.stack([asked.obs[key] for asked in batch])) for key in batch[0].obs}
        vector, state = self.graph.act(obs, given)
        if not (torch.isfinite(vector).all() and torch.isfinite(state.deter).all()):
            raise UserError("the policy gave a number that is not finite.", "Check the observation, or begin again.")
        after = {"deter": state.deter.numpy(), "stoch": state.stoch.numpy(), "last_action": vector.numpy()}
        for row, asked in enumerate(batch):
            asked.session.state = {key: value[row].copy() for key, value in after.items()}
            asked.session.steps += 1
        return [self.graph.spec.action.decode_one(row) for row in after["last_action"]]


class Batcher:
    """Collects what arrives while a batch is computed into the next one."""

    def __init__(self, sessions: Sessions, run: Callable[..., Any]) -> None:
        """run: awaits a function in a thread, such as starlette's `run_in_threadpool`."""
        self.sessions = sessions
        self.run = run
        self.waiting: list[tuple[Asked, asyncio.Future[Any]]] = []
        self.largest = 0  # batch so far
        self._loop: asyncio.Task[None] | None = None

    async def act(self, asked: Asked) -> Any:
        """-> the action. Raises what `Sessions.step` raises."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.append((asked, answer))
        asked.session.busy += 1
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._work())
        try:
            return await answer
        finally:
            asked.session.busy -= 1
            asked.session.used = self.sessions.clock()

    async def _work(self) -> None:
        while self.waiting:
            batch: list[tuple[Asked, asyncio.Future[Any]]] = []
            later: list[tuple[Asked, asyncio.Future[Any]]] = []
            taken: set[int] = set()
            for asked, answer in self.waiting:
                fits = id(asked.session) not in taken and len(batch) < MOST_AT_ONCE
                taken.add(id(asked.session))  # a later request of the same session waits for the earlier one
                (batch if fits else later).append((asked, answer))
            self.waiting = later
            self.largest = max(self.largest, len(batch))
            try:
                actions = await self.run(self.sessions.step, [asked for asked, _ in batch])
            except Exception as error:  # each request reports it
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), action in zip(batch, actions, strict=True):
                if not answer.done():
                    answer.set_result(action)
