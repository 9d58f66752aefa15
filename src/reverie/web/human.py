"""A person plays the real environment in the browser, and what happens is kept as a data set (`reverie record`).

in   {"do": "step", "choices": [2]} or "numbers": [0.1], {"do": "start"}, "next", "discard", "finish"
out  {"type": "started", "controls": ..., ...}  {"type": "frame", "step": 7, "image": ..., ...}  {"type": "error", ...}

"next" keeps the episode that has ended and begins another; "discard" forgets the one that is played, or has just ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..config import Config
from ..data.collect import Collector
from ..envs import EnvLike
from ..envs.spaces import MASK
from ..errors import UserError
from ..run.data_set import Rows
from ..run.evaluation import camera
from ..run.tasks import make_envs, spec_of
from .access import AccessControl
from .action_names import controls, vector_of
from .assets import asset
from .image_encoding import data_url
from .server import DashboardServer, bind, configured, is_loopback, own_names, require_web, shown_name

_log = logging.getLogger(__name__)
ASSETS = {
    "human.html": "text/html",
    "human.js": "text/javascript",
    "common.js": "text/javascript",
    "session.js": "text/javascript",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
}
#: Names of actions that do nothing: what is done while no key is held.
RESTS = ("noop", "none")


class HumanPlay:
    """The environment, the episode that is played, and those that are kept. Each has a seed of its own."""

    def __init__(self, config: Config, env: EnvLike | None, *, seed: int = 0) -> None:
        """Raises UserError."""
        self.config = config
        self.envs = make_envs(config, env, 1, backend="sync")
        self.spec = spec_of(self.envs)
        self.seed = seed
        self.kept: list[Rows] = []
        self._action = np.zeros((1, self.spec.action.size), np.float32)
        self._camera = camera(self.envs)[0]
        self.begin()

    def begin(self) -> None:
        """The first observation of another episode; what was played of the last one is forgotten."""
        self._moving = Collector(self.envs, seed=self.seed).rows(lambda obs, first: self._action)
        self.seed += 1
        self.rows = [next(self._moving)[0]]
        self._saved = False
        self._image = self._picture()

    @property
    def ended(self) -> bool:
        """Is the episode over?"""
        return bool(self.rows[-1]["is_last"][0])

    def step(self, action: np.ndarray) -> None:
        """One step with an action (A,). Raises UserError where it is not allowed now."""
        if self.ended:
            return  # a key that is still held
        allowed = self.rows[-1].get(f"obs/{MASK}")
        if allowed is not None and (action[self.spec.action.is_choice] > allowed[0][self.spec.action.is_choice]).any():
            raise UserError("this action is not allowed now.")
        self._action = action[None]
        self.rows.append(next(self._moving)[0])
        self._image = self._picture()

    def keep(self) -> None:
        """Keep the episode that has ended, once."""
        if self.ended and not self._saved:
            self._saved = True
            self.kept.append({key: np.stack([row[key][0] for row in self.rows]) for key in self.rows[0]})

    def frame(self) -> dict[str, Any]:
        """What the page shows."""
        row, reward = self.rows[-1], [float(x["reward"][0]) for x in self.rows]
        vectors = {key: row[f"obs/{key}"][0] for key in self.spec.vectors if self.spec.obs[key].kind != "mask"}
        return {
            "type": "frame",
            "step": len(self.rows) - 1,
            "reward": reward[-1],
            "score": float(np.sum(reward)),
            "ended": self.ended,
            "terminal": bool(row["is_terminal"][0]),
            "image": self._image,
            "vectors": {key: [float(f"{x:.5g}") for x in value.ravel()] for key, value in vectors.items()},
            "mask": row[f"obs/{MASK}"][0].tolist() if f"obs/{MASK}" in row else None,
        }

    def _picture(self) -> str | None:
        return None if self._camera is None else data_url(self._camera(self.rows[-1]))

    def close(self) -> None:
        """Close the environment."""
        self.envs.close()


class HumanServer:
    """One player at a time; `done` is called when as many episodes are kept as were wanted, or the page asks for it."""

    def __init__(self, config: Config, env: EnvLike | None, *, episodes: int, seed: int = 0) -> None:
        """Raises UserError."""
        self.episodes = episodes
        self.done: Callable[[], None] = lambda: None
        self._busy = False
        self._pool = ThreadPoolExecutor(1, "reverie-human")  # a renderer belongs to the thread that made it
        self.play = self._pool.submit(HumanPlay, config, env, seed=seed).result()

    def app(self) -> Starlette:
        """The application, to be wrapped in `access.AccessControl`."""
        routes = [
            Route("/", self._page),
            Route("/static/{name}", self._asset),
            WebSocketRoute("/api/human", self._serve),
        ]
        return Starlette(routes=routes)

    def close(self) -> None:
        """Close the environment, in its own thread. An episode that has ended and was not discarded is kept."""
        self._pool.submit(self._last).result()
        self._pool.shutdown()

    def _last(self) -> None:
        if len(self.play.kept) < self.episodes:
            self.play.keep()
        self.play.close()

    async def _page(self, request: Request) -> Response:
        return asset("human.html", ASSETS)

    async def _asset(self, request: Request) -> Response:
        return asset(request.path_params["name"], ASSETS)

    async def _serve(self, socket: WebSocket) -> None:
        await socket.accept()
        if self._busy:
            await socket.send_text(_error("another page plays already.", "Close it, and reload this one."))
            await socket.close(1013)
            return
        self._busy = True
        try:
            while True:
                text = await socket.receive_text()
                answer = await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, text)
                await socket.send_text(json.dumps(answer))
                if answer.get("done"):
                    self.done()
                    await socket.close()
                    return
        except (WebSocketDisconnect, KeyError):  # KeyError: bytes instead of text
            pass
        finally:
            self._busy = False

    def _answer(self, text: str) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            message = json.loads(text)
            answer = self._do(message if isinstance(message, dict) else {})
        except UserError as error:
            return {"type": "error", "message": error.message, "hint": error.hint}
        except (ValueError, RecursionError):
            return {"type": "error", "message": "this message cannot be read.", "hint": ""}
        except Exception as error:  # of the environment: the page shows it, whole episodes stay
            _log.exception("a command of the player failed")
            return {
                "type": "error",
                "message": f"{type(error).__name__}: {error}"[:300],
                "hint": "Begin another episode: discard.",
            }
        return answer | {"ms": round(1000 * (time.perf_counter() - started), 2)}

    def _do(self, message: dict[str, Any]) -> dict[str, Any]:
        play, command, done = self.play, message.get("do"), False
        if command == "step":
            for key in ("choices", "numbers"):
                if not isinstance(message.get(key, []), list):
                    raise UserError(f"'{key}' must be a list.")
            play.step(vector_of(play.spec, message))
            if play.ended and len(play.kept) + 1 >= self.episodes:
                play.keep()
                done = True
        elif command == "next" and play.ended:
            play.keep()
            play.begin()
        elif command == "discard":
            play.begin()
        elif command == "finish":
            play.keep()
            done = True
        elif command not in ("start", "next"):
            raise UserError("there is no such command.")
        counts = {"kept": len(play.kept), "episodes": self.episodes, "done": done}
        return play.frame() | counts | (self._about() if command == "start" else {})

    def _about(self) -> dict[str, Any]:
        found = controls(self.play.config, self.play.spec)
        rests = [next((i for i, name in enumerate(part["names"]) if name in RESTS), None) for part in found]
        return {"type": "started", "task": self.play.config.env.id, "controls": found, "rests": rests}


def prepare_human(
    config: Config,
    env: EnvLike | None,
    *,
    episodes: int,
    seed: int = 0,
    host: str = "127.0.0.1",
    port: int | None = None,
) -> DashboardServer:
    """Make the environment, bind an address and build the server; `dashboard` of the result is a `HumanServer`.

    host, port and token as those of `server.prepare`. Raises UserError.
    """
    require_web("record --policy human")
    bound = bind(host, port)
    try:
        human = HumanServer(config, env, episodes=episodes, seed=seed)
    except BaseException:
        bound.close()
        raise
    number = int(bound.getsockname()[1])
    token = "" if is_loopback(host) else secrets.token_urlsafe(32)
    server = configured(AccessControl(human.app(), names=own_names(host), token=token, port=number))

    def stop() -> None:
        server.should_exit = True

    human.done = stop
    url = f"http://{shown_name(host)}:{number}/" + (f"?token={token}" if token else "")
    return DashboardServer(url, bound, server, human)


def _error(message: str, hint: str) -> str:
    return json.dumps({"type": "error", "message": message, "hint": hint})
