"""Writing of videos and images: GIF and PNG by Pillow, MP4 by PyAV, which includes its own encoder."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import write_file

KINDS = (".gif", ".mp4", ".png")


def write_video(path: Path, frames: Sequence[np.ndarray], *, fps: float = 6.0) -> Path:
    """Write uint8 (H, W, 3) frames to PATH.gif or PATH.mp4. -> path. Raises UserError."""
    require_video(path)
    try:
        return write_file(path, (_gif if path.suffix == ".gif" else _mp4)(frames, fps))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}).", "Choose another -o.") from error


def require_video(path: Path) -> None:
    """Refuse a name that no video can be written to: call it before the work of hours. Raises UserError."""
    if path.suffix not in (".gif", ".mp4"):
        raise UserError(f"the name of a video must end in .gif or .mp4, got '{path.name}'.", "Choose another name.")
    require_writable(path, ".gif", ".mp4")
    if path.suffix == ".mp4":
        _import_av()


def require_writable(path: Path, *kinds: str) -> None:
    """Can a file be written there? Makes its directory. kinds: its endings. Raises UserError.

    A file that is there and ends otherwise, perhaps the run's own config.yaml, is not replaced.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        why = "it is a directory" if path.is_dir() else "" if os.access(path.parent, os.W_OK) else "no permission"
        if not why and path.exists() and not (path.is_symlink() or path.is_file()):
            why = "it is a device or a pipe"
        if path.is_file() and path.suffix.lower() not in kinds:
            why = f"it is there already and does not end in {' or '.join(kinds)}"
    except (OSError, ValueError) as error:
        why = str(getattr(error, "strerror", "") or error)
    if why:
        raise UserError(f"cannot write {path} ({why}).", "Choose another name or directory for it.")


def write_image(path: Path, image: np.ndarray) -> Path:
    """Write a uint8 (H, W, 3) image to a PNG. -> path. Raises UserError."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    try:
        return write_file(path, out.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}).", "Choose another -o.") from error


def _gif(frames: Sequence[np.ndarray], fps: float) -> bytes:
    """Encode with one palette for all frames, so that colours do not flicker; the last frame stays for a second."""
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    step = max(1, len(frames) // 16)
    palette = Image.fromarray(np.concatenate(frames[::step])).quantize(256, dither=Image.Dither.NONE)
    flat = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [round(1000 / fps)] * (len(flat) - 1) + [1000]
    out = io.BytesIO()
    flat[0].save(out, "GIF", save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=True)
    return out.getvalue()


def _import_av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise UserError("MP4 needs a package that is not installed.", "pip install av; or write a .gif.") from error
    return av


def _mp4(frames: Sequence[np.ndarray], fps: float) -> bytes:
    av, out = _import_av(), io.BytesIO()
    height, width = (side - side % 2 for side in frames[0].shape[:2])  # the encoder takes even sides only
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=max(1, round(fps)))
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuv420p"  # the format that browsers and phones play
        stream.options = {"crf": "18"}
        for frame in frames:
            even = np.ascontiguousarray(frame[:height, :width])
            for packet in stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return out.getvalue()
