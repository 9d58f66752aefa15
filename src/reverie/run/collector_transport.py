"""Where collectors can be: what processes of this machine and actors of a Ray cluster have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .collector_work import Block


class Handle(Protocol):
    """A collector as the learner sees it. None of its methods but `end` waits."""

    where: str  # the machine

    def ask(self, rows: int) -> None:
        """For so many more rows of each of its environments."""

    def load(self, version: int, weights: Any) -> None:
        """Let it act with these weights from the next row on."""

    def close(self) -> None:
        """Ask it to close its environments and end."""

    def end(self, until: float) -> list[str]:
        """Wait for that until a time (time.monotonic), then end it by force. -> its last notes. Never raises."""
        ...


class Transport(Protocol):
    """Where collectors can be started."""

    def start(self, task: bytes, deliver: Callable[[Any, Block | str], None]) -> Handle:
        """A new collector. deliver: called from a thread with it, and rows or why there are no more."""
        ...

    def pack(self, weights: bytes) -> Any:
        """What `Handle.load` takes."""

    def trouble(self) -> str:
        """Why no collector can be reached any more; "" if that is not so."""
        ...

    def close(self) -> None:
        """Release what is held."""
