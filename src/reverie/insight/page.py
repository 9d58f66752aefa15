"""Pages that need nothing else, from `templates/*.html`. All values are escaped, but for SVG that we drew."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

from .. import __version__
from ..files import read_bytes


def render(template: str, **values: Any) -> str:
    """An HTML page. template: a file of `templates/`."""
    from jinja2 import Environment, PackageLoader

    pages = Environment(loader=PackageLoader("reverie.insight"), autoescape=True, trim_blocks=True)
    made = time.strftime("%F %R", time.gmtime())
    return pages.get_template(template).render(version=__version__, made=made, **values)


def as_html(svg: str) -> Any:
    """Text of ours that goes into a page as it is, e.g. what `plots.svg` returns."""
    from markupsafe import Markup

    return Markup(svg)


def data_uri(file: Path) -> str:
    """An image file as a source that is inside of the page."""
    return f"data:image/{file.suffix[1:]};base64,{base64.b64encode(read_bytes(file)).decode()}"
