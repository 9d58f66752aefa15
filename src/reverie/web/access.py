"""Access control for the dashboard: an ASGI wrapper that checks every request.

Host      the name in the address bar must belong to this machine: a page of another site whose name was pointed at
          127.0.0.1 (DNS rebinding) is refused
Origin    a page of another site may not open a websocket or fetch anything
method    GET and HEAD change nothing; POST, with the page's own Origin, starts a job, writes a note, deletes a run
links     from another site lead to the two pages only
length    of a URL: a number of thousands of digits is none
token     for addresses other than loopback: once in the URL, then in a cookie that scripts cannot read
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
#: What a link of another site may lead to.
PAGES = ("/", "/play")
#: What a POST of the page itself may ask for: jobs, notes, deletion.
CHANGES = re.compile(r"/api/runs/\d{1,9}/(?:jobs/\w{1,20}|notes|delete)")
#: Letters of an address: a number of thousands of digits is none. A query may have sixty names of metrics.
LONGEST_PATH, LONGEST_QUERY = 300, 8000
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",  # the first URL contains the token
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class AccessControl:
    """`app` behind the checks of this file."""

    reads_only = True  # POST is for `CHANGES` alone

    def __init__(self, app: App, *, names: Iterable[str] = (), token: str = "", port: int = 0) -> None:
        """names: of this host, besides those of loopback; token: "" for none (loopback only); port: for the cookie."""
        self.app = app
        self.token = token
        self.names = LOOPBACK | {name.lower() for name in names}
        self.cookie = f"reverie-{port}"  # cookies are shared by all ports of a host

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        refusal = self.refusal(scope, headers)
        if refusal:
            await _refuse(scope, send, *refusal)
        elif scope["type"] == "http" and self.token and "token" in _query(scope):
            await self._set_cookie(scope, send)
        else:
            await self.app(scope, receive, _with_headers(send))

    def refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """-> (status, reason) of a refused request, None if it is allowed."""
        if not self._is_own_name(headers.get("host", "")):
            return 421, "This address is not one of this server's names. Open the URL that was printed."
        if len(scope["path"]) > LONGEST_PATH or len(scope["query_string"]) > LONGEST_QUERY:
            return 414, "This address is too long."
        posted = self.reads_only and scope["type"] == "http" and scope["method"] == "POST"
        starts = posted and CHANGES.fullmatch(scope["path"]) is not None
        if self.reads_only and scope["type"] == "http" and scope["method"] not in ("GET", "HEAD") and not starts:
            return 405, "This page is read-only."
        origin = headers.get("origin")
        asked = origin is not None or scope["type"] == "websocket" or starts
        if asked and not _same(origin or "", headers["host"]):
            return 403, "The request comes from another site. Only the page itself may make it."
        link = headers.get("sec-fetch-mode") == "navigate" and scope["path"] in PAGES
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not link:
            return 403, "The request comes from another site. Only the page itself may make it."
        if self.token and not self._has_token(scope, headers):
            return 403, "Open the URL with the token that was printed."
        return None

    def _is_own_name(self, host: str) -> bool:
        name = _name(host)
        return name in self.names or (bool(self.token) and _is_address(name))

    def _has_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        in_url = _query(scope).get("token", [""])[0]
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            cookie = None
        offered = in_url or (cookie.value if cookie else "")
        return secrets.compare_digest(offered.encode(), self.token.encode())

    async def _set_cookie(self, scope: Scope, send: Send) -> None:
        """Store the token in a cookie and redirect to the URL without it."""
        rest = urlencode({key: value for key, value in _query(scope).items() if key != "token"}, doseq=True)
        where = scope["path"] if scope["path"] in PAGES else "/"
        headers = {
            "location": where + (f"?{rest}" if rest else ""),
            "set-cookie": f"{self.cookie}={self.token}; HttpOnly; SameSite=Lax; Path=/",
            "cache-control": "no-store",
            "content-length": "0",
        }
        await _answer(send, 303, headers, b"")


def _query(scope: Scope) -> dict[str, list[str]]:
    try:
        return parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=20)
    except ValueError:
        return {}


def _name(host: str) -> str:
    """The host name without the port, which may differ behind an ssh tunnel."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _with_headers(send: Send) -> Send:
    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            security_headers = [(key.encode(), value.encode()) for key, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *security_headers]}
        await send(message)

    return sent


async def _refuse(scope: Scope, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason[:100]})
    else:
        text = reason.encode()
        kind = {
            "content-type": "text/plain; charset=utf-8",
            "content-length": str(len(text)),
            "cache-control": "no-store",
        }
        await _answer(_with_headers(send), status, kind, b"" if scope["method"] == "HEAD" else text)


async def _answer(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
