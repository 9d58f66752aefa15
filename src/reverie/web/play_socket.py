"""The dream player's side of the websocket: one message in, one answer out.

in   {"do": "start", "run": 0, "seed": 1, "context": 5}      out  {"type": "started", ...}
     {"do": "step", "choices": [2]} or "numbers": [0.1]           {"type": "frame", "step": 7, "frames": ..., ...}
     {"do": "policy", "mode": "sample"}                           {"type": "error", "message": ..., "hint": ...}
     {"do": "rewind", "to": 3}   {"do": "branch", "lanes": 4}   {"do": "keep", "row": 1}   {"do": "reroll"}
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from ..errors import UserError
from .runs import Runs

if TYPE_CHECKING:  # torch takes a second to load, and the page shall be there before
    from ..insight.run_reader import Opened
    from .dream_session import DreamSession, View

MOST_SESSIONS, MOST_OPENED, IDLE_SECONDS, STEPS_READ = 8, 2, 1800, 5000
BIGGEST_MESSAGE = 16_384  # bytes


@dataclass
class PlaySocket:
    """One page that plays."""

    number: str = field(default_factory=lambda: secrets.token_urlsafe(16))  # nobody else can guess it
    session: DreamSession | None = None
    opened: Opened | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class PlayRoom:
    """All sessions, and the agents that they share."""

    def __init__(self, runs: Runs, *, most: int = MOST_SESSIONS) -> None:
        self.runs, self.most = runs, most
        self.players: dict[str, PlaySocket] = {}
        self._opened: OrderedDict[Path, Opened] = OrderedDict()
        self._opening = threading.Lock()
        self._pool = ThreadPoolExecutor(2, "reverie-play")

    async def serve(self, socket: WebSocket) -> None:
        """One connection, until it is closed or idle for long."""
        await socket.accept()
        if len(self.players) >= self.most:
            told = f"{self.most} dreams are being played already."
            await socket.send_text(_error(told, "Close another page that plays."))
            await socket.close(1013)
            return
        player = PlaySocket()
        self.players[player.number] = player
        try:
            while True:
                text = await asyncio.wait_for(socket.receive_text(), IDLE_SECONDS)
                loop = asyncio.get_running_loop()
                await socket.send_text(await loop.run_in_executor(self._pool, self._answer, player, text))
        except (WebSocketDisconnect, TimeoutError, KeyError):  # KeyError: bytes instead of text
            pass
        finally:
            del self.players[player.number]

    def _answer(self, player: PlaySocket, text: str) -> str:
        started = time.perf_counter()
        try:
            message = json.loads(text)
            if not isinstance(message, dict):
                raise UserError("a message is a JSON object.")
            with player.lock:
                answer = self._do(player, message)
        except UserError as error:
            return _error(error.message, error.hint)
        except (ValueError, RecursionError):
            return _error("this message cannot be read.")
        except OSError as error:  # a run that trains moved its files at this moment
            return _error(f"the run cannot be read ({error.strerror}).", "Try it again.")
        answer["ms"] = round(1000 * (time.perf_counter() - started), 2)
        return json.dumps(answer)

    def _do(self, player: PlaySocket, message: dict[str, Any]) -> dict[str, Any]:
        what = message.get("do")
        if what == "start":
            return self._start(player, message)
        if player.session is None:
            raise UserError("no dream has begun.", "Choose a run first.")
        session = player.session
        actions: dict[Any, Callable[[], Any]] = {
            "step": partial(_step, session, message),
            "policy": lambda: session.step(session.policy_action(mode=_mode(message))),
            "rewind": lambda: session.rewind(_whole(message, "to")),
            "branch": lambda: session.branch(_whole(message, "lanes")),
            "keep": lambda: session.keep(_whole(message, "row")),
            "reroll": session.reroll,
            "look": lambda: None,
        }
        if not isinstance(what, str) or what not in actions:
            raise UserError("there is no such command.")
        actions[what]()
        return frame_of(session)

    def _start(self, player: PlaySocket, message: dict[str, Any]) -> dict[str, Any]:
        from .action_names import controls
        from .dream_session import start_session

        run = self.runs.get(_whole(message, "run"))
        if run is None:
            raise UserError("there is no such run.", "Reload the page.")
        opened = self._open(run.path)
        session = start_session(opened, seed=_whole(message, "seed"), context=_whole(message, "context"))
        player.session, player.opened = session, opened
        return frame_of(session) | {
            "type": "started",
            "session": player.number,
            "task": opened.config.env.id,
            "env_steps": opened.env_steps,
            "controls": controls(opened.config, opened.spec),
            "masked": opened.spec.masked,
            "films": ["gif", "mp4"] if importlib.util.find_spec("av") else ["gif"],
            "context": context_of(session),
        }

    def _open(self, path: Path) -> Opened:
        """The newest whole checkpoint; read again only when there is a newer one."""
        from ..checkpoint import find_agent
        from ..insight.run_reader import open_run

        with self._opening:
            kept = self._opened.pop(path, None)
            if kept is None or kept.found != find_agent(path):
                kept = open_run(path, most_steps=STEPS_READ)
            self._opened[path] = kept
            while len(self._opened) > MOST_OPENED:
                self._opened.popitem(last=False)
            return kept

    async def film(self, number: str, kind: str) -> bytes | None:
        """A session's film, None if there is no such session. Raises UserError."""
        player = self.players.get(number)
        if player is None or player.session is None:
            return None
        return await asyncio.get_running_loop().run_in_executor(self._pool, _film, player, kind)

    def close(self) -> None:
        """Begin nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _film(player: PlaySocket, kind: str) -> bytes:
    from .image_encoding import film_of, gif, mp4

    with player.lock:
        if player.session is None:
            raise UserError("no dream has begun.")
        frames = film_of(player.session)
    return mp4(frames) if kind == "mp4" else gif(frames)


def _step(session: DreamSession, message: dict[str, Any]) -> None:
    from .dream_session import action_of

    for key in ("choices", "numbers"):
        if not isinstance(message.get(key, []), list):
            raise UserError(f"'{key}' is a list.")
    session.step(action_of(session.agent, message))


def frame_of(session: DreamSession) -> dict[str, Any]:
    """The moment that is looked at, as the page wants it."""
    from .image_encoding import data_url

    view, moment = session.view(), session.moment
    return {
        "type": "frame",
        "step": session.at,
        "last": len(session.moments) - 1,
        "lanes": list(moment.lanes),
        "images": {key: [data_url(image) for image in images] for key, images in view.images.items()},
        "vectors": {key: _short(values) for key, values in view.vectors.items()},
        "reward": _short(view.reward),
        "continue": _short(view.going_on),
        "value": _short(view.value),
        "policy": view.policy,
        "action": None if moment.action is None else _short(moment.action),
        "latent": _latent(view),
    }


def context_of(session: DreamSession) -> dict[str, Any]:
    """The real steps before the dream."""
    from .image_encoding import data_url

    obs, spec = session.context.obs, session.agent.spec
    return {
        "length": session.context.reward.shape[1],
        "images": {key: [data_url(image.numpy()) for image in obs[key][0]] for key in spec.images},
        "vectors": {key: _short(obs[key][0].numpy()) for key in spec.vectors if spec.obs[key].kind != "mask"},
    }


def _latent(view: View) -> dict[str, Any] | None:
    if view.classes is None or view.chosen is None:
        return None
    lanes, rows, columns = view.classes.shape
    probs = (view.classes * 255).round().astype("uint8")
    told = [base64.b64encode(probs[i].tobytes()).decode() for i in range(lanes)]
    return {"rows": rows, "columns": columns, "probs": told, "chosen": view.chosen.tolist()}


def _short(values: Any) -> Any:
    return [_short(value) for value in values] if getattr(values, "ndim", 0) else float(f"{float(values):.5g}")


def _whole(message: dict[str, Any], key: str) -> int:
    value = message.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise UserError(f"'{key}' is a whole number from 0 on.")
    return value


def _mode(message: dict[str, Any]) -> str:
    return "mode" if message.get("mode") == "mode" else "sample"


def _error(message: str, hint: str = "") -> str:
    return json.dumps({"type": "error", "message": message, "hint": hint})
