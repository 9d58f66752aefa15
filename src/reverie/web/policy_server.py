"""The server of `reverie serve`: observations in, actions out, with the access rules of the dashboard."""

from __future__ import annotations

import html
import json
import secrets
import socket
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..errors import UserError
from ..share.policy_graph import PolicyGraph
from .access import AccessControl, Scope
from .policy_schema import LARGEST, largest_body, openapi
from .policy_sessions import Asked, Batcher, Full, Gone, Sessions
from .server import bind, configured, is_loopback, own_names, shown_name

KEYS = {"session", "observation", "first", "seed", "mask"}


class Refused(Exception):
    """A request that gets a status other than 400, and a sentence."""

    def __init__(self, status: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


class PolicyApp:
    """The routes, and what they need."""

    def __init__(self, graph: PolicyGraph, *, title: str, most: int = 100, expire: float = 600.0, tokens: bool) -> None:
        """most: sessions at a time; expire: seconds after which an idle one is forgotten; tokens: are they required?"""
        self.spec = graph.spec
        self.sessions = Sessions(graph, most, expire)
        self.batcher = Batcher(self.sessions, run_in_threadpool)
        self.document = openapi(graph.spec, title=title, tokens=tokens)
        self.largest = largest_body(graph.spec)

    def app(self) -> Starlette:
        """The application, to be wrapped in `PolicyAccess`."""
        routes = [
            Route("/", self._page),
            Route("/openapi.json", self._openapi),
            Route("/status", self._status),
            Route("/act", self._act, methods=["POST"]),
            Route("/sessions/{session}", self._end, methods=["DELETE"]),
        ]
        handlers: Any = {UserError: _user_error, Refused: _refused, HTTPException: _http_error}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(self.document)

    async def _status(self, request: Request) -> Response:
        counts = {"sessions": len(self.sessions.held), "most": self.sessions.most}
        return JSONResponse(counts | {"largest_batch": self.batcher.largest})

    async def _page(self, request: Request) -> Response:
        return Response(_html(self.document), media_type="text/html")

    async def _end(self, request: Request) -> Response:
        self.sessions.end(request.path_params["session"])
        return Response(status_code=204)

    async def _act(self, request: Request) -> Response:
        values = await self._body(request)
        obs = await run_in_threadpool(self._encoded, values)
        given = values.get("session")
        name = self.sessions.begin(values.get("seed")) if given is None else given
        session = self.sessions.get(name)
        action = await self.batcher.act(Asked(session, obs, values.get("first", False)))
        return JSONResponse({"session": name, "step": session.steps, "action": plain(action)})

    async def _body(self, request: Request) -> dict[str, Any]:
        """The JSON object of a request. Raises Refused and UserError."""
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise Refused(415, "the request must be application/json.", "Set the header content-type.")
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > self.largest:
                raise Refused(413, f"the request has more than {self.largest:,} bytes.", "Send one observation.")
        try:
            values = json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise UserError(f"the request is no JSON ({error})."[:200], "Numbers must be finite.") from error
        _require_form(values)
        return values

    def _encoded(self, values: dict[str, Any]) -> dict[str, np.ndarray]:
        """The observation as the agent sees it. Raises UserError for what is not of its space."""
        try:
            _require_numbers(values["observation"])
            encoded = self.spec.encode(values["observation"], values.get("mask"))
        except (ValueError, TypeError, OverflowError, KeyError, IndexError) as error:
            raise UserError(f"the observation does not fit ({error})."[:200], "See /openapi.json.") from error
        for key, value in encoded.items():
            item = self.spec.obs[key]
            if value.shape != item.shape or not np.isfinite(value).all() or np.abs(value).max() > LARGEST:
                raise UserError(
                    f"the observation '{key}' must have numbers up to {LARGEST:g} in shape {list(item.raw_shape)}.",
                    "See /openapi.json.",
                )
        return encoded


class PolicyAccess(AccessControl):
    """The dashboard's checks, for programs instead of pages: POST and DELETE may come without an Origin, and the token
    as `Authorization: Bearer TOKEN`. A page of another site is refused as there."""

    reads_only = False

    def _has_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        kind, _, offered = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return secrets.compare_digest(offered.strip().encode(), self.token.encode())
        return super()._has_token(scope, headers)


def _require_form(values: Any) -> None:
    """Are the keys of a request those of the schema, with values of their types? Raises UserError."""
    hint = "See /openapi.json."
    if not isinstance(values, dict):
        raise UserError("the request must be a JSON object.", hint)
    unknown = sorted(values.keys() - KEYS)
    if unknown or "observation" not in values:
        raise UserError(f"unknown key '{unknown[0]}'."[:200] if unknown else "there is no observation.", hint)
    kinds = {"session": str, "first": bool, "seed": int}
    for key, kind in kinds.items():
        if key in values and type(values[key]) is not kind:
            raise UserError(f"'{key}' must be of type {kind.__name__}.", hint)
    if not 0 <= values.get("seed", 0) < 2**32:
        raise UserError("'seed' must be 0 to 4294967295.", hint)
    if "seed" in values and "session" in values:
        raise UserError("'seed' is for a new session.", "Send no session with it.")


def _require_numbers(value: Any) -> None:
    """Is a nested value made of numbers alone? Raises UserError."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _require_numbers(item)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError("an observation is made of numbers.", "See /openapi.json.")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def plain(value: Any) -> Any:
    """An action as JSON has it: lists and numbers, of a nested space dicts and lists."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@dataclass(frozen=True)
class PolicyServer:
    """A bound server; `run` serves until Ctrl-C, SIGTERM or `stop`."""

    url: str
    token: str  # "" for none
    socket: socket.socket
    server: Any  # uvicorn.Server

    def run(self) -> None:
        """Serve until Ctrl-C, SIGTERM or `stop`."""
        try:
            self.server.run([self.socket])
        finally:
            self.socket.close()

    def stop(self) -> None:
        """End `run`; may be called from another thread."""
        self.server.should_exit = True


def prepare_policy(
    graph: PolicyGraph, *, title: str, host: str, port: int | None, token: bool, most: int, expire: float
) -> PolicyServer:
    """Bind an address and build the server. token: require one also on loopback; the rest as `PolicyApp`.

    Raises UserError for an address that cannot be bound.
    """
    bound = bind(host, port)
    word = secrets.token_urlsafe(32) if token or not is_loopback(host) else ""
    number = int(bound.getsockname()[1])
    served = PolicyApp(graph, title=title, most=most, expire=expire, tokens=bool(word))
    protected = PolicyAccess(served.app(), names=own_names(host), token=word, port=number)
    return PolicyServer(f"http://{shown_name(host)}:{number}/", word, bound, configured(protected))


def _html(document: dict[str, Any]) -> str:
    """The description as a page without scripts."""
    rows = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            codes = ", ".join(f"{code} {answer['description']}" for code, answer in operation["responses"].items())
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            rows.append(f"<h2>{method.upper()} {html.escape(path)}</h2><p>{html.escape(operation['summary'])}</p>")
            rows.append(f"<p>{html.escape(codes)}</p>")
            if body:
                rows.append(f"<pre>{html.escape(json.dumps(body, indent=1))}</pre>")
    title = html.escape(document["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>'
        f'<p><a href="/openapi.json">openapi.json</a></p>{"".join(rows)}</html>'
    )


async def _user_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    status = 404 if isinstance(error, Gone) else 503 if isinstance(error, Full) else 400
    return JSONResponse({"message": error.message, "hint": error.hint}, status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"message": error.message, "hint": error.hint}, error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"message": error.detail, "hint": "See /openapi.json."}, error.status_code, error.headers)
