"""Pictures of masks: overlays and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from f2f.engine.types import BACKGROUND, IGNORE, ImageArray
from f2f.engine.write import voc_palette

_MARGIN_PX, _HEADING_PX, _CAPTION_PX = 8, 26, 20
_PAPER, _INK = (250, 250, 248), (40, 40, 40)


def overlay(frame: ImageArray, labels: ImageArray, opacity: float = 0.55) -> ImageArray:
    """The frame [H, W, 3] with classes in their colours and outlined, ignored pixels hatched, background as it is."""
    colours = np.array(voc_palette(), np.float32).reshape(256, 3)[labels]  # [H, W, 3]
    is_class = (labels != BACKGROUND) & (labels != IGNORE)
    picture = frame.astype(np.float32)
    picture[is_class] += opacity * (colours[is_class] - picture[is_class])
    picture[_outline(labels) & ~_hatchable(labels)] = 255
    picture[(labels == IGNORE) & _hatch(labels.shape)] *= 0.6
    return picture.round().astype(np.uint8)


def contact_sheet(
    headings: Sequence[str], rows: Sequence[Sequence[ImageArray]], captions: Sequence[str], cell_width_px: int = 300
) -> Image.Image:
    """A sheet with one column per heading and one captioned row per sample."""
    heights = [round(row[0].shape[0] * cell_width_px / row[0].shape[1]) for row in rows]
    width = _MARGIN_PX + len(headings) * (cell_width_px + _MARGIN_PX)
    height = _HEADING_PX + sum(height + _CAPTION_PX + _MARGIN_PX for height in heights) + _MARGIN_PX
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    columns = [_MARGIN_PX + place * (cell_width_px + _MARGIN_PX) for place in range(len(headings))]
    for x, heading in zip(columns, headings, strict=True):
        draw.text((x, _MARGIN_PX), heading, fill=_INK, font=ImageFont.load_default(14))
    y = _HEADING_PX + _MARGIN_PX
    for row, caption, cell_height in zip(rows, captions, heights, strict=True):
        for x, picture in zip(columns, row, strict=True):
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
