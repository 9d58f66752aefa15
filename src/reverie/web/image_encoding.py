"""Frames of dreams and their encoding as PNG and GIF (Pillow) and MP4 (package av)."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..data.replay import Batch
from ..errors import UserError
from ..insight.run_reader import RunReader
from .dream_session import DreamSession, Prediction, predict

_GAP, _LEAST, _BAND = 4, 160, 16
_DARK = (17, 20, 28)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, C) -> (H, W, 3): gray for one channel, RGB for three, otherwise a hue per channel."""
    channels = image.shape[-1]
    if channels == 3:
        return image
    if channels == 1:
        return np.repeat(image, 3, -1)
    hues = np.array([colorsys.hsv_to_rgb(i / channels, 0.7, 1) for i in range(channels)])
    return (image[..., None] * hues).max(-2).astype(np.uint8)


def data_url(image: np.ndarray) -> str:
    """uint8 (H, W, C) as a PNG inside a URL."""
    out = io.BytesIO()
    Image.fromarray(as_rgb(image)).save(out, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def draw_bars(values: np.ndarray, low: np.ndarray, high: np.ndarray, size: int = _LEAST) -> np.ndarray:
    """A vector as bars between its limits. values, low, high (V,) -> uint8 (size, size, 3)."""
    image = Image.new("RGB", (size, size), _DARK)
    draw = ImageDraw.Draw(image)
    share = (values - low) / np.where(high > low, high - low, 1)
    width = size / max(1, len(values))
    for i, part in enumerate(np.clip(share, 0.02, 1)):
        box = (i * width + 1, size - 1 - part * (size - 2), max(i * width + 1, (i + 1) * width - 2), size - 1)
        draw.rectangle(box, fill=(90, 160, 250))
    return np.asarray(image)


def video_frames(session: DreamSession) -> list[np.ndarray]:
    """The dream up to the current step, branches side by side, with titles. -> uint8 (H, W, 3) frames."""
    steps = session.history[: session.at + 1]
    predictions = [predict(session.agent, step.state) for step in steps]
    lanes = max(len(step.lanes) for step in steps)
    limits = _limits(predictions)
    frames = []
    for number, prediction in enumerate(predictions):
        own = [_draw(prediction, row, limits) for row in range(len(prediction.reward))]
        title = f"dream step {number}   value {prediction.value[0]:.2f}   reward {prediction.reward[0]:+.2f}"
        frames.append(with_title(side_by_side([own[min(row, len(own) - 1)] for row in range(lanes)]), title))
    return frames


def _limits(predictions: Sequence[Prediction]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{key: (lowest, highest)} of each vector's dimensions over the whole dream."""
    joined = {key: np.concatenate([each.vectors[key] for each in predictions]) for key in predictions[0].vectors}
    return {key: (values.min(0), values.max(0)) for key, values in joined.items()}


def _draw(prediction: Prediction, row: int, limits: dict[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The first image of a lane, or else its first vector."""
    for image in prediction.images.values():
        return enlarge(as_rgb(image[row]))
    for key, values in prediction.vectors.items():
        return draw_bars(values[row], *limits[key])
    return np.zeros((_LEAST, _LEAST, 3), np.uint8)


def enlarge(image: np.ndarray, least: int = _LEAST) -> np.ndarray:
    """Enlarge by a whole factor, without smoothing, to at least `least` pixels. (H, W, 3) -> (H', W', 3)."""
    factor = max(1, -(-least // max(image.shape[:2])))
    return image.repeat(factor, 0).repeat(factor, 1)


def side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images of one size (H, W, 3) side by side with gaps, in two rows for more than four. -> (H', W', 3)."""
    columns = len(images) if len(images) <= 4 else -(-len(images) // 2)
    rows = -(-len(images) // columns)
    height, width = images[0].shape[:2]
    out = np.full((rows * height + (rows - 1) * _GAP, columns * width + (columns - 1) * _GAP, 3), _DARK, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + _GAP), (i % columns) * (width + _GAP)
        out[top : top + height, left : left + width] = image
    return out


def with_title(image: np.ndarray, title: str) -> np.ndarray:
    """An image with a line of text above it. (H, W, 3) -> (H + band, W', 3)."""
    width = max(image.shape[1], 8 + round(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(title)))
    canvas = Image.new("RGB", (width, image.shape[0] + _BAND), _DARK)
    canvas.paste(Image.fromarray(image), ((width - image.shape[1]) // 2, _BAND))
    ImageDraw.Draw(canvas).text((4, 2), title, fill=(220, 225, 235))
    return np.asarray(canvas)


def comparison_frames(reader: RunReader, *, seed: int, context: int = 5, length: int = 45) -> list[np.ndarray]:
    """Truth, dream and error side by side for a part of an episode in the replay. -> uint8 (H, W, 3) frames.

    The dream sees the first `context` real steps, then only the recorded actions. Raises UserError without images or
    a long enough episode.
    """
    batch = _window(reader, seed, context + length)
    key = next(iter(reader.agent.world_model.encoder.image_keys), None)
    if key is None:
        raise UserError(
            "this agent observes no images.", "Play inside its dream instead, where vectors are drawn as lines."
        )
    total = batch.reward.shape[1]
    start = batch.map(lambda x: x[:, :context])
    session = DreamSession(reader.agent, start, seed=seed)
    frames = []
    for t in range(context - 1, total):
        if t >= context:
            session.step(batch.action[0, t].numpy())
        dream = as_rgb(session.prediction().images[key][0])
        truth = as_rgb(batch.obs[key][0, t].numpy())
        error = np.abs(truth.astype(np.int16) - dream).astype(np.uint8)
        step = t - context + 1
        title = f"truth | dream | error   step {step}   reward {float(batch.reward[0, t]):+.2f}"
        frames.append(with_title(side_by_side([enlarge(image, 2 * _LEAST) for image in (truth, dream, error)]), title))
    return frames


def _window(reader: RunReader, seed: int, longest: int) -> Batch:
    """The longest window of one episode that the replay has, up to `longest` steps. Raises UserError below 6."""
    for length in (longest, *(n for n in (30, 20, 12, 8, 6) if n < longest)):
        try:
            return reader.batch(1, length, seed=seed, in_one_episode=True)
        except UserError:
            continue
    raise UserError("no episode of 6 steps is in the replay.", "Train longer.")


def encode_gif(frames: Sequence[np.ndarray], *, fps: float = 10) -> bytes:
    """An animated GIF of uint8 (H, W, 3) frames."""
    images = [Image.fromarray(frame).quantize(128, dither=Image.Dither.NONE) for frame in _same_size(frames)]
    out = io.BytesIO()
    durations = [round(1000 / fps)] * (len(images) - 1) + [1000]
    images[0].save(out, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    return out.getvalue()


def encode_mp4(frames: Sequence[np.ndarray], *, fps: int = 10) -> bytes:
    """An MP4 of uint8 (H, W, 3) frames, H.264 if the package av has it. Raises UserError without the package."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise UserError("MP4 needs a package that is not installed.", "pip install av, or save a GIF.") from error
    frames = _same_size(frames)
    height, width = (side + side % 2 for side in frames[0].shape[:2])
    out = io.BytesIO()
    container: Any = av.open(out, "w", format="mp4")
    with container:
        stream: Any = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            padded = np.zeros((height, width, 3), np.uint8)
            padded[: frame.shape[0], : frame.shape[1]] = frame
            container.mux(stream.encode(av.VideoFrame.from_ndarray(padded, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def _same_size(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    return [np.pad(f, ((0, height - f.shape[0]), (0, width - f.shape[1]), (0, 0))) for f in frames]
