"""A GIF as one image of all its frames, so that a page can stop at any of them: browsers cannot stop a GIF."""

from __future__ import annotations

import base64
import io
import struct
from typing import Any

from PIL import Image

from ..errors import UserError

MOST_FRAMES, MOST_PIXELS, LEAST_MS = 600, 16_000_000, 20
#: What Pillow raises for damaged files, in the order in which one meets them.
DAMAGED: tuple[type[Exception], ...] = (OSError, ValueError, EOFError, IndexError, TypeError, SyntaxError, struct.error)
DAMAGED += (Image.DecompressionBombError,)


def frame_sheet(gif: bytes) -> dict[str, Any]:
    """{"image": URL of a PNG, "width", "height" of a frame, "columns", "ms": how long each frame is shown}.

    Frames stand in rows. Large ones are made smaller, of long videos the first 600 are taken. Raises UserError.
    """
    try:
        return _sheet(gif)
    except DAMAGED as error:
        raise UserError(f"the video cannot be read ({error}).", "It is shown without a pause button.") from error


def _sheet(gif: bytes) -> dict[str, Any]:
    with Image.open(io.BytesIO(gif), formats=["GIF"]) as video:
        count = min(MOST_FRAMES, int(getattr(video, "n_frames", 1)))
        width, height = video.size
        shrink = max(1.0, (count * width * height / MOST_PIXELS) ** 0.5)
        width, height = max(1, int(width / shrink)), max(1, int(height / shrink))
        columns = min(count, max(1, 4000 // width))
        sheet = Image.new("RGB", (columns * width, -(-count // columns) * height))
        ms = []
        for index in range(count):
            video.seek(index)
            frame = video.convert("RGB")
            frame = frame if frame.size == (width, height) else frame.resize((width, height))
            sheet.paste(frame, (index % columns * width, index // columns * height))
            ms.append(max(LEAST_MS, int(video.info.get("duration", 100))))
    out = io.BytesIO()
    sheet.save(out, "PNG", compress_level=3)
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    return {"image": url, "width": width, "height": height, "columns": columns, "ms": ms}
