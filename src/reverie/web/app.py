"""The routes of the dashboard. What can be asked for is a fixed list; runs and films are asked for by number."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from .. import __version__
from ..errors import UserError
from .columns import AXES
from .jobs import WORKS, Asks, Work, meaning_of
from .play_socket import PlayRoom
from .runs import RunData, Runs, compare_configs

#: Files of the page: name in the URL -> media type. Nothing else of the folder is served.
ASSETS = {
    "index.html": "text/html",
    "play.html": "text/html",
    "style.css": "text/css",
    "uplot.css": "text/css",
    "uplot.js": "text/javascript",
    "common.js": "text/javascript",
    "charts.js": "text/javascript",
    "panels.js": "text/javascript",
    "watch.js": "text/javascript",
    "play.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "uplot-LICENSE.txt": "text/plain",
}
POLL_SECONDS, SCAN_EVERY, BEAT_SECONDS, FIRST_SECONDS = 1.0, 10, 15, 1.0
MOST_LISTENERS, MOST_POINTS, MOST_KEYS, MOST_LINES_AT_ONCE = 32, 5000, 64, 200


class Live:
    """One loop that looks for new lines while anybody listens, and tells all pages: pages never poll."""

    def __init__(self, runs: Runs, seconds: float = POLL_SECONDS) -> None:
        self.runs, self.seconds = runs, seconds
        self.listeners: set[asyncio.Queue[str]] = set()
        self._told: dict[int, tuple[int, int]] = {}  # run: generation and lines that were told
        self._loop: asyncio.Task[None] | None = None

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events for one page."""
        queue: asyncio.Queue[str] = asyncio.Queue(100)
        if not self.listeners:
            self._told = {run.id: (run.generation, run.count) for run in self.runs.all()}
        self.listeners.add(queue)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._follow())
        try:
            yield _event("hello", {"version": __version__})
            while True:
                try:
                    yield await asyncio.wait_for(queue.get(), BEAT_SECONDS)
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            self.listeners.discard(queue)

    async def _follow(self) -> None:
        rounds = 0
        states: list[Any] = []
        while self.listeners:
            rounds += 1
            if rounds % SCAN_EVERY == 0 and await run_in_threadpool(self.runs.scan):
                self._tell(_event("runs", {}))
            told = await run_in_threadpool(self._news)
            for news in told:
                self._tell(_event("lines", news))
            if told or rounds % 5 == 0:
                summaries = await run_in_threadpool(lambda: [run.summary() for run in self.runs.all()])
                if summaries != states:
                    states = summaries
                    self._tell(_event("summaries", {"runs": summaries}))
            await asyncio.sleep(self.seconds)

    def _news(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for run in self.runs.all():
            run.refresh()
            generation, count = self._told.get(run.id, (run.generation, 0))
            lines = run.since(generation, count)
            self._told[run.id] = (run.generation, run.count)
            if lines is None or len(lines) > MOST_LINES_AT_ONCE:
                found.append({"id": run.id, "again": True})
            elif lines:
                found.append({"id": run.id, "generation": generation, "from": count, "lines": lines})
        return found

    def _tell(self, news: str) -> None:
        for queue in list(self.listeners):
            event = news
            if queue.full():  # a page that sleeps: it shall ask for everything when it wakes
                while not queue.empty():
                    queue.get_nowait()
                event = _event("lost", {})
            queue.put_nowait(event)


def _event(name: str, values: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(values)}\n\n"


class Dashboard:
    """Everything that answers."""

    def __init__(self, runs: Runs, *, works: Mapping[str, Work] = WORKS, seconds: float = POLL_SECONDS) -> None:
        self.runs, self.live, self.asks, self.room = runs, Live(runs, seconds), Asks(works), PlayRoom(runs)

    def app(self) -> Starlette:
        """The routes; `guard.Guard` must stand before them."""
        run = "/api/runs/{run:int}"
        routes = [
            Route("/", self._page("index.html")),
            Route("/play", self._page("play.html")),
            Route("/static/{name}", self._asset),
            Route("/api/runs", self._list),
            Route(f"{run}/series", self._series),
            Route(f"{run}/returns", self._returns),
            Route(f"{run}/episodes", self._episodes),
            Route(f"{run}/latents", self._latents),
            Route(f"{run}/about", self._about),
            Route(f"{run}/videos", self._videos),
            Route(f"{run}/videos/{{number:int}}", self._video),
            Route(f"{run}/ask/{{what}}", self._ask),
            Route(f"{run}/ask/dream/film.gif", self._reality),
            Route("/api/configs", self._configs),
            Route("/api/explain", self._explain),
            Route("/api/events", self._events),
            Route("/api/film/{number}.{kind}", self._film),
            WebSocketRoute("/api/play", self._play),
        ]
        told = {UserError: _told_user, HTTPException: _told_plainly}
        return Starlette(routes=routes, exception_handlers=told)

    def close(self) -> None:
        """Begin nothing more."""
        self.asks.close()
        self.room.close()

    # ------------------------------------------------------------------------------------------------------ files

    def _page(self, name: str) -> Any:
        async def page(request: Request) -> Response:
            return _file(name)

        return page

    async def _asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in ASSETS:
            raise HTTPException(404, "There is no such file.")
        return _file(name)

    # ------------------------------------------------------------------------------------------------------- runs

    def _run(self, request: Request) -> RunData:
        run = self.runs.get(request.path_params["run"])
        if run is None:
            raise HTTPException(404, "There is no such run.")
        return run

    async def _list(self, request: Request) -> Response:
        def summaries() -> list[dict[str, Any]]:
            self.runs.scan()
            self.runs.refresh(FIRST_SECONDS)
            return [run.summary() | {"keys": run.keys()} for run in self.runs.all()]

        roots = [str(root) for root in self.runs.roots]
        return _json({"version": __version__, "roots": roots, "runs": await run_in_threadpool(summaries)})

    async def _series(self, request: Request) -> Response:
        run = self._run(request)
        keys = request.query_params.get("keys", "").split(",")[:MOST_KEYS]
        return _json(await run_in_threadpool(run.series, keys, _axis(request), _limit(request)))

    async def _returns(self, request: Request) -> Response:
        return _json(await run_in_threadpool(self._run(request).returns, _axis(request), _limit(request)))

    async def _episodes(self, request: Request) -> Response:
        return _json({"episodes": await run_in_threadpool(self._run(request).newest_episodes)})

    async def _latents(self, request: Request) -> Response:
        found = await run_in_threadpool(self._run(request).read_json, "latents.json")
        return _json(found or {"usage": None})

    async def _about(self, request: Request) -> Response:
        run = self._run(request)
        provenance = await run_in_threadpool(run.read_json, "provenance.json")
        return _json({"path": str(run.path), "provenance": provenance or {}})

    async def _videos(self, request: Request) -> Response:
        return _json({"videos": await run_in_threadpool(self._run(request).videos)})

    async def _video(self, request: Request) -> Response:
        run = self._run(request)
        await run_in_threadpool(run.videos)  # numbers are given out here
        found = run.video(request.path_params["number"])
        if found is None:
            raise HTTPException(404, "There is no such film.")
        return FileResponse(found[0], media_type=found[1], headers={"cache-control": "no-cache"})

    async def _configs(self, request: Request) -> Response:
        numbers = [int(x) for x in request.query_params.get("runs", "").split(",") if x.isascii() and x.isdigit()][:20]
        chosen = [run for run in map(self.runs.get, numbers) if run is not None]
        return _json({"runs": [run.id for run in chosen], "rows": compare_configs(chosen)})

    # --------------------------------------------------------------------------------------- computed when asked for

    async def _ask(self, request: Request) -> Response:
        run, what = self._run(request), request.path_params["what"]
        if what not in self.asks.works:
            raise HTTPException(404, "Nobody can be asked that.")
        if request.query_params.get("start") == "1":
            self.asks.start(run.path, what)
        state = self.asks.state(run.path, what)
        if isinstance(state.get("result"), bytes):
            state["result"] = f"/api/runs/{run.id}/ask/{what}/film.gif"
        return _json(state)

    async def _reality(self, request: Request) -> Response:
        found = self.asks.state(self._run(request).path, "dream").get("result")
        if not isinstance(found, bytes):
            raise HTTPException(404, "There is no such film yet.")
        return Response(found, media_type="image/gif", headers={"cache-control": "no-store"})

    async def _explain(self, request: Request) -> Response:
        key = request.query_params.get("key", "")[:200]
        return _json(await run_in_threadpool(meaning_of, key) or {})

    # ------------------------------------------------------------------------------------------------ live and play

    async def _events(self, request: Request) -> Response:
        if len(self.live.listeners) >= MOST_LISTENERS:
            raise HTTPException(503, f"{MOST_LISTENERS} pages are following already.")
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(self.live.events(), media_type="text/event-stream", headers=headers)

    async def _film(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in ("gif", "mp4"):
            raise HTTPException(404, "A film is a GIF or an MP4.")
        film = await self.room.film(request.path_params["number"], kind)
        if film is None:
            raise HTTPException(404, "There is no such dream any more.")
        disposition = f'attachment; filename="dream.{kind}"'
        media = {"gif": "image/gif", "mp4": "video/mp4"}[kind]
        return Response(
            film, media_type=media, headers={"content-disposition": disposition, "cache-control": "no-store"}
        )

    async def _play(self, socket: WebSocket) -> None:
        await self.room.serve(socket)


def _file(name: str) -> Response:
    content = (files(__package__) / "static" / name).read_bytes()
    return Response(content, media_type=ASSETS[name], headers={"cache-control": "no-cache"})


def _json(values: Any) -> Response:
    return JSONResponse(finite(values), headers={"cache-control": "no-store"})


def finite(values: Any) -> Any:
    """JSON knows no NaN and no infinity: null instead."""
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Mapping):
        return {str(key): finite(value) for key, value in values.items()}
    return [finite(value) for value in values] if isinstance(values, list | tuple) else values


def _axis(request: Request) -> str:
    asked = request.query_params.get("x", "")
    return asked if asked in AXES else AXES[0]


def _limit(request: Request) -> int:
    asked = request.query_params.get("limit", "")
    return max(10, min(MOST_POINTS, int(asked))) if asked.isascii() and asked.isdigit() and len(asked) < 6 else 600


async def _told_user(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return JSONResponse({"message": error.message, "hint": error.hint}, 400)


async def _told_plainly(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"message": error.detail}, error.status_code)
