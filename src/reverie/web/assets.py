"""Files of the pages, from the folder `static` of the package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from string import Template

from starlette.exceptions import HTTPException
from starlette.responses import Response

#: First line of a page that begins as in head.html, with a title and a script of its own.
HEAD = re.compile(r"<!-- head\.html: (?P<title>.+) \((?P<script>\S+)\) -->\n")


def asset(name: str, types: Mapping[str, str]) -> Response:
    """A file of a page. types: name -> media type; nothing else of the folder is served. Raises HTTPException."""
    if name not in types:
        raise HTTPException(404, "There is no such file.")
    content = page(name).encode() if name.endswith(".html") else (files(__package__) / "static" / name).read_bytes()
    return Response(content, media_type=types[name], headers={"cache-control": "no-cache"})


def page(name: str) -> str:
    """An HTML file with the head that it shares with others, if it asks for it in its first line."""
    folder = files(__package__) / "static"
    text = (folder / name).read_text("utf-8")
    if asked := HEAD.match(text):
        return Template((folder / "head.html").read_text("utf-8")).substitute(asked.groupdict()) + text[asked.end() :]
    return text
