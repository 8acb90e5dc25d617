"""Pictures of flow in Middlebury's colours (Baker et al. 2011): the hue is the direction, fuller colours go farther."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from f2f.engine.files import machine_errors
from f2f.engine.picture import contact_sheet
from f2f.engine.stage import StageClock
from f2f.engine.types import End, ImageArray, MovingSoftWindow, MovingWindow, Window

Moving = TypeVar("Moving", MovingWindow, MovingSoftWindow)

_CELL_PX = 240
_WHEEL_PLACES = (0, 15, 21, 25, 36, 49, 55)
_WHEEL_COLOURS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0))
"""red, yellow, green, cyan, blue, magenta, red: at these of 55 places, with straight lines between"""


def flow_colours(flow_xy_px: npt.NDArray[np.floating], longest_px: float) -> ImageArray:
    """Flow [2, H, W] -> uint8 [H, W, 3]; white stands still, `longest_px` and more has the fullest colour."""
    x, y = flow_xy_px / max(longest_px, 1e-6)
    place = (np.arctan2(-y, -x) / np.pi + 1) / 2 * (_WHEEL_PLACES[-1] - 1)  # [H, W]
    pure = np.stack([np.interp(place, _WHEEL_PLACES, level) for level in zip(*_WHEEL_COLOURS, strict=True)], -1)
    reach = np.hypot(x, y).clip(0, 1)[..., None]  # [H, W, 1]
    colours: ImageArray = (255 * (1 - reach * (1 - pure))).astype(np.uint8)
    return colours


def picture_flow(
    windows: Iterator[Moving | End], folder: Path, name: Callable[[Window], str], clock: StageClock
) -> Iterator[Moving | End]:
    """The same items; writes <folder>/flow/<name>.png for every window: its frames, and the flow of each below it."""
    for item in windows:
        if not isinstance(item, End):
            with clock.busy("pictures"):
                _save(item, folder / "flow" / f"{name(item.window)}.png")
        yield item


def flow_row(moving: MovingWindow | MovingSoftWindow) -> tuple[list[ImageArray], str]:
    """K pictures, the colours of all directions and then the flow of every frame but the first; and their caption."""
    flows = moving.flow_xy_px.numpy()  # [K-1, 2, H, W]
    longest_px = float(np.quantile(np.hypot(flows[:, 0], flows[:, 1]), 0.995)) if len(flows) else 0.0
    height, width = moving.window.size_hw
    y, x = np.indices((height, width), np.float32)
    wheel = np.float32(1.2) * np.stack([2 * x / width - 1, 2 * y / height - 1])  # as they look, zero in the middle
    pictures = [flow_colours(wheel, 1.0), *(flow_colours(flow, longest_px) for flow in flows)]
    return pictures, f"flow to the frame before; left: its colour by direction, fullest at {longest_px:.1f} px and more"


def _save(moving: MovingWindow | MovingSoftWindow, path: Path) -> None:
    frames = [frame.image for frame in moving.window.frames]
    colours, caption = flow_row(moving)
    headings = [f"{frame.pts_seconds:.2f} s" for frame in moving.window.frames]
    sheet = contact_sheet(headings, [frames, colours], ["", caption], _CELL_PX)
    with machine_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
