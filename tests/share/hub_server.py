"""A stand-in for the Hugging Face Hub: the part of its HTTP interface that pushing and loading an agent uses.

Files live in memory. It answers as the hub does to POST /api/repos/create, /api/validate-yaml, .../preupload/REVISION
(every file "regular": contents come inside the commit) and .../commit/REVISION, and to GET of a model's info, its tree
and its files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse


class Hub(ThreadingHTTPServer):
    """`repositories` {USER/NAME: {path: bytes}}; `requests` in their order; `token` to be given, if set."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.requests, self.token = {}, [], ""
        self.url = f"http://127.0.0.1:{self.server_port}"

    def sha(self, name):
        """The commit: a hash of all contents."""
        parts = [f"{path} {oid(data)}" for path, data in sorted(self.repositories[name].items())]
        return hashlib.sha1("\n".join(parts).encode()).hexdigest()


def oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(self, code, body, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def words(self):
        path = unquote(urlparse(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        return path.strip("/").split("/")

    def do_GET(self):
        words, known = self.words(), self.server.repositories
        if words[:2] == ["api", "models"]:
            name, what = "/".join(words[2:4]), words[4] if len(words) > 4 else "revision"
        else:
            name, what = "/".join(words[:2]), "file"
        if name not in known:
            self.send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif what == "revision":
            names = [{"rfilename": path} for path in known[name]]
            self.send(200, {"id": name, "sha": self.server.sha(name), "private": False, "siblings": names})
        elif what == "tree":
            files = [
                {"type": "file", "path": path, "size": len(data), "oid": oid(data)}
                for path, data in known[name].items()
            ]
            self.send(200, files)
        else:
            path = "/".join(words[4:])
            if path not in known[name]:
                self.send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
                return
            data = known[name][path]
            self.send(200, data, {"ETag": f'"{oid(data)}"', "X-Repo-Commit": self.server.sha(name)})

    do_HEAD = do_GET

    def do_POST(self):
        words = self.words()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        known = self.server.repositories
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.send(401, {"error": "Invalid credentials"})
        elif words == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            status = 409 if name in known else 200
            known.setdefault(name, {})
            self.send(status, {"url": f"{self.server.url}/{name}", "id": name})
        elif words == ["api", "validate-yaml"]:
            self.send(200, {"errors": [], "warnings": []})
        elif words[4] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self.send(200, {"files": files})
        else:
            name = "/".join(words[2:4])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    known[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            sha = self.server.sha(name)
            address = f"{self.server.url}/{name}/commit/{sha}"
            self.send(200, {"success": True, "commitOid": sha, "commitUrl": address, "hookOutput": ""})


@contextmanager
def running():
    """A hub at `url` while inside."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
