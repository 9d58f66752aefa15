"""Connections of the dashboard: not too many at a time, and none that waits for ever with half a request."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Connections at a time; a further one is closed at once. A page needs two or three.
MOST_CONNECTIONS = 200
#: Seconds that a request may take to arrive as a whole.
ARRIVE_SECONDS = 10.0


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP with these two limits, which it does not have."""

    arrive_seconds = ARRIVE_SECONDS
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A new connection: its first request has to arrive in time."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Some bytes: they do not move the deadline, a whole request ends it."""
        super().data_received(data)
        self._watch()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """From here on it is no HTTP."""
        self._forget()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side is gone."""
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        waits = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if not waits or self.transport.is_closing():
            self._forget()
        elif self._deadline is None and self in self.connections:
            self._deadline = self.loop.call_later(self.arrive_seconds, self.transport.abort)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
