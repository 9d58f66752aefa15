"""The server's side of the dream player's websocket: one answer for each message.

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
import logging
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
from .runs import RunIndex

if TYPE_CHECKING:  # torch takes a second to import, and the page should open before
    from ..extensions.ensemble import Usual
    from ..insight.run_reader import RunReader
    from .dream_session import DreamSession, Prediction

_log = logging.getLogger(__name__)
MOST_SESSIONS, MOST_LOADED, IDLE_SECONDS, STEPS_READ = 8, 2, 1800, 5000
BIGGEST_MESSAGE = 16_384  # bytes


@dataclass
class PlayClient:
    """A connected page and its dream."""

    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))  # cannot be guessed by another page
    session: DreamSession | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class PlayServer:
    """All connected players, and the agents that they share."""

    def __init__(self, runs: RunIndex, *, most: int = MOST_SESSIONS) -> None:
        self.runs = runs
        self.most = most
        self.clients: dict[str, PlayClient] = {}
        self._readers: OrderedDict[Path, tuple[RunReader, Usual | None]] = OrderedDict()  # the last ones used
        self._loading = threading.Lock()
        self._pool = ThreadPoolExecutor(2, "reverie-play")

    async def serve(self, socket: WebSocket) -> None:
        """Serve one connection until it is closed, or idle for IDLE_SECONDS."""
        await socket.accept()
        if len(self.clients) >= self.most:
            message = f"{self.most} dreams are being played already."
            await socket.send_text(_error(message, "Close another page with a player."))
            await socket.close(1013)
            return
        client = PlayClient()
        self.clients[client.id] = client
        try:
            while True:
                text = await asyncio.wait_for(socket.receive_text(), IDLE_SECONDS)
                loop = asyncio.get_running_loop()
                await socket.send_text(await loop.run_in_executor(self._pool, self._answer, client, text))
        except (WebSocketDisconnect, TimeoutError, KeyError):  # KeyError: bytes instead of text
            pass
        finally:
            del self.clients[client.id]

    def _answer(self, client: PlayClient, text: str) -> str:
        started = time.perf_counter()
        try:
            message = json.loads(text)
            if not isinstance(message, dict):
                raise UserError("a message must be a JSON object.")
            with client.lock:
                answer = self._do(client, message)
        except UserError as error:
            return _error(error.message, error.hint)
        except (ValueError, RecursionError):
            return _error("this message cannot be read.")
        except OSError as error:  # a training run has just moved its files
            return _error(f"the run cannot be read ({error.strerror}).", "Try again.")
        except Exception as error:  # the page shows it and stays
            _log.exception("a command of the player failed")
            return _error(f"{type(error).__name__}: {error}", "This is a bug: please report it.")
        answer["ms"] = round(1000 * (time.perf_counter() - started), 2)
        return json.dumps(answer)

    def _do(self, client: PlayClient, message: dict[str, Any]) -> dict[str, Any]:
        command = message.get("do")
        if command == "start":
            return self._start(client, message)
        if client.session is None:
            raise UserError("no dream has begun.", "Choose a run first.")
        session = client.session
        commands: dict[Any, Callable[[], Any]] = {
            "step": partial(_step, session, message),
            "policy": lambda: session.step(session.policy_action(mode=_mode(message))),
            "rewind": lambda: session.rewind(_whole(message, "to")),
            "branch": lambda: session.branch(_whole(message, "lanes")),
            "keep": lambda: session.keep(_whole(message, "row")),
            "reroll": session.reroll,
            "look": lambda: None,
        }
        if not isinstance(command, str) or command not in commands:
            raise UserError("there is no such command.")
        commands[command]()
        return frame_of(session)

    def _start(self, client: PlayClient, message: dict[str, Any]) -> dict[str, Any]:
        from .action_names import controls
        from .dream_session import start_session

        run = self.runs.get(_whole(message, "run"))
        if run is None:
            raise UserError("there is no such run.", "Reload the page.")
        reader, usual = self._load(run.path)
        session = start_session(reader, seed=_whole(message, "seed"), context=_whole(message, "context"))
        client.session = session
        return frame_of(session) | {
            "type": "started",
            "session": client.id,
            "task": reader.config.env.id,
            "env_steps": reader.env_steps,
            "controls": controls(reader.config, reader.spec),
            "masked": reader.spec.masked,
            "videos": ["gif", "mp4"] if importlib.util.find_spec("av") else ["gif"],
            "context": context_of(session, usual),
        }

    def _load(self, path: Path) -> tuple[RunReader, Usual | None]:
        """The run with its newest complete checkpoint, and its usual surprise; loaded again if there is a newer one."""
        from ..checkpoint import find_agent
        from ..insight.run_reader import open_run
        from .dream_session import usual_surprise

        with self._loading:
            found = self._readers.pop(path, None)
            if found is None or found[0].source != find_agent(path):
                reader = open_run(path, most_steps=STEPS_READ)
                found = reader, usual_surprise(reader)
            self._readers[path] = found
            while len(self._readers) > MOST_LOADED:
                self._readers.popitem(last=False)
            return found

    async def video(self, client_id: str, kind: str) -> bytes | None:
        """The dream of a client as "gif" or "mp4", None if there is no such client. Raises UserError."""
        client = self.clients.get(client_id)
        if client is None or client.session is None:
            return None
        return await asyncio.get_running_loop().run_in_executor(self._pool, _video, client, kind)

    def close(self) -> None:
        """Start no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _video(client: PlayClient, kind: str) -> bytes:
    from .image_encoding import encode_gif, encode_mp4, video_frames

    with client.lock:
        if client.session is None:
            raise UserError("no dream has begun.", "Choose a run first.")
        frames = video_frames(client.session)
    return encode_mp4(frames) if kind == "mp4" else encode_gif(frames)


def _step(session: DreamSession, message: dict[str, Any]) -> None:
    from .dream_session import action_of

    for key in ("choices", "numbers"):
        if not isinstance(message.get(key, []), list):
            raise UserError(f"'{key}' must be a list.")
    session.step(action_of(session.agent, message))


def frame_of(session: DreamSession) -> dict[str, Any]:
    """The current step of the dream as a JSON message for the page."""
    from .image_encoding import data_url

    prediction, step = session.prediction(), session.current
    return {
        "type": "frame",
        "step": session.at,
        "last": len(session.history) - 1,
        "lanes": list(step.lanes),
        "images": {key: [data_url(image) for image in images] for key, images in prediction.images.items()},
        "vectors": {key: _short(values) for key, values in prediction.vectors.items()},
        "reward": _short(prediction.reward),
        "continue": _short(prediction.continues),
        "value": _short(prediction.value),
        "policy": prediction.policy,
        "action": None if step.action is None else _short(step.action),
        "latent": _latent(prediction),
        "uncertainty": None if step.uncertainty is None else _short(step.uncertainty),
    }


def context_of(session: DreamSession, usual: Usual | None) -> dict[str, Any]:
    """The real steps before the dream, for the page; usual: the surprise in the run's replay."""
    import torch

    from .image_encoding import data_url

    obs, spec, known = session.context.obs, session.agent.spec, session.filtered
    surprise = None if usual is None else usual.share_below(torch.from_numpy(known.surprise))
    return {
        "uncertainty": None if known.uncertainty is None else _short(known.uncertainty),
        "surprise": None if surprise is None else _short(surprise),
        "length": session.context.reward.shape[1],
        "images": {key: [data_url(image.numpy()) for image in obs[key][0]] for key in spec.images},
        "vectors": {key: _short(obs[key][0].numpy()) for key in spec.vectors if spec.obs[key].kind != "mask"},
    }


def _latent(prediction: Prediction) -> dict[str, Any] | None:
    if prediction.classes is None or prediction.chosen is None:
        return None
    lanes, rows, columns = prediction.classes.shape
    probs = (prediction.classes * 255).round().astype("uint8")
    encoded = [base64.b64encode(probs[i].tobytes()).decode() for i in range(lanes)]
    return {"rows": rows, "columns": columns, "probs": encoded, "chosen": prediction.chosen.tolist()}


def _short(values: Any) -> Any:
    return [_short(value) for value in values] if getattr(values, "ndim", 0) else float(f"{float(values):.5g}")


def _whole(message: dict[str, Any], key: str) -> int:
    value = message.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise UserError(f"'{key}' must be a whole number of at least 0.")
    return value


def _mode(message: dict[str, Any]) -> str:
    return "mode" if message.get("mode") == "mode" else "sample"


def _error(message: str, hint: str = "") -> str:
    return json.dumps({"type": "error", "message": message, "hint": hint})
