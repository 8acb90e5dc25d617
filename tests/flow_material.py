"""Material that tests of measured flow share: made-up pairs with their exact flow, a video with its masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from material import SQUARE_PX, background, pictures, square_corner, write_video
from PIL import Image

from f2f.engine.types import ImageArray
from f2f.training.flow_files import write_flo
from f2f.training.synth import write_kitti_flow


def shifted_pair(x_px: int, width: int = 96, height: int = 64) -> tuple[ImageArray, ImageArray]:
    """A texture and the same `x_px` further right: flow from the first to the second is (x_px, 0)."""
    return background(width, height, 3, offset_px=x_px), background(width, height, 3)


def write_chairs(folder: Path, suffix: str = ".flo", image_suffix: str = ".png", x_px: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in zip(("a_img1", "a_img2"), shifted_pair(x_px), strict=True):
        Image.fromarray(image).save(folder / f"{name}{image_suffix}")
    flow = np.zeros((64, 96, 2), np.float32)
    flow[..., 0] = x_px
    if suffix == ".flo":
        write_flo(folder / "a_flow.flo", flow)
    else:
        write_kitti_flow(folder / "a_flow.png", flow, np.arange(96) < np.full((64, 1), 96 - x_px))
    return folder


def write_masked_video(folder: Path, count: int = 6, speed_px: int = 3) -> Path:
    """A square that moves `speed_px` to the right per frame, with its masks."""
    write_video(folder / "videos" / "car" / "red.mp4", pictures("red", count, speed_px=speed_px))
    (folder / "masks" / "red").mkdir(parents=True)
    for number in range(count):
        top, left = square_corner(96, 64, number, speed_px)
        mask = np.zeros((64, 96), np.bool_)
        mask[top : top + SQUARE_PX, left : left + SQUARE_PX] = True
        Image.fromarray(mask).save(folder / "masks" / "red" / f"{number:05d}.png")
    return folder
