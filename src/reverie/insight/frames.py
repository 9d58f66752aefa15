"""Frames that show dreams: rows truth, dream and error, a column for each start, and labels.

Drawn with Pillow. Small images are enlarged without smoothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..run.evaluation import with_ticks
from .dream import Dreamed

#: Smallest side of a drawn image, in pixels; smaller ones are enlarged by a whole factor.
SIDE = 112
GAP, LEFT, TOP, LINE = 6, 66, 26, 13
PAPER, INK, FAINT = (250, 250, 247), (30, 30, 34), (150, 150, 150)
LOOKING, DREAMING, NOTHING = (46, 125, 50), (216, 100, 20), (205, 205, 200)


def frames(dreamed: Dreamed, key: str = "") -> list[np.ndarray]:
    """One frame for each step, context first. key: the observation, by default the first image. -> uint8 (H, W, 3)."""
    key = key or dreamed.images[0]
    truth, dream = _coloured(dreamed.truth[key]), _coloured(dreamed.dream[key])
    return [_frame(dreamed, key, truth, dream, t) for t in range(dreamed.steps)]


def sheet(dreamed: Dreamed, key: str = "", *, columns: int = 10, start: int = 0) -> np.ndarray:
    """One image of one start: some steps side by side, rows truth, dreams and error. -> uint8 (H, W, 3)."""
    key = key or dreamed.images[0]
    truth, dream = _coloured(dreamed.truth[key])[start], _coloured(dreamed.dream[key])[start]
    goal = _coloured(dreamed.goals[key])[start, 0] if dreamed.goals else None
    steps = np.unique(np.linspace(0, dreamed.steps - 1, min(columns, dreamed.steps)).round().astype(int))
    scale, (height, width) = _scale(truth.shape[1:3]), truth.shape[1:3]
    rows = _rows(len(dream), goal is not None)
    canvas, draw = _canvas(len(steps), len(rows), (height * scale, width * scale), TOP)
    for column, t in enumerate(steps):
        cells = _cells(truth[t], dream[:, t], valid=bool(dreamed.valid[start, t]))
        cells += [] if goal is None else [with_ticks(goal[t], *_place(dreamed, t))]
        x = LEFT + column * (width * scale + GAP)
        looking = t < dreamed.context
        draw.text((x, 8), _step_label(t, dreamed.context), fill=LOOKING if looking else DREAMING, font=_font())
        for row, cell in enumerate(cells):
            _paste(canvas, draw, cell, (x, TOP + row * (height * scale + GAP)), (height, width), scale, looking)
    _labels(draw, rows, height * scale)
    return np.asarray(canvas)


def _frame(dreamed: Dreamed, key: str, truth: np.ndarray, dream: np.ndarray, t: int) -> np.ndarray:
    starts, samples = dream.shape[:2]
    height, width = truth.shape[2:4]
    goal = _coloured(dreamed.goals[key])[:, 0, t] if dreamed.goals else None
    scale, rows, looking = _scale((height, width)), _rows(samples, goal is not None), t < dreamed.context
    canvas, draw = _canvas(starts, len(rows), (height * scale, width * scale), TOP + 3 * LINE + 4)
    colour = LOOKING if looking else DREAMING
    phase = "observing" if looking else f"dreaming, actions: {dreamed.actions}"
    draw.text((LEFT, 7), f"step {_step_label(t, dreamed.context)}   {phase}", fill=colour, font=_font())
    for start in range(starts):
        x = LEFT + start * (width * scale + GAP)
        cells = _cells(truth[start, t], dream[start, :, t], valid=bool(dreamed.valid[start, t]))
        cells += [] if goal is None else [with_ticks(goal[start], *_place(dreamed, t))]
        for row, cell in enumerate(cells):
            _paste(canvas, draw, cell, (x, TOP + row * (height * scale + GAP)), (height, width), scale, looking)
        y = TOP + len(rows) * (height * scale + GAP)
        for line, text in enumerate(_numbers(dreamed, start, t)):
            draw.text((x, y + line * LINE), text, fill=INK, font=_font(10))
    _labels(draw, rows, height * scale)
    return np.asarray(canvas)


def _numbers(dreamed: Dreamed, start: int, t: int) -> tuple[str, str, str]:
    reward, value, on = (x[start, :, t].mean() for x in (dreamed.reward, dreamed.value, dreamed.going_on))
    real = f" ({dreamed.true_reward[start, t]:.2f})" if dreamed.valid[start, t] else ""
    return f"reward {reward:.2f}{real}", f"continues {on:.0%}", f"value {value:.2f}"


def _step_label(t: int, context: int) -> str:
    """Steps since the last observed one, which is 0."""
    return f"{t - context + 1:+d}" if t >= context else f"{t - context + 1}"


def _rows(samples: int, goal: bool) -> list[str]:
    """The last row, if there is one: the goal of the first dream."""
    dreams = [f"dream {k + 1}" if samples > 1 else "dream" for k in range(samples)]
    return ["truth", *dreams, "error", *(["goal"] if goal else [])]


def _place(dreamed: Dreamed, t: int) -> tuple[int, int]:
    """(steps of the window that are over, steps of a window); (0, 0) while there is no goal."""
    over = t - (dreamed.context - 1)
    return (over % dreamed.goal_every, dreamed.goal_every) if over >= 0 else (0, 0)


def _cells(truth: np.ndarray, dreams: np.ndarray, *, valid: bool) -> list[np.ndarray | None]:
    """truth (H, W, 3), dreams (K, H, W, 3) -> [truth, dreams, error of the mean dream]; None for unknown ones."""
    if not valid:
        return [None, *dreams, None]
    error = np.abs(dreams.astype(np.int16).mean(0) - truth).clip(0, 255).astype(np.uint8)
    return [truth, *dreams, 255 - error]


def _coloured(images: np.ndarray) -> np.ndarray:
    """(..., H, W, C) of any number of channels -> (..., H, W, 3): gray is repeated; of stacked frames the last one."""
    channels = images.shape[-1]
    return images[..., -3:] if channels >= 3 and channels % 3 == 0 else images[..., -1:].repeat(3, -1)


def _scale(size: Sequence[int]) -> int:
    return max(1, -(-SIDE // max(size)))


def _canvas(columns: int, rows: int, cell: tuple[int, int], margin: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    height, width = rows * (cell[0] + GAP) + margin, LEFT + columns * (cell[1] + GAP)
    canvas = Image.new(
        "RGB", (max(width, 300) + width % 2, height + height % 2), PAPER
    )  # even, as video encoders need it
    return canvas, ImageDraw.Draw(canvas)


def _paste(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    cell: np.ndarray | None,
    at: tuple[int, int],
    size: tuple[int, int],
    scale: int,
    looking: bool,
) -> None:
    height, width = size[0] * scale, size[1] * scale
    box = (at[0] - 2, at[1] - 2, at[0] + width + 1, at[1] + height + 1)
    if cell is None:
        draw.rectangle(box, outline=NOTHING)
        draw.text((at[0] + width // 2, at[1] + height // 2), "no truth", fill=FAINT, font=_font(10), anchor="mm")
        return
    draw.rectangle(box, outline=LOOKING if looking else DREAMING, width=2)
    canvas.paste(Image.fromarray(cell).resize((width, height), Image.Resampling.NEAREST), at)


def _labels(draw: ImageDraw.ImageDraw, rows: Sequence[str], height: int) -> None:
    for row, text in enumerate(rows):
        draw.text((LEFT - 8, TOP + row * (height + GAP) + height // 2), text, fill=INK, font=_font(), anchor="rm")


def _font(size: int = 12) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
