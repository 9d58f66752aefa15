"""The web server of `reverie watch`: binds an address and builds the application. Imports torch only for the player."""

from __future__ import annotations

import errno
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from .jobs import JOBS, Job
from .runs import RunIndex

FIRST_PORT, TRIED_PORTS = 8770, 20


@dataclass(frozen=True)
class DashboardServer:
    """A bound server; `run` serves until Ctrl-C or `stop`."""

    url: str  # with the token, if there is one
    socket: socket.socket
    server: Any  # uvicorn.Server
    dashboard: Any  # app.Dashboard

    def run(self) -> None:
        """Serve until Ctrl-C or `stop`."""
        try:
            self.server.run([self.socket])
        finally:
            self.dashboard.close()
            self.socket.close()

    def stop(self) -> None:
        """End `run`; may be called from another thread."""
        self.server.should_exit = True


def prepare(
    runs: RunIndex,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    jobs: Mapping[str, Job] = JOBS,
    seconds: float = 1.0,
) -> DashboardServer:
    """Bind an address and build the server.

    port: None takes the first free one from FIRST_PORT on, 0 any free one. seconds: between two reads of the runs.
    For addresses other than loopback, a random token in the URL protects the page.
    Raises UserError for missing packages and for an address that cannot be bound.
    """
    require_web("watch")
    from .access import AccessControl
    from .app import Dashboard

    bound = bind(host, port)
    number = int(bound.getsockname()[1])
    token = "" if is_loopback(host) else secrets.token_urlsafe(32)
    dashboard = Dashboard(runs, jobs=jobs, seconds=seconds)
    protected = AccessControl(dashboard.app(), names=own_names(host), token=token, port=number)
    shown = shown_name(host)
    url = f"http://{shown}:{number}/" + (f"?token={token}" if token else "")
    return DashboardServer(url, bound, configured(protected), dashboard)


def configured(app: Any) -> Any:
    """uvicorn's server of an application, with the limits of this package. -> uvicorn.Server."""
    import uvicorn

    from .connections import LimitedProtocol
    from .play_socket import BIGGEST_MESSAGE

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=LimitedProtocol,
            ws="websockets-sansio",
            ws_max_size=BIGGEST_MESSAGE,
            ws_max_queue=4,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )


def require_web(command: str) -> None:
    """Raises UserError where a package of the extra `web` is missing."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"reverie {command} needs a package that is not installed ({error.name}).", "pip install 'reverie-rl[web]'"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int | None) -> socket.socket:
    """A socket that listens; port as in `prepare`. Raises UserError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host {host} is not an address of this machine.", "Use e.g. 127.0.0.1, or 0.0.0.0 for all addresses."
        ) from error
    family, _, _, _, address = sorted(found, key=lambda item: item[0] != socket.AF_INET)[0]
    ports = [port] if port is not None else [FIRST_PORT + i for i in range(TRIED_PORTS)]
    for number in ports:
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((address[0], number, *address[2:]))
            bound.listen(128)  # the URL is printed before the server answers: earlier requests wait instead of failing
            return bound
        except OSError as error:
            bound.close()
            if error.errno != errno.EADDRINUSE or number == ports[-1]:
                message = f"cannot listen on {host}, port {number} ({error.strerror})."
                raise UserError(message, "Choose another --port or --host.") from error
    raise AssertionError("unreachable")


def own_names(host: str) -> set[str]:
    """The names of this machine that may stand in the address bar."""
    if is_loopback(host):
        return {host}
    name = socket.gethostname()
    return {host, name, f"{name}.local", socket.getfqdn()}


def shown_name(host: str) -> str:
    """The host as it stands in a URL that others can open."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
