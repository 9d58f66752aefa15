"""The routes of the dashboard. Static files and jobs are fixed lists; runs and videos are requested by number."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
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
from ..files import read_bytes as read_video
from .assets import asset
from .columns import AXES
from .csv_export import episodes_csv, metrics_csv
from .jobs import JOBS, Job, JobRunner, explain_metric, unit_of
from .play_socket import PlayServer
from .runs import RunIndex, WatchedRun, compare_configs

#: Files of the page: name in the URL -> media type. Nothing else of the folder is served.
ASSETS = {
    "index.html": "text/html",
    "play.html": "text/html",
    "style.css": "text/css",
    "uplot.css": "text/css",
    "uplot.js": "text/javascript",
    "common.js": "text/javascript",
    "session.js": "text/javascript",
    "charts.js": "text/javascript",
    "svg.js": "text/javascript",
    "panels.js": "text/javascript",
    "notes.js": "text/javascript",
    "player.js": "text/javascript",
    "watch.js": "text/javascript",
    "play.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "uplot-LICENSE.txt": "text/plain",
}
POLL_SECONDS, SCAN_EVERY, BEAT_SECONDS, FIRST_SECONDS = 1.0, 10, 15, 1.0
MOST_LISTENERS, MOST_POINTS, MOST_KEYS, MOST_LINES_AT_ONCE = 32, 5000, 64, 200
MOST_TOGETHER, BIGGEST_BODY = 100, 2**16


_log = logging.getLogger(__name__)


class LiveUpdates:
    """Server-sent events for all pages from one loop that reads new lines while a page is open. Pages never poll."""

    def __init__(self, runs: RunIndex, seconds: float = POLL_SECONDS) -> None:
        self.runs = runs
        self.seconds = seconds  # between two reads
        self.listeners: set[asyncio.Queue[str]] = set()
        self._sent: dict[int, tuple[int, int]] = {}  # run: generation and number of lines that were sent
        self._loop: asyncio.Task[None] | None = None

    def join(self) -> asyncio.Queue[str]:
        """A place for one more page, which `leave` gives back. Raises HTTPException where all are taken.

        At once and not when its events are first asked for: pages that come together would all find a place.
        """
        if len(self.listeners) >= MOST_LISTENERS:
            raise HTTPException(503, f"{MOST_LISTENERS} pages are open already. Close one of them.")
        queue: asyncio.Queue[str] = asyncio.Queue(100)
        if not self.listeners:
            self._sent = {run.id: (run.generation, run.count) for run in self.runs.all()}
        self.listeners.add(queue)
        if self._loop is None or self._loop.done():
            self._loop = asyncio.create_task(self._read_and_send())
        return queue

    def leave(self, queue: asyncio.Queue[str]) -> None:
        """The page is gone."""
        self.listeners.discard(queue)

    async def events(self, queue: asyncio.Queue[str]) -> AsyncIterator[str]:
        """The server-sent events for one page."""
        yield _event("hello", {"version": __version__})
        while True:
            try:
                yield await asyncio.wait_for(queue.get(), BEAT_SECONDS)
            except TimeoutError:
                yield ": alive\n\n"

    async def _read_and_send(self) -> None:
        rounds = 0
        states: list[Any] = []
        while self.listeners:
            rounds += 1
            try:
                states = await self._send_news(rounds, states)
            except Exception:  # the next round may work; the pages must not fall silent
                _log.exception("reading the runs failed")
            await asyncio.sleep(self.seconds)

    async def _send_news(self, rounds: int, states: list[Any]) -> list[Any]:
        """Send what is new. states: of all runs, as sent last. -> the same now."""
        if rounds % SCAN_EVERY == 0 and await run_in_threadpool(self.runs.scan):
            self._send(_event("runs", {}))
        updates = await run_in_threadpool(self._new_lines)
        for update in updates:
            self._send(_event("lines", update))
        if updates or rounds % 5 == 0:
            summaries = await run_in_threadpool(lambda: [run.summary() for run in self.runs.all()])
            if summaries != states:
                self._send(_event("summaries", {"runs": summaries}))
            return summaries
        return states

    def _new_lines(self) -> list[dict[str, Any]]:
        updates: list[dict[str, Any]] = []
        for run in self.runs.all():
            run.refresh_or_say()
            generation, count = self._sent.get(run.id, (run.generation, 0))
            lines = run.since(generation, count)
            self._sent[run.id] = (run.generation, run.count)
            if lines is None or len(lines) > MOST_LINES_AT_ONCE:
                updates.append({"id": run.id, "again": True})
            elif lines:
                updates.append({"id": run.id, "generation": generation, "from": count, "lines": lines})
        return updates

    def say(self, name: str) -> None:
        """An event without content, to every page."""
        self._send(_event(name, {}))

    def _send(self, text: str) -> None:
        for queue in list(self.listeners):
            event = text
            if queue.full():  # a suspended page: it reloads everything when it resumes
                while not queue.empty():
                    queue.get_nowait()
                event = _event("lost", {})
            queue.put_nowait(event)


def _event(name: str, values: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(finite(values))}\n\n"


class Dashboard:
    """The web application: its routes and what they need."""

    def __init__(self, runs: RunIndex, *, jobs: Mapping[str, Job] = JOBS, seconds: float = POLL_SECONDS) -> None:
        self.runs = runs
        self.live = LiveUpdates(runs, seconds)
        self.jobs = JobRunner(jobs)
        self.play_server = PlayServer(runs)

    def app(self) -> Starlette:
        """The application, to be wrapped in `access.AccessControl`."""
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
            Route(f"{run}/trust", self._trust),
            Route(f"{run}/videos", self._videos),
            Route(f"{run}/videos/{{number:int}}", self._video),
            Route(f"{run}/jobs/{{name}}", self._job, methods=["GET", "POST"]),
            Route(f"{run}/jobs/dream/video.gif", self._comparison),
            Route(f"{run}/videos/{{number:int}}/frames", self._video_frames),
            Route(f"{run}/jobs/dream/frames", self._comparison_frames),
            Route(f"{run}/findings", self._findings),
            Route(f"{run}/notes", self._notes, methods=["POST"]),
            Route(f"{run}/delete", self._delete, methods=["POST"]),
            Route("/api/csv", self._csv),
            Route("/api/configs", self._configs),
            Route("/api/explain", self._explain),
            Route("/api/events", self._events),
            Route("/api/dreams/{session}.{kind}", self._dream_video),
            WebSocketRoute("/api/play", self._play),
        ]
        handlers: Any = {UserError: _user_error, HTTPException: _http_error}
        return Starlette(routes=routes, exception_handlers=handlers)

    def close(self) -> None:
        """Start no more work."""
        self.jobs.close()
        self.play_server.close()

    # ------------------------------------------------------------------------------------------------------ files

    def _page(self, name: str) -> Any:
        async def page(request: Request) -> Response:
            return asset(name, ASSETS)

        return page

    async def _asset(self, request: Request) -> Response:
        return asset(request.path_params["name"], ASSETS)

    # ------------------------------------------------------------------------------------------------------- runs

    def _run(self, request: Request) -> WatchedRun:
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
        runs = await run_in_threadpool(summaries)
        units = {key: unit_of(key) for run in runs for key in run["keys"]}
        return _json({"version": __version__, "roots": roots, "units": units, "runs": runs})

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

    async def _trust(self, request: Request) -> Response:
        return _json({"trust": await run_in_threadpool(self._run(request).trust)})

    async def _findings(self, request: Request) -> Response:
        return _json({"found": await run_in_threadpool(self._run(request).findings)})

    async def _videos(self, request: Request) -> Response:
        return _json({"videos": await run_in_threadpool(self._run(request).videos)})

    async def _video(self, request: Request) -> Response:
        run = self._run(request)
        await run_in_threadpool(run.videos)  # this assigns the numbers
        found = run.video(request.path_params["number"])
        if found is None:
            raise HTTPException(404, "There is no such video.")
        return FileResponse(found[0], media_type=found[1], headers={"cache-control": "no-cache"})

    async def _video_frames(self, request: Request) -> Response:
        """A video as one sheet of frames, for a player that can pause."""
        from .frame_sheet import frame_sheet

        run = self._run(request)
        await run_in_threadpool(run.videos)
        found = run.video(request.path_params["number"])
        if found is None or found[1] != "image/gif":
            raise HTTPException(404, "There is no such GIF.")
        return _json(await run_in_threadpool(lambda: frame_sheet(read_video(found[0]))))

    async def _comparison_frames(self, request: Request) -> Response:
        from .frame_sheet import frame_sheet

        found = self.jobs.state(self._run(request).path, "dream").get("result")
        if not isinstance(found, bytes):
            raise HTTPException(404, "There is no such video yet.")
        return _json(await run_in_threadpool(frame_sheet, found))

    def _chosen(self, request: Request) -> list[WatchedRun]:
        """The runs that the query names by their numbers."""
        words = request.query_params.get("runs", "").split(",")
        numbers = [int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 6][:MOST_TOGETHER]
        return [run for run in map(self.runs.get, numbers) if run is not None]

    async def _csv(self, request: Request) -> Response:
        """Metrics of some runs (?runs=0,1&keys=a,b), or their episodes (without keys), as they were logged."""
        chosen, keys = self._chosen(request), request.query_params.get("keys", "")
        make = partial(metrics_csv, chosen, keys.split(",")[:MOST_KEYS]) if keys else partial(episodes_csv, chosen)
        headers = {"content-disposition": "attachment", "cache-control": "no-store"}
        return Response(await run_in_threadpool(make), media_type="text/csv; charset=utf-8", headers=headers)

    # -------------------------------------------------------------------------------------------------- notes, deletion

    async def _asked(self, request: Request) -> tuple[WatchedRun, dict[str, Any]]:
        """The run and the body of a change. The body names the run: numbers begin again with the server."""
        run, body = self._run(request), await _body(request)
        if body.get("name") != finite(run.name):
            raise HTTPException(409, "This page is of another server. Load it again.")
        return run, body

    async def _notes(self, request: Request) -> Response:
        run, body = await self._asked(request)
        return _json((await run_in_threadpool(run.annotate, body))._asdict())

    async def _delete(self, request: Request) -> Response:
        run, _ = await self._asked(request)
        left = await run_in_threadpool(self.runs.delete, run)
        self.live.say("runs")
        return _json({"left": left})

    async def _configs(self, request: Request) -> Response:
        chosen = self._chosen(request)[:20]
        return _json({"runs": [run.id for run in chosen], "rows": compare_configs(chosen)})

    # ------------------------------------------------------------------------------------------------------- jobs

    async def _job(self, request: Request) -> Response:
        run, name = self._run(request), request.path_params["name"]
        if name not in self.jobs.jobs:
            raise HTTPException(404, "There is no such job.")
        if request.method == "POST":  # which a link of another site cannot be
            self.jobs.start(run.path, name)
        state = self.jobs.state(run.path, name)
        if isinstance(state.get("result"), bytes):
            state["result"] = f"/api/runs/{run.id}/jobs/{name}/video.gif"
        return _json(state)

    async def _comparison(self, request: Request) -> Response:
        found = self.jobs.state(self._run(request).path, "dream").get("result")
        if not isinstance(found, bytes):
            raise HTTPException(404, "There is no such video yet.")
        return Response(found, media_type="image/gif", headers={"cache-control": "no-store"})

    async def _explain(self, request: Request) -> Response:
        key = request.query_params.get("key", "")[:200]
        return _json(await run_in_threadpool(explain_metric, key) or {})

    # ------------------------------------------------------------------------------------------------ live and play

    async def _events(self, request: Request) -> Response:
        queue = self.live.join()
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        left = partial(self.live.leave, queue)
        return _Events(left, self.live.events(queue), media_type="text/event-stream", headers=headers)

    async def _dream_video(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in ("gif", "mp4"):
            raise HTTPException(404, "A video is a GIF or an MP4.")
        video = await self.play_server.video(request.path_params["session"], kind)
        if video is None:
            raise HTTPException(404, "This dream no longer exists.")
        disposition = f'attachment; filename="dream.{kind}"'
        media = {"gif": "image/gif", "mp4": "video/mp4"}[kind]
        return Response(
            video, media_type=media, headers={"content-disposition": disposition, "cache-control": "no-store"}
        )

    async def _play(self, socket: WebSocket) -> None:
        await self.play_server.serve(socket)


class _Events(StreamingResponse):
    """A stream that says when it has ended, also where it never began."""

    def __init__(self, ended: Callable[[], None], content: AsyncIterator[str], **options: Any) -> None:
        super().__init__(content, **options)
        self.ended = ended

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.ended()


def _json(values: Any) -> Response:
    return JSONResponse(finite(values), headers={"cache-control": "no-store"})


def finite(values: Any) -> Any:
    """The values with null for NaN and infinity, which JSON does not have; text that UTF-8 has."""
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, str):  # names of files need not be text
        return values.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(values, Mapping):
        return {finite(str(key)): finite(value) for key, value in values.items()}
    return [finite(value) for value in values] if isinstance(values, list | tuple) else values


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that a page sent. Raises HTTPException."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "Send JSON.")
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > BIGGEST_BODY:
            raise HTTPException(413, "That is too long.")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise HTTPException(400, "That is no JSON object.")
    return found


def _axis(request: Request) -> str:
    axis = request.query_params.get("x", "")
    return axis if axis in AXES else AXES[0]


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", "")
    return max(10, min(MOST_POINTS, int(text))) if text.isascii() and text.isdigit() and len(text) < 6 else 600


async def _user_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return JSONResponse({"message": error.message, "hint": error.hint}, 400)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"message": error.detail}, error.status_code)
