"""Tiny images with an object each, and its exact mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from segmentation_material import save_image

from f2f.engine.types import ImageArray


def picture_and_mask(number: int, hw: tuple[int, int] = (40, 56)) -> tuple[ImageArray, ImageArray]:
    """A red box on green noise [H,W,3], somewhere else for every number, and where it is [H,W], 0 or 1."""
    rng = np.random.default_rng(number)
    picture = rng.integers(60, 100, (*hw, 3)).astype(np.uint8)
    picture[..., 1] += 100
    top, left = (int(rng.integers(3, side // 2)) for side in hw)
    mask = np.zeros(hw, np.uint8)
    mask[top : top + hw[0] // 3, left : left + hw[1] // 3] = 1
    picture[mask == 1] = (220, 30, 30)
    return picture, mask


def write_pairs(images: Path, masks: Path, count: int = 8) -> tuple[Path, Path]:
    """Two folders as DUTS has them, or one as MSRA-B has it."""
    for number in range(count):
        picture, mask = picture_and_mask(number)
        save_image(images / f"image{number:02d}.jpg", picture)
        save_image(masks / f"image{number:02d}.png", np.where(mask == 1, np.uint8(255 - number), np.uint8(number)))
    return images, masks
