"""Writing of videos and images: GIF and PNG by Pillow, MP4 by PyAV, which includes its own encoder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import UserError

KINDS = (".gif", ".mp4", ".png")


def write_video(path: Path, frames: Sequence[np.ndarray], *, fps: float = 6.0) -> Path:
    """Write uint8 (H, W, 3) frames, even in height and width, to PATH.gif or PATH.mp4. -> path. Raises UserError."""
    if path.suffix not in (".gif", ".mp4"):
        raise UserError(f"the name of a video must end in .gif or .mp4, got '{path.name}'.", "Choose another name.")
    draft = path.with_name(f".{path.name}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (_gif if path.suffix == ".gif" else _mp4)(draft, frames, fps)
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UserError(f"cannot write {path} ({error.strerror or error}).", "Choose another -o.") from error
    return path


def write_image(path: Path, image: np.ndarray) -> Path:
    """Write a uint8 (H, W, 3) image to a PNG. -> path. Raises UserError."""
    from PIL import Image

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}).", "Choose another -o.") from error
    return path


def _gif(path: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    """Encode with one palette for all frames, so that colours do not flicker; the last frame stays for a second."""
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    step = max(1, len(frames) // 16)
    palette = Image.fromarray(np.concatenate(frames[::step])).quantize(256, dither=Image.Dither.NONE)
    flat = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [round(1000 / fps)] * (len(flat) - 1) + [1000]
    flat[0].save(path, save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=True)


def _mp4(path: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    try:
        import av
    except ModuleNotFoundError as error:
        raise UserError("MP4 needs a package that is not installed.", "pip install av; or write a .gif.") from error
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=max(1, round(fps)))
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"  # the format that browsers and phones play
        stream.options = {"crf": "18"}
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
