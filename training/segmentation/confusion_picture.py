"""A picture of a confusion matrix: what the pixels of each true class are taken for."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from f2f.engine.files import write_aside
from f2f.training.segmentation.scores import Confusion

_CELL_PX, _MARGIN_PX, _FONT_PX = 36, 12, 13
_PAPER, _INK, _PALE = (250, 250, 248), (40, 40, 40), (225, 225, 220)
_FULL = np.array((20, 60, 120))
_Point = tuple[float, float]


def write_confusion_picture(confusion: Confusion, path: Path) -> None:
    """Draw it into a PNG file.

    Raises:
        MachineError: the disk does not take it.
    """
    stream = BytesIO()
    confusion_picture(confusion).save(stream, "PNG")
    write_aside(path, stream.getvalue())


def confusion_picture(confusion: Confusion) -> Image.Image:
    """Rows: true classes, columns: predicted ones, in per cent of the row; a column `none` where some are 255."""
    shares, columns = _shares(confusion)
    heading_px = round(max(_width_px(name) for name in confusion.names))
    left, top = heading_px + 2 * _MARGIN_PX + 20, heading_px + 3 * _MARGIN_PX + 40
    scores = confusion.scores()
    title = f"{scores.images} images, mean IoU {scores.mean_iou:.3f}, {scores.pixel_accuracy:.1%} of the pixels right"
    width = max(left + len(columns) * _CELL_PX, round(_width_px(title)) + _MARGIN_PX) + _MARGIN_PX
    sheet = Image.new("RGB", (width, top + len(shares) * _CELL_PX + _MARGIN_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, _MARGIN_PX), title, fill=_INK, font=_font())
    draw.text((left, _MARGIN_PX + 24), "predicted, % of the true pixels", fill=_INK, font=_font())
    _write_upwards(sheet, "true", (_MARGIN_PX // 2, top + len(shares) * _CELL_PX // 2))
    for place, name in enumerate(columns):
        _write_upwards(sheet, name, (left + place * _CELL_PX + (_CELL_PX - _FONT_PX) // 2 - 2, top - _MARGIN_PX // 2))
    for place, (name, row) in enumerate(zip(confusion.names, shares, strict=True)):
        y = top + place * _CELL_PX
        draw.text((left - _MARGIN_PX / 2, y + _CELL_PX / 2), name, fill=_INK, font=_font(), anchor="rm")
        for column, share in enumerate(row):
            _draw_cell(draw, (left + column * _CELL_PX, y), float(share), diagonal=column == place)
    return sheet


def _shares(confusion: Confusion) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """[1+C,n] in 0..1, nan in rows without a pixel; and the names of the columns."""
    counts, columns = confusion.counts, (*confusion.names, "none")
    if not counts[:, -1].any():
        counts, columns = counts[:, :-1], confusion.names
    totals = counts.sum(1, keepdims=True)
    return np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0), columns


def _draw_cell(draw: ImageDraw.ImageDraw, corner: _Point, share: float, diagonal: bool) -> None:
    x, y = corner
    box = (x, y, x + _CELL_PX - 2, y + _CELL_PX - 2)
    if np.isnan(share):
        draw.rectangle(box, outline=_PALE)
        return
    colour = 255 + np.sqrt(share) * (_FULL - 255)  # small shares are what one looks for
    red, green, blue = (round(float(value)) for value in colour)
    draw.rectangle(box, fill=(red, green, blue), outline=_INK if diagonal else _PALE)
    if (figure := f"{100 * share:.0f}") != "0":
        ink = (255, 255, 255) if share > 0.25 else _INK
        middle = (x + _CELL_PX / 2 - 1, y + _CELL_PX / 2 - 1)
        draw.text(middle, figure, fill=ink, font=_font(), anchor="mm")


def _write_upwards(sheet: Image.Image, text: str, foot: tuple[int, int]) -> None:
    """Text that runs upwards from `foot`, its left lower corner on the sheet."""
    strip = Image.new("RGB", (round(_width_px(text)) + 2, _FONT_PX + 5), _PAPER)
    ImageDraw.Draw(strip).text((0, 0), text, fill=_INK, font=_font())
    turned = strip.transpose(Image.Transpose.ROTATE_90)
    sheet.paste(turned, (foot[0], foot[1] - turned.height))


def _width_px(text: str) -> float:
    return _font().getlength(text)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_PX)
