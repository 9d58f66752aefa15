"""Files of the pages, from the folder `static` of the package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.responses import Response


def asset(name: str, types: Mapping[str, str]) -> Response:
    """A file of a page. types: name -> media type; nothing else of the folder is served. Raises HTTPException."""
    if name not in types:
        raise HTTPException(404, "There is no such file.")
    content = (files(__package__) / "static" / name).read_bytes()
    return Response(content, media_type=types[name], headers={"cache-control": "no-cache"})
