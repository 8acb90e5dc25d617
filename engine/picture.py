"""Pictures of masks: overlays and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from f2f.engine.errors import UsageError
from f2f.engine.tars import ImageFile
from f2f.engine.types import BACKGROUND, IGNORE, ImageArray
from f2f.engine.write import voc_palette

_MARGIN_PX, _HEADING_PX, _CAPTION_PX = 8, 26, 20
_TITLE_LINE_PX = 22
_PAPER, _INK = (250, 250, 248), (40, 40, 40)
_HEAT_PLACES = (0.0, 0.35, 0.6, 0.8, 1.0)
_HEAT_COLOURS = ((40, 20, 130), (155, 25, 140), (230, 65, 65), (252, 160, 40), (255, 250, 170))


BAD_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)
"""what Pillow raises for files that are broken, foreign or too large"""


def open_image(path: ImageFile) -> Image.Image:
    """The image in a file, which may lie in a tar.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            image = Image.open(stream)
            image.load()
    except BAD_IMAGE as error:
        raise UsageError(f"{path} cannot be read as an image ({error}); restore it, or remove it") from error
    return image


def overlay(frame: ImageArray, labels: ImageArray, opacity: float = 0.55) -> ImageArray:
    """The frame [H, W, 3] with classes in their colours and outlined, ignored pixels hatched, background as it is."""
    colours = np.array(voc_palette(), np.float32).reshape(256, 3)[labels]  # [H, W, 3]
    is_class = (labels != BACKGROUND) & (labels != IGNORE)
    picture = frame.astype(np.float32)
    picture[is_class] += opacity * (colours[is_class] - picture[is_class])
    picture[_outline(labels) & ~_hatchable(labels)] = 255
    picture[(labels == IGNORE) & _hatch(labels.shape)] *= 0.6
    return picture.round().astype(np.uint8)


def heat(frame: ImageArray, strength: npt.NDArray[np.floating]) -> ImageArray:
    """The frame [H, W, 3] in dark grey under `strength` [H, W] in 0..1: violet, red, orange, light yellow at 1."""
    grey = 0.6 * frame.mean(axis=-1, keepdims=True)  # [H, W, 1]
    levels = zip(*_HEAT_COLOURS, strict=True)
    colours = np.stack([np.interp(strength, _HEAT_PLACES, level) for level in levels], axis=-1)  # [H, W, 3]
    opacity = 0.85 * strength.clip(0, 1)[..., None] ** 0.6  # [H, W, 1]
    picture: ImageArray = (grey + opacity * (colours - grey)).round().astype(np.uint8)
    return picture


def contact_sheet(
    headings: Sequence[str],
    rows: Sequence[Sequence[ImageArray | None]],
    captions: Sequence[str],
    cell_width_px: int = 300,
    title: Sequence[str] = (),
) -> Image.Image:
    """A sheet with one column per heading and one captioned row per sample, below the lines of the title.

    A cell may be empty (None) where another one of its row is not.
    """
    shapes = [next(cell.shape for cell in row if cell is not None) for row in rows]
    heights = [round(height * cell_width_px / width) for height, width, _ in shapes]
    top = len(title) * _TITLE_LINE_PX
    width = _MARGIN_PX + len(headings) * (cell_width_px + _MARGIN_PX)
    height = top + _HEADING_PX + sum(height + _CAPTION_PX + _MARGIN_PX for height in heights) + _MARGIN_PX
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(title):
        draw.text((_MARGIN_PX, _MARGIN_PX + number * _TITLE_LINE_PX), line, fill=_INK, font=ImageFont.load_default(14))
    columns = [_MARGIN_PX + place * (cell_width_px + _MARGIN_PX) for place in range(len(headings))]
    for x, heading in zip(columns, headings, strict=True):
        draw.text((x, top + _MARGIN_PX), heading, fill=_INK, font=ImageFont.load_default(14))
    y = top + _HEADING_PX + _MARGIN_PX
    for row, caption, cell_height in zip(rows, captions, heights, strict=True):
        for x, picture in zip(columns, row, strict=True):
            if picture is not None:
                size = (cell_width_px, cell_height)
                sheet.paste(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS), (x, y))
        draw.text((_MARGIN_PX, y + cell_height + 3), caption, fill=_INK, font=ImageFont.load_default(12))
        y += cell_height + _CAPTION_PX + _MARGIN_PX
    return sheet


def _outline(labels: ImageArray) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Pixels whose right or lower neighbour has another label."""
    edge = np.zeros(labels.shape, np.bool_)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def _hatchable(labels: ImageArray) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Pixels next to no class: borders between ignore and background are not outlined."""
    near = (labels != BACKGROUND) & (labels != IGNORE)
    near[:, :-1] |= near[:, 1:]
    near[:-1] |= near[1:]
    return np.asarray(~near, np.bool_)


def _hatch(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Diagonal stripes."""
    y, x = np.indices(shape)
    return np.asarray((x + y) % 6 < 2, np.bool_)
