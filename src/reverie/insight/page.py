"""Pages that need nothing else, from `templates/*.html`. All values are escaped, but for SVG that we drew."""

from __future__ import annotations

import base64
import io
import time
from typing import Any

from .. import __version__


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


def gif_uri(gif: bytes, most: int) -> str:
    """A GIF as a source that is inside of the page, of at most so many bytes if `smaller_gif` reaches that."""
    return f"data:image/gif;base64,{base64.b64encode(smaller_gif(gif, most)).decode()}"


def smaller_gif(gif: bytes, most: int, tries: int = 8) -> bytes:
    """A GIF of at most `most` bytes: a larger one gets 64 colors; then frames are left out, or it is halved.

    Each frame stays as long as those that it stands for. Raises OSError or ValueError for what is no GIF.
    """
    from PIL import Image

    for turn in range(tries):
        with Image.open(io.BytesIO(gif)) as video:
            if len(gif) <= most:
                break
            many = getattr(video, "n_frames", 1) > (6 if turn == 1 else 60)
            step, shrink = (1, 1) if turn == 0 else (2, 1) if many else (1, 2)
            size = max(16, video.width // shrink), max(16, video.height // shrink)
            frames, times = [], []
            for index in range(getattr(video, "n_frames", 1)):
                video.seek(index)
                if index % step == 0:
                    frames.append(video.convert("RGB").resize(size, Image.Resampling.NEAREST))
                    times.append(0)
                times[-1] += int(video.info.get("duration", 100))
            flat = [frame.quantize(64, dither=Image.Dither.NONE) for frame in frames]
            out = io.BytesIO()
            flat[0].save(out, "GIF", save_all=True, append_images=flat[1:], duration=times, loop=0, optimize=True)
            gif = out.getvalue()
    return gif
